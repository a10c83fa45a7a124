"""How views walk memory, and which loops stay nested."""

import pytest

from shmoo.estimators.fusion.inductor_layout import StridedView, apply_view, part_rows, stretch
from shmoo.estimators.fusion.inductor_schedule import Buffer
from shmoo.estimators.fusion.rules import fusion_groups
from tests.build import GraphBuilder


def call(op: str, shape: tuple[int, ...], result: tuple[int, ...], **attributes):
    b = GraphBuilder()
    b.call(op, {"self": b.tensor(shape)}, result, **attributes)
    return b.calls[0]


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
    assert apply_view(call(op, (2, 3, 4), shape, **attributes), StridedView.whole((2, 3, 4))) == expected


def test_windows_are_walked_in_loops_of_their_own():
    """56x56x96 partitioned into 8x8 windows of 7x7: a window's rows lie 56 x 96 elements apart."""
    view = apply_view(call("view", (56, 56, 96), (8, 7, 8, 7, 96)), StridedView.whole((56, 56, 96)))
    view = apply_view(call("permute", view.sizes, (8, 8, 7, 7, 96), dims=[0, 2, 1, 3, 4]), view)
    assert view.cuts == {7 * 96, 49 * 96, 8 * 49 * 96}
    joined = apply_view(call("reshape", view.sizes, (64, 49, 96)), view)
    assert joined.strides == (None, None, 1)
    assert joined.cuts == {96, 49 * 96}


def test_a_permutation_there_and_back_is_in_order():
    """Twice the same transposition."""
    once = apply_view(call("transpose", (4, 6), (6, 4), dim0=0, dim1=1), StridedView.whole((4, 6)))
    twice = apply_view(call("transpose", (6, 4), (4, 6), dim0=0, dim1=1), once)
    assert not once.in_order
    assert twice.in_order


def test_cuts_are_extents_of_nested_loops():
    """301056 points cut at 96 and at 56 x 96: 56 by 56 by 96; of a reduction over 96 what is left around it."""
    cuts = frozenset({96, 56 * 96})
    assert Buffer(frozenset(), frozenset(), 56 * 56 * 96, rows=cuts).nest == (56, 56, 96)
    assert Buffer(frozenset(), frozenset(), 56 * 56, 96, rows=cuts).nest == (56, 56)
    assert Buffer(frozenset(), frozenset(), 56 * 56, 96).nest == (3136,)


def test_parts_of_a_concatenation_of_images_lie_apart_by_pixel():
    """8 of 24 channels, kept innermost; along rows a whole part lies together."""
    assert part_rows(call("cat", (1, 8, 4, 4), (1, 24, 4, 4), dim=1), (1, 8, 4, 4)) == {8}
    assert part_rows(call("cat", (3, 5), (6, 5), dim=0), (3, 5)) == {15}


def test_elements_that_come_from_one_element():
    """A table's row of 16 for an index, 5 for a broadcast column, 1 for a broadcast row."""
    assert stretch(call("embedding", (2, 3), (2, 3, 16)), (2, 3)) == 16
    assert stretch(call("add", (4, 1), (4, 5)), (4, 1)) == 5
    assert stretch(call("add", (1, 5), (4, 5)), (1, 5)) == 1


def norm_of_windows():
    """add | 4x4 image of 8 channels, seen in 2x2 windows | layer_norm."""
    b = GraphBuilder()
    x = b.add(b.tensor((4, 4, 8)), b.tensor((4, 4, 8)))
    split = b.view(x, (2, 2, 2, 2, 8))
    seen = b.call("permute", {"self": split}, (2, 2, 2, 2, 8), storage=split, dims=[0, 2, 1, 3, 4])
    return b.graph(b.layer_norm(seen), x)


def test_loops_over_windows_do_not_join_those_of_the_image():
    """The sum is returned, so it is made in order; the norm reads it window by window, in kernels of its own."""
    groups = [group.calls for group in fusion_groups(norm_of_windows(), "inductor")]
    assert (0,) in groups
    of_norm = [group for group in groups if 3 in group]
    assert of_norm
    assert all(0 not in group for group in of_norm)
