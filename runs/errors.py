"""Estimates joined with the measurements of a run: per case, per operator call of a network, and as figures of merit."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean

from shmoo.estimators.errors import InputError, NothingMeasuredError
from shmoo.estimators.profile import ArchitectureProfile, ErrorCardEntry
from shmoo.estimators.records import Graph
from shmoo.runs.error_records import FREE, CallError, CaseError, ErrorReport, Excluded, NetworkError, network_name
from shmoo.runs.metrics import error_card, grouped_error_cards, repeat_spread, time_weighted_error
from shmoo.runs.predict import CaseEstimate, KernelPart, Predictor, StoredRun, director_predictor
from shmoo.runs.records import CANONICAL_STATE, CaseSpec, Measurement


def error_report(run: StoredRun, profile: ArchitectureProfile, predict: Predictor | None = None) -> ErrorReport:
    """Estimate every usable case of a run and set the estimates beside the measurements.

    Args:
        predict: what estimates; `director_predictor(profile)` when not given.

    Raises:
        NothingMeasuredError: no row is usable.
        FormatError: a graph of the run is missing or damaged.
    """
    usable = [row for row in run.rows if row.estimable]
    excluded = tuple(Excluded(row.case, row.status, _why_not(row)) for row in run.rows if not row.estimable)
    if not usable:
        seen = f"{len(excluded)} rows, the first set aside because: {excluded[0].reason}" if excluded else "no rows"
        raise NothingMeasuredError(f"nothing usable was measured ({seen}); `shmoo check RUN` says what to do")
    asked = [(row.case, run.graphs(row)) for row in usable]
    estimates = (predict or director_predictor(profile))(asked)
    if len(estimates) != len(asked):
        raise InputError(f"the predictor gave {len(estimates)} estimates for {len(asked)} cases; it must give one a case")
    cases, networks = [], []
    for row, (_, graphs), estimate in zip(usable, asked, estimates, strict=True):
        case = _case_error(row, estimate)
        cases.append(case)
        if case.case.kind == "network":
            networks.append(_network_error(case, row, graphs, estimate))
    return ErrorReport(
        machine=run.manifest.machine,
        suite=run.manifest.suite,
        started_at=run.manifest.started_at,
        versions=run.manifest.versions,
        profile=profile,
        cases=tuple(cases),
        networks=tuple(networks),
        excluded=excluded,
        metrics=case_metrics(cases),
        problems=tuple(getattr(run, "problems", ())),
    )


def case_metrics(cases: Iterable[CaseError]) -> dict[str, dict[str, ErrorCardEntry]]:
    """Split -> group -> errors, in the order fit, validation, test."""
    metrics = {}
    cases = tuple(cases)
    for split in ("fit", "validation", "test"):
        chosen = [case for case in cases if case.split == split]
        cards = grouped_error_cards([case.group for case in chosen], *_columns(chosen)) if chosen else {}
        operators = [case for case in chosen if case.case.kind == "operator" and case.case.runtime == "eager"]
        if operators:
            cards["operators"] = error_card(*_columns(operators))
        if cards:
            metrics[split] = cards
    return metrics


def _columns(cases: Sequence[CaseError]) -> tuple[list[float], ...]:
    return (
        [case.estimate_s.value for case in cases],
        [case.measured_s for case in cases],
        [case.estimate_s.low for case in cases],
        [case.estimate_s.high for case in cases],
        [case.standard_error for case in cases],
    )


def _why_not(row: Measurement) -> str:
    """Why no estimate can be set beside a row's time."""
    if row.status not in ("ok", "noisy"):
        return row.why or f"{row.status} without a reason given"
    if not row.timed:
        return "no timing samples"
    if row.case.cache_state != CANONICAL_STATE:
        return f"cache state {row.case.cache_state!r} is not the canonical one ({CANONICAL_STATE!r})"
    return "no graph was stored with it"


def _case_error(row: Measurement, estimate: CaseEstimate) -> CaseError:
    latency, alone, energy = row.latency, row.alone, row.energy_reading
    means = [fmean(visit.samples_s) for visit in row.visits]
    family = _main_family(estimate.breakdown)
    return CaseError(
        case=row.case,
        family=family,
        group=_group(row.case, family),
        split=row.case.split,
        status=row.status,
        measured_s=latency.value_s,
        standard_error=latency.relative_se,
        alone_s=None if alone is None else alone.value_s,
        estimate_s=estimate.latency_s,
        samples=0 if row.timing is None else len(row.timing.samples_s),
        visits=latency.visits,
        spread=repeat_spread(max(means), min(means)) if len(means) > 1 else None,
        flops=estimate.flops,
        bytes=estimate.bytes,
        tiles=estimate.tiles,
        energy_measured_j=None if energy is None else energy.energy_j,
        energy_estimate_j=estimate.energy_j,
    )


def _main_family(breakdown: Sequence[KernelPart]) -> str:
    times: dict[str, float] = {}
    for kernel in breakdown:
        times[kernel.family] = times.get(kernel.family, 0.0) + kernel.latency_s
    return max(times, key=times.__getitem__) if times else FREE


def _group(case: CaseSpec, family: str) -> str:
    group = {"operator": family, "synthetic": "synthetic", "network": "networks"}[case.kind]
    return group if case.runtime == "eager" else f"{group} ({case.runtime})"


def _network_error(whole: CaseError, row: Measurement, graphs: Sequence[Graph], estimate: CaseEstimate) -> NetworkError:
    times = {child.call: child.time_s for child in sorted(row.children, key=lambda child: child.call)}
    if not times:
        return NetworkError(whole, operators_s=row.operators_s)
    # Child times count calls through all graphs of the network in order; kernels count within their own graph.
    offsets = [0]
    for graph in graphs:
        offsets.append(offsets[-1] + len(graph.calls))
    calls_of_all = [call for graph in graphs for call in graph.calls]
    total = sum(times.values())
    name = network_name(whole.case)
    entries, covered = [], set()

    def entry(calls: tuple[int, ...], operator: str, family: str, estimated: float) -> CallError:
        measured = sum(times.get(call, 0.0) for call in calls)
        module = next((calls_of_all[call].module for call in calls if calls_of_all[call].module), "")
        return CallError(name, calls, operator, module, family, measured, estimated, measured / total)

    for kernel in estimate.breakdown:
        calls = tuple(call + offsets[kernel.graph] for call in kernel.calls)
        covered.update(calls)
        operator = "+".join(_short(calls_of_all[call].op) for call in calls)
        entries.append(entry(calls, operator, kernel.family, kernel.latency_s))
    for call in times:
        if call not in covered:
            entries.append(entry((call,), _short(calls_of_all[call].op), FREE, 0.0))
    entries.sort(key=lambda item: item.calls)
    weighted = time_weighted_error([e.estimated_s for e in entries], [e.measured_s for e in entries])
    return NetworkError(whole, tuple(entries), total, weighted, row.operators_s)


def _short(op: str) -> str:
    return op.split(".")[-1].split("::")[-1]


CSV_COLUMNS = (
    "level", "workload", "kind", "axes", "dtype", "runtime", "device", "threads", "split", "family", "group", "calls", "operator",
    "module", "measured_s", "standard_error", "alone_s", "estimated_s", "low_s", "high_s", "error", "inside", "spread", "share",
    "samples", "visits", "flops", "bytes", "tiles", "energy_measured_j", "energy_estimated_j", "status", "reason",
)  # fmt: skip
"""Columns of errors.csv. `level` is "case", "call" (one kernel of a network) or "excluded"; cells that do not apply are empty."""


def write_errors_csv(report: ErrorReport, path: str | Path) -> Path:
    """Write every case, call and excluded row of a report as CSV (UTF-8, SI units); returns the path."""
    path = Path(path)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, CSV_COLUMNS, restval="")
        writer.writeheader()
        writer.writerows({name: "" if value is None else value for name, value in row.items()} for row in _csv_rows(report))
    return path


def _csv_rows(report: ErrorReport) -> Iterable[dict[str, object]]:
    for case in report.cases:
        yield {
            "level": "case",
            **_asked(case.case),
            "split": case.split,
            "family": case.family,
            "group": case.group,
            "measured_s": case.measured_s,
            "standard_error": case.standard_error,
            "alone_s": case.alone_s,
            "estimated_s": case.estimate_s.value,
            "low_s": case.estimate_s.low,
            "high_s": case.estimate_s.high,
            "error": case.error,
            "inside": case.inside,
            "spread": case.spread,
            "samples": case.samples,
            "visits": case.visits,
            "flops": case.flops,
            "bytes": case.bytes,
            "tiles": case.tiles,
            "energy_measured_j": case.energy_measured_j,
            "energy_estimated_j": None if case.energy_estimate_j is None else case.energy_estimate_j.value,
            "status": case.status,
        }
    for network in report.networks:
        for call in network.calls:
            yield {
                "level": "call",
                **_asked(network.whole.case),
                "split": network.whole.split,
                "family": call.family,
                "calls": " ".join(map(str, call.calls)),
                "operator": call.operator,
                "module": call.module,
                "measured_s": call.measured_s,
                "estimated_s": call.estimated_s,
                "error": call.error,
                "share": call.share,
                "status": "ok",
            }
    for row in report.excluded:
        yield {"level": "excluded", **_asked(row.case), "status": row.status, "reason": row.reason}


def _asked(case: CaseSpec) -> dict[str, object]:
    return {
        "workload": case.workload,
        "kind": case.kind,
        "axes": " ".join(f"{name}={value}" for name, value in case.axes.items()),
        "dtype": case.dtype,
        "runtime": case.runtime,
        "device": case.device,
        "threads": case.threads,
    }
