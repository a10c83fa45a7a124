"""Models and workloads by name -> their graphs, at the sizes, in the types and in the mode that an estimate asks for."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec

from shmoo.estimators.dtypes import compute_dtype
from shmoo.estimators.errors import InputError
from shmoo.estimators.quantize import quantized
from shmoo.estimators.records import Graph
from shmoo.estimators.retype import with_dtype
from shmoo.estimators.sweep import GraphSource
from shmoo.harness.capture.capture import Capture
from shmoo.harness.capture.errors import CaptureError
from shmoo.harness.capture.family import CaptureFamily
from shmoo.harness.capture.workload import build_for_capture
from shmoo.harness.mode import Mode
from shmoo.harness.workloads.language import phase_of
from shmoo.harness.workloads.loading import resolve_model
from shmoo.harness.workloads.module import STORAGE_DTYPES, DNNModule
from shmoo.runs.records import AxisValue

logger = logging.getLogger(__name__)


class ModelGraphs(msgspec.Struct, frozen=True):
    """A model's graphs, the samples a call of it processes, why torch.compile split it (empty when it did not), and how the
    capture was come by, where that needs saying."""

    graphs: tuple[Graph, ...]
    batch: int = 1
    break_reasons: tuple[str, ...] = ()
    note: str = ""


def model_graphs(
    model: str,
    *,
    batch: int | None = None,
    dtype: str = "float32",
    input_shape: tuple[int, ...] | None = None,
    seq_len: int | None = None,
    trust: bool = False,
    mode: Mode | None = None,
) -> ModelGraphs:
    """Capture a model named as on the command line.

    Args:
        batch: samples a call; the model's own default for `None`.
        dtype: compute type of the vocabulary. Types that torch has no arithmetic for (float8, int8, int4) are put in place of
            the floating types of a float32 capture, weights and activations alike; `Mode.quantize` is for weights alone.
        input_shape, seq_len, trust: see `resolve_model`.
        mode: how it is run; a plain call at inference for `None`.

    Raises:
        InputError: unknown model, or a batch where the model has no batch axis.
        CaptureError: torch cannot capture the model.
    """
    batches = (batch,)
    (found,) = batched_graphs(model, batches, dtype=dtype, input_shape=input_shape, seq_len=seq_len, trust=trust, mode=mode)
    return found


def batched_graphs(
    model: str,
    batches: Sequence[int | None],
    *,
    dtype: str = "float32",
    input_shape: tuple[int, ...] | None = None,
    seq_len: int | None = None,
    trust: bool = False,
    mode: Mode | None = None,
) -> Iterator[ModelGraphs]:
    """`model_graphs` for each of several batch sizes, from one capture where torch allows it; arguments and errors as there."""
    mode = mode or Mode()
    module = resolve_model(model, input_shape=input_shape, seq_len=None if mode.phase else seq_len, trust=trust)
    if mode.phase is not None:
        module = phase_of(module, mode.phase)
    fixed: dict[str, AxisValue] = {} if mode.phase is None or seq_len is None else {"seq_len": seq_len}
    if any(batch is not None for batch in batches) and "batch" not in module.resolve():
        raise InputError(f"{model!r} has no batch axis, its input is fixed; leave --batch out")
    points = [fixed if batch is None else {**fixed, "batch": batch} for batch in batches]
    source = WorkloadGraphs(module, points, dtype, mode)
    return (source.at(point) for point in points)


class WorkloadGraphs:
    """Graphs of a workload at points of its axes, from one capture where torch allows it.

    Args:
        points: those that will be asked for.
        dtype, mode: as `model_graphs` takes them.

    Raises:
        InputError: dtype and mode do not go together.
    """

    def __init__(
        self, module: DNNModule, points: Sequence[Mapping[str, AxisValue]], dtype: str = "float32", mode: Mode | None = None
    ) -> None:
        self._module = module
        self._dtype = dtype
        self._mode = mode or Mode()
        self._mode.check(dtype)
        self._stored = dtype if dtype in STORAGE_DTYPES else "float32"
        self._family = CaptureFamily(module, points, self._stored)

    def at(self, axes: Mapping[str, AxisValue]) -> ModelGraphs:
        """The graphs at one point.

        Raises:
            CaptureError: torch cannot capture the model.
            InputError: an axis or its value cannot be used, or there is nothing to quantise.
        """
        begin = time.monotonic()
        found = self._capture(axes)
        graphs = found.graphs
        calls = sum(len(graph.calls) for graph in graphs)
        logger.info(
            "captured %s %s in %.2f s: %d graphs, %d calls",
            self._module.name,
            dict(axes),
            time.monotonic() - begin,
            len(graphs),
            calls,
        )
        if self._dtype != self._stored:
            graphs = tuple(with_dtype(graph, self._dtype) for graph in graphs)
        if self._mode.quantize is not None:
            graphs = quantized(graphs, self._mode.quantize)
        batch = int(self._module.resolve(axes).get("batch", 1))
        return ModelGraphs(graphs, batch, found.break_reasons, found.note)

    def _capture(self, axes: Mapping[str, AxisValue]) -> Capture:
        if self._mode.training:
            return _trained(self._module, axes, self._stored)
        if self._mode.autocast is not None:
            return _autocast(self._module, axes, compute_dtype(self._mode.autocast))
        return self._family.at(axes)


def _trained(module: DNNModule, axes: Mapping[str, AxisValue], dtype: str) -> Capture:
    """A training step, without weights in memory where the model allows it."""
    from shmoo.harness.capture.training import capture_training

    built = build_for_capture(module, axes, dtype)
    try:
        return capture_training(built.model, built.args, built.kwargs, name=module.name)
    except CaptureError as on_meta:
        built = module.build(axes, dtype, "cpu")
        try:
            return capture_training(built.model, built.args, built.kwargs, name=module.name)
        except CaptureError as on_cpu:
            raise CaptureError(f"{on_cpu} (and on the meta device: {on_meta})") from on_cpu


def _autocast(module: DNNModule, axes: Mapping[str, AxisValue], dtype: str) -> Capture:
    """A float32 model under torch.autocast, which knows no meta tensors but does know fake ones."""
    import torch

    from shmoo.harness.capture.traced import capture_traced

    built = build_for_capture(module, axes)
    with torch.autocast("cpu", dtype=getattr(torch, dtype)):
        return capture_traced(built.model, built.args, built.kwargs, name=module.name, notes=built.notes)


def graphs_of(module: DNNModule, axes: Mapping[str, AxisValue], dtype: str) -> ModelGraphs:
    """Capture a workload with some of its axes set; errors as for `model_graphs`."""
    return WorkloadGraphs(module, [axes], dtype).at(axes)


def workload_source(
    name: str,
    *,
    dtype: str = "float32",
    trust: bool = False,
    asked: Mapping[str, Sequence[AxisValue]] | Iterable[str] = (),
    mode: Mode | None = None,
) -> tuple[GraphSource, dict[str, AxisValue]]:
    """What a sweep draws graphs from: a function of the workload's axes, and the default of every axis.

    Args:
        name: a registered workload (operator, synthetic model, network) or a model as on the command line.
        asked: axes that will be set, with their values where these are known: then one capture may serve several.
        mode: as for `model_graphs`.

    Raises:
        InputError: unknown workload, model or axis; the nearest names are given.
    """
    module = resolve_model(name, trust=trust)
    if mode is not None and mode.phase is not None:
        module = phase_of(module, mode.phase)
    defaults = module.resolve()
    unknown_axes = [axis for axis in asked if axis not in defaults]
    if unknown_axes:
        # Refuses, and suggests the nearest.
        module.resolve({unknown_axes[0]: 1})
    source = WorkloadGraphs(module, _points(asked), dtype, mode)
    return lambda axes: source.at(axes).graphs, defaults


def _points(asked: Mapping[str, Sequence[AxisValue]] | Iterable[str]) -> list[dict[str, AxisValue]]:
    """The first and the last point of axes with known values, which say what changes between them."""
    if not isinstance(asked, Mapping):
        return []
    return [{name: values[end] for name, values in asked.items()} for end in (0, -1)]
