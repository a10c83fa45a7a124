"""SweepController: graphs x machines x axes of the workload and of the machine -> one flat row a point."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from shmoo.estimators.director import AnalysisDirector
from shmoo.estimators.errors import InputError
from shmoo.estimators.profile import ArchitectureProfile
from shmoo.estimators.records import Graph
from shmoo.estimators.tabular import Record, estimate_record, flatten
from shmoo.estimators.tiling import TilingStrategy

AxisValue = int | float | str | bool
GraphSource = Callable[[Mapping[str, AxisValue]], Sequence[Graph]]
"""Values of the workload's axes in, the graphs of that workload out."""


@dataclass(frozen=True, slots=True)
class SweepController:
    """Estimates every combination of axis values on every machine.

    Attributes:
        model: name for the rows.
        source: asked once per combination of workload axes.
        profiles: machines.
        axes: workload axis -> its values.
        profile_axes: coefficient of the machine (such as "capacity.sram") -> its values, in the coefficient's unit. Every
            profile must have it.
        fixed: workload axes that keep one value; they reach `source` and the rows. "batch" (1 where no axis is called so) is
            the number of samples a call processes.
        strategy: tiling strategy to use in place of each profile's own.

    Example:
        >>> sweep = SweepController("mlp", graphs_of, profiles, axes={"hidden": (256, 4096)})  # doctest: +SKIP
        >>> pandas.DataFrame(sweep.rows())  # doctest: +SKIP
    """

    model: str
    source: GraphSource
    profiles: Sequence[ArchitectureProfile]
    axes: Mapping[str, Sequence[AxisValue]] = field(default_factory=dict)
    profile_axes: Mapping[str, Sequence[float]] = field(default_factory=dict)
    fixed: Mapping[str, AxisValue] = field(default_factory=dict)
    strategy: TilingStrategy | None = None

    def __len__(self) -> int:
        """Number of rows."""
        points = len(self.profiles)
        for values in (*self.axes.values(), *self.profile_axes.values()):
            points *= len(values)
        return points

    def rows(self, *, runtime: str | None = None, dtype: str | None = None, threads: int | None = None) -> Iterator[Record]:
        """One row a point: the axes' values, then what `tabular.flatten` gives for the estimate. Workload axes vary slowest, the
        last profile axis fastest.

        Args:
            runtime, dtype, threads: as `AnalysisDirector.estimate` takes them.

        Raises:
            InputError: an axis without values, a profile axis that one of the profiles lacks, or what an estimate refuses.
        """
        for name, values in (*self.axes.items(), *self.profile_axes.items()):
            if not values:
                raise InputError(f"axis {name!r} has no values; give at least one")
        machines = [(d, values) for profile in self.profiles for d, values in self._variants(profile)]
        for point in _product(self.axes):
            settings = {**self.fixed, **point}
            graphs = tuple(self.source(settings))
            batch = int(settings.get("batch", 1))
            for director, values in machines:
                estimate = director.estimate(graphs, runtime=runtime, dtype=dtype, threads=threads, batch=batch)
                yield {**settings, **values, **flatten(estimate_record(estimate, self.model))}

    def _variants(self, profile: ArchitectureProfile) -> Iterator[tuple[AnalysisDirector, dict[str, float]]]:
        for values in _product(self.profile_axes):
            changed = profile.with_values(values) if values else profile
            yield AnalysisDirector(changed, self.strategy), values


def _product(axes: Mapping[str, Sequence]) -> Iterator[dict]:
    """Every combination of axis values; one empty combination where there are no axes."""
    for values in itertools.product(*axes.values()):
        yield dict(zip(axes, values, strict=True))
