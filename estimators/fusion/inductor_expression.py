"""Properties of single operators, of values and of their memory layout that Inductor's lowering (`inductor_lowering.py`) depends
on. Images (four dimensions or more, a value for each channel) are assumed to be stored channels-last, as Inductor stores those of
networks with convolutions."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from shmoo.estimators.graph.records import OpCall
from shmoo.estimators.graph.views import RESHAPING, StridedView, permutation
from shmoo.estimators.registry import aten, short_op

SPECIAL = frozenset(
    aten("exp log log2 log10 log1p sigmoid tanh silu mish softplus log_sigmoid elu celu selu logit glu softmax log_softmax")
)
"""Operators whose expansion contains one of the functions that are not recomputed on CPUs."""
READS_TWICE = frozenset(
    aten("silu gelu hardswish mish elu celu selu leaky_relu prelu softplus glu layer_norm group_norm rms_norm instance_norm")
    + aten("native_layer_norm softmax log_softmax softmin var std var_mean std_mean normalize")
)
"""Operators whose expansion reads its operand more than once, so that it counts as having several readers."""
SCANS = frozenset(aten("cumsum cumprod cummax cummin logcumsumexp"))
"""Operators whose loops carry a value from element to element."""
OVERWRITES = frozenset(aten("fill zero copy"))
"""In-place operators that do not read the elements they overwrite."""
CREATES_LIKE = frozenset(aten("new_zeros new_ones new_full zeros_like ones_like full_like"))
"""Operators that take extents and element type from their operand, but no values."""
PART_OPERATIONS = 5
"""Scalar operations a dimension that test whether an element is in the written part: comparisons and operands."""
_TABLES = frozenset(aten("embedding index_select index"))
"""Operators that gather rows of a table."""
CONCATENATIONS = frozenset(aten("cat concat stack"))
MAY_VANISH = frozenset(aten("pad constant_pad_nd cat concat"))
"""Operators that Inductor drops where their result equals their only operand: padding by nothing, concatenation of one."""
ONE_STATISTIC = frozenset(aten("rms_norm softmax log_softmax softmin _softmax"))
"""Norms that scale by one number a row (softmax: its maximum); the others take mean and variance."""


def align_channels(call: OpCall, shape: Sequence[int]) -> Sequence[int]:
    """An operand's shape as it is broadcast: the operands of batch norms hold a number a channel."""
    rank = len(call.outputs[0].shape)
    return (shape[0], *(1,) * (rank - 2)) if len(shape) == 1 < rank and "batch_norm" in call.op else shape


def is_pointwise_norm(call: OpCall) -> bool:
    """True for a batch norm with fixed statistics, which computes element by element."""
    return "batch_norm" in call.op and call.attributes.get("training") is not True


@dataclass(slots=True)
class Expression:
    """The state of a value while lowering: a buffer, or a computation that its readers repeat.

    Attributes:
        reads: buffers and graph inputs that one evaluation reads. loads: the same, with the views through which they are read;
            Inductor counts these as reads.
        calls: calls evaluated inline; empty for a buffer.
        numel: elements. operations: scalar operations for each element.
        elsewhere: the reads that are not element by element in order: through a view, in a window.
        rows: elements of the inner loops, where loops stay nested because an operand is the same for several elements.
        owner: name of the buffer, where the value has one.
        base, view: the expression behind a view that changes the order, and that view.
    """

    reads: frozenset[int]
    calls: frozenset[int] = frozenset()
    numel: int = 0
    operations: int = 0
    special: bool = False
    elsewhere: frozenset[int] = frozenset()
    rows: frozenset[int] = frozenset()
    owner: int | None = None
    base: Expression | None = None
    view: StridedView | None = None
    loads: frozenset[tuple[int, object]] = frozenset()

    def __post_init__(self) -> None:
        if not self.loads:
            self.loads = frozenset((name, None) for name in self.reads)

    @property
    def moved(self) -> bool:
        """True where it is read through a view that changes the order or the choice of elements."""
        return self.base is not None

    @property
    def computes(self) -> bool:
        """True where it is evaluated when read, rather than loaded."""
        return self.owner is None and (bool(self.calls) or len(self.reads) > 1)

    def store(self, name: int) -> None:
        """Turn into a load of buffer `name`, which holds the result from now on."""
        self.reads, self.loads, self.owner = frozenset((name,)), frozenset(((name, None),)), name
        self.calls, self.elsewhere, self.rows = frozenset(), frozenset(), frozenset()
        self.operations, self.special, self.base, self.view = 0, False, None, None

    def refreshed(self, value: int) -> Expression:
        """The expression updated from its base, which may have a buffer by now; `value` reads the base through the view."""
        base = self.base
        if base is not None:
            self.reads, self.calls, self.owner = base.reads, base.calls, base.owner
            self.loads = frozenset((name, value) for name in base.reads)
            self.operations, self.special, self.elsewhere = base.operations, base.special, base.reads
            self.rows = base.rows | self.view.cuts if self.view is not None else base.rows
        return self


def keeps_memory(call: OpCall) -> bool:
    """True for a view that keeps the order of elements in memory. A permutation does where it only moves dimensions of one
    element, or names the order that an image already has (channels last)."""
    if call.op in RESHAPING or call.op in ("aten.pad", "aten.constant_pad_nd", "aten.cat", "aten.concat"):
        return True
    shape = call.inputs[0].shape
    name = short_op(call.op)
    order = permutation(name, call.attributes, len(shape)) if name in ("permute", "transpose") else None
    if order is None or order in ([0, 2, 3, 1], [0, 3, 1, 2]):
        return order is not None
    long_dims = [d for d in order if shape[d] > 1]
    return long_dims == sorted(long_dims)


def inner_extents(result: Sequence[int], operand: Sequence[int]) -> frozenset[int]:
    """Extents of the inner loops that a broadcast operand separates from the outer ones. Images are stored channels-last."""
    operand_extents = [1] * (len(result) - len(operand)) + list(operand)
    varying = [place for place, extent in enumerate(operand_extents) if extent > 1]
    if len(result) >= 4 and varying == [1] and any(extent > 1 for extent in result[2:]):
        return frozenset((result[1],))
    extents, inner, repeats = set(), 1, None
    for extent, size in zip(reversed(operand_extents), reversed(result), strict=False):
        if size == 1:
            continue
        if repeats is not None and repeats != (extent == 1):
            extents.add(inner)
        repeats = extent == 1
        inner *= size
    return frozenset(extents) if varying else frozenset()


def reduces_last(call: OpCall) -> bool:
    """True where the reduced elements are contiguous in memory. Height and width are not, as images are stored channels-last."""
    source = call.inputs[0]
    if "layer_norm" in call.op or "rms_norm" in call.op:
        return True
    if "pool" in call.op or "group_norm" in call.op:
        return False
    dims = call.attributes.get("dim")
    dim_list = dims if isinstance(dims, list) else [dims]
    if not dim_list or dim_list[0] is None:
        return True
    rank = len(source.shape)
    places = sorted(d % rank for d in dim_list if isinstance(d, int)) if rank else []
    is_trailing = places == list(range(rank - len(places), rank))
    return is_trailing and not (rank == 4 and len(places) == 2)


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
    count = 1
    for extent, operand_extent in zip(reversed(result), reversed((*(1,) * (len(result) - len(operand)), *operand)), strict=False):
        if operand_extent != 1:
            break
        count *= extent
    return count
