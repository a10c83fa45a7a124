"""Tables as lines of text: the columns that fit, the order of rows, and line breaks in text. Numbers are never broken."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from shmoo.estimators.errors import unknown
from shmoo.estimators.shown_columns import Cell

PROSE = 40
"""Characters of a cell above which its column counts as text."""
NARROWEST = 12
"""Fewest characters to which a column of text is folded."""
GAP = 2
"""Characters between two columns."""
MARKS = "._/,=+"
"""Characters after which a name that is too long for its column is broken."""
INDENT = " " * 4
"""Indentation of text folded under a row."""


@dataclass(frozen=True, slots=True)
class View:
    """A person's choices for a table.

    Attributes:
        wide: show every column, however narrow the terminal.
        columns: headers to show, in this order; by default all.
        sort: header to sort by, in descending order with a "-" in front. "" keeps the order.
        top: rows to show; `None` for all.
    """

    wide: bool = False
    columns: tuple[str, ...] = ()
    sort: str = ""
    top: int | None = None

    def check(self, headers: Collection[str]) -> None:
        """`InputError` with the nearest header if the table lacks a chosen column."""
        for name in (*self.columns, *([self.sort.removeprefix("-")] if self.sort else [])):
            if name not in headers:
                raise unknown("column", name, headers)


@dataclass(frozen=True, slots=True)
class LaidOut:
    """A column in the layout.

    Attributes:
        text: whether cells are words, which are aligned left and may be broken; numbers are aligned right.
        values: sort keys of the rows.
    """

    header: str
    cells: tuple[str, ...]
    text: bool = False
    values: tuple[float | str | None, ...] = ()

    @property
    def width(self) -> int:
        """Characters of its longest line."""
        return max(len(line) for text in (self.header, *self.cells) for line in text.split("\n"))

    @property
    def least_width(self) -> int:
        """Characters it takes with its header on several lines and its prose broken."""
        width = max(len(text) for text in (*self.header.split(), *self.cells, "-"))
        return min(width, PROSE) if self.text else width

    def folded_header(self) -> LaidOut:
        """The column with its header folded to the width of its cells; words stay whole."""
        width = max(len(text) for text in (*self.header.split(), *self.cells, "-"))
        return replace(self, header="\n".join(textwrap.wrap(self.header, width)))

    def rows(self, order: Sequence[int]) -> LaidOut:
        """The column of these rows."""
        return replace(self, cells=tuple(self.cells[i] for i in order))

    def lines(self, text: str, width: int) -> list[str]:
        """A cell or the header on lines of this width."""
        if not self.text:
            return [line.rjust(width) for line in text.split("\n")]
        return [line.ljust(width) for part in text.split("\n") for line in wrapped(part, width)]


def columns_of(headers: Sequence[str], rows: Sequence[Sequence[str | Cell]], left: int) -> list[LaidOut]:
    """Columns of rows; the first `left` are text, and so are those with long cells."""
    columns = []
    for i, header in enumerate(headers):
        column_cells = [row[i] for row in rows]
        cells = tuple(cell.text if isinstance(cell, Cell) else cell for cell in column_cells)
        values = tuple(cell.value if isinstance(cell, Cell) else cell for cell in column_cells)
        column = LaidOut(header, cells, i < left, values)
        columns.append(replace(column, text=column.text or column.width > PROSE))
    return columns


def order_of(columns: Sequence[LaidOut], view: View) -> list[int]:
    """Indices of the rows to show, in the requested order."""
    count = len(columns[0].cells) if columns else 0
    order = list(range(count))
    if view.sort:
        values = next(column.values for column in columns if column.header == view.sort.removeprefix("-"))
        rows_with_value = [i for i in order if values[i] not in (None, "")]
        rows_with_value.sort(key=lambda i: _sort_key(values[i]), reverse=view.sort.startswith("-"))
        order = [*rows_with_value, *(i for i in order if values[i] in (None, ""))]
    return order[: view.top]


def _sort_key(value: float | str | None) -> tuple[bool, float, str]:
    """Sort key that puts numbers, including numbers in text form, before words."""
    if isinstance(value, str):
        try:
            return False, float(value), ""
        except ValueError:
            return True, 0.0, value
    return False, value or 0.0, ""


def with_room(columns: Sequence[LaidOut], available: int, drop: Sequence[str]) -> list[LaidOut]:
    """The columns that fit into `available` characters; columns in `drop` are removed first, in its order."""
    kept_headers = {column.header for column in columns if column.header not in drop}
    for name in reversed(drop):
        candidate = kept_headers | {name}
        if total_width(c.least_width for c in columns if c.header in candidate) <= available:
            kept_headers = candidate
    return [column for column in columns if column.header in kept_headers]


def fitted(columns: Sequence[LaidOut], available: int | None) -> tuple[list[LaidOut], list[int]]:
    """The columns with their widths: headers are folded, then text is broken, the widest column first, until all fit. If the
    numbers alone are too wide, or nothing limits the width, columns keep their widths."""
    natural = [column.width for column in columns]
    if available is None or total_width(natural) <= available:
        return list(columns), natural
    folded = [column.folded_header() for column in columns]
    widths = [column.width for column in folded]
    texts = [i for i, column in enumerate(columns) if column.text and column.width > NARROWEST]
    while texts and total_width(widths) > available:
        widest = max(texts, key=lambda i: widths[i])
        if widths[widest] <= NARROWEST:
            break
        widths[widest] -= 1
    return (list(columns), natural) if total_width(widths) > available else (folded, widths)


def total_width(widths: Iterable[int]) -> int:
    """Characters that columns of these widths take with their gaps."""
    all_widths = list(widths)
    return sum(all_widths) + GAP * (len(all_widths) - 1)


def room_beside(headers: Sequence[str], rows: Sequence[Sequence[str | Cell]], available: int) -> int:
    """Characters that columns leave for one more."""
    return available - total_width([0, *(column.folded_header().width for column in columns_of(headers, rows, 0))])


def grid(columns: Sequence[LaidOut], widths: Sequence[int], under: Sequence[str], available: int | None) -> tuple[list[str], ...]:
    """Lines of the head, and lines of each row with the text folded under it.

    Args:
        under: a text for each row, "" for none; () for none at all.
        available: characters of a line of that text; `None` for one line.
    """

    def line(texts: Sequence[str]) -> list[str]:
        parts = [column.lines(text, width) for column, text, width in zip(columns, texts, widths, strict=True)]
        height = max(map(len, parts))
        filled = [part + [" " * width] * (height - len(part)) for part, width in zip(parts, widths, strict=True)]
        return [(" " * GAP).join(pieces).rstrip() for pieces in zip(*filled, strict=True)]

    body = []
    for i in range(len(columns[0].cells)):
        body += line([column.cells[i] for column in columns])
        if under and under[i]:
            body += [INDENT + part for part in wrapped(under[i], None if available is None else available - len(INDENT))]
    return line([column.header for column in columns]), body


_NO_BREAK = "\0"
_AMOUNT = re.compile(r"(\d) (?=[fpnµmkMGTP]?(?:s|J|W|B|Hz|flop)\b|[KMGT]iB\b|%)")
"""A number before its unit."""


def wrapped(text: str, width: int | None) -> list[str]:
    """Text on lines of a width; longer names are broken after a mark, and numbers stay with their units. One line if the width is
    `None`."""
    if width is None or len(text) <= width:
        return [text]
    room, lines = max(width, NARROWEST), []
    lead = text[: len(text) - len(text.lstrip())]
    joined = _AMOUNT.sub(r"\1" + _NO_BREAK, text.strip())
    for line in textwrap.wrap(joined, room, initial_indent=lead, break_long_words=False):
        line = line.replace(_NO_BREAK, " ")
        while len(line) > room:
            begin = len(line) - len(line.lstrip()) + 1
            cut = 1 + max(line.rfind(mark, begin, room) for mark in MARKS) or room
            lines.append(line[:cut].rstrip())
            line = line[cut:]
        lines.append(line)
    return lines or [""]
