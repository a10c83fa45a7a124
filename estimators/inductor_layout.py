"""How operators look at memory: which views keep its order, where broadcasts keep loops nested, which elements lie together.

Images (four dimensions or more, a value for each channel) are taken to be kept channels-last, as Inductor keeps those of networks
with convolutions.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

from shmoo.estimators.records import Attribute, OpCall

_IN_ORDER = (
    "pad constant_pad_nd cat concat view reshape flatten unflatten squeeze unsqueeze _unsafe_view view_as reshape_as dropout "
    "contiguous to alias detach lift_fresh_copy ravel type_as"
)
KEEPING_ORDER = frozenset(f"aten.{name}" for name in _IN_ORDER.split())
"""Views that keep the order of elements in memory."""


def keeps_memory(call: OpCall) -> bool:
    """Whether a view keeps the order of elements in memory. A permutation does where it only moves dimensions of one element, or
    says in words what the memory of an image is like already (channels last)."""
    if call.op in KEEPING_ORDER:
        return True
    shape = call.inputs[0].shape
    order = list(range(len(shape)))
    if call.op == "aten.permute":
        dims = call.attributes.get("dims")
        if not isinstance(dims, list) or len(dims) != len(shape):
            return False
        order = [d % len(shape) for d in dims]
        if order in ([0, 2, 3, 1], [0, 3, 1, 2]):
            return True
    elif call.op == "aten.transpose":
        first, second = (call.attributes.get(name) for name in ("dim0", "dim1"))
        if not isinstance(first, int) or not isinstance(second, int):
            return False
        order[first], order[second] = order[second], order[first]
    else:
        return False
    long = [d for d in order if shape[d] > 1]
    return long == sorted(long)


def inner_extents(result: Sequence[int], operand: Sequence[int]) -> frozenset[int]:
    """Extents of the inner loops that a broadcast operand keeps apart from the outer ones. Images are kept channels-last."""
    aligned = [1] * (len(result) - len(operand)) + list(operand)
    own = [place for place, extent in enumerate(aligned) if extent > 1]
    if len(result) >= 4 and own == [1] and any(extent > 1 for extent in result[2:]):
        return frozenset((result[1],))
    found, inner, repeats = set(), 1, None
    for extent, size in zip(reversed(aligned), reversed(result), strict=False):
        if size == 1:
            continue
        if repeats is not None and repeats != (extent == 1):
            found.add(inner)
        repeats = extent == 1
        inner *= size
    return frozenset(found) if own else frozenset()


def reduces_last(call: OpCall) -> bool:
    """Whether the reduced elements lie together in memory. Images are kept channels-last, so their height and width do not."""
    source = call.inputs[0]
    if "layer_norm" in call.op or "rms_norm" in call.op:
        return True
    if "pool" in call.op or "group_norm" in call.op:
        return False
    dims = call.attributes.get("dim")
    listed = dims if isinstance(dims, list) else [dims]
    rank = len(source.shape)
    if not listed or listed[0] is None:
        return True
    places = sorted(d % rank for d in listed if isinstance(d, int)) if rank else []
    trailing = places == list(range(rank - len(places), rank))
    return trailing and not (rank == 4 and len(places) == 2)


def image_rows(shape: Sequence[int]) -> frozenset[int]:
    """Elements of the inner loops of work on neighbourhoods: each dimension of an image stays a loop, the channels inside."""
    if len(shape) < 3:
        return frozenset()
    inner = list(accumulate((shape[1], *shape[:1:-1]), operator.mul))
    return frozenset(inner[:-1])


def part_rows(call: OpCall, shape: Sequence[int]) -> frozenset[int]:
    """Elements of the inner loops that write a part of a concatenation: what lies together of it in the whole."""
    dim = call.attributes.get("dim", 0)
    if not isinstance(dim, int) or not shape:
        return frozenset()
    dim %= len(shape)
    if len(shape) == 4:
        channels_last = (0, 2, 3, 1)
        shape, dim = [shape[d] for d in channels_last], channels_last.index(dim)
    return frozenset((math.prod(shape[dim:]),))


def stretch(call: OpCall, operand: Sequence[int]) -> int:
    """How many elements of the result that lie together come from one element of an operand."""
    result = call.outputs[0].shape
    if call.op in _TABLES and len(result) > len(operand):
        return math.prod(result[len(operand) :])
    together = 1
    for extent, own in zip(reversed(result), reversed((*(1,) * (len(result) - len(operand)), *operand)), strict=False):
        if own != 1:
            break
        together *= extent
    return together


_TABLES = frozenset({"aten.embedding", "aten.index_select", "aten.index"})
"""Operators that look rows of a table up."""


class Look(NamedTuple):
    """A view of memory that is kept in order: its extents, and the step in elements along each, `None` where steps are uneven."""

    sizes: tuple[int, ...]
    strides: tuple[int | None, ...]

    @classmethod
    def whole(cls, shape: Sequence[int]) -> Look:
        """All of a memory, element after element."""
        inner = [math.prod(shape[place + 1 :]) for place in range(len(shape))]
        return cls(tuple(shape), tuple(inner))

    def runs(self) -> list[tuple[int, int | None]]:
        """Extents and steps with dimensions joined that one loop walks, the outermost first; extents of one left out."""
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
        """Whether it walks a memory from its beginning, element after element (how far is not known)."""
        return [stride for _, stride in self.runs()] in ([], [1])

    @property
    def cuts(self) -> frozenset[int]:
        """Elements of the inner loops wherever one loop cannot walk on as the loop inside it."""
        return frozenset(list(accumulate((size for size, _ in reversed(self.runs())), operator.mul))[:-1])


def see_through(call: OpCall, look: Look, result: int = 0) -> Look:
    """What a view operator makes of a look, for its result of that number; steps that are not known are uneven.

    Args:
        look: at the operator's first operand.
    """
    shape = call.outputs[result].shape
    name, rank, of = call.op.rpartition(".")[2], len(look.sizes), call.attributes
    if name in _RESHAPING:
        return _reshaped(look, shape)
    if name in ("permute", "transpose", "swapaxes", "t", "movedim", "mT"):
        order = _permutation(name, of, rank)
        if order is not None:
            return Look(tuple(look.sizes[d] for d in order), tuple(look.strides[d] for d in order))
    dim = of.get("dim", 0)
    if isinstance(dim, int) and rank:
        dim %= rank
        before, after = look.strides[:dim], look.strides[dim + 1 :]
        if name == "slice":
            step = of.get("step", 1)
            stride = look.strides[dim]
            own = stride * step if stride is not None and isinstance(step, int) else None
            return Look(tuple(shape), (*before, own, *after))
        if name in ("split", "split_with_sizes", "chunk", "tensor_split", "narrow"):
            return Look(tuple(shape), look.strides)
        if name in ("select", "unbind"):
            return Look(tuple(shape), (*before, *after))
    if name == "expand" and len(shape) >= rank:
        strides = (None,) * (len(shape) - rank) + look.strides
        sizes = (1,) * (len(shape) - rank) + look.sizes
        return Look(tuple(shape), tuple(0 if a != b else s for a, b, s in zip(sizes, shape, strides, strict=True)))
    return Look(tuple(shape), (None,) * len(shape))


_RESHAPING_NAMES = (
    "view reshape _unsafe_view view_as reshape_as flatten unflatten squeeze unsqueeze contiguous clone to alias detach ravel "
    "dropout type_as lift_fresh_copy"
)
_RESHAPING = frozenset(_RESHAPING_NAMES.split())
"""Operators that change extents at most."""


def _permutation(name: str, of: Mapping[str, Attribute], rank: int) -> list[int] | None:
    order = list(range(rank))
    if name == "permute":
        dims = of.get("dims")
        return [d % rank for d in dims if isinstance(d, int)] if isinstance(dims, list) and len(dims) == rank else None
    if name in ("t", "mT"):
        return [*order[:-2], *order[-2:][::-1]]
    pairs = (("dim0", "dim1"), ("axis0", "axis1"), ("source", "destination"))
    first, second = next(((of.get(a), of.get(b)) for a, b in pairs if a in of), (None, None))
    if not isinstance(first, int) or not isinstance(second, int):
        return None
    if name == "movedim":
        order.insert(second % rank, order.pop(first % rank))
    else:
        order[first % rank], order[second % rank] = order[second % rank], order[first % rank]
    return order


def _reshaped(look: Look, shape: Sequence[int]) -> Look:
    """The same elements with other extents: where these split or join dimensions evenly, steps follow."""
    strides: list[int | None] = []
    old = [(size, stride) for size, stride in zip(look.sizes, look.strides, strict=True) if size != 1]
    new = list(shape)
    while new:
        sizes, held = [new.pop()], [old.pop()] if old else []
        while math.prod(sizes) != math.prod(size for size, _ in held):
            if math.prod(sizes) < math.prod(size for size, _ in held) and new:
                sizes.append(new.pop())
            elif old:
                held.append(old.pop())
            else:
                return Look(tuple(shape), (None,) * len(shape))
        runs = Look(tuple(size for size, _ in held[::-1]), tuple(stride for _, stride in held[::-1])).runs()
        step = runs[0][1] if len(runs) == 1 else None
        for size in sizes:
            strides.append(step if runs else 1)
            step = None if step is None else step * size
    return Look(tuple(shape), tuple(reversed(strides)))
