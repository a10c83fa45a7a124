"""Debian's Slurm and OpenSSH on loopback addresses, for tests: nothing of them outlives a test session."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

PROGRAMS = ("sshd", "ssh", "rsync", "scp", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "munged", "ip", "tc", "nsenter")
SWITCH = "SHMOO_SERVICES"


def lacking() -> str:
    """Why services cannot be started here; "" where they can."""
    if not os.environ.get(SWITCH):
        return f"starts sshd and Slurm; `bash .ci/extra` installs them and runs this (it sets {SWITCH})"
    missing = [name for name in PROGRAMS if program(name) is None]
    if missing:
        return f"not installed: {', '.join(missing)}"
    return "" if os.geteuid() == 0 else "slurmd and a small file system need root"


def program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def end(process: subprocess.Popen[bytes]) -> None:
    """Stop a service with everything that it started."""
    with suppress(psutil.NoSuchProcess):
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        process.terminate()
        _, alive = psutil.wait_procs(family, timeout=3)
        for one in alive:
            with suppress(psutil.NoSuchProcess):
                one.kill()
    process.wait()


def service(name: str, *arguments: str, log: Path, within: Sequence[str] = ()) -> subprocess.Popen[bytes]:
    path = program(name)
    assert path is not None
    with log.open("ab") as file:
        return subprocess.Popen([*within, path, *arguments], stdin=subprocess.DEVNULL, stdout=file, stderr=file)


class Link:
    """A network namespace that a cable joins to this machine's, which can be slow and can lose every packet."""

    here, there = "198.18.255.249", "198.18.255.250"
    """Of the range that is kept for tests of networks (RFC 2544)."""

    def __init__(self) -> None:
        self.name = f"shmoo{os.getpid()}"
        self.within = ("nsenter", f"--net=/run/netns/{self.name}")
        self._ip("netns", "add", self.name)
        self._ip("link", "add", f"{self.name}a", "type", "veth", "peer", "name", f"{self.name}b", "netns", self.name)
        self._ip("address", "add", f"{self.here}/30", "dev", f"{self.name}a")
        self._ip("link", "set", f"{self.name}a", "up")
        self._ip("-n", self.name, "address", "add", f"{self.there}/30", "dev", f"{self.name}b")
        self._ip("-n", self.name, "link", "set", f"{self.name}b", "up")

    def _ip(self, *arguments: str) -> None:
        done = subprocess.run([program("ip") or "ip", *arguments], capture_output=True, text=True, check=False)
        if done.returncode:
            raise OSError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")

    def lose(self) -> None:
        """From now on nothing comes back, and nobody is told."""
        self._ip("-n", self.name, "route", "add", "blackhole", f"{self.here}/32")

    def mend(self) -> None:
        self._ip("-n", self.name, "route", "delete", "blackhole", f"{self.here}/32")

    def slow(self, rate: str) -> None:
        """What comes from there comes no faster than this, such as 40mbit."""
        shaped = ["root", "tbf", "rate", rate, "burst", "64kb", "latency", "200ms"]
        subprocess.run([*self.within, program("tc") or "tc", "qdisc", "replace", "dev", f"{self.name}b", *shaped], check=True)

    def close(self) -> None:
        self._ip("link", "delete", f"{self.name}a")
        self._ip("netns", "delete", self.name)


class Sshd:
    """An OpenSSH server on a port of its own, whose sessions have a home of their own; behind a link where one is given."""

    def __init__(self, folder: Path, key: Path, link: Link | None = None) -> None:
        self.folder, self.port = folder, free_port()
        self.address, self._within = ("127.0.0.1", ()) if link is None else (link.there, link.within)
        self.home = folder / "home"
        self.home.mkdir(parents=True)
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / "host_key")], check=True)
        os.makedirs("/run/sshd", mode=0o755, exist_ok=True)
        (folder / "sshd_config").write_text(
            f"Port {self.port}\nListenAddress {self.address}\nHostKey {folder}/host_key\nPidFile none\n"
            f"UsePAM no\nStrictModes no\n"
            f"PermitRootLogin prohibit-password\nPasswordAuthentication no\nAuthorizedKeysFile {key}.pub\n"
            f"SetEnv HOME={self.home}\nSubsystem sftp internal-sftp\n"
        )
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Listen, and wait until connections are taken."""
        arguments = ["-D", "-e", "-f", str(self.folder / "sshd_config")]
        self._process = service("sshd", *arguments, log=self.folder / "sshd.log", within=self._within)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with suppress(OSError), socket.create_connection((self.address, self.port), 1):
                return
            time.sleep(0.05)
        self.stop()
        raise AssertionError((self.folder / "sshd.log").read_text())

    def cut(self) -> None:
        """Drop the server and every connection at once; what sessions left behind goes on."""
        assert self._process is not None
        server = psutil.Process(self._process.pid)
        sessions = [one for one in server.children(recursive=True) if one.name() == "sshd"]
        for one in (server, *sessions):
            with suppress(psutil.NoSuchProcess):
                one.send_signal(signal.SIGKILL)
        self._process.wait()
        self._process = None

    def stop(self) -> None:
        if self._process is not None:
            end(self._process)


@contextmanager
def ssh_hosts(folder: Path, names: Sequence[str], link: Link | None = None) -> Iterator[tuple[Path, dict[str, Sshd]]]:
    """Servers by name, and the client configuration that knows their ports, their host keys and the user's key."""
    folder.mkdir(parents=True)
    key = folder / "user_key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    servers: dict[str, Sshd] = {}
    try:
        for name in names:
            servers[name] = Sshd(folder / name, key, link)
        public = {name: (server.folder / "host_key.pub").read_text().split() for name, server in servers.items()}
        known = "".join(
            f"[{servers[name].address}]:{servers[name].port} {kind} {data}\n" for name, (kind, data, *_) in public.items()
        )
        (folder / "known_hosts").write_text(known)
        config = "".join(f"Host {name}\n  Hostname {server.address}\n  Port {server.port}\n" for name, server in servers.items())
        (folder / "config").write_text(
            f"{config}Host *\n  User root\n  IdentityFile {key}\n  IdentitiesOnly yes\n"
            f"  UserKnownHostsFile {folder}/known_hosts\n  GlobalKnownHostsFile /dev/null\n"
        )
        yield folder / "config", servers
    finally:
        for server in servers.values():
            server.stop()


class SlurmCluster:
    """A controller and several nodes that are all this machine."""

    def __init__(self, folder: Path, nodes: Sequence[str]) -> None:
        self.folder, self.nodes = folder, {name: free_port() for name in nodes}
        self.conf = folder / "slurm.conf"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        for part in ("state", *(f"spool.{name}" for name in nodes)):
            (folder / part).mkdir(parents=True)
        key = folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        hostname = socket.gethostname().split(".")[0]
        lines = [
            "ClusterName=test",
            f"SlurmctldHost={hostname}(127.0.0.1)",
            f"SlurmctldPort={free_port()}",
            "SlurmUser=root",
            "SlurmdUser=root",
            f"AuthInfo=socket={folder}/munge.sock",
            f"StateSaveLocation={folder}/state",
            f"SlurmdSpoolDir={folder}/spool.%n",
            f"SlurmctldPidFile={folder}/slurmctld.pid",
            f"SlurmdPidFile={folder}/slurmd.%n.pid",
            "ProctrackType=proctrack/linuxproc",
            "TaskPlugin=task/none",
            "SelectType=select/cons_tres",
            "SelectTypeParameters=CR_Core",
            "ReturnToService=2",
            "SlurmdTimeout=5",
            "KillWait=2",
            "MailProg=/bin/true",
            "SchedulerParameters=batch_sched_delay=0,sched_interval=1",
            *(
                f"NodeName={name} NodeHostname={hostname} NodeAddr=127.0.0.1 Port={port} CPUs=2 State=UNKNOWN"
                for name, port in self.nodes.items()
            ),
            "PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP",
        ]
        self.conf.write_text("\n".join(lines) + "\n")
        (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\nCgroupAutomount=no\n")

    def start(self) -> None:
        """Start everything, and wait until every node is idle."""
        munge = ["--foreground", "--force", f"--key-file={self.folder}/munge.key", f"--socket={self.folder}/munge.sock"]
        munge += [f"--{name}-file={self.folder}/munge.{name}" for name in ("pid", "log", "seed")]
        self._processes["munged"] = service("munged", *munge, log=self.folder / "munged.out")
        self._until(lambda: (self.folder / "munge.sock").exists())
        self._processes["slurmctld"] = service("slurmctld", "-D", "-i", "-f", str(self.conf), log=self.folder / "slurmctld.out")
        for name in self.nodes:
            self.start_node(name)
        self._until(lambda: self.states() == dict.fromkeys(self.nodes, "idle"))

    def start_node(self, name: str) -> None:
        self._processes[name] = service("slurmd", "-D", "-f", str(self.conf), "-N", name, log=self.folder / f"{name}.out")

    def kill_node(self, name: str) -> None:
        """As a power cut: its daemon and every job of it die at once."""
        process = self._processes.pop(name)
        mine = [one for one in psutil.process_iter() if _environment(one).get("SLURMD_NODENAME") == name]
        steps = [one.parent() for one in mine if (parent := one.parent()) is not None and parent.name() == "slurmstepd"]
        for one in (psutil.Process(process.pid), *steps, *mine):
            with suppress(psutil.NoSuchProcess):
                if one is not None:
                    one.kill()
        process.wait()

    def states(self) -> dict[str, str]:
        told = subprocess.run(
            ["sinfo", "--noheader", "--Node", "--format=%N %T"],
            capture_output=True,
            text=True,
            env={**os.environ, "SLURM_CONF": str(self.conf)},
            check=False,
        )
        return dict(line.split() for line in told.stdout.splitlines())

    def stop(self) -> None:
        for name in reversed(list(self._processes)):
            end(self._processes[name])

    def _until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 20
        while not condition():
            if time.monotonic() > deadline:
                logs = "\n".join(f"{log}: {log.read_text()[-1500:]}" for log in sorted(self.folder.glob("*.out")))
                raise AssertionError(f"Slurm did not start, nodes {self.states()}:\n{logs}")
            time.sleep(0.2)


def _environment(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ()
    except psutil.Error:
        return {}


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    """A file system of a size such as 300k; `OSError` where none may be mounted."""
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True, check=False)
    if done.returncode:
        raise OSError(done.stderr.decode().strip())
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
