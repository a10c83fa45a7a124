"""Validation of graphs, so that every reader ends: indices in range, shared memory without a cycle, sizes that a machine could
hold."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from shmoo.estimators.graph.dtypes import BITS

if TYPE_CHECKING:
    from shmoo.estimators.graph.records import Graph, OpCall, TensorSpec

MOST_ELEMENTS = 2**62
"""Elements of the largest tensor: torch counts them with 63 bits."""


def first_problem(graph: Graph) -> str | None:
    """What is wrong with a graph, in one sentence; `None` for a sound one."""
    return next(_problems(graph), None)


def _problems(graph: Graph) -> Iterator[str]:
    count = len(graph.values)
    for index, value in enumerate(graph.values):
        if (problem := _spec_problem(value.spec)) is not None:
            yield f"value {index} {problem}"
        if value.storage is not None and not 0 <= value.storage < count:
            yield f"value {index} shares the memory of value {value.storage}, and there are {count}"
    if graph.outputs and not 0 <= min(graph.outputs) <= max(graph.outputs) < count:
        yield f"it returns a value outside of its {count}"
    if not 0 <= graph.unread_weight_bytes < math.inf:
        yield f"its unread weights take {graph.unread_weight_bytes:g} bytes"
    yield from _cycles([value.storage for value in graph.values])
    for index, call in enumerate(graph.calls):
        yield from _call_problems(call, f"call {index} ({call.op!r})", count)


def _call_problems(call: OpCall, where: str, values: int) -> Iterator[str]:
    for spec in (*call.inputs, *call.outputs):
        if (problem := _spec_problem(spec)) is not None:
            yield f"{where} {problem}"
    if len(call.operands) != len(call.inputs):
        yield f"{where} has {len(call.inputs)} inputs and {len(call.operands)} names for them"
    for what, places, specs in (("reads", call.reads, call.inputs), ("writes", call.writes, call.outputs)):
        if len(places) != len(specs):
            yield f"{where} {what} {len(places)} values for {len(specs)} tensors"
        if places and not 0 <= min(places) <= max(places) < values:
            yield f"{where} {what} a value outside of the graph's {values}"


def _spec_problem(spec: TensorSpec) -> str | None:
    if spec.dtype not in BITS:
        return f"has the unknown type {spec.dtype!r}"
    possible = min(spec.shape, default=0) >= 0 and spec.numel <= MOST_ELEMENTS
    return None if possible else f"has the shape {spec.shape}, which no tensor has"


def _cycles(storage: Sequence[int | None]) -> Iterator[str]:
    """A finding where following `storage` from some value never ends."""
    visited_from: dict[int, int] = {}
    for start in range(len(storage)):
        index: int | None = start
        while index is not None and index not in visited_from:
            visited_from[index] = start
            index = storage[index]
        if index is not None and visited_from[index] == start:
            yield f"value {index} shares its own memory in a circle of values"
