"""The core of measuring: times one call, for the command line and for pytest.

    first call | warm-up, block size found | window: block, block, block, ... until a rule stops it   (gap | window) ...
    (measure)  | nothing kept              | one sample = seconds of a block / calls in it

Blocks are as long as the clock's resolution needs; nothing else runs between its two readings.
"""

from __future__ import annotations

import gc
import math
import random
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import repeat
from typing import Any

import msgspec

from shmoo.harness.energy.sampler import EnergySettings
from shmoo.harness.measuring.watch.corewatch import CoreWatch
from shmoo.harness.measuring.watch.hostwatch import involuntary_switches
from shmoo.runs.store.records import Timing
from shmoo.runs.store.statistics import iqr, median, order_interval

Call = Callable[[], object]
Clock = Callable[[], float]

STABLE = 0.05
"""Relative difference of two medians of warm-up blocks, or of two noise levels of the window, that counts as settled."""
CHECK_GROWTH = 1.25
"""Growth of the number of samples between two checks of the stopping rules, so that checks stay cheap."""


class TimingSettings(msgspec.Struct, frozen=True, omit_defaults=True):
    """Length and precision of a timing.

    Attributes:
        block_s: shortest block; 1 ms is 10^4 readings of a 100 ns clock.
        warmup_s, max_warmup_s: shortest and longest warm-up; it has at least one call.
        min_s, max_s: shortest and longest window. A call longer than the window is sampled at most `min_samples` times.
        min_samples: samples before a rule other than "timeout" may stop the window.
        precision: relative half width of the median's 90 % interval that is good enough to stop.
        windows: number of windows; fewer if calls are so long that all would take more than 10 s.
        gap_s: longest pause between two windows; each pause is random.
    """

    block_s: float = 1e-3
    warmup_s: float = 0.05
    max_warmup_s: float = 0.5
    min_s: float = 0.2
    max_s: float = 0.8
    min_samples: int = 7
    precision: float = 0.005
    windows: int = 1
    gap_s: float = 0.0


VISIT = TimingSettings(block_s=2e-3, warmup_s=0.01, max_warmup_s=0.03, min_s=0.05, max_s=0.05, min_samples=1)
"""A visit to an operator or a synthetic model: long enough for many time slices of the scheduler, short enough for many visits.
Visits of 50 ms scatter no more than visits of 100 ms, since the causes last longer."""
NETWORK_VISIT = TimingSettings(block_s=2e-3, warmup_s=0.02, max_warmup_s=0.06, min_s=0.15, max_s=0.15, min_samples=1)
SPACED = TimingSettings(
    block_s=2e-3, warmup_s=0.05, max_warmup_s=0.2, min_s=0.06, max_s=0.06, min_samples=1, windows=5, gap_s=0.35
)
"""A single visit to a target: five windows of 60 ms within about a second."""
LONGEST_S = 10.0
"""Time after which no further window starts."""


class MeasureSettings(msgspec.Struct, frozen=True, omit_defaults=True):
    """Settings for measuring cases.

    Attributes:
        operator: timing of one visit to an operator or a synthetic model. network: timing of one visit to a network.
        gpu, gpu_network: the same on a GPU, whose device time is not disturbed by the host's neighbours.
        threads: threads for cases that set none; `None` keeps torch's number.
        children_s: time limit for timing the calls inside a network in eager; 0 skips it.
        operators: timing of each distinct operator of a network alone, in eager; `None` skips it.
        memory: measure peak memory (not for single operators on CPU, where it follows from the shapes).
        kept_share: share of the memory for built cases that wait for their next visit; small, so that calls get recently used
            memory.
    """

    operator: TimingSettings = VISIT
    network: TimingSettings = NETWORK_VISIT
    gpu: TimingSettings = TimingSettings(max_s=0.6)
    gpu_network: TimingSettings = TimingSettings(warmup_s=0.2, max_warmup_s=1.5, min_s=1.0, max_s=3.0)
    energy: EnergySettings = EnergySettings()
    threads: int | None = None
    children_s: float = 0.5
    operators: TimingSettings | None = None
    memory: bool = True
    kept_share: float = 0.08


ALONE = TimingSettings(warmup_s=0.02, max_warmup_s=0.2, min_s=0.08, max_s=0.25)
"""Timing of operators alone. A network has dozens to hundreds of distinct operators, which together take about as long as it."""


class HostTimer:
    """Times a block of calls, including all of their work, with a monotonic clock.

    Args:
        synchronize: waits until the device has finished; called before a block, untimed, and after it, timed.
        before: runs before each block, untimed.

    Attributes:
        on_core_s: how long the calling thread had a core during the last block; `None` where that is meaningless.
    """

    def __init__(
        self,
        clock: Clock = time.perf_counter,
        synchronize: Callable[[], None] | None = None,
        before: Callable[[], object] | None = None,
    ) -> None:
        self.on_core_s: float | None = None
        # A clock passed by the caller need not advance with the CPU time of this machine's threads.
        self._thread_clock = time.thread_time if clock is time.perf_counter else None
        self._clock = clock
        self._synchronize = synchronize
        self._before = before

    def __call__(self, call: Call, calls: int) -> float:
        """Seconds of `calls` calls by the clock."""
        if self._before is not None:
            self._before()
        if self._synchronize is not None:
            self._synchronize()
        steps = repeat(None, calls)
        thread_clock = self._thread_clock
        on_core = thread_clock() if thread_clock is not None else 0.0
        start = self._clock()
        for _ in steps:
            call()
        if self._synchronize is not None:
            self._synchronize()
        elapsed_s = self._clock() - start
        if thread_clock is not None:
            self.on_core_s = thread_clock() - on_core
        return elapsed_s


class CudaTimer:
    """Times a block of calls on the device, between two events on the current stream. `host_s` is the host's time per call to
    launch the last block; if it is larger, the device waited for the host.

    Args:
        cuda: `torch.cuda`, or a stand-in with `Event` and `synchronize`.
        before: launched before the first event of each block, without waiting. While the device works on it the host runs ahead,
            so that a block of one call does not start on an idle device.
    """

    def __init__(self, cuda: Any, clock: Clock = time.perf_counter, before: Callable[[], object] | None = None) -> None:
        self._cuda = cuda
        self._clock = clock
        self._before = before
        self.host_s: float | None = None
        self.on_core_s = None

    def __call__(self, call: Call, calls: int) -> float:
        """Seconds of `calls` calls on the device."""
        begin, end = self._cuda.Event(enable_timing=True), self._cuda.Event(enable_timing=True)
        self._cuda.synchronize()
        if self._before is not None:
            self._before()
        begin.record()
        start = self._clock()
        for _ in repeat(None, calls):
            call()
        self.host_s = (self._clock() - start) / calls
        end.record()
        self._cuda.synchronize()
        return begin.elapsed_time(end) / 1e3  # elapsed_time is in milliseconds


BlockTimer = HostTimer | CudaTimer


def time_callable(
    call: Call,
    *,
    clock: Clock = time.perf_counter,
    synchronize: Callable[[], None] | None = None,
    settings: TimingSettings | None = None,
    timer: BlockTimer | None = None,
    block_calls: int | None = None,
    watch: CoreWatch | None = None,
    sleep: Callable[[float], object] = time.sleep,
) -> Timing:
    """Time `call` after a warm-up. Its exceptions pass through.

    Args:
        synchronize: waits for the device; `None` where calls return when done.
        timer: timer of a block, such as `CudaTimer`; `clock` still determines the end of the window.
        block_calls: calls in every block; by default determined in the warm-up.
        watch: watch over the cores that is read before and after each block, untimed.
        sleep: pauses between two windows.
    """
    settings = settings or TimingSettings()
    timer = timer or HostTimer(clock, synchronize)
    with _no_garbage_collection():
        calls, warmup_calls = _warm_up(call, timer, clock, settings, block_calls)
        blocks, begin = _Blocks(watch), clock()
        reason = _window(call, calls, timer, clock, settings, blocks)
        draw = random.Random()
        for _ in range(1, settings.windows):
            if clock() - begin >= LONGEST_S:
                break
            sleep(draw.uniform(0, settings.gap_s))
            if blocks.samples[-1] * calls < settings.max_s:
                # The first short block after a pause has cold caches.
                timer(call, calls)
                warmup_calls += calls
            blocks.look()
            reason = _window(call, calls, timer, clock, settings, blocks)
    return Timing(
        samples_s=tuple(blocks.samples),
        slowdowns=blocks.slowdowns(),
        quiet_s=blocks.quiet_s,
        switches=tuple(blocks.switches),
        cpu_s=blocks.cpu_s,
        on_core_s=tuple(blocks.on_core),
        block_calls=calls,
        warmup_calls=warmup_calls,
        stop_reason=reason,
    )


def _warm_up(call: Call, timer: BlockTimer, clock: Clock, settings: TimingSettings, block_calls: int | None) -> tuple[int, int]:
    """Call until blocks are long enough and their times settle; returns (calls per block, calls made)."""
    begin = clock()
    calls, calls_made = block_calls or 1, 0
    # Blocks long enough for the clock, and few enough to keep every sample: at most about 500 fill the longest window.
    target = max(settings.block_s, settings.max_s / 500)
    while True:
        block_s = timer(call, calls)
        calls_made += calls
        if block_calls or block_s >= target or clock() - begin >= settings.max_warmup_s:
            break
        # At most a tenfold step, since the first calls are slow, and a coarse clock may read 0.
        calls = math.ceil(min(10 * calls, calls * 1.2 * target / block_s if block_s > 0 else 10 * calls))
    recent = [block_s]
    while (spent := clock() - begin) < settings.max_warmup_s and not (spent >= settings.warmup_s and _settled(recent)):
        recent.append(timer(call, calls))
        calls_made += calls
    # Calls are faster now than when the block size was determined.
    if recent[-1] > 0 and not block_calls:
        calls = max(1, round(calls * target / median(recent[-3:])))
    return calls, calls_made


def _settled(recent: list[float]) -> bool:
    """Whether the last three blocks took as long as the three before them; with fewer than six blocks, the last as long as the
    one before."""
    if len(recent) < 3:
        return False
    count = 3 if len(recent) >= 6 else 1
    last, before = median(recent[-count:]), median(recent[-2 * count : -count])
    return abs(last - before) <= STABLE * before


class _Blocks:
    """The blocks of a window, and observations of the machine between them."""

    def __init__(self, watch: CoreWatch | None) -> None:
        self.samples: list[float] = []
        self.switches: list[int] = []
        self.on_core: list[float] = []
        self._watch = watch
        self._probed: list[tuple[int, float]] = []
        self._switched = 0
        self.cpu_s = 0.0
        self.quiet_s: tuple[float, ...] = ()
        """For each core, the longest quiet time among those used for these blocks' slowdowns."""
        self._cpu = 0.0
        self.look()

    def look(self) -> None:
        """Probe the cores now, and forget events since the last block."""
        if self._watch is not None and (slowdown := self._watch.slowdown()) is not None:
            self._probed.append((len(self.samples), slowdown))
            quiet_s = self._watch.quiet_s
            self.quiet_s = tuple(map(max, self.quiet_s, quiet_s)) if self.quiet_s else quiet_s
        self._switched = involuntary_switches()
        self._cpu = time.process_time()

    def add(self, sample: float, on_core_s: float | None) -> None:
        self.cpu_s += time.process_time() - self._cpu
        self.samples.append(sample)
        if on_core_s is not None:
            self.on_core.append(on_core_s)
        self.switches.append(involuntary_switches() - self._switched)
        self.look()

    def slowdowns(self) -> tuple[float, ...]:
        """For each block the larger of the nearest probes before and after it, to two decimals; empty without a probe."""
        if not self._probed:
            return ()
        positions = [position for position, _ in self._probed]
        afters = [bisect_right(positions, block) for block in range(len(self.samples))]
        nearest = [self._probed[max(after - 1, 0) : after + 1] for after in afters]
        return tuple(round(max(slowdown for _, slowdown in probes), 2) for probes in nearest)


def _window(call: Call, calls: int, timer: BlockTimer, clock: Clock, settings: TimingSettings, blocks: _Blocks) -> str:
    """Add the blocks of one window; returns the reason for its end."""
    samples = blocks.samples
    noise: list[float] = []
    begin = clock()
    next_check = settings.min_samples
    while True:
        block_s = timer(call, calls)
        blocks.add(block_s / calls, None if timer.on_core_s is None else timer.on_core_s / calls)
        spent = clock() - begin
        if spent >= settings.max_s:
            return "timeout"
        if len(samples) < next_check or spent < settings.min_s:
            continue
        next_check = math.ceil(len(samples) * CHECK_GROWTH)
        if reason := _stop(samples, noise, settings.precision):
            return reason


def _stop(samples: list[float], noise: list[float], precision: float) -> str:
    """The reason to stop: "precision", "plateau" or "" to continue. `noise` collects IQR / median at each check."""
    middle = median(samples)
    if middle <= 0:
        return ""
    low, high = order_interval(samples)
    if high - low <= 2 * precision * middle:
        return "precision"
    noise.append(iqr(samples) / middle)
    last = noise[-4:]
    if len(last) == 4 and max(last) - min(last) <= STABLE * max(last):
        return "plateau"
    return ""


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """While active, no garbage collection runs, which would be timed with a block."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
