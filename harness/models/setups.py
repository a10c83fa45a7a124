"""A model by name in the setups that advice compares. Imports torch only to capture."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from shmoo.estimators.costs.quantize import quantized, with_dtype
from shmoo.estimators.errors import InputError
from shmoo.estimators.graph.dtypes import STORED_AS
from shmoo.estimators.graph.records import Graph
from shmoo.estimators.present.setups import BATCH_STEPS, Setup
from shmoo.harness.models.capture_cache import ModelSource
from shmoo.harness.models.request import ModelRequest, at_batches
from shmoo.harness.module import STORAGE_DTYPES, Capture


class ModelSetups:
    """Graphs of a model in setups. For each type and image layout, one capture serves the original batch and one all others.

    Args:
        request: the original model; its points are ignored.
        batch: samples per call; by default the model's batch.
        open_source: makes the source of a request's graphs.
    """

    def __init__(
        self, request: ModelRequest, batch: int | None = None, open_source: Callable[[ModelRequest], ModelSource] = ModelSource
    ) -> None:
        self._request = request
        self._open = open_source
        self._sources: dict[tuple[str | None, bool, bool], ModelSource] = {}
        self._given_batch = batch
        axes = open_source(msgspec.structs.replace(request, points=at_batches((batch,)))).axes()
        self._batched = "batch" in axes
        self.batch = int(batch or axes.get("batch", 1))

    def base(self, runtime: str) -> Setup:
        """The setup of the original request."""
        mode = self._request.mode
        return Setup(
            runtime=runtime, batch=self.batch, dtype=self._request.dtype, quantize=mode.quantize, channels_last=mode.channels_last
        )

    def captured(self, setup: Setup) -> Capture:
        """The capture in the types and image layout of a setup, before types and weights are replaced.
        `CaptureError` where torch cannot capture the model; `InputError` where the model does not take the setup."""
        if setup.batch != self.batch and not self._batched:
            raise InputError("the model's input is fixed: it has no batch axis")
        # Types without arithmetic in torch replace those of a float32 capture, or the model's types.
        stored_dtype = None if setup.dtype is None else STORAGE_DTYPES.get(setup.dtype, "float32")
        if stored_dtype == "float32" and self._request.dtype is None:
            stored_dtype = None
        own_batch = setup.batch == self.batch
        points = at_batches((self._given_batch,) if own_batch else [self.batch * step for step in BATCH_STEPS])
        key = stored_dtype, setup.channels_last, own_batch
        mode = msgspec.structs.replace(self._request.mode, quantize=setup.quantize, channels_last=setup.channels_last)
        mode.check(setup.dtype or "float32")
        if key not in self._sources:
            plain = msgspec.structs.replace(mode, quantize=None)
            self._sources[key] = self._open(msgspec.structs.replace(self._request, dtype=stored_dtype, mode=plain, points=points))
        return self._sources[key].at(points[0] if own_batch else {"batch": setup.batch})

    def graphs(self, setup: Setup) -> tuple[Graph, ...]:
        """The graphs of a setup; errors as of `captured`."""
        return in_setup(self.captured(setup).graphs, setup, replace_all=False)


def of_graphs(graphs: Sequence[Graph], base: Setup) -> Callable[[Setup], tuple[Graph, ...]]:
    """Setups of captured graphs: other types and quantized weights, at the captured size and layout."""

    def graphs_of(setup: Setup) -> tuple[Graph, ...]:
        if (setup.batch, setup.channels_last) != (base.batch, base.channels_last):
            raise InputError("the graphs are captured already, at a fixed size and layout; give the model by name")
        return in_setup(graphs, setup, replace_all=setup.dtype != base.dtype)

    return graphs_of


def in_setup(graphs: Sequence[Graph], setup: Setup, replace_all: bool) -> tuple[Graph, ...]:
    """Graphs with the types and the quantized weights of a setup; `replace_all` also replaces types that torch computes in."""
    target = setup.dtype
    if target is not None and target not in STORED_AS and (replace_all or target not in STORAGE_DTYPES):
        graphs = [with_dtype(graph, target) for graph in graphs]
    return tuple(graphs) if setup.quantize is None else quantized(graphs, setup.quantize)
