"""Options that several verbs share, and the text forms of lists, shapes and axes."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import click

from shmoo.estimators.errors import InputError

MAX_POINTS = 10_000
"""Points of one axis; more is a slip of the finger."""


def _split(ctx: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    """Comma-separated values of a repeatable option, without repetitions."""
    return tuple(dict.fromkeys(part.strip() for value in values for part in value.split(",") if part.strip()))


def _split_counts(ctx: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> tuple[int, ...]:
    return tuple(positive_int(text, parameter.opts[0]) for text in _split(ctx, parameter, values))


def names(*flags: str, help: str, metavar: str = "NAME,...") -> Callable[[Any], Any]:
    """An option that takes a comma-separated list and may be repeated."""
    return click.option(*flags, multiple=True, callback=_split, metavar=metavar, help=help)


def counts(*flags: str, help: str) -> Callable[[Any], Any]:
    """An option that takes a comma-separated list of positive whole numbers."""
    return click.option(*flags, multiple=True, callback=_split_counts, metavar="N,...", help=help)


archs = names("--arch", help="Architectures: names from `shmoo profiles list` or .json files. Default: all built-in ones.")
as_json = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout, messages on stderr.")
threads = click.option(
    "--threads",
    type=click.IntRange(min=1),
    help="CPU threads. Default: all physical cores; when measuring, OMP_NUM_THREADS where set.",
)
trust = click.option("--trust", is_flag=True, help="Allow loading a file that can run code (.pt2).")


def positive_int(text: str, what: str) -> int:
    """A positive whole number; `InputError` names `what` otherwise."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise InputError(f"{what} must be a positive whole number, got {text!r}")
    return value


def parse_shape(text: str | None) -> tuple[int, ...] | None:
    """ "1x3x224x224" or "1,3,224,224" as extents."""
    if text is None:
        return None
    return tuple(positive_int(part, "--input-shape") for part in re.split(r"[x×,]", text.strip()))


def parse_axis(text: str, *, whole: bool) -> tuple[str, tuple[int | float | str, ...]]:
    """An axis as text: NAME=64..8192, NAME=64..8192:9 (log-spaced, both ends included) or NAME=64,96,128.

    A range without a count has one point an octave. Repeated points are dropped.

    Args:
        whole: round range points to whole numbers, as extents are. Otherwise numbers may be sizes such as 64MiB. List members
            that are no numbers stay text (an activation's name, a mode of a tiling strategy).

    Raises:
        InputError: not of that form, an end that is not positive, or an empty range.
    """
    name, equals, rest = text.partition("=")
    form = "write NAME=64..8192, NAME=64..8192:9 or NAME=64,96,128"
    if not equals or not name.strip() or not rest.strip():
        raise InputError(f"cannot read axis {text!r}; {form}")
    if ".." not in rest:
        members = [part.strip() for part in rest.split(",") if part.strip()]
        return name.strip(), tuple(dict.fromkeys(_member(part, text, whole) for part in members))
    ends, colon, count_text = rest.partition(":")
    first_text, _, last_text = ends.partition("..")
    first, last = _number(first_text, text), _number(last_text, text)
    if not 0 < first <= last:
        raise InputError(f"axis {text!r} must run from a positive number to one that is not smaller; {form}")
    count = positive_int(count_text, f"the count of axis {name!r}") if colon else round(math.log2(last / first)) + 1
    if count > MAX_POINTS:
        raise InputError(f"axis {text!r} has {count} points, at most {MAX_POINTS} are allowed; give a smaller count")
    steps = [first] if count == 1 else [first * (last / first) ** (i / (count - 1)) for i in range(count)]
    steps[-1] = last if count > 1 else first
    points = [max(1, round(step)) for step in steps] if whole else steps
    return name.strip(), tuple(dict.fromkeys(points))


def axes(texts: Sequence[str], *, whole: bool) -> dict[str, tuple[int | float | str, ...]]:
    """Several axes as `parse_axis` reads them; `InputError` for one that is given twice."""
    found: dict[str, tuple[int | float | str, ...]] = {}
    for text in texts:
        name, values = parse_axis(text, whole=whole)
        if name in found:
            raise InputError(f"axis {name!r} is given twice; give it once")
        found[name] = values
    return found


def settings(texts: Sequence[str]) -> dict[str, int | float | str]:
    """Axes of a workload that keep one value each, from texts NAME=VALUE."""
    fixed = {}
    for name, values in axes(texts, whole=True).items():
        if len(values) != 1:
            raise InputError(f"--set {name} takes one value, got {len(values)}; use --axis of `shmoo sweep` to vary it")
        fixed[name] = values[0]
    return fixed


def _number(text: str, axis: str) -> float:
    from shmoo.estimators.variants import amount_of

    value = amount_of(text)
    if isinstance(value, str) or not math.isfinite(value):
        raise InputError(f"axis {axis!r}: {text.strip()!r} is not a number")
    return value


def _member(text: str, axis: str, whole: bool) -> int | float | str:
    if not whole:
        from shmoo.estimators.variants import amount_of

        value = amount_of(text)
        return value if isinstance(value, str) else _number(text, axis)
    try:
        return int(text)
    except ValueError:
        return text
