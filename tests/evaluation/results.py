"""Held-out numbers: what every evaluation returns, and the table that is printed.

Each evaluation fits on one part of published measurements and reports the error on the other, or holds a closed form against a
simulator's tables. DATA_DIR is the folder of these tables, or of runs; which files an evaluation reads is in its docstring.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from types import MappingProxyType

import msgspec
import numpy as np

from shmoo.calibrate.fit.intervals import HeldOut
from shmoo.estimators.errors import InputError, unknown
from shmoo.estimators.machine.profile import ErrorCardEntry


def together(parts: Sequence[HeldOut]) -> HeldOut:
    """Cases of several machines, in order."""
    return HeldOut(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(HeldOut)))


class Kept(msgspec.Struct, frozen=True):
    """Where an error card holds a line: profile, split (how the cases were held out) and group of cases."""

    profile: str
    split: str
    group: str


class Result(msgspec.Struct, frozen=True):
    """One line: a share (an error, or a part of cases) and the most it may be.

    Attributes:
        what: what was predicted, and from what.
        cases: how many cases it is over.
        value: the share, 0.1 being 10 %.
        at_most: the bound it is judged by; `None` for lines that are only shown.
        entry: the cases' error card, where the line is of a group of cases: the coverage of their intervals stands beside it.
        covers: least and most share of cases that the 90 % intervals may cover, for at least `LEAST_JUDGED` of them and up to
            the share's standard error; `None` where it is only shown.
        kept: where the entry belongs in an error card.
        width: the high end of an interval over its low end, median over the cases; `None` where it is not shown.
    """

    what: str
    cases: int
    value: float
    at_most: float | None = None
    entry: ErrorCardEntry | None = None
    covers: tuple[float, float] | None = None
    kept: Kept | None = None
    width: float | None = None

    @property
    def faults(self) -> tuple[str, ...]:
        """What is wrong: the share is "above" its bound, the intervals are too "narrow" or too "wide"."""
        found = ["above"] if self.at_most is not None and self.value > self.at_most else []
        coverage = None if self.entry is None else self.entry.coverage
        if coverage is not None and self.covers is not None and self.cases >= LEAST_JUDGED:
            margin = coverage_error(self.cases)
            found += ["narrow"] if coverage < self.covers[0] - margin else []
            found += ["wide"] if coverage > self.covers[1] + margin else []
        return tuple(found)

    @property
    def held(self) -> bool:
        return not self.faults


HOLDS = (0.85, 0.95)
"""Share of a group of held-out cases that 90 % intervals must cover."""
HOLDS_ELSEWHERE = (0.85, 0.97)
"""The same on a machine that was left out: intervals there hold for machines, of which few were measured."""
LEAST_JUDGED = 60
"""The coverage of fewer cases is only shown: it is not known to 5 %."""


def coverage_error(cases: int) -> float:
    """Standard error of the share of so many cases that 90 % intervals cover."""
    return math.sqrt(0.9 * 0.1 / cases)


def of_cases(
    what: str,
    entry: ErrorCardEntry,
    at_most: float | None = None,
    *,
    covers: tuple[float, float] | None = None,
    kept: Kept | None = None,
    width: float | None = None,
) -> Result:
    """The line of a group of cases: their mean error, with the coverage of their intervals."""
    return Result(what, entry.n, entry.mean, at_most, entry, covers, kept, width)


Evaluation = Callable[[Path], list[Result]]


def _cpu(folder: Path) -> list[Result]:
    from tests.evaluation.cpu import evaluate

    return evaluate(folder)


def _tpu(folder: Path) -> list[Result]:
    from tests.evaluation.tpu import evaluate

    return evaluate(folder)


def _gpu(folder: Path) -> list[Result]:
    from tests.evaluation.gpu import evaluate

    return evaluate(folder)


def _kpu(folder: Path) -> list[Result]:
    from tests.evaluation.kpu import evaluate

    return evaluate(folder)


def _models(folder: Path) -> list[Result]:
    from tests.evaluation.models import captured, evaluate

    return evaluate(folder, captured(folder))


def _sizes(folder: Path) -> list[Result]:
    from tests.evaluation.sizes import evaluate

    return evaluate(folder)


EVALUATIONS: Mapping[str, Evaluation] = MappingProxyType(
    {"cpu": _cpu, "gpu": _gpu, "kpu": _kpu, "models": _models, "sizes": _sizes, "tpu": _tpu}
)
"""Name -> evaluation; what each needs is imported when it is asked for."""


def evaluate(name: str, folder: Path) -> list[Result]:
    """Run one evaluation.

    Args:
        folder: the tables' folder.

    Raises:
        InputError: no such evaluation, or a file it needs is not in `folder`.
    """
    if name not in EVALUATIONS:
        raise unknown("evaluation", name, EVALUATIONS)
    return EVALUATIONS[name](folder)


def table(results: Sequence[Result]) -> str:
    """Results as aligned text, one line each."""
    width = max(len(result.what) for result in results)
    lines = [f"{'what':{width}}  {'cases':>5}  {'value':>7}  {'at most':>7}  {'physics':>7}  {'covered':>7}  {'width':>5}"]
    for result in results:
        entry = result.entry
        shares = (result.value, result.at_most, entry and entry.physics, entry and entry.coverage)
        row = f"{result.what:{width}}  {result.cases:>5}" + "".join(f"  {_share(share):>7}" for share in shares)
        row += f"  {'' if result.width is None else f'{result.width:.2f}':>5}"
        lines.append("  ".join((row, *result.faults)).rstrip())
    return "\n".join(lines)


def _share(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"


def read_rows(path: Path) -> list[dict[str, str]]:
    """Rows of a table of a simulator's runs.

    Raises:
        InputError: no such file.
    """
    try:
        with path.open(encoding="utf-8") as file:
            return list(csv.DictReader(file))
    except OSError as error:
        raise InputError(f"cannot read {str(path)!r}: {error.strerror}; DATA_DIR is the folder of the reference tables") from None
