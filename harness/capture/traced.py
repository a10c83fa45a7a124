"""Capture by running a model's own Python on fake tensors, with stand-ins for data: for models whose sizes or branches depend on
data, and for models too large for the memory."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec
import torch
from torch._dynamo.source import ConstantSource
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv
from torch.fx.traceback import get_current_meta, preserve_node_meta
from torch.nn.utils.stateless import _reparametrize_module
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten_with_path, tree_unflatten

from shmoo.harness.capture.exported import Place
from shmoo.harness.capture.fx.aten_trace import inline_wrapped
from shmoo.harness.capture.fx.fast_path import encoder_fast_path
from shmoo.harness.capture.fx.guard import absent_devices_on_cpu, environment, guarded
from shmoo.harness.capture.fx.introspect import (
    CaptureError,
    RecordLines,
    first_line,
    holds_tensors,
    module_paths,
    tensors_in,
    with_tensors,
)
from shmoo.harness.capture.fx.walker import FXGraphWalker, Origin, Traced, weight_origins, with_all_weights
from shmoo.harness.capture.standins import StandIns
from shmoo.harness.module import Capture

_CPU = torch.device("cpu")
_UNCHECKED = {"TRANSFORMERS_DISABLE_TORCH_CHECK": "1"}
"""With this variable transformers' models skip checks that need data, such as comparing the numbers of image features and of
image tokens."""
_RESIZING = ("upsample_linear1d", "upsample_bilinear2d", "upsample_trilinear3d", "upsample_bicubic2d")


class FakeCall:
    """A call of a model with fake CPU tensors for its weights and arguments, which take neither memory nor arithmetic:
    `call(*call.values)`.

    Args:
        dynamic: dimensions of the leaves of (args, kwargs) that become symbols; with them, nothing stands in for data.
        fixed: names of keyword arguments whose values do not depend on data.

    Attributes:
        values: the call's arguments: fakes of the weights, of the leaves of (args, kwargs), and of tensors inside objects among
            them; `origins` has their origins, `mode` is their fake mode.
        fakes: the values of only the leaves of (args, kwargs).
        stand_ins: the mode with stand-ins for data; a null context with `dynamic`.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any] | None = None,
        dynamic: Sequence[Place] = (),
        fixed: Sequence[str] = (),
    ) -> None:
        self._module = model if isinstance(model, torch.nn.Module) else torch.nn.Module()
        self._model = model
        self.mode = FakeTensorMode(allow_non_fake_inputs=True, shape_env=ShapeEnv() if dynamic else None)
        weights = weight_origins(self._module)
        self._weights = {origin.name: tensor for tensor, origin in weights}
        inputs, self._structure = tree_flatten_with_path((tuple(args), dict(kwargs or {})))
        self.origins = [origin for _, origin in weights]
        # "input_ids" for ((), {"input_ids": x}), "0.1" for (([a, x],), {}).
        paths = [[str(getattr(key, "idx", getattr(key, "key", key))) for key in path[1:]] for path, _ in inputs]
        self.origins += [Origin("input", ".".join(path)) for path in paths]
        self.fakes = [self._fake(leaf) for _, leaf in inputs]
        self._objects = {i: tensors_in(leaf) for i, (_, leaf) in enumerate(inputs) if holds_tensors(leaf)}
        inner = [tensor for tensors in self._objects.values() for tensor in tensors]
        self.origins += [Origin("input", f"tensor_{i}") for i in range(len(inner))]
        for leaf in {leaf for leaf, _ in dynamic}:
            self.fakes[leaf] = self._with_symbols(
                self.fakes[leaf], {dim for dynamic_leaf, dim in dynamic if dynamic_leaf == leaf}
            )
        self.values = [*(self._fake(weight) for weight in self._weights.values()), *self.fakes, *map(self._fake, inner)]
        # Stand-ins for data need concrete sizes.
        self.stand_ins: Any = contextlib.nullcontext()
        if not dynamic:
            fixed_leaves = [i for i, path in enumerate(paths) if path[-1] in fixed and isinstance(inputs[i][1], torch.Tensor)]
            self.stand_ins = StandIns([(self.fakes[i], inputs[i][1]) for i in fixed_leaves])

    def __call__(self, *values: Any) -> list[torch.Tensor]:
        """Run the model; returns every tensor that it returns."""
        count = len(self._weights)
        leaves, inner = list(values[count : count + len(self.fakes)]), iter(values[count + len(self.fakes) :])
        for place, tensors in self._objects.items():
            leaves[place] = with_tensors(leaves[place], {id(tensor): next(inner) for tensor in tensors})
        args, kwargs = tree_unflatten(leaves, self._structure)
        weights = dict(zip(self._weights, values[:count], strict=True))
        with (
            torch.no_grad(),
            self.mode,
            self.stand_ins,
            _conversions_in_place(),
            _FormatNumbers(),
            _reparametrize_module(self._module, weights, tie_weights=True),
        ):
            return tensors_in(self._model(*args, **kwargs))

    def trace(self, label: str) -> Traced:
        """The operators of the call, with their module paths and lines; the placeholders take `values`. Errors as for
        `capture_traced`."""

        def run(*values: Any) -> list[torch.Tensor]:
            with module_paths(self._model, lambda path: get_current_meta().update(nn_module_stack={"": (path, "")})):
                return self(*values)

        try:
            unchecked = environment(_UNCHECKED)
            with torch.no_grad(), preserve_node_meta(), self.mode, _shapes_from_kernels(), absent_devices_on_cpu(), unchecked:
                with RecordLines() as lines, encoder_fast_path() as notes:
                    traced = make_fx(run, pre_dispatch=True)(*self.values)
                if lines.transformed:
                    # Above the transforms a call has the shapes of one sample.
                    traced = make_fx(run)(*self.values)
                return Traced(inline_wrapped(traced), self.origins, self.fakes, tuple(notes))
        except CaptureError as error:
            raise CaptureError(f"{label!r} cannot be captured without data: {error}") from error
        except Exception as error:
            raise CaptureError(f"{label!r} does not run on fake tensors: {first_line(error)}") from error

    def _with_symbols(self, fake: torch.Tensor, dims: set[int]) -> torch.Tensor:
        """The tensor with symbols for some sizes; equal sizes share a symbol."""
        sizes: list[Any] = list(fake.shape)
        for dim in dims:
            size, source = sizes[dim], ConstantSource(f"size_{sizes[dim]}")
            symbol = self.mode.shape_env.create_symbol(size, source, dynamic_dim=DimDynamic.DUCK)
            sizes[dim] = self.mode.shape_env.create_symintnode(symbol, hint=size, source=source)
        with self.mode:
            return torch.empty(sizes, dtype=fake.dtype, device=_CPU)

    def _fake(self, value: Any) -> Any:
        """A fake CPU tensor: models treat the meta device specially, and create their constants on the CPU."""
        if not isinstance(value, torch.Tensor) or isinstance(value, FakeTensor):
            return value
        if value.is_meta:
            return self.mode.fake_tensor_converter.from_meta_and_device(self.mode, value.detach(), _CPU)
        return self.mode.from_tensor(value.detach(), static_shapes=True)


@guarded
def capture_traced(
    model: Callable[..., Any], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, *, name: str = "",
    notes: Sequence[str] = (), fixed: Sequence[str] = (),
) -> Capture:  # fmt: skip
    """Capture `model(*args, **kwargs)` at inference, in one graph of undecomposed operators.

    The model's Python runs as it would in eager execution. Where it reads values, `StandIns` supplies them, and the graph's notes
    say so. `CaptureError` where the model fails on fake tensors, or reads numbers that only data could give.

    Args:
        model: a module, its weights on any device, or a function.
        notes: further notes for the reader of the graph.
        fixed: names of keyword arguments whose values do not depend on data.
    """
    call = FakeCall(model, args, kwargs, fixed=fixed)
    traced = call.trace(name or type(model).__name__)
    graph = FXGraphWalker().walk(traced.module, origins=traced.origins, name=name)
    graph = msgspec.structs.replace(graph, notes=(*notes, *call.stand_ins.notes, *traced.notes, *graph.notes))
    return Capture(with_all_weights((graph,), model), method="trace")


@contextmanager
def _conversions_in_place() -> Iterator[None]:
    """While active, converting a module (`self.router.to(torch.float32)`) assigns the converted tensors to it. torch would swap
    fake tensors with their originals, which fails during tracing."""

    def convert(module: torch.nn.Module, function: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Any:
        for child in module.children() if recurse else ():
            convert(child, function)
        for table in (module._parameters, module._buffers):
            table.update({name: function(tensor) for name, tensor in table.items() if tensor is not None})
        return module

    original = torch.nn.Module._apply
    torch.nn.Module._apply = convert
    try:
        yield
    finally:
        torch.nn.Module._apply = original


@contextmanager
def _shapes_from_kernels() -> Iterator[None]:
    """While active, the size of a resized image comes from the kernel's own shape function: torch would decompose the operator
    into about two hundred others to compute it, for every size again."""
    saved = []
    for name in _RESIZING:
        packet = getattr(torch.ops.aten, name)
        for operator in (getattr(packet, overload) for overload in packet.overloads()):
            saved.append((operator, dict(operator.py_kernels)))
            operator.py_kernels.clear()
            operator._dispatch_cache.clear()
    try:
        yield
    finally:
        for operator, kernels in saved:
            operator.py_kernels.update(kernels)
            operator._dispatch_cache.clear()


class _FormatNumbers(TorchFunctionMode):
    """While active, a scalar tensor in a format string (f"expert_{i}") shows its value, which torch does for plain tensors only,
    or a text if only data would give the value, as in error messages built in advance."""

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        if not torch.compiler.is_dynamo_compiling() and func is torch.Tensor.__format__ and args[0].dim() == 0:
            try:
                return format(args[0].item(), *args[1:])
            except CaptureError:
                return "a number that only data would give"
        return func(*args, **(kwargs or {}))
