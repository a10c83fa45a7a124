"""Statistics of timing samples: what a call takes on a machine as it is, and how well that is known.

    visit: blocks, calls back to back     rate of a visit = calls / seconds
    case:  visits spread over a campaign  prevailing time = 1 / (mean of the visits' rates)

On a machine with neighbours the speed of the cores changes within milliseconds to seconds. What a long computation takes follows
from the rate averaged over time, so rates are averaged and not times, and a visit that stalled counts as one that got little
done. Blocks of one visit repeat each other, so the standard error comes from the spread between visits. `pooling.py` adds
what visits to other cases say of a case.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence

import msgspec
import numpy as np

from shmoo.estimators.errors import NothingMeasuredError

CONFIDENCE = 0.9
"""Every interval Shmoo reports is a 90 % interval."""
Z = 1.6449
"""Normal quantile that leaves 5 % on either side (CONFIDENCE)."""
PRIOR_VISITS = 2.0
"""Degrees of freedom that the spread of like cases of a run has beside the few visits of one case. On shared virtual machines the
variances of like cases differed as those of one to three degrees of freedom do."""
FEW_CASES = 8
"""Fewer cases than this say nothing about the spread that visits of a machine have."""
QUIET = 1.15
"""A core whose reference kernel takes at most this many times its quiet time runs alone: clocks wander less, and neighbours cost
more."""
QUIET_BLOCKS = 8
"""Blocks that met a quiet machine before they say what a call takes there."""
UNKNOWN = 0.1
"""Relative standard error of a single sample on a machine that nothing is known of: what neighbours do to a lone call."""
BATCHES = 4
"""Consecutive parts of a lone visit whose means show how far its mean is off."""
MAD_OF_NORMAL, FAR_OF_NORMAL = 0.6745, 1.6449
"""Median and 90th percentile of the absolute value of a standard normal variable."""


class Latency(msgspec.Struct, frozen=True):
    """Seconds of a call and how well they are known.

    Attributes:
        value_s: seconds.
        relative_se: standard error over the value.
        visits: visits behind it.
    """

    value_s: float
    relative_se: float
    visits: int


def latency(visits: Sequence[Sequence[float]], visit_sd: float | None = None) -> Latency:
    """What a call takes on the machine as it is, from the samples of each visit.

    A case visited once is represented by the median of its samples, and its standard error by their drift within the visit.

    Args:
        visits: samples of each visit, seconds a call.
        visit_sd: standard deviation of the log of one visit's rate on this machine, from other cases.

    Raises:
        NothingMeasuredError: no samples.
    """
    rates = np.asarray([1.0 / _array(samples).mean() for samples in visits if len(samples)])
    if not rates.size:
        raise NothingMeasuredError("no samples to take statistics of; the case failed or was never measured")
    if rates.size == 1:
        samples = _array(next(samples for samples in visits if len(samples)))
        if samples.size == 1:
            return Latency(float(samples[0]), UNKNOWN if visit_sd is None else visit_sd, 1)
        return Latency(float(np.median(samples)), max(_drift(samples), visit_sd or 0.0), 1)
    variance, freedom = float(np.var(np.log(rates), ddof=1)), rates.size - 1
    if visit_sd is not None:
        variance = (freedom * variance + PRIOR_VISITS * visit_sd**2) / (freedom + PRIOR_VISITS)
    return Latency(1.0 / float(rates.mean()), math.sqrt(variance / rates.size), int(rates.size))


def latency_alone(visits: Iterable[tuple[Sequence[float], Sequence[float], Sequence[int]]]) -> Latency | None:
    """What a call takes while every core runs at its quiet speed, from the blocks that met such a moment.

    Args:
        visits: samples, slowdowns and context switches of the blocks of each visit, as `Timing` has them.

    Returns:
        The median over those blocks; its standard error from their spread, or from that between visits where it is larger. `None`
        where fewer than 8 blocks of at least two visits were quiet.
    """
    quiet = []
    for samples, slowdowns, switches in visits:
        if len(slowdowns) != len(samples):
            continue
        times, mask = np.asarray(samples, dtype=float), np.asarray(slowdowns, dtype=float) <= QUIET
        if len(switches) == len(samples):
            mask &= np.asarray(switches) == 0
        if mask.any():
            quiet.append(times[mask])
    blocks = np.concatenate(quiet) if quiet else np.empty(0)
    if len(quiet) < 2 or blocks.size < QUIET_BLOCKS:
        return None
    logs = np.log([float(np.median(times)) for times in quiet])
    # Standard error of a median: 1.2533 standard deviations over the root of the number of values (normal data).
    within = 1.2533 * iqr(np.log(blocks)) / (2 * MAD_OF_NORMAL) / math.sqrt(blocks.size)
    between = float(np.std(logs, ddof=1)) / math.sqrt(len(logs))
    return Latency(float(np.median(blocks)), max(within, between), len(quiet))


def visit_deviations(groups: Sequence[Hashable], visits: Sequence[Sequence[Sequence[float]]]) -> list[float | None]:
    """For each case the standard deviation of the log of one visit's rate, from cases like it that were visited twice or more:
    those of its group whose calls take about as long (same power of ten), or all of its group where those are fewer than 8.
    `None` where these are fewer too.

    The median of the distances decides: a few cases that were disturbed say nothing about the others, and have a spread of their
    own.

    Args:
        groups: what each case is of, such as its kind and device.
        visits: for each case the samples of each of its visits.
    """
    by_group: dict[Hashable, list[np.ndarray]] = {}
    keys = []
    for group, samples_of_visits in zip(groups, visits, strict=True):
        logs = np.log([_array(samples).mean() for samples in samples_of_visits if len(samples)])
        alike = (group, math.floor(np.median(logs) / math.log(10.0)) if logs.size else None)
        keys.append((alike, group))
        if logs.size >= 2:
            # Residuals around a mean of n are smaller than errors by sqrt((n - 1) / n).
            distances = np.abs(logs - logs.mean()) * math.sqrt(logs.size / (logs.size - 1))
            for key in (alike, group):
                by_group.setdefault(key, []).append(distances)
    deviations = {
        key: float(np.median(np.concatenate(distances))) / MAD_OF_NORMAL
        for key, distances in by_group.items()
        if len(distances) >= FEW_CASES
    }
    return [deviations.get(alike, deviations.get(group)) for alike, group in keys]


def normal_deviation(distances: np.ndarray) -> float:
    """Standard deviation of the normal law whose absolute values these are, the wider of what their median and their 90th
    percentile say."""
    middle, far = np.percentile(distances, (50, 90))
    return max(float(middle) / MAD_OF_NORMAL, float(far) / FAR_OF_NORMAL)


def _drift(samples: np.ndarray) -> float:
    """Relative standard error of a lone visit: spread of the means of consecutive parts, which neighbouring samples share."""
    means = np.asarray([part.mean() for part in np.array_split(samples, min(BATCHES, samples.size))])
    return float(np.std(np.log(means), ddof=1)) / math.sqrt(means.size)


def median(samples: Sequence[float]) -> float:
    """The middle sample, or the mean of the middle two.

    Raises:
        NothingMeasuredError: no samples.
    """
    return float(np.median(_array(samples)))


def mad(samples: Sequence[float]) -> float:
    """Median absolute deviation from the median, unscaled; `NothingMeasuredError` without samples."""
    values = _array(samples)
    return float(np.median(np.abs(values - np.median(values))))


def iqr(samples: Sequence[float] | np.ndarray) -> float:
    """Distance between the quartiles (linear interpolation); `NothingMeasuredError` without samples."""
    low, high = np.percentile(_array(samples), (25, 75))
    return float(high - low)


def order_interval(samples: Sequence[float]) -> tuple[float, float]:
    """Distribution-free interval of the median between two order statistics (David and Nagaraja, 2003, section 7.1), with the
    normal approximation of the binomial. Far cheaper than the bootstrap: a stopping rule asks for it again and again.

    Raises:
        NothingMeasuredError: no samples.
    """
    values = np.sort(_array(samples))
    half = Z * math.sqrt(values.size) / 2
    low = max(math.floor(values.size / 2 - half), 0)
    high = min(math.ceil(values.size / 2 + half), values.size - 1)
    return float(values[low]), float(values[high])


def _array(samples: Sequence[float] | np.ndarray) -> np.ndarray:
    values = np.asarray(samples, dtype=float)
    if values.size == 0:
        raise NothingMeasuredError("no samples to take statistics of; the case failed or was never measured")
    return values
