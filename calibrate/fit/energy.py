"""Energy coefficients from measured energies: E = sum F_u e_u + sum B_l e_l + P t (Choi et al., IPDPS 2013).

P is a fitted constant power, not idle power; energies are gross and nothing is subtracted. Measured idle power checks P,
because a working chip draws no less than an idle one. t is the time of the calls while their energy was read, because a call
that a neighbour slowed down drew the constant power for longer. Joules are those of issued flops at the rated clock. At another
clock the chip's, and P, follow the voltage squared, whose curve (`energy.clock`, `energy.floor`) is searched for where cases
differ in clock. A case at its board's power cap says that its work asks for no less. The system is linear, and no energy is
below a tenth of the low end of the profile's range. Errors are relative, and readings whose windows disagree weigh less. Each
unknown has a weak prior at the profile's value, because flops, bytes and time rise together in most workloads and the data
alone may not separate them: a coefficient that stays at its prior is named and keeps the prior's range. Types of tensor cores
have one more prior, their ratio to bfloat16 (`RATIOS`). Loops of a GPU compute in float32, whatever they read and write.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from scipy.optimize import lsq_linear

from shmoo.calibrate.fit.dataset import Block
from shmoo.calibrate.fit.fit import weights_of
from shmoo.estimators.graph.dtypes import COMPUTE_DTYPES
from shmoo.estimators.graph.records import NORMAL_90, Coefficient
from shmoo.estimators.machine.catalogue import entry
from shmoo.estimators.machine.coefficients import Coefficients, algorithm_codes
from shmoo.estimators.machine.names import energy_names
from shmoo.estimators.machine.profile import ArchitectureProfile
from shmoo.estimators.predict.energy import loop_operations
from shmoo.estimators.predict.model import issued_flops

MIN_ENERGY_CASES = 5
MODEL_NOISE = 0.05
"""Expected relative error of the model itself: a reading that repeats better than this does not weigh more."""
PRIOR_WEIGHT = 0.01
"""Weight of a prior relative to all data: enough to keep collinear unknowns finite, and too little to oppose the data."""
EXPONENTS = tuple(np.arange(0.3, 3.01, 0.1).tolist())
FLOORS = tuple(np.arange(0.2, 1.001, 0.02).tolist())
_CURVE = ("energy.clock", "energy.floor")
"""Voltage curves to try: the square of the voltage over the clock, and what it does not fall below."""
CLOCK_RANGE = 0.2
"""Range of clocks, relative to the rated one, from which on cases show how energy follows the clock."""
FIXED_WEIGHT = 1e4
"""Weight of the given values relative to a prior."""
OUTLIER = 0.15
"""Relative error beyond which a reading counts linearly, as in the fit of times."""
ROUNDS = 20
"""Rounds of reweighting, in which cases at the cap come in or fall out too."""
AT_CAP = 0.98
"""Share of what the controller holds from which on a board counts as slowed by it."""
RATIOS: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        "float16": (1.2, 0.1),
        "tf32": (2.25, 0.07),
        "float8": (0.55, 0.2),
        "int8": (0.5, 0.2),
        "float4": (0.27, 0.3),
        "int4": (0.25, 0.3),
    }
)
"""Type -> energy of a flop of tensor cores relative to bfloat16's, and the standard deviation of its logarithm over boards. A
multiplier of 11 significant bits switches more than one of 8: boards at their cap multiply float16 at 0.9 to 0.93 of bfloat16's
rate. TF32 has the same multiplier, moves twice the bits and uses half of the units: 2.4 by the rates of an A100 at its cap, 2.1
by an H200's meter (runs/recorded/h200), nearer to each other than what a few convolutions of one network say. Types of half the
bits take half, and their scales some more."""
LEAST_ENERGY = 0.1
"""Lowest energy of a flop or byte relative to the low end of the profile's range, which covers the datapath or array alone."""


@dataclass(frozen=True, slots=True)
class EnergyFit:
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
        readings = f"static power {static.value:.3g} W, {idle.value:.3g} W measured idle"
        if static.bounds[1] >= idle.value:
            return readings
        return (
            f"{readings}: a chip at work draws no less, so a part of it was attributed to flops or bytes; measure long cases "
            "with little work, such as small operators, beside those with much"
        )


@dataclass(frozen=True, slots=True)
class _Solution:
    """Values of the unknowns at one voltage curve, with the (M, F) system that gave them, unscaled."""

    values: np.ndarray
    data: np.ndarray
    deviation: np.ndarray
    cost: float


def fit_energy(
    blocks: Sequence[Block], profile: ArchitectureProfile, reference: str, fixed: Collection[str] = ()
) -> EnergyFit | None:
    """Fit energy per flop, energy per byte and static power, and how energy follows the clock where cases differ in it; `None`
    when fewer than 5 cases have an energy below the power cap.

    Args:
        reference: the coefficients' `reference` field.
        fixed: coefficients that keep the profile's values; the voltage curve's may be among them.
    """
    names, features = _features(blocks, profile)
    cases = [case for block in blocks for case in block.cases]
    measured_j = np.concatenate([block.energy_j for block in blocks])
    has_energy = np.isfinite(measured_j)
    # Relative to the clock at which the profile gives its energies.
    profile_clock = profile.value("clock", 1.0)
    clock = np.asarray([case.clock_hz or profile_clock for case in cases]) / profile.value("clock.rated", profile_clock)
    cap_w = profile.value("throttle.cap", 1.0) * profile.value("power.tdp", math.inf)
    at_cap = np.asarray([case.clock_hz is None for case in cases]) & (measured_j > AT_CAP * cap_w * features[:, -1])
    at_cap = at_cap[has_energy] & (profile.family == "gpu")
    if (~at_cap).sum() < MIN_ENERGY_CASES:
        return None
    has_work = (features[has_energy] > 0).any(axis=0)
    names = [name for name, keep in zip(names, has_work, strict=True) if keep]
    trust = weights_of(np.asarray([case.energy_sd_j or 0.0 for case in cases])[has_energy] / measured_j[has_energy], MODEL_NOISE)
    # The prior of a coefficient is the profile's value of it, or of the nearest one that the profile has.
    priors = {name: next(filter(None, map(profile.get, energy_names(name))), None) for name in names}
    # Static power has no lower bound: idle power checks it afterwards.
    lower_bounds = np.asarray([LEAST_ENERGY * p.bounds[0] if p and name != "power.static" else 0.0 for name, p in priors.items()])
    lacks_sd = np.asarray([case.energy_sd_j is None for case in cases])[has_energy]
    scaled_features = features[has_energy][:, has_work] / measured_j[has_energy, None] * trust[:, None]
    prior, target = _prior(priors, PRIOR_WEIGHT * float(np.linalg.norm(trust)), fixed)
    curves = _voltage_curves(clock[has_energy], profile, fixed)
    solutions = [
        _solve(_at_voltage(scaled_features, clock[has_energy], *curve), trust, prior, target, lower_bounds, at_cap, lacks_sd)
        for curve in curves
    ]
    solution, curve = min(zip(solutions, curves, strict=True), key=lambda pair: pair[0].cost)
    predicted_j = _at_voltage(features[:, has_work], clock, *curve) @ solution.values
    variance = float(solution.deviation @ solution.deviation) / max(has_energy.sum() - len(names), 1)
    scale = np.linalg.norm(solution.data, axis=0)
    # Coefficients that appear only in cases at the cap, whose weight is 0, rest on their priors.
    scale = np.where(scale > 0, scale, np.maximum(np.linalg.norm(prior, axis=0), 1e-30))
    system = np.vstack([solution.data, prior]) / scale
    covariance = np.linalg.pinv(system.T @ system) * max(variance, 1e-12)
    stderr = np.sqrt(np.maximum(np.diag(covariance), 0.0)) / scale
    by_prior = _resolution(solution.data / scale, prior / scale) < 0.5
    weak = by_prior | (stderr > 0.5 * np.maximum(solution.values, 1e-30))
    residuals = np.full(len(measured_j), np.nan)
    residuals[has_energy] = np.log(np.maximum(predicted_j[has_energy], 1e-30) / measured_j[has_energy])
    at_bound = solution.values <= 1.001 * lower_bounds
    columns = zip(names, solution.values.tolist(), stderr.tolist(), by_prior, at_bound.tolist(), strict=True)
    coefficients = {
        name: profile.coefficients[name]
        if name in fixed
        else _coefficient(name, value, error, priors[name] if keeps else None, is_at_bound, reference)
        for name, value, error, keeps, is_at_bound in columns
    }
    if len(curves) > 1:
        origin = f"least squares over a grid, cases at {np.ptp(clock[has_energy]):.0%} of the rated clock's range; {reference}"
        for name, value, step in zip(_CURVE, curve, (EXPONENTS[1] - EXPONENTS[0], 0.02), strict=True):
            if name not in fixed:
                coefficients[name] = Coefficient(value, "1", "fitted", origin, low=max(value - step, 0.0), high=value + step)
    idle_w = [case.idle_w for case in cases if case.idle_w is not None]
    if idle_w:
        low, middle, high = np.quantile(idle_w, (0.05, 0.5, 0.95)).tolist()
        origin = f"median of {len(idle_w)} readings with nothing running; {reference}"
        coefficients["power.idle"] = Coefficient(middle, "W", "fitted", origin, low=low, high=high)
    condition = float(np.linalg.cond(solution.data / scale))
    names_at_bound, unidentified = (tuple(np.asarray(names)[mask].tolist()) for mask in (at_bound, weak))
    return EnergyFit(coefficients, residuals, condition, names_at_bound, unidentified)


def _prior(priors: Mapping[str, Coefficient | None], pull: float, fixed: Collection[str]) -> tuple[np.ndarray, np.ndarray]:
    """(R, F) rows and (R,) targets of the prior: each coefficient near its own prior with the weight `pull`, and the energies of
    other types near `RATIOS` times bfloat16's, with the weight of a reading whose error is the ratio's deviation."""
    unit_rows = dict(zip(priors, np.eye(len(priors)), strict=True))
    rows, target = [], []
    for name, prior in priors.items():
        if prior and prior.value > 0:
            target.append(pull * (FIXED_WEIGHT if name in fixed else 1.0))
            rows.append(unit_rows[name] * (target[-1] / prior.value))
    bfloat16 = "energy.flop.matrix.bfloat16"
    for dtype, (ratio, deviation) in RATIOS.items():
        name = f"energy.flop.matrix.{dtype}"
        if name in unit_rows and (prior := priors.get(bfloat16)) is not None:
            target.append(0.0)
            rows.append((unit_rows[name] / ratio - unit_rows[bfloat16]) * MODEL_NOISE / deviation / prior.value)
    return np.asarray(rows).reshape(-1, len(priors)), np.asarray(target)


def _solve(
    data: np.ndarray,
    trust: np.ndarray,
    prior: np.ndarray,
    target: np.ndarray,
    lower_bounds: np.ndarray,
    at_cap: np.ndarray,
    lacks_sd: np.ndarray,
) -> _Solution:
    """Least squares on relative errors, with lower bounds and a weak prior, over (M, F) data of the measured energies. Cases
    `at_cap` count only while their prediction is below the measurement: at full clock they would take more. Readings without a
    standard deviation (`lacks_sd`) count linearly beyond `OUTLIER`."""
    weights = np.where(at_cap, 0.0, 1.0)
    scale = np.maximum(np.linalg.norm(data, axis=0), 1e-30)
    for _ in range(ROUNDS):
        weighted, weighted_trust = data * weights[:, None], trust * weights
        result = lsq_linear(
            np.vstack([weighted, prior]) / scale, np.concatenate([weighted_trust, target]), bounds=(lower_bounds * scale, np.inf)
        )
        values = result.x / scale
        error = (data @ values - trust) / trust
        # Least squares with the weights of a soft-L1 loss, from round to round.
        new_weights = np.where(at_cap & (error >= 0), 0.0, np.where(lacks_sd, (1.0 + (error / OUTLIER) ** 2) ** -0.25, 1.0))
        if np.allclose(new_weights, weights, atol=1e-3):
            break
        weights = new_weights
    return _Solution(values, weighted, weighted @ values - trust * weights, float(result.cost))


def _at_voltage(features: np.ndarray, clock: np.ndarray, exponent: float, floor: float) -> np.ndarray:
    """(M, F) features at (M,) clocks: the chip's work and static power, the last column, follow the square of the voltage; main
    memory, the column before it, does not."""
    at_clock: np.ndarray = features * np.maximum(floor, clock**exponent)[:, None]
    at_clock[:, -2] = features[:, -2]
    return at_clock


def _voltage_curves(clock: np.ndarray, profile: ArchitectureProfile, fixed: Collection[str]) -> list[tuple[float, float]]:
    """Exponents and floors to try: a grid where cases differ in clock, except for fixed coefficients; else the profile's own."""
    profile_curve = profile.value("energy.clock", 0.0), profile.value("energy.floor", 0.0)
    if np.ptp(clock) < CLOCK_RANGE:
        return [profile_curve]
    exponents, floors = (
        (value,) if n in fixed else grid for n, value, grid in zip(_CURVE, profile_curve, (EXPONENTS, FLOORS), strict=True)
    )
    return list(itertools.product(exponents, floors))


def _coefficient(
    name: str, value: float, stderr: float, prior: Coefficient | None, at_bound: bool, reference: str
) -> Coefficient:
    """A fitted coefficient; one whose value comes from `prior` has the prior's range."""
    unit = entry(name).unit
    low, high = max(value - NORMAL_90 * stderr, 0.0), value + NORMAL_90 * stderr
    if prior is None:
        return Coefficient(value, unit, "at bound" if at_bound else "fitted", reference, stderr, low, high)
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
    loop_dtypes = dict.fromkeys("float32" if profile.family == "gpu" else COMPUTE_DTYPES[code] for code in dtypes)
    names += [f"energy.flop.vector.{dtype}" for dtype in loop_dtypes]
    names += [f"energy.byte.{level}" for level in profile.levels]
    names.append("power.static")
    rows = []
    coefficients = Coefficients(profile)
    for block in blocks:
        table, count = block.table, block.table.segments
        matrix_flops = issued_flops(table, block.tiling, coefficients, block.runtime)
        if coefficients.find("energy.share") is not None:
            matrix_flops = matrix_flops * coefficients.by_algorithm(algorithm_codes(table, profile), "energy.share")
        columns = [np.where(table.dtype == code, matrix_flops, 0.0) for code in dtypes]
        loops = loop_operations(table, profile.family)
        columns += [loops] if profile.family == "gpu" else [np.where(table.dtype == code, loops, 0.0) for code in dtypes]
        columns += [block.tiling.level_bytes[level] for level in profile.levels]
        sums = [np.bincount(table.segment, weights=column, minlength=count) for column in columns]
        rows.append(np.stack([*sums, block.energy_pace_s], axis=1))
    return names, np.concatenate(rows)
