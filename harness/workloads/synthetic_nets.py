"""Whole networks with every size an axis. They show what single operators and blocks cannot: what many different operators cost
in turn, each on memory and code that the others have pushed away."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from shmoo.harness.workloads.module import Axis, Built, Maker, Size, dim, workload
from shmoo.harness.workloads.operators import conv_out
from shmoo.harness.workloads.synthetic import (
    BATCH,
    KERNEL,
    activation_axis,
    activation_module,
    conv_norm,
    residual_module,
    separable_module,
)

CLASSES = 1000


class _Block(NamedTuple):
    c_in: int
    c_out: int
    stride: int
    size: int
    """Height and width of its input."""


def _blocks(width: int, stages: int, depth: int, size: int) -> Iterator[_Block]:
    """The blocks of a network: every stage doubles the width, and all but the first halve the size."""
    c_in, size = width, conv_out(size, 3, 2, 1)
    for stage in range(stages):
        for position in range(depth):
            stride = 2 if stage > 0 and position == 0 else 1
            yield _Block(c_in, width * 2**stage, stride, size)
            c_in, size = width * 2**stage, conv_out(size, 3, stride, 1)


def _convnet_size(
    *, batch: int, block: str, width: int, stages: int, depth: int, size: int, kernel: int, expansion: int, squeeze: bool,
    activation: str,
) -> Size:  # fmt: skip
    weights, touched, flops = CLASSES * width * 2 ** (stages - 1), 3 * size**2, 0
    for b in _blocks(width, stages, depth, size):
        out = conv_out(b.size, kernel, b.stride, kernel // 2)
        if block == "residual":
            own = kernel**2 * (b.c_in * b.c_out + b.c_out**2)
            touched += 8 * b.c_out * out**2
            flops += 2 * own * out**2
        else:
            wide = b.c_in * expansion
            own = b.c_in * wide + wide * kernel**2 + wide * b.c_out
            touched += 5 * wide * (b.size**2 + out**2)
            flops += 2 * (b.c_in * wide * b.size**2 + (wide * kernel**2 + wide * b.c_out) * out**2)
        weights += own
    return Size(weights + batch * touched, batch * flops)


@workload(
    "convnet",
    kind="synthetic",
    axes=(
        BATCH,
        Axis("block", "residual", "kind of block", choices=("residual", "separable")),
        dim("width", 32, "channels of the first stage; every stage doubles them"),
        dim("stages", 3, "stages; all but the first halve the size"),
        dim("depth", 2, "blocks a stage"),
        dim("size", 128, "height and width of the input"),
        KERNEL,
        dim("expansion", 4, "widening inside separable blocks"),
        Axis("squeeze", False, "whether separable blocks weigh their channels"),
        activation_axis("relu"),
    ),
    size=_convnet_size,
)
def convnet(
    make: Maker, *, batch: int, block: str, width: int, stages: int, depth: int, size: int, kernel: int, expansion: int,
    squeeze: bool, activation: str,
) -> Built:  # fmt: skip
    """A stem, stages of residual or separable blocks, global pooling and a classifier."""
    import torch

    def network() -> torch.nn.Module:
        layers: list[torch.nn.Module] = [*conv_norm(3, width, 3, 2), activation_module(activation)]
        for b in _blocks(width, stages, depth, size):
            if block == "residual":
                layers.append(residual_module(b.c_in, b.c_out, kernel, b.stride, activation))
            else:
                layers.append(separable_module(b.c_in, b.c_out, kernel, b.stride, expansion, squeeze, activation))
        last = width * 2 ** (stages - 1)
        head = (torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(last, CLASSES))
        return torch.nn.Sequential(*layers, *head)

    return Built(make.module(network), (make.tensor(batch, 3, size, size),))
