"""The pipeline from kernels to time and energy: predict, correct, add up each graph, price its energy.

    table, tiling -> predict -> correct -> graph latency -> energy

Estimates, fits, sweeps over design points and reports all call `price`. Their coefficients hold numbers, draws or design points,
and fits leave the residual out.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from statistics import NormalDist
from typing import Any, Self

import numpy as np

from shmoo.estimators.graph.records import NORMAL_90, Interval
from shmoo.estimators.machine.coefficients import Coefficients, algorithm_codes, in_tensor_kernels
from shmoo.estimators.machine.profile import ArchitectureProfile
from shmoo.estimators.memory.heap import MAPPED_BYTES
from shmoo.estimators.predict.draws import (
    LEAST_S,
    ModelErrors,
    SharedDraws,
    draw,
    model_errors,
    names_to_draw,
    point_dimensions,
    spread_draws,
)
from shmoo.estimators.predict.energy import least_at_cap, within_cap
from shmoo.estimators.predict.equal_kernels import find_equal
from shmoo.estimators.predict.limits import least_time
from shmoo.estimators.predict.model import ASYNCHRONOUS, Prediction, predict
from shmoo.estimators.predict.program import graph_latency, segment_energy
from shmoo.estimators.predict.residual import Correction, correction
from shmoo.estimators.table import Floats, Ints, KernelTable
from shmoo.estimators.tiling.base import Tiling, dependent_steps

DRAWS = 100
"""Draws of the uncertain coefficients for an interval. Its ends are then within about 6 % of their distance from the value, in
logarithms: less than the uncertainty of the spreads."""
TAIL = 0.05
"""Share of the draws beyond either end of an interval."""
TINY = 1e-300
"""Replaces zero in logarithms."""
Waits = Callable[[Coefficients], np.ndarray]
"""Coefficients -> (K,) or (D, K) seconds by which the host is delayed before it launches each kernel."""


@dataclass(frozen=True, slots=True)
class SegmentPrices:
    """Time and energy of S segments; arrays have one more dimension for each axis of the coefficients.

    Attributes:
        latency_s, energy_j: (S,) of each segment; energy is `None` where the profile has no energy coefficients.
        device_s, device_j: (S,) seconds that the kernels of each segment keep the device busy, without launches and waiting for
            the host, and the energy of this time.
    """

    latency_s: np.ndarray
    energy_j: np.ndarray | None
    device_s: np.ndarray
    device_j: np.ndarray | None

    def each(self, change: Callable[[np.ndarray], np.ndarray]) -> Self:
        """The prices with every array changed."""
        amounts = {name: getattr(self, name) for name in SegmentPrices.__dataclass_fields__}
        changed: dict[str, Any] = {name: None if values is None else change(values) for name, values in amounts.items()}
        return replace(self, **changed)

    def quantities(self) -> dict[str, np.ndarray]:
        """Latency, energy, average power and energy x delay of every segment; latency alone without energies."""
        quantities = {"latency_s": self.latency_s}
        if self.energy_j is not None:
            quantities |= {"energy_j": self.energy_j, "average_power_w": self.energy_j / self.latency_s}
            quantities["edp_js"] = self.energy_j * self.latency_s
        return quantities


@dataclass(frozen=True, slots=True)
class Prices(SegmentPrices):
    """Prices of K kernels in S segments on a machine.

    Attributes:
        correction: the residual of each kernel; `None` where it is left out.
        prediction: corrected times and energies of each kernel.
        draws: the segments with D draws of everything uncertain, (D, S) arrays; `None` without draws.
    """

    tiling: Tiling
    correction: Correction | None
    prediction: Prediction
    draws: SegmentPrices | None = None

    def quantities_with_draws(self) -> dict[str, tuple[np.ndarray, np.ndarray | None]]:
        """`quantities`, each with its draws."""
        draws = {} if self.draws is None else self.draws.quantities()
        return {name: (values, draws.get(name)) for name, values in self.quantities().items()}

    def total(self) -> Prices:
        """The sums over all segments, as one segment."""

        def add_up(amounts: np.ndarray) -> np.ndarray:
            return np.asarray(amounts.sum(axis=-1, keepdims=True))

        return replace(self.each(add_up), draws=None if self.draws is None else self.draws.each(add_up))

    def intervals(self, time: str = "latency_s", energy: str = "energy_j") -> list[tuple[Interval, Interval | None]]:
        """Latency and energy of every segment, or other fields of time and energy."""
        times, energies = (
            None if values is None else intervals_of(values, None if self.draws is None else getattr(self.draws, name))
            for name, values in ((name, getattr(self, name)) for name in (time, energy))
        )
        return list(zip(times or (), energies or itertools.repeat(None), strict=False))

    def device_intervals(self) -> list[tuple[Interval, Interval | None]]:
        """Time on the device of every segment, and the energy of this time."""
        return self.intervals("device_s", "device_j")


def price(
    table: KernelTable,
    tiling: Tiling,
    coefficients: Coefficients,
    runtime: str,
    *,
    residual: bool = True,
    waits: Waits | None = None,
    seed: int | None = None,
    shared: SharedDraws | None = None,
) -> Prices:
    """Time and energy of every segment of a table.

    Args:
        coefficients: the machine's; may hold D values or design points.
        residual: whether to apply the profile's corrections.
        seed: seed of the draws; `None` for no draws.
        shared: draws shared with other estimates, so that their ratios are sharp; `None` draws for this estimate alone.
    """
    _keep_freed_memory()
    profile = coefficients.profile
    # `waits` delays the host before single kernels, so equal kernels no longer take the same time.
    kinds = None if seed is None or waits is not None else find_equal(table, tiling)
    kernels, kind_tiling = (table, tiling) if kinds is None else (kinds.table, kinds.tiling)
    change = correction(kernels, kind_tiling, profile, runtime) if residual else None
    least_times = least_time(kernels, kind_tiling, Coefficients(profile))

    def through(c: Coefficients, errors: ModelErrors | None = None) -> tuple[Prediction, SegmentPrices]:
        prediction = predict(kernels, kind_tiling, c, runtime)
        if change is not None:
            prediction = change.applied(prediction)
        graph_factor: np.ndarray | float = 1.0
        if errors is not None:
            prediction = _with_errors(kernels, prediction, errors, profile.family in ASYNCHRONOUS)
            graph_factor = np.where(np.isnan(errors.of_graphs), errors.graphs, 1.0)
        prediction = replace(prediction, device_s=np.maximum(prediction.device_s, least_times.kernels))
        if prediction.dynamic_j is not None:
            prediction = replace(prediction, dynamic_j=within_cap(kernels, prediction.device_s, prediction.dynamic_j, c))
        launch_order = kernels, prediction
        if kinds is not None and profile.family in ASYNCHRONOUS:
            # A kernel's launch depends on the kernels before it.
            in_order = replace(prediction, launch_s=kinds.spread(prediction.launch_s), device_s=kinds.spread(prediction.device_s))
            launch_order = table, in_order
        least_s = least_times.segments
        if profile.family not in ASYNCHRONOUS and prediction.dynamic_j is not None:
            least_s = np.maximum(least_s, least_at_cap(kernels, prediction.dynamic_j, c))
        latency = np.maximum(graph_latency(*launch_order, c, runtime, waits and waits(c)) * graph_factor, least_s)
        # A program's kernels run beside each other.
        device = np.clip(kernels.of_segments(prediction.device_s) * graph_factor, least_s, latency)
        latency_j, device_j = (segment_energy(kernels, prediction, seconds, c) for seconds in (latency, device))
        return prediction, SegmentPrices(latency, latency_j, device, device_j)

    if seed is None:
        prediction, nominal = through(coefficients)
        return Prices(nominal.latency_s, nominal.energy_j, nominal.device_s, nominal.device_j, tiling, change, prediction)
    has_tensor_kernels = bool(in_tensor_kernels(algorithm_codes(kernels, profile)).any())
    if shared is None:
        names = names_to_draw(profile.all_coefficients, runtime, has_tensor_kernels, bool(dependent_steps(kernels).any()))
        values = draw(profile, names, DRAWS, seed)
        errors = model_errors(kernels, profile, change, DRAWS, seed)
    else:
        values = shared.of(profile)
        errors = shared.errors(kernels, kind_tiling, profile, change, through(coefficients)[0].device_s)
    # The nominal values and their draws come first, then design points, then kernels: one pass prices them all.
    errors = errors.at_points(max(point_dimensions(profile) - 1, 0))
    prediction, segments = through(Coefficients(profile, values), errors)
    prediction = prediction.nominal()
    if kinds is not None:
        prediction, change = prediction.each(kinds.spread), None if change is None else change.each(kinds.spread)
    nominal, draws = segments.each(lambda amounts: amounts[0]), segments.each(lambda amounts: amounts[1:])
    return Prices(nominal.latency_s, nominal.energy_j, nominal.device_s, nominal.device_j, tiling, change, prediction, draws)


def _with_errors(table: KernelTable, prediction: Prediction, errors: ModelErrors, asynchronous: bool) -> Prediction:
    """Draws of kernels with the model's errors. An algorithm's error covers the host's part of a call too."""
    with_factors, has_total = prediction.scaled(errors.kernels), ~np.isnan(errors.of_kernels)
    device, launch = with_factors.device_s, with_factors.launch_s
    if has_total.any():
        draws = spread_draws(prediction.device_s, errors.kernels, errors.of_kernels)
        factor = draws / np.maximum(draws[:1], LEAST_S)
        device, launch = np.where(has_total, draws, device), np.where(has_total, prediction.launch_s * factor, launch)
    if not np.isnan(errors.of_graphs).all():
        segment_s = table.of_segments(device if asynchronous else device + launch)
        factor = spread_draws(segment_s, errors.graphs, errors.of_graphs) / np.maximum(segment_s, LEAST_S)
        # The launches of a host that runs ahead have this error too, besides the ranges of its own coefficients.
        host = np.where(np.isnan(errors.of_graphs), 1.0, errors.graphs) if asynchronous else factor
        device, launch = device * table.to_kernels(factor), launch * table.to_kernels(host)
    return replace(with_factors, device_s=device, launch_s=launch)


@cache
def _keep_freed_memory() -> None:
    """Make the C library keep the memory of freed arrays for the next ones; otherwise page faults take a third of the time.

    Once a block of almost `MAPPED_BYTES` was freed, glibc maps none up to that size by itself (mallopt(3), the dynamic adjustment
    of M_MMAP_THRESHOLD). The block is never touched.
    """
    np.empty(int(MAPPED_BYTES) // 8 - 4096)


def interval_ends(values: np.ndarray, draws: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the intervals of positive nominal values, from their draws (one more dimension); the values themselves without
    draws. An interval contains its value even where few draws lie on one side of it.

    An end averages the order statistics around it: their distances from the value in logarithms, scaled to the end by a normal
    law. This varies a sixth less from seed to seed than the 5 % point of the draws. The end is clipped to the draws, so that it
    passes no limit that all draws respect.
    """
    if draws is None:
        return values, values
    places, scales = _tail_statistics(len(draws))
    order_statistics, nominal = np.sort(draws, axis=0), np.maximum(values, TINY)
    tails = (order_statistics[places], order_statistics[-1 - places])
    weights = scales.reshape(-1, *(1,) * values.ndim)
    low, high = (values * np.exp((weights * np.log(np.maximum(end, TINY) / nominal)).sum(axis=0)) for end in tails)
    return np.minimum(np.maximum(low, tails[0][0]), values), np.maximum(np.minimum(high, tails[1][0]), values)


@cache
def _tail_statistics(draws: int) -> tuple[Ints, Floats]:
    """Places of the order statistics between half and twice `TAIL`, at least the first, and the weight of each one's distance."""
    shares = (np.arange(draws) + 0.5) / draws
    places = np.flatnonzero((shares > TAIL / 2) & (shares < 2 * TAIL))
    places = places if len(places) else np.zeros(1, dtype=np.intp)
    normal = np.asarray([NormalDist().inv_cdf(share) for share in shares[places]])
    return places, -NORMAL_90 / normal / len(places)


def possible_watts(
    profile: ArchitectureProfile, low: Floats | float, value: Floats | float, high: Floats | float
) -> tuple[Floats, Floats]:
    """Ends of intervals of power, clipped to a machine's idle power and its power cap where these are known."""
    idle_w, cap_w = profile.value("power.idle", 0.0), profile.value("power.tdp", np.inf)
    return np.maximum(low, np.minimum(idle_w, value)), np.minimum(high, np.maximum(cap_w, value))


def intervals_of(values: np.ndarray, draws: np.ndarray | None) -> list[Interval]:
    """Intervals of (S,) nominal values from their (D, S) draws, which are centred on them."""
    low, high = interval_ends(values, draws)
    ends = zip(low.tolist(), values.tolist(), high.tolist(), strict=True)
    return [Interval(value, low_end, high_end) for low_end, value, high_end in ends]
