"""`shmoo compare`: what changed between two runs beyond noise."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from shmoo.harness.cli import options, output

if TYPE_CHECKING:
    from shmoo.runs.compare import Comparison

CHANGED = 1
SHOWN = 20
EXAMPLES = """\b
Examples:
  shmoo compare shmoo-runs/monday shmoo-runs/tuesday
  shmoo compare A B --min-change 0.05 --json
"""


@click.command(epilog=EXAMPLES, short_help="What changed between two runs beyond noise.")
@click.argument("a", type=click.Path())
@click.argument("b", type=click.Path())
@click.option(
    "--min-change",
    type=click.FloatRange(min=0),
    default=0.03,
    show_default=True,
    help="Ratios nearer to 1 than this are no change, however certain.",
)
@options.as_json
def compare(a: str, b: str, min_change: float, as_json: bool) -> None:
    """Set run B beside run A, case by case: differences of machine and settings first, then what changed beyond noise and how far
    the two lie apart. Exits with 1 when something changed."""
    from shmoo.runs.compare import compare_runs
    from shmoo.runs.store import Run

    runs = Run.open(a), Run.open(b)
    for run in runs:
        for problem in run.problems:
            output.message(problem)
    found = compare_runs(*runs, min_change=min_change)
    if as_json:
        import msgspec

        document = {"format": 1, "a": a, "b": b, "changed": found.changed, **msgspec.to_builtins(found)}
        output.json_document(document | _unknown(found))
    else:
        _show(found, min_change)
    if found.changed:
        raise click.exceptions.Exit(CHANGED)


def _unknown(found: Comparison) -> dict[str, object]:
    """Why what the comparison does not know is not known."""
    from shmoo.runs.compare import FEW_CASES

    few = f"fewer than {FEW_CASES} cases in both runs"
    why = {"shift": few, "noise": f"{few}, and no repeated pass"}
    return {f"{name}_reason": reason for name, reason in why.items() if getattr(found, name) is None}


def _show(found: Comparison, min_change: float) -> None:
    from shmoo.estimators.present import percent, si

    if found.differences:
        lines = [[d.field, _text(d.a), _text(d.b), d.severity] for d in found.differences]
        output.table(["differs in", "A", "B", ""], lines, title="Conditions", left=4)
        if any(d.severity == "machine" for d in found.differences):
            output.message("the runs are of different machines or settings: their rows may not be calibrated together")
    changed = [case for case in found.cases if case.changed]
    if changed:
        lines = [
            [
                f"{c.case.label} {c.case.cache_state}",
                si(c.a_s, "s"),
                si(c.b_s, "s"),
                f"{c.ratio.value:.3f}",
                f"{c.ratio.low:.3f} to {c.ratio.high:.3f}",
            ]
            for c in changed[:SHOWN]
        ]
        output.table(["changed", "A", "B", "B/A", "90 %"], lines, title=f"Changed beyond noise: {len(changed)} cases", left=1)
        if len(changed) > SHOWN:
            output.message(f"and {len(changed) - SHOWN} more; --json lists every case")
    lines = [
        [
            name,
            str(found.counts[name]),
            percent(spread),
            percent(found.energy_spreads.get(name)) if name in found.energy_spreads else "",
        ]
        for name, spread in found.spreads.items()
    ]
    output.table(["spread: median of |a-b|/min(a,b)", "cases", "time", "energy"], lines, title="Spread of the two runs", left=1)
    if found.shift is not None:
        word = "all cases together moved" if found.shifted else "no common shift"
        output.result(f"common ratio B/A {found.shift.value:.3f} ({found.shift.low:.3f} to {found.shift.high:.3f}): {word}")
    if found.noise is not None:
        source = {
            "passes": "from repeated passes",
            "cases": "from the spread of all ratios; passes would tell noise from change: measure with --passes 2",
        }[found.noise_from]
        output.result(f"noise of one window: {percent(found.noise)} ({source})")
    else:
        output.result("noise between windows is not known: too few cases and no repeated pass; measure with --passes 2")
    if found.unpaired:
        output.message(f"{len(found.unpaired)} cases have no usable partner, the first: {_unpaired(found)}")
    if not found.changed:
        output.message(f"{len(found.cases)} cases compared, nothing changed by more than {percent(min_change)} beyond noise")


def _unpaired(found: Comparison) -> str:
    first = found.unpaired[0]
    return f"{first.case.label} in {first.missing_in.upper()} ({first.reason})"


def _text(value: object) -> str:
    return "unknown" if value is None else str(value)
