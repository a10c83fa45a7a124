"""What a host answers to the questions of `remote.py`: a reply that lacks a field, or has another kind of value, is damaged."""

from __future__ import annotations

import msgspec


class Hello(msgspec.Struct, frozen=True):
    """Of `remote.hello`.

    Attributes:
        directory: the host's folder for environments and campaigns, absolute. python: version of the Python that answered.
        rsync: whether the host has it. wheels: name -> size of the wheels that were copied there.
    """

    directory: str
    python: str
    rsync: bool
    wheels: dict[str, int]


class Started(msgspec.Struct, frozen=True):
    """Of `remote.start`: whether the job was written; false where one is alive."""

    started: bool


class Launched(msgspec.Struct, frozen=True):
    """Of `remote.launch`: number of the job's process."""

    pid: int


class Stopped(msgspec.Struct, frozen=True):
    """Of `remote.stop`: whether the job is alive all the same."""

    alive: bool


class JobState(msgspec.Struct, frozen=True):
    """state.json of a host.

    Attributes:
        phase: "starting", one of `status.LIVE`, "finished" or "failed". reason: why, in words.
        attempt: how often the job was started. command: of that job.
        host, boot: name of the machine, and its start that the job began in. environment: fingerprint of its packages.
    """

    phase: str
    attempt: int
    command: tuple[str, ...]
    reason: str = ""
    host: str = ""
    boot: str | None = None
    environment: str = ""


class Told(msgspec.Struct, frozen=True):
    """Of `remote.status`.

    Attributes:
        alive: whether a process runs the job. stopped: whether somebody asked for its end.
        state: `None` where no job was started. boot: the machine's present start.
        rows: lines of rows.jsonl. facts: what the machine said of itself at each attempt.
    """

    alive: bool
    stopped: bool
    state: JobState | None
    boot: str | None
    rows: int
    facts: list[dict[str, object]]


class Listing(msgspec.Struct, frozen=True):
    """Of `remote.listing`: name of a file of the run -> its size and SHA-256."""

    files: dict[str, tuple[int, str]]
