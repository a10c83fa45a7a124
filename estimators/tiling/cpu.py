"""CPU: blocks that fit the core's own L2, spread over the cores, computed in register blocks.

The block follows from the private L2 and not from the memory of the machine: three operand blocks of one size, each double-
buffered, fill it (Goto and van de Geijn, "Anatomy of high-performance matrix multiplication", ACM TOMS 34(3), 2008, for blocks
by cache level). Where there are too few blocks to keep the cores busy, smaller ones are tried.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np

from shmoo.estimators.machine.coefficients import RECURRENT
from shmoo.estimators.machine.profile import ArchitectureProfile
from shmoo.estimators.table import Floats, KernelTable
from shmoo.estimators.tiling.base import (
    TILINGS,
    TileShape,
    Tiling,
    ceil_div,
    check_tile,
    clip_shape,
    compulsory_traffic,
    element_bytes,
    hit_share,
    operands,
    passes,
    resident,
)

BUFFERED_OPERANDS = 3 * 2
"""Three operand blocks resident at once, each double-buffered."""
_SHRINKS = tuple(product((1, 2, 3, 4, 8, 16, 32), repeat=2))
"""Divisors of a block's m and n extent that are tried when blocks are fewer than cores, down to a few registers."""
_HALF_EXTENT = 8.0
"""Extent of a block at which half of the time goes to filling and draining register blocks (6 to 14 rows in common kernels)."""


@TILINGS.register("cpu_l2_blocking")
@dataclass(frozen=True, slots=True, kw_only=True)
class CpuL2Blocking:
    """Blocks of the private L2.

    Args:
        tile_m, tile_n, tile_k: extents set by hand; `None` leaves them to the cache.
    """

    tile_m: float | None = None
    tile_n: float | None = None
    tile_k: float | None = None

    def __post_init__(self) -> None:
        check_tile(tile_m=self.tile_m, tile_n=self.tile_n, tile_k=self.tile_k)

    def choose(self, table: KernelTable, profile: ArchitectureProfile) -> TileShape:
        """Square blocks of side sqrt(L2 / (3 x 2 x element bytes)), smaller where that balances the cores better."""
        lanes = _lanes(table, profile)
        side = np.sqrt(profile.value("capacity.l2") / (BUFFERED_OPERANDS * element_bytes(table)))
        side = np.maximum(np.floor(side / lanes), 1.0) * lanes
        cores = profile.value("count.cores", 1.0)
        best_m, best_n, least_time = side, side, np.full(len(table), np.inf)
        for by_m, by_n in _SHRINKS:
            shape = clip_shape(table, self.tile_m or np.ceil(side / by_m), self.tile_n or _multiple(side / by_n, lanes), side)
            over_m, over_n = ceil_div(table.m, shape.m), ceil_div(table.n, shape.n)
            time = (
                ceil_div(over_m * over_n * table.batch, cores)
                * (table.m / over_m + _HALF_EXTENT)
                * (table.n / over_n + _HALF_EXTENT)
            )
            is_faster = time < least_time
            least_time = np.where(is_faster, time, least_time)
            best_m, best_n = np.where(is_faster, shape.m, best_m), np.where(is_faster, shape.n, best_n)
        return clip_shape(table, best_m, best_n, self.tile_k or side)

    def apply(self, table: KernelTable, profile: ArchitectureProfile, shape: TileShape) -> Tiling:
        """Blocks over cores, and repeated reads of operands that do not stay in a near cache."""
        cores = profile.value("count.cores", 1.0)
        lanes = _lanes(table, profile)
        contracts = table.matrix_flops > 0
        over_m, over_n, over_k = ceil_div(table.m, shape.m), ceil_div(table.n, shape.n), ceil_div(table.k, shape.k)
        independent = over_m * over_n * table.batch
        waves = ceil_div(independent, cores)
        # Libraries divide edges evenly, so the loss is the last round of blocks, which leaves cores without one.
        balance = independent / (waves * cores)
        utilisation = np.where(contracts, balance * _register_fill(table, lanes), _stream_fill(table, cores, lanes))
        capacities = resident(profile)
        compulsory = compulsory_traffic(table, profile)
        size, sizes, share = element_bytes(table), operands(table), np.minimum(passes(table), 1.0)
        # With the block of B in place A streams past once per block of n; a panel that fits the L2 in whole is read once.
        fits_a = np.minimum(shape.m, table.m) * table.k * size <= profile.value("capacity.l2") / 2
        fits_b = sizes.b <= profile.value("capacity.l2") / 2
        # Libraries also block for the shared cache, which bounds the repeated reads from main memory.
        extra_a = np.where(fits_a, 0.0, sizes.a * (over_n - 1))
        extra_b = np.where(fits_b, 0.0, sizes.b * (over_m - 1))
        extra_bytes = (extra_a + extra_b) * share
        main_memory = profile.main_memory
        side = np.sqrt(np.maximum(capacities.get("l3", 0.0), capacities["l2"]) / (3.0 * size))
        extra_bound = sizes.a * (ceil_div(table.n, side) - 1) + sizes.b * (ceil_div(table.m, side) - 1)
        traffic, missed_bytes = dict(compulsory), extra_bytes
        for level in profile.levels[profile.levels.index("l2") + 1 :]:
            traffic[level] = traffic[level] + missed_bytes
            missed_bytes = missed_bytes * (1.0 - hit_share(sizes.a + sizes.b, capacities.get(level, 0.0)))
        traffic[main_memory] = np.minimum(traffic[main_memory], compulsory[main_memory] + extra_bound * share)
        _read_in_every_step(table, capacities, traffic)
        tiles = np.where(
            contracts, independent * over_k, ceil_div(table.bytes, BUFFERED_OPERANDS // 2 * shape.m * shape.n * size)
        )
        state = BUFFERED_OPERANDS / 3 * size * (shape.m * shape.k + shape.k * shape.n + shape.m * shape.n)
        return Tiling(shape, tiles, np.where(contracts, waves * over_k, ceil_div(tiles, cores)), utilisation, traffic, state)


def _read_in_every_step(table: KernelTable, capacities: dict[str, float], traffic: dict[str, Floats]) -> None:
    """Add the bytes of weights that recurrent layers read after the first step, in place. Weights of the state, about half of
    all, are read in each step from the nearest memory that holds them between steps; weights of the input multiply all steps at
    once."""
    recurrent = table.is_op(*RECURRENT)
    if not recurrent.any():
        return
    state = np.where(recurrent, element_bytes(table) * table.n * table.k / 2.0, 0.0)
    repeated_bytes = state * np.maximum(table.batch - 1.0, 0.0)
    for level in traffic:
        traffic[level] = traffic[level] + repeated_bytes
        repeated_bytes = repeated_bytes * (1.0 - hit_share(state, capacities.get(level, 0.0)))


def _lanes(table: KernelTable, profile: ArchitectureProfile) -> Floats:
    """(K,) results of one vector register: the profile counts float32 lanes. Narrower types are accumulated in 32 bits, two or
    four products along the reduction in each lane (VDPBF16PS, VPDPBUSD; Arm's BFMMLA and SMMLA)."""
    return profile.value("vector.lanes", 1.0) * 4.0 / np.maximum(element_bytes(table), 4.0)


def _multiple(extent: Floats, step: Floats) -> Floats:
    return np.ceil(extent / step) * step


def _register_fill(table: KernelTable, lanes: Floats) -> Floats:
    """Useful share of vector lanes. They lie along what is contiguous in the result: the columns of a product, blocks of channels
    of an image, all channels of a depthwise convolution. Fewer columns than lanes are computed the other way round."""
    by_m, by_n, by_k, by_batch = (extent / _multiple(extent, lanes) for extent in (table.m, table.n, table.k, table.batch))
    fill = np.where(table.n < lanes, np.maximum(by_m, by_n), by_n)
    fill = np.where(table.is_family("depthwise"), by_batch, fill)
    # With a single row or column the product is a matrix times a vector, and the lanes run along the reduction.
    return np.where(table.is_family("gemm") & (np.minimum(table.m, table.n) <= 1), np.maximum(fill, by_k), fill)


def _stream_fill(table: KernelTable, cores: float, lanes: Floats) -> Floats:
    """Useful share of lanes and cores of a kernel without a contraction: rows over cores, else elements over all lanes."""
    elements = table.batch * table.m * table.n
    return elements / (ceil_div(elements, cores * lanes) * cores * lanes)
