"""The energy fit on synthetic readings of a machine whose energies are known."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from shmoo.calibrate.calibration import calibrate_cases
from shmoo.calibrate.fit.dataset import MeasuredCase, Sources, block_of, blocks, run_cases
from shmoo.calibrate.fit.energy import LEAST_ENERGY, RATIOS, fit_energy
from shmoo.estimators.graph.records import Coefficient
from shmoo.estimators.machine.profile import load_profile
from shmoo.estimators.predict.director import AnalysisDirector
from shmoo.runs.store.records import EnergyReading, Machine, Measurement, RunManifest, Timing
from shmoo.runs.store.store import Run, RunWriter
from shmoo.runs.tables.reading import TableRow
from tests.build import with_values
from tests.calibrate.test_calibration import known_cpu
from tests.harness.energy.test_virtual import physics, work

PROFILE = known_cpu()
TRUTH = {
    "matrix": 1.4 * PROFILE.value("energy.flop.matrix.float32"),
    "vector": PROFILE.value("energy.flop.vector.float32"),
    "static": 60.0,
    **{level: PROFILE.value(f"energy.byte.{level}") for level in PROFILE.levels},
}


def measured(**facts: float | None) -> list[MeasuredCase]:
    """Cases as the machine of `TRUTH` would have measured them, each with these further facts."""
    rows = work("cpu", "eager")
    seconds, joules = physics(PROFILE, TRUTH, tuple(MeasuredCase(row.case, (row.graph(),), 1.0) for row in rows))
    return [
        MeasuredCase(row.case, (row.graph(),), call_s, call_j, **facts)
        for row, call_s, call_j in zip(rows, seconds, joules, strict=True)
    ]


def fitted(cases):
    found = fit_energy(blocks(cases, PROFILE), PROFILE, "synthetic")
    assert found is not None
    return found


def test_readings_whose_windows_disagree_weigh_less():
    """Every fourth reading is at a quarter of the truth. With a deviation of five times these beside them, the energy of a flop
    comes back within 5 %; taken at their word, it is off by more than 20 %."""
    cases = measured(energy_sd_j=0.0)
    spoilt = [dataclasses.replace(c, energy_j=0.25 * c.energy_j) if i % 4 == 0 else c for i, c in enumerate(cases)]
    told = [dataclasses.replace(c, energy_sd_j=5.0 * c.energy_j) if i % 4 == 0 else c for i, c in enumerate(spoilt)]
    name = "energy.flop.matrix.float32"
    assert fitted(told).coefficients[name].value == pytest.approx(TRUTH["matrix"], rel=0.05)
    assert abs(fitted(spoilt).coefficients[name].value / TRUTH["matrix"] - 1.0) > 0.2


def test_static_power_is_fitted_and_held_against_idle_power():
    """60 W of static power come back whatever the chip draws idle; 40 W idle agree with that, 90 W do not, and both are said."""
    low, high = fitted(measured(idle_w=40.0)), fitted(measured(idle_w=90.0))
    for found, idle in ((low, 40.0), (high, 90.0)):
        assert found.coefficients["power.static"].value == pytest.approx(60.0, rel=0.02)
        assert found.coefficients["power.idle"].value == idle
    assert low.static_power == "static power 60 W, 40 W measured idle"
    assert "90 W measured idle: a chip at work draws no less" in high.static_power
    assert "was not measured" in fitted(measured()).static_power


def test_energy_read_while_calls_were_slow_is_fitted_at_its_own_pace():
    """Every other reading was taken while calls took twice as long, so that it holds 60 W for twice the time. With the pace, the
    fit gives back static power and energies per flop; without it, that of a vector flop is off by a third."""
    slow = [
        dataclasses.replace(c, energy_j=c.energy_j + TRUTH["static"] * c.latency_s, energy_pace_s=2 * c.latency_s) if i % 2 else c
        for i, c in enumerate(measured(energy_sd_j=0.0))
    ]
    told, untold = (fitted(cases).coefficients for cases in (slow, [dataclasses.replace(c, energy_pace_s=None) for c in slow]))
    assert told["power.static"].value == pytest.approx(60.0, rel=0.02)
    for unit in ("matrix", "vector"):
        assert told[f"energy.flop.{unit}.float32"].value == pytest.approx(TRUTH[unit], rel=0.02)
    assert abs(untold["energy.flop.vector.float32"].value / TRUTH["vector"] - 1.0) > 0.25


def test_no_operation_takes_less_than_a_tenth_of_what_circuits_need():
    """Readings that hold static power alone leave the energy of a byte of memory at its lower bound, and say so."""
    cases = [dataclasses.replace(c, energy_j=60.0 * c.latency_s) for c in measured()]
    found = fitted(cases)
    name = "energy.byte.dram"
    assert name in found.at_bound
    assert found.coefficients[name].value == pytest.approx(LEAST_ENERGY * PROFILE.coefficients[name].bounds[0])
    assert {n for n, c in found.coefficients.items() if c.source == "at bound"} == set(found.at_bound)


def test_what_readings_cannot_tell_keeps_the_range_of_its_prior():
    """One product measured ten times over decides no coefficient: each holds the profile's range, marked as not fitted."""
    row = TableRow(0, "linear", {"b": 1, "m": 512, "n": 512, "k": 512})
    found = fitted([MeasuredCase(row.case, (row.graph(),), 1e-3, 0.2)] * 10)
    units = {"energy.flop.matrix.float32", "energy.flop.vector.float32"}
    assert set(found.unidentified) == units | {"power.static"} | {f"energy.byte.{level}" for level in PROFILE.levels}
    for name in found.unidentified:
        coefficient, prior = found.coefficients[name], PROFILE.coefficients[name]
        assert coefficient.source == "prior"
        assert coefficient.bounds[0] <= prior.bounds[0] <= prior.bounds[1] <= coefficient.bounds[1]


def test_a_calibration_carries_energies_and_their_notes():
    """The profile holds what was fitted and the idle power; the notes have the condition and the check of static power."""
    made = calibrate_cases(Sources(tuple(measured(idle_w=40.0)), "synthetic", ("synthetic",), None), PROFILE, name="here")
    assert made.profile.coefficients["power.static"].source == "fitted"
    assert made.profile.value("power.idle") == 40.0
    assert "static power 60 W, 40 W measured idle" in made.notes
    assert any(note.startswith("condition number of the energy fit") for note in made.notes)


def test_a_run_tells_spread_pace_and_idle_power_of_the_package(tmp_path):
    """Memory is a reading of its own and adds nothing; over two visits the middle of each number counts, and the mean pace."""
    row = TableRow(0, "linear", {"b": 1, "m": 64, "n": 64, "k": 64})
    graph = row.graph()
    with RunWriter(tmp_path / "run", RunManifest(Machine("Xeon", 1, 1, 2**30), "micro")) as writer:
        for number, scale in enumerate((1.0, 1.2)):
            readings = tuple(
                EnergyReading(
                    domain,
                    scale * joules,
                    low_j=0.9 * scale * joules,
                    high_j=1.1 * scale * joules,
                    window_s=scale,
                    calls=100,
                    idle_power_w=idle,
                )
                for domain, joules, idle in (("package-0", 3.0, 20.0), ("dram-0", 1.0, 4.0))
            )
            visit = Measurement(row.case, "ok", (), (graph.content_hash,), Timing((1e-3,) * 3), energy=readings, visit=number)
            writer.append(visit, [graph])
    (case,) = run_cases(Run.open(tmp_path / "run"))
    assert case.energy_j == pytest.approx(3.3)
    assert case.energy_sd_j == pytest.approx(0.1 * 3.3 / 1.645)
    assert case.energy_pace_s == pytest.approx(0.011)
    assert case.idle_w == 20.0


def test_residuals_are_logarithms_and_unknown_where_nothing_was_read():
    """A case without a reading has no residual; the others' are near 0."""
    cases = measured()
    cases[0] = dataclasses.replace(cases[0], energy_j=None)
    residuals = fitted(cases).residuals
    assert np.isnan(residuals[0])
    assert np.abs(residuals[1:]).max() < 0.05


H200 = load_profile("gpu_h200")


def products_on_a_gpu(dtype: str, joules: float, sizes: list[tuple[int, int, int]]) -> list[MeasuredCase]:
    """Products of an H200 at its own clock, each flop of this type taking the given energy."""
    machine = with_values(H200, {f"energy.flop.matrix.{dtype}": joules, "power.tdp": 1e5, "throttle.cap": 1.0})
    director = AnalysisDirector(machine)
    found = []
    for m, n, k in sizes:
        row = TableRow(0, "linear", {"b": 1, "m": m, "n": n, "k": k}, dtype, device="cuda", runtime="cudagraphs", time="device")
        case = MeasuredCase(row.case, (row.graph(),), 1.0, clock_hz=machine.value("clock"))
        block = block_of([case], "cudagraphs", director)
        priced = director.price(block.table, "cudagraphs", tiling=block.tiling)
        seconds, spent = float(priced.latency_s[0]), float(priced.energy_j[0])
        found.append(dataclasses.replace(case, latency_s=seconds, energy_j=spent))
    return found


def test_a_type_that_readings_hardly_show_takes_the_usual_multiple_of_16_bits():
    """Bfloat16 takes half more than the profile says. Few readings of tiny products in TF32 cannot tell what it takes: it comes
    back at its usual ratio to bfloat16, and with readings of large ones at its own value."""
    half, tf32 = (H200.value(f"energy.flop.matrix.{dtype}") for dtype in ("bfloat16", "tf32"))
    sizes = [(1024 * i, 4096, 2048 * j) for i in (1, 2, 4) for j in (1, 2, 3)]
    told = products_on_a_gpu("bfloat16", 1.5 * half, sizes)
    few = products_on_a_gpu("tf32", tf32, [(64, 64, 64), (64, 128, 64)])
    values = {n: c.value for n, c in fitted_on_a_gpu([*told, *few]).items()}
    assert values["energy.flop.matrix.bfloat16"] == pytest.approx(1.5 * half, rel=0.1)
    ratio, _ = RATIOS["tf32"]
    assert values["energy.flop.matrix.tf32"] == pytest.approx(ratio * values["energy.flop.matrix.bfloat16"], rel=0.1)
    values = {n: c.value for n, c in fitted_on_a_gpu([*told, *products_on_a_gpu("tf32", 5 * half, sizes)]).items()}
    assert values["energy.flop.matrix.tf32"] == pytest.approx(5 * half, rel=0.1)


def test_a_type_that_only_cases_at_the_cap_show_keeps_its_prior():
    """Float8 at the cap, predicted to take twice what it took at a clock nobody noted, tells nothing; bfloat16 is fitted."""
    half, name = H200.value("energy.flop.matrix.bfloat16"), "energy.flop.matrix.float8"
    told = products_on_a_gpu("bfloat16", 1.5 * half, [(1024 * i, 4096, 2048 * j) for i in (1, 2, 4) for j in (1, 2, 3)])
    (case,) = products_on_a_gpu("float8", H200.value(name), [(4096, 4096, 4096)])
    joules = case.energy_j / 2
    held = dataclasses.replace(case, energy_j=joules, latency_s=joules / H200.value("power.tdp"), clock_hz=None)
    coefficients = fitted_on_a_gpu([*told, held])
    assert coefficients[name].source == "prior"
    assert coefficients[name].low <= H200.value(name) <= coefficients[name].high
    assert coefficients["energy.flop.matrix.bfloat16"].value == pytest.approx(1.5 * half, rel=0.1)


def test_loops_of_a_gpu_take_the_same_in_every_type():
    """They convert what they read and compute in float32."""
    rows = [
        TableRow(0, "gelu", {"shape": f"{rows}x4096"}, dtype, device="cuda")
        for rows in (512, 2048, 8192)
        for dtype in ("float32", "bfloat16")
    ]
    found = fitted_on_a_gpu([MeasuredCase(row.case, (row.graph(),), 1e-4, 0.05) for row in rows])
    assert [name for name in found if name.startswith("energy.flop.vector.")] == ["energy.flop.vector.float32"]


def fitted_on_a_gpu(cases: list[MeasuredCase]) -> dict[str, Coefficient]:
    found = fit_energy(blocks(cases, H200), H200, "synthetic")
    assert found is not None
    return found.coefficients


def test_joules_are_fitted_before_the_times_that_rest_on_them():
    """A board whose flops take 1.5 times what its description says runs slower at its cap. The energies say so, so that no share
    of an algorithm has to, and a long product takes as long as on that board."""
    instant = Coefficient(1e-6, "s", "literature", "loops of a second and more")
    v100 = load_profile("gpu_v100").replacing(residual=(), host="")
    base = v100.replacing(coefficients={**v100.coefficients, "throttle.time": instant})
    name = "energy.flop.matrix.float32"
    board = base.replacing(coefficients={**base.coefficients, name: base.coefficients[name].scaled(1.5)})
    sizes = 2 ** np.random.default_rng(0).integers(7, 13, (150, 3))
    axes = [dict(zip("bmnk", (1, *size), strict=True)) for size in sizes.tolist()]
    rows = [TableRow(i, "linear", of, device="cuda") for i, of in enumerate(axes)]
    (priced,) = AnalysisDirector(board).price_cases([row.graph() for row in rows], runtime="eager")
    cases = tuple(
        MeasuredCase(row.case, (row.graph(),), seconds, joules)
        for row, seconds, joules in zip(rows, priced.latency_s.tolist(), priced.energy_j.tolist(), strict=True)
    )
    made = calibrate_cases(Sources(cases, "", ("synthetic",), None), base, name="hungry", residual=False).profile
    assert made.value(name) == pytest.approx(board.value(name), rel=0.1)
    assert made.value("energy.share.gemm", 1.0) == pytest.approx(base.value("energy.share.gemm", 1.0), rel=0.1)
    long = TableRow(0, "linear", {"b": 1, "m": 8192, "n": 8192, "k": 8192}).graph()
    (there,), (here,) = (AnalysisDirector(p).estimate_cases([long], runtime="eager") for p in (board, made))
    assert here[0].value == pytest.approx(there[0].value, rel=0.05)
    assert here[0].value > 1.2 * AnalysisDirector(base).estimate_cases([long], runtime="eager")[0][0].value
