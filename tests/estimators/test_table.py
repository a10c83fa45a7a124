"""Kernel tables: costs summed, accesses from outside only."""

from dataclasses import fields
from itertools import product

import numpy as np
import pytest

from shmoo.estimators.fusion.rules import fuse
from shmoo.estimators.graph.records import FAMILIES, Kernel
from shmoo.estimators.graph_rows import kernel_tables
from shmoo.estimators.machine.profile import RUNTIMES, load_profile
from shmoo.estimators.predict.director import AnalysisDirector
from shmoo.estimators.table import (
    DTYPE_CODE,
    FAMILY_CODE,
    READ_ACTIVATION,
    READ_WEIGHT,
    WRITE,
    KernelTable,
    op_code,
)
from tests.build import GraphBuilder, kernel_table


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


def test_tables_of_many_graphs_are_those_of_each():
    """Two layers, a lone sum and a copy that writes what it reads: the same columns at once and one by one, to the last bit."""
    alone, inside = GraphBuilder(), GraphBuilder("float16")
    x, y = alone.tensor((64, 8)), inside.tensor((3, 5, 7))
    graphs = [two_layers(), alone.graph(alone.add(x, x)), inside.graph(inside.relu(y))]
    together = kernel_tables([(graph, fuse(graph)) for graph in graphs])
    apart = KernelTable.concat([kernel_table(graph, fuse(graph)) for graph in graphs])
    for field in fields(KernelTable):
        one, other = getattr(together, field.name), getattr(apart, field.name)
        assert np.array_equal(one, other, equal_nan=field.name == "warm"), field.name
    # A lone kernel's operands compete with each other between two of its runs.
    assert together.access_distance[together.access_kernel == 3].tolist() == [64 * 8 * 4 * 2] * 2


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


def test_columns_hold_what_their_names_say():
    """A grouped, strided and dilated convolution of three images, every extent a number of its own."""
    b = GraphBuilder("float16")
    x, weight = b.tensor((3, 8, 20, 22)), b.tensor((10, 4, 3, 5), "parameter", "weight")
    shape = {"stride": [2, 2], "padding": [0, 0], "dilation": [3, 3], "groups": 2}
    y = b.call("conv2d", {"input": x, "weight": weight}, (3, 10, 7, 5), **shape)
    table = kernel_table(b.graph(y), [Kernel((0,))])
    codes = table.family, table.dtype, table.op
    assert [int(code[0]) for code in codes] == [FAMILY_CODE["conv"], DTYPE_CODE["float16"], op_code("aten.conv2d")]
    assert all(code.dtype == np.int64 for code in codes)
    space = {"batch": 2, "m": 3 * 7 * 5, "n": 5, "k": 4 * 15, "window": 15, "stride": 2, "dilation": 3, "images": 3, "calls": 1}
    space |= {"channels_in": 4, "channels_out": 5, "height": 7, "width": 5, "window_height": 3, "window_width": 5}
    space |= {"image_elements": 8 * 20 * 22}
    assert {name: float(getattr(table, name)[0]) for name in space} == space
    assert table.entering_bytes[0] == 2 * 3 * 8 * 20 * 22
    assert table.leaving_bytes[0] == 2 * 3 * 10 * 7 * 5
    assert table.flops[0] == table.matrix_flops[0] == 2 * 3 * 10 * 7 * 5 * 4 * 15
