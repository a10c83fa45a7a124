"""Two runs of the same cases: what changed beyond noise, and how far two campaigns lie apart.

    log ratio of medians = change + noise within windows (bootstrap) + noise between windows (passes, or the spread of all cases)

Samples of one window repeat each other: they know nothing of the drift that moves the whole window. So the interval of a ratio
has two parts, and a case counts as changed only when its ratio leaves both behind, with so many cases looked at.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from statistics import NormalDist

import msgspec
import numpy as np

from shmoo.estimators.errors import NothingMeasuredError
from shmoo.estimators.records import Interval
from shmoo.runs.metrics import repeat_spread
from shmoo.runs.records import CANONICAL_STATE, FINGERPRINT_FIELDS, CaseSpec, Machine, Measurement, RunManifest
from shmoo.runs.statistics import CONFIDENCE, median
from shmoo.runs.store import Run, machine_differences

MIN_CHANGE = 0.03
"""A ratio nearer to 1 than this is no change worth a message, however certain."""
FALSE_ALARM = 0.05
"""Probability that comparing two runs of an unchanged machine names any case at all."""
RESAMPLES = 500
FEW_CASES = 8
"""Fewer ratios than this say nothing about the noise between windows."""
GROUPS = {"operator": "operators", "synthetic": "synthetic", "network": "networks"}
NORMAL_MAD = 0.6745
NORMAL_90 = 1.645
"""Median and 90th percentile of the absolute value of a standard normal variable."""


class Difference(msgspec.Struct, frozen=True):
    """A field in which the runs' conditions differ; of `severity` "machine" when rows of both may not be calibrated together."""

    field: str
    a: object
    b: object
    severity: str = "setting"


class CaseChange(msgspec.Struct, frozen=True):
    """One case in both runs.

    Attributes:
        a_s, b_s: medians of the ok samples, all passes.
        ratio: b over a with its 90 % interval, noise between windows included.
        spread: |a - b| / min(a, b).
        changed: the ratio differs from 1 by more than noise and by more than the smallest change.
    """

    case: CaseSpec
    a_s: float
    b_s: float
    ratio: Interval
    spread: float
    changed: bool


class Unpaired(msgspec.Struct, frozen=True):
    """A case that only one run can speak of, and why the other cannot."""

    case: CaseSpec
    missing_in: str
    reason: str


class Comparison(msgspec.Struct, frozen=True):
    """Two runs compared.

    Attributes:
        differences: of machine, versions and settings, those that forbid calibrating together first.
        cases: those with ok rows in both, the largest change first.
        unpaired: the others.
        spreads: "operators", "synthetic", "networks" -> median over cases of |a - b| / min(a, b), canonical cache state only.
        counts: number of cases behind each spread.
        energy_spreads: the same for energy per call, where both runs have it.
        shift: common ratio of all cases with its 90 % interval; `None` with fewer than 8.
        shifted: that ratio differs from 1 by more than noise and by more than the smallest change.
        noise: standard deviation of the log of one window's median, beyond what its samples show; `None` when not known.
        noise_from: "passes", "cases" (spread of all ratios around their common shift) or "" for unknown.
    """

    differences: tuple[Difference, ...]
    cases: tuple[CaseChange, ...]
    unpaired: tuple[Unpaired, ...]
    spreads: dict[str, float]
    counts: dict[str, int]
    energy_spreads: dict[str, float]
    shift: Interval | None
    shifted: bool
    noise: float | None
    noise_from: str

    @property
    def changed(self) -> bool:
        """Whether anything changed beyond noise."""
        return self.shifted or any(case.changed for case in self.cases)


def compare_runs(a: Run, b: Run, min_change: float = MIN_CHANGE, seed: int = 0) -> Comparison:
    """Compare two runs case by case.

    Args:
        min_change: ratios nearer to 1 than this are never called a change.
        seed: of the bootstrap; equal seeds give equal intervals.

    Raises:
        NothingMeasuredError: no case has ok rows in both.
    """
    groups = _by_case(a.rows), _by_case(b.rows)
    usable = tuple({key: rows for key, rows in map(_ok, group.items()) if rows} for group in groups)
    paired = [key for key in usable[0] if key in usable[1]]
    if not paired:
        raise NothingMeasuredError(
            f"no case has an ok row in both {a.path} ({len(usable[0])} such cases) and {b.path} ({len(usable[1])}); "
            "measure the same suite twice, and see `shmoo check` for what is wrong with a run"
        )
    passes = {key: tuple(_passes(usable[side][key]) for side in (0, 1)) for key in paired}
    logs = np.array([math.log(_pooled(passes[key][1]) / _pooled(passes[key][0])) for key in paired])
    noise, noise_from = _window_noise(passes.values(), logs)
    cases = [_case_change(usable[0][key][0].case, passes[key], noise or 0.0, len(paired), min_change, seed) for key in paired]
    shift, shifted = _common_shift(logs, min_change, seed)
    warm = [case for case in cases if case.case.cache_state == CANONICAL_STATE]
    spreads = {name: [case.spread for case in warm if case.case.kind == kind] for kind, name in GROUPS.items()}
    energies = {
        name: [
            repeat_spread(*pair)
            for key in paired
            if usable[0][key][0].case.kind == kind and (pair := _energies(usable[0][key], usable[1][key])) is not None
        ]
        for kind, name in GROUPS.items()
    }
    return Comparison(
        differences=conditions(a.manifest, b.manifest),
        cases=tuple(sorted(cases, key=lambda case: -abs(math.log(case.ratio.value)))),
        unpaired=tuple(_unpaired(groups, usable)),
        spreads={name: median(values) for name, values in spreads.items() if values},
        counts={name: len(values) for name, values in spreads.items() if values},
        energy_spreads={name: median(values) for name, values in energies.items() if values},
        shift=shift,
        shifted=shifted,
        noise=noise,
        noise_from=noise_from,
    )


def conditions(a: RunManifest, b: RunManifest) -> tuple[Difference, ...]:
    """Everything in which two manifests differ, apart from when they were written; machine differences first."""
    grave = machine_differences(a.machine, b.machine)
    found = [Difference(name, *pair, severity="machine") for name, pair in grave.items()]
    others = [name for name in Machine.__struct_fields__ if name not in (*FINGERPRINT_FIELDS, "settings")]
    found += [Difference(n, x, y) for n in others if (x := getattr(a.machine, n)) != (y := getattr(b.machine, n))]
    for prefix, old, new in (
        ("", a.machine.settings, b.machine.settings),
        ("version of ", a.versions, b.versions),
        ("", a.settings, b.settings),
    ):
        found += [Difference(prefix + key, x, y) for key, x, y in _unequal(old, new)]
    return tuple(found)


def _unequal(a: Mapping[str, object], b: Mapping[str, object]) -> Iterable[tuple[str, object, object]]:
    for key in sorted(a.keys() | b.keys()):
        # What is measured anew for each run, such as the cost of a page fault, never repeats to the digit.
        if a.get(key) != b.get(key) and not key.startswith("measured."):
            yield key, a.get(key), b.get(key)


def _by_case(rows: Sequence[Measurement]) -> dict[str, list[Measurement]]:
    found: dict[str, list[Measurement]] = {}
    for row in rows:
        found.setdefault(row.case.identity, []).append(row)
    return found


def _ok(item: tuple[str, list[Measurement]]) -> tuple[str, list[Measurement]]:
    key, rows = item
    return key, [row for row in rows if row.status == "ok" and row.timing is not None and row.timing.samples_s]


def _passes(rows: Sequence[Measurement]) -> list[np.ndarray]:
    return [np.asarray(row.timing.samples_s) for row in rows]


def _pooled(passes: Sequence[np.ndarray]) -> float:
    return float(np.median(np.concatenate(passes)))


def _window_noise(pairs: Iterable[tuple[list[np.ndarray], list[np.ndarray]]], logs: np.ndarray) -> tuple[float | None, str]:
    """Standard deviation of a window's log median: from windows of one case in one run, which differ by sqrt(2) times as much;
    without repeated passes from the ratios between the runs."""
    within = [abs(math.log(np.median(x) / np.median(y))) for pair in pairs for side in pair for x, y in combinations(side, 2)]
    if len(within) >= FEW_CASES:
        return _deviation(np.asarray(within)) / math.sqrt(2), "passes"
    if len(logs) >= FEW_CASES:
        return _deviation(np.abs(logs - np.median(logs))) / math.sqrt(2), "cases"
    return None, ""


def _deviation(distances: np.ndarray) -> float:
    """Standard deviation of what has these absolute values. Two of its quantiles must fit: tails heavier than a normal
    distribution's, which machines have, raise it, while single outliers do not."""
    middle, far = np.percentile(distances, (50, 90))
    return max(float(middle) / NORMAL_MAD, float(far) / NORMAL_90)


def _case_change(
    case: CaseSpec,
    passes: tuple[list[np.ndarray], list[np.ndarray]],
    noise: float,
    looked_at: int,
    min_change: float,
    seed: int,
) -> CaseChange:
    a, b = map(_pooled, passes)
    draws = [_bootstrap(side, np.random.default_rng([seed, number])) for number, side in enumerate(passes)]
    ratios = np.log(draws[1] / draws[0])
    between = noise**2 * (1 / len(passes[0]) + 1 / len(passes[1]))
    deviation = math.sqrt(float(np.var(ratios)) + between)
    centre = math.log(b / a)
    half = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)
    # With many cases, some leave their own interval by chance; the limit for calling one changed grows with them (Bonferroni).
    limit = NormalDist().inv_cdf(1 - FALSE_ALARM / (2 * looked_at))
    low, high = np.percentile(ratios, (50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)))
    # The bootstrap's own interval may be lopsided: the wider of both stands.
    low, high = min(float(low), centre - half * deviation), max(float(high), centre + half * deviation)
    return CaseChange(
        case=case,
        a_s=a,
        b_s=b,
        ratio=Interval(b / a, math.exp(low), math.exp(high)),
        spread=repeat_spread(a, b),
        changed=abs(centre) > limit * deviation and _beyond(centre, min_change),
    )


def _bootstrap(passes: Sequence[np.ndarray], generator: np.random.Generator) -> np.ndarray:
    """(RESAMPLES,) medians of the pooled samples, each pass resampled within itself."""
    drawn = [x[generator.integers(0, x.size, (RESAMPLES, x.size))] for x in passes]
    return np.median(np.concatenate(drawn, axis=1), axis=1)


def _common_shift(logs: np.ndarray, min_change: float, seed: int) -> tuple[Interval | None, bool]:
    """The median ratio over cases: what a slower clock or a warmer machine does to all of them."""
    if logs.size < FEW_CASES:
        return None, False
    generator = np.random.default_rng(seed)
    medians = np.median(logs[generator.integers(0, logs.size, (2000, logs.size))], axis=1)
    low, high = np.percentile(medians, (50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)))
    centre = float(np.median(logs))
    low, high = min(float(low), centre), max(float(high), centre)
    shifted = not low <= 0 <= high and _beyond(centre, min_change)
    return Interval(math.exp(centre), math.exp(low), math.exp(high)), shifted


def _beyond(log_ratio: float, min_change: float) -> bool:
    return math.expm1(abs(log_ratio)) > min_change


def _energies(a: Sequence[Measurement], b: Sequence[Measurement]) -> tuple[float, float] | None:
    """Energy per call in both runs, of the first domain that both know; domains are never added up."""
    known = [{domain: median(values) for domain, values in _energy_values(rows).items()} for rows in (a, b)]
    domain = next((name for name in known[0] if name in known[1]), None)
    return None if domain is None else (known[0][domain], known[1][domain])


def _energy_values(rows: Sequence[Measurement]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for row in rows:
        for reading in row.energy:
            if reading.energy_j is not None:
                found.setdefault(reading.domain, []).append(reading.energy_j)
    return found


def _unpaired(
    groups: tuple[dict[str, list[Measurement]], dict[str, list[Measurement]]],
    usable: tuple[dict[str, list[Measurement]], ...],
) -> Iterable[Unpaired]:
    for key in {**groups[0], **groups[1]}:
        for side, name in ((0, "a"), (1, "b")):
            if key in usable[side]:
                continue
            rows = groups[side].get(key)
            case = (rows or groups[1 - side][key])[0].case
            reason = "not measured" if rows is None else f"{rows[-1].status}: {'; '.join(rows[-1].reasons) or 'no samples'}"
            yield Unpaired(case, name, reason)
