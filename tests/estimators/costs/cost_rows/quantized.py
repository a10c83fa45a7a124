"""Expected costs of operators on quantized values: 6 rows of 8 by a weight of 5 x 8."""

from shmoo.estimators.graph.records import TensorSpec
from tests.estimators.costs.cost_rows.build import rows

X = (2, 3, 8)
SPACE = {"m": 6, "n": 5, "k": 8}
INT8 = TensorSpec((5, 8), "int8")
# 40 conversions, 30 results scaled.
rows(
    "_weight_int8pack_mm",
    {"self": X, "mat2": INT8, "scales": (5,)},
    [(2, 3, 5)],
    family="gemm",
    matrix=2 * 6 * 5 * 8,
    vector=40 + 30,
    space=SPACE,
)
# 40 weights of 4 bits, converted, scaled and shifted.
rows(
    "_weight_int4pack_mm _weight_int4pack_mm_for_cpu",
    {"self": X, "mat2": TensorSpec((5, 8), "int4"), "qScaleAndZeros": (1, 5, 2)},
    [(2, 3, 5)],
    {"qGroupSize": 32},
    family="gemm",
    matrix=2 * 6 * 5 * 8,
    vector=3 * 40,
    space=SPACE,
)
# A scale for each of 6 rows of 8.
rows(
    "torchao.choose_qparams_affine quant.choose_qparams_affine quantized_decomposed.choose_qparams_per_token",
    {"input": (6, 8)},
    [(6, 1)],
    family="pooling",
    vector=2 * 48 + 6,
    special=6,
    space={"m": 6, "n": 8},
)
SMALL = TensorSpec((6, 8), "int8")
TYPED = " ".join(f"quantized_decomposed.{{}}quantize_per_{over}" for over in ("tensor", "channel", "token"))
rows(
    "torchao.quantize_affine quant.quantize_affine torchao.triton_quantize_nvfp4 " + TYPED.replace("{}", ""),
    {"input": (6, 8), "scale": (6, 1)},
    [SMALL],
    family="pointwise",
    vector=5 * 48,
    space={"m": 48},
)
rows(
    "torchao.dequantize_affine quant.dequantize_affine " + TYPED.replace("{}", "de"),
    {"input": SMALL, "scale": (6, 1)},
    [(6, 8)],
    family="pointwise",
    vector=3 * 48,
    space={"m": 48},
)
