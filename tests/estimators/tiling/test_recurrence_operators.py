"""Operators run as their recurrences, point by point in the order of their schedules: the numbers come out, on time.

Every operator of `recurrences.py` is here or, the factorizations, in `test_recurrences.py`.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest

from shmoo.estimators.errors import InputError
from shmoo.estimators.tiling import KpuWavefront
from shmoo.estimators.tiling import recurrences as rec
from tests.estimators.tiling.test_recurrences import earliest, points_of, run_in_order
from tests.estimators.tiling.test_tiling import cut, fabric, products

SYSTEMS = (
    rec.matmul(3, 4, 5),
    rec.conv2d(2, 2, 3, 2, 2, (1, 2), 4),
    rec.elementwise(7),
    rec.conv2d(2, 2, 3, 4, 2, (2, 2), 4, stride=2, dilation=3, groups=2),
    rec.matmul(2, 3, 8, parts=3),
    rec.reduction(3, 5),
    rec.reduction(3, 10, parts=4),
    rec.softmax(2, 9, parts=3),
    rec.layer_norm(2, 6, parts=2),
    rec.attention(2, 5, 3, parts=2),
    rec.triangular_solve(5, 3),
    rec.cholesky(4),
    rec.softmax(3, 5),
    rec.softmax(3, 5, is_skewed=True),
    rec.layer_norm(3, 5),
    rec.attention(2, 3, 4),
    rec.lu(4, 3),
    rec.qr(3, 4),
)
RNG = np.random.default_rng(0)


def phases(system):
    return zip(system.phases, system.schedules, strict=True)


def step_of(schedule, point):
    return sum(t * x for t, x in zip(schedule.tau, point, strict=True))


@pytest.mark.parametrize("system", SYSTEMS, ids=lambda system: system.name)
def test_schedules_are_valid_and_no_order_is_faster(system):
    """Every dependence advances time, and the longest chain of them, searched for point by point, is as long as the schedule."""
    for recurrence, schedule in phases(system):
        assert schedule.is_valid(recurrence)
        assert schedule.latency(recurrence) == max(earliest(recurrence).values()) + 1
    assert system.latency == system.skew + sum(schedule.latency(recurrence) for recurrence, schedule in phases(system))


@pytest.mark.parametrize("system", SYSTEMS, ids=lambda system: system.name)
def test_wavefronts_and_live_tokens_are_those_of_counting(system):
    """Points at each step; and the tokens, one for each point and dependence, that are made but not yet past their use."""
    for recurrence, schedule in phases(system):
        steps = Counter(step_of(schedule, p) for p in points_of(recurrence))
        begin, latency = min(steps), schedule.latency(recurrence)
        assert schedule.wavefront(recurrence).tolist() == [steps[begin + t] for t in range(latency)]
        alive = Counter(
            time
            for p, d in itertools.product(points_of(recurrence), recurrence.dependences)
            for time in range(step_of(schedule, p), step_of(schedule, p) + step_of(schedule, d))
        )
        assert schedule.live_tokens(recurrence) == max(alive.values(), default=0)


def test_a_schedule_that_breaks_a_dependence_is_refused():
    """Each zero or negative component of tau breaks the dependence along its axis, of every operator that has one there."""
    for system in SYSTEMS:
        for recurrence, schedule in phases(system):
            for axis, value in itertools.product(range(len(schedule.tau)), (0, -1)):
                broken = rec.Schedule((*schedule.tau[:axis], value, *schedule.tau[axis + 1 :]))
                if any(d[axis] for d in recurrence.dependences):
                    with pytest.raises(InputError, match="not valid"):
                        rec.RecurrenceSystem("broken", (recurrence,), (broken,))
                else:
                    assert broken.is_valid(recurrence)


def test_a_schedule_of_another_rank_or_none_is_refused():
    """A schedule has a component for each axis, a phase a schedule."""
    (product,) = rec.matmul(2, 2, 2).phases
    with pytest.raises(InputError, match="not valid"):
        rec.RecurrenceSystem("flat", (product,), (rec.Schedule((1, 1)),))
    with pytest.raises(InputError, match="1 phases and 0 schedules"):
        rec.RecurrenceSystem("none", (product,), ())


# --- the numbers


def multiplied(a, b, system=None):
    """A B by its recurrence: a moves along j, b along i, c along k."""
    ((recurrence, schedule),) = phases(system or rec.matmul(len(a), b.shape[1], len(b)))

    def compute(p, known):
        i, j, k = p
        left = a[i, k] if j == 0 else known[i, j - 1, k][0]
        up = b[k, j] if i == 0 else known[i - 1, j, k][1]
        return left, up, (0.0 if k == 0 else known[i, j, k - 1][2]) + left * up

    values = run_in_order(recurrence, schedule, compute)
    return np.array([[values[i, j, len(b) - 1][2] for j in range(b.shape[1])] for i in range(len(a))])


def chained(recurrence, schedule, start, add):
    """(rows, length) running results of a chain along each row: add(result so far, i, j)."""

    def compute(p, known):
        i, j = p
        return add(start if j == 0 else known[i, j - 1], i, j)

    values = run_in_order(recurrence, schedule, compute)
    rows, length = recurrence.extents
    return np.array([[values[i, j] for j in range(length)] for i in range(rows)])


def softmaxed(x):
    """Maximum, exponentials and their sum, scale: a phase uses what the one before left at the ends of its rows."""
    first, second, third = phases(rec.softmax(*x.shape))
    top = chained(*first, -math.inf, lambda so_far, i, j: max(so_far, x[i, j]))[:, -1]
    total = chained(*second, 0.0, lambda so_far, i, j: so_far + math.exp(x[i, j] - top[i]))[:, -1]
    return chained(*third, 0.0, lambda _, i, j: math.exp(x[i, j] - top[i]) / total[i])


def test_matmul_recurrence_multiplies():
    """The last c along k is A B."""
    a, b = RNG.standard_normal((3, 5)), RNG.standard_normal((5, 4))
    assert multiplied(a, b) == pytest.approx(a @ b)


def test_conv2d_recurrence_convolves():
    """The product of the windows with the filters is the convolution summed directly, stride 1, no padding."""
    image, filters = RNG.standard_normal((2, 3, 4, 5)), RNG.standard_normal((2, 3, 2, 2))
    places = list(itertools.product(range(2), range(3), range(4)))
    windows = np.array([image[b, :, y : y + 2, x : x + 2].ravel() for b, y, x in places])
    result = multiplied(windows, filters.reshape(2, -1).T, rec.conv2d(2, 3, 4, 2, 3, (2, 2), 5))
    for row, (b, y, x) in enumerate(places):
        for c in range(2):
            assert result[row, c] == pytest.approx((image[b, :, y : y + 2, x : x + 2] * filters[c]).sum())


def test_elementwise_recurrence_needs_nothing():
    """One step, every point at once."""
    ((recurrence, schedule),) = phases(rec.elementwise(6))
    x = RNG.standard_normal(6)
    values = run_in_order(recurrence, schedule, lambda p, known: (max(x[p[0]], 0.0), len(known)))
    assert [values[i,] for i in range(6)] == [(max(v, 0.0), 0) for v in x]


def test_reduction_recurrence_sums_rows():
    """The end of each chain is its row's sum."""
    x = RNG.standard_normal((3, 5))
    ((recurrence, schedule),) = phases(rec.reduction(3, 5))
    assert chained(recurrence, schedule, 0.0, lambda so_far, i, j: so_far + x[i, j])[:, -1] == pytest.approx(x.sum(1))


def test_reduction_in_parts_sums_rows():
    """Each part's chain starts from nothing; its end joins the sum that comes from the part before."""
    x = RNG.standard_normal((3, 10))
    system = rec.reduction(3, 10, parts=4)
    ((recurrence, schedule),) = phases(system)
    _, parts, length = recurrence.extents

    def compute(p, known):
        i, part, j = p
        place = part * length + j
        own = (known[i, part, j - 1][0] if j else 0.0) + (x[i, place] if place < 10 else 0.0)
        return own, own + (known[i, part - 1, j][1] if part else 0.0)

    values = run_in_order(recurrence, schedule, compute)
    assert [values[i, parts - 1, length - 1][1] for i in range(3)] == pytest.approx(x.sum(1))
    assert system.latency == 4 + 3 - 1


def test_product_in_parts_multiplies():
    """k in parts: partial sums along each, and a chain across their ends."""
    a, b = RNG.standard_normal((2, 7)), RNG.standard_normal((7, 3))
    system = rec.matmul(2, 3, 7, parts=3)
    ((recurrence, schedule),) = phases(system)
    *_, parts, length = recurrence.extents

    def compute(p, known):
        i, j, part, c = p
        place = part * length + c
        own = (known[i, j, part, c - 1][0] if c else 0.0) + (a[i, place] * b[place, j] if place < 7 else 0.0)
        return own, own + (known[i, j, part - 1, c][1] if part else 0.0)

    values = run_in_order(recurrence, schedule, compute)
    result = [[values[i, j, parts - 1, length - 1][1] for j in range(3)] for i in range(2)]
    assert np.array(result) == pytest.approx(a @ b)
    assert system.latency == 2 + 3 + 3 + 3 - 3


def test_triangular_recurrence_solves():
    """y[j, i] = y[j - 1, i] - l[i, j] x[j], with x[j] made on the diagonal and passed along i."""
    n = 6
    lower = np.tril(RNG.standard_normal((n, n))) + n * np.eye(n)
    b = RNG.standard_normal(n)
    ((recurrence, schedule),) = phases(rec.triangular_solve(n))

    def compute(p, known):
        j, i = p
        left = b[i] if j == 0 else known[j - 1, i][0]
        x = left / lower[j, j] if i == j else known[j, i - 1][1]
        return left - lower[i, j] * x, x

    values = run_in_order(recurrence, schedule, compute)
    assert lower @ [values[j, j][1] for j in range(n)] == pytest.approx(b)
    assert rec.triangular_solve(n).latency == 2 * n - 1


def best_parts(length):
    """Parts that a reduction is re-indexed in for the least latency: about the root of its length."""
    return math.isqrt(length - 1) + 1


@pytest.mark.parametrize("length", range(1, 200))
def test_the_best_parts_are_the_best(length):
    """parts + length / parts - 1 over all numbers of parts, with chains in whole steps."""
    latency = [rec.reduction(1, length, parts).latency for parts in (1, best_parts(length))]
    assert latency[1] == min(parts + -(-length // parts) - 1 for parts in range(1, length + 1)) <= latency[0]


@pytest.mark.parametrize(
    ("stride", "dilation", "tall"), [(1, 1, 3), (2, 1, 3), (1, 2, 3), (2, 2, 3), (3, 1, 2), (2, 1, 1), (5, 2, 4)]
)
def test_lines_that_windows_share_are_those_still_to_be_read(stride, dilation, tall):
    """Counted line by line: arrived with the window of a line of outputs, and read by it or a later one."""
    system = rec.conv2d(1, 50, 4, 2, 3, (tall, 1), 6, stride=stride, dilation=dilation)
    at = 20
    arrived = range(at * stride + (tall - 1) * dilation + 1)
    read = {row * stride + tap * dilation for row in range(at, 50) for tap in range(tall)}
    assert system.buffer_values == len(read.intersection(arrived)) * 6 * 3


def test_groups_of_a_convolution_run_side_by_side():
    """Each group is a product of its own channels; the steps are those of one group, the points those of all."""
    whole, grouped = (rec.conv2d(1, 4, 4, 8, 8, (3, 3), 6, groups=groups) for groups in (1, 4))
    assert grouped.latency == 16 + 2 + 2 * 9 - 2
    assert grouped.copies * grouped.phases[0].points == whole.phases[0].points / 4
    assert grouped.steps_on(1) == grouped.copies * grouped.phases[0].points
    with pytest.raises(InputError, match="groups"):
        rec.conv2d(1, 4, 4, 8, 6, (3, 3), 6, groups=4)


def test_softmax_recurrence_normalizes_exponentials():
    """Rows of exp(x) over their sums."""
    x = RNG.standard_normal((3, 5))
    assert softmaxed(x) == pytest.approx(np.exp(x) / np.exp(x).sum(1, keepdims=True))


def test_layer_norm_recurrence_has_mean_0_and_variance_1():
    """Sums and sums of squares in one chain, the normalized row in the next."""
    x = RNG.standard_normal((3, 5))
    sums, normalize = phases(rec.layer_norm(3, 5))
    total = chained(*sums, np.zeros(2), lambda so_far, i, j: so_far + x[i, j] ** np.array([1, 2]))[:, -1] / 5
    mean, variance = total[:, 0], total[:, 1] - total[:, 0] ** 2
    y = chained(*normalize, 0.0, lambda _, i, j: (x[i, j] - mean[i]) / math.sqrt(variance[i]))
    assert y.mean(1) == pytest.approx(np.zeros(3), abs=1e-12)
    assert y.var(1) == pytest.approx(np.ones(3))


def test_attention_recurrence_weighs_values():
    """softmax(Q K') V from the product, the softmax and the product of its phases."""
    q, k, v = RNG.standard_normal((2, 4)), RNG.standard_normal((3, 4)), RNG.standard_normal((3, 4))
    system = rec.attention(2, 3, 4)
    parts = (rec.matmul(2, 3, 4), rec.softmax(2, 3), rec.matmul(2, 4, 3))
    assert system.phases == tuple(phase for part in parts for phase in part.phases)
    weights = np.exp(q @ k.T) / np.exp(q @ k.T).sum(1, keepdims=True)
    assert multiplied(softmaxed(multiplied(q, k.T)), v) == pytest.approx(weights @ v)


# --- on the fabric


@pytest.mark.parametrize(
    ("extents", "side", "tiles"), [((8, 8, 5), 4, 1), ((7, 10, 3), 4, 2), ((3, 9, 6), 4, 4), ((5, 5, 1), 2, 3)]
)
def test_output_tiles_on_a_fabric_take_q_k_and_one_fill_and_drain(extents, side, tiles):
    """Element (i, j) of an array works at point (i, j, k) of its r-th output tile in cycle r K + i + j + k: none works twice in a
    cycle, every operand was passed on the cycle before, and the last cycle is the strategy's."""
    m, n, k = extents
    origins = [(top, left) for top in range(0, m, side) for left in range(0, n, side)]
    # Partly filled tiles first, so that a whole one drains last.
    origins.sort(key=lambda origin: min(side, m - origin[0]) * min(side, n - origin[1]))
    origins = [None] * (-len(origins) % tiles) + origins
    busy, last = set(), 0
    for index, origin in enumerate(origins):
        if origin is None:
            continue
        (top, left), (start, unit) = origin, divmod(index, tiles)
        inside = [(i, j, c) for i in range(min(side, m - top)) for j in range(min(side, n - left)) for c in range(k)]
        for i, j, c in inside:
            cycle = start * k + i + j + c
            assert (unit, i, j, cycle) not in busy
            busy.add((unit, i, j, cycle))
            for before in ((i - 1, j, c), (i, j - 1, c), (i, j, c - 1)):
                if min(before) >= 0:
                    assert (unit, *before[:2], cycle - 1) in busy
            last = max(last, cycle)
    assert len(busy) == m * n * k
    assert cut(KpuWavefront(), products(m, n, k), fabric(tiles, side)).cycles[0] == last + 1
