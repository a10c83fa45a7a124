"""Kernels of a GPU's tensor cores: their tiles and splits, the occupancy of their blocks, and their traffic.

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
    Occupancy,
    Products,
    blocks_per_multiprocessor,
    fastest,
    level_speeds,
)
from shmoo.estimators.tiling.gpu.library import TensorKernels, Tile

SPLITS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
"""Parts into which a reduction may be split."""
_FLOAT4 = COMPUTE_DTYPES.index("float4")
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
    """The tile and the part of the reduction with the least modelled time of each kernel, with rounds as the library counts them
    (`TensorKernels.whole_rounds`)."""
    multiprocessors, clock = profile.value("count.sms"), profile.value("clock")
    c = Coefficients(profile)
    codes = algorithm_codes(table, profile)
    value = partial(c.by_algorithm, codes)
    rate = unit_peaks("matrix", table.dtype, profile) * value("efficiency")
    speeds = level_speeds(profile, value)
    compulsory = compulsory_traffic(table, profile)
    # Libraries have no kernels that split the reduction of operands with scales by groups: products of few rows over 65536 take
    # 2 ns an element of it in float4 on a B200, 1 ns in float8 with groups of 128 on an H100 (NVIDIA AIConfigurator, 2026).
    unpacks = unpacks_weights(table)
    vector_rate = unit_peaks("vector", table.dtype, profile) * value("efficiency.vector")
    pace = kernels.pace(profile)
    # Those that unpack weights are no kernels of cuBLAS: TensorRT-LLM tries each, with as many bytes as its splits take.
    workspace = np.where(unpacks, np.inf, kernels.workspace)
    whole_rounds = np.isin(table.dtype, list(map(COMPUTE_DTYPES.index, kernels.whole_rounds))) & ~unpacks
    in_one_piece = (table.dtype == _FLOAT4) | (table.is_family("gemm") & (table.group > 1.0))

    def offer(tile_m: Floats, tile_n: Floats, pieces: Floats) -> tuple[Floats, Floats]:
        fits = blocks_per_multiprocessor(profile, work, tile_m, tile_n) >= 1.0
        unsplit, part = ceil_div(work.m, tile_m) * ceil_div(work.n, tile_n) * work.batch, np.ceil(work.k / pieces)
        splits_here = (unsplit < 2 * multiprocessors) & (part >= _LEAST_SLICES * work.slices) & ~in_one_piece
        splits_here = splits_here & ((ACCUMULATOR_BYTES * pieces * work.outputs <= workspace) | (part >= kernels.long_part))
        is_offered = fits & ((pieces == 1) | splits_here)
        shape = TileShape(tile_m, tile_n, part)
        occupancy = work.occupancy(profile, tile_m, tile_n, part)
        blocks = tensor_blocks(work, shape, occupancy, pace)
        traffic = tensor_traffic(table, profile, shape, occupancy, kernels, compulsory)
        math = table.matrix_flops / (rate * occupancy.useful) * blocks.ramp(value)
        if unpacks.any():
            unpack_s = table.vector_flops / vector_rate * unpacked(table, tile_m, occupancy.useful)
            math = math + np.where(unpacks, unpack_s, 0.0)
        rounds = ceil_div(occupancy.blocks, multiprocessors * occupancy.resident)
        math = math * np.where(whole_rounds & (rounds > 1.0), rounds * occupancy.resident / occupancy.queue, 1.0)
        times = [math, *(nbytes / speeds[level] for level, nbytes in traffic.items()), blocks.fetch_seconds(value, clock)]
        time = overlapped(times, value("overlap")) + value("tile_overhead") * rounds + blocks.split_seconds(value)
        return np.where(is_offered, time, np.inf), part

    candidates = [(*tile, pieces) for tile, pieces in itertools.product(tiles, splits)]
    m, n, _, k = fastest(candidates, work.k, profile, offer)
    return TileShape(m, n, k)


def tensor_blocks(work: Products, shape: TileShape, occupancy: Occupancy, pace: float | np.ndarray) -> Blocks:
    """The blocks of kernels on tensor cores.

    Args:
        pace: pace of the units (`TensorKernels.pace`).
    """
    row = work.staged(shape.m, shape.n)
    staged_bytes = occupancy.queue * occupancy.padded_k * row
    blocks_at_once = np.minimum(occupancy.queue, occupancy.resident)
    in_flight = blocks_at_once * np.minimum(work.stages * work.slices, occupancy.padded_k) * row
    # Units multiply half as many elements of twice the size a clock, so that each of them hides as much of a latency as two.
    hides = np.maximum(work.size / 2.0, 1.0)
    depth, at_work = occupancy.padded_k * hides, occupancy.at_work * hides
    return Blocks(occupancy.reuse, depth, at_work, occupancy.filled, 0.0, staged_bytes, in_flight, occupancy.pieces, pace=pace)


def tensor_traffic(
    table: KernelTable,
    profile: ArchitectureProfile,
    shape: TileShape,
    occupancy: Occupancy,
    kernels: TensorKernels,
    compulsory: dict[str, np.ndarray] | None = None,
) -> dict[str, np.ndarray]:
    """Bytes per level of kernels on tensor cores. Shared memory is written by every block's copies and read for every
    multiply-add; L2 is read once a patch of neighbouring blocks; and blocks start in patches of the result as square as possible,
    down the rows or along the columns, whichever leaves less to main memory (threadblock rasterisation: CUTLASS, "Efficient GEMM
    in CUDA", 2024).

    Args:
        compulsory: `compulsory_traffic` of the kernels, where the caller has it.
    """
    capacities, sizes = resident(profile), operands(table)
    share = np.minimum(passes(table), 1.0)
    size = element_bytes(table)
    traffic = compulsory_traffic(table, profile) if compulsory is None else compulsory
    over_m, over_n = ceil_div(table.m, shape.m), ceil_div(table.n, shape.n)
    partial_sums = np.where(occupancy.pieces > 1.0, 2.0 * sizes.c * ACCUMULATOR_BYTES / size * occupancy.pieces, 0.0)
    copied_bytes = (sizes.a * (over_n - 1.0) + sizes.b * (over_m - 1.0)) * share
    together_m, together_n = kernels.together
    row = size / np.minimum(shape.n, together_n) + stored_bytes(table) / np.minimum(shape.m, together_m)
    read_bytes = table.matrix_flops / 2.0 / occupancy.filled * row
    again_a, again_b = (
        operand * (ceil_div(count, kernels.patch) - 1.0) for operand, count in ((sizes.a, over_n), (sizes.b, over_m))
    )
    blocks_in_flight = profile.value("count.sms") * occupancy.resident
    patch_columns = np.clip(np.sqrt(blocks_in_flight * shape.m / shape.n), 1.0, over_n)
    patch_rows = np.clip(blocks_in_flight / patch_columns, 1.0, over_m)
    patch_columns = np.clip(blocks_in_flight / patch_rows, 1.0, over_n)
    items = np.clip(blocks_in_flight / (over_m * over_n * occupancy.pieces), 1.0, table.batch)
    result_bytes = np.minimum(sizes.c, table.bytes_of_kind(WRITE))
    a, b, c = (operand / table.batch * items for operand in (sizes.a, sizes.b, result_bytes))
    lost_a, lost_b = sizes.a * (over_n / patch_columns - 1.0) * share, sizes.b * (over_m / patch_rows - 1.0) * share
    capacity = capacities.get("l2", 0.0)
    rows, columns = patch_rows / over_m, patch_columns / over_n
    both_miss = 1.0 - hit_share(a * rows + b * columns, capacity)
    by_rows = lost_b * (1.0 - hit_share((a + c) * rows + b, capacity)) + lost_a * both_miss
    by_columns = lost_a * (1.0 - hit_share((b + c) * columns + a, capacity)) + lost_b * both_miss
    main_memory = profile.main_memory
    return {
        **traffic,
        "shared": traffic["shared"] + copied_bytes + partial_sums + read_bytes,
        "l2": traffic["l2"] + (again_a + again_b) * share + partial_sums,
        main_memory: traffic[main_memory] + np.minimum(by_rows, by_columns),
    }


def stored_bytes(table: KernelTable) -> np.ndarray:
    """(K,) bytes that an element of the second operand takes in memory. Packed weights keep their packed size until they are
    unpacked in registers, between shared memory and the units (Kim et al., "Who says elephants can't run", 2022)."""
    packed_bytes: np.ndarray = operands(table).b / (table.batch * table.n * table.k)
    return np.where(unpacks_weights(table), packed_bytes, element_bytes(table))


def unpacked(table: KernelTable, tile_m: np.ndarray | float, useful: np.ndarray) -> np.ndarray:
    """(..., K) repeats of unpacking packed weights, relative to once on all multiprocessors: every row of blocks unpacks the
    weights that it multiplies, on the multiprocessors that have a block.

    Args:
        useful: share of the lanes' work that is neither padding nor idle.
    """
    repeats: np.ndarray = table.m / (tile_m * useful)
    return repeats


def unit_peaks(unit: str, dtype: np.ndarray, profile: ArchitectureProfile) -> np.ndarray:
    """(R,) operations a second of the matrix or vector units in these types, codes into `COMPUTE_DTYPES`, or of the next type
    that holds them; of float32 where no rate of these is known."""
    peaks = np.ones(len(dtype))
    for code in np.unique(dtype):
        names = (f"peak.{unit}.{name}" for name in (*COMPUTED_AS[COMPUTE_DTYPES[code]], "float32"))
        peak = next((profile.value(name) for name in names if name in profile.coefficients), 1.0)
        peaks = np.where(dtype == code, peak, peaks)
    return peaks
