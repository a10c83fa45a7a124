"""The public KPU simulator's own schedule: an upper bound for a KPU, whose stages would overlap.

Its stepped simulator moves one tile after the other through every stage, DMA, BlockMover, Streamer, fabric, and waits for each;
its cache analysis cuts the product into blocks that fit one bank of L2 and replaces blocks of L3 by least recent use. Both are
closed forms here, fitted to nothing; `docs/kpu.md` holds them against the simulator's tables. (stillwater-sc/kpu-sim, MIT.)
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from shmoo.estimators.errors import unknown
from shmoo.estimators.machine.profile import ArchitectureProfile
from shmoo.estimators.table import KernelTable
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
)

Dataflow = Literal["os", "ws", "is"]
_DMA_BYTES, _MOVER_BYTES = 100.0, 64.0
"""Bytes a cycle of the simulator's DMA engine (100 GB/s at 1 GHz) and of its buses."""


@TILINGS.register("kpu_sim_serial")
@dataclass(frozen=True, slots=True, kw_only=True)
class KpuSimSerial:
    """One tile at a time through every stage; blocks of one L2 bank.

    Args:
        dataflow: loop order of the blocks: "os" rows, columns, depth; "ws" depth, rows, columns; "is" depth, columns, rows.
        bank_bytes: capacity of an L2 bank.
    """

    dataflow: Dataflow = "os"
    bank_bytes: float = 65536.0

    def __post_init__(self) -> None:
        if self.dataflow not in get_args(Dataflow):
            raise unknown("dataflow of tiling strategy 'kpu_sim_serial'", self.dataflow, get_args(Dataflow))
        check_tile(bank_bytes=self.bank_bytes)

    def choose(self, table: KernelTable, profile: ArchitectureProfile) -> TileShape:
        """Blocks of outputs with sqrt(C x / (2 k + x)) of a side x, for a bank of C elements, as deep as fits beside them (after
        Goto and van de Geijn, 2008), in whole arrays."""
        side = profile.value("array.rows")
        bank = np.floor(self.bank_bytes / element_bytes(table))

        def whole(extent: np.ndarray) -> np.ndarray:
            return np.maximum(np.floor(extent / side) * side, side)

        m, n = (whole(np.minimum(x, np.floor(np.sqrt(bank * x / (2.0 * table.k + x))))) for x in (table.m, table.n))
        left = bank - np.where(m * n <= bank, m * n, 0.0)
        k = whole(np.minimum(table.k, np.floor(left / (m + n))))
        extents = {"k": k, "n": n, "m": m}
        for name in extents:
            while (over := (_block_elements(**extents) > bank) & (extents[name] > side)).any():
                extents[name] = np.where(over, extents[name] - side, extents[name])
        return TileShape(**extents)

    def apply(self, table: KernelTable, profile: ArchitectureProfile, shape: TileShape) -> Tiling:
        """Cycles of all stages in turn, and DRAM bytes of the blocks in this loop order."""
        side = profile.value("array.rows")
        size = element_bytes(table)
        contracts = table.matrix_flops > 0
        steps = _serial_cycles(table, side, size) * np.maximum(table.batch, 1.0)
        cycles = np.where(contracts, passes(table) * steps, np.nan)
        lanes = side * profile.value("array.cols") * profile.value("count.tiles", 1.0)
        elements = table.batch * table.m * table.n
        streamed = elements / (ceil_div(elements, lanes) * lanes)
        utilisation = np.where(contracts, table.matrix_flops / 2.0 / (np.where(contracts, cycles, 1.0) * lanes), streamed)
        blocks = ceil_div(table.m, shape.m) * ceil_div(table.n, shape.n) * ceil_div(table.k, shape.k) * table.batch
        tiles = np.where(contracts, blocks, ceil_div(elements, side * side))
        state = size * (shape.m * shape.k + shape.k * shape.n + shape.m * shape.n)
        traffic = compulsory_traffic(table, profile)
        extra = np.where(contracts, self._block_bytes(table, profile, shape, size) - table.bytes, 0.0)
        for level in profile.levels:
            share = np.minimum(passes(table), 1.0) if level == profile.main_memory else 1.0
            traffic[level] = traffic[level] + np.maximum(extra, 0.0) * share
        return Tiling(clip_shape(table, shape.m, shape.n, shape.k), tiles, tiles, utilisation, traffic, state, cycles)

    def _block_bytes(self, table: KernelTable, profile: ArchitectureProfile, shape: TileShape, size: np.ndarray) -> np.ndarray:
        """(K,) bytes from and to DRAM: whole blocks, also at the edges; results are read before they are written.

        A block is used again after a sweep of the inner loops. Least recent use keeps either all that such a sweep touches or,
        in a cyclic order, nothing.
        """
        over_m, over_n, over_k = ceil_div(table.m, shape.m), ceil_div(table.n, shape.n), ceil_div(table.k, shape.k)
        m, n, k = over_m * shape.m, over_n * shape.n, over_k * shape.k
        held = profile.value("capacity.l3") / size
        a_times, b_times = np.ones(len(table)), np.ones(len(table))
        if self.dataflow == "os":
            a_times = np.where(shape.m * k + k * shape.n + shape.m * shape.n > held, over_n, 1.0)
            b_times = np.where(k * n + shape.m * k + shape.m * n > held, over_m, 1.0)
        elif self.dataflow == "ws":
            b_times = _sweeps(shape.k * n + 2.0 * shape.m * shape.k, shape.m * n, held, over_m, over_k)
        else:
            a_times = _sweeps(shape.k * m + 2.0 * shape.n * shape.k, shape.n * m, held, over_n, over_k)
        used = operands(table)
        return size * table.batch * (a_times * m * k + b_times * k * n + m * n) + used.c


def _block_elements(m: np.ndarray, n: np.ndarray, k: np.ndarray) -> np.ndarray:
    return m * n + m * k + k * n


def _sweeps(touched: np.ndarray, results: np.ndarray, held: np.ndarray, turns: np.ndarray, slices: np.ndarray) -> np.ndarray:
    """(K,) times an operand is loaded with depth outermost: results are loaded in the first slice of the depth only."""
    first = np.where(touched + results > held, turns, 1.0)
    later = np.where(touched > held, turns, 1.0)
    return (first + (slices - 1.0) * later) / slices


def _serial_cycles(table: KernelTable, side: float, size: np.ndarray) -> np.ndarray:
    """(K,) cycles of one matrix product: DMA, BlockMover, Streamer and fabric for each tile of at most side^3, and DMA and drain
    for each tile of results."""
    cycles = 0.0
    for (m, over_m), (n, over_n), (k, over_k) in itertools.product(*(_cuts(x, side) for x in (table.m, table.n, table.k))):
        loads = sum(np.ceil(size * a * b / rate) for a, b in ((m, k), (k, n)) for rate in (_DMA_BYTES, _MOVER_BYTES))
        # The Streamer feeds rows of A and columns of B at once; the fabric skews them, and takes one cycle to start.
        fabric = np.maximum(m, n) + k + np.maximum(m, n) + side + 1.0
        cycles = cycles + over_m * over_n * over_k * (loads + fabric)
    for (m, over_m), (n, over_n) in itertools.product(*(_cuts(x, side) for x in (table.m, table.n))):
        cycles = cycles + over_m * over_n * (np.ceil(size * m * n / _DMA_BYTES) + m)
    return cycles


def _cuts(extent: np.ndarray, side: float) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """Whole tiles along an axis and the rest, each as (extent, how many)."""
    whole = np.floor(extent / side)
    rest = extent - whole * side
    return ((side + np.zeros_like(extent), whole), (rest, (rest > 0).astype(float)))
