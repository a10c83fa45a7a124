"""Hosts that are stopped, and that say whom they wait for."""

from __future__ import annotations

import fcntl
import os
import pwd
import re
import subprocess
import sys
import time
from pathlib import Path

from shmoo.harness.fleet.campaign import Campaign, start, stop
from shmoo.harness.fleet.engines import engine_of
from shmoo.harness.fleet.fetch import fetch
from shmoo.harness.fleet.hosts import Host
from shmoo.harness.fleet.job import MACHINE_LOCK, _other_users
from shmoo.harness.fleet.status import begun, status
from tests.harness.fleet.stand_in import host
from tests.harness.fleet.test_fleet import Third, cases, settled, started, until


def test_who_uses_the_machine_is_named() -> None:
    """A process that spins, with its user and share."""
    spinning = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        time.sleep(0.2)
        share, who = _other_users()
    finally:
        spinning.kill()
        spinning.wait()
    assert share > 0.2 / (os.cpu_count() or 1)
    assert re.search(rf"python\S* of {pwd.getpwuid(os.getuid()).pw_name} \d+%", who), who


def test_a_stopped_host_ends_and_goes_on(tmp_path: Path) -> None:
    """The visits so far stay; the machine is free at once, for the host that waited."""
    shared = {"TMPDIR": str(tmp_path / "machine"), "STAND_IN_ROWS": "40", "STAND_IN_PAUSE_S": "0.05"}
    (tmp_path / "machine").mkdir()
    hosts = [host(name, tmp_path, variables=shared) for name in ("a", "b")]
    campaign = started(tmp_path / "campaign", hosts)
    known = until(campaign, lambda known: {one.standing for one in known.values()} == {"running", "waiting"})
    first, second = sorted(known, key=lambda name: known[name].standing)
    until(campaign, lambda known: known[first].visits > 3)
    assert stop(campaign, [one for one in hosts if one.name == first]) == {first: ""}
    known = {one.name: one for one in status(campaign)}
    assert (known[first].standing, known[first].reason) == ("stopped", "by `shmoo fleet stop`")
    until(campaign, lambda known: known[second].standing == "running")
    assert stop(campaign, hosts) == {"a": "", "b": ""}
    assert {one.standing for one in settled(campaign).values()} == {"stopped"}
    campaign = started(campaign.path, hosts, resume=True)
    known = settled(campaign)
    assert {(one.standing, one.attempt) for one in known.values()} == {("finished", 2)}
    fetch(campaign)
    assert cases(campaign, "a") == cases(campaign, "b") == list(range(40))


def test_a_host_that_waits_is_stopped(tmp_path: Path) -> None:
    """It never measures; one that has finished stays so."""
    shared = {"TMPDIR": str(tmp_path / "machine")}
    (tmp_path / "machine").mkdir()
    one = host("a", tmp_path, variables=shared)
    with (tmp_path / "machine" / MACHINE_LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        campaign = started(tmp_path / "campaign", [one])
        known = until(campaign, lambda known: known["a"].standing == "waiting")
        assert known["a"].reason == "another campaign measures on this machine"
        stop(campaign, [one])
        assert settled(campaign)["a"].standing == "stopped"
    assert settled(started(campaign.path, [one], resume=True))["a"].standing == "finished"
    stop(campaign, [one])
    assert settled(campaign)["a"].standing == "finished"


def test_a_stopped_job_that_begins_later_ends_at_once(tmp_path: Path) -> None:
    """As one that Slurm starts while it is stopped."""

    class Late(Third):
        def launch(self, host: Host, folder: str, name: str) -> None:
            return

    one = host("a", tmp_path)
    made = Campaign.create(tmp_path / "campaign", [one], ("measure",))
    late = Campaign(made.path, made.file, lambda _: Late())
    begun(late, start(late, [one]))
    stop(late, [one])
    engine_of(one).launch(one, late.folder(one, one.directory), late.job_name(one))
    known = settled(late)
    assert (known["a"].standing, known["a"].visits) == ("stopped", 0)
