"""The name of a model -> a `DNNModule`: a registered workload, a network, a factory, an exported program or a config."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from shmoo.estimators.errors import InputError, unknown
from shmoo.harness.module import WORKLOADS, Built, DNNModule, Maker
from shmoo.harness.workloads import operators, synthetic
from shmoo.harness.workloads.configs import config_models, config_workload, load_config
from shmoo.harness.workloads.factory import as_module, load_factory, place_inputs, place_model, split_shape
from shmoo.harness.workloads.zoo import DIFFUSION, find_network, quantized_names, zoo_names

REGISTERED_BY = (operators, synthetic)
"""Modules that register workloads in `WORKLOADS` on import."""
HF_PREFIX = "hf:"
INPUT_SHAPE = "input_shape"
"""Axis of a measured case whose input was replaced: the shape as text, its batch first."""


def find_workload(name: str) -> DNNModule:
    """The operator, synthetic model or network of that name; `InputError` suggests the nearest where there is none. Only networks
    of torchvision and transformers import torch, to look up their declared input."""
    if name in WORKLOADS:
        return WORKLOADS[name]
    if name in DIFFUSION:
        return DIFFUSION[name]
    if (model := config_models().get(name)) is not None:
        return config_workload(name, model.config, defaults=model.axes)
    if name in zoo_names():
        return find_network(name)
    if name in quantized_names():
        raise InputError(
            f"{name!r} runs on packed int8 weights, whose operators cannot be captured without data; "
            f"estimate {name.removeprefix('quantized_')!r} in int8 in its place"
        )
    if name.endswith(".py"):
        raise InputError(f"{name!r} is the path of a file; {as_module(name)}, with the function that returns the model")
    raise unknown("workload or model", name, {*WORKLOADS, *DIFFUSION, *config_models(), *zoo_names()})


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
        InputError: the name is unknown (with the nearest names), or the model cannot be loaded or lacks an input or axis.
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
    """The path of the file that `text` names (a config or an exported program), or `None`."""
    if text.startswith(HF_PREFIX):
        return text.removeprefix(HF_PREFIX)
    return text if text.endswith(".pt2") else None


def is_factory(text: str) -> bool:
    """Whether `text` names a function in the user's code, which `resolve_model` runs."""
    return ":" in text and not text.startswith(HF_PREFIX) and not text.endswith(".pt2")


def with_input_shape(module: DNNModule, shape: Sequence[int]) -> DNNModule:
    """The workload with one input of another shape; the first size of `shape` is the default of its axis "batch". `InputError`
    where the shape does not fit, or the workload takes several inputs (when built)."""
    batch, other_sizes = split_shape(shape)
    names = [axis.name for axis in module.axes]
    if "batch" not in names:
        raise InputError(
            f"{module.name!r} has no axis 'batch', so its input cannot be replaced; its axes are {', '.join(names) or 'none'}"
        )
    if "resolution" in names and len(other_sizes) < 2:
        raise InputError(f"{module.name!r} takes images: --input-shape is such as 1x3x224x224, got {'x'.join(map(str, shape))}")
    fixed = {"resolution": other_sizes[-1]} if "resolution" in names else {}

    def factory(make: Maker, **axes: Any) -> Built:
        built = module.factory(make, **{**axes, **fixed})
        if len(built.args) != 1 or built.kwargs:
            raise InputError(
                f"{module.name!r} takes {len(built.args) + len(built.kwargs)} inputs; --input-shape replaces a single one"
            )
        return Built(built.model, (make.tensor(axes["batch"], *other_sizes),))

    axes = tuple(axis for axis in with_default(module, "batch", batch).axes if axis.name not in fixed)
    return msgspec.structs.replace(module, axes=axes, factory=factory)


def load_program(path: str, *, trust: bool) -> DNNModule:
    """A program saved by torch.export, with its example inputs; `InputError` where the file is not trusted, missing, or not an
    exported program."""
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
        return Built(place_model(program.module(), make), *place_inputs((tuple(args), dict(kwargs)), make))

    return DNNModule(Path(path).stem, "network", (), build)


def with_default(module: DNNModule, name: str, default: int) -> DNNModule:
    """The workload with another default of one axis."""
    names = [axis.name for axis in module.axes]
    if name not in names:
        raise InputError(f"{module.name!r} has no axis {name!r}; its axes are {', '.join(names) or 'none'}")
    axes = tuple(msgspec.structs.replace(axis, default=default) if axis.name == name else axis for axis in module.axes)
    return msgspec.structs.replace(module, axes=axes)
