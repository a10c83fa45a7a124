"""What holds while a capture runs: it is the only one of the process, hubs are offline, and the model cannot end the process."""

from __future__ import annotations

import functools
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

from shmoo.harness.capture.fx.introspect import CaptureError

P = ParamSpec("P")
R = TypeVar("R")

_ONE_AT_A_TIME = threading.RLock()
"""Tracing changes torch for the whole process while it lasts: module hooks, Dynamo's settings, `torch.Tensor.set_`."""
_OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "USE_HUB_KERNELS": "0"}
"""Switches of Hugging Face's libraries in the environment; those imported already have read them, see `hubs_offline`."""


def guarded(function: Callable[P, R]) -> Callable[P, R]:
    """Decorator of what captures: one capture at a time, with hubs offline; `CaptureError` where the model calls sys.exit or
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
