"""What-if machines: what is changed, and what follows from it."""

from __future__ import annotations

import pytest

from shmoo.estimators.errors import InputError
from shmoo.estimators.machine.catalogue import CATALOGUE
from shmoo.estimators.machine.names import under
from shmoo.estimators.machine.profile import load_profile
from shmoo.estimators.predict.director import AnalysisDirector
from shmoo.estimators.predict.draws import names_to_draw
from shmoo.estimators.variants import amount_of, variant
from shmoo.harness.machine.architectures import load_architecture
from shmoo.runs.tables.reading import TableRow


def test_a_larger_fabric_brings_its_rates_and_memory() -> None:
    """Four times the tiles of a KPU: four times peak, streaming bandwidth, L3 and power, the same DRAM; it says so."""
    before = load_profile("kpu_t64")
    after = variant(before, {"count.tiles": 256.0})
    powers = ("power.static", "power.tdp", "power.idle")
    for name in ("peak.matrix.float32", "peak.vector.float32", "bandwidth.l1", "capacity.l3", *powers):
        assert after.value(name) == 4 * before.value(name)
    for name in ("bandwidth.dram", "capacity.l1", "energy.byte.dram"):
        assert after.value(name) == before.value(name)
    assert before.value("count.tiles") == 64
    assert "256 tiles" in after.description
    assert "64 tiles" not in after.description
    assert "clock = 2e+09" in variant(before, {"clock": 2e9}).description


def test_static_power_follows_the_voltage_of_a_clock() -> None:
    """An A100 at half its clock leaks at the lowest voltage; static power that is named stays."""
    before = load_profile("gpu_a100_40g")
    static, half = before.value("power.static"), before.value("clock") / 2
    assert variant(before, {"clock": half}).value("power.static") == pytest.approx(static * before.value("energy.floor"))
    assert variant(before, {"clock": half, "power.static": static}).value("power.static") == static


@pytest.mark.parametrize("name", ["tpu_v4", "tpu_v5e", "kpu_t64", "cpu_server_generic"])
def test_a_faster_clock_takes_more_energy(name: str) -> None:
    """From the clock of the lowest voltage on, energy, static power and TDP rise with every step of the clock. At the profile's
    own clock nothing changes; a TDP that is named stays."""
    before = load_profile(name)
    clock, static, tdp = (before.value(of) for of in ("clock", "power.static", "power.tdp"))
    product = TableRow(0, "linear", {"b": 1, "m": 4096, "n": 4096, "k": 4096}, "bfloat16").graph()
    lowest = before.all_coefficients["energy.floor"].value ** (1.0 / before.all_coefficients["energy.clock"].value)
    steps = [variant(before, {"clock": clock * step}) for step in (lowest, 0.8, 1.0, 1.25, 1.5)]
    energies = [AnalysisDirector(step).estimate(product).energy_j.value for step in steps]
    for rising in (energies, *([step.value(of) for step in steps] for of in ("power.static", "power.tdp"))):
        assert rising == sorted(set(rising))
    assert energies[2] == pytest.approx(AnalysisDirector(before).estimate(product).energy_j.value)
    voltage = 1.5 ** before.all_coefficients["energy.clock"].value
    assert steps[-1].value("power.static") == pytest.approx(static * voltage)
    assert steps[-1].value("power.tdp") == pytest.approx(voltage * (static + 1.5 * (tdp - static)))
    assert variant(before, {"clock": 2 * clock, "power.tdp": tdp}).value("power.tdp") == tdp
    # Slower than the lowest voltage allows, only time is left to change.
    assert variant(before, {"clock": 0.1 * clock}).value("power.static") == pytest.approx(0.6 * static)


def test_an_unchanged_clock_draws_no_voltage() -> None:
    """Nothing is uncertain about the voltage at which a machine's energies are given, unless a power cap lowers it."""
    before = load_profile("cpu_server_generic")
    named = {"energy.clock", "energy.floor"}
    assert not named & set(names_to_draw(before.all_coefficients, "inductor", has_tensor_kernels=False))
    changed = variant(before, {"clock": 2e9}).all_coefficients
    assert named <= set(names_to_draw(changed, "inductor", has_tensor_kernels=False))
    assert named <= set(names_to_draw(load_profile("kpu_t64").all_coefficients, "domainflow", has_tensor_kernels=False))


def test_what_is_named_keeps_its_value() -> None:
    """A fabric of four times the tiles whose memory stays."""
    before = load_profile("kpu_t64")
    after = variant(before, {"count.tiles": 256.0, "capacity.l3": before.value("capacity.l3")})
    assert after.value("capacity.l3") == before.value("capacity.l3")
    assert after.value("capacity.l2") == 4 * before.value("capacity.l2")


def test_two_sides_of_an_array_multiply() -> None:
    """32 x 32 over 16 x 16: four times the peak, twice the edge that feeds it."""
    before = load_profile("kpu_t64")
    after = variant(before, {"array.rows": 32.0, "array.cols": 32.0})
    assert after.value("peak.matrix.float32") == pytest.approx(4 * before.value("peak.matrix.float32"))
    assert after.value("bandwidth.l1") == pytest.approx(2 * before.value("bandwidth.l1"))


def test_a_tile_size_is_set_apart_from_the_memory() -> None:
    """A parameter of the strategy changes the strategy only."""
    before = load_profile("brief_cpu")
    after = variant(before, {"tile_m": 64.0})
    assert after.tiling.parameters == {"tile_m": 64.0}
    assert after.coefficients == before.coefficients


@pytest.mark.parametrize(
    "values",
    [
        {"bandwidth.drum": 1.0},
        {"tile_x": 3.0},
        {"clock": -1.0},
        {"clock": "fast"},
        {"count.tiles": 0.5},
        {"clock": 0.0},
        {"capacity.l3": float("nan")},
        {"bandwidth.dram": float("inf")},
    ],
)
def test_what_a_machine_lacks_is_refused(values: dict) -> None:
    """Unknown names and impossible values."""
    with pytest.raises(InputError):
        variant(load_profile("kpu_t64"), values)


@pytest.mark.parametrize(("family", "part"), [(family, part) for part, of in CATALOGUE.items() for family in of.brings])
def test_every_follower_exists_somewhere(family: str, part: str) -> None:
    """Each rule names a coefficient that a built-in profile of the family has."""
    name = {"cpu": "cpu_i7_12700k", "gpu": "gpu_h100", "tpu": "tpu_v4", "kpu": "kpu_t64"}[family]
    known = load_profile(name).coefficients
    for stem, _ in CATALOGUE[part].brings[family]:
        assert any(name != part for name in under(stem, known)), stem


def test_sizes_read_as_people_write_them() -> None:
    """KiB, MiB and GiB are powers of 1024; what is no number stays text."""
    assert amount_of("2MiB") == 2 * 1024**2
    assert amount_of("1.5e9") == 1.5e9
    assert [amount_of(text) for text in ("400GB/s", "2.8 GHz", "150W", "1.2e3MB", "3pJ/flop", "5us")] == pytest.approx(
        [400e9, 2.8e9, 150.0, 1.2e9, 3e-12, 5e-6]
    )
    assert amount_of("8 parts") == "8 parts"
    assert amount_of("1.2.3GB/s") == "1.2.3GB/s"
    assert amount_of("serial") == "serial"


def test_an_architecture_by_name_may_be_changed_in_its_name() -> None:
    """kpu_t64@capacity.l3=2MiB goes by the whole text, and only that memory differs."""
    name = "kpu_t64@capacity.l3=2MiB@tile_m=8"
    found = load_architecture(name)
    assert found.name == name
    assert found.value("capacity.l3") == 2 * 1024**2
    assert found.value("capacity.l2") == load_profile("kpu_t64").value("capacity.l2")
    assert found.tiling.parameters == {"tile_m": 8.0}
    with pytest.raises(InputError, match=r"capacity\.l3"):
        load_architecture("kpu_t64@capacity.l33=2MiB")


def test_latencies_of_a_gpu_are_clocks():
    """At half the clock blocks and kernels take twice as long to start, those that the profile leaves to the default too."""
    before = load_profile("gpu_a100_40g")
    assert "device_launch" not in before.coefficients
    after = variant(before, {"clock": before.value("clock") / 2})
    assert after.value("device_launch") == pytest.approx(2.0 * before.all_coefficients["device_launch"].value)
    for name in ("device_launch.gemm_tensor", "tile_overhead.gemm_tensor", "fetch.latency.gemm_tensor"):
        assert after.value(name) == pytest.approx(2.0 * before.value(name))


@pytest.mark.parametrize(
    ("changed", "kept"),
    [
        ({"capacity.dram": 2.0**35}, True),
        ({"power.tdp": 350.0}, True),
        ({"bandwidth.dram": 1e12}, False),
        ({"tile_m": 64}, False),
    ],
)
def test_corrections_hold_where_no_kernel_changes(changed, kept):
    """Room for data and what a board may draw leave its kernels alone; another bandwidth or tile makes an unmeasured machine."""
    profile = load_profile("gpu_p100")
    assert profile.residual
    assert variant(profile, changed).residual == (profile.residual if kept else ())
