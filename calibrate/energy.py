"""Energy coefficients from measured energies: E = sum F_u e_u + sum B_l e_l + P t (Choi et al., IPDPS 2013).

P is a fitted constant power, not idle power, and energies are gross; nothing is subtracted. Idle power, where it was measured,
checks P: a chip at work draws no less than one at rest. t is what the calls took while their energy was read, because a call that
a neighbour slowed down drew the constant power for longer. The system is linear, and no energy is below a tenth of the low end of
the profile's range. Errors are relative, and readings whose windows disagree weigh less than those that repeat. Each unknown has
a weak prior at the profile's value, because flops, bytes and time rise together in most workloads and the data alone may not
tell them apart: what stays at its prior is named, and keeps the prior's range.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import lsq_linear

from shmoo.calibrate.dataset import Block
from shmoo.estimators.catalogue import energy_names, entry
from shmoo.estimators.dtypes import COMPUTE_DTYPES
from shmoo.estimators.profile import ArchitectureProfile
from shmoo.estimators.records import NORMAL_90, Coefficient

MIN_ENERGY_CASES = 5
MODEL_NOISE = 0.05
"""Relative error that the model itself is expected to leave: a reading that repeats better than this does not weigh more."""
PRIOR_WEIGHT = 0.01
"""Weight of a prior as a share of all the data's: it keeps what is collinear finite and gives way to anything the data say."""
LEAST = 0.1
"""Lowest energy of a flop or byte as a share of the low end of the profile's range, which is a datapath's or an array's own."""


@dataclass(frozen=True, slots=True)
class FittedEnergy:
    """Energy coefficients and what the data could not tell apart.

    Attributes:
        coefficients: name -> fitted coefficient; "power.idle" among them where idle power was measured.
        residuals: (S,) log(predicted / measured), NaN for cases without energy.
        condition: condition number of the weighted, column-scaled system.
        at_bound: names that ended at the least they may be.
        unidentified: names that the prior holds.
    """

    coefficients: dict[str, Coefficient]
    residuals: np.ndarray
    condition: float
    at_bound: tuple[str, ...]
    unidentified: tuple[str, ...]

    @property
    def static_power(self) -> str:
        """What idle power says of the fitted static power."""
        static, idle = self.coefficients["power.static"], self.coefficients.get("power.idle")
        if idle is None:
            return f"static power {static.value:.3g} W; idle power was not measured beside it"
        said = f"static power {static.value:.3g} W, {idle.value:.3g} W measured idle"
        if static.bounds[1] >= idle.value:
            return said
        return (
            f"{said}: a chip at work draws no less, so flops or bytes hold a part of it; measure cases that do little for long, "
            "such as small operators, beside those that do much"
        )


def fit_energy(blocks: Sequence[Block], profile: ArchitectureProfile, reference: str) -> FittedEnergy | None:
    """Fit energy per flop, energy per byte and static power; `None` when fewer than 5 cases have an energy.

    Args:
        reference: what the coefficients' `reference` field says.
    """
    names, features = _features(blocks, profile)
    cases = [case for block in blocks for case in block.cases]
    measured = np.concatenate([block.energy_j for block in blocks])
    metered = np.isfinite(measured)
    if metered.sum() < MIN_ENERGY_CASES:
        return None
    used = (features[metered] > 0).any(axis=0)
    names = [name for name, keep in zip(names, used, strict=True) if keep]
    trust = _trust(np.asarray([case.energy_sd_j or 0.0 for case in cases])[metered] / measured[metered])
    a = features[metered][:, used] / measured[metered, None] * trust[:, None]
    scale = np.linalg.norm(a, axis=0)
    priors = [_prior(profile, name) for name in names]
    centre = np.asarray([prior.value if prior else 0.0 for prior in priors])
    weight = PRIOR_WEIGHT * float(np.linalg.norm(trust))
    pulled = centre > 0
    rows = np.diag(np.where(pulled, weight / np.where(pulled, centre, 1.0), 0.0))[pulled]
    system = np.vstack([a, rows])
    target = np.concatenate([trust, np.full(pulled.sum(), weight)])
    least = np.asarray([_least(name, prior) for name, prior in zip(names, priors, strict=True)])
    solved = lsq_linear(system / scale, target, bounds=(least * scale, np.inf))
    values = solved.x / scale
    predicted = features[:, used] @ values
    left = a @ values - trust
    variance = float(left @ left) / max(metered.sum() - len(names), 1)
    covariance = np.linalg.pinv((system / scale).T @ (system / scale)) * max(variance, 1e-12)
    stderr = np.sqrt(np.maximum(np.diag(covariance), 0.0)) / scale
    resolved = _resolution(a / scale, rows / scale)
    by_prior = resolved < 0.5
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
        coefficients["power.idle"] = _idle(idle, reference)
    return FittedEnergy(
        coefficients,
        residuals,
        float(np.linalg.cond(a / scale)),
        tuple(name for name, bound in zip(names, at_bound, strict=True) if bound),
        tuple(name for name, unsure in zip(names, weak, strict=True) if unsure),
    )


def _trust(relative_sd: np.ndarray) -> np.ndarray:
    """(S,) weights: 1 for a reading without spread, falling as its spread passes what the model itself is off by."""
    return MODEL_NOISE / np.hypot(MODEL_NOISE, relative_sd)


def _least(name: str, prior: Coefficient | None) -> float:
    """Lower bound. Static power is free: idle power tells, beside the fit, whether it can be true."""
    return 0.0 if prior is None or name == "power.static" else LEAST * prior.bounds[0]


def _coefficient(name: str, value: float, error: float, prior: Coefficient | None, at_bound: bool, reference: str) -> Coefficient:
    """A fitted coefficient; with a `prior`, one that the prior holds, whose range is the prior's."""
    unit = entry(name).unit
    low, high = max(value - NORMAL_90 * error, 0.0), value + NORMAL_90 * error
    if prior is None:
        return Coefficient(value, unit, "at bound" if at_bound else "fitted", reference, error, low, high)
    low, high = min(value, prior.bounds[0]), max(value, prior.bounds[1])
    return Coefficient(value, unit, "at bound" if at_bound else "prior", reference, low=low, high=high)


def _idle(watts: Sequence[float], reference: str) -> Coefficient:
    low, middle, high = np.quantile(watts, (0.05, 0.5, 0.95)).tolist()
    why = f"median of {len(watts)} readings with nothing running; {reference}"
    return Coefficient(middle, "W", "fitted", why, low=low, high=high)


def _resolution(data: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """(F,) share of each coefficient that the data decide, 1 for all of it; the prior decides the rest. The diagonal of the model
    resolution matrix (Menke, Geophysical Data Analysis, 2018, chapter 4): residuals alone would call a fit of one repeated row
    exact."""
    information = data.T @ data
    return np.diag(np.linalg.pinv(information + prior.T @ prior) @ information)


def _features(blocks: Sequence[Block], profile: ArchitectureProfile) -> tuple[list[str], np.ndarray]:
    """(S, F) flops by unit and type, bytes by level, seconds; and the coefficient each column belongs to."""
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


def _prior(profile: ArchitectureProfile, name: str) -> Coefficient | None:
    """What the profile holds for a coefficient, or for the nearest it has."""
    return next((profile.coefficients[near] for near in energy_names(name) if near in profile.coefficients), None)
