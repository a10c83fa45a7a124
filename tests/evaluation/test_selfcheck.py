import pytest

from shmoo.harness.workloads import find_workload
from tests.evaluation.timing import OPERATORS, _pair, against_autorange, overhead


def test_overhead_counts_the_clock_once_a_block():
    """A clock of 50 ns a reading costs a block of one call 50 ns between its two readings, and little in a long block."""
    now = [0.0]

    def clock():
        now[0] += 50e-9
        return now[0]

    found = overhead(repeats=5, calls=1000, clock=clock)
    assert found.per_block_s == pytest.approx(50e-9)
    assert found.per_call_s == pytest.approx(50e-12)


def test_pairs_are_compared_round_by_round():
    """Ours is 1 % slower in each round, whatever the drift between rounds: the ratio is 1.01, and so is its interval."""
    theirs = [1.0, 1.5, 0.8]
    pair = _pair("x", [1.01 * t for t in theirs], theirs)
    assert (pair.ratio, pair.low, pair.high) == pytest.approx((1.01, 1.01, 1.01))


def test_ten_operators_are_compared():
    """All of them are workloads with those axes."""
    assert len(OPERATORS) == 10
    for name, axes in OPERATORS:
        find_workload(name).resolve(axes)


@pytest.mark.slow
def test_both_harnesses_time_the_same_operator():
    """One round of one operator gives two positive times."""
    (pair,) = against_autorange(rounds=1, operators=OPERATORS[:1])
    assert pair.ours_s > 0
    assert pair.theirs_s > 0
