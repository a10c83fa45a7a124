"""The kernels of an estimate as a graph: which kernels each reads from, and the module it belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

import msgspec

from shmoo.estimators.graph.records import Graph
from shmoo.estimators.predict.director import KernelEstimate

INPUT = -1
"""Stands for the caller among the producers of a call's operands."""


class KernelNode(msgspec.Struct, frozen=True):
    """One kernel among those of a whole model, in the innermost module that contains all of its calls ("" for the model itself).
    `sources` are indices, in the estimate's breakdown, of the kernels whose results it reads; all of them precede it."""

    kernel: KernelEstimate
    module: str
    sources: tuple[int, ...]


def kernel_graph(graphs: Sequence[Graph], breakdown: Sequence[KernelEstimate]) -> tuple[KernelNode, ...]:
    """The kernels of an estimate of `graphs`, in order of execution. Pieces of a split model follow each other: the first kernels
    of a piece read the last of the previous piece."""
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
                if producer == INPUT:
                    sources[here].update(before)
                elif producer not in seen:
                    seen.add(producer)
                    place = at.get((g, producer))
                    if place is not None and place < here:
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
    """The calls whose results each call reads, `INPUT` for inputs of the graph."""
    makers = {index: INPUT for index, value in enumerate(graph.values) if value.kind == "input"}
    # Every later reader sees a write into memory, through any view.
    writers: dict[int, int] = {}
    producers = []
    for index, call in enumerate(graph.calls):
        direct = {makers[value] for value in call.reads if value in makers}
        written = {writers[root] for root in map(graph.root, call.reads) if root in writers}
        producers.append(frozenset(direct | written))
        makers.update(dict.fromkeys(call.writes, index))
        if call.inplace:
            writers.update(dict.fromkeys(map(graph.root, call.writes), index))
    return producers


def _common(paths: Sequence[str]) -> str:
    """The longest common module path: "layer1.0" of "layer1.0.conv1" and "layer1.0.bn1"; empty paths are ignored."""
    levels = zip(*(path.split(".") for path in paths if path), strict=False)
    return ".".join(parts[0] for parts in takewhile(lambda parts: len(set(parts)) == 1, levels))
