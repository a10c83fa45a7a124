"""The prevailing time of a call on a shared machine: the few visits to one case, weighed with all visits of the run.

docs/measuring.md ("The prevailing time and its standard error") has the formulas and their sources."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import msgspec
import numpy as np

from shmoo.estimators.registry import grouped
from shmoo.runs.store.records import CaseSpec, Timing
from shmoo.runs.store.statistics import (
    FEW_CASES,
    UNKNOWN,
    Latency,
    Variance,
    deviation_of_cases,
    error_sizes,
    latencies_of,
    normal_deviation,
    pooled,
    visit_deviations,
)

UNDISTURBED_BLOCKS, UNDISTURBED_S = 5, 0.01
"""A case needs this many undisturbed blocks, or this much undisturbed time, to have an undisturbed time of its own."""
SEVERAL_THREADS = 1.5
"""CPU time over undisturbed wall time, or over the time that the calling thread had a core, above which a call uses several
threads."""
ON_CORE = 0.75
"""Share of the time that the calling thread had a core below which the threads of a call waited for each other: beside a program
on every core it is one half."""
WAITING = 2.0
"""Root mean square error, as a natural logarithm, of visits in which the threads waited throughout."""

LINE_CLASSES = 3
"""Fewest classes of one kind through which a line over call lengths is fitted."""
LEAST_VARIANCE = 1e-8
"""Smallest variance assumed for a class's mean share."""

_Alike = tuple[str, str, bool, int]


@dataclass(slots=True)
class _Case:
    """The visits to one case; rates are relative to the case's mean undisturbed rate.

    Attributes:
        undisturbed_s: undisturbed time of a call, the harmonic mean over the visits.
        share: mean of the visits' rates.
        rates: (V,) deviations of the visits' rates from their mean.
        shares: (V,) the part of those deviations that undisturbed times do not explain.
        telling: (V,) whether the visit has enough undisturbed blocks to give an undisturbed time by itself.
        alike: device, kind (operator, synthetic model or network), whether several threads work, and the decade of the
            undisturbed time. Cases with equal keys are alike. Threads meet at each operator of a graph, so on a busy machine
            networks lose more than operators of the same length.
    """

    undisturbed_s: float
    share: float
    rates: np.ndarray
    shares: np.ndarray
    telling: np.ndarray
    alike: _Alike

    def residuals(self, slope: float) -> np.ndarray:
        """Deviations that remain after the correction, for the rates of telling visits; empty with a single such visit."""
        residuals: np.ndarray = (self.rates - slope * self.shares)[self.telling]
        return residuals if residuals.size > 1 else residuals[:0]


@dataclass(frozen=True, slots=True)
class _Class:
    """Statistics of a class of alike cases.

    Attributes:
        cases: number of cases.
        share: mean share over all visits; mean_variance: variance of that mean.
        variance: variance of the cases' true shares.
        slope: number of visits -> error of a case's own rate per unit of its share's distance from the mean, between 0 and 1.
        residual: number of visits -> standard deviation of a visit's rate after the correction, relative to the share.
    """

    cases: int
    share: float
    mean_variance: float
    variance: float
    slope: dict[int, float]
    residual: dict[int, float]


def latencies(specs: Sequence[CaseSpec], cases: Sequence[Sequence[Timing]]) -> list[tuple[Latency | None, float | None]]:
    """The time of a call of each case, `None` for a case without samples, and the spread between visits to cases of its device
    (`visit_deviations`).

    Args:
        specs: the cases; only cases of the same device are weighed together.
        cases: the usable visits to each of them.
    """
    samples = [[visit.samples_s for visit in visits if visit.samples_s] for visits in cases]
    devices = [spec.device for spec in specs]
    deviations = visit_deviations(devices, samples)
    shared = [_case(spec, visits) for spec, visits in zip(specs, cases, strict=True)]
    waited: defaultdict[str, list[bool]] = defaultdict(list)
    """Device -> for each visit to a call of several threads, whether the threads only waited for each other."""
    untold: Counter[tuple[str, str]] = Counter()
    for spec, case, visits in zip(specs, shared, cases, strict=True):
        waits = [_waits(visit) for visit in visits if _several_threads(visit)]
        waited[spec.device] += waits
        if case is None:
            untold[spec.device, spec.kind] += sum(waits)
    class_of = _classes([case for case in shared if case is not None], untold)
    classes = [None if case is None else class_of.get(case.alike) for case in shared]
    lone = _lone_deviations(specs, shared, cases)
    spreads = [lone_sd if sd is None else sd for sd, lone_sd in zip(deviations, lone, strict=True)]
    by_visits = latencies_of([visits if alike is None else () for visits, alike in zip(samples, classes, strict=True)], spreads)
    times: list[Latency | None] = []
    for device, case, alike, time, visits in zip(devices, shared, classes, by_visits, cases, strict=True):
        if case is not None and alike is not None:
            times.append(_corrected(case, alike))
        else:
            times.append(_doubted(time, visits, sum(waited[device]) / max(len(waited[device]), 1)))
    return list(zip(times, deviations, strict=True))


def _lone_deviations(
    specs: Sequence[CaseSpec], shared: Sequence[_Case | None], cases: Sequence[Sequence[Timing]]
) -> list[float | None]:
    """The spread between visits assumed for each case where too few cases were visited twice to measure it: the spread of the
    shares of all cases of its kind, or of its device, each visited at another moment. It also contains true differences between
    cases, so it is too wide rather than too narrow."""
    keys = [((spec.device, spec.kind), (spec.device, "")) for spec in specs]
    shares = [_share_on_core(visits) if case is None else case.share for case, visits in zip(shared, cases, strict=True)]
    by_key = grouped(
        (key, share) for case_keys, share in zip(keys, shares, strict=True) if share is not None for key in case_keys
    )
    deviations = {key: deviation_of_cases(np.log(key_shares)) for key, key_shares in by_key.items()}
    return [next((sd for key in case_keys if (sd := deviations.get(key)) is not None), None) for case_keys in keys]


def _share_on_core(visits: Sequence[Timing]) -> float | None:
    """Share of the blocks' time in which the calling thread had a core; `None` where that was not read."""
    timed = [visit for visit in visits if visit.samples_s and len(visit.on_core_s) == len(visit.samples_s)]
    wall_s = sum(sum(visit.samples_s) * visit.block_calls for visit in timed)
    on_core_s = sum(sum(visit.on_core_s) * visit.block_calls for visit in timed)
    return on_core_s / wall_s if on_core_s > 0 else None


def _doubted(time: Latency | None, visits: Sequence[Timing], share: float) -> Latency | None:
    """A case's own time, with a wider error where its threads may only have waited in every visit."""
    if time is None or not all(_waits(visit) for visit in visits if visit.samples_s):
        return time
    return msgspec.structs.replace(time, relative_se=math.hypot(time.relative_se, WAITING * math.sqrt(share**time.visits)))


def _undisturbed(visit: Timing) -> np.ndarray:
    """Seconds per call of the blocks in which the system took no core away."""
    times: np.ndarray = np.asarray(visit.samples_s)[np.asarray(visit.switches) == 0]
    return times


def _enough(blocks: int, seconds: float) -> bool:
    """Whether this many blocks, lasting this long together, are enough for an undisturbed time."""
    return blocks >= UNDISTURBED_BLOCKS or seconds >= UNDISTURBED_S


def _several_threads(visit: Timing) -> bool:
    """Whether the process used more CPU time than its calling thread; `False` where this was not recorded."""
    blocks = len(visit.samples_s)
    if not blocks or visit.cpu_s is None or len(visit.on_core_s) != blocks or len(visit.switches) != blocks:
        return False
    return visit.cpu_s > SEVERAL_THREADS * sum(visit.on_core_s) * visit.block_calls


def _on_core(visit: Timing) -> np.ndarray:
    """Seconds per call in which the calling thread had a core, for the blocks in which it did not wait for other threads."""
    on_core = np.asarray(visit.on_core_s)
    return on_core[on_core >= ON_CORE * np.asarray(visit.samples_s)] if _several_threads(visit) else on_core


def _waits(visit: Timing) -> bool:
    """Whether the threads of a call waited for each other in every block of a visit."""
    if not _several_threads(visit):
        return False
    undisturbed = _undisturbed(visit)
    enough = _enough(undisturbed.size, float(undisturbed.sum()) * visit.block_calls)
    return not enough and not _on_core(visit).size


def _case(spec: CaseSpec, visits: Sequence[Timing]) -> _Case | None:
    """The record of a case; `None` without a visit, or without both undisturbed blocks and the thread's time on a core."""
    timed = [visit for visit in visits if visit.samples_s]
    if not timed:
        return None

    def seconds(blocks: Sequence[np.ndarray]) -> list[float]:
        return [float(block_times.sum()) * visit.block_calls for block_times, visit in zip(blocks, timed, strict=True)]

    switches_known = all(len(visit.switches) == len(visit.samples_s) for visit in timed)
    blocks = [_undisturbed(visit) for visit in timed] if switches_known else []
    if not switches_known or not _enough(sum(block_times.size for block_times in blocks), sum(seconds(blocks))):
        if not all(len(visit.on_core_s) == len(visit.samples_s) for visit in timed):
            return None
        blocks = [_on_core(visit) for visit in timed]
    together, lasted_s = np.concatenate(blocks), seconds(blocks)
    if not _enough(together.size, sum(lasted_s)) or together.min() <= 0:
        return None
    telling = np.asarray([_enough(block_times.size, visit_s) for block_times, visit_s in zip(blocks, lasted_s, strict=True)])
    by_visit = np.asarray([_lower_quartile(b if tells else together) for b, tells in zip(blocks, telling.tolist(), strict=True)])
    undisturbed = 1.0 / float(np.mean(1.0 / by_visit))
    rates = undisturbed / np.asarray([np.mean(visit.samples_s) for visit in timed])
    share = float(rates.mean())
    # CPU time of a call over its undisturbed time, on the visit with the least waiting.
    cpu_s = [visit.cpu_s / (len(visit.samples_s) * visit.block_calls) for visit in timed if visit.cpu_s is not None]
    several_threads = min(cpu_s, default=0.0) > SEVERAL_THREADS * undisturbed
    return _Case(
        undisturbed,
        share,
        rates - share,
        rates - share * undisturbed / by_visit,
        telling,
        (spec.device, spec.kind, several_threads, math.floor(math.log10(undisturbed))),
    )


def _lower_quartile(values: np.ndarray) -> float:
    """Same value as `np.quantile(values, 0.25)` in a tenth of the time; every visit of a run needs it."""
    ordered = np.sort(values)
    place = 0.25 * (ordered.size - 1)
    below = int(place)
    low, high = float(ordered[below]), float(ordered[min(below + 1, ordered.size - 1)])
    share = place - below
    return low + (high - low) * share if share < 0.5 else high - (high - low) * (1 - share)


def _classes(cases: Sequence[_Case], waits: Counter[tuple[str, str]]) -> dict[_Alike, _Class]:
    """Classes of alike cases.

    Args:
        waits: (device, kind) -> number of visits without an undisturbed time in which threads only waited. They did nearly
            nothing, and lower the share of every class with several threads.
    """
    of_device = grouped((case.alike[0], case) for case in cases if case.rates.size > 1)
    classes = {}
    for alike, alike_cases in grouped((case.alike, case) for case in cases).items():
        repeated = [case for case in alike_cases if case.rates.size > 1]
        if len(repeated) < FEW_CASES:
            repeated = of_device.get(alike[0], [])
        if len(alike_cases) < FEW_CASES or len(repeated) < FEW_CASES:
            continue
        case_class, undisturbed_share = _class(alike_cases, repeated), 1.0
        if alike[2]:
            visits = sum(case.rates.size for case in cases if case.alike[:3] == alike[:3])
            undisturbed_share = visits / (visits + waits[alike[:2]])
        classes[alike] = replace(
            case_class, share=undisturbed_share * case_class.share, mean_variance=undisturbed_share**2 * case_class.mean_variance
        )
    for line in {alike[:3] for alike in classes}:
        classes |= _along_lengths({alike: case_class for alike, case_class in classes.items() if alike[:3] == line})
    return classes


def _along_lengths(classes: dict[_Alike, _Class]) -> dict[_Alike, _Class]:
    """The classes of one kind, with mean shares weighed with a line over the decades: a disturbance slows calls ten times as long
    nearly as much. The scatter of the classes around the line, beyond their errors, sets the line's weight (random-effects
    meta-regression with the estimate of DerSimonian and Laird, Controlled Clinical Trials 7, 1986)."""
    if len(classes) < LINE_CLASSES:
        return classes
    shares = np.asarray([case_class.share for case_class in classes.values()])
    variances = np.asarray([max(case_class.mean_variance, LEAST_VARIANCE) for case_class in classes.values()])
    design = np.asarray([[1.0, alike[-1]] for alike in classes])

    def line(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        inverse = np.linalg.inv(design.T @ (weights[:, None] * design))
        return design @ inverse @ design.T @ (weights * shares), inverse

    weights = 1.0 / variances
    values, inverse = line(weights)
    excess = float(weights @ (shares - values) ** 2) - (len(shares) - 2)
    scale = float(weights.sum() - np.trace(inverse @ (design.T @ ((weights**2)[:, None] * design))))
    beyond = max(excess / scale, 0.0)
    values, inverse = line(1.0 / (variances + beyond))
    own_weight = beyond / (beyond + variances)
    shares = own_weight * shares + (1 - own_weight) * values
    variances = own_weight * variances + (1 - own_weight) ** 2 * np.einsum("ij,jk,ik->i", design, inverse, design)
    return {
        alike: replace(case_class, share=float(share), mean_variance=float(variance))
        for (alike, case_class), share, variance in zip(classes.items(), shares, variances, strict=True)
    }


def _class(cases: Sequence[_Case], repeated: Sequence[_Case]) -> _Class:
    """Statistics of one class. Variances are sample variances, not robust ones: shares lie between 0 and about 1, and the
    correction exists for the rare visits that stalled.

    Args:
        repeated: cases with several visits, which show how visits to one case differ.
    """
    shares = np.asarray([case.share for case in cases])
    counts = np.asarray([case.shares.size for case in cases])
    freedom = sum(case.shares.size - 1 for case in repeated)
    visits = sum(float(np.sum(case.shares**2)) for case in repeated) / freedom
    covariance = sum(float(np.sum(case.rates * case.shares)) for case in repeated) / freedom
    between = max(float(np.var(shares, ddof=1)) - visits * float(np.mean(1.0 / counts)), 0.0)
    slope, residual = {}, {}
    for count in np.unique(counts).tolist():
        expected = visits / count + between
        slope[count] = min(max(covariance / count / expected, 0.0), 1.0) if expected > 0 else 0.0
        residuals = [case.residuals(slope[count]) / case.share for case in repeated]
        errors = [error_sizes(case_residuals) for case_residuals in residuals if case_residuals.size]
        residual[count] = normal_deviation(np.concatenate(errors)) if errors else UNKNOWN
    # Cases are visited again until a visit has undisturbed blocks, so cases with few visits were lucky. The mean over all visits
    # is free of it (Wald, Sequential Analysis, 1947, section A.2).
    share = float(counts @ shares / counts.sum())
    variance = float((counts * (shares - share)) @ (counts * (shares - share))) / counts.sum() ** 2
    return _Class(shares.size, share, variance * shares.size / (shares.size - 1), between, slope, residual)


def _corrected(case: _Case, alike: _Class) -> Latency:
    count = case.rates.size
    slope = alike.slope[count]
    share = case.share + slope * (alike.share - case.share)
    residuals = case.residuals(slope) / share
    telling = max(residuals.size, 1)
    own_variance = Variance(float(np.sum(residuals**2)) / max(telling - 1, 1), telling - 1)
    variance = pooled(own_variance, alike.residual[count]).value
    # The variance between n cases is itself known from n - 1 distances only, which matters to cases far from the mean (Morris,
    # JASA 78, 1983).
    doubt = 2.0 / (alike.cases - 3) * (case.share - alike.share) ** 2
    class_variance = slope**2 * (alike.variance + alike.mean_variance + doubt) / share**2
    return Latency(case.undisturbed_s / share, math.sqrt(variance / telling + class_variance), count)
