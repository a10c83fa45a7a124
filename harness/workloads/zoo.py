"""Networks by name, with random weights and their declared inputs: torchvision's networks, and denoisers of diffusion models.
Nothing is downloaded. The declared input is that of the first pretrained weights, whose figures are published; detectors resize
photographs themselves."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Mapping
from functools import cache, partial
from types import ModuleType
from typing import Any

from shmoo.estimators.errors import InputError, not_installed
from shmoo.harness.module import Axis, Built, DNNModule, Maker, dim

FAMILIES = ("classification", "segmentation", "video", "optical_flow", "detection")
"""Kinds of torchvision networks that can be built."""
BATCH = dim("batch", 1, "images or clips at once")

_SIZED_BUILDERS: Mapping[str, Callable[[int], dict[str, Any]]] = {
    "torchvision.models.vision_transformer": lambda resolution: {"image_size": resolution},
    "torchvision.models.maxvit": lambda resolution: {"input_size": (resolution, resolution)},
}
"""Arguments for networks whose weights depend on the resolution, by the module of their builder."""
_BACKBONE_OPTIONS = {"weights_backbone": None}
"""Arguments that keep builders of segmentation and detection models from downloading backbone weights."""
_FAST_INIT = ("torchvision.models.googlenet", "torchvision.models.inception")
"""Modules whose builders otherwise draw every weight from a truncated normal distribution, which takes minutes."""
_FLOW_SIZE = (520, 960)
"""Height and width for which torchvision publishes the operations of its optical-flow networks."""
_PHOTO_SIZE = (480, 640)
"""Height and width of most photographs of COCO, which torchvision's detectors are trained on."""
_CLIP_FRAMES = 16
"""Length of the clips that torchvision's video networks were trained on (the default of its reference scripts)."""
_LIMITS = ("_pre_nms_top_n", "_post_nms_top_n", "topk_candidates", "detections_per_img")
"""Attributes of a detector's modules that limit the number of boxes."""

# torchvision without its compiled operators -----------------------------------------------------------------------------

_BOXES = "Tensor rois, float spatial_scale, SymInt pooled_height, SymInt pooled_width"
_CHANNELS = _BOXES.replace(",", ", Tensor channel_mapping,", 1)
_IMAGES = "SymInt batch_size, SymInt channels, SymInt height, SymInt width"
_WINDOW = (
    "SymInt stride_h, SymInt stride_w, SymInt pad_h, SymInt pad_w, SymInt dilation_h, SymInt dilation_w, SymInt groups, "
    "SymInt offset_groups, bool use_mask"
)
_SIGNATURES = {
    "nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "roi_align": f"(Tensor input, {_BOXES}, int sampling_ratio, bool aligned) -> Tensor",
    "_roi_align_backward": f"(Tensor grad, {_BOXES}, {_IMAGES}, int sampling_ratio, bool aligned) -> Tensor",
    "qroi_align": "(Tensor input, Tensor rois, float input_scale, int input_zero_point, float rois_scale, int rois_zero_point, "
    "float spatial_scale, SymInt pooled_height, SymInt pooled_width, int sampling_ratio, bool aligned) -> Tensor",
    "roi_pool": f"(Tensor input, {_BOXES}) -> (Tensor, Tensor)",
    "_roi_pool_backward": f"(Tensor grad, {_BOXES.replace(',', ', Tensor argmax,', 1)}, {_IMAGES}) -> Tensor",
    "ps_roi_align": f"(Tensor input, {_BOXES}, int sampling_ratio) -> (Tensor, Tensor)",
    "_ps_roi_align_backward": f"(Tensor grad, {_CHANNELS}, int sampling_ratio, {_IMAGES}) -> Tensor",
    "ps_roi_pool": f"(Tensor input, {_BOXES}) -> (Tensor, Tensor)",
    "_ps_roi_pool_backward": f"(Tensor grad, {_CHANNELS}, {_IMAGES}) -> Tensor",
    "deform_conv2d": f"(Tensor input, Tensor weight, Tensor offset, Tensor mask, Tensor bias, {_WINDOW}) -> Tensor",
    "_deform_conv2d_backward": "(Tensor grad, Tensor input, Tensor weight, Tensor offset, Tensor mask, Tensor bias, "
    f"{_WINDOW}) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
}
_NO_CUDA = -1
"""`torchvision::_cuda_version` of a library built without CUDA."""


def import_torchvision() -> ModuleType:
    """torchvision, with its compiled operators where they load, otherwise with their signatures alone; `InputError` where it is
    not installed.

    `import torchvision` fails where the compiled library is missing, or was built for another torch or for an absent GPU.
    Signatures suffice for capture, also of detectors: torchvision itself computes the shapes. Running such an operator on data
    fails with torch's own message that there is no kernel for it.
    """
    from shmoo.harness.capture.fx.lazy_dynamo import dynamo_put_off

    try:
        with dynamo_put_off():
            import torchvision
    except ModuleNotFoundError as error:
        if error.name != "torchvision":
            raise
        raise not_installed("networks of torchvision", "torchvision") from error
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    else:
        return torchvision
    import torch

    for name, signature in _SIGNATURES.items():
        torch.library.define(f"torchvision::{name}", signature)
    torch.library.define("torchvision::_cuda_version", "() -> int")
    torch.library.impl("torchvision::_cuda_version", "CompositeExplicitAutograd", lambda: _NO_CUDA)
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]  # left half-initialized by the failed import
    spec: Any = importlib.util.find_spec("torchvision")
    package = importlib.util.module_from_spec(spec)
    sys.modules["torchvision"] = package
    # On import, the rest of the package asks this module whether there are compiled operators.
    extension: Any = importlib.import_module("torchvision.extension")
    extension._has_ops = lambda: True
    with dynamo_put_off():
        spec.loader.exec_module(package)
    return package


# torchvision's networks -------------------------------------------------------------------------------------------------


def zoo_names() -> tuple[str, ...]:
    """Every torchvision network that can be built, sorted."""
    return tuple(sorted(_families()))


@cache
def _families() -> dict[str, str]:
    models = import_torchvision().models
    modules = {"classification": models, **{name: getattr(models, name) for name in FAMILIES[1:]}}
    return {name: family for family, module in modules.items() for name in models.list_models(module=module)}


@cache
def quantized_names() -> frozenset[str]:
    """Torchvision's quantized networks, which cannot be built."""
    models = import_torchvision().models
    return frozenset(models.list_models(module=models.quantization))


def find_network(name: str) -> DNNModule:
    """The torchvision network of that name, with axes "batch" and "resolution" (height and width; separate axes for detectors and
    optical flow) and, for video, "frames"."""
    family = _families()[name]
    if family == "optical_flow":
        return DNNModule(name, "network", (BATCH, *_sides(_FLOW_SIZE, "both images", low=128)), partial(_flow, name))
    if family == "detection":
        return DNNModule(name, "network", (BATCH, *_sides(_PHOTO_SIZE, "every image")), partial(_detect, name))
    resolution, frames = _declared(name)
    if resolution is None:
        raise InputError(f"network {name!r} declares no input size; build it from a factory and give --input-shape")
    axes = [BATCH, dim("resolution", resolution, "height and width of the input")]
    if family == "video":
        axes.append(dim("frames", frames, "images in a clip"))
    return DNNModule(name, "network", tuple(axes), partial(_pictures, name))


@cache
def _declared(name: str) -> tuple[int | None, int]:
    """Height of the input and number of images in a clip, as declared by a network's first weights."""
    weights = next(iter(import_torchvision().models.get_model_weights(name)), None)
    if weights is None:
        return None, 1
    presets = getattr(weights.transforms, "keywords", {})
    size = presets.get("crop_size", presets.get("resize_size"))
    return size[0] if isinstance(size, tuple | list) else size, max(weights.meta.get("min_temporal_size", 1), _CLIP_FRAMES)


def _sides(size: tuple[int, int], subject: str, low: int = 1) -> tuple[Axis, Axis]:
    return dim("height", size[0], f"height of {subject}", low=low), dim("width", size[1], f"width of {subject}", low=low)


def _pictures(name: str, make: Maker, *, batch: int, resolution: int, frames: int | None = None) -> Built:
    clip = () if frames is None else (frames,)
    return Built(_network(name, make, resolution), (make.tensor(batch, 3, *clip, resolution, resolution),))


def _flow(name: str, make: Maker, *, batch: int, height: int, width: int) -> Built:
    shape = (batch, 3, height, width)
    return Built(_network(name, make), (make.tensor(*shape), make.tensor(*shape)))


def _detect(name: str, make: Maker, *, batch: int, height: int, width: int) -> Built:
    """A detector on a list of images; the number of boxes is the most that the detector's configuration allows."""
    model = _network(name, make)
    limits: dict[str, int] = {}
    for module in model.modules():
        for attribute in _LIMITS:
            value = getattr(module, attribute, None)
            value = value.get("testing") if isinstance(value, dict) else value
            if isinstance(value, int):
                limits[attribute.removeprefix("_")] = value
    limits_text = ", ".join(f"{limit}={value}" for limit, value in limits.items())
    notes = (f"the part that depends on data is counted at the configured limits: {limits_text}",)
    return Built(model, ([make.tensor(3, height, width) for _ in range(batch)],), traced=True, notes=notes)


def _network(name: str, make: Maker, resolution: int | None = None) -> Any:
    models = import_torchvision().models
    module = models.get_model_builder(name).__module__
    arguments: dict[str, Any] = dict(_BACKBONE_OPTIONS) if _families()[name] in ("segmentation", "detection") else {}
    if module in _FAST_INIT:
        arguments["init_weights"] = False
    if resolution is not None and module in _SIZED_BUILDERS:
        arguments |= _SIZED_BUILDERS[module](resolution)
    return make.module(lambda: models.get_model(name, weights=None, **arguments))


# Denoisers of diffusion -------------------------------------------------------------------------------------------------

_DIT_SIZES = {"s": (12, 384, 6), "b": (12, 768, 12), "l": (24, 1024, 16), "xl": (28, 1152, 16)}
"""Depth, width and heads of diffusion transformers (W. Peebles, S. Xie, Scalable Diffusion Models with Transformers, 2023, table
1)."""
_DIT_PATCHES = (2, 4, 8)
"""Heights and widths of the patches that become tokens, in latent pixels (the same, section 3.2)."""
_LATENTS = dim("batch", 1, "latent images at once")


def _dit(letter: str, patch: int) -> DNNModule:

    def build(make: Maker, *, batch: int, size: int) -> Built:
        from shmoo.harness.workloads.diffusion import CLASSES, LATENT_CHANNELS, DiT

        model = make.module(lambda: DiT(*_DIT_SIZES[letter], patch=patch, tokens=(size // patch) ** 2))
        return Built(model, (make.tensor(batch, LATENT_CHANNELS, size, size), make.positive(batch), make.indices(CLASSES, batch)))

    axes = (_LATENTS, dim("size", 32, "height and width of the latents, an eighth of the image's", low=patch))
    return DNNModule(f"dit_{letter}_{patch}", "network", axes, build)


def _latent_unet(make: Maker, *, batch: int, size: int, context: int) -> Built:
    from shmoo.harness.workloads.diffusion import CONTEXT, LATENT_CHANNELS, LatentUNet

    inputs = (make.tensor(batch, LATENT_CHANNELS, size, size), make.positive(batch), make.tensor(batch, context, CONTEXT))
    return Built(make.module(LatentUNet), inputs)


_UNET_AXES = (
    _LATENTS,
    dim("size", 64, "height and width of the latents, an eighth of the image's", low=8),
    dim("context", 77, "tokens of the text"),
)
DIFFUSION: Mapping[str, DNNModule] = {
    **{f"dit_{letter}_{patch}": _dit(letter, patch) for letter in _DIT_SIZES for patch in _DIT_PATCHES},
    "latent_diffusion_unet": DNNModule("latent_diffusion_unet", "network", _UNET_AXES, _latent_unet),
}
