"""report.html: a run's measurements with their estimates, the verdict first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from shmoo.estimators.machine.profile import Coefficient, ErrorCardEntry
from shmoo.estimators.present.savings import QUANTITIES, FusionSummary
from shmoo.estimators.shown_columns import Cell, quantity
from shmoo.estimators.units import UNKNOWN, counted, percent, si, size, span, yes_or_no
from shmoo.runs.analysis.error_records import CaseError, ErrorReport, NetworkError
from shmoo.runs.analysis.errors import write_errors_csv
from shmoo.runs.plots.chart import Figure
from shmoo.runs.plots.errors import breakdown_figure, parity_figure, residual_figure, roofline_figure
from shmoo.runs.plots.estimates import energy_figure, fusion_figure, tiles_figure
from shmoo.runs.plots.page import Table, page, render, write
from shmoo.runs.plots.shmoo import plane_figure, shmoo_figure

REPORT_NAME = "report.html"
ERRORS_NAME = "errors.csv"
WORST_CALLS = 12
"""Calls shown per network on the page, those with the largest error in time; errors.csv has all of them."""
MOST_DRAWN = 5_000
"""Most cases that plots show as points, since a browser draws no more in a second. Tables and errors.csv have all cases."""
FEW_NETWORKS = 3
"""Fewest networks for which errors all to one side are more than chance."""
COMMON_GROUPS = 4
"""Number of the most frequent operator groups shown for each network."""


def write_report(
    report: ErrorReport, estimates: Sequence[Mapping[str, Any]], out_dir: str | Path, fusion: Sequence[FusionSummary] = ()
) -> Path:
    """Write report.html and errors.csv into a folder, which is created; returns the path of the page.

    Args:
        estimates: JSON objects of `shmoo estimate`, for the tables and plots over architectures; may be empty.
        fusion: from `network_fusions`, for the figure of fusion savings; may be empty.
    """
    folder = Path(out_dir)
    folder.mkdir(parents=True, exist_ok=True)
    write_errors_csv(report, folder / ERRORS_NAME)
    path = folder / REPORT_NAME
    write(render_report(report, estimates, fusion), path)
    return path


def render_report(report: ErrorReport, estimates: Sequence[Mapping[str, Any]] = (), fusion: Sequence[FusionSummary] = ()) -> str:
    """The page as text; takes the arguments of `write_report`."""
    figures = _figures(report, estimates, fusion)
    without_energy = [e.get("energy_j_reason") or f"no reason given for {e['arch']}" for e in estimates if not e.get("energy_j")]
    body = render(
        "report.html.j2",
        figures=figures,
        report=report,
        networks=bool(report.networks),
        metrics=[
            metrics_row(split, group, card)
            for split in ("test", "validation", "fit")
            for group, card in report.metrics.get(split, {}).items()
        ],
        calls=[(network.name, _calls_table(network)) for network in report.networks if network.calls],
        estimates=[_estimate_row(estimate) for estimate in estimates],
        fusion=[_fusion_row(network) for network in fusion],
        fused_as=next((f"{network.runtime} on {network.arch}" for network in fusion), ""),
        energy_reasons=list(dict.fromkeys(without_energy)),
        coefficients=[_coefficient_row(name, c) for name, c in sorted(report.profile.coefficients.items())],
        excluded=[
            {"case": Cell(row.case.label), "status": Cell(row.status), "reason": Cell(row.reason)} for row in report.excluded
        ],
    )
    with_energy = any(network.whole.energy_measured_j is not None for network in report.networks)
    machine = report.manifest.machine
    sections = (
        ("summary", "Summary", True),
        ("parity", "Accuracy", True),
        ("breakdown", "Networks", bool(report.networks)),
        ("fusion", "Fusion", "fusion" in figures),
        ("roofline", "Roofline", True),
        ("shmoo", "Shmoo", True),
        ("tiles", "Tiles", True),
        ("architectures", "Architectures", True),
        ("coefficients", "Coefficients", True),
        ("excluded", "Set aside", bool(report.excluded)),
    )
    model = f"{machine.cpu_model} with {machine.gpu_model}" if machine.gpu_model else machine.cpu_model
    title = " · ".join(filter(None, (model, report.manifest.started_at[:10])))
    measured = f"measured {report.manifest.started_at} · " if report.manifest.started_at else ""
    return page(
        title,
        body,
        answer=verdict(report),
        eyebrow=f"Report · {report.profile.name} against measurements",
        summary=render(
            "summary.html.j2",
            figures_that_matter=_headline(report),
            problems=report.problems,
            networks=[_network_row(network, with_energy) for network in report.networks],
            machine=_machine_facts(report),
        ),
        links=[(anchor, text) for anchor, text, visible in sections if visible],
        figures=figures,
        footer=f"{measured}{ERRORS_NAME} beside this page has its numbers",
    )


def verdict(report: ErrorReport) -> str:
    """The accuracy of the estimates in one sentence: networks, coverage of the intervals, cases and noise."""
    card = report.network_card
    networks = f"Networks ±{percent(card.mean)}{one_sided(card)}" if card is not None else "No networks measured"
    held_out = [case for case in report.cases if case.split == "test"] or report.cases
    inside = sum(case.inside for case in held_out) / len(held_out)
    noise = percent(median(case.standard_error for case in report.cases))
    coverage = f"coverage {percent(inside, digits=0)} of the 90 % intervals"
    sentence = f"{networks}, {coverage}, {counted(len(report.cases), 'case')}, noise floor {noise}{_unequal_visits(report)}."
    return f"{sentence} {shift_text(report)}" if report.shifted else sentence


def shift_text(report: ErrorReport) -> str:
    """What a shifted report means and what to do."""
    sentence = f"The median case takes {report.median_ratio:.2f} times its estimate, and most deviate to the same side"
    fitted, threads = report.profile.fitted_from, report.manifest.machine.threads
    if fitted is None:
        return f"{sentence}: this profile is not calibrated for the machine yet; run `shmoo calibrate`."
    fitted_threads = fitted.fingerprint.get("threads", threads)
    if fitted_threads != threads:
        return (
            f"{sentence}: the profile was fitted on {fitted_threads} threads, this run used {threads}. Calibrate with this run."
        )
    return (
        f"{sentence}: the machine ran at another speed than when its profile was calibrated, or the profile is another "
        "machine's. Measure and calibrate again."
    )


def one_sided(card: ErrorCardEntry) -> str:
    """The common side of all errors of a group in brackets, such as " (all 9 too fast)"; "" without one, or with few cases."""
    if card.n < FEW_NETWORKS or abs(card.bias) < card.mean * (1 - 1e-9):
        return ""
    return f" (all {card.n} too {'slow' if card.bias > 0 else 'fast'})"


def _unequal_visits(report: ErrorReport) -> str:
    """How often operators and networks were visited, where networks had far more visits; the noise floor is then an
    operator's."""
    networks = [case.visits for case in report.cases if case.case.kind == "network"]
    operator_visits = [case.visits for case in report.cases if case.case.kind != "network"]
    if not networks or not operator_visits or median(networks) < 2 * median(operator_visits):
        return ""
    return f" (operators visited {_times(median(operator_visits))}, networks {_times(median(networks))})"


def _times(count: float) -> str:
    return "once" if count == 1 else f"{count:g} times"


def _figures(report: ErrorReport, estimates: Sequence[Mapping[str, Any]], fusion: Sequence[FusionSummary]) -> dict[str, Figure]:
    capacities, drawn_cases = _capacities(report), report.cases[:: _every(report)]
    drawn = {
        "parity": parity_figure(drawn_cases),
        "residual": residual_figure(drawn_cases),
        "breakdown": breakdown_figure(report.networks),
        "roofline": roofline_figure(drawn_cases, report.profile),
        "shmoo": shmoo_figure(report.cases, capacities) if any(c.case.kind == "operator" for c in report.cases) else None,
        "plane": plane_figure(report.cases, capacities),
        "tiles": tiles_figure(drawn_cases, estimates, report.profile.name),
        "energy": energy_figure(estimates),
        "fusion": fusion_figure(fusion),
    }
    return {name: figure for name, figure in drawn.items() if figure is not None}


def _every(report: ErrorReport) -> int:
    """Step between the cases that plots show as points."""
    return -(-len(report.cases) // MOST_DRAWN) or 1


def _capacities(report: ErrorReport) -> dict[str, float]:
    """Memory level -> bytes, from the machine's report of its caches, otherwise from the profile."""
    if report.manifest.machine.cache_bytes and report.profile.family == "cpu":
        return {level.upper(): float(nbytes) for level, nbytes in report.manifest.machine.cache_bytes.items()}
    capacities = {level: report.profile.get(f"capacity.{level}") for level in report.profile.levels[:-1]}
    return {level: coefficient.value for level, coefficient in capacities.items() if coefficient is not None}


def _headline(report: ErrorReport) -> list[tuple[str, str, str]]:
    """(value, name, remark) of each card at the top of the page."""
    cards = []
    networks, operators = report.network_card, report.metrics.get("test", {}).get("operators")
    if networks is not None:
        cards.append(
            (percent(networks.mean), "mean error, networks", f"{counted(networks.n, 'network')}, none of them seen by the fit")
        )
        if networks.coverage is not None:
            cards.append((percent(networks.coverage, digits=0), "inside their interval", "networks; 90 % is the aim"))
    if operators is not None:
        remark = f"{operators.n} held-out cases, median {percent(operators.median)}"
        cards.append((percent(operators.mean), "mean error, operators", remark))
    floor = percent(median(case.standard_error for case in report.cases))
    cards.append((floor, "noise floor", "median standard error of the measurements"))
    noisy = sum(case.status == "noisy" for case in report.cases)
    thinned = f"; plots show one in {_every(report)}" if _every(report) > 1 else ""
    cards.append((str(len(report.cases)), "cases", f"{noisy} of them noisy, {len(report.excluded)} left out{thinned}"))
    return cards


def _machine_facts(report: ErrorReport) -> list[tuple[str, str]]:
    machine = report.manifest.machine
    facts = [
        ("Processor", f"{machine.cpu_model}, {machine.cores_physical} cores, {counted(machine.threads, 'thread')} used"),
        ("Caches", ", ".join(f"{level.upper()} {size(nbytes)}" for level, nbytes in machine.cache_bytes.items()) or UNKNOWN),
        ("Memory", size(machine.memory_bytes)),
    ]
    if machine.gpu_model:
        facts.append(("Accelerator", f"{machine.gpu_model}, {size(machine.gpu_memory_bytes)}"))
    facts += [
        ("Clock", machine.clock_policy or machine.governor or UNKNOWN),
        ("System", " · ".join(part for part in (machine.os, machine.hypervisor or "") if part) or UNKNOWN),
        (
            "Software",
            ", ".join(f"{name} {version}" for name, version in report.manifest.versions.items()) or f"torch {machine.torch}",
        ),
        ("Run", " · ".join(part for part in (f"suite {report.manifest.suite}", report.manifest.started_at) if part)),
        ("Profile", f"{report.profile.name}: {report.profile.description}"),
    ]
    return facts


def _error(value: float | None, signed: bool = True) -> Cell:
    tone = "" if value is None else "good" if abs(value) <= 0.10 else "fair" if abs(value) <= 0.25 else "poor"
    return quantity(value, "+%" if signed else "%", tone=tone)


def _ratio(part_s: float | None, whole_s: float) -> Cell:
    ratio = None if part_s is None else part_s / whole_s
    return Cell("not timed" if ratio is None else f"{ratio:.2f}", ratio, numeric=True)


def _interval(value: Mapping[str, float] | None, unit: str) -> Cell:
    if value is None:
        return Cell(UNKNOWN, numeric=True)
    return quantity(value["value"], unit, span(value["low"], value["high"], unit))


def _energy_cells(case: CaseError, with_energy: bool) -> dict[str, Cell]:
    """Measured and estimated energy of a call; no cells in a report without measured energy of networks."""
    if not with_energy:
        return {}
    estimate = case.energy_estimate_j
    return {
        "energy": quantity(case.energy_measured_j, "J"),
        "energy estimated": quantity(None if estimate is None else estimate.value, "J"),
        "energy error": _error(case.energy_error),
    }


def _network_row(network: NetworkError, with_energy: bool) -> dict[str, Cell]:
    case, estimate, weighted = network.whole, network.whole.estimate_s, network.weighted_error
    ends = f"{span(estimate.low, estimate.high, 's')} {'✓' if case.inside else '✗'}"
    return {
        "network": Cell(network.name),
        "measured": quantity(case.measured_s, "s"),
        "estimated": quantity(estimate.value, "s"),
        "error": _error(case.error),
        "90 % interval": Cell(ends, estimate.low, "" if case.inside else "fair", numeric=True),
        "standard error": quantity(case.standard_error, "%"),
        "operators' error": Cell("not timed", numeric=True) if weighted is None else _error(weighted, signed=False),
        **_energy_cells(case, with_energy),
        "operators / whole": _ratio(network.children_s, case.measured_s),
        "alone / whole": _ratio(network.operators_s, case.measured_s),
    }


def metrics_row(split: str, group: str, card: ErrorCardEntry) -> dict[str, Cell]:
    """Table row of one entry of an error card."""
    return {
        "group": Cell(group),
        "split": Cell(split),
        "cases": quantity(card.n, "#"),
        "mean": _error(card.mean, signed=False),
        "median": _error(card.median, signed=False),
        "p90": _error(card.p90, signed=False),
        "within 10 %": quantity(card.within_10, "0%"),
        "within 20 %": quantity(card.within_20, "0%"),
        "bias": _error(card.bias),
        "in interval": quantity(card.coverage, "0%"),
        "noise floor": quantity(card.noise, "%"),
    }


def _calls_table(network: NetworkError) -> Table:
    """The calls with the largest errors in seconds."""
    worst = sorted(network.calls, key=lambda call: -abs(call.estimated_s - call.measured_s))[:WORST_CALLS]
    return [
        {
            "operator": Cell(call.operator),
            "module": Cell(call.module),
            "family": Cell(call.family),
            "measured": quantity(call.measured_s, "s"),
            "estimated": quantity(call.estimated_s, "s"),
            "error": _error(call.error),
            "share of time": quantity(call.share, "%"),
        }
        for call in worst
    ]


def _estimate_row(e: Mapping[str, Any]) -> dict[str, Cell]:
    batch = e.get("batch", 1)
    basis = ", ".join(f"{name} {percent(share, digits=0)}" for name, share in (e.get("basis") or {}).items() if share > 0.005)
    return {
        "model": Cell(str(e["model"])),
        "architecture": Cell(str(e["arch"])),
        "batch": quantity(batch, "#"),
        "dtype": Cell(str(e.get("dtype", ""))),
        "runtime": Cell(str(e.get("runtime", ""))),
        "latency": _interval(e.get("latency_s"), "s"),
        "throughput": _interval(e.get("throughput_per_s"), "/s"),
        "energy": _interval(e.get("energy_j"), "J"),
        "peak memory": quantity(e.get("peak_memory_bytes"), "iB"),
        "fits": Cell(yes_or_no(e.get("fits")), note=(e.get("memory") or {}).get("advice", "")),
        "flops": quantity(e.get("flops"), "flop"),
        "basis": Cell(basis),
    }


def _fusion_row(network: FusionSummary) -> dict[str, Cell]:
    common = ", ".join(f"{count} × ({ops})" for ops, count in network.groups[:COMMON_GROUPS]) or "none"
    return {
        "network": Cell(network.model),
        **{f"{label} saved": quantity(network.savings.saved(field), "%") for field, label, _ in QUANTITIES},
        "operators that most often share a kernel": Cell(common),
    }


def _coefficient_row(name: str, c: Coefficient) -> dict[str, Cell]:
    unit = "iB" if c.unit == "B" else c.unit
    if c.low is not None and c.high is not None:
        uncertainty = f"{quantity(c.low, unit).text} to {quantity(c.high, unit).text}"
    elif c.stderr is None:
        uncertainty = "not given"
    else:
        uncertainty = f"± {percent(c.stderr / abs(c.value)) if c.value else si(c.stderr, c.unit)}"
    return {
        "coefficient": Cell(name),
        "value": quantity(c.value, unit),
        "uncertainty": Cell(uncertainty, numeric=True),
        "source": Cell(c.source, tone=f"source-{c.source.replace(' ', '-')}"),
        "reference": Cell(c.reference),
    }
