"""The same graph with its floating tensors stored in another type: what a quantised copy of a model would move and compute."""

from __future__ import annotations

import msgspec

from shmoo.estimators.dtypes import STORED_AS, canonical_dtype
from shmoo.estimators.errors import InputError
from shmoo.estimators.records import Graph, OpCall, TensorSpec, Value

FLOATS = frozenset({"float64", "float32", "tf32", "bfloat16", "float16", "float8"})
"""Types that are replaced; indices, masks and complex numbers stay as they are."""


def with_dtype(graph: Graph, dtype: str) -> Graph:
    """`graph` with every floating tensor of type `dtype`. Operators, shapes and wiring stay; scales and zero points of a
    quantised model are not added.

    Raises:
        InputError: the type is not known, or tensors are not stored in it.
    """
    target = canonical_dtype(dtype)
    if target in STORED_AS:
        raise InputError(
            f"tensors are not stored as {target}: it is a way to multiply {STORED_AS[target]}; keep the graph as it is, and "
            f"estimate it with compute_dtype={target!r}"
        )

    def spec(old: TensorSpec) -> TensorSpec:
        return TensorSpec(old.shape, target) if old.dtype in FLOATS else old

    def value(old: Value) -> Value:
        return msgspec.structs.replace(old, spec=spec(old.spec))

    def call(old: OpCall) -> OpCall:
        return msgspec.structs.replace(old, inputs=tuple(map(spec, old.inputs)), outputs=tuple(map(spec, old.outputs)))

    return msgspec.structs.replace(graph, values=tuple(map(value, graph.values)), calls=tuple(map(call, graph.calls)))
