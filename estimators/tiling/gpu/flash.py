"""Fused attention on a GPU's tensor cores: blocks of queries that walk the keys, and splits of the keys where blocks are few.

A block keeps some rows of queries and goes through the keys step by step (Dao, "FlashAttention-2", 2023). A causal mask lets it
stop at the diagonal. Few queries share a block with the other heads of their group, which read the same keys; where that leaves
multiprocessors without a block, several blocks walk a part of the keys each, and a second kernel joins their results (Dao et al.,
"Flash-Decoding for long-context inference", 2023). A call that returns new keys and values too stores them in a cache first, in a
kernel of its own that scatters them token by token.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from shmoo.estimators.machine.coefficients import Coefficients, algorithm_codes
from shmoo.estimators.machine.profile import ArchitectureProfile
from shmoo.estimators.table import READ_ACTIVATION, WRITE, Floats, KernelTable
from shmoo.estimators.tiling.base import (
    Blocks,
    TileShape,
    Tiling,
    ceil_div,
    compulsory_traffic,
    element_bytes,
    overlapped,
)
from shmoo.estimators.tiling.gpu.blocks import ACCUMULATOR_BYTES, fastest, level_speeds
from shmoo.estimators.tiling.gpu.library import TensorKernels
from shmoo.estimators.tiling.gpu.tensor import unit_peaks

STEP = 64.0
"""Keys that a block takes at once."""
SINGLE = 16.0
"""Rows of a block where every sequence has a single query: the smallest tile that tensor cores multiply."""
SPLITS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
"""Parts into which the keys may be split."""


@dataclass(frozen=True, slots=True)
class _Walk:
    """How blocks share the queries and keys of every kernel; (K,) each.

    Attributes:
        rows: that a block computes, heads of a group included. queries: that are of use, at most. keys: that it walks on average.
        blocks, pieces: in all, and parts of the keys. busiest: blocks' worth of work of the busiest multiprocessor.
        issued: scores that all blocks compute, padding included. same_keys: blocks that walk the same keys.
    """

    rows: np.ndarray
    queries: np.ndarray
    blocks: np.ndarray
    pieces: np.ndarray
    keys: np.ndarray
    busiest: np.ndarray
    issued: np.ndarray
    same_keys: np.ndarray


def _walk(
    table: KernelTable, profile: ArchitectureProfile, kernels: TensorKernels, rows: np.ndarray | float, part: np.ndarray
) -> _Walk:
    multiprocessors = profile.value("count.sms")
    group = np.maximum(table.group, 1.0)
    shared = np.where(kernels.packs | (table.m == 1), group, 1.0)
    queries, heads = table.m * shared, table.batch / shared
    least = np.where(table.m == 1, SINGLE, kernels.least)
    tile = np.minimum(rows, least * ceil_div(queries, least))
    over = ceil_div(queries, tile)
    # Behind the diagonal of a causal mask a block has nothing to do: the i-th of them walks as far as its last query sees.
    reach = table.n - table.m + tile * (over + 1.0) / 2.0 / shared
    seen = np.where(table.causal > 0, np.minimum(reach, table.n), table.n)
    pieces = ceil_div(table.n, part)
    keys = STEP * ceil_div(seen / pieces, STEP)
    blocks = heads * over * pieces
    # Long blocks start first, so that short ones fill the gaps; equal ones come in whole rounds.
    even = np.maximum(blocks / multiprocessors, np.minimum(table.n / np.maximum(seen, 1.0), over))
    busiest = np.where(seen < table.n, even, ceil_div(blocks, multiprocessors))
    return _Walk(tile, np.minimum(queries, tile), blocks, pieces, keys, busiest, blocks * tile * keys, over)


def _regroups(table: KernelTable, kernels: TensorKernels) -> np.ndarray:
    """(K,) single queries whose heads are brought into groups by copies: kernels of FlashAttention 2 take a group for a sequence
    (`seqlenq_ngroups_swapped` in `mha_varlen_fwd`). A single group lies in this order already. On an L40S vLLM's short calls take
    9.0 us with one group and 12.8 with several, on an A100 12.8 and 19.0, on an H100 12.0 and 11.8, on a B200 6.2 and 6.1 (NVIDIA
    AIConfigurator, 2026)."""
    groups = table.batch / np.maximum(table.group, 1.0) / table.images
    regroups: np.ndarray = (table.m == 1) & (table.group > 1) & (groups > 1) & kernels.regroups
    return regroups


def _blocks(table: KernelTable, walk: _Walk, kernels: TensorKernels, pace: float | np.ndarray) -> Blocks:
    size = element_bytes(table)
    row = 2.0 * table.k * size
    # Keys and values come in, and so do queries, as which results go out.
    staged = walk.busiest * (walk.keys + walk.queries) * row
    in_flight = np.minimum(2.0 * STEP, walk.keys) * row
    reuse = walk.rows * STEP / (walk.rows + STEP)
    scores = table.batch * table.m * table.n
    filled = np.minimum(scores / walk.issued, 1.0)
    skipped = np.maximum(1.0 - walk.issued / scores, 0.0)
    at_work = walk.rows * STEP
    stored = _stored(table)
    regrouped = np.where(_regroups(table, kernels) & (stored > 0), table.batch * table.m * table.k * size, 0.0)
    return Blocks(reuse, walk.keys, at_work, filled, 0.0, staged, in_flight, walk.pieces, skipped, stored, regrouped, pace)


def _stored(table: KernelTable) -> np.ndarray:
    """(K,) bytes of new keys and values, where a call returns them beside its result; sums of its rows are fewer."""
    element = table.k * element_bytes(table)
    new = 2.0 * table.batch / np.maximum(table.group, 1.0) * np.minimum(table.m, table.n) * element
    beside = table.bytes_of_kind(WRITE) - table.batch * table.m * element
    return np.where(np.abs(beside - new) < 1e-6 * new, new, 0.0)


def _traffic(table: KernelTable, walk: _Walk, once: dict[str, np.ndarray], patch: float) -> dict[str, np.ndarray]:
    """Bytes per level. Keys and values cross L2 once for each `patch` of blocks that walk the same keys; results of parts are
    written and read again."""
    size = element_bytes(table)
    loaded = walk.blocks * walk.keys * 2.0 * table.k * size
    partial_sums = np.where(walk.pieces > 1.0, 2.0 * ACCUMULATOR_BYTES * walk.pieces * table.batch * table.m * table.k, 0.0)
    read = table.bytes_of_kind(READ_ACTIVATION)
    requested = loaded * ceil_div(walk.same_keys, patch) / walk.same_keys
    again = np.maximum(requested - read, 0.0) + partial_sums
    multiplied = walk.issued * 4.0 * table.k / np.minimum(walk.rows, STEP) * size
    return {
        **once,
        "shared": once["shared"] + np.maximum(loaded - read, 0.0) + partial_sums + multiplied,
        "l2": once["l2"] + again,
    }


def choose_flash(table: KernelTable, profile: ArchitectureProfile, kernels: TensorKernels) -> TileShape:
    """Rows of queries in a block (m), keys that it walks (n) and the width (k), with which the model's own time is least."""
    clock, multiprocessors = profile.value("clock"), profile.value("count.sms")
    c = Coefficients(profile)
    own = partial(c.by_algorithm, algorithm_codes(table, profile))
    rate = unit_peaks("matrix", table.dtype, profile) * own("efficiency")
    speeds = level_speeds(profile, own)
    once, pace = compulsory_traffic(table, profile), kernels.pace(profile)

    def offer(rows: Floats, split: Floats) -> tuple[Floats, Floats]:
        part = np.maximum(STEP * ceil_div(table.n / split, STEP), STEP)
        walk = _walk(table, profile, kernels, rows, part)
        offered = (split == 1) | ((walk.blocks / walk.pieces < multiprocessors) & (part >= 2.0 * STEP))
        blocks = _blocks(table, walk, kernels, pace)
        done = table.matrix_flops * (1.0 - blocks.skipped)
        math = done / (rate * _useful(walk, blocks, multiprocessors)) * blocks.ramp(own)
        times = [math, *(n / speeds[level] for level, n in _traffic(table, walk, once, kernels.patch).items())]
        times.append(blocks.fetch_seconds(own, clock))
        time = overlapped(times, own("overlap")) + own("tile_overhead") * np.ceil(walk.busiest) + blocks.split_seconds(own)
        return np.where(offered, time, np.inf), part

    rows, _, part = fastest(list(itertools.product(kernels.rows, SPLITS)), table.n, profile, offer)
    return TileShape(rows, part, table.k + np.zeros_like(part))


def _useful(walk: _Walk, blocks: Blocks, multiprocessors: float | np.ndarray) -> np.ndarray:
    """(K,) useful share of what all multiprocessors could do while the busiest one works."""
    busy = walk.blocks / (walk.busiest * multiprocessors)
    return np.minimum(busy, 1.0) * blocks.filled


def with_flash(
    tiling: Tiling, attends: np.ndarray, table: KernelTable, profile: ArchitectureProfile, kernels: TensorKernels
) -> Tiling:
    """A tiling with the blocks and traffic of fused attention at the rows of a mask."""
    shape = tiling.shape
    walk = _walk(table, profile, kernels, shape.m, shape.n)
    blocks = _blocks(table, walk, kernels, kernels.pace(profile))
    traffic = _traffic(table, walk, compulsory_traffic(table, profile), kernels.patch)

    def there(own: np.ndarray, other: np.ndarray) -> np.ndarray:
        return np.where(attends, own, other)

    return replace(
        tiling,
        tiles=there(walk.blocks, tiling.tiles),
        waves=there(np.ceil(walk.busiest), tiling.waves),
        utilisation=there(_useful(walk, blocks, profile.value("count.sms")), tiling.utilisation),
        level_bytes={level: there(traffic[level], nbytes) for level, nbytes in tiling.level_bytes.items()},
        state_bytes=there(
            ACCUMULATOR_BYTES * walk.rows * table.k + 4.0 * STEP * table.k * element_bytes(table), tiling.state_bytes
        ),
        blocks=None if tiling.blocks is None else tiling.blocks.replaced(attends, blocks),
    )
