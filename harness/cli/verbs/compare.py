"""`shmoo compare`: changes between runs beyond noise, and whether they fail a build."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import click
import msgspec

from shmoo.estimators.errors import unknown
from shmoo.estimators.graph.records import NORMAL_90
from shmoo.estimators.shown_columns import Column
from shmoo.estimators.units import counted, percent
from shmoo.harness.campaign.duel import is_duel
from shmoo.harness.cli import options, output
from shmoo.runs.analysis.compare import Comparison, Unpaired, compare_runs
from shmoo.runs.analysis.compare_text import growth_text, junit, markdown
from shmoo.runs.analysis.compare_verdict import MIN_CHANGE, QUESTIONS, Verdict
from shmoo.runs.store.records import CaseSpec
from shmoo.runs.store.statistics import FEW_CASES
from shmoo.runs.store.store import Run

CHANGED, TOO_NOISY = 1, 4
CHANGED_CASES = (
    Column("changed", lambda c: f"{c.case.label} {c.case.cache_state}"),
    Column("A", lambda c: c.compared_s[0], "s"),
    Column("B", lambda c: c.compared_s[1], "s"),
    Column("B/A", lambda c: f"{c.ratio.value:.3f}"),
    Column("90 %", lambda c: f"{c.ratio.low:.3f} to {c.ratio.high:.3f}"),
    Column("by time", lambda c: "alone" if c.alone else "prevailing"),
)
SHOWN = 20
EXAMPLES = """\b
Examples:
  shmoo compare shmoo-runs/monday shmoo-runs/tuesday
  shmoo compare monday tuesday wednesday --fail-on slower,hungrier --threshold 5%
  shmoo compare base new --markdown comment.md --junit shmoo.xml
"""


class Gating(NamedTuple):
    """The criteria of `compare` and `duel`, and the files for the outcome."""

    questions: tuple[str, ...]
    threshold: float
    markdown: str | None
    junit: str | None


def _gating(fail_on: tuple[str, ...], threshold: float | None, markdown: str | None, junit: str | None) -> Gating:
    """The criteria from options. Unknown changes and files that cannot be written are refused before anything is measured or
    read."""
    for question in fail_on:
        if question not in QUESTIONS:
            raise unknown("change to fail on", question, QUESTIONS)
    for path in filter(None, (markdown, junit)):
        output.writing(path)
    return Gating(fail_on or ("slower",), MIN_CHANGE if threshold is None else threshold, markdown, junit)


gating = options.together(
    "gate",
    _gating,
    options.names(
        "--fail-on", metavar="CHANGE,...", help="Exit with 1 for slower, faster, hungrier or thriftier. Default: slower."
    ),
    options.threshold("3%"),
    click.option("--markdown", type=click.Path(), help="Also write a Markdown table to this file, for a pull request."),
    click.option("--junit", type=click.Path(), help="Also write JUnit XML to this file, for the reports of a CI system."),
)
"""--fail-on, --threshold, --markdown and --junit, passed together as `gate`."""


@click.command(epilog=EXAMPLES)
@click.argument("runs", metavar="BASE... NEW", nargs=-1, required=True, type=click.Path())
@options.old_spelling("--min-change", "--threshold", options.FiniteRange(min=0))
@gating
@options.as_json
def compare(runs: tuple[str, ...], gate: Gating, as_json: bool) -> None:
    """Compare the run NEW with one or several BASE runs, case by case: differences of machine and settings first, then changes
    beyond noise and the spread between the two sides.

    Exits with 1 if NEW changed as named by --fail-on, in a single case or in the geometric mean over all; with 4 if that is too
    noisy to decide. Suspect rows are not used. Several base runs also show the spread between equal runs.
    """
    if len(runs) < 2:
        raise click.UsageError(f"got only the run {runs[0]}; name one or several base runs, and then the new run")
    cases: dict[str, CaseSpec] = {}
    judge([Run.open(path, cases) for path in runs], gate, as_json)


def judge(runs: Sequence[Run], gate: Gating, as_json: bool) -> None:
    """Compare the last run with those before it, show the outcome, and exit with its code. The two runs of a duel are compared
    pair by pair."""
    for problem in [problem for run in runs for problem in run.problems]:
        output.message(problem)
    limit = gate.threshold
    comparison = compare_runs(runs[:-1], runs[-1], min_change=limit, paired=is_duel(runs))
    verdicts = [comparison.answer(question, limit) for question in gate.questions]
    paths = [str(run.path) for run in runs]
    # The texts of a large comparison take as much memory as its runs, so release the runs first.
    del runs
    if gate.markdown or gate.junit:
        if gate.markdown:
            output.write(gate.markdown, markdown(comparison, verdicts, limit).encode("utf-8", "backslashreplace"))
        if gate.junit:
            output.write(gate.junit, junit(comparison, verdicts, limit))
    if as_json:
        document = {"format": 1, "a": paths[0], "bases": paths[:-1], "b": paths[-1], "changed": comparison.changed}
        document |= {"threshold": limit, "verdicts": verdicts, **msgspec.structs.asdict(comparison)}
        # As plain types the cases of large runs take several times their memory.
        asdict, no_energy = msgspec.structs.asdict, {"energy_reason": "a run has no energy of this case"}
        document["cases"] = (asdict(case) | ({} if case.energy else no_energy) for case in comparison.cases)
        output.json_document(document | _unknown(comparison))
    else:
        _show(comparison, limit)
        _show_verdicts(verdicts, comparison.noise_from == "pairs")
    answers = {verdict.answer for verdict in verdicts}
    if "yes" in answers:
        raise click.exceptions.Exit(CHANGED)
    if "too noisy" in answers:
        raise click.exceptions.Exit(TOO_NOISY)


def _show_verdicts(verdicts: Sequence[Verdict], paired: bool) -> None:
    for verdict in verdicts:
        output.result(f"{verdict.question}? {verdict.answer}; geometric mean {growth_text(verdict.growth)}: {verdict.suite}")
        for labels, answer in ((verdict.yes, "so"), (verdict.noisy, "too noisy to decide")):
            if labels:
                remainder = f"; and {len(labels) - SHOWN} more" if len(labels) > SHOWN else ""
                output.result(f"  {counted(len(labels), 'case')} {answer}: {'; '.join(labels[:SHOWN])}{remainder}")
        if verdict.answer == "too noisy":
            alternatives = "" if paired else ", give several base runs, or measure both sides at once with `shmoo duel`"
            output.message(f"too noisy to decide: measure with more --visits{alternatives}")


def _unknown(comparison: Comparison) -> dict[str, object]:
    """The reasons for the unknown values of a comparison."""
    too_few = f"fewer than {FEW_CASES} cases in both runs"
    why = {"shift": too_few, "noise": f"fewer than {FEW_CASES} cases that were visited twice"}
    return {f"{name}_reason": reason for name, reason in why.items() if getattr(comparison, name) is None}


def _show(comparison: Comparison, min_change: float) -> None:
    if comparison.differences:
        lines = [
            [d.field, *("unknown" if side is None else str(side) for side in (d.a, d.b)), d.severity]
            for d in comparison.differences
        ]
        output.table(["differs in", "A", "B", ""], lines, title="Conditions", left=4)
        if any(d.severity == "machine" for d in comparison.differences):
            output.message("the runs are from different machines or settings: their rows cannot be calibrated together")
    changed = [case for case in comparison.cases if case.changed]
    if changed:
        output.table(CHANGED_CASES, changed[:SHOWN], title=f"Changed beyond noise: {counted(len(changed), 'case')}", left=1)
        if len(changed) > SHOWN:
            output.message(f"and {len(changed) - SHOWN} more; --json lists every case")
    columns = [
        Column("spread: median of |a-b|/min(a,b)", str),
        Column("cases", comparison.counts.get, "#"),
        Column("time", comparison.spreads.get, "%"),
        Column(f"within {NORMAL_90} standard errors", comparison.within_errors.get, "0%"),
        Column("energy", comparison.energy_spreads.get, "%", ""),
    ]
    output.table(columns, comparison.spreads, title="Spread of the two runs", left=1)
    if comparison.spreads:
        output.result(f"true standard errors leave 90% of the cases within {NORMAL_90} of them")
    if comparison.shift is not None:
        shift, word = comparison.shift, "all cases together moved" if comparison.shifted else "no common shift"
        output.result(f"common ratio B/A {shift.value:.3f} ({shift.low:.3f} to {shift.high:.3f}): {word}")
    output.result(_noise(comparison))
    alone = sum(case.alone for case in comparison.cases)
    if alone:
        output.result(f"compared by the time alone, while nothing else ran: {alone} of {counted(len(comparison.cases), 'case')}")
    unequal = [case.case.label for case in comparison.cases if case.unequal]
    if unequal:
        more = f"; and {len(unequal) - SHOWN} more" if len(unequal) > SHOWN else ""
        output.result(
            f"a neighbor ran beside one side only, too noisy: {counted(len(unequal), 'case')}: {'; '.join(unequal[:SHOWN])}{more}"
        )
    for name, counts in comparison.statuses.items():
        output.result(f"rows of {name.upper()}: " + ", ".join(f"{count} {status}" for status, count in counts.items()))
    _show_unpaired([item for item in comparison.unpaired if item.status == "suspect"], "suspect rows were not used")
    _show_unpaired([item for item in comparison.unpaired if item.status != "suspect"], "cases have no usable partner")
    if not comparison.changed:
        output.message(
            f"{counted(len(comparison.cases), 'case')} compared, nothing changed by more than {percent(min_change)} beyond noise"
        )


def _noise(comparison: Comparison) -> str:
    beside = {"runs": "with the spread between base runs", "pairs": "of which the differences of pairs contain little"}
    if comparison.noise_from in beside:
        visit_noise = "unknown for one visit" if comparison.noise is None else f"{percent(comparison.noise)} a visit"
        return f"noise: {visit_noise}, {beside[comparison.noise_from]}"
    if comparison.noise_from == "visits":
        visit_noise = "of these few cases alone" if comparison.noise is None else f"{percent(comparison.noise)} a visit"
        return f"noise: {visit_noise} (from repeated visits)"
    remedy = "repeated visits would separate noise from change: measure with --visits 3"
    if comparison.noise is None:
        return f"noise between visits is unknown: too few cases and no repeated visit; {remedy}"
    return f"noise: {percent(comparison.noise)} a visit (from the spread of all ratios; {remedy})"


def _show_unpaired(items: Sequence[Unpaired], label: str) -> None:
    if items:
        labels = "; ".join(f"{item.case.label} in {item.missing_in.upper()} ({item.reason})" for item in items[:SHOWN])
        remainder = f"; and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
        output.message(f"{len(items)} {label}: {labels}{remainder}")
