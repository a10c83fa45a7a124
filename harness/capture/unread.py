"""Weights that a model holds and no captured call reads, such as heads for training: they take memory all the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import torch

from shmoo.estimators.records import Graph


def with_unread_weights(graphs: Sequence[Graph], model: Any) -> tuple[Graph, ...]:
    """The graphs, the first with the bytes of the model's weights that none of them reads; a shared weight counts once."""
    if not isinstance(model, torch.nn.Module) or not graphs:
        return tuple(graphs)
    read = {value.name for graph in graphs for value in graph.values if value.is_weight}
    names: dict[int, set[str]] = {}
    sizes: dict[int, int] = {}
    for name, tensor in (*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)):
        names.setdefault(id(tensor), set()).add(name)
        # Counters of training steps are no weights.
        sizes[id(tensor)] = tensor.numel() * tensor.element_size() if tensor.dim() else 0
    unread = sum(size for key, size in sizes.items() if names[key].isdisjoint(read))
    return (msgspec.structs.replace(graphs[0], unread_weight_bytes=float(unread)), *graphs[1:])
