import json
import random
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from shmoo.estimators.errors import InputError, NothingMeasuredError
from shmoo.harness.cli.app import cli
from shmoo.runs.analysis.history import history
from shmoo.runs.plots.history import render_history
from shmoo.runs.store.records import CaseSpec, Machine, Measurement, Reason, RunManifest, Timing
from shmoo.runs.store.store import Run, RunWriter

MACHINE = Machine("Example CPU", 2, 4, 8 << 30, torch="2.9.0", threads=2)
REFERENCE = Path(__file__).parents[4] / "shared" / "reference" / "noisy_run"


def case(m, name="relu"):
    return CaseSpec(name, "operator", {"m": m})


def runs_of(levels, noise=0.01, seed=1, cases=10, commits=True, name="relu"):
    """A run for each entry: a factor for all cases, or case -> factor. Runs of equal things differ by `noise`."""
    draw, runs = random.Random(seed), []
    for number, level in enumerate(levels):
        lines = []
        for m in range(cases):
            factor = level.get(m, 1.0) if isinstance(level, dict) else level
            value = 1e-3 * (m + 1) * factor * draw.lognormvariate(0, noise)
            samples = tuple(value * draw.lognormvariate(0, 1e-3) for _ in range(8))
            lines += [Measurement(case(m, name), "ok", timing=Timing(samples), visit=visit) for visit in range(2)]
        started = f"2026-01-{number + 1:02d}T00:00:00+00:00"
        settings = {"commit": f"c0ffee{number:02d}"} if commits else {}
        manifest = RunManifest(MACHINE, "micro", settings=settings, started_at=started)
        runs.append(Run(Path(f"/runs/night-{number:02d}"), manifest, tuple(map(msgspec.json.encode, lines)), ()))
    return runs


def steps(found):
    return {series.label: [change.run for change in series.changes] for series in found.series if series.changes}


def test_a_step_of_one_case_is_found_at_its_run():
    """From the seventh of twelve runs on one case is 15 % slower; the order in which runs are named does not matter."""
    runs = runs_of([{} if number < 6 else {3: 1.15} for number in range(12)])
    random.Random(2).shuffle(runs)
    found = history(runs)
    assert steps(found) == {"relu[m=3] float32 eager": [6]}
    (change,) = found.series[0].changes
    assert change.ratio.low < 1.15 < change.ratio.high
    assert found.runs[found.first_different].commit == "c0ffee06"
    assert found.runs[6].label == "c0ffee06 (night-06)"


def test_runs_without_their_samples_have_the_same_history():
    """To the last digit."""
    runs, cases = runs_of([1.0] * 3 + [{3: 1.2}] * 3), {}
    slim = [Run(run.path, run.manifest, tuple(map(msgspec.json.encode, run.lines)), (), cases) for run in runs]
    assert len(slim[0].rows[0].timing.samples_s) == 1
    assert history(slim) == history(runs)


def test_a_step_of_all_cases_is_one_of_the_geometric_mean():
    """5 % in every case from the sixth of ten runs on."""
    found = history(runs_of([1.0] * 5 + [1.05] * 5))
    assert [change.run for change in found.suite.changes] == [5]
    assert found.suite.changes[0].ratio.value == pytest.approx(1.05, abs=0.01)


def test_equal_commits_that_differ_are_the_machine_s():
    """Every run is of one commit, and the last three are 20 % slower."""
    runs = runs_of([1.0] * 4 + [1.2] * 3)
    for run in runs:
        run.manifest = msgspec.structs.replace(run.manifest, settings={"commit": "c0ffee"})
    assert history(runs).headline.endswith("of the same commit as the run before it: the machine changed, not the code")
    assert "same commit" not in history(runs_of([1.0] * 4 + [1.2] * 3)).headline


def test_runs_that_show_no_step_say_which_step_they_would_have_shown():
    """Quiet runs rule out a small step; runs that are 20 % apart can rule out nothing of interest."""
    quiet, loud = history(runs_of([1.0] * 8, noise=0.005)), history(runs_of([1.0] * 8, noise=0.2))
    assert quiet.headline.startswith("No run differs; a step of 4 % in the typical case would have been seen")
    assert loud.headline.startswith("Too noisy to tell: a step of ")
    assert all(series.visible > 0.3 for series in loud.series)


def test_steps_up_and_down_are_both_found():
    """Slower for four runs, then mended."""
    levels = [{}] * 5 + [{2: 1.2}] * 4 + [{}] * 5
    found = history(runs_of(levels))
    assert steps(found) == {"relu[m=2] float32 eager": [5, 9]}
    up, down = found.series[0].changes
    assert up.ratio.value == pytest.approx(1.2, abs=0.03)
    assert down.ratio.value == pytest.approx(1 / 1.2, abs=0.03)
    assert up.errors > 3


def test_a_step_at_the_last_run_is_found():
    """It is the one that a nightly build asks for."""
    assert steps(history(runs_of([{}] * 9 + [{4: 1.3}]))) == {"relu[m=4] float32 eager": [9]}


def test_few_runs_tell_no_step_from_noise():
    """Two runs have no neighbours' differences to go by; identical runs have no noise and no step."""
    found = history(runs_of([1.0, 1.5]))
    assert found.series[0].noise is None
    assert found.first_different is None
    assert found.headline.startswith("Too few runs")
    assert history(runs_of([1.0] * 5, noise=0.0)).first_different is None


def test_false_alarms_are_as_rare_as_said():
    """Of 60 histories of twelve equal runs, whose noise differs from case to case, at most one in ten has any step."""
    alarms = 0
    for seed in range(60):
        alarms += history(runs_of([1.0] * 12, noise=0.03, seed=seed, cases=20)).first_different is not None
    assert alarms <= 6


def test_suspect_rows_decide_nothing():
    """A run whose row is suspect has no value there, and the step is found around it."""
    runs = runs_of([{} if number < 6 else {3: 1.3} for number in range(12)])
    odd = [line for line in runs[3].lines if line.case != case(3)]
    odd.append(Measurement(case(3), "suspect", (Reason("throttled"),), timing=Timing((9.0,))))
    runs[3] = Run(runs[3].path, runs[3].manifest, tuple(map(msgspec.json.encode, odd)), ())
    found = history(runs)
    assert steps(found) == {"relu[m=3] float32 eager": [6]}
    assert found.series[0].points[3].value_s is None
    assert found.series[0].points[3].status == "suspect"


def test_a_run_of_another_machine_is_said():
    """It is drawn, and the field that differs is named."""
    runs = runs_of([1.0] * 4)
    other = msgspec.structs.replace(MACHINE, torch="2.10.0")
    lines = tuple(map(msgspec.json.encode, runs[2].lines))
    runs[2] = Run(runs[2].path, msgspec.structs.replace(runs[2].manifest, machine=other), lines, ())
    assert [point.differs for point in history(runs).runs] == [(), (), ("torch",), ()]


def test_a_history_needs_two_runs_with_a_case_in_common():
    """One run, one twice, and runs of different cases are refused."""
    runs = runs_of([1.0, 1.0])
    with pytest.raises(InputError, match="two different runs"):
        history(runs[:1])
    with pytest.raises(InputError, match="two different runs"):
        history([runs[0], runs[0]])
    with pytest.raises(NothingMeasuredError, match="usable in two"):
        history([runs[0], runs_of([1.0, 1.0], name="gelu")[1]])


def test_the_page_is_one_file_and_escapes_names():
    """No address is asked for anything, and a workload cannot write markup."""
    runs = runs_of([1.0] * 4 + [1.2] * 4, name="<script>alert(1)</script>")
    page = render_history(history(runs), 0.03)
    assert "<script>alert(1)" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "http://" not in page
    assert "https://" not in page
    assert "The first run that differs is c0ffee04 (night-04)" in page
    assert page.count("<svg") == 11
    assert "stroke-dasharray: 4 3" in page


# recorded noise


@pytest.mark.skipif(not REFERENCE.exists(), reason="the recorded run is not there")
def test_false_alarms_on_recorded_noise():
    """Visits of a run on a busy machine, dealt at random to eight runs of an unchanged one: of 30 histories, one in ten at most
    has any step."""
    recorded = [line for line in Run.open(REFERENCE).lines if line.timed]
    by_case = {}
    for line in recorded:
        by_case.setdefault(line.case.identity, []).append(line)
    draw = random.Random(1)
    alarms = 0
    for _ in range(30):
        runs = []
        for number in range(8):
            lines = [msgspec.structs.replace(draw.choice(lines), visit=visit) for lines in by_case.values() for visit in range(3)]
            manifest = RunManifest(MACHINE, "recorded", started_at=f"2026-01-{number + 1:02d}T00:00:00+00:00")
            runs.append(Run(Path(f"/runs/{number}"), manifest, tuple(map(msgspec.json.encode, lines)), ()))
        alarms += history(runs).first_different is not None
    assert alarms <= 3


# the command


def written(tmp_path, levels):
    paths = []
    for run in runs_of(levels):
        path = tmp_path / run.path.name
        with RunWriter(path, run.manifest) as writer:
            for line in run.lines:
                writer.append(line)
        paths.append(str(path))
    return paths


def test_the_command_writes_a_page_and_names_the_run(tmp_path):
    """A table, the page, and in JSON the same run."""
    paths = written(tmp_path, [{} if number < 4 else {3: 1.3} for number in range(8)])
    page = tmp_path / "out" / "history.html"
    result = CliRunner().invoke(cli, ["history", *paths, "-o", str(page)])
    assert result.exit_code == 0, result.output
    assert "The first run that differs is c0ffee04 (night-04)" in result.stdout
    assert "relu[m=3]" in result.stdout
    assert "<svg" in page.read_text()
    document = json.loads(CliRunner().invoke(cli, ["history", *paths, "--json"]).stdout)
    assert document["first_different"] == paths[4]
    assert document["runs"][4]["commit"] == "c0ffee04"
    assert document["series"][0]["changes"][0]["run"] == 4
    large = CliRunner().invoke(cli, ["history", *paths, "--json", "--threshold", "50%"])
    assert json.loads(large.stdout)["first_different"] is None
