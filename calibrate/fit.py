"""Least squares on the log of the time: the model's own predicting function is the function fitted.

The residual of a case is log(predicted / measured), which is the relative error where that is small and treats factors of two
up and down alike. The loss is soft-L1 beyond 15 %, so that a few disturbed cases do not steer the rest. Parameters are fitted as
logarithms inside physical bounds. Each has a log-normal prior around its parent's value (an operator's around its algorithm's,
that around the machine's: partial pooling, Gelman and Hill, 2007) or its start, so that what few cases say is weighed with what
many say. The prior weighs as much as the noise found in a first fit: data without noise decide alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares

from shmoo.calibrate.dataset import Block
from shmoo.calibrate.parameters import Parameter
from shmoo.estimators.coefficients import Coefficients
from shmoo.estimators.errors import InputError
from shmoo.estimators.model import graph_latency, predict
from shmoo.estimators.profile import ArchitectureProfile

SOFT_LIMIT = 0.15
"""Log error beyond which a residual counts linearly."""
FIRST_WEIGHT, LEAST_WEIGHT, MOST_WEIGHT = 0.02, 0.001, 0.3
"""Noise assumed in the first fit, and the range it is looked for in: one prior standard deviation costs as much as one case that
is off by this."""
STARTS = 2


@dataclass(frozen=True, slots=True)
class Fitted:
    """Result of a fit.

    Attributes:
        values, log_sd: parameter name -> fitted value, and standard error of its logarithm.
        at_bound: names of parameters that ended on a bound.
        unidentified: names the data say next to nothing about: the prior holds them.
        residuals: (S,) log(predicted / measured) of every case given.
        condition: condition number of the scaled normal matrix of the data alone.
    """

    values: dict[str, float]
    log_sd: dict[str, float]
    at_bound: tuple[str, ...]
    unidentified: tuple[str, ...]
    residuals: np.ndarray
    condition: float


def predicted_latency(blocks: Sequence[Block], coefficients: Coefficients) -> np.ndarray:
    """(S,) predicted seconds of every case of every block, in order."""
    return np.concatenate(
        [
            graph_latency(
                block.table, predict(block.table, block.tiling, coefficients, block.runtime), coefficients, block.runtime
            )
            for block in blocks
        ]
    )


def fit_latency(
    blocks: Sequence[Block], parameters: Sequence[Parameter], profile: ArchitectureProfile, *, seed: int = 0
) -> Fitted:
    """Fit parameters to measured latencies.

    Args:
        blocks: the cases to fit.
        parameters: what may move; each `affects` spans the cases of `blocks` in order.
        profile: everything else about the machine.
        seed: of the starts after the first.

    Raises:
        InputError: nothing to fit, or fewer cases than parameters can be told apart with.
    """
    measured = np.concatenate([block.measured_s for block in blocks])
    if not parameters:
        raise InputError(
            f"{len(measured)} cases are too few to fit any coefficient: each algorithm needs 5; measure a larger suite"
        )
    names = [p.name for p in parameters]
    place = {name: i for i, name in enumerate(names)}
    parents = [(i, place[p.parent]) for i, p in enumerate(parameters) if p.parent is not None]
    start = np.log([p.start for p in parameters])
    bounds = np.log([p.low for p in parameters]), np.log([p.high for p in parameters])
    # Rows of the prior: x_i - x_parent, or x_i - start_i, over the standard deviation.
    pull = np.eye(len(names))
    centre = start.copy()
    for child, parent in parents:
        pull[child, parent] = -1.0
        centre[child] = 0.0
    scale = np.asarray([p.prior_sd for p in parameters])
    pull, centre = pull / scale[:, None], centre / scale
    log_measured = np.log(measured)
    affects = np.stack([p.affects for p in parameters])
    groups = _column_groups(affects)

    def log_ratio(x: np.ndarray) -> np.ndarray:
        overrides = dict(zip(names, np.exp(x).tolist(), strict=True))
        return np.log(predicted_latency(blocks, Coefficients(profile, overrides))) - log_measured

    def solve(x0: np.ndarray, weight: float):
        def residuals(x: np.ndarray) -> np.ndarray:
            return np.concatenate([log_ratio(x), weight * (pull @ x - centre)])

        def jacobian(x: np.ndarray) -> np.ndarray:
            return np.vstack([_data_jacobian(log_ratio, x, affects, groups), weight * pull])

        return least_squares(
            residuals, x0, jacobian, bounds=bounds, loss="soft_l1", f_scale=SOFT_LIMIT, x_scale="jac", max_nfev=60, ftol=1e-6
        )

    first = solve(start, FIRST_WEIGHT)
    weight = float(np.clip(_spread(log_ratio(first.x)), LEAST_WEIGHT, MOST_WEIGHT))
    rng = np.random.default_rng(seed)
    best = solve(first.x, weight)
    for _ in range(STARTS - 1):
        elsewhere = np.clip(start + rng.normal(0, 0.3, len(start)), bounds[0] + 1e-6, bounds[1] - 1e-6)
        found = solve(elsewhere, weight)
        best = found if found.cost < best.cost else best
    data = _data_jacobian(log_ratio, best.x, affects, groups)
    return _describe(best.x, names, log_ratio(best.x), data, weight * pull, bounds)


def _data_jacobian(log_ratio, x: np.ndarray, affects: np.ndarray, groups: list[list[int]]) -> np.ndarray:
    """(S, P) forward differences, one evaluation per group of columns that no case feels two of."""
    base = log_ratio(x)
    result = np.zeros((len(base), len(x)))
    step = 1e-5
    for group in groups:
        moved = x.copy()
        moved[group] += step
        change = (log_ratio(moved) - base) / step
        for column in group:
            result[affects[column], column] = change[affects[column]]
    return result


def _spread(residuals: np.ndarray) -> float:
    """Robust standard deviation: outliers were not allowed to steer the fit either."""
    return float(1.4826 * np.median(np.abs(residuals)))


def _column_groups(affects: np.ndarray) -> list[list[int]]:
    """Columns that may be moved together because no case depends on two of them (Curtis, Powell and Reid, 1974)."""
    groups: list[list[int]] = []
    covered: list[np.ndarray] = []
    for column in np.argsort(-affects.sum(axis=1), kind="stable"):
        for group, cover in zip(groups, covered, strict=True):
            if not (cover & affects[column]).any():
                group.append(int(column))
                cover |= affects[column]
                break
        else:
            groups.append([int(column)])
            covered.append(affects[column].copy())
    return groups


def _describe(x, names, residuals, data, prior, bounds) -> Fitted:
    free = max(len(residuals) - len(x), 1)
    variance = max(_spread(residuals) ** 2, 1e-12) * len(residuals) / free
    information = data.T @ data + prior.T @ prior
    log_sd = np.sqrt(np.clip(np.diag(np.linalg.pinv(information)) * variance, 0, None))
    scale = np.linalg.norm(data, axis=0)
    condition = float(np.linalg.cond(data[:, scale > 0] / scale[scale > 0])) if (scale > 0).any() else np.inf
    weak = scale < 2 * np.abs(np.diag(prior))
    tight = (x - bounds[0] < 1e-3) | (bounds[1] - x < 1e-3)
    return Fitted(
        values=dict(zip(names, np.exp(x).tolist(), strict=True)),
        log_sd=dict(zip(names, log_sd.tolist(), strict=True)),
        at_bound=tuple(name for name, hit in zip(names, tight, strict=True) if hit),
        unidentified=tuple(name for name, hit in zip(names, weak, strict=True) if hit),
        residuals=residuals,
        condition=condition,
    )
