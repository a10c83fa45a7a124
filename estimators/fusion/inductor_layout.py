"""Memory layout as Inductor sees it: views that keep its order, broadcasts that keep loops nested, contiguous elements.

Images (four dimensions or more, a value for each channel) are assumed to be stored channels-last, as Inductor stores those of
networks with convolutions.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

from shmoo.estimators.graph.records import Attribute, OpCall
from shmoo.estimators.registry import aten

_RESHAPING = frozenset(
    aten("view reshape _unsafe_view view_as reshape_as flatten unflatten ravel squeeze unsqueeze contiguous to type_as alias")
    + aten("detach dropout lift_fresh_copy")
)
"""Operators that change extents at most."""
_TABLES = frozenset(aten("embedding index_select index"))
"""Operators that gather rows of a table."""


def keeps_memory(call: OpCall) -> bool:
    """Whether a view keeps the order of elements in memory. A permutation does where it only moves dimensions of one element, or
    names the order that an image's memory has already (channels last)."""
    if call.op in _RESHAPING or call.op in ("aten.pad", "aten.constant_pad_nd", "aten.cat", "aten.concat"):
        return True
    shape = call.inputs[0].shape
    name = call.op.removeprefix("aten.")
    order = _permutation(name, call.attributes, len(shape)) if name in ("permute", "transpose") else None
    if order is None or order in ([0, 2, 3, 1], [0, 3, 1, 2]):
        return order is not None
    long = [d for d in order if shape[d] > 1]
    return long == sorted(long)


def inner_extents(result: Sequence[int], operand: Sequence[int]) -> frozenset[int]:
    """Extents of the inner loops that a broadcast operand separates from the outer ones. Images are stored channels-last."""
    aligned = [1] * (len(result) - len(operand)) + list(operand)
    own = [place for place, extent in enumerate(aligned) if extent > 1]
    if len(result) >= 4 and own == [1] and any(extent > 1 for extent in result[2:]):
        return frozenset((result[1],))
    extents, inner, repeats = set(), 1, None
    for extent, size in zip(reversed(aligned), reversed(result), strict=False):
        if size == 1:
            continue
        if repeats is not None and repeats != (extent == 1):
            extents.add(inner)
        repeats = extent == 1
        inner *= size
    return frozenset(extents) if own else frozenset()


def reduces_last(call: OpCall) -> bool:
    """Whether the reduced elements are contiguous in memory. Images are stored channels-last, so height and width do not."""
    source = call.inputs[0]
    if "layer_norm" in call.op or "rms_norm" in call.op:
        return True
    if "pool" in call.op or "group_norm" in call.op:
        return False
    dims = call.attributes.get("dim")
    listed = dims if isinstance(dims, list) else [dims]
    if not listed or listed[0] is None:
        return True
    rank = len(source.shape)
    places = sorted(d % rank for d in listed if isinstance(d, int)) if rank else []
    trailing = places == list(range(rank - len(places), rank))
    return trailing and not (rank == 4 and len(places) == 2)


def image_rows(shape: Sequence[int]) -> frozenset[int]:
    """Elements of the inner loops of operators on windows: each dimension of an image stays a loop, the channels inside."""
    if len(shape) < 3:
        return frozenset()
    return frozenset(list(accumulate((shape[1], *shape[:1:-1]), operator.mul))[:-1])


def part_rows(call: OpCall, shape: Sequence[int]) -> frozenset[int]:
    """Elements of the inner loops that write a part of a concatenation: those that are contiguous in the whole."""
    dim = call.attributes.get("dim", 0)
    if not isinstance(dim, int) or not shape:
        return frozenset()
    dim %= len(shape)
    if len(shape) == 4:
        channels_last = (0, 2, 3, 1)
        shape, dim = [shape[d] for d in channels_last], channels_last.index(dim)
    return frozenset((math.prod(shape[dim:]),))


def stretch(call: OpCall, operand: Sequence[int]) -> int:
    """Number of contiguous elements of the result that come from one element of an operand."""
    result = call.outputs[0].shape
    if call.op in _TABLES and len(result) > len(operand):
        return math.prod(result[len(operand) :])
    together = 1
    for extent, own in zip(reversed(result), reversed((*(1,) * (len(result) - len(operand)), *operand)), strict=False):
        if own != 1:
            break
        together *= extent
    return together


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
        joined: list[tuple[int, int | None]] = []
        for size, stride in zip(reversed(self.sizes), reversed(self.strides), strict=True):
            if size == 1:
                continue
            if joined and stride is not None and joined[-1][1] is not None and stride == joined[-1][0] * joined[-1][1]:
                joined[-1] = (joined[-1][0] * size, joined[-1][1])
            else:
                joined.append((size, stride))
        return joined[::-1]

    @property
    def in_order(self) -> bool:
        """Whether it walks a memory from its beginning, element after element (its length is not checked)."""
        return [stride for _, stride in self.runs()] in ([], [1])

    @property
    def cuts(self) -> frozenset[int]:
        """Elements of the inner loops wherever a loop does not continue the loop inside it."""
        return frozenset(list(accumulate((size for size, _ in reversed(self.runs())), operator.mul))[:-1])


def apply_view(call: OpCall, view: StridedView, result: int = 0) -> StridedView:
    """The view of memory that one of a view operator's results has, from that of its first operand; steps that cannot be
    determined are uneven."""
    shape = call.outputs[result].shape
    if call.op in _RESHAPING:
        return _reshaped(view, shape)
    name, rank, attributes = call.op.rpartition(".")[2], len(view.sizes), call.attributes
    order = _permutation(name, attributes, rank)
    if order is not None:
        return StridedView(tuple(view.sizes[d] for d in order), tuple(view.strides[d] for d in order))
    strides: tuple[int | None, ...] = (None,) * len(shape)
    dim = attributes.get("dim", 0)
    if isinstance(dim, int) and rank:
        dim %= rank
        before, stride, after = view.strides[:dim], view.strides[dim], view.strides[dim + 1 :]
        if name == "slice":
            step = attributes.get("step", 1)
            strides = (*before, stride * step if stride is not None and isinstance(step, int) else None, *after)
        elif name in ("split", "split_with_sizes", "chunk", "tensor_split", "narrow"):
            strides = view.strides
        elif name in ("select", "unbind"):
            strides = (*before, *after)
    if name == "expand" and len(shape) >= rank:
        added = len(shape) - rank
        old = zip((1,) * added + view.sizes, shape, (None,) * added + view.strides, strict=True)
        strides = tuple(0 if before != after else stride for before, after, stride in old)
    return StridedView(tuple(shape), strides)


def _permutation(name: str, attributes: Mapping[str, Attribute], rank: int) -> list[int] | None:
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


def _reshaped(view: StridedView, shape: Sequence[int]) -> StridedView:
    """The same elements with other extents: steps are known where these split or join dimensions evenly."""
    strides: list[int | None] = []
    old = [(size, stride) for size, stride in zip(view.sizes, view.strides, strict=True) if size != 1]
    new = list(shape)
    while new:
        sizes, source = [new.pop()], [old.pop()] if old else []
        while math.prod(sizes) != math.prod(size for size, _ in source):
            if math.prod(sizes) < math.prod(size for size, _ in source) and new:
                sizes.append(new.pop())
            elif old:
                source.append(old.pop())
            else:
                return StridedView(tuple(shape), (None,) * len(shape))
        runs = StridedView(tuple(size for size, _ in source[::-1]), tuple(stride for _, stride in source[::-1])).runs()
        step = runs[0][1] if len(runs) == 1 else None
        for size in sizes:
            strides.append(step if runs else 1)
            step = None if step is None else step * size
    return StridedView(tuple(shape), tuple(reversed(strides)))
