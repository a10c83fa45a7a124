"""A model by module and by operator: parameters, work, and where time goes on architectures.

What a kernel takes is split over its calls: by their flops where computing bounds it, by their bytes otherwise, evenly where they
have neither. A module holds its own calls and those of the modules in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from shmoo.estimators.costs import costs_of
from shmoo.estimators.director import AnalysisDirector, Estimate, KernelEstimate
from shmoo.estimators.errors import InputError, unknown
from shmoo.estimators.kernel_graph import KernelNode, kernel_graph
from shmoo.estimators.notebook import html_table
from shmoo.estimators.present import percent, si
from shmoo.estimators.records import Cost, Graph

BOUNDS = ("compute", "memory", "launch")
SORTS = ("order", "name", "params", "flops", "bytes", "intensity", "time")
"""What modules can be sorted by; "order" is that of execution."""


class ArchitectureShare(msgspec.Struct, frozen=True):
    """What a module or operator takes on one architecture.

    Attributes:
        share: of the whole model's time, 0 to 1. tiles: that its kernels are cut into.
        bound_s: time in kernels bound by "compute", "memory" and "launch".
    """

    latency_s: float
    share: float
    tiles: float
    bound_s: dict[str, float]

    @property
    def bound(self) -> str:
        """What most of the time goes to."""
        return max(self.bound_s, key=lambda name: self.bound_s[name])


class Row(msgspec.Struct, frozen=True):
    """One module (its path, "" for the whole model) or one operator (its name).

    Attributes:
        calls: operator calls with a cost. params: elements of parameters, a shared one where it is first used.
        flops, macs, bytes: every call alone, without fusion.
        on: architecture -> what it takes there.
    """

    name: str
    depth: int
    calls: int
    params: int
    flops: float
    macs: float
    bytes: float
    on: dict[str, ArchitectureShare]

    @property
    def intensity(self) -> float | None:
        """Flops per byte; `None` where no byte moves."""
        return self.flops / self.bytes if self.bytes else None


class Inspection(msgspec.Struct, frozen=True):
    """A model's modules as a tree in order of execution (each before what it holds), its operators, most time first, and on each
    architecture its kernels as a graph."""

    model: str
    architectures: tuple[str, ...]
    modules: tuple[Row, ...]
    operators: tuple[Row, ...]
    kernels: dict[str, tuple[KernelNode, ...]]

    def tree(self, depth: int | None = None, sort: str = "order") -> tuple[Row, ...]:
        """Modules down to `depth` (all for `None`), siblings sorted, largest first (names alphabetically). "time" is that of the
        first architecture.

        Raises:
            InputError: no such order.
        """
        if sort not in SORTS:
            raise unknown("order", sort, SORTS)
        children: dict[str, list[Row]] = {}
        for row in self.modules[1:]:
            children.setdefault(parent_of(row.name), []).append(row)
        listed: list[Row] = []
        stack = [self.modules[0]]
        while stack:
            row = stack.pop()
            if depth is not None and row.depth > depth:
                continue
            listed.append(row)
            stack.extend(reversed(self._sorted(children.get(row.name, []), sort)))
        return tuple(listed)

    def _sorted(self, rows: list[Row], sort: str) -> list[Row]:
        if sort == "order":
            return rows
        if sort == "name":
            return sorted(rows, key=lambda row: row.name)
        if sort == "time":
            return sorted(rows, key=lambda row: -row.on[self.architectures[0]].latency_s)
        return sorted(rows, key=lambda row: -(getattr(row, sort) or 0.0))

    def _repr_html_(self) -> str:
        """The first two levels of modules as a table, for notebooks."""
        headers = ["module", "calls", "params", "flops", "bytes", "flop/B", *(f"% {name}" for name in self.architectures)]
        rows = [
            [
                "\u2003" * row.depth + (row.name.rpartition(".")[2] or self.model),
                str(row.calls),
                si(row.params, ""),
                si(row.flops, "flop"),
                si(row.bytes, "B"),
                "" if row.intensity is None else si(row.intensity, ""),
                *(f"{percent(row.on[name].share)} {row.on[name].bound}" for name in self.architectures),
            ]
            for row in self.tree(2)
        ]
        return html_table(headers, rows)


def parent_of(path: str) -> str:
    """The module that holds a module: "layer1.0" for "layer1.0.conv1", "" for "conv1"."""
    return path.rpartition(".")[0]


def inspect_graphs(
    graphs: Sequence[Graph],
    directors: Mapping[str, AnalysisDirector],
    *,
    runtime: str | None = None,
    model: str = "",
) -> Inspection:
    """Sum a captured model up by module and operator.

    Args:
        graphs: the pieces a capture gave.
        directors: architecture -> its director; one at least.
        runtime: one of `profile.RUNTIMES`; each architecture's default for `None`.

    Raises:
        InputError: no architecture is given, or the runtime does not exist on one.
    """
    costs = [costs_of(graph) for graph in graphs]
    if not directors:
        raise InputError("an inspection needs at least one architecture; name one, such as gpu_h100")
    estimates = {name: director.estimate(graphs, runtime=runtime) for name, director in directors.items()}
    spent = {name: _split(estimate, costs) for name, estimate in estimates.items()}
    modules, operators = _Sums(directors), _Sums(directors)
    modules.row("")
    seen: set[str] = set()
    for g, graph in enumerate(graphs):
        for index, call in enumerate(graph.calls):
            cost = costs[g][index]
            fresh = [value for value in call.reads if graph.values[value].kind == "parameter"]
            params = 0
            for value in fresh:
                root = graph.values[graph.root(value)]
                name = root.name or f"{g}:{graph.root(value)}"
                if name not in seen:
                    seen.add(name)
                    params += root.spec.numel
            if cost is None and not params:
                continue
            parts = {name: by_call.get((g, index)) for name, by_call in spent.items()}
            for path in paths_to(call.module):
                modules.add(path, params, cost, parts)
            operators.add(call.op, params, cost, parts)
    totals = {name: sum(part[0] for part in by_call.values()) for name, by_call in spent.items()}
    by_time = sorted(operators.rows(totals), key=lambda row: -next(iter(row.on.values())).latency_s)
    label = model or next((graph.name for graph in graphs if graph.name), "model")
    kernels = {name: kernel_graph(graphs, estimate.breakdown) for name, estimate in estimates.items()}
    return Inspection(label, tuple(directors), _in_tree_order(modules.rows(totals, tree=True)), tuple(by_time), kernels)


def paths_to(module: str) -> list[str]:
    """A module's path and those of all that hold it, the whole model first: "", "layer1", "layer1.0"."""
    parts = module.split(".") if module else []
    return ["", *(".".join(parts[: i + 1]) for i in range(len(parts)))]


Part = tuple[float, float, str]
"""A call's share of its kernel: seconds, tiles, and the kernel's bound."""


def _split(estimate: Estimate, costs: Sequence[Sequence[Cost | None]]) -> dict[tuple[int, int], Part]:
    parts: dict[tuple[int, int], Part] = {}
    for kernel in estimate.breakdown:
        for index, share in zip(kernel.calls, _shares(kernel, costs[kernel.graph]), strict=True):
            parts[kernel.graph, index] = (kernel.latency_s * share, kernel.tiles * share, kernel.bound)
    return parts


def _shares(kernel: KernelEstimate, costs: Sequence[Cost | None]) -> list[float]:
    held = [costs[index] for index in kernel.calls]
    weights = [0.0 if cost is None else cost.flops if kernel.bound == "compute" else cost.bytes for cost in held]
    total = sum(weights)
    return [weight / total for weight in weights] if total else [1 / len(held)] * len(held)


class _Sums:
    """Running sums by name, in the order in which names first appear."""

    def __init__(self, architectures: Iterable[str]) -> None:
        self.architectures = tuple(architectures)
        self.work: dict[str, list[float]] = {}
        self.time: dict[str, dict[str, dict[str, float]]] = {}
        self.tiles: dict[str, dict[str, float]] = {}

    def row(self, name: str) -> list[float]:
        if name not in self.work:
            self.work[name] = [0, 0, 0.0, 0.0, 0.0]
            self.time[name] = {arch: dict.fromkeys(BOUNDS, 0.0) for arch in self.architectures}
            self.tiles[name] = dict.fromkeys(self.architectures, 0.0)
        return self.work[name]

    def add(self, name: str, params: int, cost: Cost | None, parts: Mapping[str, Part | None]) -> None:
        work = self.row(name)
        work[1] += params
        if cost is None:
            return
        for i, amount in enumerate((1, 0, cost.flops, cost.macs, cost.bytes)):
            work[i] += amount
        for arch, part in parts.items():
            if part is not None:
                self.time[name][arch][part[2]] += part[0]
                self.tiles[name][arch] += part[1]

    def rows(self, totals: Mapping[str, float], tree: bool = False) -> list[Row]:
        made = []
        for name, (calls, params, flops, macs, nbytes) in self.work.items():
            on = {}
            for arch, bounds in self.time[name].items():
                seconds = sum(bounds.values())
                share = seconds / totals[arch] if totals[arch] else 0.0
                on[arch] = ArchitectureShare(seconds, share, self.tiles[name][arch], bounds)
            depth = name.count(".") + 1 if tree and name else 0
            made.append(Row(name, depth, int(calls), int(params), flops, macs, nbytes, on))
        return made


def _in_tree_order(rows: list[Row]) -> tuple[Row, ...]:
    """Each module before what it holds, siblings as they first appear."""
    children: dict[str, list[Row]] = {}
    for row in rows[1:]:
        children.setdefault(parent_of(row.name), []).append(row)
    ordered, stack = [], [rows[0]]
    while stack:
        row = stack.pop()
        ordered.append(row)
        stack.extend(reversed(children.get(row.name, [])))
    return tuple(ordered)
