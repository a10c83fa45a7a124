"""Least squares on the logarithm of the time, with the function that also predicts.

The residual of a case is log(predicted / measured), with a soft-L1 loss, so that a few disturbed cases do not steer the fit; a
case weighs less where its time is less certain than the model. Parameters are fitted as logarithms inside physical bounds. Each
has a log-normal prior around its parent's value (an operator's around its algorithm's, that around the machine's: partial
pooling, Gelman and Hill, 2007) or around its start, whose weight is the noise found in a first fit, so that noiseless data decide
alone.

Held-out errors come from repeated fits without a part of the cases, starting from the end of the first fit; with thousands of
cases a first-order formula suffices (approximate leave-one-out: Rad and Maleki, JRSS B 82(4), 2020).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import OptimizeResult, least_squares

from shmoo.calibrate.fit.dataset import Block
from shmoo.calibrate.fit.parameters import MIN_CASES, Parameter
from shmoo.estimators.errors import InputError
from shmoo.estimators.graph.records import NORMAL_90, Coefficient, Source
from shmoo.estimators.machine.coefficients import ALGORITHMS, Coefficients
from shmoo.estimators.machine.names import whose
from shmoo.estimators.machine.profile import ArchitectureProfile
from shmoo.estimators.predict.model import ASYNCHRONOUS
from shmoo.estimators.predict.pipeline import price
from shmoo.estimators.table import Floats

SOFT_LIMIT = 0.15
"""Log error beyond which a residual counts linearly."""
FIRST_WEIGHT, LEAST_WEIGHT, MOST_WEIGHT = 0.02, 0.001, 0.3
"""Noise of the first fit, then its least and largest value: one prior standard deviation costs as much as one case with this
error."""
STARTS = 2
MIN_IDENTIFIABLE = 2
"""Combinations of coefficients that the data must determine for each algorithm with its own: an overhead and a rate. A call of an
asynchronous device shows only the longer of the host's time and the device's, so that one each is enough there."""
STEP = 1e-5
"""Step of the logarithms in a finite difference."""
KERNELS_AT_ONCE = 200_000
"""Kernels priced at once over all points of a Jacobian: enough to hide the overhead of arrays, few enough for a cache."""
MOST_REFIT_CASES, FOLDS, REFIT_EVALUATIONS = 2000, 5, 8
"""Up to this many cases the fit is repeated without each of five parts of them, by a few steps from its end. The first-order
formula would show only about half of the errors of operators with few cases."""
HURRIED_EVALUATIONS = 8
"""Steps of the first fit that are taken even in a hurry: the first few remove most of the error."""
MOST_LOG_SD = 1.4
"""Log standard deviation beyond which, at a factor of ten, a value is unknown; a wider range would only overflow the draws."""
MODEL_NOISE = 0.1
"""Expected relative error of the model before the first fit."""
LEAST_LEVERAGE_COMPLEMENT = 0.05
"""Least share of a residual that the fit leaves when its leave-one-out value is derived: below it the first order fails."""


@dataclass(frozen=True, slots=True)
class LatencyFit:
    """Result of a fit.

    Attributes:
        values, log_sd: parameter name -> fitted value, and standard error of its logarithm.
        at_bound: names of parameters that ended on a bound.
        unidentified: names that the data hardly determine; their values come from the prior.
        residuals: (S,) log(predicted / measured) of every case given.
        left_out: (S,) residual of each case by a fit without it.
        condition: condition number of the scaled normal matrix of the data alone.
    """

    values: dict[str, float]
    log_sd: dict[str, float]
    at_bound: tuple[str, ...]
    unidentified: tuple[str, ...]
    residuals: np.ndarray
    left_out: np.ndarray
    condition: float


def predicted_latency(blocks: Sequence[Block], coefficients: Coefficients, residual: bool = False) -> Floats:
    """(S,) predicted seconds of every case of every block, in order; (D, S) where coefficients hold D values.

    `residual` applies the profile's corrections too.
    """
    prices = [price(b.table, b.tiling, coefficients, b.runtime, residual=residual) for b in blocks]
    times = [p.device_s if b.time == "device" else p.latency_s for b, p in zip(blocks, prices, strict=True)]
    return np.concatenate(times, axis=-1)


def log_errors(blocks: Sequence[Block], coefficients: Coefficients) -> Floats:
    """(S,) log(predicted / measured) of every case of every block, in order."""
    errors: Floats = np.log(predicted_latency(blocks, coefficients) / np.concatenate([block.measured_s for block in blocks]))
    return errors


def log_normal_coefficient(value: float, unit: str, source: Source, reference: str, log_sd: float) -> Coefficient:
    """A coefficient whose logarithm is known to a standard deviation, with its 90 % range."""
    factor = math.exp(NORMAL_90 * min(log_sd, MOST_LOG_SD))
    return Coefficient(value, unit, source, reference, value * log_sd, value / factor, value * factor)


class _StoppedError(Exception):
    """Ends a fit in a hurry."""


def patient() -> bool:
    """Never in a hurry."""
    return False


class Response:
    """The logarithm of each case's latency as a function of the logarithms of the parameters.

    Args:
        blocks: the S cases. parameters: the P parameters; each `affects` has an element for every case, in the same order.
        profile: gives every coefficient that is not a parameter.
    """

    def __init__(self, blocks: Sequence[Block], parameters: Sequence[Parameter], profile: ArchitectureProfile) -> None:
        self._blocks = blocks
        self._profile = profile
        self.names = [p.name for p in parameters]
        self.start, low, high = np.log([(p.space.start, p.space.low, p.space.high) for p in parameters]).T
        self.bounds = low, high
        self._at_once = max(1, KERNELS_AT_ONCE // max(sum(len(block.table) for block in blocks), 1))
        # Cases depend on parameters also through fallbacks of unfitted coefficients.
        depends = [change != 0 for change in self._changes(self.start, [[column] for column in range(len(parameters))])]
        self._affects = np.stack([p.affects for p in parameters]) | np.stack(depends)
        self._groups = _column_groups(self._affects)
        self.pull, self.centre = _prior(parameters, self.start)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """(S,) log seconds at these (P,) logarithms, or (D, S) at D points (D, P) at once."""
        values = np.exp(x)
        overrides = dict(zip(self.names, values.tolist() if x.ndim == 1 else list(values.T.copy()), strict=True))
        return np.log(predicted_latency(self._blocks, Coefficients(self._profile, overrides)))

    def _changes(self, x: np.ndarray, groups: Sequence[Sequence[int]]) -> Iterator[np.ndarray]:
        """(S,) change of the log seconds by a step of each group of parameters at once."""
        base = self(x)
        for start in range(0, len(groups), self._at_once):
            points = np.tile(x, (len(groups[start : start + self._at_once]), 1))
            for row, group in zip(points, groups[start:], strict=False):
                row[group] += STEP
            yield from self(points) - base

    def jacobian(self, x: np.ndarray) -> np.ndarray:
        """(S, P) forward differences, with one evaluation per group of columns that share no case."""
        result = np.zeros((self._affects.shape[1], len(x)))
        for change, group in zip(self._changes(x, self._groups), self._groups, strict=True):
            for column in group:
                result[self._affects[column], column] = change[self._affects[column]] / STEP
        return result


def _prior(parameters: Sequence[Parameter], start: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the prior, (P, P) and (P,): pull @ x - centre is x_i - x_parent, or x_i - start_i, over the standard deviation."""
    place = {p.name: i for i, p in enumerate(parameters)}
    pull, centre = np.eye(len(parameters)), start.copy()
    for child, parameter in enumerate(parameters):
        if parameter.parent is not None:
            pull[child, place[parameter.parent]] = -1.0
            centre[child] = 0.0
    scale = np.asarray([p.space.prior_sd for p in parameters])
    return pull / scale[:, None], centre / scale


def fit_latency(
    blocks: Sequence[Block],
    parameters: Sequence[Parameter],
    profile: ArchitectureProfile,
    *,
    seed: int = 0,
    folds: int = FOLDS,
    starts: int = STARTS,
    hurry: Callable[[], bool] = patient,
) -> LatencyFit:
    """Fit parameters to measured latencies.

    Args:
        blocks, parameters, profile: see `Response`.
        seed: seed of the starts after the first, and of the folds.
        starts: number of starting points; the best result counts.
        folds: number of parts left out in turn for `left_out`; 0 uses its first-order formula.
        hurry: called before every step; once it returns true the fit ends with the best point so far.

    Raises:
        InputError: nothing to fit, or cases that do not determine the coefficients.
    """
    log_measured = np.log(np.concatenate([block.measured_s for block in blocks]))
    errors = np.concatenate([block.relative_se for block in blocks])
    if not parameters:
        raise InputError(
            f"{len(log_measured)} cases are too few to fit any coefficient: an algorithm needs {MIN_CASES}; measure more"
        )
    response = Response(blocks, parameters, profile)

    all_cases = np.ones(len(errors), dtype=bool)

    def solve(
        x0: np.ndarray, weight: float, trust: np.ndarray, mask: np.ndarray = all_cases, evaluations: int = 150, min_steps: int = 0
    ) -> OptimizeResult:
        best, steps = OptimizeResult(x=x0, cost=np.inf), 0

        def residuals(x: np.ndarray) -> np.ndarray:
            nonlocal best, steps
            if steps > min_steps and hurry():
                raise _StoppedError
            steps += 1
            data = trust * (response(x) - log_measured)
            rows = np.concatenate([data[mask], weight * (response.pull @ x - response.centre)])
            cost = SOFT_LIMIT**2 * float((np.hypot(1.0, rows / SOFT_LIMIT) - 1.0).sum())
            if cost < best.cost:
                best = OptimizeResult(x=x.copy(), cost=cost)
            return rows

        def jacobian(x: np.ndarray) -> np.ndarray:
            return np.vstack([(trust[:, None] * response.jacobian(x))[mask], weight * response.pull])

        try:
            return least_squares(
                residuals,
                x0,
                jacobian,
                bounds=response.bounds,
                loss="soft_l1",
                f_scale=SOFT_LIMIT,
                x_scale="jac",
                max_nfev=evaluations,
                ftol=1e-6,
            )
        except _StoppedError:
            return best

    first_fit = solve(response.start, FIRST_WEIGHT, weights_of(errors, MODEL_NOISE), min_steps=HURRIED_EVALUATIONS)
    noise = _spread(response(first_fit.x) - log_measured)
    weight, trust = float(np.clip(noise, LEAST_WEIGHT, MOST_WEIGHT)), weights_of(errors, noise)
    is_overlapped = profile.family in ASYNCHRONOUS and all(block.time == "call" for block in blocks)
    per_algorithm = 1 if is_overlapped else MIN_IDENTIFIABLE
    _check_identifiable(
        response.jacobian(first_fit.x) @ np.linalg.inv(response.pull), weight, response.names, blocks, per_algorithm
    )
    rng = np.random.default_rng(seed)
    best = solve(first_fit.x, weight, trust)
    low, high = response.bounds
    for _ in range(starts - 1):
        if hurry():
            break
        start = np.clip(response.start + rng.normal(0, 0.3, len(low)), low + 1e-6, high - 1e-6)
        best = min(best, solve(start, weight, trust), key=lambda solution: solution.cost)
    fit = _describe(best.x, response, response(best.x) - log_measured, weight, trust)
    if not folds or len(log_measured) > MOST_REFIT_CASES:
        return fit
    left_out, fold = fit.left_out.copy(), rng.permutation(len(log_measured)) % folds
    for turn in range(folds):
        if hurry():
            # Errors by two formulas would not compare.
            return fit
        refit = solve(best.x, weight, trust, fold != turn, REFIT_EVALUATIONS)
        left_out[fold == turn] = (response(refit.x) - log_measured)[fold == turn]
    return replace(fit, left_out=left_out)


def weights_of(errors: np.ndarray, noise: float) -> np.ndarray:
    """(S,) weights of residuals: 1 for an exact measurement, falling as its relative standard error exceeds the model's noise."""
    return noise / np.hypot(noise, errors) if noise > 0 else np.ones_like(errors)


def _check_identifiable(
    jacobian: np.ndarray, noise: float, names: Sequence[str], blocks: Sequence[Block], per_algorithm: int = MIN_IDENTIFIABLE
) -> None:
    """`InputError` where the data determine fewer combinations of coefficients than the algorithms among them need.

    Args:
        jacobian: (S, P) change of the log latencies by one prior standard deviation along each of P independent
            directions. A direction is determined when the cases together move by more than their noise.
        per_algorithm: combinations that each algorithm needs.
    """
    rank = int((np.linalg.eigvalsh(jacobian.T @ jacobian) > noise**2).sum())
    owners = {whose(name) for name in names}
    algorithms = [algorithm for algorithm in ALGORITHMS if algorithm in owners]
    least_rank = min(max(per_algorithm * len(algorithms), MIN_IDENTIFIABLE), len(names))
    if rank >= least_rank:
        return
    extents = {extent: [getattr(block.table, extent) for block in blocks] for extent in ("batch", "m", "n", "k")}
    constant = [extent for extent, columns in extents.items() if all(x.max() <= 1.5 * x.min() for x in columns)]
    hint = f"; {', '.join(constant)} hardly vary" if constant else ""
    pair = "the longer of an overhead and a rate" if per_algorithm < MIN_IDENTIFIABLE else "an overhead and a rate"
    requirement = f" of {', '.join(algorithms)}; {pair} each are {least_rank}" if algorithms else f"; {least_rank} are the least"
    raise InputError(
        f"{len(jacobian)} cases determine only {rank} combinations of the {len(names)} coefficients{requirement}{hint}; "
        "measure more shapes, whose sizes vary independently of each other, as the suite micro does; --resume continues a run"
    )


def _spread(residuals: np.ndarray) -> float:
    return float(1.4826 * np.median(np.abs(residuals)))


def _column_groups(affects: np.ndarray) -> list[list[int]]:
    """Groups of columns that can move together because no case depends on two of them (Curtis, Powell and Reid, 1974)."""
    groups: list[list[int]] = []
    group_masks: list[np.ndarray] = []
    for column in np.argsort(-affects.sum(axis=1), kind="stable"):
        for group, cover in zip(groups, group_masks, strict=True):
            if not (cover & affects[column]).any():
                group.append(int(column))
                cover |= affects[column]
                break
        else:
            groups.append([int(column)])
            group_masks.append(affects[column].copy())
    return groups


def _leave_one_out(residuals: Floats, data: Floats, prior: Floats) -> Floats:
    """(S,) residuals by a fit without their own case: r + l psi / (1 - l psi'), with l = j' (J' D J + prior)^-1 j, psi
    the derivative of the loss and D = diag(psi')."""
    steep = 1.0 + (residuals / SOFT_LIMIT) ** 2
    psi, curvature = residuals / np.sqrt(steep), steep**-1.5
    information = data.T @ (data * curvature[:, None]) + prior.T @ prior
    leverage: Floats = np.einsum("sp,sp->s", data @ np.linalg.pinv(information, hermitian=True), data)
    return residuals + leverage * psi / np.maximum(1.0 - leverage * curvature, LEAST_LEVERAGE_COMPLEMENT)


def _describe(x: np.ndarray, response: Response, residuals: np.ndarray, weight: float, trust: np.ndarray) -> LatencyFit:
    names, bounds, prior = response.names, response.bounds, weight * response.pull
    data = trust[:, None] * response.jacobian(x)
    degrees_of_freedom = max(len(residuals) - len(x), 1)
    variance = max(_spread(residuals) ** 2, 1e-12) * len(residuals) / degrees_of_freedom
    information = data.T @ data + prior.T @ prior
    log_sd = np.sqrt(np.clip(np.diag(np.linalg.pinv(information)) * variance, 0, None))
    scale = np.linalg.norm(data, axis=0)
    condition = float(np.linalg.cond(data[:, scale > 0] / scale[scale > 0])) if (scale > 0).any() else np.inf
    weak = scale < 2 * np.abs(np.diag(prior))
    at_bound = (x - bounds[0] < 1e-3) | (bounds[1] - x < 1e-3)
    return LatencyFit(
        values=dict(zip(names, np.exp(x).tolist(), strict=True)),
        log_sd=dict(zip(names, log_sd.tolist(), strict=True)),
        at_bound=tuple(name for name, is_selected in zip(names, at_bound, strict=True) if is_selected),
        unidentified=tuple(name for name, is_selected in zip(names, weak, strict=True) if is_selected),
        residuals=residuals,
        left_out=_leave_one_out(trust * residuals, data, prior) / trust,
        condition=condition,
    )
