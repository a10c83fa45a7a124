"""Suites: named plans of cases to measure, adapted to the machine's caches and memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache, partial
from operator import attrgetter
from random import Random
from typing import NamedTuple

import numpy as np

from shmoo.estimators.costs import graph_cost
from shmoo.estimators.errors import InputError, unknown
from shmoo.estimators.graph.records import Graph
from shmoo.estimators.progress import Progress, Standing, silent
from shmoo.harness.workloads.loading import find_workload
from shmoo.harness.workloads.shapes import FAMILIES, Axes, Family
from shmoo.runs.store.records import AxisValue, CaseSpec, Machine

SUITES = ("quick", "micro", "compiled", "nets", "shmoo")
PLANNED = "planned"
"""The cases of "micro" in the order of `most_telling_first`."""
BUDGET_S = 240.0
"""Default time for measuring the planned suite; with planning and fitting it takes five minutes."""
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
"""Number of random shapes from which the one nearest to the target footprint is chosen."""
_NEAR = 0.05
"""Log distance by which a shape may be further from its target than the expected best of the remaining shapes."""
_FLOPS = {"cpu": 3e9, "cuda": 1e12}
"""Most flops of one call: below a second on the slowest machines of the kind (a core at 10 Gflop/s, a GPU at 3 Tflop/s)."""
_MEMORY_SHARE = 1 / 16
"""Largest share of the memory for a case, since a measurement keeps several copies and other programs need memory too."""
_TYPICAL_CACHES = {"cpu": (32 << 10, 1 << 20, 32 << 20), "cuda": (4 << 20, 50 << 20)}
"""Cache sizes of current server CPUs and data-center GPUs, for machines that do not report theirs."""
_BEYOND = {"cpu": 2.0, "cuda": 16.0}
"""Largest planned footprint relative to the last cache. A GPU launches slowly and has so much bandwidth that only large tensors
show it."""
_WIDEST = 10.0
"""Largest ratio between the footprints at the ends of a band."""
_SMALLEST = 4 << 10
"""Footprint in bytes below which a case measures only the overhead of a call."""


def check_suite(name: str) -> None:
    """`InputError` with the nearest name for an unknown suite."""
    if name not in (*SUITES, PLANNED):
        raise unknown("suite", name, (*SUITES, PLANNED))


def plan_suite(
    name: str,
    machine: Machine,
    *,
    device: str = "cpu",
    dtypes: Sequence[str] = ("float32",),
    runtimes: Sequence[str] = ("eager",),
    progress: Progress = silent,
) -> tuple[CaseSpec, ...]:
    """The cases of a suite, in a shuffled order that is the same every time; each in every combination of dtypes and runtimes.
    `InputError` where the suite is unknown, or no dtype or runtime is given.

    Args:
        name: "quick" (about 40 cases), "micro" (every operator and synthetic model, footprints inside every cache level and
            beyond), "compiled" (some of these, for a compiled runtime), "nets" (whole networks) or "shmoo" (dense sweeps of size
            for a few operators).
        machine: the machine for whose caches footprints are planned; the same machine gives the same plan.
        progress: called with the number of families whose shapes are chosen, which takes seconds.
    """
    check_suite(name)
    if not (dtypes and runtimes):
        raise InputError(f"a suite needs at least one dtype and one runtime, got {list(dtypes)} and {list(runtimes)}")
    limits = _Limits.of(machine, device)
    plan: Iterable[tuple[str, Axes]]
    if name == "nets":
        plan = ((network, {"batch": 1}) for network in NETWORKS)
    else:
        plan = _swept(limits, dtypes[0]) if name == "shmoo" else _drawn(limits, dtypes[0], attrgetter(name), progress)
    cases = [
        CaseSpec(
            workload=workload,
            kind="network" if name == "nets" else find_workload(workload).kind,
            axes=axes,
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
    """Limits of a plan: cache levels and largest footprint in bytes, most flops of one call, and footprints relative to the last
    level."""

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

    def allow(self, work: Work) -> bool:
        """Whether a call with this work may be planned."""
        return work.bytes <= self.largest and work.flops <= self.flops

    @property
    def bands(self) -> list[tuple[float, float]]:
        """Footprints (from, to) that fit into each level but not into the previous one, and those that exceed the last level.

        A level much larger than the previous one (a server's last level) is split, since networks spend their time there.
        """
        edges = [_SMALLEST, *self.levels]
        inside = []
        for low, high in zip(edges, self.levels, strict=False):
            start, end = max(low * 1.2, _SMALLEST), high * 0.8
            parts = max(1, math.ceil(math.log(end / start) / math.log(_WIDEST)))
            step = (end / start) ** (1 / parts)
            inside += [(start * step**i, start * step ** (i + 1)) for i in range(parts)]
        last = edges[-1]
        return [*inside, (min(last * 1.5, self.largest), min(last * self.beyond, self.largest))]


class Work(NamedTuple):
    """Work of one call: bytes of all its tensors, each once (weights, operands, results, and what lies between), and flops."""

    bytes: float
    flops: float


def work_of(workload: str, axes: Axes, dtype: str) -> Work:
    """The work of a workload with these values of all its axes."""
    graph = captured(workload, tuple(axes.items()), dtype)
    return Work(sum(value.spec.nbytes for value in graph.values if value.storage is None), graph_cost(graph).flops)


@cache
def captured(workload: str, axes: tuple[tuple[str, AxisValue], ...], dtype: str) -> Graph:
    """The graph of an operator or a synthetic model at these axes; nothing is allocated."""
    from shmoo.harness.capture.workload import capture_operator

    built = find_workload(workload).build(dict(axes), dtype, "meta")
    (graph,) = capture_operator(built, workload).graphs
    return graph


class _PowerLaw:
    """Work of a workload as a product of powers of its sizes, fitted to the calls captured so far. Before there are enough of
    them, the powers are as near to 1 as those allow."""

    def __init__(self) -> None:
        self._sizes: list[list[float]] = []
        self._work: list[list[float]] = []

    def learn(self, axes: Axes, work: Work) -> None:
        """Add a captured call to the fit."""
        self._sizes.append(_log_sizes(axes))
        self._work.append([math.log(max(part, 1.0)) for part in work])

    def __call__(self, candidates: Sequence[Axes]) -> np.ndarray:
        """(n, 2) natural logs of bytes and flops."""
        sizes = np.asarray([_log_sizes(axes) for axes in candidates])
        powers = np.ones((sizes.shape[1], 2))
        if self._sizes:
            seen_sizes = np.asarray(self._sizes)
            powers += np.linalg.lstsq(seen_sizes, np.asarray(self._work) - seen_sizes @ powers, rcond=None)[0]
        return np.asarray(sizes @ powers)


def _log_sizes(axes: Axes) -> list[float]:
    return [1.0, *(math.log(value) if value > 0 else 0.0 for value in axes.values() if not isinstance(value, str))]


def _drawn(limits: _Limits, dtype: str, count: Callable[[Family], int], progress: Progress) -> Iterator[tuple[str, Axes]]:
    for position, family in enumerate(FAMILIES):
        progress(Standing("planning", position, len(FAMILIES), now=family.name))
        rng, law = Random(f"{_SEED}:{family.name}"), _PowerLaw()
        module = find_workload(family.workload)
        work = partial(work_of, family.workload, dtype=dtype)
        drawn: list[Axes] = []
        for i in range(count(family)):
            low, high = limits.bands[(i + position) % len(limits.bands)]
            target = math.exp(rng.uniform(math.log(low), math.log(high)))
            shapes = (module.resolve(family.draw(rng)) for _ in range(_CANDIDATES))
            fresh = (axes for axes in shapes if axes not in drawn)
            if family.banded:
                axes = _nearest(target, list(fresh), limits, work, law)
            else:
                axes = next((axes for axes in fresh if limits.allow(work(axes))), None)
            if axes is not None:
                drawn.append(axes)
                yield family.workload, axes


def _nearest(target: float, shapes: list[Axes], limits: _Limits, work: Callable[[Axes], Work], law: _PowerLaw) -> Axes | None:
    """The shape within the limits whose footprint is nearest to `target` bytes; `None` if there is none. Only shapes that `law`
    expects to be nearest are captured, and it learns from them."""
    best: tuple[float, Axes] | None = None
    while shapes:
        logs = law(shapes)
        distances = abs(logs[:, 0] - math.log(target))
        distances[(logs > [math.log(limits.largest), math.log(limits.flops)]).any(axis=1)] = math.inf
        nearest = int(distances.argmin())
        if best is not None and best[0] <= distances[nearest] + _NEAR:
            break
        axes = shapes.pop(nearest)
        captured = work(axes)
        law.learn(axes, captured)
        distance = abs(math.log(captured.bytes / target))
        if limits.allow(captured) and (best is None or distance < best[0]):
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
            axes = module.resolve({**sweep.fixed, **dict.fromkeys(sweep.moving, size)})
            work = work_of(sweep.workload, axes, dtype)
            if not limits.allow(work) or work.bytes > limits.bands[-1][1]:
                break
            yield sweep.workload, axes
