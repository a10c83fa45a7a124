"""The kernels of an estimate as a graph: what each reads from which, and where in the model it stands."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from shmoo.estimators.director import KernelEstimate
from shmoo.estimators.records import Graph


class KernelNode(msgspec.Struct, frozen=True):
    """One kernel among those of a whole model.

    Attributes:
        kernel: what it costs. module: the innermost module that holds all of its calls, "" for the model itself.
        sources: indices of the kernels whose results it reads, in the order of the estimate's breakdown.
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
    at: dict[tuple[int, int], int] = {
        (kernel.graph, call): position for position, kernel in enumerate(breakdown) for call in kernel.calls
    }
    sources: list[set[int]] = [set() for _ in breakdown]
    before: tuple[int, ...] = ()
    for g, graph in enumerate(graphs):
        makers: dict[int, frozenset[int]] = {
            index: frozenset(before) for index, value in enumerate(graph.values) if value.kind == "input"
        }
        # A write into memory is seen by whoever reads it afterwards, through any view.
        written: dict[int, frozenset[int]] = {}
        last = before
        for index, call in enumerate(graph.calls):
            read = frozenset().union(
                *(makers.get(value, frozenset()) | written.get(graph.root(value), frozenset()) for value in call.reads)
            )
            here = at.get((g, index))
            if here is not None:
                sources[here] |= read - {here}
                read, last = frozenset((here,)), (here,)
            for value in call.writes:
                makers[value] = read
                if call.inplace:
                    written[graph.root(value)] = read
        before = last
    return tuple(
        KernelNode(kernel, _common([graphs[kernel.graph].calls[call].module for call in kernel.calls]), tuple(sorted(reads)))
        for kernel, reads in zip(breakdown, sources, strict=True)
    )


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
