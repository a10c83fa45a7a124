"""The U-Net of latent diffusion with cross-attention to text (R. Rombach et al., High-Resolution Image Synthesis with Latent
Diffusion Models, 2022), in the size of 860 million parameters."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from shmoo.harness.workloads.dit import LATENT_CHANNELS, time_features

WIDTH = 320
STAGES = (1, 2, 4, 4)
"""Multiples of `WIDTH` of the stages, each at half the size of the one before."""
DEPTH = 2
"""Residual blocks of a stage on the way down; on the way up there is one more."""
ATTENDING = (0, 1, 2)
"""Stages whose blocks attend."""
HEADS = 8
CONTEXT = 768
"""Features of a text token."""
_GROUPS = 32


class _Residual(nn.Module):
    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.before = nn.Sequential(nn.GroupNorm(_GROUPS, c_in), nn.SiLU(), nn.Conv2d(c_in, c_out, 3, padding=1))
        self.time = nn.Sequential(nn.SiLU(), nn.Linear(4 * WIDTH, c_out))
        self.after = nn.Sequential(nn.GroupNorm(_GROUPS, c_out), nn.SiLU(), nn.Conv2d(c_out, c_out, 3, padding=1))
        self.skip = nn.Identity() if c_in == c_out else nn.Conv2d(c_in, c_out, 1)

    def forward(self, x: Tensor, time: Tensor, text: Tensor) -> Tensor:
        return self.skip(x) + self.after(self.before(x) + self.time(time)[:, :, None, None])


class _Attention(nn.Module):
    def __init__(self, width: int, source: int) -> None:
        super().__init__()
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(source, width, bias=False)
        self.value = nn.Linear(source, width, bias=False)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, source: Tensor) -> Tensor:
        def heads(tensor: Tensor) -> Tensor:
            return tensor.view(*tensor.shape[:2], HEADS, -1).transpose(1, 2)

        mixed = functional.scaled_dot_product_attention(heads(self.query(x)), heads(self.key(source)), heads(self.value(source)))
        return self.out(mixed.transpose(1, 2).flatten(2))


class _Gated(nn.Module):
    """A linear layer whose one half, through GELU, weighs the other."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Linear(width, 8 * width)
        self.out = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.inner(x).chunk(2, dim=-1)
        return self.out(value * functional.gelu(gate))


class _Transformer(nn.Module):
    """Every pixel attends to all pixels, then to the text."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(_GROUPS, width, eps=1e-6)
        self.into = nn.Conv2d(width, width, 1)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.itself = _Attention(width, width)
        self.text = _Attention(width, CONTEXT)
        self.gated = _Gated(width)
        self.out = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor, time: Tensor, text: Tensor) -> Tensor:
        pixels = self.into(self.norm(x)).flatten(2).transpose(1, 2)
        own = self.norms[0](pixels)
        pixels = pixels + self.itself(own, own)
        pixels = pixels + self.text(self.norms[1](pixels), text)
        pixels = pixels + self.gated(self.norms[2](pixels))
        return x + self.out(pixels.transpose(1, 2).reshape(x.shape))


class _Down(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2, padding=1)

    def forward(self, x: Tensor, time: Tensor, text: Tensor) -> Tensor:
        return self.conv(x)


class _Up(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor, time: Tensor, text: Tensor) -> Tensor:
        return self.conv(functional.interpolate(x, scale_factor=2, mode="nearest"))


def _step(stage: int, c_in: int, c_out: int, *more: nn.Module) -> nn.ModuleList:
    """A residual block, with attention where the stage attends, and what follows."""
    attends = [_Transformer(c_out)] if stage in ATTENDING else []
    return nn.ModuleList([_Residual(c_in, c_out), *attends, *more])


class LatentUNet(nn.Module):
    """The noise in latents (batch, 4, size, size) at times (batch,) with text (batch, tokens, 768); the size a multiple of 8."""

    def __init__(self) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.SiLU(), nn.Linear(4 * WIDTH, 4 * WIDTH))
        self.first = nn.Conv2d(LATENT_CHANNELS, WIDTH, 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        width, kept = WIDTH, [WIDTH]
        for stage, multiple in enumerate(STAGES):
            for _ in range(DEPTH):
                self.down.append(_step(stage, width, WIDTH * multiple))
                width = WIDTH * multiple
                kept.append(width)
            if stage < len(STAGES) - 1:
                self.down.append(nn.ModuleList([_Down(width)]))
                kept.append(width)
        self.middle = nn.ModuleList([_Residual(width, width), _Transformer(width), _Residual(width, width)])
        for stage, multiple in reversed(list(enumerate(STAGES))):
            for position in range(DEPTH + 1):
                more = [_Up(WIDTH * multiple)] if stage and position == DEPTH else []
                self.up.append(_step(stage, width + kept.pop(), WIDTH * multiple, *more))
                width = WIDTH * multiple
        self.last = nn.Sequential(nn.GroupNorm(_GROUPS, width), nn.SiLU(), nn.Conv2d(width, LATENT_CHANNELS, 3, padding=1))

    def forward(self, latents: Tensor, time: Tensor, text: Tensor) -> Tensor:
        condition = self.time(time_features(time, WIDTH))
        x = self.first(latents)
        kept = [x]
        for step in self.down:
            x = _through(step, x, condition, text)
            kept.append(x)
        x = _through(self.middle, x, condition, text)
        for step in self.up:
            x = _through(step, torch.cat((x, kept.pop()), dim=1), condition, text)
        return self.last(x)


def _through(modules: nn.ModuleList, x: Tensor, time: Tensor, text: Tensor) -> Tensor:
    for module in modules:
        x = module(x, time, text)
    return x
