"""`shmoo compare`: what changed between two runs beyond noise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from shmoo.harness.cli import options, output

if TYPE_CHECKING:
    from shmoo.runs.analysis.compare import Comparison, Unpaired

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
    type=options.FiniteRange(min=0),
    default=0.03,
    show_default=True,
    help="Ratios nearer to 1 than this are no change, however certain.",
)
@options.as_json
def compare(a: str, b: str, min_change: float, as_json: bool) -> None:
    """Set run B beside run A, case by case: differences of machine and settings first, then what changed beyond noise and how far
    the two lie apart. Exits with 1 when something changed."""
    from shmoo.runs.analysis.compare import compare_runs
    from shmoo.runs.store.store import Run

    runs = Run.open(a), Run.open(b)
    for run in runs:
        for problem in run.problems:
            output.message(problem)
    comparison = compare_runs(*runs, min_change=min_change)
    if as_json:
        import msgspec

        document = {"format": 1, "a": a, "b": b, "changed": comparison.changed, **msgspec.to_builtins(comparison)}
        output.json_document(document | _unknown(comparison))
    else:
        _show(comparison, min_change)
    if comparison.changed:
        raise click.exceptions.Exit(CHANGED)


def _unknown(comparison: Comparison) -> dict[str, object]:
    """Why what the comparison does not know is not known."""
    from shmoo.runs.store.statistics import FEW_CASES

    few = f"fewer than {FEW_CASES} cases in both runs"
    why = {"shift": few, "noise": f"fewer than {FEW_CASES} cases that were visited twice"}
    return {f"{name}_reason": reason for name, reason in why.items() if getattr(comparison, name) is None}


def _show(comparison: Comparison, min_change: float) -> None:
    from shmoo.estimators.units import percent, si

    if comparison.differences:
        lines = [[d.field, _text(d.a), _text(d.b), d.severity] for d in comparison.differences]
        output.table(["differs in", "A", "B", ""], lines, title="Conditions", left=4)
        if any(d.severity == "machine" for d in comparison.differences):
            output.message("the runs are of different machines or settings: their rows may not be calibrated together")
    changed = [case for case in comparison.cases if case.changed]
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
            str(comparison.counts[name]),
            percent(spread),
            percent(comparison.within_errors[name], digits=0),
            percent(comparison.energy_spreads[name]) if name in comparison.energy_spreads else "",
        ]
        for name, spread in comparison.spreads.items()
    ]
    headers = ["spread: median of |a-b|/min(a,b)", "cases", "time", "within 1.645 standard errors", "energy"]
    output.table(headers, lines, title="Spread of the two runs", left=1)
    if lines:
        output.result("true standard errors leave 90% of the cases within 1.645 of them")
    if comparison.shift is not None:
        shift, word = comparison.shift, "all cases together moved" if comparison.shifted else "no common shift"
        output.result(f"common ratio B/A {shift.value:.3f} ({shift.low:.3f} to {shift.high:.3f}): {word}")
    output.result(_noise(comparison))
    for name, counts in comparison.statuses.items():
        output.result(f"rows of {name.upper()}: " + ", ".join(f"{count} {status}" for status, count in counts.items()))
    _show_unpaired([item for item in comparison.unpaired if item.status == "suspect"], "suspect rows decide nothing")
    _show_unpaired([item for item in comparison.unpaired if item.status != "suspect"], "cases have no usable partner")
    if not comparison.changed:
        output.message(f"{len(comparison.cases)} cases compared, nothing changed by more than {percent(min_change)} beyond noise")


def _noise(comparison: Comparison) -> str:
    from shmoo.estimators.units import percent

    if comparison.noise_from == "visits":
        known = "of these few cases alone" if comparison.noise is None else f"{percent(comparison.noise)} a visit"
        return f"noise: {known} (from repeated visits)"
    remedy = "visits would tell noise from change: measure with --visits 3"
    if comparison.noise is None:
        return f"noise between visits is not known: too few cases and no repeated visit; {remedy}"
    return f"noise: {percent(comparison.noise)} a visit (from the spread of all ratios; {remedy})"


def _show_unpaired(items: Sequence[Unpaired], what: str) -> None:
    if items:
        listed = "; ".join(f"{item.case.label} in {item.missing_in.upper()} ({item.reason})" for item in items[:SHOWN])
        more = f"; and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
        output.message(f"{len(items)} {what}: {listed}{more}")


def _text(value: object) -> str:
    return "unknown" if value is None else str(value)
