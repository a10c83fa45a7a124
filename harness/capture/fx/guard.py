"""Guards around a capture: one runs at a time in the process, hubs are offline, the model cannot end the process, and the CPU
replaces an accelerator that this machine lacks."""

from __future__ import annotations

import functools
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

import torch
from torch.overrides import TorchFunctionMode

from shmoo.harness.capture.fx.introspect import CaptureError

P = ParamSpec("P")
R = TypeVar("R")

_ONE_AT_A_TIME = threading.RLock()
"""Tracing changes process-wide state of torch: module hooks, Dynamo's settings, `torch.Tensor.set_`."""
_OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "USE_HUB_KERNELS": "0"}
"""Environment variables of Hugging Face's libraries. Libraries imported earlier have read them already, see `hubs_offline`."""

_ACCELERATORS = ("cuda", "xpu", "mps", "hpu", "npu")
_MOVES = {name: getattr(torch.Tensor, name) for name in ("cuda", "xpu") if hasattr(torch.Tensor, name)}


def guarded(function: Callable[P, R]) -> Callable[P, R]:
    """Decorator for capture functions: one capture at a time, with hubs offline; `CaptureError` where the model calls sys.exit or
    raises anything but an `Exception`."""

    @functools.wraps(function)
    def one_at_a_time(*args: P.args, **kwargs: P.kwargs) -> R:
        with _ONE_AT_A_TIME, hubs_offline():
            try:
                return function(*args, **kwargs)
            except SystemExit as error:
                raise CaptureError(f"the model's code called sys.exit({error.code!r})") from error
            except (Exception, KeyboardInterrupt):
                raise
            except BaseException as error:
                raise CaptureError(f"the model's code raised {type(error).__name__}: {error}") from error

    return one_at_a_time


@contextmanager
def hubs_offline() -> Iterator[None]:
    """While active, Hugging Face's libraries read files from their cache only. A config or model that names a file in a hub gets
    their error instead of a download."""
    user_switch = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    constants: Any = sys.modules.get("huggingface_hub.constants")
    online = getattr(constants, "HF_HUB_OFFLINE", None)
    if online is not None:
        constants.HF_HUB_OFFLINE = True
    try:
        with environment(_OFFLINE):
            yield
    finally:
        # A library imported meanwhile has read the changed environment; restore the user's setting in it.
        constants = sys.modules.get("huggingface_hub.constants")
        if constants is not None:
            constants.HF_HUB_OFFLINE = online if online is not None else user_switch.upper() in ("1", "ON", "YES", "TRUE")


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """While active, the environment has these variables."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _absent(device: Any) -> bool:
    """Whether `device` (a name, a number or a `torch.device`) is an accelerator that this machine lacks."""
    if isinstance(device, bool) or not isinstance(device, (str, int, torch.device)):
        return False
    name = "cuda" if isinstance(device, int) else str(device).partition(":")[0]
    return name in _ACCELERATORS and not (name == "cuda" and torch.cuda.is_available())


class _OnCpu(TorchFunctionMode):
    """While active, tensors requested on an absent device are created on the CPU, or stay there."""

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        # Dynamo compiles this method together with the body of a branch or loop. Most other calls only query a shape.
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
    would have on the accelerator."""
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
