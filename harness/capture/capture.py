"""A model -> its graphs, through torch.compile with a capturing back-end, or through torch.export."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import msgspec
import torch

from shmoo.estimators.records import Graph, ValueKind
from shmoo.harness.capture.compiled import compile_pieces
from shmoo.harness.capture.errors import CaptureError, first_line
from shmoo.harness.capture.inline import inline_wrapped
from shmoo.harness.capture.walker import FXGraphWalker, Origin

Method = Literal["compile", "export", "trace", "joint"]


class Capture(msgspec.Struct, frozen=True, omit_defaults=True):
    """A model's graphs, in the order they ran.

    Attributes:
        graphs: one for each piece that Dynamo made and for each run of operators between pieces.
        break_reasons: why torch.compile breaks the model into pieces, and what it leaves to eager execution.
        method: "compile" (torch.compile's pieces), "export" (torch.export's single graph), "trace" (the model's Python run on
            fake tensors) or "joint" (AOTAutograd's graphs of a forward and a backward pass).
        note: how it was come by where that was not by running the model at these sizes alone: the capture whose sizes were
            replaced, or why that could not be done.
    """

    graphs: tuple[Graph, ...]
    break_reasons: tuple[str, ...] = ()
    method: Method = "compile"
    note: str = ""


def capture(
    model: Callable[..., Any], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, *, name: str = ""
) -> Capture:
    """Capture what `model(*args, **kwargs)` computes at inference.

    The model is called once, under `torch.no_grad()`, in the training or evaluation mode it is in; on the meta device that costs
    neither memory nor arithmetic. Shapes are those of the arguments. A graph break gives several graphs. Operators that
    torch.compile leaves to eager execution arrive in their parts, so torch.export, which keeps them whole, is preferred then, and
    where torch.compile fails. Under `torch.autocast` the conversions that it makes are calls of their own.

    Raises:
        CaptureError: neither torch.compile nor torch.export can take the model.
    """
    try:
        found = compile_pieces(model, args, dict(kwargs or {}), name)
    except CaptureError as failed:
        try:
            return capture_exported(model, args, kwargs, name=name)
        except CaptureError as error:
            raise CaptureError(f"{failed}; {error}") from error
    compiled = Capture(tuple(piece.graph for piece in found.pieces), found.break_reasons)
    if found.whole:
        return compiled
    try:
        exported = capture_exported(model, args, kwargs, name=name)
    except CaptureError:
        return compiled
    return msgspec.structs.replace(exported, break_reasons=found.break_reasons)


def capture_exported(
    model: Callable[..., Any], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, *, name: str = ""
) -> Capture:
    """As `capture`, through torch.export alone: one graph of undecomposed operators, no data-dependent branches.

    Raises:
        CaptureError: torch.export cannot take the model.
    """
    from torch.export import export

    module = model if isinstance(model, torch.nn.Module) else _FunctionModule(model)
    try:
        # A failing export writes the half-made graph to stderr; its error, which is passed on, says all there is to know.
        with torch.no_grad(), contextlib.redirect_stderr(io.StringIO()):
            program = export(module, tuple(args), dict(kwargs or {}), strict=False)
    except Exception as error:
        raise CaptureError(f"torch.export cannot take {name or type(model).__name__!r}: {first_line(error)}") from error
    kinds: dict[str, ValueKind] = {"PARAMETER": "parameter", "BUFFER": "buffer", "CONSTANT_TENSOR": "constant"}
    origins = [
        Origin(kinds.get(spec.kind.name, "input"), spec.target or getattr(spec.arg, "name", ""))
        for spec in program.graph_signature.input_specs
    ]
    graph = FXGraphWalker().walk(inline_wrapped(program.graph_module), origins=origins, name=name)
    return Capture((graph,), method="export")


class _FunctionModule(torch.nn.Module):
    """A function as a module, which is what torch.export takes."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)
