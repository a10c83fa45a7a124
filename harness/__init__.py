"""Everything that knows torch and the machine: workloads, capture, timing, energy, campaigns and the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shmoo.estimators.registry import on_demand

if TYPE_CHECKING:
    from shmoo.harness.capture import FXGraphWalker, OperatorIntrospector
    from shmoo.harness.module import DNNModule

__all__ = ["DNNModule", "FXGraphWalker", "OperatorIntrospector"]

__getattr__ = on_demand(
    __name__,
    {
        "DNNModule": "shmoo.harness.workloads",
        "FXGraphWalker": "shmoo.harness.capture",
        "OperatorIntrospector": "shmoo.harness.capture",
    },
)
