"""Names of coefficients, made and taken apart."""

import pytest

from shmoo.estimators.machine.names import by_runtime, continues, energy_names, general, of_float32, runtime_of, under, whose


@pytest.mark.parametrize(
    ("name", "stems", "expected"),
    [
        ("peak.matrix.float32", ("peak",), True),
        ("peak.matrix.float32", ("peak.vector", "peak.matrix"), True),
        ("launch", ("launch",), True),
        ("launch_tail", ("launch",), False),
        ("throttle.time", ("throttle.cap",), False),
    ],
)
def test_a_name_continues_a_stem_by_whole_parts(name, stems, expected):
    """`launch_tail` is another coefficient than `launch`."""
    assert continues(name, *stems) is expected


def test_names_under_a_stem_keep_their_order():
    """The stem itself is one of them."""
    assert under("launch", ("launch.eager", "clock", "launch", "launch_tail")) == ["launch.eager", "launch"]


def test_the_last_part_says_whose_a_coefficient_is():
    """A name of one part is its own, and nothing is more general."""
    assert (whose("half.k.gemm"), general("half.k.gemm")) == ("gemm", "half.k")
    assert (whose("clock"), general("clock")) == ("clock", "")


def test_names_of_a_runtime_fall_back_to_what_all_share():
    """Most specific first."""
    assert by_runtime("launch", "eager") == ("launch.eager", "launch")


@pytest.mark.parametrize(
    ("name", "runtime"),
    [
        ("launch.inductor-freezing.add", "inductor-freezing"),
        ("graph.cudagraphs", "cudagraphs"),
        ("launch.gemm", None),
        ("switch.eager", None),
        ("launch", None),
    ],
)
def test_launches_and_entries_belong_to_a_runtime(name, runtime):
    """Those that are named by an operator alone belong to none."""
    assert runtime_of(name) == runtime


def test_energy_of_a_type_falls_back_to_that_of_float32():
    """What is no flop's has one name."""
    assert of_float32("peak.matrix.float64") == "peak.matrix.float32"
    assert energy_names("energy.flop.vector.int8") == ("energy.flop.vector.int8", "energy.flop.vector.float32", "energy.flop")
    assert energy_names("energy.byte.l2") == ("energy.byte.l2",)
    assert energy_names("energy.flop") == ("energy.flop",)
