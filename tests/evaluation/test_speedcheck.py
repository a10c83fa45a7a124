"""The speed check: what it times."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from shmoo.estimators.machine.profile import load_profile
from shmoo.harness.cli.app import cli
from tests.estimators.sweep.test_controller_points import network
from tests.evaluation.__main__ import main
from tests.evaluation.speed import KERNELS, large_table, price
from tests.evaluation.waits import Sizes, measure, waits, write_data


def test_a_large_table_is_the_model_over_and_over() -> None:
    """At least as many kernels as are timed, and every repetition takes as long as the first."""
    profile = load_profile("kpu_t64")
    table = large_table((network(),), profile)
    assert len(table) >= KERNELS
    latency = price(profile, table)
    assert len(latency) == table.segments
    assert latency == pytest.approx(np.full(table.segments, latency[0]))


@pytest.mark.slow
def test_the_check_prints_both_parts() -> None:
    """Predictions of every architecture, sweeps of every family."""
    result = CliRunner().invoke(main, ["speed", "--points", "16", "--repeats", "1", "--rows", "0"])
    assert result.exit_code == 0, result.output
    assert "kpu_t768" in result.stdout
    assert "resnet50 over" in result.stdout


def test_commands_are_timed_in_a_home_of_their_own(tmp_path: Path) -> None:
    """A run is written, checked, and its time is a ratio; a bound that is too low is missed, one of memory too."""
    sizes = Sizes(20)
    write_data(tmp_path, sizes)
    check = next(wait for wait in waits(tmp_path, sizes) if wait.name.startswith("check"))
    bounds = [replace(check, most=1e6, most_mb=None), replace(check, most=0.0), replace(check, most=1e6, most_mb=1.0)]
    assert [waited.held for waited in measure(bounds, tmp_path / "home")] == [True, False, False]


def test_every_command_is_one_of_the_command_line(tmp_path: Path) -> None:
    """The first word of each is a verb."""
    assert {wait.arguments[0] for wait in waits(tmp_path, Sizes())} <= set(cli.commands)
