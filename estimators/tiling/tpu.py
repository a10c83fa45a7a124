"""TPU: weight-stationary load, execute, unload on systolic arrays; blocks sized by the on-chip memory.

An array of R x C holds one fold of the weights while the other operand streams past. Cycles of a fold are those of Samajdar et
al., "A systematic methodology for characterizing scalability of DNN accelerators using SCALE-Sim", ISPASS 2020, when load,
execute and unload follow each other. Chips preload the next weights behind the running fold (Jouppi et al., ISCA 2017), which
then costs the longer of streaming and loading.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np

from shmoo.estimators.errors import unknown
from shmoo.estimators.machine.profile import ArchitectureProfile
from shmoo.estimators.table import READ_ACTIVATION, READ_WEIGHT, Floats, KernelTable
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
_ACCUMULATOR_BYTES = 4.0
_STATISTICS = 2.0
"""Passes over a row for its two statistics."""


@TILINGS.register("tpu_weight_stationary")
@dataclass(frozen=True, slots=True, kw_only=True)
class TpuWeightStationary:
    """Folds of a systolic array.

    Args:
        mode: "overlapped" loads the next fold behind the running one, "serial" loads, executes and unloads in turn.
        dataflow: which operand stays on the array: "ws" weights, "is" inputs, "os" outputs.
        tile_m, tile_n, tile_k: block extents in the on-chip memory set by hand; `None` lets the memory decide.
    """

    mode: Mode = "overlapped"
    dataflow: Dataflow = "ws"
    tile_m: float | None = None
    tile_n: float | None = None
    tile_k: float | None = None

    def __post_init__(self) -> None:
        if self.mode not in get_args(Mode):
            raise unknown("mode of tiling strategy 'tpu_weight_stationary'", self.mode, get_args(Mode))
        if self.dataflow not in get_args(Dataflow):
            raise unknown("dataflow of tiling strategy 'tpu_weight_stationary'", self.dataflow, get_args(Dataflow))
        check_tile(tile_m=self.tile_m, tile_n=self.tile_n, tile_k=self.tile_k)

    def choose(self, table: KernelTable, profile: ArchitectureProfile) -> TileShape:
        """Blocks that fill the on-chip memory: a third for weights, a third for the streamed operand, a third for results, each
        double-buffered but the results, which accumulate in float32. Extents are multiples of the array's."""
        rows, cols = profile.value("array.rows"), profile.value("array.cols")
        third = _staging(profile) / 3.0
        size = element_bytes(table)
        fits = np.floor(third / (2.0 * size * table.k) / cols) * cols
        n = self.tile_n or np.clip(fits, cols, ceil_div(table.n, cols) * cols)
        fits = np.minimum(third / (2.0 * size * table.k), third / (_ACCUMULATOR_BYTES * n))
        m = self.tile_m or np.maximum(np.floor(fits / rows) * rows, rows)
        fits = np.floor(third / (2.0 * size * np.minimum(n, table.n)) / rows) * rows
        k = self.tile_k or np.where(fits < table.k, np.maximum(fits, rows), table.k)
        return clip_shape(table, m, n, k)

    def apply(self, table: KernelTable, profile: ArchitectureProfile, shape: TileShape) -> Tiling:
        """Cycles of all folds on the busiest unit, and what blocks make read again from the main memory."""
        rows, cols = profile.value("array.rows"), profile.value("array.cols")
        units = profile.value("count.units", 1.0)
        contracts = table.matrix_flops > 0
        folds, fold_cycles = self._best_split(table, shape, rows, cols, units)
        lanes = rows * cols * units
        vector = profile.value("vector.lanes", 1.0) * profile.value("count.cores", 1.0)
        if self.mode == "overlapped":
            # Groups of one output column fill one column of the array: compilers then use the vector unit where it is faster.
            alone = table.batch * table.m * table.k * 2.0 / (vector * profile.value("count.alus", 1.0))
            fold_cycles = np.where(table.is_family("depthwise"), np.minimum(fold_cycles, alone), fold_cycles)
        cycles = np.where(contracts, passes(table) * fold_cycles, np.nan)
        elements = table.batch * table.m * table.n
        streamed = elements / (ceil_div(elements, vector) * vector)
        utilisation = np.where(contracts, table.matrix_flops / 2.0 / (np.where(contracts, cycles, 1.0) * lanes), streamed)
        cycles = cycles * structural_rate(table, profile, 2.0 * lanes)
        size = element_bytes(table)
        blocks = ceil_div(table.m, shape.m) * ceil_div(table.n, shape.n) * ceil_div(table.k, shape.k) * table.batch
        state = 2.0 * size * (shape.m * shape.k + shape.k * shape.n) + _ACCUMULATOR_BYTES * shape.m * shape.n
        state = np.where(contracts, np.minimum(state, _staging(profile)), np.minimum(table.bytes, _staging(profile)))
        tiles = np.where(contracts, blocks, ceil_div(table.bytes, _staging(profile) / 2.0))
        waves = np.where(contracts, ceil_div(folds, units), ceil_div(elements, vector))
        return Tiling(shape, tiles, waves, utilisation, self._traffic(table, profile, shape), state, cycles)

    def _best_split(
        self, table: KernelTable, shape: TileShape, rows: float, cols: float, units: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Folds in all, and cycles when the units share folds, or the stream, or some of each: the fastest of these."""
        (x, tile_x), (y, tile_y), (stream, tile_s) = {
            "ws": ((table.k, shape.k), (table.n, shape.n), (table.m, shape.m)),
            "is": ((table.k, shape.k), (table.m, shape.m), (table.n, shape.n)),
            "os": ((table.m, shape.m), (table.n, shape.n), (table.k, shape.k)),
        }[self.dataflow]
        folds = table.batch * _pieces(x, tile_x, rows) * _pieces(y, tile_y, cols)
        best = np.full(len(table), np.inf)
        streams_shared = 1.0
        # An output-stationary array accumulates over the stream, so it cannot be shared without adding partial sums.
        while streams_shared <= (1.0 if self.dataflow == "os" else np.max(units)):
            own = ceil_div(folds, np.maximum(np.floor(units / streams_shared), 1.0))
            length = ceil_div(stream, streams_shared)
            shared = self._cycles(own, length, np.minimum(tile_s, length), rows, cols)
            best = np.where(streams_shared <= units, np.minimum(best, shared), best)
            streams_shared *= 2.0
        return folds, best

    def _cycles(self, folds: Floats, length: Floats, tile: Floats, rows: float, cols: float) -> Floats:
        """Cycles of `folds` folds that each see a stream of `length`, cut into blocks of `tile`: each block visits every fold."""
        blocks = ceil_div(length, tile)
        visits = folds * blocks
        load = 0.0 if self.dataflow == "os" else rows
        skew = rows + cols - 2.0
        if self.mode == "serial":
            return visits * (load + skew) + folds * length
        rest = length - (blocks - 1.0) * tile
        steady = (blocks - 1.0) * np.maximum(tile, load) + np.maximum(rest, load)
        # All but the last visit hide a load; the first load and the last drain stand alone.
        return load + folds * steady - np.maximum(rest, load) + rest + skew

    def _traffic(self, table: KernelTable, profile: ArchitectureProfile, shape: TileShape) -> dict[str, np.ndarray]:
        """Operands once; from the main memory again, what the other operand's blocks ask for, in the better loop order."""
        used = operands(table)
        size = element_bytes(table)
        cols = profile.value("array.cols")
        traffic = compulsory_traffic(_as_program(table, profile), profile)
        third = _staging(profile) / 3.0
        share = np.minimum(passes(table), 1.0)
        inputs_again = np.where(used.a / table.batch <= third, 0.0, used.a * (ceil_div(table.n, shape.n) - 1.0))
        weights_again = np.where(used.b / table.batch <= third, 0.0, used.b * (ceil_div(table.m, shape.m) - 1.0))
        partial = used.c * (_ACCUMULATOR_BYTES / size) * 2.0 * (ceil_div(table.k, shape.k) - 1.0)
        spilled = np.where(shape.m * shape.n * _ACCUMULATOR_BYTES <= third * 1.01, 0.0, partial)
        last = profile.levels[-1]
        traffic[last] = traffic[last] + (np.minimum(inputs_again, weights_again) + spilled) * share
        # Next to the units the inputs are read for every column of folds; partial sums add up in accumulators of their own.
        traffic[profile.levels[0]] = traffic[profile.levels[0]] + used.a * (ceil_div(table.n, cols) - 1.0) * share
        return traffic


def _staging(profile: ArchitectureProfile) -> float:
    """Bytes on chip that blocks are staged in: all levels but the main memory."""
    return sum(profile.value(f"capacity.{level}", 0.0) for level in profile.levels[:-1])


def _as_program(table: KernelTable, profile: ArchitectureProfile) -> KernelTable:
    """The accesses as a compiled program makes them.

    Memories on chip are scratchpads that start empty, so parameters come from the main memory at every call, and so does all of
    a program that is a single kernel. A row's statistics take passes of their own before the one that applies them (mean and
    variance of a norm, maximum and sum of a softmax), each of which reads the operand again. Weights lie in the memory in whole
    tiles of the array, so that a partial tile costs a full one (Jouppi et al., ISCA 2017, section 7).
    """
    alone = table.counts == 1
    far = (table.access_kind == READ_WEIGHT) | alone[table.segment[table.access_kernel]]
    statistics = takes_statistics(table)
    reads = np.where(statistics[table.access_kernel] & (table.access_kind == READ_ACTIVATION), 1.0 + _STATISTICS, 1.0)
    weight = table.access_kind == READ_WEIGHT
    reads = np.where(weight, _stored_whole(table, profile)[..., table.access_kernel], reads)
    distance = np.where(far, np.inf, table.access_distance)
    return replace(table, access_bytes=table.access_bytes * reads, access_distance=distance)


def _stored_whole(table: KernelTable, profile: ArchitectureProfile) -> np.ndarray:
    """(K,) bytes that a kernel's weights occupy over their own: both extents in whole tiles, groups of a convolution packed."""
    rows, cols = profile.value("array.rows"), profile.value("array.cols")
    tiles = ceil_div(table.k, rows) * rows * ceil_div(table.n, cols) * cols
    tiled = (table.matrix_flops > 0) & (table.batch == 1) & table.is_family("gemm", "conv")
    return np.where(tiled, tiles / (table.k * table.n), 1.0)


def _pieces(extent: Floats, tile: Floats, side: float) -> Floats:
    """Array-sized pieces along one axis: each block is cut on its own, so a block that is no multiple of the array pays for
    it."""
    full = np.floor(extent / tile)
    rest = extent - full * tile
    return full * ceil_div(tile, side) + np.where(rest > 0, ceil_div(rest, side), 0.0)
