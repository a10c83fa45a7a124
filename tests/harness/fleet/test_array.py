"""A sweep in jobs is the sweep in one process, to the last digit."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from shmoo.estimators.errors import ShmooError
from shmoo.harness.fleet.array import run_array
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


class Broken:
    """An engine whose second job dies."""

    def run(self, commands: Sequence[Sequence[str]], folder: Path) -> None:
        (folder / "0.json").write_text(json.dumps([[]]))
        (folder / "1.json").write_text("[[")
        (folder / "1.err").write_text("shmoo: out of memory\n\n")


@pytest.mark.usefixtures("own_home")
def test_a_failed_job_is_named_and_the_others_are_kept() -> None:
    """With its last words."""
    with pytest.raises(ShmooError, match="job 1 gave no answer: shmoo: out of memory"):
        run_array(Broken(), [["sweep"], ["sweep"]])
    assert len(list(Path.cwd().glob("shmoo-parts-*/0.json"))) == 1


@pytest.mark.usefixtures("own_home")
def test_jobs_need_an_engine() -> None:
    """And the planner has no parts."""
    assert "needs --engine" in shmoo(*SWEEP, "--jobs", "4").stderr
    refused = shmoo("sweep", "mlp", "--largest-on-chip", "--axis", "hidden=64..128", "--engine", "local")
    assert "leave --engine out" in refused.stderr
