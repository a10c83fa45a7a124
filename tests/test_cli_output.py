"""What tables look like in a file and on terminals of any width."""

from __future__ import annotations

import sys

import click
import pytest

from shmoo.harness.cli import output

HEADERS = ["model", "latency", "90 % interval", "energy"]
ROWS = [["efficientnet_b0", "48.9 µs", "27.4 µs - 120 µs", "6.92 mJ"], ["resnet18", "1.00 ms", "900 µs - 1.20 ms", "142 mJ"]]


def printed(capsys: pytest.CaptureFixture[str], rows: list[list[str]] = ROWS) -> list[str]:
    output.table(HEADERS, rows)
    return click.unstyle(capsys.readouterr().out).splitlines()


def test_a_file_gets_plain_columns(capsys: pytest.CaptureFixture[str]) -> None:
    """Text on the left, numbers on the right, two spaces between, nothing else."""
    assert printed(capsys) == [
        "model            latency     90 % interval   energy",
        "efficientnet_b0  48.9 µs  27.4 µs - 120 µs  6.92 mJ",
        "resnet18         1.00 ms  900 µs - 1.20 ms   142 mJ",
    ]


@pytest.mark.parametrize("columns", ["40", "80"])
def test_a_terminal_of_any_width_keeps_numbers_whole(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    """Where the table fits it has a rule below its head; where it does not, rows run over the edge."""
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    lines = printed(capsys)
    for row in ROWS:
        assert any(all(cell in line for cell in row) for line in lines)
    assert any("──" in line for line in lines) == (columns == "80")


def test_only_prose_is_broken_over_lines(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A reference of 200 characters is folded, the numbers beside it are not."""
    monkeypatch.setenv("COLUMNS", "110")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    lines = printed(capsys, [*ROWS, ["vit_b_16", "2.00 ms", "1.90 ms - 2.20 ms", "datasheet " * 20]])
    assert max(map(len, lines)) <= 110
    assert any("1.90 ms - 2.20 ms" in line and "vit_b_16" in line for line in lines)
