"""GPU: thread-block tiles in shared memory, rounds over the multiprocessors, split reductions.

A thread block computes m x n outputs over a slice of k, staging operands through shared memory. Blocks that overhang the edges
and rounds that leave multiprocessors without one cost as much as full ones: tile and wave quantization (NVIDIA, "Matrix
multiplication background user's guide", 2023). The tile is the one of the library's that would be fastest.

Kernels of the float32 units (`gpu_blocks`) and of tensor cores (`gpu_tensor`) differ in their tiles, in how operands get near the
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
    Blocks,
    TileShape,
    Tiling,
    Transformed,
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
    Load,
    Products,
    Seconds,
    blocks_per_multiprocessor,
    fastest,
    level_speeds,
    longest_extent,
    under_cap,
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
from shmoo.estimators.tiling.gpu.winograd import fused_winograd, placed, written_and_read

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
        chosen, places = [], []
        tensor = on_tensor_cores(table, profile)
        work = self._work(table, tensor)
        for here, tiles, splits in self._offers(table, tensor):
            rows = np.flatnonzero(here)
            if not len(rows):
                continue
            some = work.take(rows)
            contracts = table.matrix_flops[rows] > 0
            tiles = self._by_hand(tiles, some.take(np.flatnonzero(contracts)), profile)
            if not tensor[rows[0]]:
                shape = self._fastest(some, tiles, splits, profile, _block_seconds(table.take(rows), some, profile))
            elif table.is_family("attention")[rows[0]]:
                shape = choose_flash(table.take(rows), profile, self._tensor_kernels)
            else:
                if self.tile_k is not None:
                    some, splits = replace(some, k=np.minimum(some.k, self.tile_k)), (1,)
                shape = choose_tensor(table.take(rows), some, profile, self._tensor_kernels, tiles, splits)
            chosen.append(shape)
            places.append(rows)
        order = np.argsort(np.concatenate(places)) if places else np.zeros(0, dtype=int)
        m, n, k = (_joined([getattr(shape, axis) for shape in chosen], order) for axis in "mnk")
        if self.tile_m is not None and self.tile_n is not None:
            # Extents set by hand are used even where no block of them fits, as the caller asked.
            m, n = np.full(len(table), float(self.tile_m)), np.full(len(table), float(self.tile_n))
        return TileShape(m, n, clip_shape(table, 1, 1, self.tile_k or k).k)

    def _by_hand(self, tiles: tuple[Tile, ...], work: Products, profile: ArchitectureProfile) -> tuple[Tile, ...]:
        """The tiles, with the extents that were set by hand. Where none of these fits beside one that was set, the other extent
        is halved until a block fits every product."""
        offered = tuple(dict.fromkeys((self.tile_m or m, self.tile_n or n) for m, n in tiles))
        if not offered or not len(work.m) or (self.tile_m is None) == (self.tile_n is None):
            return offered

        def fits(tile: Tile) -> bool:
            return bool(np.all(blocks_per_multiprocessor(profile, work, *tile) >= 1.0))

        if any(map(fits, offered)):
            return offered
        name, by_hand = ("tile_m", self.tile_m) if self.tile_n is None else ("tile_n", self.tile_n)
        other = min(n if self.tile_n is None else m for m, n in offered)
        while other > 1.0:
            other = max(1.0, other // 2.0)
            tile = (self.tile_m or other, self.tile_n or other)
            if fits(tile):
                return (*offered, tile)
        most = longest_extent(profile, work, along_m=self.tile_n is None)
        raise InputError(
            f"{name}={by_hand:g}: no block of this extent fits a multiprocessor of {profile.name!r}; "
            f"{name} must be {most:.0f} or less"
        )

    def _work(self, table: KernelTable, tensor: np.ndarray) -> Products:
        """The products of every kernel, staged as its units have them; `tensor` are those on tensor cores."""
        size, kernels = element_bytes(table), self._tensor_kernels
        slices = np.where(tensor, kernels.slice_bytes / size, float(SLICE))
        stages = np.where(tensor, kernels.stages, float(STAGES))
        return Products(table.batch, table.m, table.n, table.k, size, stored_bytes(table), slices, stages)

    def _offers(self, table: KernelTable, tensor: np.ndarray) -> Iterator[tuple[np.ndarray, tuple[Tile, ...], tuple[int, ...]]]:
        """(K,) kernels, with the tiles and splits that their library has; those on tensor cores apart from others."""
        # Of a recurrent layer one step runs at a time: a product of few rows, and no batch of products side by side.
        recurrent = table.is_op(*RECURRENT) & ~tensor
        library, own = self._library, ~tensor & ~recurrent & (self.library is not None)
        bytewise = own & dot_products(table)
        product, several = own & table.is_family("gemm") & ~bytewise, batched_product(table, "gpu")
        conv = own & table.is_family("conv") & (table.batch == 1)
        yield product & ~several, library.products, SPLITS
        # Small products of a batch are all that was seen of these kernels; a large one alone has the larger tiles too.
        yield product & several & (table.batch == 1), (*library.products, *library.batched), SPLITS
        yield product & (table.batch > 1), library.batched, (1,)
        yield conv, DIRECT, (1,)
        few = np.minimum(table.m, table.n) <= BYTEWISE_FEW
        yield bytewise & ~few, BYTEWISE, (1,)
        yield bytewise & few, BYTEWISE_ROWS, (1,)
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
        """(R,) extents of the tile of float32 units that takes least time."""
        multiprocessors, library = profile.value("count.sms"), self._library

        def offer(tile_m: Floats, tile_n: Floats, split: Floats) -> tuple[Floats, Floats]:
            part = np.minimum(self.tile_k or np.inf, np.ceil(work.k / split))
            load = work.load(profile, tile_m, tile_n, part)
            least = np.where(split <= _USUAL_SPLITS, 4 * _STATE_SLICE, library.long_part)
            few = (load.blocks < 2 * multiprocessors * load.pieces) & (part >= least)
            few = few & (ACCUMULATOR_BYTES * split * work.outputs <= library.workspace)
            fits = blocks_per_multiprocessor(profile, work, tile_m, tile_n) >= 1.0
            time = seconds(TileShape(tile_m, tile_n, part), load)
            return np.where(fits & ((split == 1) | few), time, np.inf), part

        offered = itertools.product(tiles, splits if self.tile_k is None else (1,))
        m, n, _, k = fastest([(*tile, split) for tile, split in offered], work.k, profile, offer)
        return TileShape(m, n, k)

    def apply(self, table: KernelTable, profile: ArchitectureProfile, shape: TileShape) -> Tiling:
        """Blocks, rounds, and what every block loads through L2."""
        multiprocessors = profile.value("count.sms")
        # A depthwise convolution reduces a window alone: no blocks of it share operands, and it streams like a loop.
        stencil = table.is_family("depthwise")
        contracts = (table.matrix_flops > 0) & ~stencil
        tensor = on_tensor_cores(table, profile)
        work = self._work(table, tensor)
        load = work.load(profile, shape.m, shape.n, shape.k)
        elements = table.batch * table.m * table.n
        lanes = multiprocessors * profile.value("vector.lanes", 1.0)
        streamed = elements / (ceil_div(elements, lanes) * lanes)
        utilisation = np.where(contracts, load.useful, streamed)
        waves = np.where(
            contracts, ceil_div(load.blocks, multiprocessors * load.resident), ceil_div(elements, lanes * MOST_BLOCKS)
        )
        tiles = np.where(contracts, load.blocks, ceil_div(elements, profile.value("vector.lanes", 1.0)))
        slices = np.where(tensor, work.slices, _STATE_SLICE)
        staged = work.stages * work.staged(shape.m, shape.n) * np.minimum(slices, table.k)
        state = np.where(contracts, staged + ACCUMULATOR_BYTES * shape.m * shape.n, 0.0)
        state = state * np.minimum(load.blocks, multiprocessors * load.resident)
        once = compulsory_traffic(_seen_by_loops(table, profile), profile)
        traffic = _traffic(table, profile, shape, load, once)
        blocks = _blocks(load, _far(table, work, shape, load), _walked(table, profile, once))
        if tensor.any():
            there = tensor_traffic(table, profile, shape, load, self._tensor_kernels)
            traffic = {level: np.where(tensor, there[level], nbytes) for level, nbytes in traffic.items()}
            blocks = blocks.replaced(tensor, tensor_blocks(work, shape, load, self._tensor_kernels.pace(profile)))
        if stencil.any():
            once = compulsory_traffic(table, profile)
            traffic = {level: np.where(stencil, once[level], nbytes) for level, nbytes in traffic.items()}
        ways = self._winograd(table, profile, tensor)
        tiling = Tiling(shape, tiles, waves, utilisation, traffic, state, transformed=ways, blocks=blocks)
        attends = tensor & table.is_family("attention")
        return with_flash(tiling, attends, table, profile, self._tensor_kernels) if attends.any() else tiling

    def _winograd(self, table: KernelTable, profile: ArchitectureProfile, tensor: np.ndarray) -> tuple[Transformed, ...]:
        """Winograd's minimal filtering for 3x3 windows of stride 1 (Lavin and Gray, CVPR 2016): F(2x2, 3x3) in one kernel, and
        F(4x4, 3x3) with kernels of their own for the transforms. What tensor cores do is done directly."""
        offered = ~tensor & dense_3x3(table)
        if not offered.any():
            return ()
        rows = np.flatnonzero(offered)
        direct = table.take(rows)
        channels = direct.channels_in
        tiles = direct.images * ceil_div(direct.height, 4) * ceil_div(direct.width, 4)
        size = element_bytes(direct)
        work = Products(np.full(len(rows), 36.0), tiles, direct.n, channels, size, size)
        c = Coefficients(profile)

        def seconds(shape: TileShape, load: Load) -> Floats:
            return unit_seconds(profile, shape, load, _blocks(load), lambda stem: c.value(f"{stem}.winograd", stem))

        shape = self._fastest(work, self._by_hand(self._library.transformed, work, profile), (1,), profile, seconds)
        load = work.load(profile, shape.m, shape.n, shape.k)
        moved = 36 * size * np.stack([tiles * channels, tiles * direct.n, channels * direct.n])
        products = Transformed(
            name="winograd",
            offered=offered,
            share=36 * tiles / (9 * direct.m),
            utilisation=load.useful,
            blocks=_blocks(load),
            moved=written_and_read(moved, profile),
            kernels=4,
        )
        fused = fused_winograd(direct, profile, self._library.patches)
        return tuple(placed(way, offered) for way in (fused, products))


def _block_seconds(table: KernelTable, work: Products, profile: ArchitectureProfile) -> Seconds:
    """The model's own time of blocks of the float32 units: of their arithmetic and of each memory, as far as they overlap.

    A power cap counts half, as the geometric mean of the times without it and with it: of a T4's linear layers 53.4 % are so cut
    as the names of their kernels say (Lee et al., ASPLOS 2025), 52.1 % by the time at full clock, 49.5 % by that under the cap.
    """
    c = Coefficients(profile)
    own = partial(c.by_algorithm, algorithm_codes(table, profile))
    speeds = level_speeds(profile, own)
    once = compulsory_traffic(table, profile)
    flop_j = (c.find("energy.flop.matrix.float32", "energy.flop") or 0.0) * own("energy.share")
    byte_j = {level: c.find(f"energy.byte.{level}") or 0.0 for level in profile.levels}

    def seconds(shape: TileShape, load: Load) -> Floats:
        blocks = _blocks(load, _far(table, work, shape, load))
        traffic = _traffic(table, profile, shape, load, once)
        math = unit_seconds(profile, shape, load, blocks, own)
        times = overlapped([math, *(nbytes / speeds[level] for level, nbytes in traffic.items())], own("overlap"))
        rounds = ceil_div(load.blocks, profile.value("count.sms") * load.resident)
        taken = times + own("tile_overhead") * rounds
        joules = flop_j * table.matrix_flops / load.filled + sum(byte_j[level] * nbytes for level, nbytes in traffic.items())
        return np.sqrt(taken * under_cap(taken, joules, profile))

    return seconds


def _blocks(load: Load, far: Floats | float = 0.0, walked: Floats | float = 0.0) -> Blocks:
    """What a multiprocessor works on at once in kernels of the float32 units."""
    return Blocks(load.reuse, load.depth, load.at_work, load.filled, far, walked=walked)


def _far(table: KernelTable, work: Products, shape: TileShape, load: Load) -> Floats:
    return np.where(table.is_family("gemm"), work.far(shape.m, shape.n, load), 0.0)


def _walked(table: KernelTable, profile: ArchitectureProfile, once: dict[str, np.ndarray]) -> Floats:
    """(K,) bytes of the first operand of products that are read from main memory slice by slice along the reduction, 32 bytes of
    each row at a time, where the second operand is read in whole rows. The longer a row, the likelier each slice opens a page.

    Args:
        once: `compulsory_traffic` of the kernels.
    """
    near, last = profile.levels[-2:]
    missed = np.minimum(once[last] / np.maximum(once[near], 1.0), 1.0)
    pages = np.minimum(table.k * element_bytes(table) / _PAGE_BYTES, 1.0)
    across = table.is_family("gemm") & batched_product(table, "gpu")
    return np.where(across, operands(table).a * missed * pages, 0.0)


def _traffic(
    table: KernelTable, profile: ArchitectureProfile, shape: TileShape, load: Load, traffic: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Shared memory starts empty, so every block's operands cross L2; main memory sees again what L2 cannot hold.

    Args:
        traffic: `compulsory_traffic` of the kernels.
    """
    capacities = resident(profile)
    used = operands(table)
    share = np.minimum(passes(table), 1.0)
    over_m, over_n = ceil_div(table.m, shape.m), ceil_div(table.n, shape.n)
    again = (used.a * (over_n - 1.0) + used.b * (over_m - 1.0)) * share
    partial = np.where(load.pieces > 1.0, 2.0 * used.c * ACCUMULATOR_BYTES / element_bytes(table) * load.pieces, 0.0)
    # Blocks start row by row of the result. Those that run at once walk k together, so what they share is read once.
    flying = profile.value("count.sms") * load.resident
    across = np.minimum(over_n, flying)
    down = np.clip(flying / over_n, 1.0, over_m)
    items = np.clip(flying / (over_m * over_n * load.pieces), 1.0, table.batch)
    a, b, c = (operand / table.batch * items for operand in (used.a, used.b, used.c))
    again_a, again_b = used.a * (over_n / across - 1.0) * share, used.b * (over_m / down - 1.0) * share
    capacity = capacities.get("l2", 0.0)
    lost = again_a * (1.0 - hit_share(a * down / over_m + b * across / over_n, capacity))
    lost = lost + again_b * (1.0 - hit_share((a + c) * down / over_m + b, capacity))
    level = profile.levels[-1]
    outside = traffic[level] + lost
    return {**traffic, "shared": traffic["shared"] + again + partial, "l2": traffic["l2"] + again + partial, level: outside}


def _seen_by_loops(table: KernelTable, profile: ArchitectureProfile) -> KernelTable:
    """A table whose loops find in L2 what they can reach of it."""
    of_loops = (table.matrix_flops == 0)[table.access_kernel]
    return replace(table, access_distance=np.where(of_loops, table.access_distance / reach(profile), table.access_distance))


def _joined(parts: list[np.ndarray], order: np.ndarray) -> np.ndarray:
    """(..., K) of parts of the kernels, in the kernels' order; what design points do not change broadcasts."""
    if not parts:
        return np.zeros(0)
    many = np.broadcast_shapes(*(part.shape[:-1] for part in parts))
    return np.concatenate([np.broadcast_to(part, (*many, part.shape[-1])) for part in parts], axis=-1)[..., order]
