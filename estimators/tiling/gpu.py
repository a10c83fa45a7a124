"""GPU: thread-block tiles in shared memory, rounds over the multiprocessors, split reductions.

A thread block computes m x n outputs over a slice of k, staging operands through shared memory. Blocks that overhang the edges,
and a last round that leaves multiprocessors idle, cost as much as full ones: tile and wave quantisation (NVIDIA, "Matrix
multiplication background user's guide", 2023). The tile is the one that a library would find fastest by trying.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from shmoo.estimators.kernels import KernelTable
from shmoo.estimators.profile import ArchitectureProfile
from shmoo.estimators.tiling.base import (
    TILINGS,
    TileShape,
    Tiling,
    Transformed,
    ceil_div,
    check_tile,
    clip_shape,
    compulsory_traffic,
    element_bytes,
    operands,
    passes,
    reread_traffic,
    resident,
)

BLOCK_TILES = (
    (256, 128), (128, 256), (128, 128), (128, 64), (64, 128), (64, 64), (128, 32), (32, 128), (64, 32), (32, 64), (32, 32),
    (128, 8), (8, 128), (256, 1), (1, 256),
)  # fmt: skip
"""Output tiles of a thread block that libraries offer (CUTLASS's default tiles and smaller); the last four are those of
products with few rows or columns, which stream one operand."""
SPLITS = (1, 2, 4, 8, 16)
"""Parts into which the reduction may be split."""
WINOGRAD = (("winograd_fused", 2, True), ("winograd", 4, False))
"""Name, results a tile's side, and whether one kernel holds transforms and products: cuDNN's fused F(2x2, 3x3), and F(4x4, 3x3)
with transforms of their own."""
_STAGES = 2
_SLICES = (32, 8)
"""Longest and shortest extents of k staged at once."""
_HALF_INTENSITY = 8.0
"""Multiply-adds per staged element at which a tile reaches half of the multiprocessor's rate: operands enter registers from
shared memory at 32 elements a clock, beside 64 to 128 multiply-adds (CUDA C++ Programming Guide, 2024), and each is used again
in registers."""
_ACCUMULATOR_BYTES = 4.0
_MOST_BLOCKS = 8.0
"""Blocks of at least 128 threads that hold their accumulators; more do not help a product that is bound by arithmetic."""


@TILINGS.register("gpu_thread_blocks")
@dataclass(frozen=True, slots=True, kw_only=True)
class GpuThreadBlocks:
    """Thread-block tiles.

    Args:
        tile_m, tile_n: output tile of a block set by hand; `None` tries `BLOCK_TILES`.
        tile_k: part of the reduction that one block computes, set by hand; `None` tries `SPLITS`.
    """

    tile_m: float | None = None
    tile_n: float | None = None
    tile_k: float | None = None

    def __post_init__(self) -> None:
        check_tile(tile_m=self.tile_m, tile_n=self.tile_n, tile_k=self.tile_k)

    def choose(self, table: KernelTable, profile: ArchitectureProfile) -> TileShape:
        """The fastest of the tiles and splits by a proxy: quantised rounds at the tile's intensity, and partial sums
        through L2."""
        multiprocessors = profile.value("count.sms")
        size = element_bytes(table)
        rate = profile.value("peak.matrix.float32", 1.0) / multiprocessors / 2.0
        bandwidth = profile.value("bandwidth.l2")
        best = np.full(len(table), np.inf)
        best_m, best_n, best_k = np.ones(len(table)), np.ones(len(table)), table.k
        for tile_m, tile_n in self._tiles():
            fits = _blocks_per_multiprocessor(profile, size, tile_m, tile_n) >= 1.0
            intensity = tile_m * tile_n / (tile_m + tile_n)
            work = tile_m * tile_n * (1.0 + _HALF_INTENSITY / intensity)
            outputs = ceil_div(table.m, tile_m) * ceil_div(table.n, tile_n) * table.batch
            for split in SPLITS if self.tile_k is None else (1,):
                part = np.minimum(self.tile_k or np.inf, np.ceil(table.k / split))
                pieces = ceil_div(table.k, part)
                rounds = ceil_div(outputs * pieces, multiprocessors)
                partial = np.where(pieces > 1, 2.0 * _ACCUMULATOR_BYTES * pieces * table.m * table.n * table.batch, 0.0)
                time = rounds * work * (part + _SLICES[0]) / rate + partial / bandwidth
                few = (outputs < 2 * multiprocessors) & (part >= 4 * _SLICES[0])
                time = np.where(fits & ((split == 1) | few), time, np.inf)
                better = time < best
                best = np.where(better, time, best)
                best_m, best_n = np.where(better, tile_m, best_m), np.where(better, tile_n, best_n)
                best_k = np.where(better, part, best_k)
        if self.tile_m is not None and self.tile_n is not None:
            # Extents set by hand are used even where no block of them fits, as the caller asked.
            best_m, best_n = np.full(len(table), float(self.tile_m)), np.full(len(table), float(self.tile_n))
        return TileShape(best_m, best_n, clip_shape(table, 1, 1, self.tile_k or best_k).k)

    def _tiles(self) -> tuple[tuple[float, float], ...]:
        return tuple(dict.fromkeys((self.tile_m or m, self.tile_n or n) for m, n in BLOCK_TILES))

    def apply(self, table: KernelTable, profile: ArchitectureProfile, shape: TileShape) -> Tiling:
        """Blocks, rounds, and what every block loads through L2."""
        multiprocessors = profile.value("count.sms")
        size = element_bytes(table)
        contracts = table.matrix_flops > 0
        over_m, over_n, pieces = ceil_div(table.m, shape.m), ceil_div(table.n, shape.n), ceil_div(table.k, shape.k)
        filled, blocks = self._fill(table, profile, shape)
        resident = np.maximum(_blocks_per_multiprocessor(profile, size, shape.m, shape.n), 1.0)
        elements = table.batch * table.m * table.n
        lanes = multiprocessors * profile.value("vector.lanes", 1.0)
        streamed = elements / (ceil_div(elements, lanes) * lanes)
        utilisation = np.where(contracts, filled, streamed)
        waves = np.where(contracts, ceil_div(blocks, multiprocessors * resident), ceil_div(elements, lanes * _MOST_BLOCKS))
        tiles = np.where(contracts, blocks, ceil_div(elements, profile.value("vector.lanes", 1.0)))
        slices = np.minimum(_SLICES[0], table.k)
        state = np.where(contracts, _STAGES * size * (shape.m + shape.n) * slices + _ACCUMULATOR_BYTES * shape.m * shape.n, 0.0)
        state = state * np.minimum(blocks, multiprocessors * resident)
        traffic = self._traffic(table, profile, over_m, over_n, pieces)
        return Tiling(shape, tiles, waves, utilisation, traffic, state, transformed=self._winograd(table, profile))

    def _winograd(self, table: KernelTable, profile: ArchitectureProfile) -> tuple[Transformed, ...]:
        """Winograd's minimal filtering for 3x3 windows of stride 1 (Lavin and Gray, CVPR 2016), fused and as separate kernels."""
        offered = table.is_family("conv") & (table.window == 9) & (table.stride == 1) & (table.dilation == 1) & (table.batch == 1)
        if not offered.any():
            return ()
        size = element_bytes(table)
        rows = np.flatnonzero(offered)
        direct = table.take(rows)
        found = []
        for name, tile, fused in WINOGRAD:
            points = (tile + 2) ** 2
            products = replace(direct, batch=np.full(len(rows), float(points)), m=np.ceil(direct.m / tile**2), k=direct.k / 9)
            filled, _ = self._fill(products, profile, self.choose(products, profile))
            utilisation = np.ones((*filled.shape[:-1], len(table)))
            m, k = table.m.copy(), table.k.copy()
            utilisation[..., rows], m[rows], k[rows] = filled, products.m, products.k
            # Inputs and results are written transformed, with their overlap, and read again, unless one kernel does it all.
            moved = 0.0 if fused else 2.0 * points / tile**2 * size * table.m * (table.k / 9 + table.n)
            share = points / tile**2 / 9
            found.append(Transformed(name, offered, share, m, k, utilisation, moved + np.zeros(len(table))))
        return tuple(found)

    def _fill(self, table: KernelTable, profile: ArchitectureProfile, shape: TileShape) -> tuple[np.ndarray, np.ndarray]:
        """(K,) useful share of the lanes of a contraction, and its number of blocks."""
        multiprocessors = profile.value("count.sms")
        pieces = ceil_div(table.k, shape.k)
        blocks = ceil_div(table.m, shape.m) * ceil_div(table.n, shape.n) * pieces * table.batch
        # Blocks that share a multiprocessor share its rate: the time is set by the one that is given the most blocks.
        most = ceil_div(blocks, multiprocessors)
        padded = most * multiprocessors * shape.m * shape.n * ceil_div(table.k, pieces)
        return np.minimum(table.batch * table.m * table.n * table.k / padded, 1.0), blocks

    def _traffic(
        self, table: KernelTable, profile: ArchitectureProfile, over_m: np.ndarray, over_n: np.ndarray, pieces: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Shared memory starts empty, so every block's operands cross L2; main memory sees again what L2 cannot hold."""
        held = resident(profile)
        used = operands(table)
        size = element_bytes(table)
        share = np.minimum(passes(table), 1.0)
        traffic = compulsory_traffic(table, profile)
        again = (used.a * (over_n - 1.0) + used.b * (over_m - 1.0)) * share
        partial = np.where(pieces > 1.0, 2.0 * used.c * _ACCUMULATOR_BYTES / size * pieces, 0.0)
        # Blocks that run at once walk k together, so what is touched between two readings of an operand is one round's panels:
        # the blocks of a round form a near-square patch of the output.
        patch = np.sqrt(np.maximum(profile.value("count.sms") / np.maximum(table.batch, 1.0), 1.0))
        distance = (used.a / np.maximum(over_m / patch, 1.0) + used.b / np.maximum(over_n / patch, 1.0)) / table.batch
        beyond_patch = used.a * np.maximum(over_n / patch - 1.0, 0.0) + used.b * np.maximum(over_m / patch - 1.0, 0.0)
        outside = reread_traffic(traffic, ("l2", "dram"), beyond_patch * share, distance + used.c / table.batch, held)
        level = profile.levels[-1]
        shared = traffic["shared"] + again + partial
        return {**traffic, "shared": shared, "l2": traffic["l2"] + again + partial, level: outside[level]}


def _blocks_per_multiprocessor(
    profile: ArchitectureProfile, size: np.ndarray, tile_m: float | np.ndarray, tile_n: float | np.ndarray
) -> np.ndarray:
    """(K,) blocks that shared memory and the register file hold at once; below 1 where not even one fits."""
    shared, registers = profile.value("capacity.shared"), profile.value("capacity.register", np.inf)
    by_shared = np.floor(shared / (_STAGES * size * (tile_m + tile_n) * _SLICES[-1]))
    by_registers = np.floor(registers / (1.5 * _ACCUMULATOR_BYTES * tile_m * tile_n))
    return np.minimum(np.minimum(by_shared, by_registers), _MOST_BLOCKS)
