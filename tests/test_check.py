import json

import pytest
from click.testing import CliRunner

from shmoo.harness.cli.app import cli
from shmoo.runs.check import check_run
from shmoo.runs.records import CaseSpec, EnergyReading, Machine, Measurement, RunManifest, Timing
from shmoo.runs.store import Run, RunWriter, SkippedCase

MACHINE = Machine("Example CPU", 2, 4, 8 << 30, torch="2.9.0", threads=2, governor="performance")


def case(m):
    return CaseSpec("relu", "operator", {"m": m})


def row(m, status="ok", reasons=(), samples=(1.0, 1.01, 0.99, 1.0), number=0, **changes):
    timing = None if status == "failed" else Timing(tuple(samples), stop_reason="precision")
    return Measurement(case(m), status, tuple(reasons), timing=timing, pass_index=number, **changes)


@pytest.fixture
def check(tmp_path):
    def check(rows, passes=1, machine=MACHINE, skipped=(), torn=b""):
        with RunWriter(tmp_path / "run", RunManifest(machine, "quick", settings={"passes": passes})) as writer:
            for item in rows:
                writer.append(item)
            writer.record_skipped(skipped)
        if torn:
            with (tmp_path / "run" / "rows.jsonl").open("ab") as file:
                file.write(torn)
        return {finding.topic: finding for finding in check_run(Run.open(tmp_path / "run"))}

    return check


def two_passes(ratio, count=10):
    return [
        row(m, samples=[s * (ratio if n else 1) for s in (1.0, 1.001, 0.999)], number=n) for n in (0, 1) for m in range(count)
    ]


def test_a_clean_run_has_no_fault(check):
    """Two passes that agree: only that rows name no graph is worth a note."""
    assert {f.topic for f in check(two_passes(1.0), passes=2).values()} == {"no graph"}


def test_failed_and_suspect_rows_are_grouped_by_cause_with_their_share(check):
    """Two of four rows are suspect for a busy host, one failed; each cause is a fault with a number and a remedy."""
    found = check(
        [
            row(1),
            row(2, "suspect", ["busy host: others used 1.0 cores"]),
            row(3, "suspect", ["busy host: others used 0.7 cores"]),
            row(4, "failed", ["RuntimeError: no kernel"]),
        ]
    )
    assert found["suspect: busy host"].level == found["failed: RuntimeError"].level == "fault"
    assert "2 of 4 rows (50%)" in found["suspect: busy host"].found
    assert len(found["suspect: busy host"].cases) == 2
    assert "idle machine" in found["suspect: busy host"].remedy


def test_cases_not_reached_and_missing_passes_are_faults(check):
    """A budget left one case out, and another lacks its second pass: both go on with --resume."""
    rows = [row(1), row(1, number=1), row(2)]
    found = check(rows, passes=2, skipped=[SkippedCase(case(3), 0, "time budget of 5 s used up")])
    assert "time budget" in found["not reached"].found
    assert found["passes missing"].cases == (case(2).label,)
    assert "--resume" in found["passes missing"].remedy


def test_a_torn_row_and_an_empty_run_are_faults(check):
    """Half a row at the end says how many bytes; no row at all says so."""
    found = check([], torn=b'{"case": {"workl')
    assert set(found) == {"torn row", "empty"}


def test_two_rows_for_one_pass_are_a_fault(check):
    """They would count twice."""
    assert check([row(1), row(1)])["duplicates"].level == "fault"


def test_a_graph_that_is_gone_is_a_fault(check):
    """The row names it and it is not there."""
    assert "missing" in check([row(1, graph_hashes=("0123456789abcdef",))])["graphs"].found


def test_one_pass_is_a_note_with_the_command_for_a_second(check):
    """Drift and difference look the same in one pass."""
    found = check([row(m) for m in range(5)])["one pass"]
    assert found.level == "note"
    assert "--passes 2" in found.remedy


def test_passes_that_disagree_are_named_with_the_typical_and_the_worst(check):
    """All cases 30 % apart is a fault and a drift; 5 % apart is a drift only."""
    found = check(two_passes(1.3), passes=2)
    assert found["passes disagree"].level == "fault"
    assert "10 of 10 cases" in found["passes disagree"].found
    assert "typically 30.0%" in found["passes disagree"].found
    assert "1.300 times" in found["drift"].found


def test_a_small_common_drift_is_a_note(check):
    """5 % between the passes of every case is the machine, not the cases."""
    found = check(two_passes(1.05), passes=2)
    assert "passes disagree" not in found
    assert found["drift"].level == "note"


def test_noise_below_suspicion_is_a_note(check):
    """IQR of 15 % in all rows is worth knowing."""
    assert "4 of 4" in check([row(m, samples=(1.0, 1.1, 0.95, 1.2, 0.9)) for m in range(4)])["noisy"].found


def test_missing_energy_is_a_note_with_its_reason(check):
    """No counter is no fault of the run."""
    found = check([row(1, energy=(EnergyReading("package", reason="no RAPL"),))])["energy"]
    assert (found.level, found.found) == ("note", "package: not known in 1 of 1 rows: no RAPL")


def test_wide_energy_and_the_machine_are_notes(check):
    """An interval of 50 % says little; a governor that moves the clock and a hypervisor are named."""
    machine = Machine("Example CPU", 2, 4, 8 << 30, torch="2.9.0", governor="powersave", hypervisor="KVM")
    found = check([row(1, energy=(EnergyReading("package", 1.0, low_j=0.75, high_j=1.25),))], machine=machine)
    assert "wider than 20%" in found["energy"].found
    assert {"governor", "virtual machine"} <= set(found)


@pytest.mark.parametrize(
    ("reading", "said"),
    [
        ({"idle_power_w": 10.0, "idle_power_after_w": 15.0}, "idle power before and after differs"),
        ({"integrated_j": 1.1}, "the counter and the integrated power differ by more than 5%"),
        ({"idle_power_after_w": 50.0, "window_s": 1.0, "calls": 50}, "power is not above idle power"),
    ],
)
def test_doubtful_energies_are_notes(check, reading, said):
    """Idle drift, sensors that disagree, and power no higher than idle: 1 J a call at 50 calls a second is 50 W."""
    found = check([row(1, energy=(EnergyReading("package", 1.0, low_j=0.95, high_j=1.05, **reading),))])
    assert said in found["energy"].found
    assert found["energy"].level == "note"


# the command


def test_the_command_exits_1_on_faults_and_0_on_notes(check, tmp_path):
    """Notes alone are fine; the JSON lists every finding."""
    check([row(1)])
    result = CliRunner().invoke(cli, ["check", str(tmp_path / "run")])
    assert result.exit_code == 0, result.output
    assert "note: one pass" in result.stdout


def test_the_command_writes_one_json_document(check, tmp_path):
    """Faults are counted and named."""
    check([row(1, "failed", ["out of memory"])])
    result = CliRunner().invoke(cli, ["check", str(tmp_path / "run"), "--json"])
    assert result.exit_code == 1
    document = json.loads(result.stdout)
    assert document["faults"] == 1
    assert document["findings"][0]["topic"] == "failed: out of memory"
