"""Running a model's code on a machine that lacks the devices it names: what it asks for on a GPU is made on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

_ACCELERATORS = ("cuda", "xpu", "mps", "hpu", "npu")
_MOVES = {name: getattr(torch.Tensor, name) for name in ("cuda", "xpu") if hasattr(torch.Tensor, name)}


def _absent(device: Any) -> bool:
    """Whether `device` (a name, a number or a `torch.device`) is an accelerator that is not there."""
    if isinstance(device, bool) or not isinstance(device, (str, int, torch.device)):
        return False
    name = "cuda" if isinstance(device, int) else str(device).partition(":")[0]
    return name in _ACCELERATORS and not (name == "cuda" and torch.cuda.is_available())


class _OnCpu(TorchFunctionMode):
    """While active, tensors that are asked for on an absent device are made on, or stay on, the CPU."""

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        # Dynamo compiles the body of a branch or a loop, this method with it; most other calls ask for a shape.
        if torch.compiler.is_dynamo_compiling() or getattr(func, "__name__", "") == "__get__":
            return func(*args, **kwargs)
        moved = next((name for name, move in _MOVES.items() if func is move), None)
        if moved is not None and _absent(moved):
            return args[0]
        if _absent(kwargs.get("device")):
            kwargs = {**kwargs, "device": "cpu"}
        if func is torch.Tensor.to and len(args) > 1 and _absent(args[1]):
            args = (args[0], "cpu", *args[2:])
        return func(*args, **kwargs)


@contextmanager
def absent_devices_on_cpu() -> Iterator[None]:
    """While active, code that names an accelerator this machine lacks runs on the CPU; torch.autocast keeps the type it
    would have there."""
    autocast = torch.amp.autocast_mode.autocast
    original = autocast.__init__

    def on_cpu(self: Any, device_type: str, dtype: Any = None, *args: Any, **kwargs: Any) -> None:
        if _absent(device_type):
            dtype, device_type = dtype or torch.get_autocast_dtype(device_type), "cpu"
        original(self, device_type, dtype, *args, **kwargs)

    autocast.__init__ = on_cpu
    try:
        with _OnCpu():
            yield
    finally:
        autocast.__init__ = original
