"""Which cases to measure first: those that tell the most about a machine's coefficients for the time they take.

The log latency of a case changes with the logarithms of the coefficients by the rows of a Jacobian, which follows from the model
at the starting profile: nothing has to be measured. With the priors of the fit, knowing a case lowers the determinant of the
coefficients' covariance by the factor 1 + v / noise^2, v being the variance that the case's prediction has before. The order
takes the case with the largest log(1 + v / noise^2) a second, updates the covariance by a matrix of rank one, and goes on
(sequential D-optimal design: Fedorov, "Theory of Optimal Experiments", 1972; Bayesian: Chaloner and Verdinelli, Statistical
Science 10(3), 1995).
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
    chosen = [fitted[i] for i in most_telling(sensitivities([cases[i] for i in fitted], base), [seconds[i] for i in fitted])]
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


def most_telling(rows: np.ndarray, seconds: Sequence[float], noise: float = NOISE) -> list[int]:
    """Every row once, the one that tells most a second first.

    Args:
        rows: (S, P) sensitivities to P independent coefficients of unit variance.
        seconds: (S,) what each costs.
    """
    costs = np.asarray(seconds, dtype=np.float64)
    covariance = np.eye(rows.shape[1])
    variance = (rows**2).sum(axis=1)
    left = np.ones(len(rows), dtype=bool)
    order = []
    for _ in range(len(rows)):
        worth = np.where(left, np.log1p(variance / noise**2) / costs, -np.inf)
        best = int(worth.argmax())
        order.append(best)
        left[best] = False
        direction = covariance @ rows[best]
        total = noise**2 + variance[best]
        covariance -= np.outer(direction, direction) / total
        variance = np.maximum(variance - (rows @ direction) ** 2 / total, 0.0)
    return order
