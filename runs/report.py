"""report.html: one file with its data, styles and plotting library inside, so that it opens anywhere and without a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from shmoo.estimators.fusion_savings import FusionSummary
from shmoo.estimators.present import UNKNOWN, percent, si, size
from shmoo.estimators.profile import ArchitectureProfile, Coefficient
from shmoo.runs.error_records import CallError, ErrorReport, NetworkError
from shmoo.runs.errors import write_errors_csv
from shmoo.runs.plots_errors import breakdown_figure, parity_figure, residual_figure, roofline_figure
from shmoo.runs.plots_estimates import energy_figure, tiles_figure
from shmoo.runs.plots_fusion import fusion_figure
from shmoo.runs.plots_shmoo import plane_figure, shmoo_figure

if TYPE_CHECKING:
    import plotly.graph_objects as go

REPORT_NAME = "report.html"
ERRORS_NAME = "errors.csv"
WORST_CALLS = 12
"""Calls shown per network in the page, those that cost the estimate most; errors.csv holds them all."""
COMMON_GROUPS = 4
"""Most frequent groups of operators shown for each network."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One table cell: the text shown, the number it sorts by, its colour ("good", "fair", "poor" or ""), and a second line."""

    text: str
    key: float | None = None
    tone: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """A table of the page. `numeric` are the positions of columns that align right."""

    columns: tuple[str, ...]
    rows: list[list[Cell]] = field(default_factory=list)
    numeric: frozenset[int] = frozenset()


def write_report(
    report: ErrorReport, estimates: Sequence[Mapping[str, Any]], out_dir: str | Path, fusion: Sequence[FusionSummary] = ()
) -> Path:
    """Write report.html and errors.csv.

    Args:
        report: from `error_report`.
        estimates: JSON objects of `shmoo estimate`, for the tables and plots over architectures; may be empty.
        out_dir: created with its parents; files of the same names in it are replaced.
        fusion: from `network_fusions`, for the picture of what fusion saves; may be empty.

    Returns:
        The path of report.html.
    """
    folder = Path(out_dir)
    folder.mkdir(parents=True, exist_ok=True)
    write_errors_csv(report, folder / ERRORS_NAME)
    path = folder / REPORT_NAME
    path.write_text(render_report(report, estimates, fusion), encoding="utf-8")
    return path


def render_report(report: ErrorReport, estimates: Sequence[Mapping[str, Any]] = (), fusion: Sequence[FusionSummary] = ()) -> str:
    """The page as text; arguments as for `write_report`."""
    import jinja2
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2").render(
        plotly_js=Markup(get_plotlyjs()),
        figures={name: Markup(figure_json(figure)) for name, figure in _figures(report, estimates, fusion).items()},
        title=f"{report.profile.name} on {report.machine.cpu_model}",
        report=report,
        machine=_machine_facts(report),
        tiles=_headline(report),
        networks=_network_table(report.networks),
        metrics=_metrics_table(report),
        calls=[(network, _calls_table(network)) for network in report.networks if network.calls],
        estimates=_estimates_table(estimates),
        fusion=_fusion_table(fusion),
        fused_as=next((f"{network.runtime} on {network.arch}" for network in fusion), ""),
        energy_reasons=_energy_reasons(estimates),
        coefficients=_coefficients_table(report.profile),
        excluded=_excluded_table(report),
    )


def figure_json(figure: go.Figure) -> str:
    """A figure as JSON that can stand inside a script element: no "<", so neither "</script" nor a comment can end it early."""
    return (
        figure.to_json().replace("<", "\\u003c").replace(">", "\\u003e").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    )


def _figures(
    report: ErrorReport, estimates: Sequence[Mapping[str, Any]], fusion: Sequence[FusionSummary]
) -> dict[str, go.Figure]:
    capacities = _capacities(report)
    drawn = {
        "parity": parity_figure(report.cases),
        "residual": residual_figure(report.cases),
        "breakdown": breakdown_figure(report.networks),
        "roofline": roofline_figure(report.cases, report.profile),
        "shmoo": shmoo_figure(report.cases, capacities) if any(c.case.kind == "operator" for c in report.cases) else None,
        "plane": plane_figure(report.cases, capacities),
        "tiles": tiles_figure(report.cases, estimates, report.profile.name),
        "energy": energy_figure(estimates),
        "fusion": fusion_figure(fusion),
    }
    return {name: figure for name, figure in drawn.items() if figure is not None}


def _capacities(report: ErrorReport) -> dict[str, float]:
    """Level -> bytes: as the machine reported its caches, else as the profile has them."""
    if report.machine.cache_bytes and report.profile.family == "cpu":
        return {level.upper(): float(nbytes) for level, nbytes in report.machine.cache_bytes.items()}
    known = {level: report.profile.get(f"capacity.{level}") for level in report.profile.levels[:-1]}
    return {level: coefficient.value for level, coefficient in known.items() if coefficient is not None}


def _headline(report: ErrorReport) -> list[tuple[str, str, str]]:
    """(figure, what it is, remark) for the tiles on top."""
    tiles = []
    card = report.network_card
    if card is not None:
        tiles.append((percent(card.mean), "mean error, networks", f"{card.n} networks, none of them seen by the fit"))
        if card.coverage is not None:
            tiles.append((percent(card.coverage, digits=0), "inside their interval", "networks; 90 % is the aim"))
    operators = report.metrics.get("test", {}).get("operators")
    if operators is not None:
        tiles.append(
            (
                percent(operators.mean),
                "mean error, operators",
                f"{operators.n} held-out cases, median {percent(operators.median)}",
            )
        )
    floor = percent(median([case.standard_error for case in report.cases]))
    tiles.append((floor, "noise floor", "median standard error of the measurements"))
    noisy = sum(case.status == "noisy" for case in report.cases)
    used = f"{noisy} of them noisy, {len(report.excluded)} set aside"
    tiles.append((str(len(report.cases)), "cases", used))
    return tiles


def _machine_facts(report: ErrorReport) -> list[tuple[str, str]]:
    machine = report.machine
    facts = [
        ("Processor", f"{machine.cpu_model}, {machine.cores_physical} cores, {machine.threads} threads used"),
        ("Caches", ", ".join(f"{level.upper()} {size(nbytes)}" for level, nbytes in machine.cache_bytes.items()) or UNKNOWN),
        ("Memory", size(machine.memory_bytes)),
    ]
    if machine.gpu_model:
        facts.append(("Accelerator", f"{machine.gpu_model}, {size(machine.gpu_memory_bytes)}"))
    facts += [
        ("Clock", machine.clock_policy or machine.governor or UNKNOWN),
        ("System", " · ".join(part for part in (machine.os, machine.hypervisor or "") if part) or UNKNOWN),
        ("Software", ", ".join(f"{name} {version}" for name, version in report.versions.items()) or f"torch {machine.torch}"),
        ("Run", " · ".join(part for part in (f"suite {report.suite}", report.started_at) if part)),
        ("Profile", f"{report.profile.name}: {report.profile.description}"),
    ]
    return facts


def _tone(error: float | None) -> str:
    if error is None:
        return ""
    return "good" if abs(error) <= 0.10 else "fair" if abs(error) <= 0.25 else "poor"


def _error(value: float | None, signed: bool = True) -> Cell:
    return Cell(percent(value, signed=signed), value, _tone(value))


def _number(value: float | None, unit: str) -> Cell:
    return Cell(si(value, unit), value)


def _network_table(networks: Sequence[NetworkError]) -> Table:
    columns = (
        "network",
        "measured",
        "estimated",
        "error",
        "90 % interval",
        "standard error",
        "operators' error",
        "operators / whole",
        "alone / whole",
    )
    rows = []
    for network in networks:
        whole = network.whole
        sums = (network.children_s, network.operators_s)
        ratios = [None if seconds is None else seconds / whole.measured_s for seconds in sums]
        ends = f"{si(whole.estimate_s.low, 's')} to {si(whole.estimate_s.high, 's')}"
        rows.append(
            [
                Cell(network.name),
                _number(whole.measured_s, "s"),
                _number(whole.estimate_s.value, "s"),
                _error(whole.error),
                Cell(ends + (" ✓" if whole.inside else " ✗"), whole.estimate_s.low, "" if whole.inside else "fair"),
                Cell(percent(whole.standard_error), whole.standard_error),
                Cell("not timed") if network.weighted_error is None else _error(network.weighted_error, signed=False),
                *(Cell("not timed" if ratio is None else f"{ratio:.2f}", ratio) for ratio in ratios),
            ]
        )
    return Table(columns, rows, frozenset(range(1, 9)))


def _metrics_table(report: ErrorReport) -> Table:
    columns = (
        "group",
        "split",
        "cases",
        "mean",
        "median",
        "p90",
        "within 10 %",
        "within 20 %",
        "bias",
        "in interval",
        "noise floor",
    )
    rows = []
    for split in ("test", "validation", "fit"):
        for group, card in report.metrics.get(split, {}).items():
            shares = [Cell(percent(share, digits=0), share) for share in (card.within_10, card.within_20)]
            inside = Cell(percent(card.coverage, digits=0), card.coverage)
            errors = [_error(value, signed=False) for value in (card.mean, card.median, card.p90)]
            floor = Cell(UNKNOWN if card.noise is None else percent(card.noise), card.noise)
            rows.append([Cell(group), Cell(split), Cell(str(card.n), card.n), *errors, *shares, _error(card.bias), inside, floor])
    return Table(columns, rows, frozenset(range(2, 11)))


def _calls_table(network: NetworkError) -> Table:
    columns = ("operator", "module", "family", "measured", "estimated", "error", "share of time")
    worst = sorted(network.calls, key=lambda call: -abs(call.estimated_s - call.measured_s))[:WORST_CALLS]
    return Table(columns, [_call_row(call) for call in worst], frozenset(range(3, 7)))


def _call_row(call: CallError) -> list[Cell]:
    return [
        Cell(call.operator),
        Cell(call.module),
        Cell(call.family),
        _number(call.measured_s, "s"),
        _number(call.estimated_s, "s"),
        _error(call.error),
        Cell(percent(call.share), call.share),
    ]


def _estimates_table(estimates: Sequence[Mapping[str, Any]]) -> Table:
    columns = (
        "model",
        "architecture",
        "batch",
        "dtype",
        "runtime",
        "latency",
        "throughput",
        "energy",
        "peak memory",
        "flops",
        "basis",
    )
    rows = []
    for e in estimates:
        basis = ", ".join(f"{name} {percent(share, digits=0)}" for name, share in (e.get("basis") or {}).items() if share > 0.005)
        rows.append(
            [
                Cell(str(e["model"])),
                Cell(str(e["arch"])),
                Cell(str(e.get("batch", 1)), e.get("batch", 1)),
                Cell(str(e.get("dtype", ""))),
                Cell(str(e.get("runtime", ""))),
                _interval_cell(e.get("latency_s"), "s"),
                _interval_cell(e.get("throughput_per_s"), "/s"),
                _interval_cell(e.get("energy_j"), "J"),
                Cell(size(e.get("peak_memory_bytes")), e.get("peak_memory_bytes")),
                _number(e.get("flops"), "flop"),
                Cell(basis),
            ]
        )
    return Table(columns, rows, frozenset({2, 5, 6, 7, 8, 9}))


def _fusion_table(fusion: Sequence[FusionSummary]) -> Table:
    columns = (
        "network",
        "kernels saved",
        "bytes saved",
        "time saved",
        "energy saved",
        "operators that most often share a kernel",
    )
    rows = []
    for network in fusion:
        shares = [network.savings.saved(name) for name in ("kernels", "bytes", "latency_s", "energy_j")]
        common = ", ".join(f"{count} × ({ops})" for ops, count in network.groups[:COMMON_GROUPS]) or "none"
        rows.append([Cell(network.model), *(Cell(percent(share), share) for share in shares), Cell(common)])
    return Table(columns, rows, frozenset(range(1, 5)))


def _interval_cell(value: Mapping[str, float] | None, unit: str) -> Cell:
    if value is None:
        return Cell(UNKNOWN)
    ends = f"{si(value['low'], unit)} to {si(value['high'], unit)}"
    return Cell(si(value["value"], unit), value["value"], note=ends)


def _energy_reasons(estimates: Sequence[Mapping[str, Any]]) -> list[str]:
    """Why energies are missing, each reason once."""
    reasons = [e.get("energy_j_reason") or f"no reason given for {e['arch']}" for e in estimates if not e.get("energy_j")]
    return list(dict.fromkeys(reasons)) or ([] if estimates else ["no estimates were passed to this report"])


def _coefficients_table(profile: ArchitectureProfile) -> Table:
    columns = ("coefficient", "value", "uncertainty", "source", "reference")
    rows = [
        [Cell(name), _coefficient(c), Cell(_uncertainty(c)), _source(c), Cell(c.reference)]
        for name, c in sorted(profile.coefficients.items())
    ]
    return Table(columns, rows, frozenset({1, 2}))


def _source(c: Coefficient) -> Cell:
    return Cell(c.source, tone=f"source-{c.source.replace(' ', '-')}")


def _coefficient(c: Coefficient) -> Cell:
    return Cell(size(c.value) if c.unit == "B" else si(c.value, c.unit), c.value)


def _uncertainty(c: Coefficient) -> str:
    if c.low is not None and c.high is not None:
        show = size if c.unit == "B" else lambda value: si(value, c.unit)
        return f"{show(c.low)} to {show(c.high)}"
    if c.stderr is None:
        return "not given"
    return f"± {percent(c.stderr / abs(c.value))}" if c.value else f"± {si(c.stderr, c.unit)}"


def _excluded_table(report: ErrorReport) -> Table:
    rows = [[Cell(row.case.label), Cell(row.status), Cell(row.reason)] for row in report.excluded]
    return Table(("case", "status", "reason"), rows, frozenset())
