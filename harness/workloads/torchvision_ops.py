"""torchvision without its compiled operators.

Where the compiled library is missing, or was built for another torch or for a GPU that is not there, `import torchvision` fails.
Its operators are then defined by their signatures, and torchvision, told that it has them, adds what says which shapes they
return: all that capture needs, of detection models too. Running one on data still fails, with torch's own message that there is
no kernel for it.
"""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

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
"""torchvision's compiled operators and what they take, in their order."""
_NO_CUDA = -1
"""What the compiled library says when it was built without CUDA."""


def import_torchvision() -> ModuleType:
    """torchvision, with its compiled operators where they load and with their signatures alone where they don't.

    Raises:
        ImportError: torchvision is not installed.
    """
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        return _import_by_signature()
    return torchvision


def _import_by_signature() -> ModuleType:
    import torch

    for name, signature in _SIGNATURES.items():
        torch.library.define(f"torchvision::{name}", signature)
    torch.library.define("torchvision::_cuda_version", "() -> int")
    torch.library.impl("torchvision::_cuda_version", "CompositeExplicitAutograd", lambda: _NO_CUDA)
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]  # what the failed import left behind is half-initialised
    spec = importlib.util.find_spec("torchvision")
    package = importlib.util.module_from_spec(spec)
    sys.modules["torchvision"] = package
    # The rest of the package asks this module, when it is imported, whether there are compiled operators.
    importlib.import_module("torchvision.extension")._has_ops = lambda: True
    spec.loader.exec_module(package)
    return package
