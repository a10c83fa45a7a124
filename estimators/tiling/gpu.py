"""GPU: thread-block tiles in shared memory, rounds over the multiprocessors, split reductions.

A thread block computes m x n outputs over a slice of k, staging operands through shared memory. Blocks that overhang the edges
and rounds that leave multiprocessors without one cost as much as full ones: tile and wave quantisation (NVIDIA, "Matrix
multiplication background user's guide", 2023). The tile is the one of the library's that would be fastest.

Kernels of the float32 units and of tensor cores differ in their tiles, in how operands get near the units, and in what then bounds
them: the former issue an instruction for every element they stage beside few multiply-adds; the latter copy slices ahead of the
math, so that they are bound by what shared memory gives their units, by L2, and by the rate itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace

import numpy as np

from shmoo.estimators.coefficients import batched_product, on_tensor_cores
from shmoo.estimators.dtypes import COMPUTE_DTYPES
from shmoo.estimators.errors import unknown
from shmoo.estimators.kernels import WRITE, KernelTable
from shmoo.estimators.profile import ArchitectureProfile
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
    passes,
    resident,
)
from shmoo.estimators.tiling.gpu_library import DIRECT, LIBRARIES, STREAMED, TENSOR_KERNELS, TensorKernels, Tile

BLOCK_TILES: tuple[Tile, ...] = (
    (256, 128), (128, 256), (128, 128), (128, 64), (64, 128), (64, 64), (128, 32), (32, 128), (64, 32), (32, 64), (32, 32),
    (128, 8), (8, 128), (256, 1), (1, 256),
)  # fmt: skip
"""Output tiles of a thread block where the library's are not known (CUTLASS's default tiles and smaller); the last four are those
of products with few rows or columns, which stream one operand."""
SPLITS = (1, 2, 4)
"""Parts into which the reduction may be split."""
_STAGES = 2
_SLICE = 8
"""Extent of k that is staged at once; a reduction is padded to whole slices."""
_STATE_SLICE = 32
"""The same at most, for the memory that tiles occupy."""
_HALF_TILE, _HALF_K, _HALF_FILL = 6.0, 48.0, 4096.0
"""What the choice of a tile takes for the extents at which half of a multiprocessor's rate is reached (`half.tile`, `half.k`,
`half.fill` of the model): multiply-adds per staged element, as operands enter registers from shared memory at 32 elements a
clock beside 64 to 128 multiply-adds (CUDA C++ Programming Guide, 2024); reduction, as a block starts and ends with memory
latency; outputs at work, as fewer threads do not hide the units' latency."""
_TENSOR_K, _TENSOR_FILL, _TENSOR_LATENCY_S = 8.0, 1000.0, 0.8e-6
"""The same on tensor cores (`half.k.tensor`, `half.fill.tensor`, `tile_overhead.tensor`, whose defaults say why)."""
_LEAST_OUTPUTS = 4096.0
"""Outputs that keep as many threads busy as the smallest blocks have: smaller tiles share a reduction among their threads."""
_ACCUMULATOR_BYTES = 4.0
_MOST_BLOCKS = 8.0
"""Blocks of at least 64 threads that hold their accumulators; more do not help a product that is bound by arithmetic."""
_REACH_BYTES = 64.0 * 2**20
"""Span of addresses that a multiprocessor's translations cover before it asks farther away: 32 MB were found on P100 and V100
(Jia et al., "Dissecting the NVIDIA Volta GPU architecture via microbenchmarking", 2018); P100's products slow down at 64."""
_FUSED_TILES, _FUSED_FILTERS = 32, 32
"""Tiles of 2 x 2 results by output channels in a block of fused Winograd (Lavin and Gray, CVPR 2016)."""


@TILINGS.register("gpu_thread_blocks")
@dataclass(frozen=True, slots=True, kw_only=True)
class GpuThreadBlocks:
    """Thread-block tiles.

    Args:
        tile_m, tile_n: output tile of a block set by hand; `None` tries the library's.
        tile_k: part of the reduction that one block computes, set by hand; `None` tries `SPLITS`.
        library: generation whose float32 kernels run (`gpu_library.LIBRARIES`); `None` tries `BLOCK_TILES`.
        tensor_library: generation whose tensor-core kernels run (`gpu_library.TENSOR_KERNELS`); `None` takes that of `library`,
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
    def _tensor_kernels(self) -> TensorKernels:
        return TENSOR_KERNELS.get(self.tensor_library or self.library or "", TENSOR_KERNELS["ampere"])

    def choose(self, table: KernelTable, profile: ArchitectureProfile) -> TileShape:
        """The fastest of the tiles and splits by a proxy: whole rounds at the tile's efficiency, and partial sums through L2."""
        found, places = [], []
        tensor = on_tensor_cores(table, profile)
        work = self._work(table, tensor)
        for here, tiles, splits in self._offers(table, tensor):
            rows = np.flatnonzero(here)
            if len(rows):
                some = work.take(rows)
                seconds = self._tensor_seconds(some, table.dtype[rows], profile) if tensor[rows[0]] else _seconds(profile)
                found.append(self._fastest(some, tiles, splits, profile, seconds))
                places.append(rows)
        order = np.argsort(np.concatenate(places)) if places else np.zeros(0, dtype=int)
        m, n, k = (_joined([shape[axis] for shape in found], order) for axis in range(3))
        if self.tile_m is not None and self.tile_n is not None:
            # Extents set by hand are used even where no block of them fits, as the caller asked.
            m, n = np.full(len(table), float(self.tile_m)), np.full(len(table), float(self.tile_n))
        return TileShape(m, n, clip_shape(table, 1, 1, self.tile_k or k).k)

    def _work(self, table: KernelTable, tensor: np.ndarray) -> _Products:
        """The products of every kernel, staged as its units have them; `tensor` are those on tensor cores."""
        size, kernels = element_bytes(table), self._tensor_kernels
        slices = np.where(tensor, kernels.slice_bytes / size, float(_SLICE))
        return _Products(table.batch, table.m, table.n, table.k, size, slices, np.where(tensor, kernels.stages, float(_STAGES)))

    def _offers(self, table: KernelTable, tensor: np.ndarray) -> Iterator[tuple[np.ndarray, tuple[Tile, ...], tuple[int, ...]]]:
        """(K,) kernels, with the tiles and splits that their library has; those on tensor cores apart from others."""
        own = np.zeros(len(table), dtype=bool) if self.library is None else ~tensor
        library = LIBRARIES.get(self.library or "")
        product, several = own & table.is_family("gemm"), batched_product(table, "gpu")
        conv = own & table.is_family("conv") & (table.batch == 1)
        if library is not None:
            yield product & ~several, library.products, SPLITS
            # Small products of a batch are all that was seen of these kernels; a large one alone has the larger tiles too.
            yield product & several & (table.batch == 1), (*library.products, *library.batched), SPLITS
            yield product & (table.batch > 1), library.batched, (1,)
            yield conv, DIRECT, (1,)
        yield ~(product | conv | tensor), BLOCK_TILES, SPLITS
        kernels = self._tensor_kernels
        gemm = tensor & table.is_family("gemm")
        streams = gemm & (np.minimum(table.m, table.n) <= 2)
        yield gemm & ~streams, kernels.tiles, SPLITS
        yield streams, (*STREAMED, *kernels.tiles), SPLITS
        yield tensor & ~gemm, kernels.tiles, (1,)

    def _tensor_seconds(self, work: _Products, dtype: np.ndarray, profile: ArchitectureProfile) -> _Seconds:
        """Of blocks on tensor cores: the slowest of the math, of shared memory and of L2, and the start of every round."""
        multiprocessors, kernels = profile.value("count.sms"), self._tensor_kernels
        rate = _matrix_peaks(dtype, profile) / multiprocessors / 2.0
        l2 = profile.value("bandwidth.l2.tensor", profile.value("bandwidth.l2"))

        def seconds(load: _Load, tile_m: float, tile_n: float, part: np.ndarray) -> np.ndarray:
            slots = load.queue * load.padded_k
            ramp = (1.0 + _TENSOR_K / part) * (1.0 + _TENSOR_FILL / load.held)
            math = slots * tile_m * tile_n * ramp / rate
            staged = tile_m + tile_n
            fed = slots * work.size * (tile_m * tile_n * _operand_reads(kernels, tile_m, tile_n) + staged)
            down, across = _cluster(kernels, tile_m, tile_n)
            fetched = load.blocks * load.padded_k * work.size * (tile_m / across + tile_n / down)
            moved = np.maximum(fed * multiprocessors / profile.value("bandwidth.shared"), fetched / l2)
            return np.maximum(math, moved) + _TENSOR_LATENCY_S * ceil_div(load.queue, load.resident)

        return seconds

    def _fastest(
        self,
        work: _Products,
        tiles: tuple[Tile, ...],
        splits: tuple[int, ...],
        profile: ArchitectureProfile,
        seconds: _Seconds,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(R,) extents m, n and k of the tile that takes least time by `seconds` and the traffic of partial sums."""
        multiprocessors = profile.value("count.sms")
        bandwidth = profile.value("bandwidth.l2")
        best = np.full(len(work.m), np.inf)
        best_m, best_n, best_k = np.ones(len(work.m)), np.ones(len(work.m)), work.k
        for tile_m, tile_n in dict.fromkeys((self.tile_m or m, self.tile_n or n) for m, n in tiles):
            fits = _blocks_per_multiprocessor(profile, work, tile_m, tile_n) >= 1.0
            for split in splits if self.tile_k is None else (1,):
                part = np.minimum(self.tile_k or np.inf, np.ceil(work.k / split))
                load = work.load(profile, tile_m, tile_n, part)
                partial = np.where(load.pieces > 1, 2.0 * _ACCUMULATOR_BYTES * load.pieces * work.outputs, 0.0)
                time = seconds(load, tile_m, tile_n, part) + partial / bandwidth
                few = (load.blocks < 2 * multiprocessors * load.pieces) & (part >= 4 * _STATE_SLICE)
                time = np.where(fits & ((split == 1) | few), time, np.inf)
                better = time < best
                best = np.where(better, time, best)
                best_m, best_n = np.where(better, tile_m, best_m), np.where(better, tile_n, best_n)
                best_k = np.where(better, part, best_k)
        return best_m, best_n, best_k

    def apply(self, table: KernelTable, profile: ArchitectureProfile, shape: TileShape) -> Tiling:
        """Blocks, rounds, and what every block loads through L2."""
        multiprocessors = profile.value("count.sms")
        contracts = table.matrix_flops > 0
        tensor = on_tensor_cores(table, profile)
        work = self._work(table, tensor)
        load = work.load(profile, shape.m, shape.n, shape.k)
        elements = table.batch * table.m * table.n
        lanes = multiprocessors * profile.value("vector.lanes", 1.0)
        streamed = elements / (ceil_div(elements, lanes) * lanes)
        utilisation = np.where(contracts, load.useful, streamed)
        waves = np.where(
            contracts, ceil_div(load.blocks, multiprocessors * load.resident), ceil_div(elements, lanes * _MOST_BLOCKS)
        )
        tiles = np.where(contracts, load.blocks, ceil_div(elements, profile.value("vector.lanes", 1.0)))
        staged = work.stages * work.size * (shape.m + shape.n) * np.minimum(np.where(tensor, work.slices, _STATE_SLICE), table.k)
        state = np.where(contracts, staged + _ACCUMULATOR_BYTES * shape.m * shape.n, 0.0)
        state = state * np.minimum(load.blocks, multiprocessors * load.resident)
        traffic = _traffic(table, profile, shape, load)
        if tensor.any():
            there = _tensor_traffic(table, profile, shape, load, self._tensor_kernels)
            traffic = {level: np.where(tensor, there[level], nbytes) for level, nbytes in traffic.items()}
        far = np.where(table.is_family("gemm"), work.far(shape.m, shape.n, load), 0.0)
        blocks = Blocks(load.reuse, load.depth, load.held, load.filled, far)
        ways = self._winograd(table, profile, tensor)
        return Tiling(shape, tiles, waves, utilisation, traffic, state, transformed=ways, blocks=blocks)

    def _winograd(self, table: KernelTable, profile: ArchitectureProfile, tensor: np.ndarray) -> tuple[Transformed, ...]:
        """Winograd's minimal filtering for 3x3 windows of stride 1 (Lavin and Gray, CVPR 2016): F(2x2, 3x3) in one kernel, and
        F(4x4, 3x3) with kernels of their own for the transforms. What tensor cores do is done directly."""
        offered = (
            ~tensor
            & table.is_family("conv")
            & (table.window == 9)
            & (table.stride == 1)
            & (table.dilation == 1)
            & (table.batch == 1)
        )
        if not offered.any():
            return ()
        rows = np.flatnonzero(offered)
        direct = table.take(rows)
        images = np.maximum(direct.images, 1.0)
        side = np.sqrt(direct.m / images)
        channels = direct.k / 9
        library = LIBRARIES.get(self.library or "")
        tiles = images * np.ceil(side / 4 - 1e-9) ** 2
        size = element_bytes(direct)
        work = _Products(np.full(len(rows), 36.0), tiles, direct.n, channels, size)
        offers = BLOCK_TILES if library is None else library.transformed
        shape = TileShape(*self._fastest(work, offers, (1,), profile, _seconds(profile)))
        load = work.load(profile, shape.m, shape.n, shape.k)
        moved = 36 * size * np.stack([tiles * channels, tiles * direct.n, channels * direct.n])
        products = Transformed(
            name="winograd",
            offered=offered,
            share=36 * tiles / (9 * direct.m),
            utilisation=load.useful,
            blocks=Blocks(load.reuse, load.depth, load.held, load.filled),
            moved=_written_and_read(moved, profile),
            kernels=4,
        )
        fused = _fused(direct, profile, images, side, channels, ((1, 4, 8),) if library is None else library.patches)
        return tuple(_placed(way, offered) for way in (fused, products))


@dataclass(frozen=True, slots=True)
class _Load:
    """How blocks share the multiprocessors; (R,) each.

    Attributes:
        blocks, pieces: blocks in all, and parts of the reduction.
        resident: blocks that a multiprocessor holds at once.
        queue: blocks of the multiprocessor that is given most: they share its rate, so it sets the time.
        padded_k: a block's reduction in whole slices.
        useful: share of the lanes' work that is neither padding nor idle.
        reuse, depth, held, filled: of `Blocks`.
    """

    blocks: np.ndarray
    pieces: np.ndarray
    resident: np.ndarray
    queue: np.ndarray
    padded_k: np.ndarray
    useful: np.ndarray
    reuse: np.ndarray
    depth: np.ndarray
    held: np.ndarray
    filled: np.ndarray


_Seconds = Callable[[_Load, float, float, np.ndarray], np.ndarray]
"""How blocks share the multiprocessors, extents m and n of their tile, and parts of the reduction -> (R,) seconds."""


@dataclass(frozen=True, slots=True)
class _Products:
    """Batches of products (m, k) by (k, n); (R,) each.

    Attributes:
        size: bytes of an element.
        slices, stages: extent of k that is staged at once, and such slices held at once.
    """

    batch: np.ndarray
    m: np.ndarray
    n: np.ndarray
    k: np.ndarray
    size: np.ndarray
    slices: np.ndarray | float = float(_SLICE)
    stages: np.ndarray | float = float(_STAGES)

    def take(self, rows: np.ndarray) -> _Products:
        """Some of them."""
        return _Products(*(np.broadcast_to(getattr(self, f.name), len(self.m))[rows] for f in fields(self)))

    @property
    def outputs(self) -> np.ndarray:
        return self.batch * self.m * self.n

    def far(self, tile_m: np.ndarray, tile_n: np.ndarray, load: _Load) -> np.ndarray:
        """(R,) share of what is staged whose address no translation at hand covers: every row that a multiprocessor's blocks
        walk lies k elements from the next."""
        together = np.minimum(load.queue, load.resident)
        rows = np.minimum(together * tile_m, self.m) + np.minimum(together * tile_n, self.n)
        return 1.0 - hit_share(rows * self.k * self.size, _REACH_BYTES)

    def load(
        self, profile: ArchitectureProfile, tile_m: np.ndarray | float, tile_n: np.ndarray | float, part: np.ndarray
    ) -> _Load:
        multiprocessors = profile.value("count.sms")
        pieces = ceil_div(self.k, part)
        blocks = ceil_div(self.m, tile_m) * ceil_div(self.n, tile_n) * pieces * self.batch
        depth = ceil_div(self.k, pieces)
        padded = self.slices * ceil_div(depth, self.slices)
        queue = ceil_div(blocks, multiprocessors)
        holds = np.maximum(_blocks_per_multiprocessor(profile, self, tile_m, tile_n), 1.0)
        useful = self.outputs * self.k / (queue * multiprocessors * tile_m * tile_n * padded)
        reuse = tile_m * tile_n / (tile_m + tile_n) + np.zeros(len(self.m))
        held = queue / ceil_div(queue, holds) * np.maximum(tile_m * tile_n, _LEAST_OUTPUTS)
        filled = np.minimum(self.outputs * self.k / (blocks * tile_m * tile_n * padded), 1.0)
        return _Load(blocks, pieces, holds, queue, padded, np.minimum(useful, 1.0), reuse, depth, held, filled)


def _fused(
    table: KernelTable,
    profile: ArchitectureProfile,
    images: np.ndarray,
    side: np.ndarray,
    channels: np.ndarray,
    patches: tuple[tuple[int, int, int], ...],
) -> Transformed:
    """Fused Winograd: blocks of 32 tiles of 2 x 2 results by 32 filters, 16 products each."""
    multiprocessors = profile.value("count.sms")
    tiles = np.ceil(side / 2 - 1e-9)
    along = np.min([ceil_div(images, i) * ceil_div(tiles, h) * ceil_div(tiles, w) for i, h, w in patches], axis=0)
    blocks = along * ceil_div(table.n, _FUSED_FILTERS)
    queue = ceil_div(blocks, multiprocessors)
    issued = _FUSED_TILES * _FUSED_FILTERS * _SLICE * ceil_div(channels, _SLICE)
    useful = images * tiles**2 * table.n * channels
    outputs = 16.0 * _FUSED_TILES * _FUSED_FILTERS
    reuse = np.full(len(table), _FUSED_TILES * _FUSED_FILTERS / (_FUSED_TILES + _FUSED_FILTERS))
    return Transformed(
        name="winograd_fused",
        offered=np.ones(len(table), dtype=bool),
        share=16 * images * tiles**2 / (9 * table.m),
        utilisation=np.minimum(useful / (queue * multiprocessors * issued), 1.0),
        blocks=Blocks(reuse, channels, outputs * queue / ceil_div(queue, 2.0), np.minimum(useful / (blocks * issued), 1.0)),
        moved=_written_and_read((16 * element_bytes(table) * channels * table.n)[None], profile),
        kernels=2,
    )


def _placed(way: Transformed, offered: np.ndarray) -> Transformed:
    """The same of all kernels, given that of those it is offered to; 1 elsewhere, where nobody looks."""

    def place(values: np.ndarray) -> np.ndarray:
        placed = np.ones((*np.shape(values)[:-1], len(offered)))
        placed[..., offered] = values
        return placed

    return replace(
        way,
        offered=offered,
        share=place(way.share),
        utilisation=place(way.utilisation),
        blocks=Blocks(*(place(part) for part in (way.blocks.reuse, way.blocks.depth, way.blocks.held, way.blocks.filled))),
        moved={level: place(nbytes) for level, nbytes in way.moved.items()},
    )


def _written_and_read(amounts: np.ndarray, profile: ArchitectureProfile) -> dict[str, np.ndarray]:
    """Level -> bytes moved by arrays of so many bytes, (arrays, K), each written by one kernel and read by the next."""
    held = resident(profile)
    level = profile.levels[-1]
    moved = {level: 2.0 * amounts.sum(axis=0)}
    if "l2" in held:
        moved["l2"] = moved[level]
        moved[level] = sum(2.0 * amount * (1.0 - hit_share(amount, held["l2"])) for amount in amounts)
    return moved


def _traffic(table: KernelTable, profile: ArchitectureProfile, shape: TileShape, load: _Load) -> dict[str, np.ndarray]:
    """Shared memory starts empty, so every block's operands cross L2; main memory sees again what L2 cannot hold."""
    held = resident(profile)
    used = operands(table)
    share = np.minimum(passes(table), 1.0)
    traffic = compulsory_traffic(table, profile)
    over_m, over_n = ceil_div(table.m, shape.m), ceil_div(table.n, shape.n)
    again = (used.a * (over_n - 1.0) + used.b * (over_m - 1.0)) * share
    partial = np.where(load.pieces > 1.0, 2.0 * used.c * _ACCUMULATOR_BYTES / element_bytes(table) * load.pieces, 0.0)
    # Blocks start row by row of the result. Those that run at once walk k together, so what they share is read once.
    flying = profile.value("count.sms") * load.resident
    across = np.minimum(over_n, flying)
    down = np.clip(flying / over_n, 1.0, over_m)
    items = np.clip(flying / (over_m * over_n * load.pieces), 1.0, table.batch)
    a, b, c = (operand / table.batch * items for operand in (used.a, used.b, used.c))
    again_a, again_b = used.a * (over_n / across - 1.0) * share, used.b * (over_m / down - 1.0) * share
    capacity = held.get("l2", 0.0)
    lost = again_a * (1.0 - hit_share(a * down / over_m + b * across / over_n, capacity))
    lost = lost + again_b * (1.0 - hit_share((a + c) * down / over_m + b, capacity))
    level = profile.levels[-1]
    outside = traffic[level] + lost
    return {**traffic, "shared": traffic["shared"] + again + partial, "l2": traffic["l2"] + again + partial, level: outside}


def _tensor_traffic(
    table: KernelTable, profile: ArchitectureProfile, shape: TileShape, load: _Load, kernels: TensorKernels
) -> dict[str, np.ndarray]:
    """What kernels on tensor cores move. Shared memory is written by every block's copies and read for every multiply-add; L2 is
    read once a cluster; and blocks start in patches of the result that are as square as can be, down the rows or along the columns,
    whichever leaves less to main memory (CUTLASS, "Efficient GEMM in CUDA", 2024, threadblock rasterisation)."""
    held, used = resident(profile), operands(table)
    share = np.minimum(passes(table), 1.0)
    size = element_bytes(table)
    traffic = compulsory_traffic(table, profile)
    over_m, over_n = ceil_div(table.m, shape.m), ceil_div(table.n, shape.n)
    partial = np.where(load.pieces > 1.0, 2.0 * used.c * _ACCUMULATOR_BYTES / size * load.pieces, 0.0)
    copied = (used.a * (over_n - 1.0) + used.b * (over_m - 1.0)) * share
    read = table.matrix_flops / 2.0 / load.filled * size * _operand_reads(kernels, shape.m, shape.n)
    down, across = _cluster(kernels, shape.m, shape.n)
    again_a, again_b = used.a * (ceil_div(over_n, across) - 1.0), used.b * (ceil_div(over_m, down) - 1.0)
    flying = profile.value("count.sms") * load.resident
    wide = np.clip(np.sqrt(flying * shape.m / shape.n), 1.0, over_n)
    high = np.clip(flying / wide, 1.0, over_m)
    wide = np.clip(flying / high, 1.0, over_n)
    items = np.clip(flying / (over_m * over_n * load.pieces), 1.0, table.batch)
    written = np.minimum(used.c, table.bytes_of_kind(WRITE))
    a, b, c = (operand / table.batch * items for operand in (used.a, used.b, written))
    lost_a, lost_b = used.a * (over_n / wide - 1.0) * share, used.b * (over_m / high - 1.0) * share
    capacity = held.get("l2", 0.0)
    rows, columns = high / over_m, wide / over_n
    near = 1.0 - hit_share(a * rows + b * columns, capacity)
    by_rows = lost_b * (1.0 - hit_share((a + c) * rows + b, capacity)) + lost_a * near
    by_columns = lost_a * (1.0 - hit_share((b + c) * columns + a, capacity)) + lost_b * near
    level = profile.levels[-1]
    return {
        **traffic,
        "shared": traffic["shared"] + copied + partial + read,
        "l2": traffic["l2"] + (again_a + again_b) * share + partial,
        level: traffic[level] + np.minimum(by_rows, by_columns),
    }


def _operand_reads(kernels: TensorKernels, tile_m: np.ndarray | float, tile_n: np.ndarray | float) -> np.ndarray:
    """Elements that units read from shared memory for a multiply-add."""
    together_m, together_n = kernels.together
    return 1.0 / np.minimum(tile_m, together_m) + 1.0 / np.minimum(tile_n, together_n)


def _cluster(
    kernels: TensorKernels, tile_m: np.ndarray | float, tile_n: np.ndarray | float
) -> tuple[np.ndarray | float, np.ndarray | float]:
    """Blocks of a cluster along m and n: along the shorter side of the tile, where they have most to share."""
    along_m = np.less_equal(tile_m, tile_n)
    return np.where(along_m, kernels.cluster, 1.0), np.where(along_m, 1.0, kernels.cluster)


def _seconds(profile: ArchitectureProfile) -> _Seconds:
    """Of blocks of the float32 units: whole rounds at the tile's efficiency."""
    rate = profile.value("peak.matrix.float32", 1.0) / profile.value("count.sms") / 2.0

    def seconds(load: _Load, tile_m: float, tile_n: float, part: np.ndarray) -> np.ndarray:
        ramp = (1.0 + _HALF_TILE / load.reuse) * (1.0 + _HALF_K / part) * (1.0 + _HALF_FILL / load.held)
        return load.queue * tile_m * tile_n * load.padded_k * ramp / rate

    return seconds


def _matrix_peaks(dtype: np.ndarray, profile: ArchitectureProfile) -> np.ndarray:
    """(R,) flop/s of matrix units in these types, codes into `COMPUTE_DTYPES`."""
    peaks: np.ndarray | float = 1.0
    for code in np.unique(dtype):
        peaks = np.where(dtype == code, profile.value(f"peak.matrix.{COMPUTE_DTYPES[code]}"), peaks)
    return peaks


def _blocks_per_multiprocessor(
    profile: ArchitectureProfile, work: _Products, tile_m: float | np.ndarray, tile_n: float | np.ndarray
) -> np.ndarray:
    """(K,) blocks that shared memory and the register file hold at once; below 1 where not even one fits."""
    shared, registers = profile.value("capacity.shared"), profile.value("capacity.register", np.inf)
    by_shared = np.floor(shared / (work.stages * work.size * (tile_m + tile_n) * work.slices))
    by_registers = np.floor(registers / (1.5 * _ACCUMULATOR_BYTES * tile_m * tile_n))
    return np.minimum(np.minimum(by_shared, by_registers), _MOST_BLOCKS)


def _joined(parts: list[np.ndarray], order: np.ndarray) -> np.ndarray:
    """(..., K) of parts of the kernels, in the kernels' order; what design points do not change broadcasts."""
    if not parts:
        return np.zeros(0)
    many = np.broadcast_shapes(*(part.shape[:-1] for part in parts))
    return np.concatenate([np.broadcast_to(part, (*many, part.shape[-1])) for part in parts], axis=-1)[..., order]
