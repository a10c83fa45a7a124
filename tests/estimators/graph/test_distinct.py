"""The distinct operators of graphs, cut out."""

import msgspec

from shmoo.estimators.graph.distinct import distinct_operators
from tests.build import GraphBuilder


def block():
    """Three relus of two shapes, and a sum through two views."""
    b = GraphBuilder()
    x = b.relu(b.relu(b.tensor((4, 6))))
    y = b.relu(b.tensor((2, 12)))
    return b.graph(b.add(b.view(x, (24,)), b.view(y, (24,))))


def test_equal_calls_are_one_operator_wherever_they_stand():
    """relu (4, 6) twice, relu (2, 12), two views, one sum: module paths and names tell nothing apart."""
    graph = block()
    named = tuple(msgspec.structs.replace(call, module=f"m{i}", source="a.py:1") for i, call in enumerate(graph.calls))
    found = distinct_operators([msgspec.structs.replace(graph, calls=named)])
    assert [(o.call.op, o.calls) for o in found] == [
        ("aten.relu", (0, 1)),
        ("aten.relu", (2,)),
        ("aten.view", (3,)),
        ("aten.view", (4,)),
        ("aten.add", (5,)),
    ]


def test_calls_count_on_from_graph_to_graph():
    """The same piece twice: every operator stands in both."""
    found = distinct_operators([block(), block()])
    assert found[0].calls == (0, 1, 6, 7)
    assert sum(len(operator.calls) for operator in found) == 12


def test_operands_keep_the_views_they_are_seen_through():
    """The sum comes with both views; what these look at is an input."""
    cut = distinct_operators([block()])[-1].graph
    assert [call.op for call in cut.calls] == ["aten.view", "aten.view", "aten.add"]
    assert [value.spec.shape for value in cut.values if value.kind == "input"] == [(4, 6), (2, 12)]
    assert cut.root(cut.calls[2].reads[0]) == cut.calls[0].reads[0]


def test_weights_stay_weights_and_an_operator_in_place_writes_into_its_operand():
    """A linear layer, then relu_ on its result."""
    b = GraphBuilder()
    y = b.linear(b.tensor((8, 16)), 32)
    graph = b.graph(b.call("relu", {"self": y}, (8, 32), storage=y, inplace=True))
    linear, relu = (operator.graph for operator in distinct_operators([graph]))
    assert [value.kind for value in linear.values] == ["input", "parameter", "activation"]
    assert [value.kind for value in relu.values] == ["input", "activation"]
    assert relu.root(1) == 0
