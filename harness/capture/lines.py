"""Where in the model's own code an operator is called, while its Python runs."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch.fx.traceback import get_current_meta
from torch.overrides import TorchFunctionMode

TORCH = str(Path(torch.__file__).parent) + os.sep
_CAPTURE = str(Path(__file__).parent) + os.sep


def model_frame(depth: int = 1) -> str:
    """The innermost frame outside torch, as a stack trace writes it; torch's own where the model is made of nothing else.

    Args:
        depth: frames between the caller and the operator.
    """
    frame: FrameType | None = sys._getframe(depth + 1)
    innermost: FrameType | None = None
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(_CAPTURE):
            # A recorder on the way, or, behind the model, whoever asked for the capture.
            if innermost is not None and not frame.f_code.co_name.startswith("__torch_"):
                break
        elif not file.startswith((TORCH, "<")):
            return _text(frame)
        elif innermost is None and not file.startswith("<"):
            innermost = frame
        frame = frame.f_back
    return "" if innermost is None else _text(innermost)


def _text(frame: FrameType) -> str:
    return f'File "{frame.f_code.co_filename}", line {frame.f_lineno}'


class Lines(TorchFunctionMode):
    """While active, every traced node notes the line of the model's own code that it comes from."""

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        if getattr(func, "__name__", "") != "__get__":  # most calls only ask for a shape or a type
            get_current_meta()["stack_trace"] = model_frame()
        return func(*args, **(kwargs or {}))
