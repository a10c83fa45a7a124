"""Costs of operators that move data: copies, fills, concatenation, padding, gathers, scatters, interpolation.

A gather reads the part that is asked for, at most the whole: m rows of length n. An in-place scatter writes the part it changes.
"""

from __future__ import annotations

from shmoo.estimators.costs.base import bill, cost, elements, first, listed, result, tensor
from shmoo.estimators.records import Cost, OpCall

# Copies and fills ---------------------------------------------------------------------------------------------------

COPIES = (
    "clone contiguous cat concat concatenate stack hstack vstack dstack column_stack row_stack block_diag roll flip fliplr "
    "flipud rot90 repeat tile repeat_interleave pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle "
    "tril triu diag diag_embed combinations cartesian_prod complex im2col one_hot "
    "slice_copy select_copy expand_copy permute_copy transpose_copy view_copy t_copy unsqueeze_copy squeeze_copy split_copy "
    "split_with_sizes_copy unbind_copy alias_copy detach_copy as_strided_copy unfold_copy diagonal_copy "
    "pad constant_pad_nd _pad_circular _pad_enum reflection_pad1d reflection_pad2d reflection_pad3d "
    "replication_pad1d replication_pad2d replication_pad3d"
)


@cost(*(f"aten.{name}" for name in COPIES.split()))
def copy(call: OpCall) -> Cost:
    """Everything is read and written once; of an operand larger than all results (a cut) only what is kept is read."""
    kept = sum(spec.nbytes for spec in call.outputs)
    touched = {name: min(spec.nbytes, kept) for name, spec in zip(call.operands, call.inputs, strict=True)}
    return bill(call, "copy", m=sum(spec.numel for spec in call.outputs), touched=touched)


@cost("aten.copy")
def copy_into(call: OpCall) -> Cost:
    """`self` gives shape and type; its values are overwritten unread. A change of type is one conversion an element."""
    source, target = tensor(call, "src"), result(call)
    converts = source.dtype != target.dtype
    return bill(
        call,
        "pointwise" if converts else "copy",
        vector=target.numel if converts else 0,
        m=target.numel,
        touched={"self": 0.0},
    )


@cost("aten.zeros", "aten.ones", "aten.full", "aten.scalar_tensor", "aten.zeros_like", "aten.ones_like", "aten.full_like")
@cost("aten.new_zeros", "aten.new_ones", "aten.new_full", "aten.fill", "aten.zero")
def fill(call: OpCall) -> Cost:
    """Writes only; an operand gives shape and type, and a tensor `value` is read."""
    return bill(call, "copy", m=result(call).numel, touched={name: 0.0 for name in call.operands if name != "value"})


@cost("aten.fill_diagonal")
def fill_diagonal(call: OpCall) -> Cost:
    """Writes one element a row."""
    output = result(call)
    m = min(output.shape)
    return bill(call, "copy", m=m, touched={"self": 0.0}, written=m * output.nbytes / max(output.numel, 1))


@cost("aten.slice_scatter", "aten.select_scatter", "aten.diagonal_scatter", "aten.as_strided_scatter")
def view_scatter(call: OpCall) -> Cost:
    """A copy of `self` in which a part is `src`: the replaced part of `self` is not read."""
    target, source = tensor(call, "self"), tensor(call, "src")
    return bill(call, "copy", m=target.numel, touched={"self": max(target.nbytes - source.nbytes, 0.0)})


@cost("aten.col2im")
def col2im(call: OpCall) -> Cost:
    """Each element of the columns is added to its place."""
    count = first(call).numel
    return bill(call, "copy", vector=count, m=count)


@cost("aten.diff")
def diff(call: OpCall) -> Cost:
    m = result(call).numel
    return bill(call, "pointwise", vector=m, m=m)


# Gathers and scatters -----------------------------------------------------------------------------------------------


@cost("aten.embedding")
def embedding(call: OpCall) -> Cost:
    """Rows of `weight` by `indices`; repeated rows stay in cache, so at most the whole table is read."""
    weight, indices = tensor(call, "weight"), tensor(call, "indices")
    gathered = min(result(call).nbytes, weight.nbytes)
    return bill(call, "gather", m=indices.numel, n=weight.shape[-1], touched={"weight": gathered})


@cost("aten.embedding_bag", "aten._embedding_bag", "aten._embedding_bag_forward_only")
def embedding_bag(call: OpCall) -> Cost:
    """Every gathered row is added to its bag; with weights for each index it is multiplied first."""
    weight, indices = tensor(call, "weight"), tensor(call, "indices")
    n = weight.shape[-1]
    gathered = min(indices.numel * n * weight.nbytes / max(weight.numel, 1), weight.nbytes)
    steps = 2 if call.operand("per_sample_weights") else 1
    return bill(call, "gather", vector=steps * indices.numel * n, m=indices.numel, n=n, touched={"weight": gathered})


@cost("aten.index", "aten._unsafe_index", "aten._unsafe_masked_index", "aten.index_select", "aten.gather", "aten.take")
@cost("aten.take_along_dim", "aten.masked_select")
def gather(call: OpCall) -> Cost:
    """Only what is taken is read. Indices come first to last at their own size."""
    source, output = tensor(call, "self"), result(call)
    row = _row(source.shape, output.shape) if call.op in ("aten.index", "aten._unsafe_index", "aten.index_select") else 1
    return bill(call, "gather", m=output.numel // max(row, 1), n=row, touched={"self": min(source.nbytes, output.nbytes)})


def _row(source: tuple[int, ...], output: tuple[int, ...]) -> int:
    """Elements that follow one another in memory in both: the product of the equal last dimensions."""
    length = 1
    for a, b in zip(reversed(source), reversed(output), strict=False):
        if a != b:
            break
        length *= a
    return length


@cost("aten.max_unpool2d", "aten.max_unpool3d")
def max_unpool(call: OpCall) -> Cost:
    """Each value goes to its place in a result that is 0 elsewhere."""
    return bill(call, "gather", m=first(call).numel)


@cost("aten.nonzero", "aten.argwhere")
def nonzero(call: OpCall) -> Cost:
    """One comparison an element."""
    count = first(call).numel
    return bill(call, "gather", vector=count, m=count)


def _scatter(call: OpCall, changed: int, reduces: bool) -> Cost:
    """`changed` elements of `self` get new values; out of place the rest is copied. Where values combine, old ones are read."""
    target = tensor(call, "self")
    per_element = target.nbytes / max(target.numel, 1)
    part = min(changed, target.numel) * per_element
    kept = 0.0 if call.inplace else target.nbytes - part
    return bill(
        call,
        "gather",
        vector=changed if reduces else 0,
        m=changed,
        touched={"self": kept + (part if reduces else 0.0)},
        written=part if call.inplace else None,
    )


@cost("aten.scatter", "aten.scatter_add", "aten.scatter_reduce")
def scatter(call: OpCall) -> Cost:
    """As many elements as there are indices."""
    reduces = call.op != "aten.scatter" or bool(call.attributes.get("reduce"))
    return _scatter(call, tensor(call, "index").numel, reduces)


@cost("aten.index_put", "aten._unsafe_index_put", "aten._index_put_impl")
def index_put(call: OpCall) -> Cost:
    """`values` stretched to the indexed region, whose size the values' own size bounds from below."""
    indices = listed(call, "indices")
    values = tensor(call, "values")
    changed = max([values.numel, *(s.numel for s in indices if s.dtype != "bool")])
    return _scatter(call, changed, bool(call.attributes.get("accumulate")))


@cost("aten.index_add", "aten.index_copy", "aten.index_reduce")
def index_source(call: OpCall) -> Cost:
    """As many elements as `source` has."""
    return _scatter(call, tensor(call, "source").numel, call.op != "aten.index_copy")


@cost("aten.index_fill")
def index_fill(call: OpCall) -> Cost:
    """The slices that `index` names along `dim`."""
    target, index = tensor(call, "self"), tensor(call, "index")
    dim = call.attributes.get("dim", 0)
    along = target.shape[dim] if isinstance(dim, int) and target.shape else 1
    return _scatter(call, index.numel * (target.numel // max(along, 1)), reduces=False)


@cost("aten.masked_scatter")
def masked_scatter(call: OpCall) -> Cost:
    """How many places the mask names is not in its shape: all are counted."""
    return _scatter(call, tensor(call, "self").numel, reduces=False)


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
"""ATen name -> how a result is made of the nearest elements of the input."""


def _interpolate(call: OpCall, taps: int) -> Cost:
    """A weighted sum of `taps` elements for each result; weights along a dimension are shared by its lines and not counted."""
    m = result(call).numel
    return bill(call, "gather", vector=m * (2 * taps - 1 if taps > 1 else 0), m=m, n=taps, window=taps)


@cost(*(f"aten.{name}" for name in UPSAMPLE))
def upsample(call: OpCall) -> Cost:
    return _interpolate(call, TAPS[UPSAMPLE[call.op.removeprefix("aten.")]])


@cost("aten.grid_sampler", "aten.grid_sampler_2d", "aten.grid_sampler_3d")
def grid_sampler(call: OpCall) -> Cost:
    """Interpolation at given points: (0) linear, (1) nearest, (2) cubic along each of the grid's dimensions.

    Each point also turns its coordinates into positions and weights: 6 operations a dimension.
    """
    rank = tensor(call, "grid").shape[-1]
    mode = call.attributes.get("interpolation_mode", 0)
    per_dimension = {1: 1, 2: 4}.get(mode, 2) if isinstance(mode, int) else 2
    taps = per_dimension**rank
    cost_of_points = 6.0 * tensor(call, "grid").numel
    m = result(call).numel
    return bill(call, "gather", vector=m * (2 * taps - 1 if taps > 1 else 0) + cost_of_points, m=m, n=taps, window=taps)


@cost("aten.affine_grid_generator")
def affine_grid(call: OpCall) -> Cost:
    """(N, points, D + 1) by (N, D + 1, D): positions times the transform."""
    output = result(call).shape
    rank = output[-1]
    points = elements(output[1:-1])
    return bill(call, "gemm", matrix=2 * output[0] * points * rank * (rank + 1), batch=output[0], m=points, n=rank, k=rank + 1)
