"""A call of an operator without a cost -> the operators that torch computes it from."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_flatten, tree_unflatten

from shmoo.estimators.costs import COSTS, FREE
from shmoo.harness.capture.fx.introspect import Number, first_line, is_tensor_node, operator_name, tensor_of

logger = logging.getLogger(__name__)
_PLACE = ("nn_module_stack", "fwd_nn_module_stack", "stack_trace")
"""Keys of a node's `meta` that say where in the model it comes from."""


def parts_of(node: fx.Node, number: Number) -> tuple[fx.GraphModule, list[fx.Node]] | None:
    """The graph of a call in parts, and the nodes that its placeholders stand for; `None` where torch has no parts for it.

    Parts are those of torch's table of decompositions into core ATen operators, and what a composite operator calls; operators
    that have a cost stay whole.

    Args:
        number: gives symbolic sizes their value.
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


def _decompositions() -> dict[Any, Callable[..., Any]]:
    return {target: parts for target, parts in _table().items() if operator_name(target)[0] not in {*COSTS, *FREE}}


@cache
def _table() -> dict[Any, Callable[..., Any]]:
    """All of torch's decompositions, those into core ATen operators first."""
    from torch._decomp import core_aten_decompositions, global_decomposition_table

    return {**global_decomposition_table["post_autograd"], **core_aten_decompositions()}
