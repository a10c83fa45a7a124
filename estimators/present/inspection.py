"""A model by module, by operator and by kernel: parameters, work, and time on architectures. The time that a kernel adds to the
call is split over its operators: by their flops where computing bounds it, by their bytes otherwise, evenly where they have
neither. A module includes the operators of the modules in it; the whole model also includes the entry of its graphs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, takewhile
from typing import Any, NamedTuple

import msgspec

from shmoo.estimators.costs import costs_of
from shmoo.estimators.errors import InputError, unknown
from shmoo.estimators.graph.records import Cost, Graph, weights_of
from shmoo.estimators.predict.director import AnalysisDirector, Estimate, KernelEstimate
from shmoo.estimators.units import html_table, percent, si

BOUNDS = ("compute", "memory", "launch")
ENTRY = "(graph entry)"
"""Name of the row for entering a model's graphs."""
SORTS = ("order", "name", "params", "flops", "bytes", "intensity", "time")
"""Orders of modules; "order" is that of execution."""
INPUT = -1
"""The caller, among the producers of a call's operands."""


class KernelNode(msgspec.Struct, frozen=True):
    """One kernel among those of a whole model, in the innermost module that contains all of its calls ("" for the model itself).
    `sources` are indices, in the estimate's breakdown, of the kernels whose results it reads; all of them precede it."""

    kernel: KernelEstimate
    module: str
    sources: tuple[int, ...]


class ArchitectureShare(msgspec.Struct, frozen=True):
    """Time and energy of a module or operator on one architecture.

    Attributes:
        latency_s: time that it adds to the call; the call's latency for the whole model.
        energy_j: energy of its flops and bytes, and static power during `latency_s`; `None` where the profile has no energy
            coefficients.
        share: share of the whole model's time, 0 to 1. tiles: tiles of its kernels.
        bound_s: time in kernels bound by "compute", "memory" and "launch".
    """

    latency_s: float
    energy_j: float | None
    share: float
    tiles: float
    bound_s: dict[str, float]

    @property
    def bound(self) -> str:
        """The bound with most of the time."""
        return max(self.bound_s, key=lambda name: self.bound_s[name])


class Row(msgspec.Struct, frozen=True):
    """One module (its path, "" for the whole model) or one operator (its name).

    Attributes:
        calls: operator calls with a cost. params: elements of parameters; a shared one counts where it is first used, one that
            no call reads in the module that holds it.
        flops, macs, bytes: work of every call alone, without fusion.
        shape: shape of a module's result; empty for operators and for modules without a call.
        on: architecture -> its share there.
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
    architecture its kernels as a graph. `entry` is a row for entering the graphs, before any kernel is launched: no call, time
    and energy alone."""

    model: str
    architectures: tuple[str, ...]
    modules: tuple[Row, ...]
    operators: tuple[Row, ...]
    entry: Row
    kernels: dict[str, tuple[KernelNode, ...]]

    def entry_s(self, arch: str) -> float:
        """Seconds of a call that go to entering the model's graphs."""
        return self.entry.on[arch].latency_s

    def hidden_s(self, arch: str) -> float:
        """Seconds of launches that overlap with the device's work; 0 where the host does not run ahead."""
        return max(sum(node.kernel.latency_s - node.kernel.elapsed_s for node in self.kernels[arch]), 0.0)

    def tree(self, depth: int | None = None, sort: str = "order") -> tuple[Row, ...]:
        """Modules down to `depth` (all for `None`), siblings sorted, largest first (names alphabetically), with the entry of
        graphs where it takes time. "time" is that of the first architecture; `InputError` for an unknown order."""
        if sort not in SORTS:
            raise unknown("order", sort, SORTS)
        takes_time = any(share.latency_s > 0 for share in self.entry.on.values())
        rows = [self.modules[0], *[self.entry] * takes_time, *self.modules[1:]]
        if sort == "order":
            return _in_tree_order(rows, depth=depth)

        def rank(row: Row) -> Any:
            if sort == "name":
                return row.name
            return -row.on[self.architectures[0]].latency_s if sort == "time" else -(getattr(row, sort) or 0.0)

        return _in_tree_order(rows, lambda siblings: sorted(siblings, key=rank), depth)

    def _repr_html_(self) -> str:
        """The first two levels of modules as a table, for notebooks."""
        headers = ["module", "calls", "params", "flops", "bytes", "flop/B", *(f"% {name}" for name in self.architectures)]
        rows = []
        for row in self.tree(2):
            label = "\u2003" * row.depth + (row.name.rpartition(".")[2] or self.model)
            work = [str(row.calls), si(row.params, ""), si(row.flops, "flop"), si(row.bytes, "B")]
            work.append("" if row.intensity is None else si(row.intensity, ""))
            rows.append([label, *work, *(f"{percent(share.share)} {share.bound}" for share in row.on.values())])
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
        runtime, compute_dtype: as of `AnalysisDirector.estimate`.

    Raises:
        InputError: no architecture, or as of `AnalysisDirector.estimate`.
    """
    if not directors:
        raise InputError("an inspection needs at least one architecture; name one, such as gpu_h100")
    estimates = {
        name: director.estimate(graphs, runtime=runtime, compute_dtype=compute_dtype) for name, director in directors.items()
    }
    return inspect_estimates(graphs, estimates, model)


def inspect_estimates(graphs: Sequence[Graph], estimates: Mapping[str, Estimate], model: str = "") -> Inspection:
    """As `inspect_graphs`, from estimates of the graphs that have their breakdown, by architecture."""
    parts_by_arch = {name: split_kernels(estimate, graphs) for name, estimate in estimates.items()}
    modules: defaultdict[str, _Members] = defaultdict(_Members)
    operators: defaultdict[str, _Members] = defaultdict(_Members)
    model_members, entry, counted_names = modules[""], _Members(), set[str]()
    for g, graph in enumerate(graphs):
        for index, (call, cost) in enumerate(zip(graph.calls, costs_of(graph), strict=True)):
            params = 0
            for value in (value for value in call.reads if graph.values[value].kind == "parameter"):
                root = graph.values[graph.root(value)]
                name = root.name or f"{g}:{graph.root(value)}"
                if name not in counted_names:
                    counted_names.add(name)
                    params += root.spec.numel
            if cost is not None or params:
                parts_of_call = {name: by_call[g, index] for name, by_call in parts_by_arch.items() if (g, index) in by_call}
                for members in (*(modules[path] for path in paths_to(call.module)), operators[call.op]):
                    members.add(params, cost, parts_of_call)
            for path in paths_to(call.module):
                if call.outputs and path in modules:
                    modules[path].shape = call.outputs[0].shape
    for weight in weights_of(graphs):
        if weight.kind == "parameter" and weight.name and weight.name not in counted_names:
            for path in paths_to(weight.name.rpartition(".")[0]):
                modules[path].params += weight.spec.numel
    for arch, estimate in estimates.items():
        seconds = max(estimate.latency_s.value - sum(k.elapsed_s for k in estimate.breakdown), 0.0)
        joules = 0.0 if estimate.energy_j is None else estimate.energy_j.value
        entry_part = Part("launch", seconds, max(joules - sum(k.energy_j or 0.0 for k in estimate.breakdown), 0.0), 0.0)
        model_members.parts[arch].append(entry_part)
        entry.parts[arch].append(entry_part)
    rows = [members.row(name, name.count(".") + 1 if name else 0, estimates) for name, members in modules.items()]
    by_time = [members.row(name, 0, estimates) for name, members in operators.items()]
    return Inspection(
        model or next((graph.name for graph in graphs if graph.name), "model"),
        tuple(estimates),
        _in_tree_order(rows),
        tuple(sorted(by_time, key=lambda row: -next(iter(row.on.values())).latency_s)),
        entry.row(ENTRY, 1, estimates),
        {name: kernel_graph(graphs, estimate.breakdown) for name, estimate in estimates.items()},
    )


def paths_to(module: str) -> list[str]:
    """A module's path and those of all that hold it, the whole model first: "", "layer1", "layer1.0"."""
    return ["", *accumulate(module.split("."), "{}.{}".format)] if module else [""]


class Part(NamedTuple):
    """A call's share of its kernel, and the kernel's bottleneck. `flops` and `bytes` are shares of the kernel's, after fusion."""

    bound: str
    elapsed_s: float
    energy_j: float | None
    tiles: float
    flops: float = 0.0
    bytes: float = 0.0


def split_kernels(estimate: Estimate, graphs: Sequence[Graph]) -> dict[tuple[int, int], Part]:
    """The kernels of a breakdown split over their calls: (graph, call) -> its part. Flops are split by the flops of each call
    alone, bytes by its bytes, all else by the one that bounds the kernel; evenly where the calls have none."""
    part_of_call: dict[tuple[int, int], Part] = {}
    for kernel in estimate.breakdown:
        costs = costs_of(graphs[kernel.graph])
        shares: dict[str, list[float]] = {}
        for quantity in ("flops", "bytes"):
            weights = [0.0 if (cost := costs[index]) is None else float(getattr(cost, quantity)) for index in kernel.calls]
            total = sum(weights)
            shares[quantity] = [weight / total if total else 1 / len(weights) for weight in weights]
        by_bound = shares["flops" if kernel.bound == "compute" else "bytes"]
        for index, share, flops, nbytes in zip(kernel.calls, by_bound, shares["flops"], shares["bytes"], strict=True):
            joules = None if kernel.energy_j is None else kernel.energy_j * share
            part_of_call[kernel.graph, index] = Part(
                kernel.bound, kernel.elapsed_s * share, joules, kernel.tiles * share, kernel.flops * flops, kernel.bytes * nbytes
            )
    return part_of_call


@dataclass(slots=True)
class _Members:
    """The contents of a module or an operator: costs of its calls, and by architecture their parts of kernels and entries of
    graphs. `shape` is the shape of the last result."""

    params: int = 0
    shape: tuple[int, ...] = ()
    costs: list[Cost] = field(default_factory=list)
    parts: defaultdict[str, list[Part]] = field(default_factory=lambda: defaultdict(list))

    def add(self, params: int, cost: Cost | None, parts: Mapping[str, Part]) -> None:
        self.params += params
        if cost is not None:
            self.costs.append(cost)
            for arch, part in parts.items():
                self.parts[arch].append(part)

    def row(self, name: str, depth: int, estimates: Mapping[str, Estimate]) -> Row:
        flops, macs, nbytes = (sum((getattr(c, quantity) for c in self.costs), 0.0) for quantity in ("flops", "macs", "bytes"))
        on = {arch: _architecture_share(self.parts[arch], estimate) for arch, estimate in estimates.items()}
        return Row(name, depth, len(self.costs), self.params, flops, macs, nbytes, self.shape, on)


def _architecture_share(call_parts: Sequence[Part], estimate: Estimate) -> ArchitectureShare:
    bound_s = {bound: sum((call_part.elapsed_s for call_part in call_parts if call_part.bound == bound), 0.0) for bound in BOUNDS}
    seconds, total_s = sum(bound_s.values()), estimate.latency_s.value
    joules = None if estimate.energy_j is None else sum((call_part.energy_j or 0.0 for call_part in call_parts), 0.0)
    return ArchitectureShare(
        seconds, joules, seconds / total_s if total_s else 0.0, sum((call_part.tiles for call_part in call_parts), 0.0), bound_s
    )


def _in_tree_order(rows: list[Row], order: Callable[[list[Row]], list[Row]] = list, depth: int | None = None) -> tuple[Row, ...]:
    """Modules in tree order, parents first, down to `depth` (all for `None`); `order` sorts siblings, given as they appear."""
    children: dict[str, list[Row]] = {}
    for row in rows[1:]:
        children.setdefault(parent_of(row.name), []).append(row)
    tree_rows, stack = [], [rows[0]]
    while stack:
        row = stack.pop()
        if depth is None or row.depth <= depth:
            tree_rows.append(row)
            stack.extend(reversed(order(children.get(row.name, []))))
    return tuple(tree_rows)


def kernel_graph(graphs: Sequence[Graph], breakdown: Sequence[KernelEstimate]) -> tuple[KernelNode, ...]:
    """The kernels of an estimate of `graphs`, in order of execution. Pieces of a split model follow each other: the first kernels
    of a piece read the last of the previous piece."""
    kernel_of_call = {(kernel.graph, call): position for position, kernel in enumerate(breakdown) for call in kernel.calls}
    sources: list[set[int]] = [set() for _ in breakdown]
    previous_last: tuple[int, ...] = ()
    for g, graph in enumerate(graphs):
        producers = _producers(graph)
        last_kernel = previous_last
        for index in range(len(graph.calls)):
            position = kernel_of_call.get((g, index))
            if position is None:
                continue
            last_kernel = (position,)
            visited: set[int] = set()
            stack = list(producers[index])
            while stack:
                producer = stack.pop()
                if producer == INPUT:
                    sources[position].update(previous_last)
                elif producer not in visited:
                    visited.add(producer)
                    place = kernel_of_call.get((g, producer))
                    if place is not None and place < position:
                        sources[position].add(place)
                    elif place != position:
                        # A view, or a call that the compiler computes in several kernels and that is listed in a later one only.
                        stack.extend(producers[producer])
        previous_last = last_kernel
    return tuple(
        KernelNode(kernel, _common_path([graphs[kernel.graph].calls[call].module for call in kernel.calls]), tuple(sorted(reads)))
        for kernel, reads in zip(breakdown, sources, strict=True)
    )


def _producers(graph: Graph) -> list[frozenset[int]]:
    """The calls whose results each call reads, `INPUT` for inputs of the graph."""
    makers = {index: INPUT for index, value in enumerate(graph.values) if value.kind == "input"}
    # Every later reader sees a write into memory, through any view.
    writers: dict[int, int] = {}
    producers = []
    for index, call in enumerate(graph.calls):
        makers_of_reads = {makers[value] for value in call.reads if value in makers}
        writers_of_reads = {writers[root] for root in map(graph.root, call.reads) if root in writers}
        producers.append(frozenset(makers_of_reads | writers_of_reads))
        makers.update(dict.fromkeys(call.writes, index))
        if call.inplace:
            writers.update(dict.fromkeys(map(graph.root, call.writes), index))
    return producers


def _common_path(paths: Sequence[str]) -> str:
    """The longest common module path: "layer1.0" of "layer1.0.conv1" and "layer1.0.bn1"; empty paths are ignored."""
    levels = zip(*(path.split(".") for path in paths if path), strict=False)
    return ".".join(components[0] for components in takewhile(lambda components: len(set(components)) == 1, levels))
