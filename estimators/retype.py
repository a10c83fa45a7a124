"""The same graph with its floating tensors stored in another type: what a quantised copy of a model would move and compute."""

from __future__ import annotations

import msgspec

from shmoo.estimators.dtypes import canonical_dtype
from shmoo.estimators.records import Graph, OpCall, TensorSpec, Value

FLOATS = frozenset({"float64", "float32", "tf32", "bfloat16", "float16", "float8"})
"""Types that are replaced; indices, masks and complex numbers stay as they are."""


def with_dtype(graph: Graph, dtype: str) -> Graph:
    """`graph` with every floating tensor of type `dtype`. Operators, shapes and wiring stay; scales and zero points of a
    quantised model are not added.

    Raises:
        InputError: the type is not known.
    """
    target = canonical_dtype(dtype)

    def spec(old: TensorSpec) -> TensorSpec:
        return TensorSpec(old.shape, target) if old.dtype in FLOATS else old

    def value(old: Value) -> Value:
        return msgspec.structs.replace(old, spec=spec(old.spec))

    def call(old: OpCall) -> OpCall:
        return msgspec.structs.replace(old, inputs=tuple(map(spec, old.inputs)), outputs=tuple(map(spec, old.outputs)))

    return msgspec.structs.replace(graph, values=tuple(map(value, graph.values)), calls=tuple(map(call, graph.calls)))
