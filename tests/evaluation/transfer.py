"""Transfer of coefficients from measured machines to one that was not measured.

Shares of a peak or a bandwidth, extents and exponents (all of unit "1") and overheads of host and device (seconds) carry over, as
the geometric mean over the measured machines, weighted by the distance of their generations, with their spread. Peaks,
bandwidths, capacities, counts and power are looked up. Shares of float32 products count for less from a board whose cap sets
their pace. A coefficient that only some machines determine comes from those; values that a prior held count where no machine
determines it. How voltage follows the clock carries over from boards whose energy was metered at several clocks: a board far
above its power cap runs at a low clock, at which a flop takes less than at the rated one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from shmoo.calibrate.fit.dataset import MeasuredCase, blocks
from shmoo.calibrate.fit.fit import log_errors
from shmoo.calibrate.fit.intervals import reach_of_ranges, spreads
from shmoo.calibrate.fit.parameters import relative_power_demand, runs_in_blocks
from shmoo.estimators.errors import InputError
from shmoo.estimators.graph.records import NORMAL_90, Coefficient
from shmoo.estimators.machine.catalogue import entry
from shmoo.estimators.machine.coefficients import TENSOR, Coefficients
from shmoo.estimators.machine.names import continues, whose
from shmoo.estimators.machine.profile import ArchitectureProfile

LEAST_SPREAD = 0.15
"""Least standard deviation of the log of a transferred coefficient: few machines can agree by chance."""
VOLTAGE = ("energy.clock", "energy.floor")
"""How joules follow the clock. A time tells the exponent only together with the energy of a flop and with warmth, so the exponent
alone, without a floor, is no curve."""
GENERATIONS = 1.0
"""Distance in compute capability over which a machine's weight falls to 1/e: library kernels are written, and hosts bought, for
one generation."""


def transfer(
    measured: Sequence[ArchitectureProfile], target: ArchitectureProfile, sigma: Mapping[str, Coefficient] | None = None
) -> ArchitectureProfile:
    """`target` with the dimensionless shares and overheads of `measured` machines, marked as transferred.

    Args:
        measured: fitted profiles of the same architecture family.
        target: a machine as its datasheet describes it; coefficients fitted to the target itself are dropped.
        sigma: `sigma.*` from measured machines that were left out (`typical`); by default those of the fits times 1.5.

    Raises:
        InputError: no measured machine, or one of another family.
    """
    if not measured:
        raise InputError("no measured machine to transfer from; name at least one fitted profile")
    for profile in measured:
        if profile.family != target.family:
            raise InputError(
                f"{profile.name!r} is a {profile.family}, {target.name!r} a {target.family}; transfer within a family"
            )
    weights = [_nearness(profile, target) for profile in measured]
    names = sorted({name for profile in measured for name in profile.coefficients})
    # How well blocks keep float32 units busy hardly shows on a board whose cap sets their pace.
    free = [weight / max(1.0, relative_power_demand(profile)) for weight, profile in zip(weights, measured, strict=True)]
    capped = {name for name in names if runs_in_blocks(name) and whose(name) not in TENSOR}
    carried = {name: _carried(name, measured, free if name in capped else weights, target) for name in names}
    own = {**_voltage(looked_up(target), measured, weights), **looked_up(target)}
    return target.replacing(
        coefficients={**own, **{n: c for n, c in carried.items() if c is not None}, **(sigma or {})},
        host="",
        fitted_from=None,
        error_card={},
        residual=(),
        table_reduction=measured[0].table_reduction,
    )


def looked_up(profile: ArchitectureProfile) -> dict[str, Coefficient]:
    """Coefficients that no fit to times wrote, here or elsewhere: datasheets', the literature's, and those of energy,
    which come from other tables. A voltage curve that was fitted to energies has a floor."""
    joules = {n for n in profile.coefficients if entry(n).role == "energy"} | {"throttle.cap"}
    joules |= {"energy.clock"} if "energy.floor" in joules else set()
    return {n: c for n, c in profile.coefficients.items() if n in joules or not (c.from_fit or c.source == "transferred")}


def off_by(profile: ArchitectureProfile, cases: Sequence[MeasuredCase]) -> dict[str, Coefficient]:
    """`sigma.*` with which a profile that never saw a machine's measurements covers 90 % of them, beside its ranges."""
    seen = blocks(cases, profile)
    errors = log_errors(seen, Coefficients(profile))
    return spreads(seen, errors, reach_of_ranges(seen, profile), profile, profile.name, fitted=False)


def typical(left_out: Sequence[Mapping[str, Coefficient]]) -> dict[str, Coefficient]:
    """`sigma.*` for the next machine: what n measured machines are `off_by`, each predicted from the others, as `of_the_next`."""
    spreads_by_name = {}
    for name in sorted({name for one in left_out for name in one}):
        sigmas = [one[name].value for one in left_out if name in one]
        why = f"from {len(sigmas)} measured machines, each predicted from the others: root mean square of their 90 % points"
        spreads_by_name[name] = Coefficient(of_the_next(sigmas), "1", "transferred", why)
    return spreads_by_name


def of_the_next(points: Sequence[float]) -> float:
    """The spread of one machine more than the n that these are of: their root mean square, times sqrt(1 + 1/n) because few do not
    tell it well. The errors of one machine's cases are correlated, so each machine counts once, however many cases it has
    (prediction sets on two layers: Dunn, Wasserman and Ramdas, JASA 118(544), 2023)."""
    return math.sqrt(float(np.mean(np.square(points))) * (1.0 + 1.0 / len(points)))


def _nearness(profile: ArchitectureProfile, target: ArchitectureProfile) -> float:
    """Weight of a measured machine: 1 in the target's own generation, and where a generation is unknown."""
    own, other = profile.get("compute.capability"), target.get("compute.capability")
    return 1.0 if own is None or other is None else math.exp(-abs(own.value - other.value) / GENERATIONS)


def _voltage(
    own: Mapping[str, Coefficient], measured: Sequence[ArchitectureProfile], weights: Sequence[float]
) -> dict[str, Coefficient]:
    """How voltage follows the clock, on those of the measured machines whose energies show it; nothing where the target's own is
    known."""
    metered = [(p, w) for p, w in zip(measured, weights, strict=True) if all(name in p.coefficients for name in VOLTAGE)]
    if not metered or any(name in own for name in VOLTAGE):
        return {}
    return {name: _mean(name, [(p, p.coefficients[name].value, w) for p, w in metered]) for name in VOLTAGE}


def _carried(
    name: str, measured: Sequence[ArchitectureProfile], weights: Sequence[float], target: ArchitectureProfile
) -> Coefficient | None:
    # Nothing else of a board and its power controller is transferred: the energy of a flop is looked up by process, and a board
    # that hardly reaches its cap does not show the controller's time constant.
    if entry(name).role not in ("share", "spread") or entry(name).unit not in ("1", "s"):
        return None
    fitted = [(p, p.coefficients[name], w) for p, w in zip(measured, weights, strict=True) if name in p.coefficients]
    fitted = [(p, c, w) for p, c, w in fitted if c.from_fit and c.value > 0]
    # Where no rows determine a coefficient, the others still rest on the value that its prior gave it in the same fit.
    fitted = [(p, c, w) for p, c, w in fitted if not c.assumed] or fitted
    if not fitted:
        return None
    # A share of the bandwidth is one of what codes beside the data leave of it.
    of_memory = continues(name, "efficiency.bandwidth")
    left = [target.value("ecc.share", 1.0) / p.value("ecc.share", 1.0) if of_memory else 1.0 for p, *_ in fitted]
    return _mean(name, [(p, c.value * rate, w) for (p, c, w), rate in zip(fitted, left, strict=True)])


def _mean(name: str, fitted: Sequence[tuple[ArchitectureProfile, float, float]]) -> Coefficient:
    """The geometric mean of a coefficient of these machines, each with its value and weight."""
    logs = np.log([value for _, value, _ in fitted])
    share = np.asarray([w for *_, w in fitted])
    share = share / share.sum()
    mean = float(share @ logs)
    spread = math.sqrt(float(share @ (logs - mean) ** 2) + LEAST_SPREAD**2)
    value, factor = math.exp(mean), math.exp(NORMAL_90 * spread)
    if entry(name).role == "spread":
        # The model errs more on a machine to which it was not fitted.
        value, factor = float(np.exp(logs).max()) * 1.5, 1.0
    why = f"geometric mean of {', '.join(p.name for p, *_ in fitted)}"
    return Coefficient(value, entry(name).unit, "transferred", why, low=value / factor, high=value * factor)
