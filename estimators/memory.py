"""Peak memory of a model: its weights and inputs, and the most that tensors and workspaces take at any moment."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from shmoo.estimators.costs import costs_of
from shmoo.estimators.fusion import fuse
from shmoo.estimators.kernels import Kernel
from shmoo.estimators.records import Cost, Graph, OpCall
from shmoo.estimators.workspace import workspace_bytes


class MemoryStep(msgspec.Struct, frozen=True):
    """What is in memory while one kernel runs.

    Attributes:
        calls: that the kernel executes. held_bytes: activations alive, its operands and results among them.
        workspace_bytes: what the operators take for themselves meanwhile.
    """

    calls: tuple[int, ...]
    held_bytes: float
    workspace_bytes: float

    @property
    def bytes(self) -> float:
        return self.held_bytes + self.workspace_bytes


def peak_memory_bytes(
    graphs: Graph | Sequence[Graph],
    runtime: str = "eager",
    family: str = "cpu",
    threads: int | None = None,
    kernels: Sequence[Sequence[Kernel]] | None = None,
    costs: Sequence[Sequence[Cost | None]] | None = None,
) -> float:
    """Weights and inputs, which live throughout, plus the largest sum of activations and workspace alive at once, in bytes.

    Args:
        graphs: the pieces of a model, which run one after another and share their weights.
        runtime, family: who runs them: see `memory_steps`.
        threads: at work on a CPU; several for `None`.
        kernels, costs: of each graph, and of its calls, where they are known already.
    """
    listed = (graphs,) if isinstance(graphs, Graph) else tuple(graphs)
    weights, seen = 0.0, set()
    for graph in listed:
        weights += graph.unread_weight_bytes
        held = [value for value in graph.values if value.is_weight and value.storage is None]
        weights += sum(value.spec.nbytes for value in held if (value.kind, value.name) not in seen)
        seen.update((value.kind, value.name) for value in held if value.name)
    nothing = [None] * len(listed)
    pieces = zip(listed, kernels or nothing, costs or nothing, strict=True)
    taken = [_piece_bytes(graph, memory_steps(graph, runtime, family, threads, *known)) for graph, *known in pieces]
    return weights + max(taken, default=0.0)


def _piece_bytes(graph: Graph, steps: Sequence[MemoryStep]) -> float:
    inputs = sum(value.spec.nbytes for value in graph.values if value.kind == "input" and value.storage is None)
    return inputs + max((step.bytes for step in steps), default=0.0)


def memory_steps(
    graph: Graph,
    runtime: str = "eager",
    family: str = "cpu",
    threads: int | None = None,
    kernels: Sequence[Kernel] | None = None,
    costs: Sequence[Cost | None] | None = None,
) -> tuple[MemoryStep, ...]:
    """Activations and workspace in memory while each kernel of a graph runs, in order of execution.

    A storage is alive from the kernel that makes it to the last that reads it or a view of it; what the graph returns lives on.
    In eager every call is a kernel, and what a module was called with lives until that module returns, as the frames of its
    caller hold it. Compiled, what passes inside a kernel takes no memory, and a loop writes over an operand of the result's size
    that nobody needs any more.
    """
    eager = runtime == "eager"
    if eager:
        steps = [(index,) for index in range(len(graph.calls))]
    else:
        steps = [kernel.calls for kernel in (fuse(graph, runtime, family) if kernels is None else kernels)]
    first, last = _lifetimes(graph, steps, eager)
    made: list[list[int]] = [[] for _ in steps]
    dying: list[list[int]] = [[] for _ in steps]
    for root, step in first.items():
        made[step].append(root)
        if last[root] < len(steps):
            dying[last[root]].append(root)
    size = {root: graph.values[root].spec.nbytes for root in first}
    contractions = frozenset() if eager else _contractions(costs_of(graph) if costs is None else costs)
    listed, alive = [], 0.0
    for position, calls in enumerate(steps):
        fresh = [size[root] for root in made[position]]
        freed = [size[root] for root in dying[position]]
        if not eager and contractions.isdisjoint(calls):
            for nbytes in [size[root] for root in dying[position] if first[root] < position]:
                if nbytes in fresh:
                    fresh.remove(nbytes)
                    freed.remove(nbytes)
        alive += sum(fresh)
        own = sum(workspace_bytes(graph.calls[call], family, threads, runtime) for call in calls)
        listed.append(MemoryStep(tuple(calls), alive, own))
        alive -= sum(freed)
    return tuple(listed)


def _lifetimes(graph: Graph, steps: Sequence[tuple[int, ...]], held_by_frames: bool) -> tuple[dict[int, int], dict[int, int]]:
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
    if held_by_frames:
        for root, position in _held(graph):
            if root in first:
                last[root] = max(last[root], position)
    else:
        inside = [root for root, position in first.items() if last[root] == position and root not in returned]
        for root in inside:
            del first[root], last[root]
    for root in returned & first.keys():
        last[root] = len(steps)
    return first, last


def _held(graph: Graph) -> Iterator[tuple[int, int]]:
    """Storages that are arguments of a module, and the module's last call: every value that is made before the module begins and
    read in it."""
    ends = _module_runs(graph.calls)
    maker: dict[int, int] = {}
    for index, call in enumerate(graph.calls):
        for value in call.reads:
            yield from ((graph.root(value), end) for start, end in ends[index] if maker.get(value, -1) < start)
        maker.update(dict.fromkeys(call.writes, index))


def _module_runs(calls: Sequence[OpCall]) -> list[list[tuple[int, int]]]:
    """For each call the first and last call of every module it is in, the outermost first, and of its statement in the source:
    the first call of the line, and the last that is in the same module or a module side by side in it. A module that is called
    again after another's call runs anew."""
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
        # Operands of a statement are in variables; what a part of it makes for another part is not.
        if not call.source or call.source != calls[line].source:
            line = index
        if line == index or shared < deepest - 1:
            statement = [line, index]
        for run in (*(run for _, run in open_runs), statement):
            run[1] = index
        runs.append([*(run for _, run in open_runs), statement])
    return [[(start, end) for start, end in held] for held in runs]


def _contractions(costs: Sequence[Cost | None]) -> frozenset[int]:
    """Calls that cannot write over their operands: those with a contraction."""
    return frozenset(index for index, cost in enumerate(costs) if cost is not None and cost.matrix_flops > 0)
