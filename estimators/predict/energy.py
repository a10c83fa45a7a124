"""Energy of kernels: one set of joules prices them and meets a board's power cap (`model.py` has the equations)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from shmoo.estimators.graph.dtypes import COMPUTE_DTYPES
from shmoo.estimators.machine.catalogue import under
from shmoo.estimators.machine.coefficients import Coefficients, in_tensor_kernels
from shmoo.estimators.machine.profile import ArchitectureProfile
from shmoo.estimators.predict.heat import repeated
from shmoo.estimators.table import KernelTable
from shmoo.estimators.tiling.base import Tiling

ONSET = 2.0
"""Exponent with which a power cap sets in around `throttle.time`: a controller averages over a while before it acts."""
STEPS = 6
"""Newton steps to the clock at which a board meets its cap."""
_FALLBACK_DTYPES = ("float32", "bfloat16", "float16", "int8")
"""Where a unit has no rate for a type, its rate for the first of these that it has: XLA multiplies float32 in bfloat16 by
default, and a machine with integer units only runs a quantised model."""


def candidates(*stems: str) -> list[tuple[str, ...]]:
    """For each compute dtype the coefficient names to look up, most specific first."""
    names = []
    for dtype in COMPUTE_DTYPES:
        tries = dict.fromkeys((dtype, *_FALLBACK_DTYPES))
        names.append(tuple(f"{stem}.{t}" for stem in stems for t in tries))
    return names


_E_MATRIX = [(*names, "energy.flop") for names in candidates("energy.flop.matrix")]
_E_VECTOR = [(*names, "energy.flop") for names in candidates("energy.flop.vector", "energy.flop.matrix")]


def has_energy(profile: ArchitectureProfile) -> bool:
    """Whether the profile knows enough to price energy: a flop, a byte of main memory, and static power."""
    names = profile.coefficients
    flop = "energy.flop" in names or under("energy.flop.matrix", names)
    return bool(flop) and f"energy.byte.{profile.levels[-1]}" in names and "power.static" in names


def voltage_factor(c: Coefficients) -> float | np.ndarray:
    """Dynamic energy at a machine's clock relative to that at its rated one: the voltage squared."""
    rated = c.find("clock.rated")
    if rated is None:
        return 1.0
    return np.maximum(c.value("energy.floor"), (c.value("clock") / rated) ** c.value("energy.clock"))


def capped(
    table: KernelTable, body: np.ndarray, chip: np.ndarray, memory: np.ndarray, c: Coefficients, codes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Seconds and dynamic joules of kernels under sustained load of a device that holds a power cap, from those without it. What
    the work asks for beyond the cap stretches the time, once the controller has seen the load for about `throttle.time`. What
    counts is the mean power of the whole segment, back to back: kernels that wait for memory leave power to the others. A board
    that its cap slows draws the cap. A board that is still cool takes `throttle.cool` less."""
    starts = table.starts
    # Kernels of empty tensors take no time on the device, and no power: a picosecond stands for none.
    busy = np.maximum(np.add.reduceat(body, starts, axis=-1), 1e-12)
    place = table.segment - table.segment[0]
    # A network is measured by itself, from a cool board on; an operator in a campaign of many.
    alone = table.counts == 1
    warm = np.where(np.isnan(table.warm), np.where(alone, 1.0, repeated(busy))[..., place], table.warm)
    # What is known of a tensor core's flop is known at the warmth that a board sustains.
    sustained = np.logical_or.reduceat(in_tensor_kernels(codes), starts)
    cool = 1.0 - np.where(sustained, 0.0, c.value("throttle.cool"))[..., place] * (1.0 - warm)
    budget = (c.value("throttle.cap") * c.value("power.tdp") - c.value("power.static")) * busy
    of_chip, of_memory = (np.add.reduceat(joules * cool + np.zeros_like(body), starts, axis=-1) for joules in (chip, memory))
    slower = _slowdown(of_chip / budget, of_memory / budget, c)
    factor = 1.0 + (slower - 1.0) / (1.0 + (c.value("throttle.time") / busy) ** ONSET)
    dynamic = chip + memory
    # Measured back to back, even a short segment draws no more than the cap.
    saved = np.minimum(1.0, factor * budget / np.maximum(np.add.reduceat(dynamic, starts, axis=-1), 1e-30))
    return body * factor[..., place], dynamic * saved[..., place]


def _slowdown(chip: np.ndarray, memory: np.ndarray, c: Coefficients) -> np.ndarray:
    """Factor >= 1 by which the clock falls until chip and memory, whose power is given relative to what the cap leaves, meet it.
    Newton's method on logarithms: the power is convex in them, so steps from 1 never pass the root; without voltage scaling
    the first step is exact."""
    exponent, lowest = c.value("energy.clock"), c.value("energy.floor") / voltage_factor(c)
    slower = np.ones_like(chip)
    for _ in range(STEPS):
        voltage = np.maximum(lowest, slower**-exponent)
        asked = np.maximum(chip * voltage + memory, 1e-30)
        slope = 1.0 + exponent * chip * voltage / asked * (voltage > lowest)
        slower = np.maximum(slower * (asked / slower) ** (1.0 / slope), 1.0)
    return slower


def dynamic_energy(
    table: KernelTable, tiling: Tiling, c: Coefficients, codes: np.ndarray, issued: np.ndarray
) -> tuple[np.ndarray, np.ndarray | float]:
    """(K,) joules of what the chip does at its clock, and of main memory."""
    matrix = issued * c.by_dtype(table.dtype, _E_MATRIX)
    if c.find("energy.share") is not None:
        matrix = matrix * c.by_algorithm(codes, "energy.share")
    vector = (table.vector_flops + table.special_flops) * c.by_dtype(table.dtype, _E_VECTOR)
    *near, last = c.profile.levels
    chip = matrix + vector + _bytes_energy(tiling, c, near)
    return chip * voltage_factor(c), _bytes_energy(tiling, c, (last,))


def _bytes_energy(tiling: Tiling, c: Coefficients, levels: Sequence[str]) -> np.ndarray | float:
    """(K,) joules of moving each kernel's bytes through those of the levels whose energy a byte is known."""
    priced = [level for level in levels if level in tiling.level_bytes and c.find(f"energy.byte.{level}") is not None]
    return sum(tiling.level_bytes[level] * c.value(f"energy.byte.{level}") for level in priced)
