"""What a machine's parts are worth to a model: each changed alone, and what that buys in time, energy and power."""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from shmoo.estimators.errors import InputError
from shmoo.estimators.graph.dtypes import matrix_dtype
from shmoo.estimators.graph.records import Interval
from shmoo.estimators.machine.catalogue import followers, under
from shmoo.estimators.machine.coefficients import listed
from shmoo.estimators.machine.profile import ArchitectureProfile, Coefficient
from shmoo.estimators.predict.director import AnalysisDirector
from shmoo.estimators.predict.tabulated import tabulated
from shmoo.estimators.present.advice import Aim, Comparison, Effect
from shmoo.estimators.present.setups import GraphsOf, Setup
from shmoo.estimators.variants import COUNTED, added_area_interval, variant

FACTOR = 2.0
"""By which each part is multiplied; launches are divided by it."""
_COUNTED_IN_CYCLES = ("tpu", "kpu")


class Lever(msgspec.Struct, frozen=True):
    """One part of a machine changed, with what it brings along (`variants.variant`).

    Attributes:
        name: of the coefficient. before, after: its values, in `unit`.
        follows: coefficients that change with it. compound: whether several parts of the machine are among them.
        average_power_w: of the call, then; `None` where the profile has no energy coefficients.
        power_cap_w: of the changed machine, where the profile has one.
        area_m2: that the change adds to the chip; `None` where the profile has no number for it, as `area_reason` says.
        note: what the numbers leave out; "" for nothing.
    """

    name: str
    unit: str
    before: float
    after: float
    follows: tuple[str, ...]
    compound: bool
    effect: Effect
    average_power_w: float | None
    power_cap_w: float | None
    area_m2: Interval | None
    area_reason: str
    note: str


class Sensitivity(msgspec.Struct, frozen=True):
    """A machine's levers for one model, the principal bottleneck first. `die` is the area of its dies where it is published."""

    model: str
    arch: str
    aim: Aim
    setup: Setup
    die: Coefficient | None
    levers: tuple[Lever, ...]

    @property
    def bottleneck(self) -> Lever | None:
        """The single part that helps most, by more than its uncertainty."""
        return next((lever for lever in self.levers if lever.effect.verdict(self.aim) == "better" and not lever.compound), None)


def sensitivity(profile: ArchitectureProfile, setup: Setup, graphs_of: GraphsOf, model: str, *, aim: Aim = "time") -> Sensitivity:
    """What each part of a machine is worth to a model; errors are those of `advise`. Machines that do not exist have no fitted
    corrections, so the machine as it is is priced without them too."""
    physical = profile.replacing(residual=())
    work = tabulated(graphs_of(setup), setup.runtime, profile.family, matrix_dtype(setup.dtype), setup.fused)
    comparison = Comparison(physical, work, setup.runtime, setup.batch)
    known_values = listed(physical)
    levers = []
    for name, names, factor in parts_of(profile, setup.runtime):
        known = known_values[names[0]]
        machine = variant(physical, {one: known_values[one].value * factor for one in names})
        brought = dict.fromkeys(other for other, _ in followers(name, profile.family, profile.coefficients))
        effect = comparison.effect(AnalysisDirector(machine), work, setup.runtime, setup.batch)
        area, no_area = None, ""
        try:
            area = added_area_interval(physical, machine, names)
        except InputError as error:
            no_area = str(error)
        power = None if effect.energy_j is None else effect.energy_j.value / effect.latency_s.value
        levers.append(
            Lever(
                name,
                known.unit,
                known.value,
                known.value * factor,
                tuple(brought),
                name.startswith("count.") or (name == "clock" and profile.family not in _COUNTED_IN_CYCLES),
                effect,
                power,
                machine.value("power.tdp", 0.0) or None,
                area,
                no_area,
                _note(name, brought, power, machine.value("power.tdp", 0.0)),
            )
        )
    levers.sort(key=lambda lever: -lever.effect.factor(aim))
    return Sensitivity(model, profile.name, aim, setup, profile.get("area.die"), tuple(levers))


def parts_of(profile: ArchitectureProfile, runtime: str) -> list[tuple[str, list[str], float]]:
    """The parts of a machine to change: name, coefficients, and factor. "peak" are the rates of all units; where the units are
    counted in cycles, the clock is their rate."""
    names = [COUNTED[profile.family], "clock"]
    names += [f"{stem}.{level}" for level in profile.levels for stem in ("bandwidth", "capacity")]
    parts = [(name, [name], FACTOR) for name in names if name in profile.coefficients]
    if profile.family not in _COUNTED_IN_CYCLES:
        parts.append(("peak", under("peak", profile.coefficients), FACTOR))
    known = listed(profile) if profile.host else profile.coefficients
    return parts + [(name, [name], 1.0 / FACTOR) for name in (f"launch.{runtime}", "launch") if name in known][:1]


def _note(name: str, brought: Collection[str], power_w: float | None, cap_w: float) -> str:
    notes = []
    if power_w is not None and name == "clock":
        notes.append("energy at an unchanged voltage, which a higher clock does not allow")
    if power_w is not None and name.startswith("count.") and "power.static" not in brought:
        notes.append("static power as it is")
    if power_w is not None and cap_w and power_w > cap_w:
        notes.append(f"{power_w:.0f} W on average is beyond the cap of {cap_w:.0f} W")
    return "; ".join(notes)
