"""Costs of elementwise operators: activations, arithmetic, comparisons, conversions, dropout and random numbers.

The iteration space is m = elements of the result. Broadcast operands are read at their own size.
"""

from __future__ import annotations

from shmoo.estimators.costs.base import bill, cost, first, number, result
from shmoo.estimators.records import Cost, OpCall

ONE_STEP = (
    "mul multiply neg negative abs absolute sign sgn signbit copysign positive square relu threshold floor ceil round trunc fix "
    "clamp_min clamp_max maximum minimum fmax fmin heaviside deg2rad rad2deg conj_physical where masked_fill "
    "eq ne lt le gt ge not_equal less less_equal greater greater_equal isnan isinf isfinite isposinf isneginf "
    "logical_and logical_or logical_xor logical_not bitwise_and bitwise_or bitwise_xor bitwise_not bitwise_left_shift "
    "bitwise_right_shift __and__ __or__ __xor__ __lshift__ __rshift__"
)
"""One addition, multiplication, comparison, selection, rounding or bit operation."""

ONE_EVALUATION = (
    "exp exp2 expm1 log log2 log10 log1p sqrt rsqrt sin cos tan asin acos atan arctan atan2 arctan2 sinh cosh tanh asinh acosh "
    "atanh erf erfc erfinv lgamma digamma reciprocal true_divide divide special_erf special_erfcx special_i0 special_ndtr "
    "special_log_ndtr special_entr angle"
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
}
"""ATen name -> (vector, special) operations for one element of the result, in the sense of `Cost`."""


def elementwise(call: OpCall, vector: float, special: float = 0) -> Cost:
    """A call that does `vector` and `special` operations for each element of its result."""
    m = result(call).numel
    return bill(call, "pointwise", vector=vector * m, special=special * m, m=m)


@cost(*(f"aten.{name}" for name in PER_ELEMENT))
def per_element(call: OpCall) -> Cost:
    vector, special = PER_ELEMENT[call.op.removeprefix("aten.")]
    return elementwise(call, vector, special)


@cost("aten.add", "aten.sub", "aten.rsub", "aten.subtract")
def add(call: OpCall) -> Cost:
    """a + alpha * b; one multiplication more when alpha is not 1."""
    return elementwise(call, 1 if number(call, "alpha", 1) == 1 else 2)


@cost("aten.div")
def div(call: OpCall) -> Cost:
    """A division, and its rounding where asked for."""
    return elementwise(call, 1 if call.attributes.get("rounding_mode") else 0, 1)


@cost("aten.pow", "aten.float_power")
def power(call: OpCall) -> Cost:
    """Small whole exponents are products, 1/2 and -1 one evaluation each; all others are exp(e * log(x))."""
    exponent = call.attributes.get("exponent")
    known = {0: (0, 0), 1: (0, 0), 2: (1, 0), 3: (2, 0), 4: (2, 0), 0.5: (0, 1), -0.5: (0, 1), -1: (0, 1), -2: (1, 1)}
    vector, special = known.get(exponent, (1, 2)) if isinstance(exponent, int | float) else (1, 2)
    return elementwise(call, vector, special)


@cost("aten.clamp", "aten.clip")
def clamp(call: OpCall) -> Cost:
    """One comparison for each bound given, as a number or as a tensor."""
    bounds = [b for b in ("min", "max") if call.attributes.get(b) is not None or b in call.operands]
    return elementwise(call, len(bounds))


@cost("aten.gelu")
def gelu(call: OpCall) -> Cost:
    """0.5 x (1 + erf(x / sqrt 2)), or 0.5 x (1 + tanh(c (x + 0.044715 x^3))) (Hendrycks and Gimpel, arXiv:1606.08415)."""
    if call.attributes.get("approximate") == "tanh":
        return elementwise(call, 8, 1)
    return elementwise(call, 4, 1)


@cost("aten.addcmul")
def addcmul(call: OpCall) -> Cost:
    return elementwise(call, 2 if number(call, "value", 1) == 1 else 3)


@cost("aten.addcdiv")
def addcdiv(call: OpCall) -> Cost:
    return elementwise(call, 1 if number(call, "value", 1) == 1 else 2, 1)


@cost(
    "aten.to",
    "aten._to_copy",
    "aten.type_as",
    "prims.convert_element_type",
)
def convert(call: OpCall) -> Cost:
    """One conversion an element; between equal types only the data moves."""
    source, target = first(call), result(call)
    # Of `to.other` and `type_as` the second operand gives its type only.
    touched = dict.fromkeys(call.operands[1:], 0.0)
    if source.dtype == target.dtype:
        return bill(call, "copy", m=target.numel, touched=touched)
    return bill(call, "pointwise", vector=target.numel, m=target.numel, touched=touched)


@cost("aten.dropout", "aten.native_dropout", "aten.alpha_dropout", "aten.feature_dropout", "aten.feature_alpha_dropout")
def dropout(call: OpCall) -> Cost:
    """In training: a random number (counted as one evaluation), a comparison, the mask and the scale. In eval it is free."""
    return elementwise(call, 3, 1)


@cost(
    "aten.rand", "aten.rand_like", "aten.bernoulli", "aten.uniform", "aten.randint", "aten.randint_like", "aten.rrelu_with_noise"
)
def uniform_numbers(call: OpCall) -> Cost:
    """One random number an element, counted as one evaluation, and its scaling. A tensor to be filled is not read."""
    # A probability to compare with is read: the tensor of `bernoulli`, the input of a randomised relu.
    reads = call.op in ("aten.bernoulli", "aten.rrelu_with_noise") and not call.inplace
    touched = {} if reads else dict.fromkeys(call.operands, 0.0)
    m = result(call).numel
    return bill(call, "pointwise", vector=m, special=m, m=m, touched=touched)


@cost("aten.randn", "aten.randn_like", "aten.normal", "aten.normal_functional", "aten.exponential")
def normal_numbers(call: OpCall) -> Cost:
    """A random number through its logarithm, square root and cosine (Box and Muller 1958), counted as four evaluations."""
    m = result(call).numel
    return bill(call, "pointwise", vector=m, special=4 * m, m=m, touched=dict.fromkeys(call.operands, 0.0))


@cost("aten.arange", "aten.linspace", "aten.logspace", "aten.eye", "aten.tril_indices", "aten.triu_indices")
def sequence(call: OpCall) -> Cost:
    """start + i * step."""
    return elementwise(call, 2)


@cost("aten.mse_loss", "aten.l1_loss", "aten.smooth_l1_loss", "aten.huber_loss", "aten.kl_div")
def loss(call: OpCall) -> Cost:
    """A difference, its size and the sum; the smooth ones also choose between two branches; KL divergence takes a logarithm."""
    vector, special = {
        "aten.mse_loss": (3, 0),
        "aten.l1_loss": (3, 0),
        "aten.smooth_l1_loss": (6, 0),
        "aten.huber_loss": (6, 0),
        "aten.kl_div": (3, 1),
    }[call.op]
    count = first(call).numel
    return bill(call, "pointwise", vector=vector * count, special=special * count, m=count)


@cost("aten.binary_cross_entropy", "aten.binary_cross_entropy_with_logits")
def binary_cross_entropy(call: OpCall) -> Cost:
    """y log p + (1 - y) log(1 - p) and the sum; from logits max(x, 0) - x y + log1p(exp(-|x|))."""
    vector, special = (8, 2) if call.op.endswith("logits") else (6, 2)
    count = first(call).numel
    return bill(call, "pointwise", vector=vector * count, special=special * count, m=count)
