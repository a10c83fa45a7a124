"""Strides of views, and what a framework copies because of them before it multiplies.

PyTorch multiplies batches of matrices with one dimension for the batch. Operands with more are reshaped to it (ATen's
`LinearAlgebra.cpp`, `_matmul_impl`), which copies those whose batch dimensions do not lie one after the other in memory: the
heads of attention, which are split off the features of each token.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise

from shmoo.estimators.graph.records import Graph, OpCall

Shape = tuple[int, ...]
_PARTS = ("aten.split", "aten.split_with_sizes", "aten.chunk", "aten.slice", "aten.narrow")
_RESHAPED = ("aten.view", "aten.reshape", "aten._unsafe_view", "aten.unflatten")
_DROPPED = ("aten.select", "aten.unbind")


def producers_of(graph: Graph) -> dict[int, OpCall]:
    """The call that makes each value that is no input."""
    return {value: call for call in graph.calls for value in call.writes}


def copied_bytes(graph: Graph, call: OpCall, producers: Mapping[int, OpCall]) -> float:
    """Bytes of the operands of a product of batches that are copied before it; 0 for other calls and broadcast operands."""
    if call.op != "aten.matmul" or len(call.reads) < 2:
        return 0.0
    specs = [graph.values[value].spec for value in call.reads[:2]]
    if min(len(spec.shape) for spec in specs) < 3 or specs[0].shape[:-2] != specs[1].shape[:-2]:
        return 0.0
    operands = zip(call.reads, specs, strict=False)
    return sum(spec.nbytes for value, spec in operands if _is_copied(spec.shape, strides_of(graph, value, producers)))


def strides_of(graph: Graph, value: int, producers: Mapping[int, OpCall]) -> Shape:
    """Elements between neighbours along each dimension. A view that is not understood counts as contiguous."""
    shape, call = graph.values[value].spec.shape, producers.get(value)
    dense = contiguous(shape)
    if call is None or not call.reads or graph.values[value].storage is None or graph.root(call.reads[0]) != graph.root(value):
        return dense
    old, before = graph.values[call.reads[0]].spec.shape, strides_of(graph, call.reads[0], producers)
    order = _order(call, len(old))
    if order is not None:
        moved = tuple(before[dim] for dim in order)
    elif call.op in _PARTS:
        moved = before
    elif call.op in _RESHAPED and old[:-1] == shape[: len(old) - 1] and before != contiguous(old):
        # The last dimension alone is split.
        moved = (*before[:-1], *(stride * before[-1] for stride in contiguous(shape[len(old) - 1 :])))
    else:
        return dense
    return moved if len(moved) == len(shape) else dense


def contiguous(shape: Shape) -> Shape:
    """Strides of a tensor whose rows lie one after the other."""
    return tuple(math.prod(shape[dim + 1 :]) for dim in range(len(shape)))


def _order(call: OpCall, rank: int) -> list[int] | None:
    """The dimensions of the source that those of a view are, where it puts them into another order or drops one."""
    dims = list(range(rank))
    if call.op == "aten.transpose":
        one, other = (_dim(call.attributes.get(name), rank) for name in ("dim0", "dim1"))
        dims[one], dims[other] = dims[other], dims[one]
        return dims
    if call.op == "aten.permute":
        listed = call.attributes.get("dims")
        return [_dim(dim, rank) for dim in listed] if isinstance(listed, list) and len(listed) == rank else None
    if call.op in _DROPPED and rank:
        del dims[_dim(call.attributes.get("dim"), rank)]
        return dims
    return None


def _dim(value: object, rank: int) -> int:
    return value % rank if isinstance(value, int) and rank else 0


def _is_copied(shape: Shape, strides: Shape) -> bool:
    """Whether the batch dimensions do not merge into one, or neither rows nor columns are dense."""
    batch = [(size, stride) for size, stride in zip(shape[:-2], strides[:-2], strict=True) if size > 1]
    merges = all(outer == size * inner for (_, outer), (size, inner) in pairwise(batch))
    return not merges or (1 not in strides[-2:] and 1 not in shape[-2:])
