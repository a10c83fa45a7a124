"""Rows of published measurements that tests hold estimates against, in any checkout.

Each file of `measured/` has a few dozen rows of a published table, drawn by a hash of their text and so without a look at their
errors; its first line says what was measured and who published it.
"""

from __future__ import annotations

import csv
from pathlib import Path

FOLDER = Path(__file__).parent / "measured"


def measured_rows(name: str) -> list[dict[str, str]]:
    """The rows of a file of `measured/`, cells as text."""
    return list(csv.DictReader(_table(name).splitlines()))


def written_table(name: str, path: Path) -> Path:
    """`path`, which now holds a file of `measured/` as a plain operator table, without its source."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_table(name), encoding="utf-8")
    return path


def source_of(name: str) -> str:
    """What a file of `measured/` says of its origin."""
    return (FOLDER / name).read_text("utf-8").partition("\n")[0].removeprefix("# ")


def _table(name: str) -> str:
    return (FOLDER / name).read_text("utf-8").partition("\n")[2]
