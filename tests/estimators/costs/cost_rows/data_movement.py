"""Expected costs of copies, fills, gathers, scatters and interpolation."""

from shmoo.estimators.graph.records import Attribute
from tests.estimators.costs.cost_rows.build import Operand, b, c, i, rows

X = (2, 3)


def copy_rows(
    ops: str, inputs: dict[str, Operand], outputs: list[Operand], m: int, attributes: dict[str, Attribute] | None = None, **more
) -> None:
    rows(ops, inputs, outputs, attributes, family="copy", space={"m": m}, **more)


# Copies: everything is read once and written once.
copy_rows("clone contiguous alias_copy detach_copy", {"self": X}, [X], 6)
copy_rows("cat", {"tensors.0": X, "tensors.1": (2, 1)}, [(2, 4)], 8, {"dim": 1})
copy_rows("concat concatenate", {"tensors.0": X, "tensors.1": (2, 1)}, [(2, 4)], 8, {"dim": 1})
copy_rows("stack", {"tensors.0": X, "tensors.1": X}, [(2, 2, 3)], 12, {"dim": 0})
copy_rows("hstack column_stack", {"tensors.0": X, "tensors.1": X}, [(2, 6)], 12)
copy_rows("vstack row_stack", {"tensors.0": X, "tensors.1": X}, [(4, 3)], 12)
copy_rows("dstack", {"tensors.0": X, "tensors.1": X}, [(2, 3, 2)], 12)
copy_rows("block_diag", {"tensors.0": X, "tensors.1": X}, [(4, 6)], 24)
copy_rows("cartesian_prod", {"tensors.0": (2,), "tensors.1": (3,)}, [(6, 2)], 12)
copy_rows("combinations", {"self": (3,)}, [(3, 2)], 6, {"r": 2, "with_replacement": False})
copy_rows("roll", {"self": X}, [X], 6, {"shifts": [1], "dims": [0]})
copy_rows("flip", {"self": X}, [X], 6, {"dims": [0]})
copy_rows("fliplr flipud", {"self": X}, [X], 6)
copy_rows("rot90", {"self": X}, [(3, 2)], 6, {"k": 1, "dims": [0, 1]})
copy_rows("repeat", {"self": X}, [(4, 3)], 12, {"repeats": [2, 1]})
copy_rows("tile", {"self": X}, [(4, 3)], 12, {"dims": [2, 1]})
copy_rows("repeat_interleave", {"self": X}, [(4, 3)], 12, {"repeats": 2, "dim": 0})
copy_rows("pixel_shuffle", {"self": (1, 4, 2, 2)}, [(1, 1, 4, 4)], 16, {"upscale_factor": 2})
copy_rows("pixel_unshuffle", {"self": (1, 1, 4, 4)}, [(1, 4, 2, 2)], 16, {"downscale_factor": 2})
copy_rows("channel_shuffle native_channel_shuffle", {"self": (1, 4, 2, 2)}, [(1, 4, 2, 2)], 16, {"groups": 2})
copy_rows("tril triu", {"self": X}, [X], 6, {"diagonal": 0})
copy_rows("diag diag_embed", {"self": (3,)}, [(3, 3)], 9, {})
copy_rows("complex", {"real": X, "imag": X}, [c(2, 3)], 6)
copy_rows("one_hot", {"self": i(3)}, [i(3, 5)], 15, {"num_classes": 5})
copy_rows(
    "im2col",
    {"self": (1, 1, 4, 4)},
    [(1, 4, 9)],
    36,
    {"kernel_size": [2, 2], "dilation": [1, 1], "padding": [0, 0], "stride": [1, 1]},
)
copy_rows("expand_copy", {"self": (1, 3)}, [X], 6, {"size": [2, 3], "implicit": False})
copy_rows("permute_copy", {"self": X}, [(3, 2)], 6, {"dims": [1, 0]})
copy_rows("transpose_copy", {"self": X}, [(3, 2)], 6, {"dim0": 0, "dim1": 1})
copy_rows("t_copy", {"self": X}, [(3, 2)], 6)
copy_rows("view_copy", {"self": X}, [(6,)], 6, {"size": [6]})
copy_rows("unsqueeze_copy", {"self": X}, [(1, 2, 3)], 6, {"dim": 0})
copy_rows("squeeze_copy", {"self": (1, 2, 3)}, [X], 6)
copy_rows("split_copy", {"self": (4, 3)}, [X, X], 12, {"split_size": 2, "dim": 0})
copy_rows("split_with_sizes_copy", {"self": (4, 3)}, [X, X], 12, {"split_sizes": [2, 2], "dim": 0})
copy_rows("unbind_copy", {"self": X}, [(3,), (3,)], 6, {"dim": 0})
copy_rows("unfold_copy", {"self": (4,)}, [(3, 2)], 6, {"dimension": 0, "size": 2, "step": 1})
# Of 4 x 3 only the 2 x 3 that are kept are read.
copy_rows("slice_copy", {"self": (4, 3)}, [X], 6, {"dim": 0, "start": 0, "end": 2, "step": 1}, reads={"self": 24})
copy_rows("select_copy", {"self": (2, 2, 3)}, [X], 6, {"dim": 0, "index": 1}, reads={"self": 24})
copy_rows(
    "as_strided_copy", {"self": (4, 3)}, [X], 6, {"size": [2, 3], "stride": [3, 1], "storage_offset": None}, reads={"self": 24}
)
copy_rows("diagonal_copy", {"self": (3, 3)}, [(3,)], 3, {"offset": 0, "dim1": 0, "dim2": 1}, reads={"self": 12})
copy_rows("pad", {"self": X}, [(2, 5)], 10, {"pad": [1, 1], "mode": "constant", "value": None})
copy_rows("_pad_enum", {"self": X}, [(2, 5)], 10, {"pad": [1, 1], "mode": 0, "value": None})
copy_rows("_pad_circular", {"self": (1, 2, 3)}, [(1, 2, 5)], 10, {"pad": [1, 1]})
copy_rows("constant_pad_nd", {"self": X}, [(2, 5)], 10, {"pad": [1, 1], "value": 0})
copy_rows("constant_pad_nd", {"self": (4, 3)}, [X], 6, {"pad": [0, 0, -1, -1], "value": 0}, reads={"self": 24})
for rank in (1, 2, 3):
    source, output = (2, 3), (2, 5)
    copy_rows(
        f"reflection_pad{rank}d replication_pad{rank}d",
        {"self": (1, 2, *[3] * rank)},
        [(1, 2, *[5] * rank)],
        2 * 5**rank,
        {"padding": [1] * 2 * rank},
    )

# Written, not read.
copy_rows("copy", {"self": X, "src": X}, [X], 6, {"non_blocking": False}, reads={"self": 0})
rows(
    "copy",
    {"self": X, "src": i(2, 3)},
    [X],
    {"non_blocking": False},
    family="pointwise",
    vector=6,
    space={"m": 6},
    reads={"self": 0},
)
copy_rows("zeros ones", {}, [X], 6, {"size": [2, 3]})
copy_rows("full", {}, [X], 6, {"size": [2, 3], "fill_value": 1})
copy_rows("scalar_tensor", {}, [()], 1, {"s": 1})
copy_rows("zeros_like ones_like", {"self": X}, [X], 6, reads={"self": 0})
copy_rows("full_like", {"self": X}, [X], 6, {"fill_value": 1}, reads={"self": 0})
copy_rows("new_zeros new_ones", {"self": (9,)}, [X], 6, {"size": [2, 3]}, reads={"self": 0})
copy_rows("new_full", {"self": (9,)}, [X], 6, {"size": [2, 3], "fill_value": 1}, reads={"self": 0})
copy_rows("fill", {"self": X}, [X], 6, {"value": 1}, reads={"self": 0})
copy_rows("zero", {"self": X}, [X], 6, reads={"self": 0}, inplace=True)
# Three of nine elements.
copy_rows(
    "fill_diagonal", {"self": (3, 3)}, [(3, 3)], 3, {"fill_value": 1, "wrap": False}, reads={"self": 0}, writes=12, inplace=True
)

# Half of 4 x 3 comes from `src`.
copy_rows(
    "slice_scatter", {"self": (4, 3), "src": X}, [(4, 3)], 12, {"dim": 0, "start": 0, "end": 2, "step": 1}, reads={"self": 24}
)
copy_rows("select_scatter", {"self": (2, 2, 3), "src": X}, [(2, 2, 3)], 12, {"dim": 0, "index": 1}, reads={"self": 24})
copy_rows("diagonal_scatter", {"self": (3, 3), "src": (3,)}, [(3, 3)], 9, {"offset": 0, "dim1": 0, "dim2": 1}, reads={"self": 24})
copy_rows("as_strided_scatter", {"self": (4, 3), "src": X}, [(4, 3)], 12, {"size": [2, 3], "stride": [3, 1]}, reads={"self": 24})
rows(
    "col2im",
    {"self": (1, 4, 9)},
    [(1, 1, 4, 4)],
    {"output_size": [4, 4], "kernel_size": [2, 2], "dilation": [1, 1], "padding": [0, 0], "stride": [1, 1]},
    family="copy",
    vector=36,
    space={"m": 36},
)

# Gathers: 5 of 100 rows of 8; a table of 3 rows is read at most once.
rows(
    "embedding",
    {"weight": (100, 8), "indices": i(5)},
    [(5, 8)],
    {"padding_idx": -1},
    family="gather",
    space={"m": 5, "n": 8},
    reads={"weight": 160},
)
rows(
    "embedding",
    {"weight": (3, 8), "indices": i(2, 5)},
    [(2, 5, 8)],
    {"padding_idx": -1},
    family="gather",
    space={"m": 10, "n": 8},
    reads={"weight": 96},
)
BAG = {"weight": (100, 8), "indices": i(5), "offsets": i(2)}
rows(
    "embedding_bag _embedding_bag _embedding_bag_forward_only",
    BAG,
    [(2, 8), i(0), i(2), i(0)],
    {"mode": 0, "sparse": False},
    family="gather",
    vector=40,
    space={"m": 5, "n": 8},
    reads={"weight": 160},
)
rows(
    "embedding_bag",
    {**BAG, "per_sample_weights": (5,)},
    [(2, 8), i(0), i(2), i(0)],
    {"mode": 0},
    family="gather",
    vector=80,
    space={"m": 5, "n": 8},
    reads={"weight": 160},
)
rows(
    "index _unsafe_index",
    {"self": (100, 8), "indices.0": i(5)},
    [(5, 8)],
    family="gather",
    space={"m": 5, "n": 8},
    reads={"self": 160},
)
rows(
    "index_select",
    {"self": (100, 8), "index": i(5)},
    [(5, 8)],
    {"dim": 0},
    family="gather",
    space={"m": 5, "n": 8},
    reads={"self": 160},
)
rows(
    "gather",
    {"self": (100, 8), "index": i(5, 8)},
    [(5, 8)],
    {"dim": 0, "sparse_grad": False},
    family="gather",
    space={"m": 40},
    reads={"self": 160},
)
rows("take", {"self": (100, 8), "index": i(5)}, [(5,)], family="gather", space={"m": 5}, reads={"self": 20})
rows(
    "take_along_dim",
    {"self": (100, 8), "indices": i(5, 8)},
    [(5, 8)],
    {"dim": 0},
    family="gather",
    space={"m": 40},
    reads={"self": 160},
)
rows("masked_select", {"self": (9,), "mask": b(9)}, [(5,)], family="gather", space={"m": 5}, reads={"self": 20})
rows(
    "_unsafe_masked_index",
    {"self": (100, 8), "mask": b(5, 1), "indices.0": i(5, 1), "indices.1": i(8)},
    [(5, 8)],
    {"fill": 0},
    family="gather",
    space={"m": 40},
    reads={"self": 160},
)
rows("nonzero argwhere", {"self": X}, [i(6, 2)], family="gather", vector=6, space={"m": 6})
# Four values are put into a 4 x 4 plane of zeros.
rows(
    "max_unpool2d",
    {"self": (1, 1, 2, 2), "indices": i(1, 1, 2, 2)},
    [(1, 1, 4, 4)],
    {"output_size": [4, 4]},
    family="gather",
    space={"m": 4},
)
rows(
    "max_unpool3d",
    {"self": (1, 1, 1, 2, 2), "indices": i(1, 1, 1, 2, 2)},
    [(1, 1, 1, 4, 4)],
    {"output_size": [1, 4, 4], "stride": [1, 2, 2], "padding": [0, 0, 0]},
    family="gather",
    space={"m": 4},
)

# Scatters of 4 values into 10. Out of place the other 6 are copied; in place only 4 are written.
TEN = {"self": (10,)}
rows("scatter", {**TEN, "index": i(4), "src": (4,)}, [(10,)], {"dim": 0}, family="gather", space={"m": 4}, reads={"self": 24})
rows(
    "scatter",
    {**TEN, "index": i(4)},
    [(10,)],
    {"dim": 0, "value": 1},
    family="gather",
    space={"m": 4},
    reads={"self": 0},
    writes=16,
    inplace=True,
)
rows("scatter_add", {**TEN, "index": i(4), "src": (4,)}, [(10,)], {"dim": 0}, family="gather", vector=4, space={"m": 4})
rows(
    "scatter_add",
    {**TEN, "index": i(4), "src": (4,)},
    [(10,)],
    {"dim": 0},
    family="gather",
    vector=4,
    space={"m": 4},
    reads={"self": 16},
    writes=16,
    inplace=True,
)
rows(
    "scatter_reduce",
    {**TEN, "index": i(4), "src": (4,)},
    [(10,)],
    {"dim": 0, "reduce": "amax", "include_self": True},
    family="gather",
    vector=4,
    space={"m": 4},
)
rows(
    "index_put _unsafe_index_put _index_put_impl",
    {**TEN, "indices.0": i(4), "values": (4,)},
    [(10,)],
    {"accumulate": False},
    family="gather",
    space={"m": 4},
    reads={"self": 0},
    writes=16,
    inplace=True,
)
rows(
    "index_put",
    {**TEN, "indices.0": i(4), "values": ()},
    [(10,)],
    {"accumulate": True},
    family="gather",
    vector=4,
    space={"m": 4},
)
rows(
    "index_add",
    {**TEN, "index": i(4), "source": (4,)},
    [(10,)],
    {"dim": 0, "alpha": 1},
    family="gather",
    vector=4,
    space={"m": 4},
)
rows(
    "index_copy", {**TEN, "index": i(4), "source": (4,)}, [(10,)], {"dim": 0}, family="gather", space={"m": 4}, reads={"self": 24}
)
rows(
    "index_reduce",
    {**TEN, "index": i(4), "source": (4,)},
    [(10,)],
    {"dim": 0, "reduce": "amax", "include_self": True},
    family="gather",
    vector=4,
    space={"m": 4},
)
rows(
    "index_fill",
    {"self": (10, 3), "index": i(4)},
    [(10, 3)],
    {"dim": 0, "value": 1},
    family="gather",
    space={"m": 12},
    reads={"self": 72},
)
rows("masked_scatter", {"self": X, "mask": b(2, 3), "source": X}, [X], family="gather", space={"m": 6}, reads={"self": 0})

# Interpolation to twice the size: t taps take t products and t - 1 sums.
for rank, linear in {1: "upsample_linear1d", 2: "upsample_bilinear2d", 3: "upsample_trilinear3d"}.items():
    source, output, m = (1, 2, *[3] * rank), (1, 2, *[6] * rank), 2 * 6**rank
    taps = 2**rank
    rows(
        f"upsample_nearest{rank}d _upsample_nearest_exact{rank}d",
        {"self": source},
        [output],
        {"output_size": [6] * rank},
        family="gather",
        space={"m": m, "images": 2},
    )
    rows(
        linear,
        {"self": source},
        [output],
        {"output_size": [6] * rank, "align_corners": False},
        family="gather",
        vector=m * (2 * taps - 1),
        space={"m": m, "n": taps, "window": taps, "images": 2},
    )
PLANE = {"self": (1, 2, 3, 3)}
DOUBLED = {"output_size": [6, 6], "align_corners": False}
rows(
    "_upsample_bilinear2d_aa",
    PLANE,
    [(1, 2, 6, 6)],
    DOUBLED,
    family="gather",
    vector=72 * 7,
    space={"m": 72, "n": 4, "window": 4, "images": 2},
)
rows(
    "upsample_bicubic2d _upsample_bicubic2d_aa",
    PLANE,
    [(1, 2, 6, 6)],
    DOUBLED,
    family="gather",
    vector=72 * 31,
    space={"m": 72, "n": 16, "window": 16, "images": 2},
)
GRID = {"input": (1, 2, 3, 3), "grid": (1, 4, 4, 2)}
LINEAR = {"interpolation_mode": 0, "padding_mode": 0, "align_corners": False}
rows(
    "grid_sampler grid_sampler_2d",
    GRID,
    [(1, 2, 4, 4)],
    LINEAR,
    family="gather",
    vector=32 * 7 + 6 * 32,
    space={"m": 32, "n": 4, "window": 4, "images": 2},
)
rows(
    "grid_sampler",
    GRID,
    [(1, 2, 4, 4)],
    {**LINEAR, "interpolation_mode": 1},
    family="gather",
    vector=6 * 32,
    space={"m": 32, "images": 2},
)
rows(
    "grid_sampler_3d",
    {"input": (1, 2, 3, 3, 3), "grid": (1, 2, 2, 2, 3)},
    [(1, 2, 2, 2, 2)],
    LINEAR,
    family="gather",
    vector=16 * 15 + 6 * 24,
    space={"m": 16, "n": 8, "window": 8, "images": 2},
)

rows("fft_fftshift fft_ifftshift", {"self": (2, 3)}, [(2, 3)], {"dim": None}, family="copy", space={"m": 6})
rows("diagflat", {"self": (3,)}, [(3, 3)], family="copy", space={"m": 9})
rows("lu_unpack", {"LU_data": (3, 3), "LU_pivots": (3,)}, [(3, 3), (3, 3), (3, 3)], family="copy", space={"m": 27})
rows("_pack_padded_sequence", {"input": (2, 3), "lengths": (2,)}, [(6,), (3,)], family="copy", space={"m": 9})
rows("_pad_packed_sequence", {"data": (6,), "batch_sizes": (3,)}, [(2, 3), (2,)], family="copy", space={"m": 8})
# 2 of 12 elements get new values: the other 40 bytes are copied.
rows(
    "put",
    {"self": (3, 4), "index": i(2), "source": (2,)},
    [(3, 4)],
    {"accumulate": False},
    family="gather",
    space={"m": 2},
    reads={"self": 40},
)
# 2 rows of 4: a square, a sum and a product an element, a root and a division a row.
rows(
    "embedding_renorm",
    {"self": (3, 4), "indices": i(2)},
    [(3, 4)],
    {"max_norm": 1.0, "norm_type": 2.0},
    family="gather",
    vector=24,
    special=4,
    space={"m": 2, "n": 4},
    reads={"self": 32},
    writes=32,
    inplace=True,
)
