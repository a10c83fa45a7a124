"""Conversions that `torch.autocast` makes between an operator's call and its arithmetic, which traced graphs leave out."""

from __future__ import annotations

from functools import cache

import torch
from torch import fx

ENTER, EXIT = torch.amp.autocast_mode._enter_autocast, torch.amp.autocast_mode._exit_autocast
"""Functions whose calls mark a region under autocast in a graph."""
_KEYS = {"cpu": "AutocastCPU", "cuda": "AutocastCUDA"}


def autocast_in(module: fx.GraphModule) -> bool:
    """Whether autocast is on around the graph, or goes on inside it."""
    if any(torch.is_autocast_enabled(device) for device in _KEYS):
        return True
    return any(node.target is ENTER for node in module.graph.nodes)


def computes_in(node: fx.Node) -> torch.dtype | None:
    """The type to which autocast brings the floating operands of a call: its result's. `None` for a call it leaves alone.

    The operators it knows are those with a kernel for the dispatch key of the device; one that is told its type by an argument
    keeps to that.
    """
    target, held = node.target, node.meta.get("val")
    result = held[0] if isinstance(held, (list, tuple)) and held else held
    if not isinstance(target, torch._ops.OpOverload) or not isinstance(result, torch.Tensor) or not result.is_floating_point():
        return None
    if node.kwargs.get("dtype") is not None or not _known(target.name(), _KEYS.get(result.device.type, _KEYS["cpu"])):
        return None
    return result.dtype


@cache
def _known(name: str, key: str) -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key(name, key)
