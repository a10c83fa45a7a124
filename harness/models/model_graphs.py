"""Models and workloads by name -> their graphs at given sizes, types and modes; phases of language models."""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import msgspec
import torch
from torch.utils._pytree import tree_leaves, tree_map

from shmoo.estimators.costs.quantize import PARAMETER_SUFFIXES, SMALL_TYPES, Scheme, quantized, with_dtype
from shmoo.estimators.errors import InputError, not_installed, unknown
from shmoo.estimators.graph.dtypes import compute_dtype, matrix_dtype
from shmoo.estimators.graph.records import Graph, weights_of
from shmoo.harness.capture.fx.guard import guarded
from shmoo.harness.capture.fx.introspect import CaptureError
from shmoo.harness.capture.workload import CaptureFamily, build_for_capture
from shmoo.harness.models.request import Mode, ModelRequest, at_batches
from shmoo.harness.module import STORAGE_DTYPES, Built, Capture, DNNModule, Maker, dim
from shmoo.harness.workloads.config_inputs import DEFAULT_SEQ_LEN
from shmoo.harness.workloads.loading import resolve_model, with_default
from shmoo.harness.workloads.quantization import described
from shmoo.runs.store.records import AxisValue

logger = logging.getLogger(__name__)

PHASES = ("prefill", "decode")
_CACHE_SWITCH = "use_cache"
"""The argument of transformers' models that switches their cache of keys and values."""
STEP_AXES = ("batch", "tokens", "past")
"""Axes of a user's language model: sequences, new tokens per sequence, and cached tokens per sequence before them."""


def model_graphs(
    model: str,
    *,
    batch: int | None = None,
    dtype: str | None = None,
    input_shape: tuple[int, ...] | None = None,
    seq_len: int | None = None,
    trust: bool = False,
    mode: Mode | None = None,
) -> Capture:
    """Capture a model named as on the command line; arguments as in `ModelRequest`, and the samples of a call, the model's own
    for `None`.

    Raises:
        InputError: unknown model, or a batch where the model has no batch axis.
        CaptureError: torch cannot capture the model.
    """
    request = ModelRequest(model, dtype, input_shape, seq_len, trust, mode or Mode(), at_batches((batch,)))
    return open_model(request).at(request.points[0])


def open_model(request: ModelRequest) -> WorkloadGraphs:
    """The graphs of a model by name, which is built and captured on first use; `InputError` for an unknown model, mode
    or axis, with the nearest names."""
    phase = request.mode.phase
    module = resolve_model(
        request.model, input_shape=request.input_shape, seq_len=None if phase else request.seq_len, trust=request.trust
    )
    if phase is not None:
        module = phase_of(module, phase)
        if request.seq_len is not None:
            module = with_default(module, "seq_len", request.seq_len)
    if not module.axes and any("batch" in point for point in request.points):
        raise InputError(f"{request.model!r} has no batch axis, its input is fixed; leave --batch out")
    return WorkloadGraphs(module, request.points, request.dtype, request.mode)


class WorkloadGraphs:
    """Graphs of a workload at points of its axes, from one capture where torch allows it. `points` are the points of later calls
    of `at`; `InputError` where dtype and mode exclude each other."""

    def __init__(
        self, module: DNNModule, points: Sequence[Mapping[str, AxisValue]], dtype: str | None = None, mode: Mode | None = None
    ) -> None:
        self._module = module
        self._dtype = dtype
        self._mode = mode or Mode()
        self._mode.check(dtype or "float32")
        self._stored = dtype if dtype is None or dtype in STORAGE_DTYPES else "float32"
        self._family = CaptureFamily(module, points, self._stored)

    @property
    def axes(self) -> dict[str, AxisValue]:
        """The default of every axis of the workload."""
        return self._module.resolve()

    def at(self, axes: Mapping[str, AxisValue]) -> Capture:
        """The graphs at one point. `CaptureError` where torch cannot capture the model; `InputError` where an axis or its value
        cannot be used, or there is nothing to quantize."""
        begin = time.monotonic()
        capture = self._capture(axes)
        graphs = capture.graphs
        taken_s, calls = time.monotonic() - begin, sum(len(graph.calls) for graph in graphs)
        name = self._module.name
        logger.info("captured %s %s in %.2f s: %d graphs, %d calls", name, dict(axes), taken_s, len(graphs), calls)
        if self._dtype is not None and self._dtype != self._stored:
            graphs = tuple(with_dtype(graph, self._dtype) for graph in graphs)
        notes, stored_schemes = self._module.notes, self._module.quantization
        if self._mode.quantize is not None:
            graphs = quantized(graphs, self._mode.quantize)
        if stored_schemes and (self._mode.quantize is not None or self._mode.training):
            instead = "another one is requested" if self._mode.quantize else "a training step keeps whole weights"
            notes = (*notes, f"the config's quantization is not taken into account: {instead}")
        elif stored_schemes:
            graphs, scheme_notes = _as_stored(graphs, stored_schemes)
            notes = (*notes, *scheme_notes)
        if notes and graphs:
            graphs = (msgspec.structs.replace(graphs[0], notes=(*graphs[0].notes, *notes)), *graphs[1:])
        batch = int(self._module.resolve(axes).get("batch", 1))
        arithmetic = None if self._dtype is None else matrix_dtype(self._dtype)
        return msgspec.structs.replace(capture, graphs=graphs, batch=batch, compute_dtype=arithmetic)

    @guarded
    def _capture(self, axes: Mapping[str, AxisValue]) -> Capture:
        if self._mode.training:
            return _capture_training_step(self._module, axes, self._stored)
        if self._mode.autocast is None and not self._mode.channels_last:
            return self._family.at(axes)
        from shmoo.harness.capture.traced import capture_traced

        # On fake tensors: torch.autocast does not work on meta tensors.
        built = build_for_capture(self._module, axes, self._stored)
        if self._mode.channels_last:
            built = channels_last(built)
        cast = torch.autocast("cpu", dtype=getattr(torch, compute_dtype(self._mode.autocast or "bfloat16")))
        with cast if self._mode.autocast else nullcontext():
            return capture_traced(built.model, built.args, built.kwargs, name=self._module.name, notes=built.notes)


def _as_stored(graphs: tuple[Graph, ...], schemes: Sequence[Scheme]) -> tuple[tuple[Graph, ...], tuple[str, ...]]:
    """Graphs with weights stored according to a config, and notes on the schemes and the share of the parameters."""
    notes = []
    before = sum(value.spec.numel for value in weights_of(graphs))
    for scheme in schemes:
        try:
            graphs = quantized(graphs, scheme)
            notes.append(f"linear layers are quantized as the config says: {described(scheme)}")
        except InputError as error:
            notes.append(f"the config's quantization is not taken into account: {error}")
    small = [
        value for value in weights_of(graphs) if value.spec.dtype in SMALL_TYPES and not value.name.endswith(PARAMETER_SUFFIXES)
    ]
    share = sum(value.spec.numel for value in small) / max(before, 1)
    return graphs, (*notes, f"{share:.1%} of all parameters are stored in a smaller type")


def channels_last(built: Built) -> Built:
    """A model with its images and the weights of its convolutions stored channels-last; `InputError` where it takes no images."""
    last = torch.channels_last

    def to_channels_last(value: object) -> object:
        return value.to(memory_format=last) if isinstance(value, torch.Tensor) and value.dim() == 4 else value

    if not any(isinstance(leaf, torch.Tensor) and leaf.dim() == 4 for leaf in tree_leaves((built.args, built.kwargs))):
        raise InputError("channels-last is an order of images, and the model takes none; leave it out")
    args, kwargs = tree_map(to_channels_last, (built.args, built.kwargs))
    model: Any = built.model
    stored_model = model.to(memory_format=last) if isinstance(model, torch.nn.Module) else model
    return msgspec.structs.replace(built, model=stored_model, args=args, kwargs=kwargs)


def _capture_training_step(module: DNNModule, axes: Mapping[str, AxisValue], dtype: str | None) -> Capture:
    """A training step, without weights in memory where the model allows it."""
    from shmoo.harness.capture.training import capture_training

    built = _without_cache(build_for_capture(module, axes, dtype))
    try:
        return capture_training(built.model, built.args, built.kwargs, name=module.name)
    except CaptureError as on_meta:
        if module.without_memory:
            raise
        built = _without_cache(module.build(axes, dtype, "cpu"))
        try:
            return capture_training(built.model, built.args, built.kwargs, name=module.name)
        except CaptureError as on_cpu:
            raise CaptureError(f"{on_cpu} (and on the meta device: {on_meta})") from on_cpu


def _without_cache(built: Built) -> Built:
    """A model with its cache of keys and values turned off, if its call has such a switch, since training needs none."""
    model = built.model
    if not isinstance(model, torch.nn.Module) or _CACHE_SWITCH in built.kwargs:
        return built
    switched = _CACHE_SWITCH in inspect.signature(model.forward).parameters
    return msgspec.structs.replace(built, kwargs={**built.kwargs, _CACHE_SWITCH: False}) if switched else built


def phase_of(module: DNNModule, phase: str) -> DNNModule:
    """One phase of a causal language model as a separate workload, with axes "batch" and "seq_len".

    Prefill takes `seq_len` new tokens and an empty cache; decode takes one new token after `seq_len` tokens in the cache. Both
    write keys and values into preallocated memory, and give the logits of the last token only, as generation does.

    The module has the axes of `STEP_AXES`, or builds a Hugging Face causal language model. `InputError` for an unknown phase,
    and, on building, for a model that is not a causal language model.
    """
    if phase not in PHASES:
        raise unknown("phase", phase, PHASES)
    defaults = {axis.name: axis.default for axis in module.axes}

    def factory(make: Maker, *, batch: int, seq_len: int) -> Built:
        tokens, past = (seq_len, 0) if phase == "prefill" else (1, seq_len)
        if set(STEP_AXES) <= set(defaults):
            return module.factory(make, **{**defaults, "batch": batch, "tokens": tokens, "past": past})
        return _hugging_face_step(module, make, batch, tokens, past)

    meaning = "tokens of the prompt" if phase == "prefill" else "tokens in the cache before the new one"
    length = int(defaults.get("seq_len", DEFAULT_SEQ_LEN))
    axes = (dim("batch", int(defaults.get("batch", 1)), "sequences at once"), dim("seq_len", length, meaning))
    return msgspec.structs.replace(module, name=f"{module.name}:{phase}", kind="network", axes=axes, factory=factory)


def _hugging_face_step(module: DNNModule, make: Maker, batch: int, tokens: int, past: int) -> Built:
    small = {axis.name: 1 if axis.name in ("batch", "seq_len") else axis.default for axis in module.axes}
    built = module.factory(make, **small)
    if not hasattr(built.model, "config"):
        raise InputError(
            f"{module.name!r} is not a causal language model; phases exist for those of transformers, and for a factory with the "
            f"parameters {', '.join(STEP_AXES)}"
        )
    try:
        from shmoo.harness.models.causal_step import causal_step, is_causal
    except ImportError as error:
        raise not_installed("phases of language models", "transformers>=4.56", str(error)) from error
    if not is_causal(built.model):
        raise InputError(
            f"{module.name!r} ({type(built.model).__name__}) is not a causal language model, so it has no {'/'.join(PHASES)}"
        )
    ids = make.indices(built.model.config.get_text_config().vocab_size, batch, tokens)
    step, cache = causal_step(built.model, ids, past)
    return Built(step.eval(), (ids, *cache), traced=built.traced, notes=built.notes)
