"""Cells of columns: what each kind of unit shows, and what stands where a value is not known."""

from __future__ import annotations

import pytest

from shmoo.estimators.shown_columns import Cell, Column, quantity


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (1.5e-3, "s", "1.50 ms"),
        (2048, "B", "2.05 kB"),
        (2048, "iB", "2.00 KiB"),
        (12, "", "12.0"),
        (12, "#", "12"),
        (0.125, "%", "12.5 %"),
        (0.125, "+%", "+12.5 %"),
        (0.125, "0%", "12 %"),
    ],
)
def test_a_quantity_reads_as_its_unit_asks(value: float, unit: str, text: str) -> None:
    """And is sorted by the value itself."""
    assert quantity(value, unit) == Cell(text, value, numeric=True)


@pytest.mark.parametrize("unit", ["s", "iB", "%", "#"])
def test_what_is_not_known_is_said(unit: str) -> None:
    """In the words of the column, where it has some."""
    assert quantity(None, unit).text == "unknown"
    assert Column("x", lambda record: None, unit, "none").cell(0) == Cell("none", numeric=True)


def test_texts_and_cells_stand_as_they_are() -> None:
    """A text is sorted as a text."""
    made = Cell("1.000", 1.0, "good")
    assert Column("x", lambda record: made).cell(0) is made
    assert Column("x", str).cell(3) == Cell("3", "3")
