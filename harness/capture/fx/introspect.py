"""One FX node -> one normalized `OpCall`: names from the operator's schema, shapes and dtypes from the node's own metadata."""

from __future__ import annotations

import copy
import math
import operator
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import fx
from torch.fx.traceback import get_current_meta
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from shmoo.estimators.errors import InputError
from shmoo.estimators.graph.dtypes import ALIASES
from shmoo.estimators.graph.records import CHANNELS_LAST, Attribute, OpCall, TensorSpec

OWN_NAMESPACE = "shmoo"
"""Namespace of operators that combine several ATen operators; the operator keeps ATen's name where one exists."""
_TORCH = str(Path(torch.__file__).parent) + os.sep
_PLUMBING = tuple(_TORCH + name for name in ("_ops.py", "_library", "_export", "overrides.py", "fx/experimental"))
"""Files of torch between a call and the mode that records it."""
_CAPTURE = str(Path(__file__).parents[1]) + os.sep
_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+)')
_ROOT = re.compile(r"^[LG]\['[^']*'\]\.?")
_SUBSCRIPT = re.compile(r"(?:\._modules)?\[['\"]?(?P<key>[^\]'\"]*)['\"]?\]")
_PLAIN = (str, bytes, bool, int, float, complex, type, torch.nn.Module, torch.dtype, torch.device)

_CONVOLUTIONS = ("aten.conv2d", "aten.convolution", "aten._convolution", "aten.cudnn_convolution")
"""Operators whose library has special kernels for channels-last images."""

Number = Callable[[Any], Any]
"""Converts a size or number of an FX graph, which may be symbolic, into a plain one."""


class CaptureError(InputError):
    """A model cannot be captured; the message says why each capture method failed."""


def first_line(problem: object) -> str:
    """The first non-empty line of an error, or its type."""
    return next((line.strip() for line in str(problem).splitlines() if line.strip()), type(problem).__name__)


class OperatorIntrospector:
    """Reads FX nodes whose `meta["val"]` holds their results, as tracing with fake tensors leaves it. `number` gives symbolic
    sizes and numbers their value; by default the one they had in the example."""

    def __init__(self, number: Number | None = None) -> None:
        self.number = number or hint

    def introspect(self, node: fx.Node) -> OpCall:
        """The node's call, with `reads` and `writes` left empty.

        Example: a node of `torch.ops.aten.relu_.default` becomes `op="aten.relu", inplace=True, operands=("self",)`.
        """
        operands = self.operands(node)
        op, inplace = operator_name(node.target)
        attributes = self.attributes(node)
        if op in _CONVOLUTIONS and any(_channels_last(tensor_of(operand)) for _, operand in operands[:2]):
            attributes["memory_format"] = CHANNELS_LAST
        return OpCall(
            op=op,
            inputs=tuple(self.spec(tensor_of(operand)) for _, operand in operands),
            outputs=tuple(self.spec(tensor) for tensor in self.results(node)),
            operands=tuple(name for name, _ in operands),
            attributes=attributes,
            overload=getattr(node.target, "_overloadname", "") or "default",
            inplace=inplace,
            module=module_path(node),
            source=source_line(node),
        )

    def spec(self, tensor: torch.Tensor) -> TensorSpec:
        """Shape and dtype of a real, meta or fake tensor; `CaptureError` where it is sparse or nested."""
        if tensor.layout not in (torch.strided, torch._mkldnn):
            raise CaptureError(
                f"a tensor has the layout {str(tensor.layout).removeprefix('torch.')}: its work depends on its values and is not "
                "counted; give a dense model, whose estimate is an upper limit"
            )
        return TensorSpec(tuple(self.number(size) for size in tensor.shape), dtype_name(tensor.dtype))

    def operands(self, node: fx.Node) -> list[tuple[str, fx.Node]]:
        """Tensor operands with their schema names, in schema order; elements of a list are "tensors.0", "tensors.1"."""
        arguments = (flat_argument for name, value, _ in _bound(node) for flat_argument in _flatten(name, value))
        return [(name, value) for name, value in arguments if is_tensor_node(value)]

    def results(self, node: fx.Node) -> list[torch.Tensor]:
        """Tensors the node returns, flattened, in order."""
        return [value for value in tree_leaves(node.meta.get("val")) if isinstance(value, torch.Tensor)]

    def attributes(self, node: fx.Node) -> dict[str, Attribute]:
        """Non-tensor arguments by schema name, defaults filled in."""
        plain = ((name, _plain(value, self.number), tensor_typed) for name, value, tensor_typed in _bound(node))
        return {name: value for name, value, tensor_typed in plain if value is not _SKIP and not (tensor_typed and value is None)}

    def written_operands(self, node: fx.Node) -> list[fx.Node]:
        """Operands that the call writes into, according to its schema."""
        schema = getattr(node.target, "_schema", None)
        if schema is None or not schema.is_mutable:
            return []
        writes = {argument.name for argument in schema.arguments if argument.is_write}
        return [value for name, value in self.operands(node) if name.split(".")[0] in writes]


def _channels_last(tensor: torch.Tensor) -> bool:
    """Whether an image or a convolution weight is stored channels-last. The library treats either as a request for both."""
    numbers = all(type(number) is int for number in (*tensor.shape, *tensor.stride()))
    return numbers and tensor.dim() == 4 and torch._prims_common.suggest_memory_format(tensor) == torch.channels_last


def operator_name(target: Any) -> tuple[str, bool]:
    """("aten.relu", True) for `torch.ops.aten.relu_.default`: namespace and name without overload, and whether it works in
    place."""
    schema = getattr(target, "_schema", None)
    if schema is None:
        if isinstance(target, torch._ops.HigherOrderOperator):
            return f"{target.namespace}.{target.name()}", False
        return f"{getattr(target, '__module__', None) or 'python'}.{getattr(target, '__name__', target)}", False
    namespace, _, name = schema.name.partition("::")
    namespace = "aten" if namespace == OWN_NAMESPACE and hasattr(torch.ops.aten, name) else namespace
    inplace = bool(schema.arguments) and schema.arguments[0].is_write
    if inplace and name.endswith("_") and not name.endswith("__"):
        name = name[:-1]
    return f"{namespace}.{name}", inplace


def dtype_name(dtype: torch.dtype) -> str:
    """The vocabulary's name of a torch dtype: "float32"."""
    torch_name = str(dtype).removeprefix("torch.")
    return ALIASES.get(torch_name, torch_name)


def hint(value: Any) -> Any:
    """A plain number, or the example value of a symbolic one, read without adding a guard. `CaptureError` where the number
    depends on data and has no example value."""
    if not isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool)):
        return value
    example = value.node.hint
    if example is None:
        raise CaptureError(f"the size {value} depends on data; give the model a branch-free path, or capture it on the CPU")
    return value.node.pytype(example)


def tensor_of(node: fx.Node) -> torch.Tensor:
    """The result of a tensor node."""
    return node.meta["val"]


def is_tensor_node(value: Any) -> bool:
    """True for a node whose value is one tensor."""
    return isinstance(value, fx.Node) and isinstance(value.meta.get("val"), torch.Tensor)


def module_path(node: fx.Node) -> str:
    """Path of the module the node came from, as `named_modules` writes it: "layer1.0.conv1"; "" for none."""
    # A call of the backward pass carries the stack of its forward call.
    stack = node.meta.get("nn_module_stack") or node.meta.get("fwd_nn_module_stack")
    if not stack:
        return ""
    path = next(reversed(stack.values()))[0]
    return _SUBSCRIPT.sub(r".\g<key>", _ROOT.sub("", path)).strip(".")


def source_line(node: fx.Node) -> str:
    """The innermost line outside torch, relative to its import root: "torchvision/models/resnet.py:93"; "" for none."""
    frames = _FRAME.findall(node.meta.get("stack_trace") or "")
    if not frames:
        return ""
    file, line = next((frame for frame in reversed(frames) if not frame[0].startswith(_TORCH)), frames[-1])
    return f"{relative_path(file)}:{line}"


@cache
def relative_path(file: str) -> str:
    """`file` relative to the longest import root above it, otherwise its bare name: never an absolute path."""
    path = Path(file)
    roots = sorted({root for root in sys.path if root}, key=len, reverse=True)
    return next((path.relative_to(root).as_posix() for root in roots if path.is_relative_to(root)), path.name)


def model_frame() -> str:
    """The innermost caller frame outside torch, formatted as in a stack trace; a frame of torch if there is no other."""
    frame: FrameType | None = sys._getframe(2)
    innermost: FrameType | None = None
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(_CAPTURE):
            # Either a recorder below the model's code, or the caller of the capture above the model.
            if innermost is not None and not frame.f_code.co_name.startswith("__torch_"):
                break
        elif not file.startswith((_TORCH, "<")):
            innermost = frame
            break
        elif innermost is None and not file.startswith(("<", *_PLUMBING)):
            innermost = frame
        frame = frame.f_back
    return "" if innermost is None else f'File "{innermost.f_code.co_filename}", line {innermost.f_lineno}'


def calling_module(paths: Mapping[int, str]) -> str:
    """The path of the innermost module among the callers, "" for none.

    Args:
        paths: id of a module -> its path.
    """
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        path = paths.get(id(frame.f_locals.get("self")))
        if path is not None:
            return path
        frame = frame.f_back
    return ""


class RecordLines(TorchFunctionMode):
    """While active, every traced node records the line of the model's own code that it comes from.

    Attributes:
        transformed: whether a call on numbers ran inside a functional transform such as `torch.vmap`; attention masks, which
            torch builds that way, do not count.
    """

    transformed = False

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        # torch compiles this method together with bodies of branches, loops and attention. Most other calls only query a shape.
        if not torch.compiler.is_dynamo_compiling() and getattr(func, "__name__", "") != "__get__":
            get_current_meta()["stack_trace"] = model_frame()
            if torch._C._functorch.peek_interpreter_stack() is not None:
                tensors = (value for value in tree_leaves(args) if isinstance(value, torch.Tensor))
                self.transformed |= any(tensor.is_floating_point() or tensor.is_complex() for tensor in tensors)
        return func(*args, **(kwargs or {}))


@contextmanager
def module_paths(model: Any, entered: Callable[[str], object]) -> Iterator[None]:
    """While active, `entered` is called with the path of the running module whenever it changes."""
    names = {id(module): path for path, module in model.named_modules()} if isinstance(model, torch.nn.Module) else {}
    stack = [""]

    def enter(module: torch.nn.Module, _: Any) -> None:
        stack.append(names.get(id(module), stack[-1]))
        entered(stack[-1])

    def leave(module: torch.nn.Module, _: Any, result: Any) -> None:
        stack.pop()
        entered(stack[-1])

    handles = [register_module_forward_pre_hook(enter), register_module_forward_hook(leave, always_call=True)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def result_nodes(node: fx.Node, result: Any) -> Iterator[tuple[torch.Tensor, fx.Node]]:
    """The tensors that a recorded call returned, each with its node: the call's node, or a new node that selects one of several
    results."""
    if isinstance(result, torch.Tensor):
        yield result, node
    elif isinstance(result, (list, tuple)):
        for i, element in enumerate(result):
            if isinstance(element, torch.Tensor):
                item = node.graph.call_function(operator.getitem, (node, i))
                item.meta["val"] = node.meta["val"][i]
                yield element, item


def _bound(node: fx.Node) -> list[tuple[str, Any, bool]]:
    """(schema name, value, whether the schema declares a tensor) of every argument; names are positions without a schema."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        positional = {f"arg{i}": value for i, value in enumerate(node.args)}
        return [(name, value, False) for name, value in (*positional.items(), *node.kwargs.items())]
    arguments = {**node.kwargs, **dict(zip((argument.name for argument in schema.arguments), node.args, strict=False))}
    return [(a.name, arguments.get(a.name, a.default_value), "Tensor" in str(a.type)) for a in schema.arguments]


def _flatten(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The elements of nested sequences and mappings, in order, named by their position: "tensors.0"."""
    if isinstance(value, (list, tuple, dict)):
        for key, element in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _flatten(f"{name}.{key}", element)
    else:
        yield name, value


_SKIP = object()
"""Marks an argument that is not an attribute: a tensor, a device, a graph."""


def _plain(value: Any, number: Number) -> Any:
    """`value` in a form that JSON supports, or `_SKIP`. Infinities and NaN become strings."""
    if isinstance(value, fx.Node):
        result = value.meta.get("val")
        return _SKIP if result is None or isinstance(result, torch.Tensor) else _plain(result, number)
    if isinstance(value, (list, tuple)):
        elements = [_plain(element, number) for element in value]
        return _SKIP if any(element is _SKIP for element in elements) else elements
    value = number(value)
    if value is None or isinstance(value, (bool, int, str)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if isinstance(value, torch.dtype):
        return dtype_name(value)
    if isinstance(value, (float, complex, torch.layout, torch.memory_format)):
        return str(value).removeprefix("torch.")
    return _SKIP


def tensors_in(value: Any) -> list[torch.Tensor]:
    """The tensors of a value, in order and each once, also those inside objects."""
    return list(_tensors(value, set()))


def _tensors(value: Any, visited: set[int]) -> Iterator[torch.Tensor]:
    if value is None or isinstance(value, _PLAIN) or id(value) in visited:
        return
    visited.add(id(value))
    if isinstance(value, torch.Tensor):
        yield value
        return
    if isinstance(value, Mapping):
        parts: Any = value.values()
    elif isinstance(value, (list, tuple, set)):
        parts = value
    else:
        slots = (name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ()))
        parts = [*getattr(value, "__dict__", {}).values(), *(getattr(value, name, None) for name in slots)]
    for part in parts:
        yield from _tensors(part, visited)


def holds_tensors(leaf: Any) -> bool:
    """Whether a leaf of a pytree is an object with tensors inside."""
    return not isinstance(leaf, torch.Tensor) and bool(tensors_in(leaf))


def with_tensors(value: Any, replaced: Mapping[int, torch.Tensor]) -> Any:
    """A copy of an object with its tensors replaced; `replaced` gives the new tensor by the `id` of the old."""
    return copy.deepcopy(value, dict(replaced))
