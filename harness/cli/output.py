"""Results to stdout, messages to stderr; rich on a terminal, plain text elsewhere."""

from __future__ import annotations

import contextlib
import csv
import json
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import click

from shmoo.estimators.errors import InputError

PROSE = 40
"""Columns of longer cells are text that may be broken over lines on a terminal."""
PADDING = 3
"""What a table of rich has between two columns."""


def message(text: str) -> None:
    """One line for the person, on stderr."""
    click.echo(text, err=True)


def result(text: str) -> None:
    """A result, on stdout."""
    click.echo(text)


def json_document(document: object) -> None:
    """The one JSON document of a command, on stdout. A NaN or an infinity is a fault of ours and raises ValueError."""
    click.echo(json.dumps(document, indent=1, allow_nan=False))


def tell_of_code(models: Iterable[str]) -> None:
    """Say which of the named models are made by running code of the user's."""
    from shmoo.harness.workloads.loading import is_factory

    for model in filter(is_factory, models):
        message(f"{model}: running its code to make the model")


@contextlib.contextmanager
def only_results_on_stdout() -> Iterator[None]:
    """While a user's model or a library runs: what it prints goes to stderr, so that stdout stays readable by programs."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


def table(headers: Sequence[str], rows: Iterable[Sequence[str]], title: str = "", left: int = 1) -> None:
    """A table on stdout. The first `left` columns are text, and so are those of long cells; the others are aligned right."""
    listed = [list(row) for row in rows]
    widths = [max(len(line[i]) for line in (list(headers), *listed)) for i in range(len(headers))]
    prose = [width > PROSE for width in widths]
    texts = [i < left or folds for i, folds in enumerate(prose)]
    # Cut to the width of a narrow terminal, numbers would be broken over lines; whole rows that run over its edge are not.
    if sys.stdout.isatty() and sum(min(w, PROSE) + PADDING for w in widths) <= shutil.get_terminal_size().columns:
        _rich_table(headers, listed, title, texts, prose)
        return
    if title:
        result(title)
    for line in (list(headers), *listed):
        cells = [c.ljust(w) if text else c.rjust(w) for c, w, text in zip(line, widths, texts, strict=True)]
        result("  ".join(cells).rstrip())


def _rich_table(
    headers: Sequence[str], rows: Sequence[Sequence[str]], title: str, texts: Sequence[bool], prose: Sequence[bool]
) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table(title=title or None, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
    for i, header in enumerate(headers):
        grid.add_column(header, justify="left" if texts[i] else "right", overflow="fold", no_wrap=not prose[i])
    for row in rows:
        # Text objects: names of the user's files may hold what rich would read as markup.
        grid.add_row(*(Text(cell) for cell in row))
    Console().print(grid)


def write_csv(path: str | Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Rows as CSV; the columns are those of all rows, in the order they first appear. `None` is an empty cell."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with writing(path).open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


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
