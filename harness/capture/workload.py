"""A workload -> its graphs, without weights in memory where the model allows it."""

from __future__ import annotations

import re
from collections.abc import Mapping

from shmoo.estimators.errors import InputError
from shmoo.harness.capture.capture import Capture, capture
from shmoo.harness.capture.errors import CaptureError
from shmoo.harness.capture.traced import capture_traced
from shmoo.harness.workloads import Built, DNNModule
from shmoo.runs.records import AxisValue

_NEEDS_VALUES = re.compile(r"meta tensor|'Meta' backend", re.IGNORECASE)
"""What torch says where code asks a tensor without memory for its values."""


def build_for_capture(module: DNNModule, axes: Mapping[str, AxisValue] | None = None, dtype: str = "float32") -> Built:
    """Built on the meta device, which takes neither weights nor arithmetic; on the CPU where making the model reads its weights.

    Raises:
        InputError: as `DNNModule.build`.
    """
    try:
        return module.build(axes, dtype, "meta")
    except InputError as error:
        if not _NEEDS_VALUES.search(str(error)):
            raise
    return module.build(axes, dtype, "cpu")


def capture_workload(module: DNNModule, axes: Mapping[str, AxisValue] | None = None, dtype: str = "float32") -> Capture:
    """Capture a workload at the given axes, every graph named after it.

    The model is built without weights where that can be. Where its sizes depend on data, which
    torch.compile and torch.export refuse there, its Python is run on fake tensors with stand-ins for data. One that needs true
    values is built and run on the CPU.

    Raises:
        CaptureError: it can be captured in none of these ways.
        InputError: an axis, its value or the dtype cannot be used.
    """
    built = build_for_capture(module, axes, dtype)
    if built.traced:
        return capture_traced(built.model, built.args, built.kwargs, name=module.name, notes=built.notes)
    try:
        return capture(built.model, built.args, built.kwargs, name=module.name)
    except CaptureError as error:
        on_meta = error
    try:
        return capture_traced(built.model, built.args, built.kwargs, name=module.name, notes=built.notes)
    except CaptureError as error:
        on_fakes = error
    built = module.build(axes, dtype, "cpu")
    try:
        return capture(built.model, built.args, built.kwargs, name=module.name)
    except CaptureError as on_cpu:
        raise CaptureError(f"{on_cpu} (on the meta device: {on_meta}; {on_fakes})") from on_cpu
