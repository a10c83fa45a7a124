"""Expected costs of elementwise operators on 2 x 3 elements."""

from shmoo.estimators.graph.records import Attribute
from tests.estimators.costs.cost_rows.build import Operand, b, c, h, i, rows

X = (2, 3)


def unary(ops: str, vector: int, special: int, out: Operand = X, attributes: dict[str, Attribute] | None = None) -> None:
    rows(ops, {"self": X}, [out], attributes, family="pointwise", vector=6 * vector, special=6 * special, space={"m": 6})


def binary(
    ops: str, vector: int, special: int, out: Operand = X, other: Operand = (3,), operand: Operand = X, **attributes
) -> None:
    rows(
        ops,
        {"self": operand, "other": other},
        [out],
        attributes,
        family="pointwise",
        vector=6 * vector,
        special=6 * special,
        space={"m": 6},
    )


unary("neg negative abs absolute sign sgn positive square relu floor ceil round trunc fix deg2rad rad2deg conj_physical", 1, 0)
unary("signbit isnan isinf isfinite isposinf isneginf logical_not", 1, 0, out=b(2, 3))
unary("exp exp2 expm1 log log2 log10 log1p sqrt rsqrt sin cos tan asin acos atan arctan sinh cosh tanh asinh acosh atanh", 0, 1)
unary(
    "erf erfc erfinv lgamma digamma reciprocal special_erf special_erfcx special_i0 special_ndtr special_log_ndtr special_entr",
    0,
    1,
)
unary("angle", 0, 1)
unary("threshold", 1, 0, attributes={"threshold": 0.1, "value": 20})
unary("clamp_min", 1, 0, attributes={"min": 0})
unary("clamp_max", 1, 0, attributes={"max": 1})
unary("relu6", 2, 0)
unary("hardtanh", 2, 0, attributes={"min_val": -1, "max_val": 1})
unary("leaky_relu", 2, 0, attributes={"negative_slope": 0.01})
unary("rrelu", 2, 0, attributes={"training": False})
unary("elu", 3, 1, attributes={"alpha": 1, "scale": 1, "input_scale": 1})
unary("celu", 3, 2, attributes={"alpha": 1.0})
unary("selu", 4, 1)
unary("sigmoid special_expit silu", 2, 2)
unary("mish", 1, 3)
unary("softplus", 2, 3, attributes={"beta": 1, "threshold": 20})
unary("log_sigmoid", 4, 2)
unary("hardswish", 5, 0)
unary("hardsigmoid", 4, 0)
unary("hardshrink", 2, 0, attributes={"lambd": 0.5})
unary("softshrink", 3, 0, attributes={"lambd": 0.5})
unary("gelu", 4, 1, attributes={"approximate": "none"})
unary("gelu", 8, 1, attributes={"approximate": "tanh"})
unary("frac", 2, 0)
unary("sinc special_sinc", 1, 2)
unary("logit", 1, 2, attributes={"eps": None})
unary("nan_to_num", 3, 0, attributes={"nan": None, "posinf": None, "neginf": None})
unary("clamp clip", 2, 0, attributes={"min": 0, "max": 1})
unary("clamp clip", 1, 0, attributes={"min": None, "max": 1})
unary("pow", 1, 0, attributes={"exponent": 2})
unary("pow", 2, 0, attributes={"exponent": 3})
unary("pow", 0, 1, attributes={"exponent": 0.5})
unary("pow", 1, 2, attributes={"exponent": 1.7})
unary("fake_quantize_per_tensor_affine", 6, 0, attributes={"scale": 0.1, "zero_point": 0, "quant_min": 0, "quant_max": 255})
unary("add sub rsub subtract", 1, 0, attributes={"other": 1, "alpha": 1})
unary("add sub rsub", 2, 0, attributes={"other": 1, "alpha": 3})
unary("mul multiply", 1, 0, attributes={"other": 2})
unary("div true_divide divide", 0, 1, attributes={"other": 2})
unary("div", 1, 1, attributes={"other": 2, "rounding_mode": "floor"})

binary("mul multiply maximum minimum fmax fmin copysign", 1, 0)
binary("eq ne lt le gt ge not_equal less less_equal greater greater_equal", 1, 0, out=b(2, 3))
binary("logical_and logical_or logical_xor", 1, 0, out=b(2, 3), other=b(3), operand=b(2, 3))
binary("bitwise_and bitwise_or bitwise_xor __and__ __or__ __xor__", 1, 0, out=b(2, 3), other=b(3), operand=b(2, 3))
binary("bitwise_left_shift bitwise_right_shift __lshift__ __rshift__", 1, 0, out=i(2, 3), other=i(3), operand=i(2, 3))
binary("add sub subtract", 1, 0, alpha=1)
binary("rsub add", 2, 0, alpha=2)
binary("div atan2 arctan2 divide true_divide", 0, 1)
binary("xlogy special_xlog1py", 1, 1)
binary("floor_divide", 1, 1)
binary("remainder fmod hypot", 3, 1)
binary("logaddexp", 5, 2)
binary("isclose", 6, 0, out=b(2, 3), rtol=1e-5, atol=1e-8, equal_nan=False)
binary("max min", 1, 0)
binary("cross linalg_cross", 3, 0, dim=-1, other=(2, 3))
rows("bitwise_not", {"self": b(2, 3)}, [b(2, 3)], family="pointwise", vector=6, space={"m": 6})
rows("heaviside", {"self": X, "values": (3,)}, [X], family="pointwise", vector=6, space={"m": 6})
rows("pow float_power", {"self": X, "exponent": (3,)}, [X], family="pointwise", vector=6, special=12, space={"m": 6})
rows("where", {"condition": b(2, 1), "self": X, "other": (1, 3)}, [X], family="pointwise", vector=6, space={"m": 6})
rows("masked_fill", {"self": X, "mask": b(1, 3)}, [X], {"value": 0}, family="pointwise", vector=6, space={"m": 6})
rows("prelu _prelu_kernel", {"self": X, "weight": (3,)}, [X], family="pointwise", vector=12, space={"m": 6})
rows("lerp", {"self": X, "end": X}, [X], {"weight": 0.5}, family="pointwise", vector=18, space={"m": 6})
rows("addcmul", {"self": X, "tensor1": X, "tensor2": X}, [X], {"value": 1}, family="pointwise", vector=12, space={"m": 6})
rows("addcmul", {"self": X, "tensor1": X, "tensor2": X}, [X], {"value": 2}, family="pointwise", vector=18, space={"m": 6})
rows(
    "addcdiv", {"self": X, "tensor1": X, "tensor2": X}, [X], {"value": 1}, family="pointwise", vector=6, special=6, space={"m": 6}
)
rows("polar", {"abs": X, "angle": X}, [c(2, 3)], family="pointwise", vector=12, special=12, space={"m": 6})
rows("log_sigmoid_forward", {"self": X}, [X, (0,)], family="pointwise", vector=24, special=12, space={"m": 6})
rows("glu", {"self": (2, 6)}, [X], {"dim": -1}, family="pointwise", vector=18, special=12, space={"m": 6})
rows("clamp", {"self": X, "min": (3,)}, [X], {}, family="pointwise", vector=6, space={"m": 6})
rows("diff", {"self": (2, 4)}, [X], {"n": 1, "dim": -1}, family="pointwise", vector=6, space={"m": 6})
rows("outer ger", {"self": (2,), "vec2": (3,)}, [X], family="pointwise", vector=6, space={"m": 6})
rows("kron", {"self": (1, 3), "other": (2, 1)}, [X], family="pointwise", vector=6, space={"m": 6})

# Conversions: the second operand of `type_as` gives its type only.
rows(
    "to _to_copy prims.convert_element_type",
    {"self": X},
    [h(2, 3)],
    {"dtype": "bfloat16"},
    family="pointwise",
    vector=6,
    space={"m": 6},
)
rows("_to_copy", {"self": X}, [X], {"dtype": "float32"}, family="copy", space={"m": 6})
rows("to", {"self": X}, [X], {"dtype": "float32", "copy": True}, family="copy", space={"m": 6})
rows("type_as", {"self": X, "other": h(9)}, [h(2, 3)], family="pointwise", vector=6, reads={"other": 0}, space={"m": 6})

# Random numbers and sequences; 6 results.
TRAINING = {"p": 0.5, "train": True}
rows(
    "dropout alpha_dropout feature_dropout feature_alpha_dropout",
    {"input": X},
    [X],
    TRAINING,
    family="pointwise",
    vector=18,
    special=6,
    space={"m": 6},
)
rows("native_dropout", {"input": X}, [X, b(2, 3)], TRAINING, family="pointwise", vector=18, special=6, space={"m": 6})
rows("rand", {}, [X], {"size": [2, 3]}, family="pointwise", vector=6, special=6, space={"m": 6})
rows("randint", {}, [i(2, 3)], {"high": 9, "size": [2, 3]}, family="pointwise", vector=6, special=6, space={"m": 6})
rows("rand_like", {"self": X}, [X], family="pointwise", vector=6, special=6, reads={"self": 0}, space={"m": 6})
rows("randint_like", {"self": X}, [X], {"high": 9}, family="pointwise", vector=6, special=6, reads={"self": 0}, space={"m": 6})
rows(
    "uniform",
    {"self": X},
    [X],
    {"from": 0.0, "to": 1.0},
    family="pointwise",
    vector=6,
    special=6,
    reads={"self": 0},
    space={"m": 6},
    inplace=True,
)
rows("bernoulli", {"self": X}, [X], family="pointwise", vector=6, special=6, space={"m": 6})
rows(
    "bernoulli",
    {"self": X},
    [X],
    {"p": 0.5},
    family="pointwise",
    vector=6,
    special=6,
    reads={"self": 0},
    space={"m": 6},
    inplace=True,
)
rows(
    "rrelu_with_noise", {"self": X, "noise": X}, [X], {"training": True}, family="pointwise", vector=6, special=6, space={"m": 6}
)
rows("randn", {}, [X], {"size": [2, 3]}, family="pointwise", vector=6, special=24, space={"m": 6})
rows("randn_like", {"self": X}, [X], family="pointwise", vector=6, special=24, reads={"self": 0}, space={"m": 6})
rows(
    "normal exponential",
    {"self": X},
    [X],
    {},
    family="pointwise",
    vector=6,
    special=24,
    reads={"self": 0},
    space={"m": 6},
    inplace=True,
)
rows(
    "normal_functional",
    {"self": X},
    [X],
    {"mean": 0.0, "std": 1.0},
    family="pointwise",
    vector=6,
    special=24,
    reads={"self": 0},
    space={"m": 6},
)
rows("arange", {}, [i(6)], {"end": 6}, family="pointwise", vector=12, space={"m": 6})
rows("linspace logspace", {}, [(6,)], {"start": 0, "end": 1, "steps": 6}, family="pointwise", vector=12, space={"m": 6})
rows("eye", {}, [(3, 3)], {"n": 3}, family="pointwise", vector=18, space={"m": 9})
rows(
    "tril_indices triu_indices", {}, [i(2, 6)], {"row": 3, "col": 3, "offset": 0}, family="pointwise", vector=24, space={"m": 12}
)
rows("mse_loss l1_loss", {"self": X, "target": X}, [()], {"reduction": 1}, family="pointwise", vector=18, space={"m": 6})
rows("smooth_l1_loss huber_loss", {"self": X, "target": X}, [()], {"reduction": 1}, family="pointwise", vector=36, space={"m": 6})
rows("kl_div", {"self": X, "target": X}, [()], {"reduction": 1}, family="pointwise", vector=18, special=6, space={"m": 6})
rows(
    "binary_cross_entropy",
    {"self": X, "target": X},
    [()],
    {"reduction": 1},
    family="pointwise",
    vector=36,
    special=12,
    space={"m": 6},
)
rows(
    "binary_cross_entropy_with_logits",
    {"self": X, "target": X},
    [()],
    {"reduction": 1},
    family="pointwise",
    vector=48,
    special=12,
    space={"m": 6},
)

unary(
    "i0 special_i0e special_i1 special_i1e special_bessel_j0 special_bessel_j1 special_bessel_y0 special_bessel_y1 "
    "special_modified_bessel_i0 special_modified_bessel_i1 special_modified_bessel_k0 special_modified_bessel_k1 special_erfinv "
    "special_ndtri special_psi special_gammaln special_digamma special_log1p special_expm1 special_exp2 special_erfc mvlgamma "
    "special_multigammaln polygamma special_polygamma",
    0,
    1,
)
rows(
    "special_scaled_modified_bessel_k0 special_scaled_modified_bessel_k1 special_spherical_bessel_j0 special_airy_ai",
    {"x": X},
    [X],
    family="pointwise",
    special=6,
    space={"m": 6},
)
binary("igamma igammac special_gammainc special_gammaincc special_zeta", 0, 1)
binary("nextafter ldexp", 1, 0)
binary("logaddexp2", 5, 2)
binary("gcd", 4, 4)
binary("lcm", 6, 5)
rows("gradient", {"self": (6,)}, [(6,)], family="pointwise", vector=6, space={"m": 6})
rows("range fft_fftfreq fft_rfftfreq", {}, [(6,)], family="pointwise", vector=12, space={"m": 6})
rows("vander linalg_vander", {"x": (2,)}, [(2, 3)], family="pointwise", vector=12, space={"m": 6})
rows("randperm", {}, [i(6)], family="pointwise", vector=6, special=6, space={"m": 6})
rows(
    "random geometric", {"self": X}, [X], family="pointwise", vector=6, special=6, space={"m": 6}, reads={"self": 0}, inplace=True
)
rows("poisson", {"self": X}, [X], family="pointwise", vector=6, special=6, space={"m": 6})
rows("hinge_embedding_loss", {"self": X, "target": X}, [()], family="pointwise", vector=24, space={"m": 6})
rows("margin_ranking_loss", {"input1": X, "input2": X, "target": X}, [()], family="pointwise", vector=30, space={"m": 6})
rows("soft_margin_loss", {"self": X, "target": X}, [()], family="pointwise", vector=24, special=12, space={"m": 6})
rows("multi_margin_loss", {"self": X, "target": i(2)}, [()], family="pointwise", vector=24, space={"m": 6})
rows("poisson_nll_loss", {"input": X, "target": X}, [()], family="pointwise", vector=18, special=6, space={"m": 6})
# Complex numbers: an addition is 2 operations, a product 6, of a real number with one 2.
rows("add", {"self": c(2, 3), "other": c(2, 3)}, [c(2, 3)], {"alpha": 1}, family="pointwise", vector=12, space={"m": 6})
rows("mul", {"self": c(2, 3), "other": c(2, 3)}, [c(2, 3)], family="pointwise", vector=36, space={"m": 6})
rows("mul", {"self": c(2, 3), "other": (2, 3)}, [c(2, 3)], family="pointwise", vector=12, space={"m": 6})
# Stretched to each other: 6 x 1 and 1 x 5.
rows(
    "kl_div",
    {"self": (6, 1), "target": (1, 5)},
    [()],
    {"reduction": 2},
    family="pointwise",
    vector=90,
    special=30,
    space={"m": 30},
)
rows("frexp", {"self": X}, [X, i(2, 3)], family="pointwise", vector=12, space={"m": 6})
POLYNOMIALS = (
    "special_chebyshev_polynomial_t special_chebyshev_polynomial_u special_chebyshev_polynomial_v special_chebyshev_polynomial_w "
    "special_shifted_chebyshev_polynomial_t special_shifted_chebyshev_polynomial_u special_shifted_chebyshev_polynomial_v "
    "special_shifted_chebyshev_polynomial_w special_hermite_polynomial_h special_hermite_polynomial_he "
    "special_laguerre_polynomial_l special_legendre_polynomial_p"
)
rows(POLYNOMIALS, {"x": X}, [X], {"n": 4}, family="pointwise", vector=72, space={"m": 6})
rows(POLYNOMIALS, {"x": X, "n": i(2, 3)}, [X], family="pointwise", special=6, space={"m": 6})
