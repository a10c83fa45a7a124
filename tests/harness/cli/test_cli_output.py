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


@pytest.mark.parametrize("columns", [80, 120, 200])
def test_no_line_is_longer_than_the_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    """Names, reasons and headers fold, words first; every number stays on one line and nothing is lost."""
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    headers = ["module of the network", "reason why", "operators alone / whole", "measured latency", "90 % interval"]
    name, reason = "encoder.layers." * 9, "the core ran at half of its usual speed; " * 16
    output.table(headers, [[name, reason, "0.73", "48.9 µs", "27.4 µs to 120 µs"]], title="A title that says a lot " * 8, left=2)
    text = click.unstyle(capsys.readouterr().out)
    lines = text.splitlines()
    assert max(map(len, lines)) <= columns
    (line,) = (line for line in lines if "48.9 µs" in line)
    assert "0.73" in line
    assert "27.4 µs to 120 µs" in line
    seen = "".join(text.split())
    assert seen.count("speed") == 16
    assert seen.count(".") == 2 * 9 + len(("0.73", "48.9", "27.4"))
