"""The predicted schedule of a model: when each kernel is launched, starts and ends, from the entry of the call."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from shmoo.estimators.coefficients import Coefficients, algorithm_codes
from shmoo.estimators.director import AnalysisDirector, Estimate, KernelEstimate
from shmoo.estimators.model import ASYNCHRONOUS, CALLED_ALONE
from shmoo.estimators.profile import check_runtime
from shmoo.estimators.records import Graph
from shmoo.estimators.tabulated import tabulated


class Scheduled(msgspec.Struct, frozen=True):
    """One kernel in time, in seconds from the entry of the call.

    Attributes:
        launch_s: when the host begins to launch it, and when it is done with it; `None` where the kernel runs in its launch
            (everything but GPUs).
        start_s, end_s: when it runs.
    """

    kernel: KernelEstimate
    start_s: float
    end_s: float
    launch_s: tuple[float, float] | None = None


def schedule(
    director: AnalysisDirector,
    graphs: Sequence[Graph],
    runtime: str | None = None,
    *,
    compute_dtype: str | None = None,
    batch: int = 1,
) -> tuple[Estimate, tuple[Scheduled, ...]]:
    """The estimate of one call, and its kernels in time. The last of them ends when the predicted latency is over.

    Args:
        graphs, runtime, compute_dtype, batch: as `AnalysisDirector.estimate` takes them.

    Raises:
        InputError: as `AnalysisDirector.estimate`.
    """
    runtime = check_runtime(director.profile, runtime)
    family = director.profile.family
    work = tabulated(tuple(graphs), runtime, family, compute_dtype)
    estimate = director.estimate_tabulated(work, runtime, batch=batch)
    coefficients = Coefficients(director.profile)
    counts = np.bincount(work.table.segment)
    entry = float(coefficients.value(f"graph.{runtime}", "graph"))
    asynchronous = family in ASYNCHRONOUS
    tails = coefficients.by_algorithm(algorithm_codes(work.table, director.profile), "launch_tail") if asynchronous else None
    slots: list[Scheduled] = []
    end = 0.0
    position = 0
    for count in counts:
        kernels = estimate.breakdown[position : position + count]
        # As in `model.graph_latency`: a lone call's launch holds what entering the graph costs.
        end += entry if count > 1 or runtime not in CALLED_ALONE else 0.0
        if tails is None:
            for kernel in kernels:
                slots.append(Scheduled(kernel, end, end + kernel.latency_s))
                end += kernel.latency_s
        else:
            placed = _overtaken(kernels, tails[position : position + count], end)
            slots += placed
            end = max(placed[-1].end_s, placed[-1].launch_s[1])
        position += count
    return estimate, tuple(slots)


def _overtaken(kernels: Sequence[KernelEstimate], tails: Sequence[float], begin: float) -> list[Scheduled]:
    """Kernels that the host launches ahead of the device: one starts when the host has handed it over and the one before it has
    ended. The share `tail` of a launch follows the hand-over."""
    host = device = begin
    placed = []
    for kernel, tail in zip(kernels, tails, strict=True):
        launched = host + kernel.launch_s
        start = max(launched - tail * kernel.launch_s, device)
        device = start + kernel.latency_s - kernel.launch_s
        placed.append(Scheduled(kernel, start, device, (host, launched)))
        host = launched
    return placed
