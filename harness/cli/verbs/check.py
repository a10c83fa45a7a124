"""`shmoo check`: the problems of a run."""

from __future__ import annotations

import click
import msgspec

from shmoo.estimators.units import counted
from shmoo.harness.cli import options, output
from shmoo.runs.analysis.check import check_run
from shmoo.runs.store.store import Run

FOUND_FAULTS = 1
EXAMPLES = """\b
Examples:
  shmoo check shmoo-runs/20260101T120000Z-quick
  shmoo check RUN --json
"""


@click.command(epilog=EXAMPLES)
@click.argument("run", type=click.Path())
@options.as_json
def check(run: str, as_json: bool) -> None:
    """Show the problems of a run with numbers, and the next command to run. Exits with 1 for a fault; notes alone are fine."""
    opened = Run.open(run)
    findings = check_run(opened)
    faults = sum(finding.level == "fault" for finding in findings)
    if as_json:
        output.json_document(
            {"format": 1, "run": run, "rows": len(opened.rows), "faults": faults, "findings": msgspec.to_builtins(findings)}
        )
    else:
        for finding in findings:
            output.result(f"{finding.level}: {finding.topic}: {finding.found}")
            if finding.remedy:
                output.result(f"      next: {finding.remedy}")
        contents = f"{counted(len(opened.rows), 'row')} from {counted(len(opened.lines), 'visit')}"
        output.message(f"{contents}, {counted(faults, 'fault')}, {counted(len(findings) - faults, 'note')}")
    if faults:
        raise click.exceptions.Exit(FOUND_FAULTS)
