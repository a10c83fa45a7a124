"""Stand-ins for data: what a model's Python and its data-dependent operators see while it runs on fake tensors.

Where a size or a branch depends on data, a capture without data needs rules. These hold:

- What follows from shapes and constants alone (positions, anchors, masks, class numbers) is computed.
- Contractions, normalisations and random draws give zeros; pointwise operators, views and copies of these are followed.
- What is compared with a threshold passes: `<`, `<=`, `>` and `>=` of floating-point data hold, so that every candidate is kept
  until the model's own limits (top-k, detections an image) cut.
- Choices by data (top-k, arg max, sorting) are spread evenly: a router sends every expert its share of the tokens.
- Non-maximum suppression suppresses nothing.

A number that only data would give cannot be read, and a selection by it is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.weak import WeakIdKeyDictionary

from shmoo.harness.capture.errors import CaptureError

_LARGEST = 1_500_000
"""Elements of the largest tensor whose values are computed; a larger one counts as zeros."""
_LARGEST_SELECTION = 1 << 25
"""Elements of the largest list of selected places: a detector's candidates are every class of every anchor."""
_MOST_CONDITIONS = 1024
"""Conditions on data that a model may ask for: of more, a loop waits for an answer that never changes."""
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
"""Operators that do a network's arithmetic, whose values decide no size: zeros."""
_NOT_FOLLOWED = frozenset(_ARITHMETIC.split())
_COPIES = frozenset({"clone", "_to_copy", "expand_copy", "repeat"})
"""Operators, beside views, whose results hold the elements of their operand."""


class _Held(NamedTuple):
    """What stands for a tensor: its elements on the CPU, and whether they rest on data."""

    elements: torch.Tensor
    from_data: bool


@contextmanager
def _real() -> Iterator[None]:
    """Compute on real tensors, unseen by whatever traces."""
    with torch.no_grad(), torch._C.DisableTorchFunction(), torch._C._DisablePythonDispatcher(), _disable_current_modes():
        yield


class StandIns(TorchDispatchMode):
    """While active, fake tensors stand for values as the module's rules say.

    A tensor stands for its elements where `_held` knows them, otherwise for one number everywhere: `_uniform`, or 0.
    """

    def __init__(self) -> None:
        super().__init__()
        self._held = WeakIdKeyDictionary()
        self._uniform = WeakIdKeyDictionary()
        self._kept = self._chosen = self._suppressed = self._conditions = 0

    @property
    def notes(self) -> tuple[str, ...]:
        """What was assumed of data, for the reader of the numbers; empty where no size depended on them."""
        said = (
            (self._kept, "selections by a threshold keep every candidate"),
            (self._suppressed, "non-maximum suppressions keep every box"),
            (self._chosen, "sizes follow from choices by data (top-k, arg max) that are spread evenly"),
        )
        return tuple(f"{count} {what}" for count, what in said if count)

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        if not any(isinstance(t, FakeTensor) for t in _tensors(args, kwargs)) and torch.Tag.data_dependent_output in func.tags:
            return func(*args, **kwargs)
        rule = _RULES.get(func.name())
        if rule is not None:
            return rule(self, func, args, kwargs)
        if torch.Tag.data_dependent_output in func.tags or torch.Tag.dynamic_output_shape in func.tags:
            return self._by_value(func, args, kwargs)
        result = func(*args, **kwargs)
        self._follow(func, args, kwargs, result)
        return result

    # What is known of a tensor ------------------------------------------------------------------------------------------

    def _known(self, tensor: torch.Tensor) -> _Held | None:
        """Its elements where they are known; a tensor with memory of its own has them."""
        if isinstance(tensor, FakeTensor):
            return self._held.get(tensor)
        return None if tensor.is_meta else _Held(tensor, False)

    def _from_data(self, tensor: torch.Tensor) -> bool:
        held = self._known(tensor)
        return held is None or held.from_data

    def _elements(self, tensor: torch.Tensor, own: bool) -> torch.Tensor:
        """What stands for the tensor, `own` in memory that can be written to."""
        held = self._known(tensor)
        if held is not None:
            return held.elements
        filled = torch.full((), self._uniform.get(tensor, 0), dtype=tensor.dtype).expand(tensor.shape)
        return filled.clone() if own else filled

    def _hold(self, tensor: torch.Tensor, elements: torch.Tensor, from_data: bool) -> torch.Tensor:
        self._held[tensor] = _Held(elements, from_data)
        return tensor

    def _set_uniform(self, tensor: torch.Tensor, number: Any) -> None:
        """`number` is 0 for a value that is not followed; infinities are not."""
        if tensor.dtype.is_complex or not math.isfinite(number):
            number = 0
        whole = not tensor.dtype.is_floating_point
        number = bool(number) if tensor.dtype == torch.bool else int(number) if whole else float(number)
        if number:
            self._uniform[tensor] = number
        else:
            self._uniform.pop(tensor, None)

    # Following operators ------------------------------------------------------------------------------------------------

    def _follow(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        """Note what the results of a call stand for."""
        outputs = [leaf for leaf in tree_leaves(result) if isinstance(leaf, FakeTensor)]
        operands = _tensors(args, kwargs)
        name = func.overloadpacket.__name__
        if not outputs or torch.Tag.nondeterministic_seeded in func.tags:
            return
        if name in _COMPARISONS and any(t.is_floating_point() and self._from_data(t) for t in operands):
            self._set_uniform(outputs[0], True)
        elif not operands or any(self._known(t) is not None for t in operands):
            self._compute(func, args, kwargs, outputs)
        elif func.name() in _CHOICES:
            self._choose(func, args, kwargs, outputs)
        elif torch.Tag.pointwise in func.tags:
            self._compute_uniform(func, args, kwargs, outputs)
        elif func.is_view or name in _COPIES:
            for output in outputs:
                self._set_uniform(output, self._uniform.get(operands[0], 0))

    def _compute(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: list[FakeTensor]) -> None:
        """Run the operator on what its operands stand for, some of which are known."""
        operands = _tensors(args, kwargs)
        mutable = func._schema.is_mutable
        sizes = [t.numel() for t in (*outputs, *(t for t in operands if self._known(t) is None))]
        followed = max(sizes) <= _LARGEST and func.overloadpacket.__name__ not in _NOT_FOLLOWED
        results = self._run(func, args, kwargs, own=mutable) if followed else None
        if results is None:
            for output in outputs if mutable else ():
                self._held.pop(output, None)
            return
        from_data = any(self._from_data(t) for t in operands)
        for output, elements in zip(outputs, _tensors(results), strict=True):
            self._hold(output, elements, from_data)

    def _run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], own: bool = False) -> Any:
        """The results on the CPU; `None` where the operator refuses the stand-ins (an index of 0 into nothing, say)."""

        def real(value: Any) -> Any:
            if isinstance(value, torch.Tensor):
                return self._elements(value, own)
            return torch.device("cpu") if isinstance(value, torch.device) else value

        with _real():
            try:
                results = func(*tree_map(real, args), **tree_map(real, kwargs))
            except (RuntimeError, IndexError):
                return None
            if func.overloadpacket.__name__.startswith(("empty", "new_empty")):
                results.zero_()  # memory as it is found would not be the same twice
            return results

    def _compute_uniform(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: list[FakeTensor]) -> None:
        """Where every operand of a pointwise operator is one number everywhere, so is the result."""

        def single(value: Any) -> Any:
            if isinstance(value, torch.Tensor):
                return torch.full((), self._uniform.get(value, 0), dtype=value.dtype)
            return torch.device("cpu") if isinstance(value, torch.device) else value

        with _real():
            try:
                results = _tensors(func(*tree_map(single, args), **tree_map(single, kwargs)))
            except (RuntimeError, IndexError):
                results = [torch.zeros(()) for _ in outputs]
            for output, value in zip(outputs, results, strict=True):
                self._set_uniform(output, 0 if value.is_complex() else value.item())

    def _choose(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: list[FakeTensor]) -> None:
        """Indices that a choice gives, spread evenly over what it chooses from."""
        chosen = next((output for output in outputs if output.dtype == torch.int64), None)
        if chosen is not None and chosen.numel() <= _LARGEST:
            with _real():
                elements = _spread(tuple(args[0].shape), tuple(chosen.shape), _argument(func, args, kwargs, "dim"))
            self._hold(chosen, elements, True)

    # Operators whose results, or whose results' sizes, are data -----------------------------------------------------------

    def _by_value(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The results as they follow from the stand-ins, all of which must be known."""
        operands = _tensors(args, kwargs)
        known = all(self._known(t) is not None for t in operands)
        results = self._run(func, args, kwargs) if known else None
        if results is None:
            raise CaptureError(f"the result of {func} depends on values that only data would give")
        from_data = any(self._from_data(t) for t in operands)
        self._chosen += from_data
        like = next(t for t in operands if isinstance(t, FakeTensor))

        def fake(value: Any) -> Any:
            if not isinstance(value, torch.Tensor):
                return value
            return self._hold(like.new_empty(value.shape, dtype=value.dtype), value, from_data)

        return tree_map(fake, results)

    def _item(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """One number. Of what only data would give a condition can be asked, which is what zeros make of it."""
        held = self._known(args[0])
        if held is not None:
            self._chosen += held.from_data
            with _real():
                return held.elements.item()
        if args[0].dtype == torch.bool:
            self._conditions += 1
            if self._conditions > _MOST_CONDITIONS:
                raise CaptureError(f"a loop does not end: {_MOST_CONDITIONS} conditions were asked for that only data would give")
            return bool(self._uniform.get(args[0], False))
        raise CaptureError("a number is read that only data would give")

    def _places(self, mask: torch.Tensor) -> torch.Tensor:
        """(count, rank) indices of where a condition holds: everywhere, where that is not known."""
        held = self._known(mask)
        found = None
        with _real():
            if held is not None:
                found = torch.nonzero(held.elements)
            elif mask.numel() * mask.dim() <= _LARGEST_SELECTION:
                found = torch.nonzero(torch.ones((), dtype=torch.bool).expand(mask.shape))
        self._kept += held is None
        self._chosen += held is not None and held.from_data
        fake = mask.new_empty((mask.numel() if found is None else found.shape[0], mask.dim()), dtype=torch.int64)
        return fake if found is None else self._hold(fake, found, held is None or held.from_data)

    def _nonzero(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
        return self._places(args[0])

    def _columns(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[torch.Tensor]:
        """`nonzero` as one list of indices a dimension."""
        places = self._places(args[0])
        held = self._known(places)
        columns = [places.new_empty((places.shape[0],)) for _ in range(places.shape[1])]
        for i, column in enumerate(columns if held is not None else ()):
            with _real():
                elements = held.elements[:, i]
            self._hold(column, elements, held.from_data)
        return columns

    def _index(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Indexing, with a condition replaced by the places where it holds."""
        indices: list[Any] = []
        for index in args[1]:
            condition = isinstance(index, torch.Tensor) and index.dtype in (torch.bool, torch.uint8)
            indices += self._columns(func, (index,), {}) if condition else [index]
        args = (args[0], indices, *args[2:])
        result = func(*args, **kwargs)
        self._follow(func, args, kwargs, result)
        return result

    def _grouped_product(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
        """The shape that torch works out for bfloat16, the only type it does so for, holds for the types that kernels take."""

        def half(value: Any) -> Any:
            floating = isinstance(value, torch.Tensor) and value.is_floating_point()
            return value.to(torch.bfloat16) if floating else value

        asked = kwargs.get("out_dtype") or args[0].dtype
        shape = func(*tree_map(half, args), **{name: value for name, value in kwargs.items() if name != "out_dtype"}).shape
        return args[0].new_empty(shape, dtype=asked)

    def _suppress(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
        """Every box is kept, in order."""
        self._suppressed += 1
        with _real():
            everything = torch.arange(args[0].shape[0])
        return self._hold(args[0].new_empty((args[0].shape[0],), dtype=torch.int64), everything, True)


_Rule = Callable[[StandIns, Any, tuple[Any, ...], dict[str, Any]], Any]
_RULES: Mapping[str, _Rule] = {
    "aten::_local_scalar_dense": StandIns._item,
    "aten::nonzero": StandIns._nonzero,
    "aten::nonzero_numpy": StandIns._columns,
    "aten::index.Tensor": StandIns._index,
    "aten::_grouped_mm": StandIns._grouped_product,
    "torchvision::nms": StandIns._suppress,
    "torchvision::qnms": StandIns._suppress,
}
"""Operators with a rule of their own, by the name in their schema."""


def _tensors(*values: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor)]


def _argument(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], name: str) -> Any:
    """What a call passes for an argument of the schema, or the argument's default."""
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
    rest = [extent for i, extent in enumerate(chosen) if i != dim % len(chosen)]
    return flat.reshape(*rest, chosen[dim]).movedim(-1, dim)
