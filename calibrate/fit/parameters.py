"""The coefficients that a fit may move: their starts, bounds and priors, and the cases that depend on each of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from shmoo.calibrate.fit.dataset import Block
from shmoo.estimators.graph.records import CONVOLUTIONS
from shmoo.estimators.machine.catalogue import DEFAULTS, entry, short_op, whose
from shmoo.estimators.machine.coefficients import (
    ALGORITHMS,
    TENSOR,
    Coefficients,
    algorithm_codes,
    algorithm_names,
    converts_layout,
    in_tensor_kernels,
)
from shmoo.estimators.machine.entries import Space
from shmoo.estimators.machine.profile import ArchitectureProfile
from shmoo.estimators.predict.model import enters_alone
from shmoo.estimators.table import Masks, op_names
from shmoo.estimators.tiling.cpu_calls import by_result

MIN_CASES = 2
"""Fewest cases with which an algorithm's own coefficients are fitted: a single case cannot tell a difference from the parent.
Priors decide what few cases leave open."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One coefficient to fit, in log space.

    Attributes:
        name: coefficient, of the catalogue.
        start, low, high: value to start from and bounds.
        prior_sd: standard deviation of the log-normal prior around the parent's value, or around `start` without one.
        affects: (S,) bool over the cases of all blocks together.
        parent: the more general coefficient at the prior's center (operator -> algorithm -> machine), if it is fitted too.
    """

    name: str
    start: float
    low: float
    high: float
    prior_sd: float
    affects: np.ndarray
    parent: str | None = None


LIBRARY_PATHS = frozenset({"conv", "conv_1x1", "conv_3x3", "conv_native", "depthwise", "conv_transpose", "conv_tensor"})
"""Algorithms that share an operator's name: the cost of dispatching depends on the library that executes the call."""
COMPILED_SD = 0.15
"""Prior standard deviation of the log of a convolution's efficiency in compiled code around that in eager, which calls the same
library. It keeps few compiled cases from dominating: a held-out convnet was 3.3 times too slow with 0.4, 1.7 with 0.15."""
DISPATCH_SD, ALGORITHM_SD = 0.5, 0.7
"""Prior standard deviations of the log of a CPU's dispatch time: an operator's around its algorithm's, and an algorithm's around
the typical one. Large cases hardly depend on dispatch; without small ones, hardswish came out at five times the time of other
loops."""
EXPONENTIALS_SD = 0.3
"""Prior standard deviation of the log of the rate of exponentials in fused attention around one a score: each device of four lay
within it, and short cases alone cannot tell it from what a block takes to start."""
BESIDE_SD = 0.5
"""The same of the rate at which packed weights are unpacked or partial sums scaled, around what registers allow: tensor cores
hide a part of it."""
TYPICAL_SPECIAL_SHARE = 1 / 8
"""Special functions that a unit evaluates per vector flop it could do, roughly, on any machine."""
SLOWED = 1.5
"""Power demand of the float32 units, relative to the power that the cap leaves them, above which a board runs far below its
nominal clock under load and shows how its power follows warmth. On other boards that fit would follow noise."""
_EXTENTS = ("half.m", "half.n", "half.k")
_GPU_EXTENTS = ("half.tile", "half.far", "half.k", "half.fill")
"""Extents on which a contraction's rate depends: those of the operator, on GPUs those of its blocks."""
_REFERENCE = ("efficiency.bandwidth", "pointwise")
"""Pointwise loops define the levels' bandwidths, so their share of it is fixed."""
_PUBLISHED_BANDWIDTHS = frozenset({"gpu", "tpu"})
"""Families whose levels keep their published bandwidths: every operand passes through all of them, so measurements determine only
the share that copies reach, and that share carries over to other chips."""
_SHARED = ("efficiency", "overlap", "efficiency.vector", "efficiency.special")
"""Coefficients that are the parents of the algorithms' own."""
_BY_ALGORITHM = ("efficiency", "efficiency.vector", "efficiency.special", "overlap", "tile_overhead", "efficiency.bandwidth")
"""Coefficients that each algorithm has of its own."""
_OF_COPIES = ("efficiency.l2", "fetch.latency", "fetch.width", "split_overhead", "device_launch")
"""The same of kernels on tensor cores, which copy operands ahead of the math."""
_BY_ROW = ("normalization", "softmax")
"""Families of loops whose threads share rows, with instructions for each element."""
_CUT = ("gem", "conv", "winograd", *TENSOR)
"""How the names of a GPU's contractions start, whose blocks bring in fewer bytes than counted where they share operands."""
_COMPILED_LOOPS = ("efficiency.vector", "efficiency.special", "efficiency.bandwidth")
"""Coefficients that compiled loops have of their own."""


def parameters_for(blocks: Sequence[Block], profile: ArchitectureProfile, only: Collection[str] | None = None) -> list[Parameter]:
    """The coefficients that these cases can determine; those whose names end in one of `only`, where it is given."""
    coefficients = Coefficients(profile)
    cases = _Cases(blocks, profile)
    parameters: dict[str, Parameter] = {}

    def add(name: str, lookup: tuple[str, ...], kernels: np.ndarray, prior_sd: float | None = None) -> None:
        affects = cases.with_any(kernels)
        if affects.sum() < MIN_CASES:
            return
        within = allowed(name, profile)
        start = float(coefficients.value(*lookup)) or within.start
        start = min(max(start, within.low * 1.01), within.high * 0.99)
        # A dispatch of its own length is no variety of the average one.
        own = name.startswith(("launch.", "switch.")) and name in DEFAULTS[profile.family]
        parent = None if own else next((other for other in lookup if other != name and other in parameters), None)
        sd = prior_sd or within.prior_sd
        parameters[name] = Parameter(name, start, within.low, within.high, sd, affects, parent)

    extents = _GPU_EXTENTS if profile.family == "gpu" else _EXTENTS
    shared = profile.family in _PUBLISHED_BANDWIDTHS
    for level in () if shared else profile.levels:
        rate = profile.coefficients[f"bandwidth.{level}"]
        prior = None if rate.assumed else max(0.1, math.log(rate.bounds[1] / rate.bounds[0]) / 2)
        add(f"bandwidth.{level}", (f"bandwidth.{level}",), cases.all, prior)

    # Parents are added before their children.
    for stem in _SHARED:
        add(stem, (stem,), cases.using[stem] & ~cases.tensor)
    for runtime in cases.runtimes:
        here = cases.in_runtime(runtime) & cases.called
        add(f"launch.{runtime}", (f"launch.{runtime}", "launch"), here)
        add(f"graph.{runtime}", (f"graph.{runtime}", "graph"), here & ~(cases.alone & (not enters_alone(profile, runtime))))
        if runtime == "eager":
            add("view.eager", ("view.eager", "launch"), here & cases.views)
            if profile.family == "cpu":
                add("module.eager", ("module.eager",), here & cases.modules)
                for stem in ("layout.eager.aligned", "layout.eager.tail"):
                    add(stem, (stem,), here & converts_layout(cases.algorithm))
                add("switch.eager", ("switch.eager", "launch"), here & cases.away)
            elif profile.family == "gpu":
                add("switch.eager", ("switch.eager",), here & ~cases.alone)
        for stem in ("edge", "weights"):
            if coefficients.find(f"layout.{runtime}.{stem}"):
                add(f"layout.{runtime}.{stem}", (f"layout.{runtime}.{stem}",), here & cases.convolves)
    if profile.family == "cpu":
        add("page_fault", ("page_fault",), cases.mapped)
        add("heap.returned", ("heap.returned",), cases.grown)
    if profile.family == "gpu":
        add("launch_tail", ("launch_tail",), cases.called)
        if power_wanted(profile) > 0:
            add("throttle.time", ("throttle.time",), cases.matrix)
            if power_wanted(profile) > SLOWED:
                add("throttle.cool", ("throttle.cool",), cases.matrix & cases.history)
    for name, offered in cases.transformed.items():
        for stem in ("efficiency", "efficiency.bandwidth", *extents):
            if stem != "half.far":  # transformed images are dense
                add(f"{stem}.{name}", (f"{stem}.{name}", stem), offered)

    def add_own(owner: str, algorithm: str, prefixes: tuple[str, ...], kernels: np.ndarray, sd: float | None = None) -> None:
        if algorithm == "gemv_tensor" and prefixes[0] in ("efficiency.bandwidth", "efficiency.l2"):
            return  # streaming weights cannot separate L2 from main memory; the parent's values hold
        add(f"{prefixes[0]}.{owner}", algorithm_names(prefixes, algorithm), kernels, sd)

    for code, algorithm in enumerate(ALGORITHMS):
        here = cases.algorithm == code
        for stem in extents:
            add_own(algorithm, algorithm, (stem,), here & (cases.far if stem == "half.far" else cases.blocks))
        if profile.family == "gpu" and power_wanted(profile) > 0 and algorithm not in TENSOR:
            # What tensor cores take is measured by meters; their times do not settle it.
            add_own(algorithm, algorithm, ("energy.share",), here & cases.matrix)
        for stem in _BY_ALGORITHM:
            if shared or (stem, algorithm) != _REFERENCE:
                add_own(algorithm, algorithm, (stem,), here & cases.using[stem])
        if algorithm in TENSOR:
            for stem in _OF_COPIES:
                # The shortest kernel is seen where a case has no other, such as one that rounds the operands.
                if stem != "device_launch" or (here & cases.alone).any():
                    add_own(algorithm, algorithm, (stem,), here)
            if algorithm in ("packed_tensor", "scaled_tensor"):
                add_own(algorithm, algorithm, ("efficiency.vector",), here, BESIDE_SD)
            if algorithm == "attention_tensor":
                add_own(algorithm, algorithm, ("efficiency.special",), here, EXPONENTIALS_SD)
                add_own(algorithm, algorithm, ("efficiency.append",), here & cases.stores)
        for runtime in cases.runtimes:
            compiled = here & cases.in_runtime(runtime) & cases.called
            typical = ALGORITHM_SD if profile.family == "cpu" else None
            add_own(algorithm, algorithm, (f"launch.{runtime}", "launch"), compiled, typical)
            if profile.family == "cpu" and runtime != "eager":
                # Compiled code uses another image layout, and so other kernels of the library.
                prefixes = (f"efficiency.{runtime}", "efficiency")
                add_own(algorithm, algorithm, prefixes, compiled & cases.convolves, COMPILED_SD)
                for stem in _COMPILED_LOOPS:
                    add_own(algorithm, algorithm, (f"{stem}.{runtime}", stem), compiled & cases.loops & cases.using[stem])
        if profile.family == "gpu":
            add_own(algorithm, algorithm, ("launch_tail",), here & cases.called)
        if profile.family == "cpu":
            add_own(algorithm, algorithm, ("switch.eager", "launch"), here & cases.eager & cases.away)
    # The shortest kernel of a loop, and the share of L2's bandwidth, are seen where nothing but the device was timed.
    if profile.family == "gpu":
        streams = (cases.algorithm == ALGORITHMS.index("pointwise")) & cases.alone & ~cases.called
        add_own("pointwise", "pointwise", ("efficiency.l2",), streams)
    for code, algorithm in cases.pairs(cases.single & ~cases.matrix & ~cases.called):
        here = cases.single & ~cases.called & (cases.op == code)
        add_own(short_op(cases.names[code]), algorithm, ("device_launch",), here)
    # Operators measured alone have their own dispatch and, without a contraction, their own loop.
    timed = cases.alone & (cases.eager & cases.called | ~cases.called)
    for code, algorithm in cases.pairs(timed):
        here = cases.single & (cases.op == code) & (cases.eager & cases.called | ~cases.called)
        op = short_op(cases.names[code])
        few = cases.with_any(here & cases.alone).sum() < MIN_CASES
        if algorithm in LIBRARY_PATHS or f"launch.eager.{op}" in parameters or few:
            continue
        add_own(op, algorithm, ("launch.eager", "launch"), here & cases.called, DISPATCH_SD if profile.family == "cpu" else None)
        if not (here & cases.matrix).any():
            # Within one operator, work on the two units is proportional, so one coefficient carries both.
            if (here & cases.special).any():
                add_own(op, algorithm, ("efficiency.special",), here)
            elif (here & cases.vector).any() or profile.family != "gpu":
                add_own(op, algorithm, ("efficiency.vector",), here)
            if algorithm != "pointwise":
                # So does its access to rows or windows.
                add_own(op, algorithm, ("efficiency.bandwidth",), here)
    if only is None:
        return list(parameters.values())
    own = {name: p for name, p in parameters.items() if whose(name) in only}
    return [replace(p, parent=p.parent if p.parent in own else None) for p in own.values()]


def power_wanted(profile: ArchitectureProfile) -> float:
    """Power that float32 products would draw at the peak, relative to the power that the cap leaves them; 0 where either is not
    known."""
    wanted = profile.value("energy.flop.matrix.float32", 0.0) * profile.value("peak.matrix.float32", 0.0)
    return wanted / (profile.value("power.tdp", math.inf) - profile.value("power.static", 0.0))


def is_cut(name: str) -> bool:
    """Whether a coefficient is one of a GPU's contractions, which thread blocks cut into tiles."""
    return whose(name).startswith(_CUT)


def allowed(name: str, profile: ArchitectureProfile) -> Space:
    """How far a fit may move a coefficient of a machine: no contraction on a GPU beats what the units do at its highest clock, no
    loop there moves more than its bandwidth or evaluates more than its units do. `KeyError` for a coefficient that is looked up
    and never fitted."""
    listed = entry(name)
    found = listed.fit_on.get(profile.family, listed.fit)
    if found is None:
        raise KeyError(f"coefficient {name!r} has no range to fit it in")
    if profile.family != "gpu":
        return found
    if not is_cut(name):
        return replace(found, high=1.0) if name.startswith(("efficiency.bandwidth.", "efficiency.special")) else found
    if listed is not entry("efficiency"):
        return found
    dtypes, lanes = (("bfloat16", "float16"), "matrix.lanes") if whose(name) in TENSOR else (("float32",), "vector.lanes")
    peak = next((n for dtype in dtypes if (n := f"peak.matrix.{dtype}") in profile.coefficients), None)
    if peak is None or lanes not in profile.coefficients:
        return found
    units = profile.value("count.sms") * profile.value(lanes)
    return replace(found, high=min(found.high, 2.0 * units * profile.value("clock") / profile.value(peak)))


def _known_warmth(block: Block) -> Masks:
    """(K,) kernels of cases that say how warm the board was."""
    kernels: Masks = np.asarray([case.warm is not None for case in block.cases])[block.table.segment - block.table.segment[0]]
    return kernels


def _more(block: Block, amount: str, least: float) -> np.ndarray:
    """(K,) whether an amount of each kernel's thread blocks exceeds `least`; it is 0 where a strategy counts no blocks."""
    amounts = 0.0 if block.tiling.blocks is None else getattr(block.tiling.blocks, amount)
    return np.broadcast_to(np.greater(amounts, least), len(block.table))


def _offered(block: Block, name: str) -> np.ndarray:
    """(K,) whether kernels can use the alternative algorithm of this name."""
    return next((way.offered for way in block.tiling.transformed if way.name == name), np.zeros(len(block.table), dtype=bool))


class _Cases:
    """Masks over the kernels of all blocks together; `using` has by coefficient those whose time depends on it."""

    def __init__(self, blocks: Sequence[Block], profile: ArchitectureProfile) -> None:
        tables = [block.table for block in blocks]
        counts = [table.segments for table in tables]
        starts = np.cumsum([0, *counts[:-1]])
        self.count = sum(counts)
        self.names = op_names()
        self.runtimes = tuple(dict.fromkeys(block.runtime for block in blocks))
        self._segment = np.concatenate([table.segment + start for table, start in zip(tables, starts, strict=True)])

        def joined(column: Callable[[Block], np.ndarray]) -> np.ndarray:
            return np.concatenate([column(block) for block in blocks])

        self._runtime = joined(lambda block: np.full(len(block.table), block.runtime))
        self.algorithm = joined(lambda block: algorithm_codes(block.table, profile))
        self.tensor = in_tensor_kernels(self.algorithm)
        self.called = joined(lambda block: np.full(len(block.table), block.time == "call"))
        self.op = joined(lambda block: block.table.op)
        self.single = joined(lambda block: block.table.calls == 1)
        self.matrix = joined(lambda block: block.table.matrix_flops > 0)
        # A GPU's depthwise convolutions stream: their rate is none of blocks, so it is not drawn towards that of blocks.
        streams = joined(lambda block: block.table.is_family("depthwise")) & (profile.family == "gpu")
        self.blocks = self.matrix & ~streams
        # A loop is attributed to the unit that takes longer at typical rates. A GPU's loops over elements wait for memory, in
        # float32 above all, so that their times say nothing of its units.
        working = joined(lambda block: block.table.is_family(*_BY_ROW)) | (profile.family != "gpu") | self.matrix
        self.special = working & joined(lambda b: b.table.special_flops > TYPICAL_SPECIAL_SHARE * b.table.vector_flops)
        if profile.family == "cpu":
            self.special = self.special & ~joined(lambda block: by_result(block.table, block.runtime))
        self.vector = working & ~self.special & joined(lambda block: block.table.vector_flops > 0)
        self.convolves = joined(lambda block: block.table.is_family(*CONVOLUTIONS))
        self.mapped = joined(lambda block: block.table.mapped_bytes > 0)
        self.grown = joined(lambda block: block.table.grown_bytes > 0)
        self.views = joined(lambda block: block.table.views > 0)
        self.modules = joined(lambda block: block.table.modules > 0)
        near = profile.value("capacity.l2", math.inf) / 4
        self.away = joined(lambda block: block.table.code_distance > near)
        self.history = joined(_known_warmth)
        self.far = joined(lambda block: _more(block, "far", 1e-3))  # than the address translations at hand reach
        self.stores = joined(lambda block: _more(block, "stored", 0.0))  # new keys and values in a cache
        ways = sorted({way.name for block in blocks for way in block.tiling.transformed})
        self.transformed = {name: joined(partial(_offered, name=name)) for name in ways}
        self.alone = (np.bincount(self._segment, minlength=self.count) == 1)[self._segment]
        self.all = np.ones(len(self._segment), dtype=bool)
        self.eager = self.in_runtime("eager")
        self.loops = (self.vector | self.special) & ~self.matrix
        self.using = {
            "efficiency": self.blocks,
            "efficiency.vector": self.vector & ~self.matrix,
            "efficiency.special": self.special & ~self.matrix,
            "efficiency.bandwidth": self.all,
            "overlap": self.all,
            "tile_overhead": self.blocks,
        }

    def in_runtime(self, runtime: str) -> Masks:
        """(K,) kernels of cases measured in this runtime."""
        kernels: Masks = self._runtime == runtime
        return kernels

    def with_any(self, kernels: np.ndarray) -> np.ndarray:
        """(S,) cases that have any of these kernels."""
        affected = np.zeros(self.count, dtype=bool)
        affected[self._segment[kernels]] = True
        return affected

    def pairs(self, kernels: np.ndarray) -> list[tuple[int, str]]:
        """Operator codes and algorithms that occur together among these kernels; unknown operators are left out."""
        chosen = kernels & (self.op >= 0)
        together = sorted(set(zip(self.op[chosen].tolist(), self.algorithm[chosen].tolist(), strict=True)))
        return [(op, ALGORITHMS[algorithm]) for op, algorithm in together]
