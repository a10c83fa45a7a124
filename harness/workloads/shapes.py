"""Shapes of the suites: for each operator and synthetic model, random sizes like those in networks. Sizes are drawn
independently, since a fit needs uncorrelated m, n and k, or channels and image sizes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import NamedTuple

from shmoo.harness.workloads.operators import ACTIVATIONS
from shmoo.runs.store.records import AxisValue

Axes = dict[str, AxisValue]
Draw = Callable[[Random], AxisValue]
"""Draws the value of an axis."""


class Family(NamedTuple):
    """A family of cases of one workload: how to draw one, and their numbers in the suites "micro", "quick" and "compiled". Cases
    of "compiled" take seconds to compile each; compilation changes layouts and kernels of convolutions, loops, and kernel calls.
    Banded cases are spread over the cache levels; whole networks are used as drawn."""

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


def size(low: int, high: int, step: int = 1) -> Draw:
    """Draws a `spread`."""
    return lambda rng: spread(rng, low, high, step)


def one_of(*choices: AxisValue) -> Draw:
    """Draws one of some values; a value listed twice is drawn twice as often."""
    return lambda rng: rng.choice(choices)


def chance(share: float) -> Draw:
    """Draws true with this probability."""
    return lambda rng: rng.random() < share


def draw_axes(draws: Mapping[str, Draw]) -> Callable[[Random], Axes]:
    """Draws every axis in turn."""
    return lambda rng: {axis: draw(rng) for axis, draw in draws.items()}


def _image(rng: Random) -> int:
    """Height and width of a feature map: mostly those of networks for 224 x 224 images, sometimes any."""
    return rng.choice((7, 14, 28, 56, 112)) if rng.random() < 0.7 else spread(rng, 7, 128)


def _batch(rng: Random) -> int:
    return 1 if rng.random() < 0.6 else spread(rng, 2, 16)


def _images(batch: str, low: int, high: int) -> dict[str, Draw]:
    """Batch (under the name of its axis), channels in multiples of `low` up to `high`, and size of feature maps."""
    return {batch: _batch, "c_in": size(low, high, low), "c_out": size(low, high, low), "size": _image}


_ROWS = {"rows": size(1, 65536), "cols": size(16, 8192)}
_BINARY = {**_ROWS, "broadcast": one_of("none", "none", "rows", "cols")}
_CHANNELS = {"n": _batch, "c": size(16, 2048, 16), "size": size(7, 224)}
_RESAMPLED = {**_CHANNELS, "scale": one_of(2, 2, 4), "mode": one_of("nearest", "bilinear")}
_COMMON = ("relu", "gelu", "silu", "hardswish")
_RECURRENT = {
    "in_features": size(32, 1024, 16), "hidden": size(64, 1024, 32), "batch": _batch, "seq_len": size(8, 128),
    "layers": one_of(1, 1, 2),
}  # fmt: skip
_IMAGE_ACTIVATION = one_of("relu", "silu", "hardswish")
_CONV_STACK = {
    "batch": _batch, "c_in": one_of(3, 16, 64), "width": size(16, 256, 8), "size": _image, "kernel": one_of(1, 3, 3, 5),
    "depth": one_of(2, 4), "activation": _IMAGE_ACTIVATION,
}  # fmt: skip
_RESIDUAL = {**_images("batch", 16, 512), "kernel": lambda _: 3, "stride": one_of(1, 1, 2)}
_SEPARABLE = {
    **_images("batch", 8, 256), "kernel": one_of(3, 5), "stride": one_of(1, 1, 2), "expansion": one_of(1, 4, 6),
    "squeeze": chance(0.5), "activation": _IMAGE_ACTIVATION,
}  # fmt: skip
_MLP = {
    "batch": lambda rng: _batch(rng) if rng.random() < 0.5 else spread(rng, 16, 512), "in_features": size(64, 4096),
    "hidden": size(64, 4096), "out_features": size(10, 4096), "depth": one_of(2, 3, 4),
    "activation": one_of("relu", "gelu", "silu", "tanh"), "softmax": chance(0.5),
}  # fmt: skip


def _linear(rng: Random) -> Axes:
    step = 1 if rng.random() < 0.3 else 16
    return draw_axes({"m": size(1, 4096), "n": size(16, 8192, step), "k": size(16, 8192, step), "bias": chance(0.7)})(rng)


def _conv(kernels: tuple[int, ...], strides: tuple[int, ...]) -> Callable[[Random], Axes]:
    def draw(rng: Random) -> Axes:
        kernel = rng.choice(kernels)
        return {**draw_axes({**_images("n", 8, 1024), "stride": one_of(*strides)})(rng), "kernel": kernel, "padding": kernel // 2}

    return draw


def _conv_stem(rng: Random) -> Axes:
    kernel, stride = rng.choice(((7, 2), (3, 2), (4, 4), (16, 16), (11, 4)))
    drawn = draw_axes({"size": one_of(64, 96, 128, 160, 192, 224, 256, 288), "c_out": size(16, 768, 16), "n": _batch})(rng)
    return {**drawn, "c_in": 3, "kernel": kernel, "stride": stride, "padding": 0 if kernel == stride else kernel // 2}


def _conv_dilated(rng: Random) -> Axes:
    dilation = rng.choice((2, 4))
    return {**_conv((3,), (1,))(rng), "dilation": dilation, "padding": dilation}


def _conv_depthwise(rng: Random) -> Axes:
    channels, kernel = spread(rng, 16, 1152, 8), rng.choice((3, 3, 5, 5, 7))
    return {**_conv((kernel,), (1, 1, 2))(rng), "c_in": channels, "c_out": channels, "groups": channels}


def _conv_grouped(rng: Random) -> Axes:
    width, groups = rng.choice((4, 8, 16, 24, 32, 58)), spread(rng, 2, 32)
    return {**_conv((3,), (1, 1, 2))(rng), "c_in": width * groups, "c_out": width * groups, "groups": groups}


_SEQUENCES = {"n": _batch, "c_in": size(16, 512, 16), "c_out": size(16, 512, 16), "length": size(64, 4096)}


def _conv1d(rng: Random) -> Axes:
    """Stems and layers of networks of audio and text."""
    kernel, stride, dilation = rng.choice(((1, 1, 1), (3, 1, 1), (3, 2, 1), (10, 5, 1), (3, 1, 2), (3, 1, 8), (5, 1, 4)))
    groups, padding = rng.choice((1, 1, 1, 1, 8)), 0 if stride > 2 else dilation * (kernel // 2)
    drawn = draw_axes(_SEQUENCES)(rng)
    return {**drawn, "kernel": kernel, "stride": stride, "dilation": dilation, "padding": padding, "groups": groups}


def _conv1d_depthwise(rng: Random) -> Axes:
    drawn, kernel, dilation = draw_axes(_SEQUENCES)(rng), *rng.choice(((3, 1), (3, 8), (5, 1), (31, 1)))
    channels = drawn["c_in"]
    shape = {"kernel": kernel, "dilation": dilation, "padding": dilation * (kernel // 2)}
    return {**drawn, "c_out": channels, "groups": channels, **shape}


def _window(choices: Sequence[tuple[int, int, int]], draws: Mapping[str, Draw]) -> Callable[[Random], Axes]:
    """Draws a combination of kernel, stride and padding, then the other axes."""
    return lambda rng: dict(zip(("kernel", "stride", "padding"), rng.choice(choices), strict=True)) | draw_axes(draws)(rng)


_TRANSPOSED = {"n": _batch, "c_in": size(8, 512, 8), "c_out": size(8, 512, 8), "size": size(7, 64)}
_conv_transpose = _window(((2, 2, 0), (4, 2, 1), (3, 1, 1), (3, 2, 1)), _TRANSPOSED)
_pool = _window(((2, 2, 0), (3, 2, 1), (3, 1, 1), (3, 2, 0)), _CHANNELS)


def _adaptive_pool(rng: Random) -> Axes:
    images = draw_axes(_CHANNELS)(rng)
    return {**images, "out_size": min(rng.choice((1, 1, 7)), images["size"])}


def _attention(rng: Random) -> Axes:
    length = spread(rng, 16, 2048)
    axes = draw_axes({"b": _batch, "heads": size(1, 16), "head_dim": one_of(32, 64, 64, 128), "causal": chance(0.3)})(rng)
    return {**axes, "seq_len": length, "kv_len": length}


def _transformer(rng: Random) -> Axes:
    heads = rng.choice((3, 6, 8, 12))
    draws = {
        "batch": _batch, "seq_len": size(16, 512), "d_model": one_of(32 * heads, 64 * heads), "mlp_ratio": one_of(2, 4),
        "depth": one_of(1, 1, 4), "activation": one_of("gelu", "relu"),
    }  # fmt: skip
    return {**draw_axes(draws)(rng), "heads": heads}


def _convnet(rng: Random) -> Axes:
    block = rng.choice(("residual", "separable", "separable"))
    draws = {
        "batch": _batch, "width": size(16, 64, 8), "stages": one_of(3, 4), "depth": one_of(1, 2, 3, 4),
        "size": one_of(96, 128, 160, 192, 224), "kernel": (lambda _: 3) if block == "residual" else one_of(3, 5),
        "expansion": one_of(1, 3, 4), "squeeze": chance(0.5), "activation": _IMAGE_ACTIVATION,
    }  # fmt: skip
    return {**draw_axes(draws)(rng), "block": block}


def _convnet_wide(rng: Random) -> Axes:
    """Networks with 5 to 50 MB of weights, which do not stay in caches between calls."""
    drawn = _convnet(rng)
    return {**drawn, "batch": 1, "width": spread(rng, 48, 128, 16), "stages": 4, "depth": rng.choice((1, 2)), "expansion": 1}


FAMILIES = (
    Family("linear", "linear", _linear, 31, 4),
    Family("bmm", "bmm", draw_axes({"b": size(1, 96), "m": size(4, 1024), "n": size(4, 1024), "k": size(8, 1024, 8)}), 16, 2),
    Family("conv 1x1", "conv", _conv((1,), (1,)), 23, 3, compiled=3),
    Family("conv 1x1 strided", "conv", _conv((1,), (2,)), 6, 0),
    Family("conv 3x3", "conv", _conv((3,), (1,)), 20, 3, compiled=4),
    Family("conv 3x3 strided", "conv", _conv((3,), (2,)), 8, compiled=2),
    Family("conv 5x5", "conv", _conv((5,), (1, 2)), 5, 0),
    Family("conv stem", "conv", _conv_stem, 7, compiled=2),
    Family("conv dilated", "conv", _conv_dilated, 4, 0),
    Family("conv depthwise", "conv", _conv_depthwise, 22, 3, compiled=3),
    Family("conv grouped", "conv", _conv_grouped, 12, 1, compiled=3),
    Family("conv_transpose", "conv_transpose", _conv_transpose, 7),
    Family("batch_norm", "batch_norm", draw_axes(_CHANNELS), 9, compiled=1),
    Family("layer_norm", "layer_norm", draw_axes(_ROWS), 9, compiled=2),
    Family("group_norm", "group_norm", draw_axes({**_CHANNELS, "groups": one_of(1, 4, 8, 16)}), 6, 0, compiled=1),
    Family("rms_norm", "rms_norm", draw_axes(_ROWS), 6, 0),
    Family("softmax", "softmax", draw_axes(_ROWS), 9, compiled=2),
    Family("add", "add", draw_axes(_BINARY), 9, compiled=1),
    Family("mul", "mul", draw_axes(_BINARY), 7),
    Family("sub", "sub", draw_axes(_BINARY), 4, 0),
    Family("div", "div", draw_axes(_BINARY), 5, 0),
    Family("add_scalar", "add_scalar", draw_axes(_ROWS), 5, 0),
    *(Family(name, name, draw_axes(_ROWS), 7 if name in _COMMON else 5, int(name in _COMMON[:2])) for name in ACTIVATIONS),
    Family("cat", "cat", draw_axes({"rows": size(1, 16384), "cols": size(16, 8192), "parts": one_of(2, 2, 3, 4)}), 7),
    Family("copy", "copy", draw_axes(_ROWS), 7),
    Family("max_pool", "max_pool", _pool, 8, compiled=3),
    Family("avg_pool", "avg_pool", _pool, 7, 0, compiled=2),
    Family("adaptive_avg_pool", "adaptive_avg_pool", _adaptive_pool, 8, compiled=2),
    Family("interpolate", "interpolate", draw_axes(_RESAMPLED), 5, 0, compiled=1),
    Family(
        "embedding", "embedding", draw_axes({"rows": size(128, 65536), "cols": size(64, 2048, 8), "tokens": size(1, 8192)}), 6
    ),
    Family("attention", "attention", _attention, 12, 2),
    Family("lstm", "lstm", draw_axes(_RECURRENT), 8, 0),
    Family("gru", "gru", draw_axes(_RECURRENT), 5, 0),
    Family("mlp", "mlp", draw_axes(_MLP), 8, 2, compiled=2),
    Family("conv_stack", "conv_stack", draw_axes(_CONV_STACK), 6, compiled=3),
    Family("resnet_block", "resnet_block", draw_axes(_RESIDUAL), 7, compiled=4),
    Family("depthwise_separable_block", "depthwise_separable_block", draw_axes(_SEPARABLE), 9, 1, compiled=3),
    Family("transformer_block", "transformer_block", _transformer, 10, 1, compiled=3),
    Family("convnet", "convnet", _convnet, 20, 2, banded=False, compiled=8),
    Family("convnet wide", "convnet", _convnet_wide, 8, 0, banded=False, compiled=2),
    Family("conv1d", "conv1d", _conv1d, 9, 1, compiled=2),
    Family("conv1d depthwise", "conv1d", _conv1d_depthwise, 4, 0),
)
"""Families of cases in the suites "quick", "micro" and "compiled"."""
