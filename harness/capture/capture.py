"""A model -> its graphs, through torch.export or through torch.compile with a capturing back-end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import msgspec

from shmoo.estimators.records import Graph
from shmoo.harness.capture.compiled import compile_pieces
from shmoo.harness.capture.errors import CaptureError
from shmoo.harness.capture.exported import export_graph, exportable
from shmoo.harness.capture.unread import with_unread_weights
from shmoo.harness.capture.walker import FXGraphWalker

Method = Literal["export", "compile", "trace", "joint"]


class Capture(msgspec.Struct, frozen=True, omit_defaults=True):
    """A model's graphs, in the order they ran.

    Attributes:
        graphs: one, or one for each piece that Dynamo made and for each run of operators between pieces.
        break_reasons: why torch.compile breaks the model into pieces, and what it leaves to eager execution.
        method: "export" (torch.export's single graph), "compile" (torch.compile's pieces), "trace" (the model's Python run on
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

    The model's code runs once, under `torch.no_grad()`, in the training or evaluation mode it is in; on the meta device that
    costs neither memory nor arithmetic. Shapes are those of the arguments. Under `torch.autocast` the conversions that it makes
    are calls of their own.

    A module goes through torch.export, which gives one graph of whole operators, also where torch.compile would break off (a
    `print`). Where it fails (a branch on data), and for a function, whose weights torch.export would not tell from other tensors,
    torch.compile's pieces are taken, with the reasons for the breaks: see `capture_compiled`, which can also be called first.

    Raises:
        CaptureError: neither torch.export nor torch.compile can take the model.
    """
    ways = (capture_exported, capture_compiled) if exportable(model) else (capture_compiled, capture_exported)
    failures = []
    for way in ways:
        try:
            found = way(model, args, kwargs, name=name)
            return msgspec.structs.replace(found, graphs=with_unread_weights(found.graphs, model))
        except CaptureError as error:
            failures.append(error)
    raise CaptureError("; ".join(str(error) for error in failures)) from failures[-1]


def capture_compiled(
    model: Callable[..., Any], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, *, name: str = ""
) -> Capture:
    """As `capture`, through torch.compile: a graph break gives a graph for each piece, and branches on data are taken.

    Operators that torch.compile leaves to eager execution arrive in their parts; torch.export, which keeps them whole, is asked
    then, and its graph taken where it can.

    Raises:
        CaptureError: torch.compile cannot take the model, or the model fails.
    """
    found = compile_pieces(model, args, dict(kwargs or {}), name)
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
    found = export_graph(model, args, dict(kwargs or {}), name=name)
    return Capture((FXGraphWalker().walk(found.module, origins=found.origins, name=name),), method="export")
