"""The predicted schedule of a model: when each kernel is launched, starts and ends, from the entry of the call."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from shmoo.estimators.graph.records import Graph
from shmoo.estimators.machine.coefficients import Coefficients
from shmoo.estimators.machine.profile import check_runtime
from shmoo.estimators.predict.director import AnalysisDirector, Estimate, KernelEstimate
from shmoo.estimators.predict.graph_table import tabulated
from shmoo.estimators.predict.model import ASYNCHRONOUS
from shmoo.estimators.predict.program import kernel_times


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
    """The estimate of one call, and its kernels in time; arguments and errors as of `AnalysisDirector.estimate`. The last kernel
    ends when the predicted latency is over."""
    runtime = check_runtime(director.profile, runtime)
    family = director.profile.family
    work = tabulated(tuple(graphs), runtime, family, compute_dtype)
    estimate = director.estimate_tabulated(work, runtime, batch=batch)
    priced = director.price(work.table, runtime)
    launched, start, end = kernel_times(work.table, priced.prediction, Coefficients(director.profile))
    # Segments follow one another, and each of them ends with its last kernel or with the host.
    last = work.table.starts + work.table.counts - 1
    # To a femtosecond: sums of the same times in two orders differ in their last digits.
    entered = np.round(np.cumsum(priced.latency_s) - np.maximum(end, launched)[last], 15)[work.table.segment]
    launch = priced.prediction.launch_s
    return estimate, tuple(
        Scheduled(
            kernel,
            float(entered[i] + start[i]),
            float(entered[i] + end[i]),
            (float(entered[i] + launched[i] - launch[i]), float(entered[i] + launched[i])) if family in ASYNCHRONOUS else None,
        )
        for i, kernel in enumerate(estimate.breakdown)
    )
