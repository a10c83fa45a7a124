"""Which tiles the vendor's float32 kernels come in, by generation.

A library offers few tiles and its own rules pick one, so what a small product wastes at the edges follows from the list. The
lists are those of the kernels that cuBLAS 12 and cuDNN 8 ran for random shapes, as their names say (`volta_sgemm_128x64_tn`: 128
columns of the row-major result by 64 rows). Types that tensor cores multiply take other kernels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

Tile = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Library:
    """Tiles as (m, n): rows of the result by columns.

    Attributes:
        products: of a matrix product.
        batched: of a batch of them.
        transformed: of the products between Winograd's transforms, where those are kernels of their own.
        patches: images x rows x columns of 2 x 2 results in a block of the fused kernel.
    """

    products: tuple[Tile, ...]
    batched: tuple[Tile, ...]
    transformed: tuple[Tile, ...]
    patches: tuple[tuple[int, int, int], ...]


DIRECT: tuple[Tile, ...] = ((128, 32), (128, 64), (128, 128))
"""Tiles of convolutions as matrix products without a matrix in memory: points by output channels."""
_WIDE: tuple[Tile, ...] = ((128, 128), (64, 128), (128, 32), (32, 128), (32, 64), (32, 32))
_LONG = ((1, 4, 8),)
LIBRARIES: Mapping[str, Library] = MappingProxyType(
    {
        "pascal": Library(
            products=((128, 32), (64, 64), (32, 128)),
            batched=((64, 128),),
            transformed=((128, 32), (64, 64)),
            patches=((1, 4, 8), (2, 4, 4), (2, 2, 8), (4, 2, 4), (4, 1, 8), (4, 4, 2)),
        ),
        "volta": Library(
            products=_WIDE,
            batched=((64, 64), (128, 32), (32, 128)),
            transformed=((64, 64), (128, 32), (32, 128)),
            patches=_LONG,
        ),
        "turing": Library(
            products=(*_WIDE, (64, 64)),
            batched=((64, 64), (64, 128), (32, 128)),
            transformed=((64, 64), (64, 128), (32, 128)),
            patches=_LONG,
        ),
        "ampere": Library(
            products=(*_WIDE, (64, 64)),
            batched=((128, 128),),
            transformed=((128, 128),),
            patches=((1, 4, 8), (4, 4, 2)),
        ),
    }
)
"""Generation -> tiles. Later chips run float32 with Ampere's kernels."""
