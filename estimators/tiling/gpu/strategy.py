"""GPU: thread-block tiles in shared memory, rounds over the multiprocessors, split reductions.

A thread block computes m x n outputs over a slice of k, staging operands through shared memory. Blocks that overhang the edges
and rounds that leave multiprocessors without one cost as much as full ones: tile and wave quantization (NVIDIA, "Matrix
multiplication background user's guide", 2023). The tile is the one of the library's that would be fastest.

Kernels of the float32 units (`blocks.py`) and of tensor cores (`tensor.py`) differ in their tiles, in how operands get near the
units, and so in what bounds them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from shmoo.estimators.errors import InputError, unknown
from shmoo.estimators.machine.coefficients import (
    RECURRENT,
    Coefficients,
    algorithm_codes,
    batched_product,
    dense_3x3,
    dot_products,
    on_tensor_cores,
)
from shmoo.estimators.machine.profile import ArchitectureProfile
from shmoo.estimators.table import Floats, KernelTable
from shmoo.estimators.tiling.base import (
    TILINGS,
    AlternativeAlgorithm,
    Blocks,
    TileShape,
    Tiling,
    ceil_div,
    check_tile,
    clip_shape,
    compulsory_traffic,
    element_bytes,
    hit_share,
    operands,
    overlapped,
    passes,
    resident,
)
from shmoo.estimators.tiling.gpu.blocks import (
    ACCUMULATOR_BYTES,
    MOST_BLOCKS,
    SLICE,
    STAGES,
    Occupancy,
    Products,
    Seconds,
    blocks_per_multiprocessor,
    capped_seconds,
    fastest,
    level_speeds,
    longest_extent,
    unit_seconds,
)
from shmoo.estimators.tiling.gpu.flash import choose_flash, with_flash
from shmoo.estimators.tiling.gpu.library import (
    BLOCK_TILES,
    BYTEWISE,
    BYTEWISE_FEW,
    BYTEWISE_ROWS,
    DIRECT,
    LIBRARIES,
    STREAMED,
    TENSOR_KERNELS,
    UNKNOWN,
    Library,
    TensorKernels,
    Tile,
    tensor_kernels,
)
from shmoo.estimators.tiling.gpu.tensor import SPLITS as TENSOR_SPLITS
from shmoo.estimators.tiling.gpu.tensor import choose_tensor, stored_bytes, tensor_blocks, tensor_traffic
from shmoo.estimators.tiling.gpu.threads import reach
from shmoo.estimators.tiling.gpu.winograd import exchange_traffic, fused_winograd, placed

SPLITS = (1, 2, 4, 8, 16, 32)
"""Parts into which the reduction may be split."""
_USUAL_SPLITS = 4
"""Up to so many parts are taken where each has a few slices, more only where parts stay long (`Library.long_part`)."""
_PAGE_BYTES = 2048.0
"""Of main memory that are open at once in a bank: 1 to 2 KB (JEDEC, HBM2 and GDDR6)."""
_STATE_SLICE = 32
"""Extent of k that is staged at once, at most, for the memory that tiles occupy."""


@TILINGS.register("gpu_thread_blocks")
@dataclass(frozen=True, slots=True, kw_only=True)
class GpuThreadBlocks:
    """Thread-block tiles.

    Args:
        tile_m, tile_n: output tile of a block set by hand; `None` tries the library's.
        tile_k: part of the reduction that one block computes, set by hand; `None` tries `SPLITS`.
        library: generation whose float32 kernels run (`library.LIBRARIES`); `None` tries `BLOCK_TILES`.
        tensor_library: generation whose tensor-core kernels run (`library.TENSOR_KERNELS`); `None` takes that of `library`,
            Ampere's where it has none.
    """

    tile_m: float | None = None
    tile_n: float | None = None
    tile_k: float | None = None
    library: str | None = None
    tensor_library: str | None = None

    def __post_init__(self) -> None:
        check_tile(tile_m=self.tile_m, tile_n=self.tile_n, tile_k=self.tile_k)
        if self.library is not None and self.library not in LIBRARIES:
            raise unknown("generation of GPU kernels", self.library, LIBRARIES)
        if self.tensor_library is not None and self.tensor_library not in TENSOR_KERNELS:
            raise unknown("generation of tensor-core kernels", self.tensor_library, TENSOR_KERNELS)

    @property
    def _library(self) -> Library:
        return LIBRARIES.get(self.library or "", UNKNOWN)

    @property
    def _tensor_kernels(self) -> TensorKernels:
        return tensor_kernels(self.tensor_library or self.library)

    def choose(self, table: KernelTable, profile: ArchitectureProfile) -> TileShape:
        """The tiles and splits with which the model's own time of each kernel is least. Kernels that are alike, as those of equal
        layers are, take the same."""
        rows, kind = table.kinds()
        shape = self._choose(table.take(rows), profile)
        return TileShape(*(np.take(getattr(shape, axis), kind, axis=-1) for axis in "mnk"))

    def _choose(self, table: KernelTable, profile: ArchitectureProfile) -> TileShape:
        shapes, places = [], []
        tensor = on_tensor_cores(table, profile)
        work = self._work(table, tensor)
        for mask, tiles, splits in self._offers(table, tensor):
            rows = np.flatnonzero(mask)
            if not len(rows):
                continue
            products = work.take(rows)
            contracts = table.matrix_flops[rows] > 0
            tiles = self._by_hand(tiles, products.take(np.flatnonzero(contracts)), profile)
            if not tensor[rows[0]]:
                shape = self._fastest(products, tiles, splits, profile, _block_seconds(table.take(rows), products, profile))
            elif table.is_family("attention")[rows[0]]:
                shape = choose_flash(table.take(rows), profile, self._tensor_kernels)
            else:
                if self.tile_k is not None:
                    products, splits = replace(products, k=np.minimum(products.k, self.tile_k)), (1,)
                shape = choose_tensor(table.take(rows), products, profile, self._tensor_kernels, tiles, splits)
            shapes.append(shape)
            places.append(rows)
        order = np.argsort(np.concatenate(places)) if places else np.zeros(0, dtype=int)
        m, n, k = (_in_kernel_order([getattr(shape, axis) for shape in shapes], order) for axis in "mnk")
        if self.tile_m is not None and self.tile_n is not None:
            # Extents set by hand are used even where no block of them fits, as the caller asked.
            m, n = np.full(len(table), float(self.tile_m)), np.full(len(table), float(self.tile_n))
        return TileShape(m, n, clip_shape(table, 1, 1, self.tile_k or k).k)

    def _by_hand(self, tiles: tuple[Tile, ...], work: Products, profile: ArchitectureProfile) -> tuple[Tile, ...]:
        """The tiles with the extents set by hand. Where none fits, the extent that was not set is halved until a block fits every
        product; `InputError` where none does."""
        candidates = tuple(dict.fromkeys((self.tile_m or m, self.tile_n or n) for m, n in tiles))
        if not candidates or not len(work.m) or (self.tile_m is None) == (self.tile_n is None):
            return candidates

        def fits(tile: Tile) -> bool:
            return bool(np.all(blocks_per_multiprocessor(profile, work, *tile) >= 1.0))

        if any(map(fits, candidates)):
            return candidates
        name, by_hand = ("tile_m", self.tile_m) if self.tile_n is None else ("tile_n", self.tile_n)
        other_extent = min(n if self.tile_n is None else m for m, n in candidates)
        while other_extent > 1.0:
            other_extent = max(1.0, other_extent // 2.0)
            tile = (self.tile_m or other_extent, self.tile_n or other_extent)
            if fits(tile):
                return (*candidates, tile)
        longest = longest_extent(profile, work, along_m=self.tile_n is None)
        raise InputError(
            f"{name}={by_hand:g}: no block of this extent fits a multiprocessor of {profile.name!r}; "
            f"{name} must be {longest:.0f} or less"
        )

    def _work(self, table: KernelTable, tensor: np.ndarray) -> Products:
        """The products of every kernel, with the slices and stages of its units; `tensor` masks those on tensor cores."""
        size, kernels = element_bytes(table), self._tensor_kernels
        slices = np.where(tensor, kernels.slice_bytes / size, float(SLICE))
        stages = np.where(tensor, kernels.stages, float(STAGES))
        return Products(table.batch, table.m, table.n, table.k, size, stored_bytes(table), slices, stages)

    def _offers(self, table: KernelTable, tensor: np.ndarray) -> Iterator[tuple[np.ndarray, tuple[Tile, ...], tuple[int, ...]]]:
        """(K,) masks of kernels, with the tiles and splits of their library; kernels on tensor cores separate from others."""
        # Of a recurrent layer one step runs at a time: a product of few rows, and no batch of products side by side.
        recurrent = table.is_op(*RECURRENT) & ~tensor
        library, has_library = self._library, ~tensor & ~recurrent & (self.library is not None)
        bytewise = has_library & dot_products(table)
        product, is_batched = has_library & table.is_family("gemm") & ~bytewise, batched_product(table, "gpu")
        conv = has_library & table.is_family("conv") & (table.batch == 1)
        yield product & ~is_batched, library.products, SPLITS
        # Small products of a batch are all that was seen of these kernels; a large one alone has the larger tiles too.
        yield product & is_batched & (table.batch == 1), (*library.products, *library.batched), SPLITS
        yield product & (table.batch > 1), library.batched, (1,)
        yield conv, DIRECT, (1,)
        is_narrow = np.minimum(table.m, table.n) <= BYTEWISE_FEW
        yield bytewise & ~is_narrow, BYTEWISE, (1,)
        yield bytewise & is_narrow, BYTEWISE_ROWS, (1,)
        yield recurrent, (*STREAMED, *BLOCK_TILES), (1,)
        yield ~(product | bytewise | conv | tensor | recurrent), BLOCK_TILES, SPLITS
        kernels = self._tensor_kernels
        gemm, attends = tensor & table.is_family("gemm"), tensor & table.is_family("attention")
        streams = gemm & (np.minimum(table.m, table.n) <= 2)
        yield gemm & ~streams, kernels.tiles, TENSOR_SPLITS
        yield streams, (*STREAMED, *kernels.tiles), TENSOR_SPLITS
        yield attends, (), ()
        yield tensor & ~gemm & ~attends, kernels.tiles, (1,)

    def _fastest(
        self, work: Products, tiles: tuple[Tile, ...], splits: tuple[int, ...], profile: ArchitectureProfile, seconds: Seconds
    ) -> TileShape:
        """(R,) extents of the fastest tile of the float32 units."""
        multiprocessors, library = profile.value("count.sms"), self._library

        def offer(tile_m: Floats, tile_n: Floats, pieces: Floats) -> tuple[Floats, Floats]:
            part_length = np.minimum(self.tile_k or np.inf, np.ceil(work.k / pieces))
            occupancy = work.occupancy(profile, tile_m, tile_n, part_length)
            least_part = np.where(pieces <= _USUAL_SPLITS, 4 * _STATE_SLICE, library.long_part)
            may_split = (occupancy.blocks < 2 * multiprocessors * occupancy.pieces) & (part_length >= least_part)
            may_split = may_split & (ACCUMULATOR_BYTES * pieces * work.outputs <= library.workspace)
            fits = blocks_per_multiprocessor(profile, work, tile_m, tile_n) >= 1.0
            time = seconds(TileShape(tile_m, tile_n, part_length), occupancy)
            return np.where(fits & ((pieces == 1) | may_split), time, np.inf), part_length

        candidates = itertools.product(tiles, splits if self.tile_k is None else (1,))
        m, n, _, k = fastest([(*tile, pieces) for tile, pieces in candidates], work.k, profile, offer)
        return TileShape(m, n, k)

    def apply(self, table: KernelTable, profile: ArchitectureProfile, shape: TileShape) -> Tiling:
        """Blocks, rounds, and the bytes that every block loads through L2."""
        multiprocessors = profile.value("count.sms")
        # A depthwise convolution reduces a window alone: no blocks of it share operands, and it streams like a loop.
        stencil = table.is_family("depthwise")
        contracts = (table.matrix_flops > 0) & ~stencil
        tensor = on_tensor_cores(table, profile)
        work = self._work(table, tensor)
        occupancy = work.occupancy(profile, shape.m, shape.n, shape.k)
        elements = table.batch * table.m * table.n
        lanes = multiprocessors * profile.value("vector.lanes", 1.0)
        stream_fill = elements / (ceil_div(elements, lanes) * lanes)
        utilisation = np.where(contracts, occupancy.useful, stream_fill)
        waves = np.where(
            contracts, ceil_div(occupancy.blocks, multiprocessors * occupancy.resident), ceil_div(elements, lanes * MOST_BLOCKS)
        )
        tiles = np.where(contracts, occupancy.blocks, ceil_div(elements, profile.value("vector.lanes", 1.0)))
        slices = np.where(tensor, work.slices, _STATE_SLICE)
        staged_bytes = work.stages * work.staged(shape.m, shape.n) * np.minimum(slices, table.k)
        state = np.where(contracts, staged_bytes + ACCUMULATOR_BYTES * shape.m * shape.n, 0.0)
        state = state * np.minimum(occupancy.blocks, multiprocessors * occupancy.resident)
        compulsory = compulsory_traffic(_seen_by_loops(table, profile), profile)
        traffic = _traffic(table, profile, shape, occupancy, compulsory)
        blocks = _blocks(occupancy, _tlb_miss_share(table, work, shape, occupancy), _walked_bytes(table, profile, compulsory))
        if tensor.any():
            tensor_bytes = tensor_traffic(table, profile, shape, occupancy, self._tensor_kernels)
            traffic = {level: np.where(tensor, tensor_bytes[level], nbytes) for level, nbytes in traffic.items()}
            blocks = blocks.replaced(tensor, tensor_blocks(work, shape, occupancy, self._tensor_kernels.pace(profile)))
        if stencil.any():
            compulsory = compulsory_traffic(table, profile)
            traffic = {level: np.where(stencil, compulsory[level], nbytes) for level, nbytes in traffic.items()}
        ways = self._winograd(table, profile, tensor)
        tiling = Tiling(shape, tiles, waves, utilisation, traffic, state, alternatives=ways, blocks=blocks)
        attends = tensor & table.is_family("attention")
        return with_flash(tiling, attends, table, profile, self._tensor_kernels) if attends.any() else tiling

    def _winograd(self, table: KernelTable, profile: ArchitectureProfile, tensor: np.ndarray) -> tuple[AlternativeAlgorithm, ...]:
        """Winograd's minimal filtering for 3x3 windows of stride 1 (Lavin and Gray, CVPR 2016): F(2x2, 3x3) in one kernel, and
        F(4x4, 3x3) with kernels of their own for the transforms. Tensor cores use the direct algorithm."""
        applies = ~tensor & dense_3x3(table)
        if not applies.any():
            return ()
        rows = np.flatnonzero(applies)
        applicable = table.take(rows)
        channels = applicable.channels_in
        tiles = applicable.images * ceil_div(applicable.height, 4) * ceil_div(applicable.width, 4)
        size = element_bytes(applicable)
        work = Products(np.full(len(rows), 36.0), tiles, applicable.n, channels, size, size)
        c = Coefficients(profile)

        def seconds(shape: TileShape, occupancy: Occupancy) -> Floats:
            return unit_seconds(profile, shape, occupancy, _blocks(occupancy), lambda stem: c.value(f"{stem}.winograd", stem))

        shape = self._fastest(work, self._by_hand(self._library.transformed, work, profile), (1,), profile, seconds)
        occupancy = work.occupancy(profile, shape.m, shape.n, shape.k)
        transform_bytes = 36 * size * np.stack([tiles * channels, tiles * applicable.n, channels * applicable.n])
        products = AlternativeAlgorithm(
            name="winograd",
            offered=applies,
            share=36 * tiles / (9 * applicable.m),
            utilisation=occupancy.useful,
            blocks=_blocks(occupancy),
            moved=exchange_traffic(transform_bytes, profile),
            kernels=4,
        )
        return tuple(placed(way, applies) for way in (fused_winograd(applicable, profile, self._library.patches), products))


def _block_seconds(table: KernelTable, work: Products, profile: ArchitectureProfile) -> Seconds:
    """The model's own time of blocks of the float32 units: of their arithmetic and of each memory, as far as they overlap.

    A power cap counts half, as the geometric mean of the times without it and with it: of a T4's linear layers 53.4 % are so cut
    as the names of their kernels say (Lee et al., ASPLOS 2025), 52.1 % by the time at full clock, 49.5 % by that under the cap.
    """
    c = Coefficients(profile)
    value = partial(c.by_algorithm, algorithm_codes(table, profile))
    speeds = level_speeds(profile, value)
    compulsory = compulsory_traffic(table, profile)
    flop_j = (c.find("energy.flop.matrix.float32", "energy.flop") or 0.0) * value("energy.share")
    byte_j = {level: c.find(f"energy.byte.{level}") or 0.0 for level in profile.levels}

    def seconds(shape: TileShape, occupancy: Occupancy) -> Floats:
        blocks = _blocks(occupancy, _tlb_miss_share(table, work, shape, occupancy))
        traffic = _traffic(table, profile, shape, occupancy, compulsory)
        math = unit_seconds(profile, shape, occupancy, blocks, value)
        times = overlapped([math, *(nbytes / speeds[level] for level, nbytes in traffic.items())], value("overlap"))
        rounds = ceil_div(occupancy.blocks, profile.value("count.sms") * occupancy.resident)
        block_s = times + value("tile_overhead") * rounds
        joules = flop_j * table.matrix_flops / occupancy.filled + sum(byte_j[level] * nbytes for level, nbytes in traffic.items())
        return np.sqrt(block_s * capped_seconds(block_s, joules, profile))

    return seconds


def _blocks(occupancy: Occupancy, tlb_miss_share: Floats | float = 0.0, walked: Floats | float = 0.0) -> Blocks:
    """The blocks of kernels of the float32 units."""
    return Blocks(occupancy.reuse, occupancy.depth, occupancy.at_work, occupancy.filled, tlb_miss_share, walked=walked)


def _tlb_miss_share(table: KernelTable, work: Products, shape: TileShape, occupancy: Occupancy) -> Floats:
    return np.where(table.is_family("gemm"), work.tlb_miss_share(shape.m, shape.n, occupancy), 0.0)


def _walked_bytes(table: KernelTable, profile: ArchitectureProfile, compulsory: dict[str, np.ndarray]) -> Floats:
    """(K,) bytes of the first operand of products that are read from main memory slice by slice along the reduction, 32 bytes of
    each row at a time, where the second operand is read in whole rows. The longer a row, the likelier each slice opens a page.

    Args:
        compulsory: `compulsory_traffic` of the kernels.
    """
    near_level, main_memory = profile.levels[-2:]
    miss_share = np.minimum(compulsory[main_memory] / np.maximum(compulsory[near_level], 1.0), 1.0)
    pages = np.minimum(table.k * element_bytes(table) / _PAGE_BYTES, 1.0)
    across = table.is_family("gemm") & batched_product(table, "gpu")
    return np.where(across, operands(table).a * miss_share * pages, 0.0)


def _traffic(
    table: KernelTable, profile: ArchitectureProfile, shape: TileShape, occupancy: Occupancy, traffic: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Shared memory starts empty, so every block's operands cross L2; main memory serves again what L2 cannot hold.

    Args:
        traffic: `compulsory_traffic` of the kernels.
    """
    capacities = resident(profile)
    sizes = operands(table)
    share = np.minimum(passes(table), 1.0)
    over_m, over_n = ceil_div(table.m, shape.m), ceil_div(table.n, shape.n)
    again = (sizes.a * (over_n - 1.0) + sizes.b * (over_m - 1.0)) * share
    partial_sums = np.where(
        occupancy.pieces > 1.0, 2.0 * sizes.c * ACCUMULATOR_BYTES / element_bytes(table) * occupancy.pieces, 0.0
    )
    # Blocks start row by row of the result. Those that run at once walk k together, so what they share is read once.
    blocks_in_flight = profile.value("count.sms") * occupancy.resident
    columns_in_flight = np.minimum(over_n, blocks_in_flight)
    rows_in_flight = np.clip(blocks_in_flight / over_n, 1.0, over_m)
    items = np.clip(blocks_in_flight / (over_m * over_n * occupancy.pieces), 1.0, table.batch)
    a, b, c = (operand / table.batch * items for operand in (sizes.a, sizes.b, sizes.c))
    again_a, again_b = sizes.a * (over_n / columns_in_flight - 1.0) * share, sizes.b * (over_m / rows_in_flight - 1.0) * share
    capacity = capacities.get("l2", 0.0)
    missed_bytes = again_a * (1.0 - hit_share(a * rows_in_flight / over_m + b * columns_in_flight / over_n, capacity))
    missed_bytes = missed_bytes + again_b * (1.0 - hit_share((a + c) * rows_in_flight / over_m + b, capacity))
    nearer = {level: traffic[level] + again + partial_sums for level in ("shared", "l2")}
    return {**traffic, **nearer, profile.main_memory: traffic[profile.main_memory] + missed_bytes}


def _seen_by_loops(table: KernelTable, profile: ArchitectureProfile) -> KernelTable:
    """A table whose loops reuse only the part of L2 that they can reach."""
    of_loops = (table.matrix_flops == 0)[table.access_kernel]
    return replace(table, access_distance=np.where(of_loops, table.access_distance / reach(profile), table.access_distance))


def _in_kernel_order(columns: list[np.ndarray], order: np.ndarray) -> np.ndarray:
    """(..., K) columns of parts of the kernels joined in the kernels' order; dimensions of design points broadcast."""
    if not columns:
        return np.zeros(0)
    dimensions = np.broadcast_shapes(*(column.shape[:-1] for column in columns))
    return np.concatenate([np.broadcast_to(column, (*dimensions, column.shape[-1])) for column in columns], axis=-1)[..., order]
