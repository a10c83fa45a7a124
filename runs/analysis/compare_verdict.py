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
"""Probability that comparing two runs of an unchanged machine names any case at all, and that it names the geometric mean."""
CERTAIN = 3.0
"""Standard errors below which a change is too noisy to be one."""
CASE_RESOLUTION, SUITE_RESOLUTION = 0.15, 0.05
"""Growth of a single case, and of the geometric mean, that a "no" rules out."""

Answer = Literal["yes", "no", "too noisy"]
QUESTIONS: dict[str, tuple[str, int]] = {
    "slower": ("time", 1),
    "faster": ("time", -1),
    "hungrier": ("energy", 1),
    "thriftier": ("energy", -1),
}
"""What can be asked -> the quantity it is about, and its direction."""


class Verdict(msgspec.Struct, frozen=True):
    """The answer to one question.

    Attributes:
        answer: "yes" where the suite or any case has it, else "too noisy" where any of them is, else "no".
        suite: of the geometric mean over all cases.
        growth: of the geometric mean.
        yes, noisy: labels of the cases with that answer, those that grew most first.
        looked_at: number of cases that both sides could use.
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
    """The least log ratio that exceeds the noise, with `looked_at` of its kind looked at.

    With many cases, some leave their own interval by chance; the limit for calling one changed grows with them.
    """
    return max(CERTAIN, student_quantile(FALSE_ALARM / looked_at, growth.freedom)) * growth.standard_error


def is_certain(growth: Growth, looked_at: int) -> bool:
    """Whether a change exceeds its noise, with `looked_at` of its kind looked at."""
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
        cases: label and growth of every case that both sides could use.
        suite: geometric mean over them; `None` without a case.
        threshold: relative growth up to which nothing is said to have changed.

    Raises:
        InputError: no such question.
        NothingMeasuredError: no case tells the quantity.
    """
    if question not in QUESTIONS:
        raise unknown("change to fail on", question, QUESTIONS)
    quantity, sign = QUESTIONS[question]
    if suite is None:
        raise NothingMeasuredError(
            f"whether the new run is {question} cannot be said: no case has a usable {quantity} in both; "
            "`shmoo doctor` says which energy counters this machine has, and `shmoo show` what a run holds"
        )
    answers: dict[Answer, list[str]] = {"yes": [], "no": [], "too noisy": []}
    for label, growth in sorted(cases, key=lambda case: -sign * case[1].log_ratio):
        answers[answer_of(question, growth, len(cases), threshold, CASE_RESOLUTION)].append(label)
    whole = answer_of(question, suite, 1, threshold, SUITE_RESOLUTION)
    seen = {whole, *(answer for answer, labels in answers.items() if labels)}
    answer: Answer = "yes" if "yes" in seen else "too noisy" if "too noisy" in seen else "no"
    return Verdict(question, answer, whole, suite, tuple(answers["yes"]), tuple(answers["too noisy"]), len(cases))
