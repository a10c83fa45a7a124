"""Totals of a graph: flops, multiply-adds, bytes and parameters, by family, with what is unknown listed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from shmoo.estimators.costs.base import COSTS, bill
from shmoo.estimators.costs.free import FREE, FREE_WHEN, MAY_COPY
from shmoo.estimators.dtypes import operand_dtype
from shmoo.estimators.records import Cost, Graph, OpCall

Classification = Literal["costed", "free", "unknown"]


def classify(call: OpCall) -> Classification:
    """Whether the call has a cost function, does no work, or is not known. A registered cost wins over `FREE`."""
    if call.op in COSTS:
        predicate = FREE_WHEN.get(call.op)
        return "free" if predicate is not None and predicate(call) else "costed"
    return "free" if call.op in FREE else "unknown"


def cost_of(call: OpCall) -> Cost | None:
    """What the call must do at least; `None` when it is free.

    An operator without a cost function gives the family "unknown" with its bytes and no flops: ask `classify`, and list it.

    Raises:
        InputError: the call lacks an operand or attribute its operator needs; named.
    """
    kind = classify(call)
    if kind == "free":
        return None
    return COSTS[call.op](call) if kind == "costed" else bill(call, "unknown", m=max((s.numel for s in call.outputs), default=1))


def costs_of(graph: Graph) -> tuple[Cost | None, ...]:
    """The cost of each call of a graph, `None` where it is free.

    As `cost_of`, except that the graph knows which results share memory: a `reshape`, `contiguous` or conversion that returns a
    view is free, and one whose result has memory of its own is a copy.

    Raises:
        InputError: a call lacks an operand or attribute its operator needs; named.
    """
    return tuple(_cost_in(graph, call) for call in graph.calls)


def _cost_in(graph: Graph, call: OpCall) -> Cost | None:
    if call.op not in MAY_COPY or not call.reads or not call.writes:
        return cost_of(call)
    if graph.root(call.writes[0]) == graph.root(call.reads[0]):
        return None
    return COSTS[call.op](call) if call.op in COSTS else bill(call, "copy", m=call.outputs[0].numel)


class FamilyCost(msgspec.Struct, frozen=True):
    """Sums over the calls of one family; the parts of `flops` by unit."""

    family: str
    count: int
    flops: float
    macs: float
    bytes: float
    matrix_flops: float
    vector_flops: float
    special_flops: float


class DtypeCost(msgspec.Struct, frozen=True):
    """Sums over the calls that compute in one element type (`dtypes.operand_dtype`)."""

    dtype: str
    count: int
    matrix_flops: float
    vector_flops: float
    special_flops: float


class UnknownOp(msgspec.Struct, frozen=True):
    """An operator without a cost: how often, at which module paths (or source lines), bytes of its operands and results."""

    op: str
    count: int
    where: tuple[str, ...]
    bytes: float


class GraphCost(msgspec.Struct, frozen=True):
    """Totals of a graph, every call alone (no fusion, so what passes between calls counts twice).

    Attributes:
        flops: of all units; a multiply-add is 2. Unknown operators add none: see `unknown`.
        macs: multiply-adds of contractions, so flops >= 2 macs.
        bytes: read and written once by each call, unknown ones included.
        params, weight_bytes: of the graph's weights.
        families: sums by family, largest flops first.
        dtypes: the same sums by the type that a call computes in.
        unknown: operators without a cost, most bytes first.
    """

    flops: float
    macs: float
    bytes: float
    params: int
    weight_bytes: float
    families: tuple[FamilyCost, ...]
    unknown: tuple[UnknownOp, ...]
    dtypes: tuple[DtypeCost, ...] = ()

    def family(self, name: str) -> FamilyCost | None:
        """The sums of one family, `None` where the graph has no call of it."""
        return next((f for f in self.families if f.family == name), None)


def graph_cost(graph: Graph, costs: Sequence[Cost | None] | None = None) -> GraphCost:
    """Add up the costs of a graph's calls.

    Args:
        costs: of the calls, where they are known already.

    Raises:
        InputError: a call lacks an operand or attribute its operator needs; named.
    """
    by_family: dict[str, list[Cost]] = {}
    by_dtype: dict[str, list[Cost]] = {}
    unknown: dict[str, list[tuple[OpCall, Cost]]] = {}
    for call, cost in zip(graph.calls, costs_of(graph) if costs is None else costs, strict=True):
        if cost is None:
            continue
        by_family.setdefault(cost.family, []).append(cost)
        by_dtype.setdefault(operand_dtype(spec.dtype for spec in call.inputs or call.outputs), []).append(cost)
        if classify(call) == "unknown":
            unknown.setdefault(call.op, []).append((call, cost))
    families = [_sum(family, costs) for family, costs in by_family.items()]
    listed = [
        UnknownOp(
            op, len(calls), tuple(dict.fromkeys(c.module or c.source for c, _ in calls)), sum(cost.bytes for _, cost in calls)
        )
        for op, calls in unknown.items()
    ]
    return GraphCost(
        flops=sum(f.flops for f in families),
        macs=sum(f.macs for f in families),
        bytes=sum(f.bytes for f in families),
        params=graph.params,
        weight_bytes=graph.weight_bytes,
        families=tuple(sorted(families, key=lambda f: (-f.flops, f.family))),
        unknown=tuple(sorted(listed, key=lambda u: (-u.bytes, u.op))),
        dtypes=tuple(
            sorted((_by_dtype(name, costs) for name, costs in by_dtype.items()), key=lambda d: (-d.matrix_flops, d.dtype))
        ),
    )


def _sum(family: str, costs: list[Cost]) -> FamilyCost:
    return FamilyCost(
        family=family,
        count=len(costs),
        flops=sum(c.flops for c in costs),
        macs=sum(c.macs for c in costs),
        bytes=sum(c.bytes for c in costs),
        matrix_flops=sum(c.matrix_flops for c in costs),
        vector_flops=sum(c.vector_flops for c in costs),
        special_flops=sum(c.special_flops for c in costs),
    )


def _by_dtype(dtype: str, costs: list[Cost]) -> DtypeCost:
    return DtypeCost(
        dtype,
        len(costs),
        sum(c.matrix_flops for c in costs),
        sum(c.vector_flops for c in costs),
        sum(c.special_flops for c in costs),
    )
