"""Denoisers of diffusion models by name: diffusion transformers, and the U-Net of latent diffusion. Random weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from shmoo.harness.workloads.module import Built, DNNModule, Maker, dim

_BATCH = dim("batch", 1, "latent images at once")


class TransformerSize(NamedTuple):
    depth: int
    width: int
    heads: int


DIT_SIZES: Mapping[str, TransformerSize] = {
    "s": TransformerSize(12, 384, 6),
    "b": TransformerSize(12, 768, 12),
    "l": TransformerSize(24, 1024, 16),
    "xl": TransformerSize(28, 1152, 16),
}
"""Sizes of diffusion transformers (W. Peebles, S. Xie, Scalable Diffusion Models with Transformers, 2023, table 1)."""
DIT_PATCHES = (2, 4, 8)
"""Heights and widths of the patches that become tokens, in latent pixels (the same, section 3.2)."""


def _dit(letter: str, patch: int) -> DNNModule:
    def build(make: Maker, *, batch: int, size: int) -> Built:
        from shmoo.harness.workloads.dit import CLASSES, LATENT_CHANNELS, DiT

        model = make.module(lambda: DiT(*DIT_SIZES[letter], patch=patch, tokens=(size // patch) ** 2))
        return Built(model, (make.tensor(batch, LATENT_CHANNELS, size, size), make.positive(batch), make.indices(CLASSES, batch)))

    axes = (_BATCH, dim("size", 32, "height and width of the latents, an eighth of the image's", low=patch))
    meaning = "Diffusion transformer: one denoising step of class-conditional latents (Peebles and Xie 2023)"
    return DNNModule(f"dit_{letter}_{patch}", "network", axes, build, meaning)


def _latent_unet() -> DNNModule:
    def build(make: Maker, *, batch: int, size: int, context: int) -> Built:
        from shmoo.harness.workloads.latent_unet import CONTEXT, LATENT_CHANNELS, LatentUNet

        inputs = (make.tensor(batch, LATENT_CHANNELS, size, size), make.positive(batch), make.tensor(batch, context, CONTEXT))
        return Built(make.module(LatentUNet), inputs)

    axes = (
        _BATCH,
        dim("size", 64, "height and width of the latents, an eighth of the image's", low=8),
        dim("context", 77, "tokens of the text"),
    )
    meaning = "U-Net of latent diffusion with text: one denoising step (Rombach et al. 2022, the size of 860 million parameters)"
    return DNNModule("latent_diffusion_unet", "network", axes, build, meaning)


_MODULES = (*(_dit(letter, patch) for letter in DIT_SIZES for patch in DIT_PATCHES), _latent_unet())
DIFFUSION: Mapping[str, DNNModule] = {module.name: module for module in _MODULES}
"""Denoisers by name."""
