"""An FX graph of ATen operators -> a `Graph`: which value feeds which call, which are weights, which share memory."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from shmoo.estimators.graph.records import Graph
from shmoo.harness.capture.fx.introspect import OperatorIntrospector
from shmoo.harness.capture.fx.objects import tensors_in
from shmoo.harness.capture.fx.trace import attribute_tensors, trace_aten
from shmoo.harness.capture.fx.walk import Origin, Walk, attribute_origin, storage_key

_SOURCE_KEY = re.compile(r"\['?([^'\]]*)'?\]|\.([A-Za-z]\w*)")
_LOCAL = re.compile(r"L\['[^']+'\]")
_CONTAINERS = frozenset({"_modules", "_parameters", "_buffers"})


class Origins:
    """Tells weights from activations while a model runs.

    Args:
        model: a module, or a function, whose weights are then recognized by where Dynamo found them.
    """

    def __init__(self, model: Any) -> None:
        self._weights: dict[int, Origin] = {}
        if isinstance(model, torch.nn.Module):
            self._weights |= {id(buffer): Origin("buffer", name) for name, buffer in model.named_buffers()}
            self._weights |= {id(parameter): Origin("parameter", name) for name, parameter in model.named_parameters()}
        self._activations: set[Any] = set()

    def flows(self, *values: Any) -> None:
        """Record that these tensors are arguments or results computed on the way."""
        self._activations.update(map(storage_key, tensors_in(values)))

    def of(self, tensor: Any, source: str = "") -> Origin:
        """The origin of a graph's input.

        Args:
            tensor: the tensor itself (a number is an input).
            source: where Dynamo found it, such as "L['self']._modules['fc']._parameters['weight']".
        """
        if id(tensor) in self._weights:
            return self._weights[id(tensor)]
        keys = [subscript or attribute for subscript, attribute in _SOURCE_KEY.findall(source)]
        path = [key for key in keys if key not in _CONTAINERS]
        name = ".".join(path[1:] or path)
        if isinstance(tensor, torch.nn.Parameter):
            return Origin("parameter", name)
        # What a function holds in a variable of its own was computed on the way.
        local = _LOCAL.fullmatch(source) is not None and bool(self._weights)
        if local or not isinstance(tensor, torch.Tensor) or storage_key(tensor) in self._activations:
            return Origin("input", ".".join(path))
        return Origin("buffer" if "_buffers[" in source else "constant", name)


def source_of(node: fx.Node) -> str:
    """Where Dynamo found the value of a placeholder: "L['x']"."""
    argument = node.meta.get("grapharg")
    name = getattr(argument.source, "name", "") if argument is not None else ""
    return name() if callable(name) else name


class FXGraphWalker:
    """Walks graphs node by node. Every tensor operator becomes one call; a node that is neither that nor known to compute nothing
    keeps its own name, so that it is listed as unknown rather than lost."""

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
            inputs: example inputs; given, shapes are propagated from them by tracing to ATen operators first.
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
