"""The runtimes in which a model can be measured: eager, or compiled by torch.compile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from shmoo.estimators.errors import InputError
from shmoo.estimators.registry import Registry

Forward = Callable[..., Any]


class Runtime(msgspec.Struct, frozen=True):
    """A way to run a model on some device types: options of torch.compile, which may compile only at the first call; `None` runs
    the model itself."""

    options: dict[str, Any] | None
    devices: tuple[str, ...] = ("cpu", "cuda")

    @property
    def compiled(self) -> bool:
        """Whether the runtime compiles; a compilation inside a timed window is then a fault."""
        return self.options is not None


TORCH_RUNTIMES: Registry[Runtime] = Registry("runtime")
"""The runtimes of `estimators.graph.records.RUNTIMES` that torch has."""
TORCH_RUNTIMES.add("eager", Runtime(None))
TORCH_RUNTIMES.add("inductor", Runtime({"backend": "inductor"}))
# Weights become constants that Inductor may fold and pre-pack; it does so only without gradients.
TORCH_RUNTIMES.add("inductor-freezing", Runtime({"backend": "inductor", "options": {"freezing": True}}))
# Inductor's kernels are replayed as one CUDA graph, without a host launch for each.
TORCH_RUNTIMES.add("cudagraphs", Runtime({"mode": "reduce-overhead"}, devices=("cuda",)))

MANY_PROGRAMS = 10_000
"""Most compiled programs per class of model; torch's limit of 8 is meant for one model that keeps changing."""


def runtimes_on(device: str) -> list[str]:
    """The runtimes that a device has."""
    return [name for name in TORCH_RUNTIMES if device.split(":")[0] in TORCH_RUNTIMES[name].devices]


def compile_model(model: Forward, runtime: str, device: str = "cpu") -> Forward:
    """`model` compiled for `runtime`, or the model itself; `InputError` for an unknown runtime or one that the device lacks.
    Programs compiled earlier stay alive."""
    entry, device_runtimes = TORCH_RUNTIMES[runtime], runtimes_on(device)
    if runtime not in device_runtimes:
        raise InputError(f"runtime {runtime!r} does not run on {device!r}; allowed there: {', '.join(device_runtimes)}")
    if entry.options is None:
        return model
    import torch

    torch._dynamo.config.recompile_limit = torch._dynamo.config.accumulated_recompile_limit = MANY_PROGRAMS
    return torch.compile(model, dynamic=False, **entry.options)


def compilations() -> int:
    """Frames compiled in this process so far. A rise inside a timed window means that the window includes the compiler's work."""
    from torch._dynamo.utils import counters

    return counters["frames"]["total"]


def compile_seconds() -> float:
    """Seconds spent compiling in this process so far."""
    from torch._dynamo.utils import calculate_time_spent

    return float(calculate_time_spent().get("total_wall_time", 0.0))
