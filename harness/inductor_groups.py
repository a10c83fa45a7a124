"""Which calls Inductor really puts into one kernel: its scheduler's nodes after fusion, traced back to a captured graph.

Compilation stops there, before any C++ or Triton is generated, so a network takes seconds. Each captured call leaves its index on
its FX node; tracing and decomposition carry the mark to the nodes that Inductor lowers, and every scheduler node names those that
it came from. Four rules turn that into groups:

- A buffer computes its own FX node and what is inlined into it, back to nodes that have a buffer of their own.
- A call with a library kernel among its parts is in that kernel only; loops that rearrange its operands are layout copies.
- A kernel that is left without calls is a layout copy; it counts in no group and not as a kernel of the model.
- A call whose mark a pattern dropped is in the library kernel that took it in: that of the contraction whose result alone
  it works on, of the pointwise call that reads it, or of its producer. Without one it was folded into a constant, or vanished.

An operator that is inlined into several kernels is in each of them; views that an operator consists of are in none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import msgspec
import torch
from torch import fx
from torch._guards import TracingContext

from shmoo.estimators.costs import FREE, costs_of
from shmoo.estimators.errors import InputError
from shmoo.estimators.records import CONTRACTIONS, Graph
from shmoo.harness.capture.introspect import operator_name
from shmoo.harness.capture.origins import Origins, source_of
from shmoo.harness.capture.trace import attribute_tensors, trace_aten
from shmoo.harness.capture.walker import CALL_INDEX, FXGraphWalker
from shmoo.harness.workloads.module import DNNModule
from shmoo.runs.records import AxisValue

KernelKind = Literal["loops", "library", "copy"]


class InductorKernel(msgspec.Struct, frozen=True):
    """One scheduler node: indices of the costed calls that it computes (part of), in order, and what it is."""

    calls: tuple[int, ...]
    kind: KernelKind


class InductorGroups(msgspec.Struct, frozen=True):
    """A captured graph with the kernels Inductor makes of it, layout copies among them, in execution order."""

    graph: Graph
    kernels: tuple[InductorKernel, ...]

    @property
    def groups(self) -> tuple[tuple[int, ...], ...]:
        """The calls of each kernel that computes any."""
        return tuple(kernel.calls for kernel in self.kernels if kernel.kind != "copy")

    @property
    def copies(self) -> int:
        """Layout copies."""
        return sum(kernel.kind == "copy" for kernel in self.kernels)


def workload_groups(
    module: DNNModule, axes: Mapping[str, AxisValue] | None = None, *, freezing: bool = False, device: str = "cpu"
) -> list[InductorGroups]:
    """`inductor_groups` of a workload, built with real weights on `device`."""
    built = module.build(axes, "float32", device)
    return inductor_groups(built.model, built.args, built.kwargs, freezing=freezing, name=module.name)


def inductor_groups(
    model: Callable[..., Any],
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    freezing: bool = False,
    name: str = "",
) -> list[InductorGroups]:
    """Compile `model(*args, **kwargs)` for inference up to Inductor's schedule.

    The model runs once, eagerly, on the device of its weights.

    Args:
        freezing: make the weights constants, as the runtime "inductor-freezing" does.

    Returns:
        One entry a piece that torch.compile makes of the model.

    Raises:
        InputError: torch.compile or Inductor cannot take the model.
    """
    from torch._inductor import config

    backend = _RecordingBackend(model, name)
    backend.origins.flows(args, dict(kwargs or {}))
    torch._dynamo.reset()
    try:
        with torch.no_grad(), config.patch(freezing=freezing):
            torch.compile(model, backend=backend, dynamic=False)(*args, **(kwargs or {}))
            # Only now, outside of Dynamo: ending a compilation early must not leave its tracing half done.
            return [InductorGroups(piece.graph, _kernels(piece.graph, _schedule(piece))) for piece in backend.pieces]
    except Exception as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"Inductor cannot schedule {name or type(model).__name__!r}: {first}") from error
    finally:
        torch._dynamo.reset()


class _Piece(NamedTuple):
    """One piece of a model: its record, its marked ATen graph, and the arguments it ran with."""

    graph: Graph
    module: fx.GraphModule
    arguments: tuple[Any, ...]


class _RecordingBackend:
    """A torch.compile back-end that keeps each piece when it first runs, and runs it as it is."""

    def __init__(self, model: Callable[..., Any], name: str) -> None:
        self.origins = Origins(model)
        self.name = name
        self.pieces: list[_Piece] = []

    def __call__(self, module: fx.GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
        context = TracingContext.try_get()
        traced = trace_aten(module, inputs, context.fake_mode if context else None)
        held = attribute_tensors(module)
        placeholders = list(traced.graph.find_nodes(op="placeholder"))
        sources = module.graph.find_nodes(op="placeholder")
        origins = [self.origins.of(value, source_of(node)) for node, value in zip(sources, inputs, strict=True)]
        origins += [self.origins.of(tensor, target) for target, tensor in held.items()]
        graph = FXGraphWalker().walk(traced, origins=origins, name=self.name)
        _hold(traced, placeholders[len(inputs) :], held.values())
        for node in traced.graph.nodes:
            if CALL_INDEX in node.meta:
                node.meta["custom"] = {CALL_INDEX: node.meta[CALL_INDEX]}
            # Fake results of Dynamo's own mode; Inductor makes its own.
            node.meta.pop("val", None)
            node.meta.pop("tensor_meta", None)
        seen = False

        def run(*arguments: Any) -> Any:
            nonlocal seen
            if not seen:
                self.pieces.append(_Piece(graph, traced, arguments))
                seen = True
            results = module.forward(*arguments)
            self.origins.flows(results)
            return results

        return run


class _Scheduled(Exception):
    """Ends a compilation once its schedule is known."""


def _schedule(piece: _Piece) -> list[Any]:
    """Inductor's scheduler nodes after fusion."""
    from torch._inductor import config
    from torch._inductor.compile_fx import compile_fx

    found: list[Any] = []

    def scheduled(nodes: list[Any]) -> list[Any]:
        found.extend(nodes)
        raise _Scheduled

    try:
        with config.patch(fx_graph_cache=False, _post_fusion_custom_pass=scheduled):
            compile_fx(piece.module, list(piece.arguments))
    except Exception:
        # Inductor wraps what its passes raise; it is a failure only if nothing was scheduled.
        if not found:
            raise
    return found


def _hold(module: fx.GraphModule, placeholders: Sequence[fx.Node], tensors: Iterable[torch.Tensor]) -> None:
    """Give tensors that tracing lifted into placeholders back to the module, which is where freezing looks for weights."""
    for i, (node, tensor) in enumerate(zip(placeholders, tensors, strict=True)):
        target = f"_held_{i}"
        if isinstance(tensor, torch.nn.Parameter):
            module.register_parameter(target, tensor)
        else:
            module.register_buffer(target, tensor)
        with module.graph.inserting_before(node):
            getter = module.graph.get_attr(target)
        getter.meta = dict(node.meta)
        node.replace_all_uses_with(getter)
        module.graph.erase_node(node)
    module.recompile()


def _kernels(graph: Graph, nodes: Sequence[Any]) -> tuple[InductorKernel, ...]:
    families = [cost.family if cost else None for cost in costs_of(graph)]
    parts = [[part for part in node.get_nodes() if _works(part)] for node in nodes]
    parts = [listed for listed in parts if listed]
    buffered = {_end(part) if _is_library(part) else part.node.get_origin_node() for listed in parts for part in listed} - {None}
    shared = _shared_constants(buffered)
    computed = [set().union(*(_calls_of(part, buffered, shared) for part in listed)) for listed in parts]
    library = [any(_is_library(part) for part in listed) for listed in parts]
    in_library = {call for calls, is_library in zip(computed, library, strict=True) if is_library for call in calls}
    for calls, is_library in zip(computed, library, strict=True):
        if not is_library:
            calls -= in_library
    _take_in_dropped(graph, families, computed, library)
    kernels = []
    for calls, is_library in zip(computed, library, strict=True):
        costed = tuple(sorted(call for call in calls if families[call] is not None))
        kernels.append(InductorKernel(costed, ("library" if is_library else "loops") if costed else "copy"))
    return tuple(kernels)


def _works(part: Any) -> bool:
    """Whether a scheduler node launches anything: buffers that others fill, and picking one of several results, do not."""
    return part.node is not None and type(part).__name__ != "NopKernelSchedulerNode" and type(part.node).__name__ != "MultiOutput"


def _is_library(part: Any) -> bool:
    return part.is_extern() or part.is_template()


def _calls_of(part: Any, buffered: set[fx.Node], shared: set[fx.Node]) -> set[int]:
    """Indices of the calls that a buffer computes; `shared` nodes count for none."""
    origins: set[fx.Node] = set(part.node.get_origins())
    end = _end(part)
    if end is None:
        return set()
    if _is_library(part):
        # Operands of a library call have buffers, also where an inlined chain still passes for their origin.
        return _mark(end)
    seen, stack = {end}, [end]
    while stack:
        for source in stack.pop().all_input_nodes:
            if source not in buffered and source not in seen:
                seen.add(source)
                stack.append(source)
    return {call for node in seen & origins if node not in shared and not _looks(node) for call in _mark(node)}


def _shared_constants(buffered: set[fx.Node]) -> set[fx.Node]:
    """Nodes that depend on no tensor (the places that a roll reads from, a number to fill with) although their call does: equal
    ones of several calls are merged, and do not say which of these they belong to."""
    made: set[fx.Node] = set()
    depends: set[int] = set()
    for node in next((node.graph.nodes for node in buffered), ()):
        if node.op == "call_function" and all(source in made for source in node.all_input_nodes):
            made.add(node)
        else:
            depends |= _mark(node)
    return {node for node in made if _mark(node) <= depends}


def _looks(node: fx.Node) -> bool:
    """Whether a node is a view, which computes nothing, though it is part of a call that does (a `reshape` that copies)."""
    return operator_name(node.target)[0] in FREE


def _end(part: Any) -> fx.Node | None:
    """The node that a buffer holds the result of: its own, or the last of its origins, while which was lowered it was made."""
    own, origins = part.node.get_origin_node(), part.node.get_origins()
    return own if own in origins else max(origins, default=None)


def _mark(node: fx.Node) -> set[int]:
    mark = (node.meta.get("custom") or {}).get(CALL_INDEX)
    return set() if mark is None else {mark}


def _take_in_dropped(graph: Graph, families: Sequence[str | None], computed: list[set[int]], library: Sequence[bool]) -> None:
    """Add calls without a kernel to the library kernel that took them in, if one did."""
    home = {call: i for i, calls in enumerate(computed) if library[i] for call in calls}
    looped = {call for i, calls in enumerate(computed) if not library[i] for call in calls}
    maker = {value: index for index, call in enumerate(graph.calls) for value in call.writes}
    readers: dict[int, list[int]] = {}
    for index, call in enumerate(graph.calls):
        for value in call.reads:
            if value in maker:
                readers.setdefault(maker[value], []).append(index)
    dropped = [i for i, family in enumerate(families) if family is not None and i not in home and i not in looped]
    passing = frozenset(dropped)
    contractions = {i for i, family in enumerate(families) if family in CONTRACTIONS}
    after = {call: kernel for call, kernel in home.items() if call not in contractions}
    before: dict[int, int] = {}
    for index in reversed(dropped):
        taker = _first_home(readers.get(index, ()), lambda i: readers.get(i, ()), after, families, passing - contractions)
        if taker is not None:
            before[index] = taker
    for index in dropped:
        producers = {maker[value] for value in graph.calls[index].reads if value in maker}
        taker = before.get(index)
        if index not in contractions and (taker is None or len(producers) == 1):
            made_by = _first_home(
                producers, lambda i: [maker[v] for v in graph.calls[i].reads if v in maker], home | before, families, frozenset()
            )
            taker = taker if made_by is None else made_by
        if taker is not None:
            before[index] = taker
            computed[taker].add(index)


def _first_home(
    start: Iterable[int],
    following: Callable[[int], Iterable[int]],
    home: Mapping[int, int],
    families: Sequence[str | None],
    through: frozenset[int],
) -> int | None:
    """The first library kernel met on the way along free calls and those in `through`."""
    stack, seen = list(start)[::-1], set()
    while stack:
        index = stack.pop()
        if index in home:
            return home[index]
        if index not in seen and (families[index] is None or index in through):
            seen.add(index)
            stack.extend(following(index))
    return None
