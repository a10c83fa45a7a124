"""What lowering (`inductor.py`) must know of single operators."""

from __future__ import annotations

from collections.abc import Sequence

from shmoo.estimators.records import OpCall

_SPECIAL = "exp log log2 log10 log1p sigmoid tanh silu mish softplus log_sigmoid elu celu selu logit glu softmax log_softmax"
_TWICE = (
    "silu gelu hardswish mish elu celu selu leaky_relu prelu softplus glu layer_norm group_norm rms_norm instance_norm "
    "native_layer_norm softmax log_softmax softmin var std var_mean std_mean normalize"
)
SPECIAL = frozenset(f"aten.{name}" for name in _SPECIAL.split())
"""Operators whose expansion holds one of the functions that are not recomputed on CPUs."""
READS_TWICE = frozenset(f"aten.{name}" for name in _TWICE.split())
"""Operators whose expansion reads its operand more than once, so that it counts as having several readers."""
SCANS = frozenset(f"aten.{name}" for name in ("cumsum", "cumprod", "cummax", "cummin", "logcumsumexp"))
"""Operators whose loops carry a value from element to element."""
OVERWRITES = frozenset({"aten.fill", "aten.zero", "aten.copy"})
"""Operators in place that do not look at what they write over."""
MADE_LIKE = frozenset(f"aten.{name}" for name in ("new_zeros", "new_ones", "new_full", "zeros_like", "ones_like", "full_like"))
"""Operators that take extents and element type from their operand, and no number."""
PART_OPERATIONS = 5
"""Scalar operations that ask, a dimension, whether an element is in the part that was written: comparisons and their operands."""
CONCATENATIONS = frozenset({"aten.cat", "aten.concat", "aten.stack"})
MAY_KEEP = frozenset({"aten.pad", "aten.constant_pad_nd", "aten.cat", "aten.concat"})
"""Operators that Inductor drops where their result is their only operand: padding by nothing, concatenation of one."""
ONE_STATISTIC = frozenset({"aten.rms_norm", "aten.softmax", "aten.log_softmax", "aten.softmin", "aten._softmax"})
"""Norms that scale by one number a row (softmax: its maximum); the others take mean and variance."""


def aligned(call: OpCall, shape: Sequence[int]) -> Sequence[int]:
    """An operand's shape as it is stretched: those of batch norms hold a number a channel."""
    rank = len(call.outputs[0].shape)
    return (shape[0], *(1,) * (rank - 2)) if len(shape) == 1 < rank and "batch_norm" in call.op else shape


def pointwise_norm(call: OpCall) -> bool:
    """A batch norm with fixed statistics computes element by element."""
    return "batch_norm" in call.op and call.attributes.get("training") is not True
