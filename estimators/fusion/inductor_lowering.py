"""Kernels as Inductor makes them, in its two steps. Lowering walks the operators: a pointwise result stays an expression, which
each reader recomputes, until it gets a buffer (for a library call, at the end of the graph, or because several readers would
repeat a costly computation); operators that PyTorch decomposes are lowered as their parts. Scheduling merges buffers whose loops
agree."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import msgspec

from shmoo.estimators.fusion.inductor_expression import (
    CONCATENATIONS,
    CREATES_LIKE,
    MAY_VANISH,
    ONE_STATISTIC,
    OVERWRITES,
    PART_OPERATIONS,
    READS_TWICE,
    SCANS,
    SPECIAL,
    Expression,
    align_channels,
    image_rows,
    inner_extents,
    is_pointwise_norm,
    keeps_memory,
    part_rows,
    reduces_last,
    stretch,
)
from shmoo.estimators.fusion.inductor_schedule import LIMITS, Buffer, Limits, Schedule, Scheduler
from shmoo.estimators.graph.records import CONVOLUTIONS, Cost, Graph, OpCall
from shmoo.estimators.graph.views import StridedView, apply_view


def schedule(
    graph: Graph, costs: Sequence[Cost | None], library: Mapping[int, tuple[int, ...]], family: str, frozen: bool = False
) -> Schedule:
    """Kernels of a graph, in execution order. A call that is inlined into several kernels is in each of them.

    Args:
        costs: of the graph's calls.
        library: for the last call of a library call, all calls in it; for its other calls ().
        family: "cpu" or "gpu".
        frozen: weights are constants.
    """
    lowering = _Lowering(graph, costs, library, LIMITS[family], frozen)
    for index, call in enumerate(graph.calls):
        lowering.lower(index, call)
    return Schedule(Scheduler(lowering.buffers, LIMITS[family]).run(), frozenset(lowering.direct))


class _Lowering:
    def __init__(
        self,
        graph: Graph,
        costs: Sequence[Cost | None],
        library: Mapping[int, tuple[int, ...]],
        limits: Limits,
        frozen: bool,
    ) -> None:
        self.graph, self.costs, self.library, self.limits, self.frozen = graph, costs, library, limits, frozen
        self.readers = Counter(value for call in graph.calls for value in set(call.reads))
        self.for_library = {value for index in library for value in graph.calls[index].reads}
        self.returned = set(graph.outputs)
        self.names = itertools.count(len(graph.values) + 1)
        self.buffers: dict[int, Buffer] = {}
        self.values: dict[int, Expression] = {}
        self.written: dict[int, Expression] = {}
        self.direct: set[tuple[int, int]] = set()
        self.first_of: dict[bytes, tuple[int, ...]] = {}

    def _value(self, index: int) -> Expression:
        if index not in self.values:
            self.values[index] = self._initial_expression(index)
        return self.values[index].refreshed(index)

    def _initial_expression(self, index: int) -> Expression:
        value = self.graph.values[index]
        base = None if value.storage is None else self.written.get(self.graph.root(index))
        if base is not None:
            # Memory that a call wrote through another view.
            view = StridedView(value.spec.shape, (None,) * len(value.spec.shape))
            return Expression(frozenset(), numel=value.spec.numel, base=base, view=view)
        if value.kind == "constant" and not value.spec.shape:
            # A single number is written into the code.
            return Expression(frozenset(), numel=1)
        return Expression(frozenset((index,)), numel=value.spec.numel, owner=index)

    def _is_repeated_call(self, call: OpCall) -> bool:
        """True where an earlier call is equal, so that freezing reuses its results."""
        if not self.frozen or call.inplace or any(self._value(v).owner is None for v in call.reads):
            return False
        sources = [(self._value(v).owner, spec) for v, spec in zip(call.reads, call.inputs, strict=True)]
        key = msgspec.json.encode((call.op, call.overload, call.attributes, sources), order="deterministic")
        first_writes = self.first_of.setdefault(key, call.writes)
        if first_writes is not call.writes:
            self.values.update(zip(call.writes, (self._value(v) for v in first_writes), strict=True))
        return first_writes is not call.writes

    def lower(self, index: int, call: OpCall) -> None:
        if self._is_repeated_call(call):
            return
        cost = self.costs[index]
        calls = self.library.get(index)
        if calls is not None:
            if calls:
                self._library_call(call, calls)
        elif cost is None or (call.op in MAY_VANISH and len(call.reads) == 1 and call.inputs == call.outputs):
            self._view(call)
        elif call.op in CONCATENATIONS:
            self._concatenate(index, call)
        elif cost.family in ("normalization", "softmax") and not is_pointwise_norm(call):
            self._norm(index, call, cost)
        elif call.op not in SCANS and cost.family == "pooling" and (cost.window == 1 or "adaptive" in call.op) and cost.n > 1:
            self._reduce(index, call, cost)
        elif call.op in SCANS or cost.family == "pooling":
            self._pool(index, call, cost)
        elif cost.family in ("linalg", "unknown"):
            self._library_call(call, (index,))
        else:
            self._pointwise(index, call, cost)

    def _library_call(self, call: OpCall, calls: tuple[int, ...]) -> None:
        reads: set[int] = set()
        inner_values = {value for i in calls for value in self.graph.calls[i].writes}
        for i in calls:
            for value in self.graph.calls[i].reads:
                if value not in inner_values:
                    cost = self.costs[i]
                    # A convolution reads a view with its strides.
                    reads |= self._operand(value, cost is not None and cost.family in CONVOLUTIONS)
        head = self.costs[calls[0]]
        # A frozen convolution returns a list that its result is taken from; others change the layout of their weights.
        steps = 2 if head is not None and head.family in CONVOLUTIONS and (self.frozen or head.window > 1) else 1
        outer = call.outputs[0].numel if call.outputs else 0
        name = self._add(Buffer(frozenset(calls), frozenset(reads), outer, alone=True, steps=steps))
        name_of_bias = {"aten.linear": "bias", "aten.addmm": "self"}.get(call.op, "")
        bias = frozenset(v for v, operand in zip(call.reads, call.operands, strict=True) if operand == name_of_bias)
        adds_bias_in_loop = self.frozen and bias and call.outputs[0].dtype == "float32"
        for value in call.writes:
            numel = self.graph.values[value].spec.numel
            if adds_bias_in_loop:
                # The library that packs constant float32 weights leaves the bias to a loop.
                rows = frozenset(call.outputs[0].shape[-1:])
                self.values[value] = Expression(bias | {name}, numel=numel, operations=2, rows=rows)
                self._maybe_realize(value)
            else:
                self.values[value] = Expression(frozenset((name,)), numel=numel, owner=name)

    def _view(self, call: OpCall) -> None:
        """A view, or a call without a result."""
        for result, value in enumerate(call.writes):
            spec = self.graph.values[value].spec
            if not call.reads:
                self.values[value] = Expression(frozenset(), numel=spec.numel)
                continue
            source = self._value(call.reads[0])
            base = source.base or source
            view = apply_view(call, source.view or StridedView.whole(call.inputs[0].shape), result)
            keeps_order = keeps_memory(call) if source.view is None else view.in_order
            if keeps_order and spec.numel == base.numel:
                self.values[value] = base
            else:
                self.values[value] = Expression(frozenset(), numel=spec.numel, base=base, view=view)
            self._maybe_realize(value)

    def _expression(self, index: int, call: OpCall, cost: Cost, extra_reads: Iterable[int] = ()) -> Expression:
        operands = list(zip(call.reads, call.inputs, strict=True))
        if call.op in CREATES_LIKE or (call.inplace and call.op in OVERWRITES):
            operands = operands[1:]
        sources = [self._value(value) for value in dict.fromkeys(value for value, _ in operands)]
        shape, numel = call.outputs[0].shape, call.outputs[0].numel
        # A broadcast operand is a separate read for each shape that it is broadcast from.
        loads = [
            frozenset((name, (view, spec.shape)) for name, view in expression.loads)
            if expression.numel < numel
            else expression.loads
            for expression, spec in ((self._value(value), spec) for value, spec in operands)
        ]
        operations = round((cost.vector_flops + cost.special_flops) / max(numel, 1)) + 1
        # The place of a table's row is computed once for all of its elements.
        table_rows = shape[-1:] if cost.family == "gather" else ()
        return Expression(
            reads=frozenset().union(*(s.reads for s in sources), extra_reads),
            calls=frozenset((index,)).union(*(s.calls for s in sources)),
            loads=frozenset((name, None) for name in extra_reads).union(*loads),
            numel=numel,
            operations=operations + sum(s.operations + (1 if s.owner is not None else 0) for s in sources),
            special=call.op in SPECIAL or any(s.special for s in sources),
            elsewhere=frozenset().union(*(s.elsewhere for s in sources if s.numel >= numel)),
            rows=frozenset(table_rows).union(
                *({rows * stretch(call, spec.shape) for rows in self._value(value).rows} for value, spec in operands),
                *(inner_extents(shape, align_channels(call, spec.shape)) for _, spec in operands),
            ),
        )

    def _pointwise(self, index: int, call: OpCall, cost: Cost) -> None:
        if call.op in READS_TWICE:
            for value in dict.fromkeys(call.reads):
                self._realize_on_reuse(value)
        for value in dict.fromkeys(call.reads):
            # A broadcast would recompute it for every element.
            source = self._value(value)
            if source.numel < call.outputs[0].numel and self._is_costly(source):
                self._realize(value)
        expression = self._expression(index, call, cost)
        if call.inplace:
            self._write_into(self.graph.root(call.writes[0]), expression, self._value(call.reads[0]).view)
        for value in call.writes:
            self.values[value] = expression
            self._maybe_realize(value)

    def _write_into(self, root: int, expression: Expression, view: StridedView | None) -> None:
        """Update a memory after a write into all of it or a part; each later read tests whether its element is in that part."""
        memory_elements = self.graph.values[root].spec.numel
        if expression.numel == memory_elements:
            self.written[root] = expression
            return
        old_expression = self.written.get(root) or self._value(root)
        self.written[root] = Expression(
            reads=old_expression.reads | expression.reads,
            calls=old_expression.calls | expression.calls,
            loads=old_expression.loads | expression.loads,
            numel=memory_elements,
            operations=old_expression.operations + expression.operations + PART_OPERATIONS * len(view.sizes if view else ()),
            elsewhere=old_expression.elsewhere | (expression.reads - old_expression.reads),
        )

    def _norm(self, index: int, call: OpCall, cost: Cost) -> None:
        value = call.reads[0]
        self._realize_on_reuse(value)
        source = self._value(value)
        calls = source.calls | {index}
        is_last = reduces_last(call)
        outer = frozenset(rows for rows in source.rows if rows > cost.n)
        rows_of = outer | {cost.n} if is_last else source.rows
        reduction = Buffer(
            calls,
            source.reads,
            cost.m,
            max(cost.n, 2),
            trailing=is_last,
            elsewhere=source.elsewhere,
            rows=outer if is_last else frozenset(),
        )
        statistic = self._add(reduction)
        statistics: tuple[int, ...] = (statistic,)
        if call.op not in ONE_STATISTIC:
            mean = self._add(Buffer(frozenset((index,)), frozenset((statistic,)), cost.m))
            statistics = (mean, self._add(replace(reduction, reads=source.reads | {mean})))
        tail = self._expression(index, call, cost, statistics)
        if cost.family == "softmax":
            # The exponential has two readers, so it gets a buffer.
            rows = self._add(Buffer(calls, source.reads | {statistic}, tail.numel, rows=rows_of, elsewhere=source.elsewhere))
            total = self._add(Buffer(frozenset((index,)), frozenset((rows,)), cost.m, max(cost.n, 2), trailing=is_last))
            tail = Expression(frozenset((rows, total)), frozenset((index,)), tail.numel, 3)
            rows_of = frozenset((cost.n,)) if is_last else source.rows
        tail.special, tail.rows = False, rows_of
        for value_written in call.writes:
            self.values[value_written] = tail
            self._maybe_realize(value_written)

    def _reduce(self, index: int, call: OpCall, cost: Cost) -> None:
        source = self._value(call.reads[0])
        if call.op in READS_TWICE:
            self._realize_on_reuse(call.reads[0])
        is_last, calls_in_loop = reduces_last(call), source.calls | {index}
        name = self._add(Buffer(calls_in_loop, source.reads, cost.m, cost.n, trailing=is_last, elsewhere=source.elsewhere))
        # The division of a mean is left to its readers.
        calls, owner = (frozenset((index,)), None) if cost.special_flops > 0 else (frozenset(), name)
        for value in call.writes:
            numel = self.graph.values[value].spec.numel
            self.values[value] = Expression(frozenset((name,)), calls, numel, 2, owner=owner)
            self._maybe_realize(value)

    def _pool(self, index: int, call: OpCall, cost: Cost) -> None:
        if call.op in SCANS:
            self._realize(call.reads[0])
        else:
            self._realize_if_combined(call.reads[0])
        expression = self._expression(index, call, cost)
        expression.elsewhere = expression.reads
        expression.rows |= image_rows(call.outputs[0].shape)
        for value in call.writes:
            self.values[value] = expression
            if "max" not in call.op and call.op not in SCANS:
                self._maybe_realize(value)
                continue
            self._realize(value)
            if (owner := self._value(value).owner) is not None:
                self.buffers[owner].alone = True

    def _concatenate(self, index: int, call: OpCall) -> None:
        part_names: set[int] = set()
        for value, spec in zip(call.reads, call.inputs, strict=True):
            source = self._value(value)
            if source.computes and not source.moved:
                self._realize(value)
                source = self._value(value)
                in_place = source.owner is not None
            else:
                buffer = None if source.owner is None else self.buffers.get(source.owner)
                in_place = buffer is not None and not buffer.alone and not buffer.copied and not source.moved
            if in_place and source.owner is not None:
                self.buffers[source.owner].copied = True
                part_names.add(source.owner)
                self.direct.add((index, value))
            else:
                calls, rows = source.calls | {index}, source.rows | part_rows(call, spec.shape)
                part = Buffer(calls, source.reads, source.numel, elsewhere=source.elsewhere, rows=rows, copied=True)
                part_names.add(self._add(part))
        # No kernel computes the whole: its parts are written in place.
        name = self._add(Buffer(frozenset(), frozenset(part_names), call.outputs[0].numel, alone=True))
        for value in call.writes:
            self.values[value] = Expression(frozenset((name,)), numel=self.graph.values[value].spec.numel, owner=name)

    def _add(self, buffer: Buffer) -> int:
        name = next(self.names)
        self.buffers[name] = buffer
        return name

    def _realize(self, value: int) -> None:
        """Give a value a buffer if it has none; for a view, give one to its base."""
        expression = self._value(value)
        self._store(expression.base or expression)

    def _store(self, expression: Expression) -> None:
        if expression.computes:
            parts = expression.calls, expression.reads, expression.numel
            expression.store(self._add(Buffer(*parts, elsewhere=expression.elsewhere, rows=expression.rows)))

    def _operand(self, value: int, takes_strides: bool) -> frozenset[int]:
        """Buffers of a library call's operand. Without a buffer, a view is computed in the operand's order, except where the call
        takes any strides."""
        if takes_strides:
            self._realize(value)
        self._store(self._value(value))
        return self._value(value).reads

    def _realize_if_combined(self, value: int) -> None:
        """Give a buffer to an expression with more than one read (`realize_hint`)."""
        if len(self._value(value).loads) > 1:
            self._realize(value)

    def _realize_on_reuse(self, value: int) -> None:
        """Give a buffer to a costly expression with several readers (`should_realize_on_reuse`)."""
        expression = self._value(value)
        if len(expression.loads) > self.limits.reused_reads or self._is_costly(expression):
            self._realize(value)

    def _is_costly(self, expression: Expression) -> bool:
        return expression.operations > self.limits.operations or (self.limits.keeps_special and expression.special)

    def _maybe_realize(self, value: int) -> None:
        """Give a new expression a buffer if Inductor would."""
        if not self._value(value).computes:
            return
        if value in self.returned:
            self._realize(value)
            return
        if self.readers[value] > 1:
            if value in self.for_library:
                self._realize_if_combined(value)
            self._realize_on_reuse(value)
        expression = self._value(value)
        if expression.owner is None and (
            len(expression.loads) > self.limits.reads or expression.operations > self.limits.operations
        ):
            self._realize_if_combined(value)
