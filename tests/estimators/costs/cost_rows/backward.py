"""Expected costs of operators of backward passes, at sizes small enough to count by hand."""

from shmoo.estimators.graph.records import TensorSpec
from tests.estimators.costs.cost_rows.build import i, rows

# Convolutions: (2, 4, 5, 5) to (2, 6, 3, 3) by 3 x 3; 2 x 9 points x 6 x 4 x 9 multiply-adds each way.
X, W, G = (2, 4, 5, 5), (6, 4, 3, 3), (2, 6, 3, 3)
ATTRIBUTES = {
    "bias_sizes": [6],
    "stride": [1, 1],
    "padding": [0, 0],
    "dilation": [1, 1],
    "transposed": False,
    "output_padding": [0, 0],
    "groups": 1,
    "output_mask": [True, True, True],
}
SPACE = {"batch": 1, "m": 18, "n": 6, "k": 36, "window": 9, "images": 2}
ONE_WAY = 2 * 18 * 6 * 36
rows(
    "convolution_backward",
    {"grad_output": G, "input": X, "weight": W},
    [X, W, (6,)],
    ATTRIBUTES,
    family="conv",
    matrix=2 * ONE_WAY,
    vector=2 * 6 * 9,
    space=SPACE,
)
# The first layer's input takes no gradient: the weight is not read.
rows(
    "convolution_backward",
    {"grad_output": G, "input": X, "weight": W},
    [W],
    {**ATTRIBUTES, "output_mask": [False, True, False]},
    family="conv",
    matrix=ONE_WAY,
    space=SPACE,
    reads={"weight": 0.0},
)
# Depthwise, 4 groups of one channel: 2 x 9 points x 4 channels x 9.
rows(
    "convolution_backward",
    {"grad_output": (2, 4, 3, 3), "input": X, "weight": (4, 1, 3, 3)},
    [X, (4, 1, 3, 3)],
    {**ATTRIBUTES, "groups": 4, "output_mask": [True, True, False]},
    family="depthwise",
    matrix=2 * 2 * 4 * 18 * 9,
    space={"batch": 4, "m": 18, "n": 1, "k": 9, "window": 9, "images": 2},
)
# Transposed, (2, 6, 3, 3) to (2, 4, 5, 5): the input's points feed the windows.
rows(
    "convolution_backward",
    {"grad_output": X, "input": G, "weight": W},
    [G, W],
    {**ATTRIBUTES, "transposed": True, "output_mask": [True, True, False]},
    family="conv_transpose",
    matrix=2 * ONE_WAY,
    space={"batch": 1, "m": 18, "n": 36, "k": 6, "window": 9, "images": 2},
)
rows(
    "linear_backward",
    {"self": (2, 5, 3), "grad_output": (2, 5, 4), "weight": (4, 3)},
    [(2, 5, 3), (4, 3), (4,)],
    {"output_mask": [True, True, True]},
    family="gemm",
    matrix=2 * 2 * 10 * 4 * 3,
    vector=40,
    space={"batch": 2, "m": 10, "n": 4, "k": 3},
)

# Attention: 6 heads of 4 queries and 5 keys, width 8 and 3: 120 scores.
Q, K, V, OUT = (2, 3, 4, 8), (2, 3, 5, 8), (2, 3, 5, 3), (2, 3, 4, 3)
HEADS = {"batch": 6, "m": 4, "n": 5, "k": 8}
rows(
    "_scaled_dot_product_flash_attention_backward _scaled_dot_product_flash_attention_for_cpu_backward "
    "_scaled_dot_product_cudnn_attention_backward _scaled_dot_product_fused_attention_overrideable_backward",
    {"grad_out": OUT, "query": Q, "key": K, "value": V, "out": OUT, "logsumexp": (2, 3, 4)},
    [Q, K, V],
    {"is_causal": False},
    family="attention",
    matrix=2 * 120 * (3 * 8 + 2 * 3),
    vector=120 * 5 + 2 * 72,
    special=120,
    space=HEADS,
)
rows(
    "_scaled_dot_product_efficient_attention_backward",
    {"grad_out_": OUT, "query": Q, "key": K, "value": V, "attn_bias": (4, 5), "out": OUT, "logsumexp": (2, 3, 4)},
    [Q, K, V],
    {"is_causal": False},
    family="attention",
    matrix=2 * 120 * (3 * 8 + 2 * 3),
    vector=120 * 6 + 2 * 72,
    special=120,
    space=HEADS,
)

# Pointwise, 12 elements.
P = (3, 4)
for name, vector, special in (
    ("threshold_backward hardtanh_backward", None, 0),
    ("hardshrink_backward", 2, 0),
    ("softshrink_backward leaky_relu_backward", 2, 0),
    ("hardsigmoid_backward", 3, 0),
    ("hardswish_backward", 5, 0),
    ("silu_backward", 7, 2),
    ("mish_backward", 8, 5),
    ("softplus_backward", 4, 2),
    ("logit_backward", 2, 1),
):
    for op in name.split():
        grad = "grad_out" if op == "hardshrink_backward" else "grad_output"
        steps = {"threshold_backward": 1, "hardtanh_backward": 2}.get(op, vector)
        rows(op, {grad: P, "self": P}, [P], family="pointwise", vector=12 * steps, special=12 * special, space={"m": 12})
rows("sigmoid_backward tanh_backward", {"grad_output": P, "output": P}, [P], family="pointwise", vector=36, space={"m": 12})
rows(
    "elu_backward",
    {"grad_output": P, "self_or_result": P},
    [P],
    family="pointwise",
    vector=48,
    special=12,
    space={"m": 12},
)
rows("rrelu_with_noise_backward", {"grad_output": P, "self": P, "noise": P}, [P], family="pointwise", vector=12, space={"m": 12})
rows(
    "_prelu_kernel_backward",
    {"grad_output": P, "self": P, "weight": P},
    [P, P],
    family="pointwise",
    vector=48,
    space={"m": 12},
)
rows(
    "log_sigmoid_backward",
    {"grad_output": P, "self": P, "buffer": P},
    [P],
    family="pointwise",
    vector=72,
    special=24,
    space={"m": 12},
)
# The gradient of both halves: 24 elements.
rows(
    "glu_backward",
    {"grad_output": P, "self": (3, 8)},
    [(3, 8)],
    {"dim": -1},
    family="pointwise",
    vector=72,
    special=24,
    space={"m": 24},
)
rows(
    "native_dropout_backward",
    {"grad_output": P, "mask": TensorSpec(P, "bool")},
    [P],
    {"scale": 2.0},
    family="pointwise",
    vector=24,
    space={"m": 12},
)
for name, vector, special in (
    ("mse_loss_backward", 3, 0),
    ("smooth_l1_loss_backward huber_loss_backward", 5, 0),
    ("binary_cross_entropy_backward", 4, 1),
):
    rows(
        name,
        {"grad_output": (), "self": P, "target": P},
        [P],
        {"reduction": 1},
        family="pointwise",
        vector=12 * vector,
        special=12 * special,
        space={"m": 12},
    )
for approximate, vector, special in (("none", 9, 2), ("tanh", 16, 1)):
    rows(
        "gelu_backward",
        {"grad_output": P, "self": P},
        [P],
        {"approximate": approximate},
        family="pointwise",
        vector=12 * vector,
        special=12 * special,
        space={"m": 12},
    )

# Softmax: 3 rows of 4. Normalization.
rows(
    "_softmax_backward_data",
    {"grad_output": P, "output": P},
    [P],
    {"dim": -1},
    family="softmax",
    vector=48,
    space={"m": 3, "n": 4},
)
rows(
    "_log_softmax_backward_data",
    {"grad_output": P, "output": P},
    [P],
    {"dim": -1},
    family="softmax",
    vector=36,
    special=12,
    space={"m": 3, "n": 4},
)
# 4 channels of 2 x 25.
CHANNELS = {"m": 4, "n": 50}
NORMED = {"input": X, "weight": (4,), "running_mean": (4,), "running_var": (4,), "save_mean": (4,)}
for train, steps in ((True, 9), (False, 5)):
    rows(
        "native_batch_norm_backward",
        {"grad_out": X, **NORMED, "save_invstd": (4,)},
        [X, (4,), (4,)],
        {"train": train, "eps": 1e-5, "output_mask": [True, True, True]},
        family="normalization",
        vector=200 * steps,
        special=8,
        space=CHANNELS,
    )
rows(
    "batch_norm_backward",
    {"grad_out": X, **NORMED, "save_var": (4,)},
    [X, (4,), (4,)],
    {"update": True, "eps": 1e-5},
    family="normalization",
    vector=1800,
    special=8,
    space=CHANNELS,
)
rows(
    "cudnn_batch_norm_backward",
    {"input": X, "grad_output": X, "weight": (4,), "save_mean": (4,), "save_var": (4,)},
    [X, (4,), (4,)],
    {"epsilon": 1e-5},
    family="normalization",
    vector=1800,
    special=8,
    space=CHANNELS,
)
ROW_STATS = {"mean": (3, 1), "rstd": (3, 1)}
rows(
    "native_layer_norm_backward",
    {"grad_out": P, "input": P, **ROW_STATS, "weight": (4,), "bias": (4,)},
    [P, (4,), (4,)],
    {"normalized_shape": [4], "output_mask": [True, True, True]},
    family="normalization",
    vector=12 * 12,
    special=6,
    space={"m": 3, "n": 4},
)
# 2 groups of 2 channels in 2 examples, without weight.
rows(
    "native_group_norm_backward",
    {"grad_out": X, "input": X, "mean": (2, 2), "rstd": (2, 2)},
    [X],
    {"N": 2, "C": 4, "HxW": 25, "group": 2, "output_mask": [True, False, False]},
    family="normalization",
    vector=200 * 9,
    special=8,
    space={"m": 4, "n": 50},
)
rows(
    "_fused_rms_norm_backward",
    {"grad_out": P, "input": P, "rstd": (3, 1), "weight": (4,)},
    [P, (4,)],
    {"normalized_shape": [4], "output_mask": [True, True]},
    family="normalization",
    vector=12 * 8,
    special=6,
    space={"m": 3, "n": 4},
)
rows(
    "_weight_norm_interface_backward",
    {"grad_w": P, "saved_v": P, "saved_g": (3, 1), "saved_norms": (3, 1)},
    [P, (3, 1)],
    {"dim": 0},
    family="normalization",
    vector=60,
    special=6,
    space={"m": 3, "n": 4},
)

# Pooling: (1, 2, 4, 4) from (1, 2, 2, 2) by 2 x 2.
BIG, SMALL = (1, 2, 4, 4), (1, 2, 2, 2)
WINDOW = {"kernel_size": [2, 2], "stride": [2, 2], "padding": [0, 0]}
rows(
    "max_pool2d_with_indices_backward",
    {"grad_output": SMALL, "self": BIG, "indices": i(*SMALL)},
    [BIG],
    {**WINDOW, "dilation": [1, 1], "ceil_mode": False},
    family="pooling",
    vector=8,
    space={"m": 32},
    reads={"self": 0.0},
)
rows(
    "adaptive_max_pool2d_backward",
    {"grad_output": SMALL, "self": BIG, "indices": i(*SMALL)},
    [BIG],
    family="pooling",
    vector=8,
    space={"m": 32},
    reads={"self": 0.0},
)
DEEP_BIG, DEEP_SMALL = (1, 2, 2, 2, 2), (1, 2, 1, 1, 1)
for op in ("max_pool3d_with_indices_backward", "adaptive_max_pool3d_backward"):
    rows(
        op,
        {"grad_output": DEEP_SMALL, "self": DEEP_BIG, "indices": i(*DEEP_SMALL)},
        [DEEP_BIG],
        family="pooling",
        vector=2,
        space={"m": 16},
        reads={"self": 0.0},
    )
rows(
    "avg_pool2d_backward",
    {"grad_output": SMALL, "self": BIG},
    [BIG],
    WINDOW,
    family="pooling",
    vector=8 * 4,
    special=8,
    space={"m": 32, "n": 4, "window": 4},
    reads={"self": 0.0},
)
rows(
    "avg_pool3d_backward",
    {"grad_output": DEEP_SMALL, "self": DEEP_BIG},
    [DEEP_BIG],
    {"kernel_size": [2, 2, 2], "stride": [2, 2, 2], "padding": [0, 0, 0]},
    family="pooling",
    vector=2 * 8,
    special=2,
    space={"m": 16, "n": 8, "window": 8},
    reads={"self": 0.0},
)
rows(
    "_adaptive_avg_pool2d_backward",
    {"grad_output": SMALL, "self": BIG},
    [BIG],
    family="pooling",
    vector=32,
    special=8,
    space={"m": 32, "n": 4, "window": 4},
    reads={"self": 0.0},
)
rows(
    "_adaptive_avg_pool3d_backward",
    {"grad_output": DEEP_SMALL, "self": DEEP_BIG},
    [DEEP_BIG],
    family="pooling",
    vector=16,
    special=2,
    space={"m": 16, "n": 8, "window": 8},
    reads={"self": 0.0},
)

# The other way round of gathers: 5 rows of 4 into a table of 10.
rows(
    "embedding_dense_backward",
    {"grad_output": (5, 4), "indices": i(5)},
    [(10, 4)],
    {"num_weights": 10, "padding_idx": -1, "scale_grad_by_freq": False},
    family="gather",
    vector=20,
    space={"m": 5, "n": 4},
)
rows(
    "_embedding_bag_dense_backward",
    {"grad": (2, 4), "indices": i(5), "offset2bag": i(5), "bag_size": i(2), "maximum_indices": i(2)},
    [(10, 4)],
    {"num_weights": 10, "scale_grad_by_freq": False, "mode": 0},
    family="gather",
    vector=20,
    space={"m": 5, "n": 4},
)
rows(
    "nll_loss_backward",
    {"grad_output": (), "self": P, "target": i(3), "total_weight": ()},
    [P],
    {"reduction": 1, "ignore_index": -100},
    family="gather",
    vector=3,
    space={"m": 3},
    reads={"self": 0.0},
)
rows(
    "nll_loss2d_backward",
    {"grad_output": (), "self": X, "target": i(2, 5, 5), "total_weight": ()},
    [X],
    {"reduction": 1, "ignore_index": -100},
    family="gather",
    vector=50,
    space={"m": 50},
    reads={"self": 0.0},
)
rows("slice_backward", {"grad_output": (2, 4)}, [P], {"input_sizes": [3, 4], "dim": 0}, family="copy", space={"m": 12})
rows("select_backward", {"grad_output": (4,)}, [P], {"input_sizes": [3, 4], "dim": 0}, family="copy", space={"m": 12})
rows("diagonal_backward", {"grad_output": (3,)}, [P], {"input_sizes": [3, 4], "offset": 0}, family="copy", space={"m": 12})
# Windows of 2 at every position of 4: 3 of them, in 3 rows.
rows(
    "unfold_backward",
    {"grad_in": (3, 3, 2)},
    [P],
    {"input_sizes": [3, 4], "dim": 1, "size": 2, "step": 1},
    family="copy",
    vector=18,
    space={"m": 12},
)
for d, inner, outer, padding in (
    (1, (1, 2, 4), (1, 2, 6), [1, 1]),
    (2, (1, 2, 4, 4), (1, 2, 4, 6), [1, 1, 0, 0]),
    (3, (1, 1, 2, 2, 4), (1, 1, 2, 2, 6), [1, 1, 0, 0, 0, 0]),
):
    size = 1
    for extent in outer:
        size *= extent
    rows(
        f"reflection_pad{d}d_backward replication_pad{d}d_backward",
        {"grad_output": outer, "self": inner},
        [inner],
        {"padding": padding},
        family="copy",
        vector=size,
        space={"m": size * 4 // 6},
        reads={"self": 0.0},
    )

# Interpolation to twice the size along each dimension: a result's gradient goes to its taps.
for ops, low, taps in (
    ("upsample_nearest1d _upsample_nearest_exact1d", (1, 2, 3), 1),
    ("upsample_nearest2d _upsample_nearest_exact2d", (1, 2, 3, 3), 1),
    ("upsample_nearest3d _upsample_nearest_exact3d", (1, 2, 3, 3, 3), 1),
    ("upsample_linear1d", (1, 2, 3), 2),
    ("upsample_bilinear2d _upsample_bilinear2d_aa", (1, 2, 3, 3), 4),
    ("upsample_trilinear3d", (1, 2, 3, 3, 3), 8),
    ("upsample_bicubic2d _upsample_bicubic2d_aa", (1, 2, 3, 3), 16),
):
    rank = len(low) - 2
    high = (1, 2, *(6,) * rank)
    rows(
        " ".join(f"{op}_backward" for op in ops.split()),
        {"grad_output": high},
        [low],
        {"output_size": [6] * rank, "input_size": list(low)},
        family="gather",
        vector=2 * 6**rank * (2 * taps if taps > 1 else 1),
        space={"m": 2 * 3**rank, "n": taps, "window": taps},
    )
# 2 channels at 2 x 2 points: 8 gradients of 4 taps, 8 numbers in the grid.
rows(
    "grid_sampler_2d_backward",
    {"grad_output": SMALL, "input": BIG, "grid": (1, 2, 2, 2)},
    [BIG, (1, 2, 2, 2)],
    {"interpolation_mode": 0, "padding_mode": 0, "align_corners": False},
    family="gather",
    vector=4 * 4 * 8 + 12 * 8,
    space={"m": 8, "n": 4, "window": 4},
)
rows(
    "grid_sampler_3d_backward",
    {"grad_output": DEEP_SMALL, "input": DEEP_BIG, "grid": (1, 1, 1, 1, 3)},
    [DEEP_BIG, (1, 1, 1, 1, 3)],
    {"interpolation_mode": 0, "padding_mode": 0, "align_corners": False},
    family="gather",
    vector=4 * 8 * 2 + 12 * 3,
    space={"m": 2, "n": 8, "window": 8},
)
