"""Changes that can be tried: to the way a model runs on a machine, without touching the model, and to the machine's parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from shmoo.estimators.graph.dtypes import BITS, shown_dtype
from shmoo.estimators.graph.records import CONVOLUTIONS, RUNTIMES, Graph
from shmoo.estimators.machine.catalogue import is_count
from shmoo.estimators.machine.names import by_runtime, continues, under
from shmoo.estimators.machine.profile import ArchitectureProfile
from shmoo.estimators.table import KernelTable
from shmoo.estimators.tiling.gpu.threads import AS_STORED
from shmoo.estimators.variants import PART_COUNT

BATCH_STEPS = (4, 16, 64)
"""Batches to try, relative to the present one."""
_NARROWER = ("bfloat16", "float16")
"""Types of 16 bits. The first one for which a machine has a rate is tried."""
_EVERYWHERE = ("float8", "int8")
_QUANTIZED_FROM = ("float32", "tf32", "bfloat16", "float16")
_SCHEMES = {"int8-dynamic": "int8", "float8-dynamic": "float8", "float4-dynamic": "float4", "int8-weight": "", "int4-weight": ""}
"""Scheme of `costs.quantize.SCHEMES` -> type whose products it needs."""
FACTOR = 2.0
"""Factor of change of each part of a machine; launches are divided by it."""
CYCLE_COUNTED_FAMILIES = ("tpu", "kpu")


class Setup(msgspec.Struct, frozen=True, kw_only=True):
    """How a model is run, with `None` for its own types, and calls fused as the runtime does or not at all."""

    runtime: str
    batch: int = 1
    dtype: str | None = None
    quantize: str | None = None
    channels_last: bool = False
    fused: bool = True

    @property
    def options(self) -> str:
        """The command line's options for an estimate of the setup."""
        dtype = None if self.dtype is None else shown_dtype(self.dtype)
        option_values = {"batch": self.batch, "runtime": self.runtime, "dtype": dtype, "quantize": self.quantize}
        texts = [f"--{name} {value}" for name, value in option_values.items() if value is not None]
        return " ".join([*texts, *["--channels-last"] * self.channels_last])


class Change(msgspec.Struct, frozen=True):
    """One change: new values of fields of a `Setup`, or of coefficients of the machine. Its kind is "batch", "type", "8 bits" (of
    every tensor, as a bound: frameworks keep norms and softmax wider), "quantization" (of linear layers), "runtime", "fusion" or
    "layout"; "part" or "parts" of a machine; and "together" for several changes."""

    kind: str
    name: str
    values: dict[str, str | int | bool] = {}
    coefficients: dict[str, float] = {}


GraphsOf = Callable[[Setup], Sequence[Graph]]
"""The graphs of a model in a setup; raises `InputError` for a setup that the model does not take."""


def part_changes(profile: ArchitectureProfile, runtime: str) -> list[Change]:
    """A change of each part of a machine alone. "peak" stands for the rates of all units; where a strategy counts cycles, the
    clock is their rate."""
    coefficients, all_coefficients = profile.coefficients, profile.all_coefficients
    in_cycles = profile.family in CYCLE_COUNTED_FAMILIES
    names = [PART_COUNT[profile.family], "clock"]
    names += [f"{stem}.{level}" for level in profile.levels for stem in ("bandwidth", "capacity")]
    names_by_change = {name: [name] for name in names if name in coefficients}
    if not in_cycles:
        names_by_change["peak"] = under("peak", coefficients)
    launch_names = all_coefficients if profile.host else coefficients
    names_by_change |= {name: [name] for name in [name for name in by_runtime("launch", runtime) if name in launch_names][:1]}
    return [
        Change(
            "parts" if is_count(name) or (name == "clock" and not in_cycles) else "part",
            name,
            coefficients={
                coefficient_name: all_coefficients[coefficient_name].value * (1 / FACTOR if continues(name, "launch") else FACTOR)
                for coefficient_name in part_names
            },
        )
        for name, part_names in names_by_change.items()
    ]


def changes(profile: ArchitectureProfile, base: Setup, dtype: str, table: KernelTable) -> list[Change]:
    """Changes that a model's user can make on a machine and its runtimes. `dtype` is the type of most of the model's work,
    `table` has its present kernels."""
    multiplied_types = profile.multiplied_types
    candidates = [Change("batch", f"batch {base.batch * n}", {"batch": base.batch * n}) for n in BATCH_STEPS]
    if base.quantize is None:
        narrower = [name for name in _NARROWER if name in multiplied_types and BITS[name] < BITS[dtype]]
        types = ["tf32"] * (dtype == "float32" and "tf32" in multiplied_types) + narrower[:1]
        candidates += [Change("type", name, {"dtype": name}) for name in types]
        everywhere = [name for name in _EVERYWHERE if name in multiplied_types and BITS[name] < BITS[dtype]]
        candidates += [Change("8 bits", f"all in {name}", {"dtype": name}) for name in everywhere]
        if dtype in _QUANTIZED_FROM:
            schemes = [scheme for scheme, product in _SCHEMES.items() if not product or product in multiplied_types]
            candidates += [Change("quantization", scheme, {"quantize": scheme}) for scheme in schemes]
    candidates += [
        Change("runtime", name, {"runtime": name})
        for name in RUNTIMES[profile.family]
        if name != base.runtime and (name != "cudagraphs" or profile.family == "gpu")
    ]
    if base.runtime not in AS_STORED:
        candidates.append(Change("fusion", "no fusion", {"fused": False}))
    elif profile.family == "gpu" and not base.channels_last and table.is_family(*CONVOLUTIONS).any():
        # On other machines and in compiled code the library chooses the layout of images.
        candidates.append(Change("layout", "channels-last", {"channels_last": True}))
    return candidates
