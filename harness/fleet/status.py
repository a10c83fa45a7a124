"""How far every host of a campaign is, found out from the machines."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

import msgspec

from shmoo.estimators.errors import ShmooError
from shmoo.estimators.graph.records import UNREADABLE
from shmoo.estimators.registry import grouped
from shmoo.harness.fleet.campaign import Campaign
from shmoo.harness.fleet.channels import UnreachableError, ask
from shmoo.harness.fleet.engines import Job
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


class JobState(msgspec.Struct, frozen=True):
    """state.json of a host.

    Attributes:
        phase: "starting", one of `LIVE`, "finished", "short" (its time ended before all cases had a visit) or "failed".
        reason: why, in words.
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


class HostReport(msgspec.Struct, frozen=True):
    """What a host answers to `remote.status`.

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

    def answer(host: Host) -> HostReport:
        channel = campaign.engine_of(host).channel(host)
        return ask(channel, host.python, "status", HostReport, folder=campaign.folder(host, host.directory))

    before, jobs = last_known(campaign), _jobs(campaign)
    answers = campaign.for_each_host(answer, campaign.file.hosts)
    statuses = tuple(
        judge(campaign.file.command, answers[name], jobs.get(name), last_status) for name, last_status in before.items()
    )
    keep(campaign, statuses)
    return statuses


def _jobs(campaign: Campaign) -> dict[str, Job | ShmooError]:
    """Host -> its job as its engine knows it; each kind of engine is asked once."""
    jobs: dict[str, Job | ShmooError] = {}
    for hosts in grouped((host.engine, host) for host in campaign.file.hosts).values():
        jobs_by_name = campaign.engine_of(hosts[0]).jobs({campaign.job_name(host): host for host in hosts})
        jobs |= {host.name: jobs_by_name[job] for host in hosts if (job := campaign.job_name(host)) in jobs_by_name}
    return jobs


def judge(
    command: tuple[str, ...], answer: HostReport | ShmooError, job: Job | ShmooError | None, before: HostStatus
) -> HostStatus:
    """A host's standing from what its files tell, what its engine knows of its `job` (`None` where only the files tell), and what
    was last known."""
    if isinstance(answer, ShmooError):
        return _unknown(answer, before)
    if isinstance(job, ShmooError):
        return _unknown(job, before)
    state = answer.state or JobState("", 0, ())
    phase, same_command, refusal = state.phase, state.command == command, before.refusal
    current = HostStatus(
        before.name,
        before.engine,
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
        return msgspec.structs.replace(current, standing=standing, seen=standing, reason=reason)

    if job is not None and job.queued:
        return as_("queued", job.words)
    if same_command and phase == "finished":
        return as_("finished", state.reason)
    if same_command and phase == "short" and not refusal and not answer.alive and not (job is not None and job.alive):
        return as_("stopped", state.reason)
    stopped = as_("stopped", "by `shmoo fleet stop`")
    if same_command and phase == "failed" and not refusal:
        return stopped if answer.stopped else as_("failed", state.reason)
    if answer.alive or (job is not None and job.alive):
        begins: Standing = "starting"
        standing = next((live for live in LIVE if live == phase), begins)
        if answer.stopped:
            return as_(standing, "told to end by `shmoo fleet stop`")
        return as_(standing, state.reason if same_command else f"still runs `{' '.join(state.command)}`")
    if answer.stopped and same_command and not refusal:
        return stopped
    if refusal:
        return as_("failed", refusal)
    if not same_command:
        return as_("not started")
    if phase == "starting":
        # Nothing ran: the engine took no job.
        return as_("failed", f"its job never ran{f' ({job.words})' if job is not None else ''}; see job.log on the host")
    if job is not None:
        return as_("died", f"its job ended while {phase}: {job.words}")
    rebooted = state.boot != answer.boot
    return as_("died", "the machine was restarted" if rebooted else f"its job was killed while {phase}")


def _unknown(error: ShmooError, before: HostStatus) -> HostStatus:
    standing: Standing = "missing" if isinstance(error, UnreachableError) else "failed"
    last = f"; {before.seen} when it last answered, {before.asked_at}" if before.seen else ""
    return msgspec.structs.replace(before, standing=standing, reason=f"{error}{last}")


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
    """Host -> what was last known; not started in a new campaign, and where the file was damaged: the machines know better."""
    try:
        stored_statuses = msgspec.json.decode(read_regular(campaign.path / STATUS), type=tuple[HostStatus, ...])
    except (OSError, *UNREADABLE):
        stored_statuses = ()
    known_statuses = {status.name: status for status in stored_statuses}
    return {
        host.name: known_statuses.get(host.name, HostStatus(host.name, host.engine, "not started"))
        for host in campaign.file.hosts
    }


def keep(campaign: Campaign, statuses: Iterable[HostStatus]) -> None:
    """Write what is known of the hosts."""
    replace_file(campaign.path / STATUS, msgspec.json.format(msgspec.json.encode(tuple(statuses)), indent=1) + b"\n")


def begun(campaign: Campaign, refusals: Mapping[str, str]) -> None:
    """Keep why jobs could not be started; "" where they were."""
    known = last_known(campaign)
    keep(
        campaign,
        (
            msgspec.structs.replace(known_status, refusal=refusals.get(name, known_status.refusal))
            for name, known_status in known.items()
        ),
    )
