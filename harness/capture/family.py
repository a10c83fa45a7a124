"""Captures of one workload at many sizes, from as few runs of the model as torch allows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import torch
from torch.utils._pytree import tree_leaves

from shmoo.harness.capture.capture import Capture
from shmoo.harness.capture.errors import CaptureError
from shmoo.harness.capture.symbolic import SymbolicCapture, capture_symbolic, leaf_shapes
from shmoo.harness.capture.workload import build_for_capture, capture_workload
from shmoo.harness.workloads.module import Built, DNNModule
from shmoo.runs.records import AxisValue

Axes = Mapping[str, AxisValue]


class CaptureFamily:
    """A workload's captures at several points of its axes.

    The first two points that differ in whole numbers say which dimensions of the inputs they change. One capture with symbols
    for these serves all points at which torch says that the same would be traced. Where weights, plain attributes of modules or
    other arguments differ between the points, where torch makes a size part of the graph, and at sizes of 1, which torch traces
    apart, the model is captured anew and the capture's `note` says so.

    Args:
        points: axis values that will be asked for.
        dtype: element type of the vocabulary in which the workload is built.
    """

    def __init__(self, module: DNNModule, points: Sequence[Axes], dtype: str = "float32") -> None:
        self._module = module
        self._dtype = dtype
        self._points = [module.resolve(point) for point in points]
        self._symbolic: dict[tuple, SymbolicCapture | str] = {}

    def at(self, axes: Axes) -> Capture:
        """The capture at one point.

        Raises:
            CaptureError: the model cannot be captured there at all.
            InputError: an axis or its value cannot be used.
        """
        point = self._module.resolve(axes)
        group = _group(point)
        alike = [other for other in self._points if _group(other) == group]
        if len({_whole(other) for other in alike}) < 2:
            return capture_workload(self._module, point, self._dtype)
        if group not in self._symbolic:
            self._symbolic[group] = self._prepare(alike)
        source = self._symbolic[group]
        if isinstance(source, SymbolicCapture):
            try:
                built = self._build(point)
                graph = source.at(leaf_shapes(built.args, built.kwargs))
                return Capture((graph,), note="its sizes put into one capture with symbols in their place")
            except CaptureError as error:
                source = str(error)
        return msgspec.structs.replace(capture_workload(self._module, point, self._dtype), note=f"captured anew: {source}")

    def _build(self, point: Axes) -> Built:
        return build_for_capture(self._module, point, self._dtype)

    def _prepare(self, points: Sequence[dict[str, AxisValue]]) -> SymbolicCapture | str:
        """The capture with symbols, or why there is none."""
        example = max(points, key=lambda point: min(_whole(point), default=0))
        other = max(points, key=lambda point: sum(a != b for a, b in zip(_whole(point), _whole(example), strict=True)))
        try:
            here, there = self._build(example), self._build(other)
            dynamic = _changed(here, there)
            return capture_symbolic(here.model, here.args, here.kwargs, dynamic, name=self._module.name, traced=here.traced)
        except CaptureError as error:
            return str(error)


def _group(point: Axes) -> tuple:
    """The values that no symbol can stand for."""
    return tuple((name, value) for name, value in point.items() if type(value) is not int)


def _whole(point: Axes) -> tuple[int, ...]:
    return tuple(value for value in point.values() if type(value) is int)


def _changed(a: Built, b: Built) -> list[tuple[int, int]]:
    """The dimensions of the arguments in which two builds of a workload differ.

    Raises:
        CaptureError: they differ in something else, or in nothing.
    """
    left, right = tree_leaves((a.args, a.kwargs)), tree_leaves((b.args, b.kwargs))
    if len(left) != len(right):
        raise CaptureError("the number of inputs changes with the sizes")
    places = []
    for leaf, (x, y) in enumerate(zip(left, right, strict=True)):
        if not isinstance(x, torch.Tensor):
            if x != y:
                raise CaptureError(f"input {leaf} is {x!r} at one size and {y!r} at another")
        elif x.dim() != y.dim():
            raise CaptureError(f"input {leaf} has {x.dim()} dimensions at one size and {y.dim()} at another")
        else:
            places += [(leaf, dim) for dim, (m, n) in enumerate(zip(x.shape, y.shape, strict=True)) if m != n]
    difference = _model_difference(a.model, b.model)
    if difference:
        raise CaptureError(difference)
    if not places:
        raise CaptureError("no size of an input changes with the axes")
    return places


def _model_difference(a: Any, b: Any) -> str:
    """What of two models differs that a substitution of sizes would miss; "" for nothing."""
    if not isinstance(a, torch.nn.Module) or not isinstance(b, torch.nn.Module):
        return ""
    shapes = [{name: tuple(t.shape) for name, t in (*m.named_parameters(), *m.named_buffers())} for m in (a, b)]
    if shapes[0] != shapes[1]:
        return "weights change with the sizes"
    for (name, x), (_, y) in zip(a.named_modules(), b.named_modules(), strict=True):
        for attribute, value in _plain_attributes(x).items():
            if _plain_attributes(y).get(attribute, value) != value:
                return f"{attribute!r} of module {name or type(x).__name__!r} changes with the sizes"
    return ""


def _plain_attributes(module: torch.nn.Module) -> dict[str, Any]:
    plain = (bool, int, float, str)
    return {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, plain) or (isinstance(value, (list, tuple)) and all(isinstance(v, plain) for v in value))
    }
