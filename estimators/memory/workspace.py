"""Memory that PyTorch's operators allocate for themselves on CPUs while they run, beside operands and results (ATen's `native`
sources of version 2.13, each observed in the allocator's events): statistics and indices that the caller drops, copies of
operands in a library's own layout."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from shmoo.estimators.costs.base import largest_entry, number
from shmoo.estimators.graph.dtypes import bytes_of
from shmoo.estimators.graph.records import OpCall, TensorSpec
from shmoo.estimators.registry import Registry, aten

Extent = int | np.ndarray
WORKSPACE: Registry[Callable[[OpCall], float]] = Registry("workspace")
"""Operator name -> bytes on a CPU for a call, in eager mode."""
INDUCTOR_WORKSPACE: Registry[Callable[[OpCall], float]] = Registry("workspace under Inductor")
"""The same where Inductor calls the operator; its loops need no workspace."""
CHANNEL_BLOCK = 16
"""oneDNN stores images in blocks of this many channels on CPUs with 512-bit vectors, and pads the last block."""
FEW_CHANNELS = 4
"""Images of at most this many channels are read without conversion."""
SMALL_IMAGE = 20480
"""Elements of a single image up to which PyTorch does not use oneDNN."""
THREADS = 2
"""Number of threads, each with a block of attention scores; the machine's own number is unknown here."""


def workspace_bytes(call: OpCall, family: str = "cpu", runtime: str = "eager") -> float:
    """Bytes that a call allocates and frees while it runs, 0 for operators without an entry."""
    estimate = (WORKSPACE if runtime == "eager" else INDUCTOR_WORKSPACE).get(call.op) if family == "cpu" else None
    return 0.0 if estimate is None else estimate(call)


def uses_onednn(
    groups: Extent, images: Extent, window_height: Extent, window_width: Extent, image_elements: Extent
) -> bool | np.ndarray:
    """True for float32 convolutions that PyTorch gives to oneDNN on several threads of a CPU: those with groups, several images,
    a window of more than 3 by 3, or large images (`ConvParams::use_mkldnn` in ATen/native/Convolution.cpp)."""
    return (groups > 1) | (images > 1) | ((window_height > 3) & (window_width > 3)) | (image_elements > SMALL_IMAGE)


@WORKSPACE.register(*aten("conv1d conv2d conv3d convolution _convolution"))
def _convolution(call: OpCall) -> float:
    """OneDNN converts image and weights to blocks of channels and the result back to the plain layout. Small images are unrolled
    into columns instead."""
    image, weight, result = call.inputs[0], call.operand("weight"), call.outputs[0]
    if weight is None or len(image.shape) != len(weight.shape):
        return 0.0
    if call.attributes.get("transposed") is True:
        return _transposed_convolution(call)
    groups, kernel = int(number(call, "groups", 1)), weight.shape[2:]
    has_steps = any(largest_entry(call, name) > 1 for name in ("stride", "dilation"))
    is_pointwise = math.prod(kernel) == 1
    if not uses_onednn(groups, image.shape[0], (1, *kernel)[-2], kernel[-1], image.numel):
        columns = weight.numel / weight.shape[0] * math.prod(result.shape[2:])
        return 0.0 if is_pointwise and not has_steps else bytes_of(image.dtype, columns)
    result_bytes = _blocked_bytes(result, groups)
    image_bytes = 0.0 if image.shape[1] <= FEW_CHANNELS else _blocked_bytes(image, groups)
    return max(image_bytes + _blocked_weight(weight, groups) + result_bytes - result.nbytes, result_bytes)


@INDUCTOR_WORKSPACE.register(*aten("conv1d conv2d conv3d"))
def _channels_last_convolution(call: OpCall) -> float:
    """Images are channels-last and need no conversion; the weights are converted to channels-last, then to blocks."""
    weight = call.operand("weight")
    if weight is None or len(weight.shape) != len(call.inputs[0].shape):
        return 0.0
    reordered_bytes = weight.nbytes if math.prod(weight.shape[2:]) > 1 else 0.0
    return reordered_bytes + _blocked_weight(weight, int(number(call, "groups", 1)))


@WORKSPACE.register(*aten("conv_transpose1d conv_transpose2d conv_transpose3d"))
def _transposed_convolution(call: OpCall) -> float:
    """The result in blocks of channels and in the plain layout, before it is copied out."""
    return 2 * call.outputs[0].nbytes


@WORKSPACE.register(*aten("max_pool1d max_pool2d max_pool3d adaptive_max_pool2d"))
def _max_pool(call: OpCall) -> float:
    """The indices of the maxima, 64-bit integers, which inference drops."""
    return bytes_of("int64", call.outputs[0].numel) if len(call.outputs) == 1 else 0.0


@WORKSPACE.register("aten.layer_norm")
def _layer_norm(call: OpCall) -> float:
    """Mean and reciprocal deviation of each row."""
    shape = call.attributes.get("normalized_shape")
    row = math.prod(n for n in shape if isinstance(n, int)) if isinstance(shape, list) else 1
    return 2 * bytes_of("float32", call.inputs[0].numel / max(row, 1))


@WORKSPACE.register("aten.batch_norm")
def _batch_norm(call: OpCall) -> float:
    """Factor and summand of each channel."""
    return 2 * bytes_of("float32", call.inputs[0].shape[1])


@WORKSPACE.register("aten.roll")
def _roll(call: OpCall) -> float:
    """An intermediate result: one dimension is rolled after another."""
    shifts = call.attributes.get("shifts")
    return call.outputs[0].nbytes if isinstance(shifts, list) and len(shifts) > 1 else 0.0


@WORKSPACE.register(*aten("upsample_bilinear2d upsample_bicubic2d upsample_nearest2d"))
def _upsample(call: OpCall) -> float:
    """Image and result, channels-last."""
    return call.inputs[0].nbytes + call.outputs[0].nbytes


@INDUCTOR_WORKSPACE.register("aten.scaled_dot_product_attention")
@WORKSPACE.register("aten.scaled_dot_product_attention")
def _attention(call: OpCall) -> float:
    """The logarithms of the sums of exponentials, one float for each query and head; a block of scores, sums and results for each
    thread (`cpu_flash_attention`); a boolean mask as numbers."""
    query, key = call.inputs[0], call.inputs[1]
    if len(query.shape) < 3 or not query.numel:
        return 0.0
    length, width = query.shape[-2:]
    rows = min(256 if length >= 768 else 64 if length >= 192 else 32, length)
    columns = min(512, key.shape[-2])
    scores = bytes_of("float32", rows * columns) + (0.0 if query.dtype == "float32" else bytes_of(query.dtype, rows * columns))
    block = scores + bytes_of("float32", rows * (2 + width))
    mask = call.operand("attn_mask")
    numbers = bytes_of("float32", mask.numel) if mask is not None and mask.dtype == "bool" else 0.0
    return bytes_of("float32", query.numel / width) + THREADS * block + numbers


def _blocked_bytes(spec: TensorSpec, groups: int) -> float:
    """Bytes of an image in blocks of channels; grouped convolutions do not pad them."""
    channels = spec.shape[1]
    padded_channels = math.ceil(channels / CHANNEL_BLOCK) * CHANNEL_BLOCK if groups in (1, channels) else channels
    return spec.nbytes / max(channels, 1) * padded_channels


def _blocked_weight(weight: TensorSpec, groups: int) -> float:
    """Bytes of weights in blocks of channels in and out."""
    channels_out, channels_in = weight.shape[:2]
    if groups > 1:
        return weight.nbytes
    blocks = [math.ceil(n / CHANNEL_BLOCK) * CHANNEL_BLOCK if n > FEW_CHANNELS else n for n in (channels_out, channels_in)]
    return weight.nbytes / max(channels_out * channels_in, 1) * blocks[0] * blocks[1]
