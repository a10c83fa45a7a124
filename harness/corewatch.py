"""How fast each core runs right now: a small kernel timed on every core in turn, by a thread pinned there.

A neighbour on the other hardware thread of a physical core leaves no trace in load, CPU time, context switches or steal. Seen on
a shared virtual machine with two cores: a product of 24 x 24 matrices took 2.1-2.5 us instead of 1.3 on one core, for seconds at
a time, and operators on both cores up to 1.9 times as long as before and after.
"""

from __future__ import annotations

import functools
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

import numpy as np

from shmoo.runs.records import AxisValue
from shmoo.runs.statistics import median

Probe = Callable[[], Sequence[float]]
"""Seconds that the reference kernel takes on each core."""

SLOW = 1.3
"""A core is slow when its kernel takes this many times its usual time: clocks wander less, a neighbour costs more."""
MAX_SLOW_SHARE = 0.25
"""Share of the probes of a window that may find a slow core: the median of the samples does not feel so many."""
COST_SHARE = 0.02
"""Probing takes at most this share of the time."""
WAIT_SHARE = 0.25
"""Waiting for quiet takes at most this share of the time since the watch began, so that a machine that is never quiet is measured
all the same."""
LONGEST_WAIT_S = 5.0
QUIET_PROBES = 5
"""So many quiet probes in a row, `PAUSE_S` apart, end a wait."""
PAUSE_S = 0.02
HISTORY = 2000
"""Probes remembered; a lasting change becomes the usual after so many."""
USUAL = 0.1
"""Quantile of a core's remembered times that counts as usual."""
ENOUGH = 20
"""Probes before anything counts as usual."""
CORES_A_PROBE = 8
"""On larger machines each probe takes the next so many cores."""


class CoreWatch:
    """Judges windows by what every core does beside them.

    Args:
        probe: times the kernel on each core; call `core_watch` for the real one.
        clock, sleep: seconds, monotonic.
    """

    def __init__(
        self, probe: Probe, clock: Callable[[], float] = time.perf_counter, sleep: Callable[[float], object] = time.sleep
    ) -> None:
        self._probe = probe
        self._clock = clock
        self._sleep = sleep
        self._cores: dict[int, _Core] = {}
        self._window: list[tuple[float, int]] = []
        self._begin = clock()
        self._waited = 0.0
        self._next = -float("inf")
        for _ in range(ENOUGH):
            self._slowest()

    def beside(self) -> None:
        """Probe, unless the last probe was too recent; for calling before each block."""
        begin = self._clock()
        if begin < self._next:
            return
        self._window.append(self._slowest())
        end = self._clock()
        self._next = end + (end - begin) / COST_SHARE

    def await_quiet(self) -> None:
        """Return when all cores run as usual, or patience is used up; what was observed before is forgotten."""
        begin = self._clock()
        patience = min(LONGEST_WAIT_S, WAIT_SHARE * (begin - self._begin) - self._waited)
        quiet = 0
        while quiet < QUIET_PROBES:
            quiet = quiet + 1 if self._slowest()[0] < SLOW else 0
            if quiet == QUIET_PROBES or self._clock() - begin >= patience:
                break
            self._sleep(PAUSE_S)
        self._waited += self._clock() - begin
        self._window = []

    def observe(self) -> tuple[dict[str, AxisValue | None], tuple[str, ...]]:
        """What the probes since the last wait found: for a row's host observations, and the doubts that follow.

        Returns:
            core_slowdown: the slowest core's time over its usual time, median over the probes; slow_share: share of the probes
            that found a slow core; waited_s: time spent waiting for quiet so far. The first two are `None` where nothing was
            probed.
        """
        facts: dict[str, AxisValue | None] = {"core_slowdown": None, "slow_share": None, "waited_s": self._waited}
        if not self._window:
            return facts, ()
        slow = [(factor, core) for factor, core in self._window if factor >= SLOW]
        share = len(slow) / len(self._window)
        facts |= {"core_slowdown": median([factor for factor, _ in self._window]), "slow_share": share}
        if share <= MAX_SLOW_SHARE:
            return facts, ()
        cores = ", ".join(str(core) for core in sorted({core for _, core in slow}))
        factor = median([factor for factor, _ in slow])
        return facts, (f"slow core: core {cores} ran at 1/{factor:.1f} of its usual speed for {share:.0%} of the window",)

    def _slowest(self) -> tuple[float, int]:
        """The largest time of a core over its usual time, and the core."""
        found = []
        for core, seconds in enumerate(self._probe()):
            if not seconds > 0:
                continue
            found.append((self._cores.setdefault(core, _Core()).slowdown(seconds), core))
        return max(found, default=(1.0, 0))


class _Core:
    """What is usual for one core."""

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=HISTORY)
        self._usual = float("inf")
        self._fresh = 0

    def slowdown(self, seconds: float) -> float:
        """This time over the usual one; 1 while too little is known."""
        self._times.append(seconds)
        self._fresh += 1
        if self._fresh >= ENOUGH:
            self._usual, self._fresh = sorted(self._times)[int(USUAL * len(self._times))], 0
        return max(seconds / self._usual, 1.0)


class PinnedProbe:
    """One thread for each core this process may use; they take turns, so that none waits for another.

    Args:
        kernel: what is timed; some microseconds.
        cores: numbers of the cores.
    """

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
            least = float("inf")
            for _ in range(self.REPEATS):
                begin = clock()
                for _ in range(self.CALLS):
                    kernel()
                least = min(least, (clock() - begin) / self.CALLS)
            self._seconds[index] = least
            self._done.release()


def core_watch() -> CoreWatch | None:
    """A watch over the cores this process may use; `None` where threads cannot be pinned (outside Linux)."""
    if not hasattr(os, "sched_setaffinity"):
        return None
    return CoreWatch(PinnedProbe(reference_kernel(), sorted(os.sched_getaffinity(0))))


def reference_kernel() -> Callable[[], object]:
    """A product of two 24 x 24 matrices: 7 KB that stay in the first-level cache beside whatever is there, and long enough in the
    arithmetic units to feel the clock, a neighbour on the same core and time the hypervisor takes."""
    a, out = np.full((24, 24), 0.5, dtype=np.float32), np.empty((24, 24), dtype=np.float32)
    return functools.partial(np.dot, a, a, out=out)
