"""A sweep in jobs is the sweep in one process, to the last digit."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from shmoo.estimators.errors import InputError, ShmooError
from shmoo.harness.fleet.array import run_array, run_here, run_in_slurm
from tests.cli_runner import shmoo

SWEEP = (
    "sweep",
    "linear",
    "--axis",
    "n=64,128,256",
    "--profile-axis",
    "tile_m=8,16",
    "--arch",
    "kpu_t64,kpu_t256",
    "--set",
    "m=32",
)


@pytest.mark.usefixtures("own_home")
def test_jobs_give_the_exact_table() -> None:
    """Rows, their order and every digit; fewer points than jobs do no harm."""
    whole = shmoo(*SWEEP, "--json")
    assert whole.exit_code == 0, whole.output
    split = shmoo(*SWEEP, "--json", "--engine", "local", "--jobs", "3")
    assert split.exit_code == 0, split.output
    assert split.stdout == whole.stdout
    assert not list(Path.cwd().glob("shmoo-parts-*"))


def broken(commands: Sequence[Sequence[str]], folder: Path) -> None:
    """An engine whose second job dies."""
    (folder / "0.json").write_text(json.dumps([[]]))
    (folder / "1.json").write_text("[[")
    (folder / "1.err").write_text("shmoo: out of memory\n\n")


@pytest.mark.usefixtures("own_home")
def test_a_failed_job_is_named_and_the_others_are_kept() -> None:
    """With its last words."""
    with pytest.raises(ShmooError, match="job 1 gave no answer: shmoo: out of memory"):
        run_array(broken, [["sweep"], ["sweep"]])
    assert len(list(Path.cwd().glob("shmoo-parts-*/0.json"))) == 1


@pytest.mark.usefixtures("own_home")
def test_a_refusal_in_a_job_is_one_of_the_command_and_leaves_no_folder() -> None:
    """In its own words, as one process says them."""
    asked = ("sweep", "linear", "--axis", "n=64,128", "--axis", "no_such=1,2", "--arch", "kpu_t64")
    alone, split = shmoo(*asked), shmoo(*asked, "--engine", "local", "--jobs", "2")
    assert (split.exit_code, split.stderr) == (alone.exit_code, alone.stderr) == (2, alone.stderr)
    assert "no_such" in split.stderr
    assert not list(Path.cwd().glob("shmoo-parts-*"))


def interrupted(commands: Sequence[Sequence[str]], folder: Path) -> None:
    """An engine that is stopped by Ctrl-C."""
    raise KeyboardInterrupt


@pytest.mark.usefixtures("own_home")
def test_an_array_that_never_ran_leaves_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Slurm, and after Ctrl-C."""
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(InputError, match="sbatch is not installed"):
        run_array(run_in_slurm, [["sweep"]])
    with pytest.raises(KeyboardInterrupt):
        run_array(interrupted, [["sweep"]])
    assert not list(Path.cwd().glob("shmoo-parts-*"))


@pytest.mark.usefixtures("own_home")
def test_a_job_that_died_leaves_no_code(tmp_path: Path) -> None:
    """Codes tell a refusal from a job that was killed."""
    run_here([["sh", "-c", "exit 2"], ["sh", "-c", "kill -9 $$"]], tmp_path)
    assert [(tmp_path / f"{job}.code").read_text() for job in range(2)] == ["2", "-9"]


@pytest.mark.usefixtures("own_home")
def test_jobs_need_an_engine() -> None:
    """And the planner has no parts."""
    assert "needs --engine" in shmoo(*SWEEP, "--jobs", "4").stderr
    refused = shmoo("sweep", "mlp", "--largest-on-chip", "--axis", "hidden=64..128", "--engine", "local")
    assert "leave --engine out" in refused.stderr
