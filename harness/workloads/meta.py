"""Building models without their weights in memory."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_LARGE = 1 << 24
"""Elements from which a tensor is only ever a weight: none is filled, so that no system can refuse the memory."""


@contextmanager
def weights_on_meta() -> Iterator[None]:
    """While active, parameters and buffers that modules register lie on the meta device, and so do large tensors.

    All other tensors are what they would be: models compute sizes, schedules and anchors with tensors while they are built, which
    the meta device cannot answer. Memory that is allocated for a weight and not written to costs nothing.
    """
    import torch
    from torch.nn.modules.module import register_module_buffer_registration_hook, register_module_parameter_registration_hook
    from torch.nn.parameter import UninitializedTensorMixin
    from torch.overrides import TorchFunctionMode
    from torch.utils.weak import WeakIdKeyDictionary

    makers = frozenset({torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn})
    twins = WeakIdKeyDictionary()

    class LargeOnMeta(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            if func in makers and kwargs.get("device") is None:
                made = func(*args, **{**kwargs, "device": "meta"})
                if made.numel() >= _LARGE:
                    return made
            return func(*args, **kwargs)

    def move(module: torch.nn.Module, name: str, tensor: Any) -> Any:
        if tensor is None or tensor.is_meta or isinstance(tensor, UninitializedTensorMixin):
            return None
        if tensor not in twins:
            there = tensor.detach().to("meta")
            parameter = isinstance(tensor, torch.nn.Parameter)
            twins[tensor] = torch.nn.Parameter(there, tensor.requires_grad) if parameter else there
        return twins[tensor]

    handles = (register_module_parameter_registration_hook(move), register_module_buffer_registration_hook(move))
    try:
        with LargeOnMeta(), warnings.catch_warnings():
            # A checkpoint that is loaded into the model has nowhere to go, and need not.
            warnings.filterwarnings("ignore", message=".*copying from a non-meta parameter")
            yield
    finally:
        for handle in handles:
            handle.remove()
