"""The status of every host of a campaign, queried from the machines."""

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
"""Standings from which a job can be started again."""
SETTLED = ("finished", *STARTABLE)
"""Standings that only a new start changes."""
STATUS = "status.json"
LIVE: tuple[Standing, ...] = ("waiting", "preparing", "running")


class JobState(msgspec.Struct, frozen=True):
    """state.json of a host.

    Attributes:
        phase: "starting", one of `LIVE`, "finished", "short" (its time ended before all cases had a visit) or "failed".
        reason: reason for the phase.
        attempt: number of starts of the job. command: the job's command.
        host, boot: name of the machine, and boot id at the job's start. environment: fingerprint of its packages.
    """

    phase: str
    attempt: int
    command: tuple[str, ...]
    reason: str = ""
    host: str = ""
    boot: str | None = None
    environment: str = ""


class HostReport(msgspec.Struct, frozen=True):
    """A host's answer to `remote.status`.

    Attributes:
        alive: whether a process runs the job. stopped: whether the job was told to stop.
        state: `None` where no job was started. boot: the machine's current boot id.
        rows: lines of rows.jsonl. facts: facts about the machine at each attempt.
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
        reason: reason for its standing, or "".
        visits: rows in its run, one per visit to a case.
        attempt: number of starts of its job.
        machine: host name that the machine reports.
        environment: fingerprint of its environment.
        changed: differences of the machine between the first attempt and later ones.
        seen: its standing when the machine last answered, at `asked_at`.
        refusal: why its job could not be started, or "".
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
    """Query all machines; the answers are stored for when a machine cannot be reached."""

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
    """Host -> its job as its engine reports it; each kind of engine is queried once."""
    jobs: dict[str, Job | ShmooError] = {}
    for hosts in grouped((host.engine, host) for host in campaign.file.hosts).values():
        jobs_by_name = campaign.engine_of(hosts[0]).jobs({campaign.job_name(host): host for host in hosts})
        jobs |= {host.name: jobs_by_name[job] for host in hosts if (job := campaign.job_name(host)) in jobs_by_name}
    return jobs


def judge(
    command: tuple[str, ...], answer: HostReport | ShmooError, job: Job | ShmooError | None, before: HostStatus
) -> HostStatus:
    """A host's standing from its files, its engine's report on the `job` (`None` without one), and its status `before`."""
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
        # Nothing ran: the engine has no job.
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
    """Differences between the first attempt and later ones."""
    changes = {}
    for facts in attempts[1:]:
        for name in sorted({*attempts[0], *facts}):
            old, new = attempts[0].get(name), facts.get(name)
            if old != new:
                changes[name] = f"{name} was {old}, is {new}"
    return tuple(changes.values())


def last_known(campaign: Campaign) -> dict[str, HostStatus]:
    """Host -> its last known status; "not started" in a new campaign, and where the file is damaged, since machines are queried
    anyway."""
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
    """Store the statuses of the hosts."""
    replace_file(campaign.path / STATUS, msgspec.json.format(msgspec.json.encode(tuple(statuses)), indent=1) + b"\n")


def begun(campaign: Campaign, refusals: Mapping[str, str]) -> None:
    """Store the reasons why jobs could not be started; "" where they were."""
    statuses_by_name = last_known(campaign)
    keep(
        campaign,
        (
            msgspec.structs.replace(known_status, refusal=refusals.get(name, known_status.refusal))
            for name, known_status in statuses_by_name.items()
        ),
    )
