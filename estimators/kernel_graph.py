"""The kernels of an estimate as a graph: what each reads from which, and where in the model it stands."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from shmoo.estimators.director import KernelEstimate
from shmoo.estimators.records import Graph

INPUT = -1
"""Stands for the caller among the calls that produce what another reads."""


class KernelNode(msgspec.Struct, frozen=True):
    """One kernel among those of a whole model.

    Attributes:
        kernel: what it costs. module: the innermost module that holds all of its calls, "" for the model itself.
        sources: indices of the kernels whose results it reads, in the order of the estimate's breakdown; all of them precede it.
    """

    kernel: KernelEstimate
    module: str
    sources: tuple[int, ...]


def kernel_graph(graphs: Sequence[Graph], breakdown: Sequence[KernelEstimate]) -> tuple[KernelNode, ...]:
    """Nodes in order of execution.

    Args:
        graphs: that were estimated. Pieces of a split model follow each other: the first kernels of one read the last of the one
            before.
        breakdown: of their estimate.
    """
    at = {(kernel.graph, call): position for position, kernel in enumerate(breakdown) for call in kernel.calls}
    sources: list[set[int]] = [set() for _ in breakdown]
    before: tuple[int, ...] = ()
    for g, graph in enumerate(graphs):
        producers = _producers(graph)
        last = before
        for index in range(len(graph.calls)):
            here = at.get((g, index))
            if here is None:
                continue
            last = (here,)
            seen: set[int] = set()
            stack = list(producers[index])
            while stack:
                producer = stack.pop()
                if producer in seen:
                    continue
                seen.add(producer)
                place = at.get((g, producer), -1) if producer != INPUT else -1
                if producer == INPUT:
                    sources[here].update(before)
                elif 0 <= place < here:
                    sources[here].add(place)
                elif place != here:
                    # A view, or a call that the compiler computes in several kernels and that is listed in a later one only.
                    stack.extend(producers[producer])
        before = last
    return tuple(
        KernelNode(kernel, _common([graphs[kernel.graph].calls[call].module for call in kernel.calls]), tuple(sorted(reads)))
        for kernel, reads in zip(breakdown, sources, strict=True)
    )


def _producers(graph: Graph) -> list[frozenset[int]]:
    """The calls whose results each call reads, `INPUT` for what the graph is given."""
    makers: dict[int, frozenset[int]] = {
        index: frozenset((INPUT,)) for index, value in enumerate(graph.values) if value.kind == "input"
    }
    # A write into memory is seen by every later reader, through any view.
    written: dict[int, frozenset[int]] = {}
    producers = []
    for index, call in enumerate(graph.calls):
        roots = [graph.root(value) for value in call.reads]
        producers.append(
            frozenset().union(
                *(makers.get(value, frozenset()) for value in call.reads), *(written.get(root, frozenset()) for root in roots)
            )
        )
        for value in call.writes:
            makers[value] = frozenset((index,))
            if call.inplace:
                written[graph.root(value)] = frozenset((index,))
    return producers


def _common(paths: Sequence[str]) -> str:
    """The longest module path that holds all: "layer1.0" of "layer1.0.conv1" and "layer1.0.bn1"; others are passed over."""
    split = [path.split(".") for path in paths if path]
    if not split:
        return ""
    shared = []
    for parts in zip(*split, strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return ".".join(shared)
