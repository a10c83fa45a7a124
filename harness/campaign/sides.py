"""The two sides of a duel: git refs, directories of code, and environments, each as what a worker process is started with."""

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
"""Digits of a commit that tell it apart."""
PROBE_S = 120.0
"""Longest time for an environment to describe itself; torch's metadata may lie on a cold disk."""


class Side(msgspec.Struct, frozen=True):
    """One side of a duel, as the user named it: the interpreter of its workers, the directory they run in, which is searched for
    modules first, and further directories to search. `state` is the commit of its code, with a hash of what differs from it in a
    directory; "" where git does not tell."""

    name: str
    python: str
    folder: str
    search: tuple[str, ...]
    state: str = ""


class Description(msgspec.Struct, frozen=True):
    """What a side's own interpreter says of the machine and of its software."""

    machine: Machine
    versions: dict[str, str]


@contextmanager
def side_of(name: str, setup: str = "") -> Iterator[Side]:
    """Make a side of what the user named, and remove what was made for it: a directory with a python (an environment, used in the
    current directory), another directory (code, used as it stands), or a git ref, checked out for the duel, where the shell
    command `setup` is run and a `.venv` that it leaves is used. `InputError` where it is none of these, or git or the command
    refuses."""
    path = Path(name)
    python = _python_in(path)
    if python is not None:
        yield Side(name, python, str(Path.cwd()), ())
    elif path.is_dir():
        yield Side(name, sys.executable, str(path.resolve()), _search(path.resolve()), _state_of(path))
    else:
        with tempfile.TemporaryDirectory(prefix="shmoo-duel-") as made:
            tree = Path(made).resolve() / "tree"
            commit = _git(name, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
            _git(name, "worktree", "add", "--detach", "--quiet", str(tree), commit)
            try:
                if setup:
                    _run_setup(setup, tree)
                inside = tree / _git(name, "rev-parse", "--show-prefix")
                own = _python_in(tree / ".venv")
                yield Side(name, own or sys.executable, str(inside), (str(inside),) if own else _search(inside), commit[:COMMIT])
            finally:
                _git(name, "worktree", "remove", "--force", str(tree))


def describe(side: Side, threads: int | None) -> Description:
    """Ask a side's interpreter for the machine as it sees it and for its versions; `InputError` where shmoo cannot be imported
    there."""
    code = (
        "import sys, msgspec; from shmoo.harness.machine.doctor import own_versions, probe_machine; "
        f"told = {{'machine': probe_machine({threads!r}), 'versions': own_versions()}}; "
        "sys.stdout.buffer.write(msgspec.json.encode(told))"
    )
    try:
        told = subprocess.run(
            [side.python, "-P", "-c", code],
            cwd=side.folder,
            env=environment(side.search),
            capture_output=True,
            timeout=PROBE_S,
            check=True,
        ).stdout
        return msgspec.json.decode(told, type=Description)
    except (OSError, subprocess.SubprocessError, msgspec.MsgspecError) as error:
        said = getattr(error, "stderr", None) or b""
        last = said.decode(errors="replace").strip().splitlines()[-1:] or [str(error)]
        raise InputError(f"{side.name}: {side.python} cannot run shmoo ({last[0]}); install shmoo in that environment") from None


def environment(search: tuple[str, ...]) -> dict[str, str]:
    """The variables of this process with another search path; without one, an interpreter has only its own."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return kept | ({"PYTHONPATH": os.pathsep.join(search)} if search else {})


def _python_in(folder: Path) -> str | None:
    candidates = (folder / "bin" / "python", folder / "Scripts" / "python.exe")
    # Not resolved: a virtual environment is known by the path of its link.
    return next((str(path.absolute()) for path in candidates if path.is_file()), None)


def _search(folder: Path) -> tuple[str, ...]:
    """The search path of this process, with the folder first, and with its parts in place of the current directory's."""
    here = Path.cwd()
    mapped = []
    for entry in filter(None, sys.path):
        path = Path(entry).absolute()
        other = folder / path.relative_to(here) if path.is_relative_to(here) else path
        mapped.append(str(other if other.exists() else path))
    return tuple(dict.fromkeys((str(folder), *mapped)))


def _state_of(folder: Path) -> str:
    """Commit of a directory, with a hash of what its tracked files differ by; "" where git does not tell."""
    try:
        commit = _git(str(folder), "-C", str(folder), "rev-parse", "HEAD")[:COMMIT]
        changes = _git(str(folder), "-C", str(folder), "diff", "--binary", "HEAD", "--", ".")
    except InputError:
        return ""
    return f"{commit}+{hashlib.sha256(os.fsencode(changes)).hexdigest()[:16]}" if changes else commit


def _git(name: str, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, errors="surrogateescape", check=True)
    except (OSError, subprocess.SubprocessError) as error:
        quiet = "it knows no such commit" if isinstance(error, subprocess.CalledProcessError) else str(error)
        said = (getattr(error, "stderr", "") or "").strip() or quiet
        raise InputError(
            f"{name!r} is no directory, and git cannot check it out here ({said}); name an environment's directory, "
            "a directory of code, or a commit, branch or tag"
        ) from None
    return done.stdout.strip()


def _run_setup(command: str, tree: Path) -> None:
    done = subprocess.run(command, shell=True, cwd=tree, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-3:]
        raise InputError(f"--setup {command!r} ended with {done.returncode}: {' | '.join(last)}")
