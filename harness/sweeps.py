"""Sweeps of models by name over axes: what `shmoo.sweep` and `shmoo sweep` have in common."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from shmoo.estimators.errors import InputError, unknown
from shmoo.estimators.machine.profile import RUNTIMES, ArchitectureProfile, check_runtime
from shmoo.estimators.sweep.controller import AxisValue, GraphSource, SweepController
from shmoo.estimators.variants import tiling_parameters
from shmoo.harness.machine.architectures import choose_targets
from shmoo.harness.models.capture_cache import ModelSource
from shmoo.harness.models.request import at_ends
from shmoo.harness.question import Question

Axes = Mapping[str, Sequence[AxisValue]]


def plan_sweep(
    asked: Question, axes: Axes, settings: Mapping[str, AxisValue], profile_axes: Axes, fusion: Sequence[bool] = (True,)
) -> SweepController:
    """A sweep, of a model that `controllers` says, on the architectures asked for, where none is named on the built-in ones that
    have everything swept about them. Several batch sizes asked for are an axis. `InputError` for an unknown name, an axis that is
    given twice, and where no architecture has a runtime or an axis."""
    asked.check_axes({**axes, **settings})
    several = len(asked.batches) > 1
    axes = {**axes, "batch": asked.batches} if several else dict(axes)
    settings = {**settings, "batch": asked.batches[0]} if asked.batches and not several else dict(settings)
    if twice := sorted(axes.keys() & settings.keys()):
        raise InputError(f"axis {twice[0]!r} is given to --axis and to --set; give it to one of them")
    profiles = _profiles(asked, profile_axes)
    for profile, name in itertools.product(profiles, profile_axes):
        if f"@{name}=" in profile.name:
            raise InputError(f"{name!r} is set in --arch {profile.name} and swept by --profile-axis; leave one of them out")
    return SweepController("", lambda point: (), profiles, axes, profile_axes, settings, asked.runtime, fusion)


def controllers(plan: SweepController, models: Sequence[str], asked: Question) -> Iterator[tuple[SweepController, str | None]]:
    """The sweep of each model in each element type, which follows it; errors as of `ModelSource`."""
    points = at_ends({**plan.axes, **{name: (value,) for name, value in plan.fixed.items()}})
    dtypes: Sequence[str | None] = asked.dtypes or (None,)
    for model, dtype in itertools.product(models, dtypes):
        source = asked.open_source(asked.request(model, dtype, points))
        fixed = {name: value for name, value in {**source.axes(), **plan.fixed}.items() if name not in plan.axes}
        yield replace(plan, model=model, source=_graphs_of(source), fixed=fixed), dtype


def _graphs_of(source: ModelSource) -> GraphSource:
    return lambda point: source.at(point).graphs


def _profiles(asked: Question, profile_axes: Axes) -> list[ArchitectureProfile]:
    """The architectures of a sweep. Those named must have one of the runtimes; where none is named, the built-in ones that have
    one, and everything swept about them."""
    if asked.arch:
        named = [profile for profile, _ in choose_targets(asked.arch, (), asked.threads, asked.host)]
        for profile in named:
            if asked.runtime and not any(runtime in RUNTIMES[profile.family] for runtime in asked.runtime):
                check_runtime(profile, asked.runtime[0])
        return named
    profiles = list({profile.name: profile for profile, _ in asked.targets()}.values())
    can_change = {profile.name: {*profile.coefficients, *tiling_parameters(profile)} for profile in profiles}
    fitting = [profile for profile in profiles if can_change[profile.name].issuperset(profile_axes)]
    if not fitting:
        known = {name for names in can_change.values() for name in names}
        missing = next((name for name in profile_axes if name not in known), None)
        if missing is None:
            raise InputError(f"no architecture has all of {', '.join(profile_axes)}; sweep one of them at a time")
        raise unknown("coefficient", missing, known, "see `shmoo profiles show ARCH`")
    return fitting
