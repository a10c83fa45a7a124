"""torchvision's networks by name, with random weights and the input each declares. Nothing is downloaded.

The declared input is that of the first pretrained weights a network has: their crop size (or the size images are resized to, for
segmentation), so that published figures, which hold for it, can be compared. Detectors take photographs and resize them
themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple

from shmoo.estimators.errors import InputError, unknown
from shmoo.harness.workloads.module import Axis, Built, DNNModule, Maker, dim
from shmoo.harness.workloads.torchvision_ops import import_torchvision

FAMILIES = ("classification", "segmentation", "video", "optical_flow", "detection")
"""Kinds of networks that are served."""
BATCH = dim("batch", 1, "images or clips at once")

_BUILT_FOR_A_SIZE: Mapping[str, Callable[[int], dict[str, Any]]] = {
    "torchvision.models.vision_transformer": lambda resolution: {"image_size": resolution},
    "torchvision.models.maxvit": lambda resolution: {"input_size": (resolution, resolution)},
}
"""Networks whose weights depend on the resolution, by the module of their builder: what the builder is told about it."""
_BY_FAMILY: Mapping[str, dict[str, Any]] = {
    "segmentation": {"weights_backbone": None},
    "detection": {"weights_backbone": None},
}
"""Arguments without which a builder would download the weights of a part."""
_BY_MODULE: Mapping[str, dict[str, Any]] = {
    "torchvision.models.googlenet": {"init_weights": False},
    "torchvision.models.inception": {"init_weights": False},
}
"""Arguments without which a builder draws every weight from a truncated normal distribution, which takes minutes."""
_FLOW_SIZE = (520, 960)
"""Height and width for which torchvision publishes the operations of its optical-flow networks."""
_PHOTO_SIZE = (480, 640)
"""Height and width of most photographs of COCO, which torchvision's detectors are trained on."""
_CLIP_FRAMES = 16
"""Length of the clips that torchvision's video networks were trained on (the default of its reference scripts)."""
_LIMITS = ("_pre_nms_top_n", "_post_nms_top_n", "topk_candidates", "detections_per_img")
"""Attributes of a detector's modules that bound how many boxes it carries on."""


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


@cache
def quantized_names() -> frozenset[str]:
    """torchvision's quantised networks, which are not served."""
    models = import_torchvision().models
    return frozenset(models.list_models(module=models.quantization))


def find_network(name: str) -> DNNModule:
    """The network of that name, with axes "batch" and "resolution" (height and width; apart for detectors and optical flow) and,
    for video, "frames".

    Raises:
        InputError: there is none, and the nearest names are given; or it is a quantised one.
    """
    family = _families().get(name)
    if family is None:
        if name in quantized_names():
            raise InputError(
                f"{name!r} runs on packed int8 weights, whose operators cannot be captured without data; "
                f"estimate {name.removeprefix('quantized_')!r} in int8 in its place"
            )
        raise unknown("network", name, _families())
    if family == "optical_flow":
        return DNNModule(name, "network", (BATCH, *_sides(_FLOW_SIZE, "both images", low=128)), _maker(name, _flow))
    if family == "detection":
        return DNNModule(name, "network", (BATCH, *_sides(_PHOTO_SIZE, "every image")), _maker(name, _detect))
    declared = _declared(name)
    if declared.resolution is None:
        raise InputError(f"network {name!r} declares no input size; build it from a factory and give --input-shape")
    size = declared.resolution if isinstance(declared.resolution, int) else declared.resolution[0]
    axes = (BATCH, dim("resolution", size, "height and width of the input"))
    if family == "video":
        return DNNModule(name, "network", (*axes, dim("frames", declared.frames, "images in a clip")), _maker(name, _clip))
    return DNNModule(name, "network", axes, _maker(name, _image))


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


def _sides(size: tuple[int, int], what: str, low: int = 1) -> tuple[Axis, Axis]:
    return dim("height", size[0], f"height of {what}", low=low), dim("width", size[1], f"width of {what}", low=low)


def _maker(name: str, build: Callable[..., Built]) -> Callable[..., Built]:
    """A factory of one network."""
    return lambda make, **axes: build(name, make, **axes)


def _image(name: str, make: Maker, *, batch: int, resolution: int) -> Built:
    return Built(_network(name, make, resolution), (make.tensor(batch, 3, resolution, resolution),))


def _clip(name: str, make: Maker, *, batch: int, resolution: int, frames: int) -> Built:
    return Built(_network(name, make, resolution), (make.tensor(batch, 3, frames, resolution, resolution),))


def _flow(name: str, make: Maker, *, batch: int, height: int, width: int) -> Built:
    shape = (batch, 3, height, width)
    return Built(_network(name, make), (make.tensor(*shape), make.tensor(*shape)))


def _detect(name: str, make: Maker, *, batch: int, height: int, width: int) -> Built:
    """A list of images, and boxes as many as the detector's limits let through."""
    model = _network(name, make)
    said = ", ".join(f"{limit}={value}" for limit, value in dict(_limits(model)).items())
    notes = (f"the part that depends on data is counted at the configured limits: {said}",)
    return Built(model, ([make.tensor(3, height, width) for _ in range(batch)],), traced=True, notes=notes)


def _limits(model: Any) -> Iterator[tuple[str, int]]:
    """The limits on boxes that a detector's modules are configured with, at inference."""
    for module in model.modules():
        for attribute in _LIMITS:
            value = getattr(module, attribute, None)
            value = value.get("testing") if isinstance(value, dict) else value
            if isinstance(value, int):
                yield attribute.removeprefix("_"), value


def _network(name: str, make: Maker, resolution: int | None = None) -> Any:
    models = import_torchvision().models
    module = models.get_model_builder(name).__module__
    arguments = {**_BY_FAMILY.get(_families()[name], {}), **_BY_MODULE.get(module, {})}
    if resolution is not None and module in _BUILT_FOR_A_SIZE:
        arguments |= _BUILT_FOR_A_SIZE[module](resolution)
    return make.module(lambda: models.get_model(name, weights=None, **arguments))
