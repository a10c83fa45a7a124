"""Kernels of a GPU's tensor cores: what blocks take, and what they move.

Operands are copied into shared memory ahead of the math, so that blocks are bound by the slowest of the units themselves, of what
shared memory gives them, and of L2, and by the latency with which each round starts and ends.
"""

from __future__ import annotations

import numpy as np

from shmoo.estimators.graph.dtypes import COMPUTE_DTYPES
from shmoo.estimators.machine.catalogue import DEFAULTS
from shmoo.estimators.machine.profile import ArchitectureProfile
from shmoo.estimators.table import WRITE, Floats, KernelTable
from shmoo.estimators.tiling.base import (
    TileShape,
    ceil_div,
    compulsory_traffic,
    element_bytes,
    hit_share,
    operands,
    passes,
    resident,
)
from shmoo.estimators.tiling.gpu.blocks import ACCUMULATOR_BYTES, Load, Products, Seconds
from shmoo.estimators.tiling.gpu.library import TensorKernels

_HALF_K, _HALF_FILL, _LATENCY_S = (DEFAULTS["gpu"][f"{stem}.tensor"].value for stem in ("half.k", "half.fill", "tile_overhead"))
"""What the choice of a tile takes for these coefficients: what is assumed of a machine that nobody measured."""


def tensor_seconds(work: Products, dtype: np.ndarray, profile: ArchitectureProfile, kernels: TensorKernels) -> Seconds:
    """What the choice of a tile takes for the time of these products (types as codes into `COMPUTE_DTYPES`): the slowest of the
    math, of shared memory and of L2, and the start of every round."""
    multiprocessors = profile.value("count.sms")
    rate = _matrix_peaks(dtype, profile) / multiprocessors / 2.0
    l2 = profile.value("bandwidth.l2.tensor", profile.value("bandwidth.l2"))

    def seconds(load: Load, tile_m: float, tile_n: float, part: Floats) -> Floats:
        slots = load.queue * load.padded_k
        ramp = (1.0 + _HALF_K / part) * (1.0 + _HALF_FILL / load.at_work)
        math = slots * tile_m * tile_n * ramp / rate
        staged = tile_m + tile_n
        fed = slots * work.size * (tile_m * tile_n * _operand_reads(kernels, tile_m, tile_n) + staged)
        down, across = _cluster(kernels, tile_m, tile_n)
        fetched = load.blocks * load.padded_k * work.size * (tile_m / across + tile_n / down)
        moved = np.maximum(fed * multiprocessors / profile.value("bandwidth.shared"), fetched / l2)
        return np.maximum(math, moved) + _LATENCY_S * ceil_div(load.queue, load.resident)

    return seconds


def tensor_traffic(
    table: KernelTable, profile: ArchitectureProfile, shape: TileShape, load: Load, kernels: TensorKernels
) -> dict[str, np.ndarray]:
    """What kernels on tensor cores move. Shared memory is written by every block's copies and read for every multiply-add; L2 is
    read once a cluster; and blocks start in patches of the result that are as square as can be, down the rows or along the
    columns, whichever leaves less to main memory (threadblock rasterisation: CUTLASS, "Efficient GEMM in CUDA", 2024)."""
    capacities, used = resident(profile), operands(table)
    share = np.minimum(passes(table), 1.0)
    size = element_bytes(table)
    traffic = compulsory_traffic(table, profile)
    over_m, over_n = ceil_div(table.m, shape.m), ceil_div(table.n, shape.n)
    partial = np.where(load.pieces > 1.0, 2.0 * used.c * ACCUMULATOR_BYTES / size * load.pieces, 0.0)
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
    capacity = capacities.get("l2", 0.0)
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


def _matrix_peaks(dtype: np.ndarray, profile: ArchitectureProfile) -> np.ndarray:
    """(R,) flop/s of matrix units in these types, codes into `COMPUTE_DTYPES`."""
    peaks = np.ones(len(dtype))
    for code in np.unique(dtype):
        peaks = np.where(dtype == code, profile.value(f"peak.matrix.{COMPUTE_DTYPES[code]}"), peaks)
    return peaks
