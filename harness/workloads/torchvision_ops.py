"""torchvision without its compiled operators.

`import torchvision` registers fake kernels for `torchvision::nms` and `torchvision::qnms`, which fails where the compiled library
that defines them is missing or was built for another torch. Defining the two schemas first is enough for the import, and for
every model that does not call them (all but detection); a call still fails, with torch's own message that there is no kernel.
"""

from __future__ import annotations

import sys
from types import ModuleType

_SCHEMAS = {
    "torchvision::nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "torchvision::qnms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}


def import_torchvision() -> ModuleType:
    """torchvision, with its compiled operators where they load and without them where they don't.

    Raises:
        ImportError: torchvision is not installed.
    """
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        _define_schemas()
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]  # what the failed import left behind is half-initialised
        import torchvision
    return torchvision


def _define_schemas() -> None:
    import torch

    for name, schema in _SCHEMAS.items():
        torch.library.define(name, schema)
