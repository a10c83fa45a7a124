"""Winograd's minimal filtering on a GPU's float32 units: the traffic and the work of its kernels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from shmoo.estimators.machine.profile import ArchitectureProfile
from shmoo.estimators.table import KernelTable
from shmoo.estimators.tiling.base import AlternativeAlgorithm, Blocks, ceil_div, element_bytes, hit_share, resident
from shmoo.estimators.tiling.gpu.blocks import SLICE

_FUSED_TILES, _FUSED_FILTERS = 32, 32
"""Tiles of 2 x 2 results by output channels in a block of fused Winograd (Lavin and Gray, CVPR 2016)."""


def fused_winograd(
    table: KernelTable, profile: ArchitectureProfile, patches: tuple[tuple[int, int, int], ...]
) -> AlternativeAlgorithm:
    """Fused Winograd: blocks of 32 tiles of 2 x 2 results by 32 filters, 16 products each."""
    multiprocessors = profile.value("count.sms")
    channels, rows, columns = table.channels_in, ceil_div(table.height, 2), ceil_div(table.width, 2)
    tiles = table.images * rows * columns
    patch_blocks = np.min([ceil_div(table.images, i) * ceil_div(rows, h) * ceil_div(columns, w) for i, h, w in patches], axis=0)
    blocks = patch_blocks * ceil_div(table.n, _FUSED_FILTERS)
    queue = ceil_div(blocks, multiprocessors)
    issued = _FUSED_TILES * _FUSED_FILTERS * SLICE * ceil_div(channels, SLICE)
    useful = tiles * table.n * channels
    outputs = 16.0 * _FUSED_TILES * _FUSED_FILTERS
    reuse = np.full(len(table), _FUSED_TILES * _FUSED_FILTERS / (_FUSED_TILES + _FUSED_FILTERS))
    return AlternativeAlgorithm(
        name="winograd_fused",
        offered=np.ones(len(table), dtype=bool),
        share=16 * tiles / (9 * table.m),
        utilisation=np.minimum(useful / (queue * multiprocessors * issued), 1.0),
        blocks=Blocks(reuse, channels, outputs * queue / ceil_div(queue, 2.0), np.minimum(useful / (blocks * issued), 1.0)),
        moved=exchange_traffic((16 * element_bytes(table) * channels * table.n)[None], profile),
        kernels=2,
    )


def placed(way: AlternativeAlgorithm, applies: np.ndarray) -> AlternativeAlgorithm:
    """An algorithm for the kernels that it applies to, with its arrays extended to all kernels; 1 elsewhere."""

    def place(values: np.ndarray) -> np.ndarray:
        extended = np.ones((*np.shape(values)[:-1], len(applies)))
        extended[..., applies] = values
        return extended

    return replace(
        way,
        offered=applies,
        share=place(way.share),
        utilisation=place(way.utilisation),
        blocks=Blocks(*(place(part) for part in (way.blocks.reuse, way.blocks.depth, way.blocks.at_work, way.blocks.filled))),
        moved={level: place(nbytes) for level, nbytes in way.moved.items()},
    )


def exchange_traffic(amounts: np.ndarray, profile: ArchitectureProfile) -> dict[str, np.ndarray]:
    """Level -> bytes moved by arrays of (arrays, K) bytes, each written by one kernel and read by the next."""
    capacities = resident(profile)
    level = profile.main_memory
    traffic = {level: 2.0 * amounts.sum(axis=0)}
    if "l2" in capacities:
        traffic["l2"] = traffic[level]
        traffic[level] = sum(2.0 * amount * (1.0 - hit_share(amount, capacities["l2"])) for amount in amounts)
    return traffic
