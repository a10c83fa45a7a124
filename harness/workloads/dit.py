"""The diffusion transformer with adaptive layer norm (W. Peebles, S. Xie, Scalable Diffusion Models with Transformers, 2023)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

LATENT_CHANNELS = 4
CLASSES = 1000
_FREQUENCIES = 256
"""Sines and cosines that describe a time step before its multilayer perceptron."""


def time_features(time: Tensor, count: int) -> Tensor:
    """Cosines and sines of (batch,) times at frequencies from 1 down to 1/10000: (batch, count)."""
    half = count // 2
    frequencies = torch.exp(-math.log(10000) / half * torch.arange(half, device=time.device, dtype=time.dtype))
    angles = time[:, None] * frequencies
    return torch.cat((angles.cos(), angles.sin()), dim=-1)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """(batch, tokens, width) scaled and shifted by (batch, width)."""
    return x * (1 + scale[:, None]) + shift[:, None]


class _Attention(nn.Module):
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


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.attention = _Attention(width, heads)
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
        # One more class stands for none, which guidance needs.
        self.label = nn.Embedding(CLASSES + 1, width)
        self.blocks = nn.ModuleList(_Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))
        self.out = nn.Linear(width, patch * patch * 2 * LATENT_CHANNELS)

    def forward(self, latents: Tensor, time: Tensor, label: Tensor) -> Tensor:
        rows, columns = (extent // self.patch for extent in latents.shape[-2:])
        x = self.patches(latents).flatten(2).transpose(1, 2) + self.positions
        condition = self.time(time_features(time, _FREQUENCIES)) + self.label(label)
        for block in self.blocks:
            x = block(x, condition)
        shift, scale = self.modulation(condition).chunk(2, dim=1)
        x = self.out(modulate(self.norm(x), shift, scale))
        x = x.view(len(x), rows, columns, self.patch, self.patch, -1)
        return x.permute(0, 5, 1, 3, 2, 4).reshape(len(x), -1, rows * self.patch, columns * self.patch)
