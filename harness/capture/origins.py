"""What the tensors that enter a graph are: a model's parameters and buffers by their qualified names, inputs, or constants."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import fx

from shmoo.harness.capture.introspect import leaves
from shmoo.harness.capture.walker import Origin, storage_key

_KEY = re.compile(r"\['?([^'\]]*)'?\]|\.([A-Za-z]\w*)")
_CONTAINERS = frozenset({"_modules", "_parameters", "_buffers"})


class Origins:
    """Tells weights from activations while a model runs.

    Args:
        model: a module, or a function, whose weights are then recognised by where Dynamo found them.
    """

    def __init__(self, model: Any) -> None:
        self._weights: dict[int, Origin] = {}
        if isinstance(model, torch.nn.Module):
            for name, buffer in model.named_buffers():
                self._weights[id(buffer)] = Origin("buffer", name)
            for name, parameter in model.named_parameters():
                self._weights[id(parameter)] = Origin("parameter", name)
        self._flowing: set[Any] = set()

    def flows(self, *values: Any) -> None:
        """Note that these tensors came in as arguments or were computed on the way."""
        self._flowing.update(storage_key(leaf) for leaf in leaves(values) if isinstance(leaf, torch.Tensor))

    def of(self, tensor: Any, source: str = "") -> Origin:
        """The origin of a graph's input.

        Args:
            tensor: the tensor itself (a number is an input).
            source: where Dynamo found it, such as "L['self']._modules['fc']._parameters['weight']".
        """
        path = _path(source)
        name = ".".join(path[1:] or path)
        known = self._weights.get(id(tensor))
        if known is not None:
            return known
        if isinstance(tensor, torch.nn.Parameter):
            return Origin("parameter", name)
        if not isinstance(tensor, torch.Tensor) or storage_key(tensor) in self._flowing:
            return Origin("input", ".".join(path))
        return Origin("buffer" if "_buffers[" in source else "constant", name)


def source_of(node: fx.Node) -> str:
    """Where Dynamo found what a placeholder stands for: "L['x']"."""
    argument = node.meta.get("grapharg")
    name = getattr(argument.source, "name", "") if argument is not None else ""
    return name() if callable(name) else name


def _path(source: str) -> list[str]:
    """["self", "fc", "weight"] of "L['self']._modules['fc']._parameters['weight']"."""
    keys = [subscript or attribute for subscript, attribute in _KEY.findall(source)]
    return [key for key in keys if key not in _CONTAINERS]
