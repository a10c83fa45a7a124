"""Sweeps of models by name over axes, for `shmoo.sweep` and `shmoo sweep`."""

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
    question: Question, axes: Axes, settings: Mapping[str, AxisValue], profile_axes: Axes, fusion: Sequence[bool] = (True,)
) -> SweepController:
    """A sweep on the requested architectures, by default on all built-in ones with the swept coefficients; `controllers` adds the
    model. Several batch sizes become an axis. `InputError` for an unknown name, an axis given twice, and where no architecture
    has a runtime or an axis."""
    question.check_axes({**axes, **settings})
    several_batches = len(question.batches) > 1
    axes = {**axes, "batch": question.batches} if several_batches else dict(axes)
    settings = {**settings, "batch": question.batches[0]} if question.batches and not several_batches else dict(settings)
    if twice := sorted(axes.keys() & settings.keys()):
        raise InputError(f"axis {twice[0]!r} is given to --axis and to --set; give it to one of them")
    profiles = _profiles(question, profile_axes)
    for profile, name in itertools.product(profiles, profile_axes):
        if f"@{name}=" in profile.name:
            raise InputError(f"{name!r} is set in --arch {profile.name} and swept by --profile-axis; leave one of them out")
    return SweepController("", lambda point: (), profiles, axes, profile_axes, settings, question.runtime, fusion)


def controllers(plan: SweepController, models: Sequence[str], question: Question) -> Iterator[tuple[SweepController, str | None]]:
    """The sweep of each model in each element type, as (controller, element type); errors as for `ModelSource`."""
    points = at_ends({**plan.axes, **{name: (value,) for name, value in plan.fixed.items()}})
    dtypes: Sequence[str | None] = question.dtypes or (None,)
    for model, dtype in itertools.product(models, dtypes):
        source = question.open_source(question.request(model, dtype, points))
        fixed = {name: value for name, value in {**source.axes(), **plan.fixed}.items() if name not in plan.axes}
        yield replace(plan, model=model, source=_graphs_of(source), fixed=fixed), dtype


def _graphs_of(source: ModelSource) -> GraphSource:
    return lambda point: source.at(point).graphs


def _profiles(question: Question, profile_axes: Axes) -> list[ArchitectureProfile]:
    """The architectures of a sweep. Named ones must have one of the runtimes; by default, the built-in ones with a runtime and
    all swept coefficients."""
    if question.arch:
        named_profiles = [profile for profile, _ in choose_targets(question.arch, (), question.threads, question.host)]
        for profile in named_profiles:
            if question.runtime and not any(runtime in RUNTIMES[profile.family] for runtime in question.runtime):
                check_runtime(profile, question.runtime[0])
        return named_profiles
    profiles = list({profile.name: profile for profile, _ in question.targets()}.values())
    can_change = {profile.name: {*profile.coefficients, *tiling_parameters(profile)} for profile in profiles}
    fitting = [profile for profile in profiles if can_change[profile.name].issuperset(profile_axes)]
    if not fitting:
        known_names = {name for names in can_change.values() for name in names}
        missing_name = next((name for name in profile_axes if name not in known_names), None)
        if missing_name is None:
            raise InputError(f"no architecture has all of {', '.join(profile_axes)}; sweep one of them at a time")
        raise unknown("coefficient", missing_name, known_names, "see `shmoo profiles show ARCH`")
    return fitting
