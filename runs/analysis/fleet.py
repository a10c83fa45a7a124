"""Runs of many machines side by side: groups of equal machines, outliers among them, and drift since an earlier campaign.

Median and scatter leave out the machine under test, so that a slow machine among three cannot hide (docs/lab.md).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from shmoo.estimators.errors import NothingMeasuredError
from shmoo.estimators.graph.records import Interval
from shmoo.estimators.machine.profile import ArchitectureProfile
from shmoo.estimators.registry import grouped
from shmoo.runs.analysis.compare import compare_runs, conditions
from shmoo.runs.analysis.compare_verdict import MIN_CHANGE
from shmoo.runs.store.records import CaseSpec
from shmoo.runs.store.statistics import deviation_of_cases, typical_deviation
from shmoo.runs.store.store import Run, machine_differences

Z_LIMIT = 3.5
"""Absolute z-scores above it are outliers (Iglewicz and Hoaglin)."""
MEDIAN_SE = math.sqrt(math.pi / 2)
"""Ratio of the standard error of the median to that of the mean, for normal samples."""
LEAST_SCATTER = 0.01
"""Smallest scatter assumed for the log speeds of equal machines, since two or three can agree by chance."""
FEWEST_EQUAL = 3
"""Fewest equal machines for which an outlier can be named: of two, either could be the outlier."""
_Level = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Specimen:
    """One machine of a campaign: its run and profile where they exist, facts about the machine by name, and the outcome of its
    measurement."""

    name: str
    standing: str
    reason: str = ""
    run: Run | None = None
    profile: ArchitectureProfile | None = None
    facts: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Speed:
    """A machine among equal ones.

    Attributes:
        ratio: its times over the median of the equal machines', 1.05 where it is 5 % slower. `None` with too few shared cases.
        cases: number of cases shared with other machines. standard_error: relative standard error of the ratio.
        z: robust z-score; `None` where fewer than three machines are equal.
        outlier: the z-score and the ratio are both beyond their limits.
        energy_ratio: as `ratio`, for the energy per call; `None` where it was not measured.
    """

    name: str
    ratio: float | None
    cases: int
    standard_error: float | None = None
    z: float | None = None
    outlier: bool = False
    energy_ratio: float | None = None


@dataclass(frozen=True, slots=True)
class Family:
    """Machines whose fingerprints are equal, and how fast each is."""

    specimens: tuple[Specimen, ...]
    speeds: tuple[Speed, ...]

    @property
    def title(self) -> str:
        """CPU, GPU and number of threads of its machines."""
        machine = self.runs[0].manifest.machine
        gpu = f" with {machine.gpu_model}" if machine.gpu_model else ""
        return f"{machine.cpu_model}{gpu}, threads: {machine.threads}"

    @property
    def runs(self) -> tuple[Run, ...]:
        """The run of each machine."""
        return tuple(specimen.run for specimen in self.specimens if specimen.run is not None)


@dataclass(frozen=True, slots=True)
class Drift:
    """The changes of one machine since the earlier campaign.

    Attributes:
        changes: (name, before, after).
        ratio: common ratio of its times, now over then; `None` with too few shared cases. shifted: beyond noise.
    """

    name: str
    changes: tuple[tuple[str, object, object], ...]
    ratio: Interval | None = None
    shifted: bool = False


@dataclass(frozen=True, slots=True)
class NetworkEnergy:
    """Energy of one inference of a network on each machine that measured it, in joules for one sample of a batch."""

    case: CaseSpec
    energy_j: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class FleetReport:
    """A campaign over many machines.

    Attributes:
        machines: number of machines.
        missing: machines with an incomplete measurement: failed, died, never reached, or still running.
        families: equal machines together, the largest family first.
        drifts: machines of both campaigns that changed between them.
        energies: energies of networks, from machines with a counter.
    """

    machines: int
    missing: tuple[Specimen, ...]
    families: tuple[Family, ...]
    drifts: tuple[Drift, ...]
    energies: tuple[NetworkEnergy, ...]

    @property
    def outliers(self) -> tuple[Speed, ...]:
        """Machines that are slower or faster than equal machines."""
        return tuple(speed for family in self.families for speed in family.speeds if speed.outlier)


def fleet_report(specimens: Sequence[Specimen], earlier: Sequence[Specimen] = ()) -> FleetReport:
    """Compare the machines of a campaign with each other and with those of the `earlier` campaign."""
    measured = [specimen for specimen in specimens if specimen.run is not None and any(row.timed for row in specimen.run.rows)]
    families: list[list[Specimen]] = []
    for specimen in measured:
        equal = next((family for family in families if _equal(family[0], specimen)), None)
        if equal is None:
            families.append([specimen])
        else:
            equal.append(specimen)
    before = {specimen.name: specimen for specimen in earlier}
    drifts = [_drift(before[s.name], s) for s in specimens if s.name in before]
    return FleetReport(
        machines=len(specimens),
        missing=tuple(specimen for specimen in specimens if specimen.standing != "finished"),
        families=tuple(Family(tuple(f), speeds(f)) for f in sorted(families, key=len, reverse=True)),
        drifts=tuple(drift for drift in drifts if drift.changes or drift.shifted),
        energies=_network_energies(measured),
    )


def _equal(a: Specimen, b: Specimen) -> bool:
    return a.run is not None and b.run is not None and not machine_differences(a.run.manifest.machine, b.run.manifest.machine)


def speeds(specimens: Sequence[Specimen]) -> tuple[Speed, ...]:
    """The speed of each of these equal machines relative to the others."""
    times: list[dict[str, float]] = []
    energies: list[dict[str, float]] = []
    for specimen in specimens:
        rows = () if specimen.run is None else specimen.run.rows
        times.append({row.case.identity: math.log(row.latency.value_s) for row in rows if row.timed})
        readings = {row.case.identity: row.energy_reading for row in rows if row.timed}
        energies.append({case: math.log(e.energy_j) for case, e in readings.items() if e is not None and e.energy_j})
    distances = _distances(times)
    levels, powers = [_level(d) for d in distances], [_level(d) for d in _distances(energies)]
    return tuple(
        _speed(specimen.name, level, levels[:number] + levels[number + 1 :], machine_distances.size, power)
        for number, (specimen, level, machine_distances, power) in enumerate(
            zip(specimens, levels, distances, powers, strict=True)
        )
    )


def _distances(values: Sequence[Mapping[str, float]]) -> list[np.ndarray]:
    """For each machine, the distances of its values from the medians, over the cases shared with another machine."""
    cases = grouped(pair for machine_values in values for pair in machine_values.items())
    middle = {case: float(np.median(case_values)) for case, case_values in cases.items() if len(case_values) > 1}
    return [
        np.asarray([value - middle[case] for case, value in machine_values.items() if case in middle])
        for machine_values in values
    ]


def _level(distances: np.ndarray) -> _Level | None:
    """The median with its standard error; `None` for fewer than 8 cases."""
    deviation = deviation_of_cases(distances)
    return None if deviation is None else (float(np.median(distances)), MEDIAN_SE * deviation / math.sqrt(distances.size))


def _speed(name: str, level: _Level | None, beside: Sequence[_Level | None], cases: int, power: _Level | None) -> Speed:
    energy = None if power is None else math.exp(power[0])
    if level is None:
        return Speed(name, None, cases, energy_ratio=energy)
    log_ratio, error = level
    other_ratios = np.asarray([other_level[0] for other_level in beside if other_level is not None])
    if other_ratios.size < FEWEST_EQUAL - 1:
        return Speed(name, math.exp(log_ratio), cases, error, energy_ratio=energy)
    middle = float(np.median(other_ratios))
    scatter = max(typical_deviation([np.abs(other_ratios - middle)]), LEAST_SCATTER)
    z = (log_ratio - middle) / math.hypot(scatter, error)
    beyond = abs(z) > Z_LIMIT and math.expm1(abs(log_ratio - middle)) > MIN_CHANGE
    return Speed(name, math.exp(log_ratio - middle), cases, error, z, beyond, energy)


def _drift(earlier: Specimen, later: Specimen) -> Drift:
    names = [name for name in {**earlier.facts, **later.facts} if earlier.facts.get(name) != later.facts.get(name)]
    changes = [(name, earlier.facts.get(name), later.facts.get(name)) for name in names if earlier.facts and later.facts]
    if earlier.run is None or later.run is None:
        return Drift(later.name, tuple(changes))
    changed_names = {name for name, *_ in changes}
    differences = conditions(earlier.run.manifest, later.run.manifest)
    changes += [(d.field, d.a, d.b) for d in differences if d.field not in changed_names]
    try:
        compared = compare_runs(earlier.run, later.run)
    except NothingMeasuredError:
        return Drift(later.name, tuple(changes))
    return Drift(later.name, tuple(changes), compared.shift, compared.shifted)


def _network_energies(specimens: Sequence[Specimen]) -> tuple[NetworkEnergy, ...]:
    cases: dict[str, CaseSpec] = {}
    energies: dict[str, dict[str, float]] = {}
    for specimen in specimens:
        for row in () if specimen.run is None else specimen.run.rows:
            reading = row.energy_reading
            if row.case.kind == "network" and row.timed and reading is not None and reading.energy_j is not None:
                cases[row.case.identity] = row.case
                samples = int(row.case.axes.get("batch", 1))
                energies.setdefault(row.case.identity, {})[specimen.name] = reading.energy_j / samples
    return tuple(NetworkEnergy(cases[case], by_machine) for case, by_machine in energies.items())
