"""The coefficients that a fit may move. A `Rule` says which kernels show a coefficient; the catalogue of coefficients has its
bounds, its prior and a start for machines whose own value is 0."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from shmoo.calibrate.fit.dataset import Block
from shmoo.estimators.graph.records import CONVOLUTIONS, RUNTIMES
from shmoo.estimators.machine.catalogue import DEFAULTS, entry
from shmoo.estimators.machine.coefficients import (
    ALGORITHMS,
    TENSOR,
    Coefficients,
    algorithm_codes,
    algorithm_names,
    converts_layout,
    in_tensor_kernels,
    unrolls_image,
)
from shmoo.estimators.machine.entries import Space
from shmoo.estimators.machine.names import continues, whose
from shmoo.estimators.machine.profile import ArchitectureProfile
from shmoo.estimators.predict.model import enters_alone
from shmoo.estimators.registry import short_op
from shmoo.estimators.table import Masks, op_names
from shmoo.estimators.tiling.cpu_calls import by_result

MIN_CASES = 2
"""Fewest cases with which an algorithm's own coefficients are fitted: a single case cannot tell a difference from the parent.
Priors decide what few cases leave open."""
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
STREAMING_SD = 0.1
"""The same of the share of main memory's bandwidth at which attention reads keys and values, around 0.92 (0.75 to 1.0 on three
cards). Fitted to smaller calls alone, which end before the memory is busy, it was 0.57, and larger calls came out 1.3 times too
slow."""
PRODUCT_LAUNCH_SD = 1.5
"""The same of the shortest product on float32 units, around the shortest kernel: a library that splits it launches two or three.
DeepBench's loops on a V100 show 10 us, as much as the model would otherwise have to put on each round of blocks."""
BESIDE_SD = 0.5
"""The same of the rate at which packed weights are unpacked or partial sums scaled, around what registers allow: tensor cores
hide a part of it."""
TYPICAL_SPECIAL_SHARE = 1 / 8
"""Special functions that a unit evaluates per vector flop it could do, roughly, on any machine."""
SLOWING_DEMAND = 1.5
"""Power demand of the float32 units, relative to the power that the cap leaves them, above which a board runs far below its
nominal clock under load and shows how its power follows warmth. On other boards that fit would follow noise."""
_PUBLISHED_BANDWIDTHS = ("gpu", "tpu")
"""Families whose levels keep their published bandwidths: every operand passes through all of them, so measurements determine only
the share that copies reach, and that share carries over to other chips."""
_BY_ROW = ("normalization", "softmax")
"""Families of loops whose threads share rows, with instructions for each element."""
_BLOCK_PREFIXES = ("gem", "conv", "winograd", *TENSOR)
"""Beginnings of the names of a GPU's contractions among `ALGORITHMS`. Their blocks read fewer bytes than counted where they share
operands."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One coefficient to fit, in log space.

    Attributes:
        space: bounds, start and prior. The prior is around the parent's value, or around the start without a parent.
        affects: (S,) bool over the cases of all blocks together.
        parent: the more general coefficient at the prior's center (operator -> algorithm -> machine), if it is fitted too.
    """

    name: str
    space: Space
    affects: np.ndarray
    parent: str | None = None


class Rule(NamedTuple):
    """A coefficient, or one for each runtime, algorithm or operator, that is fitted on machines that have it.

    Attributes:
        stem: its name up to the algorithm or operator; `{runtime}` stands for the runtime.
        kernels: whose times depend on it: words that hold there, or do not where they begin with "!" (`_words`, and the names of
            runtimes, algorithms and operators).
        prior_sd: in place of the catalogue's. on: architecture families.
    """

    stem: str
    kernels: str = ""
    prior_sd: float | None = None
    on: str = "cpu gpu tpu kpu"


OF_MACHINE = (
    Rule("efficiency", "blocks !tensor"), Rule("overlap", "!tensor"),
    Rule("efficiency.vector", "vector"), Rule("efficiency.special", "special"),
)  # fmt: skip
"""Parents of the algorithms' own."""
OF_RUNTIMES = (
    Rule("launch.{runtime}", "called"), Rule("graph.{runtime}", "called enters"),
    Rule("view.eager", "called eager views"), Rule("module.eager", "called eager modules"),
    Rule("layout.eager.aligned", "called eager converts"), Rule("layout.eager.tail", "called eager converts"),
    Rule("switch.eager", "called eager away", on="cpu"), Rule("switch.eager", "called eager !alone", on="gpu"),
    Rule("layout.{runtime}.edge", "called convolves"), Rule("layout.inductor.weights", "called inductor convolves"),
)  # fmt: skip
OF_SYSTEM = (
    Rule("page_fault", "mapped_bytes", on="cpu"), Rule("heap.returned", "grown_bytes", on="cpu"), Rule("launch_tail", "called"),
    Rule("throttle.time", "matrix capped"), Rule("throttle.cool", "matrix slowed warmth_known"),
)  # fmt: skip
OF_ALTERNATIVES = tuple(map(Rule, ("efficiency", "efficiency.bandwidth", "half.tile", "half.k", "half.fill")))
"""Of an algorithm with fewer multiplications, whose transformed images are dense (no `half.far`)."""
OF_ALGORITHMS = (
    # The extents on which a contraction's rate depends: those of the operator, on GPUs those of its blocks.
    Rule("half.m", "blocks", on="cpu tpu kpu"), Rule("half.n", "blocks", on="cpu tpu kpu"),
    # Blocks of fused attention are all of one size, so only the keys that they walk show.
    Rule("half.tile", "blocks !attention_tensor"), Rule("half.far", "far"), Rule("half.k", "blocks"),
    Rule("half.fill", "blocks !attention_tensor"),
    # What tensor cores take is measured by meters; their times do not settle it.
    Rule("energy.share", "matrix capped !tensor"),
    Rule("efficiency", "blocks"), Rule("efficiency.vector", "vector"), Rule("efficiency.special", "special"),
    Rule("overlap"), Rule("tile_overhead", "blocks"), Rule("efficiency.bandwidth", "!given_bandwidth !attention_tensor"),
    Rule("efficiency.bandwidth", "attention_tensor", STREAMING_SD),
    # Kernels on tensor cores copy operands ahead of the math.
    Rule("efficiency.l2", "tensor !given_bandwidth"), Rule("fetch.latency", "tensor"), Rule("fetch.width", "tensor"),
    Rule("split_overhead", "tensor"), Rule("device_launch", "tensor shortest"),
    Rule("efficiency.vector", "packed_tensor", BESIDE_SD), Rule("efficiency.vector", "scaled_tensor", BESIDE_SD),
    Rule("efficiency.special", "attention_tensor", EXPONENTIALS_SD), Rule("efficiency.append", "stores"),
    Rule("device_launch.regroup", "attention_tensor regroups"),
    Rule("launch.{runtime}", "called", ALGORITHM_SD, on="cpu"), Rule("launch.{runtime}", "called", on="gpu tpu kpu"),
    # Compiled code on a CPU uses another image layout, and so other kernels of the library, and loops of its own.
    Rule("efficiency.{runtime}", "called !eager convolves", COMPILED_SD, on="cpu"),
    Rule("efficiency.vector.{runtime}", "called !eager vector", on="cpu"),
    Rule("efficiency.special.{runtime}", "called !eager special", on="cpu"),
    Rule("efficiency.bandwidth.{runtime}", "called !eager loops", on="cpu"),
    Rule("launch_tail", "called"), Rule("device_launch", "blocks alone !called !tensor", PRODUCT_LAUNCH_SD, on="gpu"),
    Rule("switch.eager", "eager away", on="cpu"),
)  # fmt: skip


def parameters_for(blocks: Sequence[Block], profile: ArchitectureProfile, only: Collection[str] | None = None) -> list[Parameter]:
    """The coefficients that these cases can determine; those whose names end in one of `only`, where it is given."""
    coefficients = Coefficients(profile)
    kernels = _Kernels(blocks, profile)
    parameters: dict[str, Parameter] = {}

    def add(rule: Rule, words: str = "", runtime: str = "", owner: str = "", algorithm: str = "") -> None:
        prefixes = rule.stem.format(runtime=runtime), rule.stem.replace(".{runtime}", "")
        name = f"{prefixes[0]}.{owner}" if owner else prefixes[0]
        lookup = algorithm_names(prefixes, algorithm or owner) if owner else prefixes
        affects = kernels.cases(f"{rule.kernels} {words} {runtime}")
        value = coefficients.find(*lookup)
        if profile.family not in rule.on.split() or value is None or affects.sum() < MIN_CASES:
            return
        if only is not None and whose(name) not in only:
            return
        space = search_space(name, profile)
        start = min(max(float(value) or space.start, space.low * 1.01), space.high * 0.99)
        space = replace(space, start=start, prior_sd=rule.prior_sd or space.prior_sd)
        # The catalogue gives some operators a dispatch time that is not derived from the average one.
        has_default = continues(name, "launch", "switch") and name in DEFAULTS[profile.family]
        parents = () if has_default else (parent for parent in lookup if parent != name and parent in parameters)
        parameters[name] = Parameter(name, space, affects, next(iter(parents), None))

    for level in () if profile.family in _PUBLISHED_BANDWIDTHS else profile.levels:
        rate = profile.coefficients[f"bandwidth.{level}"]
        add(Rule(f"bandwidth.{level}", "", None if rate.assumed else max(0.1, math.log(rate.bounds[1] / rate.bounds[0]) / 2)))
    # Parents are added before their children.
    for rule in OF_MACHINE:
        add(rule)
    for runtime in kernels.runtimes:
        for rule in OF_RUNTIMES:
            add(rule, runtime=runtime)
    for rule in OF_SYSTEM:
        add(rule)
    for name in kernels.alternatives:
        for rule in OF_ALTERNATIVES:
            add(rule, name, owner=name)
    for algorithm in ALGORITHMS:
        for rule in OF_ALGORITHMS:
            for runtime in kernels.runtimes if "{runtime}" in rule.stem else ("",):
                add(rule, algorithm, runtime, algorithm)
    # The shortest kernel of a loop, and the share of L2's bandwidth, are seen where nothing but the device was timed.
    add(Rule("efficiency.l2", "pointwise alone !called"), owner="pointwise")
    for op, algorithm in kernels.pairs("single !called !matrix"):
        add(Rule("device_launch", "single !called"), op, owner=short_op(op), algorithm=algorithm)
    # Operators measured alone have their own dispatch and, without a contraction, their own loop. Convolutions do not: what their
    # dispatch takes depends on the library that executes the call.
    for op, algorithm in kernels.pairs("alone timed !convolves"):
        words, owner = f"{op} single timed", short_op(op)
        if f"launch.eager.{owner}" in parameters or kernels.cases(f"{words} alone").sum() < MIN_CASES:
            continue
        dispatch = Rule("launch.{runtime}", "called", DISPATCH_SD if profile.family == "cpu" else None)
        add(dispatch, words, "eager", owner, algorithm)
        if kernels.cases(f"{words} matrix").any():
            continue
        # Within one operator, work on the two units is proportional, so one coefficient carries both.
        units = [unit for unit in ("special", "vector") if kernels.cases(f"{words} {unit}").any()]
        if units or profile.family != "gpu":
            add(Rule(f"efficiency.{units[0] if units else 'vector'}"), words, owner=owner, algorithm=algorithm)
        if algorithm != "pointwise":
            # Other loops read rows or windows in ways of their own.
            add(Rule("efficiency.bandwidth"), words, owner=owner, algorithm=algorithm)
    return list(parameters.values())


def relative_power_demand(profile: ArchitectureProfile) -> float:
    """Power that float32 products would draw at the peak, relative to the power that the cap leaves them; 0 where either is
    unknown."""
    demand_w = profile.value("energy.flop.matrix.float32", 0.0) * profile.value("peak.matrix.float32", 0.0)
    return demand_w / (profile.value("power.tdp", math.inf) - profile.value("power.static", 0.0))


def runs_in_blocks(name: str) -> bool:
    """True for coefficients of a GPU's contractions, which thread blocks cut into tiles."""
    return whose(name).startswith(_BLOCK_PREFIXES)


def search_space(name: str, profile: ArchitectureProfile) -> Space:
    """How far a fit may move a coefficient of a machine. On a GPU, contractions stay below the rate of the units at its highest
    clock, and loops below its bandwidth and its rate of special functions.

    Raises:
        KeyError: the coefficient is never fitted.
    """
    catalogue_entry = entry(name)
    space = catalogue_entry.fit_on.get(profile.family, catalogue_entry.fit)
    if space is None:
        raise KeyError(f"coefficient {name!r} has no range to fit it in")
    if profile.family != "gpu":
        return space
    if not runs_in_blocks(name):
        return replace(space, high=1.0) if continues(name, "efficiency.bandwidth", "efficiency.special") else space
    if catalogue_entry is not entry("efficiency"):
        return space
    dtypes, lanes = (("bfloat16", "float16"), "matrix.lanes") if whose(name) in TENSOR else (("float32",), "vector.lanes")
    peak = next((n for dtype in dtypes if (n := f"peak.matrix.{dtype}") in profile.coefficients), None)
    if peak is None or lanes not in profile.coefficients:
        return space
    units = profile.value("count.sms") * profile.value(lanes)
    return replace(space, high=min(space.high, 2.0 * units * profile.value("clock") / profile.value(peak)))


def _words(block: Block, profile: ArchitectureProfile) -> dict[str, Masks]:
    """Word -> (K,) kernels of a block for which it holds; runtimes and alternative algorithms are words too."""
    table, family, blocks = block.table, profile.family, block.tiling.blocks
    all_kernels = np.ones(len(table), dtype=bool)
    algorithm = algorithm_codes(table, profile)
    is_called, is_eager = all_kernels & (block.time == "call"), all_kernels & (block.runtime == "eager")
    is_alone, matrix = (table.counts == 1)[table.segment], table.matrix_flops > 0
    # A loop is attributed to the unit that takes longer at typical rates. A GPU's loops over elements wait for memory, in float32
    # above all, so that their times say nothing of its units.
    is_loop = ~matrix & (table.is_family(*_BY_ROW) | (family != "gpu"))
    special = is_loop & (table.special_flops > TYPICAL_SPECIAL_SHARE * table.vector_flops)
    special &= ~(by_result(table, block.runtime) & (family == "cpu"))
    vector = is_loop & ~special & (table.vector_flops > 0)
    # Pointwise loops define the bandwidths that are fitted, so their share of them is fixed. Streaming weights cannot separate L2
    # from main memory; the parent's values hold.
    reference_algorithm = "gemv_tensor" if family in _PUBLISHED_BANDWIDTHS else "pointwise"
    return {
        **{runtime: all_kernels & (block.runtime == runtime) for of_family in RUNTIMES.values() for runtime in of_family},
        **{way.name: way.offered for way in block.tiling.alternatives},
        **{word: getattr(table, word) > 0 for word in ("mapped_bytes", "grown_bytes", "views", "modules")},
        "called": is_called,
        "timed": ~is_called | is_eager,
        "enters": ~is_alone | enters_alone(profile, block.runtime),
        "alone": is_alone,
        "single": table.calls == 1,
        "matrix": matrix,
        # A GPU's depthwise convolutions stream: their rate does not depend on blocks, so it is not drawn towards that of blocks.
        "blocks": matrix & ~(table.is_family("depthwise") & (family == "gpu")),
        "tensor": in_tensor_kernels(algorithm),
        "vector": vector,
        "special": special,
        "loops": vector | special,
        "given_bandwidth": algorithm == ALGORITHMS.index(reference_algorithm),
        "convolves": table.is_family(*CONVOLUTIONS),
        "converts": np.any([converts_layout(table, algorithm), *unrolls_image(table, algorithm)], axis=0),
        "away": table.code_distance > profile.value("capacity.l2", math.inf) / 4,
        "far": all_kernels & (blocks is not None and blocks.tlb_miss_share > 1e-3),  # than the address translations at hand reach
        "regroups": all_kernels & (blocks is not None and blocks.regrouped > 0.0),  # queries of several heads, by groups
        "stores": all_kernels & (blocks is not None and blocks.stored > 0.0),  # new keys and values in a cache
        "capped": all_kernels & (family == "gpu") & (relative_power_demand(profile) > 0),
        "slowed": all_kernels & (family == "gpu") & (relative_power_demand(profile) > SLOWING_DEMAND),
        "warmth_known": np.asarray([case.warm is not None for case in block.cases])[table.segment],
    }


class _Kernels:
    """The kernels of all blocks together."""

    def __init__(self, blocks: Sequence[Block], profile: ArchitectureProfile) -> None:
        tables = [block.table for block in blocks]
        starts = np.cumsum([0, *(table.segments for table in tables)])
        self.count = int(starts[-1])
        self.runtimes = tuple(dict.fromkeys(block.runtime for block in blocks))
        self.alternatives = sorted({way.name for block in blocks for way in block.tiling.alternatives})
        self._segment = np.concatenate([table.segment + start for table, start in zip(tables, starts, strict=False)])
        self._op = np.concatenate([table.op for table in tables])
        self._algorithm = np.concatenate([algorithm_codes(table, profile) for table in tables])
        words = [dict.fromkeys(self.alternatives, np.zeros(len(b.table), dtype=bool)) | _words(b, profile) for b in blocks]
        self._masks = {word: np.concatenate([of_block[word] for of_block in words]) for word in words[0]}
        self._masks |= {name: self._algorithm == code for code, name in enumerate(ALGORITHMS)}
        self._masks |= {op_names()[code]: self._op == code for code in np.unique(self._op[self._op >= 0])}
        # The shortest kernel is seen where a case has no other, such as one that rounds the operands.
        self._masks["shortest"] = np.isin(self._algorithm, self._algorithm[self._masks["alone"]])

    def where(self, words: str) -> Masks:
        """(K,) kernels for which all of these words hold; a "!" before a word negates it."""
        kernels: Masks = np.ones(len(self._op), dtype=bool)
        for word in words.split():
            kernels = kernels & (~self._masks[word[1:]] if word.startswith("!") else self._masks[word])
        return kernels

    def cases(self, words: str) -> Masks:
        """(S,) cases that have any such kernel."""
        return np.bincount(self._segment[self.where(words)], minlength=self.count) > 0

    def pairs(self, words: str) -> list[tuple[str, str]]:
        """Operators and algorithms that occur together among such kernels; unknown operators are left out."""
        mask, names = self.where(words) & (self._op >= 0), op_names()
        pairs = sorted(set(zip(self._op[mask].tolist(), self._algorithm[mask].tolist(), strict=True)))
        return [(names[op], ALGORITHMS[algorithm]) for op, algorithm in pairs]
