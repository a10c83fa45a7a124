"""Costs of operators on quantised values: choosing scales, rounding to them, and products with packed weights.

Weights of 8 and 4 bits are read at their own size. A weight-only product converts them on the way (one operation an element) and
computes in the activations' type; a product of two 8-bit matrices (`aten._int_mm`, in `contractions`) computes in int8.
"""

from __future__ import annotations

from shmoo.estimators.costs.base import bill, cost, elements, first, result, tensor
from shmoo.estimators.costs.contractions import gemm
from shmoo.estimators.costs.pointwise import elementwise
from shmoo.estimators.records import Cost, OpCall

LIBRARIES = ("torchao", "quant")
"""Namespaces under which releases of torchao file their operators."""


@cost("aten._weight_int8pack_mm")
def weight_int8(call: OpCall) -> Cost:
    """(..., k) by an 8-bit weight (n, k), each result times its column's scale."""
    source, weight = tensor(call, "self"), tensor(call, "mat2")
    n, k = weight.shape
    m = elements(source.shape[:-1])
    return gemm(call, 1, m, n, k, vector=n * k + m * n)


@cost("aten._weight_int4pack_mm", "aten._weight_int4pack_mm_for_cpu")
def weight_int4(call: OpCall) -> Cost:
    """(..., k) by a 4-bit weight whose groups along k have a scale and a zero point: one multiplication and one addition an
    element of the weight beside its conversion. The packed weight's shape depends on the machine, so n is the result's."""
    source = tensor(call, "self")
    k, n = source.shape[-1], result(call).shape[-1]
    return gemm(call, 1, elements(source.shape[:-1]), n, k, vector=3 * n * k)


@cost(*(f"{library}.choose_qparams_affine" for library in LIBRARIES), "quantized_decomposed.choose_qparams_per_token")
def choose_scales(call: OpCall) -> Cost:
    """The smallest and the largest of each group, then their span over the number of steps."""
    source, groups = first(call), result(call).numel
    return bill(call, "pooling", vector=2 * source.numel + groups, special=groups, m=groups, n=source.numel // max(groups, 1))


@cost(*(f"{library}.quantize_affine" for library in LIBRARIES))
@cost("quantized_decomposed.quantize_per_tensor", "quantized_decomposed.quantize_per_channel")
@cost("quantized_decomposed.quantize_per_token")
def quantize(call: OpCall) -> Cost:
    """Times the scale's inverse, rounded, plus the zero point, between two bounds."""
    return elementwise(call, 5)


@cost(*(f"{library}.dequantize_affine" for library in LIBRARIES))
@cost("quantized_decomposed.dequantize_per_tensor", "quantized_decomposed.dequantize_per_channel")
@cost("quantized_decomposed.dequantize_per_token")
def dequantize(call: OpCall) -> Cost:
    """Converted, minus the zero point, times the scale."""
    return elementwise(call, 3)
