"""Sweeps of models by name over axes: what `shmoo.sweep` and `shmoo sweep` have in common."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from shmoo.estimators.errors import InputError, unknown
from shmoo.estimators.machine.profile import RUNTIMES, ArchitectureProfile, check_runtime
from shmoo.estimators.sweep.controller import AxisValue, SweepController
from shmoo.estimators.variants import tiling_parameters
from shmoo.harness.machine.architectures import choose_targets
from shmoo.harness.models.asked import at_ends
from shmoo.harness.question import Question

Axes = Mapping[str, Sequence[AxisValue]]


class Sweep(NamedTuple):
    """Models and machines with the axes they are estimated over.

    Attributes:
        asked: element types, runtimes, threads and how the models are run.
        profiles: the machines.
        axes, settings: axes of the workloads with several values and with one.
        profile_axes: what is changed about the machines -> its values.
        fusion: whether calls are fused as the runtime does (`True`) or every call is a kernel of its own.
    """

    models: Sequence[str]
    asked: Question
    profiles: Sequence[ArchitectureProfile]
    axes: Axes
    settings: Mapping[str, AxisValue]
    profile_axes: Axes
    fusion: Sequence[bool]

    def controllers(self) -> Iterator[tuple[SweepController, str | None]]:
        """One for each model and element type, which follows it; errors as of `ModelSource`."""
        points = at_ends({**self.axes, **{name: (value,) for name, value in self.settings.items()}})
        dtypes: Sequence[str | None] = self.asked.dtypes or (None,)
        for model, dtype in itertools.product(self.models, dtypes):
            source = self.asked.open_source(self.asked.request(model, dtype, points))
            settings = {name: value for name, value in {**source.axes(), **self.settings}.items() if name not in self.axes}
            yield (
                SweepController(
                    model,
                    lambda point, source=source: source.at(point).graphs,  # type: ignore[misc]
                    self.profiles,
                    self.axes,
                    self.profile_axes,
                    settings,
                    self.asked.runtime,
                    self.fusion,
                ),
                dtype,
            )


def plan_sweep(
    models: Sequence[str],
    asked: Question,
    axes: Axes,
    settings: Mapping[str, AxisValue],
    profile_axes: Axes,
    fusion: Sequence[bool] = (True,),
) -> Sweep:
    """A sweep on the architectures asked for, where none is named on the built-in ones that have everything swept about them; of
    several batch sizes asked for "batch" becomes an axis. `InputError` for an unknown name, an axis that is given twice, and
    where no architecture has a runtime or an axis."""
    axes, settings = dict(axes), dict(settings)
    if asked.batches:
        if "batch" in axes or "batch" in settings:
            raise InputError("axis 'batch' is given to --batch and to --axis or --set; give it to one of them")
        if len(asked.batches) > 1:
            axes["batch"] = asked.batches
        else:
            settings["batch"] = asked.batches[0]
    if twice := sorted(axes.keys() & settings.keys()):
        raise InputError(f"axis {twice[0]!r} is given to --axis and to --set; give it to one of them")
    profiles = _profiles(asked, profile_axes)
    for profile, name in itertools.product(profiles, profile_axes):
        if f"@{name}=" in profile.name:
            raise InputError(f"{name!r} is set in --arch {profile.name} and swept by --profile-axis; leave one of them out")
    return Sweep(models, asked, profiles, axes, settings, dict(profile_axes), fusion)


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
