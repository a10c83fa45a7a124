"""Energy coefficients from measured energies: E = sum F_u e_u + sum B_l e_l + P t (Choi et al., IPDPS 2013).

P is a fitted constant power, not idle power, and energies are gross; nothing is subtracted. The system is linear with
non-negative unknowns. Rows are weighted by 1 / E, so errors are relative; each unknown has a weak prior at the profile's value,
because flops, bytes and time rise together in most workloads and the data alone may not tell them apart: what stays at its
prior is named.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import lsq_linear

from shmoo.calibrate.dataset import Block
from shmoo.estimators.dtypes import COMPUTE_DTYPES
from shmoo.estimators.profile import ArchitectureProfile, Coefficient

MIN_ENERGY_CASES = 5


@dataclass(frozen=True, slots=True)
class FittedEnergy:
    """Energy coefficients and what the data could not tell apart.

    Attributes:
        coefficients: name -> fitted coefficient.
        residuals: (S,) log(predicted / measured), NaN for cases without energy.
        condition: condition number of the weighted, column-scaled system.
        unidentified: names that the prior holds.
    """

    coefficients: dict[str, Coefficient]
    residuals: np.ndarray
    condition: float
    unidentified: tuple[str, ...]


def fit_energy(blocks: Sequence[Block], profile: ArchitectureProfile, reference: str) -> FittedEnergy | None:
    """Fit energy per flop, energy per byte and static power; `None` when fewer than 5 cases have an energy.

    Args:
        reference: what the coefficients' `reference` field says.
    """
    names, features = _features(blocks, profile)
    measured = np.concatenate([block.energy_j for block in blocks])
    known = np.isfinite(measured)
    if known.sum() < MIN_ENERGY_CASES:
        return None
    used = (features[known] > 0).any(axis=0)
    names = [name for name, keep in zip(names, used, strict=True) if keep]
    a = features[known][:, used] / measured[known, None]
    scale = np.linalg.norm(a, axis=0)
    prior = np.asarray([_prior(profile, name) for name in names])
    # A prior as heavy as one hundredth of the data keeps what is collinear finite and gives way to anything the data say.
    weight = 0.01 * np.sqrt(known.sum())
    held = prior > 0
    rows = np.diag(np.where(held, weight / np.where(held, prior, 1.0), 0.0))[held]
    system = np.vstack([a, rows])
    target = np.concatenate([np.ones(known.sum()), np.full(held.sum(), weight)])
    solved = lsq_linear(system / scale, target, bounds=(0, np.inf))
    values = solved.x / scale
    predicted = features[:, used] @ values
    relative = a @ values - 1.0
    variance = float(relative @ relative) / max(known.sum() - len(names), 1)
    covariance = np.linalg.pinv((system / scale).T @ (system / scale)) * max(variance, 1e-12)
    stderr = np.sqrt(np.maximum(np.diag(covariance), 0.0)) / scale
    resolved = _resolution(a / scale, rows / scale)
    residuals = np.full(len(measured), np.nan)
    residuals[known] = np.log(np.maximum(predicted[known], 1e-30) / measured[known])
    coefficients = {}
    for name, value, error in zip(names, values, stderr, strict=True):
        unit = "W" if name == "power.static" else "J/flop" if name.startswith("energy.flop") else "J/B"
        low, high = max(value - 1.645 * error, 0.0), value + 1.645 * error
        coefficients[name] = Coefficient(float(value), unit, "fitted", reference, float(error), float(low), float(high))
    weak = tuple(
        name
        for name, value, error, share in zip(names, values, stderr, resolved, strict=True)
        if error > 0.5 * max(value, 1e-30) or share < 0.5
    )
    return FittedEnergy(coefficients, residuals, float(np.linalg.cond(a / scale)), weak)


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
        parts.append(np.stack([*summed, block.measured_s], axis=1))
    return names, np.concatenate(parts)


def _prior(profile: ArchitectureProfile, name: str) -> float:
    """The profile's value, or 0 for none."""
    stem = name.rsplit(".", 1)[0]
    for candidate in (name, f"{stem}.float32", "energy.flop" if stem.startswith("energy.flop") else name):
        held = profile.get(candidate)
        if held is not None:
            return held.value
    return 0.0
