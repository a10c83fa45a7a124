"""Kernels of a GPU's tensor cores: which tile and split they take, how their blocks share the machine, and what they move.

Operands are copied into shared memory ahead of the math, so that blocks are bound by the slowest of the units themselves, of what
shared memory gives them, of L2, of what one multiprocessor can take in, and by the latency with which each round starts and ends.
A tile is chosen by the time that the model gives it, with the coefficients of the machine.
"""

from __future__ import annotations

import itertools
from functools import partial

import numpy as np

from shmoo.estimators.graph.dtypes import COMPUTE_DTYPES, COMPUTED_AS
from shmoo.estimators.machine.coefficients import Coefficients, algorithm_codes, unpacks_weights
from shmoo.estimators.machine.profile import ArchitectureProfile
from shmoo.estimators.table import WRITE, Floats, KernelTable
from shmoo.estimators.tiling.base import (
    Blocks,
    TileShape,
    ceil_div,
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
    Load,
    Products,
    blocks_per_multiprocessor,
    fastest,
    level_speeds,
)
from shmoo.estimators.tiling.gpu.library import TensorKernels, Tile

SPLITS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
"""Parts into which a reduction may be split."""
_FLOAT4, _FLOAT16 = map(COMPUTE_DTYPES.index, ("float4", "float16"))
_LEAST_SLICES = 4.0
"""Slices of a part of a split reduction, at least: fewer would only fill and drain the pipeline."""


def choose_tensor(
    table: KernelTable,
    work: Products,
    profile: ArchitectureProfile,
    kernels: TensorKernels,
    tiles: tuple[Tile, ...],
    splits: tuple[int, ...],
) -> TileShape:
    """The tile and the part of the reduction with which the model's own time of each kernel is least, as the library counts its
    rounds (`TensorKernels.whole_rounds`)."""
    multiprocessors, clock = profile.value("count.sms"), profile.value("clock")
    c = Coefficients(profile)
    codes = algorithm_codes(table, profile)
    own = partial(c.by_algorithm, codes)
    rate = unit_peaks("matrix", table.dtype, profile) * own("efficiency")
    speeds = level_speeds(profile, own)
    once = compulsory_traffic(table, profile)
    # Libraries have no kernels that split the reduction of operands with scales by groups: products of few rows over 65536 take
    # 2 ns an element of it in float4 on a B200, 1 ns in float8 with groups of 128 on an H100 (NVIDIA AIConfigurator, 2026).
    unpacks = unpacks_weights(table)
    vector_rate = unit_peaks("vector", table.dtype, profile) * own("efficiency.vector")
    pace = kernels.pace(profile)
    # Those that unpack weights are no kernels of cuBLAS: TensorRT-LLM tries each, with as many bytes as its splits take.
    workspace = np.where(unpacks, np.inf, kernels.workspace)
    whole_rounds = kernels.whole_rounds & ~unpacks & (table.dtype != _FLOAT16)
    in_one_piece = (table.dtype == _FLOAT4) | (table.is_family("gemm") & (table.group > 1.0))

    def offer(tile_m: Floats, tile_n: Floats, split: Floats) -> tuple[Floats, Floats]:
        fits = blocks_per_multiprocessor(profile, work, tile_m, tile_n) >= 1.0
        whole, part = ceil_div(work.m, tile_m) * ceil_div(work.n, tile_n) * work.batch, np.ceil(work.k / split)
        splits_here = (whole < 2 * multiprocessors) & (part >= _LEAST_SLICES * work.slices) & ~in_one_piece
        splits_here = splits_here & ((ACCUMULATOR_BYTES * split * work.outputs <= workspace) | (part >= kernels.long_part))
        offered = fits & ((split == 1) | splits_here)
        shape = TileShape(tile_m, tile_n, part)
        load = work.load(profile, tile_m, tile_n, part)
        blocks = tensor_blocks(work, shape, load, pace)
        traffic = tensor_traffic(table, profile, shape, load, kernels, once)
        math = table.matrix_flops / (rate * load.useful) * blocks.ramp(own)
        if unpacks.any():
            beside = table.vector_flops / vector_rate * unpacked(table, tile_m, load.useful)
            math = math + np.where(unpacks, beside, 0.0)
        rounds = ceil_div(load.blocks, multiprocessors * load.resident)
        math = math * np.where(whole_rounds & (rounds > 1.0), rounds * load.resident / load.queue, 1.0)
        times = [math, *(nbytes / speeds[level] for level, nbytes in traffic.items()), blocks.fetch_seconds(own, clock)]
        time = overlapped(times, own("overlap")) + own("tile_overhead") * rounds + blocks.split_seconds(own)
        return np.where(offered, time, np.inf), part

    candidates = [(*tile, split) for tile, split in itertools.product(tiles, splits)]
    m, n, _, k = fastest(candidates, work.k, profile, offer)
    return TileShape(m, n, k)


def tensor_blocks(work: Products, shape: TileShape, load: Load, pace: float | np.ndarray) -> Blocks:
    """What a multiprocessor works on at once, and what it copies.

    Args:
        pace: of its units (`TensorKernels.pace`).
    """
    row = work.staged(shape.m, shape.n)
    staged = load.queue * load.padded_k * row
    together = np.minimum(load.queue, load.resident)
    in_flight = together * np.minimum(work.stages * work.slices, load.padded_k) * row
    # Units multiply half as many elements of twice the size a clock, so that each of them hides as much of a latency as two.
    hides = np.maximum(work.size / 2.0, 1.0)
    depth, at_work = load.padded_k * hides, load.at_work * hides
    return Blocks(load.reuse, depth, at_work, load.filled, 0.0, staged, in_flight, load.pieces, pace=pace)


def tensor_traffic(
    table: KernelTable,
    profile: ArchitectureProfile,
    shape: TileShape,
    load: Load,
    kernels: TensorKernels,
    once: dict[str, np.ndarray] | None = None,
) -> dict[str, np.ndarray]:
    """What kernels on tensor cores move. Shared memory is written by every block's copies and read for every multiply-add; L2 is
    read once a patch of neighbouring blocks; and blocks start in patches of the result that are as square as can be, down the
    rows or along the columns, whichever leaves less to main memory (threadblock rasterisation: CUTLASS, "Efficient GEMM in CUDA",
    2024).

    Args:
        once: `compulsory_traffic` of the kernels, where the caller has it.
    """
    capacities, used = resident(profile), operands(table)
    share = np.minimum(passes(table), 1.0)
    size = element_bytes(table)
    traffic = compulsory_traffic(table, profile) if once is None else once
    over_m, over_n = ceil_div(table.m, shape.m), ceil_div(table.n, shape.n)
    partial_sums = np.where(load.pieces > 1.0, 2.0 * used.c * ACCUMULATOR_BYTES / size * load.pieces, 0.0)
    copied = (used.a * (over_n - 1.0) + used.b * (over_m - 1.0)) * share
    together_m, together_n = kernels.together
    row = size / np.minimum(shape.n, together_n) + stored_bytes(table) / np.minimum(shape.m, together_m)
    read = table.matrix_flops / 2.0 / load.filled * row
    again_a, again_b = (operand * (ceil_div(over, kernels.patch) - 1.0) for operand, over in ((used.a, over_n), (used.b, over_m)))
    flying = profile.value("count.sms") * load.resident
    wide = np.clip(np.sqrt(flying * shape.m / shape.n), 1.0, over_n)
    high = np.clip(flying / wide, 1.0, over_m)
    wide = np.clip(flying / high, 1.0, over_n)
    items = np.clip(flying / (over_m * over_n * load.pieces), 1.0, table.batch)
    written = np.minimum(used.c, table.bytes_of_kind(WRITE))
    a, b, c = (operand / table.batch * items for operand in (used.a, used.b, written))
    lost_a, lost_b = used.a * (over_n / wide - 1.0) * share, used.b * (over_m / high - 1.0) * share
    capacity = capacities.get("l2", 0.0)
    rows, columns = high / over_m, wide / over_n
    near = 1.0 - hit_share(a * rows + b * columns, capacity)
    by_rows = lost_b * (1.0 - hit_share((a + c) * rows + b, capacity)) + lost_a * near
    by_columns = lost_a * (1.0 - hit_share((b + c) * columns + a, capacity)) + lost_b * near
    level = profile.levels[-1]
    return {
        **traffic,
        "shared": traffic["shared"] + copied + partial_sums + read,
        "l2": traffic["l2"] + (again_a + again_b) * share + partial_sums,
        level: traffic[level] + np.minimum(by_rows, by_columns),
    }


def stored_bytes(table: KernelTable) -> np.ndarray:
    """(K,) bytes that an element of the second operand takes in memory. Packed weights keep their packed size until they are
    unpacked in registers, between shared memory and the units (Kim et al., "Who says elephants can't run", 2022)."""
    packed: np.ndarray = operands(table).b / (table.batch * table.n * table.k)
    return np.where(unpacks_weights(table), packed, element_bytes(table))


def unpacked(table: KernelTable, tile_m: np.ndarray | float, useful: np.ndarray) -> np.ndarray:
    """(..., K) how often packed weights are unpacked, relative to once on all multiprocessors: every row of blocks unpacks those
    that it multiplies, on the multiprocessors that have a block.

    Args:
        useful: share of the lanes' work that is neither padding nor idle.
    """
    times: np.ndarray = table.m / (tile_m * useful)
    return times


def unit_peaks(unit: str, dtype: np.ndarray, profile: ArchitectureProfile) -> np.ndarray:
    """(R,) operations a second of the matrix or vector units in these types, codes into `COMPUTE_DTYPES`, or of the next type
    that holds them; of float32 where no rate of these is known."""
    peaks = np.ones(len(dtype))
    for code in np.unique(dtype):
        rated = (f"peak.{unit}.{name}" for name in (*COMPUTED_AS[COMPUTE_DTYPES[code]], "float32"))
        known = next((profile.value(name) for name in rated if name in profile.coefficients), 1.0)
        peaks = np.where(dtype == code, known, peaks)
    return peaks
