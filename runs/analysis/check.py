"""Checks of a run. Each finding has numbers and the next command to run; rows are never changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from statistics import harmonic_mean
from typing import Literal

import msgspec
import numpy as np

from shmoo.estimators.errors import FormatError
from shmoo.estimators.graph.records import Graph
from shmoo.estimators.registry import grouped
from shmoo.runs.analysis.contradictions import contradictions, same_samples, short_visits
from shmoo.runs.analysis.metrics import repeat_spread
from shmoo.runs.store.records import CaseSpec, EnergyReading, Measurement, Timing
from shmoo.runs.store.statistics import FEW_CASES, median, order_interval
from shmoo.runs.store.store import ROWS, Run
from shmoo.runs.store.visits import NOISE, NOISY

DRIFT = 0.02
"""Relative change from early to late visits, common to all cases, above which the machine drifted."""
FEW_SAMPLES = 3
WIDE_ENERGY = 0.2
"""Relative width of an energy interval above which it is uninformative."""
IDLE_DRIFT = 0.2
"""Relative difference of idle power before and after a case above which another load started or ended."""
PACE_APART = 0.25
"""Relative difference between a call's time while its energy was read and its measured time, above which the two should not be
compared. A fit still uses the energy, at its own pace."""
SENSORS_APART = 0.05
"""Relative difference of an energy counter and the same card's power sensor above which they disagree."""
SHOWN = 3
_EXTENTS = frozenset({"b", "m", "n", "k", "rows", "cols", "batch", "c", "c_in", "c_out", "size"})
"""Workload axes that are the extent of a tensor."""
_STORED = {"float64": "float64", "float32": "float32", "tf32": "float32", "bfloat16": "bfloat16", "float16": "float16"}
"""Type of a case -> type of its tensors, for types that every capture keeps."""


Level = Literal["fault", "note"]


class Finding(msgspec.Struct, frozen=True):
    """One result of a check.

    Attributes:
        topic: one or two words.
        found: the observation, with numbers.
        level: a "fault" makes the check fail; a "note" does not.
        remedy: the next step.
        cases: labels of all cases concerned.
    """

    topic: str
    found: str
    level: Level
    remedy: str = ""
    cases: tuple[str, ...] = ()


def check_run(run: Run) -> tuple[Finding, ...]:
    """All findings on a run, faults first."""
    findings = [finding for examine in _EXAMINATIONS for finding in examine(run)]
    return tuple(sorted(findings, key=lambda finding: finding.level != "fault"))


def _resume(run: Run, visits: int | None = None) -> str:
    """The command that continues a run, from the command that started it; with `visits`, it asks for that many per case."""
    manifest, options = run.manifest, "with the options it was begun with"
    visits_option = "" if visits is None else f" --visits {visits}"
    if manifest.suite == "pytest":
        return f"run `pytest --benchmark` again, with --shmoo-out for another folder than {run.path}"
    if manifest.suite == "characterize":
        # It has no --visits: it spends all remaining time on further visits.
        return f"`shmoo characterize --out {run.path} --resume` {options}" + ("" if visits is None else " and a longer --budget")
    if "duel" in manifest.settings:
        return f"`shmoo duel BASE NEW --out {run.path.parent} --resume -- measure{visits_option}` {options}"
    return f"`shmoo measure{visits_option} --out {run.path} --resume` {options}"


def _anew(run: Run) -> str:
    return f"measure anew into another --out than {run.path}"


def _more_visits(rows: Sequence[Measurement]) -> int:
    """Twice the largest number of visits to a case, so that a resumed campaign visits every case again."""
    return max(2 * max(len(row.visits) for row in rows), 3)


def _concerning(rows: Sequence[Measurement], topic: str, text: str, remedy: str = "", level: Level = "note") -> Finding:
    """A finding on some rows: their number, the text, and their labels."""
    return Finding(topic, f"{len(rows)} {text}: {_labels_text(rows)}", level, remedy, _labels(rows))


def _labels_text(rows: Sequence[Measurement]) -> str:
    labels = _labels(rows)
    return ", ".join(labels[:SHOWN]) + (f" and {len(labels) - SHOWN} more" if len(labels) > SHOWN else "")


def _labels(rows: Sequence[Measurement]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(row.case.label for row in rows))


def _timed(run: Run) -> list[Measurement]:
    return [row for row in run.rows if row.timed]


def _completeness(run: Run) -> Iterator[Finding]:
    for problem in run.torn:
        yield Finding("torn row", problem, "fault", _resume(run))
    if run.copied:
        remedy = f"remove them from {run.path / ROWS}; the other rows are intact"
        yield Finding("copied rows", run.problems[-1], "fault", remedy)
    if not run.rows:
        yield Finding("empty", "no row was measured", "fault", _resume(run))
        return
    if skipped := run.skipped:
        labels = tuple(dict.fromkeys(item.case.label for item in skipped))
        observation = f"{len(labels)} of the last campaign's cases: {skipped[0].reason}"
        yield Finding("not reached", observation, "fault", _resume(run), labels)
    settings = run.manifest.settings
    wanted_visits = settings.get("visits", settings.get("passes"))
    if isinstance(wanted_visits, int):
        # A campaign stops visiting a case that failed or cannot be used.
        unfinished = [row for row in _timed(run) if len(run.visits[row.case.identity]) < wanted_visits]
        if unfinished:
            text = f"cases had fewer than the {wanted_visits} visits asked for"
            yield _concerning(unfinished, "visits missing", text, _resume(run), "fault")
    twice = [key for key, count in Counter((line.case.identity, line.visit) for line in run.lines).items() if count > 1]
    if twice:
        observation = f"{len(twice)} visits are in {ROWS} more than once; it was edited or two campaigns wrote it"
        yield Finding("duplicates", observation, "fault", _anew(run))


def _failures(run: Run) -> Iterator[Finding]:
    remedies = {
        "failed": f"fix the cause and {_anew(run)}; a resumed campaign does not visit these cases again",
        "suspect": f"run `shmoo doctor` to see what slows the machine down, then {_anew(run)}",
    }
    for status, remedy in remedies.items():
        for code, concerned in _by_code(run, status).items():
            yield Finding(f"{status}: {code}", _share(run, concerned, code), "fault", remedy, _labels(concerned))
    for code, concerned in _by_code(run, "ok", "noisy").items():
        if code not in (*NOISE, "no reason given"):
            yield Finding(code, _share(run, concerned, code), "note", "", _labels(concerned))


def _by_code(run: Run, *statuses: str) -> dict[str, list[Measurement]]:
    """Reason code -> the rows of these statuses with that reason, the most frequent code first."""
    concerned = [row for row in run.rows if row.status in statuses]
    codes = [dict.fromkeys(reason.code for reason in row.reasons) or ("no reason given",) for row in concerned]
    causes = grouped((code, row) for row, row_codes in zip(concerned, codes, strict=True) for code in row_codes)
    return dict(sorted(causes.items(), key=lambda item: -len(item[1])))


def _share(run: Run, rows: Sequence[Measurement], code: str) -> str:
    example = next((str(reason) for reason in rows[0].reasons if reason.code == code), code)
    share = f"{len(rows)} of {len(run.rows)} rows ({len(rows) / len(run.rows):.0%})"
    return f"{share}, for example {rows[0].case.label}: {example}"


def _graphs(run: Run) -> Iterator[Finding]:
    """Graphs that cannot be read, and rows with values that no measurement writes. Each graph is read once."""
    changed: dict[str, Measurement] = {}
    for line in run.lines:
        problems = (*value_problems(line), *contradictions(line, run.manifest.machine.threads))
        changed |= {f"visit {line.visit}: {problem}": line for problem in problems}
    changed |= {problem: line for problem, line in short_visits(run.lines)}
    changed |= {problem: line for problem, line in same_samples(run.lines)}
    broken, first = [], ""
    for row in run.rows:
        try:
            changed |= {problem: row for problem in graph_problems(row, run.graphs(row))}
        except FormatError as error:
            broken.append(row)
            first = first or str(error)
    if broken:
        remedy = f"copy the run to {run.path} again, graphs included"
        yield Finding("graphs", f"{len(broken)} rows: {first}", "fault", remedy, _labels(broken))
    bare = [row for row in _timed(run) if not row.graph_hashes]
    if bare:
        yield _concerning(bare, "no graph", "usable rows name no graph and cannot be calibrated or reported on")
    if changed:
        example, row = next(iter(changed.items()))
        observation = f"{len(changed)} impossible values, for example {row.case.label}: {example}"
        yield Finding(
            "changed rows", observation, "fault", f"{ROWS} or a graph was edited: {_anew(run)}", _labels(list(changed.values()))
        )


def _noise(run: Run) -> Iterator[Finding]:
    rows = _timed(run)
    sparse_rows = [row for row in rows if row.timing is not None and len(row.timing.samples_s) < FEW_SAMPLES]
    if sparse_rows:
        text = f"usable rows have fewer than {FEW_SAMPLES} samples, so their spread is unknown"
        yield _concerning(sparse_rows, "few samples", text, _resume(run, _more_visits(sparse_rows)))
    noisy = sorted((row for row in rows if row.status == "noisy"), key=lambda row: -row.latency.relative_se)
    if noisy:
        typical, high = np.percentile([row.latency.relative_se for row in rows], (50, 90))
        observation = (
            f"{len(noisy)} of {len(rows)} usable rows are noisy; standard error of all: median {typical:.1%}, 90th percentile "
            f"{high:.1%} (noisy above {NOISY:.0%}); the noisiest: {_labels_text(noisy)}"
        )
        remedy = f"visit them more often: {_resume(run, _more_visits(rows))}"
        yield Finding("noisy", observation, "note", remedy, _labels(noisy))


def _drift(run: Run) -> Iterator[Finding]:
    rows = _timed(run)
    repeated = [row for row in rows if len(row.visits) > 1]
    if not repeated:
        if rows:
            observation = (
                "every case was visited once, so drift of the machine cannot be separated from differences between cases"
            )
            yield Finding("one visit", observation, "note", _resume(run, 3))
        return
    if len(repeated) < FEW_CASES:
        return
    ratios = [_seconds(row.visits[-(len(row.visits) // 2) :]) / _seconds(row.visits[: len(row.visits) // 2]) for row in repeated]
    shift, (low, high) = median(ratios), order_interval(ratios)
    if abs(shift - 1) > DRIFT and not low <= 1 <= high:
        observation = (
            f"late visits took {shift:.3f} times as long as early ones (median over {len(ratios)} cases): the machine drifted"
        )
        yield Finding("drift", observation, "note", f"more visits average it out: {_resume(run, _more_visits(rows))}")


def _seconds(visits: Sequence[Timing]) -> float:
    """Seconds of a call, from the mean rate of the visits."""
    return harmonic_mean([float(np.mean(visit.samples_s)) for visit in visits])


def _energy(run: Run) -> Iterator[Finding]:
    readings = [(row, reading) for row in run.rows for reading in row.energy]
    doubts: tuple[tuple[str, Callable[[EnergyReading], bool], str], ...] = (
        (f"idle power before and after differs by more than {IDLE_DRIFT:.0%}", _idle_drifted, ""),
        (f"the counter and the integrated power differ by more than {SENSORS_APART:.0%}", _sensors_disagree, ""),
        ("power is not above idle power, so the energy says little about the case", _like_idle, ""),
        (f"the energy interval is wider than {WIDE_ENERGY:.0%}", _wide, f"with nothing else running {_anew(run)}"),
    )
    for doubt, holds, remedy in doubts:
        if concerned := [row for row, reading in readings if holds(reading)]:
            yield _concerning(concerned, "energy", f"rows: {doubt}", remedy)
    paced = [
        (row, reading.pace_s)
        for row, reading in readings
        if row.timed and reading.energy_j is not None and reading.pace_s is not None
    ]
    elsewhere = [row for row, pace in paced if repeat_spread(pace, row.latency.value_s) > PACE_APART]
    if elsewhere:
        text = f"rows: energy was read while a call took over {PACE_APART:.0%} more or less than its prevailing time"
        yield _concerning(elsewhere, "energy pace", text)
    causes = grouped(((reading.domain, reading.reason), row) for row, reading in readings if reading.energy_j is None)
    for (domain, reason), rows in causes.items():
        observation = f"{domain}: unknown in {len(rows)} of {len(run.rows)} rows: {reason}"
        yield Finding("energy", observation, "note", "`shmoo doctor` lists counters and remedies", _labels(rows))


def _idle_drifted(reading: EnergyReading) -> bool:
    before, after = reading.idle_power_w, reading.idle_power_after_w
    return reading.energy_j is not None and bool(before and after and repeat_spread(before, after) > IDLE_DRIFT)


def _sensors_disagree(reading: EnergyReading) -> bool:
    counted, integrated = reading.energy_j, reading.integrated_j
    return bool(counted is not None and integrated and abs(integrated - counted) > SENSORS_APART * counted)


def _like_idle(reading: EnergyReading) -> bool:
    """Whether the lower end of the power is at or below idle power."""
    idle, lowest = reading.idle_power_after_w or reading.idle_power_w, reading.low_j or reading.energy_j
    if reading.energy_j is None or not (idle and lowest and reading.window_s and reading.calls):
        return False
    return lowest * reading.calls / reading.window_s <= idle


def _wide(reading: EnergyReading) -> bool:
    low, high, energy = reading.low_j, reading.high_j, reading.energy_j
    return energy is not None and low is not None and high is not None and high - low > WIDE_ENERGY * energy


def _machine(run: Run) -> Iterator[Finding]:
    machine = run.manifest.machine
    if machine.hypervisor:
        yield Finding(
            "virtual machine",
            f"measured under a hypervisor ({machine.hypervisor}): other guests may disturb the measurement unseen",
            "note",
        )
    if machine.governor not in (None, "performance"):
        remedy = f"`sudo cpupower frequency-set -g performance`, then {_anew(run)}"
        yield Finding("governor", f"{machine.governor!r} changes the clock with the load", "note", remedy)


def value_problems(line: Measurement) -> Iterator[str]:
    """The impossible values of one line of a run."""
    if line.status in ("ok", "noisy") and not line.timed:
        yield f"it is {line.status} without a time"
    for reading in line.energy:
        if not reading.possible:
            yield (
                f"{reading.domain} has {reading.energy_j} J between {reading.low_j} and {reading.high_j} J in {reading.calls} "
                f"calls of {reading.window_s} s in all"
            )
    seconds = {f"child {child.call}": child.time_s for child in line.children}
    seconds |= {f"operator {operator.op}": operator.time_s for operator in line.operators if operator.time_s is not None}
    if line.timing is not None:
        first, compiling, cpu = line.timing.first_call_s, line.timing.compile_s, line.timing.cpu_s
        seconds |= {name: s for name, s in {"first call": first, "compilation": compiling, "CPU": cpu}.items() if s is not None}
    yield from (f"{name} took {s:g} s" for name, s in seconds.items() if s < 0)
    if line.peak_memory_bytes is not None and line.peak_memory_bytes < 0:
        yield f"its peak memory is {line.peak_memory_bytes:g} bytes"
    if line.visit < 0:
        yield f"it is visit {line.visit}"


def graph_problems(row: Measurement, graphs: Sequence[Graph]) -> Iterator[str]:
    """Reasons why the graphs of a row cannot belong to its case."""
    calls = [call.op for graph in graphs for call in graph.calls]
    if wrong := next((child for child in row.children if child.call < len(calls) and calls[child.call] != child.op), None):
        yield f"it times {wrong.op!r} where its graph calls {calls[wrong.call]!r}"
    if (graph_name := next((graph.name for graph in graphs if graph.name), row.case.workload)) != row.case.workload:
        yield f"its workload is {row.case.workload!r}, its graph is named {graph_name!r}"
    yield from _case_problems(row.case, graphs)


def _case_problems(case: CaseSpec, graphs: Sequence[Graph]) -> Iterator[str]:
    if not graphs or case.kind == "network":
        return
    specs = [value.spec for graph in graphs for value in graph.values]
    stored_dtype = _STORED.get(case.dtype)
    if stored_dtype is not None and stored_dtype not in {spec.dtype for spec in specs}:
        yield f"its type is {case.dtype}, but its graph has no such tensor"
    extents = {side for spec in specs for side in spec.shape}
    sizes = {name: size for name, size in case.axes.items() if name in _EXTENTS and type(size) is int}
    for name, size in sizes.items():
        # Some workloads fold the batch into the rows.
        folded = {size, *(size * sizes[other_axis] for other_axis in sizes if other_axis != name)}
        if size > 1 and not folded & extents:
            yield f"{name} is {size}, but no tensor of its graph has that extent"


_EXAMINATIONS: tuple[Callable[[Run], Iterator[Finding]], ...] = (
    _completeness,
    _failures,
    _graphs,
    _noise,
    _drift,
    _energy,
    _machine,
)
