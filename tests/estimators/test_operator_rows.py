"""Tables of single operators: the same numbers as walking their graphs gives."""

from __future__ import annotations

from dataclasses import fields

import msgspec
import numpy as np
import pytest

from shmoo.estimators.fusion.rules import fuse
from shmoo.estimators.graph.records import CHANNELS_LAST, Graph, OpCall, TensorSpec, Value, single_call_graph
from shmoo.estimators.graph_rows import kernel_tables
from shmoo.estimators.operator_rows import is_operator, operator_table
from shmoo.estimators.predict.graph_table import tabulate
from shmoo.estimators.table import KernelTable
from shmoo.runs.tables.operators import TABLE_OPERATORS, ShapedOperator

EXTENTS = {
    "b": 3, "m": 64, "n": 48, "k": 32, "conv_n": 2, "conv_c_in": 8, "conv_c_out": 16, "conv_kernel": 3, "conv_size": 12,
    "conv_stride": 1, "conv_padding": 1, "conv_groups": 2,
}  # fmt: skip


def operator(name: str, dtype: str = "float32", scale: int = 1) -> Graph:
    """A row of a table: the operator on tensors of one size, `scale` times as many of them."""
    operator = TABLE_OPERATORS[name]
    if isinstance(operator, ShapedOperator):
        return single_call_graph(*operator.build((2 * scale, 64, 7, 5), dtype), name)
    first = operator.columns[0]
    return single_call_graph(*operator.build({**EXTENTS, first: EXTENTS[first] * scale}, dtype), name)


def walked(graphs: list[Graph]) -> KernelTable:
    return kernel_tables([(graph, fuse(graph)) for graph in graphs])


def assert_equal(table: KernelTable, other: KernelTable) -> None:
    assert table.labels == other.labels
    for name in [field.name for field in fields(KernelTable) if field.name != "labels"]:
        column, expected = getattr(table, name), getattr(other, name)
        assert column.dtype == expected.dtype, name
        np.testing.assert_array_equal(column, expected, err_msg=name)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_every_operator_of_a_table_has_the_row_that_its_graph_gives(dtype: str) -> None:
    graphs = [operator(name, dtype) for name in TABLE_OPERATORS]
    assert all(map(is_operator, graphs))
    assert_equal(operator_table(graphs), walked(graphs))


def test_large_results_are_memory_from_the_system() -> None:
    """Results above 32 MiB are mapped, several of one call each by itself, whatever part of them is written."""
    heads = {"b": 64, "m": 1024, "n": 1024, "k": 64, "heads": 16, "kv_heads": 16, "causal": 1}
    attention = single_call_graph(*TABLE_OPERATORS["attention"].build(heads, "float16"))  # type: ignore[arg-type]
    large = TensorSpec((2**14, 2**10))
    part = OpCall("aten.embedding_renorm", (large, TensorSpec((8,), "int64")), (large,), ("self", "indices"))
    graphs = [operator("relu"), operator("relu", scale=2**15), operator("conv", scale=2**12), attention, single_call_graph(part)]
    table = operator_table(graphs)
    assert_equal(table, walked(graphs))
    assert table.mapped_bytes[0] == 0
    assert (table.mapped_bytes[1:] > 0).all()


def test_selections_of_nothing_and_images_in_the_last_dimension() -> None:
    """An empty operand is no access, and extents of 0 count as 1; images stored channels-last are not converted."""
    empty = single_call_graph(*TABLE_OPERATORS["embedding"].build({"m": 0, "n": 10, "k": 4}, "float32"))  # type: ignore[arg-type]
    conv = operator("conv")
    call = msgspec.structs.replace(conv.calls[0], attributes={**conv.calls[0].attributes, "memory_format": CHANNELS_LAST})
    graphs = [empty, conv, msgspec.structs.replace(conv, calls=(call,))]
    table = operator_table(graphs)
    assert_equal(table, walked(graphs))
    assert table.strided_bytes[1] > table.strided_bytes[2] == 0


def test_graphs_that_need_a_walk() -> None:
    """Several calls, modules, shared memory, operands that are passed twice, results that are not returned, and views."""
    graph = operator("add")
    (call,), (x, y, result) = graph.calls, graph.values
    twice = msgspec.structs.replace(call, reads=(0, 0))
    others = [
        msgspec.structs.replace(graph, calls=(call, call)),
        msgspec.structs.replace(graph, calls=(msgspec.structs.replace(call, module="layer"),)),
        msgspec.structs.replace(graph, values=(x, y, msgspec.structs.replace(result, storage=0))),
        msgspec.structs.replace(graph, calls=(twice,)),
        msgspec.structs.replace(graph, outputs=()),
        single_call_graph(OpCall("aten.view", (TensorSpec((4,)),), (TensorSpec((2, 2)),), ("self",), {"size": [2, 2]})),
        Graph((Value(TensorSpec((4,)), "input"),), ()),
    ]
    assert is_operator(graph)
    assert not any(map(is_operator, others))


def test_an_operator_on_weights_alone_is_computed_before() -> None:
    """Compiled code computes what depends on weights alone once, so that it launches nothing for it."""
    graph, weights = operator("relu"), single_call_graph(operator("add").calls[0], (0, 1))
    table, origin = tabulate([graph, weights], "inductor-freezing", "gpu")
    assert (len(table), [place for place, _ in origin]) == (1, [0])


@pytest.mark.parametrize(("family", "runtime"), [("gpu", "eager"), ("cpu", "eager"), ("cpu", "inductor"), ("tpu", "xla")])
def test_tables_with_and_without_other_graphs_agree(family: str, runtime: str) -> None:
    """Rows of operators are the same beside a graph that has to be walked."""
    graphs = [operator(name) for name in TABLE_OPERATORS]
    call = graphs[0].calls[0]
    nested = msgspec.structs.replace(graphs[0], calls=(msgspec.structs.replace(call, module="layer"),))
    alone, _ = tabulate(graphs, runtime, family)
    beside, _ = tabulate([*graphs, nested], runtime, family)
    assert_equal(alone, beside.take(np.arange(len(graphs))))
