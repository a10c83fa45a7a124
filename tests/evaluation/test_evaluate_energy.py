"""Power and energy against tables of others' measurements: reading, the fit, and the errors' arithmetic."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from shmoo.calibrate.fit.dataset import MeasuredCase, block_of
from shmoo.estimators.machine.coefficients import Coefficients
from shmoo.estimators.machine.profile import load_profile
from shmoo.estimators.predict.director import AnalysisDirector
from shmoo.runs.store.records import CaseSpec
from shmoo.runs.tables.reading import TableRow
from tests.evaluation.energy import PRODUCTS, judge, power_at, read_cases, results, settled, with_fitted_energy

A100 = load_profile("gpu_a100_40g")


def product(m: int, n: int, k: int, *, clock_hz: float | None = None, dtype: str = "bfloat16") -> MeasuredCase:
    axes = {"b": 1, "m": m, "n": n, "k": k}
    graph = TableRow(0, "linear", axes, dtype).graph()
    return MeasuredCase(CaseSpec("linear", PRODUCTS, axes, dtype, "cudagraphs", "cuda"), (graph,), 1.0, 1.0, clock_hz=clock_hz)


def as_measured(case: MeasuredCase, profile=A100) -> MeasuredCase:
    """The case with the time and energy that a profile says."""
    machine = settled(profile, case.clock_hz or 0.0)
    block = block_of([case], "cudagraphs", AnalysisDirector(profile))
    priced = AnalysisDirector(machine).price(block.table, "cudagraphs")
    return dataclasses.replace(case, latency_s=float(priced.latency_s[0]), energy_j=float(priced.energy_j[0]))


def test_rows_are_read_with_their_clocks(tmp_path):
    """Products of a device with a profile, of the vocabulary's types; devices without one are left out."""
    folder = tmp_path / "measured"
    folder.mkdir()
    (folder / "energy_networks.csv").write_text("device,model,dtype,batch,seq_len,clock_locked_mhz,latency_s,energy_j\n")
    (folder / "gemm_power.csv").write_text(
        "device,dtype,m,n,k,latency_s,power_w,energy_j\nh200_sxm,fp8_block,64,128,256,0.001,500,0.5\nnobody,fp8,1,1,1,1,1,1\n"
    )
    ((name, (case,)),) = read_cases(tmp_path).items()
    assert (name, case.case.dtype, case.latency_s, case.energy_j, case.clock_hz) == ("gpu_h200", "float8", 1e-3, 0.5, None)


def test_errors_of_power_and_of_time_are_told_apart():
    """A row that takes four times the predicted time at the predicted power: the latency is off by three quarters, and so is
    what power with the measured latency has beside static power."""
    case = as_measured(product(4096, 4096, 4096))
    (right,) = judge(A100, [case])
    assert right.power.entry().mean == pytest.approx(0.0, abs=1e-6)
    assert right.power_as_measured.entry().mean == pytest.approx(0.0, abs=0.02)
    slow = dataclasses.replace(case, latency_s=4 * case.latency_s, energy_j=4 * case.energy_j)
    (late,) = judge(A100, [slow])
    assert late.latency.entry().mean == pytest.approx(0.75)
    assert late.power.entry().mean == pytest.approx(0.0, abs=1e-6)
    assert late.power_as_measured.entry().mean > 0.1
    assert [result.what for result in results([late])][:2] == [
        f"gpu_a100_40g, bfloat16 {PRODUCTS}, all: {of}" for of in ("power", "energy")
    ]


def test_power_with_a_known_time_is_capped():
    """Much work in no time draws what the controller holds, little in long the static power."""
    case = dataclasses.replace(product(4096, 4096, 4096), latency_s=1e-9)
    block = block_of([case], "cudagraphs", AnalysisDirector(A100))
    assert power_at(block, A100)[0] == Coefficients(A100).value("throttle.cap") * A100.value("power.tdp")
    slow = block_of([dataclasses.replace(case, latency_s=1e3)], "cudagraphs", AnalysisDirector(A100))
    assert power_at(slow, A100)[0] == pytest.approx(A100.value("power.static"), rel=1e-3)


def test_rows_at_several_clocks_give_back_the_voltage_curve():
    """Products at five clocks of a machine whose energy falls with the clock to the power 1.8, down to half."""
    truth = A100.replacing(
        coefficients={
            **A100.coefficients,
            "clock.rated": A100.coefficients["clock"],
            **{n: known(n, v) for n, v in (("energy.clock", 1.8), ("energy.floor", 0.5), ("power.tdp", 2000.0))},
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
    fitted = with_fitted_energy(start, cases)
    assert fitted.value("energy.clock") == pytest.approx(1.8, abs=0.15)
    assert fitted.value("energy.floor") == pytest.approx(0.5, abs=0.04)
    assert fitted.value("energy.flop.matrix.bfloat16") == pytest.approx(truth.value("energy.flop.matrix.bfloat16"), rel=0.1)
    assert fitted.value("energy.flop.matrix.int8") == pytest.approx(0.5 * fitted.value("energy.flop.matrix.bfloat16"))


def known(name: str, value: float):
    from shmoo.estimators.graph.records import Coefficient
    from shmoo.estimators.machine.catalogue import entry

    return Coefficient(value, entry(name).unit, "literature", "of a test")
