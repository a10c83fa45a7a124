"""Order of measurement: the cases that tell most about the time of models, relative to the time they take, come first (sequential
design: Cohn, Ghahramani and Jordan, "Active learning with statistical models", JAIR 4, 1996; Chaloner and Verdinelli, Statistical
Science 10(3), 1995)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import numpy as np

from shmoo.calibrate.fit.dataset import MeasuredCase, blocks
from shmoo.calibrate.fit.fit import Response
from shmoo.calibrate.fit.parameters import parameters_for
from shmoo.estimators.errors import InputError
from shmoo.estimators.machine.profile import ArchitectureProfile

NOISE = 0.1
"""Expected standard deviation of the model's log error; it only decides how soon a second look at one coefficient is worth less
than a first look at another."""
MODEL_WEIGHT = 3.0
"""Weight of a model's time, relative to an operator's. Of 1, 3, 8 and 20 tried on a run, 1 and 3 were within 1.2 times the full
suite's error after four minutes, for models and operators."""
SHORTEST_S = 0.5
"""Least time of a case, because stamps are in whole seconds."""
CHECKED = 8
"""One in this many cases is a held-out one, so that the error of the fit can be measured."""


def plan(cases: Sequence[MeasuredCase], base: ArchitectureProfile, seconds: Sequence[float]) -> list[int]:
    """Positions of the cases in the order to measure them, the most informative first, from a profile of the machine's
    description and the seconds that each takes; nothing has to be measured, and latencies of the cases are ignored."""
    if not cases or len(cases) != len(seconds):
        raise InputError(
            f"{len(cases)} cases and {len(seconds)} times to plan with; pass one time for each case, and at least one"
        )
    fitted = [i for i, case in enumerate(cases) if case.case.split == "fit"]
    others = iter([i for i in range(len(cases)) if cases[i].case.split != "fit"])
    pool = [cases[i] for i in fitted]
    order: list[int] = []
    for rank in most_telling(sensitivities(pool, base), [seconds[i] for i in fitted], importance(pool)):
        order.append(fitted[rank])
        if len(order) % CHECKED == CHECKED - 1:
            order += islice(others, 1)
    return [*order, *others]


def sensitivities(cases: Sequence[MeasuredCase], base: ArchitectureProfile) -> np.ndarray:
    """(S, P) change of each case's log latency by one prior standard deviation along P independent directions of coefficients."""
    tabulated = blocks(cases, base)
    parameters = parameters_for(tabulated, base)
    if not parameters:
        return np.zeros((len(cases), 0))
    response = Response(tabulated, parameters, base)
    rows = response.jacobian(response.start) @ np.linalg.inv(response.pull)
    # Blocks hold the cases by runtime.
    by_runtime = sorted(range(len(cases)), key=lambda i: cases[i].case.runtime)
    return rows[np.argsort(by_runtime)]


def most_telling(rows: np.ndarray, seconds: Sequence[float], weights: np.ndarray | None = None) -> list[int]:
    """Positions of all rows, the most informative per second first. The rows give the covariance C of the predictions; measuring
    case i with noise s lowers the variance of prediction t by C_ti^2 / (s^2 + C_ii) and updates C by a matrix of rank one. Rows
    are (S, P) sensitivities to P independent coefficients of unit variance, `weights` (S,) of each prediction, 1 by default."""
    costs = np.maximum(np.asarray(seconds, dtype=np.float64), SHORTEST_S)
    worth = np.ones(len(rows)) if weights is None else weights
    covariance = rows @ rows.T
    left = np.ones(len(rows), dtype=bool)
    order = []
    for _ in range(len(rows)):
        total = NOISE**2 + np.diag(covariance)
        gain = np.where(left, worth @ covariance**2 / total / costs, -np.inf)
        best = int(gain.argmax())
        order.append(best)
        left[best] = False
        column = covariance[:, best].copy()
        covariance -= np.outer(column, column / total[best])
    return order


def importance(cases: Sequence[MeasuredCase]) -> np.ndarray:
    """(S,) weight of each case: `MODEL_WEIGHT` for graphs of several calls, 1 for operators."""
    return np.asarray([MODEL_WEIGHT if sum(len(g.calls) for g in case.graphs) > 1 else 1.0 for case in cases])
