"""A workload -> its graphs at one or many sizes, without weights in memory where the model allows it."""

from __future__ import annotations

import contextlib
import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import torch
from torch.utils._pytree import tree_leaves, tree_map_only

from shmoo.estimators.errors import InputError
from shmoo.harness.capture.capture import capture, distinct
from shmoo.harness.capture.exported import FunctionModule, exportable
from shmoo.harness.capture.fx.guard import guarded
from shmoo.harness.capture.fx.introspect import CaptureError, holds_tensors
from shmoo.harness.capture.fx.lazy_dynamo import dynamo_put_off
from shmoo.harness.capture.recorded import capture_recorded
from shmoo.harness.module import Built, Capture, DNNModule
from shmoo.runs.store.records import AxisValue

if TYPE_CHECKING:
    from shmoo.harness.capture.symbolic import SymbolicCapture

Axes = Mapping[str, AxisValue]

_NEEDS_INDICES = re.compile(r"argument #1 'indices'|tensors used as indices must be", re.IGNORECASE)
"""torch's messages where a floating-point tensor is used as indices."""


def build_for_capture(module: DNNModule, axes: Axes | None = None, dtype: str | None = None) -> Built:
    """Build on the meta device, which takes neither memory nor arithmetic; on the CPU where that fails, as for models that
    compute with their weights while they are built. Errors as for `DNNModule.build`."""
    try:
        # torch also uses shape functions to initialize weights on the meta device.
        with dynamo_put_off():
            return module.build(axes, dtype, "meta")
    except InputError as on_meta:
        # A refusal holds on every device, but code that failed may succeed where tensors have values.
        if module.without_memory or on_meta.__cause__ is None or isinstance(on_meta.__cause__, (ImportError, InputError)):
            raise
    return module.build(axes, dtype, "cpu")


@guarded
def capture_workload(module: DNNModule, axes: Axes | None = None, dtype: str | None = None) -> Capture:
    """Capture a workload at the given axes, every graph named after it.

    The model is built without weights in memory if possible, and runs once while its operators are recorded. If that is not
    enough, torch.export is tried, then torch.compile. Where sizes depend on data, which both refuse on the meta device, the
    model's Python runs on fake tensors with stand-ins for data. A model that needs real values is built and run on the CPU.

    Raises:
        CaptureError: none of these methods can capture it.
        InputError: an axis, its value or the dtype cannot be used.
    """
    built = build_for_capture(module, axes, dtype)
    if built.traced or any(map(holds_tensors, tree_leaves((built.args, built.kwargs)))):
        return _capture_traced(built, module.name)
    if isinstance(built.model, torch.nn.Module):
        with contextlib.suppress(CaptureError):
            return capture_recorded(built.model, built.args, built.kwargs, name=module.name)
        # The recorded run may have changed the model's state.
        built = build_for_capture(module, axes, dtype)
    failures = []
    try:
        return capture(built.model, built.args, built.kwargs, name=module.name)
    except CaptureError as error:
        failures.append(str(error))
    try:
        return _capture_traced(built, module.name)
    except CaptureError as error:
        failures.append(str(error))
    if module.without_memory:
        raise CaptureError(distinct(failures))
    built = module.build(axes, dtype, "cpu")
    try:
        return capture(built.model, built.args, built.kwargs, name=module.name)
    except CaptureError as on_cpu:
        message = distinct([str(on_cpu), *(f"on the meta device {failure}" for failure in failures)])
        if _NEEDS_INDICES.search(message):
            message = (
                f"{module.name!r} takes whole numbers such as tokens, but --input-shape makes a floating-point tensor; "
                f"let the factory return (model, (tokens,)). torch says: {failures[-1]}"
            )
        raise CaptureError(message) from on_cpu


@guarded
def capture_operator(built: Built, name: str) -> Capture:
    """Capture a single operator that was built with its operands in memory. If possible a copy without memory runs, which takes a
    tenth of the time of `capture` and keeps no reference to the operands.

    For an operator of several calls, such a copy does not show which results share memory on the device: attention on a CPU has
    its own layout of the result.
    """
    module = built.model if isinstance(built.model, torch.nn.Module) else FunctionModule(built.model)
    if exportable(module):
        with contextlib.suppress(CaptureError, TypeError, RuntimeError):
            args, kwargs = tree_map_only(torch.Tensor, _without_memory, (built.args, built.kwargs))
            return capture_recorded(_module_without_memory(module), args, kwargs, name=name)
    return capture(built.model, built.args, built.kwargs, name=name)


def _module_without_memory(module: torch.nn.Module) -> torch.nn.Module:
    copies: dict[int, Any] = {id(tensor): _without_memory(tensor) for tensor in module.buffers()}
    for weight in module.parameters():
        copies[id(weight)] = torch.nn.Parameter(_without_memory(weight), requires_grad=weight.requires_grad)
    return copy.deepcopy(module, copies)


def _without_memory(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype, device="meta")


def _capture_traced(built: Built, name: str) -> Capture:
    """Capture by running the model's Python. Where the model refuses its inputs, alternative forms are tried, then calls without
    the optional inputs. A note names the omitted inputs and the reason, which is the error of the first alternative, since that
    one matches the signature."""
    # Importing it imports Dynamo.
    from shmoo.harness.capture.traced import capture_traced

    refusals: list[CaptureError] = []
    for words, kwargs in _calls(built):
        notes = (*built.notes, f"{words} left out: {refusals[:2][-1]}") if words else built.notes
        try:
            return capture_traced(built.model, built.args, kwargs, name=name, notes=notes, fixed=built.fixed)
        except CaptureError as error:
            refusals += [] if words else [error]
    raise refusals[:2][-1]


def _calls(built: Built) -> Iterator[tuple[str, dict[str, Any]]]:
    """The calls to try, as (description of the omitted inputs, inputs by name): all inputs, their alternative forms, without each
    optional input, and without all of them."""
    yield "", built.kwargs
    for alternative in built.alternatives:
        yield "", {**built.kwargs, **alternative}
    single_omissions = [(omission,) for omission in built.optional]
    for left_out in (*single_omissions, *((built.optional,) if len(single_omissions) > 1 else ())):
        names = {name for _, omitted_names in left_out for name in omitted_names}
        yield " and ".join(words for words, _ in left_out), {k: v for k, v in built.kwargs.items() if k not in names}


class CaptureFamily:
    """A workload's captures at several points of its axes.

    Two points that differ in whole numbers show which input dimensions change. One capture with symbols in these dimensions
    serves all points at which torch would trace the same graph. The model is captured again, with a note in the capture, where
    weights, plain attributes of modules or other arguments differ between the points, where torch makes a size part of the
    graph, and at sizes of 1, which torch traces differently.

    Args:
        points: axis values of the later calls of `at`.
        dtype: as for `DNNModule.build`.
    """

    def __init__(self, module: DNNModule, points: Sequence[Axes], dtype: str | None = None) -> None:
        self._module = module
        self._dtype = dtype
        self._points = [module.resolve(point) for point in points]
        self._symbolic: dict[tuple, SymbolicCapture | str] = {}

    @guarded
    def at(self, axes: Axes) -> Capture:
        """The capture at one point; errors as for `capture_workload`."""
        point = self._module.resolve(axes)
        group = _group(point)
        same_group = [neighbour for neighbour in self._points if _group(neighbour) == group]
        if len(set(map(_sizes, same_group))) < 2:
            return capture_workload(self._module, point, self._dtype)
        if group not in self._symbolic:
            self._symbolic[group] = self._capture_symbolic(same_group)
        source = self._symbolic[group]
        if not isinstance(source, str):
            from shmoo.harness.capture.symbolic import leaf_shapes

            try:
                built = build_for_capture(self._module, point, self._dtype)
                graph = source.at(leaf_shapes(built.args, built.kwargs))
                return Capture((graph,), note="its sizes put into one capture with symbols in their place")
            except CaptureError as error:
                source = str(error)
        captured = capture_workload(self._module, point, self._dtype)
        return msgspec.structs.replace(captured, note=f"captured again: {source}", recaptured=True)

    def _capture_symbolic(self, points: Sequence[Axes]) -> SymbolicCapture | str:
        """The capture with symbols, or the reason why it failed."""
        from shmoo.harness.capture.symbolic import capture_symbolic

        example = max(points, key=lambda point: min(_sizes(point), default=0))
        farthest = max(points, key=lambda point: sum(a != b for a, b in zip(_sizes(point), _sizes(example), strict=True)))
        try:
            built, other_built = (build_for_capture(self._module, point, self._dtype) for point in (example, farthest))
            if any(map(holds_tensors, tree_leaves((built.args, built.kwargs)))):
                return "inputs are inside objects"
            dynamic = _changed_dimensions(built, other_built)
            return capture_symbolic(built.model, built.args, built.kwargs, dynamic, name=self._module.name, traced=built.traced)
        except CaptureError as error:
            return str(error)


def _group(point: Axes) -> tuple:
    """The axis values that cannot become symbols."""
    return tuple((name, value) for name, value in point.items() if type(value) is not int)


def _sizes(point: Axes) -> tuple[int, ...]:
    return tuple(value for value in point.values() if type(value) is int)


def _changed_dimensions(a: Built, b: Built) -> list[tuple[int, int]]:
    """The dimensions of the arguments in which two builds of a workload differ; `CaptureError` where they differ in something
    else, or in nothing."""
    leaves_a, leaves_b = tree_leaves((a.args, a.kwargs)), tree_leaves((b.args, b.kwargs))
    if len(leaves_a) != len(leaves_b):
        raise CaptureError("the number of inputs changes with the sizes")
    places = []
    for leaf, (x, y) in enumerate(zip(leaves_a, leaves_b, strict=True)):
        if not isinstance(x, torch.Tensor):
            if x != y:
                raise CaptureError(f"input {leaf} is {x!r} at one size and {y!r} at another")
        elif x.dim() != y.dim():
            raise CaptureError(f"input {leaf} has {x.dim()} dimensions at one size and {y.dim()} at another")
        else:
            places += [(leaf, dim) for dim, (m, n) in enumerate(zip(x.shape, y.shape, strict=True)) if m != n]
    if isinstance(a.model, torch.nn.Module) and isinstance(b.model, torch.nn.Module):
        _compare_models(a.model, b.model)
    if not places:
        raise CaptureError("no size of an input changes with the axes")
    return places


def _compare_models(a: torch.nn.Module, b: torch.nn.Module) -> None:
    """Raise `CaptureError` where two models differ in a way that substituting sizes would miss."""
    shapes = [{name: tuple(t.shape) for name, t in (*m.named_parameters(), *m.named_buffers())} for m in (a, b)]
    if shapes[0] != shapes[1]:
        raise CaptureError("weights change with the sizes")
    for (name, x), (_, y) in zip(a.named_modules(), b.named_modules(), strict=True):
        other_attributes = _plain_attributes(y)
        for attribute, value in _plain_attributes(x).items():
            if other_attributes.get(attribute, value) != value:
                raise CaptureError(f"{attribute!r} of module {name or type(x).__name__!r} changes with the sizes")


def _plain_attributes(module: torch.nn.Module) -> dict[str, Any]:
    plain = (bool, int, float, str)
    return {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, plain) or (isinstance(value, (list, tuple)) and all(isinstance(v, plain) for v in value))
    }
