"""The whole flow by one command: measure, calibrate, predict, report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from shmoo.harness.cli.app import cli
from shmoo.harness.cli.characterize import COMPILED, plan
from shmoo.runs.records import Machine
from shmoo.runs.store import Run

MACHINE = Machine(
    cpu_model="Example CPU",
    cores_physical=2,
    cores_logical=2,
    memory_bytes=8 << 30,
    cache_bytes={"l1": 32 << 10, "l2": 1 << 20, "l3": 32 << 20},
)


def test_networks_test_and_never_calibrate() -> None:
    """At least eight networks in eager, a few of them and some synthetic models compiled, and none among what is fitted."""
    calibration, networks, compiled = plan(MACHINE, quick=False)
    assert {case.kind for case in calibration} == {"operator", "synthetic"}
    assert len({case.workload for case in networks}) >= 8
    assert {case.split for case in networks} == {"test"}
    assert {case.workload for case in compiled if case.kind == "network"} == set(COMPILED)
    assert {case.runtime for case in compiled} == {"inductor"}


def test_a_quick_look_compiles_nothing() -> None:
    """Compiling takes most of the time, so --quick does without."""
    calibration, networks, compiled = plan(MACHINE, quick=True)
    assert len(calibration) < 60
    assert len(networks) == len(COMPILED)
    assert compiled == ()


@pytest.mark.slow
def test_one_command_does_it_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One run directory holds rows, graphs, profile and report; the profile is found by name; a second fit adds a name. On a
    machine too busy to measure, the rows are kept all the same."""
    pytest.importorskip("torch")
    monkeypatch.setenv("SHMOO_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(cli, ["characterize", "--quick", "--out", "run", "--json"])
    run = Run.open(tmp_path / "run")
    assert {row.case.kind for row in run.rows} == {"operator", "synthetic", "network"}
    assert result.exit_code in (0, 3), result.output
    if result.exit_code == 0:
        document = json.loads(result.stdout)
        assert {e["arch"] for e in document["estimates"]} == {"cpu_local", "gpu_a100_80g", "tpu_v4", "kpu_t256"}
        assert (tmp_path / "run" / "profile.json").is_file()
        assert (tmp_path / "home" / "profiles" / "cpu_local.json").is_file()
        assert {path.name for path in (tmp_path / "run" / "report").iterdir()} >= {"errors.csv", "report.html"}
        again = CliRunner().invoke(cli, ["characterize", "--quick", "--out", "run", "--resume", "--json"])
        assert again.exit_code == 0, again.output
        assert (tmp_path / "home" / "profiles" / "cpu_local-2.json").is_file()
