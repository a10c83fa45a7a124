"""Energy coefficients from measured energies: E = sum F_u e_u + sum B_l e_l + P t (Choi et al., IPDPS 2013).

P is a fitted constant power, not idle power; energies are gross and nothing is subtracted. Measured idle power checks P, because
a working chip draws no less than an idle one. t is the time of the calls while their energy was read, because a call that a
neighbour slowed down drew the constant power for longer. The system is linear, and no energy is below a tenth of the low end of
the profile's range. Errors are relative, and readings whose windows disagree weigh less. Each unknown has a weak prior at the
profile's value, because flops, bytes and time rise together in most workloads and the data alone may not separate them: a
coefficient that stays at its prior is named and keeps the prior's range.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import lsq_linear

from shmoo.calibrate.fit.dataset import Block
from shmoo.calibrate.fit.fit import weights_of
from shmoo.estimators.graph.dtypes import COMPUTE_DTYPES
from shmoo.estimators.graph.records import NORMAL_90, Coefficient
from shmoo.estimators.machine.catalogue import energy_names, entry
from shmoo.estimators.machine.profile import ArchitectureProfile

MIN_ENERGY_CASES = 5
MODEL_NOISE = 0.05
"""Expected relative error of the model itself: a reading that repeats better than this does not weigh more."""
PRIOR_WEIGHT = 0.01
"""Weight of a prior relative to all data: enough to keep collinear unknowns finite, and too little to oppose the data."""
LEAST = 0.1
"""Lowest energy of a flop or byte relative to the low end of the profile's range, which covers the datapath or array alone."""


@dataclass(frozen=True, slots=True)
class FittedEnergy:
    """Energy coefficients, and those that the data could not separate.

    Attributes:
        coefficients: name -> fitted coefficient; "power.idle" among them where idle power was measured.
        residuals: (S,) log(predicted / measured), NaN for cases without energy.
        condition: condition number of the weighted, column-scaled system.
        at_bound: names that ended at their lower bounds.
        unidentified: names whose values come from the prior.
    """

    coefficients: dict[str, Coefficient]
    residuals: np.ndarray
    condition: float
    at_bound: tuple[str, ...]
    unidentified: tuple[str, ...]

    @property
    def static_power(self) -> str:
        """The fitted static power compared with idle power, in words."""
        static, idle = self.coefficients["power.static"], self.coefficients.get("power.idle")
        if idle is None:
            return f"static power {static.value:.3g} W; idle power was not measured beside it"
        both = f"static power {static.value:.3g} W, {idle.value:.3g} W measured idle"
        if static.bounds[1] >= idle.value:
            return both
        return (
            f"{both}: a chip at work draws no less, so a part of it was attributed to flops or bytes; measure long cases with "
            "little work, such as small operators, beside those with much"
        )


def fit_energy(blocks: Sequence[Block], profile: ArchitectureProfile, reference: str) -> FittedEnergy | None:
    """Fit energy per flop, energy per byte and static power; `None` when fewer than 5 cases have an energy.

    Args:
        reference: the coefficients' `reference` field.
    """
    names, features = _features(blocks, profile)
    cases = [case for block in blocks for case in block.cases]
    measured = np.concatenate([block.energy_j for block in blocks])
    metered = np.isfinite(measured)
    if metered.sum() < MIN_ENERGY_CASES:
        return None
    used = (features[metered] > 0).any(axis=0)
    names = [name for name, keep in zip(names, used, strict=True) if keep]
    trust = weights_of(np.asarray([case.energy_sd_j or 0.0 for case in cases])[metered] / measured[metered], MODEL_NOISE)
    a = features[metered][:, used] / measured[metered, None] * trust[:, None]
    scale = np.linalg.norm(a, axis=0)
    # The prior of a coefficient is the profile's value of it, or of the nearest one that the profile has.
    priors = [
        next((profile.coefficients[near] for near in energy_names(name) if near in profile.coefficients), None) for name in names
    ]
    center = np.asarray([prior.value if prior else 0.0 for prior in priors])
    weight = PRIOR_WEIGHT * float(np.linalg.norm(trust))
    with_prior = center > 0
    rows = np.diag(np.where(with_prior, weight / np.where(with_prior, center, 1.0), 0.0))[with_prior]
    system = np.vstack([a, rows]) / scale
    target = np.concatenate([trust, np.full(with_prior.sum(), weight)])
    # Static power has no lower bound: idle power checks it afterwards.
    bounded = zip(names, priors, strict=True)
    least = np.asarray([LEAST * prior.bounds[0] if prior and name != "power.static" else 0.0 for name, prior in bounded])
    values = lsq_linear(system, target, bounds=(least * scale, np.inf)).x / scale
    predicted = features[:, used] @ values
    deviation = a @ values - trust
    variance = float(deviation @ deviation) / max(metered.sum() - len(names), 1)
    covariance = np.linalg.pinv(system.T @ system) * max(variance, 1e-12)
    stderr = np.sqrt(np.maximum(np.diag(covariance), 0.0)) / scale
    by_prior = _resolution(a / scale, rows / scale) < 0.5
    weak = by_prior | (stderr > 0.5 * np.maximum(values, 1e-30))
    residuals = np.full(len(measured), np.nan)
    residuals[metered] = np.log(np.maximum(predicted[metered], 1e-30) / measured[metered])
    at_bound = values <= 1.001 * least
    coefficients = {
        name: _coefficient(name, float(value), float(error), prior if keeps else None, bool(bound), reference)
        for name, value, error, prior, keeps, bound in zip(names, values, stderr, priors, by_prior, at_bound, strict=True)
    }
    idle = [case.idle_w for case in cases if case.idle_w is not None]
    if idle:
        low, middle, high = np.quantile(idle, (0.05, 0.5, 0.95)).tolist()
        why = f"median of {len(idle)} readings with nothing running; {reference}"
        coefficients["power.idle"] = Coefficient(middle, "W", "fitted", why, low=low, high=high)
    condition = float(np.linalg.cond(a / scale))
    names_at_bound, unidentified = (tuple(np.asarray(names)[mask].tolist()) for mask in (at_bound, weak))
    return FittedEnergy(coefficients, residuals, condition, names_at_bound, unidentified)


def _coefficient(name: str, value: float, error: float, prior: Coefficient | None, at_bound: bool, reference: str) -> Coefficient:
    """A fitted coefficient; one whose value comes from `prior` has the prior's range."""
    unit = entry(name).unit
    low, high = max(value - NORMAL_90 * error, 0.0), value + NORMAL_90 * error
    if prior is None:
        return Coefficient(value, unit, "at bound" if at_bound else "fitted", reference, error, low, high)
    low, high = min(value, prior.bounds[0]), max(value, prior.bounds[1])
    return Coefficient(value, unit, "at bound" if at_bound else "prior", reference, low=low, high=high)


def _resolution(data: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """(F,) share of each coefficient that the data decide; the prior decides the rest. It is the diagonal of the model
    resolution matrix (Menke, Geophysical Data Analysis, 2018, chapter 4): by its residuals, a fit of one repeated row is
    exact."""
    information = data.T @ data
    return np.diag(np.linalg.pinv(information + prior.T @ prior) @ information)


def _features(blocks: Sequence[Block], profile: ArchitectureProfile) -> tuple[list[str], np.ndarray]:
    """Coefficient of each column, and (S, F) flops by unit and type, bytes by level, and seconds."""
    dtypes = sorted({int(code) for block in blocks for code in np.unique(block.table.dtype)})
    names = [f"energy.flop.matrix.{COMPUTE_DTYPES[code]}" for code in dtypes]
    names += [f"energy.flop.vector.{COMPUTE_DTYPES[code]}" for code in dtypes]
    names += [f"energy.byte.{level}" for level in profile.levels]
    names.append("power.static")
    parts = []
    for block in blocks:
        table, count = block.table, block.table.segments
        columns = [np.where(table.dtype == code, table.matrix_flops, 0.0) for code in dtypes]
        columns += [np.where(table.dtype == code, table.vector_flops + table.special_flops, 0.0) for code in dtypes]
        columns += [block.tiling.level_bytes[level] for level in profile.levels]
        summed = [np.bincount(table.segment, weights=column, minlength=count) for column in columns]
        parts.append(np.stack([*summed, block.energy_pace_s], axis=1))
    return names, np.concatenate(parts)
