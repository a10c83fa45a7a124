"""The speed check: what it times, and what it extrapolates from."""

from __future__ import annotations

import numpy as np
import pytest
from click.testing import CliRunner
from test_points import network

from shmoo.estimators.profile import load_profile
from shmoo.estimators.tabulated import tabulate
from shmoo.estimators.tiling import TpuWeightStationary
from shmoo.harness.scalesim_baseline import cycles, distinct_products
from shmoo.harness.speedcheck import KERNELS, large_table, main, price


def test_a_large_table_is_the_model_over_and_over() -> None:
    """At least as many kernels as are timed, and every repetition takes as long as the first."""
    profile = load_profile("kpu_t64")
    table = large_table((network(),), profile)
    assert len(table) >= KERNELS
    latency = price(profile, table)
    assert len(latency) == table.segments
    assert latency == pytest.approx(np.full(table.segments, latency[0]))


def test_distinct_products_count_every_layer() -> None:
    """Two models in one: the same distinct products, each twice as often."""
    products, counts = distinct_products((network(),))
    again, twice = distinct_products((network(), network()))
    assert np.array_equal(products, again)
    assert np.array_equal(twice, 2 * counts)
    assert np.all(np.diff(products.prod(axis=1)) >= 0)
    assert (4.0 * 28 * 28, 64.0, 32.0 * 9) in {tuple(p) for p in products}


def test_the_simulators_cycles_are_those_of_the_serial_strategy() -> None:
    """Folds x (2 R + C + m - 2) on one array, as the strategy that equals SCALE-Sim counts them."""
    table, _ = tabulate((network(),), "xla", "tpu")
    plain = table.take(np.flatnonzero((table.matrix_flops > 0) & (table.batch == 1)))
    profile = load_profile("brief_tpu").with_values({"capacity.vmem": 2.0**50})
    strategy = TpuWeightStationary(mode="serial")
    counted = strategy.apply(plain, profile, strategy.choose(plain, profile)).cycles
    side = int(profile.value("array.rows"))
    expected = cycles(np.stack([plain.m, plain.n, plain.k], axis=1), side)
    assert counted == pytest.approx(expected, rel=1e-6)


@pytest.mark.slow
def test_the_check_prints_all_three_parts() -> None:
    """Predictions of every architecture, sweeps of every family; the simulator where it is installed and asked for."""
    result = CliRunner().invoke(main, ["--points", "16", "--repeats", "1", "--scalesim-points", "0"])
    assert result.exit_code == 0, result.output
    assert "kpu_t768" in result.stdout
    assert "resnet50 over" in result.stdout
