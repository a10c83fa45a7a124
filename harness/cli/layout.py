"""Tables as lines of text: the columns there is room for, the order of rows, and where text is broken. A number never is."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from shmoo.estimators.errors import unknown
from shmoo.estimators.shown_columns import Cell

PROSE = 40
"""Columns of longer cells are text, wherever they stand."""
NARROWEST = 12
"""A column of text is folded to no fewer characters than this."""
GAP = 2
"""Characters between two columns."""
MARKS = "._/,=+"
"""Characters after which a name that is too long for its column is broken."""
INDENT = " " * 4
"""Before what is folded under a row."""


@dataclass(frozen=True, slots=True)
class View:
    """What a person wants to see of a table.

    Attributes:
        wide: every column, however narrow the terminal.
        columns: headers to show, in this order; all where none is named.
        sort: header to sort by; from the largest with a "-" before it. "" keeps the order.
        top: rows to show; `None` for all.
    """

    wide: bool = False
    columns: tuple[str, ...] = ()
    sort: str = ""
    top: int | None = None

    def check(self, headers: Collection[str]) -> None:
        """`InputError` that suggests the nearest header where the table has no such column."""
        for name in (*self.columns, *([self.sort.removeprefix("-")] if self.sort else [])):
            if name not in headers:
                raise unknown("column", name, headers)


@dataclass(frozen=True, slots=True)
class LaidOut:
    """A column as it is laid out.

    Attributes:
        text: whether cells are words, which stand on the left and may be broken; numbers stand on the right.
        values: what rows are sorted by.
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
        """Characters it takes where its header stands on several lines and its prose is broken."""
        width = max(len(text) for text in (*self.header.split(), *self.cells, "-"))
        return min(width, PROSE) if self.text else width

    def folded_header(self) -> LaidOut:
        """The column, its header on as many lines as the width of its cells asks for; words stay whole."""
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
    made = []
    for i, header in enumerate(headers):
        listed = [row[i] for row in rows]
        cells = tuple(cell.text if isinstance(cell, Cell) else cell for cell in listed)
        values = tuple(cell.value if isinstance(cell, Cell) else cell for cell in listed)
        column = LaidOut(header, cells, i < left, values)
        made.append(replace(column, text=column.text or column.width > PROSE))
    return made


def order_of(columns: Sequence[LaidOut], view: View) -> list[int]:
    """Rows to show, in the order asked for."""
    count = len(columns[0].cells) if columns else 0
    order = list(range(count))
    if view.sort:
        values = next(column.values for column in columns if column.header == view.sort.removeprefix("-"))
        known = [i for i in order if values[i] not in (None, "")]
        known.sort(key=lambda i: _sort_key(values[i]), reverse=view.sort.startswith("-"))
        order = [*known, *(i for i in order if values[i] in (None, ""))]
    return order[: view.top]


def _sort_key(value: float | str | None) -> tuple[bool, float, str]:
    """Numbers, also those written as text, before words."""
    if isinstance(value, str):
        try:
            return False, float(value), ""
        except ValueError:
            return True, 0.0, value
    return False, value or 0.0, ""


def with_room(columns: Sequence[LaidOut], available: int, drop: Sequence[str]) -> list[LaidOut]:
    """The columns that fit into `available` characters; those named in `drop` go first, from its first name on."""
    kept = {column.header for column in columns if column.header not in drop}
    for name in reversed(drop):
        more = kept | {name}
        if total_width(c.least_width for c in columns if c.header in more) <= available:
            kept = more
    return [column for column in columns if column.header in kept]


def fitted(columns: Sequence[LaidOut], available: int | None) -> tuple[list[LaidOut], list[int]]:
    """The columns with the width of each: headers take several lines, and then text is broken, the widest column first, until
    all fit. Where the numbers alone are wider, or nothing limits them, columns are as wide as they are."""
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
    listed = list(widths)
    return sum(listed) + GAP * (len(listed) - 1)


def room_beside(headers: Sequence[str], rows: Sequence[Sequence[str | Cell]], available: int) -> int:
    """Characters that columns leave for one more."""
    return available - total_width([0, *(column.folded_header().width for column in columns_of(headers, rows, 0))])


def grid(columns: Sequence[LaidOut], widths: Sequence[int], under: Sequence[str], available: int | None) -> tuple[list[str], ...]:
    """Lines of the head, and lines of the rows, each with what is folded under it.

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
    """Text on lines of a width, names that are longer broken after a mark, numbers beside their units; on one line where the
    width is `None`."""
    if width is None or len(text) <= width:
        return [text]
    room, lines = max(width, NARROWEST), []
    lead = text[: len(text) - len(text.lstrip())]
    whole = _AMOUNT.sub(r"\1" + _NO_BREAK, text.strip())
    for line in textwrap.wrap(whole, room, initial_indent=lead, break_long_words=False):
        line = line.replace(_NO_BREAK, " ")
        while len(line) > room:
            begin = len(line) - len(line.lstrip()) + 1
            cut = 1 + max(line.rfind(mark, begin, room) for mark in MARKS) or room
            lines.append(line[:cut].rstrip())
            line = line[cut:]
        lines.append(line)
    return lines or [""]
