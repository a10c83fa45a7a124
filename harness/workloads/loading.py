"""The name of a model -> a `DNNModule`: a registered workload, a network, a factory, an exported program or a config."""

from __future__ import annotations

import importlib
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from shmoo.estimators.errors import InputError, unknown
from shmoo.harness.module import WORKLOADS, Built, DNNModule, Maker, dim
from shmoo.harness.workloads import operators, synthetic
from shmoo.harness.workloads.configs import config_models, find_config_model, load_config
from shmoo.harness.workloads.zoo import DIFFUSION, find_network, quantized_names, zoo_names

REGISTERED_BY = (operators, synthetic)
"""The modules whose import fills `WORKLOADS`."""
HF_PREFIX = "hf:"


def find_workload(name: str) -> DNNModule:
    """The operator, synthetic model or network of that name.

    Only networks of torchvision and transformers import torch, to look up their declared input.

    Raises:
        InputError: there is none; the nearest names are suggested.
    """
    if name in WORKLOADS:
        return WORKLOADS[name]
    if name in DIFFUSION:
        return DIFFUSION[name]
    if name in config_models():
        return find_config_model(name)
    names = zoo_names()
    if name in names or name in quantized_names():
        return find_network(name)
    raise unknown("workload or model", name, {*WORKLOADS, *DIFFUSION, *config_models(), *names})


def resolve_model(
    text: str, *, input_shape: Sequence[int] | None = None, seq_len: int | None = None, trust: bool = False
) -> DNNModule:
    """The workload that `text` names.

    Args:
        text: a registered or torchvision name, "package.module:factory" (runs that code), "file.pt2" or "hf:config.json".
        input_shape: shape of the one input, its batch first; replaces the declared input.
        seq_len: tokens in a text model's input; replaces the default of its axis "seq_len".
        trust: allow files that can run code when loaded (.pt2).

    Raises:
        InputError: the name is unknown (the nearest are suggested), or the model cannot be loaded or lacks an input or axis.
    """
    if is_factory(text):
        module = load_factory(text, input_shape)
    elif text.startswith(HF_PREFIX):
        module = load_config(text.removeprefix(HF_PREFIX))
    elif text.endswith(".pt2"):
        module = load_program(text, trust=trust)
    else:
        module = find_workload(text)
    if input_shape is not None and not is_factory(text):
        module = with_input_shape(module, input_shape)
    return module if seq_len is None else with_default(module, "seq_len", seq_len)


def named_file(text: str) -> str | None:
    """The path of the file that `text` names, a config or an exported program; `None` where it names none."""
    if text.startswith(HF_PREFIX):
        return text.removeprefix(HF_PREFIX)
    return text if text.endswith(".pt2") else None


def is_factory(text: str) -> bool:
    """Whether `text` names a function in the user's code, which `resolve_model` runs."""
    return ":" in text and not text.startswith(HF_PREFIX) and not text.endswith(".pt2")


def with_input_shape(module: DNNModule, shape: Sequence[int]) -> DNNModule:
    """The workload with one input of another shape; the first size of `shape` is the default of its axis "batch".

    Raises:
        InputError: the shape does not fit, or the workload takes several inputs (when built).
    """
    batch, rest = _split_shape(shape)
    names = [axis.name for axis in module.axes]
    if "batch" not in names:
        raise InputError(
            f"{module.name!r} has no axis 'batch', so its input cannot be replaced; its axes are {', '.join(names) or 'none'}"
        )
    if "resolution" in names and len(rest) < 2:
        raise InputError(f"{module.name!r} takes images: --input-shape is such as 1x3x224x224, got {'x'.join(map(str, shape))}")
    fixed = {"resolution": rest[-1]} if "resolution" in names else {}

    def factory(make: Maker, **axes: Any) -> Built:
        built = module.factory(make, **{**axes, **fixed})
        if len(built.args) != 1 or built.kwargs:
            raise InputError(
                f"{module.name!r} takes {len(built.args) + len(built.kwargs)} inputs; --input-shape replaces a single one"
            )
        return Built(built.model, (make.tensor(axes["batch"], *rest),))

    axes = tuple(axis for axis in with_default(module, "batch", batch).axes if axis.name not in fixed)
    return DNNModule(module.name, module.kind, axes, factory)


def load_factory(spec: str, input_shape: Sequence[int] | None = None) -> DNNModule:
    """A model from the user's own code: "package.module:factory", a function that returns a model, (model, args) or
    (model, args, kwargs). A model alone needs `input_shape`. A parameter `batch` and every one with a whole number as
    its default is an axis.

    Raises:
        InputError: the module or the function is not found, or its inputs are not known.
    """
    factory = _import_factory(spec)
    parameters = inspect.signature(factory).parameters.values()
    numbers = {p.name: p.default for p in parameters if type(p.default) is int}
    arguments = numbers | ({"batch": numbers.get("batch", 1)} if any(p.name == "batch" for p in parameters) else {})
    batch, rest = _split_shape(input_shape) if input_shape is not None else (arguments.get("batch", 1), ())

    def build(make: Maker, **axes: Any) -> Built:
        with _user_code(f"{spec!r} failed"), make.building():
            returned = factory(**{name: axes[name] for name in arguments})
        model, args, kwargs = returned, None, {}
        if isinstance(returned, tuple):
            model, args, kwargs = returned if len(returned) == 3 else (*returned, {})
        if not callable(model):
            raise InputError(f"{spec!r} returned {type(model).__name__}; return a model, (model, args) or (model, args, kwargs)")
        if isinstance(model, make.torch.nn.Module):
            model = model.to(device=make.device, dtype=make.torch_dtype).eval()
        if input_shape is not None:
            return Built(model, (make.tensor(axes["batch"], *rest),))
        if args is None:
            raise InputError(f"{spec!r} returned a model without inputs; give --input-shape, or return (model, args)")
        return Built(model, *_cast((tuple(args), dict(kwargs)), make))

    sizes = {**arguments, "batch": batch} if "batch" in arguments or input_shape is not None else arguments
    meanings = {name: "inputs at once" if name == "batch" else f"parameter {name!r} of the factory" for name in sizes}
    axes = tuple(dim(name, size, meanings[name], low=min(size, 1)) for name, size in sizes.items())
    return DNNModule(spec, "network", axes, build)


def load_program(path: str, *, trust: bool) -> DNNModule:
    """A program that torch.export saved, with the inputs it was exported with.

    Raises:
        InputError: the file is not trusted, not there, or no exported program.
    """
    if not trust:
        raise InputError(f"loading {path!r} can run code stored in it; add --trust if you know where it comes from")
    if not Path(path).is_file():
        raise InputError(f"no exported program at {path!r}; give the path of a file that torch.export.save wrote")

    def build(make: Maker) -> Built:
        try:
            program = make.torch.export.load(path)
        except Exception as error:
            raise InputError(f"cannot load {path!r} as an exported program: {error}") from error
        if program.example_inputs is None:
            raise InputError(f"{path!r} contains no example inputs; export it again with torch.export.export and save that")
        args, kwargs = program.example_inputs
        model = program.module().to(device=make.device, dtype=make.torch_dtype)
        return Built(model, *_cast((tuple(args), dict(kwargs)), make))

    return DNNModule(Path(path).stem, "network", (), build)


def with_default(module: DNNModule, name: str, default: int) -> DNNModule:
    """The workload with another default of one axis."""
    names = [axis.name for axis in module.axes]
    if name not in names:
        raise InputError(f"{module.name!r} has no axis {name!r}; its axes are {', '.join(names) or 'none'}")
    axes = tuple(msgspec.structs.replace(axis, default=default) if axis.name == name else axis for axis in module.axes)
    return msgspec.structs.replace(module, axes=axes)


def _split_shape(shape: Sequence[int]) -> tuple[int, tuple[int, ...]]:
    if not shape or any(size < 1 for size in shape):
        raise InputError(f"an input shape is one or more positive sizes, batch first, such as 1x3x224x224; got {list(shape)}")
    return shape[0], tuple(shape[1:])


def _import_factory(spec: str) -> Callable[..., Any]:
    """The function, also from the current directory, as `python -m` does."""
    place, _, attribute = spec.partition(":")
    current = str(Path.cwd())
    if current not in sys.path:
        sys.path.insert(0, current)
    with _user_code(f"cannot import {place!r} of {spec!r}", "give package.module:factory"):
        module = importlib.import_module(place)
    factory = getattr(module, attribute, None)
    if factory is None:
        functions = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        raise unknown(f"factory in {place!r}", attribute, functions)
    if not callable(factory):
        raise InputError(f"{spec!r} is of type {type(factory).__name__}, not a function that returns a model")
    return factory


@contextmanager
def _user_code(action: str, remedy: str = "") -> Iterator[None]:
    """While active, anything that the user's code raises, `sys.exit` included, becomes an `InputError` that says where."""
    try:
        yield
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        message = f"{action}: {type(error).__name__}: {error}"
        # Frames of this module and of the import machinery do not help the author of the code.
        frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename not in (__file__, importlib.__file__)]
        if frame := next((f for f in reversed(frames) if not f.filename.startswith("<frozen")), None):
            message += f" ({Path(frame.filename).name}:{frame.lineno})"
        raise InputError(f"{message}; {remedy}" if remedy else message) from error


def _cast(values: Any, make: Maker) -> Any:
    """`values` with all tensors moved to the device and floating-point ones converted to the dtype."""
    from torch.utils._pytree import tree_map_only

    def move(tensor: Any) -> Any:
        return tensor.to(device=make.device, dtype=make.torch_dtype if tensor.is_floating_point() else tensor.dtype)

    return tree_map_only(make.torch.Tensor, move, values)
