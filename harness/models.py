"""Models and workloads by name -> their graphs, at the sizes and in the types that an estimate asks for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from shmoo.estimators.errors import InputError
from shmoo.estimators.records import Graph
from shmoo.estimators.retype import with_dtype
from shmoo.estimators.sweep import GraphSource
from shmoo.harness.capture.workload import capture_workload
from shmoo.harness.workloads.loading import resolve_model
from shmoo.harness.workloads.module import STORAGE_DTYPES, DNNModule
from shmoo.runs.records import AxisValue


class ModelGraphs(msgspec.Struct, frozen=True):
    """A model's graphs, the samples a call of it processes, and why torch.compile split it (empty when it did not)."""

    graphs: tuple[Graph, ...]
    batch: int = 1
    break_reasons: tuple[str, ...] = ()


def model_graphs(
    model: str,
    *,
    batch: int | None = None,
    dtype: str = "float32",
    input_shape: tuple[int, ...] | None = None,
    seq_len: int | None = None,
    trust: bool = False,
) -> ModelGraphs:
    """Capture a model named as on the command line.

    Args:
        batch: samples a call; the model's own default for `None`.
        dtype: compute type of the vocabulary. Types that torch has no arithmetic for (float8, int8, int4) are put in place of
            the floating types of a float32 capture.
        input_shape, seq_len, trust: see `resolve_model`.

    Raises:
        InputError: unknown model, or a batch where the model has no batch axis.
        CaptureError: torch cannot capture the model.
    """
    module = resolve_model(model, input_shape=input_shape, seq_len=seq_len, trust=trust)
    axes = {} if batch is None else {"batch": batch}
    if batch is not None and "batch" not in module.resolve():
        raise InputError(f"{model!r} has no batch axis, its input is fixed; leave --batch out")
    return graphs_of(module, axes, dtype)


def graphs_of(module: DNNModule, axes: Mapping[str, AxisValue], dtype: str) -> ModelGraphs:
    """Capture a workload with some of its axes set; errors as for `model_graphs`."""
    stored = dtype if dtype in STORAGE_DTYPES else "float32"
    found = capture_workload(module, axes, stored)
    graphs = found.graphs if dtype == stored else tuple(with_dtype(graph, dtype) for graph in found.graphs)
    return ModelGraphs(graphs, int(module.resolve(axes).get("batch", 1)), found.break_reasons)


def workload_source(
    name: str, *, dtype: str = "float32", trust: bool = False, asked: Iterable[str] = ()
) -> tuple[GraphSource, dict[str, AxisValue]]:
    """What a sweep draws graphs from: a function of the workload's axes, and the default of every axis.

    Args:
        name: a registered workload (operator, synthetic model, network) or a model as on the command line.
        asked: axes that will be set.

    Raises:
        InputError: unknown workload, model or axis; the nearest names are given.
    """
    module = resolve_model(name, trust=trust)
    defaults = module.resolve()
    unknown_axes = [axis for axis in asked if axis not in defaults]
    if unknown_axes:
        # Refuses, and suggests the nearest.
        module.resolve({unknown_axes[0]: 1})

    def source(axes: Mapping[str, AxisValue]) -> Sequence[Graph]:
        return graphs_of(module, axes, dtype).graphs

    return source, defaults
