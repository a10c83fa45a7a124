"""A campaign over many hosts: its folder on the controller (docs/formats.md), and the start of its jobs.

The hosts hold the state, not the folder: a controller may be killed at any moment, and another one continues.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import msgspec

from shmoo.estimators.errors import InputError, ShmooError
from shmoo.estimators.graph.records import decode_versioned
from shmoo.harness.fleet.channels import Channel, Hello, HostRefusal, ask, runner_files
from shmoo.harness.fleet.engines import Engine, engine_of
from shmoo.harness.fleet.hosts import Host, check_host
from shmoo.harness.fleet.package import environment_key, read_pins, write_wheel
from shmoo.runs.store.files import own_folder, read_regular, replace_file
from shmoo.runs.store.records import utc_now

T = TypeVar("T")
CAMPAIGN_FORMAT = 1
CAMPAIGN = "campaign.json"
ID = re.compile(r"[A-Za-z0-9._-]*[A-Za-z0-9_-]")
"""Form of an id, which names a folder on the hosts."""
VERBS = ("measure", "characterize", "calibrate")
RESERVED = ("-o", "--out", "--resume", "--json", "--curve")
"""Options that the campaign sets itself, or that are useless without a reader."""
OLDEST_PYTHON = (3, 11)
AT_ONCE = 32
"""Most hosts contacted at the same time."""
LEAST_PAUSE_S = 10.0
MOST_CPU = 0.01
"""Largest share of a core that the waiting controller uses, including its commands."""


class CampaignFile(msgspec.Struct, frozen=True):
    """campaign.json.

    Attributes:
        id: name of the campaign on the hosts, unique.
        command: verb and arguments of the `shmoo` command that every host runs.
    """

    id: str
    hosts: tuple[Host, ...]
    command: tuple[str, ...]
    created_at: str
    # A factory, because omit_defaults would leave a plain default out of the file.
    format: int = msgspec.field(default_factory=lambda: CAMPAIGN_FORMAT)


class Campaign:
    """A campaign's folder on the controller, with the content of campaign.json; `engine_of` returns a host's engine (tests pass
    another)."""

    def __init__(self, path: Path, file: CampaignFile, engine_of: Callable[[Host], Engine] = engine_of) -> None:
        self.path, self.file, self.engine_of = path, file, engine_of

    @classmethod
    def open(cls, path: str | Path) -> Campaign:
        """Read a campaign's folder; `InputError` where there is none, or a host would be invalid in hosts.toml, `FormatError`
        where it is damaged or newer."""
        file = Path(path) / CAMPAIGN
        try:
            data = read_regular(file)
        except OSError:
            raise InputError(f"no campaign at {path}: {CAMPAIGN} cannot be read; `shmoo fleet run` makes one") from None
        campaign_file = decode_versioned(data, CampaignFile, CAMPAIGN_FORMAT, "campaign", str(file))
        if (
            not ID.fullmatch(campaign_file.id)
            or len({host.name for host in campaign_file.hosts}) < len(campaign_file.hosts)
            or not campaign_file.command
        ):
            raise InputError(
                f"{file}: its id {campaign_file.id!r} is invalid, a host is named twice, or it has no command; start it again"
            )
        for host in campaign_file.hosts:
            check_host(host, f"{file}: host {host.name!r}")
        return cls(Path(path), campaign_file)

    @classmethod
    def create(cls, path: Path, hosts: Sequence[Host], command: Sequence[str], resume: bool = False) -> Campaign:
        """Create a campaign's folder, or with `resume` continue the existing one with these hosts and this command.

        `InputError` where one exists and `resume` is false, for a command that a fleet cannot run, or unreadable pins.
        """
        check_command(command)
        for host in hosts:
            read_pins(Path(host.constraints))
        if exists := (path / CAMPAIGN).exists():
            if not resume:
                raise InputError(f"{path} holds a campaign already; continue with --resume, or name another --out")
            old = cls.open(path).file
            file = msgspec.structs.replace(old, hosts=tuple(hosts), command=tuple(command))
        else:
            slug = re.sub(r"[^A-Za-z0-9._-]", "-", path.name) or "campaign"
            file = CampaignFile(f"{slug[:40]}-{secrets.token_hex(4)}", tuple(hosts), tuple(command), utc_now())
        own_folder(path / "package")
        if not exists or file != old:
            replace_file(path / CAMPAIGN, msgspec.json.format(msgspec.json.encode(file), indent=1) + b"\n")
        return cls(path, file)

    def folder(self, host: Host, directory: str) -> str:
        """The folder of this campaign on a host; `directory` is the host's directory from hosts.toml as an absolute path."""
        return f"{directory}/campaigns/{self.file.id}/{host.name}"

    def job_name(self, host: Host) -> str:
        """The name of a host's job."""
        return f"{self.file.id}-{host.name}"

    def fetched(self, name: str) -> Path:
        """The local folder for files of the host of that name."""
        return self.path / "hosts" / name

    def reach(self, host: Host) -> tuple[Hello, Channel]:
        """A host's description of itself, and the channel to its files; errors as for `ask`."""
        engine = self.engine_of(host)
        hello = ask(engine.channel(host), host.python, "hello", Hello, directory=host.directory)
        return hello, engine.channel(host, rsync=hello.rsync)

    def for_each_host(self, work: Callable[[Host], T], hosts: Iterable[Host]) -> dict[str, T | ShmooError]:
        """Host -> result of `work` or its error, for many hosts at a time."""

        def guarded(host: Host) -> T | ShmooError:
            try:
                return work(host)
            except ShmooError as error:
                return error
            except OSError as error:
                return ShmooError(str(error))

        host_list = list(hosts)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return dict(zip((host.name for host in host_list), pool.map(guarded, host_list), strict=True))


def check_command(command: Sequence[str]) -> None:
    """`InputError` unless a fleet can run this command."""
    if not command or command[0] not in VERBS:
        given_text = f"got {command[0]!r}" if command else "got nothing"
        raise InputError(
            f"a fleet runs {', '.join(VERBS[:-1])} or {VERBS[-1]}, {given_text}; write it after --, such as -- measure"
        )
    for argument in command[1:]:
        if argument.split("=")[0] in RESERVED or argument.startswith("-o"):
            raise InputError(f"{argument} is set by the campaign itself; leave it out after --")


def arguments_of(command: Sequence[str]) -> list[str]:
    """The arguments of the command on a host; "{folder}" is replaced by the campaign's folder there."""
    verb, *arguments = command
    if verb == "calibrate":
        return [verb, "{folder}/run", *arguments, "-o", "{folder}/run/profile.json", "--force"]
    return [verb, *arguments, "--out", "{folder}/run", "--resume"]


def start(campaign: Campaign, hosts: Sequence[Host]) -> dict[str, str]:
    """Start the jobs of these hosts: host -> why its job was not started; "" if it was, or is alive already."""
    wheel = None if all(host.environment for host in hosts) else write_wheel(campaign.path / "package")
    results = campaign.for_each_host(lambda host: _start(campaign, host, wheel), hosts)
    return {name: str(result) if isinstance(result, ShmooError) else "" for name, result in results.items()}


def _start(campaign: Campaign, host: Host, wheel: Path | None) -> None:
    constraints = Path(host.constraints)
    hello, channel = campaign.reach(host)
    directory, key = hello.directory, ""
    if not host.environment:
        version = tuple(int(part) for part in hello.python.split(".")[:2] if part.isdecimal())
        if version < OLDEST_PYTHON:
            words = f"{host.python} is Python {hello.python}, and Shmoo needs 3.11; name a newer one with python = ..."
            raise HostRefusal(words)
        assert wheel is not None
        key = environment_key(wheel, constraints, host.installer, "wheelhouse" if host.wheelhouse else "index")
        pinned = campaign.path / "package" / key / "constraints.txt"
        pinned.parent.mkdir(exist_ok=True)
        channel.push([wheel, Path(shutil.copyfile(constraints, pinned))], f"{directory}/packages/{key}")
        wheels = sorted(Path(host.wheelhouse).glob("*.whl")) if host.wheelhouse else []
        if missing_wheels := [path for path in wheels if hello.wheels.get(path.name) != path.stat().st_size]:
            channel.push(missing_wheels, f"{directory}/wheels")
    folder = campaign.folder(host, directory)
    command = campaign.file.command
    job = {
        **msgspec.structs.asdict(host),
        "directory": directory,
        "campaign": campaign.file.id,
        "command": command,
        "arguments": arguments_of(command),
        "key": key,
        "pins": read_pins(constraints),
    }
    if ask(channel, host.python, "start", bool, folder=folder, job=job, code=runner_files()):
        campaign.engine_of(host).launch(host, folder, campaign.job_name(host))


def stop(campaign: Campaign, hosts: Sequence[Host]) -> dict[str, str]:
    """Stop the jobs of these hosts; their runs can be continued. Host -> why its job still runs; "" if it has ended or was not
    alive."""

    def end(host: Host) -> bool:
        return campaign.engine_of(host).stop(host, campaign.folder(host, host.directory), campaign.job_name(host))

    results = campaign.for_each_host(end, hosts)
    words = "its job was told to end, and has not yet; see `shmoo fleet status`"
    return {name: str(result) if isinstance(result, ShmooError) else words if result else "" for name, result in results.items()}


def cpu_seconds() -> float:
    """CPU time of this process and its child processes."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def pause_s(look_cpu_s: float) -> float:
    """Seconds to wait after a query of all hosts that took this much CPU time."""
    return max(LEAST_PAUSE_S, look_cpu_s / MOST_CPU)
