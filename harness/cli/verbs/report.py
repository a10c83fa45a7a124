"""`shmoo report`: estimates compared with the measurements of a run. Needs no torch, since graphs are stored with the run."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from operator import attrgetter, itemgetter
from pathlib import Path

import click
import msgspec

from shmoo.estimators.machine.profile import ArchitectureProfile, load_profile
from shmoo.estimators.predict.estimate_records import Record, flatten
from shmoo.estimators.shown_columns import Column
from shmoo.estimators.units import counted, span
from shmoo.harness.cli import options, output
from shmoo.harness.cli.estimates import show_models
from shmoo.harness.cli.layout import View
from shmoo.harness.defaults import LOCAL, ONE_OF_EACH_FAMILY
from shmoo.harness.machine.architectures import load_architecture, load_architectures, own_profiles
from shmoo.runs.analysis.error_records import ErrorReport
from shmoo.runs.analysis.errors import energy_errors, error_report
from shmoo.runs.analysis.predict import network_estimates, network_fusions
from shmoo.runs.store.files import blocks_of, csv_of_blocks, own_folder, replace_file
from shmoo.runs.store.store import Run

TARGETS = ONE_OF_EACH_FAMILY[1:]
"""Architectures for estimates of a run's networks, beside the measured machine: one of each other family."""
NETWORKS = (
    Column("network", attrgetter("name")),
    Column("measured", attrgetter("whole.measured_s"), "s"),
    Column("±", attrgetter("whole.standard_error"), "%"),
    Column("estimated", attrgetter("whole.estimate_s.value"), "s"),
    Column("90 % interval", lambda n: span(n.whole.estimate_s.low, n.whole.estimate_s.high, "s", "-")),
    Column("error", attrgetter("whole.error"), "+%"),
    Column("energy", attrgetter("whole.energy_measured_j"), "J", ""),
    Column("energy error", attrgetter("whole.energy_error"), "+%", ""),
    Column("operators", attrgetter("weighted_error"), "%", ""),
)
GROUPS = (
    Column("split: group", itemgetter(0)),
    Column("n", lambda item: item[1].n),
    Column("mean error", lambda item: item[1].mean, "%"),
    Column("median", lambda item: item[1].median, "%"),
    Column("p90", lambda item: item[1].p90, "%"),
    Column("within 20 %", lambda item: item[1].within_20, "0%"),
    Column("bias", lambda item: item[1].bias, "+%"),
    Column("noise floor", lambda item: item[1].noise, "%", ""),
    Column("energy error", itemgetter(2), "%", ""),
)
EXAMPLES = """\b
Examples:
  shmoo report shmoo-runs/20260101T120000Z-micro --profile cpu_local
  shmoo report RUN -o error-report
"""


@click.command(epilog=EXAMPLES)
@click.argument("run", type=click.Path())
@options.profile("the newest beside the run's rows, else cpu_local")
@options.archs(f"{', '.join(TARGETS)}, beside the machine that was measured")
@options.out("RUN/report")
@options.as_json
@options.wide
def report(run: str, profile: str | None, arch: tuple[str, ...], out: Path | None, as_json: bool, wide: bool) -> None:
    """Error of every estimate against the measurement: errors.csv, one self-contained report.html and a table here."""
    opened = output.open_run(run)
    chosen = choose_profile(opened, profile)
    target = out if out is not None else own_folder(Path(run) / "report")
    error_report, estimates = judged(opened, chosen, arch or TARGETS)
    write(opened, error_report, estimates, target)
    output.message(f"wrote {target / 'errors.csv'} and {target / 'report.html'}")
    if as_json:
        output.json_document({**report_record(error_report), "estimates": estimates})
    else:
        show_report(error_report, estimates, View(wide=wide))


def choose_profile(run: Run, name: str | None) -> ArchitectureProfile:
    """The named profile, otherwise the newest in the run's directory, otherwise cpu_local as in `profiles list`."""
    if name is not None:
        return load_architecture(name)
    if (newest := newest_profile(run.path)) is not None:
        output.message(f"judging {newest}")
        return load_profile(newest)
    if LOCAL not in own_profiles():
        output.message(f"{LOCAL} is not calibrated: its rates are wide guesses; `shmoo calibrate {run.path}` fits them")
    return load_architecture(LOCAL)


def newest_profile(run: Path) -> Path | None:
    """The profile that was last written beside a run's rows: profile.json, profile-2.json, ..., profile-10.json."""
    numbers = {path: re.fullmatch(r"profile(?:-([1-9]\d*))?\.json", path.name) for path in run.glob("profile*.json")}
    beside = {path: int(match[1] or 1) for path, match in numbers.items() if match is not None}
    return max(beside, key=beside.__getitem__) if beside else None


def judged(run: Run, profile: ArchitectureProfile, archs: Sequence[str]) -> tuple[ErrorReport, list[Record]]:
    """The report of a run, and its networks on other architectures."""
    profiles = load_architectures((profile, *archs))
    return error_report(run, profile), network_estimates(run, profiles)


def write(run: Run, report: ErrorReport, estimates: list[Record], out: Path) -> None:
    """Write the files of a report and of estimates into `out`."""
    from shmoo.runs.report import write_report

    output.writing(out / "report.html")
    write_report(report, estimates, out, network_fusions(run, report.profile))
    replace_file(out / "estimates.json", json.dumps(estimates, indent=1, allow_nan=False).encode() + b"\n")
    if estimates:
        replace_file(out / "estimates.csv", csv_of_blocks(list(blocks_of(map(flatten, estimates)))))
    else:
        # A file from an earlier report would have other estimates.
        (out / "estimates.csv").unlink(missing_ok=True)


def report_record(report: ErrorReport) -> dict[str, object]:
    """Figures of merit as plain types."""
    networks = [
        {
            "network": n.name,
            "measured_s": n.whole.measured_s,
            "estimated_s": msgspec.structs.asdict(n.whole.estimate_s),
            **{name: getattr(n.whole, name) for name in ("error", "standard_error", "inside")},
            **{name: value for name in ("energy_measured_j", "energy_error") if (value := getattr(n.whole, name)) is not None},
            "weighted_operator_error": n.weighted_error,
            "spread": n.whole.spread,
            "children_s": n.children_s,
            "operators_s": n.operators_s,
        }
        for n in report.networks
    ]
    return {
        "format": 1,
        "profile": report.profile.name,
        "metrics": msgspec.to_builtins(report.metrics),
        "mean_energy_errors": energy_errors(report.cases),
        "networks": networks,
        "excluded": len(report.excluded),
        "median_ratio": report.median_ratio,
        "shifted": report.shifted,
    }


def _basis(report: ErrorReport) -> str:
    """The data that a report's profile was fitted to, in words."""
    fitted = report.profile.fitted_from
    if fitted is None:
        return "nothing was fitted"
    if not fitted.fingerprint:
        return "fitted to operator tables"
    # The kernel's own reserve moves total memory between boots.
    same_machine = all(
        value == getattr(report.manifest.machine, name, None)
        for name, value in fitted.fingerprint.items()
        if name != "memory_bytes"
    )
    return "calibrated on operators and synthetic models only" if same_machine else "fitted to another machine or other settings"


def show_report(report: ErrorReport, estimates: Sequence[Record] = (), view: View = output.EVERYTHING) -> None:
    """Networks, then groups of operators, then the networks on other architectures, for people."""
    from shmoo.runs.report import shift_text

    energy = energy_errors(report.cases)
    if report.networks:
        title = f"Networks, estimated by {report.profile.name} ({_basis(report)})"
        dropped = ("operators", "±", "90 % interval")
        output.table(_with_energy(NETWORKS, energy), report.networks, title, drop=dropped, view=view)
        output.result("")
    rows = [
        (f"{split}: {group}", card, energy.get(split, {}).get(group))
        for split, groups in report.metrics.items()
        for group, card in groups.items()
    ]
    if rows:
        output.table(_with_energy(GROUPS, energy), rows, drop=("p90", "within 20 %", "noise floor", "bias"), view=view)
    if report.shifted:
        output.message(shift_text(report))
    if report.excluded:
        output.message(f"left out: {counted(len(report.excluded), 'case')}; errors.csv has the reasons")
    if estimates:
        if report.networks or rows:
            output.result("")
        show_models(estimates, view)


def _with_energy(columns: Sequence[Column], energy: object) -> list[Column]:
    """The columns, those of energies only in a report that has any."""
    return [column for column in columns if energy or not column.name.startswith("energy")]
