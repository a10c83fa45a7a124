"""The distinct operators of a captured model, each as a separate graph that can be run and costed alone."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from shmoo.estimators.graph.records import Graph, OpCall, Value


class DistinctOperator(msgspec.Struct, frozen=True):
    """One operator with its shapes, element types and attributes: a graph of the views of its operands and, last, its call.
    Values have no names, so equal operators of several places and models have equal graphs. `calls` are indices into the calls of
    all graphs, counted from graph to graph."""

    graph: Graph
    calls: tuple[int, ...]

    @property
    def call(self) -> OpCall:
        """The operator's own call."""
        return self.graph.calls[-1]


def distinct_operators(graphs: Sequence[Graph]) -> tuple[DistinctOperator, ...]:
    """Every distinct operator of a model's graphs, in the order in which they first run, including views and other free calls."""
    places: dict[bytes, tuple[Graph, list[int]]] = {}
    offset = 0
    for graph in graphs:
        # Value -> the call that makes it as a view of an older value's memory.
        makers = {
            value: index
            for index, call in enumerate(graph.calls)
            if call.reads and not call.inplace
            for value in call.writes
            if graph.values[value].storage is not None and graph.root(value) == graph.root(call.reads[0])
        }
        for index in range(len(graph.calls)):
            subgraph = _subgraph(graph, index, makers)
            places.setdefault(subgraph.to_json(), (subgraph, []))[1].append(offset + index)
        offset += len(graph.calls)
    return tuple(DistinctOperator(graph, tuple(calls)) for graph, calls in places.values())


def _subgraph(graph: Graph, index: int, makers: dict[int, int]) -> Graph:
    """The call at `index` and the views of its operands as a separate graph. Weights stay weights; results of other calls become
    inputs."""
    call_indices, stack = {index}, list(graph.calls[index].reads)
    while stack:
        maker = makers.get(stack.pop())
        if maker is not None and maker not in call_indices and maker < index:
            call_indices.add(maker)
            stack.extend(graph.calls[maker].reads)
    values: list[Value] = []
    place: dict[int, int] = {}

    calls = []
    for position in sorted(call_indices):
        call = graph.calls[position]
        for value in call.reads:
            if value not in place:
                original = graph.values[value]
                place[value] = len(values)
                values.append(Value(original.spec, original.kind if original.is_weight else "input"))
        reads = tuple(place[value] for value in call.reads)
        roots = {graph.root(value): place[value] for value in reversed(call.reads)}
        for value in call.writes:
            place[value] = len(values)
            values.append(Value(graph.values[value].spec, storage=roots.get(graph.root(value))))
        writes = tuple(place[value] for value in call.writes)
        calls.append(msgspec.structs.replace(call, reads=reads, writes=writes, module="", source=""))
    return Graph(tuple(values), tuple(calls), calls[-1].writes)
