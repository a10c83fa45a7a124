"""Peak memory of a graph from the lifetimes of its tensors."""

from __future__ import annotations

from shmoo.estimators.records import Graph


def peak_memory_bytes(graph: Graph) -> float:
    """Weights and inputs, which live throughout, plus the largest sum of activations alive at once, in bytes.

    A storage is alive from the call that makes it to the last call that reads it or a view of it; what the graph returns lives
    on. While a call runs, its inputs and outputs are both alive.
    """
    end = len(graph.calls)
    roots = [graph.root(index) for index in range(len(graph.values))]
    size: dict[int, float] = {}
    for index, value in enumerate(graph.values):
        size[roots[index]] = max(size.get(roots[index], 0.0), value.spec.nbytes)
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    for position, call in enumerate(graph.calls):
        for index in (*call.reads, *call.writes):
            root = roots[index]
            first.setdefault(root, position)
            last[root] = position
    for index in graph.outputs:
        last[roots[index]] = end
    resident = sum(nbytes for root, nbytes in size.items() if graph.values[root].kind != "activation")
    change = [0.0] * (end + 2)
    for root, nbytes in size.items():
        if graph.values[root].kind == "activation" and root in first:
            change[first[root]] += nbytes
            change[last[root] + 1] -= nbytes
    alive = peak = 0.0
    for delta in change:
        alive += delta
        peak = max(peak, alive)
    return resident + peak
