"""Dependencies of a capture besides the request: the files and environment variables that its code read, from the interpreter's
audit events (PEP 578). Input from a network or another process does not show there; then the dependencies are unknown
(`unseen`)."""

from __future__ import annotations

import hashlib
import os
import stat
import sys
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import msgspec

from shmoo.harness.defaults import own_folders

_READS = frozenset({"open", "exec", "import", "ctypes.dlopen"})
"""Audit events whose arguments name a file that is read."""
_UNSEEN = frozenset({"socket.connect", "subprocess.Popen", "os.system", "os.posix_spawn", "os.exec", "os.fork"})
"""Audit events of input that does not come from files."""
_SITES = ("site-packages", "dist-packages")
_SYSTEM = ("/proc/", "/sys/", "/dev/")
_IMPORTABLE = (".py", ".pyc", ".pyd", ".so")
_LARGE = 1 << 24
"""Bytes from which a file's size and times are used instead of its contents."""

Listener = Callable[[str, tuple[Any, ...]], None]


class Inputs(msgspec.Struct, frozen=True):
    """Files (by absolute path), folders of the import path and environment variables at the time of a capture: digests of
    contents, of importable names, and of values; `None` for missing ones."""

    files: dict[str, str | None]
    folders: dict[str, str | None]
    variables: dict[str, str | None]

    def unchanged(self) -> bool:
        """Whether all of them are still the same."""
        return (
            all(_value_digest(os.environ.get(name)) == value for name, value in self.variables.items())
            and all(_file_digest(path) == value for path, value in self.files.items())
            and all(_folder_digest(folder) == value for folder, value in self.folders.items())
        )


class InputRecorder:
    """Collects the inputs of this process while `recording` is active. `unseen` is the reason why not all inputs are known, or
    ""."""

    def __init__(self) -> None:
        self.unseen = ""
        self._files: dict[str, str | None] = {}
        self._variables: dict[str, str | None] = {}
        # Files written and variables set by the process itself.
        self._own: set[str] = set()
        self._settled = settled_folders()
        self._busy = False

    @contextmanager
    def recording(self) -> Iterator[None]:
        """While active, inputs are recorded."""
        plain: Any = type(os.environ)
        recorder = self

        class Watched(plain):
            """The environment, which reports every read and write to the recorder."""

            def __getitem__(self, name: str) -> str:
                try:
                    value = plain.__getitem__(self, name)
                except KeyError:
                    recorder._note_variable(name, None)
                    raise
                if not recorder._is_search(sys._getframe(1)):
                    recorder._note_variable(name, value)
                return value

            def __setitem__(self, name: str, value: str) -> None:
                recorder._own.add(name)
                plain.__setitem__(self, name, value)

        _listeners().append(self._note_event)
        os.environ.__class__ = Watched
        try:
            yield
        finally:
            os.environ.__class__ = plain
            _listeners().remove(self._note_event)

    def add_file(self, path: str) -> None:
        """Count a file as read."""
        self._files.setdefault(path, _file_digest(path))

    def inputs(self) -> Inputs | None:
        """The inputs so far; `None` if unknown, because something was `unseen` or a file has changed since."""
        changed = next((path for path, digest in self._files.items() if _file_digest(path) != digest), None)
        if changed is not None:
            self.unseen = self.unseen or f"{changed} changed meanwhile"
        if self.unseen:
            return None
        folders = dict.fromkeys(os.path.abspath(entry) for entry in sys.path)
        searched = {folder: _folder_digest(folder) for folder in folders if not self._is_settled(folder)}
        return Inputs(dict(self._files), searched, dict(self._variables))

    def _note_variable(self, name: str, value: str | None) -> None:
        if name not in self._own:
            self._variables.setdefault(name, _value_digest(value))

    def _is_search(self, frame: FrameType | None) -> bool:
        """Whether installed code scans the whole environment for its own variables, and so depends on no other."""
        iterates = False
        while frame is not None and frame.f_globals.get("__name__") == "collections.abc":
            iterates = iterates or frame.f_code.co_name == "__iter__"
            frame = frame.f_back
        return iterates and frame is not None and self._is_settled(frame.f_code.co_filename)

    def _is_settled(self, path: str) -> bool:
        return f"{path}{os.sep}".startswith(self._settled)

    def _note_event(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Record one audit event; ignores the events that recording itself causes."""
        if self._busy:
            return
        self._busy = True
        try:
            if event in _UNSEEN:
                self.unseen = self.unseen or f"it raised {event}"
            else:
                self._note_file(event, arguments)
        finally:
            self._busy = False

    def _note_file(self, event: str, arguments: tuple[Any, ...]) -> None:
        source = arguments[1] if event == "import" else arguments[0]
        if event == "exec":
            source = source.co_filename if isinstance(source, CodeType) and source.co_name == "<module>" else None
        if not isinstance(source, str | bytes | os.PathLike):
            return
        path = os.fsdecode(source)
        # For bytecode the source counts, whose name comes with "exec". A name in brackets is not a file. A library without a
        # folder belongs to the system.
        if path.endswith(".pyc") or path.startswith("<") or (event == "ctypes.dlopen" and os.sep not in path):
            return
        path = os.path.abspath(path)
        if path in self._own or self._is_settled(path):
            return
        if event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR):
            if path not in self._files:
                self._own.add(path)
            return
        self.add_file(path)
        if event == "exec" and self._files[path] is None:
            self.unseen = self.unseen or f"{path} was executed and is not a file"


@cache
def _listeners() -> list[Listener]:
    """The listeners to this process's audit events. A hook cannot be removed, so there is only one."""
    listeners: list[Listener] = []
    heard = _READS | _UNSEEN

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if listeners and event in heard:
            for listener in tuple(listeners):
                listener(event, arguments)

    sys.addaudithook(hook)
    return listeners


def capture_sources() -> list[Path]:
    """The files of Shmoo's code that determine the result of a capture."""
    root, estimators, runs, _, harness = own_folders()
    files = [root / "__init__.py", *(estimators / name for name in ("__init__.py", "errors.py", "progress.py", "registry.py"))]
    files += [runs / "__init__.py", harness / "__init__.py", harness / "module.py"]
    rooms = [estimators / "graph", estimators / "costs", runs / "store"]
    rooms += [harness / name for name in ("capture", "workloads", "models")]
    return files + sorted(path for room in rooms for kind in ("*.py", "*.json") for path in room.rglob(kind))


def site_folders() -> tuple[str, ...]:
    """Folders of the import path that package managers install into."""
    return tuple(entry for entry in sys.path if os.path.basename(entry) in _SITES)


def settled_folders() -> tuple[str, ...]:
    """Folders whose files are covered by the versions of Python, installed packages and Shmoo, each with a trailing separator."""
    folders = {*site_folders(), *map(str, own_folders())}
    folders |= {sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    folders |= {os.path.realpath(folder) for folder in folders}
    return (*(f"{folder}{os.sep}" for folder in sorted(folders)), *_SYSTEM)


def foreign_modules() -> tuple[str, ...]:
    """Imported modules from outside the settled folders, except the main module; they may have changed anything."""
    settled = settled_folders()
    places = {name: getattr(module, "__file__", None) for name, module in list(sys.modules.items()) if name != "__main__"}
    return tuple(name for name, place in places.items() if place and not os.path.abspath(place).startswith(settled))


def main_file() -> str | None:
    """The main file of this Python process, unless it is part of Shmoo."""
    place = getattr(sys.modules["__main__"], "__file__", None)
    path = os.path.abspath(place) if place else None
    return None if path is None or path.startswith(settled_folders()) else path


def _value_digest(value: str | None) -> str | None:
    return None if value is None else hashlib.sha256(value.encode(errors="surrogateescape")).hexdigest()[:16]


def _file_digest(path: str) -> str | None:
    """Digest of a regular file's contents, or of its size and times where it is large; `None` for none."""
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            return None
        if status.st_size >= _LARGE:
            return _value_digest(f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}")
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError:
        return None


def _folder_digest(folder: str) -> str | None:
    """Digest of the importable names in a folder; `None` without the folder."""
    try:
        with os.scandir(folder) as entries:
            names = [
                entry.name
                for entry in entries
                if entry.name.endswith(_IMPORTABLE) or os.path.isfile(os.path.join(entry.path, "__init__.py"))
            ]
    except OSError:
        return None
    return _value_digest("\n".join(sorted(names)))
