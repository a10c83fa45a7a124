"""How much measuring is enough: held-out error against the number of calibration cases and the minutes they took.

A measured run is played again: from the cases of its fit split some are taken, in random order or the planned one, with what one
pass over them measured and took; the model is fitted to these, and predicts what the fit never sees.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import msgspec
import numpy as np

from shmoo.calibrate.base import base_profile
from shmoo.calibrate.dataset import Block, MeasuredCase, blocks, run_cases
from shmoo.calibrate.fit import fit_latency, predicted_latency
from shmoo.calibrate.parameters import parameters_for
from shmoo.calibrate.planning import importance, most_telling, sensitivities
from shmoo.estimators.coefficients import Coefficients
from shmoo.estimators.errors import InputError
from shmoo.estimators.profile import ArchitectureProfile
from shmoo.estimators.progress import Progress, Standing, silent
from shmoo.runs.store import Run

MINUTES = (0.5, 1.0, 2.0, 3.0, 4.0, 5.0)
REPEATS = 3
"""Random orders; their errors are averaged."""
LONGEST_S = 300.0
"""Longer gaps between two rows are pauses, not measuring."""


class CurvePoint(msgspec.Struct, frozen=True):
    """Errors of one calibration.

    Attributes:
        order: "random", "planned" or "everything" (all visits to all cases of the fit split).
        cases, minutes: calibration cases and the time that measuring them took.
        operators: mean absolute error of held-out operators and synthetic models; networks: of networks, `None` without any.
    """

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
    """The curve of a run.

    Args:
        path: a run directory with operators, better with networks too.
        base: profile to start from; made from the machine's description for `None`.
        minutes: where to look, in minutes of measuring.
        repeats: random orders to average.
        seed: of the random orders and the fits.
        progress: told before each fit.

    Raises:
        InputError: no case to fit or none to test.
    """
    run = Run.open(path)
    once, everything = run_cases(run, visits=1), run_cases(run)
    devices = {case.case.device for case in everything}
    start = base or base_profile(run.manifest.machine, devices.pop())
    pool = [case for case in once if case.case.split == "fit"]
    held_out = [case for case in everything if case.case.split != "fit"]
    if not pool or not any(case.case.kind != "network" for case in held_out):
        raise InputError(f"{path} has {len(pool)} cases to fit and {len(held_out)} to test; a curve needs both: measure a suite")
    tested = blocks(held_out, start)
    taken = case_seconds(run)
    seconds = [taken[case.case.identity, 0] for case in pool]
    points = []
    total, fits = 1 + len(minutes) * (repeats + 1), itertools.count()

    def judge(order: str, cases: Sequence[MeasuredCase], spent_s: float) -> CurvePoint:
        progress(Standing("curve", next(fits), total, now=f"{order}: {len(cases)} cases, {spent_s / 60:.1f} minutes"))
        fitted = blocks(cases, start)
        found = fit_latency(fitted, parameters_for(fitted, start), start, seed=seed, folds=0)
        return _point(order, len(cases), spent_s / 60, tested, Coefficients(start, found.values))

    whole = [case for case in everything if case.case.split == "fit"]
    names = {case.case.identity for case in whole}
    points.append(judge("everything", whole, sum(s for (name, _), s in taken.items() if name in names)))
    planned = most_telling(sensitivities(pool, start), seconds, importance(pool))
    shuffled = [np.random.default_rng(seed + i).permutation(len(pool)).tolist() for i in range(repeats)]
    for limit in minutes:
        drawn = [judge("random", *_within(order, pool, seconds, limit)) for order in shuffled]
        points += [_mean(drawn), judge("planned", *_within(planned, pool, seconds, limit))]
    return points


def case_seconds(run: Run) -> dict[tuple[str, int], float]:
    """Seconds from the start of each visit to the start of the next, by identity and visit: all that measuring it took, to the
    second that lines are stamped with. The last one, those before a pause and those without a stamp count their timing alone."""
    found: dict[tuple[str, int], float] = {}
    starts = [datetime.fromisoformat(row.measured_at) if row.measured_at else None for row in run.lines]
    for i, row in enumerate(run.lines):
        here, following = starts[i], starts[i + 1] if i + 1 < len(starts) else None
        taken = math.inf if here is None or following is None else (following - here).total_seconds()
        if not 0 <= taken <= LONGEST_S:
            taken = float(row.host.get("wall_s") or 0.0)
        key = row.case.identity, row.visit
        found[key] = found.get(key, 0.0) + taken
    return found


def _within(
    order: Sequence[int], pool: Sequence[MeasuredCase], seconds: Sequence[float], minutes: float
) -> tuple[list[MeasuredCase], float]:
    """The first cases of an order that together take so long, and their seconds."""
    spent = np.cumsum([seconds[i] for i in order])
    count = int(np.searchsorted(spent, 60 * minutes, side="right"))
    return [pool[i] for i in order[:count]], float(spent[count - 1]) if count else 0.0


def _point(order: str, cases: int, minutes: float, tested: Sequence[Block], coefficients: Coefficients) -> CurvePoint:
    error = np.abs(predicted_latency(tested, coefficients) / np.concatenate([b.measured_s for b in tested]) - 1.0)
    network = np.asarray([case.case.kind == "network" for block in tested for case in block.cases])
    of_networks = float(error[network].mean()) if network.any() else None
    return CurvePoint(order, cases, minutes, float(error[~network].mean()), of_networks)


def _mean(points: Sequence[CurvePoint]) -> CurvePoint:
    networks = [point.networks for point in points if point.networks is not None]
    return CurvePoint(
        points[0].order,
        round(float(np.mean([point.cases for point in points]))),
        float(np.mean([point.minutes for point in points])),
        float(np.mean([point.operators for point in points])),
        float(np.mean(networks)) if networks else None,
    )
