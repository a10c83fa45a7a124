from collections import Counter
from types import SimpleNamespace

import pytest

from shmoo.harness.workloads import find_workload
from shmoo.runs.store.records import CaseSpec, Timing
from tests.evaluation import timing as selfcheck
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


def test_ten_operators_are_compared(monkeypatch):
    """Each once a round by either harness, in an order that changes from round to round: ours takes 3 ms, 2 ms at first, and
    theirs 2 ms, so the middle ratio of three rounds is 1.5."""
    turns = []

    def ours(call):
        earlier = ("ours", id(call)) in turns
        turns.append(("ours", id(call)))
        return Timing((3e-3 if earlier else 2e-3,) * 3)

    class Theirs:
        def __init__(self, statement, globals, num_threads):
            assert statement == "call()"
            self.call = id(globals["call"])

        def adaptive_autorange(self):
            turns.append(("theirs", self.call))
            return SimpleNamespace(median=2e-3)

    monkeypatch.setattr(selfcheck, "time_callable", ours)
    monkeypatch.setattr("torch.utils.benchmark.Timer", Theirs)
    pairs = against_autorange(rounds=3)
    expected = [CaseSpec(name, "operator", find_workload(name).resolve(axes), threads=1).label for name, axes in OPERATORS]
    assert [pair.label for pair in pairs] == expected
    assert len(set(expected)) == 10
    for pair in pairs:
        assert (pair.ours_s, pair.theirs_s, pair.ratio) == pytest.approx((3e-3, 2e-3, 1.5))
        assert 1.0 <= pair.low <= 1.5 <= pair.high <= 1.5 + 1e-9
    assert set(Counter(turns).values()) == {3}
    orders = [[call for who, call in turns[start : start + 20] if who == "ours"] for start in (0, 20, 40)]
    assert orders[0] != orders[1] != orders[2]
    assert {who for who, _ in turns[::2]} == {"ours", "theirs"}  # neither is always the first of a pair


@pytest.mark.slow
def test_both_harnesses_time_the_same_operator():
    """Three rounds of one operator: what one measures, the other does, to a third of it on a machine that may be busy."""
    (pair,) = against_autorange(rounds=3, operators=OPERATORS[1:2])
    assert 0.75 < pair.ratio < 1.33
