"""Estimated peak memory held against the allocator: networks run once in eager on this CPU, their allocations recorded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec
import torch

from shmoo.estimators.errors import InputError
from shmoo.estimators.memory.peak import peak_memory_bytes
from shmoo.estimators.units import percent
from shmoo.harness.capture import capture
from shmoo.harness.measuring.memory import peak_cpu_bytes, resident_bytes
from shmoo.harness.module import DNNModule
from shmoo.runs.store.records import AxisValue

NETWORKS = (
    "alexnet", "resnet18", "resnet50", "mobilenet_v2", "mobilenet_v3_large", "efficientnet_b0", "densenet121", "squeezenet1_1",
    "googlenet", "inception_v3", "shufflenet_v2_x1_0", "regnet_y_400mf", "mnasnet1_0", "vgg11_bn", "convnext_tiny", "vit_b_16",
    "swin_t", "maxvit_t", "fcn_resnet50",
)  # fmt: skip
MOST_OVER, MOST_UNDER = 0.05, 0.02
"""The estimate is this far over or under the allocator's peak at most."""


class MemoryCheck(msgspec.Struct, frozen=True):
    """One network: bytes that are there before the call (weights, inputs), the allocator's peak with them, and the estimate."""

    model: str
    batch: int
    resident_bytes: float
    measured_bytes: float
    estimated_bytes: float

    @property
    def error(self) -> float:
        """Signed (estimated - measured) / measured."""
        return self.estimated_bytes / self.measured_bytes - 1

    @property
    def held(self) -> bool:
        """Whether the error is within the bounds."""
        return -MOST_UNDER <= self.error <= MOST_OVER


def check_memory(module: DNNModule, batch: int = 1) -> MemoryCheck:
    """Run a network once in eager on this CPU under the profiler, and estimate the same from its captured graphs.

    Raises:
        InputError: this torch records no allocations.
    """
    axes: dict[str, AxisValue] = {"batch": batch} if any(axis.name == "batch" for axis in module.axes) else {}
    built = module.build(axes)
    with torch.no_grad():
        built()
        resident = resident_bytes(built)
        measured, reason = peak_cpu_bytes(built, resident)
    if measured is None:
        raise InputError(f"the memory of {module.name!r} cannot be checked: {reason}")
    graphs = capture(built.model, built.args, built.kwargs, name=module.name).graphs
    return MemoryCheck(module.name, batch, resident, measured, peak_memory_bytes(graphs))


def markdown(checks: Iterable[MemoryCheck]) -> Iterator[str]:
    """The table of the documentation."""
    yield "| network | batch | weights and inputs | allocator's peak | estimated | error |"
    yield "|---|---|---|---|---|---|"
    for check in checks:
        sizes = [f"{nbytes / 2**20:.2f} MiB" for nbytes in (check.resident_bytes, check.measured_bytes, check.estimated_bytes)]
        mark = "" if check.held else " (outside)"
        yield f"| {check.model} | {check.batch} | {' | '.join(sizes)} | {percent(check.error, signed=True)}{mark} |"
