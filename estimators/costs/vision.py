"""Costs of torchvision's compiled operators: pooling of boxes, suppression of overlapping ones, deformable convolution.

The number of samples of an adaptive pooling and of boxes that a suppression compares depends on data; the maximum is counted.
"""

from __future__ import annotations

import math

from shmoo.estimators.costs.base import bill, cost, first_operand, number, result, tensor
from shmoo.estimators.costs.contractions import convolution
from shmoo.estimators.graph.records import Cost, OpCall

_OVERLAP = 12
"""Operations to compare two boxes: corners of their intersection (4), its sides, at least 0 (4), its area (1), the area of their
union (2), a comparison (1); and a division."""
_TAPS = 4
"""Pixels around a point from which its value is interpolated."""


@cost("torchvision.nms", "torchvision.qnms")
def nms(call: OpCall) -> Cost:
    """Boxes are sorted by score, then each that is not suppressed is compared with those after it: at most n (n - 1) / 2
    comparisons."""
    n = tensor(call, "dets").shape[0]
    pairs = n * (n - 1) / 2
    vector = 3 * n + n * math.log2(max(n, 1)) + _OVERLAP * pairs
    return bill(call, "pooling", vector=vector, special=pairs, m=n, n=n)


def _samples(call: OpCall) -> int:
    """Points sampled for one result: as configured, or one for each pixel of its bin in a box over the whole map."""
    ratio = int(number(call, "sampling_ratio", -1))
    if ratio > 0:
        return ratio**2
    height, width = first_operand(call).shape[-2:]
    bins = (int(number(call, "pooled_height", 1)), int(number(call, "pooled_width", 1)))
    return math.ceil(height / bins[0]) * math.ceil(width / bins[1])


@cost("torchvision.roi_align", "torchvision.ps_roi_align", "torchvision.qroi_align")
def roi_align(call: OpCall) -> Cost:
    """The mean of samples, each interpolated between 4 pixels (7 operations and the sum). The positions of a box's samples are
    computed once for all channels: 2 coordinates in 2 operations each, and 8 for the weights."""
    source, output = first_operand(call), result(call)
    samples = _samples(call)
    m = output.numel
    points = m // max(output.shape[1], 1) * samples
    read_bytes = min(source.nbytes, m * samples * _TAPS * source.nbytes / max(source.numel, 1))
    return bill(
        call,
        "gather",
        vector=m * samples * 2 * _TAPS + points * 12,
        special=m,
        m=m,
        n=samples * _TAPS,
        window=samples,
        bytes_read={call.operands[0]: read_bytes},
    )


@cost("torchvision.roi_pool", "torchvision.ps_roi_pool")
def roi_pool(call: OpCall) -> Cost:
    """The largest, or the mean, of the pixels of each bin; the bins of a box over the whole map hold all of its pixels."""
    output = result(call)
    m = output.numel
    window = math.ceil(math.prod(first_operand(call).shape[-2:]) / max(math.prod(output.shape[-2:]), 1))
    return bill(call, "pooling", vector=m * window, m=m, n=window, window=window)


@cost("torchvision.deform_conv2d")
def deform_conv2d(call: OpCall) -> Cost:
    """A convolution whose taps are interpolated between 4 pixels (7 operations, and 1 for a mask), once for all results."""
    source, weight, output = first_operand(call), tensor(call, "weight"), result(call)
    groups = int(number(call, "groups", number(call, "n_weight_grps", 1)))
    taps = output.shape[0] * math.prod(output.shape[2:]) * source.shape[1] * math.prod(weight.shape[2:])
    has_mask = bool(call.attributes.get("use_mask", True))
    return convolution(call, source, weight, groups, vector=taps * (8 if has_mask else 7) + output.numel)
