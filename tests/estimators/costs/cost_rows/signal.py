"""Expected costs of Fourier transforms of other lengths than their operand's, of short-time ones, and of windows."""

from tests.estimators.costs.cost_rows.build import c, rows

NAMED = {"dim": -1, "norm": None}

# 2.5 * 16 * 4 = 160 for 16 real points, whether 8 or 64 are given; 5 * 16 * 4 for complex ones.
rows("fft_rfft", {"self": (3, 8)}, [c(3, 9)], {"n": 16, **NAMED}, family="linalg", vector=3 * 160, space={"m": 3, "n": 16})
rows("fft_rfft", {"self": (3, 64)}, [c(3, 9)], {"n": 16, **NAMED}, family="linalg", vector=3 * 160, space={"m": 3, "n": 16})
rows("fft_irfft", {"self": c(3, 5)}, [(3, 16)], {"n": 16, **NAMED}, family="linalg", vector=3 * 160, space={"m": 3, "n": 16})
rows("fft_fft", {"self": c(3, 64)}, [c(3, 16)], {"n": 16, **NAMED}, family="linalg", vector=3 * 320, space={"m": 3, "n": 16})
PLANE = {"s": [4, 4], "dim": [-2, -1], "norm": None}
rows("fft_rfft2 fft_ihfft2", {"self": (3, 8, 8)}, [c(3, 4, 3)], PLANE, family="linalg", vector=480, space={"m": 3, "n": 16})
rows("fft_irfft2 fft_hfft2", {"self": c(3, 8, 8)}, [(3, 4, 4)], PLANE, family="linalg", vector=480, space={"m": 3, "n": 16})
LAST = {"s": [16], "dim": None, "norm": None}
rows("fft_rfftn fft_ihfftn", {"self": (3, 8)}, [c(3, 9)], LAST, family="linalg", vector=480, space={"m": 3, "n": 16})
rows("fft_hfftn", {"self": c(3, 8)}, [(3, 16)], LAST, family="linalg", vector=480, space={"m": 3, "n": 16})
# Two signals of 5 frames, 16 points each: the transform and a product with the window; back, the overlaps too.
FRAMES = {"m": 10, "n": 16}
rows(
    "stft",
    {"self": (2, 32), "window": (16,)},
    [c(2, 9, 5)],
    {"n_fft": 16, "hop_length": 8, "onesided": True, "return_complex": True},
    family="linalg",
    vector=10 * (160 + 16),
    space=FRAMES,
)
rows(
    "istft",
    {"self": c(2, 9, 5), "window": (16,)},
    [(2, 32)],
    {"n_fft": 16, "hop_length": 8, "onesided": True, "return_complex": False},
    family="linalg",
    vector=10 * (160 + 48),
    special=64,
    space=FRAMES,
)
rows(
    "hann_window hamming_window bartlett_window blackman_window kaiser_window",
    {},
    [(8,)],
    {"window_length": 8},
    family="pointwise",
    vector=32,
    special=8,
    space={"m": 8},
)
