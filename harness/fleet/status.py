"""How far every host of a campaign is, found out from the machines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from shmoo.estimators.errors import ShmooError
from shmoo.estimators.graph.records import UNREADABLE
from shmoo.harness.fleet.answers import JobState, Told
from shmoo.harness.fleet.campaign import Campaign
from shmoo.harness.fleet.channels import UnreachableError, ask
from shmoo.harness.fleet.engines import Job, known_jobs
from shmoo.harness.fleet.hosts import Host
from shmoo.runs.store.files import read_regular, replace_file
from shmoo.runs.store.records import utc_now

Standing = Literal[
    "not started", "queued", "starting", "waiting", "preparing", "running", "finished", "stopped", "failed", "died", "missing"
]
STARTABLE = ("not started", "stopped", "failed", "died", "missing")
"""Standings from which a job is started again."""
SETTLED = ("finished", *STARTABLE)
"""Standings that change by nothing but a new start."""
STATUS = "status.json"
LIVE: tuple[Standing, ...] = ("waiting", "preparing", "running")


class HostStatus(msgspec.Struct, frozen=True, omit_defaults=True):
    """One host of a campaign.

    Attributes:
        reason: why it stands as it does; "" where nothing needs saying.
        visits: rows that its run holds, one a visit to a case.
        attempt: how often its job was started.
        machine: name that the machine gives itself.
        environment: fingerprint of its environment.
        changed: what differs between the machine at the first attempt and at a later one.
        seen: its standing when the machine last answered, at `asked_at`.
        refusal: why its job could not be started; "" where it was.
    """

    name: str
    engine: str
    standing: Standing
    reason: str = ""
    visits: int = 0
    attempt: int = 0
    machine: str = ""
    environment: str = ""
    changed: tuple[str, ...] = ()
    seen: str = ""
    asked_at: str = ""
    refusal: str = ""


def status(campaign: Campaign) -> tuple[HostStatus, ...]:
    """Ask all machines; what they say is kept for those that cannot be reached later."""
    before = last_known(campaign)
    named = {host.name: (campaign.job_name(host), host) for host in campaign.file.hosts}
    jobs = known_jobs(campaign.engines(), named)
    answers = campaign.each(lambda host: _ask(campaign, host), campaign.file.hosts)
    statuses = tuple(
        judge(campaign.file.command, host, answers[host.name], jobs.get(host.name), before.get(host.name))
        for host in campaign.file.hosts
    )
    keep(campaign, statuses)
    return statuses


def _ask(campaign: Campaign, host: Host) -> Told:
    channel = campaign.engine_of(host).channel(host)
    folder = campaign.folder(host, host.directory)
    return ask(channel, host.python, "status", Told, folder=folder)


def judge(
    command: tuple[str, ...],
    host: Host,
    answer: Told | ShmooError,
    job: Job | ShmooError | None,
    before: HostStatus | None,
) -> HostStatus:
    """A host's standing from what it and its engine say.

    Args:
        answer: what its files tell. job: as the engine knows it, `None` where only the host's files tell.
        before: what was last known.
    """
    for error in (answer, job):
        if isinstance(error, ShmooError):
            return _unknown(host, error, before)
    assert not isinstance(answer, ShmooError)
    assert not isinstance(job, ShmooError)
    state = answer.state or JobState("", 0, ())
    phase, own = state.phase, state.command == command
    refusal = "" if before is None else before.refusal
    told = HostStatus(
        host.name,
        host.engine,
        "not started",
        visits=answer.rows,
        attempt=state.attempt,
        machine=state.host,
        environment=state.environment,
        changed=_changes(answer.facts),
        asked_at=utc_now(),
        refusal=refusal,
    )

    def as_(standing: Standing, reason: str = "") -> HostStatus:
        return msgspec.structs.replace(told, standing=standing, seen=standing, reason=reason)

    if job is not None and job.queued:
        return as_("queued", job.words)
    if own and phase == "finished":
        return as_("finished", state.reason)
    stopped = as_("stopped", "by `shmoo fleet stop`")
    if own and phase == "failed" and not refusal:
        return stopped if answer.stopped else as_("failed", state.reason)
    if answer.alive or (job is not None and job.alive):
        begins: Standing = "starting"
        standing = next((live for live in LIVE if live == phase), begins)
        if answer.stopped:
            return as_(standing, "told to end by `shmoo fleet stop`")
        return as_(standing, state.reason if own else f"still runs `{' '.join(state.command)}`")
    if answer.stopped and own and not refusal:
        return stopped
    if refusal:
        return as_("failed", refusal)
    if not own:
        return as_("not started")
    if phase == "starting":
        # Nothing ran: the engine took no job.
        return as_("failed", f"its job never ran{f' ({job.words})' if job is not None else ''}; see job.log on the host")
    if job is not None:
        return as_("died", f"its job ended while {phase}: {job.words}")
    rebooted = state.boot != answer.boot
    return as_("died", "the machine was restarted" if rebooted else f"its job was killed while {phase}")


def _unknown(host: Host, error: ShmooError, before: HostStatus | None) -> HostStatus:
    standing: Standing = "missing" if isinstance(error, UnreachableError) else "failed"
    known = before or HostStatus(host.name, host.engine, standing)
    last = f"; {known.seen} when it last answered, {known.asked_at}" if known.seen else ""
    return msgspec.structs.replace(known, standing=standing, reason=f"{error}{last}")


def _changes(attempts: list[dict[str, object]]) -> tuple[str, ...]:
    """What differs between the first attempt and a later one."""
    changes = {}
    for facts in attempts[1:]:
        for name in sorted({*attempts[0], *facts}):
            old, new = attempts[0].get(name), facts.get(name)
            if old != new:
                changes[name] = f"{name} was {old}, is {new}"
    return tuple(changes.values())


def last_known(campaign: Campaign) -> dict[str, HostStatus]:
    """Host -> what was last known; empty for a new campaign, and where the file was damaged: the machines know better."""
    try:
        listed = msgspec.json.decode(read_regular(campaign.path / STATUS), type=tuple[HostStatus, ...])
    except (OSError, *UNREADABLE):
        return {}
    return {host.name: host for host in listed}


def keep(campaign: Campaign, statuses: tuple[HostStatus, ...]) -> None:
    """Write what is known of the hosts."""
    replace_file(campaign.path / STATUS, msgspec.json.format(msgspec.json.encode(statuses), indent=1) + b"\n")


def begun(campaign: Campaign, refusals: Mapping[str, str]) -> None:
    """Keep why jobs could not be started; "" where they were."""
    known = last_known(campaign)
    fresh = {host.name: HostStatus(host.name, host.engine, "not started") for host in campaign.file.hosts}
    listed = {name: known.get(name, status) for name, status in fresh.items()}
    listed.update({name: msgspec.structs.replace(listed[name], refusal=refusal) for name, refusal in refusals.items()})
    keep(campaign, tuple(listed.values()))
