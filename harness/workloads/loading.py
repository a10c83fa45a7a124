"""Any model a user can name -> a `DNNModule`: a registered or torchvision name, a factory, an exported program, a config."""

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
from shmoo.harness.workloads.catalog import find_workload
from shmoo.harness.workloads.configs import load_config
from shmoo.harness.workloads.module import Built, DNNModule, Maker, dim

HF_PREFIX = "hf:"


def resolve_model(
    text: str, *, input_shape: Sequence[int] | None = None, seq_len: int | None = None, trust: bool = False
) -> DNNModule:
    """The workload that `text` names.

    Args:
        text: a registered or torchvision name, "package.module:factory" (runs that code), "file.pt2" or "hf:config.json".
        input_shape: shape of the one input, its batch first; replaces the declared input.
        seq_len: tokens in a text model's input; replaces the default of its axis "seq_len".
        trust: allow what runs code when it is loaded (a .pt2 file).

    Raises:
        InputError: the name is unknown (the nearest are suggested), or what it names cannot be loaded or lacks something.
    """
    if is_factory(text):
        return _with_seq_len(load_factory(text, input_shape), seq_len)
    if text.startswith(HF_PREFIX):
        found = load_config(text.removeprefix(HF_PREFIX))
    elif text.endswith(".pt2"):
        found = load_program(text, trust=trust)
    else:
        found = find_workload(text)
    if input_shape is not None:
        found = with_input_shape(found, input_shape)
    return _with_seq_len(found, seq_len)


def is_factory(text: str) -> bool:
    """Whether `text` names a function of the user's, which `resolve_model` runs."""
    return ":" in text and not text.startswith(HF_PREFIX) and not text.endswith(".pt2")


def with_input_shape(module: DNNModule, shape: Sequence[int]) -> DNNModule:
    """The workload with one input of another shape; its axis "batch" is the first of `shape` unless told otherwise.

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

    axes = [msgspec.structs.replace(axis, default=batch) if axis.name == "batch" else axis for axis in module.axes]
    axes = [axis for axis in axes if axis.name not in fixed]
    return DNNModule(module.name, module.kind, tuple(axes), factory, module.meaning)


def load_factory(spec: str, input_shape: Sequence[int] | None = None) -> DNNModule:
    """A model from the user's own code: "package.module:factory", a function that returns a model, or (model, args) or
    (model, args, kwargs). A model alone needs `input_shape`. A parameter `batch` and every one with a whole number as
    its default is an axis.

    Raises:
        InputError: the module or the function is not found, or no input is known.
    """
    place, _, attribute = spec.partition(":")
    factory = _import_attribute(place, attribute, spec)
    parameters = inspect.signature(factory).parameters.values()
    numbers = {p.name: p.default for p in parameters if type(p.default) is int}
    taken = numbers | ({"batch": numbers.get("batch", 1)} if any(p.name == "batch" for p in parameters) else {})
    batch, rest = _split_shape(input_shape) if input_shape is not None else (taken.get("batch", 1), ())

    def build(make: Maker, **axes: Any) -> Built:
        import torch

        with _users_code(f"{spec!r} failed"), make.building():
            made = factory(**{name: axes[name] for name in taken})
        model, args, kwargs = (
            made if isinstance(made, tuple) and len(made) == 3 else (*made, {}) if isinstance(made, tuple) else (made, None, {})
        )
        if not callable(model):
            raise InputError(f"{spec!r} returned {type(model).__name__}; return a model, (model, args) or (model, args, kwargs)")
        if isinstance(model, torch.nn.Module):
            model = model.to(device=make.device, dtype=make.torch_dtype).eval()
        if input_shape is not None:
            return Built(model, (make.tensor(axes["batch"], *rest),))
        if args is None:
            raise InputError(f"{spec!r} returned a model without inputs; give --input-shape, or return (model, args)")
        return Built(model, *_cast((tuple(args), dict(kwargs)), make))

    sizes = {**taken, "batch": batch} if "batch" in taken or input_shape is not None else taken
    meanings = {name: "inputs at once" if name == "batch" else f"parameter {name!r} of the factory" for name in sizes}
    axes = tuple(dim(name, size, meanings[name], low=min(size, 1)) for name, size in sizes.items())
    return DNNModule(spec, "network", axes, build)


def load_program(path: str, *, trust: bool) -> DNNModule:
    """A program that torch.export saved, with the inputs it was exported with.

    Raises:
        InputError: not trusted, not there, or not such a file.
    """
    if not trust:
        raise InputError(f"loading {path!r} can run code that is stored in it; add --trust if you know where it comes from")
    if not Path(path).is_file():
        raise InputError(f"no exported program at {path!r}; give the path of a file that torch.export.save wrote")

    def build(make: Maker) -> Built:
        import torch

        try:
            program = torch.export.load(path)
        except Exception as error:
            raise InputError(f"cannot load {path!r} as an exported program: {error}") from error
        if program.example_inputs is None:
            raise InputError(f"{path!r} holds no example inputs; export it again with torch.export.export and save that")
        args, kwargs = program.example_inputs
        model = program.module().to(device=make.device, dtype=make.torch_dtype)
        return Built(model, *_cast((tuple(args), dict(kwargs)), make))

    return DNNModule(Path(path).stem, "network", (), build)


def _with_seq_len(module: DNNModule, seq_len: int | None) -> DNNModule:
    if seq_len is None:
        return module
    names = [axis.name for axis in module.axes]
    if "seq_len" not in names:
        raise InputError(f"{module.name!r} has no axis 'seq_len'; its axes are {', '.join(names) or 'none'}")
    axes = tuple(msgspec.structs.replace(axis, default=seq_len) if axis.name == "seq_len" else axis for axis in module.axes)
    return msgspec.structs.replace(module, axes=axes)


def _split_shape(shape: Sequence[int]) -> tuple[int, tuple[int, ...]]:
    if not shape or any(size < 1 for size in shape):
        raise InputError(f"an input shape is one or more positive sizes, batch first, such as 1x3x224x224; got {list(shape)}")
    return shape[0], tuple(shape[1:])


def _import_attribute(place: str, attribute: str, spec: str) -> Callable[..., Any]:
    """The function, looked for in the current directory as well, as `python -m` does."""
    added = str(Path.cwd())
    if added not in sys.path:
        sys.path.insert(0, added)
    with _users_code(f"cannot import {place!r} of {spec!r}", "give package.module:factory"):
        module = importlib.import_module(place)
    found = getattr(module, attribute, None)
    if found is None:
        functions = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        raise unknown(f"factory in {place!r}", attribute, functions)
    if not callable(found):
        raise InputError(f"{spec!r} is of type {type(found).__name__}, not a function that returns a model")
    return found


@contextmanager
def _users_code(doing: str, remedy: str = "") -> Iterator[None]:
    """Whatever code of the user's raises, `sys.exit` included, as an `InputError` that says where."""
    try:
        yield
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        told = f"{type(error).__name__}: {error}"
        # Neither our own frames nor those of the import machinery say anything to whoever wrote the code.
        frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename not in (__file__, importlib.__file__)]
        if place := next((f for f in reversed(frames) if not f.filename.startswith("<frozen")), None):
            told += f" ({Path(place.filename).name}:{place.lineno})"
        raise InputError("; ".join(filter(None, (f"{doing}: {told}", remedy)))) from error


def _cast(values: Any, make: Maker) -> Any:
    """The tensors in `values` on the device, floating-point ones of the dtype."""
    import torch
    from torch.utils._pytree import tree_map_only

    def move(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(device=make.device, dtype=make.torch_dtype if tensor.is_floating_point() else tensor.dtype)

    return tree_map_only(torch.Tensor, move, values)
