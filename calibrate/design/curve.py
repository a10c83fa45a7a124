"""Learning curve: held-out error against the number of calibration cases and the minutes to measure them. A measured run is
replayed: the model is fitted to the first visits of some cases, in random or planned order, and predicts the held-out cases."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from statistics import fmean

import msgspec
import numpy as np

from shmoo.calibrate.design.planning import importance, most_telling, sensitivities
from shmoo.calibrate.fit.base import base_profile
from shmoo.calibrate.fit.dataset import MeasuredCase, blocks, run_cases
from shmoo.calibrate.fit.fit import fit_latency, predicted_latency
from shmoo.calibrate.fit.parameters import parameters_for
from shmoo.estimators.errors import InputError
from shmoo.estimators.machine.coefficients import Coefficients
from shmoo.estimators.machine.profile import ArchitectureProfile
from shmoo.estimators.progress import Progress, Standing, silent
from shmoo.runs.store.store import Run

MINUTES = (0.5, 1.0, 2.0, 3.0, 4.0, 5.0)
REPEATS = 3
LONGEST_S = 300.0
"""Longer gaps between two rows are pauses."""


class CurvePoint(msgspec.Struct, frozen=True):
    """Mean absolute errors of held-out operators with synthetic models, and of networks (`None` without any), by one calibration
    in the order "random", "planned" or "everything" (all visits to all cases of the fit split)."""

    order: str
    cases: int
    minutes: float
    operators: float
    networks: float | None


def learning_curve(
    path: Path,
    *,
    base: ArchitectureProfile | None = None,
    minutes: Sequence[float] = MINUTES,
    repeats: int = REPEATS,
    seed: int = 0,
    progress: Progress = silent,
) -> list[CurvePoint]:
    """The learning curve of a run with operators, preferably with networks too.

    Args:
        minutes: measuring times.
        repeats: number of random orders, whose errors are averaged.

    Raises:
        InputError: no case to fit, or none to test.
    """
    run = Run.open(path)
    first_visits, all_cases = run_cases(run, visits=1), run_cases(run)
    devices = {case.case.device for case in all_cases}
    start = base or base_profile(run.manifest.machine, devices.pop())
    pool = [case for case in first_visits if case.case.split == "fit"]
    held_out = [case for case in all_cases if case.case.split != "fit"]
    if not pool or not any(case.case.kind != "network" for case in held_out):
        raise InputError(f"{path} has {len(pool)} cases to fit and {len(held_out)} to test; a curve needs both: measure a suite")
    test_blocks = blocks(held_out, start)
    measured_s = np.concatenate([block.measured_s for block in test_blocks])
    network = np.asarray([case.case.kind == "network" for block in test_blocks for case in block.cases])
    visit_seconds = case_seconds(run)
    seconds = [visit_seconds[case.case.identity, 0] for case in pool]
    points = []
    total, fits = 1 + len(minutes) * (repeats + 1), itertools.count()

    def judge(order: str, cases: Sequence[MeasuredCase], spent_s: float) -> CurvePoint:
        progress(Standing("curve", next(fits), total, now=f"{order}: {len(cases)} cases, {spent_s / 60:.1f} minutes"))
        fit_blocks = blocks(cases, start)
        values = fit_latency(fit_blocks, parameters_for(fit_blocks, start), start, seed=seed, folds=0).values
        error = np.abs(predicted_latency(test_blocks, Coefficients(start, values)) / measured_s - 1.0)
        of_networks = float(error[network].mean()) if network.any() else None
        return CurvePoint(order, len(cases), spent_s / 60, float(error[~network].mean()), of_networks)

    fit_cases = [case for case in all_cases if case.case.split == "fit"]
    names = {case.case.identity for case in fit_cases}
    points.append(judge("everything", fit_cases, sum(s for (name, _), s in visit_seconds.items() if name in names)))
    planned_order = most_telling(sensitivities(pool, start), seconds, importance(pool))
    random_orders = [np.random.default_rng(seed + i).permutation(len(pool)).tolist() for i in range(repeats)]
    for limit in minutes:
        random_points = [judge("random", *_affordable_cases(order, pool, seconds, limit)) for order in random_orders]
        points += [_mean(random_points), judge("planned", *_affordable_cases(planned_order, pool, seconds, limit))]
    return points


def case_seconds(run: Run) -> dict[tuple[str, int], float]:
    """Seconds from the start of each visit to the start of the next, by identity and visit: the whole cost of measuring it, as
    stamps are in whole seconds. The last visit, those before a pause and those without a stamp count their timing only."""
    seconds: dict[tuple[str, int], float] = {}
    starts = [datetime.fromisoformat(row.measured_at) if row.measured_at else None for row in run.lines]
    for row, start, next_start in zip(run.lines, starts, [*starts[1:], None], strict=False):
        elapsed_s = math.inf if start is None or next_start is None else (next_start - start).total_seconds()
        if not 0 <= elapsed_s <= LONGEST_S:
            elapsed_s = float(row.host.get("wall_s") or 0.0)
        key = row.case.identity, row.visit
        seconds[key] = seconds.get(key, 0.0) + elapsed_s
    return seconds


def _affordable_cases(
    order: Sequence[int], pool: Sequence[MeasuredCase], seconds: Sequence[float], minutes: float
) -> tuple[list[MeasuredCase], float]:
    """The first cases of an order that fit into `minutes`, and their seconds."""
    elapsed_s = np.cumsum([seconds[i] for i in order])
    count = int(np.searchsorted(elapsed_s, 60 * minutes, side="right"))
    return [pool[i] for i in order[:count]], float(elapsed_s[count - 1]) if count else 0.0


def _mean(points: Sequence[CurvePoint]) -> CurvePoint:
    networks = [point.networks for point in points if point.networks is not None]
    return CurvePoint(
        points[0].order,
        round(fmean(point.cases for point in points)),
        fmean(point.minutes for point in points),
        fmean(point.operators for point in points),
        fmean(networks) if networks else None,
    )
