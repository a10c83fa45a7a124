"""Cases over many runs in order of measurement: the runs at which a case, or all of them, changed lastingly.

docs/gate.md has the formulas and their sources.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import numpy as np

from shmoo.estimators.errors import InputError, NothingMeasuredError
from shmoo.estimators.graph.records import Interval
from shmoo.estimators.units import percent
from shmoo.runs.analysis.compare_noise import NORMAL_FROM, Growth
from shmoo.runs.analysis.compare_verdict import CASE_RESOLUTION, MIN_CHANGE, beyond, least_certain
from shmoo.runs.store.records import CaseSpec, Status
from shmoo.runs.store.statistics import Variance, median, pooled, typical_deviation
from shmoo.runs.store.store import Run, machine_differences

FEWEST = 3
"""Fewest runs in which differences between neighbours separate noise from a change."""
EFFICIENCY = 0.37
"""Degrees of freedom per difference when the median is used: the median absolute deviation has 37 % of the efficiency of the
standard deviation (Rousseeuw and Croux, JASA 88, 1993)."""
LEAST_NOISE = 1e-6
"""Smallest relative noise assumed; clocks resolve no less."""
ALL = "all cases (geometric mean)"


class RunPoint(msgspec.Struct, frozen=True):
    """A run of the history.

    Attributes:
        commit: the measured repository's commit from `git describe`; "" where it was not recorded.
        differs: fingerprint fields in which its machine differs from the first run's.
    """

    path: str
    started_at: str
    commit: str
    differs: tuple[str, ...]

    @property
    def label(self) -> str:
        """Commit where known, and the directory's name."""
        name = self.path.rstrip("/").rpartition("/")[2]
        return f"{self.commit} ({name})" if self.commit else name


class CasePoint(msgspec.Struct, frozen=True):
    """A case in one run, `run` counted from 0; suspect and failed rows have no value and are not used."""

    run: int
    value_s: float | None
    relative_se: float | None
    status: Status


class ChangePoint(msgspec.Struct, frozen=True):
    """A lasting change of a case.

    Attributes:
        run: the first run that differs, counted from 0.
        ratio: level from there to the next step over the level before, with its 90 % interval.
        errors: size of the step in standard errors.
    """

    run: int
    ratio: Interval
    errors: float


class Series(msgspec.Struct, frozen=True):
    """A case over the runs, or the geometric mean of all cases; `noise` is σ, `None` with too few runs."""

    label: str
    case: CaseSpec | None
    points: tuple[CasePoint, ...]
    noise: float | None
    changes: tuple[ChangePoint, ...]
    visible: float | None = None
    """Smallest relative step, in the middle of the runs, that would stand out from noise; `None` with too few runs."""


class History(msgspec.Struct, frozen=True):
    """Runs in the order of measurement; `suite` is the geometric mean over the cases that every run has, relative to the first
    run, and `None` without such a case; `series` has the cases with the largest change first."""

    runs: tuple[RunPoint, ...]
    suite: Series | None
    series: tuple[Series, ...]

    @property
    def every(self) -> tuple[Series, ...]:
        """The geometric mean, where there is one, and the cases."""
        return self.series if self.suite is None else (self.suite, *self.series)

    @property
    def first_different(self) -> int | None:
        """The first run with a change in any case or in all; `None` without one."""
        return min((change.run for series in self.every for change in series.changes), default=None)

    @property
    def headline(self) -> str:
        """The outcome in words."""
        if self.first_different is not None:
            differs = self.runs[self.first_different]
            before = self.runs[self.first_different - 1].commit
            same_commit = (
                ", of the same commit as the run before it: the machine changed, not the code"
                if before == differs.commit != ""
                else ""
            )
            return f"The first run that differs is {differs.label}{same_commit}"
        visible = [series.visible for series in self.series if series.visible is not None]
        if not visible:
            return f"Too few runs to tell: a case needs {FEWEST} with a usable row"
        step = percent(median(visible), digits=0)
        commits = {run.commit for run in self.runs}
        same_commit = "; all are of one commit" if len(commits) == 1 and "" not in commits else ""
        if median(visible) > CASE_RESOLUTION:
            return f"Too noisy to tell: a step of {step} in the typical case could have been seen{same_commit}"
        return f"No run differs; a step of {step} in the typical case would have been seen{same_commit}"


def history(runs: Sequence[Run], threshold: float = MIN_CHANGE) -> History:
    """Follow the cases of several runs.

    Args:
        runs: the runs, in any order.
        threshold: relative size up to which steps are not reported.

    Raises:
        InputError: fewer than two runs, or the same run twice.
        NothingMeasuredError: no case is usable in two runs.
    """
    ordered = sorted(runs, key=lambda run: (run.manifest.started_at, _first_visit(run), str(run.path)))
    if len({run.path.resolve() for run in ordered}) < max(len(ordered), 2):
        raise InputError(
            f"a history needs at least two different runs, got {', '.join(str(run.path) for run in ordered) or 'none'}"
        )
    first = ordered[0].manifest.machine
    points = tuple(
        RunPoint(
            str(run.path),
            run.manifest.started_at or _first_visit(run),
            str(run.manifest.settings.get("commit") or ""),
            tuple(machine_differences(first, run.manifest.machine)),
        )
        for run in ordered
    )
    cases: dict[str, CaseSpec] = {}
    by_case: dict[str, list[CasePoint]] = {}
    for number, run in enumerate(ordered):
        for row in run.rows:
            cases.setdefault(row.case.identity, row.case)
            time = row.latency if row.timed else None
            value_s, error = (None, None) if time is None else (time.value_s, time.relative_se)
            by_case.setdefault(row.case.identity, []).append(CasePoint(number, value_s, error, row.status))
    timed_of = {identity: [p for p in points if p.value_s is not None] for identity, points in by_case.items()}
    usable = {identity: timed for identity, timed in timed_of.items() if len(timed) > 1}
    if not usable:
        raise NothingMeasuredError("no case is usable in two of the runs; see `shmoo check` for what is wrong with a run")
    differences = {identity: np.abs(np.diff(_logs(timed))) for identity, timed in usable.items() if len(timed) >= FEWEST}
    typical = _noise_of(list(differences.values())) if differences else None
    looked_at = sum(len(timed) - 1 for timed in usable.values())
    series = []
    for identity, case_points in by_case.items():
        timed = usable.get(identity, [])
        noise = _noise(timed, differences.get(identity), typical)
        series.append(_series(cases[identity].label, cases[identity], case_points, timed, noise, looked_at, threshold))
    series.sort(key=lambda entry: (-max((abs(math.log(c.ratio.value)) for c in entry.changes), default=0.0), entry.label))
    return History(points, _suite(usable, len(ordered), threshold), tuple(series))


def _suite(usable: dict[str, list[CasePoint]], runs: int, threshold: float) -> Series | None:
    complete = [timed for timed in usable.values() if len(timed) == runs]
    if not complete:
        return None
    logs = np.array([_logs(timed) for timed in complete])
    errors = np.array([[point.relative_se or 0.0 for point in timed] for timed in complete])
    means = (logs - logs[:, :1]).mean(axis=0)
    mean_errors = np.sqrt((errors**2).sum(axis=0)) / len(complete)
    points = [CasePoint(number, math.exp(mean), float(mean_errors[number]), "ok") for number, mean in enumerate(means.tolist())]
    differences = np.abs(np.diff(means)) if runs >= FEWEST else None
    noise = _noise(points, differences, None)
    return _series(ALL, None, points, points, noise, runs - 1, threshold)


def _series(
    label: str,
    case: CaseSpec | None,
    points: Sequence[CasePoint],
    timed: Sequence[CasePoint],
    noise: Growth | None,
    looked_at: int,
    threshold: float,
) -> Series:
    """The series of a case. `timed`: the points with a value. `looked_at`: possible places of steps in all series together."""
    if noise is None:
        return Series(label, case, tuple(points), None, ())
    changes = _changes(timed, noise, looked_at, threshold)
    half = len(timed) // 2
    smallest_step = least_certain(noise, looked_at) * math.sqrt(1 / half + 1 / (len(timed) - half))
    return Series(label, case, tuple(points), noise.standard_error, changes, max(math.expm1(smallest_step), threshold))


def _first_visit(run: Run) -> str:
    return min((line.measured_at for line in run.lines if line.measured_at), default="")


def _logs(points: Sequence[CasePoint]) -> np.ndarray:
    return np.log([point.value_s for point in points if point.value_s is not None])


def _noise_of(differences: Sequence[np.ndarray]) -> float:
    return typical_deviation(differences) / math.sqrt(2)


def _noise(points: Sequence[CasePoint], differences: np.ndarray | None, typical: float | None) -> Growth | None:
    """The noise between two equal runs of a series, as a growth of 0; `None` with too few runs."""
    if differences is None:
        return None
    variance, freedom = pooled(Variance(_noise_of([differences]) ** 2, EFFICIENCY * differences.size), typical)
    own_variance = float(np.median([point.relative_se or 0.0 for point in points])) ** 2
    return Growth(
        0.0, math.sqrt(max(variance, own_variance, LEAST_NOISE**2)), NORMAL_FROM if own_variance > variance else freedom
    )


def _changes(points: Sequence[CasePoint], noise: Growth, looked_at: int, threshold: float) -> tuple[ChangePoint, ...]:
    """The steps of a series in order."""
    logs = _logs(points)
    edges = sorted(_steps(logs, 0, logs.size, least_certain(noise, looked_at), threshold))
    bounds = [0, *edges, logs.size]
    steps = []
    for before, at, after in zip(bounds, bounds[1:], bounds[2:], strict=False):
        error = noise.standard_error * math.sqrt(1 / (at - before) + 1 / (after - at))
        step = Growth(float(logs[at:after].mean() - logs[before:at].mean()), error, noise.freedom)
        steps.append(ChangePoint(points[at].run, step.ratio, abs(step.log_ratio) / error))
    return tuple(steps)


def _steps(logs: np.ndarray, start: int, stop: int, limit: float, threshold: float) -> list[int]:
    """Places of steps between `start` and `stop`; `limit` is the smallest visible step of one run against infinitely many."""
    count = stop - start
    if count < 2:
        return []
    sums = np.cumsum(logs[start:stop])
    before = np.arange(1, count)
    steps = (sums[-1] - sums[:-1]) / (count - before) - sums[:-1] / before
    excess = np.abs(steps) / np.sqrt(1 / before + 1 / (count - before))
    place = int(excess.argmax())
    if excess[place] < limit or not beyond(float(steps[place]), threshold):
        return []
    at = start + place + 1
    return [at, *_steps(logs, start, at, limit, threshold), *_steps(logs, at, stop, limit, threshold)]
