"""Which coefficients a fit may move, from where, how far, and which cases feel each of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from shmoo.calibrate.dataset import Block
from shmoo.estimators.coefficients import (
    ALGORITHMS,
    Coefficients,
    algorithm_codes,
    algorithm_names,
    converts_layout,
    short_op,
)
from shmoo.estimators.errors import unknown
from shmoo.estimators.kernels import op_names
from shmoo.estimators.model import CALLED_ALONE
from shmoo.estimators.profile import ArchitectureProfile

MIN_CASES = 2
"""An algorithm's own coefficients are fitted from this many cases on: one says nothing of what differs from its parent. Priors
hold what few cases leave open."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One coefficient to fit, in log space.

    Attributes:
        name: coefficient, dotted.
        unit: its unit.
        start, low, high: value to start from and bounds.
        prior_sd: standard deviation of the log-normal prior around the parent's value, or around `start` without one.
        affects: (S,) bool over the cases of all blocks together.
        parent: the more general coefficient this one is drawn towards (operator -> algorithm -> machine), if that is fitted too.
    """

    name: str
    unit: str
    start: float
    low: float
    high: float
    prior_sd: float
    affects: np.ndarray
    parent: str | None = None


# stem -> (unit, low, high, prior sd of the log). Bounds are physical: an efficiency above 1.6 is more than Winograd's transform
# can save, a launch below 50 ns is less than one call through Python, a power controller acts within a few tens of milliseconds,
# voltage falls at most in proportion to the clock, and energy with its square.
_SPACE = {
    "efficiency": ("1", 1e-3, 1.6, 1.0),
    "efficiency.vector": ("1", 1e-3, 4.0, 1.0),
    "efficiency.special": ("1", 0.05, 4.0, 1.0),
    "efficiency.bandwidth": ("1", 0.01, 1.5, 0.7),
    "half.m": ("1", 1e-2, 1e3, 1.5),
    "half.n": ("1", 1e-2, 1e3, 1.5),
    "half.k": ("1", 1e-2, 2e3, 1.5),
    "half.tile": ("1", 1e-2, 1e2, 1.0),
    "half.far": ("1", 1e-2, 3e2, 1.0),
    "half.fill": ("1", 1.0, 1e6, 1.0),
    "overlap": ("1", 1.0, 12.0, 0.5),
    "tile_overhead": ("s", 1e-10, 1e-4, 2.0),
    "launch": ("s", 5e-8, 1e-3, 1.5),
    "view": ("s", 5e-8, 1e-3, 1.5),
    "switch": ("s", 5e-8, 1e-3, 1.5),
    "graph": ("s", 5e-8, 2e-3, 1.5),
    "page_fault": ("s/B", 1e-12, 1e-8, 1.5),
    "layout": ("s/B", 1e-12, 5e-10, 0.5),
    "heap.returned": ("1", 0.02, 1.0, 1.0),
    "launch_tail": ("1", 1e-2, 0.99, 0.7),
    "throttle.flop": ("J/flop", 1e-13, 1e-10, 0.3),
    "throttle.cool": ("1", 1e-2, 0.8, 1.0),
    "throttle.clock": ("1", 1e-2, 2.0, 1.0),
    "throttle.time": ("s", 1e-5, 2e-2, 1.5),
    "bandwidth": ("B/s", 1e8, 1e14, 1.0),
}
_OF_FAMILY = {
    ("gpu", "efficiency"): ("1", 0.2, 1.1, 0.1),
    ("gpu", "efficiency.bandwidth"): ("1", 0.05, 1.1, 0.3),
    ("gpu", "half.tile"): ("1", 1e-1, 1e2, 0.5),
    ("gpu", "half.k"): ("1", 1e-1, 1e3, 0.7),
    ("gpu", "half.fill"): ("1", 1e1, 1e5, 0.7),
    ("gpu", "tile_overhead"): ("s", 1e-9, 1e-4, 1.0),
    ("cpu", "efficiency"): ("1", 0.05, 1.6, 0.08),
}
"""(Architecture family, stem) -> the same where a family's structure says more: blocks and transforms are counted on a GPU, so
only a clock above the nominal one lets its contractions beat the peak. On a CPU all contractions end in the same register blocks,
so their rates on large shapes are near each other's, whatever the clock is."""
_START_OF_ZERO = {"throttle.cool": 0.1, "throttle.clock": 0.3, "tile_overhead": 1e-6, "page_fault": 1e-10}
LIBRARY_PATHS = frozenset({"conv", "conv_1x1", "conv_3x3", "conv_native", "depthwise", "conv_transpose", "conv_tensor"})
"""Algorithms that share an operator's name: what dispatching costs depends on the library that takes the call."""
COMPILED_SD = 0.15
"""Prior standard deviation of the log of a convolution's efficiency in compiled code around that in eager (the same library): a
few compiled cases must not say more. With 0.4 a held-out compiled convnet came out 3.3 times too slow, with 0.15 1.7 times."""
TYPICAL_SPECIAL_SHARE = 1 / 8
"""Special functions a unit evaluates for each vector flop it could do, roughly, on any machine."""
SLOWED = 1.5
"""A board whose float32 units would draw more than this times what its cap leaves them runs far below its nominal clock under
load, and shows how energy follows clock and warmth. Others run near it, and what is fitted of both is noise."""
_EXTENTS = {"gpu": ("half.tile", "half.far", "half.k", "half.fill")}
"""Architecture family -> extents on which a contraction's rate depends, where those are of its blocks; else `_OWN_EXTENTS`."""
_OWN_EXTENTS = ("half.m", "half.n", "half.k")
_REFERENCE = ("efficiency.bandwidth", "pointwise")
"""Pointwise loops define what the levels' bandwidths are, so their share of it is fixed."""
_PUBLISHED_BANDWIDTHS = frozenset({"gpu", "tpu"})
"""Families whose levels keep their published bandwidths: every operand passes through all of them, so measurements tell only the
share that copies reach, which is then what carries over to other chips."""
_UNITS = (
    ("efficiency.vector", lambda cases: cases.vector & ~cases.matrix),
    ("efficiency.special", lambda cases: cases.special & ~cases.matrix),
)
"""Shares of the units of loops, and the kernels that feel them."""
_WHOLE = (("efficiency", lambda cases: cases.matrix), ("overlap", lambda cases: cases.all), *_UNITS)
"""Coefficients that the algorithms' own are drawn towards, and the kernels that feel them."""
_LOOPS = (*_UNITS, ("efficiency.bandwidth", lambda cases: (cases.vector | cases.special) & ~cases.matrix))
"""Coefficients that compiled loops have of their own, and the kernels that feel them."""
_BY_ALGORITHM = (
    ("efficiency", lambda cases: cases.matrix),
    *_UNITS,
    ("overlap", lambda cases: cases.all),
    ("tile_overhead", lambda cases: cases.matrix),
    ("efficiency.bandwidth", lambda cases: cases.all),
)
"""Coefficients that each algorithm has of its own, and the kernels that feel them."""


class SearchSpace(NamedTuple):
    """Unit of a coefficient, the range that a fit searches, and the standard deviation of its log-normal prior."""

    unit: str
    low: float
    high: float
    prior_sd: float


def search_space(name: str, family: str) -> SearchSpace:
    """Where a fit looks for a coefficient of an architecture family: that of the longest part of its name that has one.

    Raises:
        InputError: no fit moves it.
    """
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        stem = ".".join(parts[:length])
        if stem in _SPACE:
            return SearchSpace(*_OF_FAMILY.get((family, stem), _SPACE[stem]))
    raise unknown("coefficient of a fit", name, _SPACE)


def parameters_for(blocks: Sequence[Block], profile: ArchitectureProfile) -> list[Parameter]:
    """The coefficients that these cases can say something about."""
    coefficients = Coefficients(profile)
    cases = _Cases(blocks, profile)
    found: list[Parameter] = []

    def add(name: str, stem: str, lookup: tuple[str, ...], kernels: np.ndarray, prior_sd: float | None = None) -> bool:
        affects = cases.with_any(kernels)
        if affects.sum() < MIN_CASES:
            return False
        unit, low, high, sd = search_space(name, profile.family)
        start = float(coefficients.value(*lookup)) or _START_OF_ZERO[stem]
        start = min(max(start, low * 1.01), high * 0.99)
        fitted = {parameter.name for parameter in found}
        parent = next((candidate for candidate in lookup if candidate != name and candidate in fitted), None)
        found.append(Parameter(name, unit, start, low, high, prior_sd or sd, affects, parent))
        return True

    extents = _EXTENTS.get(profile.family, _OWN_EXTENTS)
    shared = profile.family in _PUBLISHED_BANDWIDTHS
    for level in () if shared else profile.levels:
        known = profile.coefficients[f"bandwidth.{level}"]
        prior = None if known.assumed else max(0.1, math.log(known.bounds[1] / known.bounds[0]) / 2)
        add(f"bandwidth.{level}", "bandwidth", (f"bandwidth.{level}",), cases.all, prior)

    # From the general to the particular, so that each finds its parent.
    for stem, feels in _WHOLE:
        add(stem, stem, (stem,), feels(cases))
    for runtime in cases.runtimes:
        here = cases.in_runtime(runtime)
        add(f"launch.{runtime}", "launch", (f"launch.{runtime}", "launch"), here)
        add(f"graph.{runtime}", "graph", (f"graph.{runtime}", "graph"), here & ~(cases.alone & (runtime in CALLED_ALONE)))
        if runtime == "eager":
            add("view.eager", "launch", ("view.eager", "launch"), here & cases.views)
            if profile.family == "cpu":
                for stem in ("layout.eager.aligned", "layout.eager.tail"):
                    add(stem, "layout", (stem,), here & converts_layout(cases.algorithm))
                add("switch.eager", "launch", ("switch.eager", "launch"), here & cases.away)
        for stem in ("edge", "weights"):
            if (coefficients.find(f"layout.{runtime}.{stem}") or ("", 0.0))[1]:
                add(f"layout.{runtime}.{stem}", "layout", (f"layout.{runtime}.{stem}",), here & cases.convolves)
    if profile.family == "cpu":
        add("page_fault", "page_fault", ("page_fault",), cases.mapped)
        add("heap.returned", "heap.returned", ("heap.returned",), cases.grown)
    if profile.family == "gpu":
        add("launch_tail", "launch_tail", ("launch_tail",), cases.all)
        if "throttle.flop" in profile.coefficients:
            add("throttle.time", "throttle.time", ("throttle.time",), cases.matrix)
            if _demand(profile) > SLOWED:
                add("throttle.clock", "throttle.clock", ("throttle.clock",), cases.matrix)
                add("throttle.cool", "throttle.cool", ("throttle.cool",), cases.matrix & cases.history)
    for name, offered in cases.transformed.items():
        for stem in ("efficiency", "efficiency.bandwidth", *extents):
            if stem != "half.far":  # transformed images are dense
                add(f"{stem}.{name}", stem, (f"{stem}.{name}", stem), offered)
    for code, algorithm in enumerate(ALGORITHMS):
        here = cases.algorithm == code
        for stem in extents:
            feels = cases.far if stem == "half.far" else cases.matrix
            add(f"{stem}.{algorithm}", stem, algorithm_names((stem,), algorithm), here & feels)
        if "throttle.flop" in profile.coefficients:
            lookup = algorithm_names(("throttle.flop",), algorithm)
            add(f"throttle.flop.{algorithm}", "throttle.flop", lookup, here & cases.matrix)
        for stem, feels in _BY_ALGORITHM:
            if shared or (stem, algorithm) != _REFERENCE:
                add(f"{stem}.{algorithm}", stem, algorithm_names((stem,), algorithm), here & feels(cases))
        for runtime in cases.runtimes:
            names = algorithm_names((f"launch.{runtime}", "launch"), algorithm)
            add(f"launch.{runtime}.{algorithm}", "launch", names, here & cases.in_runtime(runtime))
            if profile.family == "cpu" and runtime != "eager":
                compiled = here & cases.in_runtime(runtime)
                # Another layout of images, other kernels of the library.
                names = algorithm_names((f"efficiency.{runtime}", "efficiency"), algorithm)
                add(f"efficiency.{runtime}.{algorithm}", "efficiency", names, compiled & cases.convolves, COMPILED_SD)
                for stem, feels in _LOOPS:
                    names = algorithm_names((f"{stem}.{runtime}", stem), algorithm)
                    add(f"{stem}.{runtime}.{algorithm}", stem, names, compiled & feels(cases))
        if profile.family == "gpu":
            add(f"launch_tail.{algorithm}", "launch_tail", algorithm_names(("launch_tail",), algorithm), here)
        if profile.family == "cpu":
            names = algorithm_names(("switch.eager", "launch"), algorithm)
            add(f"switch.eager.{algorithm}", "launch", names, here & cases.eager & cases.away)
    # Operators measured alone have a dispatch and, without a contraction, a loop of their own.
    for code, algorithm in cases.pairs(cases.eager & cases.alone):
        here = cases.eager & cases.single & (cases.op == code)
        op = short_op(cases.names[code])
        taken = {parameter.name for parameter in found}
        if algorithm in LIBRARY_PATHS or f"launch.eager.{op}" in taken or cases.with_any(here & cases.alone).sum() < MIN_CASES:
            continue
        add(f"launch.eager.{op}", "launch", algorithm_names(("launch.eager", "launch"), algorithm), here)
        if not (here & cases.matrix).any():
            # Work on the two units is proportional within one operator, so one of them carries it.
            stem = "efficiency.special" if (here & cases.special).any() else "efficiency.vector"
            add(f"{stem}.{op}", stem, algorithm_names((stem,), algorithm), here)
            if algorithm != "pointwise":
                # How a loop walks its rows or windows is its own, too.
                names = algorithm_names(("efficiency.bandwidth",), algorithm)
                add(f"efficiency.bandwidth.{op}", "efficiency.bandwidth", names, here)
    return found


def _demand(profile: ArchitectureProfile) -> float:
    """What float32 products would draw at the peak, over what the power cap leaves them."""
    wanted = profile.value("throttle.flop") * profile.value("peak.matrix.float32", 0.0)
    return wanted / (profile.value("power.tdp", math.inf) - profile.value("power.static", 0.0))


def _far(block: Block) -> np.ndarray:
    """(K,) whether the kernels of a block stage elements from farther than translations at hand reach."""
    blocks = block.tiling.blocks
    far = 0.0 if blocks is None else blocks.far
    return np.broadcast_to(np.greater(far, 1e-3), len(block.table))


def _offered(block: Block, name: str) -> np.ndarray:
    """(K,) whether the kernels of a block can be done this other way."""
    return next((way.offered for way in block.tiling.transformed if way.name == name), np.zeros(len(block.table), dtype=bool))


class _Cases:
    """Masks over the kernels of all blocks together, and from masks over kernels to masks over cases."""

    def __init__(self, blocks: Sequence[Block], profile: ArchitectureProfile) -> None:
        tables = [block.table for block in blocks]
        counts = [table.segments for table in tables]
        starts = np.cumsum([0, *counts[:-1]])
        self.count = sum(counts)
        self.names = op_names()
        self.runtimes = tuple(dict.fromkeys(block.runtime for block in blocks))
        self._runtime = np.concatenate([np.full(len(b.table), self.runtimes.index(b.runtime)) for b in blocks])
        self._segment = np.concatenate([table.segment + start for table, start in zip(tables, starts, strict=True)])
        self.algorithm = np.concatenate([algorithm_codes(table, profile) for table in tables])
        self.op = np.concatenate([table.op for table in tables])
        self.single = np.concatenate([table.calls == 1 for table in tables])
        flops = {
            unit: np.concatenate([getattr(table, f"{unit}_flops") for table in tables])
            for unit in ("matrix", "vector", "special")
        }
        self.matrix = flops["matrix"] > 0
        # The unit that takes longer at typical rates carries what the fit says of a loop.
        self.special = flops["special"] > TYPICAL_SPECIAL_SHARE * flops["vector"]
        self.vector = ~self.special & (flops["vector"] > 0)
        self.convolves = np.concatenate([table.is_family("conv", "depthwise", "conv_transpose") for table in tables])
        self.mapped = np.concatenate([table.mapped_bytes > 0 for table in tables])
        self.grown = np.concatenate([table.grown_bytes > 0 for table in tables])
        self.views = np.concatenate([table.views > 0 for table in tables])
        self.away = np.concatenate([table.code_distance > profile.value("capacity.l2", math.inf) / 4 for table in tables])
        ways = sorted({way.name for block in blocks for way in block.tiling.transformed})
        self.history = np.concatenate([np.isfinite(table.warm) for table in tables])
        self.far = np.concatenate([_far(block) for block in blocks])
        self.transformed = {name: np.concatenate([_offered(block, name) for block in blocks]) for name in ways}
        self.alone = (np.bincount(self._segment, minlength=self.count) == 1)[self._segment]
        self.all = np.ones(len(self._segment), dtype=bool)
        self.eager = self.in_runtime("eager")

    def in_runtime(self, runtime: str) -> np.ndarray:
        """(K,) kernels of cases measured in this runtime."""
        known = self.runtimes.index(runtime) if runtime in self.runtimes else -1
        return self._runtime == known

    def with_any(self, kernels: np.ndarray) -> np.ndarray:
        """(S,) cases that have any of these kernels."""
        affected = np.zeros(self.count, dtype=bool)
        affected[self._segment[kernels]] = True
        return affected

    def pairs(self, kernels: np.ndarray) -> list[tuple[int, str]]:
        """Operator codes and algorithms that occur together among these kernels, known operators only."""
        chosen = kernels & (self.op >= 0)
        found = sorted(set(zip(self.op[chosen].tolist(), self.algorithm[chosen].tolist(), strict=True)))
        return [(op, ALGORITHMS[algorithm]) for op, algorithm in found]
