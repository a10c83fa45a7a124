"""Capture: a PyTorch model -> graphs of normalized operator calls. Reading single FX nodes belongs in fx; naming models in
models.

Importing this package imports torch. Modules that need Dynamo or sympy, which import as slowly as torch, load on first use.
"""

from typing import TYPE_CHECKING

from shmoo.estimators.registry import on_demand
from shmoo.harness.capture.capture import capture, capture_compiled, capture_exported
from shmoo.harness.capture.fx.introspect import CaptureError, OperatorIntrospector
from shmoo.harness.capture.fx.walker import FXGraphWalker, Origin
from shmoo.harness.capture.workload import CaptureFamily, capture_workload
from shmoo.harness.module import Capture

if TYPE_CHECKING:
    from shmoo.harness.capture.symbolic import capture_symbolic
    from shmoo.harness.capture.training import capture_training

__all__ = [
    "Capture", "CaptureError", "CaptureFamily", "FXGraphWalker", "OperatorIntrospector", "Origin", "capture", "capture_compiled",
    "capture_exported", "capture_symbolic", "capture_training", "capture_workload",
]  # fmt: skip

__getattr__ = on_demand(
    __name__, {"capture_symbolic": "shmoo.harness.capture.symbolic", "capture_training": "shmoo.harness.capture.training"}
)
