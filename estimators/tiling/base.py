"""The face that every tiling strategy has, and what they share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from shmoo.estimators.kernels import KernelTable
from shmoo.estimators.profile import ArchitectureProfile
from shmoo.estimators.registry import Registry


@dataclass(frozen=True, slots=True)
class TileShape:
    """Tile extents in the iteration space (m, n, k), arrays of length K."""

    m: np.ndarray
    n: np.ndarray
    k: np.ndarray


@dataclass(frozen=True, slots=True)
class Tiling:
    """How kernels are cut on an architecture; arrays of length K.

    Attributes:
        shape: tile extents.
        tiles: number of tiles.
        waves: rounds in which the tiles run on all units at once (waves on a GPU, folds on a systolic array).
        utilisation: useful share of the units' lanes over the whole kernel, in (0, 1].
        level_bytes: memory level -> (K,) bytes that cross from that level towards the units. A level nearer than the one that
            holds the data sees its bytes too.
        state_bytes: (K,) bytes that must stay on chip while a tile runs.
        cycles: (K,) clock cycles of the matrix unit where the strategy counts them (systolic arrays, recurrences), NaN where the
            kernel does not use it; `None` for strategies that only give a utilisation.
    """

    shape: TileShape
    tiles: np.ndarray
    waves: np.ndarray
    utilisation: np.ndarray
    level_bytes: dict[str, np.ndarray]
    state_bytes: np.ndarray
    cycles: np.ndarray | None = None


class TilingStrategy(Protocol):
    """Two methods: choose the tiles, then account for them. Pass another `shape` to the second to set tile sizes by hand."""

    def choose(self, table: KernelTable, profile: ArchitectureProfile) -> TileShape:
        """Tile extents for every kernel."""

    def apply(self, table: KernelTable, profile: ArchitectureProfile, shape: TileShape) -> Tiling:
        """Tiles, waves, utilisation and bytes per level for the given extents."""


TILINGS: Registry[type[TilingStrategy]] = Registry("tiling strategy")
"""Strategy name -> class; instances take the keyword parameters of the profile's `tiling.parameters`."""


def clip_shape(table: KernelTable, m: float | np.ndarray, n: float | np.ndarray, k: float | np.ndarray) -> TileShape:
    """Extents no larger than the iteration space and no smaller than 1."""

    def clip(extent, limit):
        return np.clip(np.broadcast_to(np.asarray(extent, dtype=np.float64), limit.shape), 1.0, np.maximum(limit, 1.0))

    return TileShape(clip(m, table.m), clip(n, table.n), clip(k, table.k))


HIT_SHARPNESS = 4.0
"""Exponent of the hit share. Real caches neither hit fully up to their capacity nor miss fully beyond; 4 takes the share from
94 % at half the capacity to 6 % at twice it."""


def hit_share(distance: np.ndarray, capacity: float) -> np.ndarray:
    """Share of bytes with this reuse distance that a level of this capacity still holds: 1 / (1 + (distance / capacity)^4)."""
    return 1.0 / (1.0 + (np.asarray(distance) / capacity) ** HIT_SHARPNESS)


def compulsory_traffic(table: KernelTable, profile: ArchitectureProfile) -> dict[str, np.ndarray]:
    """(K,) bytes per level when every operand is moved once: an access reaches a level with the share that nearer levels miss."""
    missed = np.ones_like(table.access_bytes)
    traffic = {}
    for level in profile.levels:
        traffic[level] = np.bincount(table.access_kernel, weights=table.access_bytes * missed, minlength=len(table))
        capacity = profile.get(f"capacity.{level}")
        if level != profile.levels[-1] and capacity is not None:
            missed = missed * (1.0 - hit_share(table.access_distance, capacity.value))
    return traffic
