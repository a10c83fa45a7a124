"""A training step -> its graphs: AOTAutograd's joint trace of forward and backward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import msgspec
import torch
from torch import fx

from shmoo.estimators.costs import costs_of
from shmoo.estimators.graph.records import Graph, OpCall
from shmoo.harness.capture.compiled import EagerRecorder, compiled_apart, placeholder_origins
from shmoo.harness.capture.fx.aten_trace import inline_wrapped
from shmoo.harness.capture.fx.guard import guarded
from shmoo.harness.capture.fx.introspect import CaptureError, first_line
from shmoo.harness.capture.fx.walker import FXGraphWalker, Origin, Origins, with_all_weights
from shmoo.harness.capture.recurrent import keep_recurrent_layers
from shmoo.harness.module import Capture


@guarded
def capture_training(
    model: Callable[..., Any], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, *, name: str = ""
) -> Capture:
    """Capture one forward pass, the loss, and the backward pass to every weight of `model(*args, **kwargs)`.

    The loss is the mean of every floating tensor that the model returns. A module runs in training mode, with gradients for the
    floating-point parameters that require them, or for all if none does, as in models made for inference; both settings are
    restored afterwards. Operators are the ones below autograd (`aten.convolution`, `aten.mm`), as AOTAutograd traces them and
    torch's FlopCounterMode counts them; calls of the backward pass carry the module path and the line of their forward call.
    Recurrent layers stay whole (`recurrent.py`). The optimizer's step is not included. A graph break gives one graph per piece;
    operators that torch.compile leaves to eager execution are recorded as they run.

    Raises:
        CaptureError: torch.compile or AOTAutograd cannot take the model, its result has no gradient, or a parameter gets a
            gradient from operators outside the capture.
    """
    label = name or getattr(model, "__name__", type(model).__name__)

    def step(*args: Any, **kwargs: Any) -> torch.Tensor | None:
        terms = [value.mean() for value in _differentiable(model(*args, **kwargs))]
        return sum(terms[1:], terms[0]) if terms else None

    from torch._dynamo import config

    with _training(model):
        backend = _JointBackend(model, name)
        backend.origins.flows(args, dict(kwargs or {}))
        try:
            with torch.enable_grad(), config.patch(allow_rnn=True), compiled_apart(step, backend) as compiled:
                with backend.recorder:
                    loss = compiled(*args, **(kwargs or {}))
                    if not isinstance(loss, torch.Tensor) or not loss.requires_grad:
                        raise CaptureError("nothing that it returns has a gradient")
                    backend.recorder.flush()
                    # If no part runs eagerly, eager operators in the backward pass only accumulate gradients.
                    recording = backend.recorder if backend.eager_calls else nullcontext()
                seed = torch.ones_like(loss)
                with recording:
                    loss.backward(seed)
                backend.recorder.flush()
                trained = [name for name, p in _parameters(model) if p.grad is not None]
        except CaptureError as error:
            raise CaptureError(f"cannot train {label!r}: {error}") from error
        except Exception as error:
            raise CaptureError(f"AOTAutograd cannot take {label!r}: {first_line(error)}") from error
    reasons = [*backend.break_reasons]
    if backend.eager_calls:
        reasons.append(f"{len(backend.eager_calls)} operators left to eager execution ({backend.eager_calls[0].source})")
    captured_names = {value.name for graph in backend.graphs for value in graph.values if value.is_weight}
    missed = [name for name in trained if name not in captured_names]
    if missed:
        raise CaptureError(
            f"cannot train {label!r}: the capture does not see the operators of {len(missed)} of its parameters, such as "
            f"{missed[0]!r}" + f"; torch.compile breaks it: {'; '.join(reasons)}" * bool(reasons)
        )
    return Capture(with_all_weights(tuple(map(_in_modules, backend.graphs)), model), tuple(reasons), "joint")


def _in_modules(graph: Graph) -> Graph:
    """The graph in which calls without a module path, as after a graph break, get the module of the parameter that they read."""

    def placed(call: OpCall) -> OpCall:
        roots = [] if call.module else [graph.values[graph.root(value)] for value in call.reads]
        owner = next((root.name.rpartition(".")[0] for root in roots if root.kind == "parameter"), "")
        return msgspec.structs.replace(call, module=owner) if owner else call

    return msgspec.structs.replace(graph, calls=tuple(map(placed, graph.calls)))


def _parameters(model: Any) -> list[tuple[str, torch.nn.Parameter]]:
    return list(model.named_parameters()) if isinstance(model, torch.nn.Module) else []


def _differentiable(outputs: Any) -> list[torch.Tensor]:
    """The tensors with a gradient in a model's result, also inside lists, mappings and objects. Dynamo traces this."""
    if isinstance(outputs, torch.Tensor):
        return [outputs] if outputs.is_floating_point() and outputs.requires_grad else []
    if isinstance(outputs, dict):
        outputs = list(outputs.values())
    elif hasattr(outputs, "__dict__") and not isinstance(outputs, (type, torch.nn.Module)):
        outputs = list(vars(outputs).values())
    elif not isinstance(outputs, (list, tuple)):
        return []
    return [tensor for value in outputs for tensor in _differentiable(value)]


@contextmanager
def _training(model: Any) -> Iterator[None]:
    """While active, a module is in training mode; if no parameter requires gradients, all floating-point ones do. Modes, flags
    and gradients are restored. `CaptureError` for a module whose mode is fixed."""
    is_module = isinstance(model, torch.nn.Module)
    modes = [(module, module.training) for module in model.modules()] if is_module else []
    gradients = [(p, p.requires_grad, p.grad) for p in model.parameters()] if is_module else []
    if is_module:
        try:
            model.train()  # a model may override it to keep frozen layers in evaluation mode
        except NotImplementedError as error:
            raise CaptureError(
                "an exported program has no training step, since the export fixed its mode; give the model"
            ) from error
    any_asks = any(flag for _, flag, _ in gradients)
    for parameter, flag, _ in gradients:
        parameter.requires_grad_(flag if any_asks else parameter.is_floating_point())
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for parameter, flag, gradient in gradients:
            parameter.grad = None
            parameter.requires_grad_(flag)
            parameter.grad = gradient


class _JointBackend:
    """A torch.compile back-end that lets AOTAutograd trace forward and backward together, and records that graph."""

    def __init__(self, model: Callable[..., Any], name: str) -> None:
        self.name = name
        self.origins = Origins(model)
        self.recorder = EagerRecorder(model, self.origins, self._add_eager_segment)
        self.eager_calls: list[OpCall] = []
        self.graphs: list[Graph] = []
        self.break_reasons: list[str] = []

    def __call__(self, module: fx.GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
        from functorch.compile import default_partition, make_boxed_func
        from torch._dynamo.backends.common import aot_autograd

        # AOTAutograd passes the piece's own parameters and buffers before its arguments.
        attributes = (*module.named_parameters(), *module.named_buffers())
        origins = [self.origins.of(tensor, target) for target, tensor in attributes]
        origins += placeholder_origins(module, inputs, self.origins)

        def partition(joint: fx.GraphModule, joint_inputs: Any, **options: Any) -> Any:
            self._add_graph(joint, origins)
            return default_partition(joint, joint_inputs, **options)

        def run(piece: fx.GraphModule, _: Sequence[Any]) -> Callable[..., Any]:
            return make_boxed_func(lambda *values: self.recorder.run_unseen(piece.forward, values))

        def run_without_gradients(piece: fx.GraphModule, _: Sequence[Any]) -> Callable[..., Any]:
            self._add_graph(piece, origins)
            return run(piece, _)

        keep_recurrent_layers(module)
        reason = getattr(module, "compile_subgraph_reason", None)
        if reason is not None and reason.graph_break:
            self.break_reasons.append(first_line(reason.reason))
        compile_piece = aot_autograd(
            fw_compiler=run, bw_compiler=run, inference_compiler=run_without_gradients, partition_fn=partition
        )
        compiled = compile_piece(module, inputs)

        def run_whole(*values: Any) -> Any:
            # AOTAutograd's work around a piece, such as updates of running statistics, is in the piece's graph.
            results = self.recorder.run_unseen(compiled, values)
            self.origins.flows(results)
            return results

        return run_whole

    def _add_eager_segment(self, module: fx.GraphModule, origins: list[Origin]) -> None:
        graph = FXGraphWalker().walk(module, origins=origins, name=self.name)
        costed = [call for call, cost in zip(graph.calls, costs_of(graph), strict=True) if cost is not None]
        if costed:
            self.eager_calls += costed
            self.graphs.append(graph)

    def _add_graph(self, joint: fx.GraphModule, origins: Sequence[Origin]) -> None:
        placeholders = joint.graph.find_nodes(op="placeholder")
        primals = {node for node in placeholders if not node.name.startswith("tangents")}
        if len(primals) > len(origins):
            raise CaptureError(f"AOTAutograd gave the graph {len(primals)} inputs where Dynamo gave {len(origins)}")
        remaining = iter(origins)
        all_origins = [next(remaining) if node in primals else Origin("input", node.name) for node in placeholders]
        self.graphs.append(FXGraphWalker().walk(inline_wrapped(joint), origins=all_origins, name=self.name))
