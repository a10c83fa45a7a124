"""Small models that combine operators, with every size an axis."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from shmoo.harness.workloads.module import Axis, Built, Maker, Size, dim, workload
from shmoo.harness.workloads.operators import ACTIVATIONS, BIAS, conv_out

if TYPE_CHECKING:
    import torch

BATCH = dim("batch", 1, "inputs at once")
SIZE = dim("size", 56, "height and width of the input")
KERNEL = dim("kernel", 3, "height and width of the kernel, odd")


def activation_axis(default: str) -> Axis:
    return Axis("activation", default, "element-wise function", choices=ACTIVATIONS)


def activation_module(name: str) -> torch.nn.Module:
    import torch

    classes = {
        "relu": torch.nn.ReLU,
        "leaky_relu": torch.nn.LeakyReLU,
        "elu": torch.nn.ELU,
        "selu": torch.nn.SELU,
        "gelu": torch.nn.GELU,
        "silu": torch.nn.SiLU,
        "sigmoid": torch.nn.Sigmoid,
        "tanh": torch.nn.Tanh,
        "hardswish": torch.nn.Hardswish,
    }
    return classes[name]()


def conv_norm(c_in: int, c_out: int, kernel: int, stride: int = 1, groups: int = 1) -> list[torch.nn.Module]:
    import torch

    return [torch.nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=False), torch.nn.BatchNorm2d(c_out)]


def mlp_widths(in_features: int, hidden: int, out_features: int, depth: int) -> list[int]:
    """Layer widths from input to output; `depth` linear layers have `depth - 1` hidden widths between them."""
    return [in_features, *[hidden] * (depth - 1), out_features]


def _mlp_size(
    *, batch: int, in_features: int, hidden: int, out_features: int, depth: int, bias: bool, activation: str, softmax: bool
) -> Size:
    widths = mlp_widths(in_features, hidden, out_features, depth)
    weights = sum(a * b for a, b in pairwise(widths))
    return Size(weights + bias * sum(widths[1:]) + batch * sum(widths), 2 * batch * weights)


@workload(
    "mlp",
    kind="synthetic",
    axes=(
        BATCH,
        dim("in_features", 784, "width of the input"),
        dim("hidden", 512, "width of the hidden layers"),
        dim("out_features", 10, "width of the output"),
        dim("depth", 3, "linear layers"),
        BIAS,
        activation_axis("relu"),
        Axis("softmax", True, "whether the output is a softmax"),
    ),
    size=_mlp_size,
)
def mlp(
    make: Maker,
    *,
    batch: int,
    in_features: int,
    hidden: int,
    out_features: int,
    depth: int,
    bias: bool,
    activation: str,
    softmax: bool,
) -> Built:
    """Linear layers with an activation between them."""
    import torch

    def layers() -> torch.nn.Module:
        widths = mlp_widths(in_features, hidden, out_features, depth)
        found: list[torch.nn.Module] = []
        for i, (narrow, wide) in enumerate(pairwise(widths)):
            found.append(torch.nn.Linear(narrow, wide, bias=bias))
            if i < depth - 1:
                found.append(activation_module(activation))
        if softmax:
            found.append(torch.nn.Softmax(dim=-1))
        return torch.nn.Sequential(*found)

    return Built(make.module(layers), (make.tensor(batch, in_features),))


def _conv_stack_size(*, batch: int, c_in: int, width: int, size: int, kernel: int, depth: int, activation: str) -> Size:
    weights = kernel**2 * width * (c_in + width * (depth - 1))
    return Size(weights + batch * size**2 * (c_in + 5 * width * depth), 2 * batch * size**2 * weights)


@workload(
    "conv_stack",
    kind="synthetic",
    axes=(
        BATCH,
        dim("c_in", 3, "input channels"),
        dim("width", 64, "channels of every layer"),
        SIZE,
        KERNEL,
        dim("depth", 4, "convolutions"),
        activation_axis("relu"),
    ),
    size=_conv_stack_size,
)
def conv_stack(make: Maker, *, batch: int, c_in: int, width: int, size: int, kernel: int, depth: int, activation: str) -> Built:
    """Convolutions, each with batch normalisation and an activation."""
    import torch

    def layers() -> torch.nn.Module:
        found: list[torch.nn.Module] = []
        for i in range(depth):
            found += [*conv_norm(c_in if i == 0 else width, width, kernel), activation_module(activation)]
        return torch.nn.Sequential(*found)

    return Built(make.module(layers), (make.tensor(batch, c_in, size, size),))


def _resnet_block_size(*, batch: int, c_in: int, c_out: int, size: int, kernel: int, stride: int) -> Size:
    out = conv_out(size, kernel, stride, kernel // 2)
    projection = c_in * c_out if stride > 1 or c_in != c_out else 0
    weights = kernel**2 * c_out * (c_in + c_out) + projection
    return Size(weights + batch * (c_in * size**2 + 8 * c_out * out**2), 2 * batch * out**2 * weights)


@workload(
    "resnet_block",
    kind="synthetic",
    axes=(
        dim("batch", 32, "inputs at once"),
        dim("c_in", 64, "input channels"),
        dim("c_out", 128, "output channels"),
        SIZE,
        KERNEL,
        dim("stride", 1, "step of the first convolution"),
    ),
    size=_resnet_block_size,
)
def resnet_block(make: Maker, *, batch: int, c_in: int, c_out: int, size: int, kernel: int, stride: int) -> Built:
    """Two convolutions with batch normalisation and a residual, which is projected where the shape changes."""
    return Built(
        make.module(lambda: residual_module(c_in, c_out, kernel, stride, "relu")), (make.tensor(batch, c_in, size, size),)
    )


def residual_module(c_in: int, c_out: int, kernel: int, stride: int, activation: str) -> torch.nn.Module:
    """A basic residual block (He et al., 2016)."""
    import torch

    class Block(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = torch.nn.Sequential(
                *conv_norm(c_in, c_out, kernel, stride), activation_module(activation), *conv_norm(c_out, c_out, kernel)
            )
            same = stride == 1 and c_in == c_out
            self.shortcut = torch.nn.Identity() if same else torch.nn.Sequential(*conv_norm(c_in, c_out, 1, stride))
            self.activation = activation_module(activation)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.activation(self.body(x) + self.shortcut(x))

    return Block()


def _separable_size(
    *, batch: int, c_in: int, c_out: int, size: int, kernel: int, stride: int, expansion: int, squeeze: bool, activation: str
) -> Size:
    out = conv_out(size, kernel, stride, kernel // 2)
    wide = c_in * expansion
    expand = c_in * wide if expansion > 1 else 0
    weights = expand + wide * kernel**2 + wide * c_out
    touched = c_in * size**2 + 5 * wide * (size**2 * (expansion > 1) + out**2) + 3 * c_out * out**2
    flops = 2 * batch * (expand * size**2 + (wide * kernel**2 + wide * c_out) * out**2)
    return Size(weights + batch * touched, flops)


@workload(
    "depthwise_separable_block",
    kind="synthetic",
    axes=(
        BATCH,
        dim("c_in", 32, "input channels"),
        dim("c_out", 64, "output channels"),
        SIZE,
        KERNEL,
        dim("stride", 1, "step of the depthwise convolution"),
        dim("expansion", 1, "factor by which a first 1x1 convolution widens; 1 for none"),
        Axis("squeeze", False, "whether channels are weighed by squeeze and excitation"),
        activation_axis("hardswish"),
    ),
    size=_separable_size,
)
def depthwise_separable_block(
    make: Maker, *, batch: int, c_in: int, c_out: int, size: int, kernel: int, stride: int, expansion: int, squeeze: bool,
    activation: str,
) -> Built:  # fmt: skip
    """Depthwise and 1x1 convolution, optionally widened before, channels weighed, and a residual where shapes allow."""
    return Built(
        make.module(lambda: separable_module(c_in, c_out, kernel, stride, expansion, squeeze, activation)),
        (make.tensor(batch, c_in, size, size),),
    )


def separable_module(
    c_in: int, c_out: int, kernel: int, stride: int, expansion: int, squeeze: bool, activation: str
) -> torch.nn.Module:
    """An inverted residual block (Sandler et al., 2018), with squeeze and excitation (Hu et al., 2018) if asked for."""
    import torch

    wide = c_in * expansion

    class Weigh(torch.nn.Module):
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
                layers += [*conv_norm(c_in, wide, 1), activation_module(activation)]
            layers += [*conv_norm(wide, wide, kernel, stride, groups=wide), activation_module(activation)]
            if squeeze:
                layers.append(Weigh())
            self.body = torch.nn.Sequential(*layers, *conv_norm(wide, c_out, 1))
            self.residual = stride == 1 and c_in == c_out

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.body(x) if self.residual else self.body(x)

    return Block()


def _transformer_size(*, batch: int, seq_len: int, d_model: int, heads: int, mlp_ratio: int, depth: int, activation: str) -> Size:
    weights = d_model**2 * (4 + 2 * mlp_ratio)
    tokens = batch * seq_len
    attention = 4 * batch * seq_len**2 * d_model
    return Size(depth * (weights + tokens * d_model * (14 + 3 * mlp_ratio)), depth * (2 * tokens * weights + attention))


@workload(
    "transformer_block",
    kind="synthetic",
    axes=(
        BATCH,
        dim("seq_len", 196, "tokens"),
        dim("d_model", 384, "width of a token, a multiple of heads"),
        dim("heads", 6, "attention heads"),
        dim("mlp_ratio", 4, "hidden width of the MLP over d_model"),
        dim("depth", 1, "blocks in a row"),
        activation_axis("gelu"),
    ),
    size=_transformer_size,
)
def transformer_block(
    make: Maker, *, batch: int, seq_len: int, d_model: int, heads: int, mlp_ratio: int, depth: int, activation: str
) -> Built:
    """Attention and MLP, each behind a layer normalisation and with a residual; several of these in a row."""
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
                activation_module(activation),
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
