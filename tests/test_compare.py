import json
import random

import pytest
from click.testing import CliRunner

from shmoo.estimators.errors import NothingMeasuredError
from shmoo.harness.cli.app import cli
from shmoo.runs.compare import compare_runs
from shmoo.runs.records import CaseSpec, EnergyReading, Machine, Measurement, RunManifest, Timing
from shmoo.runs.store import Run, RunWriter

MACHINE = Machine("Example CPU", 2, 4, 8 << 30, torch="2.9.0", threads=2, governor="performance")


def case(m, kind="operator", **changes):
    return CaseSpec("relu" if kind == "operator" else "resnet18", kind, {"m": m}, **changes)


def write(path, medians, machine=MACHINE, passes=1, sigma=0.002, drift=0.0, seed=0, energy=None, status="ok"):
    """A run with lognormal samples around each case's median; windows drift apart by `drift`."""
    draw = random.Random(seed)
    with RunWriter(path, RunManifest(machine, "micro", {"torch": machine.torch}, {"passes": passes})) as writer:
        for number in range(passes):
            for spec, middle in medians:
                window = middle * draw.lognormvariate(0, drift) if drift else middle
                samples = tuple(window * draw.lognormvariate(0, sigma) for _ in range(41))
                readings = () if energy is None else (EnergyReading("package", energy * middle),)
                reasons = ("noisy: very",) if status == "suspect" else ()
                writer.append(Measurement(spec, status, reasons, timing=Timing(samples), pass_index=number, energy=readings))
    return Run.open(path)


TWENTY = [(case(m), 1e-3 * m) for m in range(1, 21)]


def test_equal_runs_have_no_change_and_a_small_spread(tmp_path):
    """Samples 0.2 % wide give medians within 0.1 % and nothing changed."""
    found = compare_runs(write(tmp_path / "a", TWENTY, seed=1), write(tmp_path / "b", TWENTY, seed=2))
    assert not found.changed
    assert found.spreads == {"operators": pytest.approx(0.0005, abs=0.0005)}
    assert found.counts == {"operators": 20}
    assert all(c.ratio.low <= 1 <= c.ratio.high or c.ratio.value == pytest.approx(1, abs=2e-3) for c in found.cases)


def test_the_spread_is_the_median_over_cases_of_the_relative_difference(tmp_path):
    """Ratios 1.01, 0.99 and 1.5 are spreads 0.01, 0.0101 and 0.5: median 0.0101; networks are apart, cold rows are left out."""
    a = [(case(1), 1.0), (case(2), 1.0), (case(3), 1.0), (case(9, "network"), 1.0), (case(1, cache_state="cold"), 1.0)]
    b = [(case(1), 1.01), (case(2), 0.99), (case(3), 1.5), (case(9, "network"), 1.2), (case(1, cache_state="cold"), 3.0)]
    found = compare_runs(write(tmp_path / "a", a, sigma=0), write(tmp_path / "b", b, sigma=0))
    assert found.spreads == pytest.approx({"operators": 1 / 0.99 - 1, "networks": 0.2})
    assert found.counts == {"operators": 3, "networks": 1}
    assert len(found.cases) == 5


def test_one_case_that_changed_is_named(tmp_path):
    """Among twenty, the one 20 % slower is changed and its interval holds 1.2; the others are not."""
    slower = [(spec, middle * (1.2 if spec.axes["m"] == 7 else 1)) for spec, middle in TWENTY]
    found = compare_runs(write(tmp_path / "a", TWENTY, passes=2, seed=1), write(tmp_path / "b", slower, passes=2, seed=2))
    assert [c.case.axes["m"] for c in found.cases if c.changed] == [7]
    assert found.cases[0].ratio.low < 1.2 < found.cases[0].ratio.high
    assert not found.shifted


def test_windows_that_wander_are_noise_and_no_change(tmp_path):
    """Windows 10 % apart, each with samples 0.2 % wide, would all have changed if samples were all there is to noise."""
    runs = [write(tmp_path / name, TWENTY, passes=2, drift=0.1, seed=seed) for name, seed in (("a", 1), ("b", 2))]
    found = compare_runs(*runs)
    assert found.noise_from == "passes"
    assert found.noise == pytest.approx(0.1, rel=0.5)
    assert not any(c.changed for c in found.cases)


def test_a_shift_common_to_all_cases_is_named_as_one(tmp_path):
    """10 % slower throughout is one finding about the machine; with single passes no case stands out."""
    slower = [(spec, 1.1 * middle) for spec, middle in TWENTY]
    found = compare_runs(write(tmp_path / "a", TWENTY, seed=1), write(tmp_path / "b", slower, seed=2))
    assert found.shifted
    assert found.shift.value == pytest.approx(1.1, rel=0.002)


def test_a_change_below_the_smallest_one_is_left_alone(tmp_path):
    """1 % is certain here and still no change; asked for 0.5 %, it is one."""
    slower = [(spec, 1.01 * middle) for spec, middle in TWENTY]
    runs = write(tmp_path / "a", TWENTY, seed=1), write(tmp_path / "b", slower, seed=2)
    assert not compare_runs(*runs).changed
    assert compare_runs(*runs, min_change=0.005).changed


def test_machine_differences_come_first(tmp_path):
    """Another torch forbids calibrating together; another governor is a setting."""
    other = Machine("Example CPU", 2, 4, 8 << 30, torch="2.10.0", threads=2, governor="powersave")
    found = compare_runs(write(tmp_path / "a", TWENTY), write(tmp_path / "b", TWENTY, machine=other))
    assert [(d.field, d.severity) for d in found.differences] == [
        ("torch", "machine"),
        ("governor", "setting"),
        ("version of torch", "setting"),
    ]


def test_cases_only_one_run_can_speak_of_are_listed(tmp_path):
    """One was not measured in b; the suspect rows of the third run are no pair and say why."""
    a = write(tmp_path / "a", TWENTY)
    fewer = write(tmp_path / "b", TWENTY[:19])
    (missing,) = compare_runs(a, fewer).unpaired
    assert (missing.case.axes["m"], missing.missing_in, missing.reason) == (20, "b", "not measured")
    with pytest.raises(NothingMeasuredError, match="no case has an ok row in both"):
        compare_runs(a, write(tmp_path / "c", TWENTY, status="suspect"))


def test_energy_has_a_spread_of_its_own(tmp_path):
    """20 W against 21 W for the same times is 5 %."""
    found = compare_runs(write(tmp_path / "a", TWENTY, energy=20.0), write(tmp_path / "b", TWENTY, energy=21.0))
    assert found.energy_spreads == {"operators": pytest.approx(0.05)}


# the command


def test_the_command_exits_1_when_something_changed(tmp_path):
    """Unchanged: 0; a case 50 % slower: 1, and it is named; the spread is printed."""
    write(tmp_path / "a", TWENTY, seed=1)
    write(tmp_path / "b", TWENTY, seed=2)
    write(tmp_path / "c", [(s, t * (1.5 if s.axes["m"] == 3 else 1)) for s, t in TWENTY], seed=3)
    same = CliRunner().invoke(cli, ["compare", str(tmp_path / "a"), str(tmp_path / "b")])
    assert same.exit_code == 0, same.output
    assert "operators" in same.stdout
    changed = CliRunner().invoke(cli, ["compare", str(tmp_path / "a"), str(tmp_path / "c")])
    assert changed.exit_code == 1
    assert "relu[m=3]" in changed.stdout


def test_the_command_writes_one_json_document(tmp_path):
    """Every case is in it with its interval, and so are the spreads."""
    write(tmp_path / "a", TWENTY, seed=1)
    write(tmp_path / "b", TWENTY, seed=2)
    result = CliRunner().invoke(cli, ["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--json"])
    document = json.loads(result.stdout)
    assert len(document["cases"]) == 20
    assert document["spreads"]["operators"] < 0.01
    assert document["changed"] is False
    assert set(document["cases"][0]["ratio"]) == {"value", "low", "high"}
