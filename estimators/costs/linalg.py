"""Costs of dense linear algebra, from closed forms, and of Fourier transforms.

Flop counts: G. H. Golub and C. F. Van Loan, Matrix Computations, 4th edition, 2013 (GVL), sections 3.1 (triangular systems), 3.2
(LU), 4.2 (Cholesky), 5.2 (QR), 8.3 (symmetric eigenproblem), 8.6 (SVD); leading terms, one flop for each addition or
multiplication, which come in pairs and so are `matrix_flops`. Matrices may be batched: (..., m, n).

A complex Fourier transform of N points takes 5 N log2 N flops, one between real and complex numbers half of it (C. F. Van Loan,
Computational Frameworks for the Fast Fourier Transform, 1992, sections 1.4 and 4.3).
"""

from __future__ import annotations

import math
from collections.abc import Callable

from shmoo.estimators.costs.base import bill, cost, first_operand, is_complex, number, result, tensor
from shmoo.estimators.graph.records import Cost, OpCall
from shmoo.estimators.registry import aten

TO_COMPLEX = aten("fft_rfft fft_rfft2 fft_rfftn fft_ihfft fft_ihfft2 fft_ihfftn _fft_r2c")
TO_REAL = aten("fft_irfft fft_irfft2 fft_irfftn fft_hfft fft_hfft2 fft_hfftn _fft_c2r")


def lu_flops(m: int, n: int) -> float:
    """LU of (m, n) with partial pivoting: 2 n^3 / 3 when square (GVL 3.2, 3.4)."""
    long, short = max(m, n), min(m, n)
    return short**2 * (long - short / 3)


def qr_flops(m: int, n: int) -> float:
    """Householder QR of (m, n), Q kept as reflections: 2 n^2 (m - n / 3) for m >= n (GVL 5.2.2)."""
    long, short = max(m, n), min(m, n)
    return 2 * short**2 * (long - short / 3)


def decompose(call: OpCall, flops: float, special: float = 0.0) -> Cost:
    """A call that does `flops` for each matrix of its first operand. Iteration space: batch x (m, n), k = min(m, n)."""
    *batch, m, n = first_operand(call).shape
    count = math.prod(batch)
    return bill(call, "linalg", matrix=count * flops, special=count * special, batch=count, m=m, n=n, k=min(m, n))


@cost(*aten("linalg_lu linalg_lu_factor linalg_lu_factor_ex _lu_with_info"))
@cost(*aten("linalg_det _linalg_det linalg_slogdet _linalg_slogdet det slogdet logdet"))
def lu(call: OpCall) -> Cost:
    """LU, and a reciprocal for each pivot; the product of the diagonal, which is the determinant, is of lower order."""
    m, n = first_operand(call).shape[-2:]
    return decompose(call, lu_flops(m, n), special=min(m, n))


@cost(*aten("linalg_qr qr geqrf"))
def qr(call: OpCall) -> Cost:
    """Householder QR; `geqrf` keeps Q as reflections. Forming the thin Q costs as much again, the full Q
    4 (m^2 n - m n^2 + n^3 / 3) (GVL 5.2.2)."""
    m, n = first_operand(call).shape[-2:]
    rank, reflections = min(m, n), qr_flops(m, n)
    mode = "r" if call.op == "aten.geqrf" else str(call.attributes.get("mode", "reduced"))
    full_q = 4 * (m * m * rank - m * rank**2 + rank**3 / 3)
    return decompose(call, reflections + {"r": 0.0, "reduced": reflections}.get(mode, full_q), special=2 * rank)


SQUARE: dict[str, tuple[Callable[[int], float], int]] = {
    # Cholesky (GVL 4.2.5), and a root and a reciprocal for each column.
    **dict.fromkeys(aten("linalg_cholesky linalg_cholesky_ex cholesky"), (lambda n: n**3 / 3, 2)),
    # LU and n right-hand sides, the zeros of the unit vectors skipped (GVL 3.4, Higham 2002, section 14.3).
    **dict.fromkeys(aten("linalg_inv linalg_inv_ex inverse"), (lambda n: 2 * n**3, 1)),
    "aten.cholesky_inverse": (lambda n: 2 * n**3 / 3, 1),  # the inverse from a Cholesky factor
    # The factors of an indefinite matrix (GVL 4.4).
    **dict.fromkeys(aten("linalg_ldl_factor linalg_ldl_factor_ex"), (lambda n: n**3 / 3, 1)),
    # Unsymmetric QR, with vectors and for values alone (GVL 7.5.6).
    "aten.linalg_eig": (lambda n: 25 * n**3, 0),
    **dict.fromkeys(aten("_linalg_eigvals linalg_eigvals"), (lambda n: 10 * n**3, 0)),
}
"""Operator -> flops for a square matrix of n rows, and special operations for a column."""


@cost(*SQUARE)
def square(call: OpCall) -> Cost:
    """A factorization of square matrices, or their inverses."""
    flops, special = SQUARE[call.op]
    n = first_operand(call).shape[-1]
    return decompose(call, flops(n), special=special * n)


@cost("aten.linalg_solve", "aten.linalg_solve_ex", "aten._linalg_solve_ex")
def solve(call: OpCall) -> Cost:
    """LU of each matrix and, for each right-hand side, two triangular systems of n^2.

    Iteration space: elimination of the matrix with its right-hand sides appended.
    """
    *batch, n, _ = tensor(call, "A").shape
    # Columns follow from the result's size: a vector is one column.
    count, columns = math.prod(batch), result(call).numel // max(n, 1)
    flops = count * lu_flops(n, n) + 2.0 * n * n * columns
    extra_columns = math.ceil(columns / max(count, 1))
    return bill(call, "linalg", matrix=flops, special=count * n, batch=count, m=n, n=n + extra_columns, k=n)


@cost(*aten("linalg_solve_triangular triangular_solve linalg_lu_solve cholesky_solve linalg_ldl_solve"))
def triangular_solve(call: OpCall) -> Cost:
    """n^2 for each right-hand side and triangle (GVL 3.1); an LU, LDL or Cholesky factor has two."""
    names = {"aten.linalg_solve_triangular": "self", "aten.triangular_solve": "A", "aten.cholesky_solve": "input2"}
    names |= {"aten.linalg_lu_solve": "LU", "aten.linalg_ldl_solve": "LD"}
    triangles = 1 if "triangular" in call.op else 2
    *batch, n, _ = tensor(call, names[call.op]).shape
    count, columns = math.prod(batch), result(call).numel // max(n, 1)
    per_batch = math.ceil(columns / max(count, 1))
    return bill(
        call, "linalg", matrix=triangles * float(n) * n * columns, special=n * columns, batch=count, m=n, n=per_batch, k=n
    )


def svd_flops(m: int, n: int, with_vectors: bool) -> float:
    """Golub-Reinsch: values alone 4 m n^2 - 4 n^3 / 3; with thin U and V 14 m n^2 + 8 n^3 (GVL figure 8.6.1)."""
    long, short = max(m, n), min(m, n)
    return 14 * long * short**2 + 8 * short**3 if with_vectors else 4 * long * short**2 - 4 * short**3 / 3


@cost("aten.linalg_svd", "aten._linalg_svd", "aten.svd", "aten.linalg_svdvals")
def svd(call: OpCall) -> Cost:
    """Singular values, and their vectors where the call asks for them."""
    m, n = first_operand(call).shape[-2:]
    return decompose(call, svd_flops(m, n, call.op != "aten.linalg_svdvals" and bool(call.attributes.get("compute_uv", True))))


@cost("aten.linalg_eigh", "aten._linalg_eigh", "aten.linalg_eigvalsh")
def eigh(call: OpCall) -> Cost:
    """Symmetric QR: values alone 4 n^3 / 3, with vectors 9 n^3 (GVL 8.3.3)."""
    n = first_operand(call).shape[-1]
    with_vectors = call.op != "aten.linalg_eigvalsh" and call.attributes.get("compute_v", True)
    return decompose(call, 9 * n**3 if with_vectors else 4 * n**3 / 3)


@cost(*aten("linalg_pinv pinverse linalg_cond linalg_matrix_rank"))
def through_svd(call: OpCall) -> Cost:
    """Singular values; the pseudo-inverse also takes their vectors, and multiplies them."""
    m, n = first_operand(call).shape[-2:]
    inverts = call.op in ("aten.linalg_pinv", "aten.pinverse")
    flops = svd_flops(m, n, inverts) + (2 * m * n * min(m, n) if inverts else 0)
    return decompose(call, flops, special=min(m, n))


@cost("aten.linalg_lstsq")
def least_squares(call: OpCall) -> Cost:
    """QR and, for each right-hand side, the reflections and a triangular system: 4 m n - n^2 (GVL 5.3.3)."""
    m, n = first_operand(call).shape[-2:]
    columns = tensor(call, "b").shape[-1] if len(tensor(call, "b").shape) > 1 else 1
    return decompose(call, qr_flops(m, n) + columns * max(4 * m * n - n * n, 0), special=2 * min(m, n))


@cost(*aten("linalg_householder_product orgqr"))
def householder_product(call: OpCall) -> Cost:
    """Forming the thin Q of reflections costs as much as making them."""
    return decompose(call, qr_flops(*first_operand(call).shape[-2:]))


@cost("aten.ormqr")
def apply_reflections(call: OpCall) -> Cost:
    """A product with the Q of k reflections of length m, for n columns: 2 n k (2 m - k) (GVL 5.1.6)."""
    *batch, m, k = first_operand(call).shape
    count, n = math.prod(batch), result(call).numel // max(math.prod(batch) * m, 1)
    return bill(call, "linalg", matrix=count * 2.0 * n * k * (2 * m - k), batch=count, m=m, n=n, k=k)


@cost(*aten("linalg_matrix_power matrix_power linalg_matrix_exp matrix_exp"))
def matrix_function(call: OpCall) -> Cost:
    """Products of n by n: a power by repeated squaring; the exponential in five (P. Bader, S. Blanes and F. Casas, Computing the
    matrix exponential with an optimized Taylor polynomial approximation, 2019), its squarings of large norms aside."""
    n = first_operand(call).shape[-1]
    power = abs(int(number(call, "n", 1)))
    products = 5 if "exp" in call.op else max(power.bit_length() - 1, 0) + max(power.bit_count() - 1, 0)
    return decompose(call, products * 2.0 * n**3)


@cost("aten.linalg_tensorinv", "aten.linalg_tensorsolve")
def tensor_system(call: OpCall) -> Cost:
    """A square matrix whose rows and columns are several dimensions: inverted, or one system solved."""
    n = math.isqrt(first_operand(call).numel)
    flops = 2.0 * n**3 if call.op.endswith("inv") else lu_flops(n, n) + 2.0 * n * n
    return bill(call, "linalg", matrix=flops, special=n, m=n, n=n, k=n)


@cost("aten.trace")
def trace(call: OpCall) -> Cost:
    """The sum of the diagonal."""
    source = first_operand(call)
    m = min(source.shape)
    return bill(call, "pooling", vector=m, n=m, bytes_read={call.operands[0]: m * source.nbytes / max(source.numel, 1)})


@cost("aten.cov", "aten.corrcoef")
def covariance(call: OpCall) -> Cost:
    """Rows minus their mean, and the products of all pairs; correlations are divided by both deviations."""
    shape = first_operand(call).shape
    m, n = (shape[0], shape[1]) if len(shape) > 1 else (1, math.prod(shape))
    special = m + (2 * m * m if call.op.endswith("coef") else m * m)
    return bill(call, "gemm", matrix=2 * m * m * n, vector=2 * m * n, special=special, m=m, n=m, k=n)


@cost(*aten("fft_fft fft_ifft fft_fft2 fft_ifft2 fft_fftn fft_ifftn _fft_c2c"), *TO_COMPLEX, *TO_REAL)
def fourier(call: OpCall) -> Cost:
    """Iteration space: m transforms of n points."""
    source, output = first_operand(call).shape, result(call).shape
    dims = _transform_dims(call, len(output))
    lengths = {d % len(output): output[d] for d in dims}
    if call.op in TO_COMPLEX:
        # The result holds half of the spectrum: the call or the operand gives the length.
        lengths[dims[-1] % len(output)] = _requested_length(call) or source[dims[-1]]
    points = math.prod(lengths.values())
    transforms = math.prod([size for d, size in enumerate(output) if d not in lengths])
    return bill(
        call, "linalg", vector=transforms * _fft_flops(points, call.op not in (*TO_COMPLEX, *TO_REAL)), m=transforms, n=points
    )


def _fft_flops(points: int, complex_values: bool) -> float:
    return (5.0 if complex_values else 2.5) * points * math.log2(max(points, 1))


def _requested_length(call: OpCall) -> int:
    """The length of the last transformed dimension that the call gives, 0 for none."""
    sizes = call.attributes.get("s")
    length = sizes[-1] if isinstance(sizes, list) and sizes else call.attributes.get("n")
    return length if isinstance(length, int) and length > 0 else 0


def _transform_dims(call: OpCall, rank: int) -> list[int]:
    """The dimensions a Fourier transform runs over."""
    dims = call.attributes.get("dim")
    if isinstance(dims, list):
        return [d for d in dims if isinstance(d, int)]
    if call.op.endswith("n"):
        sizes = call.attributes.get("s")
        return list(range(-len(sizes), 0)) if isinstance(sizes, list) and sizes else list(range(rank))
    return [-2, -1] if call.op.endswith("2") else [int(number(call, "dim", -1))]


@cost("aten.stft", "aten.istft")
def short_time(call: OpCall) -> Cost:
    """A transform of `n_fft` points for each frame, half as much for real signals, and a product with the window; the way back
    also adds what overlaps and divides by the window's energy."""
    points = int(number(call, "n_fft", 1))
    spectrum = result(call) if call.op == "aten.stft" else first_operand(call)
    # (..., frequencies, frames), and a last dimension of 2 for real numbers in pairs.
    shape = spectrum.shape if is_complex(spectrum) else spectrum.shape[:-1]
    frames = math.prod(shape) // max(shape[-2], 1)
    is_two_sided = is_complex(first_operand(call)) if call.op == "aten.stft" else bool(call.attributes.get("return_complex"))
    vector = frames * (_fft_flops(points, is_two_sided) + points * (1 if call.op == "aten.stft" else 3))
    special = 0 if call.op == "aten.stft" else result(call).numel
    return bill(call, "linalg", vector=vector, special=special, m=frames, n=points)


@cost(*aten("hann_window hamming_window bartlett_window blackman_window kaiser_window"))
def window(call: OpCall) -> Cost:
    """A position, its cosine (or a like function), a scale and an offset."""
    m = result(call).numel
    return bill(call, "pointwise", vector=4 * m, special=m, m=m)
