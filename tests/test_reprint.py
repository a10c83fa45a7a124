"""Outputs in the documentation are replaced by what their commands print now."""

from __future__ import annotations

import click
import pytest

from tests.reprint import refreshed, renewed

PAGE = """# A page

```console
$ shmoo estimate mlp --arch gpu_t4
arch    latency
gpu_t4  1.00 ms
$ shmoo measure --suite quick
7 cases
$ shmoo doctor
$ shmoo estimate mlp --arch cpu_local
arch       latency
cpu_local  3.00 ms
```

```sh
shmoo estimate mlp
```
"""


def test_outputs_of_estimates_are_replaced() -> None:
    """Those of other commands, of profiles measured elsewhere, and commands without an output stay."""
    asked = []

    def run(command: str, on_terminal: bool) -> list[str]:
        asked.append((command, on_terminal))
        return ["arch    latency", "gpu_t4  2.00 ms"]

    assert refreshed(PAGE, run) == PAGE.replace("1.00 ms", "2.00 ms")
    assert asked == [("shmoo estimate mlp --arch gpu_t4", False)]


def test_a_table_of_a_terminal_is_asked_for_as_one() -> None:
    """A line below the head tells."""
    page = PAGE.replace("arch    latency\n", "arch    latency\n───────────────\n")
    asked: list[bool] = []

    def run(command: str, on_terminal: bool) -> list[str]:
        asked.append(on_terminal)
        return ["printed"]

    assert "printed" in refreshed(page, run)
    assert asked == [True]


def test_rows_that_were_shown_are_shown_again() -> None:
    """By the cells before the first measured column, in the order of the page; `...` stands for the others."""
    shown = ["arch  batch  latency", "a         1  1.00 ms", "...", "b        64  2.00 ms"]
    rows = ["a         1  1.50 ms", "a        64  1.60 ms", "b         1  2.40 ms", "b        64  2.50 ms"]
    printed = ["arch  batch  latency", *rows]
    assert renewed(shown, printed) == ["arch  batch  latency", "a         1  1.50 ms", "...", "b        64  2.50 ms"]
    with pytest.raises(click.ClickException, match="b        64"):
        renewed(shown, printed[:3])


def test_a_table_with_other_columns_is_shown_whole() -> None:
    """Which of its rows a page leaves out is then for its writer to say."""
    shown = ["arch  batch  latency", "a         1  1.00 ms", "...", "a        64  2.00 ms"]
    printed = ["arch a", "batch  latency", "    1  1.50 ms", "   64  2.50 ms"]
    assert renewed(shown, printed) == printed
