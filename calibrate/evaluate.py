"""Held-out numbers, printed by one command: `python -m shmoo.calibrate.evaluate NAME DATA_DIR`.

Each evaluation fits on one part of published measurements and reports the error on the other, or holds a closed form against a
simulator's tables. DATA_DIR is the folder of these tables, or of runs; which files an evaluation reads is in its docstring.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import msgspec

from shmoo.estimators.errors import InputError, ShmooError, unknown


class Result(msgspec.Struct, frozen=True):
    """One line: a share (an error, or a part of cases) and the most it may be.

    Attributes:
        what: what was predicted, and from what.
        cases: how many cases it is over.
        value: the share, 0.1 being 10 %.
        at_most: the bound it is judged by; `None` for lines that are only shown.
    """

    what: str
    cases: int
    value: float
    at_most: float | None = None

    @property
    def held(self) -> bool:
        return self.at_most is None or self.value <= self.at_most


Evaluation = Callable[[Path], list[Result]]


def _cpu(folder: Path) -> list[Result]:
    from shmoo.calibrate.evaluate_cpu import evaluate

    return evaluate(folder)


def _tpu(folder: Path) -> list[Result]:
    from shmoo.calibrate.evaluate_tpu import evaluate

    return evaluate(folder)


def _gpu(folder: Path) -> list[Result]:
    from shmoo.calibrate.evaluate_gpu import evaluate

    return evaluate(folder)


def _kpu(folder: Path) -> list[Result]:
    from shmoo.calibrate.evaluate_kpu import evaluate

    return evaluate(folder)


EVALUATIONS: Mapping[str, Evaluation] = MappingProxyType({"cpu": _cpu, "gpu": _gpu, "kpu": _kpu, "tpu": _tpu})
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
    lines = [f"{'what':{width}}  {'cases':>5}  {'value':>7}  {'at most':>7}"]
    for result in results:
        bound = "" if result.at_most is None else f"{result.at_most:.1%}"
        mark = "" if result.held else "  above"
        lines.append(f"{result.what:{width}}  {result.cases:>5}  {result.value:>7.1%}  {bound:>7}{mark}")
    return "\n".join(lines)


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


def report(results_of: Callable[[], list[Result]]) -> int:
    """Print the results of an evaluation. Returns 0, 1 when a bound was missed, or 2 for bad input."""
    try:
        results = results_of()
    except ShmooError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    sys.stdout.write(table(results) + "\n")
    return 0 if all(result.held for result in results) else 1


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns what `report` does."""
    parser = argparse.ArgumentParser(
        prog="python -m shmoo.calibrate.evaluate",
        description="Print held-out errors. Whole models, which are captured first: python -m shmoo.harness.evaluate_models.",
    )
    parser.add_argument("name", choices=sorted(EVALUATIONS), help="what to evaluate")
    parser.add_argument("folder", type=Path, help="folder of the reference tables")
    asked = parser.parse_args(arguments)
    return report(lambda: evaluate(asked.name, asked.folder))


if __name__ == "__main__":
    sys.exit(main())
