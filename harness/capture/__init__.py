"""Capture: a PyTorch model -> graphs of normalized operator calls. Importing this package imports torch."""

from shmoo.harness.capture.capture import Capture, capture, capture_compiled, capture_exported
from shmoo.harness.capture.fx.introspect import CaptureError, OperatorIntrospector
from shmoo.harness.capture.fx.walker import FXGraphWalker, Origin
from shmoo.harness.capture.symbolic import SymbolicCapture, capture_symbolic
from shmoo.harness.capture.training import capture_training
from shmoo.harness.capture.workload import CaptureFamily, capture_workload

__all__ = [
    "Capture",
    "CaptureError",
    "CaptureFamily",
    "FXGraphWalker",
    "OperatorIntrospector",
    "Origin",
    "SymbolicCapture",
    "capture",
    "capture_compiled",
    "capture_exported",
    "capture_symbolic",
    "capture_training",
    "capture_workload",
]
