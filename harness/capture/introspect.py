"""One FX node -> one normalised `OpCall`: names from the operator's schema, shapes and dtypes from the node's own metadata."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import fx

from shmoo.estimators.dtypes import ALIASES
from shmoo.estimators.records import Attribute, OpCall, Scalar, TensorSpec
from shmoo.harness.capture.errors import CaptureError
from shmoo.harness.capture.lines import TORCH

_NAMED = (torch.dtype, torch.layout, torch.memory_format)
_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+)')
_ROOT = re.compile(r"^[LG]\['[^']*'\]\.?")
_SUBSCRIPT = re.compile(r"(?:\._modules)?\[['\"]?(?P<key>[^\]'\"]*)['\"]?\]")


Number = Callable[[Any], Any]
"""What turns a size or a number of an FX graph, which may be symbolic, into a plain one."""


class OperatorIntrospector:
    """Reads FX nodes whose `meta["val"]` holds what they return, as tracing with fake tensors leaves it.

    Args:
        number: gives symbolic sizes and numbers their value; by default the one they had in the example.
    """

    def __init__(self, number: Number | None = None) -> None:
        self._number = number or hint

    def introspect(self, node: fx.Node) -> OpCall:
        """The node's call, with `reads` and `writes` left empty.

        Example: a node of `torch.ops.aten.relu_.default` becomes `op="aten.relu", inplace=True, operands=("self",)`.
        """
        operands = self.operands(node)
        op, inplace = operator_name(node.target)
        module, source = module_path(node), source_line(node)
        return OpCall(
            op=op,
            inputs=tuple(self.spec(tensor_of(node)) for _, node in operands),
            outputs=tuple(self.spec(tensor) for tensor in self.results(node)),
            operands=tuple(name for name, _ in operands),
            attributes=self.attributes(node),
            overload=getattr(node.target, "_overloadname", "") or "default",
            inplace=inplace,
            module=module,
            source=source,
        )

    def spec(self, tensor: torch.Tensor) -> TensorSpec:
        """Shape and dtype of a real, meta or fake tensor."""
        return TensorSpec(tuple(self._number(size) for size in tensor.shape), dtype_name(tensor.dtype))

    def operands(self, node: fx.Node) -> list[tuple[str, fx.Node]]:
        """Tensor operands with their schema names, in schema order; elements of a list are "tensors.0", "tensors.1"."""
        return [(name, value) for name, value in _flatten(_bound(node)) if is_tensor_node(value)]

    def results(self, node: fx.Node) -> list[torch.Tensor]:
        """Tensors the node returns, flattened, in order."""
        return [value for value in leaves(node.meta.get("val")) if isinstance(value, torch.Tensor)]

    def attributes(self, node: fx.Node) -> dict[str, Attribute]:
        """Non-tensor arguments by schema name, defaults filled in."""
        found: dict[str, Attribute] = {}
        for name, value, tensor_typed in _bound(node):
            plain = _plain(value, self._number)
            if plain is _SKIP or (tensor_typed and plain is None):
                continue
            found[name] = plain
        return found

    def written(self, node: fx.Node) -> list[fx.Node]:
        """Operands whose memory the call writes into, by its schema."""
        schema = getattr(node.target, "_schema", None)
        if schema is None or not schema.is_mutable:
            return []
        writes = {argument.name for argument in schema.arguments if argument.is_write}
        return [value for name, value in self.operands(node) if name.split(".")[0] in writes]


def operator_name(target: Any) -> tuple[str, bool]:
    """("aten.relu", True) for `torch.ops.aten.relu_.default`: namespace and name without overload, and whether it is in place."""
    schema = getattr(target, "_schema", None)
    if schema is None:
        if isinstance(target, torch._ops.HigherOrderOperator):
            return f"{target.namespace}.{target.name()}", False
        return f"{getattr(target, '__module__', None) or 'python'}.{getattr(target, '__name__', target)}", False
    namespace, _, name = schema.name.partition("::")
    inplace = bool(schema.arguments) and schema.arguments[0].is_write
    if inplace and name.endswith("_") and not name.endswith("__"):
        name = name[:-1]
    return f"{namespace}.{name}", inplace


def dtype_name(dtype: torch.dtype) -> str:
    """The vocabulary's name of a torch dtype: "float32"."""
    short = str(dtype).removeprefix("torch.")
    return ALIASES.get(short, short)


def hint(value: Any) -> Any:
    """The number itself, or the value a symbolic one had in the example; asking leaves no guard behind.

    Raises:
        CaptureError: the number depends on data, so that the example has none.
    """
    if not isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool)):
        return value
    known = value.node.hint
    if known is None:
        raise CaptureError(f"the size {value} depends on data; give the model a branch-free path, or capture it on the CPU")
    return value.node.pytype(known)


def tensor_of(node: fx.Node) -> torch.Tensor:
    """What a tensor node returns."""
    return node.meta["val"]


def is_tensor_node(value: Any) -> bool:
    return isinstance(value, fx.Node) and isinstance(value.meta.get("val"), torch.Tensor)


def module_path(node: fx.Node) -> str:
    """Path of the module the node came from, as `named_modules` writes it: "layer1.0.conv1"; "" for none."""
    # A call of a backward pass carries the stack of the forward call it belongs to.
    stack = node.meta.get("nn_module_stack") or node.meta.get("fwd_nn_module_stack")
    if not stack:
        return ""
    path = next(reversed(stack.values()))[0]
    return _SUBSCRIPT.sub(r".\g<key>", _ROOT.sub("", path)).strip(".")


def source_line(node: fx.Node) -> str:
    """ "torchvision/models/resnet.py:93" of the innermost line outside torch, relative to its import root; "" for none."""
    frames = _FRAME.findall(node.meta.get("stack_trace") or "")
    if not frames:
        return ""
    file, line = next((frame for frame in reversed(frames) if not frame[0].startswith(TORCH)), frames[-1])
    return f"{relative_path(file)}:{line}"


@cache
def relative_path(file: str) -> str:
    """`file` below the longest import root that holds it, otherwise its bare name: never an absolute path."""
    path = Path(file)
    roots = sorted({root for root in sys.path if root}, key=len, reverse=True)
    for root in roots:
        if path.is_relative_to(root):
            return path.relative_to(root).as_posix()
    return path.name


def _bound(node: fx.Node) -> list[tuple[str, Any, bool]]:
    """(schema name, value, whether a tensor is meant) of every argument; positions name what has no schema."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        names = [f"arg{i}" for i in range(len(node.args))]
        return [(name, value, False) for name, value in zip(names, node.args, strict=True)] + [
            (name, value, False) for name, value in node.kwargs.items()
        ]
    bound = []
    for i, argument in enumerate(schema.arguments):
        if i < len(node.args):
            value = node.args[i]
        elif argument.name in node.kwargs:
            value = node.kwargs[argument.name]
        else:
            value = argument.default_value if argument.has_default_value() else None
        bound.append((argument.name, value, "Tensor" in str(argument.type)))
    return bound


def _flatten(bound: Sequence[tuple[str, Any, bool]]) -> Iterator[tuple[str, Any]]:
    for name, value, _ in bound:
        if isinstance(value, (list, tuple)):
            yield from _flatten([(f"{name}.{i}", element, False) for i, element in enumerate(value)])
        elif isinstance(value, dict):
            yield from _flatten([(f"{name}.{key}", element, False) for key, element in value.items()])
        else:
            yield name, value


def leaves(value: Any) -> Iterator[Any]:
    """The elements of nested sequences and mappings, in order."""
    if isinstance(value, (list, tuple)):
        for element in value:
            yield from leaves(element)
    elif isinstance(value, dict):
        for element in value.values():
            yield from leaves(element)
    else:
        yield value


_SKIP = object()
"""What `_plain` returns for something that is no attribute: a tensor, a device, a graph."""


def _plain(value: Any, number: Number) -> Any:
    """`value` as JSON can hold it, or `_SKIP`. Infinities and NaN, which JSON lacks, become strings."""
    if isinstance(value, fx.Node):
        held = value.meta.get("val")
        return _SKIP if held is None or isinstance(held, torch.Tensor) else _plain(held, number)
    if isinstance(value, (list, tuple)):
        elements = [_plain(element, number) for element in value]
        return _SKIP if any(element is _SKIP for element in elements) else elements
    return _plain_scalar(number(value))


def _plain_scalar(value: Any) -> Scalar | object:
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, torch.dtype):
        return dtype_name(value)
    if isinstance(value, _NAMED):
        return str(value).removeprefix("torch.")
    if isinstance(value, complex):
        return str(value)
    return _SKIP
