"""The one way from kernels to time and energy: predict, correct, add up each graph, price its energy.

    table, tiling -> predict -> correct -> graph latency -> energy

An estimate, a fit, a sweep over design points and a report all go through `price`; they differ in what their coefficients hold
(numbers, draws or points) and in whether the residual counts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from shmoo.estimators.catalogue import names_to_draw
from shmoo.estimators.coefficients import Coefficients, algorithm_codes, in_tensor_kernels
from shmoo.estimators.draws import DRAWS, draw, model_errors
from shmoo.estimators.kernels import KernelTable
from shmoo.estimators.model import Prediction, graph_latency, predict, segment_energy
from shmoo.estimators.records import Interval
from shmoo.estimators.residual import Correction, correction
from shmoo.estimators.tiling.base import Tiling

QUANTILES = (0.05, 0.95)
Waits = Callable[[Coefficients], np.ndarray]
"""Gives the (K,) or (D, K) seconds for which the host is held up before it launches each kernel."""


@dataclass(frozen=True, slots=True)
class Priced:
    """What K kernels in S segments cost on a machine; arrays have a dimension more for each axis of the coefficients.

    Attributes:
        correction: what the residual says of each kernel; `None` where it was left out.
        prediction: of each kernel, corrected.
        latency_s, energy_j: (S,) of each segment; energy is `None` where the profile has no energy coefficients.
        drawn_s, drawn_j: (D, S) the same for random values of everything uncertain; `None` where no draws were asked for.
    """

    tiling: Tiling
    correction: Correction | None
    prediction: Prediction
    latency_s: np.ndarray
    energy_j: np.ndarray | None
    drawn_s: np.ndarray | None = None
    drawn_j: np.ndarray | None = None

    def intervals(self) -> list[tuple[Interval, Interval | None]]:
        """Latency and energy of every segment with what the draws say of them; a number alone where there are no draws."""
        times = intervals(self.latency_s, self.drawn_s)
        energies = [None] * len(times) if self.energy_j is None else intervals(self.energy_j, self.drawn_j)
        return list(zip(times, energies, strict=True))


def price(
    table: KernelTable,
    tiling: Tiling,
    coefficients: Coefficients,
    runtime: str,
    *,
    residual: bool = True,
    waits: Waits | None = None,
    seed: int | None = None,
) -> Priced:
    """Time and energy of every segment of a table.

    Args:
        table: kernels of many cases, a segment each.
        tiling: the same kernels cut for the machine.
        coefficients: of the machine; may hold D values or design points.
        runtime: that launches the kernels.
        residual: whether the profile's corrections hold.
        waits: of the host; none for `None`.
        seed: of the draws; no draws for `None`.
    """
    profile = coefficients.profile
    change = correction(table, tiling, profile, runtime) if residual else None

    def through(c: Coefficients, kernels: np.ndarray | None = None, segments: np.ndarray | float = 1.0):
        prediction = predict(table, tiling, c, runtime)
        if change is not None:
            prediction = change.applied(prediction)
        if kernels is not None:
            prediction = prediction.scaled(kernels)
        latency = graph_latency(table, prediction, c, runtime, waits and waits(c)) * segments
        return prediction, latency, segment_energy(table, prediction, latency, c)

    nominal = through(coefficients)
    if seed is None:
        return Priced(tiling, change, *nominal)
    tensor = bool(in_tensor_kernels(algorithm_codes(table, profile)).any())
    names = names_to_draw(profile.coefficients, profile.family, runtime, tensor)
    drawn = Coefficients(profile, draw(profile, names, DRAWS, seed))
    _, times, energies = through(drawn, *model_errors(table, profile, change, seed))
    return Priced(tiling, change, *nominal, times, energies)


def intervals(values: np.ndarray, drawn: np.ndarray | None) -> list[Interval]:
    """(S,) nominal values with the 5 % and 95 % points of their (D, S) draws, which are centred on them. An interval holds its
    value even where few draws put both points on one side."""
    low, high = (values, values) if drawn is None else np.quantile(drawn, QUANTILES, axis=0)
    ends = np.minimum(low, values).tolist(), values.tolist(), np.maximum(high, values).tolist()
    return [Interval(value, least, most) for least, value, most in zip(*ends, strict=True)]
