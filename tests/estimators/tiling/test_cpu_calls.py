"""What a framework does around a call's arithmetic on a CPU, worked out by hand."""

from dataclasses import replace

import msgspec
import numpy as np
import pytest

from shmoo.estimators.fusion.rules import fuse
from shmoo.estimators.graph.records import Graph
from shmoo.estimators.machine.coefficients import Coefficients
from shmoo.estimators.machine.profile import load_profile
from shmoo.estimators.predict.director import AnalysisDirector
from shmoo.estimators.predict.model import Prediction, predict
from shmoo.estimators.table import KernelTable
from shmoo.estimators.tiling.cpu_calls import RESULT_POINTS, busy_cores, by_result, call_by_call, waking_seconds
from shmoo.estimators.variants import variant
from tests.build import GraphBuilder, kernel_table

CORES = 4.0
MACHINE = variant(load_profile("cpu_server_generic"), {"count.cores": CORES})


def table_of(op: str, shape: tuple[int, ...], result: tuple[int, ...] | None = None, **attributes) -> KernelTable:
    b = GraphBuilder()
    graph = b.graph(b.call(op, {"self": b.tensor(shape)}, result or shape, **attributes))
    return kernel_table(graph, fuse(graph))


@pytest.mark.parametrize(
    ("op", "shape", "attributes", "cores"),
    [
        ("relu", (32, 1024), {}, 1),  # 32768 elements are one grain
        ("relu", (33, 1024), {}, 2),
        ("relu", (1024, 1024), {}, 4),
        ("softmax", (2, 1024), {"dim": -1}, 1),  # 2048 elements
        ("softmax", (8, 1024), {"dim": -1}, 4),
        ("softmax", (1, 65536), {"dim": -1}, 1),  # a row is not divided
        ("layer_norm", (3, 64), {"normalized_shape": [64]}, 3),  # a row each
    ],
)
def test_a_framework_wakes_cores_by_grains(op, shape, attributes, cores):
    """Loops take 32768 elements a core, softmax 2048, norms a row."""
    assert busy_cores(table_of(op, shape, **attributes), CORES, "eager").tolist() == [cores]


def test_a_loop_on_one_core_has_its_share_of_the_units_and_wakes_nobody():
    """tanh of 32 times as many elements, on four cores and not one, takes 8 times as long, and three cores are woken for it."""
    free = {"launch.eager.pointwise": 0.0, "switch.eager.pointwise": 0.0, "join": 1e-6}
    few, many = (seconds(table_of("tanh", (rows, 1024)), free) for rows in (16, 512))
    assert many.compute_s[0] == pytest.approx(8.0 * few.compute_s[0])
    assert (few.launch_s[0], many.launch_s[0]) == (0.0, pytest.approx(3e-6))


def seconds(table: KernelTable, values: dict[str, float]) -> Prediction:
    """Times of kernels in eager execution where some coefficients have these values."""
    return predict(table, AnalysisDirector(MACHINE).tile(table), Coefficients(MACHINE, values), "eager")


def test_waking_takes_as_long_as_there_are_cores_to_wake():
    """Three beside the first."""
    assert waking_seconds(table_of("relu", (1024, 1024)), Coefficients(MACHINE, {"join": 2e-6}), "eager").tolist() == [6e-6]


def test_results_of_windows_cost_bounds_and_index_beside_their_points():
    """Pooling over 2 x 2 takes 3 comparisons and 16 points' worth a result; compiled code and means over planes do not."""
    pooled = table_of("max_pool2d", (1, 8, 16, 16), (1, 8, 8, 8), kernel_size=[2, 2], stride=[2, 2])
    assert (by_result(pooled, "eager").tolist(), by_result(pooled, "inductor").tolist()) == ([True], [False])
    assert not by_result(table_of("mean", (8, 64), (8,), dim=[1]), "eager").any()
    eager = seconds(pooled, {"efficiency.vector.pooling": 1.0}).compute_s[0]
    assert eager == pytest.approx(8 * 64 * (3 + RESULT_POINTS) / MACHINE.value("peak.vector.float32"))


def test_a_recurrent_layer_without_a_fused_kernel_dispatches_its_gates_in_every_step():
    """20 steps of a product and ten loops of a GRU, and the product of its inputs; an LSTM is one call."""
    table = table_of("relu", (4, 4))
    gru, lstm = (with_op(table, name) for name in ("aten.gru", "aten.lstm"))
    c = Coefficients(MACHINE, {"launch.eager.linear": 7e-6, "launch.eager.pointwise": 1e-6})
    launch = np.array([5e-5])
    assert call_by_call(gru, launch, c, "eager").tolist() == pytest.approx([7e-6 + 20 * (7e-6 + 10 * 1e-6)])
    assert call_by_call(lstm, launch, c, "eager").tolist() == [5e-5]


def with_op(table: KernelTable, op: str) -> KernelTable:
    from shmoo.estimators.table import op_code

    return replace(table, op=np.array([op_code(op)]), batch=np.array([20.0]))


def test_modules_are_entered_as_far_as_the_call_before_was_outside_of_them():
    """Two for the first of a block, one for the next layer, two for the next block; none for a second call in one layer."""
    b = GraphBuilder()
    x = b.tensor((8, 8))
    for _ in range(4):
        x = b.relu(x)
    graph = b.graph(x)
    paths = ("block1.a", "block1.b", "block1.b", "block2.a")
    calls = tuple(msgspec.structs.replace(call, module=path) for call, path in zip(graph.calls, paths, strict=True))
    named: Graph = msgspec.structs.replace(graph, calls=calls)
    assert kernel_table(named, fuse(named)).modules.tolist() == [2, 1, 0, 2]
