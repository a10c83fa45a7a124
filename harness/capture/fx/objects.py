"""Tensors inside objects that torch's pytrees do not know: dataclasses, caches of keys and values, batches of a library."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch

_PLAIN = (str, bytes, bool, int, float, complex, type, torch.nn.Module, torch.dtype, torch.device)


def tensors_in(value: Any) -> list[torch.Tensor]:
    """The tensors of a value, in order and each once, also those inside objects."""
    return list(_tensors(value, set()))


def _tensors(value: Any, seen: set[int]) -> Iterator[torch.Tensor]:
    if value is None or isinstance(value, _PLAIN) or id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, torch.Tensor):
        yield value
        return
    if isinstance(value, Mapping):
        parts: Any = value.values()
    elif isinstance(value, (list, tuple, set)):
        parts = value
    else:
        slots = (name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ()))
        parts = [*getattr(value, "__dict__", {}).values(), *(getattr(value, name, None) for name in slots)]
    for part in parts:
        yield from _tensors(part, seen)


def holds_tensors(leaf: Any) -> bool:
    """Whether a leaf of a pytree is an object with tensors inside."""
    return not isinstance(leaf, torch.Tensor) and bool(tensors_in(leaf))


def with_tensors(value: Any, replaced: Mapping[int, torch.Tensor]) -> Any:
    """A copy of an object with its tensors replaced; `replaced` gives the new tensor by the `id` of the old."""
    return copy.deepcopy(value, dict(replaced))
