"""Answers to "is it slower?" and the like: yes, no, or too noisy to decide (docs/gate.md has the rules and their sources)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import msgspec

from shmoo.estimators.errors import NothingMeasuredError, unknown
from shmoo.runs.analysis.compare_noise import Growth, student_quantile

MIN_CHANGE = 0.03
"""Relative changes below this are never reported, however certain."""
FALSE_ALARM = 0.01
"""Probability that a comparison of two runs of an unchanged machine reports any case, and that it reports the geometric mean."""
CERTAIN = 3.0
"""Standard errors that a change must exceed to be more than noise."""
CASE_RESOLUTION, SUITE_RESOLUTION = 0.15, 0.05
"""Growth of a single case, and of the geometric mean, that the answer "no" rules out."""

Answer = Literal["yes", "no", "too noisy"]
QUESTIONS: dict[str, tuple[str, int]] = {
    "slower": ("time", 1),
    "faster": ("time", -1),
    "hungrier": ("energy", 1),
    "thriftier": ("energy", -1),
}
"""Question -> the quantity it is about, and its direction."""


class Verdict(msgspec.Struct, frozen=True):
    """The answer to one question.

    Attributes:
        answer: "yes" if it is the answer of the suite or of any case, else "too noisy" if any of them is too noisy, else "no".
        suite: answer for the geometric mean over all cases.
        growth: growth of the geometric mean.
        yes, noisy: labels of the cases with that answer, the largest growth first.
        looked_at: number of cases usable on both sides.
    """

    question: str
    answer: Answer
    suite: Answer
    growth: Growth
    yes: tuple[str, ...]
    noisy: tuple[str, ...]
    looked_at: int


def beyond(log_ratio: float, threshold: float) -> bool:
    """Whether a change is larger than the threshold, upwards or downwards."""
    return math.expm1(abs(log_ratio)) > threshold


def least_certain(growth: Growth, looked_at: int) -> float:
    """The smallest log ratio that exceeds the noise when `looked_at` cases are examined.

    Among many cases, some leave their own interval by chance, so the limit grows with their number.
    """
    return max(CERTAIN, student_quantile(FALSE_ALARM / looked_at, growth.freedom)) * growth.standard_error


def is_certain(growth: Growth, looked_at: int) -> bool:
    """Whether a change exceeds the noise when `looked_at` cases are examined."""
    return growth.known and abs(growth.log_ratio) >= least_certain(growth, looked_at)


def answer_of(question: str, growth: Growth, looked_at: int, threshold: float, resolution: float) -> Answer:
    """The answer for one case, or for the geometric mean."""
    toward = QUESTIONS[question][1] * growth.log_ratio
    if not growth.known:
        return "too noisy"
    if toward > 0 and beyond(toward, threshold) and is_certain(growth, looked_at):
        return "yes"
    bound = math.log1p(max(threshold, resolution))
    unseen = min(toward, 0.0) + CERTAIN * growth.standard_error > bound
    return "too noisy" if unseen or toward + growth.half_width > bound else "no"


def verdict(question: str, cases: Sequence[tuple[str, Growth]], suite: Growth | None, threshold: float) -> Verdict:
    """Answer one question.

    Args:
        cases: label and growth of every case usable on both sides.
        suite: geometric mean over them; `None` without a case.
        threshold: relative growth up to which nothing counts as changed.

    Raises:
        InputError: no such question.
        NothingMeasuredError: no case has the quantity.
    """
    if question not in QUESTIONS:
        raise unknown("change to fail on", question, QUESTIONS)
    quantity, sign = QUESTIONS[question]
    if suite is None:
        raise NothingMeasuredError(
            f"whether the new run is {question} cannot be said: no case has a usable {quantity} in both; "
            "`shmoo doctor` lists the energy counters of this machine, `shmoo show` the contents of a run"
        )
    answers: dict[Answer, list[str]] = {"yes": [], "no": [], "too noisy": []}
    for label, growth in sorted(cases, key=lambda case: -sign * case[1].log_ratio):
        answers[answer_of(question, growth, len(cases), threshold, CASE_RESOLUTION)].append(label)
    suite_answer = answer_of(question, suite, 1, threshold, SUITE_RESOLUTION)
    all_answers = {suite_answer, *(answer for answer, labels in answers.items() if labels)}
    answer: Answer = "yes" if "yes" in all_answers else "too noisy" if "too noisy" in all_answers else "no"
    return Verdict(question, answer, suite_answer, suite, tuple(answers["yes"]), tuple(answers["too noisy"]), len(cases))
