"""Estimates joined with the measurements of a run: per case, per operator call of a network, and as error metrics."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from statistics import fmean

import msgspec

from shmoo.estimators.errors import InputError, NothingMeasuredError
from shmoo.estimators.graph.records import Graph
from shmoo.estimators.machine.profile import ArchitectureProfile, ErrorCardEntry
from shmoo.estimators.registry import grouped, name_of
from shmoo.runs.analysis.error_records import FREE, CallError, CaseError, ErrorReport, Excluded, NetworkError, network_name
from shmoo.runs.analysis.metrics import error_card, repeat_spread, time_weighted_error
from shmoo.runs.analysis.predict import CaseEstimate, KernelPart, Predictor, director_predictor
from shmoo.runs.store.files import csv_bytes, replace_file
from shmoo.runs.store.records import CANONICAL_STATE, CaseSpec, Measurement
from shmoo.runs.store.store import Run


def error_report(run: Run, profile: ArchitectureProfile, predict: Predictor | None = None) -> ErrorReport:
    """Estimate every usable case of a run and compare the estimates with the measurements.

    Args:
        predict: the predictor; `director_predictor` with the threads of the run by default.

    Raises:
        NothingMeasuredError: no row is usable.
        FormatError: a graph of the run is missing or damaged.
    """
    usable = [row for row in run.rows if row.estimable]
    excluded = tuple(Excluded(row.case, row.status, _why_not(row)) for row in run.rows if not row.estimable)
    if not usable:
        excluded_text = f"{len(excluded)} rows, the first set aside because: {excluded[0].reason}" if excluded else "no rows"
        raise NothingMeasuredError(f"nothing usable was measured ({excluded_text}); `shmoo check RUN` says what to do")
    # Graphs are read only when estimated: those of a large run take more memory than everything else.
    estimates = (predict or director_predictor(profile, run.manifest.machine.threads))(
        (row.case, run.graphs(row)) for row in usable
    )
    if len(estimates) != len(usable):
        raise InputError(f"the predictor gave {len(estimates)} estimates for {len(usable)} cases; it must give one per case")
    cases = [_case_error(row, estimate) for row, estimate in zip(usable, estimates, strict=True)]
    networks = [
        _network_error(case, row, run.graphs(row), estimate)
        for case, row, estimate in zip(cases, usable, estimates, strict=True)
        if case.case.kind == "network"
    ]
    return ErrorReport(
        manifest=run.manifest,
        profile=profile,
        cases=tuple(cases),
        networks=tuple(networks),
        excluded=excluded,
        metrics=case_metrics(cases),
        problems=run.problems,
    )


def case_metrics(cases: Sequence[CaseError]) -> dict[str, dict[str, ErrorCardEntry]]:
    """Split -> group -> errors, in the order fit, validation, test."""
    return {
        split: {group: _error_card(members) for group, members in groups.items()} for split, groups in _by_group(cases).items()
    }


def energy_errors(cases: Sequence[CaseError]) -> dict[str, dict[str, float]]:
    """Split -> group -> mean error of the energy, of the cases that have one measured and one estimated."""
    known = _by_group([case for case in cases if case.energy_error is not None])
    return {
        split: {group: fmean(abs(case.energy_error or 0.0) for case in members) for group, members in groups.items()}
        for split, groups in known.items()
    }


def _by_group(cases: Sequence[CaseError]) -> dict[str, dict[str, list[CaseError]]]:
    splits = {}
    for split in ("fit", "validation", "test"):
        groups = grouped((case.group, case) for case in cases if case.split == split)
        operators = [c for c in cases if c.split == split and c.case.kind == "operator" and c.case.runtime == "eager"]
        if operators:
            groups["operators"] = operators
        if groups:
            splits[split] = groups
    return splits


def _error_card(cases: Sequence[CaseError]) -> ErrorCardEntry:
    estimates = [case.estimate_s for case in cases]
    return error_card(
        [estimate.value for estimate in estimates],
        [case.measured_s for case in cases],
        [estimate.low for estimate in estimates],
        [estimate.high for estimate in estimates],
        [case.standard_error for case in cases],
    )


def _why_not(row: Measurement) -> str:
    """Why a row's time cannot be compared with an estimate."""
    if row.status not in ("ok", "noisy"):
        return row.why or f"{row.status} without a reason given"
    if not row.timed:
        return "no timing samples"
    if row.case.cache_state != CANONICAL_STATE:
        return f"cache state {row.case.cache_state!r} is not the canonical one ({CANONICAL_STATE!r})"
    return "no graph was stored with it"


def _case_error(row: Measurement, estimate: CaseEstimate) -> CaseError:
    latency, time_alone, energy = row.latency, row.alone, row.energy_reading
    means = [fmean(visit.samples_s) for visit in row.visits] if len(row.visits) > 1 else []
    family = _main_family(estimate.breakdown)
    return CaseError(
        case=row.case,
        family=family,
        group=_group(row.case, family),
        split=row.case.split,
        status=row.status,
        measured_s=latency.value_s,
        standard_error=latency.relative_se,
        alone_s=None if time_alone is None else time_alone.value_s,
        estimate_s=estimate.latency_s,
        samples=0 if row.timing is None else len(row.timing.samples_s),
        visits=latency.visits,
        spread=repeat_spread(max(means), min(means)) if means else None,
        flops=estimate.flops,
        bytes=estimate.bytes,
        tiles=estimate.tiles,
        energy_measured_j=None if energy is None else energy.energy_j,
        energy_estimate_j=estimate.energy_j,
    )


def _main_family(breakdown: Sequence[KernelPart]) -> str:
    times: defaultdict[str, float] = defaultdict(float)
    for kernel in breakdown:
        times[kernel.family] += kernel.latency_s
    return max(times, key=times.__getitem__, default=FREE)


def _group(case: CaseSpec, family: str) -> str:
    group = {"operator": family, "synthetic": "synthetic", "network": "networks"}[case.kind]
    return group if case.runtime == "eager" else f"{group} ({case.runtime})"


def _network_error(network: CaseError, row: Measurement, graphs: Sequence[Graph], estimate: CaseEstimate) -> NetworkError:
    times = {child.call: child.time_s for child in sorted(row.children, key=lambda child: child.call)}
    if not times:
        return NetworkError(network, operators_s=row.operators_s)
    # Child times index the calls of all graphs of the network in order; kernels index those of their own graph.
    offsets = list(accumulate((len(graph.calls) for graph in graphs), initial=0))
    all_calls = [call for graph in graphs for call in graph.calls]
    total = sum(times.values())
    entries: list[CallError] = []

    def add(calls: tuple[int, ...], family: str, estimated_s: float) -> None:
        measured_s = sum(times.get(call, 0.0) for call in calls)
        module = next((all_calls[call].module for call in calls if all_calls[call].module), "")
        operator = "+".join(name_of(all_calls[call].op) for call in calls)
        share = measured_s / total
        entries.append(CallError(network_name(row.case), calls, operator, module, family, measured_s, estimated_s, share))

    for kernel in estimate.breakdown:
        add(tuple(call + offsets[kernel.graph] for call in kernel.calls), kernel.family, kernel.latency_s)
    covered = {call for entry in entries for call in entry.calls}
    for call in times:
        if call not in covered:
            add((call,), FREE, 0.0)
    entries.sort(key=lambda entry: entry.calls)
    weighted = time_weighted_error([entry.estimated_s for entry in entries], [entry.measured_s for entry in entries])
    return NetworkError(network, tuple(entries), total, weighted, row.operators_s)


CSV_COLUMNS = (
    "level", "workload", "kind", "axes", "dtype", "runtime", "device", "threads", "split", "family", "group", "calls", "operator",
    "module", "measured_s", "standard_error", "alone_s", "estimated_s", "low_s", "high_s", "error", "inside", "spread", "share",
    "samples", "visits", "flops", "bytes", "tiles", "energy_measured_j", "energy_estimated_j", "status", "reason",
)  # fmt: skip
"""Columns of errors.csv. `level` is "case", "call" (one kernel of a network) or "excluded"; cells that do not apply are empty."""


def write_errors_csv(report: ErrorReport, path: str | Path) -> Path:
    """Write every case, call and excluded row of a report as CSV (UTF-8, SI units); returns the path."""
    replace_file(Path(path), csv_bytes(CSV_COLUMNS, _csv_rows(report)))
    return Path(path)


def _csv_rows(report: ErrorReport) -> Iterator[dict[str, object]]:
    for case in report.cases:
        estimate, energy = case.estimate_s, case.energy_estimate_j
        cells: dict[str, object] = {
            "estimated_s": estimate.value,
            "low_s": estimate.low,
            "high_s": estimate.high,
            "error": case.error,
            "inside": case.inside,
            "energy_estimated_j": None if energy is None else energy.value,
        }
        yield _csv_row("case", case.case, case) | cells
    for network in report.networks:
        for call in network.calls:
            cells = {
                "split": network.whole.split,
                "calls": " ".join(map(str, call.calls)),
                "error": call.error,
                "status": "ok",
            }
            yield _csv_row("call", network.whole.case, call) | cells
    yield from (_csv_row("excluded", row.case, row) for row in report.excluded)


def _csv_row(level: str, case: CaseSpec, record: CaseError | CallError | Excluded) -> dict[str, object]:
    """The fields of a case and of a record about it, by column; fields without a column are ignored."""
    axes = " ".join(f"{name}={value}" for name, value in case.axes.items())
    return {"level": level, **msgspec.structs.asdict(case), **msgspec.structs.asdict(record), "axes": axes}
