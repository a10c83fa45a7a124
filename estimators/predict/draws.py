"""Random values for everything uncertain: coefficients within their ranges, and the model's own error."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np

from shmoo.estimators.graph.records import NORMAL_90, Coefficient, Cost, Geometry
from shmoo.estimators.machine.catalogue import entry
from shmoo.estimators.machine.coefficients import (
    ALGORITHMS,
    MANY_KERNELS,
    TENSOR,
    Coefficients,
    algorithm_codes,
    algorithm_names,
)
from shmoo.estimators.machine.names import runtime_of, whose
from shmoo.estimators.machine.profile import ArchitectureProfile
from shmoo.estimators.predict.basis import in_measured_type
from shmoo.estimators.predict.residual import Correction
from shmoo.estimators.table import KernelTable, distinct_rows
from shmoo.estimators.tiling.base import Tiling

OTHER_TYPE_SD = 0.15
"""Standard deviation of the log error of coefficients used in another type than the one they were fitted in. Coefficients of
different machines differ by at least as much (`tests.evaluation.transfer.LEAST_SPREAD`)."""


OTHER_LIBRARY_SD = 0.35
"""Standard deviation of the log by which another library's kernels differ from those that were measured: 90 % of the ratios of
TensorRT-LLM's attention to FlashAttention 3's on an H100 (926 shapes) lie within a factor of 1.55 to either side, to FlashInfer's
on a B200 (874 shapes) within 2.05 (NVIDIA's AIConfigurator, 2026)."""
MIN_NETWORK_KINDS = 5
"""Fewest different kernels of a network: an encoder's layer has products of three shapes, a softmax, norms and loops."""
LEAST_S = 1e-30
"""Replaces zero seconds in ratios."""
BLOCK_COLUMNS = 96
"""Random variables made uncorrelated together; this needs fewer variables than draws."""
ROUNDS = 2
"""Times that their order is corrected: the first leaves about a tenth of the correlations, the second two thirds of the rest."""
_ERROR_COLUMNS = 1 + len(ALGORITHMS)
"""The first variables are the model's errors: one shared by the kernels of a graph, and one for each algorithm."""
ERROR_CORRELATION = 0.5
"""Correlation of the log errors of two estimates of one network on one machine, at two batches or in two types: 0.42 over 320
pairs of batches and 0.56 over 120 pairs of types of device-bound networks that others measured on GPUs (the networks of
`tests.evaluation`; their sources are in its tables)."""
_WORK = tuple(name for name in (*Cost.__struct_fields__, *Geometry.__struct_fields__) if name in KernelTable.__dataclass_fields__)
"""Columns of a table that describe a kernel's work."""


@dataclass(frozen=True, slots=True)
class SharedDraws:
    """Draws that estimates on a machine and on its variants share, so that common uncertainty cancels in their ratios. The
    model's error of kernels that they share cancels too, and part of the error of other kernels.

    Attributes:
        draws: number D of draws. factors: coefficient -> (1 + D,) values relative to the nominal one, which is the first.
        seed: seed of the shared model errors; own_seed: seed of those of one estimate.
        shared_kernels: `kernel_identities` of the estimate that others are compared with; `None` for that one.
    """

    draws: int
    factors: Mapping[str, np.ndarray]
    seed: int
    own_seed: int
    shared_kernels: frozenset[bytes] | None = None

    def of(self, profile: ArchitectureProfile) -> dict[str, np.ndarray]:
        """Values of a machine's coefficients, as `draw` gives them."""
        coefficients = profile.all_coefficients
        return {name: coefficients[name].value * factor for name, factor in self.factors.items() if name in coefficients}

    def errors(
        self,
        table: KernelTable,
        tiling: Tiling,
        profile: ArchitectureProfile,
        correction: Correction | None,
        device_s: np.ndarray,
    ) -> ModelErrors:
        """As `model_errors`.

        Args:
            device_s: (K,) nominal times on the device, by which kernels that are not shared are weighted.
        """
        shared_errors = model_errors(table, profile, correction, self.draws, self.seed)
        # A machine and its variants share the draws themselves, not the spread that each has by itself.
        shared_errors = shared_errors._replace(
            of_kernels=shared_errors.of_kernels * np.nan, of_graphs=shared_errors.of_graphs * np.nan
        )
        if self.shared_kernels is None:
            return shared_errors
        own = model_errors(table, profile, correction, self.draws, self.own_seed)
        is_new = np.asarray([identity not in self.shared_kernels for identity in kernel_identities(table, tiling)])
        total = table.of_segments(device_s)
        new_share = table.of_segments(device_s * is_new) / np.where(total > 0, total, 1.0)
        kernels, graphs = (
            _blend(shared_errors.kernels, own.kernels, is_new),
            _blend(shared_errors.graphs, own.graphs, new_share),
        )
        return shared_errors._replace(kernels=kernels, graphs=graphs)


def _blend(shared_factor: np.ndarray, own_factor: np.ndarray, new_share: np.ndarray) -> np.ndarray:
    """Log-normal factors of the same spread that share all of their variance, but in `new_share` of the time only
    `ERROR_CORRELATION` of it."""
    own_variance = (1.0 - ERROR_CORRELATION) * new_share
    return np.asarray(shared_factor ** np.sqrt(1.0 - own_variance) * own_factor ** np.sqrt(own_variance))


def kernel_identities(table: KernelTable, tiling: Tiling) -> list[bytes]:
    """(K,) keys of each kernel's work and tiles, the same for equal kernels."""
    work = [getattr(table, name) for name in ("op", "dtype", *_WORK)]
    tile_columns = (tiling.shape.m, tiling.shape.n, tiling.shape.k, tiling.tiles, tiling.utilisation)
    return [row.tobytes() for row in np.stack([*work, *tile_columns], axis=1).astype(np.float64)]


def shared_draws(profile: ArchitectureProfile, runtimes: Sequence[str], draws: int, seed: int = 0) -> SharedDraws:
    """Draws of everything that estimates under any of several runtimes rest on."""
    coefficients = profile.all_coefficients
    names = {
        name for runtime in runtimes for name in names_to_draw(coefficients, runtime, has_tensor_kernels=True, has_chains=True)
    }
    values_by_name = draw(profile, names, draws, seed)
    return SharedDraws(draws, {name: values / coefficients[name].value for name, values in values_by_name.items()}, seed, seed)


def draw(profile: ArchitectureProfile, names: Iterable[str], draws: int, seed: int = 0) -> dict[str, np.ndarray]:
    """The nominal value and then log-normal draws of those among `names` that have a 90 % range: (1 + draws,) each, or
    (1 + draws, ..., 1) for a machine whose coefficients hold design points."""
    coefficients, dimensions = profile.all_coefficients, point_dimensions(profile)
    candidates = [(name, coefficients[name]) for name in sorted(set(names) & coefficients.keys())]
    ranges = {name: (c.value, *ends) for name, c in candidates if (ends := _draw_range(c)) is not None}
    # The first coefficient has the same values on every machine, and so on.
    laws = dict(zip(ranges, normals(seed, draws, _ERROR_COLUMNS + len(ranges)).T[_ERROR_COLUMNS:], strict=True))
    # A host is fast or slow in whatever it does.
    of_one_host = [name for name in ranges if profile.host and entry(name).of_host]
    laws |= {name: laws[of_one_host[0]] for name in of_one_host}
    scalar_names = [name for name, numbers in ranges.items() if not any(isinstance(number, np.ndarray) for number in numbers)]
    columns = np.asarray([ranges[name] for name in scalar_names]).reshape(-1, 3).T[:, :, None]
    scalar_draws = _log_normal(np.asarray([laws[name] for name in scalar_names]).reshape(-1, 1 + draws), *columns)
    shape = (1 + draws, *(1,) * dimensions)
    draws_by_name = {name: values.reshape(shape) for name, values in zip(scalar_names, scalar_draws, strict=True)}
    draws_by_name |= {name: _log_normal(laws[name].reshape(shape), *ranges[name]) for name in ranges if name not in draws_by_name}
    return draws_by_name


def _log_normal(z: np.ndarray, value: Any, low: Any, high: Any) -> np.ndarray:
    """Values at the points z of the normal law. Each side has its own scale, so that an asymmetric range is kept."""
    sd_below, sd_above = np.log(value / low) / NORMAL_90, np.log(high / value) / NORMAL_90
    return np.asarray(value * np.exp(np.where(z < 0, sd_below, sd_above) * z))


def _draw_range(coefficient: Coefficient) -> tuple[Any, Any] | None:
    """The 90 % range to draw from, within three orders of magnitude; `None` without a range. Arrays for design points."""
    value, (low, high) = coefficient.value, coefficient.bounds
    if np.ndim(value):
        has_range = np.all(np.greater(value, 0)) and not np.all(np.equal(low, high))
        return (np.maximum(low, value * 1e-3), np.minimum(high, value * 1e3)) if has_range else None
    return (max(low, value * 1e-3), min(high, value * 1e3)) if value > 0 and low != high else None


def point_dimensions(profile: ArchitectureProfile) -> int:
    """Dimensions of the design points in a machine's coefficients, and one for kernels; 0 for a single machine."""
    return max((np.ndim(c.value) for c in profile.coefficients.values() if isinstance(c.value, np.ndarray)), default=0)


class ModelErrors(NamedTuple):
    """Draws of the model's own error, and total spreads where they are known.

    Attributes:
        kernels, graphs: (1 + D, ..., K) and (1 + D, ..., S) factors, 1 and then draws, for each kernel and for the error that the
            kernels of a graph share.
        of_kernels, of_graphs: (K,) and (S,) standard deviation of the log of a kernel's or a graph's time on the device, the
            ranges of coefficients included; NaN where the factors and these ranges add up.
    """

    kernels: np.ndarray
    graphs: np.ndarray
    of_kernels: np.ndarray
    of_graphs: np.ndarray

    def at_points(self, dimensions: int) -> ModelErrors:
        """With dimensions for design points between the draws and the kernels."""
        kernels, graphs = (
            values.reshape(len(values), *(1,) * dimensions, values.shape[-1]) for values in (self.kernels, self.graphs)
        )
        return self._replace(kernels=kernels, graphs=graphs)


def model_errors(
    table: KernelTable, profile: ArchitectureProfile, correction: Correction | None, draws: int, seed: int
) -> ModelErrors:
    """Draws of the model's own error.

    The measured error of a fitted algorithm already includes the ranges of other coefficients. So does the measured error of
    whole networks, which applies to graphs of many kernels on machines without measured graphs. On a machine that nobody measured
    the error comes on top of the ranges, because coefficients carry over differently from kernel to kernel.
    """
    codes = algorithm_codes(table, profile)
    nominal = Coefficients(profile)
    kernels = table.counts
    has_several, has_many = kernels > 1, kernels >= MANY_KERNELS
    # Errors of equal kernels do not average out, such as those of a product that is repeated.
    is_network = has_many & (_kernel_kinds(table) >= MIN_NETWORK_KINDS)
    # Spreads carried from other machines hold for every type.
    sources = np.asarray([nominal.source(*algorithm_names(("sigma",), name)) for name in ALGORITHMS])[codes]
    is_measured = in_measured_type(table, profile) | (sources == "transferred")
    has_sigma = np.asarray([f"sigma.{name}" in profile.coefficients for name in ALGORITHMS])[codes]
    is_fitted = has_sigma & is_measured & (sources == "fitted")
    spread = np.broadcast_to(nominal.by_algorithm(codes, "sigma"), len(table))
    if correction is not None:
        spread = correction.spread_beside(spread)
    spread = np.where(table.other_library > 0, np.hypot(spread, OTHER_LIBRARY_SD), spread)
    of_kernels = np.where(is_fitted, spread, np.nan)
    graph_spread = np.where(has_many, nominal.value("sigma.graph.many", "sigma.graph"), nominal.value("sigma.graph"))
    of_graphs = np.full(len(kernels), np.nan)
    if nominal.source("sigma.graph") == "fitted":
        # The held-out error of whole graphs already includes their kernels' errors.
        of_kernels = np.where(has_several[table.segment], np.nan, of_kernels)
        spread = np.where(has_several[table.segment], 0.0, spread)
    elif nominal.find("sigma.whole") is not None:
        of_graphs = np.where(is_network, nominal.value("sigma.whole"), np.nan)
        graph_spread = np.where(is_network, of_graphs, graph_spread)
    spread = np.where(is_measured, spread, np.hypot(spread, OTHER_TYPE_SD))
    of_graph, *of_algorithms = normals(seed, draws, _ERROR_COLUMNS).T
    # Kernels of one algorithm err together: the same draw scales all of them.
    noise = np.stack(of_algorithms, axis=1)[:, codes]
    graph_factors = np.exp(np.where(has_several, graph_spread, 0.0) * of_graph[:, None])
    return ModelErrors(np.exp(spread * noise), graph_factors, of_kernels, of_graphs)


def _kernel_kinds(table: KernelTable) -> np.ndarray:
    """(S,) different kernels of each segment, by operator and extents."""
    first_rows, _ = distinct_rows([table.segment, table.op, table.m, table.n, table.k, table.vector_flops])
    return np.bincount(table.segment[first_rows] - table.segment[0], minlength=len(table.counts))


def spread_draws(times_s: np.ndarray, errors: np.ndarray, spreads: np.ndarray) -> np.ndarray:
    """Draws of times scaled to a given spread of their logarithms, measured by the 90 % interval: wider draws are contracted,
    and narrower ones are widened by errors.

    Args:
        times_s: (1 + D, ..., n) nominal times and draws. errors: (1 + D, ..., n) factors of that spread.
        spreads: (n,) standard deviations; NaN leaves the draws as they are.
    """
    drift = np.log(np.maximum(times_s, LEAST_S) / np.maximum(times_s[:1], LEAST_S))
    ends = round(0.05 * (len(drift) - 2)), round(0.95 * (len(drift) - 2))
    low, high = np.partition(drift[1:], ends, axis=0)[list(ends)]
    drift[1:] -= (low + high) / 2.0
    draw_sd = np.maximum((high - low) / (2.0 * NORMAL_90), 1e-12)
    share = np.minimum(spreads / draw_sd, 1.0)
    exponent = np.sqrt(np.maximum(1.0 - (draw_sd / np.maximum(spreads, 1e-12)) ** 2, 0.0))
    return np.where(np.isnan(spreads), times_s, times_s[:1] * np.exp(drift * share) * errors**exponent)


def normals(seed: int, draws: int, columns: int) -> np.ndarray:
    """(1 + draws, columns): a row of zeros (the nominal value) and standard normal values. The first columns of a seed do not
    depend on the number of columns."""
    blocks = [_latin_hypercube(seed, draws, block) for block in range(-(-columns // BLOCK_COLUMNS))]
    return np.vstack([np.zeros(columns), np.hstack(blocks)[:, :columns]])


@cache
def _latin_hypercube(seed: int, draws: int, block: int) -> np.ndarray:
    """(draws, BLOCK_COLUMNS) standard normal values whose quantiles are exact: each column holds the middles of equally likely
    parts of the law in an order of its own (Latin hypercube: McKay, Beckman and Conover, Technometrics 21(2), 1979). The orders
    are those of columns made uncorrelated (Iman and Conover, Communications in Statistics B 11(3), 1982). Correlations between
    100 draws are then 0.01 instead of 0.1, and the ends of intervals a sixth less noisy."""
    middles = np.asarray([NormalDist().inv_cdf((i + 0.5) / draws) for i in range(draws)])
    values = np.random.default_rng((seed, block)).permuted(np.broadcast_to(middles[:, None], (draws, BLOCK_COLUMNS)), axis=0)
    for _ in range(ROUNDS if draws > BLOCK_COLUMNS else 0):
        uncorrelated = np.linalg.solve(np.linalg.cholesky(np.corrcoef(values.T)), values.T).T
        values = middles[uncorrelated.argsort(axis=0).argsort(axis=0)]
    return values


def names_to_draw(
    coefficients: Mapping[str, Coefficient], runtime: str, has_tensor_kernels: bool, has_chains: bool = False
) -> list[str]:
    """The coefficients of a machine to draw for intervals; those of tensor cores and of chains only where a kernel needs them.

    Left out: coefficients that the strategy already used for its tiles; spreads, which are drawn separately; other runtimes'
    launches; the voltage of a machine at its rated clock; and fitted latency coefficients, whose joint error on held-out cases
    the spreads already hold.
    """

    def is_drawn(name: str) -> bool:
        role = entry(name).role
        is_fitted = coefficients[name].from_fit
        if role in ("count", "size", "rating", "spread") or (is_fitted and role != "energy"):
            return False
        if name in ("energy.clock", "energy.floor") and not coefficients.keys() & {"clock.rated", "throttle.cap"}:
            return False
        if (name == "step" and not has_chains) or (not has_tensor_kernels and whose(name) in ("tensor", *TENSOR)):
            return False
        return runtime_of(name) in (None, runtime)

    return [name for name in coefficients if is_drawn(name)]


def without_spreads(coefficients: Mapping[str, Coefficient]) -> dict[str, Coefficient]:
    """The coefficients of a machine with every term of the model's error set to zero."""
    zero = Coefficient(0.0, "1", "fitted")
    spreads = dict.fromkeys(("sigma", "sigma.tensor", "sigma.graph", "sigma.graph.many"), zero)
    return {name: c for name, c in coefficients.items() if entry(name).role != "spread"} | spreads
