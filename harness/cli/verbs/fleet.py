"""`shmoo fleet`: one command on many machines, what came of it, and one page about all of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from shmoo.harness.cli import options, output

if TYPE_CHECKING:
    from shmoo.harness.fleet.campaign import Campaign
    from shmoo.harness.fleet.status import HostStatus

NOT_ALL = 1
"""Exit code where a host failed or is missing."""
LEAST_PAUSE_S = 10.0
MOST_CPU = 0.01
"""While it waits, the controller uses at most this part of a core, its commands included."""
RUN_EXAMPLES = """\b
Examples:
  shmoo fleet run hosts.toml -- measure --suite micro --budget 20
  shmoo fleet run hosts.toml --out october --wait -- characterize --budget 10
  shmoo fleet run hosts.toml --out october --resume -- calibrate
"""
STATUS_EXAMPLES = """\b
Examples:
  shmoo fleet status october
  shmoo fleet status october --json
"""
FETCH_EXAMPLES = """\b
Examples:
  shmoo fleet fetch october
"""
folder = click.argument("campaign", type=click.Path(path_type=Path))


@click.group(short_help="One command on many machines; their state, rows and report.")
def fleet() -> None:
    """Measure many machines with one command, by ssh or Slurm. docs/lab.md describes hosts.toml and a whole campaign."""


@fleet.command(epilog=RUN_EXAMPLES, short_help="Start a command on every host.")
@click.argument("hosts", type=click.Path(path_type=Path))
@click.argument("command", metavar="-- VERB [ARGS]...", nargs=-1, required=True, type=click.UNPROCESSED)
@options.out("a new folder under ./shmoo-runs")
@click.option("--resume", is_flag=True, help="Go on with the campaign in --out: hosts that are not finished start again.")
@click.option("--wait", is_flag=True, help="Stay, fetch rows as they grow, and end when every host has.")
@options.as_json
def run(hosts: Path, command: tuple[str, ...], out: Path | None, resume: bool, wait: bool, as_json: bool) -> None:
    """Run measure, characterize or calibrate on every host of a hosts.toml file.

    Each host runs it on its own, so this command may end, and the network may fail: `shmoo fleet status` asks the machines.
    calibrate takes the run that the host measured in the same campaign.
    """
    from shmoo.estimators.errors import InputError
    from shmoo.harness.cli.app import cli
    from shmoo.harness.defaults import new_run_directory
    from shmoo.harness.fleet.campaign import Campaign, arguments_of, check_command, start
    from shmoo.harness.fleet.hosts import read_hosts
    from shmoo.harness.fleet.status import SETTLED, begun, status

    if resume and out is None:
        raise InputError("--resume needs --out: which campaign to go on with")
    listed = read_hosts(hosts)
    check_command(command)
    # A slip is told here, and not by every host.
    cli.commands[command[0]].make_context(command[0], arguments_of(command)[1:])
    campaign = Campaign.create(out if out is not None else new_run_directory("fleet"), listed, command, resume)
    idle = set(campaign.file.hosts)
    if resume:
        idle = {host for host, known in zip(campaign.file.hosts, status(campaign), strict=True) if _startable(known)}
    wanted = [host for host in campaign.file.hosts if host in idle]
    output.message(f"starting {' '.join(command)} on {len(wanted)} of {len(listed)} hosts, campaign {campaign.path}")
    refusals = start(campaign, wanted)
    begun(campaign, refusals)
    for name, refusal in refusals.items():
        if refusal:
            output.message(f"{name}: {refusal}")
    statuses = _settled(campaign, SETTLED) if wait else status(campaign)
    _tell(campaign, statuses, as_json)


def _startable(known: HostStatus) -> bool:
    return known.standing in ("not started", "failed", "died", "missing")


def _settled(campaign: Campaign, settled: Sequence[str]) -> tuple[HostStatus, ...]:
    """Wait until no host changes any more, fetching meanwhile. The pause follows from what a look costs in CPU time."""
    import time

    from shmoo.harness.fleet.campaign import cpu_seconds
    from shmoo.harness.fleet.fetch import fetch
    from shmoo.harness.fleet.status import status

    while True:
        before = cpu_seconds()
        statuses = status(campaign)
        fetch(campaign)
        counts = {standing: sum(s.standing == standing for s in statuses) for standing in {s.standing for s in statuses}}
        output.message(", ".join(f"{count} {standing}" for standing, count in sorted(counts.items())))
        if all(one.standing in settled for one in statuses):
            return statuses
        time.sleep(max(LEAST_PAUSE_S, (cpu_seconds() - before) / MOST_CPU))


@fleet.command(epilog=STATUS_EXAMPLES, short_help="How far every host is, asked from the machines.")
@folder
@options.as_json
def status(campaign: Path, as_json: bool) -> None:
    """Ask every machine of a campaign how far it is. Exits with 1 when a host failed, died or cannot be reached."""
    from shmoo.harness.fleet.campaign import Campaign
    from shmoo.harness.fleet.status import status

    opened = Campaign.open(campaign)
    _tell(opened, status(opened), as_json)


def _tell(campaign: Campaign, statuses: Sequence[HostStatus], as_json: bool) -> None:
    if as_json:
        import msgspec

        hosts = [{**{"reason": "", "visits": 0}, **msgspec.to_builtins(one)} for one in statuses]
        output.json_document({"format": 1, "campaign": str(campaign.path), "command": campaign.file.command, "hosts": hosts})
    else:
        rows = [[s.name, s.engine, s.standing, str(s.visits), s.reason] for s in statuses]
        output.table(["host", "engine", "standing", "visits", "reason"], rows, left=3)
        for one in statuses:
            for change in one.changed:
                output.message(f"{one.name}: the machine changed during the campaign: {change}")
        environments = {s.environment for s in statuses if s.environment}
        if len(environments) > 1:
            output.message(f"hosts measure in {len(environments)} different environments; see environment in --json")
        output.message(f"`shmoo fleet fetch {campaign.path}` brings rows, `shmoo fleet report {campaign.path}` compares machines")
    if any(s.standing in ("failed", "died", "missing") for s in statuses):
        raise click.exceptions.Exit(NOT_ALL)


@fleet.command(epilog=FETCH_EXAMPLES, short_help="Bring the rows that the hosts have so far.")
@folder
@options.as_json
def fetch(campaign: Path, as_json: bool) -> None:
    """Copy new rows, graphs and profiles from every host into CAMPAIGN/hosts/NAME, checked by hash. It can be repeated and
    interrupted. Exits with 1 when a host could not be fetched from."""
    from shmoo.harness.fleet.campaign import Campaign
    from shmoo.harness.fleet.fetch import fetch, summary

    opened = Campaign.open(campaign)
    fetched = fetch(opened)
    for one in fetched:
        if one.problem:
            output.message(f"{one.name}: {one.problem}")
    if as_json:
        import msgspec

        output.json_document({"format": 1, "campaign": str(opened.path), "hosts": msgspec.to_builtins(fetched)})
    else:
        output.message(f"{summary(fetched)} into {opened.path / 'hosts'}")
    if any(one.problem for one in fetched):
        raise click.exceptions.Exit(NOT_ALL)
