"""Energy of kernels: one set of joules prices them and meets a board's power cap (`model.py` has the equations).

What a cap leaves for work depends on the warmth of the board, from 0 (idle) to 1 (under load for long). A die under load warms
within seconds, a warm one leaks more, and a power cap then leaves less for work: a board computes faster right after a pause than
under sustained load. Warmth follows load with one time constant, like the temperature of one body (Newton's law of cooling).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from shmoo.estimators.graph.dtypes import COMPUTE_DTYPES, COMPUTED_AS
from shmoo.estimators.machine.coefficients import Coefficients, algorithm_codes, in_tensor_kernels, power_cap, voltage_factor
from shmoo.estimators.machine.names import under
from shmoo.estimators.machine.profile import ArchitectureProfile
from shmoo.estimators.table import Floats, Ints, KernelTable
from shmoo.estimators.tiling.base import Tiling

ONSET = 2.0
"""Exponent with which a power cap sets in around `throttle.time`: a controller averages for a time before it acts."""
STEPS = 8
"""Newton steps to the clock at which a board meets its cap."""
CONVERGED = 1e-4
"""Change of the logarithm of that clock at which the steps end: the remaining error is its square."""
SOLVED_AT_ONCE = 1 << 14
"""Kernels whose clock is solved for together: their arrays stay in a core's cache."""
LEAST_NEEDED = 1e-3
"""Least share of the clock that any kernel needs: something on the chip has to issue the memory accesses."""
IN_REGISTERS = 0.1
"""Energy of an operation on registers relative to that of a loop over memory: one instruction of about ten."""
WARM_UP_S = 20.0
"""Time constant of warmth. On a T4, products of more than 5 ms ran faster after little load than after much; 10 to 30 s describe
these measurements equally well (docs/model.md, "Appendix: what was tried")."""
CALLS, FASTEST = 25, 5
"""Repetitions of a call, and how many of them count: the fastest, which on a board that warms are the first. The tables and
models that the coefficients of GPUs come from were measured so (Lee et al., ASPLOS 2025)."""
_FALLBACK_DTYPES = ("float32", "bfloat16", "float16", "int8")
"""Types whose rates stand in, in this order, where a unit has no rate for a type or a wider one (`COMPUTED_AS`): XLA multiplies
float32 in bfloat16 by default, and a machine with integer units only runs a quantized model."""


def candidates(*stems: str) -> list[tuple[str, ...]]:
    """For each compute dtype the coefficient names to look up, most specific first."""
    names = []
    for dtype in COMPUTE_DTYPES:
        tries = dict.fromkeys((*COMPUTED_AS[dtype], *_FALLBACK_DTYPES))
        names.append(tuple(f"{stem}.{t}" for stem in stems for t in tries))
    return names


_E_MATRIX = [(*names, "energy.flop") for names in candidates("energy.flop.matrix")]
_E_VECTOR = [(*names, "energy.flop") for names in candidates("energy.flop.vector", "energy.flop.matrix")]


class Joules(NamedTuple):
    """(..., K) dynamic joules of kernels: of the chip, which follow its clock, and of main memory."""

    chip: Floats
    memory: Floats


def has_energy(profile: ArchitectureProfile) -> bool:
    """True for a profile that can price energy: it has those of a flop and of a byte of main memory, and static power."""
    names = profile.coefficients
    flop = "energy.flop" in names or under("energy.flop.matrix", names)
    return bool(flop) and f"energy.byte.{profile.main_memory}" in names and "power.static" in names


def has_cap(c: Coefficients) -> bool:
    """True for a machine with a power cap."""
    return c.find("throttle.cap") is not None and c.find("power.tdp") is not None


def dynamic_energy(table: KernelTable, tiling: Tiling, c: Coefficients, matrix_flops: Floats) -> Joules | None:
    """Joules of kernels at the machine's clock; `None` where the profile has no energy coefficients.

    Args:
        matrix_flops: (..., K) matrix flops that the units carry out.
    """
    if not has_energy(c.profile):
        return None
    main_memory = c.profile.main_memory
    level_bytes = tiling.level_bytes
    chip_bytes, memory_bytes = (
        {level: nbytes for level, nbytes in level_bytes.items() if (level == main_memory) == is_main} for is_main in (False, True)
    )
    memory: Floats = bytes_energy(memory_bytes, c) + np.zeros(len(table))
    factor = _operand_factor(table, c)
    return Joules((flops_energy(table, c, matrix_flops) + bytes_energy(chip_bytes, c)) * factor, memory * factor)


def _operand_factor(table: KernelTable, c: Coefficients) -> Floats | float:
    """(..., K) dynamic energy relative to that of random operands. Operands of networks are near random; those of a product that
    was measured by itself are unknown."""
    share = c.find("energy.operands")
    if share is None:
        return 1.0
    product = table.matrix_flops > 0
    is_alone = table.to_kernels(table.of_segments(product.astype(np.float64))) == 1.0
    return np.where(product & is_alone, share, 1.0)


def flops_energy(table: KernelTable, c: Coefficients, matrix_flops: Floats | None = None) -> Floats:
    """(..., K) joules of each kernel's arithmetic.

    Args:
        matrix_flops: (..., K) matrix flops that the units carry out; those of the operators for `None`.
    """
    matrix: Floats = (table.matrix_flops if matrix_flops is None else matrix_flops) * c.by_dtype(table.dtype, _E_MATRIX)
    if c.find("energy.share") is not None:
        matrix = matrix * c.by_algorithm(algorithm_codes(table, c.profile), "energy.share")
    vector = loop_operations(table, c.profile.family) * c.by_dtype(table.dtype, _E_VECTOR)
    return (matrix + vector) * voltage_factor(c)


def loop_operations(table: KernelTable, family: str) -> Floats:
    """(K,) operations of loops that take energy. Beside each, a loop of a GPU loads, converts, addresses and stores, in some ten
    instructions; those within a contraction's kernel work on registers."""
    operations: Floats = table.vector_flops + table.special_flops
    return operations * np.where(table.matrix_flops > 0, IN_REGISTERS, 1.0) if family == "gpu" else operations


def bytes_energy(level_bytes: Mapping[str, Floats], c: Coefficients) -> Floats | float:
    """(..., K) joules of moving each kernel's bytes through the levels whose energy a byte is known. Main memory has a voltage of
    its own.

    Args:
        level_bytes: memory level -> (K,) bytes.
    """
    joules: Floats | float = 0.0
    for level, nbytes in level_bytes.items():
        if c.find(f"energy.byte.{level}") is not None:
            voltage = 1.0 if level == c.profile.main_memory else voltage_factor(c)
            joules = joules + nbytes * c.value(f"energy.byte.{level}") * voltage
    return joules


def capped(
    table: KernelTable, body: Floats, clocked_s: Floats, joules: Joules, c: Coefficients, codes: np.ndarray
) -> tuple[Floats, Floats]:
    """Seconds and dynamic joules of kernels under sustained load of a device with a power cap, from those without it. Demand
    beyond the cap stretches the time once the load has lasted for about `throttle.time`. The mean power of the whole segment
    counts, run back to back: kernels that wait for memory leave power to the others. A board that is still cool needs
    `throttle.cool` less power, and so less time; joules are those of a warm board, because meters are read over loops of a second
    and more.

    Args:
        clocked_s: the part of the seconds that follows the clock.
    """
    # Kernels of empty tensors take no time on the device, and no power: a picosecond replaces 0.
    busy_s = np.maximum(table.of_segments(body), 1e-12)
    # A network is measured from a cool board on, but energies of tensor cores were measured on boards under long load, so a
    # network whose contractions run on them counts as warm. A lone product is repeated for tenths of a second.
    warm = table.warm
    if np.isnan(warm).any():
        tensor = in_tensor_kernels(codes)
        contraction_s = np.maximum(table.of_segments(body * (table.matrix_flops > 0)), 1e-12)
        tensor_share = table.of_segments(body * tensor) / contraction_s * (table.of_segments(1.0 * tensor) > 1.0)
        warm = np.where(np.isnan(warm), table.to_kernels(tensor_share + (1.0 - tensor_share) * warmth_of_repeats(busy_s)), warm)
    cool = 1.0 - c.by_algorithm(codes, "throttle.cool") * (1.0 - warm)
    of_chip, of_memory = (table.of_segments(np.broadcast_arrays(joules_of * cool, body)[0]) for joules_of in joules)
    needed_clock = np.clip(clocked_s / np.maximum(body, 1e-30), LEAST_NEEDED, 1.0)
    clock = table.to_kernels(_capped_clock(of_chip, of_memory, body, needed_clock, table, c))
    slower = np.maximum(needed_clock / clock, 1.0)
    factor = 1.0 + (slower - 1.0) / (1.0 + (c.value("throttle.time") / table.to_kernels(busy_s)) ** ONSET)
    seconds: Floats = body * factor
    return seconds, within_cap(table, seconds, np.broadcast_arrays(joules.chip + joules.memory, body)[0], c)


def within_cap(table: KernelTable, device_s: Floats, dynamic_j: Floats, c: Coefficients) -> Floats:
    """Dynamic joules of kernels of these durations, within the cap; unchanged on machines without a cap. Run back to back, even a
    short segment draws no more than the cap, and a board that the cap slows draws the cap. No kernel draws more than that either:
    the board's storage supplies the excess, which counts for the kernels of the segment below the cap."""
    if not has_cap(c):
        return dynamic_j
    most_j = power_cap(c)[1] * device_s
    share = np.minimum(1.0, table.of_segments(most_j) / np.maximum(table.of_segments(dynamic_j), 1e-30))
    capped_j: Floats = dynamic_j * table.to_kernels(share)
    excess_j = np.maximum(capped_j - most_j, 0.0)
    if not excess_j.any():
        return capped_j
    room_j = np.maximum(most_j - capped_j, 0.0)
    fill = np.minimum(table.of_segments(excess_j) / np.maximum(table.of_segments(room_j), 1e-30), 1.0)
    return capped_j - excess_j + room_j * table.to_kernels(fill)


def least_at_cap(table: KernelTable, dynamic_j: Floats, c: Coefficients) -> Floats | float:
    """(..., S) shortest time in which a segment can draw its dynamic joules under the power cap; 0 without a cap. Kernels may
    overlap, and an operand may move in the gap before the program begins."""
    return table.of_segments(dynamic_j) / power_cap(c)[1] - (c.find("gap") or 0.0) if has_cap(c) else 0.0


def _capped_clock(
    chip: Floats, memory: Floats, body: Floats, needed_clock: Floats, table: KernelTable, c: Coefficients
) -> Floats:
    """(..., S) clock, relative to the machine's own, at which segments meet the cap; 1 for segments below it. All kernels of a
    segment run at one clock, which static power follows too. Newton's method on logarithms, with bisection where a step leaves
    the bracket: at a lower clock joules fall, and more and more kernels take longer.

    Args:
        chip, memory: (..., S) dynamic joules at the machine's clock.
        body, needed_clock: (..., K) seconds of the kernels; share of the clock down to which they take no longer.
    """
    exponent, least_voltage = c.value("energy.clock"), c.value("energy.floor") / voltage_factor(c)
    cap, budget = power_cap(c)
    busy_s = table.of_segments(body)
    exceeds_cap = np.maximum(least_voltage, 1.0) * (chip + (cap - budget) * busy_s) + memory > cap * busy_s
    clock = np.ones(exceeds_cap.shape)
    numbers = (chip, memory, body, needed_clock, exponent, least_voltage, cap, budget)
    if table.single:
        # Each kernel is a segment, so only those above the cap need a solution.
        places_above = np.flatnonzero(exceeds_cap)
        for start in range(0, len(places_above), SOLVED_AT_ONCE):
            places = places_above[start : start + SOLVED_AT_ONCE]
            indices = np.unravel_index(places, exceeds_cap.shape)
            clock.reshape(-1)[places] = _solve_clock(_identity, _identity, *(_values_at(number, indices) for number in numbers))
        return clock
    return _solve_clock(table.of_segments, table.to_kernels, *numbers) if exceeds_cap.any() else clock


def _identity(amounts: Floats) -> Floats:
    return amounts


def _values_at(amounts: float | Floats, indices: tuple[Ints, ...]) -> Floats:
    """The amounts at these places of the array that they are broadcast to; one number where all places have the same."""
    values = np.asarray(amounts)
    own_indices = indices[len(indices) - values.ndim :]
    selection: Floats = values[tuple(i if extent > 1 else 0 for i, extent in zip(own_indices, values.shape, strict=True))]
    return selection


def _solve_clock(
    of_segments: Callable[[Floats], Floats],
    to_kernels: Callable[[Floats], Floats],
    chip: Floats,
    memory: Floats,
    body: Floats,
    needed_clock: Floats,
    exponent: float | Floats,
    least_voltage: float | Floats,
    cap: float | Floats,
    budget: float | Floats,
) -> Floats:
    """(..., S) the result of `_capped_clock` where at least one segment exceeds the cap."""
    static_w = cap - budget
    least_clock = budget * of_segments(body * needed_clock) / np.maximum(chip + memory, 1e-30)
    low, high = np.minimum(np.log(np.maximum(least_clock, 1e-30)), 0.0), np.zeros_like(least_clock)
    clock: Floats = np.zeros_like(least_clock)
    for _ in range(STEPS):
        follows = np.exp(exponent * clock)
        voltage = np.maximum(least_voltage, follows)
        slower = needed_clock / to_kernels(np.exp(clock))
        stretched_s = body * np.maximum(slower, 1.0)
        total_s, slowed_s = map(of_segments, (stretched_s, stretched_s * (slower >= 1.0)))
        total_s = np.maximum(total_s, 1e-30)
        static = voltage * static_w
        clocked_j = voltage * chip + static * total_s
        total_j = np.maximum(clocked_j + memory, 1e-30)
        excess = np.log(total_j / (cap * total_s))
        is_below = excess < 0
        low, high = np.where(is_below, clock, low), np.where(is_below, high, clock)
        slope = (exponent * clocked_j * (follows > least_voltage) - static * slowed_s) / total_j + slowed_s / total_s
        step, previous = clock - excess / np.maximum(slope, 1e-9), clock
        leaves_bracket = (step < low) | (step > high)
        clock = np.where(leaves_bracket, (low + high) / 2, step) if leaves_bracket.any() else step
        if np.abs(clock - previous).max() < CONVERGED:
            break
    return np.asarray(np.exp(clock))


def warmth_of_repeats(call_s: np.ndarray) -> np.ndarray:
    """Mean warmth during the measured repetitions, for calls of these seconds that start on a cool board."""
    return 1.0 - mean_decay(FASTEST * call_s)


def mean_decay(seconds: np.ndarray) -> np.ndarray:
    """Share of a difference in warmth that remains, averaged over periods of these lengths."""
    relative_times = np.maximum(seconds / WARM_UP_S, 1e-9)
    return -np.expm1(-relative_times) / relative_times
