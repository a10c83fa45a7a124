"""Drift common to all work of a machine, taken out by a reference kernel that was timed beside every block.

    corrected sample = sample x nominal / reference beside it

The nominal time is the median of all references of the runs at hand, so that corrected times of several campaigns share a scale.
Whether that helps is a question to the machine: `shmoo compare` prints the spread with and without.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from shmoo.runs.records import Measurement, Timing

WORTH_IT = 0.5
"""The correction is worth applying where it at least halves the spread."""


def nominal_reference_s(rows: Iterable[Measurement]) -> float | None:
    """Median time of the reference kernel over the ok rows that have it, each row counting once; `None` where none has."""
    medians = [float(np.median(row.timing.reference_s)) for row in rows if row.status == "ok" and has_reference(row.timing)]
    return float(np.median(medians)) if medians else None


def has_reference(timing: Timing | None) -> bool:
    """Whether every sample has a reference time beside it."""
    return timing is not None and 0 < len(timing.reference_s) == len(timing.samples_s) and min(timing.reference_s) > 0


def corrected_samples(timing: Timing, nominal_s: float) -> np.ndarray:
    """Samples at the machine's nominal pace, seconds.

    The reference is far shorter than the block beside it and noisier: its running median over five blocks is what corrects.

    Raises:
        ValueError: a sample has no reference time.
    """
    if not has_reference(timing):
        raise ValueError("no reference kernel was timed beside these samples; measure with --drift-reference")
    return np.asarray(timing.samples_s) * nominal_s / running_median(timing.reference_s, 5)


def running_median(values: Sequence[float], width: int) -> np.ndarray:
    """Median of each value and its neighbours, `width` in all (odd) and fewer at the ends."""
    padded = np.asarray(values, dtype=float)
    half = width // 2
    return np.array([np.median(padded[max(0, i - half) : i + half + 1]) for i in range(padded.size)])
