"""Which loops stay nested."""

from shmoo.estimators.fusion.inductor_expression import part_rows, stretch
from shmoo.estimators.fusion.inductor_schedule import Buffer
from shmoo.estimators.fusion.rules import fusion_groups
from tests.build import GraphBuilder, single_call


def test_cuts_are_extents_of_nested_loops():
    """301056 points cut at 96 and at 56 x 96: 56 by 56 by 96; of a reduction over 96 what is left around it."""
    cuts = frozenset({96, 56 * 96})
    assert Buffer(frozenset(), frozenset(), 56 * 56 * 96, rows=cuts).nest == (56, 56, 96)
    assert Buffer(frozenset(), frozenset(), 56 * 56, 96, rows=cuts).nest == (56, 56)
    assert Buffer(frozenset(), frozenset(), 56 * 56, 96).nest == (3136,)


def test_parts_of_a_concatenation_of_images_lie_apart_by_pixel():
    """8 of 24 channels, kept innermost; along rows a whole part lies together."""
    assert part_rows(single_call("cat", (1, 8, 4, 4), (1, 24, 4, 4), dim=1), (1, 8, 4, 4)) == {8}
    assert part_rows(single_call("cat", (3, 5), (6, 5), dim=0), (3, 5)) == {15}


def test_elements_that_come_from_one_element():
    """A table's row of 16 for an index, 5 for a broadcast column, 1 for a broadcast row."""
    assert stretch(single_call("embedding", (2, 3), (2, 3, 16)), (2, 3)) == 16
    assert stretch(single_call("add", (4, 1), (4, 5)), (4, 1)) == 5
    assert stretch(single_call("add", (1, 5), (4, 5)), (1, 5)) == 1


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
