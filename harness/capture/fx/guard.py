"""What holds while a capture runs: it is the only one of the process, hubs are offline, the model cannot end the process, and an
accelerator that it names and this machine lacks is the CPU."""

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
"""Tracing changes torch for the whole process while it lasts: module hooks, Dynamo's settings, `torch.Tensor.set_`."""
_OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "USE_HUB_KERNELS": "0"}
"""Switches of Hugging Face's libraries in the environment; those imported already have read them, see `hubs_offline`."""

_ACCELERATORS = ("cuda", "xpu", "mps", "hpu", "npu")
_MOVES = {name: getattr(torch.Tensor, name) for name in ("cuda", "xpu") if hasattr(torch.Tensor, name)}


def guarded(function: Callable[P, R]) -> Callable[P, R]:
    """Decorator for capture functions: one capture at a time, with hubs offline; `CaptureError` where the model calls sys.exit or
    raises what is no `Exception`."""

    @functools.wraps(function)
    def alone(*args: P.args, **kwargs: P.kwargs) -> R:
        with _ONE_AT_A_TIME, hubs_offline():
            try:
                return function(*args, **kwargs)
            except SystemExit as error:
                raise CaptureError(f"the model's code called sys.exit({error.code!r})") from error
            except (Exception, KeyboardInterrupt):
                raise
            except BaseException as error:
                raise CaptureError(f"the model's code raised {type(error).__name__}: {error}") from error

    return alone


@contextmanager
def hubs_offline() -> Iterator[None]:
    """While active, Hugging Face's libraries take files from their cache only: a config or a model that names something in a hub
    gets an error of theirs, not a download."""
    own = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    constants: Any = sys.modules.get("huggingface_hub.constants")
    online = getattr(constants, "HF_HUB_OFFLINE", None)
    if online is not None:
        constants.HF_HUB_OFFLINE = True
    try:
        with environment(_OFFLINE):
            yield
    finally:
        # A library that was imported meanwhile read the environment, and goes by the user's own switch from now on.
        constants = sys.modules.get("huggingface_hub.constants")
        if constants is not None:
            constants.HF_HUB_OFFLINE = online if online is not None else own.upper() in ("1", "ON", "YES", "TRUE")


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
