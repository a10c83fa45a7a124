"""A model from the user's code: "package.module:factory" -> a `DNNModule`."""

from __future__ import annotations

import copy
import importlib
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from shmoo.estimators.errors import InputError, unknown
from shmoo.harness.module import STORAGE_DTYPES, Built, DNNModule, Maker, dim, exported_program
from shmoo.harness.workloads.zoo import import_torchvision

_FORM = "return a model, (model, (x, mask)) with its inputs, or (model, (x,), {'mask': mask}) with inputs by name"


def load_factory(spec: str, input_shape: Sequence[int] | None = None) -> DNNModule:
    """The model of "package.module:factory": a function or a class that makes it, or the model itself.

    A factory returns a model alone, which needs `input_shape`, or a tuple or list of the model, its inputs (a tuple or list, or
    one tensor) and inputs by name (a dictionary; it may be the second element). A parameter `batch` and every one with a whole
    number as its default is an axis. `InputError` where the module or the function is not found, or its inputs are not known.
    """
    factory = _import_factory(spec)
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError) as error:
        raise InputError(f"{spec!r} does not say what it takes ({error}); wrap it in a function that returns a model") from None
    numbers = {p.name: p.default for p in parameters if type(p.default) is int}
    arguments = numbers | ({"batch": numbers.get("batch", 1)} if any(p.name == "batch" for p in parameters) else {})
    batch, other_sizes = split_shape(input_shape) if input_shape is not None else (arguments.get("batch", 1), ())

    def build(make: Maker, **axes: Any) -> Built:
        from shmoo.harness.capture.fx.guard import absent_devices_on_cpu

        with _user_code(f"{spec!r} failed"), absent_devices_on_cpu(), make.building():
            returned = _with_torchvision(lambda: factory(**{name: axes[name] for name in arguments}))
        model, args, kwargs = _parts(returned, spec)
        if isinstance(model, make.torch.nn.Module):
            _refuse_packed(model, spec)
            own_dtype = next((tensor.dtype for tensor in model.parameters() if _convertible(tensor)), make.torch_dtype)
            model = _in_evaluation(place_model(model, make))
        else:
            own_dtype = make.torch_dtype
        if input_shape is not None:
            x = make.tensor(axes["batch"], *other_sizes)
            return Built(model, (x.to(own_dtype) if make.own_types else x,))
        if args is None:
            raise InputError(f"{spec!r} returned a model without inputs; give --input-shape, or {_FORM}")
        return Built(model, *place_inputs((args, kwargs), make))

    sizes = {**arguments, "batch": batch} if "batch" in arguments or input_shape is not None else arguments
    meanings = {name: "inputs at once" if name == "batch" else f"parameter {name!r} of the factory" for name in sizes}
    axes = tuple(dim(name, size, meanings[name], low=1 if name == "batch" else min(size, 1)) for name, size in sizes.items())
    return DNNModule(spec, "network", axes, build)


def _parts(returned: Any, spec: str) -> tuple[Any, tuple[Any, ...] | None, dict[str, Any]]:
    """A factory's result as model, inputs (`None` without inputs) and inputs by name. An exported program brings its inputs."""
    parts = list(returned) if isinstance(returned, (tuple, list)) else [returned]
    if parts and (program := exported_program(parts[0])) is not None:
        parts = [program.module(), *(parts[1:] or program.example_inputs or ())]
    model, *inputs = parts or [None]
    if not callable(model):
        raise InputError(f"{spec!r} returned {_described(returned)}; {_FORM}")
    if not inputs:
        return model, None, {}
    kwargs = inputs.pop() if isinstance(inputs[-1], Mapping) else {}
    args = inputs[0] if inputs else ()
    tensor = hasattr(args, "dtype") and hasattr(args, "shape")
    if len(inputs) > 1 or not (tensor or isinstance(args, (tuple, list))) or any(not isinstance(name, str) for name in kwargs):
        raise InputError(f"{spec!r} returned {_described(returned)}; {_FORM}")
    return model, (args,) if tensor else tuple(args), dict(kwargs)


def _in_evaluation(model: Any) -> Any:
    """The module in evaluation mode; that of an exported program unchanged, because the export fixed its mode."""
    try:
        return model.eval()
    except NotImplementedError:
        return model


def _described(returned: Any) -> str:
    if not isinstance(returned, (tuple, list)):
        return type(returned).__name__
    return f"({', '.join(type(part).__name__ for part in returned)})"


def _refuse_packed(model: Any, spec: str) -> None:
    """`InputError` where a model stores weights in a form whose sizes cannot be read, or whose work depends on data."""
    import torch

    for path, module in model.named_modules():
        place = f"{path or 'the model'!r} of {spec!r}"
        if isinstance(module, torch.jit.ScriptModule):
            raise InputError(
                f"{place} is a TorchScript module, which holds no Python to capture; give the model it was made from"
            )
        if any(isinstance(value, torch.ScriptObject) for value in (*vars(module).values(), *module._buffers.values())):
            raise InputError(
                f"{place} ({type(module).__name__}) holds weights packed for one library, whose sizes cannot be read; give the "
                "model before its quantization, with --quantize int8-dynamic"
            )
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        refuse_layout(name, tensor)


def refuse_layout(name: str, tensor: Any) -> None:
    """`InputError` for a sparse or nested tensor, whose work depends on its values, and for a quantized one, whose operators have
    no shape functions."""
    import torch

    if tensor.is_quantized:
        raise InputError(
            f"{name!r} is a quantized tensor ({str(tensor.dtype).removeprefix('torch.')}), whose operators cannot be captured; "
            "give the model before its quantization, with --quantize or --dtype int8"
        )
    if tensor.layout != torch.strided or tensor.is_nested:
        kind = "nested" if tensor.is_nested else str(tensor.layout).removeprefix("torch.")
        raise InputError(
            f"{name!r} is a tensor of layout {kind}, whose work depends on its values and is not counted; give a dense model, "
            "whose estimate is an upper limit"
        )


def _import_factory(spec: str) -> Callable[..., Any]:
    """The function, also from the current directory, as `python -m` does."""
    place, _, attribute = spec.partition(":")
    if place.endswith(".py"):
        raise InputError(f"{place!r} is the path of a file; {as_module(place, attribute)}")
    current = str(Path.cwd())
    if current not in sys.path:
        sys.path.insert(0, current)
    with _user_code(f"cannot import {place!r} of {spec!r}", "give package.module:factory"):
        module = _with_torchvision(lambda: importlib.import_module(place))
    factory = getattr(module, attribute, None)
    if factory is None:
        functions = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        raise unknown(f"factory in {place!r}", attribute, functions)
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(factory, torch.nn.Module):
        model = factory
        return lambda: copy.deepcopy(model)
    if not callable(factory):
        raise InputError(f"{spec!r} is of type {type(factory).__name__}, not a function that returns a model, or a model")
    return factory


def as_module(path: str, attribute: str = "factory") -> str:
    """Advice to name a factory in a file as a module: of the current directory, or of the file's own."""
    file = Path(path).with_suffix("")
    if file.is_absolute() or ".." in file.parts:
        return f"in {str(file.parent)!r}, write its name as a module: {file.name}:{attribute}"
    return f"write its name as a module: {'.'.join(file.parts)}:{attribute}"


def _with_torchvision(action: Callable[[], Any]) -> Any:
    """The result of `action`. If it fails because torchvision's compiled library does not load, it runs again with only the
    signatures of torchvision's operators."""
    try:
        return action()
    except Exception as error:
        chain: BaseException | None = error
        while chain is not None and "torchvision::" not in str(chain):
            chain = chain.__cause__ or chain.__context__
        if chain is None:
            raise
    import_torchvision()
    return action()


@contextmanager
def _user_code(action: str, remedy: str = "") -> Iterator[None]:
    """While active, any exception of the user's code, including `sys.exit`, becomes an `InputError` with its location."""
    try:
        yield
    except (InputError, KeyboardInterrupt):
        raise
    except BaseException as error:
        message = f"{action}: {type(error).__name__}: {error}"
        # Frames of this package and of the import machinery do not help the author of the code.
        frames = [
            f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith((_PACKAGE, importlib.__file__))
        ]
        user_frames = [f for f in frames if "site-packages" not in f.filename] or frames
        if frame := next((f for f in reversed(user_frames) if not f.filename.startswith("<frozen")), None):
            message += f" ({Path(frame.filename).name}:{frame.lineno})"
        raise InputError(f"{message}; {remedy}" if remedy else message) from error


_PACKAGE = str(Path(__file__).parents[1])


def split_shape(shape: Sequence[int]) -> tuple[int, tuple[int, ...]]:
    """The first size of an input, which is its batch, and the others; `InputError` without a size, or for one below 1."""
    if not shape or any(size < 1 for size in shape):
        raise InputError(f"an input shape is one or more positive sizes, batch first, such as 1x3x224x224; got {list(shape)}")
    return shape[0], tuple(shape[1:])


def _convertible(tensor: Any) -> bool:
    """Whether a requested type replaces the tensor's type: for floating-point tensors, except 8-bit ones."""
    return str(tensor.dtype).removeprefix("torch.") in STORAGE_DTYPES


def _converted(tensor: Any, make: Maker) -> Any:
    dtype = make.torch_dtype if _convertible(tensor) and not make.own_types else tensor.dtype
    return tensor.to(device=make.device, dtype=dtype)


def place_model(model: Any, make: Maker) -> Any:
    """The module on the maker's device, its floating-point weights in the dtype if one was requested; shared weights stay
    shared."""
    names: dict[int, list[str]] = {}
    for name, tensor in (*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)):
        names.setdefault(id(tensor), []).append(name)
    model._apply(lambda tensor: _converted(tensor, make))
    for first, *other_paths in names.values():
        for path, _, name in (other_path.rpartition(".") for other_path in other_paths):
            home, _, first_name = first.rpartition(".")
            setattr(model.get_submodule(path), name, getattr(model.get_submodule(home), first_name))
    return model


def place_inputs(inputs: Any, make: Maker) -> Any:
    """Inputs with all tensors, also those inside objects, on the maker's device and converted as `place_model` does."""
    from torch.utils._pytree import tree_map

    from shmoo.harness.capture.fx.introspect import holds_tensors, tensors_in, with_tensors

    def place(leaf: Any) -> Any:
        if isinstance(leaf, make.torch.Tensor):
            refuse_layout("an input", leaf)
            return _converted(leaf, make)
        if not holds_tensors(leaf):
            return leaf
        return with_tensors(leaf, {id(tensor): _converted(tensor, make) for tensor in tensors_in(leaf)})

    return tree_map(place, inputs)
