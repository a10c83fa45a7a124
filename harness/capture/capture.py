"""A model -> its graphs, through torch.export or through torch.compile with a capturing back-end."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec
import torch

from shmoo.harness.capture.compiled import compile_pieces
from shmoo.harness.capture.exported import export_graph, exportable
from shmoo.harness.capture.fx.guard import guarded
from shmoo.harness.capture.fx.introspect import CaptureError
from shmoo.harness.capture.fx.walker import FXGraphWalker, with_all_weights, with_notes
from shmoo.harness.module import Capture


@guarded
def capture(
    model: Callable[..., Any], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, *, name: str = ""
) -> Capture:
    """Capture `model(*args, **kwargs)` at inference; a single tensor may stand for `args`.

    The model's code runs once, under `torch.no_grad()`, in its current training or evaluation mode; on the meta device that costs
    neither memory nor arithmetic. Shapes are the arguments' shapes. Conversions by `torch.autocast` become separate calls.

    A module goes through torch.export, which gives one graph of whole operators even where torch.compile would split it (a
    `print`). Where that fails (a branch on data), and for a function, whose weights it cannot tell from other tensors, the
    capture consists of torch.compile's pieces, with the reasons for the breaks. `CaptureError` where neither can take the model.
    """
    if isinstance(args, torch.Tensor):
        args = (args,)
    methods = (capture_exported, capture_compiled) if exportable(model) else (capture_compiled, capture_exported)
    failures = []
    for method in methods:
        try:
            return method(model, args, kwargs, name=name)
        except CaptureError as error:
            failures.append(error)
    raise CaptureError(distinct(map(str, failures))) from failures[-1]


def distinct(failures: Iterable[str]) -> str:
    """Failures of several methods in one message, each reason once: "torch.export cannot take 'net': reason"."""
    said: list[str] = []
    for failure in failures:
        reason = failure.partition(": ")[2] or failure
        if not any(reason in other for other in said):
            said.append(failure)
    return "; ".join(said)


@guarded
def capture_compiled(
    model: Callable[..., Any], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, *, name: str = ""
) -> Capture:
    """As `capture`, through torch.compile: a graph break gives a graph for each piece, and branches on data are taken. Operators
    that torch.compile leaves to eager execution arrive decomposed; then the graph of torch.export, which keeps them whole, is
    preferred where it can take the model."""
    pieces, reasons = compile_pieces(model, args, dict(kwargs or {}), name)
    if any(piece.arguments is None for piece in pieces):
        with contextlib.suppress(CaptureError):
            exported = capture_exported(model, args, kwargs, name=name)
            return msgspec.structs.replace(exported, break_reasons=tuple(reasons))
    return Capture(with_all_weights(tuple(piece.graph for piece in pieces), model), tuple(reasons))


@guarded
def capture_exported(
    model: Callable[..., Any], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, *, name: str = ""
) -> Capture:
    """As `capture`, but only through torch.export: one graph of undecomposed operators, no data-dependent branches."""
    exported = export_graph(model, args, dict(kwargs or {}), name=name)
    graph = with_notes(FXGraphWalker().walk(exported.module, origins=exported.origins, name=name), exported.notes)
    return Capture(with_all_weights((graph,), model), method="export")
