import math
import random
from statistics import stdev

import pytest

from shmoo.estimators.errors import NothingMeasuredError
from shmoo.runs.store.statistics import iqr, latencies_of, latency, mad, median, order_interval


def test_median_mad_and_iqr_of_five_numbers():
    """The deviations of 1 2 3 4 10 from 3 are 2 1 0 1 7, whose median is 1."""
    samples = (1, 2, 3, 4, 10)
    assert median(samples) == 3
    assert mad(samples) == 1
    assert iqr(samples) == 4 - 2


def test_one_outlier_does_not_move_the_median():
    """Interference makes single samples long; the canonical number does not follow."""
    assert median([1.0] * 9 + [100.0]) == 1.0


def test_order_interval_of_a_hundred_samples():
    """With n = 100 the 90 % interval reaches 1.645 * sqrt(100) / 2 = 8.2 ranks to either side of the middle."""
    assert order_interval(range(100)) == (50 - 9, 50 + 9)


def test_order_interval_of_few_samples_is_their_range():
    """Three samples say no more than where they lie."""
    assert order_interval([3.0, 1.0, 2.0]) == (1.0, 3.0)


def test_many_cases_at_once_are_what_each_is_alone():
    """One visit and several, one sample and forty, with and without what other cases spread by; nothing for no samples."""
    rng = random.Random(3)
    lengths = [(1,), (2,), (8,), (8,), (40,), (8, 8), (3, 5, 8), (1, 1), ()]
    cases = [[tuple(rng.lognormvariate(-9, 0.2) for _ in range(n)) for n in visits] for visits in lengths * 3]
    spreads = [None if i % 3 else 0.05 for i in range(len(cases))]
    together = latencies_of(cases, spreads)
    for case, spread, known in zip(cases, spreads, together, strict=True):
        assert known == (latency(case, spread) if case else None)
    lone = cases[2][0]
    assert together[2].value_s == sorted(lone)[3] / 2 + sorted(lone)[4] / 2
    parts = [math.log(sum(lone[i : i + 2]) / 2) for i in range(0, 8, 2)]
    assert together[2].relative_se == pytest.approx(stdev(parts) / 2)


def test_equal_samples_have_no_spread():
    """A constant is known exactly."""
    samples = [2.0] * 8
    assert (median(samples), mad(samples), iqr(samples)) == (2, 0, 0)
    assert order_interval(samples) == (2, 2)


def test_nothing_measured_is_an_error_and_not_a_zero():
    """No samples have no median."""
    with pytest.raises(NothingMeasuredError, match="no samples"):
        median([])
