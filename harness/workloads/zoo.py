"""torchvision's networks by name, with random weights and the input each declares. Nothing is downloaded.

The declared input is that of the first pretrained weights a network has: their crop size (or the size images are resized to, for
segmentation), so that published figures, which hold for it, can be compared.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, NamedTuple

from shmoo.estimators.errors import InputError, unknown
from shmoo.harness.workloads.module import Built, DNNModule, Maker, dim
from shmoo.harness.workloads.torchvision_ops import import_torchvision

FAMILIES = ("classification", "segmentation", "video", "optical_flow")
"""Kinds of networks that are served. Detection needs torchvision's compiled operators, quantised networks an engine."""
BATCH = dim("batch", 1, "images or clips at once")

_BUILT_FOR_A_SIZE: Mapping[str, Callable[[int], dict[str, Any]]] = {
    "torchvision.models.vision_transformer": lambda resolution: {"image_size": resolution},
    "torchvision.models.maxvit": lambda resolution: {"input_size": (resolution, resolution)},
}
"""Networks whose weights depend on the resolution, by the module of their builder: what the builder is told about it."""
_BY_FAMILY: Mapping[str, dict[str, Any]] = {"segmentation": {"weights_backbone": None}}
"""Arguments without which a builder would download the weights of a part."""
_BY_MODULE: Mapping[str, dict[str, Any]] = {
    "torchvision.models.googlenet": {"init_weights": False},
    "torchvision.models.inception": {"init_weights": False},
}
"""Arguments without which a builder draws every weight from a truncated normal distribution, which takes minutes."""
_FLOW_SIZE = (520, 960)
"""Height and width for which torchvision publishes the operations of its optical-flow networks."""
_CLIP_FRAMES = 16
"""Length of the clips that torchvision's video networks were trained on (the default of its reference scripts)."""


class _Declared(NamedTuple):
    """What the first weights of a network say about it."""

    resolution: int | tuple[int, ...] | None
    frames: int
    gmacs: float | None


def zoo_names() -> tuple[str, ...]:
    """Every network that can be built, sorted."""
    return tuple(sorted(_families()))


@cache
def _families() -> dict[str, str]:
    """Network -> the kind it is of."""
    models = import_torchvision().models
    modules = {"classification": models, **{name: getattr(models, name) for name in FAMILIES[1:]}}
    return {name: family for family, module in modules.items() for name in models.list_models(module=module)}


def find_network(name: str) -> DNNModule:
    """The network of that name, with axes "batch", "resolution" (height and width) and, for video, "frames".

    Raises:
        InputError: there is none; the nearest names are given.
    """
    family = _families().get(name)
    if family is None:
        raise unknown("network", name, _families())
    declared = _declared(name)
    if family == "optical_flow":
        height, width = _FLOW_SIZE
        axes = (
            BATCH,
            dim("height", height, "height of both images", low=128),
            dim("width", width, "width of both images", low=128),
        )
        return DNNModule(name, "network", axes, lambda make, *, batch, height, width: _flow(name, make, batch, height, width))
    if declared.resolution is None:
        raise InputError(f"network {name!r} declares no input size; build it from a factory and give --input-shape")
    size = declared.resolution if isinstance(declared.resolution, int) else declared.resolution[0]
    resolution = dim("resolution", size, "height and width of the input")
    if family == "video":
        frames = dim("frames", declared.frames, "images in a clip")
        return DNNModule(
            name,
            "network",
            (BATCH, resolution, frames),
            lambda make, *, batch, resolution, frames: _image(name, make, resolution, (batch, 3, frames, resolution, resolution)),
        )
    return DNNModule(
        name,
        "network",
        (BATCH, resolution),
        lambda make, *, batch, resolution: _image(name, make, resolution, (batch, 3, resolution, resolution)),
    )


def published_gmacs(name: str) -> float | None:
    """Giga multiply-adds that torchvision publishes for the declared input (`weights.meta["_ops"]`), `None` where it does not.

    Raises:
        InputError: there is no such network.
    """
    if name not in _families():
        raise unknown("network", name, _families())
    return _declared(name).gmacs


@cache
def _declared(name: str) -> _Declared:
    models = import_torchvision().models
    weights = next(iter(models.get_model_weights(name)), None)
    if weights is None:
        return _Declared(None, 1, None)
    presets = getattr(weights.transforms, "keywords", {})
    resolution = presets.get("crop_size", presets.get("resize_size"))
    frames = max(weights.meta.get("min_temporal_size", 1), _CLIP_FRAMES)
    return _Declared(resolution, frames, weights.meta.get("_ops"))


def _image(name: str, make: Maker, resolution: int, shape: tuple[int, ...]) -> Built:
    return Built(_network(name, make, resolution), (make.tensor(*shape),))


def _flow(name: str, make: Maker, batch: int, height: int, width: int) -> Built:
    shape = (batch, 3, height, width)
    return Built(_network(name, make, None), (make.tensor(*shape), make.tensor(*shape)))


def _network(name: str, make: Maker, resolution: int | None) -> Any:
    models = import_torchvision().models
    module = models.get_model_builder(name).__module__
    arguments = {**_BY_FAMILY.get(_families()[name], {}), **_BY_MODULE.get(module, {})}
    if resolution is not None and module in _BUILT_FOR_A_SIZE:
        arguments |= _BUILT_FOR_A_SIZE[module](resolution)
    return make.module(lambda: models.get_model(name, weights=None, **arguments))
