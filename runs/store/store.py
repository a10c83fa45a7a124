"""A run on disk: run.json, rows.jsonl (append-only, a line and an fsync for each visit to a case) and graphs/<content hash>.json.

Nothing measured is ever overwritten, and a crash at any moment loses at most the row being written: graphs are on disk before
the row that names them, a row is one line, and a torn last line is moved to rows.torn before writing goes on.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

import msgspec

from shmoo.estimators.errors import FormatError, InputError
from shmoo.estimators.graph.records import Graph, decode_versioned
from shmoo.runs.store.records import FINGERPRINT_FIELDS, RUN_FORMAT, CaseSpec, Machine, Measurement, RunManifest
from shmoo.runs.store.visits import decode_row, merge_visits

MANIFEST = "run.json"
ROWS = "rows.jsonl"
TORN = "rows.torn"
GRAPHS = "graphs"
SKIPPED = "skipped.json"


class SkippedCase(msgspec.Struct, frozen=True):
    """A case that a campaign did not reach, and the reason."""

    case: CaseSpec
    reason: str


class Run:
    """A run read from disk.

    Attributes:
        path: its directory.
        manifest: the content of run.json.
        lines: all whole lines of rows.jsonl in the order of measurement, failed ones included; each is one visit to a case.
        rows: one row per case with its visits merged, in the order of the first visits.
        problems: messages about data that were set aside while reading.
        rows_hash: first 16 hex digits of SHA-256 over the rows; it identifies the data of a fit.
    """

    def __init__(self, path: Path, manifest: RunManifest, lines: tuple[bytes, ...], problems: tuple[str, ...]) -> None:
        self.path = path
        self.manifest = manifest
        self.problems = problems
        rows = path / ROWS
        self.lines = tuple(decode_row(line, f"{rows}, line {number}") for number, line in enumerate(lines, 1) if line.strip())
        self.rows = merge_visits(self.lines)
        self.rows_hash = hashlib.sha256(b"\n".join(line.strip() for line in lines)).hexdigest()[:16]
        self._graphs: dict[str, Graph] = {}

    @classmethod
    def open(cls, directory: str | Path) -> Run:
        """Read a run.

        Raises:
            InputError: no run there.
            FormatError: run.json or a row other than a torn last one is damaged (line number), holds a time that is not positive,
                or is of a newer format (both versions).
        """
        path = Path(directory)
        manifest = read_manifest(path)
        lines, torn = _split_rows(path)
        problems: tuple[str, ...] = ()
        if torn:
            problems = (
                f"{path / ROWS}, line {len(lines) + 1}: the last row is cut short ({len(torn)} bytes) and was set aside; "
                f"the {len(lines)} rows before it are used, `--resume` measures its case again",
            )
        return cls(path, manifest, lines, problems)

    def graph(self, content_hash: str) -> Graph:
        """The graph with this hash, read on first use.

        Raises:
            FormatError: its file is missing or damaged.
        """
        if content_hash not in self._graphs:
            path = self.path / GRAPHS / f"{content_hash}.json"
            try:
                graph = Graph.from_json(path.read_bytes(), str(path))
            except FileNotFoundError:
                raise FormatError(
                    f"{path} is missing though a row names it; copy the whole run directory, graphs included"
                ) from None
            if graph.content_hash != content_hash:
                raise FormatError(f"{path} holds graph {graph.content_hash}, not the one it is named after; the file was changed")
            self._graphs[content_hash] = graph
        return self._graphs[content_hash]

    def graphs(self, row: Measurement) -> tuple[Graph, ...]:
        """The graphs of one row, in order; `FormatError` as for `graph`."""
        return tuple(self.graph(content_hash) for content_hash in row.graph_hashes)

    @cached_property
    def visits(self) -> dict[str, list[Measurement]]:
        """Case identity -> its lines in order."""
        lines: dict[str, list[Measurement]] = {}
        for line in self.lines:
            lines.setdefault(line.case.identity, []).append(line)
        return lines

    @property
    def skipped(self) -> tuple[SkippedCase, ...]:
        """Cases that the last campaign into this run did not reach."""
        path = self.path / SKIPPED
        if not path.is_file():
            return ()
        try:
            return msgspec.json.decode(path.read_bytes(), type=tuple[SkippedCase, ...])
        except msgspec.MsgspecError as error:
            raise FormatError(f"cannot read {path}: {error}; it may be deleted, it holds nothing measured") from None


class RunWriter:
    """Writes a run. Use as a context manager, or `close` it.

    Args:
        directory: created with its parents.
        manifest: written for a new run, compared with the existing one for a resumed run.
        resume: continue the existing run, or start one where there is none.

    Raises:
        InputError: a run is there and `resume` is false, or it was measured on another machine, torch, driver or clock setting.
        FormatError: the run there cannot be read.
    """

    def __init__(self, directory: str | Path, manifest: RunManifest, *, resume: bool = False) -> None:
        self.path = Path(directory)
        exists = (self.path / MANIFEST).exists() or (self.path / ROWS).exists()
        if exists and not resume:
            raise InputError(
                f"{self.path} holds a run already, and a run is never overwritten; go on with --resume or name another --out"
            )
        (self.path / GRAPHS).mkdir(parents=True, exist_ok=True)
        if exists:
            check_same_machine(read_manifest(self.path).machine, manifest.machine, str(self.path))
            self._set_torn_row_aside()
        else:
            _write_atomically(self.path / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n")
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)
        self._file: int | None = os.open(self.path / ROWS, flags, 0o666)
        _sync_directory(self.path)

    def append(self, row: Measurement, graphs: Iterable[Graph] = ()) -> None:
        """Store one line and the graphs it names; both are on disk when this returns.

        Raises:
            OSError: the disk is full or failing. Nothing of this row stays behind; the rows before it are whole.
        """
        if self._file is None:
            raise ValueError(f"the writer of {self.path} is closed")
        for graph in graphs:
            self._write_graph(graph)
        line = msgspec.json.encode(row) + b"\n"
        start = os.fstat(self._file).st_size
        try:
            written = 0
            while written < len(line):
                written += os.write(self._file, line[written:])
            os.fsync(self._file)
        except OSError:
            os.ftruncate(self._file, start)
            raise

    def record_skipped(self, skipped: Iterable[SkippedCase]) -> None:
        """Replace the list of cases that this campaign did not reach."""
        listed = list(skipped)
        if listed:
            _write_atomically(self.path / SKIPPED, msgspec.json.format(msgspec.json.encode(listed), indent=1) + b"\n")
        else:
            (self.path / SKIPPED).unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file of rows; further calls do nothing."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def __enter__(self) -> RunWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write_graph(self, graph: Graph) -> None:
        path = self.path / GRAPHS / f"{graph.content_hash}.json"
        if not path.exists():
            _write_atomically(path, graph.to_json())

    def _set_torn_row_aside(self) -> None:
        path = self.path / ROWS
        _, torn = _split_rows(self.path)
        if torn:
            with (self.path / TORN).open("ab") as aside:
                aside.write(torn.rstrip(b"\n") + b"\n")
                aside.flush()
                os.fsync(aside.fileno())
            os.truncate(path, path.stat().st_size - len(torn))
        elif path.exists() and path.stat().st_size and not path.read_bytes().endswith(b"\n"):
            # Only the line's end was lost: the row itself is whole.
            with path.open("ab") as rows:
                rows.write(b"\n")


def read_manifest(directory: Path) -> RunManifest:
    """run.json of a run directory; `InputError` where there is none, `FormatError` where it is damaged or newer."""
    path = directory / MANIFEST
    try:
        data = path.read_bytes()
    except OSError:
        raise InputError(
            f"no run at {directory}: {MANIFEST} cannot be read; name a directory that `shmoo measure` wrote"
        ) from None
    return decode_versioned(data, RunManifest, RUN_FORMAT, "run", str(path))


def machine_differences(a: Machine, b: Machine) -> dict[str, tuple[object, object]]:
    """Fingerprint fields in which two machines differ, with both values; empty when their rows may be calibrated together."""
    pairs = {name: (getattr(a, name), getattr(b, name)) for name in FINGERPRINT_FIELDS}
    # The kernel's own reserve moves total memory by a few pages between boots.
    old, new = pairs["memory_bytes"]
    if abs(old - new) <= 0.01 * max(old, new):
        del pairs["memory_bytes"]
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def check_same_machine(recorded: Machine, here: Machine, where: str) -> None:
    """`InputError` listing the differing fields unless rows measured `here` may join those `recorded`."""
    differences = machine_differences(recorded, here)
    if differences:
        listed = "; ".join(f"{name} was {old!r}, is {new!r}" for name, (old, new) in differences.items())
        raise InputError(f"cannot resume {where}: measured under other conditions ({listed}); start a new run with another --out")


def _split_rows(directory: Path) -> tuple[tuple[bytes, ...], bytes]:
    """Whole lines, and the bytes of a torn last one (empty when there is none)."""
    path = directory / ROWS
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    if lines and lines[-1].strip() and not _is_json(lines[-1]):
        return tuple(lines[:-1]), lines[-1]
    return tuple(lines), b""


def _is_json(line: bytes) -> bool:
    # A cut object never parses, so whatever parses was written whole and a fault in it is not a torn write.
    try:
        msgspec.json.decode(line)
    except msgspec.MsgspecError:
        return False
    return True


def _write_atomically(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def _sync_directory(path: Path) -> None:
    if os.name == "posix":
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
