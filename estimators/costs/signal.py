"""Costs of Fourier transforms, of short-time ones, and of windows.

5 N log2 N for a complex transform of N points, half of it between real and complex (C. F. Van Loan, Computational Frameworks for
the Fast Fourier Transform, 1992, sections 1.4 and 4.3).
"""

from __future__ import annotations

import math

from shmoo.estimators.costs.base import bill, cost, first, is_complex, number, result
from shmoo.estimators.graph.records import Cost, OpCall
from shmoo.estimators.registry import aten

TO_COMPLEX = aten("fft_rfft fft_rfft2 fft_rfftn fft_ihfft fft_ihfft2 fft_ihfftn _fft_r2c")
TO_REAL = aten("fft_irfft fft_irfft2 fft_irfftn fft_hfft fft_hfft2 fft_hfftn _fft_c2r")


@cost(*aten("fft_fft fft_ifft fft_fft2 fft_ifft2 fft_fftn fft_ifftn _fft_c2c"), *TO_COMPLEX, *TO_REAL)
def fourier(call: OpCall) -> Cost:
    """Iteration space: m transforms of n points."""
    source, output = first(call).shape, result(call).shape
    dims = _transformed(call, len(output))
    lengths = {d % len(output): output[d] for d in dims}
    if call.op in TO_COMPLEX:
        # The result holds half of the spectrum: the call or the operand gives the length.
        lengths[dims[-1] % len(output)] = _asked_length(call) or source[dims[-1]]
    points = math.prod(lengths.values())
    transforms = math.prod([size for d, size in enumerate(output) if d not in lengths])
    return bill(
        call, "linalg", vector=transforms * _flops(points, call.op not in (*TO_COMPLEX, *TO_REAL)), m=transforms, n=points
    )


def _flops(points: int, complex_values: bool) -> float:
    return (5.0 if complex_values else 2.5) * points * math.log2(max(points, 1))


def _asked_length(call: OpCall) -> int:
    """The length of the last transformed dimension that the call gives, 0 for none."""
    sizes = call.attributes.get("s")
    given = sizes[-1] if isinstance(sizes, list) and sizes else call.attributes.get("n")
    return given if isinstance(given, int) and given > 0 else 0


def _transformed(call: OpCall, rank: int) -> list[int]:
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
    spectrum = result(call) if call.op == "aten.stft" else first(call)
    # (..., frequencies, frames), and a last dimension of 2 for real numbers in pairs.
    shape = spectrum.shape if is_complex(spectrum) else spectrum.shape[:-1]
    frames = math.prod(shape) // max(shape[-2], 1)
    both = is_complex(first(call)) if call.op == "aten.stft" else bool(call.attributes.get("return_complex"))
    vector = frames * (_flops(points, both) + points * (1 if call.op == "aten.stft" else 3))
    special = 0 if call.op == "aten.stft" else result(call).numel
    return bill(call, "linalg", vector=vector, special=special, m=frames, n=points)


@cost(*aten("hann_window hamming_window bartlett_window blackman_window kaiser_window"))
def window(call: OpCall) -> Cost:
    """A position, its cosine (or a like function), a scale and an offset."""
    m = result(call).numel
    return bill(call, "pointwise", vector=4 * m, special=m, m=m)
