"""Campaigns over hosts of OpenSSH, on loopback addresses of this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from shmoo.harness.fleet.campaign import Campaign, stop
from shmoo.harness.fleet.fetch import fetch
from shmoo.harness.fleet.hosts import Host
from shmoo.harness.fleet.status import status
from tests.cli_runner import shmoo
from tests.harness.fleet.services import Sshd, lacking, small_disk
from tests.harness.fleet.stand_in import SLOWLY, host
from tests.harness.fleet.test_fleet import cases, settled, started, until

pytestmark = pytest.mark.skipif(bool(lacking()), reason=lacking() or "services run")


def test_hosts_of_ssh_measure_in_homes_of_their_own(tmp_path: Path, servers: tuple[Path, dict[str, Sshd]]) -> None:
    """A relative directory lies in the home of the session, and rows come by rsync."""
    config, by_name = servers
    hosts = [host(name, tmp_path, engine="ssh", ssh_config=str(config), directory="fleet") for name in by_name]
    campaign = started(tmp_path / "campaign", hosts)
    assert {one.standing for one in settled(campaign).values()} == {"finished"}
    assert [one.problem for one in fetch(campaign)] == ["", "", ""]
    for name, server in by_name.items():
        assert cases(campaign, name) == [0, 1, 2, 3, 4]
        assert (server.home / "fleet" / "campaigns" / campaign.file.id / name / "run").is_dir()


def test_an_unknown_host_key_and_a_closed_port_are_missing(tmp_path: Path, servers: tuple[Path, dict[str, Sshd]]) -> None:
    """Nobody is asked, no key is taken over, and the others are measured."""
    config, by_name = servers
    text = config.read_text().replace(
        "Host *", "Host stranger\n  Hostname 127.0.0.2\n  Port 1\nHost closed\n  Hostname 127.0.0.1\n  Port 1\nHost *"
    )
    own = tmp_path / "config"
    unknown = f"Host unknown\n  Hostname 127.0.0.1\n  Port {by_name['s1'].port}\n  UserKnownHostsFile /dev/null\n"
    own.write_text(unknown + text)
    hosts = [host(name, tmp_path, engine="ssh", ssh_config=str(own)) for name in ("unknown", "closed", "s1")]
    known = settled(started(tmp_path / "campaign", hosts))
    assert {name: one.standing for name, one in known.items()} == {"unknown": "missing", "closed": "missing", "s1": "finished"}
    assert "Host key verification failed" in known["unknown"].reason
    assert "Connection refused" in known["closed"].reason


def test_a_campaign_survives_its_controller(tmp_path: Path, servers: tuple[Path, dict[str, Sshd]]) -> None:
    """The controller is killed as soon as the job runs, and its sessions with it."""
    config, _ = servers
    one = host("s1", tmp_path, engine="ssh", ssh_config=str(config), variables=SLOWLY)
    path = tmp_path / "campaign"
    code = (
        "import sys, time, msgspec; from pathlib import Path; from shmoo.harness.fleet.hosts import Host\n"
        "from tests.harness.fleet.test_fleet import started\n"
        "started(Path(sys.argv[1]), [msgspec.json.decode(sys.argv[2], type=Host)])\n"
        "print('started', flush=True)\ntime.sleep(600)\n"
    )
    controller = subprocess.Popen(
        [sys.executable, "-c", code, str(path), msgspec.json.encode(one).decode()],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[3],
    )
    assert controller.stdout is not None
    assert controller.stdout.readline() == b"started\n"
    controller.send_signal(signal.SIGKILL)
    controller.wait()
    campaign = Campaign.open(path)
    until(campaign, lambda known: known["s1"].standing == "running")
    assert settled(campaign)["s1"].standing == "finished"
    fetch(campaign)
    assert cases(campaign, "s1") == list(range(40))


def test_a_dropped_connection_loses_nothing(tmp_path: Path, servers: tuple[Path, dict[str, Sshd]]) -> None:
    """While the server is gone the host is missing; its job goes on, and rows come when it is back."""
    config, by_name = servers
    one = host("s2", tmp_path, engine="ssh", ssh_config=str(config), variables=SLOWLY)
    campaign = started(tmp_path / "campaign", [one])
    until(campaign, lambda known: known["s2"].visits > 2)
    fetch(campaign)
    by_name["s2"].cut()
    (gone,) = status(campaign)
    assert (gone.standing, gone.seen) == ("missing", "running")
    assert "Connection refused" in gone.reason
    assert "Connection refused" in fetch(campaign)[0].problem
    by_name["s2"].start()
    assert settled(campaign)["s2"].standing == "finished"
    fetch(campaign)
    assert cases(campaign, "s2") == list(range(40))


def test_a_full_disk_is_told_and_goes_on_with_room(tmp_path: Path, servers: tuple[Path, dict[str, Sshd]]) -> None:
    """State is written where nothing else can be."""
    config, _ = servers
    disk = tmp_path / "disk"
    try:
        mounted = small_disk(disk, "300k")
        mounted.__enter__()
    except OSError as error:
        pytest.skip(f"no file system can be mounted here: {error}")
    try:
        variables = {"STAND_IN_ROWS": "30", "STAND_IN_PAD": "20000"}
        one = host("s3", tmp_path, engine="ssh", ssh_config=str(config), directory=str(disk / "fleet"), variables=variables)
        campaign = started(tmp_path / "campaign", [one])
        known = settled(campaign)
        assert known["s3"].standing == "failed"
        assert "No space left" in known["s3"].reason
        fetch(campaign)
        kept = cases(campaign, "s3")
        assert 0 < len(kept) < 30
        subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
        campaign = started(campaign.path, [one], resume=True)
        assert settled(campaign)["s3"].standing == "finished"
        fetch(campaign)
        assert cases(campaign, "s3") == list(range(30))
    finally:
        mounted.__exit__(None, None, None)


def test_a_host_that_becomes_another_machine_keeps_its_rows(tmp_path: Path, servers: tuple[Path, dict[str, Sshd]]) -> None:
    """Shmoo itself measures here: stopped half way and started with other threads, it refuses, and the report's head says so."""
    config, _ = servers
    pins = tmp_path / "pins.txt"
    pins.write_text(f"msgspec=={msgspec.__version__}\n")

    def with_threads(threads: str) -> Host:
        variables = {"PYTHONPATH": os.environ.get("PYTHONPATH", ""), "OMP_NUM_THREADS": threads}
        return host("s1", tmp_path, engine="ssh", ssh_config=str(config), constraints=str(pins), variables=variables)

    campaign = started(tmp_path / "campaign", [with_threads("1")])
    until(campaign, lambda known: known["s1"].visits > 1)
    stop(campaign, campaign.file.hosts)
    assert settled(campaign)["s1"].standing == "stopped"
    fetch(campaign)
    rows = (campaign.path / "hosts" / "s1" / "run" / "rows.jsonl").read_bytes()
    campaign = started(campaign.path, [with_threads("2")], resume=True)
    known = settled(campaign)
    assert known["s1"].standing == "failed"
    assert "measured under other conditions (threads was 1, is 2)" in known["s1"].reason
    assert not fetch(campaign)[0].problem
    assert (campaign.path / "hosts" / "s1" / "run" / "rows.jsonl").read_bytes() == rows
    report = shmoo("fleet", "report", str(campaign.path))
    assert "s1 is incomplete: failed" in report.stderr
    assert "threads was 1, is 2" in (campaign.path / "fleet.html").read_text()
