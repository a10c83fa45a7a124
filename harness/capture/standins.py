"""Stand-ins for data: the values that a model's Python and its data-dependent operators read while it runs on fake tensors.

Where a size or a branch depends on data, a capture without data needs rules:

- Values that follow from shapes and constants alone (positions, anchors, masks, class numbers) are computed.
- Contractions, normalizations and random draws give zeros; pointwise operators, views and copies of these are evaluated.
- Comparisons with a threshold pass: `<`, `<=`, `>` and `>=` of floating-point data are true, so that every candidate stays until
  the model's own limits (top-k, detections per image) apply.
- Choices by data (top-k, arg max, sorting) are spread evenly: a router sends every expert its share of the tokens.
- Non-maximum suppression suppresses nothing.

A model that reads a number that only data could give, or selects by one, is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch._ops import HigherOrderOperator
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.weak import WeakIdKeyDictionary

from shmoo.harness.capture.fx.introspect import CaptureError

_LARGEST = 1_500_000
"""Elements of the largest tensor whose values are computed; larger tensors count as zeros."""
_LARGEST_SELECTION = 1 << 25
"""Most elements of a list of selected indices; a detector's candidates are every class of every anchor."""
_MOST_CONDITIONS = 1024
"""Most conditions on data that a model may evaluate; beyond them, a loop is waiting for a condition that never changes."""
_COMPARISONS = frozenset({"gt", "ge", "lt", "le"})
_CHOICES = frozenset(
    f"aten::{name}" for name in ("topk", "sort", "sort.stable", "argsort", "argmax", "argmin", "max.dim", "min.dim", "kthvalue")
)
_ARITHMETIC = (
    "mm addmm bmm baddbmm addbmm mv addmv dot _grouped_mm convolution _convolution deform_conv2d roi_align embedding "
    "_softmax _log_softmax native_layer_norm native_batch_norm _native_batch_norm_legit native_group_norm "
    "_native_batch_norm_legit_no_training grid_sampler_2d grid_sampler_3d avg_pool2d _adaptive_avg_pool2d "
    "max_pool2d_with_indices upsample_bilinear2d upsample_bicubic2d upsample_nearest2d _fft_r2c _fft_c2c _fft_c2r "
    "_scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_attention_math"
)
"""Operators of a network's arithmetic, whose values do not determine sizes; they give zeros."""
_NOT_FOLLOWED = frozenset(_ARITHMETIC.split())
_COPIES = frozenset({"clone", "_to_copy", "expand_copy", "repeat"})
"""Operators, other than views, whose results consist of their operand's elements."""


class _KnownValues(NamedTuple):
    """Known values of a fake tensor: its elements on the CPU, and whether they depend on data."""

    elements: torch.Tensor
    from_data: bool


@contextmanager
def _real() -> Iterator[None]:
    """Compute on real tensors, hidden from all tracing."""
    with torch.no_grad(), torch._C.DisableTorchFunction(), torch._C._DisablePythonDispatcher(), _disable_current_modes():
        yield


class StandIns(TorchDispatchMode):
    """While active, fake tensors have values by the rules above: their elements in `_elements_of` if present, otherwise a single
    number everywhere, from `_uniform` or 0.

    Args:
        known: values of fake tensors that do not depend on data.
    """

    supports_higher_order_operators = True

    def __init__(self, known_tensors: Iterable[tuple[torch.Tensor, torch.Tensor]] = ()) -> None:
        super().__init__()
        self._elements_of = WeakIdKeyDictionary()
        for fake, values in known_tensors:
            self._store(fake, values, False)
        self._uniform = WeakIdKeyDictionary()
        self._unfiltered = self._chosen = self._suppressed = self._conditions = 0

    @property
    def notes(self) -> tuple[str, ...]:
        """Assumptions about data, as notes for the reader; empty where no size depends on data."""
        assumptions = (
            (self._unfiltered, "selections by a threshold keep every candidate"),
            (self._suppressed, "non-maximum suppressions keep every box"),
            (self._chosen, "sizes follow from choices by data (top-k, arg max) that are spread evenly"),
        )
        return tuple(f"{count} {assumption}" for count, assumption in assumptions if count)

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        if isinstance(func, HigherOrderOperator):  # branches, loops and user-defined attention
            return func(*args, **kwargs)
        from_data = torch.Tag.data_dependent_output in func.tags
        if from_data and not any(isinstance(t, FakeTensor) for t in _tensors(args, kwargs)):
            return func(*args, **kwargs)
        rule = _RULES.get(func.name())
        if rule is not None:
            return rule(self, func, args, kwargs)
        if from_data or torch.Tag.dynamic_output_shape in func.tags:
            return self._by_value(func, args, kwargs)
        result = func(*args, **kwargs)
        self._follow(func, args, kwargs, result)
        return result

    # Values of a tensor -------------------------------------------------------------------------------------------------

    def _known_values_of(self, tensor: torch.Tensor) -> _KnownValues | None:
        """The tensor's elements if known; those of a tensor with memory always are."""
        if isinstance(tensor, FakeTensor):
            return self._elements_of.get(tensor)
        return None if tensor.is_meta else _KnownValues(tensor, False)

    def _from_data(self, tensor: torch.Tensor) -> bool:
        known_values = self._known_values_of(tensor)
        return known_values is None or known_values.from_data

    def _store(self, tensor: torch.Tensor, elements: torch.Tensor, from_data: bool) -> torch.Tensor:
        self._elements_of[tensor] = _KnownValues(elements, from_data)
        return tensor

    def _number(self, tensor: torch.Tensor) -> torch.Tensor:
        """The number that every element of a tensor without known elements has."""
        return torch.full((), self._uniform.get(tensor, 0), dtype=tensor.dtype)

    def _set_uniform(self, tensor: torch.Tensor, number: Any) -> None:
        """Set the number that every element of a tensor has; infinities and complex numbers count as 0."""
        if tensor.dtype.is_complex or not math.isfinite(number):
            number = 0
        is_integer = not tensor.dtype.is_floating_point
        number = bool(number) if tensor.dtype == torch.bool else int(number) if is_integer else float(number)
        if number:
            self._uniform[tensor] = number
        else:
            self._uniform.pop(tensor, None)

    # Following operators ------------------------------------------------------------------------------------------------

    def _follow(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        outputs = [leaf for leaf in tree_leaves(result) if isinstance(leaf, FakeTensor)]
        operands = _tensors(args, kwargs)
        name = func.overloadpacket.__name__
        if not outputs or torch.Tag.nondeterministic_seeded in func.tags:
            return
        if name in _COMPARISONS and any(t.is_floating_point() and self._from_data(t) for t in operands):
            self._set_uniform(outputs[0], True)
        elif not operands or any(self._known_values_of(t) is not None for t in operands):
            self._compute(func, args, kwargs, outputs)
        elif func.name() in _CHOICES:
            self._choose(func, args, kwargs, outputs)
        elif torch.Tag.pointwise in func.tags:
            self._compute_uniform(func, args, kwargs, outputs)
        elif func.is_view or name in _COPIES:
            for output in outputs:
                self._set_uniform(output, self._uniform.get(operands[0], 0))

    def _compute(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: list[FakeTensor]) -> None:
        """Run the operator on the values of its operands, some of which are known."""
        operands = _tensors(args, kwargs)
        mutable = func._schema.is_mutable
        sizes = [t.numel() for t in (*outputs, *(t for t in operands if self._known_values_of(t) is None))]
        followed = max(sizes) <= _LARGEST and func.overloadpacket.__name__ not in _NOT_FOLLOWED

        def elements(tensor: torch.Tensor) -> torch.Tensor:
            if (known_values := self._known_values_of(tensor)) is not None:
                return known_values.elements
            filled = self._number(tensor).expand(tensor.shape)
            return filled.clone() if mutable else filled  # expanded memory cannot be written to

        results = _tensors(self._run(func, args, kwargs, elements)) if followed else []
        if len(results) != len(outputs):  # refused, or only the fake operator returns a workspace
            for output in outputs if mutable else ():
                self._elements_of.pop(output, None)
            return
        from_data = any(self._from_data(t) for t in operands)
        for output, values in zip(outputs, results, strict=True):
            self._store(output, values, from_data)

    def _compute_uniform(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: list[FakeTensor]) -> None:
        """If every operand of a pointwise operator is uniform, so is the result."""
        results = self._run(func, args, kwargs, self._number)
        with _real():
            values = [0] * len(outputs) if results is None else [0 if t.is_complex() else t.item() for t in _tensors(results)]
        for output, value in zip(outputs, values, strict=True):
            self._set_uniform(output, value)

    @staticmethod
    def _run(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], values: Callable[[torch.Tensor], torch.Tensor]) -> Any:
        """The results on the CPU for the given `values` of tensors; `None` where the operator refuses them (for example an index
        into an empty tensor)."""

        def real(value: Any) -> Any:
            if isinstance(value, torch.Tensor):
                return values(value)
            return torch.device("cpu") if isinstance(value, torch.device) else value

        with _real():
            try:
                results = func(*tree_map(real, args), **tree_map(real, kwargs))
            except (RuntimeError, IndexError):
                return None
            if func.overloadpacket.__name__.startswith(("empty", "new_empty")):
                results.zero_()  # uninitialized memory would differ between runs
            return results

    def _choose(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: list[FakeTensor]) -> None:
        """Indices for a choice, spread evenly over its candidates."""
        chosen = next((output for output in outputs if output.dtype == torch.int64), None)
        if chosen is not None and chosen.numel() <= _LARGEST:
            with _real():
                elements = _spread(tuple(args[0].shape), tuple(chosen.shape), _argument(func, args, kwargs, "dim"))
            self._store(chosen, elements, True)

    # Operators whose results, or whose results' sizes, are data -----------------------------------------------------------

    def _by_value(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The results computed from the operands' values, all of which must be known."""
        operands = _tensors(args, kwargs)
        results = None
        elements_by_id = {id(t): of.elements for t in operands if (of := self._known_values_of(t)) is not None}
        if all(id(t) in elements_by_id for t in operands):
            results = self._run(func, args, kwargs, lambda tensor: elements_by_id[id(tensor)])
        if results is None:
            raise CaptureError(f"the result of {func} depends on values that only data would give")
        from_data = any(self._from_data(t) for t in operands)
        self._chosen += from_data
        like = next(t for t in operands if isinstance(t, FakeTensor))

        def fake(value: Any) -> Any:
            if not isinstance(value, torch.Tensor):
                return value
            return self._store(like.new_empty(value.shape, dtype=value.dtype), value, from_data)

        return tree_map(fake, results)

    def _item(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Read one number; a condition on unknown data is evaluated for zeros."""
        known_values = self._known_values_of(args[0])
        if known_values is not None:
            self._chosen += known_values.from_data
            with _real():
                return known_values.elements.item()
        if args[0].dtype == torch.bool:
            self._conditions += 1
            if self._conditions > _MOST_CONDITIONS:
                raise CaptureError(f"a loop does not end: {_MOST_CONDITIONS} conditions were read that only data would give")
            return bool(self._uniform.get(args[0], False))
        raise CaptureError("a number is read that only data would give")

    def _nonzero(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
        """(count, rank) indices of the elements where a condition holds; all elements if the condition is unknown."""
        mask = args[0]
        known_values = self._known_values_of(mask)
        indices = None
        with _real():
            if known_values is not None:
                indices = torch.nonzero(known_values.elements)
            elif mask.numel() * mask.dim() <= _LARGEST_SELECTION:
                indices = torch.nonzero(torch.ones((), dtype=torch.bool).expand(mask.shape))
        self._unfiltered += known_values is None
        self._chosen += known_values is not None and known_values.from_data
        fake = mask.new_empty((mask.numel() if indices is None else indices.shape[0], mask.dim()), dtype=torch.int64)
        return fake if indices is None else self._store(fake, indices, known_values is None or known_values.from_data)

    def _nonzero_columns(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[torch.Tensor]:
        """`nonzero` as one list of indices per dimension."""
        indices = self._nonzero(func, args, kwargs)
        known_values = self._known_values_of(indices)
        columns = [indices.new_empty((indices.shape[0],)) for _ in range(indices.shape[1])]
        if known_values is not None:
            for i, column in enumerate(columns):
                with _real():
                    elements = known_values.elements[:, i]
                self._store(column, elements, known_values.from_data)
        return columns

    def _index(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Indexing by a condition, replaced by indexing with the indices where it holds."""
        indices: list[Any] = []
        for index in args[1]:
            condition = isinstance(index, torch.Tensor) and index.dtype in (torch.bool, torch.uint8)
            indices += self._nonzero_columns(func, (index,), {}) if condition else [index]
        args = (args[0], indices, *args[2:])
        result = func(*args, **kwargs)
        self._follow(func, args, kwargs, result)
        return result

    def _grouped_product(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
        """A grouped product in any type. torch computes its shape for bfloat16 only; other types have the same shape."""

        def half(value: Any) -> Any:
            floating = isinstance(value, torch.Tensor) and value.is_floating_point()
            return value.to(torch.bfloat16) if floating else value

        shape = func(*tree_map(half, args), **{name: value for name, value in kwargs.items() if name != "out_dtype"}).shape
        return args[0].new_empty(shape, dtype=kwargs.get("out_dtype") or args[0].dtype)

    def _suppress(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
        """Non-maximum suppression that keeps every box, in order."""
        self._suppressed += 1
        with _real():
            everything = torch.arange(args[0].shape[0])
        return self._store(args[0].new_empty((args[0].shape[0],), dtype=torch.int64), everything, True)


_Rule = Callable[[StandIns, Any, tuple[Any, ...], dict[str, Any]], Any]
_RULES: Mapping[str, _Rule] = {
    "aten::_local_scalar_dense": StandIns._item,
    "aten::nonzero": StandIns._nonzero,
    "aten::nonzero_numpy": StandIns._nonzero_columns,
    "aten::index.Tensor": StandIns._index,
    "aten::_grouped_mm": StandIns._grouped_product,
    "torchvision::nms": StandIns._suppress,
    "torchvision::qnms": StandIns._suppress,
}
"""Operators with special rules, by the name in their schema."""


def _tensors(*values: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor)]


def _argument(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], name: str) -> Any:
    """The value of a call's argument by its schema name, or the argument's default."""
    for i, argument in enumerate(func._schema.arguments):
        if argument.name == name:
            return args[i] if i < len(args) else kwargs.get(name, argument.default_value)
    return None


def _spread(source: tuple[int, ...], chosen: tuple[int, ...], dim: int | None) -> torch.Tensor:
    """Indices, of the shape `chosen`, into dimension `dim` of a tensor of the shape `source` (into all of it for `None`): evenly
    spaced, and distinct along the dimension."""
    count = math.prod(chosen)
    if dim is None or not source:
        return torch.zeros(chosen, dtype=torch.int64)
    size = max(source[dim], 1)
    flat = torch.arange(count) * max(1, size // max(count, 1)) % size
    if len(chosen) < len(source):
        return flat.reshape(chosen)
    other_extents = [extent for i, extent in enumerate(chosen) if i != dim % len(chosen)]
    return flat.reshape(*other_extents, chosen[dim]).movedim(-1, dim)
