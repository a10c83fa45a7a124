"""Channels to a host's files and its Python: this machine itself, or OpenSSH's client with the user's configuration."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from shmoo.estimators.errors import ShmooError
from shmoo.harness.fleet import remote

T = TypeVar("T")

CONNECT_S = 10
ANSWER_S = 60.0
"""Time limit for one answer of a host."""
COPY_S = 3600.0
QUESTIONS = Path(remote.__file__)


class UnreachableError(ShmooError):
    """A host that cannot be reached: no route, no such name, a refused key, or a broken connection."""


class HostRefusal(ShmooError):
    """A host answered that it cannot fulfil the request."""


class Hello(msgspec.Struct, frozen=True):
    """A host's answer to `remote.hello`.

    Attributes:
        directory: the host's folder for environments and campaigns, absolute. python: version of the Python that answered.
        rsync: whether the host has rsync. wheels: name -> size of the wheels that were copied there.
    """

    directory: str
    python: str
    rsync: bool
    wheels: dict[str, int]


class Channel:
    """Runs commands on a host and copies files to and from it, through OpenSSH's client with the user's own configuration (or the
    file `config`), agent, jump hosts and known hosts; "" is this machine. In BatchMode ssh never asks, so a password or an
    unknown host key is simply a refusal. Where the host has no `rsync`, scp copies."""

    def __init__(self, destination: str = "", config: str = "", rsync: bool = False) -> None:
        self.destination = destination
        self.options = ["-F", config] if config else []
        for setting in ("BatchMode=yes", f"ConnectTimeout={CONNECT_S}", "ServerAliveInterval=15"):
            self.options += ["-o", setting]
        self.rsync = rsync and shutil.which("rsync") is not None
        self._place = f"{destination}:" if destination else ""

    def run(self, command: Sequence[str], stdin: bytes = b"", timeout_s: float = ANSWER_S) -> bytes:
        """Output of a command that reads `stdin`; `UnreachableError` where the host cannot be reached or gives no answer in time,
        `HostRefusal` where the command failed."""
        if self.destination:
            command = ["ssh", *self.options, "--", self.destination, shlex.join(command)]
        return self._output(command, stdin, timeout_s)

    def push(self, files: Sequence[Path], folder: str) -> None:
        """Copy files into a folder on the host, which is created. Raises as `run`."""
        self.run(["mkdir", "-p", folder])
        self._copy([str(file) for file in files], f"{self._place}{folder}/")

    def pull(self, folder: str, names: Sequence[str], into: Path) -> None:
        """Copy files or folders from a folder on the host into a local one. Raises as `run`."""
        self._copy([f"{self._place}{folder}/{name}" for name in names], f"{into}/")

    def _copy(self, sources: Sequence[str], target: str) -> None:
        if not self.destination:
            command = ["cp", "-r"]
        elif self.rsync:
            # Links are skipped, and an earlier copy of a file is the base of the next one.
            command = ["rsync", "-rt", "--partial", "-e", shlex.join(["ssh", *self.options])]
        else:
            command = ["scp", "-r", "-q", *self.options]
        self._output([*command, "--", *sources, target], b"", COPY_S)

    def _output(self, command: Sequence[str], stdin: bytes, timeout_s: float) -> bytes:
        """Output of a command on this machine; errors as of `run`."""
        environment = {**os.environ, "LC_ALL": "C"}
        try:
            process = subprocess.run(
                command, input=stdin, capture_output=True, timeout=timeout_s, check=False, env=environment, start_new_session=True
            )
        except subprocess.TimeoutExpired:
            raise UnreachableError(f"{self.destination or 'this machine'} gave no answer within {timeout_s:.0f} s") from None
        except FileNotFoundError:
            raise HostRefusal(f"{command[0]} is not installed here; install it, or use another engine") from None
        if process.returncode == 0:
            return process.stdout
        lines = [line.strip() for line in process.stderr.decode("utf-8", "replace").splitlines() if line.strip()]
        words = " ".join(lines[-2:]) or f"exit code {process.returncode}"
        # OpenSSH's own exit code is 255; rsync reports a lost connection as 10, 12, 30 or 255.
        lost = (255, 10, 12, 30) if command[0] == "rsync" else (255,)
        raise (UnreachableError if self.destination and process.returncode in lost else HostRefusal)(words)


def ask(channel: Channel, python: str, do: str, answer: type[T], timeout_s: float = ANSWER_S, **arguments: Any) -> T:
    """The answer of a host's Python to a request for one of `remote.ACTIONS`, decoded as `answer`; `UnreachableError` where the
    host cannot be reached, `HostRefusal` where it has no such Python, or refuses."""
    text = f"{QUESTIONS.read_text(encoding='utf-8')}\n\nmain({json.dumps({'do': do, **arguments})!r})\n"
    output = channel.run([python, "-"], text.encode(), timeout_s)
    lines = [line for line in output.decode("utf-8", "replace").splitlines() if line.startswith(remote.REPLY)]
    if not lines:
        raise HostRefusal(f"{python} gave no answer to {do!r}; it must be Python 3.11 or newer")
    try:
        reply = json.loads(lines[-1].removeprefix(remote.REPLY))
        if "error" in reply:
            raise HostRefusal(str(reply["error"]))
        return msgspec.convert(reply["answer"], answer)
    except msgspec.ValidationError as error:
        raise HostRefusal(f"the answer of {python} to {do!r} arrived damaged: {error}; ask again") from None
    except (ValueError, LookupError, TypeError, RecursionError):
        raise HostRefusal(f"the answer of {python} to {do!r} arrived damaged: {lines[-1][:80]!r}; ask again") from None


def runner_files() -> dict[str, str]:
    """Name -> content of the files of a job in a campaign's folder on a host."""
    room = QUESTIONS.parent
    package = "code/shmoo/harness/fleet"
    start = (
        "import os\nimport sys\n\nsys.path.insert(0, os.path.join(sys.argv[1], 'code'))\n"
        "from shmoo.harness.fleet.job import run\n\nsys.exit(run(sys.argv[1]))\n"
    )
    inits = {f"{folder}/__init__.py": "" for folder in ("code/shmoo", "code/shmoo/harness", package)}
    modules = {f"{package}/{name}": (room / name).read_text(encoding="utf-8") for name in ("remote.py", "job.py")}
    return {**inits, **modules, remote.RUNNER: start}
