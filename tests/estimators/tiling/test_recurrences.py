"""Recurrences: schedules, latencies and wavefronts, against brute force over small domains."""

import itertools
from collections import Counter

import numpy as np
import pytest

from shmoo.estimators.errors import InputError
from shmoo.estimators.tiling import recurrences as rec
from shmoo.estimators.tiling.recurrences import Recurrence, Schedule, optimal_schedule

UNIT = ((1, 0, 0), (0, 1, 0), (0, 0, 1))


def brute_wavefront(extents, tau):
    """Points at each value of tau . p, counted one by one."""
    times = [sum(t * x for t, x in zip(tau, p, strict=True)) for p in itertools.product(*map(range, extents))]
    counts = Counter(times)
    return [counts[t] for t in range(min(times), max(times) + 1)]


def matmul_wavefront(m, n, k):
    """Points live at each step of a matmul."""
    system = rec.matmul(m, n, k)
    return system.schedules[0].wavefront(system.phases[0])


def test_schedule_is_valid_when_every_dependence_advances_time():
    """tau . d >= 1 for each d, no less."""
    matmul = Recurrence("matmul", (4, 4, 4), UNIT)
    assert Schedule((1, 1, 1)).is_valid(matmul)
    assert not Schedule((1, 1, 0)).is_valid(matmul)
    assert not Schedule((1, 1)).is_valid(matmul)


@pytest.mark.parametrize(("m", "n", "k"), [(1, 1, 1), (2, 3, 4), (16, 16, 64), (7, 1, 5)])
def test_matmul_takes_m_plus_n_plus_k_less_2(m, n, k):
    """L = 1 + (m - 1) + (n - 1) + (k - 1)."""
    assert rec.matmul(m, n, k).latency == m + n + k - 2
    assert rec.matmul(m, n, k).schedules == (Schedule((1, 1, 1)),)


def test_one_tile_of_16_with_64_deep_takes_94_steps():
    """16 + 16 + 64 - 2."""
    assert rec.matmul(16, 16, 64).latency == 94


@pytest.mark.parametrize("extents", [(3, 4, 5), (1, 6, 2), (5, 5, 5), (2, 9, 4)])
def test_wavefront_of_a_matmul_equals_counting(extents):
    """Every point once."""
    assert matmul_wavefront(*extents).tolist() == brute_wavefront(extents, (1, 1, 1))
    assert matmul_wavefront(*extents).sum() == np.prod(extents)


@pytest.mark.parametrize("tau", [(1, 1, 1), (1, 2, 1), (2, -1, 1), (0, 1, 1)])
def test_wavefront_of_any_schedule_equals_counting(tau):
    """The product of the axes' polynomials counts points for other schedules too."""
    extents = (3, 4, 2)
    assert Schedule(tau).wavefront(Recurrence("box", extents)).tolist() == brute_wavefront(extents, tau)


def test_peak_wavefront_is_quadratic_and_not_cubic():
    """About 3/4 n^2 for a cube; m n when k is at least m + n - 1."""
    assert matmul_wavefront(64, 64, 64).max() / 64**2 == pytest.approx(0.75, rel=0.01)
    assert matmul_wavefront(5, 7, 11).max() == 5 * 7
    assert matmul_wavefront(5, 7, 500).max() == 5 * 7


def test_state_of_a_matmul_does_not_grow_with_k():
    """Three tokens for each live point: the state follows the output, however deep the product."""
    assert rec.matmul(8, 8, 1000).live_values == 3 * 8 * 8
    assert rec.matmul(8, 8, 100_000).live_values == 3 * 8 * 8


def test_64_mib_holds_a_wavefront_of_2364_or_4096():
    """In float32 the a, b and c tokens of a deep product fit for 2364 x 2364 outputs and no more; c alone for 4096."""
    tokens = {side: rec.matmul(side, side, 2 * side).live_values for side in (2364, 2365, 4096)}
    assert 4 * tokens[2364] <= 64 * 2**20 < 4 * tokens[2365]
    assert 4 * tokens[4096] / 3 == 64 * 2**20


def test_a_vector_times_a_matrix_takes_outputs_and_depth():
    """n + k - 1, and a wavefront no larger than the shorter of the two."""
    assert rec.matmul(1, 8, 5).latency == 8 + 5 - 1
    assert matmul_wavefront(1, 8, 5).max() == 5


def test_optimal_schedule_needs_two_steps_for_a_skewed_dependence():
    """With d = (1, -1) beside (0, 1) time must advance by 2 along the first axis."""
    stencil = Recurrence("stencil", (5, 8), ((0, 1), (1, -1)))
    assert optimal_schedule(stencil) == Schedule((2, 1))
    assert optimal_schedule(stencil).latency(stencil) == 1 + 2 * 4 + 7


def test_optimal_schedule_is_least_among_all_valid_ones():
    """No valid vector with components up to 3 is faster."""
    recurrence = Recurrence("wave", (4, 6, 3), ((1, 1, 0), (0, 1, -1), (1, 0, 1)))
    best = optimal_schedule(recurrence, bound=3)
    valid = [Schedule(tau) for tau in itertools.product(range(-3, 4), repeat=3)]
    assert best.latency(recurrence) == min(s.latency(recurrence) for s in valid if s.is_valid(recurrence))


def test_contradicting_dependences_have_no_schedule():
    """d and -d cannot both advance time; the message says so."""
    with pytest.raises(InputError, match="contradict"):
        optimal_schedule(Recurrence("loop", (4, 4), ((1, 0), (-1, 0))))


@pytest.mark.parametrize("recurrence", [((0, 4), ()), ((4, 4), ((0, 0),)), ((4, 4), ((1,),))])
def test_impossible_recurrence_is_refused(recurrence):
    """Empty domains, zero dependences and dependences of another rank are errors."""
    with pytest.raises(InputError):
        Recurrence("bad", *recurrence)


def test_latencies_of_the_other_operators():
    """elementwise 1; a chain n; softmax 3 L and layer norm 2 L, plus rows - 1 when skewed."""
    assert rec.elementwise(1000).latency == 1
    assert rec.reduction(10, 64).latency == 64
    assert rec.softmax(10, 64).latency == 3 * 64
    assert rec.softmax(10, 64, is_skewed=True).latency == 3 * 64 + 9
    assert rec.layer_norm(10, 64).latency == 2 * 64


def test_elementwise_keeps_no_state_and_a_row_keeps_one_value():
    """No dependences, no tokens; a chain carries one value a row; softmax keeps its rows between passes."""
    assert rec.elementwise(1000).live_values == 0
    assert rec.reduction(10, 64).live_values == 10
    assert rec.softmax(10, 64).live_values == 10 * 64 + 10


FACTORISATIONS = [(1, 1), (4, 4), (6, 3), (3, 6), (7, 7)]


def points_of(recurrence):
    """Every point of the domain, one by one."""
    inside = itertools.product(*map(range, recurrence.extents))
    return [p for p in inside if not recurrence.shrinking or all(x >= p[0] for x in p)]


def earliest(recurrence):
    """The step each point could run at best: one after the last of those it needs, by searching."""
    inside = set(points_of(recurrence))
    found = {}
    for p in sorted(inside, key=lambda p: (sum(p), p)):
        needed = [tuple(x - y for x, y in zip(p, d, strict=True)) for d in recurrence.dependences]
        found[p] = max((found[q] + 1 for q in needed if q in inside), default=0)
    return found


@pytest.mark.parametrize(("m", "n"), FACTORISATIONS)
@pytest.mark.parametrize("build", [rec.lu, rec.qr])
def test_factorizations_take_m_plus_n_plus_the_shorter_less_2(build, m, n):
    """3 n - 2 for a square; points and wavefronts are those of counting, and no schedule at all could be faster."""
    system = build(m, n)
    (recurrence,), (schedule,) = system.phases, system.schedules
    assert schedule == Schedule((1, 1, 1))
    assert system.latency == m + n + min(m, n) - 2
    assert recurrence.points == len(points_of(recurrence))
    counts = Counter(sum(p) for p in points_of(recurrence))
    assert schedule.wavefront(recurrence).tolist() == [counts[t] for t in range(system.latency)]
    assert max(earliest(recurrence).values()) + 1 == system.latency


@pytest.mark.parametrize("tau", [(1, 1, 1), (1, 2, 1), (2, 1, -1), (-1, 1, 1)])
def test_wavefront_of_a_shrinking_domain_equals_counting(tau):
    """Slices of the pyramid start where the schedule says, for other vectors too."""
    recurrence = Recurrence("pyramid", (3, 5, 4), shrinking=True)
    times = Counter(sum(t * x for t, x in zip(tau, p, strict=True)) for p in points_of(recurrence))
    expected = [times[t] for t in range(min(times), max(times) + 1)]
    assert Schedule(tau).wavefront(recurrence).tolist() == expected


def run_in_order(recurrence, schedule, compute):
    """Values of every point, computed step by step; a step may only use values of earlier ones."""
    values = {}
    order = sorted(points_of(recurrence), key=lambda p: sum(t * x for t, x in zip(schedule.tau, p, strict=True)))
    for _, together in itertools.groupby(order, key=lambda p: sum(t * x for t, x in zip(schedule.tau, p, strict=True))):
        made = {p: compute(p, dict(values)) for p in together}
        values.update(made)
    return values


def test_lu_recurrence_factors_a_matrix():
    """Executed in the order of its schedule, with no value used before its step, it gives L U = A."""
    n = 6
    a = np.random.default_rng(0).standard_normal((n, n)) + n * np.eye(n)
    (recurrence,), (schedule,) = rec.lu(n, n).phases, rec.lu(n, n).schedules

    def compute(p, known):
        """The triple (a, l, u) at a point: what remains of the element, its row's multiplier and its column's pivot row."""
        k, i, j = p
        left = a[i, j] if k == 0 else known[k - 1, i, j][0]
        u = left if i == k else known[k, i - 1, j][2]
        multiplier = left / u if j == k else known[k, i, j - 1][1]
        return left - multiplier * u, multiplier, u

    values = run_in_order(recurrence, schedule, compute)
    lower = np.array([[values[j, i, j][1] if j < i else float(i == j) for j in range(n)] for i in range(n)])
    upper = np.array([[values[i, i, j][2] if j >= i else 0.0 for j in range(n)] for i in range(n)])
    assert lower @ upper == pytest.approx(a)


def test_qr_recurrence_makes_r():
    """Rotations in the order of the schedule give a triangle with R' R = A' A."""
    m, n = 6, 4
    a = np.random.default_rng(1).standard_normal((m, n))
    (recurrence,), (schedule,) = rec.qr(m, n).phases, rec.qr(m, n).schedules

    def compute(p, known):
        """The triple (a, r, rotation): the row below after the turn, the row k so far, and cosine and sine."""
        k, i, j = p
        below = a[i, j] if k == 0 else known[k - 1, i, j][0]
        if i == k:
            return 0.0, below, (1.0, 0.0)
        above = known[k, i - 1, j][1]
        length = np.hypot(above, below)
        c, s = (above / length, below / length) if j == k else known[k, i, j - 1][2]
        return c * below - s * above, c * above + s * below, (c, s)

    values = run_in_order(recurrence, schedule, compute)
    r = np.array([[values[i, m - 1, j][1] if j >= i else 0.0 for j in range(n)] for i in range(n)])
    assert r.T @ r == pytest.approx(a.T @ a)


@pytest.mark.parametrize("elements", [1, 3, 8, 1000])
@pytest.mark.parametrize("copies", [1, 2])
def test_folding_on_a_fabric_runs_every_point_after_what_it_needs(elements, copies):
    """Wavefronts dealt out over the elements, one after the other: as many steps as counted, and no dependence is violated."""
    (recurrence,), (schedule,) = rec.lu(5, 4).phases, rec.lu(5, 4).schedules
    done, step = {}, 0
    order = sorted(points_of(recurrence), key=sum)
    for _, together in itertools.groupby(order, key=sum):
        tasks = [(copy, p) for p in together for copy in range(copies)]
        for start in range(0, len(tasks), elements):
            for copy, p in tasks[start : start + elements]:
                needed = [tuple(x - y for x, y in zip(p, d, strict=True)) for d in recurrence.dependences]
                assert all(done[copy, q] < step for q in needed if (copy, q) in done or q in set(points_of(recurrence)))
                done[copy, p] = step
            step += 1
    assert schedule.steps_on(recurrence, elements, copies) == step


def test_attention_is_two_products_and_a_softmax():
    """(m + n + d - 2) + 3 n + (m + d + n - 2), and the scores stay."""
    system = rec.attention(5, 7, 3)
    assert system.latency == (5 + 7 + 3 - 2) + 3 * 7 + (5 + 3 + 7 - 2)
    assert system.buffer_values == 5 * 7
    assert all(s.is_valid(r) for r, s in zip(system.phases, system.schedules, strict=True))


@pytest.mark.parametrize("system", [rec.softmax(3, 5), rec.layer_norm(3, 5), rec.reduction(3, 5), rec.matmul(3, 4, 5)])
def test_no_order_at_all_is_faster_than_the_schedule(system):
    """The longest chain of dependences, found by searching every point, is as long as each phase's schedule."""
    for recurrence, schedule in zip(system.phases, system.schedules, strict=True):
        assert max(earliest(recurrence).values()) + 1 == schedule.latency(recurrence)


def test_domain_that_shrinks_away_is_refused():
    """A first axis longer than another would leave empty slices."""
    with pytest.raises(InputError, match="shrinks"):
        Recurrence("bad", (4, 3, 5), shrinking=True)


def test_conv2d_is_its_im2col_product_with_line_buffers():
    """m = 2 x 4 x 4, n = 8, k = 3 x 9; three padded lines of 6 pixels and 3 channels stay."""
    conv = rec.conv2d(2, 4, 4, 8, 3, (3, 3), 6)
    assert conv.latency == 32 + 8 + 27 - 2
    assert conv.buffer_values == 3 * 6 * 3
