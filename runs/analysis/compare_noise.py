"""How much a case, or a whole suite, grew from one run to another, and how well that is known.

docs/gate.md has the formulas and their sources: two runs, several base runs, pairs of visits, and the geometric mean."""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import NormalDist
from typing import NamedTuple

import msgspec
import numpy as np

from shmoo.estimators.graph.records import Interval
from shmoo.estimators.registry import grouped
from shmoo.runs.store.records import EnergyReading, Measurement
from shmoo.runs.store.statistics import (
    CONFIDENCE,
    FEW_CASES,
    PRIOR_VISITS,
    Variance,
    deviation_of_cases,
    error_sizes,
    latencies_of,
    pooled,
    typical_deviation,
    visit_deviations,
)
from shmoo.runs.store.store import Run

NORMAL_FROM = 200.0
"""Degrees of freedom from which Student's distribution is replaced by the normal one."""
ANGLES = 2000
"""Steps of the integral that inverts Student's distribution."""
TRIMMED = 0.2
"""Share of the differences of pairs at either end that the mean leaves out."""
LARGEST_ERROR = 100.0
"""Relative error of an energy from which on it tells nothing."""
BATCHES = 5
"""Consecutive parts of a run whose means show the drift that all cases share: few, so that they are longer than it lasts."""


PROCESS_SD, CASE_SD = 0.01, 0.02
"""Standard deviations of the log time of equal code between two processes: of all cases together, and of each besides
(docs/gate.md). Times alone agree so well within a run that this is what equal runs differ by."""


class Growth(msgspec.Struct, frozen=True):
    """New over base of one quantity: of one case, or the geometric mean over cases.

    Attributes:
        log_ratio: logarithm of the ratio.
        standard_error: of the logarithm.
        freedom: degrees of freedom of the standard error, at most `NORMAL_FROM`.
        known: whether the standard error contains what visits, runs or cases differ by; otherwise it is only that within a visit.
    """

    log_ratio: float
    standard_error: float
    freedom: float = NORMAL_FROM
    known: bool = True

    @property
    def half_width(self) -> float:
        """Half the 90 % interval of the logarithm."""
        return student_quantile(1 - CONFIDENCE, self.freedom) * self.standard_error

    @property
    def ratio(self) -> Interval:
        """The ratio with its 90 % interval."""
        half = self.half_width
        return Interval(math.exp(self.log_ratio), math.exp(self.log_ratio - half), math.exp(self.log_ratio + half))


class Pair(NamedTuple):
    """The rows of one case: of each base run that can use it, and of the new run."""

    bases: tuple[Measurement, ...]
    new: Measurement

    @property
    def base_s(self) -> float:
        """Geometric mean over the base runs of what a call takes."""
        return math.exp(sum(math.log(row.latency.value_s) for row in self.bases) / len(self.bases))

    @property
    def base_se(self) -> float:
        """Relative standard error of `base_s` by what each run knows of itself."""
        return math.hypot(*(row.latency.relative_se for row in self.bases)) / len(self.bases)

    @property
    def log_ratio(self) -> float:
        """Logarithm of new over base."""
        return math.log(self.new.latency.value_s / self.base_s)

    @property
    def knows_visits(self) -> bool:
        """Whether all standard errors contain the spread between visits."""
        return all(row.latency.visits > 1 or row.visit_sd is not None for row in (*self.bases, self.new))


class Undisturbed(NamedTuple):
    """Identities of cases by what they met beside them. Only counts of visits decide it, which say nothing of the ratio.

    Attributes:
        alone: to compare by their times alone: at least half of the visits of every run that can use the case met a quiet
            machine, and in both runs of a duel at least half of the pairs did.
        unequal: at least half of the visits met a quiet machine in one run, and fewer in another, so that the neighbour may be
            the difference; none of a duel, whose pairs share it.
    """

    alone: frozenset[str]
    unequal: frozenset[str]


def undisturbed(runs: Sequence[Run], usable: Sequence[Mapping[str, Measurement]], *, paired: bool) -> Undisturbed:
    """Args: usable: of each run, identity -> row that can be used; the new run is the last."""
    alone, unequal = [], []
    for identity in usable[-1]:
        having = [run for run, rows in zip(runs, usable, strict=True) if identity in rows]
        visited = [{line.visit for line in run.visits[identity] if line.timed} for run in having]
        quiet = [set(run.alone.get(identity, ())) for run in having]
        if paired and len(having) > 1:
            visited, quiet = [visited[0] & visited[1]], [quiet[0] & quiet[1]]
        enough = [len(met) > 1 and 2 * len(met) >= len(met_any) for met, met_any in zip(quiet, visited, strict=True)]
        if all(enough):
            alone.append(identity)
        elif any(enough) and all(identity in run.alone for run in having):
            unequal.append(identity)
    return Undisturbed(frozenset(alone), frozenset(unequal))


def rows_alone(run: Run, rows: Mapping[str, Measurement], alone: frozenset[str]) -> dict[str, Measurement]:
    """The rows, those of the cases in `alone` with the time alone as their latency."""
    chosen = [row for identity, row in rows.items() if identity in alone]
    visits = [[(seconds,) for seconds in run.alone[row.case.identity].values()] for row in chosen]
    deviations = visit_deviations([row.case.device for row in chosen], visits)
    latencies = latencies_of(visits, deviations)
    return dict(rows) | {
        row.case.identity: msgspec.structs.replace(row, prevailing=latency, visit_sd=deviation)
        for row, latency, deviation in zip(chosen, latencies, deviations, strict=True)
    }


def own_growth(pair: Pair, apart: float | None) -> Growth:
    """By what the runs know of themselves.

    Args:
        apart: standard deviation of all log ratios, which counts where the rows do not know their visits' spread; `None` where
            too few cases tell it.
    """
    deviation = math.hypot(pair.base_se, pair.new.latency.relative_se)
    if not pair.knows_visits:
        return Growth(pair.log_ratio, max(deviation, apart or 0.0), known=apart is not None)
    parts = [
        Variance((row.latency.relative_se / runs) ** 2, row.latency.visits - 1 + (0.0 if row.visit_sd is None else PRIOR_VISITS))
        for runs, rows in ((len(pair.bases), pair.bases), (1, (pair.new,)))
        for row in rows
    ]
    return Growth(pair.log_ratio, deviation, _freedom_of_sum(parts))


def between_processes(growth: Growth) -> Growth:
    """The growth of a time alone between two runs, each measured by a process of its own."""
    error = math.hypot(growth.standard_error, math.sqrt(2) * math.hypot(PROCESS_SD, CASE_SD))
    return msgspec.structs.replace(growth, standard_error=error)


def _freedom_of_sum(parts: Iterable[Variance]) -> float:
    """Degrees of freedom of a sum of variances (Welch and Satterthwaite: Welch, Biometrika 34, 1947)."""
    uncertain = [part for part in parts if part.value]
    if not uncertain:
        return NORMAL_FROM
    total = sum(part.value for part in uncertain)
    return min(total**2 / sum(part.value**2 / part.freedom for part in uncertain), NORMAL_FROM)


def between_runs(pairs: Sequence[Pair], growths: Sequence[Growth]) -> list[Growth]:
    """The growths with standard errors that contain what base runs differ by, never smaller than those given."""
    spreads = _pooled_spreads([np.log([row.latency.value_s for row in pair.bases]) for pair in pairs])
    wider = []
    for pair, growth, spread in zip(pairs, growths, spreads, strict=True):
        if spread is not None:
            # What runs differ by contains what visits differ by, which a run may not know.
            error = math.sqrt(spread.value * (1 + 1 / len(pair.bases)))
            between = Growth(growth.log_ratio, error, spread.freedom)
            growth = between if error > growth.standard_error else msgspec.structs.replace(growth, known=True)
        wider.append(growth)
    return wider


class PairedDifferences(NamedTuple):
    """Log ratios of visits of the same number in two runs, which followed each other.

    Attributes:
        values: case -> observations independent of each other, by their number: of each pair of processes where the rows tell
            them apart, else of each pair of visits.
        by_process: whether they are of pairs of processes.
    """

    values: dict[str, dict[int, float]]
    by_process: bool


def paired_differences(base: Run, new: Run, identities: Iterable[str], alone: frozenset[str] = frozenset()) -> PairedDifferences:
    """The differences of a duel, of the cases in `alone` between times alone.

    A neighbour that begins between the visits of a pair moves it by a factor: means leave out the fifth of the pairs at either
    end. Where pairs of visits count on their own, they are moved so that their mean is the trimmed one and their deviation that
    of it (Tukey and McLaughlin, Sankhya A 25, 1963; Yuen, Biometrika 61, 1974).
    """
    by_process = any(line.process is not None for line in base.lines)
    values: dict[str, dict[int, float]] = {}
    for identity in identities:
        before, after = (_rates(run, identity, identity in alone) for run in (base, new))
        shared = {visit: rate - after[visit] for visit, rate in before.items() if visit in after}
        if not by_process:
            values[identity] = dict(zip(shared, _winsorized(np.array(list(shared.values()))).tolist(), strict=True))
            continue
        # Lines of an older version, which a duel went on with, are of one pair of processes.
        process_of = {line.visit: -1 if line.process is None else line.process for line in base.visits[identity]}
        parts = grouped((process_of[visit], difference) for visit, difference in shared.items())
        values[identity] = {process: _trimmed_mean(part) for process, part in parts.items()}
    return PairedDifferences(values, by_process)


def paired_growths(pairs: Sequence[Pair], differences: PairedDifferences) -> list[Growth]:
    """Growths from the differences; as of `own_growth`, and not known, where no such visits tell it."""
    found = [np.array(list(differences.values[pair.new.case.identity].values())) for pair in pairs]
    spreads = _pooled_spreads(found, trimmed=not differences.by_process)
    return [
        Growth(float(values.mean()), math.sqrt(spread.value / values.size), spread.freedom)
        if values.size and spread is not None
        else msgspec.structs.replace(own_growth(pair, None), known=False)
        for pair, values, spread in zip(pairs, found, spreads, strict=True)
    ]


def _trimmed_mean(values: Sequence[float]) -> float:
    """Without a fifth at either end, and one of three to five."""
    cut = math.ceil(TRIMMED * len(values)) if len(values) > 2 else 0
    kept = sorted(values)[cut : len(values) - cut]
    return sum(kept) / len(kept)


def _winsorized(values: np.ndarray) -> np.ndarray:
    """The values, moved so that their mean is the trimmed one and their deviation that of it."""
    cut = _cut(values.size)
    if not cut:
        return values
    ordered = np.sort(values)
    held = np.clip(values, ordered[cut], ordered[-cut - 1])
    moved: np.ndarray = ordered[cut:-cut].mean() + (held - held.mean()) / (1 - 2 * cut / values.size)
    return moved


def _cut(count: int) -> int:
    """Values at either end that a trimmed mean of `count` leaves out."""
    return int(TRIMMED * count)


def _rates(run: Run, identity: str, alone: bool) -> dict[int, float]:
    """Visit -> logarithm of its rate, or of that while nothing else ran."""
    if alone:
        return {visit: -math.log(seconds) for visit, seconds in run.alone[identity].items()}
    return {
        line.visit: -math.log(sum(line.timing.samples_s) / len(line.timing.samples_s))
        for line in run.visits[identity]
        if line.timed and line.timing is not None
    }


def _pooled_spreads(values: Sequence[np.ndarray], *, trimmed: bool = False) -> list[Variance | None]:
    """Variance of one of the repeated values of each case, pooled with that of the others; `None` where nothing tells it."""
    errors = [error_sizes(v - v.mean()) for v in values if v.size > 1]
    typical = typical_deviation(errors) if len(errors) >= FEW_CASES else None
    spreads: list[Variance | None] = []
    for repeated in values:
        freedom = max(repeated.size - 1.0 - (2 * _cut(repeated.size) if trimmed else 0), 0.0)
        variance, freedom = pooled(Variance(float(np.var(repeated, ddof=1)) if freedom else 0.0, freedom), typical)
        spreads.append(Variance(variance, min(freedom, NORMAL_FROM)) if freedom else None)
    return spreads


def suite_growth(growths: Sequence[Growth], drift: Variance | None = None, between: Variance | None = None) -> Growth | None:
    """The geometric mean over cases; `None` without one.

    Args:
        drift: of the mean by what all cases share within the runs. Where it is the smaller one, as it is by chance in few
            batches, the mean is still known with no more degrees of freedom.
        between: of the mean by what base runs differ by.
    """
    if not growths:
        return None
    centre = sum(growth.log_ratio for growth in growths) / len(growths)
    parts = [Variance((growth.standard_error / len(growths)) ** 2, growth.freedom) for growth in growths]
    whole = Variance(sum(part.value for part in parts), _freedom_of_sum(parts))
    if drift is not None:
        whole = Variance(max(whole.value, drift.value), min(whole.freedom, drift.freedom))
    if between is not None:
        whole = max(whole, between)
    return Growth(centre, math.sqrt(whole.value), whole.freedom, all(growth.known for growth in growths))


def mean_variance_between(bases: Sequence[Run], pairs: Sequence[Pair], alone: frozenset[str]) -> Variance | None:
    """Variance of the suite's mean by what base runs differ by in theirs, over the cases that all of them can use. For a single
    base run, what two processes differ by where cases are compared by their times alone, and otherwise `None`."""
    if len(bases) < 2:
        return Variance(2 * PROCESS_SD**2, NORMAL_FROM) if any(pair.new.case.identity in alone for pair in pairs) else None
    complete = [[row.latency.value_s for row in pair.bases] for pair in pairs if len(pair.bases) == len(bases)]
    if not complete:
        return None
    means = np.log(np.array(complete)).mean(axis=0)
    return Variance(float(np.var(means, ddof=1)) * (1 + 1 / len(bases)), len(bases) - 1.0)


def drift_variance(run: Run, identities: Iterable[str], alone: frozenset[str] = frozenset()) -> Variance | None:
    """Variance of the mean of a run over cases, of those in `alone` by their times alone, by its batch means; `None` for a run of
    few visits."""
    visited = Counter(line.case.identity for line in run.lines)
    repeated = [identity for identity in identities if visited[identity] > 1]
    return _batch_means(run, {identity: _rates(run, identity, identity in alone) for identity in repeated}) if repeated else None


def paired_drift_variance(base: Run, differences: PairedDifferences) -> Variance | None:
    """Variance of the mean difference over cases by what pairs of processes differ by, or by batch means of pairs of visits;
    `None` for few of them."""
    if not differences.by_process:
        return _batch_means(base, differences.values)
    residuals: dict[int, list[float]] = {}
    for found in differences.values.values():
        mean = sum(found.values()) / len(found) if found else 0.0
        for process, value in found.items() if len(found) > 1 else ():
            residuals.setdefault(process, []).append(value - mean)
    if len(residuals) < 2:
        return None
    means = [sum(part) / len(part) for part in residuals.values()]
    return Variance(float(np.var(means, ddof=1)) / len(means), len(means) - 1.0)


def _batch_means(run: Run, values: Mapping[str, Mapping[int, float]]) -> Variance | None:
    """Args: values: case -> visit -> what to take the batch means of, in the order of the run's lines."""
    means = {identity: sum(found.values()) / len(found) for identity, found in values.items() if len(found) > 1}
    residuals = [
        values[identity][line.visit] - means[identity]
        for line in run.lines
        if (identity := line.case.identity) in means and line.timed and line.visit in values[identity]
    ]
    if len(residuals) < 4 * BATCHES:
        return None
    batches = np.array([part.mean() for part in np.array_split(np.array(residuals), BATCHES)])
    visits = len(residuals) / len(means)
    return Variance(float(np.var(batches, ddof=1)) / BATCHES * visits / (visits - 1), BATCHES - 1.0)


def energy_growths(pairs: Sequence[Pair]) -> list[Growth | None]:
    """Energy per call, as `Growth`, or `None`: a run lacks it, the domains differ, or it is too uncertain.

    A row's energy is read on one visit as a rule, so that its own interval holds nothing of what visits differ by: the spread of
    all ratios does.
    """
    found = [_energies(pair) for pair in pairs]
    apart = deviation_of_cases(np.array([log for log, _ in filter(None, found)]))
    return [None if one is None else Growth(one[0], max(one[1], apart or 0.0), known=apart is not None) for one in found]


def _energies(pair: Pair) -> tuple[float, float] | None:
    """Log ratio of the energies of a call, and the standard error that the readings know of."""
    new = pair.new.energy_reading
    bases = [reading for row in pair.bases if (reading := row.energy_reading) is not None]
    if new is None or not new.energy_j or not bases or any(base.domain != new.domain or not base.energy_j for base in bases):
        return None
    logs = [math.log(base.energy_j) for base in bases if base.energy_j]
    own = math.hypot(*(_relative_sd(base) for base in bases)) / len(bases)
    error = math.hypot(own, _relative_sd(new))
    return (math.log(new.energy_j) - sum(logs) / len(logs), error) if error < LARGEST_ERROR else None


def _relative_sd(reading: EnergyReading) -> float:
    return (reading.sd_j or 0.0) / reading.energy_j if reading.energy_j else 0.0


def student_quantile(outside: float, freedom: float) -> float:
    """The value that |t| of Student's distribution with these degrees of freedom exceeds with the probability `outside`."""
    if freedom >= NORMAL_FROM:
        return NormalDist().inv_cdf(1 - outside / 2)
    return _quantile(outside, max(math.floor(freedom), 1))


@functools.lru_cache(maxsize=4096)
def _quantile(outside: float, whole: int) -> float:
    # With t = sqrt(freedom) tan(angle), the density of the angle is proportional to cos(angle)^(freedom - 1).
    step = math.pi / 2 / ANGLES
    from_end = np.arange(ANGLES + 1) * step
    density = np.sin(from_end) ** (whole - 1)
    beyond = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    return math.sqrt(whole) / math.tan(np.interp(outside, beyond / beyond[-1], from_end))
