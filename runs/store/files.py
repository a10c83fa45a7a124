"""Files of runs and reports: only regular files are read, and a file is written under a temporary name, then renamed.

A directory may come from a stranger, so a link in it cannot redirect a writer and a pipe cannot block a reader.
"""

from __future__ import annotations

import csv
import errno
import fcntl
import io
import os
import secrets
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice, repeat
from pathlib import Path
from typing import BinaryIO

from shmoo.estimators.errors import InputError

BLOCK = 1000
"""Rows per block."""
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""First characters that make a spreadsheet take a cell for a formula."""


def open_regular(path: str | Path) -> BinaryIO:
    """Open a regular file for reading; `InputError` for a pipe, a device or a directory."""
    return os.fdopen(_regular(path, os.O_RDONLY)[0], "rb")


def read_regular(path: str | Path) -> bytes:
    """The content of a regular file; raises as `open_regular`."""
    descriptor, size = _regular(path, os.O_RDONLY)
    parts = []
    try:
        # A run has a file per graph; allocating a buffer for each would take longer than reading it.
        while part := os.read(descriptor, size + 1):
            parts.append(part)
    finally:
        os.close(descriptor)
    return b"".join(parts)


def open_unlinked(path: Path, flags: int) -> int:
    """A descriptor for writing to a file; `InputError` for a symbolic link and for anything but a regular file."""
    try:
        return _regular(path, flags | os.O_NOFOLLOW)[0]
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise InputError(f"{path} is a symbolic link, and nothing is written through one; remove it") from None
        raise


def _regular(path: str | Path, flags: int) -> tuple[int, int]:
    """A descriptor of a regular file, and its size."""
    # Without O_NONBLOCK, open() of a pipe with no other end would block.
    descriptor = os.open(path, flags | os.O_NONBLOCK, 0o666)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise InputError(f"{path} is not a regular file; remove it, or name another")
    return descriptor, status.st_size


def replace_file(path: Path, data: bytes) -> None:
    """Write a file atomically: a reader sees the old content or all of the new one, and a link of that name is replaced, not
    followed. `InputError` where the name is that of a device or a pipe, or of a link to one; an `OSError` leaves nothing
    behind."""
    if path.exists() and not path.is_file() and not path.is_dir():
        raise InputError(f"{path} is not a regular file; name another")
    temporary = path.with_name(f".{path.name[:200]}.{secrets.token_hex(8)}.tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
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
    """Create a folder with its parents and return it; `InputError` where the name is that of a symbolic link."""
    if path.is_symlink():
        raise InputError(f"{path} is a symbolic link, and nothing is written through one; remove it, or name another folder")
    path.mkdir(parents=True, exist_ok=True)
    return path


def csv_bytes(columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> bytes:
    """Rows as CSV in UTF-8 with these columns. `None` and missing values are empty cells. Text that a spreadsheet would take for
    a formula gets an apostrophe in front."""
    return csv_of_blocks(list(blocks_of(rows)), columns)


def blocks_of(rows: Iterable[Mapping[str, object]]) -> Iterator[dict[str, list[object]]]:
    """Blocks of rows, each stored as columns, which take a fraction of the memory of the rows."""
    elements = iter(rows)
    while part := list(islice(elements, BLOCK)):
        yield {name: [row.get(name) for row in part] for name in dict.fromkeys(chain.from_iterable(part))}


def csv_of_blocks(blocks: Sequence[Mapping[str, Sequence[object]]], columns: Sequence[str] = ()) -> bytes:
    """As `csv_bytes`, from blocks stored as columns; by default with the columns of all blocks, in order of first appearance."""
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
    """The lines of a file up to a position, one at a time, so that a large run is never in memory twice."""
    file.seek(0)
    while (remaining := end - file.tell()) > 0:
        yield file.readline(remaining)


def sync_directory(path: Path) -> None:
    """Flush a directory's entries to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def lock_directory(directory: Path) -> int | None:
    """A descriptor that locks a folder against other writers until it is closed; `InputError` where another writer has the lock,
    `None` on a file system without locks."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise InputError(f"another process writes into {directory}; wait until it has ended, or name another --out") from None
    except OSError:
        os.close(descriptor)
        return None
    return descriptor
