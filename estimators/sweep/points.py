"""Design points: many variants of one machine estimated at once. Every axis of the machine is an array with a dimension of its
own, so that what an axis does not change is computed once for all its values; draws are a dimension more."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from shmoo.estimators.machine.coefficients import Coefficients
from shmoo.estimators.machine.profile import ArchitectureProfile
from shmoo.estimators.predict.basis import time_basis
from shmoo.estimators.predict.director import AnalysisDirector
from shmoo.estimators.predict.pipeline import DRAWS, Priced, limits
from shmoo.estimators.table import KernelTable
from shmoo.estimators.tiling import TilingStrategy
from shmoo.estimators.variants import variant

BLOCK_NUMBERS = 2**16
"""Kernels x points estimated together: arrays of 512 KiB. Of smaller ones the calls take longer than the work."""
DRAWN_NUMBERS = 2**19
"""Draws x kernels x points estimated together, where each point has its intervals: enough to hide the overhead of arrays."""


def estimate_points(
    profile: ArchitectureProfile,
    table: KernelTable,
    runtime: str,
    axes: Mapping[str, Sequence[float | str]],
    *,
    batch: int = 1,
    strategy: TilingStrategy | None = None,
    seed: int | None = None,
) -> dict[str, np.ndarray]:
    """One call of a model on every combination of a machine's coefficients, the last axis fastest.

    Args:
        table: kernels of the model as `runtime` launches them.
        axes: coefficient -> values, in its unit, as of `variants.variant`, whose errors are raised, too.
        seed: of the draws behind intervals; no intervals for `None`.

    Returns:
        (P,) columns of the rows of a sweep that differ from point to point, as far as they are known.
    """
    sides = tuple(len(values) for values in axes.values())
    columns: dict[str, np.ndarray] = {}
    for block, values in blocks_of(axes, len(table), BLOCK_NUMBERS if seed is None else DRAWN_NUMBERS // DRAWS):
        director = AnalysisDirector(variant(profile, values), strategy)
        priced = director.price(table, runtime, seed=seed)
        basis = time_basis(table, priced.prediction, Coefficients(director.profile), runtime)
        numbers = _numbers(priced.whole(), batch) | {f"basis_{name}": share for name, share in basis.items()}
        for name, number in numbers.items():
            columns.setdefault(name, np.empty(sides))[block] = number
    return {name: column.reshape(math.prod(sides)) for name, column in columns.items()}


def _numbers(whole: Priced, batch: int) -> dict[str, np.ndarray]:
    """What a block of points costs, and the ends of its intervals where it was drawn."""
    numbers = {"device_s": whole.device_s}
    for name, (values, drawn) in whole.quantities().items():
        numbers[name] = values
        if drawn is not None:
            numbers[f"{name}_low"], numbers[f"{name}_high"] = limits(values, drawn)
    for end, other in (("", ""), ("_low", "_high"), ("_high", "_low")):
        if f"latency_s{end}" in numbers:
            numbers[f"throughput_per_s{other}"] = batch / numbers[f"latency_s{end}"]
    return {"tiles": whole.tiling.tiles.sum(axis=-1), **{name: number[..., 0] for name, number in numbers.items()}}


def blocks_of(
    axes: Mapping[str, Sequence[float | str]], kernels: int, numbers: int = BLOCK_NUMBERS
) -> Iterator[tuple[tuple[slice, ...], dict[str, np.ndarray]]]:
    """A grid of design points cut into blocks that are estimated together: the place of each in the grid, and its values, every
    axis along a dimension of its own, and a last one of extent 1 for the kernels. A block holds about `numbers` kernels x points.
    """
    step = max(1, int((numbers / max(kernels, 1)) ** (1.0 / max(len(axes), 1))))
    for corner in itertools.product(*(range(0, len(values), step) for values in axes.values())):
        block = tuple(slice(start, start + step) for start in corner)
        mesh = np.ix_(*(np.asarray(axis[part], dtype=np.float64) for axis, part in zip(axes.values(), block, strict=True)))
        yield block, {name: values[..., None] for name, values in zip(axes, mesh, strict=True)}
