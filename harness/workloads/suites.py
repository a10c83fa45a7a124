"""Suites: named plans of cases to measure, adapted to the machine's caches and memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import attrgetter
from random import Random
from typing import NamedTuple

from shmoo.estimators.errors import InputError, unknown
from shmoo.harness.module import DNNModule
from shmoo.harness.workloads.loading import find_workload
from shmoo.harness.workloads.shapes import FAMILIES, Axes, Family
from shmoo.runs.store.records import CaseSpec, Machine

SUITES = ("quick", "micro", "compiled", "nets", "shmoo")
PLANNED = "planned"
"""The cases of "micro" in the order of `most_telling_first`."""
BUDGET_S = 240.0
"""Default time to measure the planned suite; with planning and fitting it takes five minutes."""
NETWORKS = (
    "resnet50",
    "mobilenet_v3_large",
    "efficientnet_b0",
    "densenet121",
    "convnext_tiny",
    "vit_b_16",
    "regnet_y_400mf",
    "shufflenet_v2_x1_0",
    "resnet18",
)

_SEED = "shmoo"
_CANDIDATES = 64
"""Random shapes, of which the one nearest to the target footprint is used."""
_FLOPS = {"cpu": 3e9, "cuda": 1e12}
"""Most flops of one call: below a second on the slowest machines of the kind (a core at 10 Gflop/s, a GPU at 3 Tflop/s)."""
_MEMORY_SHARE = 1 / 16
"""Largest share of the memory for a case: a measurement keeps several copies, and other programs use the machine too."""
_TYPICAL_CACHES = {"cpu": (32 << 10, 1 << 20, 32 << 20), "cuda": (4 << 20, 50 << 20)}
"""Cache sizes of current server CPUs and data-center GPUs, for machines that do not report their own."""
_BEYOND = {"cpu": 2.0, "cuda": 16.0}
"""Largest footprint that is planned for, relative to the last cache: a GPU is launched slowly and has so much bandwidth that only
large tensors show it."""
_WIDEST = 10.0
"""Largest ratio between the footprints at the ends of a band."""
_SMALLEST = 4 << 10
"""Footprint in bytes below which a case measures only the call."""


def plan_suite(
    name: str,
    machine: Machine,
    *,
    device: str = "cpu",
    dtypes: Sequence[str] = ("float32",),
    runtimes: Sequence[str] = ("eager",),
) -> tuple[CaseSpec, ...]:
    """The cases of a suite, in a shuffled order that is the same every time; each in every combination of dtypes and runtimes.
    `InputError` where the suite is unknown, or no dtype or runtime is given.

    Args:
        name: "quick" (about 40 cases), "micro" (every operator and synthetic model, footprints inside every cache level and
            beyond), "compiled" (some of these, for a compiled runtime), "nets" (whole networks) or "shmoo" (dense sweeps of size
            for a few operators).
        machine: whose cache sizes the footprints are planned for; the same machine gives the same plan.
    """
    if name not in SUITES:
        raise unknown("suite", name, (*SUITES, PLANNED))
    if not (dtypes and runtimes):
        raise InputError(f"a suite needs at least one dtype and one runtime, got {list(dtypes)} and {list(runtimes)}")
    limits = _Limits.of(machine, device)
    plan: Iterable[tuple[str, Axes]]
    if name == "nets":
        plan = ((network, {"batch": 1}) for network in NETWORKS)
    else:
        plan = _swept(limits, dtypes[0]) if name == "shmoo" else _drawn(limits, dtypes[0], attrgetter(name))
    cases = [
        CaseSpec(
            workload=workload,
            kind="network" if name == "nets" else find_workload(workload).kind,
            axes=axes if name == "nets" else find_workload(workload).resolve(axes),
            dtype=dtype,
            runtime=runtime,
            device=device,
        )
        for workload, axes in plan
        for dtype in dtypes
        for runtime in runtimes
    ]
    Random(f"{_SEED}:{name}").shuffle(cases)
    return tuple(cases)


class _Limits(NamedTuple):
    """Cache levels to plan footprints for, the largest footprint (all in bytes), the most flops of one call, and how far beyond
    the last level footprints go."""

    levels: tuple[float, ...]
    largest: float
    flops: float
    beyond: float

    @classmethod
    def of(cls, machine: Machine, device: str) -> _Limits:
        kind = "cuda" if device.startswith("cuda") else "cpu"
        memory = (machine.gpu_memory_bytes or machine.memory_bytes) if kind == "cuda" else machine.memory_bytes
        largest = memory * _MEMORY_SHARE
        reported = machine.cache_bytes.values() if kind == "cpu" else ()
        levels = tuple(float(size) for size in sorted(reported or _TYPICAL_CACHES[kind]) if _SMALLEST < size < largest)
        return cls(levels, largest, _FLOPS[kind], _BEYOND[kind])

    def footprint(self, module: DNNModule, axes: Axes, dtype: str) -> float | None:
        """Bytes of a case; `None` where they or the flops are not known or beyond the limits."""
        footprint, flops = module.footprint_bytes(axes, dtype), module.flops(axes)
        if footprint is None or flops is None or footprint > self.largest or flops > self.flops:
            return None
        return footprint

    @property
    def bands(self) -> list[tuple[float, float]]:
        """Footprints (from, to) that fit into each level but not into the one before, and those that exceed the last level.

        A level much larger than the one before it (a server's last level) is split: networks spend their time there."""
        edges = [_SMALLEST, *self.levels]
        inside = []
        for low, high in zip(edges, self.levels, strict=False):
            start, end = max(low * 1.2, _SMALLEST), high * 0.8
            parts = max(1, math.ceil(math.log(end / start) / math.log(_WIDEST)))
            step = (end / start) ** (1 / parts)
            inside += [(start * step**i, start * step ** (i + 1)) for i in range(parts)]
        last = edges[-1]
        return [*inside, (min(last * 1.5, self.largest), min(last * self.beyond, self.largest))]


def _drawn(limits: _Limits, dtype: str, count: Callable[[Family], int]) -> Iterator[tuple[str, Axes]]:
    for position, family in enumerate(FAMILIES):
        rng = Random(f"{_SEED}:{family.name}")
        drawn: list[Axes] = []
        for i in range(count(family)):
            low, high = limits.bands[(i + position) % len(limits.bands)]
            target = math.exp(rng.uniform(math.log(low), math.log(high)))
            axes = _nearest(family, target if family.banded else None, limits, dtype, rng, drawn)
            if axes is not None:
                drawn.append(axes)
                yield family.workload, axes


def _nearest(
    family: Family, target: float | None, limits: _Limits, dtype: str, rng: Random, drawn: Sequence[Axes]
) -> Axes | None:
    """Of some random shapes within the limits and not yet drawn, the one whose footprint is nearest to `target` bytes, or the
    first without a target; `None` if there is none."""
    module = find_workload(family.workload)
    best: tuple[float, Axes] | None = None
    for _ in range(_CANDIDATES):
        axes = family.draw(rng)
        footprint = limits.footprint(module, axes, dtype)
        if footprint is None or axes in drawn:
            continue
        if target is None:
            return axes
        distance = abs(math.log(footprint / target))
        if best is None or distance < best[0]:
            best = (distance, axes)
    return None if best is None else best[1]


class _Sweep(NamedTuple):
    """A series of sizes: the `moving` axes share one value, which grows from `low`; the others stay fixed."""

    workload: str
    moving: tuple[str, ...]
    low: int
    fixed: Axes = {}


_SWEEPS = (
    _Sweep("linear", ("m", "n", "k"), 16),
    _Sweep("linear", ("n", "k"), 64, {"m": 1}),
    _Sweep("bmm", ("m", "n"), 8, {"b": 12, "k": 64}),
    _Sweep("conv", ("size",), 4, {"c_in": 64, "c_out": 64}),
    _Sweep("conv", ("c_in", "c_out", "groups"), 8, {"size": 28}),
    _Sweep("relu", ("rows",), 1, {"cols": 1024}),
    _Sweep("add", ("rows",), 1, {"cols": 1024}),
    _Sweep("layer_norm", ("rows",), 1, {"cols": 768}),
    _Sweep("softmax", ("rows", "cols"), 16),
    _Sweep("attention", ("seq_len", "kv_len"), 16),
    _Sweep("mlp", ("in_features", "hidden", "out_features"), 32, {"batch": 1}),
    _Sweep("mlp", ("in_features", "hidden", "out_features"), 32, {"batch": 64}),
)
_PER_OCTAVE = 2
"""Points of a sweep for each doubling of the size."""


def _swept(limits: _Limits, dtype: str) -> Iterator[tuple[str, Axes]]:
    for sweep in _SWEEPS:
        module = find_workload(sweep.workload)
        for size in dict.fromkeys(round(sweep.low * 2 ** (step / _PER_OCTAVE)) for step in range(_PER_OCTAVE * 40)):
            axes = {**sweep.fixed, **dict.fromkeys(sweep.moving, size)}
            footprint = limits.footprint(module, axes, dtype)
            if footprint is None or footprint > limits.bands[-1][1]:
                break
            yield sweep.workload, axes
