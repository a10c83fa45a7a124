"""Statistics of timing samples: the time of a call on the machine as it is, and its standard error.

Rates of visits are averaged, not times, and the standard error comes from the spread between visits (docs/measuring.md)."""

from __future__ import annotations

import math
import statistics
from collections.abc import Hashable, Iterable, Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from shmoo.estimators.errors import NothingMeasuredError
from shmoo.estimators.graph.records import NORMAL_90
from shmoo.estimators.registry import grouped

CONFIDENCE = 0.9
"""Every interval Shmoo reports is a 90 % interval."""
PRIOR_VISITS = 2.0
"""Weight, in degrees of freedom, of the spread of like cases against the few visits of one case. On shared virtual machines the
variances of like cases scattered like variances with one to three degrees of freedom."""
FEW_CASES = 8
"""Fewest cases that determine the spread between visits of a machine."""
QUIET = 1.15
"""A core is quiet if its reference kernel takes at most this many times its quiet time: clocks drift less, neighbours cost
more."""
QUIET_BLOCKS = 8
"""Fewest blocks on a quiet machine that give a time alone."""
UNKNOWN = 0.1
"""Relative standard error assumed for a single sample on an unknown machine, as neighbours cause it."""
HARDLY_KNOWN = 0.5
"""Relative standard error above which a time is nearly unknown: such cases are visited again first, and no model is judged by
them."""
BATCHES = 4
"""Consecutive parts of a lone visit; the spread of their means gives its standard error."""
MAD_OF_NORMAL = 0.6745
"""Median of the absolute value of a standard normal variable; its 90th percentile is `NORMAL_90`."""


class Latency(msgspec.Struct, frozen=True):
    """Seconds of a call and their standard error.

    Attributes:
        value_s: seconds.
        relative_se: standard error over the value.
        visits: number of visits.
    """

    value_s: float
    relative_se: float
    visits: int


class Variance(NamedTuple):
    """A variance and its degrees of freedom."""

    value: float
    freedom: float


def latency(visits: Sequence[Sequence[float]], visit_sd: float | None = None) -> Latency:
    """Time of a call on the machine as it is, from the samples of each visit.

    A case visited once gets the median of its samples, with a standard error from their drift within the visit.
    `visit_sd` is the standard deviation of the log of one visit's rate on this machine, from other cases. `NothingMeasuredError`
    without samples.
    """
    (result,) = latencies_of([visits], [visit_sd])
    if result is None:
        raise NothingMeasuredError("no samples to take statistics of; the case failed or was never measured")
    return result


def latencies_of(cases: Sequence[Sequence[Sequence[float]]], deviations: Sequence[float | None]) -> list[Latency | None]:
    """`latency` of many cases; `None` for a case without samples. Cases with equally many visits and samples are computed
    together."""
    visited = [[samples for samples in visits if len(samples)] for visits in cases]
    results: list[Latency | None] = [None] * len(cases)
    by_count = grouped(
        ((len(visits), len(visits[0]) if len(visits) == 1 else 0), place) for place, visits in enumerate(visited) if visits
    )
    for (count, samples), places in by_count.items():
        if count == 1:
            times = np.asarray([visited[place][0] for place in places], dtype=float)
            middles, drifts = np.median(times, axis=1).tolist(), _drifts(times) if samples > 1 else [UNKNOWN] * len(places)
            for place, middle, drift in zip(places, middles, drifts, strict=True):
                sd = deviations[place]
                error = drift if sd is None else sd if samples == 1 else max(drift, sd)
                results[place] = Latency(middle, error, 1)
            continue
        rates = 1.0 / np.asarray(_means([times for place in places for times in visited[place]])).reshape(-1, count)
        variances, means = np.var(np.log(rates), axis=1, ddof=1).tolist(), rates.mean(axis=1).tolist()
        for place, variance, mean in zip(places, variances, means, strict=True):
            variance = pooled(Variance(variance, count - 1), deviations[place]).value
            results[place] = Latency(1.0 / mean, math.sqrt(variance / count), count)
    return results


def _means(rows: Sequence[Sequence[float]]) -> list[float]:
    """The mean of each row; rows of equal length are computed together."""
    means = [0.0] * len(rows)
    for places in grouped((len(row), place) for place, row in enumerate(rows)).values():
        for place, mean in zip(
            places, np.asarray([rows[place] for place in places], dtype=float).mean(axis=1).tolist(), strict=True
        ):
            means[place] = mean
    return means


def latency_alone(visits: Iterable[tuple[Sequence[float], Sequence[float], Sequence[int]]]) -> Latency | None:
    """Time of a call while every core runs at its quiet speed: the median over the quiet blocks, with the standard error from
    their spread, or from the spread between visits where that is larger. `None` with fewer than 8 quiet blocks from two visits.

    Args:
        visits: samples, slowdowns and context switches of the blocks of each visit, as `Timing` has them."""
    quiet = list(quiet_visits(visits).values())
    if not quiet:
        return None
    blocks = np.concatenate(quiet)
    logs = np.log([float(np.median(times)) for times in quiet])
    # Standard error of a median: 1.2533 standard deviations over the root of the number of values (normal data).
    within = 1.2533 * iqr(np.log(blocks)) / (2 * MAD_OF_NORMAL) / math.sqrt(blocks.size)
    between = float(np.std(logs, ddof=1)) / math.sqrt(len(logs))
    return Latency(float(np.median(blocks)), max(within, between), len(quiet))


def quiet_visits(visits: Iterable[tuple[Sequence[float], Sequence[float], Sequence[int]]]) -> dict[int, np.ndarray]:
    """Index of a visit -> its samples that met a quiet machine; empty where fewer than 8 of at least two visits did.

    Args:
        visits: as of `latency_alone`."""
    quiet = {}
    for index, (samples, slowdowns, switches) in enumerate(visits):
        if not len(slowdowns) or len(slowdowns) != len(samples):
            continue
        times, mask = np.asarray(samples, dtype=float), np.asarray(slowdowns, dtype=float) <= QUIET
        if len(switches) == len(samples):
            mask &= np.asarray(switches) == 0
        if mask.any():
            quiet[index] = times[mask]
    return quiet if len(quiet) > 1 and sum(times.size for times in quiet.values()) >= QUIET_BLOCKS else {}


def visit_deviations(groups: Sequence[Hashable], visits: Sequence[Sequence[Sequence[float]]]) -> list[float | None]:
    """For each case the standard deviation of the log of one visit's rate, from like cases that were visited twice or more:
    those of its group with calls of about the same length (same power of ten), or the whole group where those are fewer than 8.
    `None` where the group has fewer than 8.

    Args:
        groups: key of each case, such as its kind and device.
        visits: for each case the samples of each of its visits.
    """
    counts = np.asarray([sum(1 for samples in visited if len(samples)) for visited in visits], dtype=int)
    logs = np.log(_means([samples for visited in visits for samples in visited if len(samples)]))
    starts = np.cumsum(counts) - counts
    tens: list[int | None] = [None] * len(visits)
    distances_of: dict[int, np.ndarray] = {}
    for count in np.unique(counts[counts > 0]).tolist():
        places = np.flatnonzero(counts == count)
        case_logs = logs[starts[places][:, None] + np.arange(count)]
        powers = np.floor(np.median(case_logs, axis=1) / math.log(10.0)).astype(int).tolist()
        for place, power in zip(places.tolist(), powers, strict=True):
            tens[place] = power
        if count >= 2:
            distances_of.update(zip(places.tolist(), error_sizes(case_logs - case_logs.mean(axis=1, keepdims=True)), strict=True))
    keys = [((group, power), group) for group, power in zip(groups, tens, strict=True)]
    by_group: dict[Hashable, list[np.ndarray]] = grouped(
        (key, distances_of[place]) for place in sorted(distances_of) for key in keys[place]
    )
    deviations = {key: typical_deviation(distances) for key, distances in by_group.items() if len(distances) >= FEW_CASES}
    return [deviations.get(alike, deviations.get(group)) for alike, group in keys]


def pooled(case_variance: Variance, typical: float | None) -> Variance:
    """The variance of a case's few values, pooled with the typical standard deviation of like cases, which counts as
    `PRIOR_VISITS` degrees of freedom; unchanged without a typical one."""
    if typical is None:
        return case_variance
    freedom = case_variance.freedom + PRIOR_VISITS
    return Variance((case_variance.freedom * case_variance.value + PRIOR_VISITS * typical**2) / freedom, freedom)


def error_sizes(residuals: np.ndarray) -> np.ndarray:
    """Absolute errors behind residuals around a mean of n values (last axis): residuals are smaller by sqrt((n - 1) / n)."""
    count = residuals.shape[-1]
    sizes: np.ndarray = np.abs(residuals) * math.sqrt(count / (count - 1))
    return sizes


def typical_deviation(errors: Sequence[np.ndarray]) -> float:
    """Standard deviation behind the absolute errors of like cases, robust against a few disturbed cases."""
    return float(np.median(np.concatenate(errors))) / MAD_OF_NORMAL


def deviation_of_cases(values: np.ndarray) -> float | None:
    """Standard deviation of one value per case around their median, by `normal_deviation`; `None` for fewer than 8."""
    return normal_deviation(np.abs(values - np.median(values))) if values.size >= FEW_CASES else None


def normal_deviation(distances: np.ndarray) -> float:
    """Standard deviation of a normal distribution with these absolute values: the larger of the estimates from their median and
    from their 90th percentile."""
    middle, high = np.percentile(distances, (50, 90))
    return max(float(middle) / MAD_OF_NORMAL, float(high) / NORMAL_90)


def _drifts(samples: np.ndarray) -> list[float]:
    """Relative standard errors of lone visits, from (n, s) samples: the spread of the means of consecutive parts, since
    neighbouring samples are correlated."""
    parts = np.array_split(samples, min(BATCHES, samples.shape[1]), axis=1)
    means = np.stack([part.mean(axis=1) for part in parts], axis=1)
    spreads: list[float] = (np.std(np.log(means), axis=1, ddof=1) / math.sqrt(len(parts))).tolist()
    return spreads


def median(samples: Sequence[float]) -> float:
    """The middle sample, or the mean of the middle two; `NothingMeasuredError` without samples."""
    if not len(samples):
        raise NothingMeasuredError("no samples to take statistics of; the case failed or was never measured")
    return float(statistics.median(samples))


def mad(samples: Sequence[float]) -> float:
    """Median absolute deviation from the median, unscaled; `NothingMeasuredError` without samples."""
    middle = median(samples)
    return median([abs(sample - middle) for sample in samples])


def iqr(samples: Sequence[float] | np.ndarray) -> float:
    """Distance between the quartiles (linear interpolation); `NothingMeasuredError` without samples."""
    low, high = np.percentile(_array(samples), (25, 75))
    return float(high - low)


def order_interval(samples: Sequence[float]) -> tuple[float, float]:
    """Distribution-free interval of the median between two order statistics (David and Nagaraja, 2003, section 7.1), with the
    normal approximation of the binomial. Far cheaper than the bootstrap, which matters in a stopping rule.
    `NothingMeasuredError` without samples."""
    values = np.sort(_array(samples))
    half = NORMAL_90 * math.sqrt(values.size) / 2
    low = max(math.floor(values.size / 2 - half), 0)
    high = min(math.ceil(values.size / 2 + half), values.size - 1)
    return float(values[low]), float(values[high])


def _array(samples: Sequence[float] | np.ndarray) -> np.ndarray:
    values = np.asarray(samples, dtype=float)
    if values.size == 0:
        raise NothingMeasuredError("no samples to take statistics of; the case failed or was never measured")
    return values
