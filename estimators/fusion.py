"""Which calls one launch executes: registered rules on the graph, per runtime.

A rule looks at one edge, a value that one call produces and a later one consumes, and says whether the consumer may join the
producer's kernel. The engine walks the edges in execution order and merges where a rule of the runtime allows it and no
cycle between kernels would arise. Eager has no rules: every call is its own kernel. Bytes follow from the groups (external inputs
plus final outputs; see `kernels.py`), so a rule is all that a new pattern needs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import msgspec

from shmoo.estimators.costs import COSTS, cost_of, costs_of
from shmoo.estimators.inductor import schedule
from shmoo.estimators.inductor_schedule import LIMITS, Group, Schedule
from shmoo.estimators.kernels import Kernel
from shmoo.estimators.records import CONTRACTIONS, CONVOLUTIONS, RUNTIMES, Cost, Graph, OpCall
from shmoo.estimators.registry import Registry

BATCH_NORM = frozenset(name for name in COSTS if "batch_norm" in name)
LIBRARY_ACTIVATIONS = frozenset(
    f"aten.{name}"
    for name in ("relu", "relu6", "hardtanh", "leaky_relu", "elu", "gelu", "silu", "sigmoid", "tanh", "hardswish", "hardsigmoid")
)
"""Activations that libraries apply while they write a contraction's result (oneDNN's eltwise post-operations)."""


class Edge(msgspec.Struct, frozen=True):
    """One producer-consumer pair. `sole` is whether this consumer is the only reader of the producer's results; `head` is the
    first call of the producer's kernel and `group_ops` all of its operators, in order; `free_consumer` is whether the consumer
    has joined no kernel yet."""

    producer: OpCall
    consumer: OpCall
    head: OpCall
    sole: bool
    group_ops: tuple[str, ...]
    free_consumer: bool


class FusionRule(msgspec.Struct, frozen=True):
    """A named predicate on an edge and where it holds: (architecture family, runtime) pairs."""

    name: str
    targets: frozenset[tuple[str, str]]
    allows: Callable[[Edge], bool]


FUSION_RULES: Registry[FusionRule] = Registry("fusion rule")
"""Rule name -> rule; tried in the order of registration."""

COMPILERS = tuple((family, runtime) for family, runtimes in RUNTIMES.items() for runtime in runtimes if runtime != "eager")
INDUCTOR = frozenset(target for target in COMPILERS if target[0] in LIMITS)
"""Targets whose loops Inductor schedules; the rules of `SCHEDULER_RULES` say how."""
WHOLE_PROGRAM = (("tpu", "xla"), ("kpu", "domainflow"))
FREEZING = (("cpu", "inductor-freezing"), ("gpu", "inductor-freezing"))


def fusion_rule(
    name: str, targets: Sequence[tuple[str, str]] = COMPILERS
) -> Callable[[Callable[[Edge], bool]], Callable[[Edge], bool]]:
    """Decorator that registers a predicate as a rule of the given (family, runtime) targets."""

    def decorate(allows: Callable[[Edge], bool]) -> Callable[[Edge], bool]:
        FUSION_RULES.add(name, FusionRule(name, frozenset(targets), allows))
        return allows

    return decorate


def _family(call: OpCall) -> str:
    cost = cost_of(call)
    return "free" if cost is None else cost.family


def is_pointwise(call: OpCall) -> bool:
    """Whether each output element depends on the elements at its own place only (inference batch norm among them)."""
    if call.op in BATCH_NORM:
        return call.attributes.get("training") is not True
    return _family(call) == "pointwise"


def is_reduction(call: OpCall) -> bool:
    """Whether rows are reduced, with or without writing the row back: norms, softmax, sums, global pooling; no sliding window."""
    cost = cost_of(call)
    if cost is None or is_pointwise(call):
        return False
    sliding = cost.family == "pooling" and cost.window > 1 and "adaptive" not in call.op
    return cost.family in ("normalization", "softmax", "pooling") and not sliding


def _in_library(call: OpCall) -> bool:
    return _family(call) in CONTRACTIONS


def _continues(edge: Edge) -> bool:
    """Whether the consumer is pointwise over the producer's elements (a broadcast to more elements would recompute)."""
    return is_pointwise(edge.consumer) and edge.consumer.outputs[0].numel == edge.producer.outputs[0].numel


@fusion_rule("conv+bn", FREEZING + WHOLE_PROGRAM)
def _conv_bn(edge: Edge) -> bool:
    """Inference batch norm folds into the convolution's weights once these are constants."""
    return _family(edge.producer) in CONVOLUTIONS and edge.consumer.op in BATCH_NORM and edge.sole and is_pointwise(edge.consumer)


@fusion_rule("contraction+activation", FREEZING)
def _contraction_activation(edge: Edge) -> bool:
    """conv+relu, conv+bn+relu, conv+bn+silu, linear+relu, linear+gelu: an activation as post-operation of the library call."""
    head = edge.head
    # PyTorch's float32 linear layers go to a library without post-operations.
    takes = _family(head) in CONVOLUTIONS or (_in_library(head) and head.outputs[0].dtype in ("bfloat16", "float16"))
    return takes and edge.consumer.op in LIBRARY_ACTIVATIONS and edge.sole and edge.free_consumer and _continues(edge)


@fusion_rule("contraction+residual", FREEZING)
def _contraction_residual(edge: Edge) -> bool:
    """A sum with a tensor of the same shape as post-operation of the convolution that produces the other term; one per call."""
    terms = edge.consumer.inputs
    return (
        _family(edge.head) in CONVOLUTIONS
        and edge.consumer.op == "aten.add"
        and len(terms) == 2
        and terms[0].shape == terms[1].shape
        and "aten.add" not in edge.group_ops
        and edge.sole
        and edge.free_consumer
    )


@fusion_rule("contraction+epilogue", WHOLE_PROGRAM)
def _contraction_epilogue(edge: Edge) -> bool:
    """Whole-program compilers keep pointwise work on a contraction's result on chip."""
    return _in_library(edge.head) and edge.sole and _continues(edge)


@fusion_rule("pointwise chain", WHOLE_PROGRAM)
def _pointwise_chain(edge: Edge) -> bool:
    """Loops over the same elements become one loop."""
    return is_pointwise(edge.producer) and not _in_library(edge.head) and _continues(edge)


@fusion_rule("reduction prologue", WHOLE_PROGRAM)
def _reduction_prologue(edge: Edge) -> bool:
    """Pointwise work on what a reduction reads is computed as it is read."""
    return is_pointwise(edge.producer) and not _in_library(edge.head) and is_reduction(edge.consumer)


@fusion_rule("reduction epilogue", WHOLE_PROGRAM)
def _reduction_epilogue(edge: Edge) -> bool:
    """Pointwise work on what a reduction returns, element by element."""
    return is_reduction(edge.producer) and _continues(edge)


def fuse(
    graph: Graph, runtime: str = "eager", family: str = "cpu", costs: Sequence[Cost | None] | None = None
) -> tuple[Kernel, ...]:
    """Group a graph's calls into kernels, in execution order.

    Args:
        graph: captured calls.
        runtime: one of `profile.RUNTIMES`; "eager" groups nothing.
        family: architecture family ("cpu", "gpu", "tpu", "kpu").
        costs: of the graph's calls, where they are known already.
    """
    costs = costs_of(graph) if costs is None else costs
    working = [index for index, cost in enumerate(costs) if cost is not None]
    if (family, runtime) in INDUCTOR:
        folded = folded_calls(graph) if runtime == "inductor-freezing" else frozenset()
        scheduled = _inductor_schedule(graph, runtime, family, costs, folded)
        return _partition(graph, [i for i in working if i not in folded], scheduled)
    rules = [rule for rule in FUSION_RULES.values() if (family, runtime) in rule.targets]
    if not rules:
        return tuple(Kernel((index,)) for index in working)
    return _Groups(graph, working).merge(rules)


def fusion_groups(graph: Graph, runtime: str, family: str = "cpu") -> list[Group]:
    """Every kernel that a compiler makes, with all calls that it computes at least in part.

    As `fuse`, except that a call which Inductor computes in several kernels (a norm's statistics and its scaling, an inlined sum)
    is in each of them, and one that it needs no kernel for (`cat` of what can be computed in place) is in none.
    """
    if (family, runtime) not in INDUCTOR:
        return [Group(kernel.calls, kernel.pattern) for kernel in fuse(graph, runtime, family)]
    folded = folded_calls(graph) if runtime == "inductor-freezing" else frozenset()
    return _inductor_schedule(graph, runtime, family, costs_of(graph), folded).groups


def _inductor_schedule(graph: Graph, runtime: str, family: str, every: Sequence[Cost | None], folded: frozenset[int]) -> Schedule:
    """Inductor's kernels.

    Args:
        every: cost of each call. folded: calls that freezing does away with.
    """
    costs = [None if index in folded else cost for index, cost in enumerate(every)]
    working = [index for index, cost in enumerate(costs) if cost is not None]
    rules = [rule for rule in FUSION_RULES.values() if (family, runtime) in rule.targets]
    library: dict[int, tuple[int, ...]] = {}
    pattern: dict[tuple[int, ...], str] = {}
    for kernel in _Groups(graph, working).merge(rules):
        pattern[kernel.calls] = kernel.pattern
        if any(costs[i].family in CONTRACTIONS for i in kernel.calls):
            library.update(dict.fromkeys(kernel.calls, ()))
            library[kernel.calls[-1]] = kernel.calls
    scheduled = schedule(graph, costs, library, family, frozen=runtime == "inductor-freezing")
    named = [msgspec.structs.replace(g, pattern=pattern.get(g.calls, "")) if g.library else g for g in scheduled.groups]
    return scheduled._replace(groups=named)


def folded_calls(graph: Graph) -> frozenset[int]:
    """Calls that depend on weights only, which freezing computes once, when it compiles."""
    constant = {index for index, value in enumerate(graph.values) if value.is_weight}
    folded = []
    for index, call in enumerate(graph.calls):
        if call.reads and not call.inplace and all(graph.root(value) in constant for value in call.reads):
            constant.update(call.writes)
            folded.append(index)
    return frozenset(folded)


def _partition(graph: Graph, working: Sequence[int], scheduled: Schedule) -> tuple[Kernel, ...]:
    """Groups as kernels in which each call is once: kernels that have calls to themselves keep these, the others claim one of
    theirs, and what is left is in the last kernel that computes it. A call without a kernel joins the last that makes its
    operands.
    """
    groups = scheduled.groups
    count = Counter(call for group in groups for call in group.calls)
    home: dict[int, int] = {}
    for position, group in enumerate(groups):
        home.update((call, position) for call in group.calls if count[call] == 1)
    taken = set(home.values())
    for position, group in enumerate(groups):
        claimed = next((call for call in group.calls if call not in home), None)
        if position not in taken and claimed is not None:
            home[claimed] = position
    for position, group in reversed(list(enumerate(groups))):
        for call in group.calls:
            home.setdefault(call, position)
    maker = {value: index for index in working for value in graph.calls[index].writes}
    alone = len(groups)
    for index in working:
        if index not in home:
            places = [home[maker[value]] for value in graph.calls[index].reads if maker.get(value) in home]
            home[index] = max(places, default=alone)
            alone += not places
    members: dict[int, list[int]] = {}
    for call in sorted(home):
        members.setdefault(home[call], []).append(call)
    names = {position: group.pattern for position, group in enumerate(groups)}
    direct: dict[int, set[tuple[int, int]]] = {}
    for part in scheduled.direct:
        direct.setdefault(home.get(part[0], -1), set()).add(part)
    kernels = [
        Kernel(tuple(calls), names.get(place, "") if len(calls) > 1 else "", frozenset(direct.get(place, ())))
        for place, calls in members.items()
    ]
    return tuple(sorted(kernels, key=lambda kernel: kernel.calls[-1]))


class _Groups:
    """Calls in groups (union-find without ranks: the smallest call of a group names it)."""

    def __init__(self, graph: Graph, working: Sequence[int]) -> None:
        self.graph = graph
        self.members: dict[int, list[int]] = {i: [i] for i in working}
        self.group_of = {i: i for i in working}
        self.newest = dict(self.group_of)
        self.pattern: dict[int, str] = {}
        self.readers: dict[int, set[int]] = {i: set() for i in working}
        self.producers: dict[int, list[int]] = {i: [] for i in working}
        self.returned: set[int] = set()
        self._wire()

    def _wire(self) -> None:
        """Edges between working calls, seen through free calls (views)."""
        maker: dict[int, tuple[int, ...]] = {}  # value -> working calls that compute it
        for index, call in enumerate(self.graph.calls):
            sources = [source for value in call.reads for source in maker.get(value, ())]
            if index in self.group_of:
                for source in dict.fromkeys(sources):
                    self.readers[source].add(index)
                    self.producers[index].append(source)
                makers: tuple[int, ...] = (index,)
            else:
                makers = tuple(dict.fromkeys(sources))
            for value in call.writes:
                maker[value] = makers
        for value in self.graph.outputs:
            self.returned.update(maker.get(value, ()))

    def merge(self, rules: Sequence[FusionRule]) -> tuple[Kernel, ...]:
        for consumer in list(self.group_of):
            # The last of several producers can take the consumer in: the results of the others are there by then.
            for producer in sorted(self.producers[consumer], reverse=True):
                first, second = self.group_of[producer], self.group_of[consumer]
                if first == second:
                    continue
                rule = self._allowing(rules, producer, consumer)
                if rule is not None and not self._would_cycle(first, second):
                    self._join(first, second, rule.name)
        kernels = [Kernel(tuple(sorted(calls)), self.pattern.get(name, "")) for name, calls in self.members.items()]
        return tuple(sorted(kernels, key=lambda kernel: kernel.calls[-1]))

    def _allowing(self, rules: Sequence[FusionRule], producer: int, consumer: int) -> FusionRule | None:
        calls = self.graph.calls
        group = sorted(self.members[self.group_of[producer]])
        edge = Edge(
            calls[producer],
            calls[consumer],
            calls[group[0]],
            sole=len(self.readers[producer]) == 1 and producer not in self.returned,
            group_ops=tuple(calls[i].op for i in group),
            free_consumer=len(self.members[self.group_of[consumer]]) == 1,
        )
        return next((rule for rule in rules if rule.allows(edge)), None)

    def _would_cycle(self, first: int, second: int) -> bool:
        """Whether some path leaves `first`, passes through another group and enters `second`; searched from its end, and only
        among groups that hold something later than the start of `first`."""
        start = set(self.members[first])
        inside = start.union(self.members[second])
        floor = min(start)
        stack = [p for i in self.members[second] for p in self.producers[i] if p not in inside]
        seen: set[int] = set()
        while stack:
            group = self.group_of[stack.pop()]
            if group in seen or self.newest[group] < floor:
                continue
            seen.add(group)
            # Entering through any member of another group means that the whole group must have run before.
            for member in self.members[group]:
                for producer in self.producers[member]:
                    if producer in start:
                        return True
                    if producer not in inside:
                        stack.append(producer)
        return False

    def _join(self, first: int, second: int, rule: str) -> None:
        keep, gone = min(first, second), max(first, second)
        self.members[keep] = self.members[keep] + self.members.pop(gone)
        self.newest[keep] = max(self.newest[keep], self.newest.pop(gone))
        for index in self.members[keep]:
            self.group_of[index] = keep
        self.pattern[keep] = rule
        self.pattern.pop(gone, None)
