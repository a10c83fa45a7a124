"""Comparison of two runs of the same cases: changes beyond noise, and the spread between the campaigns.

    variance of the log ratio of a case = (standard error in A)² + (standard error in B)²

The standard errors come from the spread between visits (`runs.statistics.latency`). A run that visited no case twice knows only
the variation within one visit; the spread of all ratios then measures the difference of unchanged cases. A case counts as changed
only when its ratio exceeds its noise, corrected for the number of cases.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import NormalDist
from typing import NamedTuple, get_args

import msgspec
import numpy as np

from shmoo.estimators.errors import NothingMeasuredError
from shmoo.estimators.graph.records import Interval
from shmoo.runs.analysis.metrics import repeat_spread
from shmoo.runs.store.records import CANONICAL_STATE, FINGERPRINT_FIELDS, CaseSpec, Machine, Measurement, RunManifest, Status
from shmoo.runs.store.statistics import CONFIDENCE, FEW_CASES, PRIOR_VISITS, Latency, Z, median, normal_deviation, order_interval
from shmoo.runs.store.store import Run, machine_differences

MIN_CHANGE = 0.03
"""Relative changes below this are never reported, however certain."""
FALSE_ALARM = 0.05
"""Probability that comparing two runs of an unchanged machine names any case at all."""
GROUPS = {"operator": "operators", "synthetic": "synthetic", "network": "networks"}
NORMAL_FROM = 200
"""Degrees of freedom from which Student's distribution is replaced by the normal one."""
ANGLES = 2000
"""Steps of the integral that inverts Student's distribution."""


class Difference(msgspec.Struct, frozen=True):
    """A field in which the runs' conditions differ; with `severity` "machine" the runs cannot be calibrated together."""

    field: str
    a: object
    b: object
    severity: str = "setting"


class CaseChange(msgspec.Struct, frozen=True):
    """One case in both runs.

    Attributes:
        a_s, b_s: time of a call in each run, from all usable visits.
        a_relative_se, b_relative_se: standard errors, relative to them.
        a_status, b_status: "ok" or "noisy".
        ratio: b over a with its 90 % interval, noise between visits included.
        spread: |a - b| / min(a, b).
        within_errors: the logs of both differ by less than 1.645 combined standard errors.
        changed: the ratio differs from 1 by more than noise and by more than the smallest change.
    """

    case: CaseSpec
    a_s: float
    b_s: float
    a_relative_se: float
    b_relative_se: float
    a_status: Status
    b_status: Status
    ratio: Interval
    spread: float
    within_errors: bool
    changed: bool


class Unpaired(msgspec.Struct, frozen=True):
    """A case that is usable in one run only. `reason` says why the other run lacks it, and `status` is that of the row there, ""
    without a row."""

    case: CaseSpec
    missing_in: str
    reason: str
    status: str = ""


class Comparison(msgspec.Struct, frozen=True):
    """Two runs compared.

    Attributes:
        differences: of machine, versions and settings; those that rule out a common calibration come first.
        statuses: "a" and "b" -> status -> number of rows.
        cases: cases with a usable row in both runs, the largest change first.
        unpaired: the other cases, suspect rows included; they decide nothing.
        spreads: "operators", "synthetic", "networks" -> median over cases of |a - b| / min(a, b), canonical cache state only.
        counts: number of cases behind each spread.
        within_errors: share of the same cases whose runs differ by less than 1.645 combined standard errors: 0.9 where the
            standard errors are true.
        energy_spreads: as `spreads`, for energy per call, where both runs have it.
        shift: common ratio of all cases with its 90 % interval; `None` with fewer than 8.
        shifted: that ratio differs from 1 by more than noise and by more than the smallest change.
        noise: standard deviation of the log of one visit's rate; `None` when not known.
        noise_from: where the noise of ratios comes from: "visits", "cases" (spread of all ratios around their common shift, where
            rows do not know the spread between visits) or "" for unknown.
    """

    differences: tuple[Difference, ...]
    statuses: dict[str, dict[str, int]]
    cases: tuple[CaseChange, ...]
    unpaired: tuple[Unpaired, ...]
    spreads: dict[str, float]
    counts: dict[str, int]
    within_errors: dict[str, float]
    energy_spreads: dict[str, float]
    shift: Interval | None
    shifted: bool
    noise: float | None
    noise_from: str

    @property
    def changed(self) -> bool:
        """Whether anything changed beyond noise."""
        return self.shifted or any(case.changed for case in self.cases)


class _Pair(NamedTuple):
    """The rows of one case in both runs, and their times of a call."""

    rows: tuple[Measurement, Measurement]
    times: tuple[Latency, Latency]

    @property
    def log_ratio(self) -> float:
        return math.log(self.times[1].value_s / self.times[0].value_s)

    @property
    def standard_error(self) -> float:
        """Of the log ratio."""
        return math.hypot(self.times[0].relative_se, self.times[1].relative_se)

    @property
    def knows_visits(self) -> bool:
        """Whether both standard errors contain the spread between visits."""
        return all(time.visits > 1 or row.visit_sd is not None for row, time in zip(self.rows, self.times, strict=True))

    @property
    def freedom(self) -> float:
        """Degrees of freedom of the standard error (Welch and Satterthwaite; Welch, Biometrika 34, 1947)."""
        variances = [time.relative_se**2 for time in self.times]
        own = [
            time.visits - 1 + (PRIOR_VISITS if row.visit_sd is not None else 0.0)
            for row, time in zip(self.rows, self.times, strict=True)
        ]
        parts = sum(variance**2 / freedom for variance, freedom in zip(variances, own, strict=True) if variance)
        return sum(variances) ** 2 / parts if parts else math.inf


def compare_runs(a: Run, b: Run, min_change: float = MIN_CHANGE) -> Comparison:
    """Compare two runs case by case.

    Args:
        min_change: ratios nearer to 1 than this are never called a change.

    Raises:
        NothingMeasuredError: no case has a usable row in both.
    """
    rows = tuple({row.case.identity: row for row in run.rows} for run in (a, b))
    usable = tuple({identity: row for identity, row in side.items() if row.timed} for side in rows)
    pairs = [
        _Pair((row, other), (row.latency, other.latency))
        for identity, row in usable[0].items()
        if (other := usable[1].get(identity)) is not None
    ]
    if not pairs:
        raise NothingMeasuredError(
            f"no case has a usable row in both {a.path} ({len(usable[0])} such cases) and {b.path} ({len(usable[1])}); "
            "measure the same suite twice, and see `shmoo check` for what is wrong with a run"
        )
    logs = np.array([pair.log_ratio for pair in pairs])
    apart = normal_deviation(np.abs(logs - np.median(logs))) if logs.size >= FEW_CASES else None
    noise, noise_from = _visit_noise(pairs, apart)
    cases = [_case_change(pair, apart, len(pairs), min_change) for pair in pairs]
    shift, shifted = _common_shift(logs, min_change)
    canonical = [number for number, case in enumerate(cases) if case.case.cache_state == CANONICAL_STATE]
    groups = {name: [n for n in canonical if cases[n].case.kind == kind] for kind, name in GROUPS.items()}
    groups = {name: numbers for name, numbers in groups.items() if numbers}
    energies = {
        name: [s for n in numbers if (s := _energy_spread(*pairs[n].rows)) is not None] for name, numbers in groups.items()
    }
    return Comparison(
        differences=conditions(a.manifest, b.manifest),
        statuses={
            name: {status: sum(row.status == status for row in run.rows) for status in get_args(Status)}
            for name, run in (("a", a), ("b", b))
        },
        cases=tuple(sorted(cases, key=lambda case: -abs(math.log(case.ratio.value)))),
        unpaired=tuple(_unpaired(rows, usable)),
        spreads={name: median([cases[n].spread for n in numbers]) for name, numbers in groups.items()},
        counts={name: len(numbers) for name, numbers in groups.items()},
        within_errors={name: sum(cases[n].within_errors for n in numbers) / len(numbers) for name, numbers in groups.items()},
        energy_spreads={name: median(spreads) for name, spreads in energies.items() if spreads},
        shift=shift,
        shifted=shifted,
        noise=noise,
        noise_from=noise_from,
    )


def conditions(a: RunManifest, b: RunManifest) -> tuple[Difference, ...]:
    """Everything in which two manifests differ, apart from when they were written; machine differences first."""
    grave = machine_differences(a.machine, b.machine)
    differences = [Difference(name, *pair, severity="machine") for name, pair in grave.items()]
    others = [name for name in Machine.__struct_fields__ if name not in (*FINGERPRINT_FIELDS, "settings")]
    differences += [Difference(n, x, y) for n in others if (x := getattr(a.machine, n)) != (y := getattr(b.machine, n))]
    for prefix, old, new in (
        ("", a.machine.settings, b.machine.settings),
        ("version of ", a.versions, b.versions),
        ("", a.settings, b.settings),
    ):
        differences += [Difference(prefix + key, x, y) for key, x, y in _unequal(old, new)]
    return tuple(differences)


def _unequal(a: Mapping[str, object], b: Mapping[str, object]) -> Iterable[tuple[str, object, object]]:
    for key in sorted(a.keys() | b.keys()):
        # What is measured anew for each run, such as the cost of a page fault, never repeats to the digit.
        if a.get(key) != b.get(key) and not key.startswith("measured."):
            yield key, a.get(key), b.get(key)


def _visit_noise(pairs: Sequence[_Pair], apart: float | None) -> tuple[float | None, str]:
    """Standard deviation of the log of one visit's rate, and where it comes from. `apart`: that of all log ratios."""
    if all(pair.knows_visits for pair in pairs):
        deviations = [row.visit_sd for pair in pairs for row in pair.rows if row.visit_sd is not None]
        return (median(deviations) if deviations else None), "visits"
    # Both runs contribute one window to each ratio.
    return (None, "") if apart is None else (apart / math.sqrt(2), "cases")


def _case_change(pair: _Pair, apart: float | None, looked_at: int, min_change: float) -> CaseChange:
    """Args: apart: standard deviation of all log ratios, which counts where the rows do not know their visits' spread."""
    (a, b), centre = pair.times, pair.log_ratio
    deviation, freedom = pair.standard_error, math.inf
    if pair.knows_visits:
        freedom = pair.freedom
    elif apart is not None:
        deviation = max(deviation, apart)
    half = _student_quantile(1 - CONFIDENCE, freedom) * deviation
    # With many cases, some leave their own interval by chance; the limit for calling one changed grows with them (Bonferroni).
    limit = _student_quantile(FALSE_ALARM / looked_at, freedom) * deviation
    return CaseChange(
        case=pair.rows[0].case,
        a_s=a.value_s,
        b_s=b.value_s,
        a_relative_se=a.relative_se,
        b_relative_se=b.relative_se,
        a_status=pair.rows[0].status,
        b_status=pair.rows[1].status,
        ratio=Interval(math.exp(centre), math.exp(centre - half), math.exp(centre + half)),
        spread=repeat_spread(a.value_s, b.value_s),
        within_errors=abs(centre) <= Z * pair.standard_error,
        changed=abs(centre) > limit and _beyond(centre, min_change),
    )


def _student_quantile(outside: float, freedom: float) -> float:
    """The value that |t| of Student's distribution with these degrees of freedom exceeds with the probability `outside`."""
    if freedom >= NORMAL_FROM:
        return NormalDist().inv_cdf(1 - outside / 2)
    whole = max(math.floor(freedom), 1)
    # With t = sqrt(freedom) tan(angle), the density of the angle is proportional to cos(angle)^(freedom - 1).
    step = math.pi / 2 / ANGLES
    from_end = np.arange(ANGLES + 1) * step
    density = np.sin(from_end) ** (whole - 1)
    beyond = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    return math.sqrt(whole) / math.tan(np.interp(outside, beyond / beyond[-1], from_end))


def _common_shift(logs: np.ndarray, min_change: float) -> tuple[Interval | None, bool]:
    """The median ratio over cases, as a slower clock or a warmer machine causes it."""
    if logs.size < FEW_CASES:
        return None, False
    centre = float(np.median(logs))
    low, high = order_interval(logs.tolist())
    shifted = not low <= 0 <= high and _beyond(centre, min_change)
    return Interval(math.exp(centre), math.exp(low), math.exp(high)), shifted


def _beyond(log_ratio: float, min_change: float) -> bool:
    return math.expm1(abs(log_ratio)) > min_change


def _energy_spread(a: Measurement, b: Measurement) -> float | None:
    """Spread of the energy per call; `None` where a run lacks it or the domains differ."""
    first, second = a.energy_reading, b.energy_reading
    if first is None or second is None or first.domain != second.domain or not first.energy_j or not second.energy_j:
        return None
    return repeat_spread(first.energy_j, second.energy_j)


def _unpaired(
    rows: tuple[dict[str, Measurement], ...],
    usable: tuple[dict[str, Measurement], ...],
) -> Iterator[Unpaired]:
    for identity, known in {**rows[1], **rows[0]}.items():
        for side, name in ((0, "a"), (1, "b")):
            if identity in usable[side]:
                continue
            row = rows[side].get(identity)
            if row is None:
                yield Unpaired(known.case, name, "not measured")
            else:
                yield Unpaired(row.case, name, f"{row.status}: {row.why or 'no samples'}", row.status)
