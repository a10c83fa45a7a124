"""The operators of operator tables: columns, and calls with the names and defaults of PyTorch's native_functions.yaml.

Linear layers have a bias, convolutions have none (most precede a norm). `cat` joins two tensors along axis 1 (axis 0 for
vectors).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Literal

import msgspec

from shmoo.estimators.graph.records import Attribute, OpCall, TensorSpec

Extents = Mapping[str, int]
Shape = tuple[int, ...]
Built = tuple[OpCall, tuple[int, ...]]
"""A call, and the positions of the inputs that are parameters."""

GEMM = ("b", "m", "n", "k")
CONV = ("conv_n", "conv_c_in", "conv_c_out", "conv_kernel", "conv_size", "conv_stride", "conv_padding", "conv_groups")
POOL = ("conv_n", "conv_c_in", "conv_kernel", "conv_size", "conv_stride", "conv_padding")
GATHER = ("m", "n", "k")


@dataclass(frozen=True, slots=True)
class SizedOperator:
    """An operator with one column per extent. With `form` "gemm", column `shape` may hold m x n x k instead."""

    columns: tuple[str, ...]
    build: Callable[[Extents, str], Built]
    form: Literal["gemm", "window", "gather"] = "gemm"


@dataclass(frozen=True, slots=True)
class ShapedOperator:
    """An operator on a tensor of any shape with at least `rank` axes."""

    build: Callable[[Shape, str], Built]
    rank: int = 1


def _call(
    op: str,
    tensors: Mapping[str, Shape],
    output: Shape,
    dtype: str,
    attributes: Mapping[str, Attribute] = MappingProxyType({}),
    overload: str = "default",
) -> OpCall:
    inputs = tuple(TensorSpec(shape, dtype) for shape in tensors.values())
    return OpCall(op, inputs, (TensorSpec(output, dtype),), tuple(tensors), dict(attributes), overload=overload)


def _linear(x: Extents, dtype: str) -> Built:
    rows = (x["b"], x["m"]) if x["b"] > 1 else (x["m"],)
    tensors = {"input": (*rows, x["k"]), "weight": (x["n"], x["k"]), **({"bias": (x["n"],)} if x.get("bias", 1) else {})}
    return _call("aten.linear", tensors, (*rows, x["n"]), dtype), tuple(range(1, len(tensors)))


def _bmm(x: Extents, dtype: str) -> Built:
    tensors = {"self": (x["b"], x["m"], x["k"]), "mat2": (x["b"], x["k"], x["n"])}
    return _call("aten.bmm", tensors, (x["b"], x["m"], x["n"]), dtype), ()


def _matmul(x: Extents, dtype: str) -> Built:
    outer = (x["b"],) if x["b"] > 1 else ()
    tensors = {"self": (*outer, x["m"], x["k"]), "other": (*outer, x["k"], x["n"])}
    return _call("aten.matmul", tensors, (*outer, x["m"], x["n"]), dtype), ()


def _attention(x: Extents, dtype: str) -> Built:
    batch, heads = (x["b"], x["heads"]) if "heads" in x else (1, x["b"])
    kv_heads = x.get("kv_heads", heads)
    query, key = (batch, heads, x["m"], x["k"]), (batch, kv_heads, x["n"], x["k"])
    causal, grouped = bool(x.get("causal", 0)), kv_heads < heads
    attributes = {"dropout_p": 0.0, "is_causal": causal, "scale": None, "enable_gqa": grouped}
    tensors = {"query": query, "key": key, "value": key}
    call = _call("aten.scaled_dot_product_attention", tensors, query, dtype, attributes)
    if "heads" in x:
        # Serving libraries store the keys and values of the new tokens in the cache of each sequence first.
        new = TensorSpec((2, batch, kv_heads, min(x["m"], x["n"]), x["k"]), dtype)
        call = msgspec.structs.replace(call, outputs=(*call.outputs, new))
    return call, ()


def _embedding(x: Extents, dtype: str) -> Built:
    call = OpCall(
        op="aten.embedding",
        inputs=(TensorSpec((x["n"], x["k"]), dtype), TensorSpec((x["m"],), "int64")),
        outputs=(TensorSpec((x["m"], x["k"]), dtype),),
        operands=("weight", "indices"),
        attributes={"padding_idx": -1, "scale_grad_by_freq": False, "sparse": False},
    )
    return call, (0,)


def _window_side(x: Extents) -> int:
    return (x["conv_size"] + 2 * x["conv_padding"] - x["conv_kernel"]) // x["conv_stride"] + 1


def transposed_side(x: Extents) -> int:
    """Height and width of a transposed convolution's result; not positive where the padding removes all of it."""
    return (x["conv_size"] - 1) * x["conv_stride"] - 2 * x["conv_padding"] + x["conv_kernel"]


def _window(x: Extents) -> dict[str, Attribute]:
    """Attributes that convolutions and pooling share."""
    return {"stride": [x["conv_stride"]] * 2, "padding": [x["conv_padding"]] * 2}


def _convolution(x: Extents, dtype: str, transposed: bool = False) -> Built:
    image = (x["conv_n"], x["conv_c_in"], x["conv_size"], x["conv_size"])
    attributes: dict[str, Attribute] = {**_window(x), "dilation": [1, 1], "groups": x["conv_groups"]}
    first, second = x["conv_c_out"], x["conv_c_in"]
    if transposed:
        first, second = second, first
        attributes["output_padding"] = [0, 0]
    side = transposed_side(x) if transposed else _window_side(x)
    weight = (first, second // x["conv_groups"], x["conv_kernel"], x["conv_kernel"])
    op, overload = ("aten.conv_transpose2d", "input") if transposed else ("aten.conv2d", "default")
    tensors = {"input": image, "weight": weight}
    return _call(op, tensors, (x["conv_n"], x["conv_c_out"], side, side), dtype, attributes, overload), (1,)


def _pool(op: str, further: Mapping[str, Attribute]) -> SizedOperator:
    def build(x: Extents, dtype: str) -> Built:
        image, side = (x["conv_n"], x["conv_c_in"], x["conv_size"], x["conv_size"]), _window_side(x)
        attributes: dict[str, Attribute] = {"kernel_size": [x["conv_kernel"]] * 2, **_window(x), **further}
        return _call(op, {"self": image}, (x["conv_n"], x["conv_c_in"], side, side), dtype, attributes), ()

    return SizedOperator(POOL, build, "window")


def _unary(op: str, attributes: Mapping[str, Attribute] = MappingProxyType({}), overload: str = "default") -> ShapedOperator:
    def build(shape: Shape, dtype: str) -> Built:
        return _call(op, {"self": shape}, shape, dtype, attributes, overload), ()

    return ShapedOperator(build)


def _binary(op: str, attributes: Mapping[str, Attribute] = MappingProxyType({})) -> ShapedOperator:
    def build(shape: Shape, dtype: str) -> Built:
        return _call(op, {"self": shape, "other": shape}, shape, dtype, attributes, "Tensor"), ()

    return ShapedOperator(build)


def _cat(shape: Shape, dtype: str) -> Built:
    axis = min(1, len(shape) - 1)
    output = tuple(2 * extent if i == axis else extent for i, extent in enumerate(shape))
    return _call("aten.cat", {"tensors.0": shape, "tensors.1": shape}, output, dtype, {"dim": axis}), ()


def _layer_norm(shape: Shape, dtype: str) -> Built:
    tensors = {"input": shape, "weight": shape[-1:], "bias": shape[-1:]}
    attributes: dict[str, Attribute] = {"normalized_shape": [shape[-1]], "eps": 1e-5, "cudnn_enable": True}
    return _call("aten.layer_norm", tensors, shape, dtype, attributes), (1, 2)


def _rms_norm(shape: Shape, dtype: str) -> Built:
    attributes: dict[str, Attribute] = {"normalized_shape": [shape[-1]], "eps": None}
    return _call("aten.rms_norm", {"input": shape, "weight": shape[-1:]}, shape, dtype, attributes), (1,)


def _group_norm(shape: Shape, dtype: str) -> Built:
    # 32 groups are the usual choice (Wu and He 2018, arXiv 1803.08494); fewer where 32 does not divide the channels.
    attributes = {"num_groups": math.gcd(32, shape[1]), "eps": 1e-5, "cudnn_enabled": True}
    tensors = {"input": shape, "weight": shape[1:2], "bias": shape[1:2]}
    return _call("aten.group_norm", tensors, shape, dtype, attributes), (1, 2)


def _batch_norm(shape: Shape, dtype: str) -> Built:
    channel = shape[1:2]
    tensors = {"input": shape, "weight": channel, "bias": channel, "running_mean": channel, "running_var": channel}
    attributes = {"training": False, "momentum": 0.1, "eps": 1e-5, "cudnn_enabled": True}
    return _call("aten.batch_norm", tensors, shape, dtype, attributes), (1, 2, 3, 4)


TABLE_OPERATORS: Mapping[str, SizedOperator | ShapedOperator] = MappingProxyType(
    {
        "linear": SizedOperator(GEMM, _linear),
        "bmm": SizedOperator(GEMM, _bmm),
        "matmul": SizedOperator(GEMM, _matmul),
        "attention": SizedOperator(GEMM, _attention),
        "embedding": SizedOperator(GATHER, _embedding, "gather"),
        "conv": SizedOperator(CONV, _convolution, "window"),
        "conv_transpose": SizedOperator(CONV, partial(_convolution, transposed=True), "window"),
        "max_pool": _pool("aten.max_pool2d", {"dilation": [1, 1], "ceil_mode": False}),
        "avg_pool": _pool("aten.avg_pool2d", {"ceil_mode": False, "count_include_pad": True, "divisor_override": None}),
        "add": _binary("aten.add", {"alpha": 1}),
        "add_scalar": _unary("aten.add", {"other": 1.0, "alpha": 1}, "Scalar"),
        "sub": _binary("aten.sub", {"alpha": 1}),
        "mul": _binary("aten.mul"),
        "div": _binary("aten.div"),
        "relu": _unary("aten.relu"),
        "leaky_relu": _unary("aten.leaky_relu", {"negative_slope": 0.01}),
        "elu": _unary("aten.elu", {"alpha": 1.0, "scale": 1.0, "input_scale": 1.0}),
        "selu": _unary("aten.selu"),
        "gelu": _unary("aten.gelu", {"approximate": "none"}),
        "silu": _unary("aten.silu"),
        "sigmoid": _unary("aten.sigmoid"),
        "tanh": _unary("aten.tanh"),
        "hardswish": _unary("aten.hardswish"),
        "softmax": _unary("aten.softmax", {"dim": -1, "dtype": None}, "int"),
        "layer_norm": ShapedOperator(_layer_norm),
        "rms_norm": ShapedOperator(_rms_norm),
        "group_norm": ShapedOperator(_group_norm, rank=2),
        "batch_norm": ShapedOperator(_batch_norm, rank=2),
        "cat": ShapedOperator(_cat),
        "copy": _unary("aten.clone", {"memory_format": None}),
    }
)
"""Operator name -> its columns and the builder of its call."""
