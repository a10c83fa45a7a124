"""torch.compile's pieces: a capturing back-end that keeps each as traced ATen operators, with the origins of its inputs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch import fx
from torch._guards import TracingContext
from torch._subclasses.fake_tensor import FakeTensor

from shmoo.estimators.records import Graph
from shmoo.harness.capture.eager import EagerRecorder
from shmoo.harness.capture.introspect import CaptureError, first_line, relative_path
from shmoo.harness.capture.trace import attribute_tensors, trace_aten
from shmoo.harness.capture.walker import FXGraphWalker, Origin, Origins, source_of


class Piece(NamedTuple):
    """One piece of a model: its operators with their fake results, and the origins and values of its placeholders.

    Attributes:
        fakes: a fake value for each placeholder that Dynamo made; their sizes are symbolic where they were marked so.
        arguments: the values of the placeholders when the piece ran.
    """

    module: fx.GraphModule
    origins: tuple[Origin, ...]
    graph: Graph
    fakes: tuple[Any, ...] = ()
    arguments: tuple[Any, ...] = ()


class Compiled(NamedTuple):
    """The pieces that torch.compile makes of one call of a model.

    Attributes:
        pieces: in the order they ran.
        break_reasons: why there are several.
        whole: whether no operator was left to eager execution.
    """

    pieces: tuple[Piece, ...]
    break_reasons: tuple[str, ...]
    whole: bool


class _CapturingBackend:
    """A torch.compile back-end that records each piece when it runs, and runs it unchanged."""

    def __init__(self, model: Callable[..., Any], name: str) -> None:
        self.name = name
        self.pieces: list[Piece] = []
        self.origins = Origins(model)
        self.recorder = EagerRecorder(self.origins, self._add_eager_segment)
        self.break_reasons: list[str] = []
        self.whole = True

    def __call__(self, module: fx.GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
        context = TracingContext.try_get()
        fakes = tuple(inputs) if context is None or context.fake_mode is None else _fake_inputs(inputs, context)
        traced = trace_aten(module, fakes, context.fake_mode if context else None)
        origins = piece_origins(module, inputs, self.origins)
        graph = FXGraphWalker().walk(traced, origins=origins, name=self.name)
        reason = getattr(module, "compile_subgraph_reason", None)
        if reason is not None and reason.graph_break:
            frames = reason.user_stack
            where = f" ({relative_path(frames[-1].filename)}:{frames[-1].lineno})" if frames else ""
            self.break_reasons.append(first_line(reason.reason) + where)

        def run(*arguments: Any) -> Any:
            results = self.recorder.run_unseen(module.forward, arguments)
            self.pieces.append(Piece(traced, tuple(origins), graph, fakes, arguments))
            self.origins.flows(results)
            return results

        return run

    def _add_eager_segment(self, module: fx.GraphModule, origins: list[Origin]) -> None:
        graph = FXGraphWalker().walk(module, origins=origins, name=self.name)
        if graph.calls:
            self.whole = False
            self.pieces.append(Piece(module, tuple(origins), graph))
            self.break_reasons.append(f"{len(graph.calls)} operators left to eager execution ({graph.calls[0].source})")


def placeholder_origins(module: fx.GraphModule, inputs: Sequence[Any], origins: Origins) -> list[Origin]:
    """Origins of the placeholders that Dynamo gave a piece."""
    placeholders = module.graph.find_nodes(op="placeholder")
    return [origins.of(value, source_of(node)) for node, value in zip(placeholders, inputs, strict=True)]


def piece_origins(module: fx.GraphModule, inputs: Sequence[Any], origins: Origins) -> list[Origin]:
    """Origins of the placeholders of a piece traced by `trace_aten`: Dynamo's, then those of the tensors in the piece itself."""
    attributes = attribute_tensors(module).items()
    return [*placeholder_origins(module, inputs, origins), *(origins.of(tensor, target) for target, tensor in attributes)]


def _fake_inputs(inputs: Sequence[Any], context: TracingContext) -> tuple[Any, ...]:
    """The inputs as fake tensors, with the sizes that Dynamo made symbolic."""

    def fake(value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or isinstance(value, FakeTensor):
            return value
        symbols = context.tensor_to_context.get(value)
        if symbols is None:
            return context.fake_mode.from_tensor(value, static_shapes=True)
        return context.fake_mode.from_tensor(value, symbolic_context=symbols, source=symbols.tensor_source)

    return tuple(fake(value) for value in inputs)


def compile_pieces(model: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], name: str = "") -> Compiled:
    """Run `model(*args, **kwargs)` once under torch.compile, without gradients, and record its pieces.

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
    """Lift Dynamo's limits on recompilation, which captures of one model at many shapes would reach."""
    from torch._dynamo import config

    unlimited = 1 << 20
    return config.patch(recompile_limit=unlimited, accumulated_recompile_limit=unlimited)


def own_cache() -> dict[str, bool]:
    """Options that isolate a capture from the process's other compilations, where torch.compile can (2.13 and later)."""
    return {"isolate_recompiles": True} if "isolate_recompiles" in inspect.signature(torch.compile).parameters else {}
