"""Properties of single operators, and of values, that Inductor's lowering (`inductor_lowering.py`) depends on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from shmoo.estimators.graph.records import OpCall
from shmoo.estimators.graph.views import StridedView
from shmoo.estimators.registry import aten

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
    """Whether the call is a batch norm with fixed statistics, which computes element by element."""
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
        """Whether it is read through a view that changes the order or the choice of elements."""
        return self.base is not None

    @property
    def computes(self) -> bool:
        """Whether it is evaluated when read, rather than loaded."""
        return self.owner is None and (bool(self.calls) or len(self.reads) > 1)

    def store(self, name: int) -> None:
        """Turn into a load of buffer `name`, which holds the result from now on."""
        self.reads, self.loads, self.owner = frozenset((name,)), frozenset(((name, None),)), name
        self.calls, self.elsewhere, self.rows = frozenset(), frozenset(), frozenset()
        self.operations, self.special, self.base, self.view = 0, False, None, None

    def refreshed(self, value: int) -> Expression:
        """The expression, updated from its base, which may have got a buffer since; `value` reads the base through the view."""
        base = self.base
        if base is not None:
            self.reads, self.calls, self.owner = base.reads, base.calls, base.owner
            self.loads = frozenset((name, value) for name in base.reads)
            self.operations, self.special, self.elsewhere = base.operations, base.special, base.reads
            self.rows = base.rows | self.view.cuts if self.view is not None else base.rows
        return self
