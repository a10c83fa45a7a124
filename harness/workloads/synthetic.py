"""Small models and whole networks that combine operators, with every size as an axis. Whole networks show the cost of many
different operators in turn, each on data and code that the others have evicted, which single operators and blocks cannot."""

from __future__ import annotations

from functools import partial
from itertools import pairwise, product
from typing import TYPE_CHECKING

from shmoo.harness.module import Axis, Built, Maker, dim, workload
from shmoo.harness.workloads.operators import ACTIVATIONS, BIAS, SIZE

if TYPE_CHECKING:
    import torch

BATCH = dim("batch", 1, "inputs at once")
KERNEL = dim("kernel", 3, "height and width of the kernel, odd")
CLASSES = 1000

synthetic = partial(workload, kind="synthetic")


def _activation(name: str) -> torch.nn.Module:
    import torch

    return getattr(torch.nn, ACTIVATIONS[name])()


def _activation_axis(default: str) -> Axis:
    return Axis("activation", default, "element-wise function", choices=tuple(ACTIVATIONS))


def _conv_norm(c_in: int, c_out: int, kernel: int, stride: int = 1, groups: int = 1) -> list[torch.nn.Module]:
    import torch

    return [torch.nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=False), torch.nn.BatchNorm2d(c_out)]


@synthetic(
    "mlp",
    axes=(
        BATCH,
        dim("in_features", 784, "width of the input"),
        dim("hidden", 512, "width of the hidden layers"),
        dim("out_features", 10, "width of the output"),
        dim("depth", 3, "linear layers"),
        BIAS,
        _activation_axis("relu"),
        Axis("softmax", True, "whether the output is a softmax"),
    ),
)
def mlp(
    make: Maker, *, batch: int, in_features: int, hidden: int, out_features: int, depth: int, bias: bool, activation: str,
    softmax: bool,
) -> Built:  # fmt: skip
    """Linear layers with an activation between them."""
    nn = make.torch.nn

    def network() -> torch.nn.Module:
        layers: list[torch.nn.Module] = []
        for wide, narrow in pairwise([in_features, *[hidden] * (depth - 1), out_features]):
            layers += [nn.Linear(wide, narrow, bias=bias), _activation(activation)]
        return nn.Sequential(*layers[:-1], *([nn.Softmax(dim=-1)] if softmax else []))

    return Built(make.module(network), (make.tensor(batch, in_features),))


@synthetic(
    "conv_stack",
    axes=(
        BATCH,
        dim("c_in", 3, "input channels"),
        dim("width", 64, "channels of every layer"),
        SIZE,
        KERNEL,
        dim("depth", 4, "convolutions"),
        _activation_axis("relu"),
    ),
)
def conv_stack(make: Maker, *, batch: int, c_in: int, width: int, size: int, kernel: int, depth: int, activation: str) -> Built:
    """Convolutions, each with batch normalization and an activation."""

    def network() -> torch.nn.Module:
        layers: list[torch.nn.Module] = []
        for i in range(depth):
            layers += [*_conv_norm(c_in if i == 0 else width, width, kernel), _activation(activation)]
        return make.torch.nn.Sequential(*layers)

    return Built(make.module(network), (make.tensor(batch, c_in, size, size),))


@synthetic(
    "resnet_block",
    axes=(
        dim("batch", 32, "inputs at once"),
        dim("c_in", 64, "input channels"),
        dim("c_out", 128, "output channels"),
        SIZE,
        KERNEL,
        dim("stride", 1, "step of the first convolution"),
    ),
)
def resnet_block(make: Maker, *, batch: int, c_in: int, c_out: int, size: int, kernel: int, stride: int) -> Built:
    """Two convolutions with batch normalization and a residual, which is projected where the shape changes."""
    block = make.module(lambda: _residual_module(c_in, c_out, kernel, stride, "relu"))
    return Built(block, (make.tensor(batch, c_in, size, size),))


def _residual_module(c_in: int, c_out: int, kernel: int, stride: int, activation: str) -> torch.nn.Module:
    """A basic residual block (He et al., 2016)."""
    import torch

    class Block(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = torch.nn.Sequential(
                *_conv_norm(c_in, c_out, kernel, stride), _activation(activation), *_conv_norm(c_out, c_out, kernel)
            )
            keeps_shape = stride == 1 and c_in == c_out
            self.shortcut = torch.nn.Identity() if keeps_shape else torch.nn.Sequential(*_conv_norm(c_in, c_out, 1, stride))
            self.activation = _activation(activation)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.activation(self.body(x) + self.shortcut(x))

    return Block()


@synthetic(
    "depthwise_separable_block",
    axes=(
        BATCH,
        dim("c_in", 32, "input channels"),
        dim("c_out", 64, "output channels"),
        SIZE,
        KERNEL,
        dim("stride", 1, "step of the depthwise convolution"),
        dim("expansion", 1, "factor by which a first 1x1 convolution widens; 1 for none"),
        Axis("squeeze", False, "whether squeeze and excitation weights the channels"),
        _activation_axis("hardswish"),
    ),
)
def depthwise_separable_block(
    make: Maker, *, batch: int, c_in: int, c_out: int, size: int, kernel: int, stride: int, expansion: int, squeeze: bool,
    activation: str,
) -> Built:  # fmt: skip
    """Depthwise and 1x1 convolution, optionally widened and with squeeze and excitation, and a residual where shapes allow."""
    block = make.module(lambda: _separable_module(c_in, c_out, kernel, stride, expansion, squeeze, activation))
    return Built(block, (make.tensor(batch, c_in, size, size),))


def _separable_module(
    c_in: int, c_out: int, kernel: int, stride: int, expansion: int, squeeze: bool, activation: str
) -> torch.nn.Module:
    """An inverted residual block (Sandler et al., 2018), with optional squeeze and excitation (Hu et al., 2018)."""
    import torch

    wide = c_in * expansion

    class SqueezeExcitation(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            narrow = max(wide // 4, 1)
            self.reduce = torch.nn.Conv2d(wide, narrow, 1)
            self.restore = torch.nn.Conv2d(narrow, wide, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            weights = torch.nn.functional.adaptive_avg_pool2d(x, 1)
            return x * torch.sigmoid(self.restore(torch.relu(self.reduce(weights))))

    class Block(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layers: list[torch.nn.Module] = []
            if expansion > 1:
                layers += [*_conv_norm(c_in, wide, 1), _activation(activation)]
            layers += [*_conv_norm(wide, wide, kernel, stride, groups=wide), _activation(activation)]
            if squeeze:
                layers.append(SqueezeExcitation())
            self.body = torch.nn.Sequential(*layers, *_conv_norm(wide, c_out, 1))
            self.residual = stride == 1 and c_in == c_out

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.body(x) if self.residual else self.body(x)

    return Block()


@synthetic(
    "transformer_block",
    axes=(
        BATCH,
        dim("seq_len", 196, "tokens"),
        dim("d_model", 384, "width of a token, a multiple of heads"),
        dim("heads", 6, "attention heads"),
        dim("mlp_ratio", 4, "hidden width of the MLP over d_model"),
        dim("depth", 1, "blocks in a row"),
        _activation_axis("gelu"),
    ),
)
def transformer_block(
    make: Maker, *, batch: int, seq_len: int, d_model: int, heads: int, mlp_ratio: int, depth: int, activation: str
) -> Built:
    """Attention and MLP, each after a layer normalization and with a residual; several such blocks in a row."""
    import torch

    if d_model % heads:
        raise ValueError(f"d_model must be a multiple of heads, got {d_model} and {heads}")

    class Block(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm1, self.norm2 = torch.nn.LayerNorm(d_model), torch.nn.LayerNorm(d_model)
            self.qkv = torch.nn.Linear(d_model, 3 * d_model)
            self.project = torch.nn.Linear(d_model, d_model)
            self.mlp = torch.nn.Sequential(
                torch.nn.Linear(d_model, mlp_ratio * d_model),
                _activation(activation),
                torch.nn.Linear(mlp_ratio * d_model, d_model),
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            split = self.qkv(self.norm1(x)).view(batch, seq_len, 3, heads, d_model // heads)
            query, key, value = split.permute(2, 0, 3, 1, 4).unbind(0)
            mixed = torch.nn.functional.scaled_dot_product_attention(query, key, value)
            x = x + self.project(mixed.transpose(1, 2).reshape(batch, seq_len, d_model))
            return x + self.mlp(self.norm2(x))

    stack = make.module(lambda: torch.nn.Sequential(*(Block() for _ in range(depth))))
    return Built(stack, (make.tensor(batch, seq_len, d_model),))


@synthetic(
    "convnet",
    axes=(
        BATCH,
        Axis("block", "residual", "kind of block", choices=("residual", "separable")),
        dim("width", 32, "channels of the first stage; every stage doubles them"),
        dim("stages", 3, "stages; all but the first halve the size"),
        dim("depth", 2, "blocks a stage"),
        dim("size", 128, "height and width of the input"),
        KERNEL,
        dim("expansion", 4, "expansion inside separable blocks"),
        Axis("squeeze", False, "whether squeeze and excitation weights the channels of separable blocks"),
        _activation_axis("relu"),
    ),
)
def convnet(
    make: Maker, *, batch: int, block: str, width: int, stages: int, depth: int, size: int, kernel: int, expansion: int,
    squeeze: bool, activation: str,
) -> Built:  # fmt: skip
    """A stem, stages of residual or separable blocks, global pooling and a classifier."""
    nn = make.torch.nn

    def network() -> torch.nn.Module:
        layers: list[torch.nn.Module] = [*_conv_norm(3, width, 3, 2), _activation(activation)]
        c_in = width
        for stage, position in product(range(stages), range(depth)):
            c_out, stride = width * 2**stage, 2 if stage > 0 and position == 0 else 1
            if block == "residual":
                layers.append(_residual_module(c_in, c_out, kernel, stride, activation))
            else:
                layers.append(_separable_module(c_in, c_out, kernel, stride, expansion, squeeze, activation))
            c_in = c_out
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c_in, CLASSES))

    return Built(make.module(network), (make.tensor(batch, 3, size, size),))
