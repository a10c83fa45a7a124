"""The operators that tables name: which columns each has, and the operator call it stands for.

Operand names, attributes and their defaults are those of the ATen schemas (PyTorch's native_functions.yaml), as a captured call
has them. Linear layers have a bias, convolutions have none (most stand before a norm). Two-tensor operators take two of the
same shape, `cat` joins two along axis 1 (axis 0 of vectors), `add_scalar` adds a constant.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from shmoo.estimators.records import Attribute, OpCall, TensorSpec

Extents = Mapping[str, int]
Shape = tuple[int, ...]
Built = tuple[OpCall, tuple[int, ...]]
"""A call, and which of its inputs are parameters."""

GEMM = ("b", "m", "n", "k")
CONV = ("conv_n", "conv_c_in", "conv_c_out", "conv_kernel", "conv_size", "conv_stride", "conv_padding", "conv_groups")
POOL = ("conv_n", "conv_c_in", "conv_kernel", "conv_size", "conv_stride", "conv_padding")
GATHER = ("m", "n", "k")


@dataclass(frozen=True, slots=True)
class SizedOperator:
    """An operator whose extents stand in columns of their own. With `form` "gemm", `shape` may hold m x n x k instead."""

    columns: tuple[str, ...]
    build: Callable[[Extents, str], Built]
    form: Literal["gemm", "window", "gather"] = "gemm"


@dataclass(frozen=True, slots=True)
class ShapedOperator:
    """An operator on a tensor of any shape of at least `rank` axes."""

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
    return OpCall(
        op=op,
        inputs=tuple(TensorSpec(shape, dtype) for shape in tensors.values()),
        outputs=(TensorSpec(output, dtype),),
        operands=tuple(tensors),
        attributes=dict(attributes),
        overload=overload,
    )


def _linear(x: Extents, dtype: str) -> Built:
    rows = (x["b"], x["m"]) if x["b"] > 1 else (x["m"],)
    tensors = {"input": (*rows, x["k"]), "weight": (x["n"], x["k"]), "bias": (x["n"],)}
    return _call("aten.linear", tensors, (*rows, x["n"]), dtype), (1, 2)


def _bmm(x: Extents, dtype: str) -> Built:
    tensors = {"self": (x["b"], x["m"], x["k"]), "mat2": (x["b"], x["k"], x["n"])}
    return _call("aten.bmm", tensors, (x["b"], x["m"], x["n"]), dtype), ()


def _matmul(x: Extents, dtype: str) -> Built:
    outer = (x["b"],) if x["b"] > 1 else ()
    tensors = {"self": (*outer, x["m"], x["k"]), "other": (*outer, x["k"], x["n"])}
    return _call("aten.matmul", tensors, (*outer, x["m"], x["n"]), dtype), ()


def _attention(x: Extents, dtype: str) -> Built:
    query, key = (1, x["b"], x["m"], x["k"]), (1, x["b"], x["n"], x["k"])
    attributes = {"dropout_p": 0.0, "is_causal": False, "scale": None, "enable_gqa": False}
    tensors = {"query": query, "key": key, "value": key}
    return _call("aten.scaled_dot_product_attention", tensors, query, dtype, attributes), ()


def _embedding(x: Extents, dtype: str) -> Built:
    call = OpCall(
        op="aten.embedding",
        inputs=(TensorSpec((x["n"], x["k"]), dtype), TensorSpec((x["m"],), "int64")),
        outputs=(TensorSpec((x["m"], x["k"]), dtype),),
        operands=("weight", "indices"),
        attributes={"padding_idx": -1, "scale_grad_by_freq": False, "sparse": False},
    )
    return call, (0,)


def _image(x: Extents) -> Shape:
    return x["conv_n"], x["conv_c_in"], x["conv_size"], x["conv_size"]


def _window_side(x: Extents) -> int:
    return (x["conv_size"] + 2 * x["conv_padding"] - x["conv_kernel"]) // x["conv_stride"] + 1


def _pair(value: int) -> list[Attribute]:
    return [value, value]


def _conv(x: Extents, dtype: str) -> Built:
    weight = (x["conv_c_out"], x["conv_c_in"] // x["conv_groups"], x["conv_kernel"], x["conv_kernel"])
    side = _window_side(x)
    attributes = {
        "stride": _pair(x["conv_stride"]),
        "padding": _pair(x["conv_padding"]),
        "dilation": [1, 1],
        "groups": x["conv_groups"],
    }
    output = (x["conv_n"], x["conv_c_out"], side, side)
    return _call("aten.conv2d", {"input": _image(x), "weight": weight}, output, dtype, attributes), (1,)


def transposed_side(x: Extents) -> int:
    """Height and width of a transposed convolution's result; not positive where too much of it is cut off."""
    return (x["conv_size"] - 1) * x["conv_stride"] - 2 * x["conv_padding"] + x["conv_kernel"]


def _conv_transpose(x: Extents, dtype: str) -> Built:
    weight = (x["conv_c_in"], x["conv_c_out"] // x["conv_groups"], x["conv_kernel"], x["conv_kernel"])
    side = transposed_side(x)
    attributes = {
        "stride": _pair(x["conv_stride"]),
        "padding": _pair(x["conv_padding"]),
        "output_padding": [0, 0],
        "groups": x["conv_groups"],
        "dilation": [1, 1],
    }
    output = (x["conv_n"], x["conv_c_out"], side, side)
    return _call("aten.conv_transpose2d", {"input": _image(x), "weight": weight}, output, dtype, attributes, "input"), (1,)


def _pool(op: str, further: Mapping[str, Attribute]) -> SizedOperator:
    def build(x: Extents, dtype: str) -> Built:
        side = _window_side(x)
        window = {
            "kernel_size": _pair(x["conv_kernel"]),
            "stride": _pair(x["conv_stride"]),
            "padding": _pair(x["conv_padding"]),
        }
        output = (x["conv_n"], x["conv_c_in"], side, side)
        return _call(op, {"self": _image(x)}, output, dtype, {**window, **further}), ()

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
    attributes = {"normalized_shape": [shape[-1]], "eps": 1e-5, "cudnn_enable": True}
    return _call("aten.layer_norm", tensors, shape, dtype, attributes), (1, 2)


def _rms_norm(shape: Shape, dtype: str) -> Built:
    attributes = {"normalized_shape": [shape[-1]], "eps": None}
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
        "conv": SizedOperator(CONV, _conv, "window"),
        "conv_transpose": SizedOperator(CONV, _conv_transpose, "window"),
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
"""The operators of tables: name -> its columns and its call."""
