"""Agreement of predicted and real groups."""

import pytest

from shmoo.estimators.fusion_savings import fusion_score, shared_pairs


def test_pairs_are_of_calls_that_share_a_kernel():
    """A group of three has three pairs, a call alone has none."""
    assert shared_pairs([(0, 1, 2), (3,)]) == {(0, 1), (0, 2), (1, 2)}


def test_a_call_in_two_kernels_pairs_with_both():
    """Call 1 is inlined into the kernels of 2 and of 3."""
    assert shared_pairs([(1, 2), (1, 3)]) == {(1, 2), (1, 3)}


def test_scores_count_pairs_and_kernels():
    """Predicted {12, 13, 23}, real {12}: one of three is right, and all that is real is found."""
    score = fusion_score([(0,), (1, 2, 3)], [(0,), (1, 2), (3,)])
    assert (score.precision, score.recall, score.f1) == pytest.approx((1 / 3, 1, 2 * (1 / 3) / (4 / 3)))
    assert (score.predicted_kernels, score.real_kernels) == (2, 3)


@pytest.mark.parametrize(
    ("predicted", "real", "f1"), [([(0,), (1,)], [(0,), (1,)], 1.0), ([(0, 1)], [(0,), (1,)], 0.0), ([(0,), (1,)], [(0, 1)], 0.0)]
)
def test_groupings_without_pairs_agree_with_each_other_only(predicted, real, f1):
    """Nothing fused on both sides is right, on one side wrong."""
    assert fusion_score(predicted, real).f1 == f1
