"""How fast each core runs right now: a small kernel timed on every core in turn, by a thread pinned there. A neighbour on the
other hardware thread of a core leaves no other trace (docs/measuring.md). Nothing is thrown away for it: each block of a timing
knows how slow the cores were beside it."""

from __future__ import annotations

import functools
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

import msgspec
import numpy as np

from shmoo.runs.store.pooling import WAITING
from shmoo.runs.store.statistics import QUIET

Probe = Callable[[], Sequence[float]]
"""Seconds that the reference kernel takes on each core."""

COST_SHARE = 0.15
"""Probing takes at most this share of the time: where cores are shared a probe may wait for its turn for milliseconds."""
STRETCH, STRETCHES = 500, 200
"""Probes in a stretch, about a second of timing, and stretches remembered: a lasting change becomes the quiet time after some
minutes of timing."""
QUIET_QUANTILE = 0.05
"""Quantile of a core's remembered times that counts as its quiet time: on busy machines cores run alone for a tenth of the
time."""
REFRESH, ENOUGH = 20, 100
"""Probes after which the quiet time is looked up again, and probes of the current stretch that count beside those before it."""
SETTLING_S = 0.5
"""How long a new watch probes before anything is timed, so that it has met quiet moments."""
CORES_A_PROBE = 8
"""On larger machines each probe takes the next few cores."""
NEIGHBOURS_EVERY_S, VISIT_S = 0.002, 0.1
"""Pause between two looks at the neighbours, and about what a visit to a case lasts."""


class CoreWatch:
    """Says how slow the slowest core is. `probe` times the kernel on each core; `core_watch` has the real one."""

    def __init__(self, probe: Probe, clock: Callable[[], float] = time.perf_counter) -> None:
        self._probe = probe
        self._clock = clock
        self._cores: dict[int, _Core] = {}
        self._next = -float("inf")
        begin = clock()
        for _ in range(REFRESH):
            self._slowest()
        while clock() - begin < SETTLING_S:
            self._slowest()

    def slowdown(self) -> float | None:
        """The slowest core's time over its quiet time; `None` while the last probe was too recent."""
        begin = self._clock()
        if begin < self._next:
            return None
        slowest = self._slowest()
        end = self._clock()
        self._next = end + (end - begin) * (1 / COST_SHARE - 1)
        return slowest

    @property
    def quiet_s(self) -> tuple[float, ...]:
        """The quiet time of each core, by which its slowdowns go now, to 0.1 ns; empty while that of a core is unknown."""
        times = tuple(round(self._cores[core].quiet_s, 10) for core in sorted(self._cores))
        return times if all(map(math.isfinite, times)) else ()

    def _slowest(self) -> float:
        slowdowns = [
            self._cores.setdefault(core, _Core()).slowdown(seconds) for core, seconds in enumerate(self._probe()) if seconds > 0
        ]
        return max(slowdowns, default=1.0)


class _Core:
    """What one core's kernel takes when nothing else runs: the least of what the remembered stretches of probes say. A neighbour
    that starts to work and never stops therefore does not soon pass for the quiet state."""

    def __init__(self) -> None:
        self._times: list[float] = []
        self._stretches: deque[float] = deque(maxlen=STRETCHES)
        self.quiet_s = float("inf")
        self._fresh = 0

    def slowdown(self, seconds: float) -> float:
        """This time over the quiet one; 1 while too little is known."""
        self._times.append(seconds)
        self._fresh += 1
        if self._fresh >= REFRESH:
            self._look()
        return max(seconds / self.quiet_s, 1.0)

    def _look(self) -> None:
        self._fresh = 0
        lately = sorted(self._times)[int(QUIET_QUANTILE * len(self._times))]
        if not self._stretches:
            self.quiet_s = lately
        elif len(self._times) >= ENOUGH:
            self.quiet_s = min(lately, *self._stretches)
        if len(self._times) >= STRETCH:
            self._stretches.append(lately)
            self._times.clear()


class PinnedProbe:
    """One thread for each of `cores`; they take turns, so that none waits for another. `kernel` takes some microseconds."""

    REPEATS, CALLS = 5, 4
    """Readings of the clock, the least of which counts (the first calls find cold caches), and calls between two readings."""

    def __init__(self, kernel: Callable[[], object], cores: Sequence[int]) -> None:
        self._kernel = kernel
        self._go = [threading.Semaphore(0) for _ in cores]
        self._done = threading.Semaphore(0)
        self._seconds = [0.0] * len(cores)
        self._first = 0
        for index, core in enumerate(cores):
            threading.Thread(target=self._serve, args=(index, core), name=f"core-watch-{core}", daemon=True).start()

    def __call__(self) -> Sequence[float]:
        """Seconds of a call on each core; 0 for cores that had no turn."""
        count = len(self._seconds)
        turns = [(self._first + i) % count for i in range(min(count, CORES_A_PROBE))]
        self._first = (self._first + len(turns)) % count
        self._seconds = [0.0] * count
        for index in turns:
            self._go[index].release()
            self._done.acquire()
        return self._seconds

    def _serve(self, index: int, core: int) -> None:
        os.sched_setaffinity(0, {core})  # of this thread
        clock, kernel = time.perf_counter, self._kernel
        while True:
            self._go[index].acquire()
            shortest = float("inf")
            for _ in range(self.REPEATS):
                begin = clock()
                for _ in range(self.CALLS):
                    kernel()
                shortest = min(shortest, (clock() - begin) / self.CALLS)
            self._seconds[index] = shortest
            self._done.release()


def core_watch() -> CoreWatch | None:
    """A watch over the cores this process may use; `None` where threads cannot be pinned (outside Linux)."""
    return None if (probe := _probe_here()) is None else CoreWatch(probe)


def _probe_here() -> PinnedProbe | None:
    if not hasattr(os, "sched_setaffinity"):
        return None
    return PinnedProbe(reference_kernel(), sorted(os.sched_getaffinity(0)))


def reference_kernel() -> Callable[[], object]:
    """A product of two 24 x 24 matrices: 7 KB that stay in the first-level cache beside whatever is there, and long enough in the
    arithmetic units to feel the clock, a neighbour on the same core and time the hypervisor takes."""
    a, out = np.full((24, 24), 0.5, dtype=np.float32), np.empty((24, 24), dtype=np.float32)
    return functools.partial(np.dot, a, a, out=out)


class Neighbours(msgspec.Struct, frozen=True):
    """What the neighbours of this machine did while it was watched.

    Attributes:
        slow_share: share of the time in which some core ran slower than alone.
        slowdown: typical time of the reference kernel over its quiet time while slow; 1 on a quiet machine.
        cores_used: cores that other programs of this system used, on average.
        spread: relative standard deviation of the rate of a call on all cores between times of about a visit.
        waiting: how often others used all cores, when threads of a call do little but wait for each other.
    """

    slow_share: float
    slowdown: float
    cores_used: float
    spread: float
    waiting: float

    def expected_error(self, visits: int) -> float:
        """Relative standard error to expect of a call on all cores after a number of visits (`runs/store/pooling.py`)."""
        return math.hypot(self.spread / visits**0.5, WAITING * self.waiting ** (visits / 2))


def watch_neighbours(
    seconds: float = 5.0,
    probe: Probe | None = None,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], object] = time.sleep,
    used: Probe | None = None,
) -> Neighbours | None:
    """Probe the cores for some seconds; `None` where threads cannot be pinned.

    A program of this system on the same core does not slow a probe, which is over before the scheduler takes the core away. It is
    seen by the time it uses, `used` seconds of each core so far: beside it a call has half of the core.
    """
    probe, used = probe or _probe_here(), used or used_by_others
    if probe is None:
        return None
    begin = clock()
    stamps, times = [], []
    borders, uses = [begin], [used()]
    while (time_s := clock()) - begin < seconds:
        if time_s - borders[-1] >= VISIT_S:
            borders.append(time_s)
            uses.append(used())
        stamps.append(time_s)
        times.append([t if t > 0 else math.nan for t in probe()])
        sleep(NEIGHBOURS_EVERY_S)
    # Cores differ: on a large machine one that slept answers slower than one that works.
    by_core = np.asarray(times)
    slowest = np.nanmax(by_core / np.nanquantile(by_core, QUIET_QUANTILE, axis=0), axis=1)
    slow = slowest > QUIET
    shares = np.clip(np.diff(np.asarray(uses), axis=0) / np.diff(borders)[:, None], 0.0, 1.0)
    part = np.searchsorted(borders, stamps, side="right") - 1
    rates = [float(np.mean(1.0 / slowest[part == n])) * (1.0 - share / 2) for n, share in enumerate(shares.max(axis=1).tolist())]
    return Neighbours(
        slow_share=float(slow.mean()),
        slowdown=float(np.median(slowest[slow])) if slow.any() else 1.0,
        cores_used=float(shares.mean(axis=0).sum()),
        spread=float(np.std(rates) / np.mean(rates)),
        waiting=float(shares.min(axis=1).mean()),
    )


def used_by_others() -> Sequence[float]:
    """Seconds that others used of each core this process may use, this process's own part taken off in equal shares."""
    import psutil

    cores = psutil.cpu_times(percpu=True)
    mine = sorted(os.sched_getaffinity(0))
    own_share_s = time.process_time() / len(mine)
    return [t.user + t.nice + t.system + t.irq + t.softirq - own_share_s for t in (cores[core] for core in mine)]
