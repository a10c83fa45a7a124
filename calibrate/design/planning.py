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
HELD_OUT_PERIOD = 8
"""One in this many cases is a held-out one, so that the error of the fit can be measured."""


def plan(cases: Sequence[MeasuredCase], base: ArchitectureProfile, seconds: Sequence[float]) -> list[int]:
    """Positions of the cases in the order to measure them, the most informative first. Latencies of the cases are ignored.

    Args:
        base: profile made from the machine's description.
        seconds: time to measure each case.

    Raises:
        InputError: no case, or not one time for each.
    """
    if not cases or len(cases) != len(seconds):
        raise InputError(
            f"{len(cases)} cases and {len(seconds)} times to plan with; pass one time for each case, and at least one"
        )
    fit_positions = [i for i, case in enumerate(cases) if case.case.split == "fit"]
    held_out_positions = iter([i for i in range(len(cases)) if cases[i].case.split != "fit"])
    pool = [cases[i] for i in fit_positions]
    order: list[int] = []
    for rank in most_telling(sensitivities(pool, base), [seconds[i] for i in fit_positions], importance(pool)):
        order.append(fit_positions[rank])
        if len(order) % HELD_OUT_PERIOD == HELD_OUT_PERIOD - 1:
            order += islice(held_out_positions, 1)
    return [*order, *held_out_positions]


def sensitivities(cases: Sequence[MeasuredCase], base: ArchitectureProfile) -> np.ndarray:
    """(S, P) change of each case's log latency by one prior standard deviation along P independent directions of coefficients."""
    case_blocks = blocks(cases, base)
    parameters = parameters_for(case_blocks, base)
    if not parameters:
        return np.zeros((len(cases), 0))
    response = Response(case_blocks, parameters, base)
    rows = response.jacobian(response.start) @ np.linalg.inv(response.pull)
    # Blocks hold the cases by runtime.
    by_runtime = sorted(range(len(cases)), key=lambda i: cases[i].case.runtime)
    return rows[np.argsort(by_runtime)]


def most_telling(rows: np.ndarray, seconds: Sequence[float], weights: np.ndarray | None = None) -> list[int]:
    """Positions of all rows, the most informative per second first. The rows give the covariance C of the predictions; measuring
    case i with noise s lowers the variance of prediction t by C_ti^2 / (s^2 + C_ii) and updates C by a matrix of rank one. Rows
    are (S, P) sensitivities to P independent coefficients of unit variance, `weights` (S,) of each prediction, 1 by default."""
    costs = np.maximum(np.asarray(seconds, dtype=np.float64), SHORTEST_S)
    prediction_weights = np.ones(len(rows)) if weights is None else weights
    covariance = rows @ rows.T
    candidates = np.ones(len(rows), dtype=bool)
    order = []
    for _ in range(len(rows)):
        total = NOISE**2 + np.diag(covariance)
        gain = np.where(candidates, prediction_weights @ covariance**2 / total / costs, -np.inf)
        choice = int(gain.argmax())
        order.append(choice)
        candidates[choice] = False
        column = covariance[:, choice].copy()
        covariance -= np.outer(column, column / total[choice])
    return order


def importance(cases: Sequence[MeasuredCase]) -> np.ndarray:
    """(S,) weight of each case: `MODEL_WEIGHT` for graphs of several calls, 1 for operators."""
    return np.asarray([MODEL_WEIGHT if sum(len(g.calls) for g in case.graphs) > 1 else 1.0 for case in cases])
