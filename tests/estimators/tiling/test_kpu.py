"""Factorizations and other recurrences on the KPU's fabric."""

import math

import numpy as np
import pytest

from shmoo.estimators.graph.records import OpCall, TensorSpec, single_call_graph
from shmoo.estimators.machine.coefficients import Coefficients
from shmoo.estimators.machine.profile import load_profile
from shmoo.estimators.predict.director import AnalysisDirector
from shmoo.estimators.predict.model import predict
from shmoo.estimators.tiling import KpuWavefront
from shmoo.estimators.tiling.recurrences import layer_norm, lu, reduction, softmax
from shmoo.estimators.variants import variant
from tests.estimators.tiling.test_recurrence_operators import best_parts
from tests.estimators.tiling.test_tiling import cut, fabric, products


def factorization(op, *shape, **attributes):
    spec = TensorSpec(shape)
    outputs = (spec, spec) if op == "aten.linalg_qr" else (spec, spec, spec)
    return single_call_graph(OpCall(op, (spec,), outputs, ("A",), attributes))


def tiled(graph, profile):
    director = AnalysisDirector(profile)
    return director.tile(director.tabulate([graph], "domainflow")[0])


def test_lu_on_a_fabric_as_large_as_the_matrix_takes_its_recurrence_latency():
    """3 n - 2 steps when every wavefront fits."""
    n = 64
    cycles = tiled(factorization("aten.linalg_lu", n, n, pivot=True), fabric(256, 16)).cycles[0]
    assert cycles == pytest.approx(3 * n - 2)


def test_cholesky_has_half_the_work_of_lu_and_its_critical_path():
    """3 n - 2 steps on a large fabric, half of LU's on a small one."""
    n = 64
    spec = TensorSpec((n, n))
    cholesky = single_call_graph(OpCall("aten.linalg_cholesky", (spec,), (spec,), ("A",)))
    assert tiled(cholesky, fabric(256, 16)).cycles[0] == 3 * n - 2
    small = [tiled(graph, fabric(1, 4)).cycles[0] for graph in (cholesky, factorization("aten.linalg_lu", n, n, pivot=True))]
    assert small[0] == pytest.approx(small[1] / 2)


@pytest.mark.parametrize(("n", "columns"), [(1024, 1), (1024, 8), (64, 64)])
def test_triangular_systems_take_their_chain(n, columns):
    """2 n - 1 steps on a fabric that holds all columns at once; at least n (n + 1) / 2 points a column on one that does not."""
    a, b = TensorSpec((n, n)), TensorSpec((n, columns))
    call = OpCall("aten.linalg_solve_triangular", (a, b), (b,), ("self", "B"), {"upper": False})
    assert tiled(single_call_graph(call), fabric(256, 16)).cycles[0] == pytest.approx(2 * n - 1)
    assert tiled(single_call_graph(call), fabric(1, 4)).cycles[0] >= columns * n * (n + 1) / 2 / 16


@pytest.mark.parametrize("name", ["gpu_a100_40g", "tpu_v4", "cpu_server_generic"])
def test_a_chain_of_dependent_steps_takes_latency_on_every_machine(name):
    """A small LU takes at least a step for each column, and a batch of them no more for that."""
    profile = load_profile(name)
    times = [AnalysisDirector(profile).estimate(factorization("aten.linalg_lu", *shape, 64, 64, pivot=True)).breakdown[0]
             for shape in ((), (4,))]  # fmt: skip
    step = Coefficients(profile).value("step")
    assert times[0].latency_s - times[0].launch_s >= 64 * step * (1 - 1e-9)
    assert times[1].latency_s <= 4 * times[0].latency_s


def test_solving_takes_the_elimination_of_the_matrix_with_its_right_hand_sides_beside_it():
    """Eliminating [A b], (n, n + 1), with two operations a point of b's column: not n columns of a product."""
    n = 64
    specs = (TensorSpec((n, n)), TensorSpec((n, 1)))
    solve = single_call_graph(OpCall("aten.linalg_solve", specs, specs[1:], ("A", "B"), {"left": True}))
    system = lu(n, n + 1)
    operations = (n**3 / 3 + n**2) / system.phases[0].points
    assert tiled(solve, fabric(256, 16)).cycles[0] == pytest.approx(system.latency * max(operations, 1.0))


def test_factorizations_wait_for_their_chain_on_a_large_fabric():
    """16 times the fabric makes a small LU no faster, a large one almost 16 times."""
    small, large = (factorization("aten.linalg_lu", n, n, pivot=True) for n in (128, 2048))
    ratio = [tiled(graph, fabric(64, 16)).cycles[0] / tiled(graph, fabric(1024, 16)).cycles[0] for graph in (small, large)]
    assert ratio[0] < 1.5
    assert ratio[1] > 10


def test_matrices_of_a_batch_fill_the_fabric_together():
    """8 small factorizations side by side take less than 8 times one."""
    one, eight = (
        tiled(factorization("aten.linalg_qr", *shape, mode="r"), fabric(64, 16)).cycles[0] for shape in ((64, 64), (8, 64, 64))
    )
    assert one <= eight < 3 * one


@pytest.mark.parametrize("op", ["aten.linalg_lu", "aten.linalg_qr"])
def test_factorizations_are_estimated_on_every_kpu(op):
    """The schedule's cycles at the fabric's clock, in intervals; utilisation and power are within their bounds."""
    for name in ("kpu_t64", "kpu_t256", "kpu_t768"):
        profile, graph = load_profile(name), factorization(op, 4, 300, 200)
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
    ("graph", "system", "elements"),
    [
        (row_kernel("sum", (5, 700), dim=[-1]), reduction(5, 700, best_parts(700)), 16**2),
        (row_kernel("layer_norm", (5, 700), normalized_shape=[700]), layer_norm(5, 700, parts=best_parts(700)), 16**2),
        (row_kernel("softmax", (5, 700), dim=-1), softmax(5, 700, parts=best_parts(700)), 16**2),
        (row_kernel("sum", (600, 70), dim=[-1]), reduction(600, 70), 16**2),
    ],
)
def test_rows_take_the_steps_of_their_chains_on_the_fabric(graph, system, elements):
    """Rows in the best number of parts where elements are idle; 600 rows on 256 elements take three steps for each element."""
    assert tiled(graph, fabric(1, 16)).cycles[0] == system.steps_on(elements)


@pytest.mark.parametrize("length", [1, 2, 10, 97, 1024, 10**6])
def test_a_sum_takes_about_twice_the_root_of_its_length(length):
    """ceil(2 sqrt(N)) - 1 steps, the least over all numbers of parts."""
    cycles = tiled(row_kernel("sum", (1, length), dim=[-1]), fabric(1024, 16)).cycles[0]
    least = min(parts + -(-length // parts) - 1 for parts in range(1, min(length, 5000) + 1))
    assert cycles == least == math.ceil(2 * math.sqrt(length)) - 1


def test_few_rows_wait_for_their_chain_whatever_the_fabric():
    """One row of a million takes 1,999 cycles on 64 tiles and on 256; a thousand rows of a thousand are shared out."""
    profiles = [variant(load_profile("kpu_t64"), {"count.tiles": tiles}) for tiles in (64, 256)]
    row, square = row_kernel("sum", (1, 10**6), dim=[-1]), row_kernel("sum", (10**3, 10**3), dim=[-1])
    one, other = (tiled(row, profile).cycles[0] for profile in profiles)
    assert one == other == 1999
    few, many = (tiled(square, profile).cycles[0] for profile in profiles)
    assert 63 <= many < few


def test_attention_is_its_products_and_the_softmax_between_them():
    """One query over 4,096 keys of 64: fused it takes what its parts take on their own, the softmax in parts of its row."""
    q, k = TensorSpec((1, 1, 1, 64)), TensorSpec((1, 1, 4096, 64))
    call = OpCall("aten.scaled_dot_product_attention", (q, k, k), (q,), ("query", "key", "value"), {"is_causal": False})
    profile = load_profile("kpu_t256")
    fused = tiled(single_call_graph(call), profile).cycles[0]
    parts = [
        *(cut(KpuWavefront(), products(1, *extents), profile).cycles[0] for extents in ((4096, 64), (64, 4096))),
        tiled(row_kernel("softmax", (1, 4096), dim=-1), profile).cycles[0],
    ]
    assert parts[2] == 3 * (2 * 64 - 1)
    assert fused == pytest.approx(sum(parts), rel=0.01)


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
