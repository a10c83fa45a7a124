"""Costs of elementwise operators, forward and backward: activations, arithmetic, conversions, losses and random numbers.

The iteration space is m = elements of the result. Broadcast operands are read at their own size.
"""

from __future__ import annotations

from shmoo.estimators.costs.base import bill, broadcast_numel, cost, first_operand, is_complex, number, result, tensor
from shmoo.estimators.graph.records import Cost, OpCall
from shmoo.estimators.registry import aten, short_op

ONE_STEP = (
    "mul multiply neg negative abs absolute sign sgn signbit copysign positive square relu threshold floor ceil round trunc fix "
    "clamp_min clamp_max maximum minimum fmax fmin heaviside deg2rad rad2deg conj_physical where masked_fill "
    "eq ne lt le gt ge not_equal less less_equal greater greater_equal isnan isinf isfinite isposinf isneginf "
    "logical_and logical_or logical_xor logical_not bitwise_and bitwise_or bitwise_xor bitwise_not bitwise_left_shift "
    "bitwise_right_shift __and__ __or__ __xor__ __lshift__ __rshift__ outer ger kron diff nextafter ldexp gradient"
)
"""One addition, multiplication, comparison, selection, rounding or bit operation."""

ONE_EVALUATION = (
    "exp exp2 expm1 log log2 log10 log1p sqrt rsqrt sin cos tan asin acos atan arctan atan2 arctan2 sinh cosh tanh asinh acosh "
    "atanh erf erfc erfinv lgamma digamma reciprocal true_divide divide special_erf special_erfcx special_i0 special_ndtr "
    "special_log_ndtr special_entr angle i0 special_i0e special_i1 special_i1e special_bessel_j0 special_bessel_j1 "
    "special_bessel_y0 special_bessel_y1 special_modified_bessel_i0 special_modified_bessel_i1 special_modified_bessel_k0 "
    "special_modified_bessel_k1 special_scaled_modified_bessel_k0 special_scaled_modified_bessel_k1 special_spherical_bessel_j0 "
    "special_airy_ai special_erfinv special_ndtri special_psi special_gammaln special_digamma special_log1p special_expm1 "
    "special_exp2 igamma igammac special_gammainc special_gammaincc mvlgamma special_multigammaln "
    "special_zeta polygamma special_polygamma special_erfc"
)
"""One evaluation of a function for which machines have a unit or a polynomial."""

PER_ELEMENT: dict[str, tuple[int, int]] = {
    **dict.fromkeys(ONE_STEP.split(), (1, 0)),
    **dict.fromkeys(ONE_EVALUATION.split(), (0, 1)),
    # Activations. "cmp" is a comparison with its selection; products of constants are folded.
    "relu6": (2, 0),  # max(x, 0), min(x, 6)
    "hardtanh": (2, 0),  # max, min
    "leaky_relu": (2, 0),  # cmp, slope * x
    "prelu": (2, 0),  # cmp, weight * x
    "_prelu_kernel": (2, 0),
    "rrelu": (2, 0),  # in eval mode a leaky relu
    "elu": (3, 1),  # cmp, exp, - 1, * alpha
    "celu": (3, 2),  # cmp, x / alpha, exp, - 1, * alpha
    "selu": (4, 1),  # cmp, exp, - 1, * alpha, * scale
    "sigmoid": (2, 2),  # 1 / (1 + exp(-x)): negate, exp, + 1, divide
    "special_expit": (2, 2),
    "silu": (2, 2),  # x / (1 + exp(-x)): negate, exp, + 1, divide
    "mish": (1, 3),  # x * tanh(log1p(exp(x)))
    "softplus": (2, 3),  # beta * x, cmp, exp, log1p, / beta
    "log_sigmoid": (4, 2),  # min(x, 0) - log1p(exp(-|x|)): min, abs, negate, exp, log1p, subtract
    "log_sigmoid_forward": (4, 2),
    "hardswish": (5, 0),  # x * min(max(x + 3, 0), 6) / 6: add, max, min, 2 multiplications
    "hardsigmoid": (4, 0),  # min(max(x + 3, 0), 6) / 6: add, max, min, multiplication
    "hardshrink": (2, 0),  # abs, cmp
    "softshrink": (3, 0),  # 2 cmp, x -+ lambda
    "glu": (3, 2),  # a * sigmoid(b)
    # Arithmetic of several steps.
    "lerp": (3, 0),  # a + w * (b - a)
    "remainder": (3, 1),  # x - y * floor(x / y)
    "fmod": (3, 1),  # x - y * trunc(x / y)
    "floor_divide": (1, 1),  # divide, floor
    "frac": (2, 0),  # x - trunc(x)
    "hypot": (3, 1),  # sqrt(x^2 + y^2)
    "cross": (3, 0),  # a1 b2 - a2 b1
    "linalg_cross": (3, 0),
    "logaddexp2": (5, 2),
    "gcd": (4, 4),  # Euclid's algorithm: a remainder and a comparison a step, a few steps
    "lcm": (6, 5),
    "logaddexp": (5, 2),  # max + log1p(exp(-|a - b|)): max, subtract, abs, negate, exp, log1p, add
    "xlogy": (1, 1),  # x * log(y)
    "special_xlog1py": (1, 1),
    "sinc": (1, 2),  # sin(pi x) / (pi x)
    "special_sinc": (1, 2),
    "logit": (1, 2),  # log(x / (1 - x))
    "nan_to_num": (3, 0),  # three cmp
    "isclose": (6, 0),  # |a - b| <= atol + rtol |b|: subtract, 2 abs, multiply, add, compare
    "fake_quantize_per_tensor_affine": (6, 0),  # / scale as a product, round, + zero, max, min, * scale
    "polar": (2, 2),  # r cos t, r sin t
    "frexp": (2, 0),  # the exponent's bits, the mantissa
    # In training a random number (counted as one evaluation), a comparison, the mask and the scale. In eval mode they are free.
    **dict.fromkeys(("dropout", "native_dropout", "alpha_dropout", "feature_dropout", "feature_alpha_dropout"), (3, 1)),
    # start + i * step
    **dict.fromkeys(("arange", "range", "linspace", "logspace", "eye", "tril_indices", "triu_indices"), (2, 0)),
    **dict.fromkeys(("fft_fftfreq", "fft_rfftfreq", "vander", "linalg_vander"), (2, 0)),
    # Backward; g is the incoming gradient.
    "threshold_backward": (1, 0),  # cmp
    "hardtanh_backward": (2, 0),  # 2 cmp
    "hardshrink_backward": (2, 0),
    "softshrink_backward": (2, 0),
    "leaky_relu_backward": (2, 0),  # cmp, slope * g
    "rrelu_with_noise_backward": (1, 0),  # noise * g
    "_prelu_kernel_backward": (4, 0),  # cmp, w * g; cmp, x * g
    "elu_backward": (4, 1),  # cmp, scale * x, exp, * factor, * g
    "hardsigmoid_backward": (3, 0),  # 2 cmp, g / 6
    "hardswish_backward": (5, 0),  # 2 cmp, x / 3 + 1/2, * g
    "sigmoid_backward": (3, 0),  # g * (1 - y) * y
    "tanh_backward": (3, 0),  # g * (1 - y * y)
    "silu_backward": (7, 2),  # s = sigmoid(x) (2, 2); g * s * (1 + x * (1 - s))
    "mish_backward": (8, 5),  # sigmoid (2, 2), exp, log1p, tanh = t; g * (t + x * s * (1 - t * t))
    "softplus_backward": (4, 2),  # z = exp(beta * x); cmp, g * z / (z + 1)
    "log_sigmoid_backward": (6, 2),  # z = exp(-|x|); 2 cmp, z / (1 + z), * g
    "glu_backward": (3, 1),  # for both halves s = sigmoid(b) (2, 2), g * s, g * a * s * (1 - s)
    "logit_backward": (2, 1),  # g / (x * (1 - x))
    "native_dropout_backward": (2, 0),  # g * mask * scale
    "mse_loss_backward": (3, 0),  # 2 / n * (x - y) * g
    "smooth_l1_loss_backward": (5, 0),  # x - y, 2 cmp, / beta, * g / n
    "huber_loss_backward": (5, 0),
    "binary_cross_entropy_backward": (4, 1),  # g * (x - y) / (x * (1 - x))
}
"""ATen name -> (vector, special) operations for one element of the first result, in the sense of `Cost`."""

PER_INPUT: dict[str, tuple[str, int, int]] = {
    "mse_loss": ("pointwise", 3, 0),  # difference, square, sum
    "l1_loss": ("pointwise", 3, 0),  # difference, size, sum
    "smooth_l1_loss": ("pointwise", 6, 0),  # the same, and a choice between two branches
    "huber_loss": ("pointwise", 6, 0),
    "kl_div": ("pointwise", 3, 1),  # log
    "binary_cross_entropy": ("pointwise", 6, 2),  # y log p + (1 - y) log(1 - p), sum
    "binary_cross_entropy_with_logits": ("pointwise", 8, 2),  # max(x, 0) - x y + log1p(exp(-|x|)), sum
    "hinge_embedding_loss": ("pointwise", 4, 0),  # margin - x, max, a choice, sum
    "margin_ranking_loss": ("pointwise", 5, 0),  # difference, * target, + margin, max, sum
    "soft_margin_loss": ("pointwise", 4, 2),  # log1p(exp(-x y)), sum
    "multi_margin_loss": ("pointwise", 4, 0),  # margin - x + x of the target, max, sum
    "poisson_nll_loss": ("pointwise", 3, 1),  # exp(x) - y x, sum
    "col2im": ("copy", 1, 0),  # each element of the columns is added to its place
    **dict.fromkeys(("nonzero", "argwhere", "nonzero_static", "nonzero_numpy"), ("gather", 1, 0)),  # cmp
    **dict.fromkeys(("max_unpool2d", "max_unpool3d"), ("gather", 0, 0)),  # each value goes to its place among zeros
    "bincount": ("gather", 1, 0),  # increment
    # Subtract, scale, increment.
    **dict.fromkeys(("histc", "histogram", "_histogramdd_from_bin_cts", "_histogramdd_from_bin_tensors"), ("gather", 3, 0)),
    "_histogramdd_bin_edges": ("pooling", 2, 0),  # min, max
}
"""ATen name -> family, vector and special operations for one element of the first operand."""


PRODUCTS = frozenset(aten("mul multiply square addcmul lerp outer ger kron cross linalg_cross pow"))
"""Operators whose product of complex numbers takes 4 multiplications and 2 additions; all others take both parts alike."""


def elementwise(call: OpCall, vector: float, special: float = 0) -> Cost:
    """A call that does `vector` and `special` operations for each element of its result, on complex numbers for each part."""
    m = result(call).numel
    if any(map(is_complex, call.inputs)):
        # A complex number by a real one is 2 products.
        multiplies_complex = sum(map(is_complex, call.inputs)) > 1 or len(call.inputs) == 1
        vector *= 6 if call.op in PRODUCTS and multiplies_complex else 2
        special *= 2
    return bill(call, "pointwise", vector=vector * m, special=special * m, m=m)


@cost(*aten(" ".join(PER_ELEMENT)))
def per_element(call: OpCall) -> Cost:
    """Vector and special operations for each element of the result."""
    vector, special = PER_ELEMENT[short_op(call.op)]
    return elementwise(call, vector, special)


@cost(*aten(" ".join(PER_INPUT)))
def per_input(call: OpCall) -> Cost:
    """Vector and special operations for each element of the first input; losses stretch it to others of its type."""
    family, vector, special = PER_INPUT[short_op(call.op)]
    operands = [spec for spec in call.inputs if spec.dtype == first_operand(call).dtype]
    count = broadcast_numel(operands) if family == "pointwise" else first_operand(call).numel
    return bill(call, family, vector=vector * count, special=special * count, m=count)


@cost(*aten("add sub rsub subtract"))
def add(call: OpCall) -> Cost:
    """A + alpha * b; one multiplication more when alpha is not 1."""
    return elementwise(call, 1 if number(call, "alpha", 1) == 1 else 2)


@cost("aten.div")
def div(call: OpCall) -> Cost:
    """A division, and its rounding where the call names a rounding mode."""
    return elementwise(call, 1 if call.attributes.get("rounding_mode") else 0, 1)


@cost("aten.pow", "aten.float_power")
def power(call: OpCall) -> Cost:
    """Small whole exponents are products, 1/2 and -1 one evaluation each; all others are exp(e * log(x))."""
    exponent = call.attributes.get("exponent")
    shortcuts = {0: (0, 0), 1: (0, 0), 2: (1, 0), 3: (2, 0), 4: (2, 0), 0.5: (0, 1), -0.5: (0, 1), -1: (0, 1), -2: (1, 1)}
    vector, special = shortcuts.get(exponent, (1, 2)) if isinstance(exponent, int | float) else (1, 2)
    return elementwise(call, vector, special)


_POLYNOMIALS = (
    *(f"{shift}chebyshev_polynomial_{kind}" for shift in ("", "shifted_") for kind in "tuvw"),
    *("hermite_polynomial_h", "hermite_polynomial_he", "laguerre_polynomial_l", "legendre_polynomial_p"),
)


@cost(*(f"aten.special_{name}" for name in _POLYNOMIALS))
def polynomial(call: OpCall) -> Cost:
    """A recurrence of two products and a difference a degree; degrees in a tensor are not known: one evaluation counts."""
    degree = call.attributes.get("n")
    return elementwise(call, 3 * max(degree, 0)) if isinstance(degree, int | float) else elementwise(call, 0, 1)


@cost("aten.clamp", "aten.clip")
def clamp(call: OpCall) -> Cost:
    """One comparison for each bound given, as a number or as a tensor."""
    bounds = [b for b in ("min", "max") if call.attributes.get(b) is not None or b in call.operands]
    return elementwise(call, len(bounds))


@cost("aten.gelu")
def gelu(call: OpCall) -> Cost:
    """0.5 x (1 + erf(x / sqrt 2)), or 0.5 x (1 + tanh(c (x + 0.044715 x^3))) (Hendrycks and Gimpel, arXiv:1606.08415)."""
    return elementwise(call, 8 if call.attributes.get("approximate") == "tanh" else 4, 1)


@cost("aten.gelu_backward")
def gelu_backward(call: OpCall) -> Cost:
    """G * (F(x) + x F'(x)): with erf 9 operations, erf and exp; with tanh 16 and tanh."""
    return elementwise(call, 16, 1) if call.attributes.get("approximate") == "tanh" else elementwise(call, 9, 2)


@cost("aten.addcmul", "aten.addcdiv")
def addcmul(call: OpCall) -> Cost:
    """Input + value * a * b, or a / b; one multiplication more when value is not 1."""
    vector, special = (2, 0) if call.op == "aten.addcmul" else (1, 1)
    return elementwise(call, vector + (number(call, "value", 1) != 1), special)


@cost(*aten("to _to_copy type_as copy"), "prims.convert_element_type")
def convert(call: OpCall) -> Cost:
    """One conversion an element; between equal types only the data moves."""
    target = result(call)
    # The second operand of `to.other` and `type_as` gives its type only, as `self` of `copy`, which is overwritten unread.
    source, unread = (tensor(call, "src"), ("self",)) if call.op == "aten.copy" else (first_operand(call), call.operands[1:])
    bytes_read = dict.fromkeys(unread, 0.0)
    if source.dtype == target.dtype:
        return bill(call, "copy", m=target.numel, bytes_read=bytes_read)
    return bill(call, "pointwise", vector=target.numel, m=target.numel, bytes_read=bytes_read)


NORMAL = aten("randn randn_like normal normal_functional exponential")
"""Random numbers through a logarithm, square root and cosine (Box and Muller 1958), counted as four evaluations."""


@cost(*aten("rand rand_like bernoulli uniform randperm random poisson geometric randint randint_like rrelu_with_noise"), *NORMAL)
def random_numbers(call: OpCall) -> Cost:
    """One random number an element, counted as one evaluation, and its scaling. A tensor to be filled is not read."""
    # `bernoulli` and `poisson` read a tensor of probabilities or rates, a randomized relu its input.
    reads = call.op in ("aten.bernoulli", "aten.poisson", "aten.rrelu_with_noise") and not call.inplace
    bytes_read = {} if reads else dict.fromkeys(call.operands, 0.0)
    m = result(call).numel
    return bill(call, "pointwise", vector=m, special=(4 if call.op in NORMAL else 1) * m, m=m, bytes_read=bytes_read)


LIBRARIES = ("torchao", "quant")
"""Namespaces under which releases of torchao register their operators."""


@cost(*(f"{library}.{name}" for library in LIBRARIES for name in ("quantize_affine", "dequantize_affine")))
@cost(*(f"quantized_decomposed.{way}quantize_per_{by}" for way in ("", "de") for by in ("tensor", "channel", "token")))
@cost("torchao.triton_quantize_nvfp4")
def quantize(call: OpCall) -> Cost:
    """Times the scale's inverse, rounded, plus the zero point, between two bounds; back: converted, minus the zero point, times
    the scale."""
    return elementwise(call, 3 if ".dequantize" in call.op else 5)
