"""Inductor's scheduler: buffers in, kernels out. The thresholds are those of `torch._inductor.config` (version 2.13)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import NamedTuple

import msgspec

from shmoo.estimators.registry import Registry


class Limits(msgspec.Struct, frozen=True):
    """Thresholds of Inductor on one kind of device.

    Attributes:
        reused_reads: an expression with several readers and more reads than this gets a buffer (`realize_reads_threshold`).
        reads: so does any with more reads than this (`realize_acc_reads_threshold`, `realize_cpu_acc_reads_threshold`).
        operations: or with more operations (`realize_opcount_threshold`, `realize_cpu_opcount_threshold`).
        keeps_special: an expression with several readers that evaluates exp, log, sigmoid or tanh gets a buffer (CPU only).
        outer_loops: a reduction and what follows it may share their outer loops only (C++ back-end).
        buffers: most buffers in one kernel (`max_fusion_size`).
        siblings: most where kernels that only read the same are merged (`cpp.max_horizontal_fusion_size`).
        distance: and how far apart in the order of execution these may be (`are_long_distant_nodes`).
    """

    reused_reads: int = 4
    reads: int = 8
    operations: int = 30
    keeps_special: bool = False
    outer_loops: bool = False
    buffers: int = 64
    siblings: int = 64
    distance: int = 64


LIMITS = {"gpu": Limits(), "cpu": Limits(reads=12, operations=50, keeps_special=True, outer_loops=True, siblings=16)}
"""Architecture family -> limits."""


INLINED = "inlined"
"""Rule of a kernel that is one buffer: lowering put its calls together."""


@dataclass(slots=True)
class Buffer:
    """One node of the schedule: what it computes, and its loops: `outer` points with a `reduced` loop inside.

    Attributes:
        alone: shares its loops with no other. trailing: the reduced elements lie together in memory.
        elsewhere: of what is read, what is not read element by element in order.
        rows: elements of the inner loops where loops stay nested; others become one loop.
        copied: is a part of a concatenation already. steps: nodes of the schedule it stands for.
    """

    calls: frozenset[int]
    reads: frozenset[int]
    outer: int
    reduced: int = 1
    library: bool = False
    alone: bool = False
    trailing: bool = True
    elsewhere: frozenset[int] = frozenset()
    rows: frozenset[int] = frozenset()
    copied: bool = False
    steps: int = 1
    nest: tuple[int, ...] = field(init=False)
    """Extents of the loops around the reduced one, the outermost first."""

    def __post_init__(self) -> None:
        if not self.rows:
            self.nest = (self.outer,) if self.outer > 1 else ()
            return
        cuts = [cut // self.reduced for cut in self.rows if cut >= self.reduced and cut % self.reduced == 0]
        ends = [self.outer, *sorted((cut for cut in cuts if 1 < cut < self.outer), reverse=True), 1]
        self.nest = tuple(outer // inner for outer, inner in pairwise(ends) if outer > inner)


class Loops(msgspec.Struct, frozen=True):
    """A pair of kernels that the scheduler looks at: their loops, whether the second reads the first, and the limits."""

    first: Buffer
    second: Buffer
    depends: bool
    limits: Limits

    @property
    def numel_only(self) -> bool:
        """Whether loops are cut anew for each kernel, so that only the number of their points must agree (Triton)."""
        return not self.limits.outer_loops


SCHEDULER_RULES: Registry[Callable[[Loops], bool]] = Registry("scheduler rule")
"""Rule name -> whether two kernels may become one; tried in the order of registration."""


@SCHEDULER_RULES.register("same loops")
def _same_loops(pair: Loops) -> bool:
    """Pointwise loops over the same elements, one reading the other or both the same buffer."""
    first, second = pair.first, pair.second
    alike = pair.numel_only or first.nest == second.nest or min(len(first.nest), len(second.nest)) <= 1
    return first.reduced == second.reduced == 1 and first.outer == second.outer and alike


@SCHEDULER_RULES.register("reduction prologue")
def _into_reduction(pair: Loops) -> bool:
    """Pointwise work whose loops are those of the reduction that follows: the reduced elements lie together in memory."""
    first, second = pair.first, pair.second
    alike = pair.numel_only or first.nest == (*second.nest, second.reduced)
    whole = first.outer == second.outer * second.reduced and alike
    return pair.depends and first.reduced == 1 and second.reduced > 1 and whole and second.trailing


@SCHEDULER_RULES.register("sibling reductions")
def _sibling_reductions(pair: Loops) -> bool:
    """Reductions of the same rows."""
    first, second = pair.first, pair.second
    alike = pair.numel_only or first.nest == second.nest
    return first.reduced == second.reduced > 1 and first.outer == second.outer and alike


@SCHEDULER_RULES.register("reduction epilogue")
def _after_reduction(pair: Loops) -> bool:
    """Pointwise work on rows that were just reduced: their outer loops are the same."""
    first, second = pair.first, pair.second
    if not pair.depends or first.reduced == 1 or second.reduced > 1:
        return False
    whole = second.outer in (first.outer, first.outer * first.reduced) and (first.trailing or second.outer == first.outer)
    return whole and (pair.numel_only or all(a == b for a, b in zip(first.nest, second.nest, strict=False)))


class Group(msgspec.Struct, frozen=True):
    """A kernel: the calls it computes at least in part, the rule that joined the last ones, and whether it is a library call."""

    calls: tuple[int, ...]
    pattern: str = ""
    library: bool = False


class Schedule(NamedTuple):
    """Kernels in execution order, and the operands (call, value) of concatenations that are made where the result is."""

    groups: list[Group]
    direct: frozenset[tuple[int, int]] = frozenset()


class Scheduler:
    """Merges buffers, in the order of execution, into the kernels that the rules allow."""

    def __init__(self, buffers: dict[int, Buffer], limits: Limits) -> None:
        self.limits = limits
        self.rules = tuple(SCHEDULER_RULES.items())
        self.names = list(buffers)
        self.buffers = buffers
        self.kernel_of = {name: name for name in buffers}
        self.members = {name: [name] for name in buffers}
        self.newest = dict(self.kernel_of)
        self.pattern: dict[int, str] = {}
        self.place = dict(zip(buffers, accumulate(buffer.steps for buffer in buffers.values()), strict=True))
        self.readers: dict[int, list[int]] = {}
        for name, buffer in buffers.items():
            for source in buffer.reads:
                self.readers.setdefault(source, []).append(name)

    def run(self) -> list[Group]:
        for second in self.names:
            if self.buffers[second].alone:
                continue
            for source in sorted(self.buffers[second].reads, reverse=True):
                if source in self.buffers:
                    self._try(source, second, True)
            for source in sorted(self.buffers[second].reads):
                for sibling in self.readers.get(source, ()):
                    if sibling >= second:
                        break
                    self._try(sibling, second, False)
        groups = []
        for members in sorted(self.members.values(), key=max):
            calls = frozenset().union(*(self.buffers[m].calls for m in members))
            if calls:
                library = self.buffers[members[0]].library
                groups.append(
                    Group(
                        tuple(sorted(calls)),
                        self.pattern.get(self.kernel_of[members[0]], INLINED if len(calls) > 1 else ""),
                        library,
                    )
                )
        return groups

    def _try(self, first: int, second: int, depends: bool) -> None:
        a, b = self.kernel_of[first], self.kernel_of[second]
        one, two = self.buffers[first], self.buffers[second]
        if a == b or one.alone or two.alone:
            return
        pair = Loops(one, two, depends, self.limits)
        rule = next((name for name, allows in self.rules if allows(pair)), None)
        if rule is None:
            return
        size = len(self.members[a]) + len(self.members[b])
        if not depends and not (one.reads - one.elsewhere) & (two.reads - two.elsewhere):
            return  # Different parts of what both read.
        if size > (self.limits.buffers if depends else self.limits.siblings):
            return
        if not depends and self._distance(a, b) > self.limits.distance:
            return
        if depends and self._reads_elsewhere(a, b):
            return
        if self.limits.outer_loops and not self._nested_alike(a, b):
            return
        if not self._cycle(a, b):
            keep, gone = (a, b) if a < b else (b, a)
            self.members[keep] += self.members.pop(gone)
            self.newest[keep] = max(self.newest[keep], self.newest.pop(gone))
            for member in self.members[keep]:
                self.kernel_of[member] = keep
            self.pattern.pop(gone, None)
            self.pattern[keep] = rule

    def _reads_elsewhere(self, first: int, second: int) -> bool:
        """Whether one of two kernels reads what the other makes at other places than these where it makes them."""
        # Loops without operands take any order.
        a, b = ([m for m in self.members[k] if self.buffers[m].reads] for k in (first, second))
        return any(not self.buffers[m].elsewhere.isdisjoint(a) for m in b) or any(
            not self.buffers[m].elsewhere.isdisjoint(b) for m in a
        )

    def _nested_alike(self, first: int, second: int) -> bool:
        """Where rows are reduced, pointwise loops over all elements must be nested in rows as well."""
        buffers = [self.buffers[m] for m in (*self.members[first], *self.members[second])]
        rows = {b.reduced: b.outer for b in buffers if b.reduced > 1}
        return not rows or all(b.reduced > 1 or b.rows & rows.keys() or b.outer <= max(rows.values()) for b in buffers)

    def _distance(self, first: int, second: int) -> int:
        """Steps in the order of execution between the far ends of two kernels."""
        places = [self.place[m] for m in (*self.members[first], *self.members[second])]
        return max(places) - min(places)

    def _cycle(self, first: int, second: int) -> bool:
        """Whether a path leads from one of the two kernels through others into either of them; searched from its end, and only
        among kernels that hold something later than their start."""
        inside = {*self.members[first], *self.members[second]}
        floor = min(inside)
        stack = [source for member in inside for source in self._sources(member) if source not in inside]
        seen: set[int] = set()
        while stack:
            kernel = self.kernel_of[stack.pop()]
            if kernel in seen or self.newest[kernel] < floor:
                continue
            seen.add(kernel)
            for member in self.members[kernel]:
                for source in self._sources(member):
                    if source in inside:
                        return True
                    stack.append(source)
        return False

    def _sources(self, name: int) -> list[int]:
        """Buffers that a buffer reads; graph inputs are none."""
        return [source for source in self.buffers[name].reads if source in self.buffers]
