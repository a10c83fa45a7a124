"""A training step -> its graphs: forward and backward as AOTAutograd traces them together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import fx

from shmoo.estimators.records import Graph
from shmoo.harness.capture.capture import Capture
from shmoo.harness.capture.compiled import no_recompile_limit, origins_of, own_cache
from shmoo.harness.capture.errors import CaptureError, first_line
from shmoo.harness.capture.inline import inline_wrapped
from shmoo.harness.capture.origins import Origins
from shmoo.harness.capture.walker import FXGraphWalker, Origin


def capture_training(
    model: Callable[..., Any], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, *, name: str = ""
) -> Capture:
    """Capture one forward pass, the loss, and the backward pass to every weight of `model(*args, **kwargs)`.

    The loss is the mean of every floating tensor that the model returns. A module runs in training mode, with gradients for all
    of its floating parameters; both are put back. Operators are those below autograd (`aten.convolution`, `aten.mm`), as
    AOTAutograd traces them and torch's FlopCounterMode counts them; calls of the backward pass carry the module path and the line
    of the forward call they belong to. An optimiser's step is not part of it. A graph break gives a graph for each piece.

    Raises:
        CaptureError: torch.compile or AOTAutograd cannot take the model, or it returns nothing that has a gradient.
    """
    label = name or getattr(model, "__name__", type(model).__name__)
    with _training(model):
        backend = _JointBackend(model, name)
        backend.origins.flows(args, dict(kwargs or {}))
        try:
            with torch.enable_grad(), no_recompile_limit():
                step = torch.compile(_with_loss(model), backend=backend, dynamic=False, **own_cache())
                loss = step(*args, **(kwargs or {}))
                if not isinstance(loss, torch.Tensor) or not loss.requires_grad:
                    raise CaptureError("nothing that it returns has a gradient")
                loss.backward()
        except CaptureError as error:
            raise CaptureError(f"cannot train {label!r}: {error}") from error
        except Exception as error:
            raise CaptureError(f"AOTAutograd cannot take {label!r}: {first_line(error)}") from error
    if not backend.graphs:
        raise CaptureError(f"cannot train {label!r}: torch.compile found nothing to differentiate in it")
    return Capture(tuple(backend.graphs), tuple(backend.break_reasons), "joint")


def _with_loss(model: Callable[..., Any]) -> Callable[..., torch.Tensor | None]:
    def step(*args: Any, **kwargs: Any) -> torch.Tensor | None:
        terms = [value.mean() for value in _differentiable(model(*args, **kwargs))]
        return sum(terms[1:], terms[0]) if terms else None

    return step


def _differentiable(outputs: Any) -> list[torch.Tensor]:
    """The tensors of what a model returned that have a gradient, looking into lists and mappings."""
    if isinstance(outputs, torch.Tensor):
        return [outputs] if outputs.is_floating_point() and outputs.requires_grad else []
    if isinstance(outputs, dict):
        outputs = list(outputs.values())
    found: list[torch.Tensor] = []
    if isinstance(outputs, (list, tuple)):
        for value in outputs:
            found += _differentiable(value)
    return found


class _training:
    """While entered: a module in training mode whose floating parameters all take gradients. What was is put back."""

    def __init__(self, model: Any) -> None:
        self._modules = list(model.modules()) if isinstance(model, torch.nn.Module) else []
        self._parameters = list(model.parameters()) if isinstance(model, torch.nn.Module) else []

    def __enter__(self) -> None:
        self._modes = [module.training for module in self._modules]
        self._flags = [parameter.requires_grad for parameter in self._parameters]
        self._held = [parameter.grad for parameter in self._parameters]
        for module in self._modules:
            module.training = True
        for parameter in self._parameters:
            parameter.requires_grad_(parameter.is_floating_point())

    def __exit__(self, *failure: object) -> None:
        for module, mode in zip(self._modules, self._modes, strict=True):
            module.training = mode
        for parameter, flag, held in zip(self._parameters, self._flags, self._held, strict=True):
            parameter.grad = None
            parameter.requires_grad_(flag)
            parameter.grad = held


class _JointBackend:
    """A torch.compile back-end that has AOTAutograd trace forward and backward together, and keeps that graph."""

    def __init__(self, model: Callable[..., Any], name: str) -> None:
        self.name = name
        self.origins = Origins(model)
        self.graphs: list[Graph] = []
        self.break_reasons: list[str] = []

    def __call__(self, module: fx.GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
        from functorch.compile import default_partition, make_boxed_func
        from torch._dynamo.backends.common import aot_autograd

        # AOTAutograd passes what the piece itself holds before what it is given.
        held = (*module.named_parameters(), *module.named_buffers())
        known = [self.origins.of(tensor, target) for target, tensor in held] + origins_of(module, inputs, self.origins)

        def partition(joint: fx.GraphModule, joint_inputs: Any, **options: Any) -> Any:
            self._keep(joint, known)
            return default_partition(joint, joint_inputs, **options)

        def run(piece: fx.GraphModule, _: Sequence[Any]) -> Callable[..., Any]:
            return make_boxed_func(piece.forward)

        def run_alone(piece: fx.GraphModule, _: Sequence[Any]) -> Callable[..., Any]:
            self._keep(piece, known)
            return make_boxed_func(piece.forward)

        reason = getattr(module, "compile_subgraph_reason", None)
        if reason is not None and reason.graph_break:
            self.break_reasons.append(first_line(reason.reason))
        compile_piece = aot_autograd(fw_compiler=run, bw_compiler=run, inference_compiler=run_alone, partition_fn=partition)
        return compile_piece(module, inputs)

    def _keep(self, joint: fx.GraphModule, known: Sequence[Origin]) -> None:
        placeholders = joint.graph.find_nodes(op="placeholder")
        primals = [node for node in placeholders if not node.name.startswith("tangents")]
        if len(primals) > len(known):
            raise CaptureError(f"AOTAutograd gave the graph {len(primals)} inputs where Dynamo gave {len(known)}")
        origins = iter(known)
        stand_for = [Origin("input", node.name) if node not in primals else next(origins) for node in placeholders]
        self.graphs.append(FXGraphWalker().walk(inline_wrapped(joint), origins=stand_for, name=self.name))
