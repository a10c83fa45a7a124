"""Columns of tables and their cells, the same in a terminal and on a page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from shmoo.estimators.units import UNKNOWN, percent, si, size


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of a table.

    Attributes:
        text: what is shown. value: what to sort by; an unknown one comes last in any order.
        tone: its colour on a page, "good", "fair", "poor", "source-..." or "". note: a second line there.
        numeric: whether it is aligned right there.
    """

    text: str
    value: float | str | None = None
    tone: str = ""
    note: str = ""
    numeric: bool = False


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table.

    Attributes:
        name: its heading.
        of: what a record has there: a text, a cell, or a value with the unit.
        unit: as `quantity` takes it; "text" of texts and cells. missing: shown for a value that is `None`.
    """

    name: str
    of: Callable[[Any], Any]
    unit: str = "text"
    missing: str = UNKNOWN

    def cell(self, record: object) -> Cell:
        """The cell of a record."""
        value: Any = self.of(record)
        if self.unit == "text":
            return value if isinstance(value, Cell) else Cell(str(value), str(value))
        return quantity(value, self.unit, unknown=self.missing)


def quantity(value: float | None, unit: str, note: str = "", tone: str = "", unknown: str = UNKNOWN) -> Cell:
    """A cell that shows a value with its unit and is sorted by it.

    Args:
        unit: as `si` takes it; "iB" for bytes of a memory, "%", "+%" and "0%" for a fraction as per cent with one digit
            behind the point, with its sign, and with none, and "#" for what is shown as it is.
    """
    if value is None:
        text = unknown
    elif unit == "#":
        text = str(value)
    elif unit.endswith("%"):
        text = percent(value, signed=unit == "+%", digits=0 if unit == "0%" else 1)
    else:
        text = size(value) if unit == "iB" else si(value, unit)
    return Cell(text, value, tone, note, numeric=True)
