"""The calls in each of Inductor's kernels. Compilation stops at the schedule, before any code is generated.

Each captured call leaves its index on its FX node; tracing and decomposition carry this mark to the nodes that Inductor lowers,
and every scheduler node lists its origins. Four rules turn that into groups:

- A buffer computes its FX node and the nodes inlined into it, back to nodes with a buffer.
- A call with a library kernel among its parts belongs to that kernel only; loops that rearrange its operands are layout copies.
- A kernel without calls is a layout copy, not a kernel of the model.
- A call whose mark was lost in a pattern replacement belongs to the library kernel that absorbed it: the kernel of the only
  contraction whose result it reads, of the pointwise call that reads it, or of its producer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec
import torch
from torch import fx

from shmoo.estimators.costs import FREE, costs_of
from shmoo.estimators.errors import InputError
from shmoo.estimators.graph.records import CONTRACTIONS, Graph
from shmoo.harness.capture.compiled import Piece, compile_pieces
from shmoo.harness.capture.fx.introspect import first_line, operator_name
from shmoo.harness.capture.fx.walk_state import CALL_INDEX
from shmoo.harness.module import DNNModule
from shmoo.runs.store.records import AxisValue


class InductorGroups(msgspec.Struct, frozen=True):
    """A captured graph with the indices of the costed calls that each of Inductor's kernels computes (part of), in the order of
    execution, and the number of layout copies, which are not kernels of the model. Each operator that torch.compile leaves to
    eager execution (`eager`) is a separate kernel."""

    graph: Graph
    groups: tuple[tuple[int, ...], ...]
    copies: int
    eager: bool = False


def workload_groups(
    module: DNNModule, axes: Mapping[str, AxisValue] | None = None, *, freezing: bool = False, dtype: str | None = None
) -> tuple[list[InductorGroups], list[str]]:
    """`inductor_groups` of a workload, built with real weights on the CPU, and the reasons why torch.compile splits it."""
    built = module.build(axes, dtype, "cpu")
    return inductor_groups(built.model, built.args, built.kwargs, freezing=freezing, name=module.name)


def inductor_groups(
    model: Callable[..., Any],
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    freezing: bool = False,
    name: str = "",
) -> tuple[list[InductorGroups], list[str]]:
    """Compile `model(*args, **kwargs)` for inference up to Inductor's schedule: an entry for each piece that torch.compile makes
    of the model, and for each run of operators between them, in the order of execution; and the reasons for the pieces. The model
    runs once, eagerly, on the device of its weights. `freezing` makes the weights constants, as the runtime "inductor-freezing"
    does. `InputError` where torch.compile or Inductor cannot take the model."""
    from torch._inductor import config

    torch._dynamo.reset()
    try:
        with torch.no_grad(), config.patch(freezing=freezing):
            pieces, reasons = compile_pieces(model, args, dict(kwargs or {}), name)
            # A piece that ran several times counts once.
            once = {id(piece.traced.module): piece for piece in pieces}
            groups = []
            for piece in once.values():
                if piece.arguments is not None:
                    groups.append(_grouped(piece.graph, _schedule(piece)))
                else:
                    costed = tuple((call,) for call, cost in enumerate(costs_of(piece.graph)) if cost is not None)
                    groups.append(InductorGroups(piece.graph, costed, 0, eager=True))
            return groups, reasons
    except Exception as error:
        raise InputError(f"Inductor cannot schedule {name or type(model).__name__!r}: {first_line(error)}") from error
    finally:
        torch._dynamo.reset()


class _Scheduled(Exception):
    """Ends a compilation once its schedule is known."""


def _schedule(piece: Piece) -> list[Any]:
    from torch._inductor import config
    from torch._inductor.compile_fx import compile_fx

    _restore_attributes(piece)
    for node in piece.traced.module.graph.nodes:
        if CALL_INDEX in node.meta:
            node.meta["custom"] = {CALL_INDEX: node.meta[CALL_INDEX]}
        # These fake results belong to Dynamo's mode; Inductor makes new ones.
        node.meta.pop("val", None)
        node.meta.pop("tensor_meta", None)
    scheduled: list[Any] = []

    def stop(nodes: list[Any]) -> list[Any]:
        scheduled.extend(nodes)
        raise _Scheduled

    try:
        with config.patch(fx_graph_cache=False, _post_fusion_custom_pass=stop):
            compile_fx(piece.traced.module, list(piece.arguments or ()))
    except Exception:
        # Inductor wraps exceptions of its passes, so their type is no help; without a schedule it is a failure.
        if not scheduled:
            raise
    return scheduled


def _restore_attributes(piece: Piece) -> None:
    """Turn tensors that tracing lifted into placeholders into attributes of the module, where freezing looks for weights."""
    module = piece.traced.module
    placeholders = module.graph.find_nodes(op="placeholder")[len(piece.traced.fakes) :]
    for i, (node, tensor) in enumerate(zip(placeholders, piece.attributes, strict=True)):
        target = f"_lifted_{i}"
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


def _grouped(graph: Graph, nodes: Sequence[Any]) -> InductorGroups:
    families = [cost.family if cost else None for cost in costs_of(graph)]
    parts = [[part for part in node.get_nodes() if _launches(part)] for node in nodes]
    parts = [kernel_parts for kernel_parts in parts if kernel_parts]
    buffered = {
        _result_node(part) if _is_library(part) else part.node.get_origin_node()
        for kernel_parts in parts
        for part in kernel_parts
    }
    buffered -= {None}
    shared = _shared_constants(buffered)
    computed = [set().union(*(_calls_of(part, buffered, shared) for part in kernel_parts)) for kernel_parts in parts]
    library = [any(_is_library(part) for part in kernel_parts) for kernel_parts in parts]
    in_library = {call for calls, is_library in zip(computed, library, strict=True) if is_library for call in calls}
    for calls, is_library in zip(computed, library, strict=True):
        if not is_library:
            calls -= in_library
    _assign_unmarked_calls(graph, families, computed, library)
    costed = [tuple(sorted(call for call in calls if families[call] is not None)) for calls in computed]
    groups = tuple(calls for calls in costed if calls)
    return InductorGroups(graph, groups, len(costed) - len(groups))


def _launches(part: Any) -> bool:
    """Whether a scheduler node launches a kernel; a buffer filled by others, or a selection of one of several results, does
    not."""
    return part.node is not None and type(part).__name__ != "NopKernelSchedulerNode" and type(part.node).__name__ != "MultiOutput"


def _is_library(part: Any) -> bool:
    return part.is_extern() or part.is_template()


def _calls_of(part: Any, buffered: set[fx.Node], shared: set[fx.Node]) -> set[int]:
    """Indices of the calls that a buffer computes, leaving out `shared` nodes."""
    result = _result_node(part)
    if result is None:
        return set()
    if _is_library(part):
        # Operands of a library call have buffers, even where an inlined chain is still listed among its origins.
        return _marked_call(result)
    inlined, stack = {result}, [result]
    while stack:
        sources = [source for source in stack.pop().all_input_nodes if source not in buffered and source not in inlined]
        inlined.update(sources)
        stack += sources
    # A view computes nothing, though it may be part of a call that does (a `reshape` that copies).
    computing = (node for node in inlined & set(part.node.get_origins()) - shared if operator_name(node.target)[0] not in FREE)
    return {call for node in computing for call in _marked_call(node)}


def _shared_constants(buffered: set[fx.Node]) -> set[fx.Node]:
    """Nodes that depend on no tensor (the indices of a roll, a fill value) although their call does. Inductor merges equal ones
    of several calls, so their marks do not identify a call."""
    constants: set[fx.Node] = set()
    dependent_calls: set[int] = set()
    for node in next((node.graph.nodes for node in buffered), ()):
        if node.op == "call_function" and all(source in constants for source in node.all_input_nodes):
            constants.add(node)
        else:
            dependent_calls |= _marked_call(node)
    return {node for node in constants if _marked_call(node) <= dependent_calls}


def _result_node(part: Any) -> fx.Node | None:
    """The node whose result a buffer contains: the buffer's node, or its last origin if that node is not among the origins."""
    node, origins = part.node.get_origin_node(), part.node.get_origins()
    return node if node in origins else max(origins, default=None)


def _marked_call(node: fx.Node) -> set[int]:
    mark = (node.meta.get("custom") or {}).get(CALL_INDEX)
    return set() if mark is None else {mark}


def _assign_unmarked_calls(
    graph: Graph, families: Sequence[str | None], computed: list[set[int]], library: Sequence[bool]
) -> None:
    """Add calls without a kernel to the library kernel that absorbed them, if there is one."""
    kernel_of = {call: i for i, calls in enumerate(computed) if library[i] for call in calls}
    looped = {call for i, calls in enumerate(computed) if not library[i] for call in calls}
    writer = {value: index for index, call in enumerate(graph.calls) for value in call.writes}
    producers = [[writer[value] for value in call.reads if value in writer] for call in graph.calls]
    readers: list[list[int]] = [[] for _ in graph.calls]
    for index, sources in enumerate(producers):
        for source in sources:
            readers[source].append(index)
    unmarked = [i for i, family in enumerate(families) if family is not None and i not in kernel_of and i not in looped]
    contractions = {i for i, family in enumerate(families) if family in CONTRACTIONS}
    readers_kernel = {call: kernel for call, kernel in kernel_of.items() if call not in contractions}
    assigned: dict[int, int] = {}
    for index in reversed(unmarked):
        kernel = _nearest_kernel(readers[index], readers, readers_kernel, families, frozenset(unmarked) - contractions)
        if kernel is not None:
            assigned[index] = kernel
    for index in unmarked:
        kernel = assigned.get(index)
        if index not in contractions and (kernel is None or len(set(producers[index])) == 1):
            behind = _nearest_kernel(set(producers[index]), producers, kernel_of | assigned, families, frozenset())
            kernel = kernel if behind is None else behind
        if kernel is not None:
            assigned[index] = kernel
            computed[kernel].add(index)


def _nearest_kernel(
    start: Iterable[int],
    neighbors: Sequence[Sequence[int]],
    kernel_of: Mapping[int, int],
    families: Sequence[str | None],
    through: frozenset[int],
) -> int | None:
    """The first library kernel on a path along `neighbors` from `start` through free calls and the calls in `through`."""
    stack, visited = list(start)[::-1], set()
    while stack:
        index = stack.pop()
        if index in kernel_of:
            return kernel_of[index]
        if index not in visited and (families[index] is None or index in through):
            visited.add(index)
            stack.extend(neighbors[index])
    return None
