"""Kernel tables: costs summed, accesses from outside only."""

from itertools import product

import numpy as np
import pytest
from build import GraphBuilder

from shmoo.estimators.director import AnalysisDirector
from shmoo.estimators.fusion import fuse
from shmoo.estimators.kernels import READ_ACTIVATION, READ_WEIGHT, WRITE, Kernel, KernelTable, kernel_table
from shmoo.estimators.profile import RUNTIMES, load_profile
from shmoo.estimators.records import FAMILIES


def two_layers():
    b = GraphBuilder()
    x = b.tensor((8, 16))
    return b.graph(b.linear(b.relu(b.linear(x, 32)), 4))


def test_a_table_holds_each_kernels_flops_bytes_and_extents():
    """Linear 8x16 by 16x32, relu, linear 8x32 by 32x4, in float32."""
    graph = two_layers()
    table = kernel_table(graph, fuse(graph))
    assert [FAMILIES[c] for c in table.family] == ["gemm", "pointwise", "gemm"]
    assert table.matrix_flops.tolist() == [2 * 8 * 16 * 32, 0, 2 * 8 * 32 * 4]
    assert table.bytes_of_kind(READ_WEIGHT).tolist() == [4 * 16 * 32, 0, 4 * 32 * 4]
    assert table.bytes_of_kind(READ_ACTIVATION).tolist() == [4 * 8 * 16, 4 * 8 * 32, 4 * 8 * 32]
    assert table.bytes_of_kind(WRITE).tolist() == [4 * 8 * 32, 4 * 8 * 32, 4 * 8 * 4]
    assert (table.m[0], table.n[0], table.k[0]) == (8, 32, 16)


def test_a_fused_kernel_moves_only_external_inputs_and_final_outputs():
    """relu and linear in one kernel: the tensor between them never leaves it."""
    graph = two_layers()
    fused = kernel_table(graph, [Kernel((0, 1)), Kernel((2,))])
    assert fused.bytes[0] == 4 * (8 * 16 + 16 * 32 + 8 * 32)
    assert fused.calls.tolist() == [2, 1]


def test_an_output_read_inside_and_outside_is_written_once():
    """y = relu(x) is read by a fused add and by a later kernel: it is written, and not read back by the fused one."""
    b = GraphBuilder()
    x = b.tensor((100,))
    y = b.relu(x)
    z = b.add(y, x)
    w = b.add(y, z)
    table = kernel_table(b.graph(w), [Kernel((0, 1)), Kernel((2,))])
    assert table.bytes.tolist() == [4 * 100 * 3, 4 * 100 * 3]  # x in, y and z out; y and z in, w out


def test_views_touch_the_memory_they_view():
    """A view costs nothing, and reading it reads its base at the base's distance."""
    b = GraphBuilder()
    y = b.relu(b.tensor((10, 10)))
    graph = b.graph(b.relu(b.view(y, (100,))))
    table = kernel_table(graph, fuse(graph))
    assert len(table) == 2
    second = table.access_kernel == 1
    assert table.access_distance[second & (table.access_kind == READ_ACTIVATION)].tolist() == [800]


def test_concatenation_keeps_rows_accesses_and_segments_apart():
    """Two copies of one graph: everything twice, the second with its own segment."""
    graph = two_layers()
    one = kernel_table(graph, fuse(graph))
    both = KernelTable.concat([one, one])
    assert both.segments == 2
    assert both.segment.tolist() == [0, 0, 0, 1, 1, 1]
    assert np.array_equal(both.bytes, np.tile(one.bytes, 2))


@pytest.mark.parametrize("machine", ["cpu_server_generic", "gpu_t4", "tpu_v4", "kpu_t64"])
def test_an_empty_selection_does_no_work(machine):
    """No box on one level of a pyramid: linear and relu of 0 rows are launched and read 2 KB of weights at most, so that a call
    takes some launches, and static power over them."""
    profile = load_profile(machine)
    alone, pair = GraphBuilder(), GraphBuilder()
    graphs = (alone.graph(alone.relu(alone.tensor((0, 16)))), pair.graph(pair.relu(pair.linear(pair.tensor((0, 16)), 32))))
    for empty, runtime in product(graphs, RUNTIMES[profile.family]):
        found = AnalysisDirector(profile).estimate(empty, runtime=runtime)
        assert found.flops == 0
        assert found.bytes in (0, 4 * 16 * 32)
        assert all(kernel.compute_s == 0 for kernel in found.breakdown)
        assert all(kernel.memory_s < 1e-8 for kernel in found.breakdown)
        assert 0 < found.latency_s.low <= found.latency_s.value <= found.latency_s.high < 1e-3
        assert found.energy_j.value == pytest.approx(profile.value("power.static") * found.latency_s.value, rel=0.01)
