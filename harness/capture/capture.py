"""A model -> its graphs, through torch.compile with a capturing back-end, or through torch.export."""

from __future__ import annotations

import contextlib
import inspect
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import msgspec
import torch
from torch import fx
from torch._guards import TracingContext

from shmoo.estimators.records import Graph, ValueKind
from shmoo.harness.capture.eager import EagerRecorder
from shmoo.harness.capture.errors import CaptureError
from shmoo.harness.capture.introspect import relative_path
from shmoo.harness.capture.origins import Origins
from shmoo.harness.capture.trace import attribute_tensors, trace_aten
from shmoo.harness.capture.walker import FXGraphWalker, Origin

Method = Literal["compile", "export"]


class Capture(msgspec.Struct, frozen=True, omit_defaults=True):
    """A model's graphs, in the order they ran.

    Attributes:
        graphs: one for each piece that Dynamo made and for each run of operators between pieces.
        break_reasons: why torch.compile breaks the model into pieces, and what it leaves to eager execution.
        method: "compile" (torch.compile's pieces) or "export" (torch.export's single graph).
    """

    graphs: tuple[Graph, ...]
    break_reasons: tuple[str, ...] = ()
    method: Method = "compile"


def capture(
    model: Callable[..., Any], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, *, name: str = ""
) -> Capture:
    """Capture what `model(*args, **kwargs)` computes at inference.

    The model is called once, under `torch.no_grad()`, in the training or evaluation mode it is in; on the meta device that costs
    neither memory nor arithmetic. Shapes are those of the arguments. A graph break gives several graphs. Operators that
    torch.compile leaves to eager execution arrive in their parts, so torch.export, which keeps them whole, is preferred then, and
    where torch.compile fails.

    Raises:
        CaptureError: neither torch.compile nor torch.export can take the model.
    """
    label = name or getattr(model, "__name__", type(model).__name__)
    try:
        found, whole = _capture_compiled(model, args, dict(kwargs or {}), label, name)
    except CaptureError as failed:
        try:
            return capture_exported(model, args, kwargs, name=name)
        except CaptureError as error:
            raise CaptureError(f"{failed}; {error}") from error
    if whole:
        return found
    try:
        exported = capture_exported(model, args, kwargs, name=name)
    except CaptureError:
        return found
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
        raise CaptureError(f"torch.export cannot take {name or type(model).__name__!r}: {_first_line(error)}") from error
    kinds: dict[str, ValueKind] = {"PARAMETER": "parameter", "BUFFER": "buffer", "CONSTANT_TENSOR": "constant"}
    origins = [
        Origin(kinds.get(spec.kind.name, "input"), spec.target or getattr(spec.arg, "name", ""))
        for spec in program.graph_signature.input_specs
    ]
    return Capture((FXGraphWalker().walk(program.graph_module, origins=origins, name=name),), method="export")


class _FunctionModule(torch.nn.Module):
    """A function as a module, which is what torch.export takes."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)


class _CapturingBackend:
    """A torch.compile back-end that keeps each piece as a `Graph` when it runs, and runs it as it is."""

    def __init__(self, model: Callable[..., Any], name: str) -> None:
        self.name = name
        self.graphs: list[Graph] = []
        self.origins = Origins(model)
        self.recorder = EagerRecorder(self.origins, self._segment)
        self.break_reasons: list[str] = []
        self.whole = True

    def __call__(self, module: fx.GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
        context = TracingContext.try_get()
        traced = trace_aten(module, inputs, context.fake_mode if context else None)
        origins = [
            self.origins.of(value, source_of(node))
            for node, value in zip(module.graph.find_nodes(op="placeholder"), inputs, strict=True)
        ]
        origins += [self.origins.of(held, target) for target, held in attribute_tensors(module).items()]
        graph = FXGraphWalker().walk(traced, origins=origins, name=self.name)
        reason = getattr(module, "compile_subgraph_reason", None)
        if reason is not None and reason.graph_break:
            self.break_reasons.append(_describe_break(reason))

        def run(*arguments: Any) -> Any:
            results = self.recorder.run_unseen(module.forward, arguments)
            self.graphs.append(graph)
            self.origins.flows(results)
            return results

        return run

    def _segment(self, module: fx.GraphModule, origins: list[Origin]) -> None:
        graph = FXGraphWalker().walk(module, origins=origins, name=self.name)
        if graph.calls:
            self.whole = False
            self.graphs.append(graph)
            self.break_reasons.append(f"{len(graph.calls)} operators left to eager execution ({graph.calls[0].source})")


def _capture_compiled(
    model: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any], label: str, name: str
) -> tuple[Capture, bool]:
    """The capture through torch.compile, and whether nothing was left to eager execution."""
    from torch._dynamo import config
    from torch._dynamo.utils import counters

    backend = _CapturingBackend(model, name)
    backend.origins.flows(args, kwargs)
    before = dict(counters["graph_break"])
    try:
        with torch.no_grad(), config.patch(recompile_limit=_NO_LIMIT, accumulated_recompile_limit=_NO_LIMIT):
            compiled = torch.compile(model, backend=backend, dynamic=False, **_own_cache())
            with backend.recorder:
                compiled(*args, **kwargs)
            backend.recorder.flush()
    except Exception as error:
        raise CaptureError(f"torch.compile cannot take {label!r}: {_first_line(error)}") from error
    reasons = list(backend.break_reasons)
    for text, count in counters["graph_break"].items():
        skipped = _first_line(text)
        if count > before.get(text, 0) and not any(reason.startswith(skipped) for reason in reasons):
            reasons.append(skipped)
    return Capture(tuple(backend.graphs), tuple(reasons)), backend.whole


_NO_LIMIT = 1 << 20
"""Captures of one model at many shapes are not recompilations to be stopped."""


def _own_cache() -> dict[str, bool]:
    """Keep what a capture compiles apart from what the process compiles otherwise, where torch.compile can (2.13 and on)."""
    return {"isolate_recompiles": True} if "isolate_recompiles" in inspect.signature(torch.compile).parameters else {}


def _describe_break(reason: Any) -> str:
    """ "Failed to trace builtin operator (model.py:12)" of Dynamo's own account of why a piece ended."""
    stack = reason.user_stack
    where = f" ({relative_path(stack[-1].filename)}:{stack[-1].lineno})" if stack else ""
    return _first_line(reason.reason) + where


def source_of(node: fx.Node) -> str:
    """Where Dynamo found what a placeholder stands for: "L['x']"."""
    argument = node.meta.get("grapharg")
    name = getattr(argument.source, "name", "") if argument is not None else ""
    return name() if callable(name) else name


def _first_line(problem: object) -> str:
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    return lines[0] if lines else type(problem).__name__
