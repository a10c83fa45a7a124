"""The costs of a graph's calls and their totals: flops, multiply-adds, bytes and parameters; unknown operators are listed.

`FREE` holds the operators that only change a view of memory, return a shape or assert something; `FREE_WHEN` those that are free
for some of their calls. Whether an operator of `MAY_COPY` copies depends on strides, which only a graph shows: a lone `reshape`
is free and a lone `contiguous` copies; in a graph the memory of the result decides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import msgspec

from shmoo.estimators.costs.base import COSTS, bill
from shmoo.estimators.graph.records import Cost, Graph, OpCall
from shmoo.estimators.registry import aten

_VIEWS = (
    "view view_as _unsafe_view reshape _reshape_alias _reshape_copy reshape_as flatten unflatten ravel squeeze unsqueeze "
    "expand expand_as broadcast_to broadcast_tensors meshgrid permute transpose t numpy_T mT mH matrix_H adjoint swapaxes "
    "swapdims movedim moveaxis select slice narrow split split_with_sizes unsafe_split unsafe_split_with_sizes chunk "
    "unsafe_chunk tensor_split hsplit vsplit dsplit unbind diagonal as_strided unfold alias detach view_as_real "
    "view_as_complex _conj conj resolve_conj resolve_neg _neg_view real imag atleast_1d atleast_2d atleast_3d lift_fresh "
    "lift_fresh_copy"
)
_QUESTIONS = (
    "size sym_size sym_stride sym_numel sym_storage_offset sym_is_contiguous numel dim stride storage_offset is_contiguous "
    "is_floating_point is_complex is_nonzero item _local_scalar_dense sym_constrain_range sym_constrain_range_for_size "
    "result_type _fused_sdp_choice _has_same_storage_numel"
)
_ASSERTIONS = "_assert_async _assert_scalar _assert_tensor_metadata _functional_assert_async _functional_assert_scalar"
_ALLOCATIONS = (
    "_efficientzerotensor empty empty_like empty_strided empty_permuted new_empty new_empty_strided resize resize_as set"
)
_NOTES = "requires_grad retain_grad record_stream"
"""For autograd and the allocator."""
_ON_SHAPES = (
    "getitem add sub mul floordiv truediv mod pow neg pos eq ne lt le gt ge and_ or_ not_ index "
    "sym_max sym_min sym_sum sym_not sym_ite sym_float sym_int sym_sqrt"
)
"""Python operators, which a graph of ATen operators applies to sizes only."""

FREE: frozenset[str] = frozenset(
    (*aten(f"{_VIEWS} {_QUESTIONS} {_ASSERTIONS} {_ALLOCATIONS} {_NOTES}"), "prims.view_of", "prims.device_put")
) | {f"{module}.{name}" for module in ("operator", "_operator") for name in _ON_SHAPES.split()}
"""Operators that never move data or compute."""

MAY_COPY = frozenset(aten("reshape reshape_as flatten ravel contiguous to type_as resolve_conj resolve_neg"))
"""Operators that return a view of their operand where they can and a copy where they must."""


def _in_eval(call: OpCall) -> bool:
    return not call.attributes.get("train") or call.attributes.get("p") == 0


def _same_type(call: OpCall) -> bool:
    """A conversion to a tensor's own type returns the tensor, unless the call demands a copy (a graph is of one device)."""
    return call.inputs[0].dtype == call.outputs[0].dtype and not call.attributes.get("copy", False)


FREE_WHEN: Mapping[str, Callable[[OpCall], bool]] = {
    **dict.fromkeys(aten("dropout native_dropout alpha_dropout feature_dropout feature_alpha_dropout"), _in_eval),
    **dict.fromkeys(aten("to type_as"), _same_type),
}
"""Operators that have a cost, except for calls that satisfy their predicate, which are free."""


def classify(call: OpCall) -> Literal["costed", "free", "unknown"]:
    """Whether the call has a cost function, does no work, or is unknown. A registered cost takes precedence over `FREE`."""
    if call.op in COSTS:
        predicate = FREE_WHEN.get(call.op)
        return "free" if predicate is not None and predicate(call) else "costed"
    return "free" if call.op in FREE else "unknown"


def cost_of(call: OpCall) -> Cost | None:
    """The call's minimal work; `None` when it is free. An operator without a cost function has family "unknown", bytes and no
    flops. `InputError` names an operand or attribute that the operator needs and the call lacks."""
    kind = classify(call)
    if kind == "free":
        return None
    return COSTS[call.op](call) if kind == "costed" else bill(call, "unknown", m=max((s.numel for s in call.outputs), default=1))


def costs_of(graph: Graph) -> tuple[Cost | None, ...]:
    """The cost of each call of a graph, `None` where it is free; errors as of `cost_of`. Unlike `cost_of` it sees which results
    share memory: a `reshape`, `contiguous` or conversion that returns a view is free, one with memory of its own is a copy."""
    costs: tuple[Cost | None, ...]
    registry_size, costs = graph.cache.get("costs", (0, ()))
    if registry_size != len(COSTS):  # a registration adds to the costs
        costs = _costs_of(graph)
        graph.cache["costs"] = len(COSTS), costs
    return costs


def _costs_of(graph: Graph) -> tuple[Cost | None, ...]:
    costs: list[Cost | None] = []
    for call in graph.calls:
        if call.op not in MAY_COPY or not call.reads or not call.writes:
            costs.append(cost_of(call))
        elif graph.root(call.writes[0]) == graph.root(call.reads[0]):
            costs.append(None)
        else:
            costs.append(COSTS[call.op](call) if call.op in COSTS else bill(call, "copy", m=call.outputs[0].numel))
    return tuple(costs)


class FamilyCost(msgspec.Struct, frozen=True):
    """Sums over the calls of one family; `flops` is also split by unit."""

    family: str
    count: int
    flops: float
    macs: float
    bytes: float
    matrix_flops: float
    vector_flops: float
    special_flops: float


class DtypeCost(msgspec.Struct, frozen=True):
    """Sums over the calls that compute in one element type (`OpCall.computes_in`)."""

    dtype: str
    count: int
    matrix_flops: float
    vector_flops: float
    special_flops: float


class UnknownOp(msgspec.Struct, frozen=True):
    """An operator without a cost: its calls, their module paths (or source lines), bytes of their operands and results."""

    op: str
    count: int
    where: tuple[str, ...]
    bytes: float


class GraphCost(msgspec.Struct, frozen=True):
    """Totals of a graph without fusion: a value that passes between calls is written and read.

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


def graph_cost(graph: Graph) -> GraphCost:
    """Add up the costs of a graph's calls; errors as of `costs_of`."""
    by_family: dict[str, list[Cost]] = {}
    by_dtype: dict[str, list[Cost]] = {}
    unknown: dict[str, list[tuple[OpCall, Cost]]] = {}
    for call, cost in zip(graph.calls, costs_of(graph), strict=True):
        if cost is None:
            continue
        by_family.setdefault(cost.family, []).append(cost)
        by_dtype.setdefault(call.computes_in, []).append(cost)
        if classify(call) == "unknown":
            unknown.setdefault(call.op, []).append((call, cost))
    families = [
        FamilyCost(family, len(costs), *_sums(costs, "flops", "macs", "bytes", *_BY_UNIT)) for family, costs in by_family.items()
    ]
    dtypes = [DtypeCost(dtype, len(costs), *_sums(costs, *_BY_UNIT)) for dtype, costs in by_dtype.items()]
    unknown_ops = []
    for op, calls in unknown.items():
        where = tuple(dict.fromkeys(call.module or call.source for call, _ in calls))
        unknown_ops.append(UnknownOp(op, len(calls), where, sum(cost.bytes for _, cost in calls)))
    return GraphCost(
        flops=sum(f.flops for f in families),
        macs=sum(f.macs for f in families),
        bytes=sum(f.bytes for f in families),
        params=graph.params,
        weight_bytes=graph.weight_bytes,
        families=tuple(sorted(families, key=lambda f: (-f.flops, f.family))),
        unknown=tuple(sorted(unknown_ops, key=lambda u: (-u.bytes, u.op))),
        dtypes=tuple(sorted(dtypes, key=lambda d: (-d.matrix_flops, d.dtype))),
    )


_BY_UNIT = ("matrix_flops", "vector_flops", "special_flops")


def _sums(costs: list[Cost], *fields: str) -> list[float]:
    return [sum(getattr(cost, field) for cost in costs) for field in fields]
