"""The distinct operators of a captured model, each cut out as a graph of its own that can be run and costed alone."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from shmoo.estimators.records import Graph, OpCall, Value


class DistinctOperator(msgspec.Struct, frozen=True):
    """One operator with its shapes, element types and attributes.

    Attributes:
        graph: the views that its operands are seen through, then its call, which is the last. Nothing in it has a name, so equal
            operators of several places and models have equal graphs.
        calls: where it stands: indices into the calls of all graphs, counted on from graph to graph.
    """

    graph: Graph
    calls: tuple[int, ...]

    @property
    def call(self) -> OpCall:
        """The operator's own call."""
        return self.graph.calls[-1]


def distinct_operators(graphs: Sequence[Graph]) -> tuple[DistinctOperator, ...]:
    """Every distinct operator of a model's graphs, in the order in which they first run; views and other free calls included."""
    found: dict[bytes, tuple[Graph, list[int]]] = {}
    offset = 0
    for graph in graphs:
        makers = _view_makers(graph)
        for index in range(len(graph.calls)):
            cut = _cut(graph, index, makers)
            found.setdefault(cut.to_json(), (cut, []))[1].append(offset + index)
        offset += len(graph.calls)
    return tuple(DistinctOperator(graph, tuple(calls)) for graph, calls in found.values())


def _view_makers(graph: Graph) -> dict[int, int]:
    """For each value that is another look at an older one's memory, the call that made it."""
    return {
        value: index
        for index, call in enumerate(graph.calls)
        if call.reads and not call.inplace
        for value in call.writes
        if graph.values[value].storage is not None and graph.root(value) == graph.root(call.reads[0])
    }


def _cut(graph: Graph, index: int, makers: dict[int, int]) -> Graph:
    """The call at `index` with the views that its operands are seen through, as a graph of its own. Weights stay weights; what
    other calls made is an input."""
    needed, stack = {index}, list(graph.calls[index].reads)
    while stack:
        maker = makers.get(stack.pop())
        if maker is not None and maker not in needed and maker < index:
            needed.add(maker)
            stack.extend(graph.calls[maker].reads)
    values: list[Value] = []
    place: dict[int, int] = {}

    def of(value: int) -> int:
        if value not in place:
            known = graph.values[value]
            place[value] = len(values)
            values.append(Value(known.spec, known.kind if known.is_weight else "input"))
        return place[value]

    calls = []
    for position in sorted(needed):
        call = graph.calls[position]
        reads = tuple(of(value) for value in call.reads)
        roots = {graph.root(value): place[value] for value in reversed(call.reads)}
        writes = []
        for value in call.writes:
            base = roots.get(graph.root(value))
            place[value] = len(values)
            writes.append(place[value])
            values.append(Value(graph.values[value].spec, storage=base))
        calls.append(msgspec.structs.replace(call, reads=reads, writes=tuple(writes), module="", source=""))
    return Graph(tuple(values), tuple(calls), calls[-1].writes)
