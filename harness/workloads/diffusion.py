"""Denoisers of diffusion models: the diffusion transformer with adaptive layer norm (W. Peebles, S. Xie, Scalable Diffusion
Models with Transformers, 2023), and the U-Net of latent diffusion with cross-attention to text (R. Rombach et al.,
High-Resolution Image Synthesis with Latent Diffusion Models, 2022), in the size of 860 million parameters."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

LATENT_CHANNELS = 4
CLASSES = 1000
_FREQUENCIES = 256
"""Sines and cosines that encode a time step before its multilayer perceptron."""

WIDTH = 320
STAGES = (1, 2, 4, 4)
"""Widths of the stages in multiples of `WIDTH`, each stage at half the size of the one before."""
DEPTH = 2
"""Residual blocks of a stage on the way down; one more on the way up."""
ATTENDING = (0, 1, 2)
HEADS = 8
CONTEXT = 768
"""Features of a text token."""
_GROUPS = 32


def time_features(time: Tensor, count: int) -> Tensor:
    """Cosines and sines of (batch,) times at frequencies from 1 down to 1/10000: (batch, count)."""
    half = count // 2
    frequencies = torch.exp(-math.log(10000) / half * torch.arange(half, device=time.device, dtype=time.dtype))
    angles = time[:, None] * frequencies
    return torch.cat((angles.cos(), angles.sin()), dim=-1)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """(batch, tokens, width) scaled and shifted by (batch, width)."""
    return x * (1 + scale[:, None]) + shift[:, None]


class _SelfAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        query, key, value = self.qkv(x).view(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        return self.out(mixed.transpose(1, 2).reshape(batch, tokens, width))


class _DiTBlock(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.attention = _SelfAttention(width, heads)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width))
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(condition).chunk(6, dim=1)
        x = x + gate1[:, None] * self.attention(modulate(self.norm1(x), shift1, scale1))
        return x + gate2[:, None] * self.mlp(modulate(self.norm2(x), shift2, scale2))


class DiT(nn.Module):
    """Noise and its variance from noisy latents (batch, 4, size, size), times (batch,) and class numbers (batch,).

    Args:
        tokens: patches of an image, each of `patch` by `patch` latent pixels.
    """

    def __init__(self, depth: int, width: int, heads: int, *, patch: int, tokens: int) -> None:
        super().__init__()
        self.patch = patch
        self.patches = nn.Conv2d(LATENT_CHANNELS, width, patch, stride=patch)
        self.positions = nn.Parameter(torch.randn(1, tokens, width) * 0.02)
        self.time = nn.Sequential(nn.Linear(_FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))
        # One more class, for guidance, means no class.
        self.label = nn.Embedding(CLASSES + 1, width)
        self.blocks = nn.ModuleList(_DiTBlock(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))
        self.out = nn.Linear(width, patch * patch * 2 * LATENT_CHANNELS)

    def forward(self, latents: Tensor, time: Tensor, label: Tensor) -> Tensor:
        """Predict the noise in latents (batch, channels, height, width) at times (batch,), given the condition."""
        rows, columns = (extent // self.patch for extent in latents.shape[-2:])
        x = self.patches(latents).flatten(2).transpose(1, 2) + self.positions
        condition = self.time(time_features(time, _FREQUENCIES)) + self.label(label)
        for block in self.blocks:
            x = block(x, condition)
        shift, scale = self.modulation(condition).chunk(2, dim=1)
        x = self.out(modulate(self.norm(x), shift, scale))
        x = x.view(len(x), rows, columns, self.patch, self.patch, -1)
        return x.permute(0, 5, 1, 3, 2, 4).reshape(len(x), -1, rows * self.patch, columns * self.patch)


class _Residual(nn.Module):
    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.before = nn.Sequential(nn.GroupNorm(_GROUPS, c_in), nn.SiLU(), nn.Conv2d(c_in, c_out, 3, padding=1))
        self.time = nn.Sequential(nn.SiLU(), nn.Linear(4 * WIDTH, c_out))
        self.after = nn.Sequential(nn.GroupNorm(_GROUPS, c_out), nn.SiLU(), nn.Conv2d(c_out, c_out, 3, padding=1))
        self.skip = nn.Identity() if c_in == c_out else nn.Conv2d(c_in, c_out, 1)

    def forward(self, x: Tensor, time: Tensor, text: Tensor) -> Tensor:
        return self.skip(x) + self.after(self.before(x) + self.time(time)[:, :, None, None])


class _CrossAttention(nn.Module):
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
    """A linear layer whose one half weights the other through GELU."""

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
        self.itself = _CrossAttention(width, width)
        self.text = _CrossAttention(width, CONTEXT)
        self.gated = _Gated(width)
        self.out = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor, time: Tensor, text: Tensor) -> Tensor:
        pixels = self.into(self.norm(x)).flatten(2).transpose(1, 2)
        normed = self.norms[0](pixels)
        pixels = pixels + self.itself(normed, normed)
        pixels = pixels + self.text(self.norms[1](pixels), text)
        pixels = pixels + self.gated(self.norms[2](pixels))
        return x + self.out(pixels.transpose(1, 2).reshape(x.shape))


class _Resample(nn.Module):
    """A convolution that halves the image, or doubles it after nearest-neighbor resampling."""

    def __init__(self, width: int, *, double: bool) -> None:
        super().__init__()
        self.double = double
        self.conv = nn.Conv2d(width, width, 3, stride=1 if double else 2, padding=1)

    def forward(self, x: Tensor, time: Tensor, text: Tensor) -> Tensor:
        return self.conv(functional.interpolate(x, scale_factor=2, mode="nearest") if self.double else x)


class _Chain(nn.ModuleList):
    def forward(self, x: Tensor, time: Tensor, text: Tensor) -> Tensor:
        for module in self:
            x = module(x, time, text)
        return x


def _stage(stage: int, c_in: int, c_out: int, *extra_layers: nn.Module) -> _Chain:
    attends = [_Transformer(c_out)] if stage in ATTENDING else []
    return _Chain([_Residual(c_in, c_out), *attends, *extra_layers])


class LatentUNet(nn.Module):
    """The noise in latents (batch, 4, size, size) at times (batch,) with text (batch, tokens, 768); the size a multiple of 8."""

    def __init__(self) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.SiLU(), nn.Linear(4 * WIDTH, 4 * WIDTH))
        self.first = nn.Conv2d(LATENT_CHANNELS, WIDTH, 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        width, skips = WIDTH, [WIDTH]
        for stage, multiple in enumerate(STAGES):
            for _ in range(DEPTH):
                self.down.append(_stage(stage, width, WIDTH * multiple))
                width = WIDTH * multiple
                skips.append(width)
            if stage < len(STAGES) - 1:
                self.down.append(_Chain([_Resample(width, double=False)]))
                skips.append(width)
        self.middle = _Chain([_Residual(width, width), _Transformer(width), _Residual(width, width)])
        for stage, multiple in reversed(list(enumerate(STAGES))):
            for position in range(DEPTH + 1):
                upsampling = [_Resample(WIDTH * multiple, double=True)] if stage and position == DEPTH else []
                self.up.append(_stage(stage, width + skips.pop(), WIDTH * multiple, *upsampling))
                width = WIDTH * multiple
        self.last = nn.Sequential(nn.GroupNorm(_GROUPS, width), nn.SiLU(), nn.Conv2d(width, LATENT_CHANNELS, 3, padding=1))

    def forward(self, latents: Tensor, time: Tensor, text: Tensor) -> Tensor:
        """Predict the noise in latents (batch, channels, height, width) at times (batch,), given the condition."""
        condition = self.time(time_features(time, WIDTH))
        x = self.first(latents)
        skips = [x]
        for stage in self.down:
            x = stage(x, condition, text)
            skips.append(x)
        x = self.middle(x, condition, text)
        for stage in self.up:
            x = stage(torch.cat((x, skips.pop()), dim=1), condition, text)
        return self.last(x)
