"""Which coefficients a fit may move, from where, how far, and which cases feel each of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from shmoo.calibrate.dataset import Block
from shmoo.estimators.coefficients import ALGORITHMS, Coefficients, algorithm_codes, algorithm_names, short_op
from shmoo.estimators.kernels import op_names
from shmoo.estimators.profile import ArchitectureProfile

MIN_CASES = 5
"""An algorithm's own coefficients are fitted from this many cases on; below, the ones it falls back to hold for it."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One coefficient to fit, in log space.

    Attributes:
        name: coefficient, dotted.
        unit: its unit.
        start, low, high: value to start from and bounds.
        prior_sd: standard deviation of the weak log-normal prior around `start`; it decides only what data leave open.
        affects: (S,) bool over the cases of all blocks together.
    """

    name: str
    unit: str
    start: float
    low: float
    high: float
    prior_sd: float
    affects: np.ndarray


# stem -> (unit, low, high, prior sd of the log). Bounds are physical: an efficiency above 1.6 is more than Winograd's transform
# can save, a launch below 50 ns is less than one call through Python.
_SPACE = {
    "efficiency": ("1", 1e-3, 1.6, 1.0),
    "efficiency.vector": ("1", 1e-3, 4.0, 1.0),
    "efficiency.special": ("1", 1e-3, 4.0, 1.0),
    "efficiency.bandwidth": ("1", 0.01, 1.5, 0.7),
    "half.m": ("1", 1e-2, 1e3, 1.5),
    "half.n": ("1", 1e-2, 1e3, 1.5),
    "half.k": ("1", 1e-2, 2e3, 1.5),
    "overlap": ("1", 1.0, 12.0, 0.5),
    "tile_overhead": ("s", 1e-10, 1e-4, 2.0),
    "launch": ("s", 5e-8, 1e-3, 1.5),
    "graph": ("s", 5e-8, 2e-3, 1.5),
    "page_fault": ("s/B", 1e-12, 1e-8, 1.5),
    "bandwidth": ("B/s", 1e8, 1e14, 1.0),
}
_START_OF_ZERO = {"tile_overhead": 1e-7, "page_fault": 1e-10}


def parameters_for(blocks: Sequence[Block], profile: ArchitectureProfile) -> list[Parameter]:
    """The coefficients that these cases can say something about."""
    coefficients = Coefficients(profile)
    total = sum(block.table.segments for block in blocks)
    everything = np.ones(total, dtype=bool)
    usage = _usage(blocks, total)
    found: list[Parameter] = []

    def add(stem: str, suffix: str, lookup: tuple[str, ...], affects: np.ndarray, prior_sd: float | None = None) -> None:
        if affects.sum() < MIN_CASES:
            return
        unit, low, high, sd = _SPACE[stem]
        start = float(coefficients.value(*lookup)) or _START_OF_ZERO[stem]
        start = min(max(start, low * 1.01), high * 0.99)
        name = f"{stem}.{suffix}" if suffix else stem
        found.append(Parameter(name, unit, start, low, high, prior_sd or sd, affects))

    for level in profile.levels:
        known = profile.coefficients[f"bandwidth.{level}"]
        prior = None if known.source == "fallback" else max(0.1, math.log(known.bounds[1] / known.bounds[0]) / 2)
        add("bandwidth", level, (f"bandwidth.{level}",), everything, prior)
    for code, algorithm in enumerate(ALGORITHMS):
        used = usage["any"][code]
        if not used.any():
            continue
        for stem, feels in (
            ("efficiency", usage["matrix"][code]),
            ("half.m", usage["matrix"][code]),
            ("half.n", usage["matrix"][code]),
            ("half.k", usage["matrix"][code]),
            ("efficiency.vector", usage["vector"][code] & ~usage["matrix"][code]),
            ("efficiency.special", usage["special"][code] & ~usage["matrix"][code]),
            ("overlap", used),
            ("tile_overhead", usage["matrix"][code]),
        ):
            add(stem, algorithm, algorithm_names((stem,), algorithm), feels)
        if algorithm != "pointwise":  # pointwise loops define what the levels' bandwidths are
            add("efficiency.bandwidth", algorithm, algorithm_names(("efficiency.bandwidth",), algorithm), used)
        for runtime, here in usage["runtime"].items():
            general = algorithm_names((f"launch.{runtime}", "launch"), algorithm)
            rest = used & here
            for op, alone in usage["alone"].items() if runtime == "eager" else ():
                if (used & alone).sum() >= MIN_CASES:
                    add("launch", f"{runtime}.{short_op(op)}", general, used & here & usage["op"][op])
                    rest = rest & ~alone
            add("launch", f"{runtime}.{algorithm}", general, rest)
    for runtime, here in usage["runtime"].items():
        add("graph", runtime, (f"graph.{runtime}", "graph"), here & usage["several"])
    if profile.family == "cpu":
        add("page_fault", "", ("page_fault",), usage["fresh"](float(coefficients.value("page_fault.threshold"))))
    return found


def _usage(blocks: Sequence[Block], total: int) -> dict:
    """Which cases use each algorithm at all, and with which kind of work: arrays (algorithms, S)."""
    usage: dict = {kind: np.zeros((len(ALGORITHMS), total), dtype=bool) for kind in ("any", "matrix", "vector", "special")}
    runtimes: dict[str, np.ndarray] = {}
    several = np.zeros(total, dtype=bool)
    alone: dict[str, np.ndarray] = {}
    uses: dict[str, np.ndarray] = {}
    names = op_names()
    largest = np.zeros(total)
    start = 0
    for block in blocks:
        table, count = block.table, block.table.segments
        codes, where = algorithm_codes(table), table.segment + start
        for kind, work in (
            ("any", np.ones(len(table))),
            ("matrix", table.matrix_flops),
            ("vector", table.vector_flops),
            ("special", table.special_flops),
        ):
            usage[kind][codes[work > 0], where[work > 0]] = True
        runtimes.setdefault(block.runtime, np.zeros(total, dtype=bool))[start : start + count] = True
        several[start : start + count] = np.bincount(table.segment, minlength=count) > 1
        np.maximum.at(largest, where, table.fresh_bytes)
        for code in np.unique(table.op[table.op >= 0]):
            where_op = np.unique(where[table.op == code])
            uses.setdefault(names[code], np.zeros(total, dtype=bool))[where_op] = True
            alone.setdefault(names[code], np.zeros(total, dtype=bool))[where_op[~several[where_op]]] = True
        start += count
    return {
        **usage,
        "runtime": runtimes,
        "several": several,
        "alone": alone,
        "op": uses,
        "fresh": lambda threshold: largest > threshold,
    }
