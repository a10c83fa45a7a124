"""Shapes of the suites: for each operator and synthetic model, random sizes like those of networks. Every size is drawn
independently, so that m, n and k, or channels and image sizes, are not correlated, as a fit needs."""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random
from typing import NamedTuple

from shmoo.harness.workloads.operators import ACTIVATIONS
from shmoo.runs.store.records import AxisValue

Axes = dict[str, AxisValue]


class Family(NamedTuple):
    """Cases of one workload that belong together.

    Attributes:
        draw: one random set of axes.
        micro, quick: number of cases in the suites of these names.
        banded: whether cases are spread over the cache levels; whole networks are used as drawn.
        compiled: number of cases that are measured in a compiled runtime too. Each takes seconds to compile; compilation changes
            layouts and kernels of convolutions, loops, and the call of a kernel.
    """

    name: str
    workload: str
    draw: Callable[[Random], Axes]
    micro: int
    quick: int = 1
    banded: bool = True
    compiled: int = 0


def spread(rng: Random, low: int, high: int, step: int = 1) -> int:
    """A multiple of `step` between `low` and `high`, its logarithm uniform."""
    drawn = math.exp(rng.uniform(math.log(low), math.log(high)))
    return max(low, min(high, step * round(drawn / step)))


def _image(rng: Random) -> int:
    """Height and width of a feature map: mostly those of networks for 224 x 224 images, sometimes any."""
    return rng.choice((7, 14, 28, 56, 112)) if rng.random() < 0.7 else spread(rng, 7, 128)


def _batch(rng: Random) -> int:
    return 1 if rng.random() < 0.6 else spread(rng, 2, 16)


def _image_batch(rng: Random, batch: str, low: int, high: int) -> Axes:
    """Batch (under the name of its axis), channels in multiples of `low` up to `high`, and size of feature maps."""
    return {batch: _batch(rng), "c_in": spread(rng, low, high, low), "c_out": spread(rng, low, high, low), "size": _image(rng)}


def _linear(rng: Random) -> Axes:
    step = 1 if rng.random() < 0.3 else 16
    sizes = {"m": spread(rng, 1, 4096), "n": spread(rng, 16, 8192, step), "k": spread(rng, 16, 8192, step)}
    return {**sizes, "bias": rng.random() < 0.7}


def _bmm(rng: Random) -> Axes:
    return {"b": spread(rng, 1, 96), "m": spread(rng, 4, 1024), "n": spread(rng, 4, 1024), "k": spread(rng, 8, 1024, 8)}


def _conv(kernels: tuple[int, ...], strides: tuple[int, ...]) -> Callable[[Random], Axes]:
    def draw(rng: Random) -> Axes:
        kernel = rng.choice(kernels)
        images = _image_batch(rng, "n", 8, 1024)
        return {**images, "kernel": kernel, "stride": rng.choice(strides), "padding": kernel // 2}

    return draw


def _conv_stem(rng: Random) -> Axes:
    kernel, stride = rng.choice(((7, 2), (3, 2), (4, 4), (16, 16), (11, 4)))
    size = rng.choice((64, 96, 128, 160, 192, 224, 256, 288))
    padding = 0 if kernel == stride else kernel // 2
    channels = spread(rng, 16, 768, 16)
    return {"n": _batch(rng), "c_in": 3, "c_out": channels, "size": size, "kernel": kernel, "stride": stride, "padding": padding}


def _conv_dilated(rng: Random) -> Axes:
    dilation = rng.choice((2, 4))
    return {**_conv((3,), (1,))(rng), "dilation": dilation, "padding": dilation}


def _conv_depthwise(rng: Random) -> Axes:
    channels, kernel = spread(rng, 16, 1152, 8), rng.choice((3, 3, 5, 5, 7))
    return {**_conv((kernel,), (1, 1, 2))(rng), "c_in": channels, "c_out": channels, "groups": channels}


def _conv_grouped(rng: Random) -> Axes:
    width, groups = rng.choice((4, 8, 16, 24, 32, 58)), spread(rng, 2, 32)
    return {**_conv((3,), (1, 1, 2))(rng), "c_in": width * groups, "c_out": width * groups, "groups": groups}


def _conv_transpose(rng: Random) -> Axes:
    kernel, stride, padding = rng.choice(((2, 2, 0), (4, 2, 1), (3, 1, 1), (3, 2, 1)))
    channels = {"n": _batch(rng), "c_in": spread(rng, 8, 512, 8), "c_out": spread(rng, 8, 512, 8)}
    return {**channels, "size": spread(rng, 7, 64), "kernel": kernel, "stride": stride, "padding": padding}


def _rows(rng: Random) -> Axes:
    return {"rows": spread(rng, 1, 65536), "cols": spread(rng, 16, 8192)}


def _binary(rng: Random) -> Axes:
    return {**_rows(rng), "broadcast": rng.choice(("none", "none", "rows", "cols"))}


def _cat(rng: Random) -> Axes:
    return {"rows": spread(rng, 1, 16384), "cols": spread(rng, 16, 8192), "parts": rng.choice((2, 2, 3, 4))}


def _channels(rng: Random) -> Axes:
    return {"n": _batch(rng), "c": spread(rng, 16, 2048, 16), "size": spread(rng, 7, 224)}


def _pool(rng: Random) -> Axes:
    kernel, stride, padding = rng.choice(((2, 2, 0), (3, 2, 1), (3, 1, 1), (3, 2, 0)))
    return {**_channels(rng), "kernel": kernel, "stride": stride, "padding": padding}


def _adaptive_pool(rng: Random) -> Axes:
    images = _channels(rng)
    return {**images, "out_size": min(rng.choice((1, 1, 7)), images["size"])}


def _interpolate(rng: Random) -> Axes:
    return {**_channels(rng), "scale": rng.choice((2, 2, 4)), "mode": rng.choice(("nearest", "bilinear"))}


def _embedding(rng: Random) -> Axes:
    return {"rows": spread(rng, 128, 65536), "cols": spread(rng, 64, 2048, 8), "tokens": spread(rng, 1, 8192)}


def _attention(rng: Random) -> Axes:
    length = spread(rng, 16, 2048)
    queries = {"b": _batch(rng), "heads": spread(rng, 1, 16), "seq_len": length, "kv_len": length}
    return {**queries, "head_dim": rng.choice((32, 64, 64, 128)), "causal": rng.random() < 0.3}


def _recurrent(rng: Random) -> Axes:
    sizes = {"in_features": spread(rng, 32, 1024, 16), "hidden": spread(rng, 64, 1024, 32)}
    return {"batch": _batch(rng), "seq_len": spread(rng, 8, 128), **sizes, "layers": rng.choice((1, 1, 2))}


def _mlp(rng: Random) -> Axes:
    return {
        "batch": _batch(rng) if rng.random() < 0.5 else spread(rng, 16, 512),
        "in_features": spread(rng, 64, 4096),
        "hidden": spread(rng, 64, 4096),
        "out_features": spread(rng, 10, 4096),
        "depth": rng.choice((2, 3, 4)),
        "activation": rng.choice(("relu", "gelu", "silu", "tanh")),
        "softmax": rng.random() < 0.5,
    }


def _conv_stack(rng: Random) -> Axes:
    return {
        "batch": _batch(rng),
        "c_in": rng.choice((3, 16, 64)),
        "width": spread(rng, 16, 256, 8),
        "size": _image(rng),
        "kernel": rng.choice((1, 3, 3, 5)),
        "depth": rng.choice((2, 4)),
        "activation": rng.choice(("relu", "silu", "hardswish")),
    }


def _resnet_block(rng: Random) -> Axes:
    return {**_image_batch(rng, "batch", 16, 512), "kernel": 3, "stride": rng.choice((1, 1, 2))}


def _separable(rng: Random) -> Axes:
    return {
        **_image_batch(rng, "batch", 8, 256),
        "kernel": rng.choice((3, 5)),
        "stride": rng.choice((1, 1, 2)),
        "expansion": rng.choice((1, 4, 6)),
        "squeeze": rng.random() < 0.5,
        "activation": rng.choice(("relu", "silu", "hardswish")),
    }


def _transformer(rng: Random) -> Axes:
    heads = rng.choice((3, 6, 8, 12))
    return {
        "batch": _batch(rng),
        "seq_len": spread(rng, 16, 512),
        "d_model": heads * rng.choice((32, 64)),
        "heads": heads,
        "mlp_ratio": rng.choice((2, 4)),
        "depth": rng.choice((1, 1, 4)),
        "activation": rng.choice(("gelu", "relu")),
    }


def _convnet(rng: Random) -> Axes:
    block = rng.choice(("residual", "separable", "separable"))
    return {
        "batch": _batch(rng),
        "block": block,
        "width": spread(rng, 16, 64, 8),
        "stages": rng.choice((3, 4)),
        "depth": rng.choice((1, 2, 3, 4)),
        "size": rng.choice((96, 128, 160, 192, 224)),
        "kernel": 3 if block == "residual" else rng.choice((3, 5)),
        "expansion": rng.choice((1, 3, 4)),
        "squeeze": rng.random() < 0.5,
        "activation": rng.choice(("relu", "silu", "hardswish")),
    }


def _convnet_wide(rng: Random) -> Axes:
    """Networks with 5 to 50 MB of weights, which do not stay in caches between calls."""
    drawn = _convnet(rng)
    return {**drawn, "batch": 1, "width": spread(rng, 48, 128, 16), "stages": 4, "depth": rng.choice((1, 2)), "expansion": 1}


FAMILIES = (
    Family("linear", "linear", _linear, 32, 4),
    Family("bmm", "bmm", _bmm, 16, 2),
    Family("conv 1x1", "conv", _conv((1,), (1,)), 24, 3, compiled=4),
    Family("conv 1x1 strided", "conv", _conv((1,), (2,)), 6, 0),
    Family("conv 3x3", "conv", _conv((3,), (1,)), 20, 3, compiled=4),
    Family("conv 3x3 strided", "conv", _conv((3,), (2,)), 8, compiled=2),
    Family("conv 5x5", "conv", _conv((5,), (1, 2)), 5, 0),
    Family("conv stem", "conv", _conv_stem, 7, compiled=2),
    Family("conv dilated", "conv", _conv_dilated, 4, 0),
    Family("conv depthwise", "conv", _conv_depthwise, 22, 3, compiled=4),
    Family("conv grouped", "conv", _conv_grouped, 12, 1, compiled=3),
    Family("conv_transpose", "conv_transpose", _conv_transpose, 7),
    Family("batch_norm", "batch_norm", _channels, 11, compiled=1),
    Family("layer_norm", "layer_norm", _rows, 10, compiled=2),
    Family("group_norm", "group_norm", lambda rng: {**_channels(rng), "groups": rng.choice((1, 4, 8, 16))}, 6, 0, compiled=1),
    Family("rms_norm", "rms_norm", _rows, 6, 0),
    Family("softmax", "softmax", _rows, 9, compiled=2),
    Family("add", "add", _binary, 10, compiled=1),
    Family("mul", "mul", _binary, 8),
    Family("sub", "sub", _binary, 4, 0),
    Family("div", "div", _binary, 5, 0),
    Family("add_scalar", "add_scalar", _rows, 5, 0),
    *(
        Family(name, name, _rows, 7 if name in ("relu", "gelu", "silu", "hardswish") else 5, 1 if name in ("relu", "gelu") else 0)
        for name in ACTIVATIONS
    ),
    Family("cat", "cat", _cat, 8),
    Family("copy", "copy", _rows, 7),
    Family("max_pool", "max_pool", _pool, 9, compiled=3),
    Family("avg_pool", "avg_pool", _pool, 7, 0, compiled=2),
    Family("adaptive_avg_pool", "adaptive_avg_pool", _adaptive_pool, 8, compiled=2),
    Family("interpolate", "interpolate", _interpolate, 5, 0, compiled=1),
    Family("embedding", "embedding", _embedding, 6),
    Family("attention", "attention", _attention, 12, 2),
    Family("lstm", "lstm", _recurrent, 8, 0),
    Family("gru", "gru", _recurrent, 5, 0),
    Family("mlp", "mlp", _mlp, 8, 2, compiled=2),
    Family("conv_stack", "conv_stack", _conv_stack, 6, compiled=3),
    Family("resnet_block", "resnet_block", _resnet_block, 7, 1, compiled=4),
    Family("depthwise_separable_block", "depthwise_separable_block", _separable, 9, 1, compiled=3),
    Family("transformer_block", "transformer_block", _transformer, 10, 1, compiled=3),
    Family("convnet", "convnet", _convnet, 20, 2, banded=False, compiled=8),
    Family("convnet wide", "convnet", _convnet_wide, 8, 0, banded=False, compiled=2),
)
"""Families of cases in the suites "quick", "micro" and "compiled"."""
