"""TPU: weight-stationary load, execute, unload on systolic arrays; blocks sized by the on-chip memory.

An array of R x C holds one fold of the weights while the other operand streams past. Cycles of a fold are those of Samajdar et
al., "A systematic methodology for characterizing scalability of DNN accelerators using SCALE-Sim", ISPASS 2020, when load,
execute and unload follow each other. Chips preload the next weights behind the running fold (Jouppi et al., ISCA 2017), which
then costs the longer of streaming and loading.

Blocks are cut where they cost least: panels as deep as the reduction, one of which stays while the other operand passes, or
blocks of results that accumulate on chip while slices of the reduction pass.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np

from shmoo.estimators.errors import unknown
from shmoo.estimators.machine.coefficients import RECURRENT
from shmoo.estimators.machine.profile import ArchitectureProfile
from shmoo.estimators.table import READ_ACTIVATION, READ_WEIGHT, WRITE, Floats, KernelTable
from shmoo.estimators.tiling.base import (
    TILINGS,
    TileShape,
    Tiling,
    ceil_div,
    check_tile,
    clip_shape,
    compulsory_traffic,
    element_bytes,
    operands,
    passes,
    structural_rate,
    takes_statistics,
)

Mode = Literal["overlapped", "serial"]
Dataflow = Literal["ws", "is", "os"]
Prefetch = Literal["none", "largest"]
Edges = Literal["memory", "host"]
_ACCUMULATOR_BYTES = 4.0
_STATISTICS = 2.0
"""Passes over a row for its two statistics."""
_LONGEST = 4096.0
"""Rows of a block of results; more of them save little traffic, and leave less for its columns."""
_PREFETCH_SHARE = 0.75
"""Share of the vector memory that a prefetched operand may take: one of 90 MB came early to 128 MiB, one of 106 MB did not."""


@TILINGS.register("tpu_weight_stationary")
@dataclass(frozen=True, slots=True, kw_only=True)
class TpuWeightStationary:
    """Folds of a systolic array.

    Args:
        mode: "overlapped" loads the next fold behind the running one, "serial" loads, executes and unloads in turn.
        dataflow: which operand stays on the array: "ws" weights, "is" inputs, "os" outputs.
        prefetch: which operand moves while a compiled program is entered, because the call before asked for it (XLA's
            cross-program prefetch): none, or the largest that its first kernel, a contraction, reads if it fits beside the
            blocks.
        edges: where inputs of a program come from and its results go: the main memory, or the host, which on v1 fills and
            empties the unified buffer (Jouppi et al., ISCA 2017).
        swaps: whether the transposed product is taken where that is faster, so that the other operand stays.
        load_rows: rows of an array that are loaded in a cycle.
        tile_m, tile_n, tile_k: block extents in the on-chip memory set by hand; `None` lets the cost decide.
    """

    mode: Mode = "overlapped"
    dataflow: Dataflow = "ws"
    prefetch: Prefetch = "none"
    edges: Edges = "memory"
    swaps: bool = False
    load_rows: float = 1.0
    tile_m: float | None = None
    tile_n: float | None = None
    tile_k: float | None = None

    def __post_init__(self) -> None:
        choices = {"mode": Mode, "dataflow": Dataflow, "prefetch": Prefetch, "edges": Edges}
        for name, choice in choices.items():
            value, allowed = getattr(self, name), get_args(choice)
            if value not in allowed:
                raise unknown(f"{name} of tiling strategy 'tpu_weight_stationary'", value, allowed)
        check_tile(load_rows=self.load_rows, tile_m=self.tile_m, tile_n=self.tile_n, tile_k=self.tile_k)

    def choose(self, table: KernelTable, profile: ArchitectureProfile) -> TileShape:
        """The cheaper of two cuts, by the longer of its cycles and of what the main memory serves again: panels of the whole
        reduction, and blocks of results that accumulate over a cut one."""
        panels, blocks = self._panels(table, profile), self._accumulating(table, profile)
        is_better = self._seconds(table, profile, blocks) < self._seconds(table, profile, panels)
        return TileShape(*(np.where(is_better, getattr(blocks, x), getattr(panels, x)) for x in ("m", "n", "k")))

    def _panels(self, table: KernelTable, profile: ArchitectureProfile) -> TileShape:
        """A third of the memory for weights, a third for the streamed operand, a third for results, each double-buffered but the
        results, which accumulate in float32. Extents are multiples of the array's."""
        rows, cols = profile.value("array.rows"), profile.value("array.cols")
        third_of_memory = _staging_bytes(profile) / 3.0
        size = element_bytes(table)
        fits = np.floor(third_of_memory / (2.0 * size * table.k) / cols) * cols
        n = self.tile_n or np.clip(fits, cols, ceil_div(table.n, cols) * cols)
        fits = np.minimum(third_of_memory / (2.0 * size * table.k), third_of_memory / (_ACCUMULATOR_BYTES * n))
        m = self.tile_m or np.maximum(np.floor(fits / rows) * rows, rows)
        fits = np.floor(third_of_memory / (2.0 * size * np.minimum(n, table.n)) / rows) * rows
        k = self.tile_k or np.where(fits < table.k, np.maximum(fits, rows), table.k)
        return clip_shape(table, m, n, k)

    def _accumulating(self, table: KernelTable, profile: ArchitectureProfile) -> TileShape:
        """Half of the memory for results, about square, and half for slices of both operands, double-buffered."""
        rows, cols = profile.value("array.rows"), profile.value("array.cols")
        half_of_memory = _staging_bytes(profile) / 2.0
        size = element_bytes(table)
        most_m = ceil_div(table.m, rows) * rows
        longest = np.minimum(2.0 ** np.ceil(np.log2(np.sqrt(half_of_memory / _ACCUMULATOR_BYTES))), _LONGEST)
        balanced_n = _balanced_extent(table.n, half_of_memory / (_ACCUMULATOR_BYTES * np.minimum(longest, most_m)), cols)
        n = self.tile_n or balanced_n
        m = self.tile_m or _balanced_extent(table.m, np.asarray(half_of_memory / (_ACCUMULATOR_BYTES * n)), rows)
        k = np.maximum(np.floor(half_of_memory / (2.0 * size * (m + n)) / rows) * rows, rows)
        return clip_shape(table, m, n, self.tile_k or k)

    def _seconds(self, table: KernelTable, profile: ArchitectureProfile, shape: TileShape) -> np.ndarray:
        """(K,) time of a cut, to compare it with another; traffic counts a little even where it hides."""
        rows, cols, units = _arrays(profile)
        _, cycles = self._best_split(table, profile, shape)
        rate = structural_rate(table, profile, 2.0 * rows * cols * units)
        compute_s: Floats = passes(table) * cycles * rate / profile.value("clock")
        moving_s: Floats = (table.bytes + _repeated_bytes(table, profile, shape)) / profile.value(
            f"bandwidth.{profile.main_memory}"
        )
        return np.maximum(compute_s, moving_s) + 1e-3 * moving_s

    def apply(self, table: KernelTable, profile: ArchitectureProfile, shape: TileShape) -> Tiling:
        """Cycles of all folds on the busiest unit, and what blocks make read again from the main memory."""
        rows, cols, units = _arrays(profile)
        contracts = table.matrix_flops > 0
        folds, fold_cycles = self._best_split(table, profile, shape)
        lanes = rows * cols * units
        vector = profile.value("vector.lanes", 1.0) * profile.value("count.cores", 1.0)
        if self.mode == "overlapped":
            # Groups of one output column fill one column of the array: compilers then use the vector unit where it is faster.
            vector_cycles = ceil_div(table.batch * table.m, vector) * table.k * 2.0 / profile.value("count.alus", 1.0)
            fold_cycles = np.where(table.is_family("depthwise"), np.minimum(fold_cycles, vector_cycles), fold_cycles)
        cycles = np.where(contracts, passes(table) * fold_cycles, np.nan)
        elements = table.batch * table.m * table.n
        stream_fill = elements / (ceil_div(elements, vector) * vector)
        utilisation = np.where(contracts, table.matrix_flops / 2.0 / (np.where(contracts, cycles, 1.0) * lanes), stream_fill)
        cycles = cycles * structural_rate(table, profile, 2.0 * lanes)
        size = element_bytes(table)
        blocks = ceil_div(table.m, shape.m) * ceil_div(table.n, shape.n) * ceil_div(table.k, shape.k) * table.batch
        state = 2.0 * size * (shape.m * shape.k + shape.k * shape.n) + _ACCUMULATOR_BYTES * shape.m * shape.n
        state = np.where(contracts, np.minimum(state, _staging_bytes(profile)), np.minimum(table.bytes, _staging_bytes(profile)))
        tiles = np.where(contracts, blocks, ceil_div(table.bytes, _staging_bytes(profile) / 2.0))
        waves = np.where(contracts, ceil_div(folds, units), ceil_div(elements, vector))
        traffic, early_bytes = self._traffic(table, profile, shape), self._prefetched(table, profile)
        return Tiling(shape, tiles, waves, utilisation, traffic, state, cycles, early_bytes=early_bytes)

    def _best_split(self, table: KernelTable, profile: ArchitectureProfile, shape: TileShape) -> tuple[np.ndarray, np.ndarray]:
        """Folds in all, and cycles when the units share folds, or the stream, or some of each: the fastest of these."""
        folds, cycles = self._split(table, profile, shape, self.dataflow)
        if not self.swaps or self.dataflow == "os":
            return folds, cycles
        other_folds, other_cycles = self._split(table, profile, shape, "is" if self.dataflow == "ws" else "ws")
        return np.where(other_cycles < cycles, other_folds, folds), np.minimum(other_cycles, cycles)

    def _split(
        self, table: KernelTable, profile: ArchitectureProfile, shape: TileShape, dataflow: Dataflow
    ) -> tuple[np.ndarray, np.ndarray]:
        """`_best_split` with one of the operands on the arrays."""
        rows, cols, units = _arrays(profile)
        (x, tile_x), (y, tile_y), (stream, tile_s) = {
            "ws": ((table.k, shape.k), (table.n, shape.n), (table.m, shape.m)),
            "is": ((table.k, shape.k), (table.m, shape.m), (table.n, shape.n)),
            "os": ((table.m, shape.m), (table.n, shape.n), (table.k, shape.k)),
        }[dataflow]
        folds = table.batch * _pieces(x, tile_x, rows) * _pieces(y, tile_y, cols)
        least_cycles = np.full(len(table), np.inf)
        streams_shared = 1.0
        # An output-stationary array accumulates over the stream, so it cannot be shared without adding partial sums.
        while streams_shared <= (1.0 if dataflow == "os" else np.max(units)):
            folds_of_unit = ceil_div(folds, np.maximum(np.floor(units / streams_shared), 1.0))
            length = ceil_div(stream, streams_shared)
            shared_cycles = self._cycles(folds_of_unit, length, np.minimum(tile_s, length), rows, cols)
            least_cycles = np.where(streams_shared <= units, np.minimum(least_cycles, shared_cycles), least_cycles)
            streams_shared *= 2.0
        return folds, least_cycles

    def _cycles(self, folds: Floats, length: Floats, tile: Floats, rows: float, cols: float) -> Floats:
        """Cycles of `folds` folds that each see a stream of `length`, cut into blocks of `tile`: each block visits every fold."""
        blocks = ceil_div(length, tile)
        visits = folds * blocks
        load = 0.0 if self.dataflow == "os" else rows / self.load_rows
        skew = rows + cols - 2.0
        if self.mode == "serial":
            return visits * (load + skew) + folds * length
        last_block = length - (blocks - 1.0) * tile
        steady = (blocks - 1.0) * np.maximum(tile, load) + np.maximum(last_block, load)
        # All but the last visit hide a load; the first load and the last drain stand alone.
        return load + folds * steady - np.maximum(last_block, load) + last_block + skew

    def _traffic(self, table: KernelTable, profile: ArchitectureProfile, shape: TileShape) -> dict[str, np.ndarray]:
        """Operands once; from the main memory again, what the other operand's blocks ask for, in the better loop order."""
        sizes = operands(table)
        cols = profile.value("array.cols")
        traffic = compulsory_traffic(self._as_program(table, profile), profile)
        share = np.minimum(passes(table), 1.0)
        main_memory = profile.main_memory
        traffic[main_memory] = traffic[main_memory] + _repeated_bytes(table, profile, shape) * share
        # Next to the units the inputs are read for every column of folds; partial sums add up in accumulators of their own.
        traffic[profile.levels[0]] = traffic[profile.levels[0]] + sizes.a * (ceil_div(table.n, cols) - 1.0) * share
        return traffic

    def _as_program(self, table: KernelTable, profile: ArchitectureProfile) -> KernelTable:
        """The accesses as a compiled program makes them.

        Memories on chip are scratchpads that start empty, so parameters and inputs come from the main memory at every call, and
        results go there; a program of a single kernel has nothing else. A row's
        statistics take passes of their own before the one that applies them (mean and variance of a norm, maximum and sum of a
        softmax), each of which reads the operand again. Weights lie in the memory in whole tiles of the array, so that a partial
        tile costs a full one (Jouppi et al., ISCA 2017, section 7).
        """
        is_alone = (table.counts == 1)[table.segment]
        weight, is_activation = table.access_kind == READ_WEIGHT, table.access_kind == READ_ACTIVATION
        inputs = table.entering_bytes / np.maximum(table.bytes_of_kind(READ_ACTIVATION), 1.0)
        results = table.result_bytes / np.maximum(table.bytes_of_kind(WRITE), 1.0)
        edge_shares = [np.where(is_alone, 1.0, np.minimum(x, 1.0))[table.access_kernel] for x in (inputs, results)]
        edge_share = np.where(weight, 1.0, np.where(is_activation, *edge_shares) if self.edges == "memory" else 0.0)
        statistics = takes_statistics(table)
        reads = np.where(statistics[table.access_kernel] & is_activation, 1.0 + _STATISTICS, 1.0)
        # Biases beside the matrix are stored as they are.
        matrix = operands(table).b / np.maximum(table.bytes_of_kind(READ_WEIGHT), 1.0)
        stored_share = 1.0 + (_stored_whole(table, profile) - 1.0) * np.minimum(matrix, 1.0)
        reads = np.where(weight, stored_share[..., table.access_kernel], reads)
        nbytes = table.access_bytes * reads
        # Each access as two: what crosses the program's edge, and what stays inside it.
        return replace(
            table,
            access_kernel=np.tile(table.access_kernel, 2),
            access_kind=np.tile(table.access_kind, 2),
            access_bytes=np.concatenate([nbytes * edge_share, nbytes * (1.0 - edge_share)], axis=-1),
            access_distance=np.concatenate([np.full(len(edge_share), np.inf), table.access_distance]),
        )

    def _prefetched(self, table: KernelTable, profile: ArchitectureProfile) -> np.ndarray | None:
        """(K,) bytes that the call before asks for: the largest operand of a program's first kernel."""
        if self.prefetch == "none":
            return None
        inputs, weights = np.zeros(len(table)), np.zeros(len(table))
        for kind, largest in ((READ_ACTIVATION, inputs), (READ_WEIGHT, weights)):
            np.maximum.at(largest, table.access_kernel, np.where(table.access_kind == kind, table.access_bytes, 0.0))
        operand_bytes = np.maximum(inputs, weights * _stored_whole(table, profile))
        fits = (table.matrix_flops > 0) & (operand_bytes <= _PREFETCH_SHARE * profile.value(f"capacity.{profile.levels[0]}"))
        is_first = np.zeros(len(table), dtype=bool)
        is_first[table.starts] = True
        return np.where(fits & is_first, operand_bytes, 0.0)


def _arrays(profile: ArchitectureProfile) -> tuple[float, float, float]:
    """Rows and columns of a systolic array, and the number of arrays."""
    return profile.value("array.rows"), profile.value("array.cols"), profile.value("count.units", 1.0)


def _repeated_bytes(table: KernelTable, profile: ArchitectureProfile, shape: TileShape) -> np.ndarray:
    """(K,) bytes that the main memory serves more than once: where the reduction is whole, one operand for each block of the
    other, in the better loop order; where it is cut, both, and partial sums that do not fit. A third of the memory keeps what it
    can of each operand."""
    sizes = operands(table)
    staging_bytes = _staging_bytes(profile)
    over_m, over_n, over_k = ceil_div(table.m, shape.m), ceil_div(table.n, shape.n), ceil_div(table.k, shape.k)
    inputs = np.maximum(sizes.a - table.batch * staging_bytes / 3.0, 0.0) * (over_n - 1.0)
    weights = np.maximum(sizes.b - table.batch * staging_bytes / 3.0, 0.0) * (over_m - 1.0)
    partial_sums = sizes.c * (_ACCUMULATOR_BYTES / element_bytes(table)) * 2.0 * (over_k - 1.0)
    spills = np.where(shape.m * shape.n * _ACCUMULATOR_BYTES <= staging_bytes / 2.0 * 1.01, 0.0, partial_sums)
    return np.where(over_k > 1.0, inputs + weights, np.minimum(inputs, weights)) + spills


def _balanced_extent(extent: np.ndarray, longest: np.ndarray, side: float) -> np.ndarray:
    """Equal pieces of an extent, no longer than `longest`, in whole arrays."""
    longest = np.maximum(np.floor(longest / side) * side, side)
    return ceil_div(ceil_div(extent, ceil_div(extent, longest)), side) * side


def _staging_bytes(profile: ArchitectureProfile) -> float:
    """Bytes on chip that blocks are staged in: all levels but the main memory."""
    return sum(profile.value(f"capacity.{level}", 0.0) for level in profile.levels[:-1])


def _stored_whole(table: KernelTable, profile: ArchitectureProfile) -> np.ndarray:
    """(K,) bytes that a kernel's weights occupy over their own: both extents in whole tiles, groups of a convolution packed."""
    rows, cols = profile.value("array.rows"), profile.value("array.cols")
    tiles = ceil_div(table.k, rows) * rows * ceil_div(table.n, cols) * cols
    # The steps of a recurrent layer share its weights; a batch of products has none.
    shared = (table.batch == 1) | table.is_op(*RECURRENT)
    tiled = (table.matrix_flops > 0) & shared & table.is_family("gemm", "conv")
    return np.where(tiled, tiles / (table.k * table.n), 1.0)


def _pieces(extent: Floats, tile: Floats, side: float) -> Floats:
    """Array-sized pieces along one axis: each block is cut on its own, so a block that is no multiple of the array pays for
    it."""
    full = np.floor(extent / tile)
    rest = extent - full * tile
    return full * ceil_div(tile, side) + np.where(rest > 0, ceil_div(rest, side), 0.0)
