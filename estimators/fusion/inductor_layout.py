"""Memory layout as Inductor sees it: views that keep its order, broadcasts that keep loops nested, contiguous elements.

Images (four dimensions or more, a value for each channel) are assumed to be stored channels-last, as Inductor stores those of
networks with convolutions.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from itertools import accumulate

from shmoo.estimators.graph.records import OpCall
from shmoo.estimators.graph.views import RESHAPING, permutation
from shmoo.estimators.registry import aten

_TABLES = frozenset(aten("embedding index_select index"))
"""Operators that gather rows of a table."""


def keeps_memory(call: OpCall) -> bool:
    """Whether a view keeps the order of elements in memory. A permutation does where it only moves dimensions of one element, or
    names the order that an image's memory has already (channels last)."""
    if call.op in RESHAPING or call.op in ("aten.pad", "aten.constant_pad_nd", "aten.cat", "aten.concat"):
        return True
    shape = call.inputs[0].shape
    name = call.op.removeprefix("aten.")
    order = permutation(name, call.attributes, len(shape)) if name in ("permute", "transpose") else None
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
