"""The current speed of each core, from a small kernel timed on every core in turn by a pinned thread. A neighbour on a core's
other hardware thread leaves no other trace (docs/measuring.md). No block is discarded for it; each block stores how slow the
cores were."""

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
"""Largest share of the time spent on probing, since a probe may wait milliseconds for a shared core."""
STRETCH, STRETCHES = 500, 200
"""Probes per stretch (about a second of timing), and number of remembered stretches, so that a lasting change becomes the quiet
time after some minutes."""
QUIET_QUANTILE = 0.05
"""Quantile of a core's remembered times that is its quiet time; on busy machines cores run alone for a tenth of the time."""
REFRESH, ENOUGH = 20, 100
"""Probes between two updates of the quiet time, and fewest probes for the current stretch to count."""
SETTLING_S = 0.5
"""Probing time of a new watch before anything is timed, so that it contains quiet moments."""
CORES_A_PROBE = 8
"""Most cores per probe; on larger machines each probe takes the next ones."""
NEIGHBOURS_EVERY_S, VISIT_S = 0.002, 0.1
"""Pause between two probes for neighbours, and typical length of a visit to a case."""


class CoreWatch:
    """Measures how slow the slowest core is. `probe` times the kernel on each core; `core_watch` uses the real one."""

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
        """The quiet time of each core, on which its slowdowns are based, to 0.1 ns; empty while that of a core is unknown."""
        times = tuple(round(self._cores[core].quiet_s, 10) for core in sorted(self._cores))
        return times if all(map(math.isfinite, times)) else ()

    def _slowest(self) -> float:
        slowdowns = [
            self._cores.setdefault(core, _Core()).slowdown(seconds) for core, seconds in enumerate(self._probe()) if seconds > 0
        ]
        return max(slowdowns, default=1.0)


class _Core:
    """The quiet time of one core's kernel: the lowest over the remembered stretches of probes, so that a neighbour that starts
    and never stops does not soon count as the quiet state."""

    def __init__(self) -> None:
        self._times: list[float] = []
        self._stretches: deque[float] = deque(maxlen=STRETCHES)
        self.quiet_s = float("inf")
        self._fresh = 0

    def slowdown(self, seconds: float) -> float:
        """This time over the quiet time; 1 with too few probes."""
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
    """One thread per core; they take turns, so that none waits for another. `kernel` takes a few microseconds."""

    REPEATS, CALLS = 5, 4
    """Intervals that are timed (the lowest time counts, because the first calls have cold caches), and calls in each."""

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
        os.sched_setaffinity(0, {core})  # for this thread only
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
    """A product of two 24 x 24 matrices: its 7 KB stay in the first-level cache, and it is long enough in the arithmetic units to
    be slowed by the clock, a neighbour on the same core and the hypervisor."""
    a, out = np.full((24, 24), 0.5, dtype=np.float32), np.empty((24, 24), dtype=np.float32)
    return functools.partial(np.dot, a, a, out=out)


class Neighbours(msgspec.Struct, frozen=True):
    """The load of other programs and guests while the machine was watched.

    Attributes:
        slow_share: share of the time in which any core ran slower than alone.
        slowdown: typical time of the reference kernel over its quiet time while slow; 1 on a quiet machine.
        cores_used: cores that other programs of this system used, on average.
        spread: relative standard deviation of the rate of a call on all cores between times of about a visit.
        waiting: share of the time in which others used all cores, so that the threads of a call mostly wait for each other.
    """

    slow_share: float
    slowdown: float
    cores_used: float
    spread: float
    waiting: float

    def expected_error(self, visits: int) -> float:
        """Expected relative standard error of a call on all cores after a number of visits (`runs/store/pooling.py`)."""
        return math.hypot(self.spread / visits**0.5, WAITING * self.waiting ** (visits / 2))


def watch_neighbours(
    seconds: float = 5.0,
    probe: Probe | None = None,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], object] = time.sleep,
    used: Probe | None = None,
) -> Neighbours | None:
    """Probe the cores for some seconds; `None` where threads cannot be pinned.

    A program of this system on the same core does not slow a probe, which ends before the scheduler takes the core away. It shows
    in its CPU time, `used` seconds of each core so far, and leaves a call half of the core.
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
    # Cores differ: on a large machine a core that slept answers slower than a busy one.
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
    """Seconds that other processes used of each core available to this one, after subtracting this process's time in equal
    shares."""
    import psutil

    cores = psutil.cpu_times(percpu=True)
    mine = sorted(os.sched_getaffinity(0))
    own_share_s = time.process_time() / len(mine)
    return [t.user + t.nice + t.system + t.irq + t.softirq - own_share_s for t in (cores[core] for core in mine)]
