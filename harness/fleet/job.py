"""The job of a host: it waits for the machine, makes or checks the environment, runs one `shmoo` command, and waits for its end
without using the CPU. Standard library only; it runs from the campaign's folder on the host, and leaves nothing behind."""

from __future__ import annotations

import ctypes
import fcntl
import glob
import hashlib
import json
import os
import platform
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable

from shmoo.harness.fleet import remote

LONGEST_REASON = 1200
"""Most characters of a reason, so that the state fits into its block."""
MEASURING_LOCK = "shmoo-measuring.lock"
"""Lock of any `shmoo measure` on the machine (`harness/campaign/campaign.py`), in the folder for temporary files."""
MACHINE_LOCK = "shmoo-fleet.lock"
"""Lock of a fleet's job, in the folder for temporary files: two campaigns on one machine would disturb each other."""
TRIES, TRY_S = 40, 0.05
LOOK_S = 15.0
"""Time between two checks of a machine that other programs use."""
SAMPLE_S = 1.0
"""Time over which CPU use is sampled."""
DONE_CODES = (0, 1)
"""Exit codes of a complete `shmoo` command; 1 means that some results are weak."""
SIGNATURE = 400
"""Bytes of the lock file with the name of its holder."""
UV_FOLDERS = (".local/bin", ".cargo/bin")
"""Folders below the home folder into which uv installs itself."""
MOST_SHOWN = 3
"""Most processes named where other programs use the machine."""
SetPhase = Callable[..., None]


def run(folder: str) -> int:
    """Run the job: one `shmoo` command, while no other campaign measures on the machine."""
    job_lock = _own_lock(os.path.join(folder, "runner.lock"))
    if job_lock is None or os.path.exists(os.path.join(folder, remote.STOPPED)):
        return 0  # another process runs this job, or it was stopped before it began
    with open(os.path.join(folder, "job.json"), encoding="utf-8") as file:
        job = json.load(file)
    os.environ.update(job["variables"])
    state = remote.read_state(folder) or {"attempt": 1}
    state.update(command=job["command"], pid=os.getpid(), host=socket.gethostname(), boot=remote.boot_id(), reason="")

    def say(phase: str, reason: str = "", **fields: object) -> None:
        state.update(phase=phase, reason=reason[-LONGEST_REASON:], at=time.time(), **fields)
        remote.write_state(folder, state)

    try:
        machine = _wait_for_machine(job, say)
        say("preparing", "making the environment")
        python, installed = _environment(job)
        with open(os.path.join(folder, "facts.jsonl"), "a", encoding="utf-8") as file:
            file.write(json.dumps({"at": time.time(), "facts": {**machine_facts(), "environment": installed}}) + "\n")
        say("running", environment=installed)
        code, words = _measure(folder, job, python)
        os.close(machine)
    except (OSError, remote.Refused, subprocess.SubprocessError) as error:
        say("failed", str(error), exit_code=None)
        return 2
    if code in DONE_CODES and (unreached := _unreached(folder, job["command"])):
        say("short", f"{unreached} not reached within the time; --resume continues", exit_code=code)
        return 0
    if code in DONE_CODES:
        say("finished", "" if code == 0 else words, exit_code=code)
        return 0
    say("failed", f"exit code {code}: {words or 'no message'}", exit_code=code)
    return code


def _unreached(folder: str, command: list[str]) -> str:
    """The number of cases that `measure` did not reach, in words; "" for none, and for other verbs, which end with their
    budget."""
    if command[0] != "measure":
        return ""
    try:
        with open(os.path.join(folder, "run", "skipped.json"), encoding="utf-8") as file:
            count = len(json.load(file))
    except (OSError, ValueError):
        return ""
    return "" if not count else "1 case" if count == 1 else f"{count} cases"


def _own_lock(path: str) -> int | None:
    """A descriptor of the lock that marks the job as alive; `None` where another process has it. A check of the job takes the
    lock for a moment too, so taking it is retried for a while."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    for _ in range(TRIES):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError:
            time.sleep(TRY_S)
    os.close(descriptor)
    return None


def _wait_for_machine(job: remote.Request, say: SetPhase) -> int:
    """Wait until the machine is free; returns a descriptor that holds its lock."""
    deadline = time.monotonic() + 60 * job["wait_minutes"]
    say("waiting", "for the machine's lock")
    lock = _open_lock(os.path.join(tempfile.gettempdir(), MACHINE_LOCK))
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            words = os.pread(lock, SIGNATURE, 0).decode("utf-8", "replace")
            holder = "".join(filter(str.isprintable, words)).strip() or "another campaign"
            if time.monotonic() > deadline:
                raise remote.Refused(f"{holder} used the machine for {job['wait_minutes']:.0f} minutes") from None
            say("waiting", f"{holder} measures on this machine")
            time.sleep(1.0)
    _sign(lock, f"campaign {job['campaign']} (host {job['name']}) of {_user(os.getuid())}, process {os.getpid()},")
    # The command itself would only wait as long as its budget, and then fail.
    while job["command"][0] != "calibrate" and remote.is_locked(os.path.join(tempfile.gettempdir(), MEASURING_LOCK)):
        words = "a measurement outside the fleet runs on this machine"
        if job["when_busy"] == "report" or time.monotonic() > deadline:
            raise remote.Refused(words)
        say("waiting", words)
        time.sleep(1.0)
    while job["when_busy"] != "measure":
        share, users = _other_users()
        if share <= job["busy_share"]:
            break
        words = f"others use {share:.0%} of this machine's CPU time (limit {job['busy_share']:.0%}){users}"
        if job["when_busy"] == "report" or time.monotonic() > deadline:
            raise remote.Refused(words)
        say("waiting", words)
        time.sleep(LOOK_S)
    return lock


def _open_lock(path: str) -> int:
    # In a folder like /tmp the kernel may refuse O_CREAT on another user's file, although the file can be locked.
    try:
        return os.open(path, os.O_RDWR)
    except PermissionError:
        return os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        before = os.umask(0)
        try:
            return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        finally:
            os.umask(before)


def _sign(lock: int, words: str) -> None:
    """Write the holder's name into the lock file, if it is writable."""
    try:
        os.ftruncate(lock, 0)
        os.pwrite(lock, words.encode(), 0)
    except OSError:
        return  # a full disk, or a file that only its owner may write


def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"user {number}"


def _other_users() -> tuple[float, str]:
    """Share of all cores' CPU time in use now, and its largest users; 0 where the system does not report it."""

    def look() -> tuple[int, int, dict[tuple[str, str], int]]:
        with open("/proc/stat", encoding="ascii") as file:
            numbers = [int(n) for n in file.readline().split()[1:9]]
        used = {}
        for number in filter(str.isdigit, os.listdir("/proc")):
            name, bracket, fields = remote.read_text(f"/proc/{number}/stat").rpartition(")")
            if bracket:
                used[number, name.partition("(")[2]] = sum(map(int, fields.split()[11:13]))
        return sum(numbers), numbers[3] + numbers[4], used

    try:
        total, idle, before = look()
        time.sleep(SAMPLE_S)
        later, later_idle, after = look()
    except (OSError, ValueError, IndexError):
        return 0.0, ""
    elapsed, users = max(later - total, 1), []
    for share, number, name in sorted(
        (((after[process] - before.get(process, 0)) / elapsed, *process) for process in after), reverse=True
    ):
        try:
            user = _user(os.stat(f"/proc/{number}").st_uid)
        except FileNotFoundError:
            continue  # it has ended
        users.append(f"{name} of {user} {share:.0%}")
        if len(users) == MOST_SHOWN or share <= 0:
            break
    return 1.0 - (later_idle - idle) / elapsed, f": {', '.join(users)}" if users else ""


def _measure(folder: str, job: remote.Request, python: str) -> tuple[int, str]:
    """Run the command; its exit code, and the last line that it wrote to stderr."""
    arguments = [part.replace("{folder}", folder) for part in job["arguments"]]
    if "--resume" in arguments:
        # The first attempt starts the run that later ones continue.
        os.makedirs(arguments[arguments.index("--out") + 1], exist_ok=True)
    environment = {**os.environ, "SHMOO_HOME": os.path.join(folder, "home"), "PYTHONUNBUFFERED": "1"}
    child = subprocess.Popen(
        [python, "-m", "shmoo.harness.cli", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        cwd=folder,
        env=environment,
        preexec_fn=_end_with_parent,
    )
    signal.signal(signal.SIGTERM, lambda number, frame: child.send_signal(signal.SIGTERM))
    last: deque[str] = deque(maxlen=1)
    assert child.stderr is not None
    for raw in child.stderr:
        line = raw.decode("utf-8", "replace").strip()
        if line:
            last.append(line)
            try:
                with open(os.path.join(folder, "log.txt"), "a", encoding="utf-8") as log:
                    log.write(line + "\n")
            except OSError:
                continue  # a full disk: the last lines are kept in the state
    code = child.wait()
    return code, last[-1] if last else ""


def _end_with_parent() -> None:
    """Let the kernel end this process if the job is killed (Linux), since nobody would wait for its rows."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def _environment(job: remote.Request) -> tuple[str, str]:
    """Python of an environment with the pinned packages, and the fingerprint of the installed packages."""
    if job["environment"]:
        python = os.path.join(remote.absolute(job["environment"]), "bin", "python")
        installed = _installed(python)
        _check_pins(installed, job["pins"], job["environment"])
        return python, _fingerprint(installed)
    folder = os.path.join(job["directory"], "environments", job["key"] + "-" + platform.python_version())
    os.makedirs(os.path.dirname(folder), exist_ok=True)
    lock = os.open(folder + ".lock", os.O_RDWR | os.O_CREAT, 0o666)
    fcntl.flock(lock, fcntl.LOCK_EX)  # hosts may share a home
    python, ready_file = os.path.join(folder, "bin", "python"), os.path.join(folder, "ready")
    try:
        if os.path.exists(ready_file) and remote.read_text(ready_file) == _fingerprint(_installed(python)):
            return python, remote.read_text(ready_file)
        shutil.rmtree(folder, ignore_errors=True)
        _install(folder, python, job)
        installed = _installed(python)
        _check_pins(installed, job["pins"], folder)
        remote.write_text(ready_file, _fingerprint(installed))
        return python, _fingerprint(installed)
    finally:
        os.close(lock)


def _install(folder: str, python: str, job: remote.Request) -> None:
    package = os.path.join(job["directory"], "packages", job["key"])
    requirements = [*glob.glob(os.path.join(package, "*.whl")), "--constraint", os.path.join(package, "constraints.txt")]
    if job["wheelhouse"]:
        requirements += ["--no-index", "--find-links", os.path.join(job["directory"], "wheels")]
    if job["installer"] == "uv":
        uv = _uv()
        steps = [[uv, "venv", "--quiet", "--python", sys.executable, folder]]
        # Copies, not links into uv's cache: a package changed here would also change in the cache and every other environment.
        steps += [[uv, "pip", "install", "--quiet", "--link-mode=copy", "--python", python, *requirements]]
    else:
        steps = [
            [sys.executable, "-m", "venv", folder],
            [python, "-m", "pip", "install", "--disable-pip-version-check", *requirements],
        ]
    for step in steps:
        process = subprocess.run(step, stdin=subprocess.DEVNULL, capture_output=True, check=False, preexec_fn=_end_with_parent)
        if process.returncode:
            lines = [line for line in (process.stdout + process.stderr).decode("utf-8", "replace").splitlines() if line.strip()]
            errors = [line for line in lines if line.lower().lstrip().startswith("error")] or lines[-1:]
            raise remote.Refused("cannot make the environment: " + " ".join(errors[-2:]))


def _uv() -> str:
    """The path of uv on this host; an ssh session's search path may lack the folders into which uv installs itself."""
    own_paths = [os.path.join(remote.absolute(folder), "uv") for folder in UV_FOLDERS]
    uv_path = shutil.which("uv") or next((path for path in own_paths if os.access(path, os.X_OK)), None)
    if uv_path is None:
        raise remote.Refused('uv is not installed on this host; install it there, or take installer = "pip"')
    return uv_path


def _installed(python: str) -> dict[str, str]:
    """Name -> version of the packages in an environment, its Python included, which may differ from the running one."""
    # The first package on the path counts.
    code = (
        "import importlib.metadata as m, json, platform; "
        "found = {d.name: d.version for d in reversed(list(m.distributions())) if d.name}; "
        "print(json.dumps({**found, 'python': platform.python_version()}))"
    )
    try:
        process = subprocess.run([python, "-c", code], stdin=subprocess.DEVNULL, capture_output=True, check=True, timeout=120)
    except (OSError, subprocess.SubprocessError) as error:
        raise remote.Refused(f"no usable environment: {python} does not run ({error})") from None
    versions = json.loads(process.stdout)
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in versions.items()}


def _check_pins(installed: dict[str, str], pins: dict[str, str], where: str) -> None:
    """Refuse an environment that differs from the pins. A local version such as +cpu satisfies a pin without it."""
    wrong = [
        f"{name} is {installed[name]}, pinned to {version}"
        for name, version in sorted(pins.items())
        if name in installed and installed[name].split("+")[0] != version.split("+")[0]
    ]
    if "shmoo" not in installed:
        wrong.insert(0, "shmoo is not installed")
    if wrong:
        raise remote.Refused(f"the environment {where} differs from the pins: " + "; ".join(wrong[:5]))


def _fingerprint(installed: dict[str, str]) -> str:
    text = json.dumps(sorted(installed.items()))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def machine_facts() -> dict[str, str | None]:
    """Facts about a machine and its settings beyond a run's fingerprint: firmware, kernel, driver, clock and power limits."""
    facts = {
        "kernel": platform.release(),
        "bios": remote.first_line("/sys/class/dmi/id/bios_version"),
        "cpu": _cpu_field("model name"),
    }
    facts["microcode"] = _cpu_field("microcode")
    facts["governor"] = remote.first_line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    facts["clock limit"] = remote.first_line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_max_freq")
    facts["package power limit"] = remote.first_line("/sys/class/powercap/intel-rapl:0/constraint_0_power_limit_uw")
    try:
        query = ["nvidia-smi", "--query-gpu=name,driver_version,vbios_version,power.limit,clocks.max.sm", "--format=csv,noheader"]
        output = subprocess.run(query, stdin=subprocess.DEVNULL, capture_output=True, check=True, timeout=30).stdout.decode()
        columns = [cell.strip() for cell in output.splitlines()[0].split(",")]
        facts.update(zip(("gpu", "driver", "vbios", "gpu power limit", "gpu clock limit"), columns, strict=False))
    except (OSError, subprocess.SubprocessError, IndexError):
        facts["gpu"] = None
    return facts


def _cpu_field(name: str) -> str | None:
    match = re.search(rf"^{name}\s*:\s*(.+)$", remote.read_text("/proc/cpuinfo"), re.MULTILINE)
    return match[1].strip() if match else None
