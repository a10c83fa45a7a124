"""Peak memory of a model: its weights and inputs, and the maximum of tensors and workspaces at any moment."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import msgspec

from shmoo.estimators.costs import costs_of
from shmoo.estimators.fusion.rules import fuse
from shmoo.estimators.graph.records import Graph, OpCall, weights_of
from shmoo.estimators.memory.workspace import workspace_bytes


class MemoryStep(msgspec.Struct, frozen=True):
    """Memory in use while one kernel of some calls runs: live activations, including its operands and results, and buffers that
    its operators allocate for themselves."""

    calls: tuple[int, ...]
    held_bytes: float
    workspace_bytes: float

    @property
    def bytes(self) -> float:
        """Everything that exists during the step."""
        return self.held_bytes + self.workspace_bytes


def peak_memory_bytes(graphs: Graph | Sequence[Graph], runtime: str = "eager", family: str = "cpu") -> float:
    """Weights and inputs, which live throughout, plus the largest sum of live activations and workspace, in bytes. The pieces of
    a model run one after another and share their weights."""
    listed = (graphs,) if isinstance(graphs, Graph) else tuple(graphs)
    pieces = []
    for graph in listed:
        inputs = sum(value.spec.nbytes for value in graph.values if value.kind == "input" and value.storage is None)
        pieces.append(inputs + max((step.bytes for step in memory_steps(graph, runtime, family)), default=0.0))
    return resident_weight_bytes(listed) + max(pieces, default=0.0)


def resident_weight_bytes(graphs: Sequence[Graph]) -> float:
    """Bytes of a model's weights, those that no graph reads among them."""
    return sum(value.spec.nbytes for value in weights_of(graphs)) + sum(graph.unread_weight_bytes for graph in graphs)


def memory_steps(graph: Graph, runtime: str = "eager", family: str = "cpu") -> list[MemoryStep]:
    """Activations and workspace in memory while each kernel of a graph runs, in order of execution.

    A storage is alive from the kernel that creates it to the last that reads it or a view of it; results of the graph stay alive.
    In eager every call is a kernel, and a module's arguments live until the module returns, as its caller's frames refer to them.
    In compiled code, values inside a kernel take no memory, and a loop overwrites an operand of the result's size that has no
    later reader.
    """
    eager = runtime == "eager"
    steps = [(i,) for i in range(len(graph.calls))] if eager else [kernel.calls for kernel in fuse(graph, runtime, family)]
    first, last = _lifetimes(graph, steps, eager)
    created: list[list[int]] = [[] for _ in steps]
    dying: list[list[int]] = [[] for _ in steps]
    for root, step in first.items():
        created[step].append(root)
        if last[root] < len(steps):
            dying[last[root]].append(root)
    size = {root: graph.values[root].spec.nbytes for root in first}
    # A contraction cannot write over its operands.
    costs = enumerate(() if eager else costs_of(graph))
    contractions = {index for index, cost in costs if cost is not None and cost.matrix_flops > 0}
    listed, alive = [], 0.0
    for position, calls in enumerate(steps):
        overwritten = 0.0
        if not eager and contractions.isdisjoint(calls):
            operands = Counter(size[root] for root in dying[position] if first[root] < position)
            overwritten = sum((operands & Counter(size[root] for root in created[position])).elements())
        alive += sum(size[root] for root in created[position]) - overwritten
        own = sum(workspace_bytes(graph.calls[call], family, runtime) for call in calls)
        listed.append(MemoryStep(calls, alive, own))
        alive -= sum(size[root] for root in dying[position]) - overwritten
    return listed


def _lifetimes(graph: Graph, steps: Sequence[tuple[int, ...]], eager: bool) -> tuple[dict[int, int], dict[int, int]]:
    """For each storage of an activation, by the value that owns it: the first and the last step that needs its memory."""
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    for position, calls in enumerate(steps):
        for index in calls:
            call = graph.calls[index]
            for value in (*call.reads, *call.writes):
                root = graph.root(value)
                if graph.values[root].kind == "activation":
                    first.setdefault(root, position)
                    last[root] = position
    returned = {graph.root(value) for value in graph.outputs}
    if eager:
        for root, position in _argument_lifetimes(graph):
            if root in first:
                last[root] = max(last[root], position)
    else:
        for root in [root for root, position in first.items() if last[root] == position and root not in returned]:
            del first[root], last[root]
    for root in returned & first.keys():
        last[root] = len(steps)
    return first, last


def _argument_lifetimes(graph: Graph) -> Iterator[tuple[int, int]]:
    """Storages that are arguments of a module, created before it begins and read in it, and the module's last call."""
    ends = _module_runs(graph.calls)
    maker: dict[int, int] = {}
    for index, call in enumerate(graph.calls):
        for value in call.reads:
            yield from ((graph.root(value), end) for start, end in ends[index] if maker.get(value, -1) < start)
        maker.update(dict.fromkeys(call.writes, index))


def _module_runs(calls: Sequence[OpCall]) -> list[list[list[int]]]:
    """For each call, the first and last call of every enclosing module, the outermost first, and of its statement in the source:
    the first call of the line, and the last in the same module or in one of its direct submodules. A module that is called
    again after another module's call starts a new run."""
    runs: list[list[list[int]]] = []
    open_runs: list[tuple[str, list[int]]] = []
    statement: list[int] = [0, 0]
    line = 0
    for index, call in enumerate(calls):
        path = call.module.split(".") if call.module else []
        deepest = max(len(path), len(open_runs))
        shared = 0
        while shared < min(len(path), len(open_runs)) and open_runs[shared][0] == path[shared]:
            shared += 1
        del open_runs[shared:]
        open_runs += [(name, [index, index]) for name in path[shared:]]
        # Variables refer to the operands of a statement, but not to its intermediate results.
        if not call.source or call.source != calls[line].source:
            line = index
        if line == index or shared < deepest - 1:
            statement = [line, index]
        for run in (*(run for _, run in open_runs), statement):
            run[1] = index
        runs.append([*(run for _, run in open_runs), statement])
    return runs
