"""Costs of contractions: matrix products and convolutions.

`matrix_flops` is 2 for each multiply-add, as in `torch.utils.flop_counter`; a bias, `beta` and `alpha` go to `vector_flops`.
Zero padding is multiplied like any value: kernels without a special path do so, and published numbers count it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import zip_longest

from shmoo.estimators.costs.base import (
    bill,
    complex_products,
    cost,
    first_operand,
    largest_entry,
    number,
    real_additions,
    result,
    tensor,
    tensor_list,
)
from shmoo.estimators.costs.einsum import Contraction, contractions_of
from shmoo.estimators.errors import InputError
from shmoo.estimators.graph.records import Cost, Geometry, OpCall, TensorSpec
from shmoo.estimators.registry import aten


def gemm(call: OpCall, batch: int, m: int, n: int, k: int, vector: float = 0.0, group: int = 1) -> Cost:
    """Batch x (m, k) by (k, n), and `vector` operations on its results beside it."""
    matrix = 2 * batch * m * n * k
    return bill(call, "gemm", matrix=matrix, vector=vector * real_additions(call), batch=batch, m=m, n=n, k=k, group=group)


@cost("aten.linear")
def linear(call: OpCall) -> Cost:
    """(..., in) by weight (out, in), or (in,) for a single output."""
    source, weight = tensor(call, "input"), tensor(call, "weight")
    m, n = math.prod(source.shape[:-1]), math.prod(weight.shape[:-1])
    return gemm(call, 1, m, n, weight.shape[-1], vector=m * n if call.operand("bias") else 0)


@cost("aten.mm", "aten._int_mm", "aten.bmm")
def mm(call: OpCall) -> Cost:
    """([b,] m, k) by ([b,] k, n)."""
    *batch, m, k = tensor(call, "self").shape
    return gemm(call, math.prod(batch), m, tensor(call, "mat2").shape[-1], k)


@cost("aten._grouped_mm", "transformers.grouped_mm_fallback")
def grouped_mm(call: OpCall) -> Cost:
    """Groups of rows (m in all, k), each group by its own of g matrices (k, n): the split into groups does not change the sum.
    At most one matrix a row is read. Two matrices cut along k give g products (m, n); three dimensions on both sides are a batch
    of products. Matrices in a smaller type than the rows' are converted on the way: see `weight_int8` and `weight_int4`.
    """
    left, right = tensor(call, "self", "input"), tensor(call, "mat2", "weight")
    *batch, m, k = left.shape
    n = right.shape[-1]
    conversions = 0 if left.dtype == right.dtype else 3 if right.dtype == "int4" else 1
    if len(left.shape) == 2 and len(right.shape) == 3:
        groups = right.shape[0]
        read_share = min(1.0, m / max(groups, 1))
        return bill(
            call,
            "gemm",
            matrix=2 * m * n * k,
            vector=conversions * read_share * right.numel,
            batch=min(groups, m),
            m=-(-m // max(groups, 1)),
            n=n,
            k=k,
            bytes_read={call.operands[1]: right.nbytes * read_share},
        )
    if len(left.shape) == 3 and len(right.shape) == 2:
        # Each group multiplies its own columns.
        return bill(call, "gemm", matrix=2 * m * n * k, batch=batch[0], m=m, n=-(-n // max(batch[0], 1)), k=k)
    return gemm(call, math.prod(batch), m, n, k, vector=conversions * right.numel)


def _scale_groups(call: OpCall) -> tuple[int, int]:
    """Number of groups of a row, each with a scale, and of sums that are scaled outside of the matrix units. Vector units
    multiply and add up the sums over groups with scales in float32 (DeepSeek-V3, arXiv:2412.19437, section 3.3.2); matrix units
    apply narrower scales themselves."""
    scales = call.operand("scale_a") or call.operand("scale_a.0")
    groups = max(scales.shape[-1], 1) if scales is not None and len(scales.shape) > 1 else 1
    return groups, groups if scales is not None and scales.dtype == "float32" else 1


@cost("aten._scaled_mm", "aten._scaled_mm_v2")
def scaled_mm(call: OpCall) -> Cost:
    """A product of narrow matrices; the scales, and the bias if there is one, are applied to the result."""
    m, k = tensor(call, "self").shape
    n = tensor(call, "mat2").shape[-1]
    groups, sums = _scale_groups(call)
    vector = m * n * (2 * sums - 1 + (call.operand("bias") is not None))
    return gemm(call, 1, m, n, k, vector, group=-(-k // groups) if groups > 1 else 1)


@cost("aten._weight_int8pack_mm")
def weight_int8(call: OpCall) -> Cost:
    """(..., k) by an 8-bit weight (n, k) that is converted on the way (one operation an element); each result is multiplied by
    the scale of its column."""
    n, k = tensor(call, "mat2").shape
    m = math.prod(tensor(call, "self").shape[:-1])
    return gemm(call, 1, m, n, k, vector=n * k + m * n)


@cost(*aten("_weight_int4pack_mm _weight_int4pack_mm_for_cpu"))
def weight_int4(call: OpCall) -> Cost:
    """(..., k) by a 4-bit weight whose groups along k have a scale and a zero point: a conversion, a multiplication and an
    addition for each element of the weight. The packed weight's shape depends on the machine, so n is the result's."""
    *rows, k = tensor(call, "self").shape
    n = result(call).shape[-1]
    return gemm(call, 1, math.prod(rows), n, k, vector=3 * n * k)


def _epilogue_operations(call: OpCall, count: float) -> float:
    """Vector operations of beta * self + alpha * product on `count` results."""
    beta, alpha = number(call, "beta", 1), number(call, "alpha", 1)
    return count * ((beta != 0) + (beta not in (0, 1)) + (alpha != 1))


@cost("aten.addmm", "aten.baddbmm", "aten.addbmm", "aten.addmv", "aten._addmm_activation")
def addmm(call: OpCall) -> Cost:
    """Beta * self + alpha * ([b,] m, k) by ([b,] k, n); `addbmm` also sums over the batch."""
    *batch, m, k = tensor(call, "mat1", "batch1", "mat").shape
    right = tensor(call, "mat2", "batch2", "vec").shape
    n = right[-1] if len(right) > 1 else 1
    sums = math.prod(batch) - 1 if call.op == "aten.addbmm" else 0
    return gemm(call, math.prod(batch), m, n, k, vector=_epilogue_operations(call, result(call).numel) + max(sums, 0) * m * n)


@cost("aten.addr")
def addr(call: OpCall) -> Cost:
    """Beta * self + alpha * outer product."""
    m, n = tensor(call, "vec1").numel, tensor(call, "vec2").numel
    return gemm(call, 1, m, n, 1, vector=_epilogue_operations(call, m * n))


@cost("aten.mv", "aten.dot", "aten.vdot", "aten.inner")
def vector_product(call: OpCall) -> Cost:
    """(..., k) by (k,), or `inner`'s (..., k) by (..., k), each row with each."""
    left, right = first_operand(call), tensor(call, "vec", "tensor", "other")
    k = right.shape[-1] if right.shape else 1
    return gemm(call, 1, math.prod(left.shape[:-1]), math.prod(right.shape[:-1]), k)


@cost("aten.matmul", "aten.linalg_matmul")
def matmul(call: OpCall) -> Cost:
    """All combinations of ranks. A matrix or vector on the right multiplies the rows of all batches of the left at once."""
    left, right = tensor(call, "self").shape, tensor(call, "other").shape
    if not left or not right:
        raise InputError(
            f"{call.op} needs operands of rank 1 or more, got shapes {left} and {right}; use a product with a scalar"
        )
    k = left[-1]
    n = right[-1] if len(right) > 1 else 1
    if len(right) <= 2:
        return gemm(call, 1, math.prod(left[:-1]), n, k)
    m = left[-2] if len(left) > 1 else 1
    batch = math.prod(y if x == 1 else x for x, y in zip_longest(left[-3::-1], right[-3::-1], fillvalue=1))
    return gemm(call, batch, m, n, k)


def _chain(call: OpCall, steps: Sequence[Contraction]) -> Cost:
    """Several contractions in one call; the iteration space is the largest's."""
    matrix = sum(s.matrix_flops for s in steps)
    vector = sum(s.vector_flops for s in steps)
    if matrix == 0:
        # A product of complex numbers is 4 multiplications and 2 additions.
        return bill(call, "pointwise", vector=vector * (6 if complex_products(call) > 1 else 1), m=result(call).numel)
    top = max(steps, key=lambda s: s.matrix_flops)
    return bill(call, "gemm", matrix=matrix, vector=vector, batch=top.batch, m=top.m, n=top.n, k=top.k)


@cost("aten.einsum")
def einsum(call: OpCall) -> Cost:
    """Operands are contracted two at a time: by the path that the call gives (torch takes one from opt_einsum where that is
    installed), else from left to right."""
    equation = call.attributes.get("equation")
    if not isinstance(equation, str):
        raise InputError(f"{call.op} needs attribute 'equation' as text, got {equation!r}; build the call from the schema")
    path = call.attributes.get("path")
    pairs = [i for i in path if isinstance(i, int)] if isinstance(path, list) else []
    return _chain(call, contractions_of(equation, [s.shape for s in tensor_list(call, "tensors")], pairs))


@cost("aten.linalg_multi_dot", "aten.chain_matmul")
def multi_dot(call: OpCall) -> Cost:
    """Products in the cheapest order, as torch multiplies them (T. H. Cormen et al., Introduction to Algorithms, matrix-chain
    multiplication); a vector stands first or last."""
    shapes = [s.shape for s in (tensor_list(call, "tensors") or tensor_list(call, "matrices"))]
    rows = shapes[0][0] if len(shapes[0]) > 1 else 1
    extents = [rows, shapes[0][-1], *(shape[1] if len(shape) > 1 else 1 for shape in shapes[1:])]
    return _chain(call, _cheapest(extents, 0, len(shapes)))


def _cheapest(extents: Sequence[int], start: int, end: int) -> list[Contraction]:
    """The products that multiply matrices `start` to `end` of a chain with the fewest multiply-adds; matrix i is
    (extents[i], extents[i + 1])."""
    best: dict[tuple[int, int], list[Contraction]] = {(i, i + 1): [] for i in range(start, end)}
    for length in range(2, end - start + 1):
        for i in range(start, end - length + 1):
            j = i + length
            ways = (
                [*best[i, split], *best[split, j], Contraction(1, extents[i], extents[j], extents[split])]
                for split in range(i + 1, j)
            )
            best[i, j] = min(ways, key=lambda steps: sum(step.matrix_flops for step in steps))
    return best[start, end]


@cost("aten.tensordot")
def tensordot(call: OpCall) -> Cost:
    """One matrix product over the dimensions that both operands contract; `InputError` for dimensions that are not a list."""
    left, right = tensor(call, "self").shape, tensor(call, "other").shape
    dims = call.attributes.get("dims_self")
    if not isinstance(dims, list):
        raise InputError(f"{call.op} needs attribute 'dims_self' as a list of dimensions, got {dims!r}")
    k = math.prod([left[d] for d in dims if isinstance(d, int)])
    return gemm(call, 1, math.prod(left) // max(k, 1), math.prod(right) // max(k, 1), k)


@cost("aten.bilinear")
def bilinear(call: OpCall) -> Cost:
    """x1 (m, i) by weight (n, i, j) by x2 (m, j): first (m, i) by (i, n j), then the dot products with x2."""
    n, i, j = tensor(call, "weight").shape
    m = math.prod(tensor(call, "input1").shape[:-1])
    bias = m * n if call.operand("bias") else 0
    return bill(call, "gemm", matrix=2 * m * n * j * (i + 1), vector=bias, m=m, n=n * j, k=i)


@cost(*(f"torch_nn._linear_cross_entropy_batch_chunked{form}" for form in ("", "_no_reduction")))
def linear_cross_entropy(call: OpCall) -> Cost:
    """A linear layer, the log-softmax of its results and a loss a row; each gradient asked for is a product more."""
    n, k = tensor(call, "linear_weight").shape
    m = tensor(call, "input").numel // max(k, 1)
    products = 1 + sum(bool(call.attributes.get(f"compute_{gradient}_grad")) for gradient in ("input", "linear_weight"))
    vector = m * (4 * n + 1) + (m * n if call.operand("linear_bias") else 0)
    return bill(call, "gemm", matrix=2 * m * n * k * products, vector=vector, special=m * (n + 1), m=m, n=n, k=k)


@cost("aten.cdist", "aten._cdist_forward")
def cdist(call: OpCall) -> Cost:
    """Distances of (b, m, k) from (b, n, k), either of them for all b: p = 2 through a product and one root, else a difference
    and a power each."""
    m, k = tensor(call, "x1").shape[-2:]
    n = tensor(call, "x2").shape[-2]
    b = result(call).numel // max(m * n, 1)
    if number(call, "p", 2.0) == 2:
        vector = 2 * b * (m + n) * k + 3 * b * m * n
        return bill(call, "gemm", matrix=2 * b * m * n * k, vector=vector, special=b * m * n, batch=b, m=m, n=n, k=k)
    return bill(call, "pointwise", vector=3 * b * m * n * k, m=b * m * n, n=k)


# Convolutions ------------------------------------------------------------------------------------------------------


def convolution(
    call: OpCall,
    source: TensorSpec,
    weight: TensorSpec,
    groups: int,
    *,
    is_transposed: bool = False,
    target: TensorSpec | None = None,
    passes: int = 1,
    vector: float | None = None,
    bytes_read: Mapping[str, float] | None = None,
) -> Cost:
    """The cost of any convolution.

    Forward: weight (C_out, C_in / groups, *window); each output point of a group takes k = C_in / groups * window multiply-adds.
    Transposed: weight (C_in, C_out / groups, *window); each input point of a group feeds n = C_out / groups * window sums.

    Args:
        source, target: image and result; `None` is the call's own result.
        passes: how often the multiply-adds are done.
        vector: vector operations; `None` counts those of the bias.
        bytes_read: as in `bill`.
    """
    output = result(call) if target is None else target
    rank = len(weight.shape) - 2
    window = math.prod(weight.shape[2:])
    # Operands without a batch dimension have one dimension less.
    images = source.shape[0] if len(source.shape) == rank + 2 else 1
    if is_transposed:
        family, points = "conv_transpose", source.shape[-rank:]
        channels_in, channels_out = weight.shape[0] // groups, weight.shape[1]
        # Overlapping windows are already added by the multiply-adds.
        n, k = channels_out * window, channels_in
    else:
        family, points = "depthwise" if groups > 1 and weight.shape[1] == 1 else "conv", output.shape[-rank:]
        channels_in, channels_out = weight.shape[1], weight.shape[0] // groups
        n, k = channels_out, channels_in * window
    m = math.prod(points) * images
    height, width = (1, *points)[-2:]
    window_height, window_width = (1, *weight.shape[2:])[-2:]
    return bill(
        call,
        family,
        matrix=2.0 * groups * m * n * k * passes,
        vector=((output.numel if call.operand("bias") else 0) if vector is None else vector) * real_additions(call),
        batch=groups,
        m=m,
        n=n,
        k=k,
        window=window,
        stride=largest_entry(call, "stride"),
        dilation=largest_entry(call, "dilation"),
        images=images,
        geometry=Geometry(channels_in, channels_out, height, width, window_height, window_width, source.numel // max(images, 1)),
        bytes_read=bytes_read,
    )


_TRANSPOSED_CONVOLUTIONS = aten(
    "conv_transpose1d conv_transpose2d conv_transpose3d slow_conv_transpose2d slow_conv_transpose3d cudnn_convolution_transpose"
)


@cost(*_TRANSPOSED_CONVOLUTIONS, *aten("convolution _convolution convolution_overrideable cudnn_convolution mkldnn_convolution"))
@cost(*aten("conv1d conv2d conv3d thnn_conv2d _slow_conv2d_forward slow_conv3d slow_conv_dilated2d slow_conv_dilated3d"))
def conv(call: OpCall) -> Cost:
    """A convolution, transposed by its name or its attribute."""
    is_transposed = call.op in _TRANSPOSED_CONVOLUTIONS or bool(call.attributes.get("transposed"))
    return convolution(
        call, first_operand(call), tensor(call, "weight"), int(number(call, "groups", 1)), is_transposed=is_transposed
    )


@cost("aten._conv_depthwise2d", "aten.conv_depthwise3d")
def conv_depthwise(call: OpCall) -> Cost:
    """One group for each input channel; the channel is the dimension before those of the window."""
    source, weight = first_operand(call), tensor(call, "weight")
    return convolution(call, source, weight, source.shape[1 - len(weight.shape)])


@cost("aten.conv_tbc")
def conv_tbc(call: OpCall) -> Cost:
    """Time, batch, channel: weight (window, C_in, C_out)."""
    window, c_in, c_out = tensor(call, "weight").shape
    source, target = (TensorSpec((*spec.shape[1:], spec.shape[0]), spec.dtype) for spec in (first_operand(call), result(call)))
    return convolution(call, source, TensorSpec((c_out, c_in, window)), 1, target=target, vector=target.numel)
