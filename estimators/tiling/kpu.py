"""KPU: output tiles of the fabric's own size; the wavefront of the recurrence is the only state that stays.

The product is a system of uniform recurrences with schedule [1, 1, 1] (`recurrences.matmul`). Projected along k onto an array
of R x C processing elements, an output tile of R x C takes k + R + C - 2 steps and its state is the tokens on the array: the
tile follows the concurrency of the fabric and not its memory. Tiles of one launch follow each other without draining. The
streaming memories only decide how often operands come from the level behind. Factorisations are the recurrence of
`recurrences.lu`: their wavefront shrinks, and is folded onto the fabric step by step. Sums, norms and softmax are chains along
their rows (`recurrences.reduction`, `layer_norm`, `softmax`): a step an element, for as many rows at once as there are elements.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

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
    operands,
    passes,
    structural_rate,
    takes_statistics,
)
from shmoo.estimators.tiling.recurrences import layer_norm, lu, softmax

TOKENS = 3
"""Tokens of one processing element: a, b and c of the matmul recurrence."""
_CHAINS = {"softmax": len(softmax(1, 1).phases), "normalization": len(layer_norm(1, 1).phases), "pooling": 1}
"""Family -> chains along a row, one after the other."""


@TILINGS.register("kpu_wavefront")
@dataclass(frozen=True, slots=True, kw_only=True)
class KpuWavefront:
    """Output-stationary tiles of R x C on a fabric of P tiles.

    Args:
        tile_m, tile_n, tile_k: extents set by hand; `None` takes the array's, and streams the whole of k.
    """

    tile_m: float | None = None
    tile_n: float | None = None
    tile_k: float | None = None

    def __post_init__(self) -> None:
        check_tile(tile_m=self.tile_m, tile_n=self.tile_n, tile_k=self.tile_k)

    def choose(self, table: KernelTable, profile: ArchitectureProfile) -> TileShape:
        """The array's extents; k is streamed."""
        rows, cols = _extents(table, profile)
        return clip_shape(table, self.tile_m or rows, self.tile_n or cols, self.tile_k or table.k)

    def apply(self, table: KernelTable, profile: ArchitectureProfile, shape: TileShape) -> Tiling:
        """Cycles of the wavefront, and traffic of output-stationary blocks through the streaming memories.

        cycles = q K + min(R, M) + min(C, N) - 2 with q = ceil(output tiles / P) rounds: fill and drain are paid once. A cut k
        pays one fill and drain for each part, since the partial sums leave the array and return.
        """
        fabric = profile.value("count.tiles", 1.0)
        array_rows, array_cols = profile.value("array.rows"), profile.value("array.cols")
        contracts = table.matrix_flops > 0
        over_m, over_n, over_k = ceil_div(table.m, shape.m), ceil_div(table.n, shape.n), ceil_div(table.k, shape.k)
        outputs = over_m * over_n * table.batch
        rows, cols = _extents(table, profile)
        # A tile set by hand that is larger than the array takes several passes of it.
        folds = ceil_div(shape.m, rows) * ceil_div(shape.n, cols)
        rounds = ceil_div(outputs * folds, fabric)
        skew = np.minimum(np.minimum(rows, shape.m), table.m) + np.minimum(np.minimum(cols, shape.n), table.n) - 2.0
        lanes = fabric * array_rows * array_cols
        steps = _factorised(table, rounds * table.k + over_k * skew, lanes)
        work = table.matrix_flops / 2.0
        elements = table.batch * table.m * table.n
        chains, rows_at_once = _chains(table), ceil_div(table.batch * table.m, lanes)
        cycles = np.where(contracts, passes(table) * steps, np.where(chains > 0, chains * table.n * rows_at_once, np.nan))
        streamed = np.where(chains > 0, table.batch * table.m / rows_at_once, elements / ceil_div(elements, lanes)) / lanes
        utilisation = np.where(contracts, work / (np.where(contracts, cycles, 1.0) * lanes), streamed)
        cycles = cycles * np.where(contracts, structural_rate(table, profile, 2.0 * lanes), 1.0)
        size = element_bytes(table)
        state = np.where(contracts, TOKENS * size * np.minimum(shape.m, rows) * np.minimum(shape.n, cols) * fabric, size * lanes)
        tiles = np.where(contracts, outputs * over_k, ceil_div(elements, array_rows * array_cols))
        waves = np.where(contracts, rounds * over_k, ceil_div(elements, lanes))
        return Tiling(shape, tiles, waves, utilisation, self._traffic(table, profile, shape), state, cycles)

    def _traffic(self, table: KernelTable, profile: ArchitectureProfile, shape: TileShape) -> dict[str, np.ndarray]:
        """Bytes per level: through the streamers (l1, l2) every tile's operands; beyond, what blocks of the level make read
        again."""
        used = operands(table)
        share = np.minimum(passes(table), 1.0)
        traffic = compulsory_traffic(table, profile)
        streamed = used.a * (ceil_div(table.n, shape.n) - 1) + used.b * (ceil_div(table.m, shape.m) - 1)
        # Neighbouring tiles of the fabric pass operands on, so the L2 feeds its edges only: a square of tiles acts as one array.
        side = np.floor(np.sqrt(profile.value("count.tiles", 1.0)))
        at_edges = used.a * (ceil_div(table.n, side * shape.n) - 1) + used.b * (ceil_div(table.m, side * shape.m) - 1)
        levels = profile.levels
        for nearer, level in zip((None, *levels[:-1]), levels, strict=True):
            extra = streamed if nearer is None else at_edges
            if nearer is not None and nearer != levels[0]:
                extra = at_edges = np.minimum(at_edges, _output_stationary(table, shape, profile.value(f"capacity.{nearer}")))
            traffic[level] = traffic[level] + extra * share
        return traffic


def _chains(table: KernelTable) -> np.ndarray:
    """(K,) chains that go along each row of a kernel in turn; 0 where its elements do not depend on each other."""
    chains = sum(count * table.is_family(family) for family, count in _CHAINS.items())
    return np.where(table.is_family("normalization") & ~takes_statistics(table), 0, chains)


def _factorised(table: KernelTable, steps: np.ndarray, lanes: float | np.ndarray) -> np.ndarray:
    """`steps` of every contraction of the full box, or of the recurrence of a factorisation where the kernel is one.

    A factorisation (m, n) with k = min(m, n) visits fewer points than its box; the operations at each point, more than one for
    rotations, are in the kernel's own count of flops (`passes`), which relates to the box.
    """
    triangular = table.is_family("linalg") & (table.matrix_flops > 0) & (table.k == np.minimum(table.m, table.n))
    result = steps.copy()
    for row in np.flatnonzero(triangular):
        m, n, copies = int(table.m[row]), int(table.n[row]), int(table.batch[row])
        folded = [_folded_factorisation(m, n, copies, int(elements)) for elements in np.ravel(lanes)]
        box = [steps_taken * (m * n * min(m, n) / points) for points, steps_taken in folded]
        result[..., row] = np.reshape(box, np.shape(lanes)[:-1])
    return result


@lru_cache(maxsize=1024)
def _folded_factorisation(m: int, n: int, copies: int, lanes: int) -> tuple[int, int]:
    """Points of the recurrence of an (m, n) factorisation, and steps of `copies` of it on a fabric of `lanes` elements."""
    system = lu(m, n)
    (recurrence,), (schedule,) = system.phases, system.schedules
    return recurrence.points, schedule.steps_on(recurrence, lanes, copies)


def _extents(table: KernelTable, profile: ArchitectureProfile) -> tuple[np.ndarray, np.ndarray]:
    """(K,) outputs along m and n that one tile of the fabric computes at once. With a single output column a group (depthwise)
    every element chains the window of its own output, so the columns take further rows."""
    rows, cols = profile.value("array.rows"), profile.value("array.cols")
    wide = table.n > 1
    return np.where(wide, rows, rows * cols), np.where(wide, cols, 1.0)


def _output_stationary(table: KernelTable, shape: TileShape, capacity: float) -> np.ndarray:
    """(K,) bytes read again behind a level of this capacity.

    T rows of A stay, with two buffers of k x tile columns of B: s (T k + 2 k C) <= capacity. A is read once and B for every T
    rows, or the other way round, whichever is less; an operand that fits beside the buffers is read once.
    """
    size = element_bytes(table)
    used = operands(table)

    def again(passing: Floats, extent: Floats, tile: Floats, other: Floats) -> Floats:
        # The operand that stays is cut into blocks of its rows; `passing` is read once for each.
        block = np.maximum(capacity / (size * table.k) - 2.0 * other, np.minimum(tile, extent))
        fits = passing / np.maximum(table.batch, 1.0) + 2.0 * size * table.k * tile <= capacity
        return np.where(fits, 0.0, passing * (ceil_div(extent, block) - 1))

    rows_stay = again(used.b, table.m, shape.m, shape.n)
    columns_stay = again(used.a, table.n, shape.n, shape.m)
    return np.minimum(rows_stay, columns_stay)
