"""AnalysisDirector: graphs and a profile in, an estimate with intervals, breakdown and provenance out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import numpy as np

from shmoo.estimators.basis import measured_type, time_basis
from shmoo.estimators.coefficients import (
    ALGORITHMS,
    DEFAULTS,
    MANY_KERNELS,
    TENSOR,
    Coefficients,
    algorithm_codes,
    draw,
    in_tensor_kernels,
    normals,
)
from shmoo.estimators.costs.summary import UnknownOp
from shmoo.estimators.dtypes import COMPUTE_DTYPES
from shmoo.estimators.dtypes import compute_dtype as canonical_compute_dtype
from shmoo.estimators.kernels import Kernel, KernelTable
from shmoo.estimators.model import Prediction, elapsed_time, graph_latency, predict, segment_energy
from shmoo.estimators.notebook import estimate_html
from shmoo.estimators.profile import RUNTIMES, ArchitectureProfile, check_runtime
from shmoo.estimators.records import FAMILIES, Graph, Interval
from shmoo.estimators.residual import Correction, correction
from shmoo.estimators.tabulated import Origin, Tabulated, tabulate, tabulated
from shmoo.estimators.tiling import TilingStrategy, strategy_for
from shmoo.estimators.tiling.base import Tiling
from shmoo.estimators.variants import with_threads

DRAWS = 200
"""Draws of the uncertain coefficients behind an interval: the 5 % and 95 % points of 200 log-normal draws are within about 5 %
of their spread, less than the spread itself is known."""

OTHER_TYPE = 0.15
"""Standard deviation of the log by which what was fitted in one type is off in another: of few machines that is the least that
coefficients differ by as well (`calibrate.transfer.LEAST_SPREAD`)."""
QUANTILES = (0.05, 0.95)
CHUNK = 2000
"""Graphs tabulated at once; bounds the memory of the draws."""
Waits = Callable[[Coefficients], np.ndarray]


class KernelEstimate(msgspec.Struct, frozen=True):
    """One kernel of a breakdown.

    Attributes:
        latency_s: of the kernel alone, its launch included.
        energy_j: of its flops and bytes, and static power while it makes the call last longer.
        elapsed_s: by which it makes the call last longer. On GPUs a launch counts as far as the device waits for it; elsewhere
            this is `latency_s`. Those of all kernels and the entries of their graphs add up to the call.
        bound: what most of `elapsed_s` goes to: "compute", "memory" or "launch".
        residual: factor by which the residual changed its times, 1 where none holds.
    """

    label: str
    family: str
    pattern: str
    graph: int
    calls: tuple[int, ...]
    flops: float
    bytes: float
    latency_s: float
    elapsed_s: float
    energy_j: float | None
    compute_s: float
    memory_s: float
    launch_s: float
    bound: str
    tiles: float
    tile_shape: tuple[float, float, float]
    utilisation: float
    residual: float = 1.0


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """What a model costs on a machine. Numbers that are not known are `None` with a sibling `_reason`.

    Attributes:
        batch: samples a call processes; throughput is batch / latency.
        basis: shares of predicted time that rest on fitted, transferred, datasheet and fallback coefficients.
        notes: what the graphs say the reader must know, such as the limits at which sizes that depend on data were taken.
    """

    arch: str
    dtype: str
    runtime: str
    threads: int | None
    batch: int
    flops: float
    macs: float
    bytes: float
    params: int
    weight_bytes: float
    peak_memory_bytes: float
    kernels: int
    tiles: float
    latency_s: Interval
    throughput_per_s: Interval
    energy_j: Interval | None
    average_power_w: Interval | None
    edp_js: Interval | None
    energy_j_reason: str = ""
    unknown_ops: tuple[UnknownOp, ...] = ()
    notes: tuple[str, ...] = ()
    basis: dict[str, float]
    breakdown: tuple[KernelEstimate, ...]

    def _repr_html_(self) -> str:
        """Latency, energy and memory with their intervals as a table, for notebooks."""
        return estimate_html(self)


class AnalysisDirector:
    """Runs the pipeline fuse -> tile -> predict for one machine.

    Args:
        profile: the machine.
        strategy: tiling strategy to use in place of the profile's own.
        residual: whether the profile's corrections beside the physical model hold.

    Example:
        >>> director = AnalysisDirector(load_profile("gpu_a100_40g"))  # doctest: +SKIP
        >>> director.estimate(capture(model, args).graphs).latency_s  # doctest: +SKIP
    """

    def __init__(self, profile: ArchitectureProfile, strategy: TilingStrategy | None = None, *, residual: bool = True) -> None:
        self.profile = profile if residual else profile.replacing(residual=())
        self.strategy = strategy if strategy is not None else strategy_for(profile)

    def tabulate(self, graphs: Sequence[Graph], runtime: str, compute_dtype: str | None = None) -> tuple[KernelTable, Origin]:
        """Kernels of all graphs in one table (one segment a graph) and, per row, its graph and kernel."""
        return tabulate(graphs, runtime, self.profile.family, compute_dtype)

    def tile(self, table: KernelTable) -> Tiling:
        """Cut a table for this machine."""
        return self.strategy.apply(table, self.profile, self.strategy.choose(table, self.profile))

    def correct(self, table: KernelTable, tiling: Tiling, runtime: str) -> Correction:
        """What the profile's residual says of every kernel of a table cut for this machine."""
        return correction(table, tiling, self.profile, runtime)

    def estimate(
        self,
        graphs: Graph | Sequence[Graph],
        *,
        runtime: str | None = None,
        compute_dtype: str | None = None,
        threads: int | None = None,
        batch: int = 1,
        seed: int = 0,
    ) -> Estimate:
        """Latency, energy and memory of one call of a model.

        Args:
            graphs: the pieces a capture gave; their times add up.
            runtime: runtime of the contract; the architecture's default for `None`.
            compute_dtype: type that contractions compute in, where it is not the one their tensors are stored in: tf32 for
                float32. The type tensors are stored in is the graphs' own, as they were captured.
            threads: cores used, on CPUs; all for `None`.
            batch: samples per call, for throughput.

        Raises:
            InputError: the runtime does not exist on this architecture, or contractions of the graphs' tensors cannot be computed
                in `compute_dtype`.
        """
        listed = (graphs,) if isinstance(graphs, Graph) else tuple(graphs)
        runtime = check_runtime(self.profile, runtime)
        work = tabulated(listed, runtime, self.profile.family, compute_dtype)
        return self.estimate_tabulated(work, runtime, threads=threads, batch=batch, seed=seed)

    def estimate_tabulated(
        self, work: Tabulated, runtime: str, *, threads: int | None = None, batch: int = 1, seed: int = 0
    ) -> Estimate:
        """As `estimate`, for graphs that are tabulated already for this architecture family and runtime.

        Raises:
            InputError: threads on what is no CPU, or more than it has.
        """
        if threads is not None:
            fewer = AnalysisDirector(with_threads(self.profile, threads), self.strategy)
            return msgspec.structs.replace(fewer.estimate_tabulated(work, runtime, batch=batch, seed=seed), threads=threads)
        table = work.table
        tiling = self.tile(table)
        nominal = Coefficients(self.profile)
        found = self.correct(table, tiling, runtime)
        prediction = found.applied(predict(table, tiling, nominal, runtime))
        latencies = graph_latency(table, prediction, nominal, runtime)
        energies = segment_energy(table, prediction, latencies, nominal)
        latency, energy = float(latencies.sum()), None if energies is None else float(energies.sum())
        drawn = self._draws(table, tiling, runtime, seed, found)
        drawn_t, drawn_e = drawn[0].sum(axis=-1), None if drawn[1] is None else drawn[1].sum(axis=-1)
        latency_s = _interval(latency, drawn_t)
        energy_j = None if energy is None or drawn_e is None else _interval(energy, drawn_e)
        power = None if energy_j is None else _interval(energy_j.value / latency, drawn_e / drawn_t)
        return Estimate(
            arch=self.profile.name,
            dtype=work.compute_dtype or _main_dtype(table),
            runtime=runtime,
            threads=None,
            batch=batch,
            flops=work.flops,
            macs=work.macs,
            bytes=float(table.bytes.sum()),
            params=work.params,
            weight_bytes=work.weight_bytes,
            peak_memory_bytes=work.peak_memory_bytes,
            kernels=len(table),
            tiles=float(tiling.tiles.sum()),
            latency_s=latency_s,
            throughput_per_s=Interval(batch / latency_s.value, batch / latency_s.high, batch / latency_s.low),
            energy_j=energy_j,
            average_power_w=power,
            edp_js=None if energy_j is None else _interval(energy_j.value * latency, drawn_e * drawn_t),
            energy_j_reason="" if energy_j else f"profile {self.profile.name!r} has no energy coefficients",
            unknown_ops=work.unknown_ops,
            notes=work.notes,
            basis={name: float(share) for name, share in time_basis(table, prediction, nominal, runtime).items()},
            breakdown=_breakdown(
                table,
                tiling,
                prediction,
                elapsed_time(table, prediction, nominal),
                found,
                work.origin,
                self.profile.value("power.static", 0.0),
            ),
        )

    def estimate_table(
        self, table: KernelTable, tiling: Tiling, runtime: str, seed: int = 0, waits: Waits | None = None
    ) -> list[tuple[Interval, Interval | None]]:
        """Latency and energy with intervals of every segment of a table, in order.

        Args:
            table: kernels of many cases, a segment each.
            tiling: the same kernels cut for this machine.
            waits: gives the (K,) or (D, K) seconds for which the host is held up before it launches each kernel; none for `None`.
        """
        c = Coefficients(self.profile)
        found = self.correct(table, tiling, runtime)
        prediction = found.applied(predict(table, tiling, c, runtime))
        latency = graph_latency(table, prediction, c, runtime, waits and waits(c))
        energy = segment_energy(table, prediction, latency, c)
        drawn_t, drawn_e = self._draws(table, tiling, runtime, seed, found, waits)
        low_t, high_t = np.quantile(drawn_t, QUANTILES, axis=0)
        times = [_ordered(*row) for row in zip(low_t, latency, high_t, strict=True)]
        if energy is None or drawn_e is None:
            return [(interval, None) for interval in times]
        low_e, high_e = np.quantile(drawn_e, QUANTILES, axis=0)
        return list(zip(times, (_ordered(*row) for row in zip(low_e, energy, high_e, strict=True)), strict=True))

    def estimate_cases(
        self,
        graphs: Sequence[Graph],
        *,
        runtime: str | None = None,
        compute_dtypes: Sequence[str | None] | None = None,
        seed: int = 0,
    ) -> list[tuple[Interval, Interval | None]]:
        """Latency and energy of many graphs at once, such as the rows of an operator table; the cheap way for thousands.

        Args:
            compute_dtypes: of each graph, as `estimate` takes it.

        Raises:
            InputError: as of `estimate`.
        """
        runtime = check_runtime(self.profile, runtime)
        names = compute_dtypes or [None] * len(graphs)
        asked = np.asarray([canonical_compute_dtype(name) if name else "" for name in names])
        results = []
        for start in range(0, len(graphs), CHUNK):
            table, origin = self.tabulate(graphs[start : start + CHUNK], runtime)
            wanted = asked[start : start + CHUNK][[graph for graph, _ in origin]]
            for name in np.unique(wanted[wanted != ""]).tolist():
                table = table.computed_in(name, wanted == name)
            results += self.estimate_table(table, self.tile(table), runtime, seed)
        return results

    def _draws(
        self, table: KernelTable, tiling: Tiling, runtime: str, seed: int, found: Correction, waits: Waits | None = None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """(D, S) time and energy of every segment for random values of everything uncertain."""
        codes = algorithm_codes(table, self.profile)
        tensor = bool(in_tensor_kernels(codes).any())
        drawn = draw(self.profile, _names_in_use(self.profile, runtime, tensor), DRAWS, seed)
        coefficients = Coefficients(self.profile, drawn)
        nominal = Coefficients(self.profile)
        prediction = found.applied(predict(table, tiling, coefficients, runtime))
        rng = np.random.default_rng(seed + 1)
        kernels = np.bincount(table.segment)
        several = kernels > 1
        spread = found.spread_beside(nominal.by_algorithm(codes, "sigma"))
        if nominal.source("sigma.graph") == "fitted":
            # What whole graphs were off by on held-out cases holds their kernels' errors already.
            spread = np.where(several[table.segment], 0.0, spread)
        spread = np.where(measured_type(table, self.profile), spread, np.hypot(spread, OTHER_TYPE))
        noise = normals(rng, DRAWS, len(ALGORITHMS) - len(TENSOR))
        shared = np.where(kernels >= MANY_KERNELS, nominal.value("sigma.graph.many", "sigma.graph"), nominal.value("sigma.graph"))
        together = np.exp(np.where(several, shared, 0.0) * normals(rng, DRAWS, 1))
        if tensor:
            noise = np.hstack([noise, normals(rng, DRAWS, len(TENSOR))])
        # Kernels of one algorithm err together: the same draw scales all of them.
        noisy = prediction.scaled(np.exp(spread * noise[:, codes]))
        times = graph_latency(table, noisy, coefficients, runtime, waits and waits(coefficients)) * together
        return times, segment_energy(table, noisy, times, coefficients)


def _names_in_use(profile: ArchitectureProfile, runtime: str, tensor: bool) -> list[str]:
    """Coefficients to draw for this runtime, in the profile or among the defaults; those of tensor cores where any kernel runs on
    them. Left out: what a strategy already used to cut tiles; `sigma`, which is drawn apart; and fitted latency coefficients,
    which err together and whose joint error on held-out cases is what `sigma` was set from."""
    fixed = ("capacity.", "count.", "array.", "vector.", "sigma", "power.idle", "power.tdp")
    energy = ("energy.", "power.")
    fitted = {n for n, c in profile.coefficients.items() if c.from_fit and not n.startswith(energy)}
    names = {*profile.coefficients, *DEFAULTS[profile.family]} - fitted
    if not tensor:
        names = {n for n in names if n.rpartition(".")[2] not in ("tensor", *TENSOR)}
    other_runtimes = [f"{stem}.{r}" for stem in ("launch", "graph") for r in _other_runtimes(runtime)]
    return [n for n in names if not n.startswith(fixed) and not any(n == o or n.startswith(o + ".") for o in other_runtimes)]


def _other_runtimes(runtime: str) -> set[str]:
    return {name for names in RUNTIMES.values() for name in names} - {runtime}


def _interval(value: float, drawn: np.ndarray) -> Interval:
    """The nominal value with the 5 % and 95 % points of the draws, which are centred on it."""
    low, high = np.quantile(drawn, QUANTILES)
    return _ordered(low, value, high)


def _ordered(low: float, value: float, high: float) -> Interval:
    """An interval that holds its value even where few draws put both points on one side."""
    return Interval(float(value), min(float(low), float(value)), max(float(high), float(value)))


def _main_dtype(table: KernelTable) -> str:
    """The compute type of most work: flops of contractions if there are any, else bytes."""
    weight = table.matrix_flops if table.matrix_flops.sum() else table.bytes
    return COMPUTE_DTYPES[int(np.bincount(table.dtype, weights=weight).argmax())] if len(table) else "float32"


def _breakdown(
    table: KernelTable,
    tiling: Tiling,
    prediction: Prediction,
    elapsed_s: np.ndarray,
    found: Correction,
    origin: Sequence[tuple[int, Kernel]],
    static_w: float,
) -> tuple[KernelEstimate, ...]:
    dynamic = prediction.dynamic_j
    # A launch that hides behind the device bounds nothing.
    waited = prediction.launch_s - (prediction.latency_s - elapsed_s)
    parts = np.stack([prediction.compute_s, prediction.memory_s, waited])
    bound = parts.argmax(axis=0)
    flops, nbytes = table.flops, table.bytes
    factor = np.exp(found.log_factor)
    return tuple(
        KernelEstimate(
            label=table.labels[i],
            family=FAMILIES[table.family[i]],
            pattern=kernel.pattern,
            graph=graph,
            calls=kernel.calls,
            flops=float(flops[i]),
            bytes=float(nbytes[i]),
            latency_s=float(prediction.latency_s[i]),
            elapsed_s=float(elapsed_s[i]),
            energy_j=None if dynamic is None else float(dynamic[i] + static_w * elapsed_s[i]),
            compute_s=float(prediction.compute_s[i]),
            memory_s=float(prediction.memory_s[i]),
            launch_s=float(prediction.launch_s[i]),
            bound=("compute", "memory", "launch")[bound[i]],
            tiles=float(tiling.tiles[i]),
            tile_shape=(float(tiling.shape.m[i]), float(tiling.shape.n[i]), float(tiling.shape.k[i])),
            utilisation=float(tiling.utilisation[i]),
            residual=float(factor[i]),
        )
        for i, (graph, kernel) in enumerate(origin)
    )
