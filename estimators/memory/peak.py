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
    pieces_of_model = (graphs,) if isinstance(graphs, Graph) else tuple(graphs)
    pieces = []
    for graph in pieces_of_model:
        inputs = sum(value.spec.nbytes for value in graph.values if value.kind == "input" and value.storage is None)
        pieces.append(inputs + max((step.bytes for step in memory_steps(graph, runtime, family)), default=0.0))
    return resident_weight_bytes(pieces_of_model) + max(pieces, default=0.0)


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
    is_eager = runtime == "eager"
    steps = [(i,) for i in range(len(graph.calls))] if is_eager else [kernel.calls for kernel in fuse(graph, runtime, family)]
    first_step, last_step = _lifetimes(graph, steps, is_eager)
    created_roots: list[list[int]] = [[] for _ in steps]
    freed_roots: list[list[int]] = [[] for _ in steps]
    for root, step in first_step.items():
        created_roots[step].append(root)
        if last_step[root] < len(steps):
            freed_roots[last_step[root]].append(root)
    size = {root: graph.values[root].spec.nbytes for root in first_step}
    # A contraction cannot write over its operands.
    costs = enumerate(() if is_eager else costs_of(graph))
    contractions = {index for index, cost in costs if cost is not None and cost.matrix_flops > 0}
    memory, live_bytes = [], 0.0
    for position, calls in enumerate(steps):
        overwritten_bytes = 0.0
        if not is_eager and contractions.isdisjoint(calls):
            operands = Counter(size[root] for root in freed_roots[position] if first_step[root] < position)
            overwritten_bytes = sum((operands & Counter(size[root] for root in created_roots[position])).elements())
        live_bytes += sum(size[root] for root in created_roots[position]) - overwritten_bytes
        workspace = sum(workspace_bytes(graph.calls[call], family, runtime) for call in calls)
        memory.append(MemoryStep(calls, live_bytes, workspace))
        live_bytes -= sum(size[root] for root in freed_roots[position]) - overwritten_bytes
    return memory


def _lifetimes(graph: Graph, steps: Sequence[tuple[int, ...]], is_eager: bool) -> tuple[dict[int, int], dict[int, int]]:
    """For each storage of an activation, by the value that owns it: the first and the last step that needs its memory."""
    first_step: dict[int, int] = {}
    last_step: dict[int, int] = {}
    for position, calls in enumerate(steps):
        for index in calls:
            call = graph.calls[index]
            for value in (*call.reads, *call.writes):
                root = graph.root(value)
                if graph.values[root].kind == "activation":
                    first_step.setdefault(root, position)
                    last_step[root] = position
    results = {graph.root(value) for value in graph.outputs}
    if is_eager:
        for root, position in _argument_lifetimes(graph):
            if root in first_step:
                last_step[root] = max(last_step[root], position)
    else:
        for root in [root for root, position in first_step.items() if last_step[root] == position and root not in results]:
            del first_step[root], last_step[root]
    for root in results & first_step.keys():
        last_step[root] = len(steps)
    return first_step, last_step


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
        depth = 0
        while depth < min(len(path), len(open_runs)) and open_runs[depth][0] == path[depth]:
            depth += 1
        del open_runs[depth:]
        open_runs += [(name, [index, index]) for name in path[depth:]]
        # Variables refer to the operands of a statement, but not to its intermediate results.
        if not call.source or call.source != calls[line].source:
            line = index
        if line == index or depth < deepest - 1:
            statement = [line, index]
        for run in (*(run for _, run in open_runs), statement):
            run[1] = index
        runs.append([*(run for _, run in open_runs), statement])
    return runs
