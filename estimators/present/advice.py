"""What to change about a model on a machine, and what each change would bring. Both are priced with the same random values of the
coefficients, so that an error they share cancels in their ratio, and by sample, so that batches compare."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import msgspec
import numpy as np

from shmoo.estimators.errors import ShmooError
from shmoo.estimators.graph.dtypes import matrix_dtype
from shmoo.estimators.graph.records import RUNTIMES, Interval
from shmoo.estimators.machine.profile import ArchitectureProfile
from shmoo.estimators.memory.room import MemoryRoom
from shmoo.estimators.predict.director import AnalysisDirector, Estimate, room_on
from shmoo.estimators.predict.draws import kernel_identities, shared_draws
from shmoo.estimators.predict.pipeline import DRAWS, intervals_of
from shmoo.estimators.predict.tabulated import Tabulated, tabulated
from shmoo.estimators.present.inspection import inspect_estimates
from shmoo.estimators.present.setups import Change, GraphsOf, Setup, changes, together
from shmoo.estimators.present.spending import KernelGap, Share, by_bound, by_module, by_unit, kernel_gaps

Aim = Literal["time", "energy"]
Verdict = Literal["better", "open", "worse", "same"]
NOTHING = 0.01
"""Gains below it are none."""
NEARLY = 0.9
"""Share of the best batch's gain from which on a smaller batch is advised."""


class Effect(msgspec.Struct, frozen=True):
    """What a change makes of the model: time and energy of a call, `speedup` (time of a sample as it is, over that with the
    change) and `energy_ratio` (energy of a sample with the change, over that as it is)."""

    latency_s: Interval
    energy_j: Interval | None
    speedup: Interval
    energy_ratio: Interval | None

    def gain(self, aim: Aim) -> Interval | None:
        """By which factor less time or energy is needed; `None` where energy is not known."""
        if aim == "time":
            return self.speedup
        return None if self.energy_ratio is None else self.energy_ratio.dividing(1.0)

    def factor(self, aim: Aim) -> float:
        """The value of `gain`; 1 where it is not known."""
        gain = self.gain(aim)
        return gain.value if gain else 1.0

    def verdict(self, aim: Aim) -> Verdict:
        """Whether a change is better or worse by more than the uncertainty of the difference; "same" where that is less than
        `NOTHING`, "open" where the interval holds both sides."""
        gain = self.gain(aim)
        if gain is None or gain.low <= 1.0 <= gain.high or abs(gain.value - 1.0) < NOTHING:
            same = gain is not None and max(gain.high - 1.0, 1.0 - gain.low) < 2 * NOTHING
            return "same" if same else "open"
        return "better" if gain.low > 1.0 else "worse"


class WhatIf(msgspec.Struct, frozen=True):
    """A change and its effect, priced by the estimator. `memory` is what a call then has in memory."""

    change: Change
    setup: Setup
    kernels: int
    effect: Effect
    memory: MemoryRoom


class Advice(msgspec.Struct, frozen=True):
    """What to change about a model on a machine: the estimate of the model as it is, in `setup`, where its time and energy go
    (`spending`), changes with the best first, and by name those that could not be estimated and why."""

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
        return tuple(w for w in self.what_ifs if w.effect.verdict(self.aim) == "better" and w.memory.fits is not False)


class Comparison:
    """Prices a model in several setups on one machine, or on variants of it, by paired draws."""

    def __init__(self, profile: ArchitectureProfile, work: Tabulated, runtime: str, batch: int) -> None:
        shared = shared_draws(profile, RUNTIMES[profile.family], DRAWS, seed=0)
        self._batch = batch
        self.base = AnalysisDirector(profile).price(work.table, runtime, seed=shared.seed, shared=shared).whole()
        self._shared = dataclasses.replace(shared, common=frozenset(kernel_identities(work.table, self.base.tiling)))

    def effect(self, director: AnalysisDirector, work: Tabulated, runtime: str, batch: int) -> Effect:
        """What a setup makes of the model. Each has a part of the model's error for itself."""
        self._shared = dataclasses.replace(self._shared, own_seed=self._shared.own_seed + 2)
        other = director.price(work.table, runtime, seed=self._shared.seed, shared=self._shared).whole()
        share = batch / self._batch
        ((latency, energy),) = other.intervals()
        speedup = _ratio(self.base.latency_s * share, other.latency_s, self.base.drawn_s, other.drawn_s, share)
        if self.base.energy_j is None or other.energy_j is None:
            return Effect(latency, energy, speedup, None)
        ratio = _ratio(other.energy_j, self.base.energy_j * share, other.drawn_j, self.base.drawn_j, 1 / share)
        return Effect(latency, energy, speedup, ratio)


def _ratio(
    above: np.ndarray, below: np.ndarray, drawn_above: np.ndarray | None, drawn_below: np.ndarray | None, factor: float
) -> Interval:
    drawn = None if drawn_above is None or drawn_below is None else drawn_above / drawn_below * factor
    return intervals_of(above / below, drawn)[0]


def advise(
    profile: ArchitectureProfile, base: Setup, graphs_of: GraphsOf, model: str, *, aim: Aim = "time", top: int = 8
) -> Advice:
    """Where a model's time and energy go on a machine as it is (`base`), and what each change would bring. Raises what
    `graphs_of` does, and `InputError` where the model as it is cannot be estimated. `top` kernels and modules are listed."""
    director = AnalysisDirector(profile)

    def work_of(setup: Setup) -> Tabulated:
        return tabulated(graphs_of(setup), setup.runtime, profile.family, matrix_dtype(setup.dtype), setup.fused)

    work = work_of(base)
    estimate = director.estimate_tabulated(work, base.runtime, batch=base.batch)
    comparison = Comparison(profile, work, base.runtime, base.batch)
    left_out: dict[str, str] = {}

    def tried(change: Change) -> WhatIf | None:
        setup = change.applied(base)
        try:
            changed = work_of(setup)
        except ShmooError as error:
            left_out[change.name] = str(error)
            return None
        effect = comparison.effect(director, changed, setup.runtime, setup.batch)
        return WhatIf(change, setup, len(changed.table), effect, room_on(profile, changed.memory, setup.batch))

    single = [made for change in changes(profile, base, estimate.dtype, work.table) if (made := tried(change)) is not None]
    what_ifs = _ranked([*single, *_combined(single, aim, tried)], aim)
    inspection = inspect_estimates(graphs_of(base), {profile.name: estimate}, model)
    return Advice(
        model,
        aim,
        base,
        estimate,
        by_bound(estimate),
        by_unit(work, comparison.base.tiling, estimate, profile),
        by_module(inspection, estimate, top),
        kernel_gaps(inspection, work, comparison.base, profile, base.runtime, top),
        what_ifs,
        left_out,
    )


def _ranked(what_ifs: Sequence[WhatIf], aim: Aim) -> tuple[WhatIf, ...]:
    """What helps by more than its uncertainty first, most first; then what may help, what changes nothing and what harms; last
    what does not fit."""
    order = {"better": 0, "open": 1, "same": 2, "worse": 3}

    def place(what_if: WhatIf) -> tuple[bool, int, float]:
        return what_if.memory.fits is False, order[what_if.effect.verdict(aim)], -what_if.effect.factor(aim)

    return tuple(sorted(what_ifs, key=place))


def best_of_each_kind(what_ifs: Sequence[WhatIf], aim: Aim) -> list[WhatIf]:
    """The single change of each kind that helps most, of those that surely help and fit; of batches the smallest that brings
    nearly as much as the best, because a larger one keeps a caller waiting for nothing. Batches are last."""
    best: dict[str, WhatIf] = {}
    sure = [w for w in _ranked(what_ifs, aim) if w.effect.verdict(aim) == "better" and w.memory.fits is not False]
    for what_if in sure:
        if what_if.change.kind not in ("together", "8 bits"):
            best.setdefault(what_if.change.kind, what_if)
    if (largest := best.pop("batch", None)) is not None:
        enough = [w for w in sure if w.change.kind == "batch" and w.effect.factor(aim) > NEARLY * largest.effect.factor(aim)]
        best["batch"] = min(enough, key=lambda w: w.setup.batch)
    return list(best.values())


def _combined(single: Sequence[WhatIf], aim: Aim, tried: Callable[[Change], WhatIf | None]) -> Iterator[WhatIf]:
    """The best change of each kind added up, one after the other as long as each helps."""
    parts = best_of_each_kind(single, aim)
    if not parts:
        return
    chosen, reached = [parts[0].change], parts[0].effect.factor(aim)
    for part in parts[1:]:
        made = tried(together([*chosen, part.change]))
        if made is not None and made.memory.fits is not False and made.effect.factor(aim) > reached:
            chosen, reached = [*chosen, part.change], made.effect.factor(aim)
            yield made
