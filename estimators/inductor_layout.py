"""How operators look at memory: which views keep its order, where broadcasts keep loops nested, which elements lie together.

Images (four dimensions or more, a value for each channel) are taken to be kept channels-last, as Inductor keeps those of networks
with convolutions.
"""

from __future__ import annotations

from collections.abc import Sequence

from shmoo.estimators.records import OpCall

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
