"""Robust statistics of timing samples: the median is canonical, because interference only ever adds time."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from shmoo.estimators.errors import NothingMeasuredError

CONFIDENCE = 0.9
"""Every interval Shmoo reports is a 90 % interval."""


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


def iqr(samples: Sequence[float]) -> float:
    """Distance between the quartiles (linear interpolation); `NothingMeasuredError` without samples."""
    low, high = np.percentile(_array(samples), (25, 75))
    return float(high - low)


def bootstrap_interval(
    samples: Sequence[float], confidence: float = CONFIDENCE, resamples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of the median (Efron and Tibshirani, 1993, section 13.3). Equal seeds give equal intervals.

    Raises:
        NothingMeasuredError: no samples.
    """
    values = _array(samples)
    draws = np.random.default_rng(seed).integers(0, values.size, (resamples, values.size))
    medians = np.median(values[draws], axis=1)
    tail = 50 * (1 - confidence)
    low, high = np.percentile(medians, (tail, 100 - tail))
    middle = float(np.median(values))
    return min(float(low), middle), max(float(high), middle)


def order_interval(samples: Sequence[float]) -> tuple[float, float]:
    """Distribution-free interval of the median between two order statistics (David and Nagaraja, 2003, section 7.1), with the
    normal approximation of the binomial. Far cheaper than the bootstrap: a stopping rule asks for it again and again.

    Raises:
        NothingMeasuredError: no samples.
    """
    values = np.sort(_array(samples))
    # 1.645: the normal quantile that leaves 5 % on either side (CONFIDENCE).
    half = 1.645 * math.sqrt(values.size) / 2
    low = max(math.floor(values.size / 2 - half), 0)
    high = min(math.ceil(values.size / 2 + half), values.size - 1)
    return float(values[low]), float(values[high])


def _array(samples: Sequence[float]) -> np.ndarray:
    values = np.asarray(samples, dtype=float)
    if values.size == 0:
        raise NothingMeasuredError("no samples to take statistics of; the case failed or was never measured")
    return values
