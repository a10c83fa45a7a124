"""Campaigns over hosts of OpenSSH and Slurm, both real, on loopback addresses of this machine."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from shmoo.harness.fleet import campaign as campaigns
from shmoo.harness.fleet.campaign import Campaign, start, stop
from shmoo.harness.fleet.channels import CONNECT_S
from shmoo.harness.fleet.fetch import INCOMING, Fetched, fetch
from shmoo.harness.fleet.status import begun, status
from tests.cli_runner import shmoo
from tests.harness.fleet.services import Link, SlurmCluster, Sshd, lacking, small_disk, ssh_hosts
from tests.harness.fleet.stand_in import host
from tests.harness.fleet.test_fleet import cases, settled, started, until

pytestmark = pytest.mark.skipif(bool(lacking()), reason=lacking() or "services run")
SLOWLY = {"STAND_IN_ROWS": "40", "STAND_IN_PAUSE_S": "0.1"}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    made = SlurmCluster(tmp_path_factory.mktemp("slurm"), ("n1", "n2", "n3"))
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture
def slurm(cluster: SlurmCluster, monkeypatch: pytest.MonkeyPatch) -> SlurmCluster:
    monkeypatch.setenv("SLURM_CONF", str(cluster.conf))
    return cluster


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, Sshd]]]:
    with ssh_hosts(tmp_path_factory.mktemp("ssh") / "servers", ("s1", "s2", "s3")) as made:
        yield made


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
    assert status(campaign)[0].standing == "running"
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


@pytest.fixture
def link() -> Iterator[Link]:
    try:
        made = Link()
    except OSError as error:
        pytest.skip(f"no network namespace can be made here: {error}")
    yield made
    made.close()


def test_a_network_that_loses_every_packet_loses_no_row(tmp_path: Path, link: Link) -> None:
    """Nobody closes a connection: the host is missing after the time to connect, its job goes on, and rows come later."""
    with ssh_hosts(tmp_path / "servers", ("far",), link) as (config, _):
        one = host("far", tmp_path, engine="ssh", ssh_config=str(config), variables=SLOWLY)
        campaign = started(tmp_path / "campaign", [one])
        until(campaign, lambda known: known["far"].visits > 2)
        link.lose()
        begin = time.monotonic()
        (gone,) = status(campaign)
        assert time.monotonic() - begin < 2 * CONNECT_S
        assert (gone.standing, gone.seen) == ("missing", "running")
        assert "timed out" in gone.reason
        link.mend()
        assert settled(campaign)["far"].standing == "finished"
        fetch(campaign)
        assert cases(campaign, "far") == list(range(40))


def test_a_fetch_outlives_a_pause_of_the_network_and_a_lost_one_keeps_nothing(tmp_path: Path, link: Link) -> None:
    """In the midst of a copy: packets that vanish for a while are sent again; a connection that ends leaves no part of a file."""
    with ssh_hosts(tmp_path / "servers", ("far",), link) as (config, by_name):
        big = {"STAND_IN_ROWS": "40", "STAND_IN_PAD": "250000"}
        campaign = started(tmp_path / "campaign", [host("far", tmp_path, engine="ssh", ssh_config=str(config), variables=big)])
        assert settled(campaign)["far"].standing == "finished"
        link.slow("24mbit")
        with copying(campaign) as result:
            link.lose()
            time.sleep(2)
            link.mend()
        assert result[0].problem == ""
        assert cases(campaign, "far") == list(range(40))
        shutil.rmtree(campaign.fetched(campaign.file.hosts[0]))
        with copying(campaign) as result:
            by_name["far"].cut()
        assert result[0].problem
        assert not list(campaign.path.glob("hosts/far/run/rows.jsonl"))
        by_name["far"].start()
        assert fetch(campaign)[0].problem == ""
        assert cases(campaign, "far") == list(range(40))


@contextmanager
def copying(campaign: Campaign) -> Iterator[list[Fetched]]:
    """A fetch that has begun to copy; what it gave is in the list at the end."""
    result: list[Fetched] = []
    thread = threading.Thread(target=lambda: result.extend(fetch(campaign)))
    thread.start()
    incoming = campaign.fetched(campaign.file.hosts[0]) / INCOMING
    deadline = time.monotonic() + 20
    while not any(path.stat().st_size > 1e5 for path in incoming.rglob("*rows.jsonl*")):
        assert thread.is_alive(), result
        assert time.monotonic() < deadline
        time.sleep(0.01)
    try:
        yield result
    finally:
        thread.join(60)


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


def test_hosts_of_slurm_are_measured_one_job_a_node(tmp_path: Path, slurm: SlurmCluster) -> None:
    """Nodes are exclusive, and a second start does not submit a job that waits or runs."""
    hosts = [host(name, tmp_path, engine="slurm", variables=SLOWLY) for name in slurm.nodes]
    campaign = started(tmp_path / "campaign", hosts)
    until(campaign, lambda known: {one.standing for one in known.values()} == {"running"})
    begun(campaign, start(campaign, hosts))
    told = subprocess.run(["squeue", "--noheader", "--format=%j %N %h"], capture_output=True, text=True, check=True).stdout
    jobs = [line.split() for line in told.splitlines()]
    assert sorted(jobs) == [[campaign.job_name(one), one.name, "NO"] for one in hosts]
    known = settled(campaign)
    assert {(one.standing, one.attempt) for one in known.values()} == {("finished", 1)}
    fetch(campaign)
    assert cases(campaign, "n2") == list(range(40))


def test_jobs_of_slurm_are_stopped(tmp_path: Path, slurm: SlurmCluster) -> None:
    """One that runs and one that waits for its node; both go on later, and no visit is made twice."""
    (tmp_path / "second").mkdir()
    running = host("n1", tmp_path, engine="slurm", variables=SLOWLY)
    queued = host("n1", tmp_path / "second", engine="slurm")
    first = started(tmp_path / "first-campaign", [running])
    until(first, lambda known: known["n1"].visits > 2)
    second = started(tmp_path / "second-campaign", [queued])
    until(second, lambda known: known["n1"].standing == "queued")
    for campaign in (second, first):
        assert stop(campaign, campaign.file.hosts) == {"n1": ""}
        assert settled(campaign)["n1"].standing == "stopped"
    first = started(first.path, [running], resume=True)
    known = settled(first)
    assert (known["n1"].standing, known["n1"].attempt) == ("finished", 2)
    fetch(first)
    assert cases(first, "n1") == list(range(40))
    second = started(second.path, [queued], resume=True)
    assert settled(second)["n1"].standing == "finished"


def test_a_node_that_slurm_does_not_know_has_failed_with_its_words(tmp_path: Path, slurm: SlurmCluster) -> None:
    """The others are measured."""
    hosts = [host(name, tmp_path, engine="slurm") for name in ("n1", "n9")]
    known = settled(started(tmp_path / "campaign", hosts))
    assert known["n1"].standing == "finished"
    assert known["n9"].standing == "failed"
    assert "node" in known["n9"].reason.lower()


def test_a_killed_node_is_told_and_goes_on(tmp_path: Path, slurm: SlurmCluster) -> None:
    """Slurm notices that the node is gone; when it is back, the run continues."""
    one = host("n3", tmp_path, engine="slurm", variables=SLOWLY)
    campaign = started(tmp_path / "campaign", [one])
    until(campaign, lambda known: known["n3"].visits > 2)
    slurm.kill_node("n3")
    known = settled(campaign)
    assert known["n3"].standing == "died"
    assert "NODE_FAIL" in known["n3"].reason
    fetch(campaign)
    kept = cases(campaign, "n3")
    assert 2 < len(kept) < 40
    slurm.start_node("n3")
    campaign = started(campaign.path, [one], resume=True)
    known = settled(campaign)
    assert (known["n3"].standing, known["n3"].attempt) == ("finished", 2)
    fetch(campaign)
    assert cases(campaign, "n3") == list(range(40))


@pytest.mark.parametrize("installer", ["pip", "uv"])
def test_an_environment_is_made_once_from_wheels_alone(
    tmp_path: Path, servers: tuple[Path, dict[str, Sshd]], monkeypatch: pytest.MonkeyPatch, installer: str
) -> None:
    """Without an index; equal pins reuse it, and one that was changed is made again. uv is found where it installs itself."""
    config, by_name = servers
    if installer == "uv":
        uv, own = shutil.which("uv"), by_name["s1"].home / ".local" / "bin"
        if uv is None:
            pytest.skip("uv is not installed here")
        own.mkdir(parents=True)
        (own / "uv").symlink_to(uv)
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    one = host(
        "s1",
        tmp_path,
        engine="ssh",
        ssh_config=str(config),
        environment="",
        installer=installer,
        wheelhouse=str(wheels),
        variables={"PYTHONPATH": "", "PATH": "/usr/bin:/bin"},
    )
    product = wheel(tmp_path, "shmoo", "1.0", "helper", tmp_path / "stand-in" / "shmoo")
    wheel(wheels, "helper", "2.0")
    Path(one.constraints).write_text("helper==2.0\n")
    monkeypatch.setattr(campaigns, "write_wheel", lambda folder: product)
    campaign = started(tmp_path / "campaign", [one])
    known = settled(campaign)
    assert (known["s1"].standing, known["s1"].reason) == ("finished", "")
    (made,) = (Path(one.directory) / "environments").glob("*/ready")
    stamp = made.stat().st_mtime_ns
    again = started(tmp_path / "again", [one])
    assert settled(again)["s1"].environment == known["s1"].environment
    assert made.stat().st_mtime_ns == stamp
    next(made.parent.glob("lib/python*/site-packages/helper-2.0.dist-info/METADATA")).write_text(
        "Metadata-Version: 2.1\nName: helper\nVersion: 3.0\n"
    )
    assert settled(started(tmp_path / "changed", [one]))["s1"].environment == known["s1"].environment
    assert made.stat().st_mtime_ns > stamp


def wheel(folder: Path, name: str, version: str, needs: str = "", package: Path | None = None) -> Path:
    target = folder / f"{name}-{version}-py3-none-any.whl"
    information = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(target, "w") as file:
        for path in sorted(package.rglob("*.py")) if package is not None else ():
            file.write(path, f"{name}/{path.relative_to(package or path)}")
        requires = f"Requires-Dist: {needs}\n" if needs else ""
        file.writestr(f"{information}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{requires}")
        file.writestr(f"{information}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{information}/RECORD", "")
    return target


@pytest.mark.usefixtures("slurm", "own_home")
def test_a_sweep_as_an_array_is_the_table_of_one_machine() -> None:
    """To the last digit, in three jobs that the nodes share."""
    asked = ("sweep", "linear", "--axis", "n=64,128,256,512", "--arch", "kpu_t64,gpu_h100", "--set", "m=32", "--json")
    whole, split = shmoo(*asked), shmoo(*asked, "--engine", "slurm", "--jobs", "3")
    assert split.exit_code == 0, split.output
    assert len(json.loads(split.stdout)) == 8
    assert split.stdout == whole.stdout
