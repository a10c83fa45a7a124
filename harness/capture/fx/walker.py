"""An FX graph of ATen operators -> a `Graph` with data flow, weights and shared memory. Graphs contain all weights of a model,
even those that no call reads."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import msgspec
import torch
from torch import fx
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from shmoo.estimators.graph.records import Graph, Value, ValueKind
from shmoo.harness.capture.fx.aten_trace import attribute_tensors, trace_aten
from shmoo.harness.capture.fx.introspect import OperatorIntrospector, tensors_in
from shmoo.harness.capture.fx.walk_state import Origin, Walk, attribute_origin, storage_key

_SOURCE_KEY = re.compile(r"\['?([^'\]]*)'?\]|\.([A-Za-z]\w*)")
_LOCAL = re.compile(r"L\['[^']+'\]")
MOST_LISTED = 5
"""Most modules that a note names."""
_CONTAINERS = frozenset({"_modules", "_parameters", "_buffers"})


def weight_origins(model: Any) -> list[tuple[torch.Tensor, Origin]]:
    """Each parameter, then each buffer of a module, once, with its origin; none for a function."""
    if not isinstance(model, torch.nn.Module):
        return []
    parameters = [(tensor, Origin("parameter", name)) for name, tensor in model.named_parameters()]
    return [*parameters, *((tensor, Origin("buffer", name)) for name, tensor in model.named_buffers())]


class Origins:
    """Distinguishes weights from activations while a model runs: by the module's parameters, or for a function by Dynamo's
    source."""

    def __init__(self, model: Any) -> None:
        self._weights = {id(tensor): origin for tensor, origin in reversed(weight_origins(model))}
        self._activations: set[Any] = set()

    def flows(self, *values: Any) -> None:
        """Record that these tensors are arguments or intermediate results."""
        self._activations.update(map(storage_key, tensors_in(values)))

    def of(self, tensor: Any, source: str = "") -> Origin:
        """The origin of a tensor that enters a graph (a number is an input), found by Dynamo at a `source` such as
        "L['self']._modules['fc']._parameters['weight']"."""
        if id(tensor) in self._weights:
            return self._weights[id(tensor)]
        keys = [subscript or attribute for subscript, attribute in _SOURCE_KEY.findall(source)]
        path = [key for key in keys if key not in _CONTAINERS]
        name = ".".join(path[1:] or path)
        if isinstance(tensor, torch.nn.Parameter):
            return Origin("parameter", name)
        # A tensor in a function's local variable is an intermediate result.
        local = _LOCAL.fullmatch(source) is not None and bool(self._weights)
        if local or not isinstance(tensor, torch.Tensor) or storage_key(tensor) in self._activations:
            return Origin("input", ".".join(path))
        return Origin("buffer" if "_buffers[" in source else "constant", name)


def source_of(node: fx.Node) -> str:
    """Where Dynamo found the value of a placeholder: "L['x']"."""
    argument = node.meta.get("grapharg")
    name = getattr(argument.source, "name", "") if argument is not None else ""
    return name() if callable(name) else name


class Traced(NamedTuple):
    """A model's operators with their fake results, and the origins of its placeholders. `fakes` are the values of the leaves of
    (args, kwargs), or of Dynamo's placeholders for a piece of torch.compile; marked sizes are symbolic. `notes` are for the
    reader of the graph."""

    module: fx.GraphModule
    origins: Sequence[Origin]
    fakes: Sequence[Any] = ()
    notes: tuple[str, ...] = ()


class FXGraphWalker:
    """Walks graphs node by node. Every tensor operator becomes one call. Any other node that is not known to be free keeps its
    name, so that it is listed as unknown and not lost."""

    def __init__(self, introspector: OperatorIntrospector | None = None) -> None:
        self.introspector = introspector or OperatorIntrospector()

    def walk(
        self,
        module: fx.GraphModule,
        inputs: Sequence[Any] | None = None,
        *,
        origins: Sequence[Origin] | None = None,
        name: str = "",
    ) -> Graph:
        """The graph's record.

        Args:
            module: a graph module. Without `inputs` every node must carry its result in `meta["val"]`.
            inputs: example inputs; with them, the graph is traced to ATen operators first, which propagates shapes.
            origins: the origin of each placeholder, in order; by default all are inputs.
            name: the record's name.

        Raises:
            CaptureError: a node lacks `meta["val"]`, or a size depends on data.
        """
        if origins is None:
            origins = [Origin("input", node.name) for node in module.graph.find_nodes(op="placeholder")]
        if inputs is not None:
            origins = [*origins, *(attribute_origin(*item) for item in attribute_tensors(module).items())]
            module = trace_aten(module, inputs)
        return Walk(module, self.introspector).run(origins, name)


def with_notes(graph: Graph, notes: Iterable[str]) -> Graph:
    """The graph with further notes."""
    return msgspec.structs.replace(graph, notes=(*graph.notes, *notes))


def with_all_weights(graphs: tuple[Graph, ...], model: Any) -> tuple[Graph, ...]:
    """The graphs, with values added to the first for all weights that no graph reads, such as training heads, since they occupy
    memory. A shared weight counts once; scalar buffers, such as step counters, are not weights."""
    if not isinstance(model, torch.nn.Module) or not graphs:
        return graphs
    read_names = {value.name for graph in graphs for value in graph.values if value.is_weight}
    parameters = {id(tensor) for tensor in model.parameters()}
    names: dict[int, list[str]] = {}
    tensors: dict[int, torch.Tensor] = {}
    for name, tensor in (*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)):
        names.setdefault(id(tensor), []).append(name)
        tensors[id(tensor)] = tensor
    # torch.compile unwraps a quantized weight into constants that lack its name.
    constants = [value.spec for graph in graphs for value in graph.values if value.kind == "constant"]
    unread = []
    for key, tensor in tensors.items():
        parts = {name: OperatorIntrospector().spec(part) for name, part in _parts(names[key][0], tensor)}
        largest = max(parts.values(), key=lambda spec: spec.nbytes)
        if len(parts) > 1 and largest in constants:
            constants.remove(largest)
        elif read_names.isdisjoint((*names[key], *parts)) and (tensor.dim() or key in parameters):
            kind: ValueKind = "parameter" if key in parameters else "buffer"
            unread += [Value(spec, kind, name) for name, spec in parts.items()]
    if not unread:
        return graphs
    notes = (*graphs[0].notes, *_unread_modules(model, {value.name for value in unread}))
    return (msgspec.structs.replace(graphs[0], values=(*graphs[0].values, *unread), notes=notes), *graphs[1:])


def _unread_modules(model: torch.nn.Module, unread: set[str]) -> tuple[str, ...]:
    """A note on the outermost modules with parameters that no call reads; empty if there are none."""
    outermost: list[str] = []
    for path, module in model.named_modules():
        names = [f"{path}.{name}" for name, _ in module.named_parameters()]
        if path and names and unread.issuperset(names) and not any(path.startswith(f"{outer}.") for outer in outermost):
            outermost.append(path)
    if not outermost:
        return ()
    inside = tuple(f"{path}." for path in outermost)
    count = sum(parameter.numel() for name, parameter in model.named_parameters() if name.startswith(inside))
    module_names = ", ".join(outermost[:MOST_LISTED]) + f" and {len(outermost) - MOST_LISTED} more" * (
        len(outermost) > MOST_LISTED
    )
    return (f"no operator reads the parameters of {module_names}: {count:,} parameters take memory and no time",)


def _parts(name: str, tensor: torch.Tensor) -> list[tuple[str, torch.Tensor]]:
    """A tensor's memory: itself, or the tensors that a quantized weight wraps."""
    if not is_traceable_wrapper_subclass(tensor):
        return [(name, tensor)]
    attributes, _ = tensor.__tensor_flatten__()
    return [part for attribute in attributes for part in _parts(f"{name}.{attribute}", getattr(tensor, attribute))]
