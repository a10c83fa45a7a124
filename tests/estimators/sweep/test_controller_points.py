"""Design points: estimating many variants of a machine at once gives what estimating them one by one gives."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from shmoo.estimators.graph.records import Graph
from shmoo.estimators.machine.profile import TilingSpec, builtin_names, load_profile
from shmoo.estimators.predict.director import AnalysisDirector
from shmoo.estimators.predict.graph_table import tabulate_model
from shmoo.estimators.sweep.controller import BLOCK_NUMBERS, estimate_points
from shmoo.estimators.variants import variant
from tests.build import GraphBuilder


def network() -> Graph:
    """Convolutions of two kinds with what follows them, a residual, products of several shapes, and a factorization."""
    b = GraphBuilder()
    x = b.tensor((4, 32, 28, 28))
    y = b.relu(b.batch_norm(b.conv(x, 64, 3)))
    y = b.relu(b.add(b.batch_norm(b.conv(y, 64, 1)), y))
    flat = b.view(y, (4, 64 * 28 * 28))
    z = b.layer_norm(b.linear(b.relu(b.linear(flat, 200)), 96))
    return b.graph(b.linear(z, 10))


def factorization() -> Graph:
    """LU of two matrices, whose recurrence depends on the fabric."""
    b = GraphBuilder()
    x = b.tensor((2, 48, 48))
    return b.graph(b.call("linalg_lu_factor", {"A": x}, (2, 48, 48)))


def axes_of(name: str) -> list[dict[str, tuple[float, ...]]]:
    """Sweeps of a machine that reach every part of its strategy and of the model."""
    profile = load_profile(name)
    structure = {
        "cpu": ("count.cores", "capacity.l2", "vector.lanes"),
        "gpu": ("count.sms", "capacity.l2", "capacity.shared"),
        "tpu": ("count.units", "array.rows", "array.cols"),
        "kpu": ("count.tiles", "array.rows", "capacity.l3"),
    }[profile.family]
    main = profile.main_memory
    factors = (1.0, 2.0, 4.0)
    swept = [{name: tuple(f * profile.value(name) for f in factors)} for name in structure if profile.get(name)]
    both = {structure[0]: swept[0][structure[0]], f"bandwidth.{main}": (0.5 * profile.value(f"bandwidth.{main}"), 3e12)}
    peak = next(name for name in profile.coefficients if name.startswith("peak.matrix."))
    return [*swept, both, {peak: (1e11, 1e13), "power.static": (0.0, 5.0)}]


@pytest.mark.parametrize("name", builtin_names())
def test_points_are_what_the_machines_one_by_one_give(name: str) -> None:
    """Latency, energy, tiles and basis of every combination, to rounding."""
    profile = load_profile(name)
    work = tabulate_model((network(), factorization()), profile.default_runtime, profile.family)
    for axes in axes_of(name):
        points = estimate_points(profile, work.table, profile.default_runtime, axes)
        combinations = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
        alone = [
            AnalysisDirector(variant(profile, values)).estimate_table(work, profile.default_runtime) for values in combinations
        ]
        assert points["latency_s"] == pytest.approx([e.latency_s.value for e in alone], rel=1e-8)
        assert points["tiles"] == pytest.approx([e.tiles for e in alone], rel=1e-12)
        for share in alone[0].basis:
            assert points[f"basis_{share}"] == pytest.approx([e.basis[share] for e in alone], abs=1e-8)
        if alone[0].energy_j is None:
            assert "energy_j" not in points
        else:
            assert points["energy_j"] == pytest.approx([e.energy_j.value for e in alone], rel=1e-8)


def assert_points_equal_variants(name: str, tiling: TilingSpec) -> None:
    """Points over the size of the array cost what each variant of the machine costs alone."""
    profile = load_profile(name).replacing(tiling=tiling)
    work = tabulate_model((network(),), profile.default_runtime, profile.family)
    axes = {"array.rows": (16.0, 32.0), "array.cols": (16.0, 32.0)}
    points = estimate_points(profile, work.table, profile.default_runtime, axes)
    alone = [
        AnalysisDirector(variant(profile, {"array.rows": r, "array.cols": c})).estimate_table(work, profile.default_runtime)
        for r in axes["array.rows"]
        for c in axes["array.cols"]
    ]
    assert points["latency_s"] == pytest.approx([e.latency_s.value for e in alone], rel=1e-12)


def test_other_modes_of_a_strategy_take_points_too() -> None:
    """The serial schedule, over the size of the array."""
    assert_points_equal_variants("tpu_v4", TilingSpec("tpu_weight_stationary", {"mode": "serial", "dataflow": "is"}))


def test_blocks_do_not_show() -> None:
    """More points than one block holds: the last axis is fastest, and every value stands where it belongs."""
    profile = load_profile("kpu_t64")
    # Without a power cap: under one, more bandwidth draws more power and may lower the clock by up to a hundredth.
    profile = profile.replacing(coefficients={name: c for name, c in profile.coefficients.items() if name != "power.tdp"})
    work = tabulate_model((network(),), profile.default_runtime, profile.family)
    side = int((BLOCK_NUMBERS / len(work.table)) ** 0.5) + 3
    clocks, bandwidths = np.geomspace(1e8, 1e9, side), np.geomspace(1e9, 1e12, side)
    points = estimate_points(
        profile, work.table, profile.default_runtime, {"clock": tuple(clocks), "bandwidth.dram": tuple(bandwidths)}
    )
    grid = points["latency_s"].reshape(side, side)
    assert np.all(np.diff(grid, axis=0) <= 0)  # a faster clock never takes longer
    assert np.all(np.diff(grid, axis=1) <= 0)
    one = variant(profile, {"clock": float(clocks[-2]), "bandwidth.dram": float(bandwidths[1])})
    expected = AnalysisDirector(one).estimate_table(work, profile.default_runtime).latency_s.value
    assert grid[-2, 1] == pytest.approx(expected, rel=1e-12)
