"""KPU: output tiles of the fabric's own size; the wavefront of the recurrence is the only state that stays.

The product is a system of uniform recurrences with schedule [1, 1, 1] (`recurrences.matmul`). Projected along k onto an array
of R x C processing elements, an output tile of R x C takes k + R + C - 2 steps and its state is the tokens on the array: the
tile follows the concurrency of the fabric and not its memory. Tiles of one launch follow each other without draining. The
streaming memories only decide how often operands come from the next level: either panels of an operand stay there, or a block of
results recirculates from there while slices of the reduction stream past, whichever reads less from main memory.
Factorizations are the recurrence of `recurrences.lu`: their wavefront shrinks, and is folded onto the fabric step by step, but
never takes less than the schedule's latency; triangular systems likewise. Sums, norms and softmax are chains along their rows
(`recurrences.reduction`, `layer_norm`, `softmax`), re-indexed in parts where the fabric has elements to spare, and so are the
reductions of products with few outputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache, reduce

import numpy as np

from shmoo.estimators.machine.profile import ArchitectureProfile
from shmoo.estimators.table import Floats, KernelTable, op_code
from shmoo.estimators.tiling.base import (
    TILINGS,
    Operands,
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
from shmoo.estimators.tiling.recurrences import RecurrenceSystem, layer_norm, lu, softmax, triangular_solve

TOKENS = 3
"""Tokens of one processing element: a, b and c of the matmul recurrence."""
_CHAINS = {"softmax": len(softmax(1, 1).phases), "normalization": len(layer_norm(1, 1).phases), "pooling": 1}
"""Family -> chains along a row, one after the other."""
_TRIANGLES = {"linalg_solve_triangular": 1, "triangular_solve": 1, "linalg_lu_solve": 2, "cholesky_solve": 2}
"""Operator -> triangular systems that it solves, one after the other."""
_ACCUMULATOR_BYTES = 4.0


_BLOCK_SHARES = (1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125)
"""Shares of the last memory on chip that a block of results may take."""
_HIDDEN_SHARE = 0.25
"""Share of the computing time that moving a block to the fabric and back may take where main memory takes less; that much almost
hides behind the others."""


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
        pays one fill and drain for each part, since the partial sums leave the array and return. Where output tiles leave others
        idle, these take a part of k each, and the partial sums chain across them: K / S + S - 1 steps in S parts. Attention takes
        its two products and the softmax of its scores in turn.
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
        along_m, along_n = np.minimum(np.minimum(rows, shape.m), table.m), np.minimum(np.minimum(cols, shape.n), table.n)
        # Outputs of a single column lie in the rows of as many columns of the array as they need.
        skew = np.where(table.n > 1, along_m + along_n, np.minimum(along_m, array_rows) + ceil_div(along_m, array_rows)) - 2.0
        lanes = fabric * array_rows * array_cols
        steps = rounds * table.k if self.tile_k else _reduction_steps(table.k, outputs * folds, fabric, most_rounds=1)
        steps, live = _with_factorizations(table, steps + over_k * skew, lanes)
        work = table.matrix_flops / 2.0
        elements = table.batch * table.m * table.n
        chains = _chains(table)
        along_rows = _reduction_steps(table.n, table.batch * table.m, lanes)
        products = passes(table) * steps
        if table.is_family("attention").any():
            products = np.where(table.is_family("attention"), _attention(table, profile, steps), products)
        cycles = np.where(contracts, products, np.where(chains > 0, chains * along_rows, np.nan))
        stream_fill = np.where(chains > 0, elements / along_rows, elements / ceil_div(elements, lanes)) / lanes
        utilisation = np.where(contracts, work / (np.where(contracts, cycles, 1.0) * lanes), stream_fill)
        cycles = cycles * np.where(contracts, structural_rate(table, profile, 2.0 * lanes), 1.0)
        size = element_bytes(table)
        tokens = TOKENS * size * np.minimum(shape.m, rows) * np.minimum(shape.n, cols) * fabric
        # The rows of several chains are kept between them.
        kept_values = np.where(chains > 1, np.minimum(table.batch * table.m, lanes) * table.n, 0.0)
        kept_bytes = np.minimum(size * kept_values, profile.value("capacity.l3"))
        traffic, recirculating = self._traffic(table, profile, shape)
        state = np.where(contracts, np.where(live > 0, size * live, tokens) + recirculating, size * lanes + kept_bytes)
        tiles = np.where(contracts, outputs * over_k, ceil_div(elements, array_rows * array_cols))
        waves = np.where(contracts, rounds * over_k, ceil_div(elements, lanes))
        return Tiling(shape, tiles, waves, utilisation, traffic, state, cycles)

    def _traffic(
        self, table: KernelTable, profile: ArchitectureProfile, shape: TileShape
    ) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Bytes per level, and (K,) bytes of results that recirculate from the last level on chip.

        Through the streamers (l1, l2) go every tile's operands; beyond, what blocks of the level make read again.
        """
        sizes = operands(table)
        share = np.minimum(passes(table), 1.0)
        traffic = compulsory_traffic(table, profile)
        streamed_bytes = sizes.a * (ceil_div(table.n, shape.n) - 1) + sizes.b * (ceil_div(table.m, shape.m) - 1)
        # Neighbouring tiles of the fabric pass operands on, so the L2 feeds its edges only: a square of tiles acts as one array.
        side = np.floor(np.sqrt(profile.value("count.tiles", 1.0)))
        at_edges = sizes.a * (ceil_div(table.n, side * shape.n) - 1) + sizes.b * (ceil_div(table.m, side * shape.m) - 1)
        levels = profile.levels
        for nearer_level, level in zip((None, *levels[:-1]), levels, strict=True):
            extra_bytes = streamed_bytes if nearer_level is None else at_edges
            if nearer_level is not None and nearer_level != levels[0]:
                extra_bytes = at_edges = np.minimum(
                    at_edges, _output_stationary(table, shape, profile.value(f"capacity.{nearer_level}"))
                )
            traffic[level] = traffic[level] + extra_bytes * share
        if len(levels) < 3:
            return traffic, np.zeros(len(table))
        return _with_recirculation(table, profile, shape, traffic, at_edges * share)


def _with_recirculation(
    table: KernelTable, profile: ArchitectureProfile, shape: TileShape, traffic: dict[str, np.ndarray], repeated_bytes: np.ndarray
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Traffic where a block of results stays in the last memory on chip and slices of k stream past it, for the products whose
    main-memory traffic this lowers while the nearer levels stay hidden; and (K,) bytes of that block, the wavefront's state in
    memory.

    With blocks of M x N in that memory, operands come from the main memory n / N and m / M times. Two slices of the operands are
    in the memory before it, or beside the block where more is left there; the block goes to the fabric and back once for each. So
    a block of half of the memory reads operands more often and passes the fabric less often than one of all of it.

    Args:
        repeated_bytes: bytes that main memory serves again without such blocks.
    """
    stream_level, block_level, main_memory = profile.levels[-3:]
    sizes, size, share = operands(table), element_bytes(table), np.minimum(passes(table), 1.0)
    accumulator_bytes = np.maximum(size, _ACCUMULATOR_BYTES)
    capacity = profile.value(f"capacity.{block_level}")

    best_traffic, block_bytes = traffic, np.zeros(len(table))
    lanes = profile.value("count.tiles", 1.0) * profile.value("array.rows") * profile.value("array.cols")
    compute_s = table.matrix_flops / (2.0 * lanes * profile.value("clock"))
    for block_share in _BLOCK_SHARES:
        m, n = _least_traffic_block(table, shape, sizes, block_share * capacity / accumulator_bytes)
        slices = np.maximum(profile.value(f"capacity.{stream_level}"), capacity - accumulator_bytes * m * n)
        depth = np.minimum(slices / (2.0 * size * (m + n)), table.k)
        blocks = sizes.a * (ceil_div(table.n, n) - 1.0) + sizes.b * (ceil_div(table.m, m) - 1.0)
        turns = ceil_div(table.k, np.maximum(np.floor(depth), 1.0)) - 1.0
        passing_bytes = 2.0 * accumulator_bytes * table.batch * table.m * table.n * turns * share
        new_traffic = {level: traffic[level] + passing_bytes for level in profile.levels[:-1]}
        new_traffic[main_memory] = traffic[main_memory] - repeated_bytes + blocks * share
        fits = (depth >= np.minimum(shape.m, table.k)) & (accumulator_bytes * m * n <= capacity)
        fits = fits & (table.matrix_flops > 0) & ~table.is_family("linalg")
        passing_s = passing_bytes / reduce(np.minimum, (profile.value(f"bandwidth.{level}") for level in profile.levels[:-1]))
        is_hidden = passing_s <= np.maximum(
            new_traffic[main_memory] / profile.value(f"bandwidth.{main_memory}"), _HIDDEN_SHARE * compute_s
        )
        is_better = fits & is_hidden & (new_traffic[main_memory] < best_traffic[main_memory])
        best_traffic = {level: np.where(is_better, new_traffic[level], best_traffic[level]) for level in profile.levels}
        block_bytes = np.where(is_better, accumulator_bytes * m * n, block_bytes)
    return best_traffic, block_bytes


def _least_traffic_block(table: KernelTable, shape: TileShape, sizes: Operands, room: float | Floats) -> tuple[Floats, Floats]:
    """(K,) rows and columns of the blocks of at most `room` results that minimize the reads of operands: about square, a whole
    number of blocks along both sides."""
    edge = np.sqrt(room)
    least_bytes, rows, columns = (np.zeros(np.broadcast_shapes(np.shape(edge), table.m.shape)) for _ in range(3))
    least_bytes += np.inf
    for along_n in (False, True):
        sides = (table.m, shape.m), (table.n, shape.n)
        (first_extent, tile), (second_extent, second_tile) = reversed(sides) if along_n else sides
        for pieces in (np.maximum(np.floor(first_extent / edge), 1.0), ceil_div(first_extent, edge)):
            first_side = _piece_length(first_extent, pieces, tile)
            longest_side = np.maximum(np.floor(room / first_side / second_tile) * second_tile, second_tile)
            second_side = _piece_length(second_extent, ceil_div(second_extent, longest_side), second_tile)
            m, n = (second_side, first_side) if along_n else (first_side, second_side)
            read_bytes = sizes.a * ceil_div(table.n, n) + sizes.b * ceil_div(table.m, m)
            is_less = read_bytes < least_bytes
            least_bytes, rows, columns = (
                np.where(is_less, new_value, old_value)
                for new_value, old_value in ((read_bytes, least_bytes), (m, rows), (n, columns))
            )
    return rows, columns


def _piece_length(extent: Floats, pieces: Floats, tile: Floats) -> Floats:
    """Length of equal pieces of an extent, in whole tiles."""
    return np.minimum(ceil_div(ceil_div(extent, pieces), tile) * tile, extent)


def _reduction_steps(length: Floats, copies: Floats, places: float | Floats, most_rounds: int = 8) -> Floats:
    """(K,) steps of `copies` reductions on `places`, each holding one chain at a time: in as many parts as are free, up to the
    best (`recurrences.reduction`, parts + length / parts - 1), and in up to `most_rounds` times the rounds that they need."""
    steps = np.full(np.broadcast_shapes(np.shape(length), np.shape(copies), np.shape(places)), np.inf)
    least_rounds = ceil_div(copies, places)
    for factor in (1, 2, 4, 8):
        if factor > most_rounds:
            break
        rounds = np.minimum(least_rounds * factor, copies)
        chains = np.clip(np.floor(places / ceil_div(copies, rounds)), 1.0, np.ceil(np.sqrt(length)))
        steps = np.minimum(steps, rounds * (chains + ceil_div(length, chains) - 1.0))
    return steps


def _attention(table: KernelTable, profile: ArchitectureProfile, score_steps: Floats) -> Floats:
    """(K,) cycles of attention: scores, softmax along the keys, values. The first product, (m, n, k), takes `score_steps`; the
    second one, (m, k, n), reduces over the keys."""
    fabric = profile.value("count.tiles", 1.0)
    rows, cols = profile.value("array.rows"), profile.value("array.cols")
    outputs = table.batch * ceil_div(table.m, rows) * ceil_div(table.k, cols)
    value_steps = (
        _reduction_steps(table.n, outputs, fabric, most_rounds=1) + np.minimum(rows, table.m) + np.minimum(cols, table.k) - 2.0
    )
    softmax_steps = _CHAINS["softmax"] * _reduction_steps(table.n, table.batch * table.m, fabric * rows * cols)
    # A kernel's flops may hold more than the two products (projections) or fewer (causal masks).
    return passes(table) / 2.0 * (score_steps + value_steps) + softmax_steps


def _chains(table: KernelTable) -> np.ndarray:
    """(K,) chains that go along each row of a kernel in turn; 0 where its elements do not depend on each other."""
    chains = sum(count * table.is_family(family) for family, count in _CHAINS.items())
    return np.where(table.is_family("normalization") & ~takes_statistics(table), 0, chains)


def _with_factorizations(table: KernelTable, steps: np.ndarray, lanes: float | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`steps` of every contraction, replaced by those of its recurrence for factorizations and triangular systems; and (K,) live
    values on the fabric for these, 0 for others.

    A factorization (m, n) with k = min(m, n) visits fewer points than its box; the operations at each point, more than one for
    rotations, fewer where a symmetric half is left out, are in the kernel's own count of flops (`passes`), which relates to the
    box. However few they are, none takes less than the latency of the schedule.
    """
    is_dense = table.is_family("linalg") & (table.matrix_flops > 0)
    result, live_values, box_passes = steps + np.zeros_like(lanes * table.m), np.zeros(len(table)), passes(table)
    triangles = {op_code(f"aten.{name}"): count for name, count in _TRIANGLES.items()}
    for row in np.flatnonzero(is_dense):
        m, n, k, copies = (int(column[row]) for column in (table.m, table.n, table.k, table.batch))
        count = triangles.get(int(table.op[row]), 0)
        if not count and k != min(m, n):
            continue
        share = float(box_passes[row])
        foldings = [_folded_recurrence(count, m, n, copies, int(elements)) for elements in np.ravel(lanes)]
        steps_by_lanes = [count * folded_steps / share if count else max(folded_steps * m * n * k / points, latency / share)
                 for points, folded_steps, latency, _ in foldings]  # fmt: skip
        result[..., row] = np.reshape(steps_by_lanes, np.shape(lanes)[:-1])
        live_values[row] = min(foldings[0][3], TOKENS * float(np.min(lanes)))
    return result, live_values


@lru_cache(maxsize=1024)
def _folded_recurrence(triangles: int, m: int, n: int, copies: int, lanes: int) -> tuple[int, int, int, int]:
    """Of the recurrence of an (m, n) factorization, or of a triangular system of m with n columns: points, steps of `copies` of
    it on a fabric of `lanes` elements, latency, and values alive."""
    system: RecurrenceSystem = triangular_solve(m, n) if triangles else lu(m, n)
    return system.phases[0].points, system.steps_on(lanes, copies), system.latency, system.live_values


def _extents(table: KernelTable, profile: ArchitectureProfile) -> tuple[np.ndarray, np.ndarray]:
    """(K,) outputs along m and n that one tile of the fabric computes at once. With a single output column a group (depthwise)
    every element chains the window of its own output, so the columns take further rows, where other tiles have no room left."""
    rows, cols = profile.value("array.rows"), profile.value("array.cols")
    has_columns = table.n > 1
    further = np.clip(ceil_div(table.batch * ceil_div(table.m, rows), profile.value("count.tiles", 1.0)), 1.0, cols)
    return np.where(has_columns, rows, rows * further), np.where(has_columns, cols, 1.0)


def _output_stationary(table: KernelTable, shape: TileShape, capacity: float) -> np.ndarray:
    """(K,) bytes read again behind a level of this capacity.

    T rows of A stay, with two buffers of k x tile columns of B: s (T k + 2 k C) <= capacity. A is read once and B for every T
    rows, or the other way round, whichever is less; an operand that fits beside the buffers is read once.
    """
    size = element_bytes(table)
    sizes = operands(table)

    def again(passing_bytes: Floats, extent: Floats, tile: Floats, other_tile: Floats) -> Floats:
        # The operand that stays is cut into blocks of its rows; the one that passes is read once for each.
        block = np.maximum(capacity / (size * table.k) - 2.0 * other_tile, np.minimum(tile, extent))
        fits = passing_bytes / np.maximum(table.batch, 1.0) + 2.0 * size * table.k * tile <= capacity
        return np.where(fits, 0.0, passing_bytes * (ceil_div(extent, block) - 1))

    rows_stay = again(sizes.b, table.m, shape.m, shape.n)
    columns_stay = again(sizes.a, table.n, shape.n, shape.m)
    return np.minimum(rows_stay, columns_stay)
