"""The suite "planned": the cases of "micro", ordered by how much a second of measuring each tells about the machine."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from shmoo.calibrate.design.planning import plan
from shmoo.calibrate.fit.base import base_profile
from shmoo.calibrate.fit.dataset import MeasuredCase, blocks
from shmoo.calibrate.fit.fit import predicted_latency
from shmoo.estimators.machine.coefficients import Coefficients
from shmoo.estimators.progress import Progress, Standing, silent
from shmoo.harness.capture.traced import capture_traced
from shmoo.harness.measuring.timing import MeasureSettings
from shmoo.harness.workloads.loading import find_workload
from shmoo.runs.store.records import CaseSpec, Machine

OVERHEAD_S = 0.35
"""Time to build, capture and store one case."""
COMPILING_S = 10.0
"""Time to compile one synthetic model."""
LEAST_SAMPLES = 10
"""Calls of even the slowest case, including its warm-up."""


def most_telling_first(
    cases: Sequence[CaseSpec],
    machine: Machine,
    device: str = "cpu",
    progress: Progress = silent,
) -> tuple[CaseSpec, ...]:
    """All of the cases, in the order of information per time. Nothing is measured: shapes come from the meta device, and each
    case's information from the model of a machine of this description.

    Args:
        progress: told how many cases were looked at.

    Raises:
        InputError: a GPU without a built-in profile.
    """
    base = base_profile(machine, device)
    captured = []
    for position, case in enumerate(cases):
        built = find_workload(case.workload).build(case.axes, case.dtype, "meta")
        graphs = capture_traced(built.model, built.args, built.kwargs, name=case.workload).graphs
        captured.append(MeasuredCase(case, graphs, 1.0))
        progress(Standing("planning", position + 1, len(cases)))
    latencies = np.zeros(len(cases))
    for block in blocks(captured, base):
        latencies[[case.runtime == block.runtime for case in cases]] = predicted_latency([block], Coefficients(base))
    costs = [_measuring_s(case, call_s) for case, call_s in zip(cases, latencies.tolist(), strict=True)]
    return tuple(cases[i] for i in plan(captured, base, costs))


def _measuring_s(case: CaseSpec, call_s: float) -> float:
    """Seconds to measure a case whose calls take about `call_s`."""
    settings = MeasureSettings()
    window = settings.operator.warmup_s + settings.operator.max_s
    seconds = OVERHEAD_S + max(window, LEAST_SAMPLES * call_s)
    if case.runtime != "eager":
        return seconds + COMPILING_S
    return seconds if case.kind == "operator" else seconds + settings.children_s
