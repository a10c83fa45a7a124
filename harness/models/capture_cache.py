"""A model's graphs, captured or read from a cache on disk. The key of a file is the request and the software (Python, installed
packages, Shmoo's sources); it is valid while the capture's dependencies are unchanged. Imports torch only to capture."""

from __future__ import annotations

import gzip
import hashlib
import logging
import os
import platform
import sys
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from shmoo.estimators.graph.records import UNREADABLE
from shmoo.harness.models.dependencies import InputRecorder, Inputs, capture_sources, foreign_modules, main_file, site_folders
from shmoo.harness.models.request import ModelRequest, Point
from shmoo.harness.module import Capture
from shmoo.runs.store.files import replace_file
from shmoo.runs.store.records import AxisValue

if TYPE_CHECKING:
    from shmoo.harness.models.model_graphs import WorkloadGraphs

logger = logging.getLogger(__name__)

FORMAT = 1
LIMIT_BYTES = 256 << 20
"""Most bytes of a cache; beyond them the least recently used captures are removed."""
_SUFFIX = ".json.gz"
_UNREADABLE = (OSError, EOFError, zlib.error, *UNREADABLE)


class CachedCapture(msgspec.Struct, frozen=True, rename={"request": "asked"}):
    """One capture in its file; `point` is the size of its graphs, `None` if only the default of every axis is stored."""

    request: ModelRequest
    point: Point | None
    axes: Point
    inputs: Inputs
    graphs: Capture | None = None
    format: int = FORMAT


class CacheEntry(msgspec.Struct, frozen=True, kw_only=True, rename={"request": "asked"}):
    """One file of a cache: its request, its size, and its last use (seconds since 1970)."""

    path: str = ""
    request: ModelRequest
    point: Point | None
    nbytes: int = 0
    used_at_s: float = 0.0


class CaptureCache:
    """The cached captures in a folder for one state of the software."""

    def __init__(self, folder: Path, software: str, limit_bytes: int = LIMIT_BYTES) -> None:
        self.folder = folder
        self._software = software
        self._limit_bytes = limit_bytes
        # One recorder for all captures of the process, since a module shared by two models is executed only once.
        self._recorder = InputRecorder()
        if (started := main_file()) is not None:
            self._recorder.add_file(started)

    def find(self, request: ModelRequest, point: Point | None) -> CachedCapture | None:
        """The cached capture of a model at a point, if it is present and still valid."""
        path = self._path(request, point)
        try:
            cached = msgspec.json.decode(_decompressed(path), type=CachedCapture)
        except FileNotFoundError:
            return None
        except _UNREADABLE as error:
            logger.info("%s is damaged, so %s is captured again: %s", path, request.model, error)
            return None
        if (cached.format, cached.request, cached.point) != (FORMAT, request, point) or not cached.inputs.unchanged():
            logger.info("%s is captured again: its dependencies have changed", request.model)
            return None
        with suppress(OSError):
            os.utime(path)
        logger.info("%s %s read from %s", request.model, point or "", path)
        return cached

    def recording(self, model: str) -> AbstractContextManager[None]:
        """While active, dependencies of a capture are recorded; every capture to store takes place here."""
        from shmoo.harness.workloads.loading import named_file

        if (path := named_file(model)) is not None:
            self._recorder.add_file(os.path.abspath(path))
        return self._recorder.recording()

    def keep(self, request: ModelRequest, point: Point | None, axes: Point, graphs: Capture | None = None) -> None:
        """Store a capture, and remove the least recently used ones beyond the limit. Nothing is stored if the capture's
        dependencies are unknown, or the folder is not writable."""
        inputs = self._recorder.inputs()
        if inputs is None:
            logger.info("the capture of %s is not kept: %s", request.model, self._recorder.unseen)
            return
        path = self._path(request, point)
        cached = CachedCapture(request, point, axes, inputs, graphs)
        data = gzip.compress(msgspec.json.encode(cached), compresslevel=1, mtime=0)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            replace_file(path, data)
            total = 0
            for older, status in sorted(_files(self.folder), key=lambda file: file[1].st_mtime, reverse=True):
                total += status.st_size
                if total > self._limit_bytes:
                    older.unlink(missing_ok=True)
        except OSError as error:
            logger.warning("the capture of %s is not kept in %s: %s", request.model, self.folder, error.strerror or error)

    def _path(self, request: ModelRequest, point: Point | None) -> Path:
        # Names of files and functions depend on the current folder.
        place = os.getcwd() if ":" in request.model or request.model.endswith(".pt2") else ""
        key = msgspec.json.encode([request, point, place, self._software], order="deterministic")
        return self.folder / f"{hashlib.sha256(key).hexdigest()[:32]}{_SUFFIX}"


class ModelSource:
    """The graphs of one model.

    Args:
        cache: cache of captures; `None` captures each time.
        before_capture: called before the model is captured, but not if everything comes from the cache.
    """

    def __init__(
        self, request: ModelRequest, cache: CaptureCache | None = None, before_capture: Callable[[], None] | None = None
    ) -> None:
        self._request = request
        self._cache = cache
        self._before_capture = before_capture
        self._opened: WorkloadGraphs | None = None

    def at(self, point: Mapping[str, AxisValue]) -> Capture:
        """The graphs at one of the requested points. `CaptureError` where torch cannot capture the model; `InputError` for an
        unknown model, or sizes and modes that it does not take."""
        _, graphs = self._captured(dict(point))
        assert graphs is not None
        return graphs

    def axes(self) -> dict[str, AxisValue]:
        """The default of every axis; errors as for `at`."""
        return self._captured(None)[0]

    def _captured(self, size: Point | None) -> tuple[Point, Capture | None]:
        """The axes, and the graphs at a size (none for `None`): read from the cache, or captured and stored there."""
        cached = None if self._cache is None else self._cache.find(self._request, size)
        if cached is not None and (cached.graphs is None) == (size is None):
            return cached.axes, cached.graphs
        with nullcontext() if self._cache is None else self._cache.recording(self._request.model):
            if self._opened is None:
                if self._before_capture is not None:
                    self._before_capture()
                from shmoo.harness.models.model_graphs import open_model

                self._opened = open_model(self._request)
            axes, graphs = self._opened.axes, None if size is None else self._opened.at(size)
        if self._cache is not None:
            self._cache.keep(self._request, size, axes, graphs)
        return axes, graphs


def list_captures(folder: Path) -> list[CacheEntry]:
    """The captures in a folder, last used first; damaged files are left out."""
    entries = []
    for path, status in _files(folder):
        with suppress(*_UNREADABLE):
            head = msgspec.json.decode(_decompressed(path), type=CacheEntry)
            beside = {"path": str(path), "nbytes": status.st_size, "used_at_s": status.st_mtime}
            entries.append(msgspec.structs.replace(head, **beside))
    return sorted(entries, key=lambda entry: entry.used_at_s, reverse=True)


def clear_captures(folder: Path, models: Collection[str] = ()) -> int:
    """Remove the captures of some models, or every file of the cache where none is named; returns how many."""
    if models:
        paths = [Path(entry.path) for entry in list_captures(folder) if entry.request.model in models]
    else:
        paths = [path for path, _ in _files(folder)]
    for path in paths:
        path.unlink(missing_ok=True)
    return len(paths)


def software() -> str | None:
    """Digest of everything that determines the answer to a request: this machine, Python and its path, the installed packages,
    the sources of Shmoo. `None` if unknown: torch is not an installed package, or foreign code runs in this process."""
    foreign = foreign_modules()
    if foreign:
        logger.info("captures are not kept: modules from outside are loaded, such as %s", foreign[0])
        return None
    packages = sorted(
        (folder, entry.name, entry.stat().st_mtime_ns)
        for folder in site_folders()
        if os.path.isdir(folder)
        for entry in os.scandir(folder)
        if entry.name.endswith((".dist-info", ".egg-info", ".pth", ".egg-link"))
    )
    if not any(name.startswith("torch-") for _, name, _ in packages):
        logger.info("captures are not kept: the version of torch is not known")
        return None
    sources_digest = hashlib.sha256(b"".join(path.read_bytes() for path in capture_sources())).hexdigest()
    identity = [platform.node(), platform.machine(), sys.version, sys.flags.optimize, sys.path, packages, sources_digest]
    return hashlib.sha256(msgspec.json.encode(identity)).hexdigest()


def _decompressed(path: Path) -> bytes:
    if path.exists() and not path.is_file():
        raise OSError(f"{path} is not a regular file")
    return gzip.decompress(path.read_bytes())


def _files(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """The files of a cache, including leftovers of a crash."""
    for path in folder.glob(f"*{_SUFFIX}*"):
        with suppress(OSError):
            yield path, path.stat()
