"""A run on disk: run.json, rows.jsonl (append-only, one line and one fsync per visit) and graphs/<content hash>.json.

Measurements are never overwritten. A crash loses at most the row being written; its graphs are on disk before it.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import msgspec

from shmoo.estimators.errors import FormatError, InputError, NewerFormatError
from shmoo.estimators.graph.records import UNREADABLE, Graph, decode_versioned
from shmoo.estimators.registry import grouped
from shmoo.estimators.units import counted
from shmoo.runs.store import files
from shmoo.runs.store.records import FINGERPRINT_FIELDS, RUN_FORMAT, CaseSpec, Machine, Measurement, RunManifest, WholeCase
from shmoo.runs.store.visits import decode_row, for_latency, merge_visits, visits_alone, without_samples

MANIFEST = "run.json"
ROWS = "rows.jsonl"
TORN = "rows.torn"
GRAPHS = "graphs"
SKIPPED = "skipped.json"
LAST_LINE = 1 << 16
"""Bytes read at the end of the rows; most last lines fit into them."""
KEPT_GRAPHS = 1000
"""Most graphs of a run that stay in memory."""
RECORDS = {MANIFEST: (MANIFEST, ROWS, TORN, SKIPPED), "campaign.json": ("campaign.json", "status.json")}
"""File that marks a run or a fleet's campaign -> files in its folder that cannot be recreated."""


class SkippedCase(msgspec.Struct, frozen=True):
    """A case that a campaign did not reach, and the reason."""

    case: CaseSpec
    reason: str


def holds_run(directory: Path, resume: bool) -> bool:
    """Whether a directory holds a run; `InputError` where it does and `resume` is false."""
    exists = (directory / MANIFEST).exists() or (directory / ROWS).exists()
    if exists and not resume:
        raise InputError(
            f"{directory} holds a run already, and a run is never overwritten; continue with --resume or name another --out"
        )
    return exists


def is_record(path: Path) -> bool:
    """Whether a file is part of a run or of a campaign, so that a result written there would destroy measurements."""
    of_graphs = path.parent.name == GRAPHS and (path.parent.parent / MANIFEST).exists()
    return of_graphs or any(path.name in names and path.with_name(mark).exists() for mark, names in RECORDS.items())


class Run:
    """A run read from disk: its directory `path`, and its `manifest`, the content of run.json.

    Attributes:
        lines: all whole lines of rows.jsonl in the order of measurement, failed ones included; each is one visit to a case.
        rows: one row per case with its visits merged, in the order of the first visits.
        torn: messages about a last row that was cut short and ignored.
        copied: numbers of the lines that repeat an earlier one; a visit counts once.
        rows_hash: first 16 hex digits of SHA-256 over the rows; it identifies the data of a fit."""

    def __init__(
        self,
        path: Path,
        manifest: RunManifest,
        lines: Iterable[bytes],
        problems: tuple[str, ...],
        cases: dict[str, CaseSpec] | None = None,
    ) -> None:
        self.path = path
        self.manifest = manifest
        self.torn = problems
        digest = hashlib.sha256()
        copied: list[int] = []
        decoded = _decoded(lines, str(path / ROWS), digest, copied)
        if cases is None:
            self.lines = tuple(decoded)
            self.rows = merge_visits(self.lines)
        else:
            self.lines, self.rows, self.alone = _without_samples(decoded, cases)
        self.copied = tuple(copied)
        self.rows_hash = digest.hexdigest()[:16]
        self._folder = str(path / GRAPHS)
        self._graphs: dict[str, Graph] = {}

    @classmethod
    def open(cls, directory: str | Path, cases: dict[str, CaseSpec] | None = None) -> Run:
        """Read a run.

        Args:
            cases: if given, the run keeps only the mean of each visit, which comparisons need and which takes a fraction of the
                memory. Identity -> case, shared by several runs; cases of this run are added.

        Raises:
            InputError: no run there.
            FormatError: run.json or a row other than a torn last one is damaged (line number), holds a time that is not positive,
                or has a newer format (both versions).
        """
        path = Path(directory)
        manifest = read_manifest(path)
        if not (path / ROWS).exists():
            return cls(path, manifest, (), (), cases)
        problems: tuple[str, ...] = ()
        with files.open_regular(path / ROWS) as file:
            torn, end = _torn_row(file)
            if torn:
                rows = sum(1 for _ in files.lines_until(file, end))
                problems = (
                    f"{path / ROWS}, line {rows + 1}: the last row is cut short ({len(torn)} bytes) and was set aside; "
                    f"the {rows} rows before it are used, `--resume` measures its case again",
                )
            return cls(path, manifest, files.lines_until(file, end), problems, cases)

    def graph(self, content_hash: str) -> Graph:
        """The graph with this hash, read on first use; the last `KEPT_GRAPHS` stay in memory. `FormatError` where its file is
        missing or damaged."""
        if not re.fullmatch("[0-9a-f]{16}", content_hash):
            raise FormatError(f"a row of {self.path} names the graph {content_hash!r}, which is no hash; the file was changed")
        if content_hash not in self._graphs:
            path = os.path.join(self._folder, f"{content_hash}.json")
            try:
                data = files.read_regular(path)
            except FileNotFoundError:
                raise FormatError(f"{path} is missing though a row names it; copy the whole run, graphs included") from None
            graph = Graph.from_json(data, path)
            # The hash is over the bytes that Shmoo writes; an equal graph in another spelling is fine.
            if hashlib.sha256(data).hexdigest()[:16] != content_hash and graph.content_hash != content_hash:
                raise FormatError(f"{path} holds graph {graph.content_hash}, not the one it is named after; the file was changed")
            self._graphs[content_hash] = graph
            if len(self._graphs) > KEPT_GRAPHS:
                del self._graphs[next(iter(self._graphs))]
        return self._graphs[content_hash]

    def graphs(self, row: Measurement) -> tuple[Graph, ...]:
        """The graphs of one row, in order; `FormatError` as for `graph`, and where the row times a call that they do not have."""
        graphs = tuple(self.graph(content_hash) for content_hash in row.graph_hashes)
        calls = [call.op for graph in graphs for call in graph.calls] if row.children or row.operators else []
        timed = [(child.call, child.op) for child in row.children]
        timed += [(call, operator.op) for operator in row.operators for call in operator.calls]
        for index, op in timed if graphs else ():
            if not 0 <= index < len(calls):
                raise FormatError(
                    f"row {row.case.label} of {self.path} times call {index} ({op!r}) of {len(calls)}; one of them was changed"
                )
        return graphs

    @property
    def problems(self) -> tuple[str, ...]:
        """Messages about data that were ignored while reading."""
        if not self.copied:
            return self.torn
        lines = f"{counted(len(self.copied), 'line')} of {self.path / ROWS}, the first of them line {self.copied[0]},"
        return (*self.torn, f"{lines} repeat earlier ones and were set aside: a visit counts once")

    @cached_property
    def visits(self) -> dict[str, list[Measurement]]:
        """Case identity -> its lines in order."""
        return grouped((line.case.identity, line) for line in self.lines)

    @cached_property
    def alone(self) -> dict[str, dict[int, float]]:
        """Case identity -> number of a visit -> seconds of a call while nothing else ran, for the cases whose cores were
        watched; empty where too few blocks were quiet."""
        return visits_alone(self.lines, self.rows)

    @property
    def skipped(self) -> tuple[SkippedCase, ...]:
        """Cases that the run's last campaign did not reach."""
        path = self.path / SKIPPED
        if not path.exists():
            return ()
        try:
            return msgspec.json.decode(files.read_regular(path), type=tuple[SkippedCase, ...])
        except UNREADABLE as error:
            raise FormatError(f"cannot read {path}: {error}; it may be deleted, it holds nothing measured") from None


class RunWriter:
    """Writes a run. Use as a context manager, or `close` it.

    Args:
        manifest: written for a new run, compared with the existing one for a resumed run.
        resume: continue the existing run, or start one where there is none.

    Raises:
        InputError: a run exists and `resume` is false, another process writes into it, it was measured with another machine,
            torch, driver or clock setting, or one of its names is a symbolic link.
        FormatError: the existing run cannot be read.
    """

    def __init__(self, directory: str | Path, manifest: RunManifest, *, resume: bool = False) -> None:
        self.path = Path(directory)
        exists = holds_run(self.path, resume)
        self._file: int | None = None
        self._lock: int | None = None
        files.own_folder(self.path / GRAPHS)
        try:
            self._lock = files.lock_directory(self.path)
            if exists:
                recorded = read_manifest(self.path)
                check_same_machine(recorded.machine, manifest.machine, str(self.path))
                self._set_torn_row_aside()
                if manifest.suite not in recorded.suite.split("+"):
                    self._write_manifest(msgspec.structs.replace(recorded, suite=f"{recorded.suite}+{manifest.suite}"))
            else:
                self._write_manifest(manifest)
            self._file = files.open_unlinked(self.path / ROWS, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            files.sync_directory(self.path)
        except BaseException:
            self.close()
            raise

    def _write_manifest(self, manifest: RunManifest) -> None:
        files.replace_file(self.path / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n")

    def append(self, row: Measurement, graphs: Iterable[Graph] = ()) -> None:
        """Store one line and the graphs it names; both are on disk when this returns.

        Raises:
            FormatError: the row has a value that no reader accepts, such as NaN; nothing is written.
            OSError: the disk is full or failing, or the run was removed or moved. No part of this row stays behind; earlier rows
                are intact.
        """
        if self._file is None:
            raise ValueError(f"the writer of {self.path} is closed")
        full_case = WholeCase(*(getattr(row.case, name) for name in row.case.__struct_fields__))
        line = msgspec.json.encode(msgspec.structs.replace(row, case=full_case)) + b"\n"
        decode_row(line, f"of {row.case.label}")
        if not os.path.samestat(os.stat(self.path / ROWS), os.fstat(self._file)):
            raise FileNotFoundError(
                errno.ENOENT, "another file stands in the place of the one that was written", str(self.path / ROWS)
            )
        for graph in graphs:
            path = self.path / GRAPHS / f"{graph.content_hash}.json"
            if not path.exists():
                files.replace_file(path, graph.to_json())
        start = os.fstat(self._file).st_size
        try:
            written_bytes = 0
            while written_bytes < len(line):
                written_bytes += os.write(self._file, line[written_bytes:])
            os.fsync(self._file)
        except OSError:
            os.ftruncate(self._file, start)
            raise

    def record_skipped(self, skipped: Iterable[SkippedCase]) -> None:
        """Replace the list of cases that this campaign did not reach."""
        cases = list(skipped)
        if cases:
            files.replace_file(self.path / SKIPPED, msgspec.json.format(msgspec.json.encode(cases), indent=1) + b"\n")
        else:
            (self.path / SKIPPED).unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file of rows; further calls do nothing."""
        for descriptor in (self._file, self._lock):
            if descriptor is not None:
                os.close(descriptor)
        self._file = self._lock = None

    def __enter__(self) -> RunWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _set_torn_row_aside(self) -> None:
        path = self.path / ROWS
        if not path.exists():
            return
        with files.open_regular(path) as file:
            torn, _ = _torn_row(file)
        if torn:
            with os.fdopen(files.open_unlinked(self.path / TORN, os.O_WRONLY | os.O_CREAT | os.O_APPEND), "ab") as aside:
                aside.write(torn.rstrip(b"\n") + b"\n")
                aside.flush()
                os.fsync(aside.fileno())
            with os.fdopen(files.open_unlinked(path, os.O_WRONLY), "wb") as rows:
                rows.truncate(os.fstat(rows.fileno()).st_size - len(torn))
        elif path.stat().st_size and not path.read_bytes().endswith(b"\n"):
            # Only the line's end was lost; the row itself is complete.
            with os.fdopen(files.open_unlinked(path, os.O_WRONLY | os.O_APPEND), "ab") as rows:
                rows.write(b"\n")


def _without_samples(
    lines: Iterable[Measurement], cases: dict[str, CaseSpec]
) -> tuple[tuple[Measurement, ...], tuple[Measurement, ...], dict[str, dict[int, float]]]:
    """Lines and rows without samples, and the times alone of their visits. Before merging, lines keep only the fields that
    determine these times and the prevailing one."""
    sampleless: list[Measurement] = []
    slowdowns: dict[float, float] = {}

    def noted() -> Iterator[Measurement]:
        for line in lines:
            sampleless.append(without_samples(line, cases))
            yield for_latency(line, sampleless[-1].case, slowdowns)

    rows = list(merge_visits(noted()))
    alone = visits_alone(sampleless, rows)
    for place, row in enumerate(rows):
        rows[place] = without_samples(row, cases)
    # The line of a case that was visited once equals its row.
    visited = Counter(line.case.identity for line in sampleless)
    once = {row.case.identity: row for row in rows if visited[row.case.identity] == 1}
    return tuple(once.get(line.case.identity, line) for line in sampleless), tuple(rows), alone


def read_manifest(directory: Path) -> RunManifest:
    """run.json of a run directory; `InputError` where there is none, `FormatError` where it is damaged or newer."""
    path = directory / MANIFEST
    try:
        data = files.read_regular(path)
    except (OSError, ValueError):
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


def check_same_machine(recorded: Machine, current: Machine, where: str) -> None:
    """`InputError` listing the differing fields unless rows of the `current` machine may join those `recorded`."""
    differences = machine_differences(recorded, current)
    if differences:
        changes = "; ".join(f"{name} was {old!r}, is {new!r}" for name, (old, new) in differences.items())
        raise InputError(
            f"cannot resume {where}: measured under other conditions ({changes}); start a new run with another --out"
        )


def _decoded(lines: Iterable[bytes], where: str, digest: hashlib._Hash, copied: list[int]) -> Iterator[Measurement]:
    """The lines as rows. `digest` is updated with the lines; numbers of repeated lines are appended to `copied`."""
    digests: set[bytes] = set()
    for number, line in enumerate(lines, 1):
        content = line.strip()
        digest.update(content if number == 1 else b"\n" + content)
        if content:
            line_digest = hashlib.blake2b(content, digest_size=16).digest()
            if line_digest in digests:
                copied.append(number)
                continue
            digests.add(line_digest)
            try:
                yield decode_row(line, f"{where}, line {number}")
            except NewerFormatError:
                raise
            except FormatError as error:
                raise FormatError(f"{error}; remove line {number}, and --resume measures what it held again") from None


def _torn_row(file: BinaryIO) -> tuple[bytes, int]:
    """The bytes of a last row that was cut short (empty if none was), and the position where the complete lines end."""
    size = begin = file.seek(0, os.SEEK_END)
    tail = b""
    while begin and b"\n" not in tail[:-1]:
        step = min(max(LAST_LINE, len(tail)), begin)
        begin = file.seek(begin - step)
        tail = file.read(step) + tail
    last = tail[tail.rfind(b"\n", 0, -1) + 1 :]
    return (last, size - len(last)) if last.strip() and not _is_json(last) else (b"", size)


def _is_json(line: bytes) -> bool:
    # A cut object never parses, so a line that parses was written completely and a fault in it is not a torn write.
    try:
        msgspec.json.decode(line)
    except UNREADABLE:
        return False
    return True
