"""The suite "planned": the cases of "micro", those first that tell the most about a machine of this description a second."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from shmoo.calibrate.base import base_profile
from shmoo.calibrate.dataset import MeasuredCase, blocks
from shmoo.calibrate.fit import predicted_latency
from shmoo.calibrate.planning import plan
from shmoo.estimators.coefficients import Coefficients
from shmoo.estimators.progress import Progress, Standing, silent
from shmoo.harness.capture.traced import capture_traced
from shmoo.harness.settings import MeasureSettings
from shmoo.harness.workloads.catalog import find_workload
from shmoo.runs.records import CaseSpec, Machine

BESIDE_S = 0.35
"""Building, capturing and storing one case."""
COMPILING_S = 10.0
"""Compiling one synthetic model."""
LEAST_SAMPLES = 10
"""Calls that even a slow case is given, its warm-up included."""


def most_telling_first(
    cases: Sequence[CaseSpec],
    machine: Machine,
    device: str = "cpu",
    progress: Progress = silent,
) -> tuple[CaseSpec, ...]:
    """All of the cases, in the order in which measuring them is worth its time. Nothing is measured: shapes come from the meta
    device, and what each case would tell from the model of a machine of this description.

    Args:
        progress: told how many cases were looked at.

    Raises:
        InputError: a GPU that no built-in profile describes.
    """
    base = base_profile(machine, device)
    known = []
    for position, case in enumerate(cases):
        built = find_workload(case.workload).build(case.axes, case.dtype, "meta")
        graphs = capture_traced(built.model, built.args, built.kwargs, name=case.workload).graphs
        known.append(MeasuredCase(case, graphs, 1.0))
        progress(Standing("planning", position + 1, len(cases)))
    order = plan(
        known, base, [expected_s(case.case, seconds) for case, seconds in zip(known, _predicted(known, base), strict=True)]
    )
    return tuple(cases[i] for i in order)


def expected_s(case: CaseSpec, call_s: float, settings: MeasureSettings | None = None) -> float:
    """Seconds that measuring a case takes, whose calls take about `call_s`."""
    settings = settings or MeasureSettings()
    window = settings.operator.warmup_s + settings.operator.max_s
    seconds = BESIDE_S + max(window, LEAST_SAMPLES * call_s)
    if case.kind != "operator" and case.runtime == "eager":
        seconds += settings.children_s
    return seconds + (COMPILING_S if case.runtime != "eager" else 0.0)


def _predicted(cases: Sequence[MeasuredCase], base) -> list[float]:
    found = np.zeros(len(cases))
    for block in blocks(cases, base):
        places = [i for i, case in enumerate(cases) if case.case.runtime == block.runtime]
        found[places] = predicted_latency([block], Coefficients(base))
    return found.tolist()
