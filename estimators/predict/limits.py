"""Roofs: the peak of the units and the bandwidth of the memories, as a profile names them, and what no machine can pass."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from shmoo.estimators.graph.dtypes import BITS, COMPUTE_DTYPES, shown_dtype
from shmoo.estimators.machine.coefficients import Coefficients, dot_products, on_tensor_cores
from shmoo.estimators.machine.names import whose
from shmoo.estimators.machine.profile import ArchitectureProfile
from shmoo.estimators.predict.energy import bytes_energy, dynamic_energy, flops_energy
from shmoo.estimators.predict.model import MATRIX, SPECIAL, VECTOR, issued_flops
from shmoo.estimators.table import Floats, KernelTable
from shmoo.estimators.tiling.base import Tiling, per_kernel, resident

PUBLISHED = ("datasheet", "literature", "simulated")
"""Sources of a bandwidth of the main memory that is the one of its pins; a fitted one is what kernels reached."""


@dataclass(frozen=True, slots=True)
class LeastTime:
    """Seconds that a machine cannot do without: (..., K) of each kernel on the device, (..., S) of each segment."""

    kernels: Floats
    segments: Floats


def least_time(table: KernelTable, tiling: Tiling, c: Coefficients) -> LeastTime:
    """Seconds at the peak, or to move at the bandwidth what has to be moved, whichever is longer.

    Where a strategy counts cycles, a program's kernels run beside each other, so their sums count. Elsewhere kernels follow each
    other: products and attention at the peak of the highest clock, and bytes that no cache can have kept.
    """
    if tiling.cycles is None:
        kernels = np.maximum(_least_computing(table, c), _least_moving(table, c))
        return LeastTime(kernels, table.of_segments(kernels))
    last = c.profile.levels[-1]
    computing = table.matrix_flops / matrix_peaks(c, table.dtype)
    moving = np.minimum(tiling.level_bytes[last], table.bytes) / c.value(f"bandwidth.{last}")
    computed, moved = map(table.of_segments, np.broadcast_arrays(computing, moving))
    return LeastTime(np.zeros(len(table)), np.maximum(computed, moved - (c.find("gap") or 0.0)))


def _least_computing(table: KernelTable, c: Coefficients) -> Floats:
    """(..., K) seconds of products and attention; 0 where the highest clock is not known, and for convolutions, which may take
    fewer multiplications (Winograd's)."""
    highest = c.find("clock.highest")
    if highest is None:
        return np.zeros(len(table))
    # The last query of a causal mask sees all keys, each one before it a key less.
    seen = np.where(table.causal > 0, np.clip(1.0 - (table.m - 1.0) / (2.0 * np.maximum(table.n, 1.0)), 0.0, 1.0), 1.0)
    flops = table.matrix_flops * seen * (table.is_family("gemm", "attention") & ~dot_products(table))
    faster = np.maximum(highest / _rated_clock(table, c), 1.0)
    return np.asarray(flops / (matrix_peaks(c, table.dtype) * faster))


def _rated_clock(table: KernelTable, c: Coefficients) -> Floats | float:
    """The clock that the peak of each kernel's type is named at. Peaks of tensor cores may be named at a lower one than those of
    the other units."""
    clock, lanes = c.value("clock"), c.find("matrix.lanes")
    if lanes is None:
        return clock
    of_tensor_cores = matrix_peak(c, "float16") / (2.0 * c.value("count.sms") * lanes)
    return np.where(on_tensor_cores(table, c.profile), np.minimum(of_tensor_cores, clock), clock)


def _least_moving(table: KernelTable, c: Coefficients) -> Floats:
    """(..., K) seconds of bytes that come from the main memory or go there: of those that were touched some bytes ago, caches can
    have kept no larger share than that of their capacity in these. Windows with a stride and rows from anywhere may need less
    than their operands."""
    last = c.profile.levels[-1]
    bandwidth = c.profile.coefficients[f"bandwidth.{last}"]
    if bandwidth.source not in PUBLISHED:
        return np.zeros(len(table))
    kept = sum(resident(c.profile).values()) / np.maximum(table.access_distance, 1.0)
    moved = per_kernel(table, table.access_bytes * np.clip(1.0 - kept, 0.0, 1.0))
    whole = (table.stride <= 1) & ~table.is_family("gather")
    return np.asarray(np.where(whole, moved, 0.0) / bandwidth.bounds[1])


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
    once: Floats = np.minimum(tiling.level_bytes[last], table.bytes)
    compute = np.maximum(table.matrix_flops / matrix_peaks(c, table.dtype), loop_seconds(table, c))
    energy = None
    issued = issued_flops(table, tiling, c, runtime)
    rated = dynamic_energy(table, tiling, c, issued)
    if rated is not None and taken_j is not None:
        # A mask, or fewer multiplications (Winograd's), may leave less to do than the operator counts.
        least = flops_energy(table, c, np.minimum(issued, table.matrix_flops)) + bytes_energy({last: once}, c)
        energy = taken_j * least / np.maximum(rated.chip + rated.memory, 1e-30)
    memory = once / c.value(f"bandwidth.{last}")
    for level, nbytes in tiling.level_bytes.items():
        memory = np.maximum(memory, np.minimum(nbytes, table.bytes) / c.value(f"bandwidth.{level}"))
    return Roofs(compute, memory, energy)


def matrix_peaks(c: Coefficients, dtypes: np.ndarray) -> np.ndarray:
    """(..., K) flop/s of contractions in types of `COMPUTE_DTYPES`, by code."""
    return c.by_dtype(dtypes, MATRIX)


def narrowed(profile: ArchitectureProfile, dtypes: Iterable[str]) -> tuple[str, ...]:
    """A sentence for each type of `COMPUTE_DTYPES` that a machine does not multiply: what it multiplies instead. Where there is
    only a narrower type, the estimate is that of a quantized model."""
    c, said = Coefficients(profile), []
    for dtype in sorted(set(dtypes)):
        names = MATRIX[COMPUTE_DTYPES.index(dtype)]
        rated = next((whose(name) for name in names if c.find(name) is not None), dtype)
        lacking = f"{profile.name} does not multiply {shown_dtype(dtype)}"
        if BITS[rated] < BITS[dtype]:
            said.append(f"{lacking}: its products take the time of {shown_dtype(rated)}, as of a quantized model")
        elif rated != dtype and BITS[dtype] <= 16 and f"peak.vector.{dtype}" not in profile.coefficients:
            said.append(f"{lacking}: its values are multiplied in {shown_dtype(rated)}")
    return tuple(said)


def loop_seconds(table: KernelTable, c: Coefficients) -> Floats:
    """(K,) seconds of each kernel's arithmetic outside of contractions with every unit at its peak."""
    vector: Floats = table.vector_flops / c.by_dtype(table.dtype, VECTOR)
    if c.find(*SPECIAL[0]) is None:
        return vector
    return np.maximum(vector, table.special_flops / c.by_dtype(table.dtype, SPECIAL))


def matrix_peak(c: Coefficients, dtype: str) -> float | np.ndarray:
    """flop/s of contractions in a type of `COMPUTE_DTYPES`, or of the type that stands in for it."""
    return c.value(*MATRIX[COMPUTE_DTYPES.index(dtype)])
