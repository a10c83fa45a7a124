"""Fusion: registered rules, per runtime, decide which calls one launch executes. A rule looks at one edge, a value that one call
produces and a later one consumes; the engine walks the edges in execution order and merges where a rule allows it and no cycle
between kernels would arise. Bytes follow from the groups (`graph_rows.py`), so a new pattern needs only a rule."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import msgspec

from shmoo.estimators.costs import COSTS, costs_of
from shmoo.estimators.fusion.inductor_expression import is_pointwise_norm
from shmoo.estimators.fusion.inductor_lowering import schedule
from shmoo.estimators.fusion.inductor_schedule import LIMITS, SCHEDULER_RULES, Groups, Schedule
from shmoo.estimators.graph.records import CONTRACTIONS, CONVOLUTIONS, RUNTIMES, Cost, Graph, Kernel, OpCall
from shmoo.estimators.registry import Registry, aten

LIBRARY_ACTIVATIONS = frozenset(aten("relu relu6 hardtanh leaky_relu elu gelu silu sigmoid tanh hardswish hardsigmoid"))
"""Activations that libraries apply while they write a contraction's result (oneDNN's eltwise post-operations)."""


class Edge(msgspec.Struct, frozen=True):
    """One producer-consumer pair.

    Attributes:
        head: first call of the producer's kernel. group_ops: all operators of that kernel, in order.
        producer_cost, consumer_cost, head_cost: of these calls, as `costs_of` gives them.
        sole: whether this consumer is the only reader of the producer's results.
        free_consumer: whether the consumer has joined no kernel yet.
    """

    producer: OpCall
    consumer: OpCall
    head: OpCall
    producer_cost: Cost
    consumer_cost: Cost
    head_cost: Cost
    sole: bool
    group_ops: tuple[str, ...]
    free_consumer: bool


class FusionRule(msgspec.Struct, frozen=True):
    """A named predicate on an edge and the (architecture family, runtime) pairs it applies to."""

    name: str
    targets: frozenset[tuple[str, str]]
    allows: Callable[[Edge], bool]


FUSION_RULES: Registry[FusionRule] = Registry("fusion rule")
"""Rule name -> rule; tried in the order of registration."""

INDUCTOR = frozenset((family, runtime) for family in LIMITS for runtime in RUNTIMES[family] if runtime != "eager")
"""Targets whose loops Inductor schedules, by the rules of `SCHEDULER_RULES`."""
WHOLE_PROGRAM = (("tpu", "xla"), ("kpu", "domainflow"))
FREEZING = (("cpu", "inductor-freezing"), ("gpu", "inductor-freezing"))


def fusion_rule(name: str, targets: Sequence[tuple[str, str]]) -> Callable[[Callable[[Edge], bool]], Callable[[Edge], bool]]:
    """Decorator that registers a predicate as a rule of the given (family, runtime) targets."""

    def decorate(allows: Callable[[Edge], bool]) -> Callable[[Edge], bool]:
        FUSION_RULES.add(name, FusionRule(name, frozenset(targets), allows))
        return allows

    return decorate


def is_pointwise(call: OpCall, cost: Cost) -> bool:
    """True where each output element depends only on the elements at its own place (also for inference batch norm)."""
    return cost.family == "pointwise" or is_pointwise_norm(call)


def is_reduction(call: OpCall, cost: Cost) -> bool:
    """True where rows are reduced, with or without writing the row back: norms, softmax, sums, global pooling; no sliding
    window."""
    slides = cost.family == "pooling" and cost.window > 1 and "adaptive" not in call.op
    return cost.family in ("normalization", "softmax", "pooling") and not slides and not is_pointwise_norm(call)


def _continues(edge: Edge) -> bool:
    """True where the consumer is pointwise over the producer's elements (a broadcast to more elements would recompute)."""
    return is_pointwise(edge.consumer, edge.consumer_cost) and edge.consumer.outputs[0].numel == edge.producer.outputs[0].numel


@fusion_rule("conv+bn", FREEZING + WHOLE_PROGRAM)
def _conv_bn(edge: Edge) -> bool:
    """Inference batch norm folds into the convolution's weights once these are constants."""
    return edge.producer_cost.family in CONVOLUTIONS and is_pointwise_norm(edge.consumer) and edge.sole


@fusion_rule("contraction+activation", FREEZING)
def _contraction_activation(edge: Edge) -> bool:
    """conv+relu, conv+bn+relu, conv+bn+silu, linear+relu, linear+gelu: an activation as post-operation of the library call."""
    family = edge.head_cost.family
    # PyTorch's float32 linear layers go to a library without post-operations.
    takes = family in CONVOLUTIONS or (family in CONTRACTIONS and edge.head.outputs[0].dtype in ("bfloat16", "float16"))
    return takes and edge.consumer.op in LIBRARY_ACTIVATIONS and edge.sole and edge.free_consumer and _continues(edge)


@fusion_rule("contraction+residual", FREEZING)
def _contraction_residual(edge: Edge) -> bool:
    """A sum with a tensor of the same shape as post-operation of the convolution that produces the other term; one per call."""
    terms = edge.consumer.inputs
    return (
        edge.head_cost.family in CONVOLUTIONS
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
    return edge.head_cost.family in CONTRACTIONS and edge.sole and _continues(edge)


@fusion_rule("pointwise chain", WHOLE_PROGRAM)
def _pointwise_chain(edge: Edge) -> bool:
    """Loops over the same elements become one loop."""
    return is_pointwise(edge.producer, edge.producer_cost) and edge.head_cost.family not in CONTRACTIONS and _continues(edge)


@fusion_rule("reduction prologue", WHOLE_PROGRAM)
def _reduction_prologue(edge: Edge) -> bool:
    """A reduction computes pointwise work on its operand as it reads it."""
    loops = is_pointwise(edge.producer, edge.producer_cost) and edge.head_cost.family not in CONTRACTIONS
    return loops and is_reduction(edge.consumer, edge.consumer_cost)


@fusion_rule("reduction epilogue", WHOLE_PROGRAM)
def _reduction_epilogue(edge: Edge) -> bool:
    """Pointwise work on a reduction's result, element by element."""
    return is_reduction(edge.producer, edge.producer_cost) and _continues(edge)


def fuse(graph: Graph, runtime: str = "eager", family: str = "cpu") -> tuple[Kernel, ...]:
    """Group a graph's calls into kernels, in execution order, as a runtime of an architecture family does; "eager" groups
    nothing."""
    registry_sizes = len(COSTS), len(FUSION_RULES), len(SCHEDULER_RULES)
    key = f"kernels {runtime} {family}"
    if graph.cache.get(key, (None,))[0] != registry_sizes:  # a registration changes the groups
        graph.cache[key] = registry_sizes, _fuse(graph, runtime, family)
    kernels: tuple[Kernel, ...] = graph.cache[key][1]
    return kernels


def _fuse(graph: Graph, runtime: str, family: str) -> tuple[Kernel, ...]:
    costed = {index: cost for index, cost in enumerate(costs_of(graph)) if cost is not None}
    if len(costed) == 1 and not (runtime == "inductor-freezing" and folded_calls(graph)):
        # A single operator, as in operator tables, has nothing to merge with.
        return (Kernel(tuple(costed)),)
    if (family, runtime) in INDUCTOR:
        return _partition(graph, *_inductor_schedule(graph, runtime, family))
    return _CallGroups(graph, costed).merge(runtime, family)


def fusion_groups(graph: Graph, runtime: str, family: str = "cpu") -> Sequence[Kernel]:
    """Every kernel that a compiler makes, with all calls that it computes at least in part.

    Unlike `fuse`, it lists a call that Inductor computes in several kernels (a norm's statistics and its scaling, an inlined sum)
    in each of them, and a call that needs no kernel (`cat` of operands that are written in place) in none.
    """
    if (family, runtime) not in INDUCTOR:
        return fuse(graph, runtime, family)
    return _inductor_schedule(graph, runtime, family)[1].kernels


def _inductor_schedule(graph: Graph, runtime: str, family: str) -> tuple[list[int], Schedule]:
    """The calls that still run after compilation, and Inductor's kernels of them."""
    constant_calls = folded_calls(graph) if runtime == "inductor-freezing" else frozenset()
    costs = [None if index in constant_calls else cost for index, cost in enumerate(costs_of(graph))]
    costed = {index: cost for index, cost in enumerate(costs) if cost is not None}
    library: dict[int, tuple[int, ...]] = {}
    pattern: dict[tuple[int, ...], str] = {}
    for kernel in _CallGroups(graph, costed).merge(runtime, family):
        pattern[kernel.calls] = kernel.pattern
        if any(cost is not None and cost.family in CONTRACTIONS for cost in (costs[i] for i in kernel.calls)):
            library.update(dict.fromkeys(kernel.calls, ()))
            library[kernel.calls[-1]] = kernel.calls
    inductor_schedule = schedule(graph, costs, library, family, frozen=runtime == "inductor-freezing")
    kernels = [Kernel(k.calls, pattern.get(k.calls, "")) if k.calls[-1] in library else k for k in inductor_schedule.kernels]
    return list(costed), inductor_schedule._replace(kernels=kernels)


def folded_calls(graph: Graph) -> frozenset[int]:
    """Calls that depend on weights only; freezing computes them once, during compilation."""
    constant = {index for index, value in enumerate(graph.values) if value.is_weight}
    calls = []
    for index, call in enumerate(graph.calls):
        if call.reads and not call.inplace and all(graph.root(value) in constant for value in call.reads):
            constant.update(call.writes)
            calls.append(index)
    return frozenset(calls)


def _partition(graph: Graph, costed_calls: Sequence[int], inductor_schedule: Schedule) -> tuple[Kernel, ...]:
    """Kernels in which each call appears once.

    A kernel keeps the calls that no other computes; one without any claims one of its calls; the remaining calls go to the last
    kernel that computes them. A call without a kernel joins the last kernel that produces one of its operands.
    """
    groups = inductor_schedule.kernels
    count = Counter(call for group in groups for call in group.calls)
    home = {call: position for position, group in enumerate(groups) for call in group.calls if count[call] == 1}
    with_own_call = set(home.values())
    for position, group in enumerate(groups):
        free_call = next((call for call in group.calls if call not in home), None)
        if position not in with_own_call and free_call is not None:
            home[free_call] = position
    for position, group in reversed(list(enumerate(groups))):
        for call in group.calls:
            home.setdefault(call, position)
    maker = {value: index for index in costed_calls for value in graph.calls[index].writes}
    next_place = len(groups)
    for index in costed_calls:
        if index not in home:
            places = [home[maker[value]] for value in graph.calls[index].reads if maker.get(value) in home]
            home[index] = max(places, default=next_place)
            next_place += not places
    members: dict[int, list[int]] = {}
    for call in sorted(home):
        members.setdefault(home[call], []).append(call)
    names = {position: group.pattern for position, group in enumerate(groups)}
    direct: dict[int, set[tuple[int, int]]] = {}
    for operand in inductor_schedule.direct:
        direct.setdefault(home.get(operand[0], -1), set()).add(operand)
    kernels = [
        Kernel(tuple(calls), names.get(place, "") if len(calls) > 1 else "", frozenset(direct.get(place, ())))
        for place, calls in members.items()
    ]
    return tuple(sorted(kernels, key=lambda kernel: kernel.calls[-1]))


class _CallGroups(Groups):
    """Working calls of a graph; the edges between them lead through free calls (views)."""

    def __init__(self, graph: Graph, working: Mapping[int, Cost]) -> None:
        sources: dict[int, list[int]] = {i: [] for i in working}
        makers: dict[int, list[int]] = {}  # value -> working calls that compute it
        for index, call in enumerate(graph.calls):
            producers = list(dict.fromkeys(source for value in call.reads for source in makers.get(value, ())))
            if index in sources:
                sources[index] = producers
                producers = [index]
            makers.update(dict.fromkeys(call.writes, producers))
        super().__init__(sources)
        self.graph = graph
        self.costs = working
        self.readers = Counter(producer for producers in sources.values() for producer in producers)
        self.returned = {producer for value in graph.outputs for producer in makers.get(value, ())}

    def merge(self, runtime: str, family: str) -> tuple[Kernel, ...]:
        """Kernels in the order of execution, after the rules of a runtime."""
        rules = [rule for rule in FUSION_RULES.values() if (family, runtime) in rule.targets]
        for consumer in self.sources if rules else ():
            # The last of several producers can take in the consumer, as the results of the others exist by then.
            for producer in sorted(self.sources[consumer], reverse=True):
                first, second = self.group_of[producer], self.group_of[consumer]
                if first == second:
                    continue
                edge = self._edge(producer, consumer)
                rule = next((rule for rule in rules if rule.allows(edge)), None)
                if rule is not None and not self.would_cycle(first, second):
                    self.join(first, second, rule.name)
        kernels = [Kernel(tuple(sorted(calls)), self.pattern.get(name, "")) for name, calls in self.members.items()]
        return tuple(sorted(kernels, key=lambda kernel: kernel.calls[-1]))

    def _edge(self, producer: int, consumer: int) -> Edge:
        calls = self.graph.calls
        group = sorted(self.members[self.group_of[producer]])
        return Edge(
            calls[producer],
            calls[consumer],
            calls[group[0]],
            self.costs[producer],
            self.costs[consumer],
            self.costs[group[0]],
            sole=self.readers[producer] == 1 and producer not in self.returned,
            group_ops=tuple(calls[i].op for i in group),
            free_consumer=len(self.members[self.group_of[consumer]]) == 1,
        )
