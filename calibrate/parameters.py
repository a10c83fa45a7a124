"""Which coefficients a fit may move, from where, how far, and which cases feel each of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from shmoo.calibrate.dataset import Block
from shmoo.estimators.catalogue import ALGORITHMS, algorithm_names, short_op, space
from shmoo.estimators.coefficients import Coefficients, algorithm_codes, converts_layout
from shmoo.estimators.kernels import op_names
from shmoo.estimators.model import CALLED_ALONE
from shmoo.estimators.profile import ArchitectureProfile
from shmoo.estimators.records import CONVOLUTIONS

MIN_CASES = 2
"""An algorithm's own coefficients are fitted from this many cases on: one says nothing of what differs from its parent. Priors
hold what few cases leave open."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One coefficient to fit, in log space.

    Attributes:
        name: coefficient, of the catalogue.
        start, low, high: value to start from and bounds.
        prior_sd: standard deviation of the log-normal prior around the parent's value, or around `start` without one.
        affects: (S,) bool over the cases of all blocks together.
        parent: the more general coefficient this one is drawn towards (operator -> algorithm -> machine), if that is fitted too.
    """

    name: str
    start: float
    low: float
    high: float
    prior_sd: float
    affects: np.ndarray
    parent: str | None = None


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
Feels = Callable[["_Cases"], np.ndarray]
_UNITS: tuple[tuple[str, Feels], ...] = (
    ("efficiency.vector", lambda cases: cases.vector & ~cases.matrix),
    ("efficiency.special", lambda cases: cases.special & ~cases.matrix),
)
"""Shares of the units of loops, and the kernels that feel them."""
_WHOLE: tuple[tuple[str, Feels], ...] = (
    ("efficiency", lambda cases: cases.matrix),
    ("overlap", lambda cases: cases.all),
    *_UNITS,
)
"""Coefficients that the algorithms' own are drawn towards, and the kernels that feel them."""
_LOOPS: tuple[tuple[str, Feels], ...] = (
    *_UNITS,
    ("efficiency.bandwidth", lambda cases: (cases.vector | cases.special) & ~cases.matrix),
)
"""Coefficients that compiled loops have of their own, and the kernels that feel them."""
_BY_ALGORITHM: tuple[tuple[str, Feels], ...] = (
    ("efficiency", lambda cases: cases.matrix),
    *_UNITS,
    ("overlap", lambda cases: cases.all),
    ("tile_overhead", lambda cases: cases.matrix),
    ("efficiency.bandwidth", lambda cases: cases.all),
)
"""Coefficients that each algorithm has of its own, and the kernels that feel them."""


def parameters_for(blocks: Sequence[Block], profile: ArchitectureProfile) -> list[Parameter]:
    """The coefficients that these cases can say something about."""
    coefficients = Coefficients(profile)
    cases = _Cases(blocks, profile)
    parameters: dict[str, Parameter] = {}

    def add(name: str, lookup: tuple[str, ...], kernels: np.ndarray, prior_sd: float | None = None) -> None:
        affects = cases.with_any(kernels)
        if affects.sum() < MIN_CASES:
            return
        allowed = space(name, profile.family)
        start = float(coefficients.value(*lookup)) or allowed.start
        start = min(max(start, allowed.low * 1.01), allowed.high * 0.99)
        parent = next((candidate for candidate in lookup if candidate != name and candidate in parameters), None)
        sd = prior_sd or allowed.prior_sd
        parameters[name] = Parameter(name, start, allowed.low, allowed.high, sd, affects, parent)

    extents = _EXTENTS.get(profile.family, _OWN_EXTENTS)
    shared = profile.family in _PUBLISHED_BANDWIDTHS
    for level in () if shared else profile.levels:
        rate = profile.coefficients[f"bandwidth.{level}"]
        prior = None if rate.assumed else max(0.1, math.log(rate.bounds[1] / rate.bounds[0]) / 2)
        add(f"bandwidth.{level}", (f"bandwidth.{level}",), cases.all, prior)

    # From the general to the particular, so that each finds its parent.
    for stem, feels in _WHOLE:
        add(stem, (stem,), feels(cases))
    for runtime in cases.runtimes:
        here = cases.in_runtime(runtime)
        add(f"launch.{runtime}", (f"launch.{runtime}", "launch"), here)
        add(f"graph.{runtime}", (f"graph.{runtime}", "graph"), here & ~(cases.alone & (runtime in CALLED_ALONE)))
        if runtime == "eager":
            add("view.eager", ("view.eager", "launch"), here & cases.views)
            if profile.family == "cpu":
                for stem in ("layout.eager.aligned", "layout.eager.tail"):
                    add(stem, (stem,), here & converts_layout(cases.algorithm))
                add("switch.eager", ("switch.eager", "launch"), here & cases.away)
        for stem in ("edge", "weights"):
            if coefficients.find(f"layout.{runtime}.{stem}"):
                add(f"layout.{runtime}.{stem}", (f"layout.{runtime}.{stem}",), here & cases.convolves)
    if profile.family == "cpu":
        add("page_fault", ("page_fault",), cases.mapped)
        add("heap.returned", ("heap.returned",), cases.grown)
    if profile.family == "gpu":
        add("launch_tail", ("launch_tail",), cases.all)
        if "throttle.flop" in profile.coefficients:
            add("throttle.time", ("throttle.time",), cases.matrix)
            if _demand(profile) > SLOWED:
                add("throttle.clock", ("throttle.clock",), cases.matrix)
                add("throttle.cool", ("throttle.cool",), cases.matrix & cases.history)
    for name, offered in cases.transformed.items():
        for stem in ("efficiency", "efficiency.bandwidth", *extents):
            if stem != "half.far":  # transformed images are dense
                add(f"{stem}.{name}", (f"{stem}.{name}", stem), offered)

    def add_own(owner: str, algorithm: str, prefixes: tuple[str, ...], kernels: np.ndarray, sd: float | None = None) -> None:
        add(f"{prefixes[0]}.{owner}", algorithm_names(prefixes, algorithm), kernels, sd)

    for code, algorithm in enumerate(ALGORITHMS):
        here = cases.algorithm == code
        for stem in extents:
            add_own(algorithm, algorithm, (stem,), here & (cases.far if stem == "half.far" else cases.matrix))
        if "throttle.flop" in profile.coefficients:
            add_own(algorithm, algorithm, ("throttle.flop",), here & cases.matrix)
        for stem, feels in _BY_ALGORITHM:
            if shared or (stem, algorithm) != _REFERENCE:
                add_own(algorithm, algorithm, (stem,), here & feels(cases))
        for runtime in cases.runtimes:
            compiled = here & cases.in_runtime(runtime)
            add_own(algorithm, algorithm, (f"launch.{runtime}", "launch"), compiled)
            if profile.family == "cpu" and runtime != "eager":
                # Another layout of images, other kernels of the library.
                prefixes = (f"efficiency.{runtime}", "efficiency")
                add_own(algorithm, algorithm, prefixes, compiled & cases.convolves, COMPILED_SD)
                for stem, feels in _LOOPS:
                    add_own(algorithm, algorithm, (f"{stem}.{runtime}", stem), compiled & feels(cases))
        if profile.family == "gpu":
            add_own(algorithm, algorithm, ("launch_tail",), here)
        if profile.family == "cpu":
            add_own(algorithm, algorithm, ("switch.eager", "launch"), here & cases.eager & cases.away)
    # Operators measured alone have a dispatch and, without a contraction, a loop of their own.
    for code, algorithm in cases.pairs(cases.eager & cases.alone):
        here = cases.eager & cases.single & (cases.op == code)
        op = short_op(cases.names[code])
        few = cases.with_any(here & cases.alone).sum() < MIN_CASES
        if algorithm in LIBRARY_PATHS or f"launch.eager.{op}" in parameters or few:
            continue
        add_own(op, algorithm, ("launch.eager", "launch"), here)
        if not (here & cases.matrix).any():
            # Work on the two units is proportional within one operator, so one of them carries it.
            stem = "efficiency.special" if (here & cases.special).any() else "efficiency.vector"
            add_own(op, algorithm, (stem,), here)
            if algorithm != "pointwise":
                # How a loop walks its rows or windows is its own, too.
                add_own(op, algorithm, ("efficiency.bandwidth",), here)
    return list(parameters.values())


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

        def joined(column: Callable[[Block], np.ndarray]) -> np.ndarray:
            return np.concatenate([column(block) for block in blocks])

        self.algorithm = joined(lambda block: algorithm_codes(block.table, profile))
        self.op = joined(lambda block: block.table.op)
        self.single = joined(lambda block: block.table.calls == 1)
        self.matrix = joined(lambda block: block.table.matrix_flops > 0)
        # The unit that takes longer at typical rates carries what the fit says of a loop.
        self.special = joined(lambda block: block.table.special_flops > TYPICAL_SPECIAL_SHARE * block.table.vector_flops)
        self.vector = ~self.special & joined(lambda block: block.table.vector_flops > 0)
        self.convolves = joined(lambda block: block.table.is_family(*CONVOLUTIONS))
        self.mapped = joined(lambda block: block.table.mapped_bytes > 0)
        self.grown = joined(lambda block: block.table.grown_bytes > 0)
        self.views = joined(lambda block: block.table.views > 0)
        near = profile.value("capacity.l2", math.inf) / 4
        self.away = joined(lambda block: block.table.code_distance > near)
        self.history = joined(lambda block: np.isfinite(block.table.warm))
        self.far = joined(_far)
        ways = sorted({way.name for block in blocks for way in block.tiling.transformed})
        self.transformed = {name: joined(partial(_offered, name=name)) for name in ways}
        self.alone = (np.bincount(self._segment, minlength=self.count) == 1)[self._segment]
        self.all = np.ones(len(self._segment), dtype=bool)
        self.eager = self.in_runtime("eager")

    def in_runtime(self, runtime: str) -> np.ndarray:
        """(K,) kernels of cases measured in this runtime."""
        return self._runtime == (self.runtimes.index(runtime) if runtime in self.runtimes else -1)

    def with_any(self, kernels: np.ndarray) -> np.ndarray:
        """(S,) cases that have any of these kernels."""
        affected = np.zeros(self.count, dtype=bool)
        affected[self._segment[kernels]] = True
        return affected

    def pairs(self, kernels: np.ndarray) -> list[tuple[int, str]]:
        """Operator codes and algorithms that occur together among these kernels, known operators only."""
        chosen = kernels & (self.op >= 0)
        together = sorted(set(zip(self.op[chosen].tolist(), self.algorithm[chosen].tolist(), strict=True)))
        return [(op, ALGORITHMS[algorithm]) for op, algorithm in together]
