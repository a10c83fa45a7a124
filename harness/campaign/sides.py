"""The two sides of a duel: git refs, directories of code, and environments, each as the settings that start a worker process."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from shmoo.estimators.errors import InputError
from shmoo.runs.store.records import Machine

COMMIT = 12
"""Digits of a commit that identify it."""
PROBE_S = 120.0
"""Longest time for an environment to describe itself, since torch's metadata may be on a cold disk."""


class Side(msgspec.Struct, frozen=True):
    """One side of a duel, as the user named it: the interpreter of its workers, the directory they run in, which is searched for
    modules first, and further directories to search. `state` is the commit of its code, with a hash of local changes in a
    directory; "" outside git."""

    name: str
    python: str
    folder: str
    search: tuple[str, ...]
    state: str = ""


class Description(msgspec.Struct, frozen=True):
    """The machine and the software versions as seen by a side's interpreter."""

    machine: Machine
    versions: dict[str, str]


@contextmanager
def side_of(name: str, setup: str = "") -> Iterator[Side]:
    """A side from the user's name for it, cleaned up afterwards: a directory with a python (an environment, used in the current
    directory), another directory (code, used unchanged), or a git ref, which is checked out; there the shell command `setup`
    runs, and a `.venv` that it creates is used. `InputError` for anything else, or where git or the command fails."""
    path = Path(name)
    python = _python_in(path)
    if python is not None:
        yield Side(name, python, str(Path.cwd()), ())
    elif path.is_dir():
        yield Side(name, sys.executable, str(path.resolve()), _search(path.resolve()), _state_of(path))
    else:
        with tempfile.TemporaryDirectory(prefix="shmoo-duel-") as folder:
            tree = Path(folder).resolve() / "tree"
            commit = _git(name, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
            _git(name, "worktree", "add", "--detach", "--quiet", str(tree), commit)
            try:
                if setup:
                    _run_setup(setup, tree)
                inside = tree / _git(name, "rev-parse", "--show-prefix")
                checkout_python = _python_in(tree / ".venv")
                yield Side(
                    name,
                    checkout_python or sys.executable,
                    str(inside),
                    (str(inside),) if checkout_python else _search(inside),
                    commit[:COMMIT],
                )
            finally:
                _git(name, "worktree", "remove", "--force", str(tree))


def describe(side: Side, threads: int | None) -> Description:
    """Query a side's interpreter for the machine and its software versions; `InputError` where it cannot import shmoo."""
    code = (
        "import sys, msgspec; from shmoo.harness.machine.doctor import own_versions, probe_machine; "
        f"told = {{'machine': probe_machine({threads!r}), 'versions': own_versions()}}; "
        "sys.stdout.buffer.write(msgspec.json.encode(told))"
    )
    try:
        answer = subprocess.run(
            [side.python, "-P", "-c", code],
            cwd=side.folder,
            env=environment(side.search),
            capture_output=True,
            timeout=PROBE_S,
            check=True,
        ).stdout
        return msgspec.json.decode(answer, type=Description)
    except (OSError, subprocess.SubprocessError, msgspec.MsgspecError) as error:
        stderr = getattr(error, "stderr", None) or b""
        last = stderr.decode(errors="replace").strip().splitlines()[-1:] or [str(error)]
        raise InputError(f"{side.name}: {side.python} cannot run shmoo ({last[0]}); install shmoo in that environment") from None


def environment(search: tuple[str, ...]) -> dict[str, str]:
    """The variables of this process with another search path; without one, an interpreter only has its default path."""
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return variables | ({"PYTHONPATH": os.pathsep.join(search)} if search else {})


def _python_in(folder: Path) -> str | None:
    path = folder / "bin" / "python"
    # Not resolved, since a virtual environment is identified by the path of its link.
    return str(path.absolute()) if path.is_file() else None


def _search(folder: Path) -> tuple[str, ...]:
    """The search path of this process with the folder first; paths inside the current directory are replaced by those in the
    folder."""
    working_folder = Path.cwd()
    mapped = []
    for entry in filter(None, sys.path):
        path = Path(entry).absolute()
        mirrored = folder / path.relative_to(working_folder) if path.is_relative_to(working_folder) else path
        mapped.append(str(mirrored if mirrored.exists() else path))
    return tuple(dict.fromkeys((str(folder), *mapped)))


def _state_of(folder: Path) -> str:
    """Commit of a directory, with a hash of changes to its tracked files; "" outside git."""
    try:
        commit = _git(str(folder), "-C", str(folder), "rev-parse", "HEAD")[:COMMIT]
        changes = _git(str(folder), "-C", str(folder), "diff", "--binary", "HEAD", "--", ".")
    except InputError:
        return ""
    return f"{commit}+{hashlib.sha256(os.fsencode(changes)).hexdigest()[:16]}" if changes else commit


def _git(name: str, *arguments: str) -> str:
    try:
        process = subprocess.run(["git", *arguments], capture_output=True, text=True, errors="surrogateescape", check=True)
    except (OSError, subprocess.SubprocessError) as error:
        quiet = "there is no such commit" if isinstance(error, subprocess.CalledProcessError) else str(error)
        reason = (getattr(error, "stderr", "") or "").strip() or quiet
        raise InputError(
            f"{name!r} is not a directory, and git cannot check it out here ({reason}); name an environment's directory, "
            "a directory of code, or a commit, branch or tag"
        ) from None
    return process.stdout.strip()


def _run_setup(command: str, tree: Path) -> None:
    process = subprocess.run(command, shell=True, cwd=tree, capture_output=True, text=True, check=False)
    if process.returncode:
        last = (process.stderr or process.stdout).strip().splitlines()[-3:]
        raise InputError(f"--setup {command!r} ended with {process.returncode}: {' | '.join(last)}")
