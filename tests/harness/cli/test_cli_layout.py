"""Where tables are narrowed: which columns go, what is folded, and that a number never is."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shmoo.estimators.errors import InputError
from shmoo.estimators.shown_columns import Cell
from shmoo.harness.cli.layout import (
    NARROWEST,
    View,
    columns_of,
    fitted,
    grid,
    order_of,
    room_beside,
    total_width,
    with_room,
    wrapped,
)

WORDS = st.text(alphabet="abc ._", min_size=1, max_size=60).filter(str.strip)
NUMBERS = st.integers(0, 10**9).map(lambda n: f"{n} µs")


@settings(deadline=None)
@given(
    st.lists(st.tuples(WORDS, NUMBERS, NUMBERS, NUMBERS), min_size=1, max_size=5),
    st.integers(20, 120),
)
def test_a_number_stands_whole_on_one_line_of_any_terminal(rows: list[tuple[str, ...]], available: int) -> None:
    """Columns go until the others fit; those that stay lose no character, and words are broken first."""
    columns = with_room(columns_of(["name", "a", "b", "c"], rows, 1), available, ("c", "b"))
    shown, widths = fitted(columns, available)
    head, body = grid(shown, widths, (), available)
    numbers = {"a": 1, "b": 2, "c": 3}
    for row in rows:
        kept = [row[numbers[column.header]] for column in columns if column.header in numbers]
        assert any(all(cell in line for cell in kept) for line in body)
    if total_width(widths) <= available:
        assert max(map(len, (*head, *body))) <= available
    texts = "".join("".join(row[0].split()) for row in rows)
    assert sorted(texts) == sorted(c for line in body for c in line[: widths[0]] if not c.isspace())


def test_columns_go_by_priority() -> None:
    """The first named goes first; one that is named later but fits beside what stays is kept."""
    columns = columns_of(["name", "wide", "small"], [["x", "123456789012345678", "1"]], 1)
    kept = {width: [column.header for column in with_room(columns, width, ("small", "wide"))] for width in (31, 25, 13)}
    assert kept == {31: ["name", "wide", "small"], 25: ["name", "wide"], 13: ["name", "small"]}


def test_rows_are_sorted_by_value_and_not_by_text() -> None:
    """900 µs come before 1.2 ms, in either order what is not known comes last, and counts are numbers."""
    rows = [["b", Cell("1.20 ms", 1.2e-3), "10"], ["a", Cell("900 µs", 9e-4), "9"], ["c", Cell("unknown", None), ""]]
    columns = columns_of(["name", "time", "count"], rows, 1)
    orders = {sort: order_of(columns, View(sort=sort)) for sort in ("", "time", "-time", "name", "count", "-count")}
    assert orders == {
        "": [0, 1, 2],
        "time": [1, 0, 2],
        "-time": [0, 1, 2],
        "name": [1, 0, 2],
        "count": [1, 0, 2],
        "-count": [0, 1, 2],
    }
    assert order_of(columns, View(sort="time", top=1)) == [1]
    assert order_of(columns, View(top=0)) == []


@pytest.mark.parametrize("view", [View(columns=("nmae",)), View(sort="-nmae")])
def test_a_misspelt_column_gets_the_nearest(view: View) -> None:
    """Of --columns and of --sort."""
    with pytest.raises(InputError, match="did you mean 'name'"):
        view.check(["name", "time"])


def test_long_names_are_broken_after_a_mark() -> None:
    """Words stay whole where they can, the indent of a tree stays in front, and nothing is lost."""
    assert wrapped("device_launch.attention_tensor", 24) == ["device_launch.attention_", "tensor"]
    assert wrapped("    encoder.layers.11", 16) == ["    encoder.", "layers.11"]
    assert wrapped("x" * 30, NARROWEST) == ["x" * 12, "x" * 12, "x" * 6]
    assert wrapped("one two three four", 12) == ["one two", "three four"]
    assert wrapped("one two three four", None) == ["one two three four"]


def test_what_is_said_of_a_row_stands_under_it() -> None:
    """Indented, and folded to the terminal."""
    columns = columns_of(["name", "n"], [["a", "1"], ["b", "2"]], 1)
    _, body = grid(columns, [4, 1], ["", "no kernel was there to run"], 20)
    assert body == ["a     1", "b     2", "    no kernel was", "    there to run"]


def test_room_for_a_label() -> None:
    """What columns leave, with a gap before them."""
    assert room_beside(["n", "time"], [["1", "10 ms"]], 40) == 40 - 2 - 1 - 2 - 5
