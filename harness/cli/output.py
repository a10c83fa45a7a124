"""Results to stdout, messages to stderr; rich on a terminal, plain text elsewhere."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import click

from shmoo.estimators.errors import InputError

PROSE = 40
"""Columns of longer cells are text, wherever they stand."""
NARROWEST = 12
"""A column of text is folded to no fewer characters than this."""
MOST_ADVICE = 3
"""Lines about memory below a table."""
GAP = 2
"""Characters between two columns."""


_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Characters that move a terminal's cursor, change its state or reorder its text, and what no encoding has; a tab and a new line
do no harm."""


def printable(text: str) -> str:
    """The text with control characters written out: names and descriptions come from files of anybody."""
    return _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", text)


def message(text: str) -> None:
    """One line for the person, on stderr."""
    click.echo(printable(text), err=True)


def result(text: str) -> None:
    """A result, on stdout."""
    click.echo(printable(text))


def json_document(document: object) -> None:
    """The one JSON document of a command, on stdout. A NaN or an infinity is a fault of ours and raises ValueError."""
    import msgspec

    # Python indents in a generator, many times slower than it writes one line.
    line = json.dumps(document, allow_nan=False, separators=(",", ":"))
    click.echo(msgspec.json.format(line, indent=1))


def tell_of_code(models: Iterable[str]) -> None:
    """Say which of the named models are made by running code of the user's."""
    from shmoo.harness.workloads.loading import is_factory

    for model in filter(is_factory, models):
        message(f"{model}: running its code to make the model; the current directory is searched for it first")


def tell_of_memory(records: Sequence[Mapping[str, Any]]) -> None:
    """Say of the first estimates that do not fit their machine's memory what is missing and what would fit."""
    outgrown = [r for r in records if r["fits"] is False]
    for r in outgrown[:MOST_ADVICE]:
        message(f"{r['model']} on {r['arch']}, batch {r['batch']} {r['dtype']}: {r['memory']['advice']}")
    if len(outgrown) > MOST_ADVICE:
        message(f"{len(outgrown) - MOST_ADVICE} more do not fit; --json says of each what is missing and what would fit")


@contextlib.contextmanager
def only_results_on_stdout() -> Iterator[None]:
    """While a user's model or a library runs: what it prints goes to stderr, so that stdout stays readable by programs; what
    other languages and child processes print does so too."""
    with contextlib.redirect_stdout(sys.stderr), _descriptor_on_stderr(sys.stdout):
        yield


@contextlib.contextmanager
def _descriptor_on_stderr(stream: TextIO | None) -> Iterator[None]:
    """Descriptor 1 leads where 2 does; as it was where either is closed."""
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


def table(headers: Sequence[str], rows: Iterable[Sequence[str]], title: str = "", left: int = 1) -> None:
    """A table on stdout. The first `left` columns are text, and so are those of long cells; the others are aligned right.

    On a terminal it is no wider than that: text is folded, the widest column first, and so are headers; numbers never are.
    Where the numbers alone are wider, whole rows run over the edge.
    """
    headers, title = [printable(header) for header in headers], printable(title)
    listed = [[printable(cell) for cell in row] for row in rows]
    columns = [Column(header, [row[i] for row in listed]) for i, header in enumerate(headers)]
    texts = [i < left or column.width > PROSE for i, column in enumerate(columns)]
    available = terminal_columns()
    if available is not None:
        fitted = columns if table_width(c.width for c in columns) <= available else [c.with_folded_header() for c in columns]
        least = (min(c.width, NARROWEST) if text else c.width for c, text in zip(fitted, texts, strict=True))
        if table_width(least) <= available:
            _rich_table([column.header for column in fitted], listed, title, texts)
            return
    if title:
        result(title)
    widths = [column.width for column in columns]
    for line in (list(headers), *listed):
        cells = [cell.ljust(w) if text else cell.rjust(w) for cell, w, text in zip(line, widths, texts, strict=True)]
        result((" " * GAP).join(cells).rstrip())


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table, as texts."""

    header: str
    cells: list[str]

    @property
    def width(self) -> int:
        """Characters of its longest line."""
        return max(len(line) for text in (self.header, *self.cells) for line in text.split("\n"))

    def with_folded_header(self) -> Column:
        """The column, its header on as many lines as the width of its cells asks for; words stay whole."""
        width = max(len(text) for text in (*self.header.split(), *self.cells, "-"))
        return Column("\n".join(textwrap.wrap(self.header, width)), self.cells)


def table_width(widths: Iterable[int]) -> int:
    """Characters that columns of these widths take on a terminal, with their gaps and edges."""
    listed = list(widths)
    return sum(listed) + GAP * (len(listed) - 1) + 2


def terminal_columns() -> int | None:
    """Width of the terminal that stdout is; `None` where it is a file or a pipe, which is as wide as it needs to be."""
    return shutil.get_terminal_size().columns if sys.stdout is not None and sys.stdout.isatty() else None


def _rich_table(headers: Sequence[str], rows: Sequence[Sequence[str]], title: str, texts: Sequence[bool]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # One space of padding and one in place of a line between columns make the gap.
    grid = Table(
        title=Text(title) if title else None,
        box=box.SIMPLE_HEAD,
        padding=(0, GAP - 1, 0, 0),
        pad_edge=False,
        title_justify="left",
        title_style="bold",
    )
    for header, text in zip(headers, texts, strict=True):
        grid.add_column(Text(header), justify="left" if text else "right", overflow="fold", no_wrap=not text)
    for row in rows:
        # Text objects: names of the user's files may hold what rich would read as markup.
        grid.add_row(*(Text(cell) for cell in row))
    Console().print(grid)


def write_csv(path: str | Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Rows as CSV; the columns are those of all rows, in the order they first appear. `None` is an empty cell."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    from shmoo.runs.store.files import csv_bytes

    writing(path).write_bytes(csv_bytes(columns, rows))


def write_columns(path: str | Path, blocks: Sequence[Mapping[str, Sequence[object]]]) -> int:
    """As `write_csv`, of blocks of rows held as columns; returns the number of rows."""
    from shmoo.runs.store.files import csv_of_blocks

    writing(path).write_bytes(csv_of_blocks(blocks))
    return sum(len(next(iter(block.values()))) for block in blocks)


def writing(path: str | Path) -> Path:
    """A path to write to; its folder is made. `InputError` where that cannot be."""
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write {str(target)!r}: {error.strerror}") from None
    if target.is_dir():
        raise InputError(f"cannot write {str(target)!r}: it is a directory; name a file")
    return target
