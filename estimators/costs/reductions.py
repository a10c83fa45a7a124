"""Costs of operators that reduce rows or windows: softmax, normalization, pooling, sums, searches and sorts.

Iteration space: m rows of length n; for pooling m results of a window of n. Plain reductions are of the family "pooling": the
mean over all positions and adaptive pooling to one position are the same work.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from shmoo.estimators.costs.base import (
    bill,
    broadcast_numel,
    channels,
    cost,
    extents,
    first_operand,
    is_complex,
    largest_entry,
    number,
    result,
    tensor,
)
from shmoo.estimators.costs.pointwise import LIBRARIES, elementwise
from shmoo.estimators.errors import InputError
from shmoo.estimators.graph.records import Cost, OpCall
from shmoo.estimators.registry import aten, short_op

# Softmax -----------------------------------------------------------------------------------------------------------


def _row_length(call: OpCall) -> int:
    """Elements of the first operand along attribute `dim` (one dimension or a list; the last one where absent)."""
    shape = first_operand(call).shape
    dims = call.attributes.get("dim", -1)
    dim_list = dims if isinstance(dims, list) else [-1 if dims is None else dims]
    return math.prod([shape[d] for d in dim_list if isinstance(d, int)]) if shape else 1


SOFTMAX: dict[str, tuple[int, int, int, int]] = {
    # An element: maximum, subtract, exp, sum, divide.
    **dict.fromkeys(aten("softmax _softmax _safe_softmax special_softmax"), (3, 2, 0, 0)),
    # An element: maximum, subtract, exp, sum, subtract. A row: a logarithm.
    **dict.fromkeys(aten("log_softmax _log_softmax special_log_softmax"), (4, 1, 0, 1)),
    # An element: maximum, subtract, exp, sum. A row: a logarithm and an addition.
    **dict.fromkeys(aten("logsumexp special_logsumexp"), (3, 1, 1, 1)),
}
"""Operator -> vector and special operations for an element, then for a row."""


@cost(*SOFTMAX)
def softmax(call: OpCall) -> Cost:
    """Softmax, its logarithm, or the logarithm of the sum of exponentials, along `dim`."""
    vector, special, row_vector, row_special = SOFTMAX[call.op]
    count, n = first_operand(call).numel, _row_length(call)
    m = count // max(n, 1)
    return bill(call, "softmax", vector=vector * count + row_vector * m, special=special * count + row_special * m, m=m, n=n)


@cost("aten.cross_entropy_loss")
def cross_entropy(call: OpCall) -> Cost:
    """Log-softmax over the classes (dimension 1, or the only one), and the sum of one value a row."""
    shape = first_operand(call).shape
    n = shape[1] if len(shape) > 1 else shape[0]
    count = math.prod(shape)
    m = count // max(n, 1)
    return bill(call, "softmax", vector=4 * count + m, special=count + m, m=m, n=n)


# Normalization -----------------------------------------------------------------------------------------------------


def normalize(call: OpCall, m: int, n: int, has_mean: bool = True, update: int = 0) -> Cost:
    """Rows of length n brought to unit variance (to unit mean square where not `has_mean`), then scaled and shifted.

    An element: sum, subtract, square, add, subtract and scale (6), or square, add, scale (3); with weight and bias one more each.
    A row: a division for each mean, the root, and the addition of epsilon. `update`: operations that update running
    statistics.
    """
    affine = sum(call.operand(name) is not None for name in ("weight", "bias"))
    per_element, per_row = (6, 3) if has_mean else (3, 2)
    return bill(call, "normalization", vector=m * n * (per_element + affine) + m + update, special=per_row * m, m=m, n=n)


@cost(*aten("layer_norm native_layer_norm rms_norm _fused_rms_norm"))
def layer_norm(call: OpCall) -> Cost:
    """Rows are the last dimensions, those of `normalized_shape`."""
    shape = call.attributes.get("normalized_shape")
    if not isinstance(shape, list) or not shape:
        raise InputError(f"{call.op} needs attribute 'normalized_shape' as a list of sizes, got {shape!r}")
    n = math.prod([s for s in shape if isinstance(s, int)])
    return normalize(call, first_operand(call).numel // max(n, 1), n, has_mean="rms_norm" not in call.op)


@cost("aten.group_norm", "aten.native_group_norm")
def group_norm(call: OpCall) -> Cost:
    """Rows are the groups of every example."""
    source = first_operand(call)
    groups = int(number(call, "num_groups", number(call, "group", 1)))
    m = source.shape[0] * groups
    return normalize(call, m, source.numel // max(m, 1))


BATCH_NORMS = (
    "batch_norm native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_functional "
    "_native_batch_norm_legit_no_training _batch_norm_with_update _batch_norm_with_update_functional _batch_norm_no_update "
    "_batch_norm_impl_index cudnn_batch_norm miopen_batch_norm"
)
_NEVER_TRAINS = aten("_native_batch_norm_legit_no_training _batch_norm_no_update")
_ALWAYS_TRAINS = aten("_batch_norm_with_update _batch_norm_with_update_functional")


def _running_statistics(call: OpCall) -> Cost:
    """The four parameters of a channel fold into a scale and a shift (a root, 3 products or sums with epsilon); an element takes
    one multiplication and one addition."""
    count, m = first_operand(call).numel, channels(first_operand(call))
    return bill(call, "normalization", vector=2 * count + 4 * m, special=m, m=m, n=count // max(m, 1))


@cost(*aten(BATCH_NORMS))
def batch_norm(call: OpCall) -> Cost:
    """Rows are the channels (dimension 1). In training the statistics come from the row and update the running ones (2 products
    and a sum for both)."""
    if call.op not in _ALWAYS_TRAINS and (call.op in _NEVER_TRAINS or not call.attributes.get("training")):
        return _running_statistics(call)
    m = channels(first_operand(call))
    return normalize(call, m, first_operand(call).numel // max(m, 1), update=6 * m if call.operand("running_mean") else 0)


@cost("aten.instance_norm")
def instance_norm(call: OpCall) -> Cost:
    """Rows are the channels of every example; with running statistics they are those of batch norm."""
    if not call.attributes.get("use_input_stats", True):
        return _running_statistics(call)
    source = first_operand(call)
    m = source.shape[0] * source.shape[1]
    return normalize(call, m, source.numel // max(m, 1))


# Pooling -----------------------------------------------------------------------------------------------------------


def pool_rank(call: OpCall) -> int:
    """Spatial dimensions of a pooling operator, from the digit before the "d" in its name."""
    return int(call.op[call.op.index("pool") + 4])


@cost(*aten("mkldnn_max_pool2d mkldnn_max_pool3d fractional_max_pool2d fractional_max_pool3d avg_pool1d avg_pool2d avg_pool3d"))
@cost(*aten("max_pool1d max_pool2d max_pool3d max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices"))
def pool(call: OpCall) -> Cost:
    """A window's maximum takes window - 1 comparisons; its mean window - 1 additions and a division. Padding counts."""
    window = math.prod(extents(call, "kernel_size", pool_rank(call)))
    m = result(call).numel
    # An absent stride (an empty list) is the window itself.
    stride = largest_entry(call, "stride" if call.attributes.get("stride") else "kernel_size")
    dilation, vector, special = largest_entry(call, "dilation"), m * (window - 1), m if "avg" in call.op else 0
    return bill(
        call,
        "pooling",
        vector=vector,
        special=special,
        m=m,
        n=window,
        window=window,
        stride=stride,
        dilation=dilation,
        images=planes(call),
    )


def planes(call: OpCall) -> int:
    """Channels of all images of the result of a pooling or an interpolation over the dimensions that its name counts."""
    shape = result(call).shape
    return math.prod(shape[: len(shape) - pool_rank(call)])


def adaptive_windows(source: Sequence[int], output: Sequence[int]) -> tuple[int, int, int]:
    """(elements of all windows together, elements of the largest window, largest stride) of an adaptive pooling.

    Args:
        source, output: sizes of one image's dimensions before and after.
    """
    taps, window, stride = 1, 1, 1
    for size, result_size in zip(source, output, strict=True):
        taps *= sum(math.ceil((i + 1) * size / result_size) - i * size // result_size for i in range(result_size))
        window *= math.ceil(size / max(result_size, 1))
        stride = max(stride, size // max(result_size, 1))
    return taps, window, stride


@cost(*aten("mkldnn_adaptive_avg_pool2d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d"))
@cost(*aten("adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d _adaptive_avg_pool2d _adaptive_avg_pool3d"))
def adaptive_pool(call: OpCall) -> Cost:
    """Windows run from floor(i * In / Out) to ceil((i + 1) * In / Out) along each dimension and may overlap."""
    rank, source, output = pool_rank(call), first_operand(call).shape, result(call).shape
    taps, window, stride = adaptive_windows(source[-rank:], output[-rank:])
    m = math.prod(output)
    vector, special = math.prod(source[:-rank]) * taps - m, m if "avg" in call.op else 0
    return bill(call, "pooling", vector=vector, special=special, m=m, n=window, window=window, stride=stride, images=planes(call))


# Sums, norms, searches ----------------------------------------------------------------------------------------------

ONE_STEP = "sum nansum prod amax amin max min argmax argmin any all _is_all_true _is_any_true cumsum cumprod cummax cummin"
"""An addition, multiplication or comparison an element."""

PER_INPUT: dict[str, tuple[int, int, int]] = {
    **dict.fromkeys(ONE_STEP.split(), (1, 0, 0)),
    "count_nonzero": (2, 0, 0),  # cmp, add
    "hash_tensor": (1, 0, 0),  # exclusive or
    "aminmax": (2, 0, 0),
    "mean": (1, 0, 1),  # sum; a division a row
    "nanmean": (3, 0, 1),  # cmp, sum, count
    # Sum, subtract, square, add; divisions for mean and variance a row; a root for the deviation.
    "var": (4, 0, 2),
    "var_mean": (4, 0, 2),
    "std": (4, 0, 3),
    "std_mean": (4, 0, 3),
    "logcumsumexp": (5, 2, 0),  # logaddexp of the element and the sum so far
    "unique_consecutive": (1, 0, 0),  # cmp with the one before
    "trapezoid": (3, 0, 0),  # dx * (y1 + y2) / 2 and the sum
}
"""ATen name -> vector and special operations for an element of the operand, and special operations for a result."""


def reduce_rows(call: OpCall, vector: float, special: float, per_row: float) -> Cost:
    """A reduction of the first operand to m results. A scan (cumsum) has as many results as elements; its n is the scanned
    length."""
    source, output = first_operand(call), result(call)
    if is_complex(source):
        vector, special = 2 * vector, 2 * special
    m = max(output.numel, 1)
    n = _row_length(call) if output.numel == source.numel else source.numel // m
    count = source.numel
    special = special * count + per_row * output.numel
    return bill(call, "pooling", vector=vector * count, special=special, m=count // max(n, 1), n=n)


@cost(*(f"aten.{name}" for name in PER_INPUT if name not in ("max", "min")))
def reduction(call: OpCall) -> Cost:
    """Operations for each element of the input and for each result."""
    return reduce_rows(call, *PER_INPUT[short_op(call.op)])


@cost("aten.max", "aten.min")
def extreme(call: OpCall) -> Cost:
    """Of two tensors elementwise, else along a dimension or of everything."""
    return elementwise(call, 1) if call.operand("other") else reduce_rows(call, 1, 0, 0)


@cost(*aten("norm linalg_vector_norm linalg_norm linalg_matrix_norm frobenius_norm"))
def norm(call: OpCall) -> Cost:
    """Square and add, and a root a row; orders 1 and infinity take the size and add; other orders a power an element."""
    order = call.attributes.get("ord", call.attributes.get("p", 2))
    if order in (None, 2, "fro"):
        return reduce_rows(call, 2, 0, 1)
    if order in (0, 1, "inf", "-inf", math.inf, -math.inf):
        return reduce_rows(call, 2, 0, 0)
    return reduce_rows(call, 3, 2, 2)


@cost("aten.equal", "aten.allclose")
def agreement(call: OpCall) -> Cost:
    """Compare and combine; `allclose` compares as `isclose`. They return no tensor."""
    count = first_operand(call).numel
    return bill(call, "pooling", vector=count * (2 if call.op == "aten.equal" else 7), n=count)


PAIR_OPERATORS: dict[str, tuple[str, int, int]] = {
    "aten.cosine_similarity": ("normalization", 6, 3),  # three dot products; two roots and a division
    "aten.pairwise_distance": ("pooling", 4, 1),  # subtract, add epsilon, square, add; a root
    "aten.dist": ("pooling", 3, 1),  # subtract, square, add; a root
}
"""Operator -> family, vector operations for an element of both operands, and special operations for a result."""


@cost(*PAIR_OPERATORS)
def pair_reduction(call: OpCall) -> Cost:
    """Two operands, stretched to each other and compared row by row or in whole."""
    family, vector, special = PAIR_OPERATORS[call.op]
    count, m = broadcast_numel(call.inputs), result(call).numel
    return bill(call, family, vector=vector * count, special=special * m, m=m, n=count // max(m, 1))


@cost(*aten("sort argsort msort _unique2 unique_dim"))
def sort(call: OpCall) -> Cost:
    """N log2 n comparisons a row (merge sort; D. E. Knuth, The Art of Computer Programming 3, section 5.3.1)."""
    count = first_operand(call).numel
    if call.op in ("aten._unique2", "aten.unique_dim"):
        n = count
    else:
        n = first_operand(call).shape[0] if call.op == "aten.msort" else _row_length(call)
    return bill(call, "pooling", vector=count * math.log2(max(n, 1)), m=count // max(n, 1), n=n)


@cost("aten.topk")
def topk(call: OpCall) -> Cost:
    """A heap of the k best: log2 k comparisons an element, at least one."""
    count, n = first_operand(call).numel, _row_length(call)
    depth = max(math.log2(max(number(call, "k", 1), 1)), 1.0)
    return bill(call, "pooling", vector=count * depth, m=count // max(n, 1), n=n)


@cost("aten.median", "aten.nanmedian", "aten.kthvalue", "aten.mode", "aten.quantile", "aten.nanquantile")
def selection(call: OpCall) -> Cost:
    """Selection by partition: about 3.4 comparisons an element (D. E. Knuth, The Art of Computer Programming 3, 5.2.2)."""
    return reduce_rows(call, 3.4, 0, 0)


@cost("aten.isin")
def membership(call: OpCall) -> Cost:
    """Both sides sorted together, and neighbours compared."""
    count = sum(spec.numel for spec in call.inputs)
    return bill(call, "pooling", vector=count * (math.log2(max(count, 1)) + 1), m=count)


@cost("aten.multinomial")
def multinomial(call: OpCall) -> Cost:
    """Running sums of the probabilities, their division by the total, and a search for each random number."""
    count, n, m = first_operand(call).numel, first_operand(call).shape[-1], result(call).numel
    return bill(call, "gather", vector=count + m * math.log2(n + 1), special=count + m, m=m, n=n)


@cost("aten.segment_reduce")
def segment_reduce(call: OpCall) -> Cost:
    """One step an element; a mean is divided."""
    source, m = first_operand(call), result(call).numel
    special = m if call.attributes.get("reduce") == "mean" else 0
    return bill(call, "pooling", vector=source.numel, special=special, m=m, n=source.numel // max(m, 1))


@cost("aten.pdist", "aten._pdist_forward")
def pairs(call: OpCall) -> Cost:
    """Of each pair of rows: subtract, square, add; a root."""
    m, n = result(call).numel, first_operand(call).shape[-1]
    return bill(call, "pooling", vector=3 * m * n, special=m, m=m, n=n)


@cost("aten.linalg_vecdot")
def vecdot(call: OpCall) -> Cost:
    """Products of rows by rows, either of them stretched."""
    m = result(call).numel
    n = broadcast_numel(call.inputs) // max(m, 1)
    return bill(call, "gemm", matrix=2 * m * n, batch=m, k=n)


@cost("aten.renorm")
def renorm(call: OpCall) -> Cost:
    """Slices that are too long are scaled: square, add, multiply; a root and a division a slice."""
    source = first_operand(call)
    m = source.shape[int(number(call, "dim", 0))]
    return bill(call, "normalization", vector=3 * source.numel, special=2 * m, m=m, n=source.numel // max(m, 1))


@cost(*aten("_weight_norm _weight_norm_interface _weight_norm_interface_backward"))
def weight_norm(call: OpCall) -> Cost:
    """Rows v * (g / |v|): square, add, multiply; a root and a division a row. Backward: the sum of g * v (2) and (g - v * a) * b
    (3); a division for each of a and b."""
    source, rows = tensor(call, "v", "saved_v"), tensor(call, "g", "saved_g").numel
    vector = (5 if call.op.endswith("backward") else 3) * source.numel
    return bill(call, "normalization", vector=vector, special=2 * rows, m=rows, n=source.numel // max(rows, 1))


@cost("aten.triplet_margin_loss", "aten.cosine_embedding_loss")
def embedding_loss(call: OpCall) -> Cost:
    """Two distances (subtract, add epsilon, square, add), or three dot products; then a margin a row."""
    source = first_operand(call)
    m = source.numel // max(source.shape[-1] if source.shape else 1, 1)
    per_element = 8 if "triplet" in call.op else 6
    return bill(call, "pooling", vector=per_element * source.numel + 4 * m, special=3 * m, m=m, n=source.numel // max(m, 1))


@cost("aten.ctc_loss", "aten._ctc_loss")
def ctc_loss(call: OpCall) -> Cost:
    """At each step of each sequence, for twice as many states as the longest target has labels (and one more), the sum of three
    paths in logarithms (A. Graves et al., Connectionist Temporal Classification, 2006)."""
    shape, targets = tensor(call, "log_probs").shape, tensor(call, "targets").shape
    batch = shape[1] if len(shape) > 2 else 1
    states = batch * shape[0] * (2 * (targets[-1] if len(targets) > 1 else math.ceil(targets[0] / max(batch, 1))) + 1)
    return bill(call, "softmax", vector=7 * states, special=4 * states, m=batch * shape[0], n=states // max(batch * shape[0], 1))


@cost(*(f"{library}.choose_qparams_affine" for library in LIBRARIES), "quantized_decomposed.choose_qparams_per_token")
def choose_scales(call: OpCall) -> Cost:
    """The smallest and the largest element of each group, then their span over the number of steps."""
    count, groups = first_operand(call).numel, result(call).numel
    return bill(call, "pooling", vector=2 * count + groups, special=groups, m=groups, n=count // max(groups, 1))
