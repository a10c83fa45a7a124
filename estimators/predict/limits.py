"""Roofs: the peak of the units and the bandwidth of the memories, as a profile names them, and lower bounds of time."""

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

PIN_SOURCES = ("datasheet", "literature", "simulated")
"""Sources of a main-memory bandwidth that state the bandwidth of the pins; a fitted one is the bandwidth that kernels reached."""


@dataclass(frozen=True, slots=True)
class LeastTime:
    """Lower bounds of seconds: (..., K) of each kernel on the device, (..., S) of each segment."""

    kernels: Floats
    segments: Floats


def least_time(table: KernelTable, tiling: Tiling, c: Coefficients) -> LeastTime:
    """The longer of computing at the peak and moving the compulsory bytes at the full bandwidth.

    Where a strategy counts cycles, a program's kernels overlap, so sums over each segment count. Elsewhere kernels follow each
    other; each takes at least its products and attention at the peak of the highest clock, and the bytes that no cache can hold.
    """
    if tiling.cycles is None:
        kernels = np.maximum(_least_computing(table, c), _least_moving(table, c))
        return LeastTime(kernels, table.of_segments(kernels))
    main_memory = c.profile.main_memory
    compute_s = table.matrix_flops / matrix_peaks(c, table.dtype)
    memory_s = np.minimum(tiling.level_bytes[main_memory], table.bytes) / c.value(f"bandwidth.{main_memory}")
    compute_sums, memory_sums = map(table.of_segments, np.broadcast_arrays(compute_s, memory_s))
    return LeastTime(np.zeros(len(table)), np.maximum(compute_sums, memory_sums - (c.find("gap") or 0.0)))


def _least_computing(table: KernelTable, c: Coefficients) -> Floats:
    """(..., K) seconds of products and attention; 0 where the highest clock is unknown, and for convolutions, which may take
    fewer multiplications (Winograd's)."""
    highest_clock = c.find("clock.highest")
    if highest_clock is None:
        return np.zeros(len(table))
    # Under a causal mask the last query sees all keys, and each query before it one key less.
    visible_share = np.where(table.causal > 0, np.clip(1.0 - (table.m - 1.0) / (2.0 * np.maximum(table.n, 1.0)), 0.0, 1.0), 1.0)
    flops = table.matrix_flops * visible_share * (table.is_family("gemm", "attention") & ~dot_products(table))
    clock_ratio = np.maximum(highest_clock / _rated_clock(table, c), 1.0)
    return np.asarray(flops / (matrix_peaks(c, table.dtype) * clock_ratio))


def _rated_clock(table: KernelTable, c: Coefficients) -> Floats | float:
    """The clock at which the peak of each kernel's type is stated. Peaks of tensor cores may be stated at a lower clock than
    those of the other units."""
    clock, lanes = c.value("clock"), c.find("matrix.lanes")
    if lanes is None:
        return clock
    of_tensor_cores = matrix_peak(c, "float16") / (2.0 * c.value("count.sms") * lanes)
    return np.where(on_tensor_cores(table, c.profile), np.minimum(of_tensor_cores, clock), clock)


def _least_moving(table: KernelTable, c: Coefficients) -> Floats:
    """(..., K) seconds of bytes from and to main memory. Caches can hold at most the share of an operand that their capacity has
    in the bytes touched since its last use. Strided windows and gathered rows may read less than their operands and count 0."""
    main_memory = c.profile.main_memory
    bandwidth = c.profile.coefficients[f"bandwidth.{main_memory}"]
    if bandwidth.source not in PIN_SOURCES:
        return np.zeros(len(table))
    cached_share = sum(resident(c.profile).values()) / np.maximum(table.access_distance, 1.0)
    nbytes = per_kernel(table, table.access_bytes * np.clip(1.0 - cached_share, 0.0, 1.0))
    reads_everything = (table.stride <= 1) & ~table.is_family("gather")
    return np.asarray(np.where(reads_everything, nbytes, 0.0) / bandwidth.bounds[1])


@dataclass(frozen=True, slots=True)
class Roofs:
    """Best-case time and energy of K kernels, arrays of length K.

    Attributes:
        compute_s: seconds with every unit at its peak. A library may take less, with fewer multiplications (Winograd's) or a
            clock above the one that a peak is stated at.
        memory_s: seconds to move each compulsory byte of main memory once, and all bytes once through each cache.
        energy_j: energy of the flops and of the bytes of main memory, without static power, at the voltage and the warmth of the
            run; at most the kernels' own. `None` where the profile has no energy coefficients.
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
    main_memory = c.profile.main_memory
    main_bytes: Floats = np.minimum(tiling.level_bytes[main_memory], table.bytes)
    compute = np.maximum(table.matrix_flops / matrix_peaks(c, table.dtype), loop_seconds(table, c))
    energy = None
    matrix_flops = issued_flops(table, tiling, c, runtime)
    joules = dynamic_energy(table, tiling, c, matrix_flops)
    if joules is not None and taken_j is not None:
        # With a mask or fewer multiplications (Winograd's) a kernel does less than the operator counts.
        least_j = flops_energy(table, c, np.minimum(matrix_flops, table.matrix_flops)) + bytes_energy(
            {main_memory: main_bytes}, c
        )
        energy = taken_j * least_j / np.maximum(joules.chip + joules.memory, 1e-30)
    memory = main_bytes / c.value(f"bandwidth.{main_memory}")
    for level, nbytes in tiling.level_bytes.items():
        memory = np.maximum(memory, np.minimum(nbytes, table.bytes) / c.value(f"bandwidth.{level}"))
    return Roofs(compute, memory, energy)


def matrix_peaks(c: Coefficients, dtypes: np.ndarray) -> np.ndarray:
    """(..., K) flop/s of contractions in types of `COMPUTE_DTYPES`, by code."""
    return c.by_dtype(dtypes, MATRIX)


def type_notes(profile: ArchitectureProfile, dtypes: Iterable[str]) -> tuple[str, ...]:
    """A sentence for each type of `COMPUTE_DTYPES` that a machine does not multiply: the type it multiplies instead. Where there
    is only a narrower type, the estimate is that of a quantized model."""
    c, notes = Coefficients(profile), []
    for dtype in sorted(set(dtypes)):
        names = MATRIX[COMPUTE_DTYPES.index(dtype)]
        multiplied = next((whose(name) for name in names if c.find(name) is not None), dtype)
        lacking = f"{profile.name} does not multiply {shown_dtype(dtype)}"
        if BITS[multiplied] < BITS[dtype]:
            notes.append(f"{lacking}: its products take the time of {shown_dtype(multiplied)}, as of a quantized model")
        elif multiplied != dtype and BITS[dtype] <= 16 and f"peak.vector.{dtype}" not in profile.coefficients:
            notes.append(f"{lacking}: its values are multiplied in {shown_dtype(multiplied)}")
    return tuple(notes)


def loop_seconds(table: KernelTable, c: Coefficients) -> Floats:
    """(K,) seconds of each kernel's arithmetic outside of contractions with every unit at its peak."""
    vector: Floats = table.vector_flops / c.by_dtype(table.dtype, VECTOR)
    if c.find(*SPECIAL[0]) is None:
        return vector
    return np.maximum(vector, table.special_flops / c.by_dtype(table.dtype, SPECIAL))


def matrix_peak(c: Coefficients, dtype: str) -> float | np.ndarray:
    """flop/s of contractions in a type of `COMPUTE_DTYPES`, or of the type that stands in for it."""
    return c.value(*MATRIX[COMPUTE_DTYPES.index(dtype)])
