"""Files of runs and reports: read as regular files only, and written beside their name and then put in its place.

A directory may come from anybody: a link or a pipe in it leads no writer elsewhere and holds no reader up."""

from __future__ import annotations

import csv
import errno
import io
import os
import secrets
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice, repeat
from pathlib import Path
from typing import BinaryIO

from shmoo.estimators.errors import InputError

NO_LINK = getattr(os, "O_NOFOLLOW", 0)
BLOCK = 1000
"""Rows of a block."""
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""First characters that make a spreadsheet take a cell for a formula."""


def open_regular(path: str | Path) -> BinaryIO:
    """A regular file to read from; `InputError` for a pipe, a device or a directory."""
    return os.fdopen(_regular(path, os.O_RDONLY)[0], "rb")


def read_regular(path: str | Path) -> bytes:
    """The content of a regular file; raises as `open_regular`."""
    descriptor, size = _regular(path, os.O_RDONLY)
    parts = []
    try:
        # Runs have a file for each graph: a buffer for each would take longer than reading it.
        while part := os.read(descriptor, size + 1):
            parts.append(part)
    finally:
        os.close(descriptor)
    return b"".join(parts)


def open_unlinked(path: Path, flags: int) -> int:
    """A descriptor of a file to write to; `InputError` for a symbolic link, and for what is no regular file."""
    try:
        return _regular(path, flags | NO_LINK)[0]
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise InputError(f"{path} is a symbolic link, and nothing is written through one; remove it") from None
        raise


def _regular(path: str | Path, flags: int) -> tuple[int, int]:
    """A descriptor of a regular file, and its size."""
    # Without another end a pipe would block in open().
    descriptor = os.open(path, flags | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0), 0o666)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise InputError(f"{path} is no regular file; remove it, or name another")
    return descriptor, status.st_size


def replace_file(path: Path, data: bytes) -> None:
    """Write a file at once: a reader sees the old content or all of the new one, and a link at its name is replaced, not
    followed. `InputError` where a device or a pipe stands at its name, or a link to one; an `OSError` leaves nothing behind."""
    if path.exists() and not path.is_file() and not path.is_dir():
        raise InputError(f"{path} is no regular file; name another")
    temporary = path.with_name(f".{path.name[:200]}.{secrets.token_hex(8)}.tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | NO_LINK | getattr(os, "O_BINARY", 0)
    try:
        with os.fdopen(os.open(temporary, flags, 0o666), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error


def own_folder(path: Path) -> Path:
    """A folder, made with its parents; `InputError` where a symbolic link stands at its name."""
    if path.is_symlink():
        raise InputError(f"{path} is a symbolic link, and nothing is written through one; remove it, or name another folder")
    path.mkdir(parents=True, exist_ok=True)
    return path


def csv_bytes(columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> bytes:
    """Rows as CSV in UTF-8 with these columns. `None` and what a row lacks are empty cells. A text that a spreadsheet would take
    for a formula begins with an apostrophe."""
    return csv_of_blocks(list(blocks_of(rows)), columns)


def blocks_of(rows: Iterable[Mapping[str, object]]) -> Iterator[dict[str, list[object]]]:
    """Blocks of rows, each held as columns, which takes a fraction of the memory of the rows."""
    elements = iter(rows)
    while part := list(islice(elements, BLOCK)):
        yield {name: [row.get(name) for row in part] for name in dict.fromkeys(chain.from_iterable(part))}


def csv_of_blocks(blocks: Sequence[Mapping[str, Sequence[object]]], columns: Sequence[str] = ()) -> bytes:
    """As `csv_bytes`, of blocks of rows held as columns; by default the columns of all blocks, in the order they first appear."""
    names = columns or list(dict.fromkeys(chain.from_iterable(blocks)))

    def rows(block: Mapping[str, Sequence[object]]) -> Iterator[tuple[object, ...]]:
        count = len(next(iter(block.values())))
        return zip(*(map(_plain, block[name]) if name in block else repeat(None, count) for name in names), strict=True)

    encoded = io.BytesIO()
    text = io.TextIOWrapper(encoded, "utf-8", "backslashreplace", newline="")
    csv.writer(text).writerows(chain([names], chain.from_iterable(map(rows, blocks))))
    text.flush()
    return encoded.getvalue()


def _plain(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def lines_until(file: BinaryIO, end: int) -> Iterator[bytes]:
    """The lines of a file up to a position, one after another, so that a large run is never in memory twice."""
    file.seek(0)
    while (left := end - file.tell()) > 0:
        yield file.readline(left)


def sync_directory(path: Path) -> None:
    """Have the names of a directory's files on the disk, where the system can."""
    if os.name == "posix":
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
