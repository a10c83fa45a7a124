"""Comparison of a run with one or more earlier runs of the same cases: changes beyond noise, and the spread between campaigns.

The variance of a case's log ratio adds both sides' variances, from the spread between visits (docs/gate.md has the formulas).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import get_args

import msgspec
import numpy as np

from shmoo.estimators.errors import NothingMeasuredError
from shmoo.estimators.graph.records import NORMAL_90, Interval
from shmoo.runs.analysis import compare_noise
from shmoo.runs.analysis.compare_noise import Growth, Pair, Undisturbed
from shmoo.runs.analysis.compare_verdict import MIN_CHANGE, QUESTIONS, Verdict, beyond, is_certain, verdict
from shmoo.runs.analysis.metrics import repeat_spread
from shmoo.runs.store.records import CANONICAL_STATE, FINGERPRINT_FIELDS, CaseSpec, Machine, Measurement, RunManifest, Status
from shmoo.runs.store.statistics import FEW_CASES, Variance, deviation_of_cases, median, order_interval
from shmoo.runs.store.store import Run, machine_differences

GROUPS = {"operator": "operators", "synthetic": "synthetic", "network": "networks"}


class Difference(msgspec.Struct, frozen=True):
    """A field in which the conditions of the runs differ; with `severity` "machine" the runs cannot be calibrated together."""

    field: str
    a: object
    b: object
    severity: str = "setting"


class CaseChange(msgspec.Struct, frozen=True):
    """One case in both runs.

    Attributes:
        a_s, b_s: time of a call in each run, from all usable visits.
        compared_s: the times that were compared: those alone where `alone`, else `a_s` and `b_s`.
        a_relative_se, b_relative_se: relative standard errors of these times.
        a_status, b_status: "ok" or "noisy".
        ratio: b over a with its 90 % interval, noise between visits included.
        spread: |a - b| / min(a, b).
        within_errors: the logs of both differ by less than half the 90 % interval of their combined standard error.
        changed: the ratio differs from 1 by more than noise and by more than the smallest change.
        unequal: another load ran during most visits of one run and not of the other, and may cause the difference; the case is
            too noisy to decide and takes no part in the geometric mean.
        alone: the ratio and the growth of the time are of calls while nothing else runs, which both runs have.
        time, energy: growth of the time and of the energy of a call, for the verdicts; no energy where a run lacks it.
    """

    case: CaseSpec
    a_s: float
    b_s: float
    compared_s: tuple[float, float]
    a_relative_se: float
    b_relative_se: float
    a_status: Status
    b_status: Status
    ratio: Interval
    spread: float
    within_errors: bool
    changed: bool
    alone: bool
    unequal: bool
    time: Growth
    energy: Growth | None = None


class Unpaired(msgspec.Struct, frozen=True):
    """A case that is usable in one run only. `reason` says why the other run lacks it; `status` is the status of the other run's
    row, "" without a row."""

    case: CaseSpec
    missing_in: str
    reason: str
    status: str = ""


class Comparison(msgspec.Struct, frozen=True):
    """Two runs compared.

    Attributes:
        differences: in machine, versions and settings; those that rule out a common calibration come first.
        statuses: "a" and "b" -> status -> number of rows.
        cases: cases with a usable row in both runs, the largest change first.
        unpaired: the other cases, suspect rows included; they decide nothing.
        spreads: "operators", "synthetic", "networks" -> median over cases of |a - b| / min(a, b), canonical cache state only.
        counts: number of cases behind each spread.
        within_errors: share of the same cases whose `within_errors` is true: 0.9 where the standard errors are true.
        energy_spreads: as `spreads`, for energy per call, where both runs have it.
        shift: common ratio of all cases with its 90 % interval; `None` with fewer than 8.
        shifted: that ratio differs from 1 by more than noise and by more than the smallest change.
        noise: standard deviation of the log of one visit's rate; `None` when not known.
        noise_from: source of the noise of ratios: "visits", "runs" (also the spread between several base runs), "pairs" of
            visits, "cases" (spread of all ratios around their common shift, where rows do not know the spread between visits) or
            "" for unknown.
        suite: "time" and, where known, "energy" -> growth of the geometric mean over cases.
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
    suite: dict[str, Growth]

    @property
    def changed(self) -> bool:
        """Whether anything changed beyond noise."""
        return self.shifted or any(case.changed for case in self.cases)

    def answer(self, question: str, threshold: float = MIN_CHANGE) -> Verdict:
        """The answer to one of `compare_verdict.QUESTIONS`, such as "slower"; suspect rows take no part in it. `InputError` for
        another question, `NothingMeasuredError` where no case has the quantity."""
        quantity = QUESTIONS[question][0] if question in QUESTIONS else ""
        growths = [(case.case.label, case.time if quantity == "time" else case.energy) for case in self.cases]
        case_growths = [(label, growth) for label, growth in growths if growth is not None]
        return verdict(question, case_growths, self.suite.get(quantity), threshold)


def compare_runs(base: Run | Sequence[Run], new: Run, min_change: float = MIN_CHANGE, *, paired: bool = False) -> Comparison:
    """Compare a run with another, or with several, case by case.

    Args:
        base: one run, or several of the same state of the code and machine, whose differences then count as noise.
        min_change: ratios nearer to 1 than this are never called a change.
        paired: visits with equal numbers alternate between the two runs, as in `shmoo duel`; takes one base run.

    Raises:
        NothingMeasuredError: no case has a usable row in both.
    """
    bases = (base,) if isinstance(base, Run) else tuple(base)
    rows = [{row.case.identity: row for row in run.rows} for run in (*bases, new)]
    usable = [{identity: row for identity, row in side.items() if row.timed} for side in rows]
    prevailing = _pairs(usable)
    if not prevailing:
        counts = " and ".join(f"{run.path} ({len(side)} such cases)" for run, side in zip((*bases, new), usable, strict=True))
        raise NothingMeasuredError(
            f"no case has a usable row in both: {counts}; "
            "measure the same suite twice, and see `shmoo check` for what is wrong with a run"
        )
    beside = compare_noise.undisturbed((*bases, new), usable, paired=paired)
    alone, unequal = beside
    pairs = _pairs([compare_noise.rows_alone(run, side, alone) for run, side in zip((*bases, new), usable, strict=True)])
    logs = np.array([pair.log_ratio for pair in pairs])
    apart = deviation_of_cases(logs)
    noise, noise_from = _visit_noise(pairs, apart)
    identities = {pair.new.case.identity for pair in pairs}
    if paired:
        differences = compare_noise.paired_differences(bases[0], new, (pair.new.case.identity for pair in pairs), alone)
        times, noise_from = compare_noise.paired_growths(pairs, differences), "pairs"
        suite = compare_noise.suite_growth(times, compare_noise.paired_drift_variance(differences))
    else:
        times = compare_noise.between_runs(pairs, [compare_noise.own_growth(pair, apart) for pair in pairs])
        if len(bases) == 1:
            times = [
                compare_noise.between_processes(time) if pair.new.case.identity in alone else time
                for pair, time in zip(pairs, times, strict=True)
            ]
        noise_from = "runs" if len(bases) > 1 else noise_from
        times = [
            msgspec.structs.replace(time, known=time.known and pair.new.case.identity not in unequal)
            for pair, time in zip(pairs, times, strict=True)
        ]
        # Where all of them are unequal, their mean is too noisy as well.
        identities = identities - unequal or identities
        counted = [(pair, time) for pair, time in zip(pairs, times, strict=True) if pair.new.case.identity in identities]
        # The drifts of two runs are independent, so their variances add up.
        drifts = [
            compare_noise.drift_variance(run, side.keys() & identities, alone)
            for run, side in zip((*bases, new), usable, strict=True)
        ]
        between = compare_noise.mean_variance_between(bases, [pair for pair, _ in counted], alone)
        suite = compare_noise.suite_growth([time for _, time in counted], _sum_of_drifts(drifts), between)
    energies = compare_noise.energy_growths(pairs)
    cases = [
        _case_change(pair, judged, time, energy, len(pairs), min_change, beside)
        for pair, judged, time, energy in zip(prevailing, pairs, times, energies, strict=True)
    ]
    shift, shifted = _common_shift(logs, min_change)
    canonical = [number for number, case in enumerate(cases) if case.case.cache_state == CANONICAL_STATE]
    groups = {name: [n for n in canonical if cases[n].case.kind == kind] for kind, name in GROUPS.items()}
    groups = {name: numbers for name, numbers in groups.items() if numbers}
    energy_logs = {name: [g.log_ratio for n in numbers if (g := energies[n]) is not None] for name, numbers in groups.items()}
    suites = {
        "time": suite,
        "energy": compare_noise.suite_growth([growth for growth in energies if growth is not None]),
    }
    # The first base run that has a case represents all of them.
    base_rows, base_usable = (
        {identity: row for side in reversed(sides[:-1]) for identity, row in side.items()} for sides in (rows, usable)
    )
    return Comparison(
        differences=tuple({(d.field, repr(d.a)): d for run in bases for d in conditions(run.manifest, new.manifest)}.values()),
        statuses={
            name: {status: sum(row.status == status for run in runs for row in run.rows) for status in get_args(Status)}
            for name, runs in (("a", bases), ("b", (new,)))
        },
        cases=tuple(sorted(cases, key=lambda case: -abs(math.log(case.ratio.value)))),
        unpaired=tuple(_unpaired((base_rows, rows[-1]), (base_usable, usable[-1]))),
        spreads={name: median([cases[n].spread for n in numbers]) for name, numbers in groups.items()},
        counts={name: len(numbers) for name, numbers in groups.items()},
        within_errors={name: sum(cases[n].within_errors for n in numbers) / len(numbers) for name, numbers in groups.items()},
        energy_spreads={name: median([math.expm1(abs(log)) for log in logs]) for name, logs in energy_logs.items() if logs},
        shift=shift,
        shifted=shifted,
        noise=noise,
        noise_from=noise_from,
        suite={name: growth for name, growth in suites.items() if growth is not None},
    )


def _pairs(usable: Sequence[dict[str, Measurement]]) -> list[Pair]:
    """The rows of the cases that the new run, the last one, and a base run at least can use."""
    return [
        Pair(case_rows, row)
        for identity, row in usable[-1].items()
        if (case_rows := tuple(side[identity] for side in usable[:-1] if identity in side))
    ]


def _sum_of_drifts(drifts: Sequence[Variance | None]) -> Variance | None:
    """Variance of the difference between the mean of the base runs and the new run, which is the last one; `None` where the drift
    of any of them is unknown."""
    variances = [drift for drift in drifts if drift is not None]
    if len(variances) < len(drifts):
        return None
    *bases, new = variances
    return Variance(sum(base.value for base in bases) / len(bases) ** 2 + new.value, new.freedom)


def conditions(a: RunManifest, b: RunManifest) -> tuple[Difference, ...]:
    """All differences between two manifests except their dates; machine differences first."""
    grave = machine_differences(a.machine, b.machine)
    differences = [Difference(name, *pair, severity="machine") for name, pair in grave.items()]
    other_fields = [name for name in Machine.__struct_fields__ if name not in (*FINGERPRINT_FIELDS, "settings")]
    differences += [Difference(n, x, y) for n in other_fields if (x := getattr(a.machine, n)) != (y := getattr(b.machine, n))]
    for prefix, old, new in (
        ("", a.machine.settings, b.machine.settings),
        ("version of ", a.versions, b.versions),
        ("", a.settings, b.settings),
    ):
        # Values that each run measures again, such as the cost of a page fault, never repeat to the digit.
        keys = [key for key in sorted(old.keys() | new.keys()) if not key.startswith("measured.")]
        differences += [Difference(prefix + key, x, y) for key in keys if (x := old.get(key)) != (y := new.get(key))]
    return tuple(differences)


def _visit_noise(pairs: Sequence[Pair], apart: float | None) -> tuple[float | None, str]:
    """Standard deviation of the log of one visit's rate, and its source. `apart` is the standard deviation of all log ratios."""
    if all(pair.knows_visits for pair in pairs):
        deviations = [row.visit_sd for pair in pairs for row in (*pair.bases, pair.new) if row.visit_sd is not None]
        return (median(deviations) if deviations else None), "visits"
    # Each ratio contains one window of each run.
    return (None, "") if apart is None else (apart / math.sqrt(2), "cases")


def _case_change(
    pair: Pair, judged: Pair, time: Growth, energy: Growth | None, looked_at: int, min_change: float, beside: Undisturbed
) -> CaseChange:
    new, base_s = pair.new.latency, pair.base_s
    own_error = math.hypot(pair.base_se, new.relative_se)
    return CaseChange(
        case=pair.new.case,
        a_s=base_s,
        b_s=new.value_s,
        compared_s=(judged.base_s, judged.new.latency.value_s),
        a_relative_se=pair.base_se,
        b_relative_se=new.relative_se,
        a_status="noisy" if any(row.status == "noisy" for row in pair.bases) else "ok",
        b_status=pair.new.status,
        ratio=time.ratio,
        spread=repeat_spread(base_s, new.value_s),
        within_errors=abs(pair.log_ratio) <= NORMAL_90 * own_error,
        changed=is_certain(time, looked_at) and beyond(time.log_ratio, min_change),
        alone=pair.new.case.identity in beside.alone,
        unequal=pair.new.case.identity in beside.unequal,
        time=time,
        energy=energy,
    )


def _common_shift(logs: np.ndarray, min_change: float) -> tuple[Interval | None, bool]:
    """The median ratio over cases, as a slower clock or a warmer machine causes it."""
    if logs.size < FEW_CASES:
        return None, False
    centre = float(np.median(logs))
    low, high = order_interval(logs.tolist())
    shifted = not low <= 0 <= high and beyond(centre, min_change)
    return Interval(math.exp(centre), math.exp(low), math.exp(high)), shifted


def _unpaired(
    rows: tuple[dict[str, Measurement], ...],
    usable: tuple[dict[str, Measurement], ...],
) -> Iterator[Unpaired]:
    for identity, measured_row in {**rows[1], **rows[0]}.items():
        for side, name in ((0, "a"), (1, "b")):
            if identity in usable[side]:
                continue
            row = rows[side].get(identity)
            if row is None:
                yield Unpaired(measured_row.case, name, "not measured")
            else:
                yield Unpaired(row.case, name, f"{row.status}: {row.why or 'no samples'}", row.status)
