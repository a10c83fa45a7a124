"""Power and energy against tables of others' measurements: reading, the fit, and the errors' arithmetic."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from shmoo.calibrate.fit.dataset import MeasuredCase, block_of
from shmoo.estimators.graph.records import Coefficient
from shmoo.estimators.machine.catalogue import entry
from shmoo.estimators.machine.names import under
from shmoo.estimators.machine.profile import ArchitectureProfile, load_profile
from shmoo.estimators.predict.director import AnalysisDirector
from shmoo.estimators.variants import variant
from shmoo.runs.store.records import CaseSpec
from shmoo.runs.tables.reading import TableRow
from tests.build import with_values
from tests.evaluation.declared import B200_SHARE, ENERGY_STARTS, VOLTAGES
from tests.evaluation.energy import (
    MEASURED_HERE,
    RUNTIME,
    judged_products,
    metered,
    on_next_chip,
    on_same_chip,
    read_products,
    recorded_cases,
    results,
    settled,
    with_fitted_energy,
    without_shares,
)
from tests.evaluation.energy import with_latency as watts_with_latency
from tests.evaluation.transfer import looked_up

A100 = load_profile("gpu_a100_40g")
NETWORKS = "device,set,model,dtype,batch,seq_len,mode,attention,clock_locked_mhz,clock_mean_mhz,latency_s,energy_j\n"


def product(m: int, n: int, k: int, *, clock_hz: float | None = None, dtype: str = "bfloat16") -> MeasuredCase:
    axes = {"b": 1, "m": m, "n": n, "k": k}
    graph = TableRow(0, "linear", axes, dtype).graph()
    case = CaseSpec("linear", "operator", axes, dtype, RUNTIME, "cuda")
    return MeasuredCase(case, (graph,), 1.0, 1.0, clock_hz=clock_hz, time="device")


def as_measured(case: MeasuredCase, profile: ArchitectureProfile = A100) -> MeasuredCase:
    """The case with the time and energy that a profile says."""
    machine = settled(profile if case.clock_hz is None else variant(profile, {"clock": case.clock_hz}))
    block = block_of([case], RUNTIME, AnalysisDirector(machine))
    priced = AnalysisDirector(machine).price(block.table, RUNTIME)
    joules = priced.energy_j - machine.value("power.static") * (priced.latency_s - priced.device_s)
    return dataclasses.replace(case, latency_s=float(priced.device_s[0]), energy_j=float(joules[0]))


def test_rows_are_read_with_their_clocks(tmp_path):
    """A network ran at the clock that its cap left; products are of the vocabulary's types; other devices are not read."""
    folder = tmp_path / "measured"
    folder.mkdir()
    (folder / "energy_networks.csv").write_text(
        NETWORKS + '"a100_pcie_40gb",dvfs,"hf BertModel, bert-large sizes",bfloat16,32,512,prefill,,1410,1134,0.13,32\n'
    )
    (folder / "gemm_power.csv").write_text(
        "device,dtype,m,n,k,latency_s,power_w,energy_j\nh200_sxm,fp8_block,64,128,256,0.001,500,0.5\nnobody,fp8,1,1,1,1,1,1\n"
    )
    (network,) = metered(tmp_path)
    assert (network.clock_hz, network.ran_at_hz, network.energy_j) == (1410e6, 1134e6, 32.0)
    ((name, (case,)),) = read_products(tmp_path).items()
    assert (name, case.case.dtype, case.latency_s, case.energy_j, case.clock_hz) == ("gpu_h200", "float8", 1e-3, 0.5, None)


def test_errors_of_power_and_of_time_are_told_apart():
    """A row that takes four times the predicted time at the predicted power: the latency is off by three quarters, and so is
    what power with the measured latency has beside static power."""
    case = as_measured(product(4096, 4096, 4096))
    power, energy, latency, known = results(list(judged_products(A100, [case])))
    assert [result.value for result in (power, energy, latency, known)] == pytest.approx([0.0] * 4, abs=0.02)
    assert [power.what, energy.what] == [f"gpu_a100_40g, bfloat16 products: {of}" for of in ("power", "energy")]
    assert [result.entry.coverage for result in (power, energy, latency) if result.entry] == [1.0] * 3
    assert all(1.02 < (result.width or 0.0) < 4.0 for result in (power, energy, latency))
    slow = dataclasses.replace(case, latency_s=4 * case.latency_s, energy_j=4 * case.energy_j)
    power, _, latency, known = results(list(judged_products(A100, [slow])))
    assert latency.value == pytest.approx(0.75)
    assert power.value == pytest.approx(0.0, abs=1e-6)
    assert known.value > 0.1


def test_a_board_in_a_loop_of_seconds_is_warm():
    """It is held to its cap from the start, and saves nothing."""
    machine = settled(A100)
    assert A100.value("throttle.cool.tensor") > 0.0
    assert not under("throttle.cool", machine.coefficients)
    assert machine.value("throttle.time") < 1e-6 < A100.value("throttle.time")


def test_power_with_a_known_time_is_capped():
    """Much energy in no time draws what the controller holds, little in long the static power."""
    held = A100.value("throttle.cap") * A100.value("power.tdp")
    assert watts_with_latency(A100, 1e-3, 1.0, 1e-9) == held
    assert watts_with_latency(A100, 1e-3, 1.0, 1e9) == pytest.approx(A100.value("power.static"))


def test_rows_at_several_clocks_give_back_the_voltage_curve():
    """Products at five clocks of a machine whose energy falls with the clock to the power 1.1, down to half."""
    truth = A100.replacing(
        coefficients={
            **A100.coefficients,
            "clock.rated": A100.coefficients["clock"],
            **{n: known(n, v) for n, v in (("energy.clock", 1.1), ("energy.floor", 0.5), ("power.tdp", 2000.0))},
        }
    )
    rng = np.random.default_rng(0)
    cases = [
        as_measured(product(*(int(size) for size in 2 ** rng.integers(8, 13, 3)), clock_hz=clock), truth)
        for clock in (510e6, 800e6, 1000e6, 1200e6, 1410e6)
        for _ in range(8)
    ]
    start = truth.replacing(
        coefficients={n: c for n, c in truth.coefficients.items() if n not in ("energy.clock", "energy.floor")}
    )
    fitted = with_fitted_energy(start, cases, {})
    assert fitted.value("energy.clock") == pytest.approx(1.1, abs=0.15)
    assert fitted.value("energy.floor") == pytest.approx(0.5, abs=0.04)
    assert fitted.value("energy.flop.matrix.bfloat16") == pytest.approx(truth.value("energy.flop.matrix.bfloat16"), rel=0.1)
    assert fitted.value("energy.flop.matrix.int8") == pytest.approx(0.5 * fitted.value("energy.flop.matrix.bfloat16"))


def test_a_second_fit_finds_what_the_first_did():
    """A fit starts from what is declared, not from the profile that an earlier one wrote; the declared floor stays."""
    cases = [as_measured(product(512 * i, 1024, 2048, clock_hz=clock)) for i in (1, 3, 8) for clock in (510e6, 1000e6, 1410e6)]
    once = with_fitted_energy(A100, cases, ENERGY_STARTS[A100.name])
    assert once.value("energy.floor") == ENERGY_STARTS[A100.name]["energy.floor"].value
    changed = with_values(once, {"energy.flop.matrix.bfloat16": 1e-9, "power.static": 1.0, "energy.clock": 2.9})
    assert with_fitted_energy(changed, cases, ENERGY_STARTS[A100.name]).coefficients == once.coefficients


def test_cards_with_the_same_chip_take_its_energies():
    """Two cards with an A100: joules at the lowest voltage carried, static power, memory and a known voltage their own."""
    changed = A100.replacing(coefficients={**without_shares(A100), "energy.clock": known("energy.clock", 1.1)})
    same, sxm = on_same_chip(changed)
    assert (same.name, sxm.name) == ("gpu_a100_80g", "gpu_a100_sxm_80g")
    assert (same.coefficients["energy.clock"].source, same.value("energy.clock")) == ("transferred", 1.1)
    assert same.value("energy.byte.l2") == A100.value("energy.byte.l2")
    assert {n: sxm.coefficients[n] for n in VOLTAGES[sxm.name]} == VOLTAGES[sxm.name]
    for name in ("energy.byte.l2", "energy.flop.matrix.float16"):
        assert sxm.value(name) * sxm.value("energy.floor") == pytest.approx(A100.value(name) * A100.value("energy.floor"))
    for other in (same, sxm):
        builtin = load_profile(other.name)
        assert other.coefficients["energy.byte.dram"] == builtin.coefficients["energy.byte.dram"]
        assert other.coefficients["power.static"] == builtin.coefficients["power.static"]
        assert not under("energy.share", other.coefficients)


def test_cases_of_a_run_count_at_the_clock_that_the_card_reported():
    """Products of the H200 at its cap ran at 1,425 to 1,620 MHz, loops at 1,980."""
    clocks = {(case.case.workload, case.case.dtype): case.clock_hz for case in recorded_cases(MEASURED_HERE["gpu_h200"])}
    assert clocks["add", "bfloat16"] == 1.98e9
    assert clocks["linear", "float16"] == 1.425e9
    assert len(clocks) > 10


def test_the_next_chip_takes_a_share_of_what_flops_take():
    """A B200 beside an H200, in each type that it multiplies; memory and static power are its own."""
    h200 = load_profile("gpu_h200")
    (b200,) = on_next_chip(h200)
    for dtype in ("bfloat16", "float8"):
        name = f"energy.flop.matrix.{dtype}"
        assert b200.value(name) == pytest.approx(B200_SHARE.value * h200.value(name))
    assert looked_up(b200)["throttle.cool.tensor"].value == h200.value("throttle.cool.tensor")
    assert b200.value("energy.flop.matrix.float4") < 0.5 * b200.value("energy.flop.matrix.bfloat16")
    builtin = load_profile("gpu_b200")
    for name in ("energy.byte.dram", "power.static"):
        assert b200.coefficients[name] == builtin.coefficients[name]


def test_builtin_profiles_hold_what_publishing_declares():
    """The committed files and the inputs of `publish` agree on voltages."""
    floors = {name: {"energy.floor": starts["energy.floor"]} for name, starts in ENERGY_STARTS.items()}
    for name, coefficients in (*floors.items(), *VOLTAGES.items()):
        assert {n: load_profile(name).coefficients[n] for n in coefficients} == coefficients


def known(name: str, value: float) -> Coefficient:
    return Coefficient(value, entry(name).unit, "literature", "of a test")
