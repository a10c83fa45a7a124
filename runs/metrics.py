"""Figures of merit: how far estimates are from measurements, and measurements from their own repeat."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from shmoo.estimators.errors import InputError, NothingMeasuredError
from shmoo.estimators.profile import ErrorCardEntry

Numbers = Sequence[float] | np.ndarray


def relative_errors(estimated: Numbers, measured: Numbers) -> np.ndarray:
    """Signed (estimated - measured) / measured, shape (n,).

    Raises:
        InputError: the lengths differ, or a measured value is not positive.
    """
    est, meas = np.asarray(estimated, dtype=float), np.asarray(measured, dtype=float)
    if est.shape != meas.shape:
        raise InputError(f"{est.size} estimates for {meas.size} measurements; pass one estimate a measurement")
    if meas.size and not (meas > 0).all():
        raise InputError(f"measured values must be positive, got {meas.min():g}; leave out what was not measured")
    return (est - meas) / meas


def error_card(
    estimated: Numbers,
    measured: Numbers,
    low: Numbers | None = None,
    high: Numbers | None = None,
    noise: Numbers | None = None,
) -> ErrorCardEntry:
    """The error card of one group of n cases.

    Args:
        estimated, measured: (n,), in the same unit.
        low, high: (n,) ends of the 90 % intervals; without them the coverage is `None`.
        noise: (n,) relative standard errors of what was measured.

    Raises:
        NothingMeasuredError: n is 0.
        InputError: lengths differ or a measured value is not positive.
    """
    signed = relative_errors(estimated, measured)
    if not signed.size:
        raise NothingMeasuredError("no case to take errors of; every case of the group failed or was set aside")
    absolute = np.abs(signed)
    coverage = None
    if low is not None and high is not None:
        meas = np.asarray(measured, dtype=float)
        coverage = float(np.mean((np.asarray(low) <= meas) & (meas <= np.asarray(high))))
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


def grouped_error_cards(
    groups: Sequence[str],
    estimated: Numbers,
    measured: Numbers,
    low: Numbers | None = None,
    high: Numbers | None = None,
    noise: Numbers | None = None,
) -> dict[str, ErrorCardEntry]:
    """One error card a group, groups in order of their first case; arguments of shape (n,) as for `error_card`."""
    names = np.asarray(groups, dtype=object)

    def card(mask: np.ndarray) -> ErrorCardEntry:
        columns = (estimated, measured, low, high, noise)
        return error_card(*(None if values is None else np.asarray(values, dtype=float)[mask] for values in columns))

    return {group: card(names == group) for group in dict.fromkeys(groups)}


def repeat_spread(a: float, b: float) -> float:
    """|a - b| / min(a, b): how far two measurements of one case are apart."""
    return abs(a - b) / min(a, b)


def campaign_spread(a: Numbers, b: Numbers) -> float:
    """Median over cases of |a - b| / min(a, b), for the same cases measured in two passes or campaigns.

    Raises:
        NothingMeasuredError: no case in common.
        InputError: the lengths differ.
    """
    first, second = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if first.shape != second.shape:
        raise InputError(f"{first.size} cases in one campaign and {second.size} in the other; pass the cases they share")
    if not first.size:
        raise NothingMeasuredError("the campaigns share no case; measure the same suite twice")
    return float(np.median(np.abs(first - second) / np.minimum(first, second)))


def time_weighted_error(estimated: Numbers, measured: Numbers) -> float:
    """Mean absolute relative error of the parts of a whole, each weighted with its share of measured time: sum |e - m| / sum m.

    Errors of opposite sign cancel in the whole's own error but not here.

    Raises:
        NothingMeasuredError: there are no parts, or they take no time.
        InputError: the lengths differ.
    """
    est, meas = np.asarray(estimated, dtype=float), np.asarray(measured, dtype=float)
    if est.shape != meas.shape:
        raise InputError(f"{est.size} estimates for {meas.size} measurements; pass one estimate a measurement")
    if not meas.sum() > 0:
        raise NothingMeasuredError("no part has a measured time; measure the network with per-operator times")
    return float(np.abs(est - meas).sum() / meas.sum())
