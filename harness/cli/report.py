"""`shmoo report`: estimates beside the measurements of a run. Needs no torch: the graphs are stored with the run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from shmoo.estimators.errors import FormatError, InputError
from shmoo.harness.cli import options, output

if TYPE_CHECKING:
    from shmoo.estimators.profile import ArchitectureProfile
    from shmoo.runs.error_records import ErrorReport
    from shmoo.runs.store import Run

EXAMPLES = """\b
Examples:
  shmoo report shmoo-runs/20260101T120000Z-micro --profile cpu_local
  shmoo report RUN -o error-report
"""


@click.command(epilog=EXAMPLES)
@click.argument("run", type=click.Path())
@click.option("--profile", help="Profile to judge. Default: the one beside the run's rows, else cpu_local.")
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Directory of the report. Default: RUN/report.")
@options.as_json
def report(run: str, profile: str | None, out: Path | None, as_json: bool) -> None:
    """Error of every estimate against the measurement: errors.csv, one self-contained report.html and a table here."""
    from shmoo.runs.store import Run

    opened = Run.open(run)
    for problem in opened.problems:
        output.message(problem)
    chosen = choose_profile(opened, profile)
    target = out if out is not None else Path(run) / "report"
    made = write(opened, chosen, target)
    output.message(f"wrote {target / 'errors.csv'} and {target / 'report.html'}")
    if as_json:
        output.json_document(report_record(made))
    else:
        show_report(made)


def choose_profile(run: Run, name: str | None) -> ArchitectureProfile:
    """The profile asked for, else the one the run's directory holds, else the user's cpu_local."""
    from shmoo.estimators.profile import load_profile
    from shmoo.harness.architectures import load_architecture
    from shmoo.harness.paths import profile_search

    if name is not None:
        return load_architecture(name)
    beside = sorted(run.path.glob("profile*.json"))
    if beside:
        return load_profile(beside[-1])
    try:
        return load_profile("cpu_local", profile_search())
    except FormatError:
        raise
    except InputError:
        raise InputError(
            f"no profile to judge: {run.path} holds none and there is no cpu_local; name one with --profile"
        ) from None


def write(run: Run, profile: ArchitectureProfile, out: Path) -> ErrorReport:
    """Compute the report of a run and write its files into `out`."""
    from shmoo.runs.errors import error_report
    from shmoo.runs.report import write_report

    made = error_report(run, profile)
    output.writing(out / "report.html")
    write_report(made, (), out)
    return made


def report_record(made: ErrorReport) -> dict[str, object]:
    """Figures of merit as plain types."""
    import msgspec

    networks = [
        {
            "network": n.name,
            "measured_s": n.whole.measured_s,
            "estimated_s": {"value": n.whole.estimate_s.value, "low": n.whole.estimate_s.low, "high": n.whole.estimate_s.high},
            "error": n.whole.error,
            "weighted_operator_error": n.weighted_error,
            "spread": n.whole.spread,
        }
        for n in made.networks
    ]
    return {
        "format": 1,
        "profile": made.profile.name,
        "metrics": msgspec.to_builtins(made.metrics),
        "networks": networks,
        "excluded": len(made.excluded),
    }


def show_report(made: ErrorReport) -> None:
    """Networks, then groups of operators, for people."""
    from shmoo.estimators.present import percent, si

    output.table(
        ["network", "measured", "estimated", "90 % interval", "error", "operators", "spread"],
        [
            [
                n.name,
                si(n.whole.measured_s, "s"),
                si(n.whole.estimate_s.value, "s"),
                f"{si(n.whole.estimate_s.low, 's')} - {si(n.whole.estimate_s.high, 's')}",
                percent(n.whole.error, signed=True),
                "" if n.weighted_error is None else percent(n.weighted_error),
                "" if n.whole.spread is None else percent(n.whole.spread),
            ]
            for n in made.networks
        ],
        title=f"Networks, estimated by {made.profile.name} (calibrated on operators and synthetic models only)",
    )
    output.result("")
    rows = []
    for split, groups in made.metrics.items():
        for group, e in groups.items():
            cells = [
                percent(e.mean),
                percent(e.median),
                percent(e.p90),
                percent(e.within_20, digits=0),
                percent(e.bias, signed=True),
            ]
            rows.append([f"{split}: {group}", str(e.n), *cells])
    output.table(["split: group", "n", "mean error", "median", "p90", "within 20 %", "bias"], rows)
    if made.excluded:
        output.message(f"{len(made.excluded)} rows were set aside; errors.csv says why")
