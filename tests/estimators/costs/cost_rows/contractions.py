"""Expected costs of matrix products in all their forms."""

from shmoo.estimators.graph.records import TensorSpec
from tests.estimators.costs.cost_rows.build import c, h, i, rows

# Products: (m, k) by (k, n) = (2, 3) by (3, 5), batches of 4 -----------------------------------------------------------

MNK = {"m": 2, "n": 5, "k": 3}
rows(
    "linear",
    {"input": (4, 2, 3), "weight": (5, 3), "bias": (5,)},
    [(4, 2, 5)],
    family="gemm",
    matrix=240,
    vector=40,
    space={"m": 8, "n": 5, "k": 3},
)
rows("linear", {"input": (3,), "weight": (5, 3)}, [(5,)], family="gemm", matrix=30, space={"n": 5, "k": 3})
rows("mm", {"self": (2, 3), "mat2": (3, 5)}, [(2, 5)], family="gemm", matrix=60, space=MNK)
rows(
    "_int_mm",
    {"self": TensorSpec((32, 16), "int8"), "mat2": TensorSpec((16, 8), "int8")},
    [TensorSpec((32, 8), "int32")],
    family="gemm",
    matrix=8192,
    space={"m": 32, "n": 8, "k": 16},
)
rows("bmm", {"self": (4, 2, 3), "mat2": (4, 3, 5)}, [(4, 2, 5)], family="gemm", matrix=240, space={"batch": 4, **MNK})
rows(
    "_scaled_mm",
    {"self": TensorSpec((16, 32), "float8"), "mat2": TensorSpec((32, 16), "float8"), "scale_a": (), "scale_b": ()},
    [h(16, 16)],
    family="gemm",
    matrix=2 * 16 * 16 * 32,
    vector=256,
    space={"m": 16, "n": 16, "k": 32},
)
# A sum over each of two groups of a row is multiplied by its float32 scales, and one is added to the other.
rows(
    "_scaled_mm",
    {
        "self": TensorSpec((16, 256), "float8"),
        "mat2": TensorSpec((256, 16), "float8"),
        "scale_a": TensorSpec((16, 2), "float32"),
        "scale_b": TensorSpec((1, 2), "float32"),
    },
    [h(16, 16)],
    family="gemm",
    matrix=2 * 16 * 16 * 256,
    vector=16 * 16 * 3,
    space={"m": 16, "n": 16, "k": 256, "group": 128},
)
SCALES = {"beta": 1, "alpha": 1}
rows(
    "addmm _addmm_activation",
    {"self": (5,), "mat1": (2, 3), "mat2": (3, 5)},
    [(2, 5)],
    SCALES,
    family="gemm",
    matrix=60,
    vector=10,
    space=MNK,
)
rows(
    "addmm",
    {"self": (5,), "mat1": (2, 3), "mat2": (3, 5)},
    [(2, 5)],
    {"beta": 2, "alpha": 3},
    family="gemm",
    matrix=60,
    vector=30,
    space=MNK,
)
rows(
    "addmm",
    {"self": (5,), "mat1": (2, 3), "mat2": (3, 5)},
    [(2, 5)],
    {"beta": 0, "alpha": 1},
    family="gemm",
    matrix=60,
    space=MNK,
)
rows(
    "baddbmm",
    {"self": (2, 5), "batch1": (4, 2, 3), "batch2": (4, 3, 5)},
    [(4, 2, 5)],
    SCALES,
    family="gemm",
    matrix=240,
    vector=40,
    space={"batch": 4, **MNK},
)
rows(
    "addbmm",
    {"self": (2, 5), "batch1": (4, 2, 3), "batch2": (4, 3, 5)},
    [(2, 5)],
    SCALES,
    family="gemm",
    matrix=240,
    vector=10 + 30,
    space={"batch": 4, **MNK},
)
rows(
    "addmv",
    {"self": (2,), "mat": (2, 3), "vec": (3,)},
    [(2,)],
    SCALES,
    family="gemm",
    matrix=12,
    vector=2,
    space={"m": 2, "k": 3},
)
rows(
    "addr",
    {"self": (2, 5), "vec1": (2,), "vec2": (5,)},
    [(2, 5)],
    SCALES,
    family="gemm",
    matrix=20,
    vector=10,
    space={"m": 2, "n": 5},
)
rows("mv", {"self": (2, 3), "vec": (3,)}, [(2,)], family="gemm", matrix=12, space={"m": 2, "k": 3})
rows("dot", {"self": (3,), "tensor": (3,)}, [()], family="gemm", matrix=6, space={"k": 3})
rows("vdot", {"self": (3,), "other": (3,)}, [()], family="gemm", matrix=6, space={"k": 3})
rows("inner", {"self": (2, 3), "other": (5, 3)}, [(2, 5)], family="gemm", matrix=60, space=MNK)
rows("matmul linalg_matmul", {"self": (2, 3), "other": (3, 5)}, [(2, 5)], family="gemm", matrix=60, space=MNK)
rows("matmul", {"self": (3,), "other": (3,)}, [()], family="gemm", matrix=6, space={"k": 3})
rows("matmul", {"self": (3,), "other": (3, 5)}, [(5,)], family="gemm", matrix=30, space={"n": 5, "k": 3})
rows("matmul", {"self": (4, 2, 3), "other": (3,)}, [(4, 2)], family="gemm", matrix=48, space={"m": 8, "k": 3})
rows("matmul", {"self": (4, 2, 3), "other": (3, 5)}, [(4, 2, 5)], family="gemm", matrix=240, space={"m": 8, "n": 5, "k": 3})
rows("matmul", {"self": (3,), "other": (4, 3, 5)}, [(4, 5)], family="gemm", matrix=120, space={"batch": 4, "n": 5, "k": 3})
rows(
    "matmul",
    {"self": (7, 1, 2, 3), "other": (4, 3, 5)},
    [(7, 4, 2, 5)],
    family="gemm",
    matrix=7 * 240,
    space={"batch": 28, **MNK},
)
BHQK = {"batch": 6, "m": 4, "n": 5, "k": 8}
rows(
    "einsum",
    {"tensors.0": (2, 3, 4, 8), "tensors.1": (2, 3, 5, 8)},
    [(2, 3, 4, 5)],
    {"equation": "bhqd,bhkd->bhqk", "path": None},
    family="gemm",
    matrix=2 * 6 * 4 * 5 * 8,
    space=BHQK,
)
rows(
    "einsum",
    {"tensors.0": (2, 3, 4, 8), "tensors.1": (8, 5)},
    [(2, 3, 4, 5)],
    {"equation": "...d,dk"},
    family="gemm",
    matrix=2 * 24 * 5 * 8,
    space={"m": 24, "n": 5, "k": 8},
)
rows(
    "einsum",
    {"tensors.0": (2,), "tensors.1": (3,)},
    [(2, 3)],
    {"equation": "i,j->ij"},
    family="pointwise",
    vector=6,
    space={"m": 6},
)
rows("einsum", {"tensors.0": (2, 3)}, [(2,)], {"equation": "ij->i"}, family="pointwise", vector=4, space={"m": 2})
rows(
    "einsum",
    {"tensors.0": (2, 3), "tensors.1": (3, 5), "tensors.2": (5, 7)},
    [(2, 7)],
    {"equation": "ij,jk,kl->il"},
    family="gemm",
    matrix=2 * 2 * 3 * 5 + 2 * 2 * 5 * 7,
    space={"m": 2, "n": 7, "k": 5},
)
rows(
    "einsum",
    {"tensors.0": (2, 3, 4), "tensors.1": (3, 5)},
    [(2, 5)],
    {"equation": "ijx,jk->ik"},
    family="gemm",
    matrix=60,
    vector=2 * 3 * 4 - 6,
    space=MNK,
)
rows(
    "linalg_multi_dot",
    {"tensors.0": (2, 3), "tensors.1": (3, 5), "tensors.2": (5,)},
    [(2,)],
    family="gemm",
    matrix=30 + 12,
    space={"m": 3, "n": 1, "k": 5},
)
rows("chain_matmul", {"matrices.0": (2, 3), "matrices.1": (3, 5)}, [(2, 5)], family="gemm", matrix=60, space=MNK)
rows(
    "tensordot",
    {"self": (2, 3, 4), "other": (4, 3, 5)},
    [(2, 5)],
    {"dims_self": [1, 2], "dims_other": [1, 0]},
    family="gemm",
    matrix=2 * 2 * 12 * 5,
    space={"m": 2, "n": 5, "k": 12},
)
rows(
    "bilinear",
    {"input1": (2, 3), "input2": (2, 4), "weight": (5, 3, 4), "bias": (5,)},
    [(2, 5)],
    family="gemm",
    matrix=2 * 2 * 5 * 4 * (3 + 1),
    vector=10,
    space={"m": 2, "n": 20, "k": 3},
)
rows(
    "cdist _cdist_forward",
    {"x1": (4, 2, 3), "x2": (4, 5, 3)},
    [(4, 2, 5)],
    {"p": 2.0, "compute_mode": None},
    family="gemm",
    matrix=240,
    vector=2 * 4 * 7 * 3 + 3 * 40,
    special=40,
    space={"batch": 4, **MNK},
)
rows(
    "cdist",
    {"x1": (4, 2, 3), "x2": (4, 5, 3)},
    [(4, 2, 5)],
    {"p": 1.0, "compute_mode": None},
    family="pointwise",
    vector=3 * 40 * 3,
    space={"m": 40, "n": 3},
)
rows(
    "affine_grid_generator",
    {"theta": (2, 2, 3)},
    [(2, 4, 5, 2)],
    {"size": [2, 1, 4, 5], "align_corners": False},
    family="gemm",
    matrix=2 * 2 * 20 * 2 * 3,
    space={"batch": 2, "m": 20, "n": 2, "k": 3},
)
# 6 rows of 3 in 4 groups, each with a matrix of its own of (3, 5): 6 rows read all 4. Two rows read 2 of 4.
rows(
    "_grouped_mm",
    {"self": (6, 3), "mat2": (4, 3, 5), "offs": TensorSpec((4,), "int32")},
    [(6, 5)],
    family="gemm",
    matrix=180,
    space={"batch": 4, "m": 2, "n": 5, "k": 3},
)
rows(
    "transformers.grouped_mm_fallback",
    {"input": (2, 3), "weight": (4, 3, 5), "offs": TensorSpec((4,), "int32")},
    [(2, 5)],
    family="gemm",
    matrix=60,
    space={"batch": 2, "m": 1, "n": 5, "k": 3},
    reads={"weight": 2 * 3 * 5 * 4},
)
rows("_grouped_mm", {"self": (4, 2, 3), "mat2": (4, 3, 5)}, [(4, 2, 5)], family="gemm", matrix=240, space={"batch": 4, **MNK})
rows(
    "_grouped_mm",
    {"self": (4, 2, 3), "mat2": (3, 8), "offs": TensorSpec((4,), "int32")},
    [(2, 8)],
    family="gemm",
    matrix=96,
    space={"batch": 4, "m": 2, "n": 2, "k": 3},
)

# 3 sequences, 4 inputs, 5 hidden units: products with 4 + 5 columns; the gates as in a layer, and two biases.
CELL = {"input": (3, 4), "hx": (3, 5)}


def _cell(op: str, gates: int, vector: int, special: int, results: int = 1) -> None:
    n = 5 * gates
    state = {"hx.0": (3, 5), "hx.1": (3, 5)} if gates == 4 else {"hx": (3, 5)}
    rows(
        op,
        {"input": (3, 4), **state, "w_ih": (n, 4), "w_hh": (n, 5), "b_ih": (n,), "b_hh": (n,)},
        [(3, 5)] * results,
        family="gemm",
        matrix=2 * 3 * n * 9,
        vector=15 * (vector + gates) + 3 * 2 * n,
        special=15 * special,
        space={"m": 3, "n": n, "k": 9},
    )


_cell("lstm_cell", 4, 10, 8, results=2)
_cell("gru_cell", 3, 9, 5)
_cell("rnn_tanh_cell", 1, 0, 1)
_cell("rnn_relu_cell", 1, 1, 0)
GATES = {"input_gates": (3, 20), "hidden_gates": (3, 20), "cx": (3, 5)}
rows(
    "_thnn_fused_lstm_cell",
    GATES,
    [(3, 5), (3, 5), (3, 20)],
    family="pointwise",
    vector=15 * 18,
    special=15 * 8,
    space={"m": 15},
)
GATES = {"input_gates": (3, 15), "hidden_gates": (3, 15), "hx": (3, 5)}
rows("_thnn_fused_gru_cell", GATES, [(3, 5), (3, 25)], family="pointwise", vector=15 * 15, special=15 * 5, space={"m": 15})
# The cheap order of 2 x 9 by 9 x 9 by 9 x 1 starts on the right: 81 + 18 multiply-adds, not 162 + 18.
rows(
    "linalg_multi_dot",
    {"tensors.0": (2, 9), "tensors.1": (9, 9), "tensors.2": (9, 1)},
    [(2, 1)],
    family="gemm",
    matrix=2 * 99,
    space={"m": 9, "n": 1, "k": 9},
)
# Left to right: an outer product of 4 x 4 x 4 x 4, then as many multiply-adds. By the path: 2 products of 4 x 4 x 4.
CHAIN = {"tensors.0": (4, 4), "tensors.1": (4, 4), "tensors.2": (4, 4)}
rows(
    "einsum",
    CHAIN,
    [(4, 4)],
    {"equation": "ab,cd,bc->ad", "path": None},
    family="gemm",
    matrix=2 * 256,
    vector=256,
    space={"m": 16, "n": 1, "k": 16},
)
rows(
    "einsum",
    CHAIN,
    [(4, 4)],
    {"equation": "ab,cd,bc->ad", "path": [0, 2, 0, 1]},
    family="gemm",
    matrix=2 * 128,
    space={"m": 4, "n": 4, "k": 4},
)
# One set of points against each of 2: 2 x 3 x 4 pairs of 5 numbers.
rows(
    "cdist",
    {"x1": (1, 3, 5), "x2": (2, 4, 5)},
    [(2, 3, 4)],
    {"p": 2.0},
    family="gemm",
    matrix=240,
    vector=2 * 2 * 7 * 5 + 3 * 24,
    special=24,
    space={"batch": 2, "m": 3, "n": 4, "k": 5},
)
# 8 tokens of 16 features, 5 classes: log-softmax is 4 and 1 an element, 1 a row; with a gradient one product more.
TOKENS = {"input": (8, 16), "linear_weight": (5, 16), "target": i(8), "linear_bias": (5,)}
for form, gradients in (("", 1), ("_no_reduction", 0)):
    rows(
        f"torch_nn._linear_cross_entropy_batch_chunked{form}",
        TOKENS,
        [()],
        {"compute_input_grad": bool(gradients), "compute_linear_weight_grad": False},
        family="gemm",
        matrix=2 * 8 * 5 * 16 * (1 + gradients),
        vector=8 * (4 * 5 + 1) + 8 * 5,
        special=8 * 6,
        space={"m": 8, "n": 5, "k": 16},
    )
rows(
    "_scaled_mm_v2",
    {"self": TensorSpec((16, 32), "float8"), "mat2": TensorSpec((32, 16), "float8"), "scale_a.0": (), "scale_b.0": ()},
    [h(16, 16)],
    family="gemm",
    matrix=2 * 16 * 16 * 32,
    vector=256,
    space={"m": 16, "n": 16, "k": 32},
)
# An addition of complex numbers is 2 operations.
rows(
    "linear",
    {"input": c(4, 8), "weight": c(3, 8), "bias": c(3)},
    [c(4, 3)],
    family="gemm",
    matrix=8 * 4 * 3 * 8,
    vector=2 * 12,
    space={"m": 4, "n": 3, "k": 8},
)
