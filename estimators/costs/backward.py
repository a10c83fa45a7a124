"""Costs of the operators that only a backward pass has; its elementwise ones are in `pointwise.py`.

Where an operator has several gradients, its attribute `output_mask` selects those it computes; operands that only the others need
are not read.
"""

from __future__ import annotations

import math

from shmoo.estimators.costs.attention import attention_extents
from shmoo.estimators.costs.base import bill, channels, cost, extents, first_operand, number, result, tensor
from shmoo.estimators.costs.contractions import convolution, gemm
from shmoo.estimators.costs.data_movement import TAPS, UPSAMPLE, grid_taps
from shmoo.estimators.costs.reductions import adaptive_windows, pool_rank
from shmoo.estimators.graph.records import Cost, OpCall
from shmoo.estimators.registry import aten, short_op

# Contractions -------------------------------------------------------------------------------------------------------


def _gradients(call: OpCall, count: int) -> tuple[bool, ...]:
    """Which gradients the call computes; all where it has no mask."""
    mask = call.attributes.get("output_mask")
    return tuple(bool(m) for m in mask) if isinstance(mask, list) and len(mask) == count else (True,) * count


@cost("aten.convolution_backward")
def convolution_backward(call: OpCall) -> Cost:
    """The gradients of input and weight take as many multiply-adds each as the forward pass, that of the bias a sum.

    Iteration space: that of the forward pass.
    """
    grad, source, weight = tensor(call, "grad_output"), tensor(call, "input"), tensor(call, "weight")
    to_input, to_weight, to_bias = _gradients(call, 3)
    return convolution(
        call,
        source,
        weight,
        int(number(call, "groups", 1)),
        is_transposed=bool(call.attributes.get("transposed")),
        target=grad,
        passes=to_input + to_weight,
        vector=grad.numel if to_bias else 0,
        bytes_read={"weight": weight.nbytes * to_input, "input": source.nbytes * to_weight},
    )


@cost("aten.linear_backward")
def linear_backward(call: OpCall) -> Cost:
    """(m, n) gradients by the (n, k) weight, and by the (m, k) input; the bias takes a sum."""
    grad, weight = tensor(call, "grad_output"), tensor(call, "weight")
    to_input, to_weight, to_bias = _gradients(call, 3)
    n, k = weight.shape
    m = grad.numel // max(n, 1)
    return gemm(call, to_input + to_weight, m, n, k, vector=grad.numel if to_bias else 0)


@cost(
    *aten("_scaled_dot_product_flash_attention_backward _scaled_dot_product_flash_attention_for_cpu_backward"),
    *aten("_scaled_dot_product_efficient_attention_backward _scaled_dot_product_cudnn_attention_backward"),
    "aten._scaled_dot_product_fused_attention_overrideable_backward",
)
def attention_backward(call: OpCall) -> Cost:
    """Five products a head (T. Dao, FlashAttention-2, arXiv:2307.08691, algorithm 2): the scores again, and the gradients of
    values, of probabilities, of queries and of keys.

    A score: scale, subtract, exp again (and a mask's addition); subtract, multiply, scale for its gradient. A result's element:
    a product and a sum.
    """
    rows, sq, sk, d, dv, has_mask = attention_extents(call)
    scores = rows * sq * sk
    vector = scores * (5.0 + has_mask) + 2.0 * rows * sq * dv
    return bill(
        call, "attention", matrix=2.0 * scores * (3 * d + 2 * dv), vector=vector, special=scores, batch=rows, m=sq, n=sk, k=d
    )


# Softmax and normalization -------------------------------------------------------------------------------------------


@cost("aten._softmax_backward_data", "aten._log_softmax_backward_data")
def softmax_backward(call: OpCall) -> Cost:
    """Y * (g - sum(g * y)): multiply, sum, subtract, multiply. Of the logarithm g - exp(y) * sum(g): sum, exp, multiply,
    subtract."""
    grad = tensor(call, "grad_output")
    dim = call.attributes.get("dim", -1)
    n = grad.shape[dim] if grad.shape and isinstance(dim, int) else 1
    vector, special = (3, 1) if call.op.startswith("aten._log") else (4, 0)
    count = grad.numel
    return bill(call, "softmax", vector=vector * count, special=special * count, m=count // max(n, 1), n=n)


def _normalization(call: OpCall, m: int, n: int, vector: float) -> Cost:
    """`vector` operations for each element of m rows of n, and two divisions a row for the means."""
    return bill(call, "normalization", vector=vector * m * n, special=2 * m, m=m, n=n)


@cost(*aten("native_batch_norm_backward cudnn_batch_norm_backward batch_norm_backward"))
def batch_norm_backward(call: OpCall) -> Cost:
    """An element, in training: the sums of g and of g * (x - mean) (4) and (g - a - (x - mean) * b) * c (5). With running
    statistics the gradient is g * c (1), beside the sums."""
    source = tensor(call, "input")
    m = channels(source)
    trains = call.attributes.get("train", call.attributes.get("update", True))
    return _normalization(call, m, source.numel // max(m, 1), 9 if trains else 5)


@cost("aten.native_layer_norm_backward", "aten.native_group_norm_backward")
def layer_norm_backward(call: OpCall) -> Cost:
    """An element: x centred and scaled (2), the sums of g and of g * x (3), (g - a - x * b) * c (4); with a weight its product,
    and the sum for its gradient (2); the sum for the bias (1)."""
    source = tensor(call, "input")
    shape = call.attributes.get("normalized_shape")
    if isinstance(shape, list):
        n = math.prod([s for s in shape if isinstance(s, int)])
        m = source.numel // max(n, 1)
    else:
        m = source.shape[0] * int(number(call, "group", 1))
        n = source.numel // max(m, 1)
    _, to_weight, to_bias = _gradients(call, 3)
    return _normalization(call, m, n, 9 + 2 * (to_weight and call.operand("weight") is not None) + to_bias)


@cost("aten._fused_rms_norm_backward")
def rms_norm_backward(call: OpCall) -> Cost:
    """An element: x scaled (1), the sum of g * x (2), (g - x * b) * c (3); with a weight its product and its sum (2)."""
    shape = call.attributes.get("normalized_shape")
    n = math.prod([s for s in shape if isinstance(s, int)]) if isinstance(shape, list) else 1
    _, to_weight = _gradients(call, 2)
    return _normalization(call, tensor(call, "input").numel // max(n, 1), n, 6 + 2 * to_weight)


# Pooling --------------------------------------------------------------------------------------------------------------


_PADDINGS = tuple(f"aten.{kind}_pad{rank}d_backward" for kind in ("reflection", "replication") for rank in (1, 2, 3))


@cost(*aten("max_pool2d_with_indices_backward max_pool3d_with_indices_backward unfold_backward"), *_PADDINGS)
@cost(*aten("adaptive_max_pool2d_backward adaptive_max_pool3d_backward"))
def scatter_gradients(call: OpCall) -> Cost:
    """Each gradient is added to the place its value came from; an input given for its shape is not read."""
    family = "pooling" if "pool" in call.op else "copy"
    return bill(call, family, vector=first_operand(call).numel, m=result(call).numel, bytes_read={"self": 0.0})


@cost(*aten("avg_pool2d_backward avg_pool3d_backward _adaptive_avg_pool2d_backward _adaptive_avg_pool3d_backward"))
def avg_pool_backward(call: OpCall) -> Cost:
    """Each gradient is divided and added to every place of its window; adaptive windows may overlap."""
    grad, output, rank = tensor(call, "grad_output"), result(call), pool_rank(call)
    if "adaptive" in call.op:
        taps, window, _ = adaptive_windows(output.shape[-rank:], grad.shape[-rank:])
        vector = math.prod(grad.shape[:-rank]) * taps
    else:
        window = math.prod(extents(call, "kernel_size", rank))
        vector = grad.numel * window
    return bill(
        call, "pooling", vector=vector, special=grad.numel, m=output.numel, n=window, window=window, bytes_read={"self": 0.0}
    )


# Scatters of gradients -------------------------------------------------------------------------------------------


@cost("aten.embedding_dense_backward", "aten._embedding_bag_dense_backward")
def embedding_backward(call: OpCall) -> Cost:
    """Rows are added to a table that is otherwise 0."""
    indices, n = tensor(call, "indices").numel, result(call).shape[-1]
    return bill(call, "gather", vector=indices * n, m=indices, n=n)


@cost("aten.nll_loss_backward", "aten.nll_loss2d_backward")
def nll_loss_backward(call: OpCall) -> Cost:
    """One element for each target is set, the others are 0. The log-probabilities give the shape and are not read."""
    m = tensor(call, "target").numel
    return bill(call, "gather", vector=m, m=m, bytes_read={"self": 0.0})


@cost(*(f"aten.{name}_backward" for name in UPSAMPLE))
def upsample_backward(call: OpCall) -> Cost:
    """Each gradient is weighted and added to each element that its value was interpolated from."""
    grad = tensor(call, "grad_output")
    taps = TAPS[UPSAMPLE[short_op(call.op).removesuffix("_backward")]]
    return bill(call, "gather", vector=grad.numel * (2 * taps if taps > 1 else 1), m=result(call).numel, n=taps, window=taps)


@cost("aten.grid_sampler_2d_backward", "aten.grid_sampler_3d_backward")
def grid_sampler_backward(call: OpCall) -> Cost:
    """Each gradient is weighted and added to each element that its value was interpolated from (2 operations a tap), and
    contributes to the grid's gradient (2 more); points take 12 operations a dimension, twice those of the forward pass."""
    grad, grid, taps = tensor(call, "grad_output"), tensor(call, "grid"), grid_taps(call)
    return bill(call, "gather", vector=4.0 * taps * grad.numel + 12.0 * grid.numel, m=grad.numel, n=taps, window=taps)
