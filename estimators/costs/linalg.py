"""Costs of dense linear algebra and Fourier transforms, from closed forms.

Flop counts: G. H. Golub and C. F. Van Loan, Matrix Computations, 4th edition, 2013 (GVL), sections 3.1 (triangular systems), 3.2
(LU), 4.2 (Cholesky), 5.2 (QR), 8.3 (symmetric eigenproblem), 8.6 (SVD); leading terms, one flop for each addition or
multiplication, which come in pairs and so are `matrix_flops`. Matrices may be batched: (..., m, n).
"""

from __future__ import annotations

import math

from shmoo.estimators.costs.base import bill, cost, first, number, result, tensor
from shmoo.estimators.graph.records import Cost, OpCall
from shmoo.estimators.registry import aten


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
    *batch, m, n = first(call).shape
    count = math.prod(batch)
    return bill(call, "linalg", matrix=count * flops, special=count * special, batch=count, m=m, n=n, k=min(m, n))


@cost(*aten("linalg_lu linalg_lu_factor linalg_lu_factor_ex _lu_with_info"))
@cost(*aten("linalg_det _linalg_det linalg_slogdet _linalg_slogdet det slogdet logdet"))
def lu(call: OpCall) -> Cost:
    """LU, and a reciprocal for each pivot; the product of the diagonal, which is the determinant, is of lower order."""
    m, n = first(call).shape[-2:]
    return decompose(call, lu_flops(m, n), special=min(m, n))


@cost(*aten("linalg_qr qr geqrf"))
def qr(call: OpCall) -> Cost:
    """Householder QR; `geqrf` keeps Q as reflections. Forming the thin Q costs as much again, the full Q
    4 (m^2 n - m n^2 + n^3 / 3) (GVL 5.2.2)."""
    m, n = first(call).shape[-2:]
    short, reflections = min(m, n), qr_flops(m, n)
    mode = "r" if call.op == "aten.geqrf" else str(call.attributes.get("mode", "reduced"))
    full = 4 * (m * m * short - m * short**2 + short**3 / 3)
    return decompose(call, reflections + {"r": 0.0, "reduced": reflections}.get(mode, full), special=2 * short)


@cost("aten.linalg_cholesky", "aten.linalg_cholesky_ex", "aten.cholesky")
def cholesky(call: OpCall) -> Cost:
    """n^3 / 3 (GVL 4.2.5), and a root and a reciprocal for each column."""
    n = first(call).shape[-1]
    return decompose(call, n**3 / 3, special=2 * n)


@cost("aten.linalg_inv", "aten.linalg_inv_ex", "aten.inverse")
def inverse(call: OpCall) -> Cost:
    """LU and n right-hand sides, the zeros of the unit vectors skipped: 2 n^3 (GVL 3.4, Higham 2002, section 14.3)."""
    n = first(call).shape[-1]
    return decompose(call, 2 * n**3, special=n)


@cost("aten.linalg_solve", "aten.linalg_solve_ex", "aten._linalg_solve_ex")
def solve(call: OpCall) -> Cost:
    """LU of each matrix and, for each right-hand side, two triangular systems of n^2.

    Iteration space: elimination of the matrix with its right-hand sides appended.
    """
    *batch, n, _ = tensor(call, "A").shape
    # Columns follow from the result's size: a vector is one column.
    count, columns = math.prod(batch), result(call).numel // max(n, 1)
    flops = count * lu_flops(n, n) + 2.0 * n * n * columns
    appended = math.ceil(columns / max(count, 1))
    return bill(call, "linalg", matrix=flops, special=count * n, batch=count, m=n, n=n + appended, k=n)


@cost("aten.linalg_solve_triangular", "aten.triangular_solve", "aten.linalg_lu_solve", "aten.cholesky_solve")
def triangular_solve(call: OpCall) -> Cost:
    """n^2 for each right-hand side and triangle (GVL 3.1); an LU or Cholesky factor has two."""
    triangles = 2 if call.op in ("aten.linalg_lu_solve", "aten.cholesky_solve") else 1
    matrix = {"aten.linalg_solve_triangular": "self", "aten.triangular_solve": "A", "aten.cholesky_solve": "input2"}
    *batch, n, _ = tensor(call, matrix.get(call.op, "LU")).shape
    count, columns = math.prod(batch), result(call).numel // max(n, 1)
    per_batch = math.ceil(columns / max(count, 1))
    return bill(
        call, "linalg", matrix=triangles * float(n) * n * columns, special=n * columns, batch=count, m=n, n=per_batch, k=n
    )


@cost("aten.linalg_svd", "aten._linalg_svd", "aten.svd", "aten.linalg_svdvals")
def svd(call: OpCall) -> Cost:
    """Golub-Reinsch: values alone 4 m n^2 - 4 n^3 / 3; with thin U and V 14 m n^2 + 8 n^3 (GVL figure 8.6.1)."""
    m, n = first(call).shape[-2:]
    long, short = max(m, n), min(m, n)
    vectors = call.op != "aten.linalg_svdvals" and call.attributes.get("compute_uv", True)
    flops = 14 * long * short**2 + 8 * short**3 if vectors else 4 * long * short**2 - 4 * short**3 / 3
    return decompose(call, flops)


@cost("aten.linalg_eigh", "aten._linalg_eigh", "aten.linalg_eigvalsh")
def eigh(call: OpCall) -> Cost:
    """Symmetric QR: values alone 4 n^3 / 3, with vectors 9 n^3 (GVL 8.3.3)."""
    n = first(call).shape[-1]
    vectors = call.op != "aten.linalg_eigvalsh" and call.attributes.get("compute_v", True)
    return decompose(call, 9 * n**3 if vectors else 4 * n**3 / 3)


REAL_TRANSFORMS = aten("fft_rfft fft_irfft fft_rfft2 fft_irfft2 fft_rfftn fft_irfftn fft_hfft fft_ihfft _fft_r2c _fft_c2r")


@cost(*aten("fft_fft fft_ifft fft_fft2 fft_ifft2 fft_fftn fft_ifftn _fft_c2c"), *REAL_TRANSFORMS)
def fourier(call: OpCall) -> Cost:
    """5 N log2 N for a complex transform of N points, half of it between real and complex (C. F. Van Loan, Computational
    Frameworks for the Fast Fourier Transform, 1992, sections 1.4 and 4.3).

    Iteration space: m transforms of n points.
    """
    # A real transform stores half the spectrum: the longer side has all the points.
    shape = max(first(call).shape, result(call).shape, key=math.prod)
    points = math.prod([shape[d] for d in _transformed(call, len(shape))])
    transforms = math.prod(shape) // max(points, 1)
    flops = (2.5 if call.op in REAL_TRANSFORMS else 5.0) * points * math.log2(max(points, 1))
    return bill(call, "linalg", vector=transforms * flops, m=transforms, n=points)


def _transformed(call: OpCall, rank: int) -> list[int]:
    """The dimensions a Fourier transform runs over."""
    dims = call.attributes.get("dim")
    if isinstance(dims, list):
        return [d for d in dims if isinstance(d, int)]
    if call.op.endswith("n"):
        return list(range(rank))
    return [-2, -1] if call.op.endswith("2") else [int(number(call, "dim", -1))]
