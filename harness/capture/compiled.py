"""torch.compile's pieces: a capturing back-end that keeps each as traced ATen operators, with what entered it from where."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch import fx
from torch._guards import TracingContext
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from shmoo.estimators.records import Graph
from shmoo.harness.capture.eager import EagerRecorder
from shmoo.harness.capture.errors import CaptureError, first_line
from shmoo.harness.capture.introspect import relative_path
from shmoo.harness.capture.origins import Origins, source_of
from shmoo.harness.capture.trace import attribute_tensors, trace_aten
from shmoo.harness.capture.walker import FXGraphWalker, Origin


class Piece(NamedTuple):
    """One piece of a model: its operators with their fake results, what its placeholders stand for, and what they get.

    Attributes:
        fakes: a fake value for each placeholder that Dynamo made; their sizes are symbolic where they were marked so.
        arguments: what the placeholders got when the piece ran.
    """

    module: fx.GraphModule
    origins: tuple[Origin, ...]
    graph: Graph
    fakes: tuple[Any, ...] = ()
    arguments: tuple[Any, ...] = ()


class Compiled(NamedTuple):
    """What torch.compile made of one call of a model.

    Attributes:
        pieces: in the order they ran.
        break_reasons: why there are several.
        whole: whether nothing was left to eager execution.
    """

    pieces: tuple[Piece, ...]
    break_reasons: tuple[str, ...]
    whole: bool


class _CapturingBackend:
    """A torch.compile back-end that keeps each piece when it runs, and runs it as it is."""

    def __init__(self, model: Callable[..., Any], name: str) -> None:
        self.name = name
        self.pieces: list[Piece] = []
        self.origins = Origins(model)
        self.recorder = EagerRecorder(self.origins, self._segment)
        self.break_reasons: list[str] = []
        self.whole = True

    def __call__(self, module: fx.GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
        context = TracingContext.try_get()
        fakes = tuple(inputs) if context is None or context.fake_mode is None else _fakes(inputs, context, context.fake_mode)
        traced = trace_aten(module, fakes, context.fake_mode if context else None)
        origins = origins_of(module, inputs, self.origins)
        origins += [self.origins.of(held, target) for target, held in attribute_tensors(module).items()]
        graph = FXGraphWalker().walk(traced, origins=origins, name=self.name)
        reason = getattr(module, "compile_subgraph_reason", None)
        if reason is not None and reason.graph_break:
            self.break_reasons.append(_describe_break(reason))

        def run(*arguments: Any) -> Any:
            results = self.recorder.run_unseen(module.forward, arguments)
            self.pieces.append(Piece(traced, tuple(origins), graph, fakes, arguments))
            self.origins.flows(results)
            return results

        return run

    def _segment(self, module: fx.GraphModule, origins: list[Origin]) -> None:
        graph = FXGraphWalker().walk(module, origins=origins, name=self.name)
        if graph.calls:
            self.whole = False
            self.pieces.append(Piece(module, tuple(origins), graph))
            self.break_reasons.append(f"{len(graph.calls)} operators left to eager execution ({graph.calls[0].source})")


def origins_of(module: fx.GraphModule, inputs: Sequence[Any], origins: Origins) -> list[Origin]:
    """What the placeholders stand for that Dynamo gave a piece."""
    placeholders = module.graph.find_nodes(op="placeholder")
    return [origins.of(value, source_of(node)) for node, value in zip(placeholders, inputs, strict=True)]


def _fakes(inputs: Sequence[Any], context: TracingContext, mode: FakeTensorMode) -> tuple[Any, ...]:
    """The inputs as fake tensors, with the sizes that Dynamo made symbolic."""

    def fake(value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or isinstance(value, FakeTensor):
            return value
        how = context.tensor_to_context.get(value)
        if how is None:
            return mode.from_tensor(value, static_shapes=True)
        return mode.from_tensor(value, symbolic_context=how, source=how.tensor_source)

    return tuple(fake(value) for value in inputs)


def compile_pieces(model: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], name: str = "") -> Compiled:
    """Run `model(*args, **kwargs)` once under torch.compile, without gradients, and keep its pieces.

    Sizes are those of the arguments, except the dimensions of an argument that `torch._dynamo.maybe_mark_dynamic` marked.

    Raises:
        CaptureError: torch.compile cannot take the model, or the model fails.
    """
    from torch._dynamo.utils import counters

    backend = _CapturingBackend(model, name)
    backend.origins.flows(args, kwargs)
    before = dict(counters["graph_break"])
    try:
        with torch.no_grad(), no_recompile_limit():
            compiled = torch.compile(model, backend=backend, dynamic=False, **own_cache())
            with backend.recorder:
                compiled(*args, **kwargs)
            backend.recorder.flush()
    except Exception as error:
        label = name or getattr(model, "__name__", type(model).__name__)
        raise CaptureError(f"torch.compile cannot take {label!r}: {first_line(error)}") from error
    reasons = list(backend.break_reasons)
    for text, count in counters["graph_break"].items():
        skipped = first_line(text)
        if count > before.get(text, 0) and not any(reason.startswith(skipped) for reason in reasons):
            reasons.append(skipped)
    return Compiled(tuple(backend.pieces), tuple(reasons), backend.whole)


def no_recompile_limit() -> AbstractContextManager[None]:
    """Captures of one model at many shapes are not recompilations to be stopped."""
    from torch._dynamo import config

    unlimited = 1 << 20
    return config.patch(recompile_limit=unlimited, accumulated_recompile_limit=unlimited)


def own_cache() -> dict[str, bool]:
    """Keep what a capture compiles apart from what the process compiles otherwise, where torch.compile can (2.13 and on)."""
    return {"isolate_recompiles": True} if "isolate_recompiles" in inspect.signature(torch.compile).parameters else {}


def _describe_break(reason: Any) -> str:
    """ "Failed to trace builtin operator (model.py:12)" of Dynamo's own account of why a piece ended."""
    stack = reason.user_stack
    where = f" ({relative_path(stack[-1].filename)}:{stack[-1].lineno})" if stack else ""
    return first_line(reason.reason) + where
