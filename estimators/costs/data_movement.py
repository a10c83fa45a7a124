"""Costs of operators that move data: copies, fills, concatenation, padding, gathers, scatters, interpolation.

A gather of m rows of length n reads these rows, at most the whole operand. An in-place scatter writes the part it changes.
"""

from __future__ import annotations

import math

from shmoo.estimators.costs.base import bill, cost, first_operand, result, tensor, tensor_list
from shmoo.estimators.graph.records import Cost, OpCall
from shmoo.estimators.registry import aten, short_op

# Copies and fills ---------------------------------------------------------------------------------------------------

COPIES = aten(
    "clone contiguous cat concat concatenate stack hstack vstack dstack column_stack row_stack block_diag roll flip fliplr "
    "flipud rot90 repeat tile repeat_interleave pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle "
    "tril triu diag diag_embed combinations cartesian_prod complex im2col one_hot "
    "slice_copy select_copy expand_copy permute_copy transpose_copy view_copy t_copy unsqueeze_copy squeeze_copy split_copy "
    "split_with_sizes_copy unbind_copy alias_copy detach_copy as_strided_copy unfold_copy diagonal_copy "
    "pad constant_pad_nd _pad_circular _pad_enum reflection_pad1d reflection_pad2d reflection_pad3d "
    "fft_fftshift fft_ifftshift lu_unpack diagflat _pack_padded_sequence _pad_packed_sequence "
    "replication_pad1d replication_pad2d replication_pad3d slice_backward select_backward diagonal_backward"
)


@cost(*COPIES)
def copy(call: OpCall) -> Cost:
    """Everything is read and written once; of an operand larger than all results (a slice) only the result's part is read."""
    result_bytes = sum(spec.nbytes for spec in call.outputs)
    bytes_read = {name: min(spec.nbytes, result_bytes) for name, spec in zip(call.operands, call.inputs, strict=True)}
    return bill(call, "copy", m=sum(spec.numel for spec in call.outputs), bytes_read=bytes_read)


@cost(*aten("zeros ones full scalar_tensor zeros_like ones_like full_like new_zeros new_ones new_full fill zero"))
def fill(call: OpCall) -> Cost:
    """Writes only; an operand gives shape and type, and a tensor `value` is read."""
    return bill(call, "copy", m=result(call).numel, bytes_read={name: 0.0 for name in call.operands if name != "value"})


@cost("aten.fill_diagonal")
def fill_diagonal(call: OpCall) -> Cost:
    """Writes one element a row."""
    output = result(call)
    m = min(output.shape)
    return bill(call, "copy", m=m, bytes_read={"self": 0.0}, bytes_written=m * output.nbytes / max(output.numel, 1))


@cost("aten.slice_scatter", "aten.select_scatter", "aten.diagonal_scatter", "aten.as_strided_scatter")
def view_scatter(call: OpCall) -> Cost:
    """A copy of `self` with a part replaced by `src`: the replaced part of `self` is not read."""
    target, source = tensor(call, "self"), tensor(call, "src")
    return bill(call, "copy", m=target.numel, bytes_read={"self": max(target.nbytes - source.nbytes, 0.0)})


# Gathers and scatters -----------------------------------------------------------------------------------------------


@cost("aten.embedding")
def embedding(call: OpCall) -> Cost:
    """Rows of `weight` by `indices`; repeated rows stay in cache, so at most the whole table is read."""
    weight, indices = tensor(call, "weight"), tensor(call, "indices")
    gathered_bytes = min(result(call).nbytes, weight.nbytes)
    return bill(call, "gather", m=indices.numel, n=weight.shape[-1], bytes_read={"weight": gathered_bytes})


@cost("aten.embedding_bag", "aten._embedding_bag", "aten._embedding_bag_forward_only")
def embedding_bag(call: OpCall) -> Cost:
    """Every gathered row is added to its bag; with weights for each index it is multiplied first."""
    weight, indices = tensor(call, "weight"), tensor(call, "indices")
    n = weight.shape[-1]
    gathered_bytes = min(indices.numel * n * weight.nbytes / max(weight.numel, 1), weight.nbytes)
    steps = 2 if call.operand("per_sample_weights") else 1
    return bill(call, "gather", vector=steps * indices.numel * n, m=indices.numel, n=n, bytes_read={"weight": gathered_bytes})


@cost(*aten("index _unsafe_index _unsafe_masked_index index_select gather take take_along_dim masked_select"))
def gather(call: OpCall) -> Cost:
    """Only the gathered elements are read, and the indices at their own size."""
    source, output = tensor(call, "self"), result(call)
    row = _row(source.shape, output.shape) if call.op in ("aten.index", "aten._unsafe_index", "aten.index_select") else 1
    return bill(call, "gather", m=output.numel // max(row, 1), n=row, bytes_read={"self": min(source.nbytes, output.nbytes)})


def _row(source: tuple[int, ...], output: tuple[int, ...]) -> int:
    """Elements that are contiguous in both: the product of the equal last dimensions."""
    length = 1
    for a, b in zip(reversed(source), reversed(output), strict=False):
        if a != b:
            break
        length *= a
    return length


def _scatter(call: OpCall, count: int, reduces: bool) -> Cost:
    """`count` elements of `self` get new values; out of place the rest is copied. Where values combine, old ones are read."""
    target = tensor(call, "self")
    changed_bytes = min(count, target.numel) * target.nbytes / max(target.numel, 1)
    unchanged_bytes = 0.0 if call.inplace else target.nbytes - changed_bytes
    return bill(
        call,
        "gather",
        vector=count if reduces else 0,
        m=count,
        bytes_read={"self": unchanged_bytes + (changed_bytes if reduces else 0.0)},
        bytes_written=changed_bytes if call.inplace else None,
    )


SCATTERS = {
    **dict.fromkeys(aten("scatter scatter_add scatter_reduce put"), "index"),
    **dict.fromkeys(aten("index_add index_copy index_reduce"), "source"),
    "aten.masked_scatter": "self",  # the number of places in the mask depends on data: all are counted
}
"""Operator -> the operand that has as many elements as it changes."""


@cost(*SCATTERS)
def scatter(call: OpCall) -> Cost:
    """Elements are replaced, or reduced with the old ones: by the operator, or by what the call asks for."""
    reduction = call.attributes.get("reduce") or call.attributes.get("accumulate")
    return _scatter(call, tensor(call, SCATTERS[call.op]).numel, call.op.endswith(("_add", "_reduce")) or bool(reduction))


@cost("aten.index_put", "aten._unsafe_index_put", "aten._index_put_impl")
def index_put(call: OpCall) -> Cost:
    """`values` are stretched to the indexed region, which has at least as many elements as they have."""
    indices = [spec.numel for spec in tensor_list(call, "indices") if spec.dtype != "bool"]
    count = max(tensor(call, "values").numel, *indices, 0)
    return _scatter(call, count, bool(call.attributes.get("accumulate")))


@cost("aten.embedding_renorm")
def embedding_renorm(call: OpCall) -> Cost:
    """Rows that are looked up and too long are scaled: a square and a sum an element, a product for all of them at most."""
    table, rows = tensor(call, "self"), tensor(call, "indices").numel
    n = table.shape[-1]
    row_bytes = min(rows, table.shape[0]) * n * table.nbytes / max(table.numel, 1)
    return bill(
        call,
        "gather",
        vector=3 * rows * n,
        special=2 * rows,
        m=rows,
        n=n,
        bytes_read={"self": row_bytes},
        bytes_written=row_bytes,
    )


@cost("aten.index_fill")
def index_fill(call: OpCall) -> Cost:
    """The slices that `index` names along `dim`."""
    target, index = tensor(call, "self"), tensor(call, "index")
    dim = call.attributes.get("dim", 0)
    dim_length = target.shape[dim] if isinstance(dim, int) and target.shape else 1
    return _scatter(call, index.numel * (target.numel // max(dim_length, 1)), reduces=False)


@cost(*aten("nll_loss nll_loss_nd nll_loss2d nll_loss_forward nll_loss2d_forward"))
def nll_loss(call: OpCall) -> Cost:
    """One log-probability a target is gathered and added."""
    source, target = first_operand(call), tensor(call, "target")
    gathered_bytes = target.numel * source.nbytes / max(source.numel, 1)
    return bill(call, "gather", vector=target.numel, m=target.numel, bytes_read={"self": gathered_bytes})


@cost("aten.searchsorted", "aten.bucketize")
def search(call: OpCall) -> Cost:
    """log2 n comparisons for each value that is searched among n sorted ones."""
    n = tensor(call, "sorted_sequence", "boundaries").shape[-1]
    m = result(call).numel
    return bill(call, "gather", vector=m * math.log2(n + 1), m=m, n=1)


# Interpolation ------------------------------------------------------------------------------------------------------

TAPS = {"nearest": 1, "linear": 2, "bilinear": 4, "trilinear": 8, "bicubic": 16}
UPSAMPLE = {
    **{f"upsample_nearest{d}d": "nearest" for d in (1, 2, 3)},
    **{f"_upsample_nearest_exact{d}d": "nearest" for d in (1, 2, 3)},
    "upsample_linear1d": "linear",
    "upsample_bilinear2d": "bilinear",
    "upsample_trilinear3d": "trilinear",
    "upsample_bicubic2d": "bicubic",
    "_upsample_bilinear2d_aa": "bilinear",
    "_upsample_bicubic2d_aa": "bicubic",
}
"""ATen name -> the interpolation that makes a result of the nearest elements of the input."""


def _interpolate(call: OpCall, taps: int, vector: float = 0.0) -> Cost:
    """A weighted sum of `taps` elements for each result, and `vector` operations beside it; weights along a dimension are shared
    by its lines and not counted. Planes are channels of all images."""
    m = result(call).numel
    planes = math.prod(result(call).shape[:2])
    vector += m * (2 * taps - 1 if taps > 1 else 0)
    return bill(call, "gather", vector=vector, m=m, n=taps, window=taps, images=planes)


@cost(*aten(" ".join(UPSAMPLE)))
def upsample(call: OpCall) -> Cost:
    """Every value is interpolated from the elements that its mode takes."""
    return _interpolate(call, TAPS[UPSAMPLE[short_op(call.op)]])


def grid_taps(call: OpCall) -> int:
    """Elements that make a value at a grid point: interpolation is (0) linear, (1) nearest or (2) cubic along a dimension."""
    mode = call.attributes.get("interpolation_mode", 0)
    taps_per_dim = {1: 1, 2: 4}.get(mode, 2) if isinstance(mode, int) else 2
    return int(taps_per_dim ** tensor(call, "grid").shape[-1])


@cost(*aten("grid_sampler grid_sampler_2d grid_sampler_3d"))
def grid_sampler(call: OpCall) -> Cost:
    """Interpolation at given points, whose coordinates become positions and weights in 6 operations a dimension."""
    return _interpolate(call, grid_taps(call), vector=6.0 * tensor(call, "grid").numel)


@cost("aten.affine_grid_generator")
def affine_grid(call: OpCall) -> Cost:
    """(N, points, D + 1) by (N, D + 1, D): positions times the transform."""
    output = result(call).shape
    rank = output[-1]
    points = math.prod(output[1:-1])
    return bill(call, "gemm", matrix=2 * output[0] * points * rank * (rank + 1), batch=output[0], m=points, n=rank, k=rank + 1)
