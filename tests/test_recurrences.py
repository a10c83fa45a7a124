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
def test_closed_form_of_the_wavefront_equals_counting(extents):
    """Inclusion and exclusion gives what counting every point gives, and every point once."""
    assert rec.matmul_wavefront(*extents).tolist() == brute_wavefront(extents, (1, 1, 1))
    assert rec.matmul_wavefront(*extents).sum() == np.prod(extents)


@pytest.mark.parametrize("tau", [(1, 1, 1), (1, 2, 1), (2, -1, 1), (0, 1, 1)])
def test_wavefront_of_any_schedule_equals_counting(tau):
    """The product of the axes' polynomials counts points for other schedules too."""
    extents = (3, 4, 2)
    assert Schedule(tau).wavefront(Recurrence("box", extents)).tolist() == brute_wavefront(extents, tau)


def test_peak_wavefront_is_quadratic_and_not_cubic():
    """About 3/4 n^2 for a cube; m n when k is at least m + n - 1."""
    assert rec.matmul_wavefront(64, 64, 64).max() / 64**2 == pytest.approx(0.75, rel=0.01)
    assert rec.matmul_wavefront(5, 7, 11).max() == 5 * 7
    assert rec.matmul_wavefront(5, 7, 500).max() == 5 * 7


def test_state_of_a_matmul_does_not_grow_with_k():
    """Three tokens for each live point: the state follows the output, however deep the product."""
    assert rec.matmul(8, 8, 1000).live_values == 3 * 8 * 8
    assert rec.matmul(8, 8, 100_000).live_values == 3 * 8 * 8


def test_64_mib_holds_a_wavefront_of_4096_or_2364():
    """sqrt(64 MiB / 4 B) for c alone; sqrt of a third of that for the a, b and c tokens."""
    assert int((64 * 2**20 / 4) ** 0.5) == 4096
    assert int((64 * 2**20 / 12) ** 0.5) == 2364


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
    assert rec.softmax(10, 64, skewed=True).latency == 3 * 64 + 9
    assert rec.layer_norm(10, 64).latency == 2 * 64


def test_elementwise_keeps_no_state_and_a_row_keeps_one_value():
    """No dependences, no tokens; a chain carries one value a row; softmax keeps its rows between passes."""
    assert rec.elementwise(1000).live_values == 0
    assert rec.reduction(10, 64).live_values == 10
    assert rec.softmax(10, 64).live_values == 10 * 64 + 10


def test_conv2d_is_its_im2col_product_with_line_buffers():
    """m = 2 x 4 x 4, n = 8, k = 3 x 9; three padded lines of 6 pixels and 3 channels stay."""
    conv = rec.conv2d(2, 4, 4, 8, 3, (3, 3), 6)
    assert conv.latency == 32 + 8 + 27 - 2
    assert conv.buffer_values == 3 * 6 * 3
