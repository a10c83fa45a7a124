"""The runtimes a model can be measured in: eager, or compiled by torch.compile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from shmoo.estimators.errors import InputError
from shmoo.estimators.registry import Registry

Forward = Callable[..., Any]


class Runtime(msgspec.Struct, frozen=True):
    """A way to run a model.

    Attributes:
        compile: model -> its replacement; compiling may wait for the first call, which runs without gradients.
        devices: supported device types.
        compiled: whether anything is compiled; a compilation inside a timed window is then a fault.
    """

    compile: Callable[[Forward], Forward]
    devices: tuple[str, ...] = ("cpu", "cuda")
    compiled: bool = True


RUNTIMES: Registry[Runtime] = Registry("runtime")


def _inductor(model: Forward) -> Forward:
    import torch

    return torch.compile(model, backend="inductor", dynamic=False)


def _inductor_freezing(model: Forward) -> Forward:
    """Weights become constants that Inductor may fold and pre-pack; it does so only without gradients."""
    import torch

    return torch.compile(model, backend="inductor", dynamic=False, options={"freezing": True})


def _cudagraphs(model: Forward) -> Forward:
    """Inductor's kernels replayed as one CUDA graph, without a launch by the host for each."""
    import torch

    return torch.compile(model, mode="reduce-overhead", dynamic=False)


RUNTIMES.add("eager", Runtime(lambda model: model, compiled=False))
RUNTIMES.add("inductor", Runtime(_inductor))
RUNTIMES.add("inductor-freezing", Runtime(_inductor_freezing))
RUNTIMES.add("cudagraphs", Runtime(_cudagraphs, devices=("cuda",)))

MANY_PROGRAMS = 10_000
"""Programs of one class of model that may be alive at once; torch's own limit of 8 is meant for one model that keeps changing."""


def compile_model(model: Forward, runtime: str, device: str = "cpu") -> Forward:
    """The replacement of `model` in `runtime`. Programs compiled earlier stay alive.

    Raises:
        InputError: no such runtime, or not on this device.
    """
    entry = RUNTIMES[runtime]
    kind = device.split(":")[0]
    if kind not in entry.devices:
        raise InputError(
            f"runtime {runtime!r} does not run on {device!r}, only on {', '.join(entry.devices)}; choose another --runtime"
        )
    if entry.compiled:
        import torch

        torch._dynamo.config.recompile_limit = torch._dynamo.config.accumulated_recompile_limit = MANY_PROGRAMS
    return entry.compile(model)


def compilations() -> int:
    """Frames compiled in this process so far; a rise inside a timed window means that it timed the compiler."""
    from torch._dynamo.utils import counters

    return counters["frames"]["total"]


def compile_seconds() -> float:
    """Seconds spent compiling in this process so far."""
    from torch._dynamo.utils import calculate_time_spent

    return float(calculate_time_spent().get("total_wall_time", 0.0))
