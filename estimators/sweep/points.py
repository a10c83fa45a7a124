"""Design points: many variants of one machine estimated at once.

Every axis of the machine is an array with a dimension of its own, so that tiles, times and energies broadcast over all
combinations, and what an axis does not change is computed once for all its values. Values only: intervals are drawn a machine
at a time (`director`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from shmoo.estimators.machine.coefficients import Coefficients
from shmoo.estimators.machine.profile import ArchitectureProfile
from shmoo.estimators.predict.basis import time_basis
from shmoo.estimators.predict.director import AnalysisDirector
from shmoo.estimators.table import KernelTable
from shmoo.estimators.tiling import TilingStrategy
from shmoo.estimators.variants import variant

BLOCK_NUMBERS = 2**15
"""Kernels x points estimated together: arrays of 256 KiB, a few of which fit a core's L2."""


@dataclass(frozen=True, slots=True)
class PointEstimates:
    """Estimates of P design points of a machine, the last axis fastest.

    Attributes:
        latency_s, tiles: (P,). energy_j: (P,), `None` where the profile has no energy coefficients.
        basis: name -> (P,) share of the predicted time, as in `director.Estimate`.
    """

    latency_s: np.ndarray
    energy_j: np.ndarray | None
    tiles: np.ndarray
    basis: dict[str, np.ndarray]


def estimate_points(
    profile: ArchitectureProfile,
    table: KernelTable,
    runtime: str,
    axes: Mapping[str, Sequence[float | str]],
    strategy: TilingStrategy | None = None,
) -> PointEstimates:
    """One call of a model on every combination of a machine's coefficients.

    Args:
        profile: the machine; `variants.variant` says what changes with a coefficient.
        table: kernels of the model as `runtime` launches them.
        axes: coefficient -> values, in its unit.
        strategy: tiling strategy in place of the profile's own.

    Raises:
        InputError: a coefficient the profile lacks, or a value it refuses.
    """
    sides = tuple(len(values) for values in axes.values())
    columns: dict[str, np.ndarray] = {}
    step = max(1, int((BLOCK_NUMBERS / max(len(table), 1)) ** (1.0 / max(len(axes), 1))))
    for corner in itertools.product(*(range(0, side, step) for side in sides)):
        block = tuple(slice(start, start + step) for start in corner)
        values = {
            name: _along(np.asarray(axis[part], dtype=np.float64), dimension, len(axes))
            for dimension, ((name, axis), part) in enumerate(zip(axes.items(), block, strict=True))
        }
        director = AnalysisDirector(variant(profile, values), strategy)
        priced = director.price(table, runtime)
        sums = {"latency_s": priced.latency_s, "tiles": priced.tiling.tiles, "energy_j": priced.energy_j}
        numbers = {name: kernels.sum(axis=-1) for name, kernels in sums.items() if kernels is not None}
        numbers |= time_basis(table, priced.prediction, Coefficients(director.profile), runtime)
        for name, number in numbers.items():
            columns.setdefault(name, np.empty(sides))[block] = number
    flat = {name: column.reshape(math.prod(sides)) for name, column in columns.items()}
    latency_s, energy_j, tiles = flat.pop("latency_s"), flat.pop("energy_j", None), flat.pop("tiles")
    return PointEstimates(latency_s, energy_j, tiles, flat)


def _along(values: np.ndarray, dimension: int, dimensions: int) -> np.ndarray:
    """Values along one dimension of several, and a last one of extent 1 for the kernels."""
    shape = [1] * (dimensions + 1)
    shape[dimension] = len(values)
    return values.reshape(shape)
