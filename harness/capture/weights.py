"""The weights that a model holds: every capture method reports all of them, whether a call reads them or not."""

from __future__ import annotations

from typing import Any

import msgspec
import torch
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from shmoo.estimators.graph.records import Graph, Value, ValueKind
from shmoo.harness.capture.fx.introspect import OperatorIntrospector


def with_all_weights(graphs: tuple[Graph, ...], model: Any) -> tuple[Graph, ...]:
    """The graphs, the first with a value for each weight of the model that none of them reads, such as heads for training: they
    take memory all the same. A shared weight counts once; scalar buffers, such as counters of training steps, are no weights."""
    if not isinstance(model, torch.nn.Module) or not graphs:
        return graphs
    read = {value.name for graph in graphs for value in graph.values if value.is_weight}
    parameters = {id(tensor) for tensor in model.parameters()}
    names: dict[int, list[str]] = {}
    tensors: dict[int, torch.Tensor] = {}
    for name, tensor in (*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)):
        names.setdefault(id(tensor), []).append(name)
        tensors[id(tensor)] = tensor
    # torch.compile unwraps a quantized weight, and leaves its memory as constants without its name.
    constants = [value.spec for graph in graphs for value in graph.values if value.kind == "constant"]
    unread = []
    for key, tensor in tensors.items():
        parts = {name: OperatorIntrospector().spec(part) for name, part in _parts(names[key][0], tensor)}
        largest = max(parts.values(), key=lambda spec: spec.nbytes)
        if len(parts) > 1 and largest in constants:
            constants.remove(largest)
        elif read.isdisjoint((*names[key], *parts)) and (tensor.dim() or key in parameters):
            kind: ValueKind = "parameter" if key in parameters else "buffer"
            unread += [Value(spec, kind, name) for name, spec in parts.items()]
    return (msgspec.structs.replace(graphs[0], values=(*graphs[0].values, *unread)), *graphs[1:]) if unread else graphs


def _parts(name: str, tensor: torch.Tensor) -> list[tuple[str, torch.Tensor]]:
    """A tensor's memory: itself, or the tensors that a quantized weight wraps."""
    if not is_traceable_wrapper_subclass(tensor):
        return [(name, tensor)]
    attributes, _ = tensor.__tensor_flatten__()
    return [part for attribute in attributes for part in _parts(f"{name}.{attribute}", getattr(tensor, attribute))]
