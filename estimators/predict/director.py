"""AnalysisDirector: graphs and a profile in, an estimate with intervals, breakdown and provenance out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import msgspec
import numpy as np

from shmoo.estimators.costs.summary import UnknownOp
from shmoo.estimators.errors import InputError
from shmoo.estimators.graph.dtypes import COMPUTE_DTYPES
from shmoo.estimators.graph.dtypes import compute_dtype as canonical_compute_dtype
from shmoo.estimators.graph.records import FAMILIES, Graph, Interval, Kernel
from shmoo.estimators.machine.coefficients import Coefficients, as_multiplied, on_tensor_cores
from shmoo.estimators.machine.hosts import OWN_HOST
from shmoo.estimators.machine.profile import ArchitectureProfile, check_runtime
from shmoo.estimators.memory.room import MemoryRoom
from shmoo.estimators.predict.basis import time_basis
from shmoo.estimators.predict.draws import SharedDraws
from shmoo.estimators.predict.estimate_records import estimate_html
from shmoo.estimators.predict.graph_table import ModelTable, Origin, tabulate, tabulate_model
from shmoo.estimators.predict.limits import type_notes
from shmoo.estimators.predict.pipeline import Prices, Waits, intervals_of, possible_watts, price
from shmoo.estimators.predict.program import elapsed_time
from shmoo.estimators.table import KernelTable
from shmoo.estimators.tiling import TilingStrategy, strategy_for
from shmoo.estimators.tiling.base import Tiling
from shmoo.estimators.variants import with_threads

GRAPHS_AT_ONCE = 2000
"""Graphs priced at once: the draws of their kernels' times fill a core's cache."""


class KernelEstimate(msgspec.Struct, frozen=True):
    """One kernel of a breakdown.

    Attributes:
        latency_s: time of the kernel alone, its launch included.
        energy_j: energy of its flops and bytes, and static power during `elapsed_s`.
        elapsed_s: time that it adds to the call. On GPUs a launch counts as far as the device waits for it; elsewhere this is
            `latency_s`. All kernels and the entries of their graphs add up to the call.
        bound: where most of `elapsed_s` goes: "compute", "memory" or "launch".
        residual: factor by which the residual changed its times; 1 for none.
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
    """Time, energy and memory of one call of a model on a machine. Unknown numbers are `None` with a sibling `_reason`.

    Attributes:
        host: name in `HOSTS` of the machine that launches the kernels; `OWN_HOST` for the one measured beside the device.
        device_s: seconds that the kernels keep the device busy: the call's time if no kernel waited for the host.
        batch: samples of a call; throughput is batch / latency.
        basis: shares of predicted time that rest on fitted, transferred, datasheet, simulated and fallback coefficients.
        memory: the parts of the peak memory beside the machine's, whether they fit and what would.
        notes: limits assumed for sizes that depend on data, and types that the machine does not multiply.
    """

    arch: str
    host: str
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
    memory: MemoryRoom
    kernels: int
    tiles: float
    device_s: float
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
        residual: whether to apply the profile's corrections of the physical model.

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
        """Tile a table for this machine."""
        return self.strategy.apply(table, self.profile, self.strategy.choose(table, self.profile))

    def price(
        self,
        table: KernelTable,
        runtime: str,
        *,
        tiling: Tiling | None = None,
        waits: Waits | None = None,
        seed: int | None = None,
        shared: SharedDraws | None = None,
    ) -> Prices:
        """Time and energy of every segment of a table on this machine, as of `pipeline.price`; `tiling` where it is known."""
        table = as_multiplied(table, self.profile)
        kernel_tiling = tiling if tiling is not None else self.tile(table)
        return price(table, kernel_tiling, Coefficients(self.profile), runtime, waits=waits, seed=seed, shared=shared)

    def estimate(
        self,
        graphs: Graph | Sequence[Graph],
        *,
        runtime: str | None = None,
        compute_dtype: str | None = None,
        threads: int | None = None,
        batch: int = 1,
    ) -> Estimate:
        """Latency, energy and memory of one call of a model.

        Args:
            graphs: the pieces of a captured model; their times add up.
            runtime: the architecture's default for `None`.
            compute_dtype: type that contractions compute in where it differs from the storage type of their tensors: tf32 for
                float32. The storage type is that of the captured graphs.
            threads: cores used, on CPUs; all for `None`.
            batch: samples per call, for throughput.

        Raises:
            InputError: the runtime does not exist on this architecture, or contractions of the graphs' tensors cannot be computed
                in `compute_dtype`.
        """
        pieces = (graphs,) if isinstance(graphs, Graph) else tuple(graphs)
        runtime = check_runtime(self.profile, runtime)
        model = tabulate_model(pieces, runtime, self.profile.family, compute_dtype)
        return self.estimate_table(model, runtime, threads=threads, batch=batch)

    def estimate_table(
        self, model: ModelTable, runtime: str, *, threads: int | None = None, batch: int = 1, by_kernel: bool = True
    ) -> Estimate:
        """As `estimate`, for graphs already tabulated for this architecture family and runtime.

        Args:
            by_kernel: whether the estimate has a breakdown.

        Raises:
            InputError: threads on a machine that is no CPU or has fewer cores, or a batch below 1.
        """
        if batch < 1:
            raise InputError(f"a call processes at least 1 sample, got a batch of {batch}")
        if threads is not None:
            fewer = AnalysisDirector(with_threads(self.profile, threads), self.strategy)
            estimate = fewer.estimate_table(model, runtime, batch=batch, by_kernel=by_kernel)
            return msgspec.structs.replace(estimate, threads=threads)
        table, nominal = as_multiplied(model.table, self.profile), Coefficients(self.profile)
        prices = self.price(table, runtime, seed=0)
        totals = prices.total()
        intervals = {name: intervals_of(*amounts)[0] for name, amounts in totals.quantities_with_draws().items()}
        latency, energy = intervals["latency_s"], intervals.get("energy_j")
        return Estimate(
            arch=self.profile.name,
            host=self.profile.host or OWN_HOST,
            dtype=model.dtype,
            runtime=runtime,
            threads=None,
            batch=batch,
            flops=model.flops,
            macs=model.macs,
            bytes=float(table.bytes.sum()),
            params=model.params,
            weight_bytes=model.weight_bytes,
            peak_memory_bytes=model.peak_memory_bytes,
            memory=room_on(self.profile, model.memory, batch),
            kernels=len(table),
            tiles=float(prices.tiling.tiles.sum()),
            latency_s=latency,
            device_s=float(totals.device_s[0]),
            throughput_per_s=Interval(batch / latency.value, batch / latency.high, batch / latency.low),
            energy_j=energy,
            average_power_w=None if energy is None else _power_interval(intervals["average_power_w"], self.profile),
            edp_js=intervals.get("edp_js"),
            energy_j_reason="" if energy else f"profile {self.profile.name!r} has no energy coefficients",
            unknown_ops=model.unknown_ops,
            notes=(
                *model.notes,
                *type_notes(self.profile, (COMPUTE_DTYPES[code] for code in np.unique(table.dtype[table.matrix_flops > 0]))),
            ),
            basis={name: float(share) for name, share in time_basis(table, prices.prediction, nominal, runtime).items()},
            breakdown=_breakdown(
                table,
                prices,
                elapsed_time(table, prices.prediction, nominal),
                model.origin,
                self.profile.value("power.static", 0.0),
            )
            if by_kernel
            else (),
        )

    def estimate_cases(
        self, graphs: Sequence[Graph], *, runtime: str | None = None, compute_dtypes: Sequence[str | None] | None = None
    ) -> list[tuple[Interval, Interval | None]]:
        """Latency and energy of many graphs at once, such as the rows of an operator table; the cheap way for thousands.
        `compute_dtypes` are of each graph, as `estimate` takes it; errors as of `estimate`."""
        chunks = self.price_cases(graphs, runtime=runtime, compute_dtypes=compute_dtypes)
        return [interval for prices in chunks for interval in prices.intervals()]

    def price_cases(
        self,
        graphs: Sequence[Graph],
        *,
        runtime: str | None = None,
        compute_dtypes: Sequence[str | None] | None = None,
        cold_weights: Sequence[bool] | None = None,
    ) -> Iterator[Prices]:
        """As `estimate_cases`, with all prices, a chunk of the graphs at a time; each graph is a segment.

        Args:
            cold_weights: whether each graph runs with other weights of the same size between two calls.
        """
        runtime = check_runtime(self.profile, runtime)
        names = compute_dtypes or [None] * len(graphs)
        cold = cold_weights or [False] * len(graphs)
        for start in range(0, len(graphs), GRAPHS_AT_ONCE):
            chunk = slice(start, start + GRAPHS_AT_ONCE)
            table, _ = self.tabulate_cases(graphs[chunk], runtime, names[chunk], cold[chunk])
            yield self.price(table.in_campaign(on_tensor_cores(table, self.profile)), runtime, seed=0)

    def tabulate_cases(
        self, graphs: Sequence[Graph], runtime: str, compute_dtypes: Sequence[str | None], cold_weights: Sequence[bool]
    ) -> tuple[KernelTable, Origin]:
        """As `tabulate`, with a compute type and a state of the weights for each graph, as `price_cases` takes them."""
        table, origin = self.tabulate(graphs, runtime)
        places = [graph for graph, _ in origin]
        dtype_of_row = np.asarray([canonical_compute_dtype(name) if name else "" for name in compute_dtypes])[places]
        for name in sorted({*dtype_of_row.tolist()} - {""}):
            table = table.computed_in(name, dtype_of_row == name)
        return as_multiplied(table, self.profile).with_rotated_weights(np.asarray(cold_weights)[places]), origin


def estimate_on(
    targets: Iterable[tuple[AnalysisDirector, str | None]],
    graphs: Sequence[Graph],
    *,
    compute_dtype: str | None = None,
    threads: int | None = None,
    batch: int = 1,
) -> Iterator[Estimate]:
    """One call of a model on many machines, tabulated once for each architecture family and runtime; estimates without their
    breakdown by kernel.

    Args:
        targets: machines, each with a runtime; arguments and errors as of `AnalysisDirector.estimate`.
        threads: of the CPUs among them.
    """
    models: dict[tuple[str, str], ModelTable] = {}
    for director, requested in targets:
        family, runtime = director.profile.family, check_runtime(director.profile, requested)
        if (runtime, family) not in models:
            sibling = next(iter(models.values()), None)
            models[runtime, family] = tabulate_model(graphs, runtime, family, compute_dtype, sibling=sibling)
        cores = threads if family == "cpu" else None
        yield director.estimate_table(models[runtime, family], runtime, threads=cores, batch=batch, by_kernel=False)


def room_on(profile: ArchitectureProfile, memory: MemoryRoom, batch: int) -> MemoryRoom:
    """Memory of a call of `batch` samples, beside the capacity of a machine's main memory."""
    capacity = profile.get(f"capacity.{profile.main_memory}")
    return msgspec.structs.replace(memory, batch=batch, capacity_bytes=None if capacity is None else capacity.value)


def _power_interval(watts: Interval, profile: ArchitectureProfile) -> Interval:
    low, high = possible_watts(profile, watts.low, watts.value, watts.high)
    return Interval(watts.value, float(low), float(high))


def _breakdown(
    table: KernelTable, prices: Prices, elapsed_s: np.ndarray, origin: Sequence[tuple[int, Kernel]], static_w: float
) -> tuple[KernelEstimate, ...]:
    tiling, prediction = prices.tiling, prices.prediction
    dynamic = prediction.dynamic_j
    # A launch hidden behind the device's work bounds nothing.
    waiting_s = prediction.launch_s - (prediction.latency_s - elapsed_s)
    seconds = np.stack([prediction.compute_s, prediction.memory_s, waiting_s])
    bounds = seconds.argmax(axis=0)
    flops, nbytes = table.flops, table.bytes
    factor = np.ones(len(table)) if prices.correction is None else np.exp(prices.correction.log_factor)
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
            bound=("compute", "memory", "launch")[bounds[i]],
            tiles=float(tiling.tiles[i]),
            tile_shape=(float(tiling.shape.m[i]), float(tiling.shape.n[i]), float(tiling.shape.k[i])),
            utilisation=float(tiling.utilisation[i]),
            residual=float(factor[i]),
        )
        for i, (graph, kernel) in enumerate(origin)
    )
