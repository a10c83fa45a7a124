"""An FX graph of any level -> the same graph in whole, pre-dispatch ATen operators, every node with its fake result."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.traceback import preserve_node_meta

from shmoo.harness.capture.autocast import ENTER, EXIT
from shmoo.harness.capture.inline import inline_wrapped


class _LiftingInterpreter(fx.Interpreter):
    """Runs a graph module with its tensors (`get_attr` nodes) replaced by the fake ones that tracing hands in."""

    def __init__(self, module: fx.GraphModule, lifted: dict[str, torch.Tensor]) -> None:
        super().__init__(module)
        self._lifted = lifted

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        # While torch traces, these two note themselves without taking effect; results inside would have the wrong type.
        if target is ENTER:
            return torch.amp.autocast(*args).__enter__()
        if target is EXIT:
            return args[0].__exit__(None, None, None)
        return super().call_function(target, args, kwargs)

    def get_attr(self, target: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        found = self._lifted.get(target)
        return super().get_attr(target, args, kwargs) if found is None else found


def attribute_tensors(module: fx.GraphModule) -> dict[str, torch.Tensor]:
    """The tensors that the graph itself holds, by target, each once."""
    found: dict[str, torch.Tensor] = {}
    for node in module.graph.find_nodes(op="get_attr"):
        held: Any = module
        for part in node.target.split("."):
            held = getattr(held, part)
        if isinstance(held, torch.Tensor):
            found[node.target] = held
    return found


def trace_aten(module: fx.GraphModule, inputs: Sequence[Any], fake_mode: FakeTensorMode | None = None) -> fx.GraphModule:
    """Trace to ATen operators as the model calls them (`aten.linear` stays whole), without running any on data.

    Args:
        module: a graph of torch functions, as Dynamo or `symbolic_trace` makes it, or of ATen operators.
        inputs: what its placeholders get, in order; tensors may be real, meta or already fake in `fake_mode`.
        fake_mode: the mode to trace in; without it one is made.

    Returns:
        A graph whose placeholders are those of `module`, followed by one for each of `attribute_tensors(module)`.
    """
    mode = fake_mode or FakeTensorMode(allow_non_fake_inputs=True)

    def fake(value: Any) -> Any:
        if isinstance(value, torch.Tensor) and not isinstance(value, FakeTensor):
            return mode.from_tensor(value, static_shapes=True)
        return value

    held = attribute_tensors(module)
    targets = tuple(held)
    arguments = [fake(value) for value in (*inputs, *held.values())]
    count = len(inputs)

    def run(*values: Any) -> Any:
        return _LiftingInterpreter(module, dict(zip(targets, values[count:], strict=True))).run(*values[:count])

    with torch.no_grad(), preserve_node_meta(), mode:
        return inline_wrapped(make_fx(run, pre_dispatch=True)(*arguments))
