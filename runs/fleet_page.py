"""fleet.html: one self-contained page about all machines of a campaign."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from shmoo.estimators.graph.records import Coefficient
from shmoo.estimators.shown_columns import Cell, quantity
from shmoo.estimators.units import counted, percent, span
from shmoo.runs.analysis.fleet import Drift, Family, FleetReport, NetworkEnergy, Specimen, Speed
from shmoo.runs.plots.page import Table, page, render
from shmoo.runs.report import metrics_row

SPLITS = ("test", "validation")
TITLE = ("cpu", "gpu")
"""Facts in the title of a group of equal machines."""


def render_fleet(report: FleetReport, title: str) -> str:
    """The page of a campaign as text."""
    machines = sum(len(family.specimens) for family in report.families)
    missing_names = {specimen.name for specimen in report.missing}
    partial = sum(specimen.name in missing_names for family in report.families for specimen in family.specimens)
    missing_count, outliers, drifts = len(report.missing), len(report.outliers), len(report.drifts)
    families = [
        {
            "title": family.title,
            "facts": _facts(family),
            "speeds": [_speed_row(speed) for speed in family.speeds],
            "coefficients": _coefficients(family.specimens),
            "errors": _errors(family.specimens),
        }
        for family in report.families
    ]
    links = [("summary", "Summary"), *((f"family-{i}", family.title) for i, family in enumerate(report.families, 1))]
    return page(
        title,
        render(
            "fleet.html.j2",
            families=families,
            drifts=[row for drift in report.drifts for row in _drift_rows(drift)],
            energies=_energies(report.energies),
        ),
        eyebrow="Machines of one campaign",
        answer=(
            f"{machines - partial} of {counted(report.machines, 'machine')} measured, {partial} in part, "
            f"{missing_count - partial} not; "
            f"{counted(outliers, 'outlier')}, {drifts} changed since the last campaign."
        ),
        summary=render(
            "fleet_summary.html.j2",
            figures_that_matter=[
                (str(machines), "measured", f"machines of {counted(len(report.families), 'kind')}"),
                (str(missing_count), "missing, unfinished or changed", ""),
                (str(outliers), "outliers", "slower or faster than equal machines"),
                (str(drifts), "changed since the last campaign", ""),
            ],
            missing=[_missing_row(specimen) for specimen in report.missing],
            outliers=[_outlier_sentence(speed) for speed in report.outliers],
            families=families,
        ),
        links=[*links, *([("drift", "Drift")] if report.drifts else []), ("energy", "Energy")],
    )


def _missing_row(specimen: Specimen) -> dict[str, Cell]:
    visits = 0 if specimen.run is None else len(specimen.run.lines)
    return {
        "machine": Cell(specimen.name),
        "standing": Cell(specimen.standing, tone="fair" if visits else "poor"),
        "visits fetched": quantity(visits, "#"),
        "reason": Cell(specimen.reason),
    }


def _facts(family: Family) -> Table:
    """Machines as rows, with facts from their runs and firmware."""
    fact_names = dict.fromkeys(name for specimen in family.specimens for name, value in specimen.facts.items() if value)
    rows = []
    for specimen, run in zip(family.specimens, family.runs, strict=True):
        machine = run.manifest.machine
        row = {
            "machine": Cell(specimen.name),
            "cases": quantity(len(run.rows), "#"),
            "usable": Cell(percent(sum(r.timed for r in run.rows) / max(len(run.rows), 1), digits=0), numeric=True),
            "driver": Cell(machine.driver or "none"),
            "torch": Cell(machine.torch),
            "clock policy": Cell(machine.clock_policy or "not reported"),
        }
        rows.append(row | {name: Cell(str(specimen.facts.get(name) or "")) for name in fact_names if name not in (*row, *TITLE)})
    return rows


def _speed_row(speed: Speed) -> dict[str, Cell]:
    ratio = None if speed.ratio is None else speed.ratio - 1.0
    tone = "" if speed.z is None else "poor" if speed.outlier else "good"
    return {
        "machine": Cell(speed.name),
        "time relative to equal machines": quantity(ratio, "+%", tone=tone, unknown="not comparable"),
        "standard error": quantity(speed.standard_error, "%"),
        "z-score": Cell("too few machines" if speed.z is None else f"{speed.z:+.1f}", speed.z, numeric=True),
        "shared cases": quantity(speed.cases, "#"),
        "energy relative to equal machines": Cell(
            percent(None if speed.energy_ratio is None else speed.energy_ratio - 1.0, signed=True),
            speed.energy_ratio,
            numeric=True,
        ),
    }


def _outlier_sentence(speed: Speed) -> str:
    assert speed.ratio is not None
    word = "slower" if speed.ratio > 1 else "faster"
    evidence = f"z = {speed.z:+.1f}, {counted(speed.cases, 'case')}"
    return f"{speed.name} is {percent(abs(speed.ratio - 1))} {word} than equal machines ({evidence})"


def _coefficients(specimens: Sequence[Specimen]) -> Table:
    """Calibrated coefficients as rows, machines as columns."""
    profiles = {s.name: s.profile for s in specimens if s.profile is not None and s.profile.fitted_from is not None}
    names = sorted({name for profile in profiles.values() for name, c in profile.coefficients.items() if c.from_fit})
    return [
        {"coefficient": Cell(name)} | {machine: _coefficient(profile.get(name)) for machine, profile in profiles.items()}
        for name in names
    ]


def _coefficient(c: Coefficient | None) -> Cell:
    if c is None:
        return quantity(None, "", unknown="")
    low, high = c.bounds
    return quantity(c.value, c.unit, span(low, high, c.unit))


def _errors(specimens: Sequence[Specimen]) -> Table:
    return [
        {"machine": Cell(specimen.name), **metrics_row(split, group, card)}
        for specimen in specimens
        if specimen.profile is not None
        for split in SPLITS
        for group, card in specimen.profile.error_card.get(split, {}).items()
    ]


def _drift_rows(drift: Drift) -> Table:
    rows = [
        {"machine": Cell(drift.name), "what": Cell(field), "before": Cell(_text(before)), "now": Cell(_text(current))}
        for field, before, current in drift.changes
    ]
    if drift.ratio is not None and drift.shifted:
        interval = f"{drift.ratio.low:.3f} to {drift.ratio.high:.3f}"
        ratio_cell = Cell(f"{drift.ratio.value:.3f}", drift.ratio.value, "poor" if drift.ratio.value > 1 else "good", interval)
        rows.append({"machine": Cell(drift.name), "what": Cell("time of all cases"), "before": Cell("1"), "now": ratio_cell})
    return rows


def _energies(energies: Sequence[NetworkEnergy]) -> Table:
    machines: Mapping[str, None] = dict.fromkeys(name for network in energies for name in network.energy_j)
    return [
        {"network": Cell(network.case.label)} | {name: quantity(network.energy_j.get(name), "J", unknown="") for name in machines}
        for network in energies
    ]


def _text(value: object) -> str:
    return "not reported" if value is None else str(value)
