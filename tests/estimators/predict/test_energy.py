"""Warmth of a board."""

import numpy as np
import pytest

from shmoo.estimators.predict.energy import CALLS, FASTEST, WARM_UP_S, warmth_of_repeats
from tests.evaluation.warmth import warmth_in_turn


def test_a_call_that_is_repeated_warms_the_board_while_it_counts():
    """The mean over five calls of a fifth of the time constant each is 1 - (1 - 1/e) = 1/e; short calls find it cool."""
    calls = np.asarray([1e-4, WARM_UP_S / FASTEST, 1e6])
    assert warmth_of_repeats(calls) == pytest.approx([FASTEST * 1e-4 / WARM_UP_S / 2, np.exp(-1), 1.0], rel=1e-4)


def test_an_operator_finds_the_board_as_those_before_left_it():
    """After one that takes many time constants a short one is measured warm, after another short one less so."""
    short, long = 1e-4, 10 * WARM_UP_S
    warm = warmth_in_turn([short / 2, short, long, short, *[short] * 1000, short])
    assert warm[:2] == pytest.approx([0.0, 0.0], abs=1e-3)
    assert warm[2] == pytest.approx(1.0, abs=0.03)
    assert warm[3] == pytest.approx(1.0, abs=0.01)
    assert 0.1 < warm[-1] < 0.5  # some 30 s of pauses later


def test_what_is_all_launch_does_not_warm():
    """The shortest operator of a campaign leaves a board as cool as it was, 25 calls or not."""
    assert warmth_in_turn([CALLS * 1.0, CALLS * 1.0]) == pytest.approx([0.0, 0.0])
