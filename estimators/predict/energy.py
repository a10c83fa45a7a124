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
from shmoo.estimators.machine.coefficients import Coefficients, algorithm_codes, in_tensor_kernels, voltage_factor
from shmoo.estimators.machine.names import under
from shmoo.estimators.machine.profile import ArchitectureProfile
from shmoo.estimators.table import Floats, Ints, KernelTable
from shmoo.estimators.tiling.base import Tiling

ONSET = 2.0
"""Exponent with which a power cap sets in around `throttle.time`: a controller averages over a while before it acts."""
STEPS = 8
"""Newton steps to the clock at which a board meets its cap."""
SETTLED = 1e-4
"""Change of the logarithm of that clock below which no further step is made: the error left is the square of it."""
SOLVED_AT_ONCE = 1 << 14
"""Kernels whose clock is looked for at once: their arrays stay in a core's cache."""
LEAST_NEEDED = 1e-3
"""Least share of the clock that any kernel needs: something on the chip has to ask the memory."""
LEAST_BUDGET = 0.01
"""Share of a power cap that is left for work however much of it static power takes."""
IN_REGISTERS = 0.1
"""Energy of an operation on registers relative to that of a loop over memory: one instruction of about ten."""
WARM_UP_S = 20.0
"""Time constant of warmth. On a T4, products of more than 5 ms ran faster after little load than after much; 10 to 30 s describe
these measurements equally well (docs/model.md, "Tried")."""
CALLS, FASTEST = 25, 5
"""Repetitions of a call, and how many of them count: the fastest, which on a board that warms are the first. The tables and
models that the coefficients of GPUs come from were measured so (Lee et al., ASPLOS 2025)."""
_FALLBACK_DTYPES = ("float32", "bfloat16", "float16", "int8")
"""Where a unit has no rate for a type, nor for a wider one (`COMPUTED_AS`), its rate for the first of these that it has: XLA
multiplies float32 in bfloat16 by default, and a machine with integer units only runs a quantized model."""


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
    """(..., K) dynamic joules of kernels: of what the chip does, which follow its clock, and of main memory."""

    chip: Floats
    memory: Floats


def has_energy(profile: ArchitectureProfile) -> bool:
    """Whether the profile knows enough to price energy: a flop, a byte of main memory, and static power."""
    names = profile.coefficients
    flop = "energy.flop" in names or under("energy.flop.matrix", names)
    return bool(flop) and f"energy.byte.{profile.levels[-1]}" in names and "power.static" in names


def has_cap(c: Coefficients) -> bool:
    """Whether the machine holds a power cap."""
    return c.find("throttle.cap") is not None and c.find("power.tdp") is not None


def dynamic_energy(table: KernelTable, tiling: Tiling, c: Coefficients, issued: Floats) -> Joules | None:
    """Joules of kernels at the machine's clock; `None` where the profile has no energy coefficients.

    Args:
        issued: (..., K) matrix flops that the units carry out.
    """
    if not has_energy(c.profile):
        return None
    last = c.profile.levels[-1]
    moved = tiling.level_bytes
    near, far = ({level: nbytes for level, nbytes in moved.items() if (level == last) == of} for of in (False, True))
    memory: Floats = bytes_energy(far, c) + np.zeros(len(table))
    values = _left_by_operands(table, c)
    return Joules((flops_energy(table, c, issued) + bytes_energy(near, c)) * values, memory * values)


def _left_by_operands(table: KernelTable, c: Coefficients) -> Floats | float:
    """(..., K) dynamic energy relative to that of random operands. Operands of networks are near random; those of a product that
    was measured by itself are unknown."""
    share = c.find("energy.operands")
    if share is None:
        return 1.0
    product = table.matrix_flops > 0
    alone = table.to_kernels(table.of_segments(product.astype(np.float64))) == 1.0
    return np.where(product & alone, share, 1.0)


def flops_energy(table: KernelTable, c: Coefficients, issued: Floats | None = None) -> Floats:
    """(..., K) joules of each kernel's arithmetic.

    Args:
        issued: (..., K) matrix flops that the units carry out; those of the operators for `None`.
    """
    matrix: Floats = (table.matrix_flops if issued is None else issued) * c.by_dtype(table.dtype, _E_MATRIX)
    if c.find("energy.share") is not None:
        matrix = matrix * c.by_algorithm(algorithm_codes(table, c.profile), "energy.share")
    vector = loop_operations(table, c.profile.family) * c.by_dtype(table.dtype, _E_VECTOR)
    return (matrix + vector) * voltage_factor(c)


def loop_operations(table: KernelTable, family: str) -> Floats:
    """(K,) operations of loops that take energy. Beside each, a loop of a GPU loads, converts, addresses and stores, in some ten
    instructions; those within a contraction's kernel work on registers."""
    operations: Floats = table.vector_flops + table.special_flops
    return operations * np.where(table.matrix_flops > 0, IN_REGISTERS, 1.0) if family == "gpu" else operations


def bytes_energy(moved: Mapping[str, Floats], c: Coefficients) -> Floats | float:
    """(..., K) joules of moving each kernel's bytes through the levels whose energy a byte is known. Main memory has a voltage of
    its own.

    Args:
        moved: memory level -> (K,) bytes.
    """
    joules: Floats | float = 0.0
    for level, nbytes in moved.items():
        if c.find(f"energy.byte.{level}") is not None:
            voltage = 1.0 if level == c.profile.levels[-1] else voltage_factor(c)
            joules = joules + nbytes * c.value(f"energy.byte.{level}") * voltage
    return joules


def capped(
    table: KernelTable, body: Floats, clocked: Floats, joules: Joules, c: Coefficients, codes: np.ndarray
) -> tuple[Floats, Floats]:
    """Seconds and dynamic joules of kernels under sustained load of a device that holds a power cap, from those without it. What
    the work asks for beyond the cap stretches the time, once the controller has seen the load for about `throttle.time`. What
    counts is the mean power of the whole segment, back to back: kernels that wait for memory leave power to the others. A board
    that is still cool asks for `throttle.cool` less, and so takes less time; joules are those of a warm board, because meters are
    read over loops of a second and more.

    Args:
        clocked: seconds of what follows the clock.
    """
    # Kernels of empty tensors take no time on the device, and no power: a picosecond stands for none.
    busy = np.maximum(table.of_segments(body), 1e-12)
    # A network is measured by itself, from a cool board on, but what tensor cores take is known of boards that work for long: one
    # whose contractions they do counts as warm. A product by itself is repeated for tenths of a second.
    warm = table.warm
    if np.isnan(warm).any():
        tensor = in_tensor_kernels(codes)
        contracting = np.maximum(table.of_segments(body * (table.matrix_flops > 0)), 1e-12)
        sustained = table.of_segments(body * tensor) / contracting * (table.of_segments(1.0 * tensor) > 1.0)
        warm = np.where(np.isnan(warm), table.to_kernels(sustained + (1.0 - sustained) * warmth_of_repeats(busy)), warm)
    cool = 1.0 - c.by_algorithm(codes, "throttle.cool") * (1.0 - warm)
    of_chip, of_memory = (table.of_segments(np.broadcast_arrays(of * cool, body)[0]) for of in joules)
    needed = np.clip(clocked / np.maximum(body, 1e-30), LEAST_NEEDED, 1.0)
    clock = table.to_kernels(_held_clock(of_chip, of_memory, body, needed, table, c))
    slower = np.maximum(needed / clock, 1.0)
    factor = 1.0 + (slower - 1.0) / (1.0 + (c.value("throttle.time") / table.to_kernels(busy)) ** ONSET)
    seconds: Floats = body * factor
    return seconds, within_cap(table, seconds, np.broadcast_arrays(joules.chip + joules.memory, body)[0], c)


def within_cap(table: KernelTable, device_s: Floats, dynamic_j: Floats, c: Coefficients) -> Floats:
    """Dynamic joules of kernels that take these seconds: measured back to back, even a short segment draws no more than the cap,
    and a board that the cap slows draws the cap. No kernel draws more than that either: what one asks for beyond it is drawn from
    what the board can store, and counts to the kernels of its segment that leave power. As they are on machines without a cap."""
    if not has_cap(c):
        return dynamic_j
    most = _budget(c) * device_s
    share = np.minimum(1.0, table.of_segments(most) / np.maximum(table.of_segments(dynamic_j), 1e-30))
    held: Floats = dynamic_j * table.to_kernels(share)
    beyond = np.maximum(held - most, 0.0)
    if not beyond.any():
        return held
    room = np.maximum(most - held, 0.0)
    filled = np.minimum(table.of_segments(beyond) / np.maximum(table.of_segments(room), 1e-30), 1.0)
    return held - beyond + room * table.to_kernels(filled)


def least_at_cap(table: KernelTable, dynamic_j: Floats, c: Coefficients) -> Floats | float:
    """(..., S) shortest time in which the power cap lets a segment draw its dynamic joules; 0 without a cap. Kernels may overlap
    within it, and an operand may have moved in the gap before the program begins."""
    return table.of_segments(dynamic_j) / _budget(c) - (c.find("gap") or 0.0) if has_cap(c) else 0.0


def _budget(c: Coefficients) -> float | Floats:
    """Watts that the cap leaves for work. Draws of the static power reach beyond the cap, of which something is always left."""
    cap = c.value("throttle.cap") * c.value("power.tdp")
    budget: Floats = np.maximum(cap - c.value("power.static"), LEAST_BUDGET * cap)
    return budget


def _held_clock(chip: Floats, memory: Floats, body: Floats, needed: Floats, table: KernelTable, c: Coefficients) -> Floats:
    """(..., S) clock, relative to the machine's own, at which segments meet the cap; 1 where they do at the machine's own. All
    kernels of a segment run at one clock, which static power follows too. Newton's method on logarithms, halving where a step
    leaves the bracket: at a lower clock the joules fall, and more and more kernels take longer.

    Args:
        chip, memory: (..., S) dynamic joules at the machine's clock.
        body, needed: (..., K) seconds of the kernels; share of the clock down to which they take no longer.
    """
    exponent, lowest = c.value("energy.clock"), c.value("energy.floor") / voltage_factor(c)
    cap, budget = c.value("throttle.cap") * c.value("power.tdp"), _budget(c)
    busy = table.of_segments(body)
    over = np.maximum(lowest, 1.0) * (chip + (cap - budget) * busy) + memory > cap * busy
    held = np.ones(over.shape)
    numbers = (chip, memory, body, needed, exponent, lowest, cap, budget)
    if table.single:
        # Each kernel is a segment, so that only those above the cap have to be looked at.
        above = np.flatnonzero(over)
        for start in range(0, len(above), SOLVED_AT_ONCE):
            places = above[start : start + SOLVED_AT_ONCE]
            at = np.unravel_index(places, over.shape)
            held.reshape(-1)[places] = _meeting_cap(_same, _same, *(_taken(number, at) for number in numbers))
        return held
    return _meeting_cap(table.of_segments, table.to_kernels, *numbers) if over.any() else held


def _same(amounts: Floats) -> Floats:
    return amounts


def _taken(amounts: float | Floats, at: tuple[Ints, ...]) -> Floats:
    """The amounts at these places of the array that they are broadcast to; one number where all places have the same."""
    given = np.asarray(amounts)
    own = at[len(at) - given.ndim :]
    taken: Floats = given[tuple(i if extent > 1 else 0 for i, extent in zip(own, given.shape, strict=True))]
    return taken


def _meeting_cap(
    of_segments: Callable[[Floats], Floats],
    to_kernels: Callable[[Floats], Floats],
    chip: Floats,
    memory: Floats,
    body: Floats,
    needed: Floats,
    exponent: float | Floats,
    lowest: float | Floats,
    cap: float | Floats,
    budget: float | Floats,
) -> Floats:
    """(..., S) what `_held_clock` returns where at least one segment exceeds the cap."""
    idle = cap - budget
    least = budget * of_segments(body * needed) / np.maximum(chip + memory, 1e-30)
    low, high = np.minimum(np.log(np.maximum(least, 1e-30)), 0.0), np.zeros_like(least)
    clock: Floats = np.zeros_like(least)
    for _ in range(STEPS):
        follows = np.exp(exponent * clock)
        voltage = np.maximum(lowest, follows)
        slower = needed / to_kernels(np.exp(clock))
        stretched = body * np.maximum(slower, 1.0)
        taken, slowed = map(of_segments, (stretched, stretched * (slower >= 1.0)))
        taken = np.maximum(taken, 1e-30)
        static = voltage * idle
        scaled = voltage * chip + static * taken
        asked = np.maximum(scaled + memory, 1e-30)
        excess = np.log(asked / (cap * taken))
        under = excess < 0
        low, high = np.where(under, clock, low), np.where(under, high, clock)
        slope = (exponent * scaled * (follows > lowest) - static * slowed) / asked + slowed / taken
        step, before = clock - excess / np.maximum(slope, 1e-9), clock
        outside = (step < low) | (step > high)
        clock = np.where(outside, (low + high) / 2, step) if outside.any() else step
        if np.abs(clock - before).max() < SETTLED:
            break
    return np.asarray(np.exp(clock))


def warmth_of_repeats(call_s: np.ndarray) -> np.ndarray:
    """Mean warmth during the measured repetitions, for calls of these seconds that start on a cool board."""
    return 1.0 - mean_decay(FASTEST * call_s)


def mean_decay(seconds: np.ndarray) -> np.ndarray:
    """Share of a difference in warmth that remains, averaged over periods of these lengths."""
    times = np.maximum(seconds / WARM_UP_S, 1e-9)
    return -np.expm1(-times) / times
