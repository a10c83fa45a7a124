"""Machines side by side: outliers among equal ones, drift since an earlier campaign, and what is missing."""

import random
from pathlib import Path

import msgspec
import pytest

from shmoo.estimators.machine.profile import load_profile
from shmoo.runs.analysis.fleet import Specimen, fleet_report, speeds
from shmoo.runs.fleet_page import render_fleet
from shmoo.runs.store.records import CaseSpec, EnergyReading, Machine, Measurement, RunManifest, Timing
from shmoo.runs.store.store import Run

MACHINE = Machine("Example CPU", 2, 4, 8 << 30, torch="2.9.0", threads=2, governor="performance")
CASES = [CaseSpec("relu", "operator", {"m": m}) for m in range(1, 41)] + [CaseSpec("resnet18", "network", {"batch": 4})]


def run(factor=1.0, seed=0, noise=0.01, machine=MACHINE, energy_j=None, cases=CASES):
    """A run of a machine whose every case takes `factor` times the common time, with a case's own noise."""
    draw = random.Random(seed)
    lines = []
    for number, case in enumerate(cases, 1):
        seconds = 1e-4 * number * factor * draw.lognormvariate(0, noise)
        readings = () if energy_j is None else (EnergyReading("package", energy_j * seconds),)
        lines.append(Measurement(case, "ok", timing=Timing((seconds,) * 5), energy=readings))
    return Run(Path("run"), RunManifest(machine, "micro"), tuple(map(msgspec.json.encode, lines)), ())


def specimen(name, standing="finished", reason="", **given):
    return Specimen(name, standing, reason, run(seed=name, **given))


@pytest.mark.parametrize("machines", [3, 4, 8])
@pytest.mark.parametrize("factor", [1.05, 1 / 1.05])
def test_a_board_that_is_5_percent_off_is_found(machines, factor):
    """And no other one is named."""
    family = [specimen(f"m{n}", factor=factor if n == 1 else 1.0) for n in range(machines)]
    found = {speed.name: speed for speed in speeds(family)}
    assert [name for name, speed in found.items() if speed.outlier] == ["m1"]
    assert found["m1"].ratio == pytest.approx(factor, abs=0.01)
    assert found["m1"].cases == len(CASES)


def test_equal_boards_are_seldom_named():
    """Of 400 boards whose speeds scatter by 1 %, no more than 1 % are outliers."""
    draw = random.Random(3)
    named = 0
    for family in range(100):
        boards = [specimen(f"{family}-{n}", factor=draw.lognormvariate(0, 0.01)) for n in range(4)]
        named += sum(speed.outlier for speed in speeds(boards))
    assert named <= 4


def test_of_two_machines_none_is_the_outlier():
    """Their ratio is shown without a verdict."""
    pair = speeds([specimen("a"), specimen("b", factor=1.2)])
    assert [speed.z for speed in pair] == [None, None]
    assert pair[1].ratio == pytest.approx(1.1, abs=0.02)


def test_machines_that_share_no_case_are_not_compared():
    """Neither is one without a run."""
    third = Specimen("c", "missing", "no route to host")
    family = [specimen("a", cases=CASES[:20]), specimen("b", cases=CASES[20:]), third]
    assert [speed.ratio for speed in speeds(family)] == [None, None, None]


def test_other_machines_are_another_family():
    """A machine with another driver is no specimen of the same."""
    other = msgspec.structs.replace(MACHINE, driver="550.1")
    report = fleet_report([specimen("a"), specimen("b", machine=other), specimen("c")])
    assert [[one.name for one in family.specimens] for family in report.families] == [["a", "c"], ["b"]]


def test_what_is_not_whole_stands_at_the_head():
    """In the order of the hosts, with what they have."""
    hosts = [specimen("a"), specimen("b", standing="died", reason="its job was killed"), Specimen("c", "missing", "no route")]
    report = fleet_report(hosts)
    assert [(one.name, one.standing) for one in report.missing] == [("b", "died"), ("c", "missing")]
    assert [one.name for one in report.families[0].specimens] == ["a", "b"]
    page = render_fleet(report, "october <script>")
    assert "1 of 3 machines measured, 1 in part, 1 not;" in page
    assert page.index("its job was killed") < page.index("Speed among equal machines")
    assert "october &lt;script&gt;" in page
    assert "http" not in page.replace("http-equiv", "")


def test_drift_names_what_changed_and_by_how_much():
    """Firmware, driver and clock from facts and manifests, and the common ratio of the times."""
    before = [Specimen("a", "finished", "", run(seed=1), None, {"bios": "1.0", "gpu power limit": "300 W"})]
    moved = msgspec.structs.replace(MACHINE, governor="powersave", torch="2.10.0")
    now = [Specimen("a", "finished", "", run(1.1, seed=2, machine=moved), None, {"bios": "1.1", "gpu power limit": "300 W"})]
    (drift,) = fleet_report(now, before).drifts
    assert drift.changes == (("bios", "1.0", "1.1"), ("torch", "2.9.0", "2.10.0"), ("governor", "performance", "powersave"))
    assert drift.ratio.value == pytest.approx(1.1, abs=0.01)
    assert drift.shifted
    assert not fleet_report(before, before).drifts
    assert "1.10" in render_fleet(fleet_report(now, before), "now")


def test_energy_is_that_of_one_inference():
    """A batch of four takes four times as much."""
    report = fleet_report([specimen("a", energy_j=100.0, noise=0.0), specimen("b")])
    (energy,) = report.energies
    assert energy.case.workload == "resnet18"
    assert energy.energy_j == {"a": pytest.approx(100.0 * 1e-4 * len(CASES) / 4)}
    assert "Energy per inference" in render_fleet(report, "x")


def test_coefficients_of_equal_machines_stand_side_by_side():
    """Those that were fitted, with their ranges, and the error card of each."""
    profile = load_profile("gpu_h100")
    hosts = [Specimen(name, "finished", "", run(seed=name), profile) for name in ("a", "b")]
    page = render_fleet(fleet_report(hosts), "x")
    fitted = profile.fitted_from is not None and any(c.from_fit for c in profile.coefficients.values())
    assert ("Calibrated coefficients" in page) == fitted
    assert ("Error cards" in page) == bool(profile.error_card)
