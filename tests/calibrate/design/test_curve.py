"""The learning curve of a run that never was: a machine with known coefficients, a second a case."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from shmoo.calibrate.design.curve import case_seconds, learning_curve
from shmoo.calibrate.fit.base import base_profile
from shmoo.calibrate.fit.dataset import MeasuredCase, blocks, run_cases
from shmoo.calibrate.fit.fit import predicted_latency
from shmoo.estimators.errors import InputError
from shmoo.estimators.machine.coefficients import Coefficients
from shmoo.harness.cli.app import cli
from shmoo.runs.store.records import CaseSpec, Machine, Measurement, RunManifest, Timing
from shmoo.runs.store.store import Run, RunWriter
from tests.build import GraphBuilder
from tests.calibrate.test_calibration import TRUTH, measured_on

MACHINE = Machine("Example CPU", 4, 4, 2**34, {"l1": 32 << 10, "l2": 1 << 20, "l3": 16 << 20}, isa=("avx2",), threads=4)
START = datetime(2026, 1, 1, tzinfo=UTC)


def network() -> MeasuredCase:
    """Three layers, as a network that was measured."""
    b = GraphBuilder()
    x = b.linear(b.relu(b.linear(b.relu(b.linear(b.tensor((64, 256)), 512)), 512)), 10)
    base = base_profile(MACHINE)
    case = MeasuredCase(CaseSpec("three_layers", "network", {"batch": 64}), (b.graph(x),), 1.0)
    seconds = float(predicted_latency(blocks([case], base), Coefficients(base, TRUTH))[0])
    return MeasuredCase(case.case, case.graphs, seconds)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Operators and a network, visited twice; each visit a second after the one before, the second to each case 10 % slower."""
    path = tmp_path_factory.mktemp("curve") / "run"
    cases = [*measured_on(base_profile(MACHINE), TRUTH, noise=0.05)[::2], network()]
    with RunWriter(path, RunManifest(MACHINE, "micro")) as writer:
        for i, (number, case) in enumerate((number, case) for number in (0, 1) for case in cases):
            row = Measurement(
                case.case,
                "ok",
                graph_hashes=tuple(graph.content_hash for graph in case.graphs),
                timing=Timing((case.latency_s * (1 + 0.1 * number),)),
                visit=number,
                measured_at=(START + timedelta(seconds=i)).isoformat(timespec="seconds"),
                host={"wall_s": 0.5},
            )
            writer.append(row, case.graphs)
    return path


def test_time_is_from_row_to_row(run: Path):
    """A second for each but the last, which counts its half second of timing."""
    seconds = list(case_seconds(Run.open(run)).values())
    assert seconds == [1.0] * (len(seconds) - 1) + [0.5]


def test_one_visit_is_what_the_first_visit_measured(run: Path):
    """The second visit was 10 % slower: both together are at the mean of the two speeds."""
    opened = Run.open(run)
    once, both = run_cases(opened, visits=1), run_cases(opened)
    ratio = 2 / (1 + 1 / 1.1)
    assert [b.latency_s / a.latency_s for a, b in zip(once, both, strict=True)] == pytest.approx([ratio] * len(once))


def test_a_curve_falls_towards_what_everything_tells(run: Path):
    """Cases and minutes are those taken; with all of the pool, either order comes within 1.2 times of everything."""
    points = learning_curve(run, minutes=(0.3, 5.0), repeats=2)
    assert [point.order for point in points] == ["everything", "random", "planned", "random", "planned"]
    everything, _, early, _, late = points
    assert (early.cases, early.minutes) == (18, pytest.approx(0.3))
    assert everything.cases == late.cases
    assert everything.minutes == pytest.approx(2 * late.minutes)
    assert late.operators < 1.2 * everything.operators + 0.01
    assert late.networks < 0.15
    assert early.operators > 0.5 * late.operators


def test_the_command_prints_it(run: Path):
    """One object a point; a table cannot be played again."""
    result = CliRunner().invoke(cli, ["calibrate", str(run), "--curve", "--json"])
    assert result.exit_code == 0, result.output
    points = json.loads(result.stdout)["points"]
    assert points[0]["order"] == "everything"
    assert {point["order"] for point in points} == {"everything", "random", "planned"}
    refused = CliRunner().invoke(cli, ["calibrate", "table.csv", "--curve"])
    assert refused.exit_code == 2
    assert "run directory" in refused.stderr


def test_a_run_without_cases_to_test_has_no_curve(tmp_path: Path, run: Path):
    """Both counts are named."""
    source = Run.open(run)
    with RunWriter(tmp_path / "few", source.manifest) as writer:
        for row in source.rows[:30]:
            if row.case.split == "fit":
                writer.append(row, source.graphs(row))
    with pytest.raises(InputError, match=r"has \d+ cases to fit and 0 to test"):
        learning_curve(tmp_path / "few")


def test_rows_without_a_stamp_count_what_their_timing_took(tmp_path: Path, run: Path):
    """When a row was measured is optional; half a second of timing is not."""
    opened = Run.open(run)
    with RunWriter(tmp_path / "bare", opened.manifest) as writer:
        for row in opened.lines[:3]:
            writer.append(msgspec.structs.replace(row, measured_at=""))
    assert list(case_seconds(Run.open(tmp_path / "bare")).values()) == [0.5] * 3
