"""Graphs inside a graph: regions that torch wraps into one call (autocast, gradient mode, checkpointing) laid open in place."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from shmoo.harness.capture.autocast import ENTER, EXIT

WRAPPERS = frozenset(
    {
        "wrap",
        "wrap_with_autocast",
        "wrap_with_set_grad_enabled",
        "wrap_activation_checkpoint",
        "tag_activation_checkpoint",
        "hints_wrapper",
        "invoke_subgraph",
    }
)
"""Higher-order operators that call the graph they are given once, with their last arguments."""


def inline_wrapped(module: fx.GraphModule) -> fx.GraphModule:
    """`module`, in whose graph every call of one of `WRAPPERS` is replaced by the nodes of the graph it calls."""
    for node in list(module.graph.nodes):
        if isinstance(node.target, torch._ops.HigherOrderOperator) and node.target.name() in WRAPPERS:
            _inline(module, node)
    return module


def _inline(module: fx.GraphModule, node: fx.Node) -> None:
    named = next((a for a in node.args if isinstance(a, fx.Node) and a.op == "get_attr"), None)
    body = None if named is None else operator.attrgetter(named.target)(module)
    if not isinstance(body, fx.GraphModule):
        return
    inline_wrapped(body)
    placeholders = body.graph.find_nodes(op="placeholder")
    known: dict[fx.Node, Any] = dict(zip(placeholders, node.args[len(node.args) - len(placeholders) :], strict=True))
    results: Any = None
    with module.graph.inserting_before(node):
        entered = module.graph.call_function(ENTER, node.args[:4]) if node.target.name() == "wrap_with_autocast" else None
        for inner in body.graph.nodes:
            if inner.op == "output":
                results = fx.map_arg(inner.args[0], known.__getitem__)
            elif inner not in known:
                copied = module.graph.node_copy(inner, known.__getitem__)
                if inner.op == "get_attr":
                    copied.target = f"{named.target}.{inner.target}"
                known[inner] = copied
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
