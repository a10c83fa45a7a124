"""A graph with other element types: all floating tensors stored in another type, or its linear layers quantized."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

import msgspec

from shmoo.estimators.errors import InputError, unknown
from shmoo.estimators.graph.dtypes import STORED_AS, canonical_dtype
from shmoo.estimators.graph.records import Graph, OpCall, TensorSpec, Value, ValueKind

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
PARAMETER_SUFFIXES = (".scales", ".zeros")
"""Suffixes of the names of a quantized weight's scales and zero points."""
SMALL_TYPES = frozenset({"int4", "int8", "float4", "float8"})
ACTIVATION_DTYPE = "own"
"""Stands for the type of the activations, as the type of scales and zero points."""


class Scheme(msgspec.Struct, frozen=True):
    """How the linear layers of a model are quantized.

    Attributes:
        name: key of `SCHEMES`, which describes how products are computed.
        weight: element type of the stored weights.
        block: rows and columns of a weight that share a scale; 0 for all of them.
        scale: element type of the scales, or `ACTIVATION_DTYPE`.
        zero: element type of the zero points, of which there are as many as scales; `None` without them.
        only: modules whose layers are quantized, as names or parts of their paths (`matches`); () for all modules.
        kept: modules whose layers are not quantized, likewise.
        parts: whether matrices inside a larger weight, such as those of experts, are quantized too.
    """

    name: str
    weight: str
    block: tuple[int, int]
    scale: str = ACTIVATION_DTYPE
    zero: str | None = None
    only: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    parts: bool = False

    def takes(self, module: str) -> bool:
        """Whether the layers of a module are quantized."""
        is_selected = not self.only or any(matches(name, module) for name in self.only)
        return is_selected and not any(matches(name, module) for name in self.kept)


STANDARD = {
    "int8-dynamic": Scheme("int8-dynamic", "int8", (1, 0)),
    "int8-weight": Scheme("int8-weight", "int8", (1, 0)),
    "int4-weight": Scheme("int4-weight", "int4", (1, GROUP), zero=ACTIVATION_DTYPE),
    "float8-dynamic": Scheme("float8-dynamic", "float8", (GROUP, GROUP), "float32"),
    "float4-dynamic": Scheme("float4-dynamic", "float4", (1, FLOAT4_GROUP), "float8"),
}
"""The schemes by name."""


def matches(name: str, module: str) -> bool:
    """True where a module's path contains `name` as one or several whole parts; `*` stands for anything. "mlp.gate" matches
    "model.layers.0.mlp.gate" but not "model.layers.0.mlp.gate_proj"."""
    return fnmatchcase(f".{module}.", f"*.{name}.*") if "*" in name else f".{name}." in f".{module}."


_PRODUCTS = {
    "aten.linear": ("input", "weight", True),
    "aten.addmm": ("mat1", "mat2", False),
    "aten.mm": ("self", "mat2", False),
    "aten.matmul": ("self", "other", False),
}
"""Operator -> its activation, its weight, and whether the weight is (out, in) rather than (in, out)."""
_BATCHED_PRODUCTS = {
    "aten._grouped_mm": ("self", "mat2", False),
    "transformers.grouped_mm_fallback": ("input", "weight", False),
    "aten.bmm": ("self", "mat2", False),
    "aten.matmul": ("self", "other", False),
}
"""The same for products with several matrices at once, such as those of experts."""


def with_dtype(graph: Graph, dtype: str) -> Graph:
    """`graph` with every floating tensor of type `dtype`. Operators, shapes and wiring stay, and no scales or zero points are
    added. `InputError` for a type that tensors are not stored in."""
    target = canonical_dtype(dtype)
    if target in STORED_AS:
        raise InputError(
            f"tensors are not stored as {target}: it is a way to multiply {STORED_AS[target]}; keep the graph as it is, and "
            f"estimate it with compute_dtype={target!r}"
        )

    def spec(original: TensorSpec) -> TensorSpec:
        return TensorSpec(original.shape, target) if original.dtype in FLOATS else original

    replace = msgspec.structs.replace
    values = tuple(replace(value, spec=spec(value.spec)) for value in graph.values)
    calls = (replace(c, inputs=tuple(map(spec, c.inputs)), outputs=tuple(map(spec, c.outputs))) for c in graph.calls)
    return replace(graph, values=values, calls=tuple(calls))


class _Layer(NamedTuple):
    """One product of an activation with a weight of the model: the indices of its values, and its sizes.

    Attributes:
        root: the weight's value; `weight` where the product reads it as it is stored.
        matrices: of (n, k) that the product multiplies with at once.
    """

    source: int
    weight: int
    root: int
    bias: int | None
    m: int
    n: int
    k: int
    matrices: int = 1


def quantized(graphs: Sequence[Graph], scheme: str | Scheme) -> tuple[Graph, ...]:
    """A model's graphs with every product of an activation and a two-dimensional weight quantized, as torchao's schemes do it.

    Convolutions, embeddings and all other operators stay as they are; a weight that they read too is kept beside its quantized
    copy. An activation that several layers read is rounded once. `InputError` for an unknown scheme, and without such a product.
    """
    if isinstance(scheme, str):
        if scheme not in STANDARD:
            raise unknown("quantization scheme", scheme, SCHEMES)
        scheme = STANDARD[scheme]
    quantizers = _quantizers(graphs, scheme)
    if not any(quantizer.layers for quantizer in quantizers):
        raise InputError(f"the model has no product with a two-dimensional weight, so {scheme.name!r} has nothing to quantize")
    return tuple(quantizer.run() for quantizer in quantizers)


def saved_bytes(graphs: Sequence[Graph]) -> dict[str, float]:
    """Scheme -> bytes that it saves on the weights of a model; negative where quantized copies are larger than the weights that
    they replace. A weight that several graphs read counts once."""
    saved_by_scheme = dict.fromkeys(SCHEMES, 0.0)
    counted_names: set[str] = set()
    for quantizer in _quantizers(graphs, STANDARD[next(iter(SCHEMES))]):
        layers = {layer.root: layer for layer in quantizer.layers.values()}
        name_of_weight = {weight: quantizer.graph.values[weight].name for weight in layers}
        for weight, layer in layers.items():
            if name_of_weight[weight] not in counted_names:
                original = quantizer.graph.values[weight].spec
                freed_bytes = 0.0 if weight in quantizer.read_elsewhere else original.nbytes
                for name, scheme in STANDARD.items():
                    saved_by_scheme[name] += freed_bytes - sum(spec.nbytes for spec in _quantized_specs(layer, original, scheme))
        counted_names |= {name for name in name_of_weight.values() if name}
    return saved_by_scheme


def _quantizers(graphs: Sequence[Graph], scheme: Scheme) -> list[_Quantizer]:
    """One for each graph. A weight that another graph reads in an operator that stays as it is stays beside its copy."""
    quantizers = [_Quantizer(graph, scheme) for graph in graphs]
    kept_names = {quantizer.graph.values[i].name for quantizer in quantizers for i in quantizer.read_elsewhere} - {""}
    for quantizer in quantizers:
        weights = {layer.root for layer in quantizer.layers.values()}
        quantizer.read_elsewhere |= {weight for weight in weights if quantizer.graph.values[weight].name in kept_names}
    return quantizers


def _quantized_specs(layer: _Layer, original: TensorSpec, scheme: Scheme) -> tuple[TensorSpec, ...]:
    """A layer's weight of the spec `original` in its small type, its scales, and its zero points, if it has any."""
    rows = original.numel // layer.k
    # Blocks do not reach from one matrix into the next.
    matrices = rows // layer.n if rows % layer.n == 0 else 1
    rows_of_scales = matrices * -(-(rows // matrices) // (scheme.block[0] or rows // matrices))
    scale_columns = -(-layer.k // (scheme.block[1] or layer.k))
    shape = (layer.n, layer.k) if layer.weight == layer.root and layer.matrices == 1 else original.shape
    scales = (rows_of_scales,) if scale_columns == 1 else (rows_of_scales, scale_columns)
    dtypes = [original.dtype if kind == ACTIVATION_DTYPE else kind for kind in (scheme.scale, scheme.zero) if kind is not None]
    return TensorSpec(shape, scheme.weight), *(TensorSpec(scales, dtype) for dtype in dtypes)


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
        self.read_elsewhere = {
            graph.root(index)
            for i, call in enumerate(graph.calls)
            if i not in self.layers
            for place, index in enumerate(call.reads)
            if place or not self._is_view(call)
        }

    def run(self) -> Graph:
        for i, call in enumerate(self.graph.calls):
            layer = self.layers.get(i)
            if layer is None:
                self.calls.append(call)
            elif len(self.graph.values[layer.weight].spec.shape) > 2:
                self._batched(call, layer)
            elif self.scheme.name == "int8-dynamic":
                self._dynamic(call, layer)
            elif self.scheme.name in ("float8-dynamic", "float4-dynamic"):
                self._small_float(call, layer)
            else:
                self._weight_only(call, layer)
        dtype_of_root = {root: self.values[root].spec.dtype for root in self.weights if root not in self.read_elsewhere}
        return _with_types(msgspec.structs.replace(self.graph, values=tuple(self.values), calls=tuple(self.calls)), dtype_of_root)

    def _is_view(self, call: OpCall) -> bool:
        """Whether the call's results are views of its first operand."""
        owner = self.graph.root(call.reads[0])
        return not call.inplace and all(self.graph.root(index) == owner for index in call.writes)

    def _layer(self, call: OpCall) -> _Layer | None:
        if len(call.reads) != len(call.operands):
            return None
        value_of = dict(zip(call.operands, call.reads, strict=True))
        for products, rank in ((_PRODUCTS, 2), (_BATCHED_PRODUCTS if self.scheme.parts else {}, 3)):
            if call.op not in products:
                continue
            from_name, weight_name, is_transposed = products[call.op]
            source, weight = value_of[from_name], value_of[weight_name]
            root = self.graph.root(weight)
            value, spec = self.graph.values[root], self.graph.values[weight].spec
            fits = len(spec.shape) == rank and spec.dtype in FLOATS and (root == weight or self.scheme.parts)
            if fits and 0 not in spec.shape and value.kind == "parameter" and self.scheme.takes(value.name.rpartition(".")[0]):
                n, k = spec.shape[-2:] if is_transposed else spec.shape[:-3:-1]
                bias = value_of.get("bias", value_of.get("self") if call.op == "aten.addmm" else None) if rank == 2 else None
                rows = math.prod(self.graph.values[source].spec.shape[:-1])
                return _Layer(source, weight, root, bias, rows, n, k, math.prod(spec.shape[:-2]))
        return None

    def _append(self, spec: TensorSpec, kind: ValueKind = "activation", name: str = "") -> int:
        self.values.append(Value(spec, kind, name))
        return len(self.values) - 1

    def _call(self, original_call: OpCall, op: str, operands: dict[str, int], *outputs: int, **attributes: int | bool) -> None:
        """Add a call at the place of `original_call` that reads the values `operands` and writes the values `outputs`."""
        self.calls.append(
            OpCall(
                op=op,
                inputs=tuple(self.values[index].spec for index in operands.values()),
                outputs=tuple(self.values[index].spec for index in outputs),
                operands=tuple(operands),
                attributes=dict(attributes),
                reads=tuple(operands.values()),
                writes=outputs,
                module=original_call.module,
                source=original_call.source,
            )
        )

    def _small(self, layer: _Layer) -> tuple[int, ...]:
        """The values of a layer's quantized weight, scales and zero points; views of them where the product reads a part."""
        if layer.root not in self.weights:
            original = self.graph.values[layer.root]
            spec, *specs_of_scales = _quantized_specs(layer, original.spec, self.scheme)
            if layer.root in self.read_elsewhere:
                weight = self._append(spec, original.kind, f"{original.name}.{spec.dtype}")
            else:
                weight = layer.root
                self.values[weight] = msgspec.structs.replace(original, spec=spec)
            parameters = (
                self._append(spec, "buffer", f"{original.name}{name}")
                for spec, name in zip(specs_of_scales, PARAMETER_SUFFIXES, strict=False)
            )
            self.weights[layer.root] = (weight, *parameters)
        stored = self.weights[layer.root]
        if layer.weight == layer.root:
            return stored
        elements = layer.matrices * layer.n * layer.k
        share = elements / max(self.graph.values[layer.root].spec.numel, 1)
        shape = (layer.matrices, layer.n, layer.k)[layer.matrices == 1 :]
        specs = [TensorSpec((round(share * self.values[i].spec.numel),), self.values[i].spec.dtype) for i in stored[1:]]
        views = zip((TensorSpec(shape, self.scheme.weight), *specs), stored, strict=True)
        return tuple(self._view(spec, root) for spec, root in views)

    def _view(self, spec: TensorSpec, root: int) -> int:
        self.values.append(Value(spec, self.values[root].kind, storage=root))
        return len(self.values) - 1

    def _batched(self, call: OpCall, layer: _Layer) -> None:
        """Several products at once, their scales applied in them; only dynamic schemes round the activation."""
        names = _BATCHED_PRODUCTS[call.op]
        others = {name: index for name, index in zip(call.operands, call.reads, strict=True) if name not in names[:2]}
        weight, *parameters = self._small(layer)
        specs = [self.graph.values[index].spec for index in (layer.source, layer.weight)]
        operands = {"self": layer.source, "mat2": self._view(TensorSpec(specs[1].shape, self.scheme.weight), self._root(weight))}
        if self.scheme.name.endswith("dynamic"):
            activation, scales = self._round(call, layer, self.scheme.weight)
            operands |= {"self": self._view(TensorSpec(specs[0].shape, self.scheme.weight), activation), "scale_a": scales}
        operands |= {name[1:]: index for name, index in zip(PARAMETER_SUFFIXES, parameters, strict=False)}
        self._call(call, "aten._grouped_mm", operands | others, call.writes[0])

    def _root(self, index: int) -> int:
        storage = self.values[index].storage
        return index if storage is None else storage

    def _weight_only(self, call: OpCall, layer: _Layer) -> None:
        product = self._product(call, layer)
        weight, scales, *zeros = self._small(layer)
        if self.scheme.name == "int8-weight":
            self._call(call, "aten._weight_int8pack_mm", {"self": layer.source, "mat2": weight, "scales": scales}, product)
        else:
            operands = {"self": layer.source, "mat2": weight, "qScaleAndZeros": scales}
            operands |= zip(("zeros",), zeros, strict=False)
            self._call(call, "aten._weight_int4pack_mm", operands, product, qGroupSize=self.scheme.block[1] or layer.k)
        self._add_bias(call, layer, product)

    def _dynamic(self, call: OpCall, layer: _Layer) -> None:
        weight, scales, *_ = self._small(layer)
        activation, row_scales = self._round(call, layer, "int8")
        total = self._append(TensorSpec((layer.m, layer.n), "int32"))
        # `_int_mm` and `_scaled_mm` take the (n, k) weight as a (k, n) view.
        weight_view = self._view(TensorSpec((layer.k, layer.n), "int8"), self._root(weight))
        self._call(call, "aten._int_mm", {"self": activation, "mat2": weight_view}, total)
        by_row = self._append(TensorSpec((layer.m, layer.n), self.values[call.writes[0]].spec.dtype))
        self._call(call, "aten.mul", {"self": total, "other": row_scales}, by_row)
        product = self._product(call, layer)
        self._call(call, "aten.mul", {"self": by_row, "other": scales}, product)
        self._add_bias(call, layer, product)

    def _small_float(self, call: OpCall, layer: _Layer) -> None:
        weight, scales, *_ = self._small(layer)
        dtype = self.scheme.weight
        activation, row_scales = self._round(call, layer, dtype)
        product = self._product(call, layer)
        weight_view = self._view(TensorSpec((layer.k, layer.n), dtype), self._root(weight))
        self._call(
            call, "aten._scaled_mm", {"self": activation, "mat2": weight_view, "scale_a": row_scales, "scale_b": scales}, product
        )
        self._add_bias(call, layer, product)

    def _round(self, call: OpCall, layer: _Layer, dtype: str) -> tuple[int, int]:
        """The activation as (m, k) in a small type, and its scales: for floats in groups as wide as the weight's, in float32 for
        float8 and in float8 for float4; else one scale a row in the activation's type."""
        if layer.source not in self.rounded:
            # The threads that round a group of floats have read all of it, and find its scale as well.
            float_formats = {
                "float8": ("float32", "torchao.quantize_affine"),
                "float4": ("float8", "torchao.triton_quantize_nvfp4"),
            }
            scale, op = float_formats.get(dtype, (self.values[layer.source].spec.dtype, ""))
            groups = -(-layer.k // (self.scheme.block[1] or layer.k)) if op else 1
            scales = self._append(TensorSpec((layer.m, groups), scale))
            activation = self._append(TensorSpec((layer.m, layer.k), dtype))
            if op:
                self._call(call, op, {"input": layer.source}, activation, scales)
            else:
                self._call(call, "torchao.choose_qparams_affine", {"input": layer.source}, scales)
                self._call(call, "torchao.quantize_affine", {"input": layer.source, "scale": scales}, activation)
            self.rounded[layer.source] = activation, scales
        return self.rounded[layer.source]

    def _product(self, call: OpCall, layer: _Layer) -> int:
        """The value of the product: the result, or with a bias a value before it."""
        return call.writes[0] if layer.bias is None else self._append(self.values[call.writes[0]].spec)

    def _add_bias(self, call: OpCall, layer: _Layer, product: int) -> None:
        if layer.bias is not None:
            self._call(call, "aten.add", {"self": product, "other": layer.bias}, call.writes[0], alpha=1)


def _with_types(graph: Graph, types: Mapping[int, str]) -> Graph:
    """A graph with other types of its weights (index -> type), of their views and in the calls on them."""
    values = list(graph.values)
    changed_values = {i for i, root in enumerate(graph.roots) if root in types and values[i].spec.dtype != types[root]}
    for i in changed_values:
        values[i] = msgspec.structs.replace(values[i], spec=TensorSpec(values[i].spec.shape, types[graph.roots[i]]))

    def update_call(call: OpCall) -> OpCall:
        if changed_values.isdisjoint((*call.reads, *call.writes)):
            return call
        inputs, outputs = (tuple(values[i].spec for i in places) for places in (call.reads, call.writes))
        return msgspec.structs.replace(call, inputs=inputs, outputs=outputs)

    return msgspec.structs.replace(graph, values=tuple(values), calls=tuple(map(update_call, graph.calls)))
