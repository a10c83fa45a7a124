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
from shmoo.estimators.tiling.cpu_calls import (
    RESULT_POINTS,
    by_result,
    call_by_call,
    loop_cores,
    team_seconds,
    waking_seconds,
    worth_waking,
)
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
    assert loop_cores(table_of(op, shape, **attributes), CORES, "eager").tolist() == [cores]


def test_a_loop_on_one_core_has_its_share_of_the_units_and_wakes_nobody():
    """tanh of 32 times as many elements, on four cores and not one, takes 8 times as long, and three cores are woken for it."""
    free = {"launch.eager.pointwise": 0.0, "switch.eager.pointwise": 0.0, "join": 1e-6, "skew": 0.0}
    few, many = (seconds(table_of("tanh", (rows, 1024)), free) for rows in (16, 512))
    assert many.compute_s[0] == pytest.approx(8.0 * few.compute_s[0])
    assert (few.launch_s[0], many.launch_s[0]) == (0.0, pytest.approx(3e-6))


def seconds(table: KernelTable, values: dict[str, float]) -> Prediction:
    """Times of kernels in eager execution where some coefficients have these values."""
    return predict(table, AnalysisDirector(MACHINE).tile(table), Coefficients(MACHINE, values), "eager")


def test_waking_takes_as_long_as_there_are_cores_to_wake():
    """Three beside the first."""
    c = Coefficients(MACHINE, {"join": 2e-6, "skew": 0.0})
    assert waking_seconds(table_of("relu", (1024, 1024)), c, np.array([4.0])).tolist() == [6e-6]


@pytest.mark.parametrize(("rows", "working"), [(32, 1), (33, 2), (65, 3), (1024, 4)])
def test_loops_of_the_framework_wake_all_cores_and_wait_for_those_with_work(rows, working):
    """32768 elements a core: as soon as two have work all four are woken, and the last of those that work is waited for."""
    c = Coefficients(MACHINE, {"join": 1e-6, "skew": 6e-6})
    longest = 6e-6 * sum(1 / k for k in range(2, working + 1))
    expected = 3e-6 + longest if working > 1 else 0.0
    table = table_of("relu", (rows, 1024))
    assert waking_seconds(table, c, loop_cores(table, CORES, "eager")).tolist() == pytest.approx([expected], rel=1e-3)


def test_a_library_wakes_the_cores_that_save_more_than_waking_them_takes():
    """With 1 us for a core, 4 and 16 us of work are worth 2 and 4 cores, and no more than there are; without, all of them."""
    c, work = Coefficients(MACHINE, {"join": 1e-6, "skew": 0.0}), np.array([1e-7, 4e-6, 1.6e-5, 1e-3])
    assert worth_waking(c, work, np.full(4, 8.0)).tolist() == pytest.approx([1.0, 2.0, 4.0, 8.0])
    free = Coefficients(MACHINE, {"join": 0.0, "skew": 0.0})
    assert worth_waking(free, work, np.full(4, 8.0)).tolist() == [8.0] * 4


def test_no_other_number_of_cores_does_a_product_sooner():
    """Over 1 to 64 cores and products of 1 us to 10 ms, up to what the sum 1/2 + ... + 1/n differs from its logarithm."""
    c, cores = Coefficients(MACHINE), np.arange(1.0, 65.0)
    for work in np.geomspace(1e-6, 1e-2, 30):
        best = worth_waking(c, np.array([work]), np.array([64.0]))
        assert work / best + team_seconds(c, best, best) <= 1.05 * (work / cores + team_seconds(c, cores, cores)).min()


EMPTY_REGIONS = {2: 1.39e-6, 4: 1.89e-6, 8: 2.78e-6, 16: 5.72e-6, 32: 9.11e-6}
"""Threads -> seconds of an empty parallel region of GNU OpenMP on a Xeon (usstq/aboutSHW, threading/README.md, 100 regions)."""


def test_threads_join_as_fast_as_published_regions():
    """What a thread more adds between 2 and 32; 96 threads of two EPYCs take 30 us in all. Both within 30 %."""
    join = Coefficients(MACHINE).value("join")
    assert (EMPTY_REGIONS[32] - EMPTY_REGIONS[2]) / 30 == pytest.approx(join, rel=0.3)
    assert 95 * join == pytest.approx(30e-6, rel=0.3)


def test_a_region_on_two_cores_and_on_fourteen_takes_what_was_measured():
    """2.2 to 2.4 us on two cores of a Xeon, about 17 us on the 14 of an i9-10940X; within a microsecond."""
    c = Coefficients(MACHINE)
    assert team_seconds(c, 2.0, 2.0) == pytest.approx(2.3e-6, abs=1e-6)
    assert team_seconds(c, 14.0, 14.0) == pytest.approx(17e-6, abs=1e-6)


def test_many_cores_join_later_than_few_and_by_less_each():
    """A thread more takes its time, but less than the one before it; 128 take less than 60 us."""
    c = Coefficients(MACHINE)
    threads = np.arange(1.0, 257.0)
    taken = team_seconds(c, threads, threads)
    assert taken[0] == 0.0
    assert (np.diff(taken) > 0).all()
    assert (np.diff(taken, 2)[1:] < 0).all()
    assert taken[127] < 60e-6


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
