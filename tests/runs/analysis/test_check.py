import json
import math
import re

import pytest
from click.testing import CliRunner

from shmoo.harness.cli.app import cli
from shmoo.runs.analysis.check import check_run
from shmoo.runs.store.records import CaseSpec, EnergyReading, Machine, Measurement, Reason, RunManifest, Timing
from shmoo.runs.store.store import Run, RunWriter, SkippedCase

MACHINE = Machine("Example CPU", 2, 4, 8 << 30, torch="2.9.0", threads=2, governor="performance")


def case(m):
    return CaseSpec("relu", "operator", {"m": m})


def row(m, status="ok", reasons=(), samples=(1.0, 1.01, 0.99, 1.0), number=0, **changes):
    timing = None if status == "failed" else Timing(tuple(samples), stop_reason="timeout")
    return Measurement(case(m), status, tuple(reasons), timing=timing, visit=number, **changes)


@pytest.fixture
def check(tmp_path):
    def check(rows, visits=1, machine=MACHINE, skipped=(), torn=b"", setting="visits"):
        with RunWriter(tmp_path / "run", RunManifest(machine, "quick", settings={setting: visits})) as writer:
            for item in rows:
                writer.append(item)
            writer.record_skipped(skipped)
        if torn:
            with (tmp_path / "run" / "rows.jsonl").open("ab") as file:
                file.write(torn)
        return {finding.topic: finding for finding in check_run(Run.open(tmp_path / "run"))}

    return check


def visited(*factors, count=10):
    """Each case visited once a factor, all of them by that factor slower."""
    return [
        row(m, samples=[s * factor for s in (1.0, 1.001, 0.999)], number=n)
        for n, factor in enumerate(factors)
        for m in range(count)
    ]


def test_a_clean_run_has_no_fault(check):
    """Three visits that agree: only that rows name no graph is worth a note."""
    assert {f.topic for f in check(visited(1.0, 1.0, 1.0), visits=3).values()} == {"no graph"}


def test_failed_and_suspect_rows_are_grouped_by_code_with_their_share(check):
    """Two of four rows are suspect for throttling, one failed; each cause is a fault with a number and a remedy."""
    found = check(
        [
            row(1),
            row(2, "suspect", [Reason("throttled", "3 thermal throttle events")]),
            row(3, "suspect", [Reason("throttled", "8 thermal throttle events")]),
            row(4, "failed", [Reason("RuntimeError", "no kernel")]),
        ]
    )
    assert found["suspect: throttled"].level == found["failed: RuntimeError"].level == "fault"
    assert "2 of 4 rows (50%)" in found["suspect: throttled"].found
    assert len(found["suspect: throttled"].cases) == 2
    assert "shmoo doctor" in found["suspect: throttled"].remedy


def test_rows_without_a_reason_are_faults_too(check):
    """A failed row that says nothing still failed."""
    assert check([row(1), row(2, "failed")])["failed: no reason given"].level == "fault"


def test_remarks_of_usable_rows_are_notes(check):
    """A graph that was not captured and a visit that was left out are told; noise beside a visit is in its standard error."""
    rows = [row(m, reasons=[Reason("not captured", "a loop"), Reason("steal", "12 %")]) for m in range(3)]
    found = check([*rows, row(0, "suspect", [Reason("throttled", "3 events")], number=1)])
    assert (found["not captured"].level, found["visits left out"].level) == ("note", "note")
    assert "3 of 3 rows" in found["not captured"].found
    assert "1 of 2, suspect: throttled: 3 events" in found["visits left out"].found
    assert "steal" not in found
    assert not any(finding.level == "fault" for finding in found.values())


def test_cases_not_reached_and_missing_visits_are_faults(check):
    """A budget left one case out, and another lacks its second visit: both go on with --resume. A failed case is left alone."""
    rows = [row(1), row(1, number=1), row(2), row(4, "failed", [Reason("RuntimeError", "no kernel")])]
    found = check(rows, visits=2, skipped=[SkippedCase(case(3), "time budget of 5 s used up")])
    assert "time budget" in found["not reached"].found
    assert found["visits missing"].cases == (case(2).label,)
    assert found["visits missing"].level == "fault"
    assert "--resume" in found["visits missing"].remedy


def test_runs_of_passes_lack_them_as_visits(check):
    """A run of an older version asked for two passes."""
    assert check([row(1), row(1, number=1), row(2)], visits=2, setting="passes")["visits missing"].cases == (case(2).label,)


def test_remedies_name_the_run(check, tmp_path):
    """Whatever is to be done can be copied: the run's own path stands in it."""
    rows = [*visited(1.0, 1.3), row(11, "failed"), row(12, "suspect"), row(13, samples=(1.0,)), row(1)]
    machine = Machine("Example CPU", 2, 4, 8 << 30, torch="2.9.0", governor="powersave")
    found = check(rows, visits=2, machine=machine, skipped=[SkippedCase(case(20), "interrupted")], torn=b"{")
    topics = {"torn row", "not reached", "visits missing", "duplicates", "few samples", "noisy", "drift", "governor"}
    assert topics | {"failed: no reason given", "suspect: no reason given"} <= set(found)
    for finding in found.values():
        assert not finding.remedy or str(tmp_path / "run") in finding.remedy, finding


def test_a_torn_row_and_an_empty_run_are_faults(check):
    """Half a row at the end says how many bytes; no row at all says so."""
    found = check([], torn=b'{"case": {"workl')
    assert set(found) == {"torn row", "empty"}


def test_one_visit_that_stands_twice_is_a_fault(check):
    """Two lines of one visit that differ: it would count twice."""
    assert check([row(1), row(1, samples=(1.0, 1.1, 1.2))])["duplicates"].level == "fault"


def test_a_copied_line_counts_once_and_is_a_fault(check, tmp_path):
    """Three copies of a visit are one visit in every row, and the run's problems say so to every command."""
    found = check([row(1), row(1), row(1), row(2)])
    run = Run.open(tmp_path / "run")
    assert found["copied rows"].level == "fault"
    assert "2 lines" in found["copied rows"].found
    assert run.problems[-1] == found["copied rows"].found
    assert (run.copied, [len(one.visits) for one in run.rows], len(run.visits[case(1).identity])) == ((2, 3), [1, 1], 1)


def test_a_graph_that_is_gone_is_a_fault(check):
    """The row names it and it is not there."""
    assert "missing" in check([row(1, graph_hashes=("0123456789abcdef",))])["graphs"].found


def test_one_visit_is_a_note_with_the_command_for_more(check, tmp_path):
    """Drift and difference look the same in one visit."""
    found = check([row(m) for m in range(5)])["one visit"]
    assert found.level == "note"
    assert f"`shmoo measure --visits 3 --out {tmp_path / 'run'} --resume`" in found.remedy


def test_noisy_rows_are_a_note_with_the_standard_errors(check):
    """Two visits of every case 30 % apart have the variance v = (ln 1.3)^2 / 2, and so have all cases together, but for a median
    distance that is 1 / 0.6745 of a standard deviation: the standard error is the root of (v + 2 v / 0.6745^2) / 3 / 2."""
    found = check(visited(1.0, 1.3), visits=2)["noisy"]
    assert found.level == "note"
    assert len(found.cases) == 10
    assert "10 of 10 usable rows" in found.found
    assert "--visits 4" in found.remedy
    typical, far = (float(part) for part in re.findall(r"([\d.]+)%", found.found)[:2])
    variance = math.log(1.3) ** 2 / 2
    assert typical == far == pytest.approx(100 * math.sqrt((variance + 2 * variance / 0.6745**2) / 3 / 2), abs=0.06)


def test_late_visits_that_are_slower_are_drift(check):
    """1, 1 and then 1.05, 1.05 times: the machine wandered, by 5 % in the median over cases."""
    found = check(visited(1.0, 1.0, 1.05, 1.05), visits=4)["drift"]
    assert found.level == "note"
    assert "1.050 times" in found.found
    assert "median over 10 cases" in found.found
    assert "--visits 8 " in found.remedy, "more than any case has, or a resumed campaign has nothing to do"


def test_drift_of_a_few_cases_or_of_a_percent_is_none(check):
    """A single case that slows down is no machine that wanders."""
    rows = [*visited(1.0, 1.0), row(20), row(20, samples=(2.0, 2.0, 2.0), number=1)]
    assert "drift" not in check(rows, visits=2)


def test_missing_energy_is_a_note_with_its_reason(check):
    """No counter is no fault of the run."""
    found = check([row(1, energy=(EnergyReading("package", reason="no RAPL"),))])["energy"]
    assert (found.level, found.found) == ("note", "package: unknown in 1 of 1 rows: no RAPL")


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


def test_energy_read_at_another_pace_is_a_note(check):
    """1.2 s a call in the energy windows and 1 s when timed are within the 25 % that pass, 1.3 s are not."""
    near, far = (EnergyReading("package", 1.0, low_j=0.95, high_j=1.05, window_s=s, calls=1) for s in (1.2, 1.3))
    found = check([row(1, samples=(1.0,) * 4, energy=(near,)), row(2, samples=(1.0,) * 4, energy=(far,))])["energy pace"]
    assert (found.level, found.cases) == ("note", (case(2).label,))


# the command


def test_the_command_exits_1_on_faults_and_0_on_notes(check, tmp_path):
    """Notes alone are fine; the JSON lists every finding."""
    check([row(1)])
    result = CliRunner().invoke(cli, ["check", str(tmp_path / "run")])
    assert result.exit_code == 0, result.output
    assert "note: one visit" in result.stdout


def test_the_command_writes_one_json_document(check, tmp_path):
    """Faults are counted and named."""
    check([row(1, "failed", [Reason("out of memory")])])
    result = CliRunner().invoke(cli, ["check", str(tmp_path / "run"), "--json"])
    assert result.exit_code == 1
    document = json.loads(result.stdout)
    assert document["faults"] == 1
    assert document["findings"][0]["topic"] == "failed: out of memory"


@pytest.mark.parametrize(
    ("suite", "settings", "command"),
    [
        (
            "characterize",
            {},
            "`shmoo characterize --out {run} --resume` with the options it was begun with and a longer --budget",
        ),
        ("quick", {"duel": "1"}, "`shmoo duel BASE NEW --out {folder} --resume -- measure --visits 3` with"),
        ("pytest", {}, "run `pytest --benchmark` again, with --shmoo-out for another folder than {run}"),
        ("micro", {}, "`shmoo measure --visits 3 --out {run} --resume` with"),
    ],
)
def test_remedies_name_the_command_that_the_run_was_begun_with(tmp_path, suite, settings, command):
    """`shmoo measure` would go on with other cases, and `shmoo characterize` takes no --visits."""
    with RunWriter(tmp_path / "run", RunManifest(MACHINE, suite, settings=settings)) as writer:
        writer.append(row(1))
    remedies = {finding.topic: finding.remedy for finding in check_run(Run.open(tmp_path / "run"))}
    assert remedies["one visit"].startswith(command.format(run=tmp_path / "run", folder=tmp_path))
