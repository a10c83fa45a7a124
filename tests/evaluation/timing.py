"""The harness measured by itself, on an idle machine: its time for each timed call, and the same operators timed by torch."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence

import msgspec
import numpy as np
from scipy.stats import bootstrap

from shmoo.harness.measuring.timing import HostTimer, time_callable
from shmoo.runs.store.records import CaseSpec
from shmoo.runs.store.statistics import CONFIDENCE, median

LIMIT = 0.03
OVERHEAD_S = 1e-6
OPERATORS = (
    ("linear", {"b": 1, "m": 64, "n": 512, "k": 512, "bias": True}),
    ("linear", {"b": 1, "m": 512, "n": 1024, "k": 1024, "bias": True}),
    ("bmm", {"b": 12, "m": 197, "n": 197, "k": 64}),
    ("conv", {"c_in": 64, "c_out": 64, "size": 56}),
    ("attention", {}),
    ("relu", {"rows": 512, "cols": 1024}),
    ("add", {"rows": 512, "cols": 1024}),
    ("softmax", {"rows": 512, "cols": 1024}),
    ("layer_norm", {"rows": 512, "cols": 1024}),
    ("gelu", {"rows": 512, "cols": 1024}),
)


class Overhead(msgspec.Struct, frozen=True):
    """What the harness adds to a timed call.

    Attributes:
        per_call_s: in a block of many calls: the loop.
        per_block_s: in a block of one call: the loop and two readings of the clock.
    """

    per_call_s: float
    per_block_s: float


class Pair(msgspec.Struct, frozen=True):
    """One operator timed by both, several rounds each in turn.

    Attributes:
        ratio, low, high: ours over theirs: median over rounds with its 90 % interval.
    """

    label: str
    ours_s: float
    theirs_s: float
    ratio: float
    low: float
    high: float


def overhead(repeats: int = 200, calls: int = 100_000, clock: Callable[[], float] = time.perf_counter) -> Overhead:
    """Time a call that does nothing; what calling it costs on its own is part of the answer, as it is of every sample."""
    timer = HostTimer(clock)

    def nothing() -> None:
        """A call to be timed."""

    per_call = min(timer(nothing, calls) / calls for _ in range(5))
    per_block = median([timer(nothing, 1) for _ in range(repeats)])
    return Overhead(per_call, per_block)


def against_autorange(rounds: int = 7, threads: int = 1, seed: int = 0, operators: Sequence = OPERATORS) -> tuple[Pair, ...]:
    """Time each operator by both harnesses, in turn and in random order within each round, so that drift falls on both alike."""
    import torch
    from torch.utils.benchmark import Timer

    from shmoo.harness.workloads import find_workload

    draw = random.Random(seed)
    torch.set_num_threads(threads)
    calls = []
    for name, axes in operators:
        module = find_workload(name)
        case = CaseSpec(name, "operator", module.resolve(axes), threads=threads)
        calls.append((case.label, module.build(case.axes)))
    ours: dict[str, list[float]] = {label: [] for label, _ in calls}
    theirs: dict[str, list[float]] = {label: [] for label, _ in calls}
    with torch.no_grad():
        for _ in range(rounds):
            for label, built in draw.sample(calls, len(calls)):

                def by_us(built=built, label=label) -> None:
                    ours[label].append(median(time_callable(built).samples_s))

                def by_them(built=built, label=label) -> None:
                    timer = Timer("call()", globals={"call": built}, num_threads=threads)
                    theirs[label].append(timer.adaptive_autorange().median)

                for measure in draw.sample((by_us, by_them), 2):
                    measure()
    return tuple(_pair(label, ours[label], theirs[label]) for label, _ in calls)


def _pair(label: str, ours: Sequence[float], theirs: Sequence[float]) -> Pair:
    logs = [math.log(a / b) for a, b in zip(ours, theirs, strict=True)]
    resampled = bootstrap((logs,), np.median, n_resamples=1000, confidence_level=CONFIDENCE, method="percentile", rng=0)
    low, high = resampled.confidence_interval
    return Pair(label, median(ours), median(theirs), math.exp(median(logs)), math.exp(low), math.exp(high))
