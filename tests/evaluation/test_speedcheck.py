"""The speed check: what it times."""

from __future__ import annotations

import numpy as np
import pytest
from click.testing import CliRunner

from shmoo.estimators.machine.profile import load_profile
from tests.estimators.sweep.test_points import network
from tests.evaluation.__main__ import main
from tests.evaluation.speed import KERNELS, large_table, price


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
    result = CliRunner().invoke(main, ["speed", "--points", "16", "--repeats", "1"])
    assert result.exit_code == 0, result.output
    assert "kpu_t768" in result.stdout
    assert "resnet50 over" in result.stdout
