"""The host's side of requests: the host's Python reads this file as text (`python3 -`), followed by one request.

Standard library only, and no import of Shmoo. docs/formats.md describes a campaign's folder on a host."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from typing import Any

REPLY = "shmoo-fleet-reply "
"""Prefix of the line with the answer; a login shell may print other lines."""
BLOCK = 4096
"""Size of state.json in bytes."""
STOPPED = "stopped"
"""File that marks a stopped job in its folder."""
ENDED = ("finished", "failed")
"""Last phases of a job."""
RUNNER = "runner.py"
"""File that starts the job of the campaign in its folder."""


Request = dict[str, Any]


class Refused(Exception):
    """A request that cannot be fulfilled here, with a message for the user."""


def main(text: str) -> None:
    """Answer one request, a JSON object with "do" and its arguments."""
    request = json.loads(text)
    try:
        answer: Request = {"answer": ACTIONS[request["do"]](request)}
    except (OSError, Refused) as error:
        answer = {"error": str(error)}
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        answer = {"error": f"a file of {request.get('folder', 'the campaign')} is damaged ({type(error).__name__}: {error})"}
    sys.stdout.write("\n" + REPLY + json.dumps(answer) + "\n")


def hello(request: Request) -> Request:
    """Facts that the controller needs before it sends anything."""
    folder = absolute(request["directory"])
    os.makedirs(folder, exist_ok=True)
    wheels = os.path.join(folder, "wheels")
    return {
        "directory": folder,
        "python": platform.python_version(),
        "rsync": shutil.which("rsync") is not None,
        "wheels": {path.name: path.stat().st_size for path in os.scandir(wheels)} if os.path.isdir(wheels) else {},
    }


def start(request: Request) -> bool:
    """Write the job of a campaign into its folder, unless one is alive there; returns whether it was written."""
    folder = request["folder"]
    os.makedirs(folder, exist_ok=True)
    if _alive(folder):
        return False
    before = read_state(folder) or {}
    for name, text in {**request["code"], "job.json": json.dumps(request["job"])}.items():
        path = os.path.join(folder, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        write_text(path, text)
    state = {
        "phase": "starting",
        "attempt": before.get("attempt", 0) + 1,
        "command": request["job"]["command"],
        "at": time.time(),
    }
    if os.path.exists(os.path.join(folder, STOPPED)):
        os.remove(os.path.join(folder, STOPPED))
    write_state(folder, state)
    return True


def launch(request: Request) -> int:
    """Start the job in a separate session, which outlives the connection; returns its process number."""
    folder = request["folder"]
    with open(os.path.join(folder, "job.log"), "ab") as log:
        job = subprocess.Popen(
            [sys.executable, os.path.join(folder, RUNNER), folder],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=folder,
            start_new_session=True,
        )
    deadline = time.monotonic() + 20.0
    while time.monotonic() < deadline and job.poll() is None and not _alive(folder):
        time.sleep(0.05)
    return job.pid


def stop(request: Request) -> bool:
    """Stop a waiting or running job and wait for its end; returns whether it is still alive. With "signal" the job's process is
    signalled; otherwise the engine does that."""
    folder = absolute(request["folder"])
    state = read_state(folder) or {}
    if not _alive(folder) and state.get("phase") in (None, *ENDED):
        return False
    write_text(os.path.join(folder, STOPPED), "")
    deadline, signalled = time.monotonic() + request["wait_s"], not request["signal"]
    while _alive(folder):
        # A job that is just starting has not written its process number yet.
        state = read_state(folder) or {}
        if not signalled and state.get("pid") and state.get("boot") == boot_id():
            os.kill(state["pid"], signal.SIGTERM)
            signalled = True
        if time.monotonic() > deadline:
            return True
        time.sleep(0.05)
    return False


def status(request: Request) -> Request:
    """The state of the job. Whether it is alive is checked first, since it may end in between."""
    folder = absolute(request["folder"])
    alive = _alive(folder)
    rows = os.path.join(folder, "run", "rows.jsonl")
    facts = read_text(os.path.join(folder, "facts.jsonl")).splitlines()
    return {
        "alive": alive,
        "stopped": os.path.exists(os.path.join(folder, STOPPED)),
        "state": read_state(folder),
        "boot": boot_id(),
        "rows": _lines(rows) if os.path.exists(rows) else 0,
        "facts": list(filter(None, map(_facts, facts))),
    }


def listing(request: Request) -> dict[str, tuple[int, str]]:
    """Files of the run with their current size and SHA-256. Rows may grow meanwhile, but the listed part does not change."""
    folder = absolute(request["folder"])
    files: dict[str, tuple[int, str]] = {}
    for top, _, names in os.walk(os.path.join(folder, "run")):
        for name in names:
            path = os.path.join(top, name)
            if not name.startswith(".") and not os.path.islink(path) and os.path.isfile(path):
                files[os.path.relpath(path, folder)] = _digest(path)
    facts = os.path.join(folder, "facts.jsonl")
    if os.path.exists(facts):
        files["facts.jsonl"] = _digest(facts)
    return files


ACTIONS = {"hello": hello, "start": start, "launch": launch, "stop": stop, "status": status, "listing": listing}


def write_state(folder: str, state: Request) -> None:
    """Overwrite the state in place, since an existing block needs no space on a full disk."""
    data = json.dumps(state).encode().ljust(BLOCK)
    descriptor = os.open(os.path.join(folder, "state.json"), os.O_WRONLY | os.O_CREAT, 0o666)
    try:
        os.pwrite(descriptor, data, 0)
    finally:
        os.close(descriptor)


def read_state(folder: str) -> Request | None:
    """The state, `None` where no job was started; retried while it is being written."""
    for _ in range(20):
        text = read_text(os.path.join(folder, "state.json"))
        if not text.strip():
            return None
        try:
            state: Request = json.loads(text)
        except ValueError:
            time.sleep(0.01)
            continue
        if isinstance(state, dict):
            return state
        break
    raise Refused(f"{folder}/state.json is damaged; remove it")


def _alive(folder: str) -> bool:
    """Whether a process runs the job. The process holds a lock while it lives, which is safe against reboots and reused
    numbers."""
    return is_locked(os.path.join(folder, "runner.lock"))


def is_locked(path: str) -> bool:
    """Whether another process holds the lock at `path`, which is not taken; no lock where there is no such file."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except (FileNotFoundError, PermissionError):
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _facts(line: str) -> Request | None:
    """The facts of one attempt; `None` for a line that was cut off."""
    try:
        facts: Request = json.loads(line)["facts"]
    except (ValueError, LookupError, TypeError):
        return None
    return facts if isinstance(facts, dict) else None


def _digest(path: str) -> tuple[int, str]:
    total, digest = 0, hashlib.sha256()
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        while total < size:
            part = file.read(min(1 << 20, size - total))
            if not part:
                break
            total += len(part)
            digest.update(part)
    return total, digest.hexdigest()


def _lines(path: str) -> int:
    with open(path, "rb") as file:
        return sum(part.count(b"\n") for part in iter(lambda: file.read(1 << 20), b""))


def absolute(folder: str) -> str:
    """The absolute path of a folder in hosts.toml, which is relative to the home folder."""
    return os.path.join(os.path.expanduser("~"), os.path.expanduser(folder))


def write_text(path: str, text: str) -> None:
    """Write a file atomically."""
    with open(path + ".new", "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(path + ".new", path)


def read_text(path: str) -> str:
    """The content of a file, "" where it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def first_line(path: str) -> str | None:
    """The first line of a system file, `None` without one."""
    return read_text(path).strip() or None


def boot_id() -> str | None:
    """An id that changes with each start of the machine."""
    return first_line("/proc/sys/kernel/random/boot_id")
