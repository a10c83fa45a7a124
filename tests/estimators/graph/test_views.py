"""How views walk memory."""

import pytest

from shmoo.estimators.graph.views import StridedView, apply_view
from tests.build import single_call


@pytest.mark.parametrize(
    ("op", "attributes", "shape", "expected"),
    [
        ("view", {}, (6, 4), ((6, 4), (4, 1))),
        ("permute", {"dims": [1, 0, 2]}, (3, 2, 4), ((3, 2, 4), (4, 12, 1))),
        ("transpose", {"dim0": 0, "dim1": 2}, (4, 3, 2), ((4, 3, 2), (1, 4, 12))),
        ("slice", {"dim": 1, "start": 0, "end": 3, "step": 2}, (2, 2, 4), ((2, 2, 4), (12, 8, 1))),
        ("select", {"dim": 1, "index": 1}, (2, 4), ((2, 4), (12, 1))),
        ("expand", {}, (5, 2, 3, 4), ((5, 2, 3, 4), (0, 12, 4, 1))),
        ("flip", {}, (2, 3, 4), ((2, 3, 4), (None, None, None))),
    ],
)
def test_views_change_extents_and_steps(op, attributes, shape, expected):
    """Of a memory of 2x3x4 in order: 12, 4 and 1 elements along each dimension."""
    assert apply_view(single_call(op, (2, 3, 4), shape, **attributes), StridedView.whole((2, 3, 4))) == expected


def test_windows_are_walked_in_loops_of_their_own():
    """56x56x96 partitioned into 8x8 windows of 7x7: a window's rows lie 56 x 96 elements apart."""
    view = apply_view(single_call("view", (56, 56, 96), (8, 7, 8, 7, 96)), StridedView.whole((56, 56, 96)))
    view = apply_view(single_call("permute", view.sizes, (8, 8, 7, 7, 96), dims=[0, 2, 1, 3, 4]), view)
    assert view.cuts == {7 * 96, 49 * 96, 8 * 49 * 96}
    joined = apply_view(single_call("reshape", view.sizes, (64, 49, 96)), view)
    assert joined.strides == (None, None, 1)
    assert joined.cuts == {96, 49 * 96}


def test_a_permutation_there_and_back_is_in_order():
    """Twice the same transposition."""
    once = apply_view(single_call("transpose", (4, 6), (6, 4), dim0=0, dim1=1), StridedView.whole((4, 6)))
    twice = apply_view(single_call("transpose", (6, 4), (4, 6), dim0=0, dim1=1), once)
    assert not once.in_order
    assert twice.in_order
