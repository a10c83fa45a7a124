"""Results to stdout, messages to stderr; rich on a terminal, plain text elsewhere."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import shutil
import sys
import sysconfig
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click
import msgspec

from shmoo.estimators.errors import InputError
from shmoo.estimators.shown_columns import Column
from shmoo.harness.cli.layout import GAP, View, columns_of, fitted, grid, order_of, total_width, with_room, wrapped
from shmoo.harness.defaults import own_folders
from shmoo.runs.store.files import blocks_of, csv_of_blocks, replace_file

if TYPE_CHECKING:
    from shmoo.runs.store.records import CaseSpec
    from shmoo.runs.store.store import Run

logger = logging.getLogger(__name__)

LIBRARIES = frozenset({"diffusers", "functorch", "huggingface_hub", "timm", "torch", "torchao", "torchvision", "transformers"})
"""Packages whose warnings go to the log. Their errors are shown, except torch's."""
TORCH_LOGS = "TORCH_LOGS"
"""Variable by which a user asks torch for more output."""
PART = 1000
"""Elements of a long list that are converted to JSON at a time."""
EVERYTHING = View()
"""The view of a table without options."""

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Characters that move a terminal's cursor, change its state or reorder its text, and surrogates; tabs and newlines are
harmless."""
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_HALF_PAIR = re.compile(r"\\ud[89ab]..(?!\\ud[c-f])|(?<!\\ud[89ab]..)\\ud[c-f]", re.ASCII)
"""A possible half of a surrogate pair, as an ASCII escape in JSON."""


def printable(text: str) -> str:
    """The text with control characters escaped, since names and descriptions come from untrusted files."""
    return _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", text)


def message(text: str) -> None:
    """One line for the person, on stderr."""
    _say(text, err=True)


def result(text: str) -> None:
    """A result, on stdout."""
    _say(text, err=False)


def _say(text: str, err: bool) -> None:
    """Print text on a stream; on a terminal, words stay whole."""
    width = terminal_columns(sys.stderr if err else None)
    for line in printable(text).split("\n"):
        click.echo("\n".join(wrapped(line, width)), err=err)


def verbose() -> bool:
    """Whether the command was called with -v."""
    return bool(click.get_current_context().find_root().params.get("verbosity"))


def json_document(document: object) -> None:
    """Print the command's JSON document on stdout. A NaN or an infinity is a bug and raises ValueError.

    Args:
        document: plain types and records. A list or an iterator, at the top or as a value, is written in parts, since
            plain types and text of a long one take many times its memory.
    """
    for text in _json_of(document):
        click.echo(text, nl=False)
    click.echo()


def _json_of(document: object, margin: str = "") -> Iterator[str]:
    """A document in parts, with a margin before all lines but the first; nested members come in one part."""
    if isinstance(document, Mapping) and document and not margin:
        for number, (name, value) in enumerate(document.items()):
            yield f"{',' if number else '{'}\n {_json_text(name)}: "
            yield from _json_of(value, " ")
        yield "\n}"
    elif isinstance(document, (list, tuple, Iterator)):
        elements, opening, closing = iter(document), "[", f"\n{margin}]"
        while part := list(islice(elements, PART)):
            # The part's lines, without the surrounding brackets.
            yield opening + _json_text(part, margin).removeprefix("[").removesuffix(closing)
            opening = ","
        yield "[]" if opening == "[" else closing
    else:
        yield _json_text(document, margin)


def _json_text(value: object, margin: str = "") -> str:
    """A value as indented JSON, in ASCII."""
    # Python indents in a generator, many times slower than it writes one line.
    try:
        line = msgspec.json.encode(value).decode()
    except (TypeError, ValueError, OverflowError):
        line = "null"
    if "null" in line or not line.isascii():
        # msgspec writes NaN as null, and supports neither numpy numbers nor text with surrogates.
        line = _json_line(value)
    text: str = msgspec.json.format(line, indent=1)
    # Line ends inside a text are escaped in JSON.
    return text.replace("\n", f"\n{margin}") if margin else text


def _json_line(value: object) -> str:
    """A value as JSON on one line; ValueError for a number that JSON lacks."""
    line = json.dumps(value, allow_nan=False, separators=(",", ":"), default=msgspec.to_builtins)
    if r"\ud" in line and _HALF_PAIR.search(line):
        # Surrogates, as in a path with undecodable bytes, are written as escapes, since JSON forbids half a pair.
        text = _SURROGATE.sub(
            lambda match: rf"\\u{ord(match[0]):04x}", json.dumps(value, ensure_ascii=False, default=msgspec.to_builtins)
        )
        line = json.dumps(json.loads(text), separators=(",", ":"))
    return line


def tell_of_code(models: Iterable[str]) -> None:
    """Print which of the named models are made by running the user's code."""
    from shmoo.harness.workloads.loading import is_factory

    for model in filter(is_factory, models):
        message(f"{model}: running its code to make the model; the current directory is searched first")


@contextlib.contextmanager
def only_results_on_stdout() -> Iterator[None]:
    """While active, output of a user's model or a library goes to stderr, so that programs can read stdout; this includes output
    of other languages and child processes. Libraries' own warnings go to the log."""
    with libraries_quiet(), contextlib.redirect_stdout(sys.stderr), _descriptor_on_stderr(sys.stdout):
        yield


@contextlib.contextmanager
def libraries_quiet() -> Iterator[None]:
    """While active, warnings that a library logs, and Python warnings from its code or Shmoo's, go to the log; those of the
    user's code are shown as usual. Errors that torch logs also go there, since torch raises them too."""
    quiet = LIBRARIES - {"torch"} if os.environ.get(TORCH_LOGS) else LIBRARIES
    handle = logging.Logger.handle
    folders = [Path(sysconfig.get_path(kind)) / name for kind in ("purelib", "platlib") for name in quiet]
    folders += own_folders()

    def handle_unless_library(self: logging.Logger, record: logging.LogRecord) -> None:
        library = self.name.partition(".")[0]
        about_library = record.levelno == logging.WARNING or (record.levelno == logging.ERROR and library == "torch")
        if about_library and library in quiet:
            logger.debug("%s: %s", record.name, record.getMessage())
        else:
            handle(self, record)

    with warnings.catch_warnings():
        show = warnings.showwarning

        def show_unless_library(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if any(Path(filename).is_relative_to(folder) for folder in folders):
                logger.debug("%s:%d: %s: %s", filename, lineno, category.__name__, message)
            else:
                show(message, category, filename, lineno, file, line)

        warnings.showwarning = show_unless_library
        logging.Logger.handle = handle_unless_library  # type: ignore[method-assign]
        try:
            yield
        finally:
            logging.Logger.handle = handle  # type: ignore[method-assign]


@contextlib.contextmanager
def _descriptor_on_stderr(stream: TextIO | None) -> Iterator[None]:
    """While active, descriptor 1 points to the target of 2; unchanged if either is closed."""
    if stream is not None:
        stream.flush()
    try:
        before = os.dup(1)
        os.dup2(2, 1)
    except OSError:
        yield
        return
    try:
        yield
    finally:
        os.dup2(before, 1)
        os.close(before)


def table(
    columns: Sequence[str | Column],
    records: Iterable[Any],
    title: str = "",
    left: int = 1,
    *,
    drop: Sequence[str] = (),
    common: Sequence[str] = (),
    under: Sequence[str] = (),
    view: View = EVERYTHING,
) -> None:
    """Print a table on stdout, one row per record. A plain heading names the texts at its position in the records. The first
    `left` columns are text, and so are columns with long cells; the others are aligned right.

    On a terminal the table fits its width: columns are dropped, then headers and text are folded, the widest column first;
    numbers never are. If the numbers alone are too wide, rows run over the edge.

    Args:
        drop: headers to drop, in this order, if there is no room.
        common: headers that move into the title if all rows agree.
        under: a text for each row, folded under it.
        view: the person's choices; `InputError` for an unknown header.
    """
    named_columns = [column if isinstance(column, Column) else Column(column, itemgetter(i)) for i, column in enumerate(columns)]
    cells = [[column.cell(record) for column in named_columns] for record in records]
    cells = [[replace(cell, text=printable(cell.text)) for cell in row] for row in cells]
    laid = columns_of([printable(column.name) for column in named_columns], cells, left)
    view.check([column.header for column in laid])
    order = order_of(laid, view)
    laid = [column.rows(order) for column in laid]
    if view.columns:
        laid = [column for name in view.columns for column in laid if column.header == name]
    moved = [c for c in laid if c.header in common and c.header not in view.columns and len(set(c.cells)) == 1 and c.cells[0]]
    if len(moved) < len(laid):
        laid = [column for column in laid if column not in moved]
        title = ", ".join(filter(None, (title, *(f"{column.header} {column.cells[0]}" for column in moved))))
    terminal = terminal_columns()
    available = None if view.wide else terminal
    visible = laid if available is None else with_room(laid, available, () if view.columns else drop)
    left_out = [column.header for column in laid if column not in visible]
    visible, widths = fitted(visible, available)
    below = [printable(under[i]) for i in order] if under else []
    head, body = grid(visible, widths, below, terminal)
    for line in (*(wrapped(printable(title), terminal) if title else ()), *head):
        click.echo(click.style(line, bold=True))
    if terminal is not None and total_width(widths) <= terminal:
        click.echo("─" * total_width(widths))
    for line in body:
        click.echo(line)
    if left_out:
        ctx = click.get_current_context(silent=True)
        has_wide = ctx is None or any(parameter.name == "wide" for parameter in ctx.command.params)
        message(f"no room for {', '.join(left_out)}: {'--wide' if has_wide else 'a wider terminal'} shows every column")


def facts(texts: Mapping[str, str]) -> None:
    """Print names with their texts on stdout; on a terminal a long text continues under its start."""
    width = max(map(len, texts), default=0) + GAP
    available = terminal_columns()
    for name, text in texts.items():
        first, *further_lines = wrapped(printable(text), None if available is None else available - width)
        result(f"{name.ljust(width)}{first}")
        for line in further_lines:
            result(" " * width + line)


def terminal_columns(stream: TextIO | None = None) -> int | None:
    """Width of a stream's terminal (stdout for `None`); `None` for a file or a pipe, which has no limit unless COLUMNS sets
    one."""
    used = sys.stdout if stream is None else stream
    columns_variable = os.environ.get("COLUMNS", "") if stream is None else ""
    fixed_width = columns_variable.isdecimal() and int(columns_variable) > 0
    return shutil.get_terminal_size().columns if fixed_width or (used is not None and used.isatty()) else None


def write_csv(path: str | Path, rows: Iterable[Mapping[str, object]], what: str) -> None:
    """Write rows as CSV with the columns of all rows, in order of first appearance; `None` is an empty cell. `what` names the
    rows in the message."""
    write_columns(path, list(blocks_of(rows)), what)


def write_columns(path: str | Path, blocks: Sequence[Mapping[str, Sequence[object]]], what: str = "rows") -> None:
    """As `write_csv`, from blocks of rows stored as columns."""
    write(path, csv_of_blocks(blocks))
    message(f"wrote {sum(len(next(iter(block.values()))) for block in blocks)} {what} to {path}")


def write(path: str | Path, data: bytes) -> None:
    """Write a result where `writing` allows it: atomically into a file, directly into a device or a pipe. `OSError` where the
    system refuses, or nobody reads the pipe."""
    target = writing(path)
    if not target.exists() or target.is_file():
        replace_file(target, data)
        return
    # Without O_NONBLOCK, open() of a pipe without a reader would block.
    descriptor = os.open(target, os.O_WRONLY | os.O_NONBLOCK)
    os.set_blocking(descriptor, True)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)


def open_run(path: str | Path, cases: dict[str, CaseSpec] | None = None) -> Run:
    """Open a run and print problems of its files on stderr; `cases` as for `Run.open`."""
    from shmoo.runs.store.store import Run

    run = Run.open(path, cases)
    for problem in run.problems:
        message(problem)
    return run


def check_folder(path: Path) -> None:
    """Create a folder before long work writes to it; `InputError` where it or a file in it cannot be created."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()
    except OSError as error:
        raise InputError(
            f"cannot write into {str(path)!r}: {error.strerror}; name another folder, or check its permissions"
        ) from None


def writing(path: str | Path) -> Path:
    """A path to write to; its folder is created. `InputError` where that fails, and for a file that belongs to a run or a
    campaign."""
    from shmoo.runs.store.store import is_record

    target = Path(path)
    if is_record(target):
        raise InputError(f"cannot write {str(target)!r}: it is a record of a run or a campaign; name another file")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write {str(target)!r}: {error.strerror}") from None
    if target.is_dir():
        raise InputError(f"cannot write {str(target)!r}: it is a directory; name a file")
    return target
