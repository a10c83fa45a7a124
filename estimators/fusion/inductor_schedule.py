"""Inductor's scheduler: buffers in, kernels out. The thresholds are those of `torch._inductor.config` (version 2.13)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import NamedTuple

import msgspec

from shmoo.estimators.graph.records import Kernel
from shmoo.estimators.registry import Registry


class Limits(msgspec.Struct, frozen=True):
    """Thresholds of Inductor on one kind of device.

    Attributes:
        reused_reads: an expression with several readers and more reads than this gets a buffer (`realize_reads_threshold`).
        reads: an expression with more reads than this gets one (`realize_acc_reads_threshold`,
            `realize_cpu_acc_reads_threshold`).
        operations: an expression with more operations gets one (`realize_opcount_threshold`, `realize_cpu_opcount_threshold`).
        keeps_special: an expression with several readers that evaluates exp, log, sigmoid or tanh gets a buffer (CPU only).
        outer_loops: a reduction shares only its outer loops with the operators after it (C++ back-end).
        buffers: maximum of buffers in one kernel (`max_fusion_size`).
        siblings: the same for kernels that only read the same buffers (`cpp.max_horizontal_fusion_size`).
        distance: maximal distance of such kernels in the order of execution (`are_long_distant_nodes`).
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
"""Rule of a kernel that is a single buffer, whose calls lowering combined."""


@dataclass(slots=True)
class Buffer:
    """One node of the schedule: the calls it computes, and its loops: `outer` points with a `reduced` loop inside.

    Attributes:
        alone: never shares its loops with another buffer. trailing: the reduced elements are contiguous in memory.
        elsewhere: the reads that are not element by element in order.
        rows: elements of the inner loops where loops stay nested; others become one loop.
        copied: whether it is a part of a concatenation. steps: nodes of Inductor's schedule that it represents.
    """

    calls: frozenset[int]
    reads: frozenset[int]
    outer: int
    reduced: int = 1
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
        inner_sizes = [rows // self.reduced for rows in self.rows if rows >= self.reduced and rows % self.reduced == 0]
        ends = [self.outer, *sorted((rows for rows in inner_sizes if 1 < rows < self.outer), reverse=True), 1]
        self.nest = tuple(outer // inner for outer, inner in pairwise(ends) if outer > inner)


class Loops(msgspec.Struct, frozen=True):
    """Loops of two kernels that may be merged, and whether the second reads the first. With `numel_only` each kernel splits its
    loops anew, so that only the number of their points must agree (Triton)."""

    first: Buffer
    second: Buffer
    depends: bool
    numel_only: bool


SCHEDULER_RULES: Registry[Callable[[Loops], bool]] = Registry("scheduler rule")
"""Rule name -> whether two kernels may become one; tried in the order of registration."""


@SCHEDULER_RULES.register("same loops")
def _same_loops(pair: Loops) -> bool:
    """Pointwise loops over the same elements; one reads the other, or both read the same buffer."""
    first, second = pair.first, pair.second
    nests_agree = pair.numel_only or first.nest == second.nest or min(len(first.nest), len(second.nest)) <= 1
    return first.reduced == second.reduced == 1 and first.outer == second.outer and nests_agree


@SCHEDULER_RULES.register("reduction prologue")
def _into_reduction(pair: Loops) -> bool:
    """Pointwise work whose loops are those of the reduction that follows: the reduced elements are contiguous in memory."""
    first, second = pair.first, pair.second
    nests_agree = pair.numel_only or first.nest == (*second.nest, second.reduced)
    covers_all = first.outer == second.outer * second.reduced and nests_agree
    return pair.depends and first.reduced == 1 and second.reduced > 1 and covers_all and second.trailing


@SCHEDULER_RULES.register("sibling reductions")
def _sibling_reductions(pair: Loops) -> bool:
    """Reductions of the same rows."""
    first, second = pair.first, pair.second
    nests_agree = pair.numel_only or first.nest == second.nest
    return first.reduced == second.reduced > 1 and first.outer == second.outer and nests_agree


@SCHEDULER_RULES.register("reduction epilogue")
def _after_reduction(pair: Loops) -> bool:
    """Pointwise work on rows that the first kernel reduces: their outer loops are the same."""
    first, second = pair.first, pair.second
    if not pair.depends or first.reduced == 1 or second.reduced > 1:
        return False
    covers_rows = second.outer in (first.outer, first.outer * first.reduced) and (first.trailing or second.outer == first.outer)
    return covers_rows and (pair.numel_only or all(a == b for a, b in zip(first.nest, second.nest, strict=False)))


class Schedule(NamedTuple):
    """Kernels in execution order, with all calls that they compute at least in part, and the concatenation operands (call, value)
    that their producer writes in place."""

    kernels: list[Kernel]
    direct: frozenset[tuple[int, int]] = frozenset()


class Groups:
    """Nodes in groups, each named by its smallest node; a merge must not make a cycle between groups. `sources` are nodes, in the
    order of execution, and the nodes whose results each of them reads."""

    def __init__(self, sources: Mapping[int, Sequence[int]]) -> None:
        self.sources = sources
        self.members = {node: [node] for node in sources}
        self.group_of = {node: node for node in sources}
        self.newest = dict(self.group_of)
        self.pattern: dict[int, str] = {}

    def would_cycle(self, first: int, second: int) -> bool:
        """True where a path leads from one of two groups through others into either of them. The search runs backwards and skips
        groups without a node after the first of the two."""
        members = {*self.members[first], *self.members[second]}
        floor = min(members)
        stack = [source for member in members for source in self.sources[member] if source not in members]
        visited: set[int] = set()
        while stack:
            group = self.group_of[stack.pop()]
            if group in visited or self.newest[group] < floor:
                continue
            visited.add(group)
            # A group runs as a whole: it needs the sources of all its members.
            for member in self.members[group]:
                for source in self.sources[member]:
                    if source in members:
                        return True
                    stack.append(source)
        return False

    def join(self, first: int, second: int, rule: str) -> None:
        """Merge two groups and note the rule that allowed it."""
        target, removed_group = min(first, second), max(first, second)
        self.members[target] += self.members.pop(removed_group)
        self.newest[target] = max(self.newest[target], self.newest.pop(removed_group))
        for member in self.members[target]:
            self.group_of[member] = target
        self.pattern.pop(removed_group, None)
        self.pattern[target] = rule


class Scheduler(Groups):
    """Merges buffers, in the order of execution, into the kernels that the rules allow."""

    def __init__(self, buffers: Mapping[int, Buffer], limits: Limits) -> None:
        # Graph inputs are no sources.
        super().__init__({name: [source for source in b.reads if source in buffers] for name, b in buffers.items()})
        self.limits = limits
        self.rules = tuple(SCHEDULER_RULES.items())
        self.buffers = buffers
        self.place = dict(zip(buffers, accumulate(buffer.steps for buffer in buffers.values()), strict=True))
        self.readers: dict[int, list[int]] = {}
        for name, buffer in buffers.items():
            for source in buffer.reads:
                self.readers.setdefault(source, []).append(name)

    def run(self) -> list[Kernel]:
        """Merge kernels while the rules allow a pair; in the order of execution."""
        for second, buffer in self.buffers.items():
            if buffer.alone:
                continue
            for source in sorted(self.sources[second], reverse=True):
                self._merge_if_allowed(source, second, True)
            nearest = self.place[second] - self.limits.distance
            for source in sorted(buffer.reads):
                for sibling in self.readers.get(source, ()):
                    if sibling >= second:
                        break
                    # A value that many layers read, such as a mask, has readers too far away to merge.
                    if self.place[sibling] >= nearest:
                        self._merge_if_allowed(sibling, second, False)
        kernels = []
        for members in sorted(self.members.values(), key=max):
            calls = frozenset().union(*(self.buffers[m].calls for m in members))
            if calls:
                pattern = self.pattern.get(self.group_of[members[0]], INLINED if len(calls) > 1 else "")
                kernels.append(Kernel(tuple(sorted(calls)), pattern))
        return kernels

    def _merge_if_allowed(self, first: int, second: int, depends: bool) -> None:
        a, b = self.group_of[first], self.group_of[second]
        first_buffer, second_buffer = self.buffers[first], self.buffers[second]
        if a == b or first_buffer.alone or second_buffer.alone:
            return
        # Loops go over as many elements, or over the rows that the other reduces.
        if not (
            first_buffer.outer == second_buffer.outer
            or first_buffer.outer == second_buffer.outer * second_buffer.reduced
            or second_buffer.outer == first_buffer.outer * first_buffer.reduced
        ):
            return
        pair = Loops(first_buffer, second_buffer, depends, not self.limits.outer_loops)
        rule = next((name for name, allows in self.rules if allows(pair)), None)
        if rule is None:
            return
        size = len(self.members[a]) + len(self.members[b])
        if depends:
            is_refused = size > self.limits.buffers or self._reads_elsewhere(a, b)
        else:
            # Siblings may read different parts of the same buffer.
            common_reads = (first_buffer.reads - first_buffer.elsewhere) & (second_buffer.reads - second_buffer.elsewhere)
            is_refused = not common_reads or size > self.limits.siblings or self._distance(a, b) > self.limits.distance
        if is_refused or (self.limits.outer_loops and not self._nested_alike(a, b)) or self.would_cycle(a, b):
            return
        self.join(a, b, rule)

    def _reads_elsewhere(self, first: int, second: int) -> bool:
        """True where one of two kernels reads a result of the other in a different order than it is written."""
        # Loops without operands take any order.
        a, b = ([m for m in self.members[k] if self.buffers[m].reads] for k in (first, second))
        return any(not self.buffers[m].elsewhere.isdisjoint(a) for m in b) or any(
            not self.buffers[m].elsewhere.isdisjoint(b) for m in a
        )

    def _nested_alike(self, first: int, second: int) -> bool:
        """True unless the kernels reduce rows and a pointwise loop over all elements is not nested in these rows."""
        buffers = [self.buffers[m] for m in (*self.members[first], *self.members[second])]
        rows = {b.reduced: b.outer for b in buffers if b.reduced > 1}
        return not rows or all(b.reduced > 1 or b.rows & rows.keys() or b.outer <= max(rows.values()) for b in buffers)

    def _distance(self, first: int, second: int) -> int:
        """Steps in the order of execution between the far ends of two kernels."""
        places = [self.place[m] for m in (*self.members[first], *self.members[second])]
        return max(places) - min(places)
