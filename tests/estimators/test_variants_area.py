"""Silicon: areas by arithmetic, and what nobody gives a number for."""

import pytest

from shmoo.estimators.errors import InputError
from shmoo.estimators.graph.records import Coefficient
from shmoo.estimators.machine.profile import builtin_names, load_profile
from shmoo.estimators.units import si
from shmoo.estimators.variants import added_area, added_area_interval, amount_of, on_chip_bytes, variant

A100 = load_profile("gpu_a100_40g")


def test_memory_of_each_part_counts_as_often_as_the_part() -> None:
    """108 multiprocessors with 164 KiB to share and registers of 256 KiB, and one L2."""
    assert on_chip_bytes(A100) == 108 * (164 + 256) * 2**10 + 40 * 2**20


@pytest.mark.parametrize(
    ("changed", "expected_mm2"),
    [
        ({"capacity.l2": 80 * 2.0**20}, 2.4e-6 * 40 * 2**20),
        ({"bandwidth.dram": 2.555e12}, 5.2e-11 * 1e12),
        ({"count.sms": 128.0}, 20 * (3.0 + 2.4e-6 * (164 + 256) * 2**10)),
        ({"clock": 2e9}, 0.0),
        ({"capacity.dram": 80e9, "power.tdp": 400.0}, 0.0),
    ],
)
def test_a_change_adds_what_it_takes(changed: dict[str, float], expected_mm2: float) -> None:
    """Bytes and bytes a second by their areas, parts with their memories; clocks and memory beside the chip nothing."""
    added = added_area(A100, variant(A100, changed), changed) * 1e6
    assert added == pytest.approx(expected_mm2, rel=1e-3)
    interval = added_area_interval(A100, variant(A100, changed), changed)
    assert interval.low <= interval.value <= interval.high
    assert (interval.low < interval.high) == (expected_mm2 > 0)


def test_less_memory_takes_less_area() -> None:
    """With the ends of its range in order."""
    interval = added_area_interval(A100, variant(A100, {"capacity.l2": 2.0**20}), ["capacity.l2"])
    assert interval.low < interval.value < interval.high < 0


@pytest.mark.parametrize(
    ("name", "changed"),
    [("kpu_t64", "count.tiles"), ("gpu_h100", "capacity.l2"), ("gpu_a100_40g", "bandwidth.l2"), ("tpu_v4", "array.rows")],
)
def test_what_nobody_states_is_refused_by_name(name: str, changed: str) -> None:
    """A part without an area, another process, wires, and the units inside a part."""
    profile = load_profile(name)
    machine = variant(profile, {changed: 2 * profile.value(changed)})
    with pytest.raises(InputError, match=changed.replace(".", r"\.")):
        added_area(profile, machine, [changed])


def test_published_dies_are_plausible() -> None:
    """No die is larger than a reticle of 26 x 33 mm, and none of these is smaller than 200 mm2."""
    dies = {name: load_profile(name).get("area.die") for name in builtin_names()}
    areas = {name: die.value * 1e6 for name, die in dies.items() if isinstance(die, Coefficient)}
    assert len(areas) >= 20
    assert all(200 <= area <= 26 * 33 for area in areas.values())
    assert (areas["gpu_h100"], areas["gpu_a100_80g"], areas["gpu_t4"], areas["tpu_v4"]) == pytest.approx((814, 826, 545, 600))


def test_an_area_is_not_carried_to_another_chip() -> None:
    """A machine that is described by what differs from another states its own dies: the Orin, based on an A100, states none."""
    assert load_profile("gpu_orin").get("area.die") is None
    assert load_profile("gpu_rtx3090").get("area.byte") is None


def test_areas_read_in_square_millimetres() -> None:
    """A prefix of a square metre would mean its square."""
    assert si(8.26e-4, "m2") == "826 mm2"
    assert si(0.0, "m2") == "0 mm2"
    assert amount_of("826mm2") == pytest.approx(8.26e-4)
