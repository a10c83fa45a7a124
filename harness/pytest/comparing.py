"""The comparison at the end of a pytest session: each question is an additional test, which passes or fails with its reasons."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from shmoo.estimators.errors import NothingMeasuredError, ShmooError, unknown
from shmoo.estimators.units import counted, percent, share_of
from shmoo.runs.analysis.compare import compare_runs
from shmoo.runs.analysis.compare_text import growth_text, suspects
from shmoo.runs.analysis.compare_verdict import MIN_CHANGE, QUESTIONS, Verdict
from shmoo.runs.store.store import Run

SHOWN = 20


class Referee:
    """Compares the session's run with others; `pytest.UsageError` for an unreadable base run or an unknown change.

    Args:
        bases: directories of the runs to compare with.
        questions: such as "slower:5%,hungrier"; by default slower by 3 %.
        suspect: treatment of suspect rows: "say", "fail", or "again": they are measured again, and fail if still suspect.
    """

    def __init__(self, bases: Sequence[str], questions: Sequence[str], suspect: str) -> None:
        self._suspect = suspect
        parts = [part.strip() for text in questions for part in text.split(",") if part.strip()]
        try:
            self._bases = [Run.open(path) for path in bases]
            self._asked = dict(map(_question, parts or ["slower"]))
        except ShmooError as error:
            raise pytest.UsageError(str(error)) from None

    def reports(self, path: Path | None) -> Iterator[pytest.TestReport]:
        """A report for each question about the session's run, and one for suspect rows if they fail. `path` is `None` if no
        benchmark ran."""
        if path is None or not (path / "run.json").exists():
            yield _report("any benchmark", "no benchmark ran, so there is nothing to compare")
            return
        new = Run.open(path)
        for question, threshold in self._asked.items():
            try:
                comparison = compare_runs(self._bases, new, min_change=threshold)
                verdict = comparison.answer(question, threshold)
            except NothingMeasuredError as error:
                yield _report(question, str(error))
                continue
            left_out = suspects(comparison)
            labels = "; ".join(f"{item.case.label} ({item.reason})" for item in left_out[:SHOWN])
            note = f"{len(left_out)} suspect rows were not used: {labels}" if left_out else ""
            yield _report(question, _reason(verdict, threshold), note)
        suspect_rows = [row for row in new.rows if row.status == "suspect"]
        if self._suspect != "say" and suspect_rows:
            yield _report("suspect rows", "; ".join(f"{row.case.label} ({row.why})" for row in suspect_rows[:SHOWN]))


def _question(text: str) -> tuple[str, float]:
    name, colon, share = text.partition(":")
    if name not in QUESTIONS:
        raise unknown("change to fail on", name, QUESTIONS)
    return name, share_of(share) if colon else MIN_CHANGE


def _reason(verdict: Verdict, threshold: float) -> str:
    """Why the question fails, or "" if it passes."""
    if verdict.answer == "no":
        return ""
    lines = [
        f"{verdict.question} by more than {percent(threshold)}? {verdict.answer}",
        f"geometric mean of {counted(verdict.looked_at, 'case')} {growth_text(verdict.growth)}: {verdict.suite}",
    ]
    lines += [f"{label}: yes" for label in verdict.yes[:SHOWN]]
    lines += [f"{label}: too noisy to decide" for label in verdict.noisy[:SHOWN]]
    if verdict.answer == "too noisy":
        lines.append("visit the targets of tests more often (--shmoo-visits 5, in both runs), or compare with several base runs")
    return "\n".join(lines)


def _report(question: str, failure: str, note: str = "") -> pytest.TestReport:
    name = f"shmoo compare::{question}"
    return pytest.TestReport(
        nodeid=name,
        location=("shmoo compare", None, question),
        keywords={},
        outcome="failed" if failure else "passed",
        longrepr=failure or None,
        when="call",
        sections=[("shmoo", note)] if note else [],
    )
