"""Single operators as workloads, with axes named as in operator tables. A workload with weights is a module, so that a capture
can tell weights from inputs; the others are functions of their operands."""

from __future__ import annotations

from functools import partial
from operator import attrgetter

from shmoo.harness.module import Axis, Built, Maker, dim, workload

BIAS = Axis("bias", True, "whether a bias is added")
ROWS = dim("rows", 1024, "rows")
COLS = dim("cols", 1024, "row length, the normalized axis of norms and softmax")
BROADCAST = Axis(
    "broadcast",
    "none",
    "second operand: of the same shape, one element a row, or one row for all",
    choices=("none", "rows", "cols"),
)
N = dim("n", 1, "batch")
C = dim("c", 64, "channels")
SIZE = dim("size", 56, "height and width of the input")
STRIDE = dim("stride", 1, "step of the window")
DILATION = dim("dilation", 1, "distance between kernel elements")
GROUPS = dim("groups", 1, "channel groups; c_in for a depthwise convolution")
CONV_BIAS = Axis("bias", False, "whether a bias is added")
IMAGE = (N, C, SIZE)

operator = partial(workload, kind="operator")

_LINEAR_AXES = (
    dim("b", 1, "batch of matrices; they share the weight"),
    dim("m", 128, "rows of the input"),
    dim("n", 1024, "output features"),
    dim("k", 1024, "input features"),
)


@operator("linear", axes=(*_LINEAR_AXES, BIAS))
def linear(make: Maker, *, b: int, m: int, n: int, k: int, bias: bool) -> Built:
    """(b, m, k) by the transpose of a weight (n, k)."""
    layer = make.module(lambda: make.torch.nn.Linear(k, n, bias=bias))
    return Built(layer, (make.tensor(*((m, k) if b == 1 else (b, m, k))),))


@operator(
    "bmm",
    axes=(dim("b", 12, "matrices"), dim("m", 197, "rows"), dim("n", 197, "columns"), dim("k", 64, "reduction length")),
)
def bmm(make: Maker, *, b: int, m: int, n: int, k: int) -> Built:
    """(b, m, k) by (b, k, n), both activations."""
    return Built(make.torch.bmm, (make.tensor(b, m, k), make.tensor(b, k, n)))


def _conv_axes(extent: Axis, kernel: str, padding: str) -> tuple[Axis, ...]:
    """Axes of a convolution over inputs of an extent, with the meaning of its kernel and its padding."""
    return (
        N,
        dim("c_in", 64, "input channels"),
        dim("c_out", 64, "output channels"),
        extent,
        dim("kernel", 3, kernel),
        STRIDE,
        dim("padding", 1, padding, low=0),
        DILATION,
        GROUPS,
        CONV_BIAS,
    )


@operator("conv", axes=_conv_axes(SIZE, "height and width of the kernel", "zeros added on every side"))
def conv(
    make: Maker, *, n: int, c_in: int, c_out: int, size: int, kernel: int, stride: int, padding: int, dilation: int, groups: int,
    bias: bool,
) -> Built:  # fmt: skip
    """Two-dimensional convolution of a square image: plain, strided, padded, dilated, grouped, depthwise, 1x1 by its axes."""
    layer = make.module(lambda: make.torch.nn.Conv2d(c_in, c_out, kernel, stride, padding, dilation, groups, bias))
    return Built(layer, (make.tensor(n, c_in, size, size),))


@operator(
    "conv1d",
    axes=_conv_axes(dim("length", 1024, "length of the input"), "length of the kernel", "zeros added at both ends"),
)
def conv1d(
    make: Maker, *, n: int, c_in: int, c_out: int, length: int, kernel: int, stride: int, padding: int, dilation: int,
    groups: int, bias: bool,
) -> Built:  # fmt: skip
    """One-dimensional convolution of a sequence: plain, strided, padded, dilated, grouped, depthwise, 1x1 by its axes."""
    layer = make.module(lambda: make.torch.nn.Conv1d(c_in, c_out, kernel, stride, padding, dilation, groups, bias))
    return Built(layer, (make.tensor(n, c_in, length),))


_CONV_TRANSPOSE_AXES = (
    N,
    dim("c_in", 64, "input channels"),
    dim("c_out", 32, "output channels"),
    dim("size", 28, "height and width of the input"),
    dim("kernel", 2, "height and width of the kernel"),
    dim("stride", 2, "factor by which the image grows"),
    dim("padding", 0, "rows and columns cut off on every side", low=0),
)


@operator("conv_transpose", axes=(*_CONV_TRANSPOSE_AXES, GROUPS, BIAS))
def conv_transpose(
    make: Maker, *, n: int, c_in: int, c_out: int, size: int, kernel: int, stride: int, padding: int, groups: int, bias: bool
) -> Built:
    """Two-dimensional transposed convolution of a square image."""
    nn = make.torch.nn
    layer = make.module(lambda: nn.ConvTranspose2d(c_in, c_out, kernel, stride, padding, groups=groups, bias=bias))
    return Built(layer, (make.tensor(n, c_in, size, size),))


@operator("batch_norm", axes=IMAGE)
def batch_norm(make: Maker, *, n: int, c: int, size: int) -> Built:
    """Batch normalization with stored statistics."""
    return Built(make.module(lambda: make.torch.nn.BatchNorm2d(c)), (make.tensor(n, c, size, size),))


@operator("layer_norm", axes=(ROWS, COLS))
def layer_norm(make: Maker, *, rows: int, cols: int) -> Built:
    """Layer normalization over rows."""
    return Built(make.module(lambda: make.torch.nn.LayerNorm(cols)), (make.tensor(rows, cols),))


@operator("rms_norm", axes=(ROWS, COLS))
def rms_norm(make: Maker, *, rows: int, cols: int) -> Built:
    """Root-mean-square normalization over rows."""
    return Built(make.module(lambda: make.torch.nn.RMSNorm(cols)), (make.tensor(rows, cols),))


@operator("group_norm", axes=(*IMAGE, dim("groups", 8, "groups that channels are normalized in")))
def group_norm(make: Maker, *, n: int, c: int, size: int, groups: int) -> Built:
    """Group normalization of an image."""
    return Built(make.module(lambda: make.torch.nn.GroupNorm(groups, c)), (make.tensor(n, c, size, size),))


ACTIVATIONS = {
    "relu": "ReLU", "leaky_relu": "LeakyReLU", "elu": "ELU", "selu": "SELU", "gelu": "GELU", "silu": "SiLU", "sigmoid": "Sigmoid",
    "tanh": "Tanh", "hardswish": "Hardswish",
}  # fmt: skip
"""Element-wise operators of one tensor, by their name in `torch` or `torch.nn.functional` -> class of `torch.nn`."""


def _register_unary(name: str, function: str, *numbers: float, dim: int | None = None) -> None:
    @operator(name, axes=(ROWS, COLS))
    def unary(make: Maker, *, rows: int, cols: int) -> Built:
        """A function of one tensor, and of numbers."""
        return Built(attrgetter(function)(make.torch), (make.tensor(rows, cols), *numbers), {} if dim is None else {"dim": dim})


for _name in ACTIVATIONS:
    _register_unary(_name, _name if _name in ("sigmoid", "tanh") else f"nn.functional.{_name}")
_register_unary("softmax", "nn.functional.softmax", dim=-1)
_register_unary("add_scalar", "add", 1.5)
_register_unary("copy", "clone")


def _register_binary(name: str) -> None:
    @operator(name, axes=(ROWS, COLS, BROADCAST))
    def binary(make: Maker, *, rows: int, cols: int, broadcast: str) -> Built:
        """An element-wise function of two tensors."""
        second = {"none": (rows, cols), "rows": (rows, 1), "cols": (1, cols)}[broadcast]
        return Built(getattr(make.torch, name), (make.tensor(rows, cols), make.positive(*second)))


for _name in ("add", "sub", "mul", "div"):
    _register_binary(_name)


@operator("cat", axes=(ROWS, COLS, dim("parts", 2, "tensors of that shape, joined along the last axis")))
def cat(make: Maker, *, rows: int, cols: int, parts: int) -> Built:
    """Tensors joined along the last axis."""
    return Built(make.torch.cat, ([make.tensor(rows, cols) for _ in range(parts)],), {"dim": -1})


_POOL_AXES = (
    dim("kernel", 3, "height and width of the window"),
    dim("stride", 2, "step of the window"),
    dim("padding", 1, "border added on every side", low=0),
)


def _register_pool(name: str) -> None:
    @operator(name, axes=(*IMAGE, *_POOL_AXES))
    def pool(make: Maker, *, n: int, c: int, size: int, kernel: int, stride: int, padding: int) -> Built:
        """Pooling of square windows of an image."""
        arguments = {"kernel_size": kernel, "stride": stride, "padding": padding}
        return Built(getattr(make.torch.nn.functional, f"{name}2d"), (make.tensor(n, c, size, size),), arguments)


for _name in ("max_pool", "avg_pool"):
    _register_pool(_name)


@operator("adaptive_avg_pool", axes=(*IMAGE, dim("out_size", 1, "height and width of the output")))
def adaptive_avg_pool(make: Maker, *, n: int, c: int, size: int, out_size: int) -> Built:
    """Average pooling to a given output size; 1 is global pooling."""
    return Built(make.torch.nn.functional.adaptive_avg_pool2d, (make.tensor(n, c, size, size), out_size))


_RESAMPLING = Axis("mode", "bilinear", "method", choices=("nearest", "bilinear", "bicubic"))


@operator("interpolate", axes=(*IMAGE, dim("scale", 2, "factor by which the image grows"), _RESAMPLING))
def interpolate(make: Maker, *, n: int, c: int, size: int, scale: int, mode: str) -> Built:
    """An image resampled to a larger one."""
    arguments = {"size": (size * scale, size * scale), "mode": mode}
    return Built(make.torch.nn.functional.interpolate, (make.tensor(n, c, size, size),), arguments)


@operator(
    "embedding",
    axes=(dim("rows", 32000, "rows of the table"), dim("cols", 768, "row length"), dim("tokens", 512, "rows looked up")),
)
def embedding(make: Maker, *, rows: int, cols: int, tokens: int) -> Built:
    """Rows looked up in a table."""
    return Built(make.module(lambda: make.torch.nn.Embedding(rows, cols)), (make.indices(rows, tokens),))


_ATTENTION_AXES = (
    dim("b", 1, "batch"),
    dim("heads", 12, "attention heads"),
    dim("seq_len", 197, "queries"),
    dim("kv_len", 197, "keys and values"),
    dim("head_dim", 64, "length of a query"),
    Axis("causal", False, "whether a query sees only the keys up to its own position"),
)


@operator("attention", axes=_ATTENTION_AXES)
def attention(make: Maker, *, b: int, heads: int, seq_len: int, kv_len: int, head_dim: int, causal: bool) -> Built:
    """Scaled dot-product attention."""
    query = make.tensor(b, heads, seq_len, head_dim)
    key, value = make.tensor(b, heads, kv_len, head_dim), make.tensor(b, heads, kv_len, head_dim)
    return Built(make.torch.nn.functional.scaled_dot_product_attention, (query, key, value), {"is_causal": causal})


_RECURRENT_AXES = (
    dim("batch", 1, "sequences"),
    dim("seq_len", 64, "steps, each of which waits for the one before it"),
    dim("in_features", 256, "width of the input"),
    dim("hidden", 512, "width of the state"),
    dim("layers", 1, "layers, each of which reads the states of the one below"),
)


def _register_recurrent(name: str) -> None:
    @operator(name, axes=_RECURRENT_AXES)
    def recurrent(make: Maker, *, batch: int, seq_len: int, in_features: int, hidden: int, layers: int) -> Built:
        """Recurrent layers over (seq_len, batch, in_features)."""
        layer = make.module(lambda: getattr(make.torch.nn, name.upper())(in_features, hidden, layers))
        return Built(layer, (make.tensor(seq_len, batch, in_features),))


for _name in ("lstm", "gru"):
    _register_recurrent(_name)
