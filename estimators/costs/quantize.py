"""A graph with other element types: all floating tensors stored in another type, or its linear layers quantized."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from shmoo.estimators.errors import InputError, unknown
from shmoo.estimators.graph.dtypes import STORED_AS, canonical_dtype
from shmoo.estimators.graph.records import Graph, OpCall, TensorSpec, Value

FLOATS = frozenset({"float64", "float32", "tf32", "bfloat16", "float16", "float8"})
"""Types that are replaced; indices, masks and complex numbers stay as they are."""

SCHEMES = {
    "int8-dynamic": "weights int8 with a scale a column, activations rounded to int8 row by row as they come; products in int8",
    "int8-weight": "weights int8 with a scale a column; products in the activations' type",
    "int4-weight": "weights int4 with a scale and a zero point for each group of 128; products in the activations' type",
    "float8-dynamic": "weights float8 with a scale for each block of 128 by 128, activations rounded to float8 in groups of 128 "
    "as they come; products in float8",
    "float4-dynamic": "weights float4 with a float8 scale for each group of 16, activations rounded to float4 in groups of 16 as "
    "they come; products in float4",
}
"""Name -> meaning."""
GROUP = 128
"""Elements of a weight's row that share a scale in `int4-weight`: the default group size of torchao's Int4WeightOnlyConfig. A
block of `float8-dynamic` is as wide and as high: DeepSeek-V3 (arXiv:2412.19437, section 3.3.2)."""

FLOAT4_GROUP = 16
"""Elements that share a scale in float4 (NVFP4; NVIDIA Blackwell architecture technical brief, 2024)."""


class Scheme(msgspec.Struct, frozen=True):
    """How the linear layers of a model are quantized.

    Attributes:
        name: one of `SCHEMES`.
        group: elements of a weight's row that share a scale; 0 for a whole row.
        kept: names of modules, or of parts of their path, whose layers stay as they are.
        packed_zeros: zero points are stored in 4 bits, not beside the scales in their type.
    """

    name: str
    group: int = GROUP
    kept: tuple[str, ...] = ()
    packed_zeros: bool = False


_PRODUCTS = {
    "aten.linear": ("input", "weight", True),
    "aten.addmm": ("mat1", "mat2", False),
    "aten.mm": ("self", "mat2", False),
    "aten.matmul": ("self", "other", False),
}
"""Operator -> its activation, its weight, and whether the weight is (out, in) rather than (in, out)."""


def with_dtype(graph: Graph, dtype: str) -> Graph:
    """`graph` with every floating tensor of type `dtype`. Operators, shapes and wiring stay; scales and zero points of a
    quantized model are not added.

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

    replace = msgspec.structs.replace
    values = tuple(replace(value, spec=spec(value.spec)) for value in graph.values)
    calls = (replace(c, inputs=tuple(map(spec, c.inputs)), outputs=tuple(map(spec, c.outputs))) for c in graph.calls)
    return replace(graph, values=values, calls=tuple(calls))


class _Layer(NamedTuple):
    """One product of an activation with a weight of the model: the indices of its values, and its sizes."""

    source: int
    weight: int
    bias: int | None
    m: int
    n: int
    k: int


def quantized(graphs: Sequence[Graph], scheme: str | Scheme) -> tuple[Graph, ...]:
    """A model's graphs with every product of an activation and a two-dimensional weight quantized, as torchao's schemes do it.

    Convolutions, embeddings and all other operators stay as they are; a weight that they read too is kept beside its quantized
    copy. An activation that several layers read is rounded once.

    Raises:
        InputError: the scheme is not one of `SCHEMES`, or the graphs have no such product.
    """
    scheme = Scheme(scheme) if isinstance(scheme, str) else scheme
    if scheme.name not in SCHEMES:
        raise unknown("quantization scheme", scheme.name, SCHEMES)
    quantizers = _quantizers(graphs, scheme)
    if not any(quantizer.layers for quantizer in quantizers):
        raise InputError(f"the model has no product with a two-dimensional weight, so {scheme.name!r} has nothing to quantize")
    return tuple(quantizer.run() for quantizer in quantizers)


def saved_bytes(graphs: Sequence[Graph]) -> dict[str, float]:
    """Scheme -> bytes by which it makes the weights of a model smaller; negative where copies outweigh what they replace. A
    weight that several graphs read counts once."""
    saved = dict.fromkeys(SCHEMES, 0.0)
    seen: set[str] = set()
    for quantizer in _quantizers(graphs, Scheme(next(iter(SCHEMES)))):
        layers = {layer.weight: layer for layer in quantizer.layers.values()}
        named = {weight: quantizer.graph.values[weight].name for weight in layers}
        for weight, layer in layers.items():
            if named[weight] not in seen:
                old = quantizer.graph.values[weight].spec
                replaced = 0.0 if weight in quantizer.read_elsewhere else old.nbytes
                for scheme in SCHEMES:
                    saved[scheme] += replaced - sum(spec.nbytes for spec in _stored(layer, Scheme(scheme), old.dtype))
        seen |= {name for name in named.values() if name}
    return saved


def _quantizers(graphs: Sequence[Graph], scheme: Scheme) -> list[_Quantizer]:
    """One for each graph. A weight that another graph reads in an operator that stays as it is stays beside its copy."""
    quantizers = [_Quantizer(graph, scheme) for graph in graphs]
    kept = {quantizer.graph.values[i].name for quantizer in quantizers for i in quantizer.read_elsewhere} - {""}
    for quantizer in quantizers:
        weights = {layer.weight for layer in quantizer.layers.values()}
        quantizer.read_elsewhere |= {weight for weight in weights if quantizer.graph.values[weight].name in kept}
    return quantizers


def _stored(layer: _Layer, scheme: Scheme, dtype: str) -> tuple[TensorSpec, ...]:
    """The weight of a layer as (n, k) in its small type, its scales, and its zero points in 4 bits; where int4 does not pack
    them, they are beside the scales."""
    n, k = layer.n, layer.k
    high, wide = (-(-extent // (scheme.group or extent)) for extent in (n, k))
    if scheme.name == "float8-dynamic":
        return TensorSpec((n, k), "float8"), TensorSpec((high if scheme.group else n, wide), "float32")
    if scheme.name == "float4-dynamic":
        return TensorSpec((n, k), "float4"), TensorSpec((n, -(-k // FLOAT4_GROUP)), "float8")
    if scheme.name != "int4-weight":
        return TensorSpec((n, k), "int8"), TensorSpec((n,), dtype)
    if scheme.packed_zeros:
        return TensorSpec((n, k), "int4"), TensorSpec((wide, n), dtype), TensorSpec((wide, n), "int4")
    return TensorSpec((n, k), "int4"), TensorSpec((wide, n, 2), dtype)


class _Quantizer:
    """The state of one rewriting: values and calls so far, and the quantized copies of weights and activations."""

    def __init__(self, graph: Graph, scheme: Scheme) -> None:
        self.graph = graph
        self.scheme = scheme
        self.values = list(graph.values)
        self.calls: list[OpCall] = []
        self.weights: dict[int, tuple[int, ...]] = {}
        self.rounded: dict[int, tuple[int, int]] = {}
        self.layers = {i: layer for i, call in enumerate(graph.calls) if (layer := self._layer(call)) is not None}
        self.read_elsewhere = {index for i, call in enumerate(graph.calls) if i not in self.layers for index in call.reads}

    def run(self) -> Graph:
        for i, call in enumerate(self.graph.calls):
            layer = self.layers.get(i)
            if layer is None:
                self.calls.append(call)
            elif self.scheme.name == "int8-dynamic":
                self._dynamic(call, layer)
            elif self.scheme.name in ("float8-dynamic", "float4-dynamic"):
                self._small_float(call, layer)
            else:
                self._weight_only(call, layer)
        return msgspec.structs.replace(self.graph, values=tuple(self.values), calls=tuple(self.calls))

    def _layer(self, call: OpCall) -> _Layer | None:
        names = _PRODUCTS.get(call.op)
        if names is None or len(call.reads) != len(call.operands):
            return None
        read = dict(zip(call.operands, call.reads, strict=True))
        source, weight = read[names[0]], read[names[1]]
        value = self.graph.values[weight]
        spec = value.spec
        if value.kind != "parameter" or value.storage is not None or len(spec.shape) != 2 or spec.dtype not in FLOATS:
            return None
        module = value.name.rpartition(".")[0]
        if any(f".{name}." in f".{module}." for name in self.scheme.kept):
            return None
        n, k = spec.shape if names[2] else spec.shape[::-1]
        bias = read.get("bias", read.get("self") if call.op == "aten.addmm" else None)
        return _Layer(source, weight, bias, math.prod(self.graph.values[source].spec.shape[:-1]), n, k)

    def _append(self, spec: TensorSpec, like: Value | None = None, suffix: str = "") -> int:
        self.values.append(Value(spec) if like is None else Value(spec, like.kind, f"{like.name}.{suffix}"))
        return len(self.values) - 1

    def _call(self, like: OpCall, op: str, operands: dict[str, int], output: int, **attributes: int | bool) -> None:
        """Add a call at the place of `like` that reads the values `operands` and writes the value `output`."""
        self.calls.append(
            OpCall(
                op=op,
                inputs=tuple(self.values[index].spec for index in operands.values()),
                outputs=(self.values[output].spec,),
                operands=tuple(operands),
                attributes=dict(attributes),
                reads=tuple(operands.values()),
                writes=(output,),
                module=like.module,
                source=like.source,
            )
        )

    def _small(self, layer: _Layer) -> tuple[int, ...]:
        """The weight in its small type, and what is stored beside it, as in `_stored`."""
        if layer.weight not in self.weights:
            old = self.graph.values[layer.weight]
            spec, *others = _stored(layer, self.scheme, old.spec.dtype)
            if layer.weight in self.read_elsewhere:
                small = self._append(spec, old, spec.dtype)
            else:
                small = layer.weight
                self.values[small] = msgspec.structs.replace(old, spec=spec)
            beside = (self._append(spec, old, name) for spec, name in zip(others, ("scales", "zeros"), strict=False))
            self.weights[layer.weight] = (small, *beside)
        return self.weights[layer.weight]

    def _weight_only(self, call: OpCall, layer: _Layer) -> None:
        out = call.writes[0]
        product = out if layer.bias is None else self._append(self.values[out].spec)
        weight, scales, *zeros = self._small(layer)
        if self.scheme.name == "int8-weight":
            self._call(call, "aten._weight_int8pack_mm", {"self": layer.source, "mat2": weight, "scales": scales}, product)
        else:
            operands = {"self": layer.source, "mat2": weight, "qScaleAndZeros": scales}
            operands |= zip(("zeros",), zeros, strict=False)
            self._call(call, "aten._weight_int4pack_mm", operands, product, qGroupSize=self.scheme.group or layer.k)
        self._add_bias(call, layer, product, out)

    def _dynamic(self, call: OpCall, layer: _Layer) -> None:
        out = call.writes[0]
        weight, scales = self._small(layer)
        small, row_scales = self._round(call, layer)
        total = self._append(TensorSpec((layer.m, layer.n), "int32"))
        # `_int_mm` takes the (n, k) weight as a (k, n) view.
        self.values.append(Value(TensorSpec((layer.k, layer.n), "int8"), self.values[weight].kind, storage=weight))
        self._call(call, "aten._int_mm", {"self": small, "mat2": len(self.values) - 1}, total)
        by_row = self._append(TensorSpec((layer.m, layer.n), self.values[out].spec.dtype))
        self._call(call, "aten.mul", {"self": total, "other": row_scales}, by_row)
        product = out if layer.bias is None else self._append(self.values[out].spec)
        self._call(call, "aten.mul", {"self": by_row, "other": scales}, product)
        self._add_bias(call, layer, product, out)

    def _small_float(self, call: OpCall, layer: _Layer) -> None:
        out = call.writes[0]
        weight, scales = self._small(layer)
        dtype, groups = self.values[weight].spec.dtype, self.values[scales].spec
        small, row_scales = self._round(call, layer, dtype, groups.shape[1], groups.dtype)
        product = out if layer.bias is None else self._append(self.values[out].spec)
        # `_scaled_mm` takes the (n, k) weight as a (k, n) view.
        self.values.append(Value(TensorSpec((layer.k, layer.n), dtype), self.values[weight].kind, storage=weight))
        operands = {"self": small, "mat2": len(self.values) - 1, "scale_a": row_scales, "scale_b": scales}
        self._call(call, "aten._scaled_mm", operands, product)
        self._add_bias(call, layer, product, out)

    def _round(
        self, call: OpCall, layer: _Layer, small_dtype: str = "int8", groups: int = 1, scale_dtype: str | None = None
    ) -> tuple[int, int]:
        """The activation as (m, k) in a small type, and the scales of each row, by default in the activation's type."""
        if layer.source not in self.rounded:
            dtype = scale_dtype or self.values[layer.source].spec.dtype
            scales = self._append(TensorSpec((layer.m, groups), dtype))
            self._call(call, "torchao.choose_qparams_affine", {"input": layer.source}, scales)
            small = self._append(TensorSpec((layer.m, layer.k), small_dtype))
            self._call(call, "torchao.quantize_affine", {"input": layer.source, "scale": scales}, small)
            self.rounded[layer.source] = small, scales
        return self.rounded[layer.source]

    def _add_bias(self, call: OpCall, layer: _Layer, product: int, out: int) -> None:
        if layer.bias is not None:
            self._call(call, "aten.add", {"self": product, "other": layer.bias}, out, alpha=1)
