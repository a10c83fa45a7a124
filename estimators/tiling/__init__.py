"""Tiling strategies: how an architecture cuts a kernel into tiles."""

from shmoo.estimators.tiling.base import TILINGS, TileShape, Tiling, TilingStrategy

__all__ = ["TILINGS", "TileShape", "Tiling", "TilingStrategy"]
