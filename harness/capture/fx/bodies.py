"""Graphs inside a graph: the operators that torch computes an operator without a cost from, and the bodies of branches and loops.
Of a branch the costlier body counts; a loop counts as often as it runs where that follows from constants, otherwise once."""

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
"""Higher-order operators whose bodies are counted; others are listed as unknown, or have a cost of their own."""
BRANCH_NOTE = "of a branch that data decides (torch.cond) the costlier side is counted"
LOOP_NOTE = "a loop whose end depends on data (torch.while_loop) is counted once"
CONSTANT = "shmoo_constant"
"""Key of a placeholder's `meta`: the tensor that it always stands for."""
_MOST_STEPS = 100_000
_SMALL = 64
"""Elements of the largest tensor whose value is followed."""
_PLACE = ("nn_module_stack", "fwd_nn_module_stack", "stack_trace")
"""Keys of a node's `meta` that say where in the model it comes from."""


def parts_of(node: fx.Node, number: Number) -> tuple[fx.GraphModule, list[fx.Node]] | None:
    """The graph of a call in parts, and the nodes that its placeholders stand for; `None` where torch has no parts for it.

    Parts are those of torch's table of decompositions into core ATen operators, and what a composite operator calls; operators
    that have a cost stay whole.
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
    """Torch's decompositions of operators without a cost, those into core ATen operators first."""
    from torch._decomp import core_aten_decompositions, global_decomposition_table

    table = {**global_decomposition_table["post_autograd"], **core_aten_decompositions()}
    return {target: parts for target, parts in table.items() if operator_name(target)[0] not in {*COSTS, *FREE}}


def body_kind(node: fx.Node) -> str:
    """The name of the higher-order operator that a node calls, "" for any other node."""
    is_higher = node.op == "call_function" and isinstance(node.target, torch._ops.HigherOrderOperator)
    return node.target.name() if is_higher else ""


def bodies_of(node: fx.Node, module: fx.GraphModule) -> list[fx.GraphModule]:
    """The graphs among a node's arguments, in order."""
    named = [argument.target for argument in node.args if isinstance(argument, fx.Node) and argument.op == "get_attr"]
    found = (operator.attrgetter(target)(module) for target in named)
    return [inline_wrapped(body) for body in found if isinstance(body, fx.GraphModule)]


def node_lists(node: fx.Node) -> list[list[Any]]:
    """The lists among a node's arguments, in order: operands, initial values, what a loop closes over."""
    return [list(argument) for argument in node.args if isinstance(argument, (list, tuple))]


class Constants:
    """Values of small tensors and numbers that follow from a graph's constants alone, and from the `given` values of nodes."""

    def __init__(self, module: fx.GraphModule, given: dict[fx.Node, Any] | None = None) -> None:
        self._module = module
        self._known = dict(given or {})

    def value(self, argument: Any) -> Any:
        """The value of an argument of a call, `None` where it is not known."""
        if not isinstance(argument, fx.Node):
            return argument
        if argument not in self._known:
            self._known[argument] = self._evaluate(argument)
        return self._known[argument]

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
    """How often a `while_loop` runs, where its condition follows from constants; `None` where it depends on data."""
    condition, body = bodies_of(node, module)
    carried, *extra = node_lists(node)
    fixed = [outer.value(argument) for more in extra for argument in more]
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
    """What a body returns for values of its placeholders, `None` for what is not known."""
    constants = Constants(body, dict(zip(body.graph.find_nodes(op="placeholder"), values, strict=True)))
    returned = body.graph.output_node().args[0]
    return [constants.value(argument) for argument in (returned if isinstance(returned, (list, tuple)) else [returned])]
