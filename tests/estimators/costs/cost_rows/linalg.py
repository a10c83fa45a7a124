"""Expected costs of dense linear algebra and Fourier transforms: closed forms at 6 x 6 and 6 x 3, in batches of 2."""

from shmoo.estimators.graph.records import TensorSpec
from tests.estimators.costs.cost_rows.build import c, i, rows

A = (2, 6, 6)
TALL = (2, 6, 3)
SQUARE = {"batch": 2, "m": 6, "n": 6, "k": 6}
LU = 2 * 2 / 3 * 6**3
PIVOTS = TensorSpec((2, 6), "int32")
INFO = TensorSpec((2,), "int32")

rows("linalg_lu", {"A": A}, [A, A, A], {"pivot": True}, family="linalg", matrix=LU, special=12, space=SQUARE)
rows("linalg_lu_factor", {"A": A}, [A, PIVOTS], {"pivot": True}, family="linalg", matrix=LU, special=12, space=SQUARE)
rows(
    "linalg_lu_factor_ex",
    {"A": A},
    [A, PIVOTS, INFO],
    {"pivot": True, "check_errors": False},
    family="linalg",
    matrix=LU,
    special=12,
    space=SQUARE,
)
rows(
    "_lu_with_info",
    {"self": A},
    [A, PIVOTS, INFO],
    {"pivot": True, "check_errors": True},
    family="linalg",
    matrix=LU,
    special=12,
    space=SQUARE,
)
# 6 x 3: 3^2 (6 - 1) = 45.
rows(
    "linalg_lu_factor",
    {"A": TALL},
    [TALL, TensorSpec((2, 3), "int32")],
    {"pivot": True},
    family="linalg",
    matrix=90,
    special=6,
    space={"batch": 2, "m": 6, "n": 3, "k": 3},
)
rows("linalg_det", {"A": A}, [(2,)], family="linalg", matrix=LU, special=12, space=SQUARE)
rows("det logdet", {"self": A}, [(2,)], family="linalg", matrix=LU, special=12, space=SQUARE)
rows("_linalg_det", {"A": A}, [(2,), A, PIVOTS], family="linalg", matrix=LU, special=12, space=SQUARE)
rows("linalg_slogdet", {"A": A}, [(2,), (2,)], family="linalg", matrix=LU, special=12, space=SQUARE)
rows("slogdet", {"self": A}, [(2,), (2,)], family="linalg", matrix=LU, special=12, space=SQUARE)
rows("_linalg_slogdet", {"A": A}, [(2,), (2,), A, PIVOTS], family="linalg", matrix=LU, special=12, space=SQUARE)
# 6 x 3: 2 * 3^2 (6 - 1) = 90, and as much again to form the thin Q; the full one takes 4 (108 - 54 + 9) = 252.
THIN = {"batch": 2, "m": 6, "n": 3, "k": 3}
rows("linalg_qr", {"A": TALL}, [TALL, (2, 3, 3)], {"mode": "reduced"}, family="linalg", matrix=2 * 180, special=12, space=THIN)
rows(
    "linalg_qr",
    {"A": TALL},
    [(2, 6, 6), (2, 6, 3)],
    {"mode": "complete"},
    family="linalg",
    matrix=2 * (90 + 252),
    special=12,
    space=THIN,
)
rows("linalg_qr", {"A": TALL}, [(0,), (2, 3, 3)], {"mode": "r"}, family="linalg", matrix=2 * 90, special=12, space=THIN)
rows("qr", {"self": TALL}, [TALL, (2, 3, 3)], {"some": True}, family="linalg", matrix=2 * 180, special=12, space=THIN)
rows("geqrf", {"self": TALL}, [TALL, (2, 3)], family="linalg", matrix=2 * 90, special=12, space=THIN)
rows("linalg_cholesky cholesky", {"self": A}, [A], {"upper": False}, family="linalg", matrix=2 * 72, special=24, space=SQUARE)
rows(
    "linalg_cholesky_ex",
    {"self": A},
    [A, INFO],
    {"upper": False, "check_errors": False},
    family="linalg",
    matrix=2 * 72,
    special=24,
    space=SQUARE,
)
rows("linalg_inv", {"A": A}, [A], family="linalg", matrix=2 * 432, special=12, space=SQUARE)
rows("inverse", {"self": A}, [A], family="linalg", matrix=2 * 432, special=12, space=SQUARE)
rows("linalg_inv_ex", {"A": A}, [A, INFO], {"check_errors": False}, family="linalg", matrix=2 * 432, special=12, space=SQUARE)
# 3 right-hand sides of each matrix: two triangles of 36 each.
B = (2, 6, 3)
SOLVE = {"batch": 2, "m": 6, "n": 3, "k": 6}
BESIDE = {"batch": 2, "m": 6, "n": 6 + 3, "k": 6}
rows("linalg_solve", {"A": A, "B": B}, [B], {"left": True}, family="linalg", matrix=LU + 2 * 3 * 72, special=12, space=BESIDE)
rows(
    "linalg_solve_ex",
    {"A": A, "B": B},
    [B, INFO],
    {"left": True, "check_errors": False},
    family="linalg",
    matrix=LU + 2 * 3 * 72,
    special=12,
    space=BESIDE,
)
rows(
    "_linalg_solve_ex",
    {"A": A, "B": B},
    [B, A, PIVOTS, INFO],
    {"left": True, "check_errors": False},
    family="linalg",
    matrix=LU + 2 * 3 * 72,
    special=12,
    space=BESIDE,
)
rows(
    "linalg_solve_triangular",
    {"self": A, "B": B},
    [B],
    {"upper": False, "left": True},
    family="linalg",
    matrix=2 * 3 * 36,
    special=36,
    space=SOLVE,
)
rows(
    "triangular_solve", {"self": B, "A": A}, [B, A], {"upper": True}, family="linalg", matrix=2 * 3 * 36, special=36, space=SOLVE
)
rows(
    "linalg_lu_solve",
    {"LU": A, "pivots": PIVOTS, "B": B},
    [B],
    {"left": True, "adjoint": False},
    family="linalg",
    matrix=2 * 3 * 72,
    special=36,
    space=SOLVE,
)
rows(
    "cholesky_solve", {"self": B, "input2": A}, [B], {"upper": False}, family="linalg", matrix=2 * 3 * 72, special=36, space=SOLVE
)
rows(
    "linalg_ldl_solve",
    {"LD": A, "pivots": i(2, 6), "B": B},
    [B],
    {"hermitian": False},
    family="linalg",
    matrix=2 * 3 * 72,
    special=36,
    space=SOLVE,
)
# Q of 3 reflections of length 6 by 4 columns: 2 * 4 * 3 * (12 - 3) = 216.
rows(
    "ormqr",
    {"self": TALL, "input2": (2, 3), "input3": (2, 6, 4)},
    [(2, 6, 4)],
    {"left": True, "transpose": False},
    family="linalg",
    matrix=2 * 216,
    space={"batch": 2, "m": 6, "n": 4, "k": 3},
)
# 6 x 3: 14 * 6 * 9 + 8 * 27 = 972 with vectors, 4 * 6 * 9 - 4 * 9 = 180 without.
UDV = [TALL, (2, 3), (2, 3, 3)]
rows("linalg_svd", {"A": TALL}, UDV, {"full_matrices": False, "driver": None}, family="linalg", matrix=2 * 972, space=THIN)
rows("_linalg_svd", {"A": TALL}, UDV, {"full_matrices": False, "compute_uv": True}, family="linalg", matrix=2 * 972, space=THIN)
rows(
    "_linalg_svd",
    {"A": TALL},
    [(0,), (2, 3), (0,)],
    {"full_matrices": False, "compute_uv": False},
    family="linalg",
    matrix=2 * 180,
    space=THIN,
)
rows(
    "svd",
    {"self": TALL},
    [TALL, (2, 3), (2, 3, 3)],
    {"some": True, "compute_uv": True},
    family="linalg",
    matrix=2 * 972,
    space=THIN,
)
rows("linalg_svdvals", {"A": TALL}, [(2, 3)], {"driver": None}, family="linalg", matrix=2 * 180, space=THIN)
rows("linalg_eigh", {"self": A}, [(2, 6), A], {"UPLO": "L"}, family="linalg", matrix=2 * 9 * 216, space=SQUARE)
rows("_linalg_eigh", {"A": A}, [(2, 6), A], {"UPLO": "L", "compute_v": True}, family="linalg", matrix=2 * 9 * 216, space=SQUARE)
rows("linalg_eigvalsh", {"self": A}, [(2, 6)], {"UPLO": "L"}, family="linalg", matrix=2 * 288, space=SQUARE)

# Fourier transforms of 8 points: 5 * 8 * 3 = 120 when complex, half of it from or to real numbers.
Z = c(3, 8)
EIGHT = {"m": 3, "n": 8}
rows("fft_fft fft_ifft", {"self": Z}, [Z], {"n": None, "dim": -1, "norm": None}, family="linalg", vector=3 * 120, space=EIGHT)
rows(
    "fft_fft2 fft_ifft2",
    {"self": c(3, 4, 2)},
    [c(3, 4, 2)],
    {"s": None, "dim": [-2, -1], "norm": None},
    family="linalg",
    vector=3 * 120,
    space=EIGHT,
)
rows(
    "fft_fftn fft_ifftn",
    {"self": c(4, 2)},
    [c(4, 2)],
    {"s": None, "dim": None, "norm": None},
    family="linalg",
    vector=120,
    space={"n": 8},
)
rows(
    "_fft_c2c", {"self": Z}, [Z], {"dim": [1], "normalization": 0, "forward": True}, family="linalg", vector=3 * 120, space=EIGHT
)
rows(
    "fft_rfft fft_ihfft",
    {"self": (3, 8)},
    [c(3, 5)],
    {"n": None, "dim": -1, "norm": None},
    family="linalg",
    vector=3 * 60,
    space=EIGHT,
)
rows(
    "fft_irfft fft_hfft",
    {"self": c(3, 5)},
    [(3, 8)],
    {"n": None, "dim": -1, "norm": None},
    family="linalg",
    vector=3 * 60,
    space=EIGHT,
)
rows(
    "fft_rfft2",
    {"self": (3, 2, 4)},
    [c(3, 2, 3)],
    {"s": None, "dim": [-2, -1], "norm": None},
    family="linalg",
    vector=3 * 60,
    space=EIGHT,
)
rows(
    "fft_irfft2",
    {"self": c(3, 2, 3)},
    [(3, 2, 4)],
    {"s": None, "dim": [-2, -1], "norm": None},
    family="linalg",
    vector=3 * 60,
    space=EIGHT,
)
rows("fft_rfftn", {"self": (2, 4)}, [c(2, 3)], {"s": None, "dim": None, "norm": None}, family="linalg", vector=60, space={"n": 8})
rows(
    "fft_irfftn", {"self": c(2, 3)}, [(2, 4)], {"s": None, "dim": None, "norm": None}, family="linalg", vector=60, space={"n": 8}
)
rows(
    "_fft_r2c",
    {"self": (3, 8)},
    [c(3, 5)],
    {"dim": [1], "normalization": 0, "onesided": True},
    family="linalg",
    vector=3 * 60,
    space=EIGHT,
)
rows(
    "_fft_c2r",
    {"self": c(3, 5)},
    [(3, 8)],
    {"dim": [1], "normalization": 0, "last_dim_size": 8},
    family="linalg",
    vector=3 * 60,
    space=EIGHT,
)

# Values alone 10 n^3, with vectors 25 n^3 at n = 6.
rows("linalg_eig", {"self": A}, [c(2, 6), c(2, 6, 6)], family="linalg", matrix=2 * 25 * 216, space=SQUARE)
rows("linalg_eigvals _linalg_eigvals", {"self": A}, [c(2, 6)], family="linalg", matrix=2 * 10 * 216, space=SQUARE)
# Singular values of 6 x 3: 4 * 54 - 36 = 180; with vectors 14 * 54 + 216 = 972, and 2 * 54 for the product of a pseudo-inverse.
rows("linalg_pinv pinverse", {"self": TALL}, [(2, 3, 6)], family="linalg", matrix=2 * 1080, special=6, space=THIN)
rows("linalg_cond linalg_matrix_rank", {"self": TALL}, [(2,)], family="linalg", matrix=2 * 180, special=6, space=THIN)
# QR 90, and 4 * 18 - 9 = 63 for each of 2 right-hand sides.
rows("linalg_lstsq", {"self": TALL, "b": (2, 6, 2)}, [(2, 3, 2)], family="linalg", matrix=2 * 216, special=12, space=THIN)
rows("linalg_householder_product", {"input": TALL, "tau": (2, 3)}, [TALL], family="linalg", matrix=180, space=THIN)
rows("orgqr", {"self": TALL, "input2": (2, 3)}, [TALL], family="linalg", matrix=180, space=THIN)
# The fifth power: two squarings and one product.
rows("linalg_matrix_power matrix_power", {"self": A}, [A], {"n": 5}, family="linalg", matrix=2 * 3 * 432, space=SQUARE)
rows("linalg_matrix_exp matrix_exp", {"self": A}, [A], family="linalg", matrix=2 * 5 * 432, space=SQUARE)
ONE = {"m": 6, "n": 6, "k": 6}
rows("linalg_tensorinv", {"self": (2, 3, 6)}, [(6, 2, 3)], {"ind": 2}, family="linalg", matrix=432, special=6, space=ONE)
rows("linalg_tensorsolve", {"self": (2, 3, 6), "other": (2, 3)}, [(6,)], family="linalg", matrix=216, special=6, space=ONE)
rows("cholesky_inverse", {"self": A}, [A], family="linalg", matrix=2 * 144, special=12, space=SQUARE)
rows("linalg_ldl_factor", {"self": A}, [A, PIVOTS], family="linalg", matrix=2 * 72, special=12, space=SQUARE)
rows("linalg_ldl_factor_ex", {"self": A}, [A, PIVOTS, INFO], family="linalg", matrix=2 * 72, special=12, space=SQUARE)
rows("trace", {"self": (6, 3)}, [()], family="pooling", vector=3, space={"n": 3}, reads={"self": 12})
# 3 variables of 8 observations: 2 * 9 * 8 for the products of all pairs, each divided.
PAIRS = {"m": 3, "n": 3, "k": 8}
rows("cov", {"self": (3, 8)}, [(3, 3)], family="gemm", matrix=144, vector=48, special=12, space=PAIRS)
rows("corrcoef", {"self": (3, 8)}, [(3, 3)], family="gemm", matrix=144, vector=48, special=21, space=PAIRS)
# A complex multiply-add is 4 real ones.
rows("mm", {"self": c(2, 3), "mat2": c(3, 5)}, [c(2, 5)], family="gemm", matrix=8 * 30, space={"m": 2, "n": 5, "k": 3})
