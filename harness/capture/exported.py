"""The graph of a model from torch.export: one graph of undecomposed operators, with the origins of its inputs."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.fx.traceback import preserve_node_meta
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from torch.utils._pytree import tree_leaves

from shmoo.estimators.graph.records import ValueKind
from shmoo.harness.capture.fx.aten_trace import inline_wrapped
from shmoo.harness.capture.fx.bodies import CONSTANT
from shmoo.harness.capture.fx.fast_path import encoder_fast_path
from shmoo.harness.capture.fx.guard import absent_devices_on_cpu
from shmoo.harness.capture.fx.introspect import CaptureError, RecordLines, first_line
from shmoo.harness.capture.fx.walker import Origin, Traced

Place = tuple[int, int]
"""A dimension of an argument: index of the leaf in (args, kwargs), and dimension of that leaf."""
_KINDS: dict[str, ValueKind] = {"PARAMETER": "parameter", "BUFFER": "buffer", "CONSTANT_TENSOR": "constant"}


def exportable(model: Callable[..., Any]) -> bool:
    """Whether torch.export can tell the model's weights from other tensors. It cannot for weights in a function's closure, nor
    for tensor subclasses that wrap other tensors (quantized weights)."""
    return isinstance(model, torch.nn.Module) and not any(
        is_traceable_wrapper_subclass(tensor) for tensor in (*model.parameters(), *model.buffers())
    )


def export_graph(
    model: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], *, name: str = "", dynamic: Sequence[Place] = ()
) -> Traced:
    """Trace `model(*args, **kwargs)` at inference; `dynamic` dimensions become symbols, unless the model fixes them.
    `CaptureError` where torch.export cannot take the model."""
    from torch.export import Dim, ShapesCollection, export

    module = model if isinstance(model, torch.nn.Module) else FunctionModule(model)
    leaves = tree_leaves((tuple(args), dict(kwargs)))
    shapes = ShapesCollection()
    for leaf, dim in dynamic:
        shapes[leaves[leaf]][dim] = Dim.AUTO
    try:
        # A failing export writes its incomplete graph to stderr; the raised error suffices.
        quiet = contextlib.redirect_stderr(io.StringIO())
        with (
            torch.no_grad(),
            preserve_node_meta(),
            absent_devices_on_cpu(),
            encoder_fast_path() as notes,
            RecordLines() as lines,
            quiet,
        ):
            program = export(module, tuple(args), dict(kwargs), dynamic_shapes=shapes if dynamic else None, strict=False)
    except Exception as error:
        raise CaptureError(f"torch.export cannot take {name or type(model).__name__!r}: {first_line(error)}") from error
    if lines.transformed:
        raise CaptureError(f"torch.export shows one sample of {name or type(model).__name__!r} inside a functional transform")
    specs = program.graph_signature.input_specs
    # A shared weight has several names; the first one counts.
    named_tensors = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
    first: dict[int, str] = {}
    names = {name: first.setdefault(id(tensor), name) for name, tensor in named_tensors}
    origins, fakes = [], []
    for node, spec in zip(program.graph_module.graph.find_nodes(op="placeholder"), specs, strict=True):
        target = names.get(spec.target, spec.target) or getattr(spec.arg, "name", "")
        origins.append(Origin(_KINDS.get(spec.kind.name, "input"), target))
        if spec.kind.name == "CONSTANT_TENSOR":
            node.meta[CONSTANT] = program.constants.get(spec.target)
        elif spec.kind.name == "USER_INPUT":
            fakes.append(node.meta.get("val"))
    return Traced(inline_wrapped(program.graph_module), origins, fakes, tuple(notes))


class FunctionModule(torch.nn.Module):
    """A function wrapped as a module, because torch.export takes only modules."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function."""
        return self.function(*args, **kwargs)
