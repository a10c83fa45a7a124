"""`shmoo history`: cases over many runs, and the first run that differs."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from shmoo.harness.cli import options, output
from shmoo.runs.analysis.compare_verdict import MIN_CHANGE
from shmoo.runs.analysis.history import FEWEST
from shmoo.runs.analysis.history import history as follow
from shmoo.runs.store.records import CaseSpec

PAGE = Path("history.html")
SHOWN = 30
EXAMPLES = """\b
Examples:
  shmoo history shmoo-runs/*
  shmoo history nightly/* --threshold 5% -o history.html
  shmoo history nightly/* --json
"""


@click.command(epilog=EXAMPLES)
@click.argument("runs", nargs=-1, required=True, type=click.Path())
@options.threshold("3%")
@options.out(str(PAGE))
@options.as_json
def history(runs: tuple[str, ...], threshold: float | None, out: Path | None, as_json: bool) -> None:
    """Follow each case over RUNS, in the order of measurement, and find the runs from which on it differs.

    Writes one self-contained page. With three or more runs, the differences between neighbouring runs give the noise. With --json
    the page is written only if --out names it.
    """
    limit = MIN_CHANGE if threshold is None else threshold
    cases: dict[str, CaseSpec] = {}
    opened = [output.open_run(path, cases) for path in runs]
    followed = follow(opened, limit)
    if out is not None or not as_json:
        from shmoo.runs.plots.history import change_row, render_history
        from shmoo.runs.plots.page import write

        target = output.writing(out or PAGE)
        write(render_history(followed, limit), target)
        output.message(f"wrote {target}")
    for point in followed.runs:
        if point.differs:
            output.message(f"{point.path} is from another machine or setting than the first run: {', '.join(point.differs)}")
    if len(opened) < FEWEST:
        output.message("two runs cannot separate noise from a change; use `shmoo compare`")
    first = None if followed.first_different is None else followed.runs[followed.first_different]
    if as_json:
        head = {"format": 1, "threshold": limit, "first_different": None if first is None else first.path}
        output.json_document({**head, **msgspec.structs.asdict(followed)})
        return
    changes = [change_row(followed, series, change) for series in followed.every for change in series.changes]
    if changes:
        headings = ("case", "first run that differs", "ratio", "90 %", "standard errors")
        output.table(headings, [[*row.values()] for row in changes[:SHOWN]], left=2)
    if len(changes) > SHOWN:
        output.message(f"and {len(changes) - SHOWN} more; --json lists every one")
    output.result(followed.headline)
