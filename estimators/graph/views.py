"""Views of memory: the elements of a value and their order, from the operators that lead to it."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

from shmoo.estimators.graph.records import Attribute, Graph, OpCall
from shmoo.estimators.registry import aten, name_of

RESHAPING = frozenset(
    aten("view reshape _unsafe_view view_as reshape_as flatten unflatten ravel squeeze unsqueeze contiguous to type_as alias")
    + aten("detach dropout lift_fresh_copy")
)
"""Operators that change extents only."""


class StridedView(NamedTuple):
    """A view of contiguous memory: its extents, and the step in elements along each, `None` where steps are uneven."""

    sizes: tuple[int, ...]
    strides: tuple[int | None, ...]

    @classmethod
    def whole(cls, shape: Sequence[int]) -> StridedView:
        """The view of a whole memory, element after element."""
        return cls(tuple(shape), tuple(math.prod(shape[place + 1 :]) for place in range(len(shape))))

    def runs(self) -> list[tuple[int, int | None]]:
        """Extents and steps, the outermost first, with dimensions joined where one loop can walk them; without extents of 1."""
        dims: list[tuple[int, int | None]] = []
        for size, stride in zip(reversed(self.sizes), reversed(self.strides), strict=True):
            if size == 1:
                continue
            if dims and stride is not None and dims[-1][1] is not None and stride == dims[-1][0] * dims[-1][1]:
                dims[-1] = (dims[-1][0] * size, dims[-1][1])
            else:
                dims.append((size, stride))
        return dims[::-1]

    @property
    def in_order(self) -> bool:
        """True for a view that walks a memory from its beginning, element after element (its length is not checked)."""
        return [stride for _, stride in self.runs()] in ([], [1])

    @property
    def cuts(self) -> frozenset[int]:
        """Elements of the inner loops wherever a loop does not continue the loop inside it."""
        return frozenset(list(accumulate((size for size, _ in reversed(self.runs())), operator.mul))[:-1])


def apply_view(call: OpCall, view: StridedView, result: int = 0) -> StridedView:
    """The view of memory of a view operator's result, from that of its first operand; unknown steps are uneven."""
    shape = call.outputs[result].shape
    if call.op in RESHAPING:
        return _reshape(view, shape)
    name, rank, attributes = name_of(call.op), len(view.sizes), call.attributes
    order = permutation(name, attributes, rank)
    if order is not None:
        return StridedView(tuple(view.sizes[d] for d in order), tuple(view.strides[d] for d in order))
    strides: tuple[int | None, ...] = (None,) * len(shape)
    dim = attributes.get("dim", 0)
    if isinstance(dim, int) and rank:
        dim %= rank
        outer_strides, stride, inner_strides = view.strides[:dim], view.strides[dim], view.strides[dim + 1 :]
        if name == "slice":
            step = attributes.get("step", 1)
            strides = (*outer_strides, stride * step if stride is not None and isinstance(step, int) else None, *inner_strides)
        elif name in ("split", "split_with_sizes", "chunk", "tensor_split", "narrow"):
            strides = view.strides
        elif name in ("select", "unbind"):
            strides = (*outer_strides, *inner_strides)
    if name == "expand" and len(shape) >= rank:
        extra_dims = len(shape) - rank
        operand_dims = zip((1,) * extra_dims + view.sizes, shape, (None,) * extra_dims + view.strides, strict=True)
        strides = tuple(0 if old_size != new_size else stride for old_size, new_size, stride in operand_dims)
    return StridedView(tuple(shape), strides)


def permutation(name: str, attributes: Mapping[str, Attribute], rank: int) -> list[int] | None:
    """Order in which an operator permutes its operand's dimensions; `None` for other operators and for symbolic dimensions."""
    order = list(range(rank))
    if name == "permute":
        dims = attributes.get("dims")
        return [d % rank for d in dims if isinstance(d, int)] if isinstance(dims, list) and len(dims) == rank else None
    if name in ("t", "mT"):
        return [*order[:-2], *order[-2:][::-1]]
    if name not in ("transpose", "swapaxes", "movedim"):
        return None
    pairs = (("dim0", "dim1"), ("axis0", "axis1"), ("source", "destination"))
    first, second = next(((attributes.get(a), attributes.get(b)) for a, b in pairs if a in attributes), (None, None))
    if not isinstance(first, int) or not isinstance(second, int):
        return None
    if name == "movedim":
        order.insert(second % rank, order.pop(first % rank))
    else:
        order[first % rank], order[second % rank] = order[second % rank], order[first % rank]
    return order


def _reshape(view: StridedView, shape: Sequence[int]) -> StridedView:
    """The same elements with other extents: steps are known where these split or join dimensions evenly."""
    strides: list[int | None] = []
    old_dims = [(size, stride) for size, stride in zip(view.sizes, view.strides, strict=True) if size != 1]
    new_sizes = list(shape)
    while new_sizes:
        sizes, source = [new_sizes.pop()], [old_dims.pop()] if old_dims else []
        while math.prod(sizes) != math.prod(size for size, _ in source):
            if math.prod(sizes) < math.prod(size for size, _ in source) and new_sizes:
                sizes.append(new_sizes.pop())
            elif old_dims:
                source.append(old_dims.pop())
            else:
                return StridedView(tuple(shape), (None,) * len(shape))
        runs = StridedView(tuple(size for size, _ in source[::-1]), tuple(stride for _, stride in source[::-1])).runs()
        step = runs[0][1] if len(runs) == 1 else None
        for size in sizes:
            strides.append(step if runs else 1)
            step = None if step is None else step * size
    return StridedView(tuple(shape), tuple(reversed(strides)))


def view_of(graph: Graph, value: int, producers: Mapping[int, OpCall]) -> StridedView:
    """A value as a view of memory. `producers` are the calls that make each value except inputs."""
    call = producers.get(value)
    if call is None or not call.reads or graph.values[value].storage is None or graph.root(call.reads[0]) != graph.root(value):
        return StridedView.whole(graph.values[value].spec.shape)
    return apply_view(call, view_of(graph, call.reads[0], producers), call.writes.index(value))
