"""Changes to a model on a machine, or to the machine, and the effect of each. Both setups are priced with the same draws of the
coefficients, so that shared errors cancel in their ratio, and by sample, so that batches compare."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import msgspec

from shmoo.estimators.errors import InputError, ShmooError
from shmoo.estimators.graph.dtypes import matrix_dtype
from shmoo.estimators.graph.records import RUNTIMES, Coefficient, Interval
from shmoo.estimators.machine.catalogue import is_count
from shmoo.estimators.machine.inheritance import followers
from shmoo.estimators.machine.profile import ArchitectureProfile
from shmoo.estimators.memory.room import MemoryRoom
from shmoo.estimators.predict.director import AnalysisDirector, Estimate, room_on
from shmoo.estimators.predict.draws import kernel_identities, shared_draws
from shmoo.estimators.predict.graph_table import ModelTable, tabulate_model
from shmoo.estimators.predict.pipeline import DRAWS, Prices, intervals_of
from shmoo.estimators.present.inspection import inspect_estimates
from shmoo.estimators.present.setups import Change, GraphsOf, Setup, changes, part_changes
from shmoo.estimators.present.spending import KernelGap, Share, by_bound, by_module, by_unit, kernel_gaps
from shmoo.estimators.variants import added_area_interval, variant

Aim = Literal["time", "energy"]
Verdict = Literal["better", "open", "worse", "same"]
LEAST_GAIN = 0.01
"""Smaller gains are ignored."""
NEAR_BEST_SHARE = 0.9
"""Share of the best batch's gain from which on a smaller batch is advised."""


class Effect(msgspec.Struct, frozen=True):
    """The effect of a change: time and energy of a call, `speedup` (time of a sample before over after the change) and
    `energy_ratio` (energy of a sample after over before the change)."""

    latency_s: Interval
    energy_j: Interval | None
    speedup: Interval
    energy_ratio: Interval | None

    @property
    def average_power_w(self) -> float | None:
        """Average power of the call; `None` where energy is unknown."""
        return None if self.energy_j is None else self.energy_j.value / self.latency_s.value

    def gain(self, aim: Aim) -> Interval | None:
        """Factor by which time or energy shrinks; `None` where energy is unknown."""
        if aim == "time":
            return self.speedup
        return None if self.energy_ratio is None else self.energy_ratio.dividing(1.0)

    def factor(self, aim: Aim) -> float:
        """The value of `gain`; 1 where it is unknown."""
        gain = self.gain(aim)
        return gain.value if gain else 1.0

    def verdict(self, aim: Aim) -> Verdict:
        """Whether the gain is "better" or "worse" by more than its uncertainty, "same" (surely near 1) or "open"."""
        gain = self.gain(aim)
        if gain is None or gain.low <= 1.0 <= gain.high or abs(gain.value - 1.0) < LEAST_GAIN:
            is_negligible = gain is not None and max(gain.high - 1.0, 1.0 - gain.low) < 2 * LEAST_GAIN
            return "same" if is_negligible else "open"
        return "better" if gain.low > 1.0 else "worse"


class WhatIf(msgspec.Struct, frozen=True):
    """A change and its effect, priced by the estimator. `memory` is the memory of a call after the change."""

    change: Change
    setup: Setup
    kernels: int
    effect: Effect
    memory: MemoryRoom

    def helps(self, aim: Aim) -> bool:
        """True where the gain exceeds its uncertainty and the call fits the machine's memory."""
        return self.effect.verdict(aim) == "better" and self.memory.fits is not False


class Advice(msgspec.Struct, frozen=True):
    """Advice for a model on a machine: the estimate in the present `setup`, where its time and energy go (`spending`), changes
    with the best first, and by name the changes that could not be estimated, with the reason."""

    model: str
    aim: Aim
    setup: Setup
    estimate: Estimate
    bounds: tuple[Share, ...]
    units: tuple[Share, ...]
    modules: tuple[Share, ...]
    kernels: tuple[KernelGap, ...]
    what_ifs: tuple[WhatIf, ...]
    left_out: dict[str, str] = {}

    @property
    def sure(self) -> tuple[WhatIf, ...]:
        """The changes that help by more than their uncertainty and fit the machine's memory."""
        return tuple(w for w in self.what_ifs if w.helps(self.aim))


class Lever(WhatIf, frozen=True):
    """A change of one part of a machine, with its dependent coefficients (`variants.variant`), power and area.

    Attributes:
        before, after: values of its first coefficient, in `unit`.
        follows: coefficients that change with it.
        power_cap_w: power cap of the changed machine, where the profile has one.
        area_m2: area that the change adds to the chip; `None` where the profile has no number for it, as `area_reason` says.
        note: effects that the numbers leave out; "" for none.
    """

    unit: str
    before: float
    after: float
    follows: tuple[str, ...]
    power_cap_w: float | None
    area_m2: Interval | None
    area_reason: str
    note: str


class Sensitivity(msgspec.Struct, frozen=True):
    """The value of each part of a machine to a model, the principal bottleneck first. `die` is the published area of its dies."""

    model: str
    arch: str
    aim: Aim
    die: Coefficient | None
    levers: tuple[Lever, ...]

    @property
    def bottleneck(self) -> Lever | None:
        """The single part that helps most, by more than the uncertainty of its gain."""
        better_levers = (lever for lever in self.levers if lever.effect.verdict(self.aim) == "better")
        return next((lever for lever in better_levers if lever.change.kind == "part"), None)


class Comparison:
    """Prices a model in the setup `base` and with changes, on one machine or on variants of it, by paired draws. Passes on the
    errors of `graphs_of`."""

    def __init__(self, profile: ArchitectureProfile, base: Setup, graphs_of: GraphsOf) -> None:
        self._profile, self._setup, self._graphs_of = profile, base, graphs_of
        self.work = self._work_of(base)
        shared = shared_draws(profile, RUNTIMES[profile.family], DRAWS, seed=0)
        self.base = AnalysisDirector(profile).price(self.work.table, base.runtime, seed=shared.seed, shared=shared).total()
        self._shared = dataclasses.replace(shared, shared_kernels=frozenset(kernel_identities(self.work.table, self.base.tiling)))

    def _work_of(self, setup: Setup) -> ModelTable:
        graphs = self._graphs_of(setup)
        return tabulate_model(graphs, setup.runtime, self._profile.family, matrix_dtype(setup.dtype), setup.fused)

    def what_if(self, change: Change) -> WhatIf:
        """The effect of a change. Each change has part of the model's error for itself."""
        setup = msgspec.structs.replace(self._setup, **change.values)
        work = self._work_of(setup) if change.values else self.work
        machine = variant(self._profile, change.coefficients)
        self._shared = dataclasses.replace(self._shared, own_seed=self._shared.own_seed + 2)
        prices = AnalysisDirector(machine).price(work.table, setup.runtime, seed=self._shared.seed, shared=self._shared).total()
        share = setup.batch / self._setup.batch
        ((latency, energy),) = prices.intervals()
        speedup = _ratio(self.base, prices, "latency_s", share)
        ratio = None if energy is None else _ratio(prices, self.base, "energy_j", 1 / share)
        effect = Effect(latency, energy, speedup, ratio)
        return WhatIf(change, setup, len(work.table), effect, room_on(machine, work.memory, setup.batch))


def _ratio(numerator: Prices, denominator: Prices, quantity: str, factor: float) -> Interval:
    values, draws = (
        getattr(above, quantity) / getattr(below, quantity) * factor
        for above, below in ((numerator, denominator), (numerator.draws, denominator.draws))
    )
    return intervals_of(values, draws)[0]


def advise(
    profile: ArchitectureProfile, base: Setup, graphs_of: GraphsOf, model: str, *, aim: Aim = "time", top: int = 8
) -> Advice:
    """Where a model's time and energy go in the setup `base`, and the effect of each change.

    Args:
        top: number of kernels and modules to list.

    Raises:
        InputError: the model cannot be estimated in `base`. Errors of `graphs_of` for `base` are passed on.
    """
    comparison = Comparison(profile, base, graphs_of)
    work = comparison.work
    estimate = AnalysisDirector(profile).estimate_table(work, base.runtime, batch=base.batch)
    left_out: dict[str, str] = {}

    def try_change(change: Change) -> WhatIf | None:
        try:
            return comparison.what_if(change)
        except ShmooError as error:
            left_out[change.name] = str(error)
            return None

    single_changes = [
        what_if for change in changes(profile, base, estimate.dtype, work.table) if (what_if := try_change(change)) is not None
    ]
    what_ifs = _rank([*single_changes, *_combinations(single_changes, aim, try_change)], aim)
    inspection = inspect_estimates(graphs_of(base), {profile.name: estimate}, model)
    bounds, units = by_bound(estimate), by_unit(work, comparison.base.tiling, estimate, profile)
    modules = by_module(inspection, estimate, top)
    gaps = kernel_gaps(inspection, work, comparison.base, profile, base.runtime, top)
    return Advice(model, aim, base, estimate, bounds, units, modules, gaps, what_ifs, left_out)


def sensitivity(profile: ArchitectureProfile, setup: Setup, graphs_of: GraphsOf, model: str, *, aim: Aim = "time") -> Sensitivity:
    """The gain of a model from a change of each part of a machine. Changed machines have no fitted corrections, so the unchanged
    machine is priced without them too. Errors as of `advise`."""
    physical = profile.replacing(residual=())
    comparison = Comparison(physical, setup, graphs_of)
    levers = [_lever(physical, comparison.what_if(change)) for change in part_changes(physical, setup.runtime)]
    levers.sort(key=lambda lever: -lever.effect.factor(aim))
    return Sensitivity(model, profile.name, aim, profile.get("area.die"), tuple(levers))


def _lever(profile: ArchitectureProfile, what_if: WhatIf) -> Lever:
    name, coefficients = what_if.change.name, what_if.change.coefficients
    first_coefficient, machine = profile.all_coefficients[next(iter(coefficients))], variant(profile, coefficients)
    follows = tuple(dict.fromkeys(follower for follower, _ in followers(name, profile.family, profile.coefficients)))
    area, reason, notes = None, "", list[str]()
    try:
        area = added_area_interval(profile, machine, coefficients)
    except InputError as error:
        reason = str(error)
    power, cap = what_if.effect.average_power_w, machine.value("power.tdp", 0.0) or None
    if power is not None:
        if is_count(name) and "power.static" not in follows:
            notes.append("static power as it is")
        if cap and power > cap:
            notes.append(f"{power:.0f} W on average is beyond the cap of {cap:.0f} W")
    return Lever(
        **msgspec.structs.asdict(what_if),
        unit=first_coefficient.unit,
        before=first_coefficient.value,
        after=next(iter(coefficients.values())),
        follows=follows,
        power_cap_w=cap,
        area_m2=area,
        area_reason=reason,
        note="; ".join(notes),
    )


def _rank(what_ifs: Sequence[WhatIf], aim: Aim) -> tuple[WhatIf, ...]:
    """Changes in order: those that help by more than their uncertainty, the largest gain first; those that may help, change
    nothing or harm; last those that do not fit."""
    order = {"better": 0, "open": 1, "same": 2, "worse": 3}
    return tuple(sorted(what_ifs, key=lambda w: (w.memory.fits is False, order[w.effect.verdict(aim)], -w.effect.factor(aim))))


def best_of_each_kind(what_ifs: Sequence[WhatIf], aim: Aim) -> list[WhatIf]:
    """The single change of each kind that helps most, of those that surely help and fit. Of batches, which come last, it is the
    smallest with nearly the best gain, because a larger one only makes callers wait."""
    best_by_kind: dict[str, WhatIf] = {}
    sure = [w for w in _rank(what_ifs, aim) if w.helps(aim)]
    for what_if in sure:
        if what_if.change.kind not in ("together", "8 bits"):
            best_by_kind.setdefault(what_if.change.kind, what_if)
    if (best_batch := best_by_kind.pop("batch", None)) is not None:
        near_best = [
            w for w in sure if w.change.kind == "batch" and w.effect.factor(aim) > NEAR_BEST_SHARE * best_batch.effect.factor(aim)
        ]
        best_by_kind["batch"] = min(near_best, key=lambda w: w.setup.batch)
    return list(best_by_kind.values())


def _combinations(single_changes: Sequence[WhatIf], aim: Aim, try_change: Callable[[Change], WhatIf | None]) -> Iterator[WhatIf]:
    """Combinations of the best changes of each kind, each added as long as it helps."""
    candidates = best_of_each_kind(single_changes, aim)
    combination, best_factor = candidates[:1], candidates[0].effect.factor(aim) if candidates else 0.0
    for candidate in candidates[1:]:
        combined_changes = [w.change for w in (*combination, candidate)]
        values = {name: value for change in combined_changes for name, value in change.values.items()}
        what_if = try_change(Change("together", " + ".join(change.name for change in combined_changes), values))
        if what_if is not None and what_if.memory.fits is not False and what_if.effect.factor(aim) > best_factor:
            combination, best_factor = [*combination, candidate], what_if.effect.factor(aim)
            yield what_if
