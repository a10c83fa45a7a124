"""A workload -> its graphs, without weights in memory where the model allows it."""

from __future__ import annotations

from collections.abc import Mapping

from shmoo.harness.capture.capture import Capture, capture
from shmoo.harness.capture.errors import CaptureError
from shmoo.harness.workloads import DNNModule
from shmoo.runs.records import AxisValue


def capture_workload(module: DNNModule, axes: Mapping[str, AxisValue] | None = None, dtype: str = "float32") -> Capture:
    """Capture a workload at the given axes, every graph named after it.

    The model is built on the meta device, which takes neither weights nor arithmetic. One that looks at its values (a
    data-dependent branch) cannot run there, and is built and run on the CPU instead.

    Raises:
        CaptureError: it can be captured on neither.
        InputError: an axis, its value or the dtype cannot be used.
    """
    built = module.build(axes, dtype, "meta")
    try:
        return capture(built.model, built.args, built.kwargs, name=module.name)
    except CaptureError as on_meta:
        built = module.build(axes, dtype, "cpu")
        try:
            return capture(built.model, built.args, built.kwargs, name=module.name)
        except CaptureError as on_cpu:
            raise CaptureError(f"{on_cpu} (and on the meta device: {on_meta})") from on_cpu
