"""Roofs: the peak of the units and the bandwidth of the memories, as a profile names them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shmoo.estimators.machine.coefficients import Coefficients
from shmoo.estimators.predict.energy import bytes_energy, dynamic_energy, flops_energy
from shmoo.estimators.predict.model import issued_flops, loop_seconds, matrix_peaks
from shmoo.estimators.table import Floats, KernelTable
from shmoo.estimators.tiling.base import Tiling


def least_time(table: KernelTable, tiling: Tiling, c: Coefficients) -> np.ndarray | float:
    """(..., S) seconds that each segment takes at the peak, or to move at the bandwidth what has to be moved once, whichever is
    longer.

    0 where a strategy does not count cycles: there other ways to a contraction need fewer flops (Winograd's), clocks rise above
    the one a peak is named at, and what caches keep is estimated.
    """
    if tiling.cycles is None:
        return 0.0
    last = c.profile.levels[-1]
    computing = table.matrix_flops / matrix_peaks(c, table.dtype)
    early = tiling.level_bytes[last] - tiling.call_bytes[last]
    moving = np.maximum(np.minimum(tiling.level_bytes[last], table.bytes) - early, 0.0) / c.value(f"bandwidth.{last}")
    return np.maximum(*map(table.of_segments, np.broadcast_arrays(computing, moving)))


@dataclass(frozen=True, slots=True)
class Roofs:
    """What K kernels would take at best, arrays of length K.

    Attributes:
        compute_s: with every unit at its peak. A library may take less, with fewer multiplications (Winograd's) or a clock above
            the one that a peak is named at.
        memory_s: to move each byte that must come from main memory, or go there, once, and all bytes once through each cache.
        energy_j: of the flops and of the bytes of main memory, without static power, at the voltage and the warmth that the
            kernels run at; never more than they take. `None` where the profile has no energy coefficients.
    """

    compute_s: Floats
    memory_s: Floats
    energy_j: Floats | None

    @property
    def seconds(self) -> Floats:
        """The longer of computing and moving."""
        return np.maximum(self.compute_s, self.memory_s)


def kernel_roofs(table: KernelTable, tiling: Tiling, c: Coefficients, runtime: str, taken_j: Floats | None) -> Roofs:
    """The roof of every kernel, its launch left out.

    Args:
        taken_j: (K,) dynamic energy that the kernels are estimated to take; `None` where it is not known.
    """
    last = c.profile.levels[-1]
    once: Floats = np.minimum(tiling.call_bytes[last], table.bytes)
    compute = np.maximum(table.matrix_flops / matrix_peaks(c, table.dtype), loop_seconds(table, c))
    energy = None
    issued = issued_flops(table, tiling, c, runtime)
    rated = dynamic_energy(table, tiling, c, issued)
    if rated is not None and taken_j is not None:
        # A mask, or fewer multiplications (Winograd's), may leave less to do than the operator counts.
        least = flops_energy(table, c, np.minimum(issued, table.matrix_flops)) + bytes_energy({last: once}, c)
        energy = taken_j * least / np.maximum(rated.chip + rated.memory, 1e-30)
    memory = once / c.value(f"bandwidth.{last}")
    for level, nbytes in tiling.call_bytes.items():
        memory = np.maximum(memory, np.minimum(nbytes, table.bytes) / c.value(f"bandwidth.{level}"))
    return Roofs(compute, memory, energy)
