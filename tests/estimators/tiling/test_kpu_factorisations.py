"""Factorisations and other recurrences on the KPU's fabric."""

import numpy as np
import pytest

from shmoo.estimators.graph.records import OpCall, TensorSpec, single_call_graph
from shmoo.estimators.machine.coefficients import Coefficients
from shmoo.estimators.machine.profile import load_profile
from shmoo.estimators.predict.director import AnalysisDirector
from shmoo.estimators.predict.model import predict
from shmoo.estimators.tiling import KpuWavefront
from shmoo.estimators.tiling.recurrences import layer_norm, lu, reduction, softmax
from tests.estimators.tiling.test_tiling import cut, fabric, products


def factorisation(op, *shape, **attributes):
    spec = TensorSpec(shape)
    outputs = (spec, spec) if op == "aten.linalg_qr" else (spec, spec, spec)
    return single_call_graph(OpCall(op, (spec,), outputs, ("A",), attributes))


def tiled(graph, profile):
    director = AnalysisDirector(profile)
    return director.tile(director.tabulate([graph], "domainflow")[0])


def test_lu_on_a_fabric_as_large_as_the_matrix_takes_its_recurrence_latency():
    """3 n - 2 steps when every wavefront fits; LU does one multiply-add a point, to leading order."""
    n = 64
    cycles = tiled(factorisation("aten.linalg_lu", n, n, pivot=True), fabric(256, 16)).cycles[0]
    assert cycles == pytest.approx(lu(n, n).latency * (n**3 / 3) / lu(n, n).phases[0].points)


def test_solving_takes_the_elimination_of_the_matrix_with_its_right_hand_sides_beside_it():
    """Eliminating [A b], (n, n + 1), with two operations a point of b's column: not n columns of a product."""
    n = 64
    specs = (TensorSpec((n, n)), TensorSpec((n, 1)))
    solve = single_call_graph(OpCall("aten.linalg_solve", specs, specs[1:], ("A", "B"), {"left": True}))
    system = lu(n, n + 1)
    operations = (n**3 / 3 + n**2) / system.phases[0].points
    assert tiled(solve, fabric(256, 16)).cycles[0] == pytest.approx(system.latency * operations)


def test_factorisations_wait_for_their_chain_on_a_large_fabric():
    """16 times the fabric makes a small LU no faster, a large one almost 16 times."""
    small, large = (factorisation("aten.linalg_lu", n, n, pivot=True) for n in (128, 2048))
    ratio = [tiled(graph, fabric(64, 16)).cycles[0] / tiled(graph, fabric(1024, 16)).cycles[0] for graph in (small, large)]
    assert ratio[0] < 1.5
    assert ratio[1] > 10


def test_matrices_of_a_batch_fill_the_fabric_together():
    """8 small factorisations side by side take less than 8 times one."""
    one, eight = (
        tiled(factorisation("aten.linalg_qr", *shape, mode="r"), fabric(64, 16)).cycles[0] for shape in ((64, 64), (8, 64, 64))
    )
    assert one <= eight < 3 * one


@pytest.mark.parametrize("op", ["aten.linalg_lu", "aten.linalg_qr"])
def test_factorisations_are_estimated_on_every_kpu(op):
    """The schedule's cycles at the fabric's clock, in intervals; utilisation and power are within their bounds."""
    for name in ("kpu_t64", "kpu_t256", "kpu_t768"):
        profile, graph = load_profile(name), factorisation(op, 4, 300, 200)
        estimate = AnalysisDirector(profile).estimate(graph)
        (kernel,) = estimate.breakdown
        seconds = tiled(graph, profile).cycles[0] / profile.value("clock") / Coefficients(profile).value("efficiency")
        assert kernel.compute_s == pytest.approx(seconds, rel=1e-6)
        assert estimate.latency_s.low < estimate.latency_s.value < estimate.latency_s.high
        assert profile.value("power.static") < estimate.average_power_w.value <= profile.value("power.tdp")
        assert 0 < kernel.utilisation <= 1


# --- rows


def row_kernel(op, shape, **attributes):
    out = shape if op in ("softmax", "layer_norm") else shape[:-1]
    return single_call_graph(OpCall(f"aten.{op}", (TensorSpec(shape),), (TensorSpec(out),), ("self",), attributes))


@pytest.mark.parametrize(
    ("graph", "system"),
    [
        (row_kernel("sum", (5, 700), dim=[-1]), reduction(5, 700)),
        (row_kernel("layer_norm", (5, 700), normalized_shape=[700]), layer_norm(5, 700)),
        (row_kernel("softmax", (5, 700), dim=-1), softmax(5, 700)),
        (row_kernel("sum", (600, 70), dim=[-1]), reduction(600, 70)),
    ],
)
def test_rows_take_the_steps_of_their_chains_on_the_fabric(graph, system):
    """A chain along a row takes a step an element; 600 rows on 256 elements take three steps for each."""
    steps = sum(s.steps_on(r, 256) for r, s in zip(system.phases, system.schedules, strict=True))
    assert tiled(graph, fabric(1, 16)).cycles[0] == steps


def test_few_rows_wait_for_their_chain_whatever_the_fabric():
    """One row of a million takes a million cycles on 64 tiles and on 256; a thousand rows of a thousand are done in parallel."""
    profiles = [load_profile("kpu_t64").with_values({"count.tiles": tiles}) for tiles in (64, 256)]
    row, square = row_kernel("sum", (1, 10**6), dim=[-1]), row_kernel("sum", (10**3, 10**3), dim=[-1])
    one, other = (AnalysisDirector(profile).estimate(row).breakdown[0].latency_s for profile in profiles)
    assert one == pytest.approx(other)
    assert one >= 10**6 / profiles[0].value("clock")
    assert AnalysisDirector(profiles[0]).estimate(square).breakdown[0].latency_s < one / 5


def test_running_statistics_make_no_chain():
    """A batch norm in inference is elementwise: its cycles are not counted."""
    operands = ("input", "running_mean", "running_var")
    specs = (TensorSpec((2, 8, 4, 4)), TensorSpec((8,)), TensorSpec((8,)))
    call = OpCall("aten.batch_norm", specs, specs[:1], operands, {"training": False})
    assert np.isnan(tiled(single_call_graph(call), fabric(1, 16)).cycles[0])


@pytest.mark.parametrize("family", ["gemm", "conv", "depthwise", "conv_transpose", "attention", "linalg"])
def test_idle_elements_count_once(family):
    """Counted cycles hold the elements that have nothing to do, so every family reaches the same share of them."""
    profile = fabric(64, 16)
    table = products(512, 1 if family == "depthwise" else 64, 9, batch=32, family=family)
    seconds = predict(table, cut(KpuWavefront(), table, profile), Coefficients(profile), "domainflow").compute_s[0]
    cycles = cut(KpuWavefront(), table, profile).cycles[0]
    assert seconds == pytest.approx(cycles / profile.value("clock") / Coefficients(profile).value("efficiency"))
