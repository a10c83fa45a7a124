"""A comparison as a Markdown table for a pull request, and as JUnit XML for the test reports of a CI system."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from xml.etree import ElementTree

from shmoo.estimators.units import percent
from shmoo.runs.analysis.compare import Comparison, Unpaired
from shmoo.runs.analysis.compare_noise import Growth
from shmoo.runs.analysis.compare_verdict import QUESTIONS, Answer, Verdict

MOST_ROWS = 30
"""Cases in a Markdown table; a comment of a pull request holds 65,536 characters."""
SUITE = "all cases together (geometric mean)"
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 cannot hold."""
_MARKUP = re.compile(r"([\\`*_{}\[\]()#+!|~])")


def growth_text(growth: Growth) -> str:
    """Such as "+4.2 % (+3.1 to +5.4)"."""
    ratio = growth.ratio
    low, high = (f"{100 * (end - 1):+.1f}" for end in (ratio.low, ratio.high))
    return f"{100 * (ratio.value - 1):+.1f} % ({low} to {high})"


def suspects(comparison: Comparison) -> tuple[Unpaired, ...]:
    """Suspect rows of either side; no verdict uses them."""
    return tuple(item for item in comparison.unpaired if item.status == "suspect")


def markdown(comparison: Comparison, verdicts: Sequence[Verdict], threshold: float) -> str:
    """The verdicts, a table of the cases with the answer "yes" or "too noisy", and the suspect rows."""
    lines = ["### Shmoo: " + "; ".join(f"{verdict.question}: **{verdict.answer}**" for verdict in verdicts), ""]
    lines += [f"| case | {' | '.join(verdict.question + '?' for verdict in verdicts)} |", "|---" * (len(verdicts) + 1) + "|"]
    lines.append(_row(SUITE, [f"{verdict.suite}: {growth_text(verdict.growth)}" for verdict in verdicts]))
    growths = {case.case.label: {"time": case.time, "energy": case.energy} for case in comparison.cases}
    labels = list(dict.fromkeys(label for verdict in verdicts for label in (*verdict.yes, *verdict.noisy)))
    answers = [_answers(verdict) for verdict in verdicts]
    for label in labels[:MOST_ROWS]:
        cells = []
        for verdict, of_cases in zip(verdicts, answers, strict=True):
            growth = growths[label][QUESTIONS[verdict.question][0]]
            cells.append("unknown" if growth is None else f"{of_cases.get(label, 'no')}: {growth_text(growth)}")
        lines.append(_row(label, cells))
    remainder = f"; {len(labels) - MOST_ROWS} more cases are not shown" if len(labels) > MOST_ROWS else ""
    looked_at = max(verdict.looked_at for verdict in verdicts)
    lines += ["", f"{looked_at} cases compared; changes of up to {percent(threshold)} do not count{remainder}."]
    left_out = suspects(comparison)
    if left_out:
        suspect_texts = "; ".join(_escaped(_unpaired(item)) for item in left_out)
        lines += ["", f"{len(left_out)} suspect rows were not used: {suspect_texts}."]
    return "\n".join(lines) + "\n"


def junit(comparison: Comparison, verdicts: Sequence[Verdict], threshold: float) -> bytes:
    """A test case for each question and case: "yes" is a failure, "too noisy" an error; suspect rows are skipped."""
    root = ElementTree.Element("testsuites", name="shmoo compare")
    for verdict in verdicts:
        quantity = QUESTIONS[verdict.question][0]
        growths = {case.case.label: growth for case in comparison.cases if (growth := getattr(case, quantity)) is not None}
        tests: list[tuple[str, Answer, Growth]] = [(SUITE, verdict.suite, verdict.growth)]
        answers = _answers(verdict)
        tests += [(label, answers.get(label, "no"), growth) for label, growth in growths.items()]
        left_out = suspects(comparison)
        counts = {answer: sum(test_answer == answer for _, test_answer, _ in tests) for answer in ("yes", "too noisy")}
        suite = ElementTree.SubElement(
            root,
            "testsuite",
            name=f"not {verdict.question} than before",
            tests=str(len(tests) + len(left_out)),
            failures=str(counts["yes"]),
            errors=str(counts["too noisy"]),
            skipped=str(len(left_out)),
        )
        for label, answer, growth in tests:
            test = ElementTree.SubElement(suite, "testcase", classname=f"shmoo.{verdict.question}", name=_xml(label))
            if answer != "no":
                detail = f"{verdict.question}: {growth_text(growth)} in {quantity}, limit {percent(threshold)}"
                tag, text = ("failure", detail) if answer == "yes" else ("error", f"too noisy to decide: {detail}")
                ElementTree.SubElement(test, tag, message=text, type=answer)
        for item in left_out:
            test = ElementTree.SubElement(suite, "testcase", classname=f"shmoo.{verdict.question}", name=_xml(item.case.label))
            ElementTree.SubElement(test, "skipped", message=_xml(_unpaired(item)))
    return b"<?xml version='1.0' encoding='utf-8'?>\n" + bytes(ElementTree.tostring(root, encoding="utf-8")) + b"\n"


def _answers(verdict: Verdict) -> dict[str, Answer]:
    """Label -> answer of the cases whose answer is not "no"."""
    noisy: dict[str, Answer] = dict.fromkeys(verdict.noisy, "too noisy")
    return noisy | dict.fromkeys(verdict.yes, "yes")


def _unpaired(item: Unpaired) -> str:
    return f"{item.case.label} in the {'base' if item.missing_in == 'a' else 'new'} run ({item.reason})"


def _row(label: str, cells: Iterable[str]) -> str:
    return f"| {_escaped(label)} | {' | '.join(map(_escaped, cells))} |"


def _escaped(text: str) -> str:
    """Text escaped for Markdown, HTML and terminals, since labels come from other people's files."""
    return _MARKUP.sub(r"\\\1", html.escape(" ".join(_xml(text).split())))


def _xml(text: str) -> str:
    return _NO_XML.sub("?", text)
