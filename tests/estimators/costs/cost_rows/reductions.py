"""Expected costs of softmax, normalization, pooling, sums, searches and sorts."""

import math

from shmoo.estimators.graph.records import Attribute
from tests.estimators.costs.cost_rows.build import Operand, b, i, rows

# 2 x 3 rows of 4.
R = (2, 3, 4)
SIX_ROWS = {"m": 6, "n": 4}

rows(
    "softmax _safe_softmax special_softmax",
    {"self": R},
    [R],
    {"dim": -1, "dtype": None},
    family="softmax",
    vector=72,
    special=48,
    space=SIX_ROWS,
)
rows(
    "_softmax",
    {"self": R},
    [R],
    {"dim": 1, "half_to_float": False},
    family="softmax",
    vector=72,
    special=48,
    space={"m": 8, "n": 3},
)
rows(
    "log_softmax special_log_softmax",
    {"self": R},
    [R],
    {"dim": -1, "dtype": None},
    family="softmax",
    vector=96,
    special=24 + 6,
    space=SIX_ROWS,
)
rows(
    "_log_softmax",
    {"self": R},
    [R],
    {"dim": 2, "half_to_float": False},
    family="softmax",
    vector=96,
    special=24 + 6,
    space=SIX_ROWS,
)
rows(
    "logsumexp special_logsumexp",
    {"self": R},
    [(2, 3)],
    {"dim": [-1], "keepdim": False},
    family="softmax",
    vector=72 + 6,
    special=24 + 6,
    space=SIX_ROWS,
)
rows(
    "cross_entropy_loss",
    {"self": (6, 4), "target": i(6)},
    [()],
    {"reduction": 1},
    family="softmax",
    vector=96 + 6,
    special=24 + 6,
    space=SIX_ROWS,
)
NLL = {"family": "gather", "vector": 6, "space": {"m": 6}, "reads": {"self": 6 * 4}}
rows("nll_loss nll_loss_nd", {"self": (6, 4), "target": i(6)}, [()], {"reduction": 1, "ignore_index": -100}, **NLL)
rows("nll_loss2d", {"self": (1, 4, 2, 3), "target": i(1, 2, 3)}, [()], {"reduction": 1, "ignore_index": -100}, **NLL)
rows("nll_loss_forward", {"self": (6, 4), "target": i(6)}, [(), ()], {"reduction": 1, "ignore_index": -100}, **NLL)
rows("nll_loss2d_forward", {"self": (1, 4, 2, 3), "target": i(1, 2, 3)}, [(), ()], {"reduction": 1, "ignore_index": -100}, **NLL)

# Normalization: 6 an element and 1 a row, weight and bias one more each; 3 special a row.
LAST = {"normalized_shape": [4], "eps": 1e-5}
W = {"weight": (4,), "bias": (4,)}
rows("layer_norm", {"input": R, **W}, [R], LAST, family="normalization", vector=24 * 8 + 6, special=18, space=SIX_ROWS)
rows("layer_norm", {"input": R}, [R], LAST, family="normalization", vector=24 * 6 + 6, special=18, space=SIX_ROWS)
rows(
    "native_layer_norm",
    {"input": R, **W},
    [R, (2, 3, 1), (2, 3, 1)],
    LAST,
    family="normalization",
    vector=24 * 8 + 6,
    special=18,
    space=SIX_ROWS,
)
rows("rms_norm", {"input": R, "weight": (4,)}, [R], LAST, family="normalization", vector=24 * 4 + 6, special=12, space=SIX_ROWS)
rows(
    "_fused_rms_norm",
    {"input": R, "weight": (4,)},
    [R, (2, 3, 1)],
    LAST,
    family="normalization",
    vector=24 * 4 + 6,
    special=12,
    space=SIX_ROWS,
)
IMAGE = (2, 4, 3, 5)
GROUPS = {"m": 4, "n": 30}
rows(
    "group_norm",
    {"input": IMAGE, **W},
    [IMAGE],
    {"num_groups": 2, "eps": 1e-5},
    family="normalization",
    vector=120 * 8 + 4,
    special=12,
    space=GROUPS,
)
rows(
    "native_group_norm",
    {"input": IMAGE, **W},
    [IMAGE, (2, 2), (2, 2)],
    {"N": 2, "C": 4, "HxW": 15, "group": 2, "eps": 1e-5},
    family="normalization",
    vector=120 * 8 + 4,
    special=12,
    space=GROUPS,
)
rows(
    "instance_norm",
    {"input": IMAGE, **W},
    [IMAGE],
    {"use_input_stats": True, "momentum": 0.1, "eps": 1e-5},
    family="normalization",
    vector=120 * 8 + 8,
    special=24,
    space={"m": 8, "n": 15},
)
STATS = {**W, "running_mean": (4,), "running_var": (4,)}
rows(
    "instance_norm",
    {"input": IMAGE, **STATS},
    [IMAGE],
    {"use_input_stats": False, "momentum": 0.1, "eps": 1e-5},
    family="normalization",
    vector=2 * 120 + 16,
    special=4,
    space={"m": 4, "n": 30},
)


def batch_norm_rows(ops: str, training: bool, outputs: list[Operand], attributes: dict[str, Attribute]) -> None:
    vector, special = (120 * 8 + 4 + 24, 12) if training else (2 * 120 + 16, 4)
    rows(
        ops,
        {"input": IMAGE, **STATS},
        [IMAGE, *outputs],
        attributes,
        family="normalization",
        vector=vector,
        special=special,
        space=GROUPS,
    )


EPS = {"momentum": 0.1, "eps": 1e-5}
batch_norm_rows("batch_norm", False, [], {"training": False, "cudnn_enabled": True, **EPS})
batch_norm_rows("batch_norm", True, [], {"training": True, "cudnn_enabled": True, **EPS})
batch_norm_rows("native_batch_norm _native_batch_norm_legit", True, [(4,), (4,)], {"training": True, **EPS})
batch_norm_rows("_native_batch_norm_legit_functional", False, [(0,), (0,), (4,), (4,)], {"training": False, **EPS})
batch_norm_rows("_native_batch_norm_legit_no_training", False, [(0,), (0,)], EPS)
batch_norm_rows("_batch_norm_no_update", False, [(0,), (0,), (0,)], EPS)
batch_norm_rows("_batch_norm_with_update", True, [(4,), (4,), (0,)], EPS)
batch_norm_rows("_batch_norm_with_update_functional", True, [(4,), (4,), (0,), (4,), (4,)], EPS)
batch_norm_rows("_batch_norm_impl_index", False, [(0,), (0,), (0,)], {"training": False, "cudnn_enabled": True, **EPS})
batch_norm_rows(
    "cudnn_batch_norm", True, [(4,), (4,), (0,)], {"training": True, "exponential_average_factor": 0.1, "epsilon": 1e-5}
)
batch_norm_rows("miopen_batch_norm", True, [(4,), (4,)], {"training": True, "exponential_average_factor": 0.1, "epsilon": 1e-5})

# Pooling: a window of 2 along each dimension ---------------------------------------------------------------------------
LINE, PLANE, SPACE = (1, 2, 8), (1, 2, 8, 6), (1, 2, 4, 4, 4)
HALF = {1: (1, 2, 4), 2: (1, 2, 4, 3), 3: (1, 2, 2, 2, 2)}
SOURCES = {1: LINE, 2: PLANE, 3: SPACE}


def pool_rows(ops: str, rank: int, average: bool, outputs: list[Operand], attributes: dict[str, Attribute]) -> None:
    m = math.prod(HALF[rank])
    window = 2**rank
    rows(
        ops,
        {"self": SOURCES[rank]},
        [HALF[rank], *outputs],
        {"kernel_size": [2] * rank, "stride": [2] * rank, "padding": [0] * rank, "ceil_mode": False, **attributes},
        family="pooling",
        vector=m * (window - 1),
        special=m if average else 0,
        space={"m": m, "n": window, "window": window, "stride": 2, "images": 2},
    )


for rank, names in {1: "max_pool1d", 2: "max_pool2d mkldnn_max_pool2d", 3: "max_pool3d mkldnn_max_pool3d"}.items():
    pool_rows(names, rank, False, [], {"dilation": [1] * rank})
    pool_rows(f"max_pool{rank}d_with_indices", rank, False, [i(*HALF[rank])], {"dilation": [1] * rank})
pool_rows("avg_pool1d", 1, True, [], {"count_include_pad": True})
pool_rows("avg_pool2d", 2, True, [], {"count_include_pad": True, "divisor_override": None})
pool_rows("avg_pool3d", 3, True, [], {"count_include_pad": True, "divisor_override": None})
# A window of 3 at every second position, 1 apart: as ResNet's first pool.
rows(
    "max_pool2d",
    {"self": (1, 2, 8, 8)},
    [(1, 2, 4, 4)],
    {"kernel_size": [3], "stride": [2], "padding": 1, "dilation": 1, "ceil_mode": False},
    family="pooling",
    vector=32 * 8,
    space={"m": 32, "n": 9, "window": 9, "stride": 2, "images": 2},
)
for rank in (2, 3):
    m = math.prod(HALF[rank])
    rows(
        f"fractional_max_pool{rank}d",
        {"self": SOURCES[rank], "random_samples": (1, 2, rank)},
        [HALF[rank], i(*HALF[rank])],
        {"kernel_size": [2] * rank, "output_size": list(HALF[rank][2:])},
        family="pooling",
        vector=m * (2**rank - 1),
        space={"m": m, "n": 2**rank, "window": 2**rank, "stride": 2, "images": 2},
    )


def adaptive_rows(
    ops: str, average: bool, source: Operand, output: Operand, adds: int, window: int, stride: int, more: list[Operand]
) -> None:
    m = math.prod(output)
    rows(
        ops,
        {"self": source},
        [output, *more],
        {"output_size": list(output[2:])},
        family="pooling",
        vector=adds - m,
        special=m if average else 0,
        space={"m": m, "n": window, "window": window, "stride": stride, "images": 2},
    )


AVERAGES = {
    1: "adaptive_avg_pool1d",
    2: "adaptive_avg_pool2d _adaptive_avg_pool2d mkldnn_adaptive_avg_pool2d",
    3: "adaptive_avg_pool3d _adaptive_avg_pool3d",
}
for rank, names in AVERAGES.items():
    adaptive_rows(names, True, SOURCES[rank], HALF[rank], math.prod(SOURCES[rank]), 2**rank, 2, [])
    adaptive_rows(
        f"adaptive_max_pool{rank}d", False, SOURCES[rank], HALF[rank], math.prod(SOURCES[rank]), 2**rank, 2, [i(*HALF[rank])]
    )
# 7 positions to 3: windows 0..3, 2..5, 4..7 of three each, two of which overlap.
adaptive_rows("adaptive_avg_pool1d", True, (1, 2, 7), (1, 2, 3), 2 * 9, 3, 2, [])
adaptive_rows("adaptive_avg_pool2d", True, (1, 2, 8, 6), (1, 2, 1, 1), 2 * 48, 48, 8, [])

# Reductions of 2 x 3 x 4 along the last dimension -----------------------------------------------------------------------


def fold_rows(
    ops: str, vector: float, special: float = 0, out: Operand = (2, 3), attributes: dict[str, Attribute] | None = None, **more
) -> None:
    rows(
        ops,
        {"self": more.pop("operand", R)},
        [out, *more.pop("outputs", [])],
        attributes,
        family="pooling",
        vector=vector,
        special=special,
        space=SIX_ROWS,
    )


ALONG = {"dim": [-1], "keepdim": False}
fold_rows("sum nansum amax amin", 24, attributes=ALONG)
fold_rows("prod", 24, attributes={"dim": -1, "keepdim": False})
fold_rows("max min", 24, outputs=[i(2, 3)], attributes={"dim": -1, "keepdim": False})
fold_rows("argmax argmin", 24, out=i(2, 3), attributes={"dim": -1, "keepdim": False})
fold_rows("any all", 24, out=b(2, 3), operand=b(2, 3, 4), attributes={"dim": -1, "keepdim": False})
fold_rows("cumsum cumprod", 24, out=R, attributes={"dim": -1, "dtype": None})
fold_rows("cummax cummin", 24, out=R, outputs=[i(2, 3, 4)], attributes={"dim": -1})
fold_rows("count_nonzero", 48, out=i(2, 3), attributes={"dim": -1})
fold_rows("aminmax", 48, outputs=[(2, 3)], attributes={"dim": -1, "keepdim": False})
fold_rows("mean", 24, 6, attributes=ALONG)
fold_rows("nanmean", 72, 6, attributes=ALONG)
fold_rows("var", 96, 12, attributes={**ALONG, "correction": 1})
fold_rows("var_mean", 96, 12, outputs=[(2, 3)], attributes={**ALONG, "correction": 1})
fold_rows("std", 96, 18, attributes={**ALONG, "correction": 1})
fold_rows("std_mean", 96, 18, outputs=[(2, 3)], attributes={**ALONG, "correction": 1})
fold_rows("logcumsumexp", 120, 48, out=R, attributes={"dim": -1})
fold_rows("linalg_vector_norm", 48, 6, attributes={"ord": 2, **ALONG})
fold_rows("linalg_vector_norm", 48, 0, attributes={"ord": 1, **ALONG})
fold_rows("linalg_vector_norm", 72, 48 + 12, attributes={"ord": 3, **ALONG})
fold_rows("linalg_norm", 48, 6, attributes={"ord": None, **ALONG})
fold_rows("norm", 48, 6, attributes={"p": 2, **ALONG})
fold_rows("frobenius_norm", 48, 6, attributes=ALONG)
fold_rows("median nanmedian mode", 3.4 * 24, outputs=[i(2, 3)], attributes={"dim": -1, "keepdim": False})
fold_rows("kthvalue", 3.4 * 24, outputs=[i(2, 3)], attributes={"k": 2, "dim": -1, "keepdim": False})
fold_rows("quantile", 3.4 * 24, attributes={"q": 0.5, "dim": -1, "keepdim": False, "interpolation": "linear"})
fold_rows("sort", 24 * 2, out=R, outputs=[i(2, 3, 4)], attributes={"dim": -1, "descending": False})
fold_rows("argsort", 24 * 2, out=i(2, 3, 4), attributes={"dim": -1, "descending": False})
fold_rows("topk", 24 * 1, out=(2, 3, 2), outputs=[i(2, 3, 2)], attributes={"k": 2, "dim": -1, "largest": True, "sorted": True})
rows("msort", {"self": (4, 6)}, [(4, 6)], family="pooling", vector=24 * 2, space=SIX_ROWS)
rows("sum", {"self": R}, [()], {"dtype": None}, family="pooling", vector=24, space={"n": 24})
rows("sum", {"self": R}, [(3,)], {"dim": [0, 2], "keepdim": False}, family="pooling", vector=24, space={"m": 3, "n": 8})
rows(
    "linalg_matrix_norm",
    {"self": R},
    [(2,)],
    {"ord": "fro", "dim": [-2, -1], "keepdim": False},
    family="pooling",
    vector=48,
    special=2,
    space={"m": 2, "n": 12},
)
rows("histc", {"self": R}, [(8,)], {"bins": 8, "min": 0, "max": 0}, family="gather", vector=72, space={"m": 24})
rows("histogram", {"self": R}, [(8,), (9,)], {"bins": 8, "density": False}, family="gather", vector=72, space={"m": 24})
rows("_histogramdd_bin_edges", {"self": R}, [(9,)], {"bins": [8]}, family="pooling", vector=48, space={"m": 24})
rows("_histogramdd_from_bin_cts", {"self": R}, [(8,)], {"bins": [8]}, family="gather", vector=72, space={"m": 24})
rows("_histogramdd_from_bin_tensors", {"self": R, "bins.0": (9,)}, [(8,)], family="gather", vector=72, space={"m": 24})
rows("nonzero_static", {"self": R}, [i(5, 3)], {"size": 5, "fill_value": -1}, family="gather", vector=24, space={"m": 24})
rows("nonzero_numpy", {"self": R}, [i(5), i(5), i(5)], family="gather", vector=24, space={"m": 24})
rows("hash_tensor", {"self": R}, [()], family="pooling", vector=24, space={"m": 1, "n": 24})
rows("_is_all_true _is_any_true", {"self": b(2, 3, 4)}, [b()], family="pooling", vector=24, space={"m": 1, "n": 24})
rows("bincount", {"self": i(24)}, [i(8)], {"minlength": 8}, family="gather", vector=24, space={"m": 24})
rows("trapezoid", {"y": R}, [(2, 3)], {"dx": 1, "dim": -1}, family="pooling", vector=72, space=SIX_ROWS)
rows("equal", {"self": R, "other": R}, [], family="pooling", vector=48, space={"n": 24})
rows("allclose", {"self": R, "other": R}, [], family="pooling", vector=7 * 24, space={"n": 24})
rows(
    "cosine_similarity",
    {"x1": (6, 4), "x2": (6, 4)},
    [(6,)],
    {"dim": 1, "eps": 1e-8},
    family="normalization",
    vector=6 * 24,
    special=18,
    space=SIX_ROWS,
)
rows(
    "pairwise_distance",
    {"x1": (6, 4), "x2": (6, 4)},
    [(6,)],
    {"p": 2.0, "eps": 1e-6, "keepdim": False},
    family="pooling",
    vector=4 * 24,
    special=6,
    space=SIX_ROWS,
)
rows("_unique2", {"self": (16,)}, [(16,), i(0), i(0)], {"sorted": True}, family="pooling", vector=16 * 4, space={"n": 16})
rows(
    "unique_dim",
    {"self": (16,)},
    [(16,), i(0), i(0)],
    {"dim": 0, "sorted": True},
    family="pooling",
    vector=16 * 4,
    space={"n": 16},
)
rows("unique_consecutive", {"self": (16,)}, [(16,), i(0), i(0)], family="pooling", vector=16, space={"n": 16})
rows(
    "searchsorted",
    {"sorted_sequence": (7,), "self": (6,)},
    [i(6)],
    {"right": False},
    family="gather",
    vector=6 * 3,
    space={"m": 6},
)
rows("bucketize", {"self": (6,), "boundaries": (7,)}, [i(6)], {"right": False}, family="gather", vector=6 * 3, space={"m": 6})

# 8 elements among 8, sorted together: 16 * (4 + 1).
rows("isin", {"elements": (8,), "test_elements": (8,)}, [b(8)], family="pooling", vector=80, space={"m": 16})
# 2 rows of 7, 3 draws each: sums and divisions, and log2 8 comparisons a draw.
rows(
    "multinomial",
    {"self": (2, 7)},
    [i(2, 3)],
    {"num_samples": 3},
    family="gather",
    vector=14 + 18,
    special=20,
    space={"m": 6, "n": 7},
)
rows(
    "segment_reduce",
    {"data": (6, 2), "lengths": i(3)},
    [(3, 2)],
    {"reduce": "mean"},
    family="pooling",
    vector=12,
    special=6,
    space={"m": 6, "n": 2},
)
rows("dist", {"self": (2, 3), "other": (2, 3)}, [()], {"p": 2}, family="pooling", vector=18, special=1, space={"n": 6})
# 4 rows make 6 pairs.
rows("pdist _pdist_forward", {"self": (4, 3)}, [(6,)], {"p": 2.0}, family="pooling", vector=54, special=6, space={"m": 6, "n": 3})
# 2 x 5 products of rows of 3, one side stretched.
rows("linalg_vecdot", {"x": (2, 1, 3), "y": (5, 3)}, [(2, 5)], {"dim": -1}, family="gemm", matrix=60, space={"batch": 10, "k": 3})
rows(
    "renorm",
    {"self": (2, 3)},
    [(2, 3)],
    {"p": 2, "dim": 0, "maxnorm": 1},
    family="normalization",
    vector=18,
    special=4,
    space={"m": 2, "n": 3},
)
NORMED = {"m": 2, "n": 12}
rows("_weight_norm", {"v": (2, 3, 4), "g": (2, 1, 1)}, [(2, 3, 4)], family="normalization", vector=72, special=4, space=NORMED)
rows(
    "_weight_norm_interface",
    {"v": (2, 3, 4), "g": (2, 1, 1)},
    [(2, 3, 4), (2, 1, 1)],
    family="normalization",
    vector=72,
    special=4,
    space=NORMED,
)
rows(
    "triplet_margin_loss",
    {"anchor": (2, 3), "positive": (2, 3), "negative": (2, 3)},
    [()],
    family="pooling",
    vector=8 * 6 + 8,
    special=6,
    space={"m": 2, "n": 3},
)
rows(
    "cosine_embedding_loss",
    {"input1": (2, 3), "input2": (2, 3), "target": (2,)},
    [()],
    family="pooling",
    vector=6 * 6 + 8,
    special=6,
    space={"m": 2, "n": 3},
)
# 4 steps of 2 sequences whose targets have 3 labels: 7 states each.
rows(
    "ctc_loss",
    {"log_probs": (4, 2, 5), "targets": i(2, 3), "input_lengths": i(2), "target_lengths": i(2)},
    [()],
    family="softmax",
    vector=7 * 56,
    special=4 * 56,
    space={"m": 8, "n": 7},
)
rows(
    "_ctc_loss",
    {"log_probs": (4, 2, 5), "targets": i(2, 3)},
    [(2,), (2, 4, 7)],
    {"input_lengths": [4, 4], "target_lengths": [3, 3]},
    family="softmax",
    vector=7 * 56,
    special=4 * 56,
    space={"m": 8, "n": 7},
)
rows("nanquantile", {"self": (2, 5)}, [(2,)], {"q": 0.5, "dim": -1}, family="pooling", vector=34, space={"m": 2, "n": 5})
# One vector against 4 of each of 2 rows: 2 x 4 results of 3 numbers.
rows(
    "cosine_similarity",
    {"x1": (2, 1, 3), "x2": (1, 4, 3)},
    [(2, 4)],
    {"dim": -1, "eps": 1e-8},
    family="normalization",
    vector=6 * 24,
    special=24,
    space={"m": 8, "n": 3},
)
# No numbers at all, in one dimension.
rows(
    "batch_norm",
    {"input": (0,), "running_mean": (0,), "running_var": (0,)},
    [(0,)],
    {"training": False},
    family="normalization",
    vector=4,
    special=1,
    space={"m": 1, "n": 0},
)
