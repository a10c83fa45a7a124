"""`shmoo fleet`: one command on many machines, their results, and one page about all of them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import click
import msgspec

from shmoo.estimators.errors import ShmooError, unknown
from shmoo.estimators.machine.profile import load_profile
from shmoo.estimators.units import counted, percent
from shmoo.harness.cli import options, output
from shmoo.harness.cli.app import cli
from shmoo.harness.cli.verbs.report import newest_profile
from shmoo.harness.defaults import run_directory
from shmoo.harness.fleet.campaign import Campaign, arguments_of, check_command, cpu_seconds, pause_s, start
from shmoo.harness.fleet.campaign import stop as stop_jobs
from shmoo.harness.fleet.fetch import fetch as fetch_all
from shmoo.harness.fleet.fetch import last_facts
from shmoo.harness.fleet.hosts import read_hosts
from shmoo.harness.fleet.status import SETTLED, STARTABLE, HostStatus, begun, last_known
from shmoo.harness.fleet.status import status as status_of
from shmoo.harness.workloads.suites import check_suite
from shmoo.runs.analysis.fleet import Specimen, Speed, fleet_report
from shmoo.runs.store.store import Run

NOT_ALL = 1
"""Exit code where a host failed or is missing."""
GROUP_EXAMPLE = "Example: shmoo fleet run hosts.toml -- measure --suite micro"
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
STOP_EXAMPLES = """\b
Examples:
  shmoo fleet stop october
  shmoo fleet stop october alpha n7
"""
REPORT_EXAMPLES = """\b
Examples:
  shmoo fleet report october
  shmoo fleet report october --against september -o october.html
"""
PAGE = "fleet.html"
folder = click.argument("campaign", type=click.Path(path_type=Path))


@click.group(epilog=GROUP_EXAMPLE)
def fleet() -> None:
    """Measure many machines with one command, by ssh or Slurm. docs/lab.md describes hosts.toml and a whole campaign."""


@fleet.command(epilog=RUN_EXAMPLES, short_help="Start a command on every host.")
@click.argument("hosts", type=click.Path(path_type=Path))
@click.argument("command", metavar="-- VERB [ARGS]...", nargs=-1, required=True, type=click.UNPROCESSED)
@options.out("a new folder under ./shmoo-runs")
@options.resume
@click.option("--wait", is_flag=True, help="Wait, fetch rows as they grow, and end when every host has ended.")
@options.as_json
def run(hosts: Path, command: tuple[str, ...], out: Path | None, resume: bool, wait: bool, as_json: bool) -> None:
    """Run measure, characterize or calibrate on every host of a hosts.toml file.

    Each host runs it independently, so this command may end and the network may fail; `shmoo fleet status` queries the machines.
    With --resume, unfinished hosts start again and continue. calibrate takes the run that the host measured in the same campaign.
    """
    target = run_directory(out, resume, "fleet", "campaign")
    host_list = read_hosts(hosts)
    check_command(command)
    # A mistake is reported here, and not by every host.
    command_options = cli.commands[command[0]].make_context(f"shmoo {command[0]}", arguments_of(command)[1:]).params
    if command_options.get("suite") is not None:
        check_suite(command_options["suite"])
    campaign = Campaign.create(target, host_list, command, resume)
    standings = {host_status.name: host_status.standing for host_status in status_of(campaign)} if resume else {}
    startable = [host for host in campaign.file.hosts if standings.get(host.name, "not started") in STARTABLE]
    output.message(f"starting {' '.join(command)} on {len(startable)} of {len(host_list)} hosts, campaign {campaign.path}")
    refusals = start(campaign, startable)
    begun(campaign, refusals)
    for name, refusal in refusals.items():
        if refusal:
            output.message(f"{name}: {refusal}")
    try:
        statuses = _settled(campaign) if wait else status_of(campaign)
    except KeyboardInterrupt:
        words = f"interrupted; the hosts continue, and `shmoo fleet status {campaign.path}` queries them"
        raise KeyboardInterrupt(words) from None
    _tell(campaign, statuses, as_json)


def _settled(campaign: Campaign) -> tuple[HostStatus, ...]:
    """Wait until no host changes any more, fetching meanwhile. The pause depends on the CPU time of a query."""
    while True:
        before = cpu_seconds()
        statuses = status_of(campaign)
        fetch_all(campaign)
        counts = {standing: sum(s.standing == standing for s in statuses) for standing in {s.standing for s in statuses}}
        output.message(", ".join(f"{count} {standing}" for standing, count in sorted(counts.items())))
        if all(host_status.standing in SETTLED for host_status in statuses):
            return statuses
        time.sleep(pause_s(cpu_seconds() - before))


@fleet.command(epilog=STATUS_EXAMPLES, short_help="Progress of every host.")
@folder
@options.as_json
def status(campaign: Path, as_json: bool) -> None:
    """Query the status of every machine of a campaign. Exits with 1 when a host failed, died or cannot be reached."""
    opened = Campaign.open(campaign)
    _tell(opened, status_of(opened), as_json)


def _tell(campaign: Campaign, statuses: Sequence[HostStatus], as_json: bool) -> None:
    if as_json:
        hosts = [{**{"reason": "", "visits": 0}, **msgspec.to_builtins(host_status)} for host_status in statuses]
        output.json_document({"format": 1, "campaign": str(campaign.path), "command": campaign.file.command, "hosts": hosts})
    else:
        rows = [[s.name, s.engine, s.standing, str(s.visits), s.reason] for s in statuses]
        output.table(["host", "engine", "standing", "visits", "reason"], rows, left=3)
        for host in statuses:
            for change in host.changed:
                output.message(f"{host.name}: the machine changed during the campaign: {change}")
        environments = {s.environment for s in statuses if s.environment}
        if len(environments) > 1:
            output.message(f"hosts measure in {len(environments)} different environments; see environment in --json")
        output.message(
            f"`shmoo fleet fetch {campaign.path}` fetches rows, `shmoo fleet report {campaign.path}` compares machines"
        )
    if any(s.standing in ("failed", "died", "missing") for s in statuses):
        raise click.exceptions.Exit(NOT_ALL)


@fleet.command(epilog=STOP_EXAMPLES, short_help="Stop the jobs of all hosts, or of some.")
@folder
@click.argument("names", metavar="[HOST]...", nargs=-1)
@options.as_json
def stop(campaign: Path, names: tuple[str, ...], as_json: bool) -> None:
    """Stop the running or waiting jobs of a campaign's hosts, as Ctrl-C does: finished visits are kept, and `shmoo fleet run
    --resume` continues. Exits with 1 when a host failed, died or cannot be reached."""
    opened = Campaign.open(campaign)
    by_name = {host.name: host for host in opened.file.hosts}
    for name in names:
        if name not in by_name:
            raise unknown(f"host of {campaign}", name, by_name)
    for name, refusal in stop_jobs(opened, [by_name[name] for name in names or by_name]).items():
        if refusal:
            output.message(f"{name}: {refusal}")
    _tell(opened, status_of(opened), as_json)


@fleet.command(epilog="\b\nExamples:\n  shmoo fleet fetch october", short_help="Fetch the hosts' rows so far.")
@folder
@options.as_json
def fetch(campaign: Path, as_json: bool) -> None:
    """Copy new rows, graphs and profiles from every host into CAMPAIGN/hosts/NAME, checked by hash. It can be repeated and
    interrupted. Exits with 1 when a host could not be fetched from."""
    opened = Campaign.open(campaign)
    fetched = fetch_all(opened)
    for fetch_result in fetched:
        if fetch_result.problem:
            output.message(f"{fetch_result.name}: {fetch_result.problem}")
    if as_json:
        output.json_document({"format": 1, "campaign": str(opened.path), "hosts": msgspec.to_builtins(fetched)})
    else:
        count, size = sum(fetch_result.files for fetch_result in fetched), sum(fetch_result.size for fetch_result in fetched)
        hosts = sum(fetch_result.files > 0 for fetch_result in fetched)
        output.message(
            f"fetched {counted(count, 'file')} ({size} bytes) from {counted(hosts, 'host')} into {opened.path / 'hosts'}"
        )
    if any(fetch_result.problem for fetch_result in fetched):
        raise click.exceptions.Exit(NOT_ALL)


@fleet.command(epilog=REPORT_EXAMPLES, short_help="One page about all machines of a campaign.")
@folder
@options.against("none, or an earlier campaign", required=False)
@options.out("CAMPAIGN/fleet.html")
@options.as_json
def report(campaign: Path, against: Path | None, out: Path | None, as_json: bool) -> None:
    """A page from the fetched files: machines by kind with their coefficients and error cards, outliers among equal machines,
    drift, and energy per inference. Missing hosts come first."""
    from shmoo.runs.fleet_page import render_fleet
    from shmoo.runs.plots.page import write

    opened = Campaign.open(campaign)
    fleet_summary = fleet_report(_specimens(opened), () if against is None else _specimens(Campaign.open(against)))
    target = output.writing(out if out is not None else opened.path / PAGE)
    write(render_fleet(fleet_summary, f"{opened.path.name}: {' '.join(opened.file.command)}"), target)
    output.message(f"wrote {target}")
    if as_json:
        hosts = [{"name": s.name, "standing": s.standing, "reason": s.reason} for s in fleet_summary.missing]
        families = [{"title": f.title, "speeds": msgspec.to_builtins(f.speeds)} for f in fleet_summary.families]
        drifts = msgspec.to_builtins(fleet_summary.drifts)
        output.json_document({"format": 1, "missing": hosts, "families": families, "drifts": drifts})
        return
    for specimen in fleet_summary.missing:
        output.message(f"{specimen.name} is incomplete: {specimen.standing}: {specimen.reason}")
    rows = [
        [
            family.title,
            s.name,
            beside_equals(s, len(family.speeds)),
            "" if s.z is None else f"{s.z:+.1f}",
            "outlier" if s.outlier else "",
        ]
        for family in fleet_summary.families
        for s in family.speeds
    ]
    if rows:
        output.table(["machines", "host", "time vs equals", "z", ""], rows, left=2)
    else:
        output.message(f"no host has rows yet; `shmoo fleet fetch {campaign}` fetches them")


def _specimens(campaign: Campaign) -> list[Specimen]:
    """The hosts of a campaign with their fetched files."""
    return [_specimen(host_status, campaign.fetched(name)) for name, host_status in last_known(campaign).items()]


def _specimen(host_status: HostStatus, fetched: Path) -> Specimen:
    try:
        facts = last_facts(fetched)
        run = Run.open(fetched / "run") if (fetched / "run" / "run.json").exists() else None
        newest = newest_profile(fetched / "run")
        profile = None if newest is None else load_profile(newest)
    except ShmooError as error:
        return Specimen(host_status.name, "failed", f"its fetched files cannot be read: {error}")
    changed = "; ".join(f"the machine changed during the campaign: {change}" for change in host_status.changed)
    reason = "; ".join(part for part in (host_status.reason, changed) if part)
    return Specimen(host_status.name, "changed" if changed else host_status.standing, reason, run, profile, facts)


def beside_equals(speed: Speed, machines: int) -> str:
    """How much slower a machine is than its equals, or why that is unknown."""
    if machines < 2:
        return "no equal machine"
    if speed.ratio is None:
        return f"{counted(speed.cases, 'shared case')}, too few"
    return percent(speed.ratio - 1, signed=True)
