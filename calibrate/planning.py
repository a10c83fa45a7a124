"""Which cases to measure first: those that tell the most about what models take, for the time they take themselves.

The log latency of a case changes with the logarithms of the coefficients by the rows of a Jacobian, which follows from the model
at the starting profile: nothing has to be measured. With the priors of the fit, these rows give the covariance C of the
predictions. Measuring case i with noise s lowers the variance of prediction t by C_ti^2 / (s^2 + C_ii). The order takes the case
that lowers the weighted sum of all variances most a second, updates C by a matrix of rank one, and goes on (sequential design:
Cohn, Ghahramani and Jordan, "Active learning with statistical models", JAIR 4, 1996; Chaloner and Verdinelli, Statistical Science
10(3), 1995). Whole models weigh more than operators: they are what a machine is asked about.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from shmoo.calibrate.dataset import MeasuredCase, blocks
from shmoo.calibrate.fit import Response
from shmoo.calibrate.parameters import parameters_for
from shmoo.estimators.errors import InputError
from shmoo.estimators.profile import ArchitectureProfile

NOISE = 0.1
"""Standard deviation of the log error that the model is expected to leave; it only decides how soon a second look at the same
coefficient is worth less than a first look at another."""
MODEL_WEIGHT = 3.0
"""Worth of knowing a model's time, that of an operator being 1. Of 1, 3, 8 and 20 tried on a run, 1 and 3 were within 1.2 times
the full suite's error after four minutes, for models and operators."""
SHORTEST_S = 0.5
"""No case takes less, whatever a stamp in whole seconds says."""
CHECKED = 8
"""Every so many-th case is one of those that the splits keep out of the fit, so that its error can be told."""


def plan(
    cases: Sequence[MeasuredCase], base: ArchitectureProfile, seconds: Sequence[float], *, budget_s: float = math.inf
) -> list[int]:
    """Positions of the cases to measure, the most telling first, until their time is used up.

    Args:
        cases: what could be measured, with graphs; their latencies are not looked at.
        base: the machine as its description has it.
        seconds: what measuring each case takes.
        budget_s: the positions' seconds add up to at most this.

    Raises:
        InputError: no cases, or as many seconds as there are not cases.
    """
    if not cases or len(cases) != len(seconds):
        raise InputError(
            f"{len(cases)} cases and {len(seconds)} times to plan with; pass one time for each case, and at least one"
        )
    fitted = [i for i, case in enumerate(cases) if case.case.split == "fit"]
    others = iter([i for i in range(len(cases)) if cases[i].case.split != "fit"])
    pool = [cases[i] for i in fitted]
    ranked = most_telling(sensitivities(pool, base), [seconds[i] for i in fitted], importance(pool))
    chosen = [fitted[i] for i in ranked]
    order: list[int] = []
    for position in chosen:
        order.append(position)
        if len(order) % CHECKED == CHECKED - 1:
            order += [check for check in (next(others, None),) if check is not None]
    order += others
    spent = np.cumsum([seconds[i] for i in order])
    return order[: int(np.searchsorted(spent, budget_s, side="right"))]


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


def most_telling(
    rows: np.ndarray, seconds: Sequence[float], weights: np.ndarray | None = None, noise: float = NOISE
) -> list[int]:
    """Every row once, the one that tells most a second first.

    Args:
        rows: (S, P) sensitivities to P independent coefficients of unit variance.
        seconds: (S,) what each costs.
        weights: (S,) what each prediction is worth knowing; 1 for `None`.
    """
    costs = np.maximum(np.asarray(seconds, dtype=np.float64), SHORTEST_S)
    worth = np.ones(len(rows)) if weights is None else weights
    covariance = rows @ rows.T
    left = np.ones(len(rows), dtype=bool)
    order = []
    for _ in range(len(rows)):
        total = noise**2 + np.diag(covariance)
        gain = np.where(left, worth @ covariance**2 / total / costs, -np.inf)
        best = int(gain.argmax())
        order.append(best)
        left[best] = False
        column = covariance[:, best].copy()
        covariance -= np.outer(column, column / total[best])
    return order


def importance(cases: Sequence[MeasuredCase]) -> np.ndarray:
    """(S,) what knowing each case's time is worth: `MODEL_WEIGHT` for graphs of several calls, 1 for operators."""
    return np.asarray([MODEL_WEIGHT if sum(len(g.calls) for g in case.graphs) > 1 else 1.0 for case in cases])
