"""Operators that do no work: they change how memory is looked at, ask for a shape, or assert something.

`FREE` is the explicit set; `FREE_WHEN` holds operators that are free for some of their calls. Whether one of `MAY_COPY` copies
depends on strides, which a call does not record but its graph does: alone a `reshape` is free and a `contiguous` copies, in a
graph they are what their result's memory says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from shmoo.estimators.records import OpCall

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
    "result_type _fused_sdp_choice"
)
_ASSERTIONS = "_assert_async _assert_scalar _assert_tensor_metadata _functional_assert_async _functional_assert_scalar"
_ALLOCATIONS = "empty empty_like empty_strided empty_permuted new_empty new_empty_strided resize resize_as set"
_NOTES = "requires_grad retain_grad record_stream"
"""For autograd and the allocator."""
_ON_SHAPES = (
    "getitem add sub mul floordiv truediv mod pow neg pos eq ne lt le gt ge and_ or_ not_ index "
    "sym_max sym_min sym_sum sym_not sym_ite sym_float sym_int sym_sqrt"
)
"""Python's operators, which a graph of ATen operators applies to sizes only."""

FREE: frozenset[str] = frozenset(
    [f"aten.{name}" for name in f"{_VIEWS} {_QUESTIONS} {_ASSERTIONS} {_ALLOCATIONS} {_NOTES}".split()]
    + [f"{module}.{name}" for module in ("operator", "_operator") for name in _ON_SHAPES.split()]
    + ["prims.view_of", "prims.device_put"]
)
"""Operators that never move data or compute."""

MAY_COPY: frozenset[str] = frozenset(
    f"aten.{name}"
    for name in ("reshape", "reshape_as", "flatten", "ravel", "contiguous", "to", "type_as", "resolve_conj", "resolve_neg")
)
"""Operators that return a view of their operand where they can and a copy where they must."""


def _in_eval(call: OpCall) -> bool:
    return not call.attributes.get("train") or call.attributes.get("p") == 0


def _same_type(call: OpCall) -> bool:
    """A conversion to the type that the tensor has already returns it, unless a copy is asked for (a graph is of one device)."""
    return call.inputs[0].dtype == call.outputs[0].dtype and not call.attributes.get("copy", False)


_DROPOUTS = ("aten.dropout", "aten.native_dropout", "aten.alpha_dropout", "aten.feature_dropout", "aten.feature_alpha_dropout")

FREE_WHEN: Mapping[str, Callable[[OpCall], bool]] = {
    **dict.fromkeys(_DROPOUTS, _in_eval),
    "aten.to": _same_type,
    "aten.type_as": _same_type,
}
"""Operators that are free for the calls for which their predicate holds, and have a cost otherwise."""
