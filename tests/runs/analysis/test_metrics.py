"""Figures of merit, checked by hand."""

import pytest

from shmoo.estimators.errors import InputError, NothingMeasuredError
from shmoo.runs.analysis.metrics import error_card, repeat_spread, time_weighted_error


def test_error_card_by_hand():
    """Errors +12.5 %, -25 %, +37.5 %, 0 %: their magnitudes have mean and median 18.75 %, the bias is +6.25 %."""
    card = error_card([1.125, 0.75, 1.375, 1.0], [1.0] * 4, [0.9, 0.7, 1.2, 0.9], [1.2, 0.9, 1.5, 1.1])
    assert card.n == 4
    assert card.mean == pytest.approx(0.1875)
    assert card.median == pytest.approx(0.1875)
    assert card.p90 == pytest.approx(0.3375)
    assert card.bias == pytest.approx(0.0625)
    assert (card.within_10, card.within_20) == (0.25, 0.5)
    assert card.coverage == 0.5


def test_coverage_needs_intervals():
    """Without intervals the coverage is not known, which is not 0."""
    assert error_card([1.0], [1.0]).coverage is None


def test_repeat_spread_is_relative_to_the_smaller():
    """2 against 3 is half apart, either way round."""
    assert repeat_spread(2.0, 3.0) == repeat_spread(3.0, 2.0) == 0.5


def test_cancelling_errors_show_when_weighted_by_time():
    """Parts of 3 s and 1 s estimated the other way round: the whole is right, the parts are 100 % off."""
    assert time_weighted_error([1.0, 3.0], [3.0, 1.0]) == 1.0


def test_what_cannot_be_compared_is_refused():
    """Different lengths, no cases and measured zeros are errors with words."""
    with pytest.raises(InputError, match="2 estimates for 1"):
        error_card([1.0, 2.0], [1.0])
    with pytest.raises(InputError, match="must be positive, got 0"):
        error_card([1.0], [0.0])
    with pytest.raises(NothingMeasuredError):
        error_card([], [])
    with pytest.raises(NothingMeasuredError):
        time_weighted_error([], [])
