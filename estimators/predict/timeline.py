"""The predicted schedule of a model: when each kernel is launched, starts and ends, from the entry of the call."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from shmoo.estimators.graph.records import Graph
from shmoo.estimators.machine.coefficients import Coefficients
from shmoo.estimators.machine.profile import check_runtime
from shmoo.estimators.predict.director import AnalysisDirector, Estimate, KernelEstimate
from shmoo.estimators.predict.graph_table import tabulate_model
from shmoo.estimators.predict.model import ASYNCHRONOUS
from shmoo.estimators.predict.program import kernel_times


class KernelSpan(msgspec.Struct, frozen=True):
    """One kernel in time, in seconds from the entry of the call.

    Attributes:
        launch_s: begin and end of its launch by the host; `None` where the kernel runs in its launch (all but GPUs).
        start_s, end_s: begin and end of the kernel.
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
) -> tuple[Estimate, tuple[KernelSpan, ...]]:
    """The estimate of one call, and its kernels in time; arguments and errors as of `AnalysisDirector.estimate`. The last kernel
    ends at the predicted latency."""
    runtime = check_runtime(director.profile, runtime)
    family = director.profile.family
    work = tabulate_model(tuple(graphs), runtime, family, compute_dtype)
    estimate = director.estimate_table(work, runtime, batch=batch)
    prices = director.price(work.table, runtime)
    launch_ends, start, end = kernel_times(work.table, prices.prediction, Coefficients(director.profile))
    # Segments follow one another, and each of them ends with its last kernel or with the host.
    last_rows = work.table.starts + work.table.counts - 1
    # To a femtosecond: sums of the same times in two orders differ in their last digits.
    entries = np.round(np.cumsum(prices.latency_s) - np.maximum(end, launch_ends)[last_rows], 15)[work.table.segment]
    launch = prices.prediction.launch_s
    return estimate, tuple(
        KernelSpan(
            kernel,
            float(entries[i] + start[i]),
            float(entries[i] + end[i]),
            (float(entries[i] + launch_ends[i] - launch[i]), float(entries[i] + launch_ends[i]))
            if family in ASYNCHRONOUS
            else None,
        )
        for i, kernel in enumerate(estimate.breakdown)
    )
