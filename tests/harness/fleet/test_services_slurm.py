"""Campaigns and sweeps over nodes of Slurm, all of them this machine."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from shmoo.harness.fleet.campaign import start, stop
from shmoo.harness.fleet.fetch import fetch
from shmoo.harness.fleet.status import begun
from tests.cli_runner import shmoo
from tests.harness.fleet.services import SlurmCluster, lacking
from tests.harness.fleet.stand_in import SLOWLY, host
from tests.harness.fleet.test_fleet import cases, settled, started, until

pytestmark = pytest.mark.skipif(bool(lacking()), reason=lacking() or "services run")


@pytest.fixture
def slurm(cluster: SlurmCluster, monkeypatch: pytest.MonkeyPatch) -> SlurmCluster:
    monkeypatch.setenv("SLURM_CONF", str(cluster.conf))
    return cluster


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


@pytest.mark.usefixtures("slurm", "own_home")
def test_a_sweep_as_an_array_is_the_table_of_one_machine() -> None:
    """To the last digit, in three jobs that the nodes share."""
    asked = ("sweep", "linear", "--axis", "n=64,128,256,512", "--arch", "kpu_t64,gpu_h100", "--set", "m=32", "--json")
    whole, split = shmoo(*asked), shmoo(*asked, "--engine", "slurm", "--jobs", "3")
    assert split.exit_code == 0, split.output
    assert len(json.loads(split.stdout)) == 8
    assert split.stdout == whole.stdout
