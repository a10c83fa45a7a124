"""Expected costs of convolutions."""

from shmoo.estimators.graph.records import Attribute
from tests.estimators.costs.cost_rows.build import rows


def conv_attributes(
    rank: int, stride: int = 1, padding: int | str = 0, dilation: int = 1, groups: int = 1
) -> dict[str, Attribute]:
    return {
        "stride": [stride] * rank,
        "padding": padding if isinstance(padding, str) else [padding] * rank,
        "dilation": [dilation] * rank,
        "groups": groups,
    }


CONV = {"input": (2, 3, 8, 8), "weight": (4, 3, 3, 3), "bias": (4,)}
M = 2 * 8 * 8
rows(
    "conv2d",
    CONV,
    [(2, 4, 8, 8)],
    conv_attributes(2, padding=1),
    family="conv",
    matrix=2 * M * 4 * 27,
    vector=M * 4,
    space={"m": M, "n": 4, "k": 27, "window": 9},
)
rows(
    "conv2d",
    CONV,
    [(2, 4, 8, 8)],
    conv_attributes(2, padding="same"),
    family="conv",
    matrix=2 * M * 4 * 27,
    vector=M * 4,
    space={"m": M, "n": 4, "k": 27, "window": 9},
)
rows(
    "conv2d",
    CONV,
    [(2, 4, 2, 2)],
    conv_attributes(2, stride=2, dilation=2),
    family="conv",
    matrix=2 * 8 * 4 * 27,
    vector=32,
    space={"m": 8, "n": 4, "k": 27, "window": 9, "stride": 2, "dilation": 2},
)
rows(
    "conv2d",
    {"input": (3, 8, 8), "weight": (4, 3, 1, 1)},
    [(4, 8, 8)],
    conv_attributes(2),
    family="conv",
    matrix=2 * 64 * 4 * 3,
    space={"m": 64, "n": 4, "k": 3},
)
rows(
    "conv2d",
    {"input": (2, 6, 8, 8), "weight": (4, 3, 1, 1)},
    [(2, 4, 8, 8)],
    conv_attributes(2, groups=2),
    family="conv",
    matrix=2 * 2 * M * 2 * 3,
    space={"batch": 2, "m": M, "n": 2, "k": 3},
)
rows(
    "conv2d",
    {"input": (2, 6, 8, 8), "weight": (6, 1, 3, 3)},
    [(2, 6, 8, 8)],
    conv_attributes(2, padding=1, groups=6),
    family="depthwise",
    matrix=2 * M * 6 * 9,
    space={"batch": 6, "m": M, "n": 1, "k": 9, "window": 9},
)
rows(
    "conv1d",
    {"input": (2, 3, 8), "weight": (4, 3, 3)},
    [(2, 4, 6)],
    conv_attributes(1),
    family="conv",
    matrix=2 * 12 * 4 * 9,
    space={"m": 12, "n": 4, "k": 9, "window": 3},
)
rows(
    "conv3d",
    {"input": (1, 3, 4, 4, 4), "weight": (4, 3, 2, 2, 2)},
    [(1, 4, 3, 3, 3)],
    conv_attributes(3),
    family="conv",
    matrix=2 * 27 * 4 * 24,
    space={"m": 27, "n": 4, "k": 24, "window": 8},
)
KERNEL = {"kernel_size": [3, 3], "stride": [1, 1], "padding": [1, 1]}
PLAIN = {"family": "conv", "matrix": 2 * M * 4 * 27, "vector": M * 4, "space": {"m": M, "n": 4, "k": 27, "window": 9}}
SELF_CONV = {"self": CONV["input"], "weight": CONV["weight"], "bias": CONV["bias"]}
rows("thnn_conv2d _slow_conv2d_forward", SELF_CONV, [(2, 4, 8, 8)], KERNEL, **PLAIN)
rows("slow_conv_dilated2d", SELF_CONV, [(2, 4, 8, 8)], {**KERNEL, "dilation": [1, 1]}, **PLAIN)
rows("mkldnn_convolution", SELF_CONV, [(2, 4, 8, 8)], conv_attributes(2, padding=1), **PLAIN)
CUBE = {"self": (1, 3, 4, 4, 4), "weight": (4, 3, 2, 2, 2), "bias": (4,)}
CUBE_KERNEL = {"kernel_size": [2, 2, 2], "stride": [1, 1, 1], "padding": [0, 0, 0]}
rows(
    "slow_conv3d",
    CUBE,
    [(1, 4, 3, 3, 3)],
    CUBE_KERNEL,
    family="conv",
    matrix=2 * 27 * 4 * 24,
    vector=108,
    space={"m": 27, "n": 4, "k": 24, "window": 8},
)
rows(
    "slow_conv_dilated3d",
    CUBE,
    [(1, 4, 3, 3, 3)],
    {**CUBE_KERNEL, "dilation": [1, 1, 1]},
    family="conv",
    matrix=2 * 27 * 4 * 24,
    vector=108,
    space={"m": 27, "n": 4, "k": 24, "window": 8},
)
GENERAL = {**conv_attributes(2, padding=1), "transposed": False, "output_padding": [0, 0]}
rows("convolution convolution_overrideable", CONV, [(2, 4, 8, 8)], GENERAL, **PLAIN)
rows(
    "_convolution",
    CONV,
    [(2, 4, 8, 8)],
    {**GENERAL, "benchmark": False, "deterministic": False, "cudnn_enabled": True, "allow_tf32": True},
    **PLAIN,
)
NO_BIAS = {"family": "conv", "matrix": 2 * M * 4 * 27, "space": {"m": M, "n": 4, "k": 27, "window": 9}}
rows(
    "cudnn_convolution",
    {"self": (2, 3, 8, 8), "weight": (4, 3, 3, 3)},
    [(2, 4, 8, 8)],
    {**conv_attributes(2, padding=1), "allow_tf32": True},
    **NO_BIAS,
)

DEPTHWISE = {"family": "depthwise", "matrix": 2 * 6 * M * 9, "vector": 6 * M, "space": {"batch": 6, "m": M, "k": 9, "window": 9}}
rows(
    "_conv_depthwise2d",
    {"self": (2, 6, 8, 8), "weight": (6, 1, 3, 3), "bias": (6,)},
    [(2, 6, 8, 8)],
    {**KERNEL, "dilation": [1, 1]},
    **DEPTHWISE,
)
rows(
    "conv_depthwise3d",
    {"self": (1, 6, 4, 4, 4), "weight": (6, 1, 2, 2, 2)},
    [(1, 6, 3, 3, 3)],
    {**CUBE_KERNEL, "dilation": [1, 1, 1]},
    family="depthwise",
    matrix=2 * 6 * 27 * 8,
    space={"batch": 6, "m": 27, "k": 8, "window": 8},
)
rows(
    "conv_tbc",
    {"self": (8, 2, 3), "weight": (3, 3, 4), "bias": (4,)},
    [(6, 2, 4)],
    {"pad": 0},
    family="conv",
    matrix=2 * 12 * 4 * 9,
    vector=48,
    space={"m": 12, "n": 4, "k": 9, "window": 3},
)
# Transposed: 2 x 4 x 4 input points, each feeds 3 outputs x 9 positions from 6 channels.
UP = {"family": "conv_transpose", "matrix": 2 * 32 * 27 * 6, "space": {"m": 32, "n": 27, "k": 6, "window": 9, "stride": 2}}
TRANSPOSED = {**conv_attributes(2, stride=2), "output_padding": [0, 0]}
rows("conv_transpose2d", {"input": (2, 6, 4, 4), "weight": (6, 3, 3, 3)}, [(2, 3, 9, 9)], TRANSPOSED, **UP)
rows("convolution", {"input": (2, 6, 4, 4), "weight": (6, 3, 3, 3)}, [(2, 3, 9, 9)], {**TRANSPOSED, "transposed": True}, **UP)
rows(
    "cudnn_convolution_transpose",
    {"self": (2, 6, 4, 4), "weight": (6, 3, 3, 3)},
    [(2, 3, 9, 9)],
    {**TRANSPOSED, "allow_tf32": True},
    **UP,
)
rows(
    "slow_conv_transpose2d",
    {"self": (2, 6, 4, 4), "weight": (6, 3, 3, 3)},
    [(2, 3, 9, 9)],
    {"kernel_size": [3, 3], "stride": [2, 2]},
    **UP,
)
rows(
    "conv_transpose1d",
    {"input": (2, 6, 4), "weight": (6, 3, 3), "bias": (3,)},
    [(2, 3, 6)],
    {**conv_attributes(1), "output_padding": [0]},
    family="conv_transpose",
    matrix=2 * 8 * 9 * 6,
    vector=36,
    space={"m": 8, "n": 9, "k": 6, "window": 3},
)
SOLID = {"family": "conv_transpose", "matrix": 2 * 2 * 8 * 8 * 3, "space": {"batch": 2, "m": 8, "n": 8, "k": 3, "window": 8}}
rows(
    "conv_transpose3d",
    {"input": (1, 6, 2, 2, 2), "weight": (6, 1, 2, 2, 2)},
    [(1, 2, 3, 3, 3)],
    {**conv_attributes(3, groups=2), "output_padding": [0, 0, 0]},
    **SOLID,
)
rows(
    "slow_conv_transpose3d",
    {"self": (1, 3, 2, 2, 2), "weight": (3, 1, 2, 2, 2)},
    [(1, 1, 3, 3, 3)],
    {"kernel_size": [2, 2, 2]},
    family="conv_transpose",
    matrix=2 * 8 * 8 * 3,
    space={"m": 8, "n": 8, "k": 3, "window": 8},
)
