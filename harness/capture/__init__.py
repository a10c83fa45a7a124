"""Capture: a PyTorch model -> graphs of normalised operator calls. Importing this package imports torch."""

from shmoo.harness.capture.capture import Capture, capture, capture_exported
from shmoo.harness.capture.errors import CaptureError
from shmoo.harness.capture.introspect import OperatorIntrospector
from shmoo.harness.capture.walker import FXGraphWalker, Origin
from shmoo.harness.capture.workload import capture_workload

__all__ = [
    "Capture",
    "CaptureError",
    "FXGraphWalker",
    "OperatorIntrospector",
    "Origin",
    "capture",
    "capture_exported",
    "capture_workload",
]
