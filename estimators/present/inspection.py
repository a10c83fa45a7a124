"""A model by module and by operator: parameters, work, and where time goes on architectures.

What a kernel adds to the time of the call is split over its operators: by their flops where computing bounds it, by their bytes
otherwise, evenly where they have neither. A module holds its own operators and those of the modules in it; the whole model also
holds the entry of its graphs, so that its time is that of the estimate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from shmoo.estimators.costs import costs_of
from shmoo.estimators.errors import InputError, unknown
from shmoo.estimators.graph.records import Cost, Graph, weights_of
from shmoo.estimators.predict.director import AnalysisDirector, Estimate, KernelEstimate
from shmoo.estimators.present.kernel_graph import KernelNode, kernel_graph
from shmoo.estimators.units import html_table, percent, si

BOUNDS = ("compute", "memory", "launch")
ENTRY = "(graph entry)"
"""Name of the row of what enters a model's graphs."""
SORTS = ("order", "name", "params", "flops", "bytes", "intensity", "time")
"""What modules can be sorted by; "order" is that of execution."""


class ArchitectureShare(msgspec.Struct, frozen=True):
    """What a module or operator takes on one architecture.

    Attributes:
        latency_s: by which it makes the call last longer; the call's latency for the whole model.
        energy_j: of its flops and bytes, and static power while it makes the call last longer; `None` where the profile has no
            energy coefficients.
        share: of the whole model's time, 0 to 1. tiles: that its kernels are cut into.
        bound_s: time in kernels bound by "compute", "memory" and "launch".
    """

    latency_s: float
    energy_j: float | None
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
        calls: operator calls with a cost. params: elements of parameters, a shared one where it is first used, one that no
            call reads in the module that holds it.
        flops, macs, bytes: every call alone, without fusion.
        shape: of a module's result, that of its last call; empty for operators and for modules without a call.
        on: architecture -> what it takes there.
    """

    name: str
    depth: int
    calls: int
    params: int
    flops: float
    macs: float
    bytes: float
    shape: tuple[int, ...]
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

    def entry_s(self, arch: str) -> float:
        """Seconds of a call that go to entering the model's graphs, before any kernel is launched."""
        return max(self.modules[0].on[arch].latency_s - sum(node.kernel.elapsed_s for node in self.kernels[arch]), 0.0)

    def hidden_s(self, arch: str) -> float:
        """Seconds of a call during which the host launches kernels while the device works; 0 where nothing is launched ahead."""
        return max(sum(node.kernel.latency_s - node.kernel.elapsed_s for node in self.kernels[arch]), 0.0)

    @property
    def entry(self) -> Row:
        """Entering the graphs, as a row beside the modules that the model consists of: no call, time and energy alone."""
        whole, on = self.modules[0], {}
        for arch, here in whole.on.items():
            spent = [node.kernel.energy_j or 0.0 for node in self.kernels[arch]]
            joules = None if here.energy_j is None else max(here.energy_j - sum(spent), 0.0)
            seconds = self.entry_s(arch)
            share = seconds / here.latency_s if here.latency_s else 0.0
            on[arch] = ArchitectureShare(seconds, joules, share, 0.0, {**dict.fromkeys(BOUNDS, 0.0), "launch": seconds})
        return Row(ENTRY, 1, 0, 0, 0.0, 0.0, 0.0, (), on)

    def tree(self, depth: int | None = None, sort: str = "order") -> tuple[Row, ...]:
        """Modules down to `depth` (all for `None`), siblings sorted, largest first (names alphabetically), the entry of graphs
        among them where it takes time. "time" is that of the first architecture."""
        if sort not in SORTS:
            raise unknown("order", sort, SORTS)
        entry = self.entry
        takes_time = any(part.latency_s > 0 for part in entry.on.values())
        listed = [self.modules[0], *[entry] * takes_time, *self.modules[1:]]
        return _in_tree_order(listed, lambda siblings: self._sorted(siblings, sort), depth)

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
    compute_dtype: str | None = None,
    model: str = "",
) -> Inspection:
    """Sum a captured model up by module and operator.

    Args:
        directors: architecture -> its director; one at least.
        runtime, compute_dtype: as `AnalysisDirector.estimate` takes them, whose errors are raised, too.
    """
    if not directors:
        raise InputError("an inspection needs at least one architecture; name one, such as gpu_h100")
    estimates = {
        name: director.estimate(graphs, runtime=runtime, compute_dtype=compute_dtype) for name, director in directors.items()
    }
    return inspect_estimates(graphs, estimates, model)


def inspect_estimates(graphs: Sequence[Graph], estimates: Mapping[str, Estimate], model: str = "") -> Inspection:
    """As `inspect_graphs`, from estimates of the graphs that have their breakdown, by architecture."""
    spent = {name: _split(estimate, graphs) for name, estimate in estimates.items()}
    modules, operators = _Sums(estimates), _Sums(estimates)
    modules.row("")
    seen: set[str] = set()
    for g, graph in enumerate(graphs):
        for index, (call, cost) in enumerate(zip(graph.calls, costs_of(graph), strict=True)):
            params = 0
            for value in (value for value in call.reads if graph.values[value].kind == "parameter"):
                root = graph.values[graph.root(value)]
                name = root.name or f"{g}:{graph.root(value)}"
                if name not in seen:
                    seen.add(name)
                    params += root.spec.numel
            if cost is not None or params:
                parts = {name: by_call.get((g, index)) for name, by_call in spent.items()}
                for path in paths_to(call.module):
                    modules.add(path, params, cost, parts)
                operators.add(call.op, params, cost, parts)
            if call.outputs:
                modules.result(call.module, call.outputs[0].shape)
    for weight in weights_of(graphs):
        if weight.kind == "parameter" and weight.name and weight.name not in seen:
            for path in paths_to(weight.name.rpartition(".")[0]):
                modules.add(path, weight.spec.numel, None, {})
    modules.enter()
    by_time = sorted(operators.rows(), key=lambda row: -next(iter(row.on.values())).latency_s)
    label = model or next((graph.name for graph in graphs if graph.name), "model")
    kernels = {name: kernel_graph(graphs, estimate.breakdown) for name, estimate in estimates.items()}
    return Inspection(label, tuple(estimates), _in_tree_order(modules.rows(tree=True)), tuple(by_time), kernels)


def paths_to(module: str) -> list[str]:
    """A module's path and those of all that hold it, the whole model first: "", "layer1", "layer1.0"."""
    parts = module.split(".") if module else []
    return ["", *(".".join(parts[: i + 1]) for i in range(len(parts)))]


class _Part(NamedTuple):
    """A call's share of its kernel, and what bounds the kernel."""

    bound: str
    elapsed_s: float
    energy_j: float | None
    tiles: float


def _split(estimate: Estimate, graphs: Sequence[Graph]) -> dict[tuple[int, int], _Part]:
    parts: dict[tuple[int, int], _Part] = {}
    for kernel in estimate.breakdown:
        for index, share in zip(kernel.calls, _shares(kernel, costs_of(graphs[kernel.graph])), strict=True):
            joules = None if kernel.energy_j is None else kernel.energy_j * share
            parts[kernel.graph, index] = _Part(kernel.bound, kernel.elapsed_s * share, joules, kernel.tiles * share)
    return parts


def _shares(kernel: KernelEstimate, costs: Sequence[Cost | None]) -> list[float]:
    held = [costs[index] for index in kernel.calls]
    weights = [0.0 if cost is None else cost.flops if kernel.bound == "compute" else cost.bytes for cost in held]
    total = sum(weights)
    return [weight / total for weight in weights] if total else [1 / len(held)] * len(held)


@dataclass(slots=True)
class _Spent:
    """Running sums on one architecture; `energy_j` is `None` where the profile has no energy coefficients."""

    energy_j: float | None
    bound_s: dict[str, float] = field(default_factory=lambda: dict.fromkeys(BOUNDS, 0.0))
    tiles: float = 0.0

    def add(self, bound: str, elapsed_s: float, energy_j: float | None, tiles: float) -> None:
        self.bound_s[bound] += elapsed_s
        self.tiles += tiles
        if self.energy_j is not None:
            self.energy_j += energy_j or 0.0


@dataclass(slots=True)
class _Sum:
    """Running sums of one module or operator. The shape is that of the last result."""

    on: dict[str, _Spent]
    shape: tuple[int, ...] = ()
    calls: int = 0
    params: int = 0
    flops: float = 0.0
    macs: float = 0.0
    bytes: float = 0.0


class _Sums:
    """Running sums by name, in the order in which names first appear."""

    def __init__(self, estimates: Mapping[str, Estimate]) -> None:
        self.estimates = estimates
        self.sums: dict[str, _Sum] = {}

    def row(self, name: str) -> _Sum:
        if name not in self.sums:
            on = {arch: _Spent(None if estimate.energy_j is None else 0.0) for arch, estimate in self.estimates.items()}
            self.sums[name] = _Sum(on)
        return self.sums[name]

    def enter(self) -> None:
        """Count the entry of the model's graphs: launching that no operator does."""
        for arch, estimate in self.estimates.items():
            seconds = max(estimate.latency_s.value - sum(k.elapsed_s for k in estimate.breakdown), 0.0)
            whole = 0.0 if estimate.energy_j is None else estimate.energy_j.value
            joules = max(whole - sum(k.energy_j or 0.0 for k in estimate.breakdown), 0.0)
            self.row("").on[arch].add("launch", seconds, joules, 0.0)

    def result(self, module: str, shape: tuple[int, ...]) -> None:
        """Note a call's result, which is that of the modules that hold it until their next call."""
        for path in paths_to(module):
            if path in self.sums:
                self.sums[path].shape = shape

    def add(self, name: str, params: int, cost: Cost | None, parts: Mapping[str, _Part | None]) -> None:
        row = self.row(name)
        row.params += params
        if cost is None:
            return
        row.calls += 1
        row.flops += cost.flops
        row.macs += cost.macs
        row.bytes += cost.bytes
        for arch, part in parts.items():
            if part is not None:
                row.on[arch].add(*part)

    def rows(self, tree: bool = False) -> list[Row]:
        rows = []
        for name, row in self.sums.items():
            on = {}
            for arch, spent in row.on.items():
                seconds, whole = sum(spent.bound_s.values()), self.estimates[arch].latency_s.value
                share = seconds / whole if whole else 0.0
                on[arch] = ArchitectureShare(seconds, spent.energy_j, share, spent.tiles, spent.bound_s)
            depth = name.count(".") + 1 if tree and name else 0
            rows.append(Row(name, depth, row.calls, row.params, row.flops, row.macs, row.bytes, row.shape, on))
        return rows


def _in_tree_order(rows: list[Row], order: Callable[[list[Row]], list[Row]] = list, depth: int | None = None) -> tuple[Row, ...]:
    """Each module before what it holds, down to `depth` (all for `None`); siblings as they first appear, put in `order`."""
    children: dict[str, list[Row]] = {}
    for row in rows[1:]:
        children.setdefault(parent_of(row.name), []).append(row)
    ordered, stack = [], [rows[0]]
    while stack:
        row = stack.pop()
        if depth is None or row.depth <= depth:
            ordered.append(row)
            stack.extend(reversed(order(children.get(row.name, []))))
    return tuple(ordered)
