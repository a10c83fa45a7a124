"""Memory that operators take for themselves while they run, beside operands and results.

Known are the buffers that PyTorch's eager operators allocate on CPUs (ATen's `native` sources, version 2.13): results that the
caller drops, statistics, copies of operands that a kernel cannot read as they lie.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from shmoo.estimators.dtypes import bytes_of
from shmoo.estimators.records import OpCall
from shmoo.estimators.registry import Registry

WORKSPACE: Registry[Callable[[OpCall], float]] = Registry("workspace")
"""Operator name -> bytes on a CPU."""
_INDEX_BYTES = 8


def workspace_bytes(call: OpCall, family: str = "cpu") -> float:
    """Bytes that a call allocates and frees while it runs; 0 where none are known."""
    found = WORKSPACE.get(call.op) if family == "cpu" else None
    return 0.0 if found is None else found(call)


@WORKSPACE.register("aten.max_pool1d", "aten.max_pool2d", "aten.max_pool3d", "aten.adaptive_max_pool2d")
def _max_pool(call: OpCall) -> float:
    """The places of the maxima, 64-bit integers, which inference drops."""
    return _INDEX_BYTES * call.outputs[0].numel if len(call.outputs) == 1 else 0.0


@WORKSPACE.register("aten.layer_norm")
def _layer_norm(call: OpCall) -> float:
    """Mean and reciprocal deviation of each row."""
    normalised = call.attributes.get("normalized_shape")
    row = math.prod(n for n in normalised if isinstance(n, int)) if isinstance(normalised, list) else 1
    return 2 * bytes_of("float32", call.inputs[0].numel / max(row, 1))


@WORKSPACE.register("aten.roll")
def _roll(call: OpCall) -> float:
    """One dimension is rolled after another."""
    shifts = call.attributes.get("shifts")
    return call.outputs[0].nbytes if isinstance(shifts, list) and len(shifts) > 1 else 0.0


@WORKSPACE.register("aten.scaled_dot_product_attention")
def _attention(call: OpCall) -> float:
    """The logarithms of the sums of exponentials, one float a query and head."""
    queries = call.inputs[0]
    return bytes_of("float32", queries.numel / max(queries.shape[-1], 1))
