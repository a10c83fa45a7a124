"""Growth of a case, or of a whole suite, from one run to another, with its standard error.

docs/gate.md has the formulas and their sources: two runs, several base runs, the pairs of a duel, and the geometric mean.
"""

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
"""Degrees of freedom from which the normal distribution replaces Student's."""
ANGLES = 2000
"""Integration steps for inverting Student's distribution."""
TRIMMED = 0.2
"""Share of the differences that the trimmed mean drops at each end."""
LARGEST_ERROR = 100.0
"""Relative error above which an energy is ignored."""
BATCHES = 5
"""Consecutive parts of a run whose means show the drift common to all cases; few, so that each outlasts a disturbance."""
PROCESS_SD, CASE_SD = 0.01, 0.02
"""Standard deviations of the log time of equal code between two processes: of all cases together, and of each besides
(docs/gate.md). Times alone agree so well within a run that this is what equal runs differ by."""


class Growth(msgspec.Struct, frozen=True):
    """Ratio of new to base of one quantity, for one case or as the geometric mean over cases.

    Attributes:
        log_ratio: logarithm of the ratio.
        standard_error: standard error of the logarithm.
        freedom: degrees of freedom of the standard error, at most `NORMAL_FROM`.
        known: whether the standard error contains the spread between visits, runs or cases; otherwise it covers one visit only.
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
    """The rows of one case: one from each base run where it is usable, and the new run's."""

    bases: tuple[Measurement, ...]
    new: Measurement

    @property
    def base_s(self) -> float:
        """Time of a call, as the geometric mean over the base runs."""
        return math.exp(sum(math.log(row.latency.value_s) for row in self.bases) / len(self.bases))

    @property
    def base_se(self) -> float:
        """Relative standard error of `base_s` from each run's own error."""
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
    """Identities of cases by the load that ran beside them. Only the numbers of visits decide, not the measured ratio.

    Attributes:
        alone: cases to compare by their times alone: in every run that can use the case, at least half of the visits met a quiet
            machine; in a duel, at least half of the pairs of visits did on both sides.
        unequal: cases where at least half of the visits met a quiet machine in one run but fewer in another, so that the other
            load may cause the difference; empty for a duel, whose pairs share the load.
    """

    alone: frozenset[str]
    unequal: frozenset[str]


def undisturbed(runs: Sequence[Run], usable: Sequence[Mapping[str, Measurement]], *, paired: bool) -> Undisturbed:
    """Sort the cases by the load beside them.

    Args:
        usable: identity -> usable row, for each run; the new run is the last.
    """
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
    """The growth with a standard error from the runs' own errors.

    Args:
        apart: standard deviation of all log ratios, used where the rows do not know the spread between visits; `None` with too
            few cases.
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
    """The growths with the spread between base runs in their standard errors, which never become smaller."""
    spreads = _pooled_spreads([np.log([row.latency.value_s for row in pair.bases]) for pair in pairs])
    wider = []
    for pair, growth, spread in zip(pairs, growths, spreads, strict=True):
        if spread is not None:
            # The spread between runs contains the spread between visits, which a run may not know.
            error = math.sqrt(spread.value * (1 + 1 / len(pair.bases)))
            between = Growth(growth.log_ratio, error, spread.freedom)
            growth = between if error > growth.standard_error else msgspec.structs.replace(growth, known=True)
        wider.append(growth)
    return wider


PairedDifferences = dict[str, dict[int, float]]
"""Case -> number of a pair of processes -> log ratio of its visits with equal numbers in two runs that alternated."""


def paired_differences(base: Run, new: Run, identities: Iterable[str], alone: frozenset[str] = frozenset()) -> PairedDifferences:
    """The differences of a duel, of the cases in `alone` between times alone.

    Another load that starts between the visits of a pair shifts the pair by a factor, so the mean of a pair of processes drops a
    fifth of its pairs of visits at each end. Lines without the number of a process come from one pair of processes.
    """
    values: PairedDifferences = {}
    for identity in identities:
        before, after = (_rates(run, identity, identity in alone) for run in (base, new))
        process_of = {line.visit: -1 if line.process is None else line.process for line in base.visits[identity]}
        parts = grouped((process_of[visit], rate - after[visit]) for visit, rate in before.items() if visit in after)
        values[identity] = {process: _trimmed_mean(part) for process, part in parts.items()}
    return values


def paired_growths(pairs: Sequence[Pair], differences: PairedDifferences) -> list[Growth]:
    """Growths from the differences; where a case has none, from `own_growth` and marked as not known."""
    case_values = [np.array(list(differences[pair.new.case.identity].values())) for pair in pairs]
    return [
        Growth(float(values.mean()), math.sqrt(spread.value / values.size), spread.freedom)
        if values.size and spread is not None
        else msgspec.structs.replace(own_growth(pair, None), known=False)
        for pair, values, spread in zip(pairs, case_values, _pooled_spreads(case_values), strict=True)
    ]


def _trimmed_mean(values: Sequence[float]) -> float:
    """Mean without a fifth of the values at each end; of three to five values, without one at each end."""
    cut = math.ceil(TRIMMED * len(values)) if len(values) > 2 else 0
    middle = sorted(values)[cut : len(values) - cut]
    return sum(middle) / len(middle)


def _rates(run: Run, identity: str, alone: bool) -> dict[int, float]:
    """Visit -> logarithm of its rate, or of that while nothing else ran."""
    if alone:
        return {visit: -math.log(seconds) for visit, seconds in run.alone[identity].items()}
    return {
        line.visit: -math.log(sum(line.timing.samples_s) / len(line.timing.samples_s))
        for line in run.visits[identity]
        if line.timed and line.timing is not None
    }


def _pooled_spreads(values: Sequence[np.ndarray]) -> list[Variance | None]:
    """Variance of a single repeated value for each case, pooled with the other cases'; `None` where it is unknown."""
    errors = [error_sizes(v - v.mean()) for v in values if v.size > 1]
    typical = typical_deviation(errors) if len(errors) >= FEW_CASES else None
    spreads: list[Variance | None] = []
    for repeated in values:
        freedom = max(repeated.size - 1.0, 0.0)
        variance, freedom = pooled(Variance(float(np.var(repeated, ddof=1)) if freedom else 0.0, freedom), typical)
        spreads.append(Variance(variance, min(freedom, NORMAL_FROM)) if freedom else None)
    return spreads


def suite_growth(growths: Sequence[Growth], drift: Variance | None = None, between: Variance | None = None) -> Growth | None:
    """The geometric mean over cases; `None` without one.

    Args:
        drift: variance of the mean from drift common to all cases within the runs. Where it is smaller than the cases' variance,
            as happens by chance with few batches, it still limits the degrees of freedom.
        between: variance of the mean from differences between base runs.
    """
    if not growths:
        return None
    centre = sum(growth.log_ratio for growth in growths) / len(growths)
    parts = [Variance((growth.standard_error / len(growths)) ** 2, growth.freedom) for growth in growths]
    variance = Variance(sum(part.value for part in parts), _freedom_of_sum(parts))
    if drift is not None:
        variance = Variance(max(variance.value, drift.value), min(variance.freedom, drift.freedom))
    if between is not None:
        variance = max(variance, between)
    return Growth(centre, math.sqrt(variance.value), variance.freedom, all(growth.known for growth in growths))


def mean_variance_between(bases: Sequence[Run], pairs: Sequence[Pair], alone: frozenset[str]) -> Variance | None:
    """Variance of the suite's mean from differences between base runs, over the cases usable in all of them. For a single base
    run, the variance between two processes where cases are compared by their times alone, and otherwise `None`."""
    if len(bases) < 2:
        return Variance(2 * PROCESS_SD**2, NORMAL_FROM) if any(pair.new.case.identity in alone for pair in pairs) else None
    complete = [[row.latency.value_s for row in pair.bases] for pair in pairs if len(pair.bases) == len(bases)]
    if not complete:
        return None
    means = np.log(np.array(complete)).mean(axis=0)
    return Variance(float(np.var(means, ddof=1)) * (1 + 1 / len(bases)), len(bases) - 1.0)


def drift_variance(run: Run, identities: Iterable[str], alone: frozenset[str] = frozenset()) -> Variance | None:
    """Variance of a run's mean over cases, from batch means; cases in `alone` count by their times alone. `None` for a run of few
    visits."""
    visited = Counter(line.case.identity for line in run.lines)
    repeated = [identity for identity in identities if visited[identity] > 1]
    values = {identity: _rates(run, identity, identity in alone) for identity in repeated}
    means = {identity: sum(rates.values()) / len(rates) for identity, rates in values.items() if len(rates) > 1}
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


def paired_drift_variance(differences: PairedDifferences) -> Variance | None:
    """Variance of the mean difference over cases, from the spread between pairs of processes; `None` with fewer than two."""
    residuals: dict[int, list[float]] = {}
    for by_process in differences.values():
        mean = sum(by_process.values()) / len(by_process) if by_process else 0.0
        for process, value in by_process.items() if len(by_process) > 1 else ():
            residuals.setdefault(process, []).append(value - mean)
    if len(residuals) < 2:
        return None
    means = [sum(part) / len(part) for part in residuals.values()]
    return Variance(float(np.var(means, ddof=1)) / len(means), len(means) - 1.0)


def energy_growths(pairs: Sequence[Pair]) -> list[Growth | None]:
    """Growth of the energy per call; `None` where a run lacks it, the domains differ, or it is too uncertain.

    A row's energy usually comes from one visit, so its own interval does not contain the spread between visits; the spread of
    all ratios does.
    """
    ratios = [_energies(pair) for pair in pairs]
    apart = deviation_of_cases(np.array([log for log, _ in filter(None, ratios)]))
    return [None if ratio is None else Growth(ratio[0], max(ratio[1], apart or 0.0), known=apart is not None) for ratio in ratios]


def _energies(pair: Pair) -> tuple[float, float] | None:
    """Log ratio of the energies of a call, and its standard error from the readings."""
    new = pair.new.energy_reading
    bases = [reading for row in pair.bases if (reading := row.energy_reading) is not None]
    if new is None or not new.energy_j or not bases or any(base.domain != new.domain or not base.energy_j for base in bases):
        return None
    logs = [math.log(base.energy_j) for base in bases if base.energy_j]
    bases_sd = math.hypot(*(_relative_sd(base) for base in bases)) / len(bases)
    error = math.hypot(bases_sd, _relative_sd(new))
    return (math.log(new.energy_j) - sum(logs) / len(logs), error) if error < LARGEST_ERROR else None


def _relative_sd(reading: EnergyReading) -> float:
    return (reading.sd_j or 0.0) / reading.energy_j if reading.energy_j else 0.0


def student_quantile(outside: float, freedom: float) -> float:
    """The value that |t| exceeds with probability `outside`, for Student's distribution with these degrees of freedom."""
    if freedom >= NORMAL_FROM:
        return NormalDist().inv_cdf(1 - outside / 2)
    return _quantile(outside, max(math.floor(freedom), 1))


@functools.lru_cache(maxsize=4096)
def _quantile(outside: float, freedom: int) -> float:
    # With t = sqrt(freedom) tan(angle), the density of the angle is proportional to cos(angle)^(freedom - 1).
    step = math.pi / 2 / ANGLES
    from_end = np.arange(ANGLES + 1) * step
    density = np.sin(from_end) ** (freedom - 1)
    beyond = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    return math.sqrt(freedom) / math.tan(np.interp(outside, beyond / beyond[-1], from_end))
