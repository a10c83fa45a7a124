"""An FX graph of any level -> the same graph in undecomposed, pre-dispatch ATen operators, with a fake result at every node."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.traceback import preserve_node_meta

from shmoo.harness.capture.fx.guard import absent_devices_on_cpu

ENTER, EXIT = torch.amp.autocast_mode._enter_autocast, torch.amp.autocast_mode._exit_autocast
"""Functions whose calls mark an autocast region in a graph."""
_AUTOCAST_KEYS = {"cpu": "AutocastCPU", "cuda": "AutocastCUDA"}
_WRAPPER_NAMES = (
    "wrap wrap_with_autocast wrap_with_set_grad_enabled wrap_activation_checkpoint tag_activation_checkpoint hints_wrapper "
    "invoke_subgraph"
)
_WRAPPERS = frozenset(_WRAPPER_NAMES.split())
"""Higher-order operators that call their subgraph once, with their last arguments."""


class _LiftingInterpreter(fx.Interpreter):
    """Runs a graph module with its tensors (`get_attr` nodes) replaced by fake tensors that tracing passes in."""

    def __init__(self, module: fx.GraphModule, lifted: dict[str, torch.Tensor]) -> None:
        super().__init__(module)
        self._lifted = lifted

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        # During tracing these two only record themselves, without effect, so results inside would have the wrong type.
        if target is ENTER:
            return torch.amp.autocast(*args).__enter__()
        if target is EXIT:
            return args[0].__exit__(None, None, None)
        return super().call_function(target, args, kwargs)

    def get_attr(self, target: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        lifted = self._lifted.get(target)
        return super().get_attr(target, args, kwargs) if lifted is None else lifted


def attribute_tensors(module: fx.GraphModule) -> dict[str, torch.Tensor]:
    """The tensors that the graph reads as attributes of the module, by target, each once."""
    targets = dict.fromkeys(node.target for node in module.graph.find_nodes(op="get_attr"))
    attributes = {target: operator.attrgetter(target)(module) for target in targets}
    return {target: value for target, value in attributes.items() if isinstance(value, torch.Tensor)}


def trace_aten(module: fx.GraphModule, inputs: Sequence[Any], fake_mode: FakeTensorMode | None = None) -> fx.GraphModule:
    """Trace to ATen operators as the model calls them (`aten.linear` stays whole), without running any on data.

    Args:
        module: a graph of torch functions, as Dynamo or `symbolic_trace` makes it, or of ATen operators.
        inputs: values of its placeholders, in order; tensors may be real, meta or already fake in `fake_mode`.

    Returns:
        A graph whose placeholders are those of `module`, followed by one for each of `attribute_tensors(module)`.
    """
    mode = fake_mode or FakeTensorMode(allow_non_fake_inputs=True)

    def fake(value: Any) -> Any:
        if isinstance(value, torch.Tensor) and not isinstance(value, FakeTensor):
            return mode.from_tensor(value, static_shapes=True)
        return value

    attributes = attribute_tensors(module)
    count = len(inputs)

    def run(*values: Any) -> Any:
        return _LiftingInterpreter(module, dict(zip(attributes, values[count:], strict=True))).run(*values[:count])

    # Above a functional transform such as vmap, calls have the shapes of one sample.
    targets = (node.target for node in module.graph.nodes if node.op == "call_function")
    transformed = any("functorch" in (getattr(target, "__module__", None) or "") for target in targets)
    with torch.no_grad(), preserve_node_meta(), mode, absent_devices_on_cpu():
        traced = make_fx(run, pre_dispatch=not transformed)(*(fake(value) for value in (*inputs, *attributes.values())))
    return inline_wrapped(traced)


def inline_wrapped(module: fx.GraphModule) -> fx.GraphModule:
    """`module` with each region that torch wraps in one call (autocast, gradient mode, checkpointing) inlined."""
    for node in list(module.graph.nodes):
        if isinstance(node.target, torch._ops.HigherOrderOperator) and node.target.name() in _WRAPPERS:
            _inline(module, node)
    return module


def _inline(module: fx.GraphModule, node: fx.Node) -> None:
    body_node = next((a for a in node.args if isinstance(a, fx.Node) and a.op == "get_attr"), None)
    if body_node is None:
        return
    body = operator.attrgetter(body_node.target)(module)
    if not isinstance(body, fx.GraphModule):
        return
    inline_wrapped(body)
    placeholders = body.graph.find_nodes(op="placeholder")
    copies: dict[fx.Node, Any] = dict(zip(placeholders, node.args[len(node.args) - len(placeholders) :], strict=True))
    results: Any = None
    with module.graph.inserting_before(node):
        entered = module.graph.call_function(ENTER, node.args[:4]) if node.target.name() == "wrap_with_autocast" else None
        for inner in body.graph.nodes:
            if inner.op == "output":
                results = fx.map_arg(inner.args[0], copies.__getitem__)
            elif inner not in copies:
                copies[inner] = module.graph.node_copy(inner, copies.__getitem__)
                if inner.op == "get_attr":
                    copies[inner].target = f"{body_node.target}.{inner.target}"
        if entered is not None:
            module.graph.call_function(EXIT, (entered,))
    if isinstance(results, fx.Node):
        node.replace_all_uses_with(results)
    for user in list(node.users):
        if user.target is operator.getitem:
            user.replace_all_uses_with(results[user.args[1]])
            module.graph.erase_node(user)
    if not node.users:
        module.graph.erase_node(node)


def has_autocast(module: fx.GraphModule) -> bool:
    """Whether autocast is active around the graph, or is turned on inside it."""
    return any(map(torch.is_autocast_enabled, _AUTOCAST_KEYS)) or any(
        node.target is ENTER and (len(node.args) < 3 or node.args[2]) for node in module.graph.nodes
    )


def autocast_dtype(node: fx.Node) -> torch.dtype | None:
    """The type of its result, to which autocast converts the floating-point operands of a call; `None` for a call that autocast
    does not change. Traced graphs omit these conversions.

    Autocast handles the operators that have a kernel for the dispatch key of the device; a call with a `dtype` argument keeps it.
    """
    target, value = node.target, node.meta.get("val")
    result = value[0] if isinstance(value, (list, tuple)) and value else value
    if not isinstance(target, torch._ops.OpOverload) or not isinstance(result, torch.Tensor) or not result.is_floating_point():
        return None
    key = _AUTOCAST_KEYS.get(result.device.type, _AUTOCAST_KEYS["cpu"])
    if node.kwargs.get("dtype") is not None or not torch._C._dispatch_has_kernel_for_dispatch_key(target.name(), key):
        return None
    return result.dtype
