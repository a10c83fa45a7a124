"""Error metrics: estimates against measurements, and measurements against repeated measurements."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from shmoo.estimators.errors import InputError, NothingMeasuredError
from shmoo.estimators.machine.profile import ErrorCardEntry

Numbers = Sequence[float] | np.ndarray


def error_card(
    estimated: Numbers,
    measured: Numbers,
    low: Numbers | None = None,
    high: Numbers | None = None,
    noise: Numbers | None = None,
) -> ErrorCardEntry:
    """The error card of one group of n cases; `NothingMeasuredError` without a case, `InputError` where lengths differ or a
    measured value is not positive.

    Args:
        estimated, measured: (n,), in the same unit.
        low, high: (n,) ends of the 90 % intervals; without them the coverage is `None`.
        noise: (n,) relative standard errors of the measurements.
    """
    estimated, measured = _aligned(estimated, measured)
    if not measured.size:
        raise NothingMeasuredError("no case to compute errors of; every case of the group failed or was left out")
    if not (measured > 0).all():
        raise InputError(f"measured values must be positive, got {measured.min():g}; leave out cases that were not measured")
    signed = (estimated - measured) / measured
    absolute = np.abs(signed)
    coverage = None
    if low is not None and high is not None:
        coverage = float(np.mean((np.asarray(low) <= measured) & (measured <= np.asarray(high))))
    return ErrorCardEntry(
        n=int(signed.size),
        mean=float(absolute.mean()),
        median=float(np.median(absolute)),
        p90=float(np.percentile(absolute, 90)),
        within_10=float(np.mean(absolute <= 0.10)),
        within_20=float(np.mean(absolute <= 0.20)),
        bias=float(signed.mean()),
        coverage=coverage,
        noise=None if noise is None else float(np.median(np.asarray(noise, dtype=float))),
    )


def repeat_spread(a: float, b: float) -> float:
    """|a - b| / min(a, b): the relative difference of two measurements of one case."""
    return abs(a - b) / min(a, b)


def time_weighted_error(estimated: Numbers, measured: Numbers) -> float:
    """Mean absolute relative error of the parts of a whole, weighted by their shares of measured time: sum |e - m| / sum m.
    Errors of opposite sign cancel in the error of the whole but not here. `NothingMeasuredError` where no part takes time,
    `InputError` where the lengths differ."""
    estimated, measured = _aligned(estimated, measured)
    if not measured.sum() > 0:
        raise NothingMeasuredError("no part has a measured time; measure the network with per-operator times")
    return float(np.abs(estimated - measured).sum() / measured.sum())


def _aligned(estimated: Numbers, measured: Numbers) -> tuple[np.ndarray, np.ndarray]:
    """Both as arrays; `InputError` where their lengths differ."""
    est, meas = np.asarray(estimated, dtype=float), np.asarray(measured, dtype=float)
    if est.shape != meas.shape:
        raise InputError(f"{est.size} estimates for {meas.size} measurements; pass one estimate per measurement")
    return est, meas
