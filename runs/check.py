"""What is wrong with a run, with numbers, and what to run next. Nothing is repaired or judged away: rows stay as they are."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import msgspec
import numpy as np

from shmoo.estimators.errors import FormatError
from shmoo.runs.metrics import repeat_spread
from shmoo.runs.records import EnergyReading, Measurement
from shmoo.runs.statistics import iqr, median
from shmoo.runs.store import ROWS, Run

NOISY_IQR = 0.1
"""IQR over median above which torch.utils.benchmark warns; rows above 0.25 are suspect already."""
PASSES_APART = 0.1
"""Two passes of one case further apart than this do not measure the same thing."""
DRIFT = 0.02
"""Common ratio between two passes beyond which the machine itself wandered."""
FEW_SAMPLES = 3
SHARE_WORTH_A_NOTE = 0.1
WIDE_ENERGY = 0.2
"""Width of an energy interval over its value beyond which it says little."""
IDLE_DRIFT = 0.2
"""Idle power before and after a case further apart than this: something else began or ended."""
SENSORS_APART = 0.05
"""An energy counter and the same card's power sensor further apart than this do not see the same thing."""
SHOWN = 3


class Finding(msgspec.Struct, frozen=True):
    """One thing about a run.

    Attributes:
        topic: one word or two.
        found: what, with numbers.
        level: a "fault" makes the check fail; a "note" is worth knowing.
        remedy: what to run or do next.
        cases: labels of the cases concerned, all of them.
    """

    topic: str
    found: str
    level: Literal["fault", "note"]
    remedy: str = ""
    cases: tuple[str, ...] = ()


def check_run(run: Run) -> tuple[Finding, ...]:
    """Everything that is wrong or worth knowing about a run, faults first; empty for a faultless one."""
    findings = [finding for examine in _EXAMINATIONS for finding in examine(run)]
    return tuple(sorted(findings, key=lambda finding: finding.level != "fault"))


def _resume(run: Run) -> str:
    return f"go on with the same `shmoo measure` options and --out {run.path} --resume"


def _listed(rows: Sequence[Measurement]) -> str:
    labels = list(dict.fromkeys(row.case.label for row in rows))
    return ", ".join(labels[:SHOWN]) + (f" and {len(labels) - SHOWN} more" if len(labels) > SHOWN else "")


def _labels(rows: Sequence[Measurement]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(row.case.label for row in rows))


def _timed(run: Run) -> list[Measurement]:
    return [row for row in run.rows if row.status == "ok" and row.timing is not None and row.timing.samples_s]


def _completeness(run: Run) -> Iterator[Finding]:
    for problem in run.problems:
        yield Finding("torn row", problem, "fault", _resume(run))
    if not run.rows:
        yield Finding("empty", "no row was measured", "fault", _resume(run))
        return
    if skipped := run.skipped:
        labels = tuple(dict.fromkeys(item.case.label for item in skipped))
        yield Finding("not reached", f"{len(skipped)} cases: {skipped[0].reason}", "fault", _resume(run), labels)
    wanted = run.manifest.settings.get("passes")
    listed = {(item.case.identity, item.pass_index) for item in skipped}
    if isinstance(wanted, int) and wanted > 1:
        have = {(row.case.identity, row.pass_index) for row in run.rows} | listed
        short = [
            row
            for row in {row.case.identity: row for row in run.rows}.values()
            if any((row.case.identity, number) not in have for number in range(wanted))
        ]
        if short:
            found = f"{len(short)} cases lack a pass of the {wanted} asked for: {_listed(short)}"
            yield Finding("passes missing", found, "fault", _resume(run), _labels(short))
    twice = [key for key, count in Counter((row.case.identity, row.pass_index) for row in run.rows).items() if count > 1]
    if twice:
        found = f"{len(twice)} cases have more than one row for one pass; {ROWS} was edited or two campaigns wrote it"
        yield Finding("duplicates", found, "fault", "measure anew into another --out")


def _failures(run: Run) -> Iterator[Finding]:
    remedies = {
        "failed": "mend the cause and measure these cases anew into another --out; a resumed campaign would not repeat them",
        "suspect": "measure again on an idle machine into another --out: stop other work, see `shmoo doctor`",
    }
    for status, remedy in remedies.items():
        rows = [row for row in run.rows if row.status == status]
        causes: dict[str, list[tuple[Measurement, str]]] = {}
        for row in rows:
            for reason in row.reasons or ("no reason given",):
                causes.setdefault(reason.split(":")[0], []).append((row, reason))
        for cause, concerned in sorted(causes.items(), key=lambda item: -len(item[1])):
            share, example = len(concerned) / len(run.rows), concerned[0]
            found = f"{len(concerned)} of {len(run.rows)} rows ({share:.0%}), for example {example[0].case.label}: {example[1]}"
            yield Finding(f"{status}: {cause}", found, "fault", remedy, _labels([row for row, _ in concerned]))


def _graphs(run: Run) -> Iterator[Finding]:
    broken, first = [], ""
    for row in run.rows:
        try:
            run.graphs(row)
        except FormatError as error:
            broken.append(row)
            first = first or str(error)
    if broken:
        yield Finding("graphs", f"{len(broken)} rows: {first}", "fault", "copy the run again, graphs included", _labels(broken))
    bare = [row for row in _timed(run) if not row.graph_hashes]
    if bare:
        found = f"{len(bare)} ok rows name no graph and cannot be calibrated or reported on: {_listed(bare)}"
        yield Finding("no graph", found, "note", "", _labels(bare))


def _spread(run: Run) -> Iterator[Finding]:
    rows = _timed(run)
    few = [row for row in rows if len(row.timing.samples_s) < FEW_SAMPLES]
    if few:
        found = f"{len(few)} ok rows have fewer than {FEW_SAMPLES} samples, so their spread is unknown: {_listed(few)}"
        yield Finding("few samples", found, "note", "", _labels(few))
    noisy = [row for row in rows if iqr(row.timing.samples_s) > NOISY_IQR * median(row.timing.samples_s)]
    if len(noisy) > SHARE_WORTH_A_NOTE * len(rows):
        found = f"{len(noisy)} of {len(rows)} ok rows have an IQR above {NOISY_IQR:.0%} of the median: {_listed(noisy)}"
        yield Finding("noisy", found, "note", "fewer threads than cores, or a quieter machine", _labels(noisy))
    late = [row for row in rows if row.timing.stop_reason == "timeout"]
    if len(late) > SHARE_WORTH_A_NOTE * len(rows):
        found = f"{len(late)} of {len(rows)} ok rows stopped on time before their median was known to the wanted precision"
        yield Finding("time out", found, "note", "", _labels(late))


def _passes(run: Run) -> Iterator[Finding]:
    by_case: dict[str, dict[int, Measurement]] = {}
    for row in _timed(run):
        by_case.setdefault(row.case.identity, {})[row.pass_index] = row
    repeated = [passes for passes in by_case.values() if len(passes) > 1]
    if not repeated:
        if by_case:
            yield Finding(
                "one pass",
                "every case was measured once, so drift of the machine cannot be told from a difference between cases",
                "note",
                f"add a second pass: `shmoo measure ... --passes 2 --out {run.path} --resume`",
            )
        return
    medians = [{number: median(row.timing.samples_s) for number, row in passes.items()} for passes in repeated]
    apart = [
        (repeat_spread(max(m.values()), min(m.values())), next(iter(passes.values())))
        for m, passes in zip(medians, repeated, strict=True)
    ]
    far = [row for spread, row in sorted(apart, key=lambda item: -item[0]) if spread > PASSES_APART]
    typical, worst = median([spread for spread, _ in apart]), max(apart, key=lambda item: item[0])
    if far:
        found = (
            f"{len(far)} of {len(repeated)} cases differ by more than {PASSES_APART:.0%} between passes "
            f"(typically {typical:.1%}, at most {worst[0]:.0%}: {worst[1].case.label})"
        )
        # One case in ten lies beyond the limit on machines that are otherwise fine.
        level = "fault" if len(far) > SHARE_WORTH_A_NOTE * len(repeated) else "note"
        yield Finding("passes disagree", found, level, "measure again on an idle machine", _labels(far))
    last = max(number for m in medians for number in m)
    ratios = [math.log(m[last] / m[0]) for m in medians if 0 in m and last in m]
    if len(ratios) >= 8:
        shift = float(np.median(ratios))
        # The interval of a median of n values, from their quartiles (McGill, Tukey and Larsen 1978): 1.57 IQR / sqrt(n).
        half = 1.57 * iqr(ratios) / math.sqrt(len(ratios))
        if abs(shift) > math.log1p(DRIFT) and abs(shift) > half:
            found = f"pass {last} is {math.exp(shift):.3f} times pass 0 over {len(ratios)} cases: the machine wandered"
            yield Finding("drift", found, "note", "more passes average it out: --passes 4")


def _energy(run: Run) -> Iterator[Finding]:
    causes: dict[tuple[str, str], list[Measurement]] = {}
    wide: list[Measurement] = []
    for row in run.rows:
        for reading in row.energy:
            if reading.energy_j is None:
                causes.setdefault((reading.domain, reading.reason), []).append(row)
            elif reading.low_j is not None and reading.high_j - reading.low_j > WIDE_ENERGY * reading.energy_j:
                wide.append(row)
    known = [(row, reading) for row in run.rows for reading in row.energy if reading.energy_j is not None]
    for finding, concerned in (
        (f"idle power before and after differs by more than {IDLE_DRIFT:.0%}", [row for row, r in known if _idle_drifted(r)]),
        (
            f"the counter and the integrated power differ by more than {SENSORS_APART:.0%}",
            [row for row, r in known if r.integrated_j and abs(r.integrated_j - r.energy_j) > SENSORS_APART * r.energy_j],
        ),
        ("power is not above idle power, so the energy says little of the case", [row for row, r in known if _like_idle(r)]),
    ):
        if concerned:
            yield Finding("energy", f"{len(concerned)} rows: {finding}: {_listed(concerned)}", "note", "", _labels(concerned))
    for (domain, reason), rows in causes.items():
        found = f"{domain}: not known in {len(rows)} of {len(run.rows)} rows: {reason}"
        yield Finding("energy", found, "note", "`shmoo doctor` lists counters and remedies", _labels(rows))
    if wide:
        found = f"{len(wide)} rows have an energy interval wider than {WIDE_ENERGY:.0%}: {_listed(wide)}"
        yield Finding("energy", found, "note", "longer windows, or more trials", _labels(wide))


def _idle_drifted(reading: EnergyReading) -> bool:
    before, after = reading.idle_power_w, reading.idle_power_after_w
    return bool(before and after) and repeat_spread(before, after) > IDLE_DRIFT


def _like_idle(reading: EnergyReading) -> bool:
    """Whether the lower end of its power is not above idle power."""
    idle = reading.idle_power_after_w or reading.idle_power_w
    if not (idle and reading.window_s and reading.calls):
        return False
    lowest = (reading.low_j or reading.energy_j) * reading.calls / reading.window_s
    return lowest <= idle


def _machine(run: Run) -> Iterator[Finding]:
    machine = run.manifest.machine
    if machine.hypervisor:
        yield Finding(
            "virtual machine", f"measured under a hypervisor ({machine.hypervisor}): neighbours may disturb unseen", "note"
        )
    if machine.governor not in (None, "performance"):
        remedy = "`sudo cpupower frequency-set -g performance`, then measure anew"
        yield Finding("governor", f"{machine.governor!r} moves the clock with the load", "note", remedy)
    again = sum(1 for row in run.rows if (row.host.get("retries") or 0) > 0)
    if again > SHARE_WORTH_A_NOTE * max(len(run.rows), 1):
        found = f"{again} of {len(run.rows)} rows needed another try because something disturbed them"
        yield Finding("retries", found, "note", "stop other work on the machine")


_EXAMINATIONS: tuple[Callable[[Run], Iterator[Finding]], ...] = (
    _completeness,
    _failures,
    _graphs,
    _spread,
    _passes,
    _energy,
    _machine,
)
