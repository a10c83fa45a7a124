"""Options shared by several verbs, each with one name, one meaning and one help text except for its default. Also parses lists,
shapes and axes."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import click

from shmoo.estimators.errors import InputError
from shmoo.estimators.errors import only_one as only_one
from shmoo.estimators.graph.dtypes import compute_dtype
from shmoo.estimators.graph.records import EVERY_RUNTIME
from shmoo.estimators.machine.catalogue import is_count
from shmoo.estimators.units import positive_int, shape_of, share_of
from shmoo.estimators.variants import amount_of
from shmoo.harness.cli import output
from shmoo.harness.defaults import LOCAL

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

MAX_POINTS = 10_000
"""Most points of one axis; more is a typing error."""
ONE_ARCHITECTURE = f"{LOCAL}; takes one"
"""Default of --arch where a verb takes one architecture."""
EVERY_ARCHITECTURE = "all built-in ones"
"""Default of --arch where a verb gives separate rows for each architecture."""
SHORT_LIST = "a short list, sorted by time; all built-in ones with --json and --csv"
"""Default of --arch where a verb answers with a table of architectures."""
OWN_BATCH, ONE_BATCH = "the model's own", "the model's own; takes one"
FLOAT32 = "float32"
OWN_DTYPES, ONE_DTYPE = "a user's model's own types, else float32", "a user's model's own types, else float32; takes one"
OWN_RUNTIME, ONE_RUNTIME = "the architecture's own", "the architecture's own; takes one"
OWN_THREADS, MEASURED_THREADS = "all physical cores", "OMP_NUM_THREADS where set, else all physical cores"
NEW_RUN = "a new run under ./shmoo-runs"


def _split(ctx: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    """Comma-separated values of a repeatable option, without repetitions."""
    return tuple(dict.fromkeys(part.strip() for value in values for part in value.split(",") if part.strip()))


def _split_counts(ctx: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> tuple[int, ...]:
    return tuple(positive_int(text, parameter.opts[0]) for text in _split(ctx, parameter, values))


def _one_count(ctx: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> int | None:
    return only_one(_split_counts(ctx, parameter, values), parameter.opts[0])


def _split_dtypes(ctx: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    """Canonical names, each once: bf16 and bfloat16 are one type."""
    return tuple(dict.fromkeys(map(compute_dtype, _split(ctx, parameter, values))))


class FiniteRange(click.FloatRange):
    """A finite number in a range."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number; a usage error where it is not finite or outside the range."""
        try:
            finite = math.isfinite(float(value))
        except ValueError:
            finite = False
        if not finite:
            self.fail(f"{value!r} is not a finite number; allowed is one {_bounds(self)}", param, ctx)
        return super().convert(value, param, ctx)


class WholeRange(click.IntRange):
    """A whole number in a range."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number; a usage error for anything else."""
        try:
            int(value)
        except ValueError:
            self.fail(f"{value!r} is not a whole number; allowed is one {_bounds(self)}", param, ctx)
        return super().convert(value, param, ctx)


def _bounds(numbers: click.FloatRange | click.IntRange) -> str:
    """The range in words."""
    low = "" if numbers.min is None else f"{'above' if numbers.min_open else 'from'} {numbers.min}"
    return low if numbers.max is None else f"{low} to {numbers.max}".strip()


class Share(click.ParamType):
    """A relative amount, "3%" or 0.03."""

    name = "percent"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The amount as a fraction; a usage error for anything else, and for 3, which may be meant as 3 %."""
        try:
            return share_of(str(value))
        except InputError as error:
            self.fail(str(error), param, ctx)


def _with_default(*flags: str, help: str, usual: str = "", **how: Any) -> Callable[..., Decorator]:
    """A factory of an option whose default differs between verbs. Called with the text of the default, which it adds to the help,
    it returns the decorator of a command."""
    return lambda default=usual: click.option(*flags, help=f"{help} Default: {default}.", **how)


def names(*flags: str, help: str, metavar: str = "NAME,...") -> Decorator:
    """An option that takes a comma-separated list and may be repeated."""
    return click.option(*flags, multiple=True, callback=_split, metavar=metavar, help=help)


def counts(*flags: str, help: str) -> Decorator:
    """An option that takes a comma-separated list of positive whole numbers."""
    return click.option(*flags, multiple=True, callback=_split_counts, metavar="N,...", help=help)


def together(name: str, make: Callable[..., object], *added: Decorator, parameters: Collection[str] = ()) -> Decorator:
    """Adds options that the command receives together, as one argument `name` built by `make`. `parameters` are the options'
    parameters, by default those of `make`."""
    parameters = parameters or inspect.signature(make).parameters

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def with_record(**values: Any) -> Any:
            record = make(**{option: values.pop(option) for option in parameters})
            return command(**values, **{name: record})

        decorated: Callable[..., Any] = with_record
        for option in reversed(added):
            decorated = option(decorated)
        return decorated

    return decorate


def old_spelling(old: str, new: str, kind: click.ParamType, take: Callable[[Any], Any] = lambda value: value) -> Decorator:
    """A hidden older option, such as "--passes". `take` converts its value to one of the option that replaced it, with a hint on
    stderr; `new` wins if both are given."""
    hidden, target = f"old_{old.strip('-').replace('-', '_')}", new.strip("-").replace("-", "_")

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def with_old(**values: Any) -> Any:
            value = values.pop(hidden)
            if value is not None:
                output.message(f"{old} is now {new}")
                values[target] = values[target] or take(value)
            return command(**values)

        return click.option(old, hidden, hidden=True, type=kind)(with_old)

    return decorate


_PATH = click.Path(path_type=Path)
_PROFILE = "a name from `shmoo profiles list` or a .json file."

archs = _with_default(
    "--arch",
    multiple=True,
    callback=_split,
    metavar="NAME,...",
    help="Architectures: names from `shmoo profiles list` or .json files.",
)
batches = _with_default("--batch", multiple=True, callback=_split_counts, metavar="N,...", help="Batch sizes.")
_threads = functools.partial(
    _with_default,
    "--threads",
    multiple=True,
    metavar="T,...",
    help="CPU threads that work at once.",
)
thread_counts = _threads(callback=_split_counts, usual=f"{MEASURED_THREADS}; each case is measured with each of several")
threads = _threads(callback=_one_count, usual=f"{OWN_THREADS}; takes one")
dtypes = _with_default(
    "--dtype",
    multiple=True,
    callback=_split_dtypes,
    metavar="D,...",
    help="Element types: float64, float32, tf32, bfloat16, float16, float8, nvfp4, int8, int4.",
)
runtimes = _with_default(
    "--runtime",
    multiple=True,
    callback=_split,
    metavar="R,...",
    help=f"Runtimes: {', '.join(EVERY_RUNTIME)}.",
    usual=OWN_RUNTIME,
)
out = _with_default("-o", "--out", type=_PATH, help="File or directory to write the result to.")
force = _with_default("--force", is_flag=True, help="Replace a profile of that name.")
profile_name = _with_default("--name", help="Name of the new profile.")
budget = _with_default(
    "--budget",
    type=FiniteRange(min=0, min_open=True),
    metavar="MINUTES",
    help="Time to stay within; no visit to a case starts after it.",
)
threshold = _with_default(
    "--threshold", type=Share(), metavar="P", help="Relative change, such as 3%, up to which nothing counts as changed."
)
reduction = _with_default(
    "--reduction", type=click.Choice(["k", "n"]), help="Column of operator tables that holds the reduction of matrix products."
)
profile = _with_default("--profile", metavar="PROFILE", help=f"Profile to judge: {_PROFILE}")
base = _with_default("--base", metavar="PROFILE", help=f"Profile whose numbers stay where nothing is fitted: {_PROFILE}")
everything = _with_default("--all", "show_all", is_flag=True, help="Leave nothing out of the table.")
sort = _with_default(
    "--sort", metavar="COLUMN", default="", help="Sort the rows of the table by this column, from the largest with - before it."
)

host = click.option(
    "--host",
    metavar="NAME",
    help="Machine that launches a GPU's kernels: a catalogue's name, local (of `doctor --full`), or own (measured with it).",
)
as_json = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout, messages on stderr.")
as_csv = click.option("--csv", "csv_path", type=click.Path(), help="Also write the rows to this CSV file, one value a column.")
fixed = click.option("--set", "fixed", multiple=True, metavar="NAME=VALUE", help="Workload axis at one value, such as batch=8.")
operators = click.option(
    "--operators", is_flag=True, help="With the distinct operators of each network, each timed alone (in eager only)."
)
resume = click.option("--resume", is_flag=True, help="Go on with the run in --out.")
seed = click.option("--seed", type=WholeRange(min=0), default=0, help="Seed of all random draws. Default: 0.")
as_html = click.option("--html", "html_path", type=click.Path(), help="Also write an interactive page to this .html file.")
no_residual = click.option("--no-residual", is_flag=True, help="The physical model alone, without fitted corrections.")
input_shape = click.option("--input-shape", help="Shape of the model's input, such as 1x3x224x224.")
seq_len = click.option("--seq-len", type=WholeRange(min=1), help="Sequence length of a language model.")
trust = click.option("--trust", is_flag=True, help="Allow loading a file that can run code (.pt2).")
wide = click.option("--wide", is_flag=True, help="Every column of the table, however narrow the terminal.")


def against(what: str, *, required: bool) -> Decorator:
    """--against: the path of an earlier result; the help gives the default in words."""
    text = f"Earlier result to hold this one against. Default: {what}."
    return click.option("--against", required=required, type=_PATH, help=text)


def top(default: str, count: int | None = None) -> Decorator:
    """--top: rows of the verb's table."""
    return click.option("--top", type=WholeRange(min=0), default=count, help=f"Rows of the table to show. Default: {default}.")


def view(order: str, rows: str = "all") -> Decorator:
    """--wide, --columns, --sort and --top, passed together as `view`; `order` and `rows` describe the defaults in the help."""
    columns = names("--columns", help="Columns of the table to show, in this order.")
    return together("view", output.View, wide, columns, sort(order), top(rows))


def without_subcommand(ctx: click.Context, as_json: bool) -> bool:
    """Whether a group is called without a sub-command; `InputError` for --json before a sub-command, which has its own."""
    if ctx.invoked_subcommand is not None and as_json:
        raise InputError(f"write --json after {ctx.invoked_subcommand!r}")
    return ctx.invoked_subcommand is None


def parse_shape(text: str | None) -> tuple[int, ...] | None:
    """Extents of "1x3x224x224" or "1,3,224,224"."""
    if text is None:
        return None
    return shape_of(text, "--input-shape")


def parse_axis(text: str, *, whole: bool) -> tuple[str, tuple[int | float | str, ...]]:
    """An axis as text: NAME=64..8192, NAME=64..8192:9 (log-spaced, both ends included) or NAME=64,96,128.

    A range without a count has one point per octave. Repeated points are dropped.

    Args:
        whole: round range points to whole numbers, as extents are. Otherwise numbers may be sizes such as 64MiB. List members
            that are not numbers stay text (an activation's name, a mode of a tiling strategy).

    Raises:
        InputError: not of that form, an end that is not positive, or an empty range.
    """
    name, equals, values_text = text.partition("=")
    form = "write NAME=64..8192, NAME=64..8192:9 or NAME=64,96,128"
    if not equals or not name.strip() or not values_text.strip():
        raise InputError(f"cannot read axis {text!r}; {form}")
    if ".." not in values_text:
        members = [part.strip() for part in values_text.split(",") if part.strip()]
        return name.strip(), tuple(dict.fromkeys(_member(part, text, whole) for part in members))
    ends, colon, count_text = values_text.partition(":")
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
    """Several axes, read by `parse_axis`; `InputError` for an axis given twice."""
    values_by_name: dict[str, tuple[int | float | str, ...]] = {}
    for text in texts:
        name, values = parse_axis(text, whole=whole)
        if name in values_by_name:
            raise InputError(f"axis {name!r} is given twice; give it once")
        values_by_name[name] = values
    return values_by_name


def machine_axes(texts: Sequence[str]) -> dict[str, tuple]:
    """Axes of an architecture; coefficients that count parts take whole numbers."""
    values_by_name = axes(texts, whole=False)
    return {
        name: tuple(dict.fromkeys(float(round(v)) if isinstance(v, float) else v for v in values)) if is_count(name) else values
        for name, values in values_by_name.items()
    }


def settings(texts: Sequence[str]) -> dict[str, int | float | str]:
    """Axes of a workload with one fixed value each, from texts NAME=VALUE."""
    fixed = {}
    for name, values in axes(texts, whole=True).items():
        if len(values) != 1:
            raise InputError(f"--set {name} takes one value, got {len(values)}; use --axis of `shmoo sweep` to vary it")
        fixed[name] = values[0]
    return fixed


def _number(text: str, axis: str) -> float:
    value = amount_of(text)
    if isinstance(value, str) or not math.isfinite(value):
        raise InputError(f"axis {axis!r}: {text.strip()!r} is not a number")
    return value


def _member(text: str, axis: str, whole: bool) -> int | float | str:
    if not whole:
        value = amount_of(text)
        return value if isinstance(value, str) else _number(text, axis)
    try:
        return int(text)
    except ValueError:
        return text
