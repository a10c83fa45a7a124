"""Graphs inside a graph: the parts of an operator without its own cost, and the bodies of branches and loops. A branch counts as
its costlier body. A loop counts its number of runs where constants determine it, otherwise one run."""

from __future__ import annotations

import logging
import operator
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_flatten, tree_unflatten

from shmoo.estimators.costs import COSTS, FREE
from shmoo.harness.capture.fx.aten_trace import inline_wrapped
from shmoo.harness.capture.fx.introspect import Number, first_line, is_tensor_node, operator_name, tensor_of

logger = logging.getLogger(__name__)

BODIES = frozenset({"cond", "while_loop", "scan", "map_impl"})
"""Higher-order operators whose bodies are counted; others have their own cost or are listed as unknown."""
BRANCH_NOTE = "where data decides a branch (torch.cond), the costlier side is counted"
LOOP_NOTE = "a loop whose end depends on data (torch.while_loop) is counted once"
CONSTANT = "shmoo_constant"
"""Key of a placeholder's `meta`: the constant tensor that it represents."""
_MOST_STEPS = 100_000
_SMALL = 64
"""Most elements of a tensor whose value is tracked."""
_PLACE = ("nn_module_stack", "fwd_nn_module_stack", "stack_trace")
"""Keys of a node's `meta` with its origin in the model."""


def parts_of(node: fx.Node, number: Number) -> tuple[fx.GraphModule, list[fx.Node]] | None:
    """A call as a graph of parts, and the nodes behind its placeholders; `None` where torch has no parts for it.

    Parts come from torch's decompositions into core ATen operators and from the calls of composite operators; operators with a
    cost stay whole.
    """
    target = node.target
    if not isinstance(target, torch._ops.OpOverload):
        return None
    leaves, structure = tree_flatten((node.args, dict(node.kwargs)))
    operands = [leaf for leaf in leaves if is_tensor_node(leaf)]

    def run(*tensors: torch.Tensor) -> Any:
        remaining = iter(tensors)
        args, kwargs = tree_unflatten([next(remaining) if is_tensor_node(leaf) else plain(leaf) for leaf in leaves], structure)
        return target(*args, **kwargs)

    def plain(leaf: Any) -> Any:
        if isinstance(leaf, torch.device):
            return torch.device("cpu")
        return number(leaf.meta.get("val") if isinstance(leaf, fx.Node) else leaf)

    try:
        with torch.no_grad(), FakeTensorMode():
            fakes = [_like(tensor_of(operand), number) for operand in operands]
            module = make_fx(run, decomposition_table=_decompositions())(*fakes)
    except Exception as error:  # torch has no rule for these operands: the call stays whole.
        logger.info("%s is not taken apart: %s", target, first_line(error))
        return None
    if any(part.target is target for part in module.graph.nodes):
        return None
    for part in module.graph.nodes:
        part.meta |= {key: node.meta[key] for key in _PLACE if key in node.meta}
    return module, operands


def _like(tensor: torch.Tensor, number: Number) -> torch.Tensor:
    shape, stride = (tuple(map(number, sizes)) for sizes in (tensor.shape, tensor.stride()))
    return torch.empty_strided(shape, stride, dtype=tensor.dtype, device="cpu")


@cache
def _decompositions() -> dict[Any, Callable[..., Any]]:
    """Torch's decompositions of operators without a cost; decompositions into core ATen operators take precedence."""
    from torch._decomp import core_aten_decompositions, global_decomposition_table

    table = {**global_decomposition_table["post_autograd"], **core_aten_decompositions()}
    return {target: parts for target, parts in table.items() if operator_name(target)[0] not in {*COSTS, *FREE}}


def body_kind(node: fx.Node) -> str:
    """The name of the higher-order operator that a node calls; "" for other nodes."""
    is_higher = node.op == "call_function" and isinstance(node.target, torch._ops.HigherOrderOperator)
    return node.target.name() if is_higher else ""


def bodies_of(node: fx.Node, module: fx.GraphModule) -> list[fx.GraphModule]:
    """The graphs among a node's arguments, in order."""
    targets = [argument.target for argument in node.args if isinstance(argument, fx.Node) and argument.op == "get_attr"]
    attributes = (operator.attrgetter(target)(module) for target in targets)
    return [inline_wrapped(body) for body in attributes if isinstance(body, fx.GraphModule)]


def node_lists(node: fx.Node) -> list[list[Any]]:
    """The lists among a node's arguments, in order: operands, initial values, values captured by a loop."""
    return [list(argument) for argument in node.args if isinstance(argument, (list, tuple))]


class Constants:
    """Values of small tensors and numbers that follow from a graph's constants and from `known_values` of nodes."""

    def __init__(self, module: fx.GraphModule, known_values: dict[fx.Node, Any] | None = None) -> None:
        self._module = module
        self._values = dict(known_values or {})

    def value(self, argument: Any) -> Any:
        """The value of an argument of a call; `None` if unknown."""
        if not isinstance(argument, fx.Node):
            return argument
        if argument not in self._values:
            self._values[argument] = self._evaluate(argument)
        return self._values[argument]

    def _evaluate(self, node: fx.Node) -> Any:
        if node.op == "placeholder":
            return node.meta.get(CONSTANT)
        if node.op == "get_attr":
            value = operator.attrgetter(node.target)(self._module)
            real = isinstance(value, torch.Tensor) and type(value) in (torch.Tensor, torch.nn.Parameter) and not value.is_meta
            return value if real and value.numel() <= _SMALL else None
        result = node.meta.get("val")
        small = not isinstance(result, torch.Tensor) or result.numel() <= _SMALL
        if node.op != "call_function" or body_kind(node) or not small or isinstance(result, (list, tuple)):
            return None
        if any(self.value(source) is None for source in node.all_input_nodes):
            return None
        arguments, options = fx.map_arg((node.args, dict(node.kwargs)), self.value)
        if options.get("device") is not None:
            options = {**options, "device": torch.device("cpu")}
        with torch.no_grad(), torch.utils._python_dispatch._disable_current_modes():
            return node.target(*arguments, **options)


def trip_count(node: fx.Node, module: fx.GraphModule, outer: Constants) -> int | None:
    """Number of runs of a `while_loop` if constants determine it; `None` where it depends on data."""
    condition, body = bodies_of(node, module)
    carried, *extra = node_lists(node)
    fixed = [outer.value(argument) for operands in extra for argument in operands]
    values = [outer.value(argument) for argument in carried]
    for steps in range(_MOST_STEPS):
        goes_on = _outputs(condition, values + fixed)[0]
        if goes_on is None:
            return None
        if not bool(goes_on):
            return steps
        values = _outputs(body, values + fixed)
    return None


def _outputs(body: fx.GraphModule, values: Sequence[Any]) -> list[Any]:
    """The results of a body for values of its placeholders; `None` for an unknown result."""
    constants = Constants(body, dict(zip(body.graph.find_nodes(op="placeholder"), values, strict=True)))
    returned = body.graph.output_node().args[0]
    return [constants.value(argument) for argument in (returned if isinstance(returned, (list, tuple)) else [returned])]
