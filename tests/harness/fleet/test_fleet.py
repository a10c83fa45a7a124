"""Campaigns over hosts that are folders of this machine: real jobs, real files, a Shmoo that measures nothing."""

from __future__ import annotations

import fcntl
import json
import os
import platform
import pwd
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from shmoo.estimators.errors import InputError, ShmooError
from shmoo.harness.campaign.campaign import LOCK
from shmoo.harness.fleet import remote
from shmoo.harness.fleet.campaign import MOST_CPU, Campaign, cpu_seconds, pause_s, start
from shmoo.harness.fleet.channels import Channel, HostRefusal, UnreachableError
from shmoo.harness.fleet.engines import Engine, Job, engine_of
from shmoo.harness.fleet.fetch import fetch
from shmoo.harness.fleet.hosts import Host
from shmoo.harness.fleet.job import MACHINE_LOCK, MEASURING_LOCK, _fingerprint, _installed, _own_lock
from shmoo.harness.fleet.status import SETTLED, STARTABLE, HostStatus, begun, status
from tests.harness.fleet.stand_in import host

WAIT_S = 30.0


def settled(campaign: Campaign) -> dict[str, HostStatus]:
    """The hosts once none changes any more."""
    return until(campaign, lambda known: all(one.standing in SETTLED for one in known.values()))


def until(campaign: Campaign, condition: Callable[[Mapping[str, HostStatus]], bool]) -> dict[str, HostStatus]:
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        known = {one.name: one for one in status(campaign)}
        if condition(known):
            return known
        time.sleep(0.1)
    raise AssertionError(f"after {WAIT_S} s: {known}")


def started(path: Path, hosts: Sequence[Host], resume: bool = False) -> Campaign:
    campaign = Campaign.create(path, hosts, ("measure", "--suite", "quick"), resume)
    begun(campaign, start(campaign, hosts))
    return campaign


def cases(campaign: Campaign, name: str) -> list[int]:
    path = campaign.path / "hosts" / name / "run" / "rows.jsonl"
    return [json.loads(line)["case"] for line in path.read_text().splitlines()]


def job_of(campaign: Campaign, one: Host) -> int:
    """Process number of a host's job."""
    state = remote.read_state(campaign.folder(one, one.directory))
    assert state is not None
    return int(state["pid"])


def test_a_campaign_measures_every_host_and_brings_the_rows(tmp_path: Path) -> None:
    """Each host runs the command once, and its rows arrive whole."""
    hosts = [host(name, tmp_path) for name in ("a", "b", "c")]
    campaign = started(tmp_path / "campaign", hosts)
    known = settled(campaign)
    assert {one.standing for one in known.values()} == {"finished"}
    assert {one.visits for one in known.values()} == {5}
    assert [one.files for one in fetch(campaign)] == [3, 3, 3]
    assert cases(campaign, "b") == [0, 1, 2, 3, 4]
    assert [one.files for one in fetch(campaign)] == [0, 0, 0]


def test_rows_are_fetched_as_they_grow_and_the_controller_may_go(tmp_path: Path) -> None:
    """Another controller that knows the folder alone sees the same campaign."""
    one = host("a", tmp_path, variables={"STAND_IN_ROWS": "40", "STAND_IN_PAUSE_S": "0.05"})
    path = tmp_path / "campaign"
    started(path, [one])
    until(Campaign.open(path), lambda known: known["a"].visits > 3)
    fetch(Campaign.open(path))
    first = cases(Campaign.open(path), "a")
    assert 3 < len(first) < 40
    settled(Campaign.open(path))
    fetch(Campaign.open(path))
    assert cases(Campaign.open(path), "a") == list(range(40))


def test_a_killed_host_is_told_and_goes_on_without_a_row_twice(tmp_path: Path) -> None:
    """The job and its measurement die together; the next start continues the run."""
    one = host("a", tmp_path, variables={"STAND_IN_ROWS": "30", "STAND_IN_PAUSE_S": "0.05"})
    campaign = started(tmp_path / "campaign", [one])
    until(campaign, lambda known: known["a"].visits > 3)
    os.kill(job_of(campaign, one), signal.SIGKILL)
    known = settled(campaign)
    assert (known["a"].standing, known["a"].attempt) == ("died", 1)
    assert "killed while running" in known["a"].reason
    fetch(campaign)
    rows = len(cases(campaign, "a"))
    time.sleep(0.3)
    assert not fetch(campaign)[0].files, "the measurement outlived its job"
    campaign = started(campaign.path, [one], resume=True)
    known = settled(campaign)
    assert (known["a"].standing, known["a"].attempt) == ("finished", 2)
    fetch(campaign)
    assert cases(campaign, "a") == list(range(30))
    assert rows < 30


def test_a_job_that_is_alive_is_not_started_again(tmp_path: Path) -> None:
    """Two controllers at once measure once."""
    one = host("a", tmp_path, variables={"STAND_IN_ROWS": "20", "STAND_IN_PAUSE_S": "0.05"})
    campaign = started(tmp_path / "campaign", [one])
    until(campaign, lambda known: known["a"].standing == "running")
    again = started(tmp_path / "campaign", [one], resume=True)
    known = settled(again)
    assert (known["a"].standing, known["a"].attempt) == ("finished", 1)


def test_a_look_at_the_lock_does_not_keep_a_job_from_starting(tmp_path: Path) -> None:
    """Somebody who asks holds the lock for a moment."""
    path = tmp_path / "runner.lock"
    with path.open("w") as look:
        fcntl.flock(look, fcntl.LOCK_SH)
        threading.Timer(0.3, look.close).start()
        held = _own_lock(str(path))
    assert held is not None
    os.close(held)


def test_a_host_that_left_cases_out_goes_on_when_resumed(tmp_path: Path) -> None:
    """Its time ended before two cases had a visit: it is no finished host, and the next start finishes it."""
    one = host("a", tmp_path, variables={"STAND_IN_SKIPS": "1"})
    campaign = started(tmp_path / "campaign", [one])
    short = settled(campaign)["a"]
    assert (short.standing, short.reason) == ("stopped", "2 cases not reached within the time; --resume continues")
    assert short.standing in STARTABLE
    start(campaign, [one])
    until(campaign, lambda known: known["a"].standing == "finished")


def test_a_measurement_outside_of_the_fleet_is_waited_for(tmp_path: Path) -> None:
    """The job begins when the lock that `shmoo measure` holds is free, whatever budget its command has."""
    assert MEASURING_LOCK == LOCK
    (tmp_path / "machine").mkdir()
    one = host("a", tmp_path, variables={"TMPDIR": str(tmp_path / "machine")})
    with (tmp_path / "machine" / MEASURING_LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        campaign = started(tmp_path / "campaign", [one])
        until(campaign, lambda known: "outside the fleet" in known["a"].reason)
        assert status(campaign)[0].standing == "waiting"
    until(campaign, lambda known: known["a"].standing == "finished")


def test_a_machine_that_restarted_is_told_apart_from_a_killed_job(tmp_path: Path) -> None:
    """The boot that the job began in is kept."""
    one = host("a", tmp_path, variables={"STAND_IN_ROWS": "30", "STAND_IN_PAUSE_S": "0.1"})
    campaign = started(tmp_path / "campaign", [one])
    until(campaign, lambda known: known["a"].standing == "running")
    os.kill(job_of(campaign, one), signal.SIGKILL)
    settled(campaign)
    folder = campaign.folder(one, one.directory)
    state = remote.read_state(folder)
    assert state is not None
    remote.write_state(folder, {**state, "boot": "another"})
    assert settled(campaign)["a"].reason == "the machine was restarted"


def test_what_shmoo_says_on_a_host_is_the_reason(tmp_path: Path) -> None:
    """A host whose command fails is listed with the last line that it wrote."""
    words = "shmoo: cannot resume run: measured under other conditions (driver was '1', is '2')"
    one = host("a", tmp_path, variables={"STAND_IN_SAYS": words})
    known = settled(started(tmp_path / "campaign", [one]))
    assert known["a"].standing == "failed"
    assert words in known["a"].reason


def test_a_machine_that_changes_between_attempts_is_said(tmp_path: Path) -> None:
    """A new driver between a start and the next one."""
    tools = tmp_path / "tools"
    tools.mkdir()
    path = f"{tools}:{os.environ['PATH']}"
    one = host("a", tmp_path, variables={"PATH": path, "STAND_IN_ROWS": "1000", "STAND_IN_PAUSE_S": "0.05"})
    smi = tools / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho 'NVIDIA X, 550.1, 9.0, 300.00 W, 1980 MHz'\n")
    smi.chmod(0o755)
    campaign = started(tmp_path / "campaign", [one])
    until(campaign, lambda known: known["a"].standing == "running")
    os.kill(job_of(campaign, one), signal.SIGKILL)
    settled(campaign)
    smi.write_text("#!/bin/sh\necho 'NVIDIA X, 560.2, 9.0, 250.00 W, 1980 MHz'\n")
    campaign = started(campaign.path, [one], resume=True)
    known = until(campaign, lambda known: known["a"].standing == "running")
    assert known["a"].changed == ("driver was 550.1, is 560.2", "gpu power limit was 300.00 W, is 250.00 W")
    os.kill(job_of(campaign, one), signal.SIGTERM)
    assert settled(campaign)["a"].standing == "failed"


def test_two_campaigns_on_one_machine_take_turns(tmp_path: Path) -> None:
    """Hosts that are one machine share its lock, wherever their homes are."""
    shared = {"TMPDIR": str(tmp_path / "machine"), "STAND_IN_ROWS": "10", "STAND_IN_PAUSE_S": "0.1"}
    (tmp_path / "machine").mkdir()
    hosts = [host(name, tmp_path, variables=shared) for name in ("a", "b")]
    campaign = started(tmp_path / "campaign", hosts)
    turns = {("running", False), ("waiting", True)}
    known = until(campaign, lambda known: {(one.standing, campaign.file.id in one.reason) for one in known.values()} == turns)
    (runs,) = (name for name, one in known.items() if one.standing == "running")
    (waits,) = (one.reason for one in known.values() if one.standing == "waiting")
    pid = job_of(campaign, next(one for one in hosts if one.name == runs))
    user = pwd.getpwuid(os.getuid()).pw_name
    assert waits == f"campaign {campaign.file.id} (host {runs}) of {user}, process {pid}, measures on this machine"
    assert {one.standing for one in settled(campaign).values()} == {"finished"}
    assert (tmp_path / "machine" / MACHINE_LOCK).stat().st_mode & 0o777 == 0o666


def test_a_machine_that_others_use_is_reported(tmp_path: Path) -> None:
    """This test is the other user."""
    one = host("a", tmp_path, when_busy="report", busy_share=0.0)
    campaign = Campaign.create(tmp_path / "campaign", [one], ("measure",))
    begun(campaign, start(campaign, [one]))
    known = settled(campaign)
    assert known["a"].standing == "failed"
    assert "others use" in known["a"].reason


def test_an_environment_that_differs_from_the_pins_is_refused(tmp_path: Path) -> None:
    """The package, its version and the pin are named."""
    one = host("a", tmp_path)
    Path(one.constraints).write_text("shmoo==2.0\n")
    known = settled(started(tmp_path / "campaign", [one]))
    assert known["a"].standing == "failed"
    assert "shmoo is 1.0, pinned to 2.0" in known["a"].reason


def test_an_environment_is_known_by_its_own_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """A session of ssh and a node of Slurm may start the job with different ones."""
    before = _fingerprint(_installed(sys.executable))
    monkeypatch.setattr(platform, "python_version", lambda: "3.99.0")
    assert _fingerprint(_installed(sys.executable)) == before
    monkeypatch.setattr(remote.subprocess, "run", lambda *_, **__: SimpleNamespace(stdout=b'{"python": "3.99.0"}'))
    assert _fingerprint(_installed(sys.executable)) != before


def test_rows_that_do_not_go_on_are_kept(tmp_path: Path) -> None:
    """A run that was removed on the host and measured anew does not replace what was fetched."""
    one = host("a", tmp_path)
    campaign = started(tmp_path / "campaign", [one])
    settled(campaign)
    fetch(campaign)
    rows = Path(campaign.folder(one, one.directory)) / "run" / "rows.jsonl"
    rows.write_text('{"case": 7}\n')
    assert "do not continue" in fetch(campaign)[0].problem
    assert cases(campaign, "a") == [0, 1, 2, 3, 4]


class Damaging(Channel):
    """Changes a byte of whatever it copies."""

    def pull(self, folder: str, names: Sequence[str], into: Path) -> None:
        super().pull(folder, names, into)
        path = into / "run" / "rows.jsonl"
        path.write_bytes(path.read_bytes().replace(b"0", b"1"))


class Third:
    """A third engine: one class. Its hosts are folders here; the connection damages, or is lost."""

    def __init__(self, channel: type[Channel] = Channel, lost: bool = False) -> None:
        self._channel, self._lost = channel, lost

    def channel(self, host: Host, rsync: bool = False) -> Channel:
        if self._lost:
            raise UnreachableError("connection reset by peer")
        return self._channel()

    def launch(self, host: Host, folder: str, name: str) -> None:
        engine_of(host).launch(host, folder, name)

    def stop(self, host: Host, folder: str, name: str) -> bool:
        return engine_of(host).stop(host, folder, name)

    def jobs(self, named: Mapping[str, Host]) -> Mapping[str, Job | ShmooError]:
        return {}


def test_a_damaged_copy_is_refused_and_fetched_again(tmp_path: Path) -> None:
    """The hash decides, and nothing of the copy is kept."""
    campaign = started(tmp_path / "campaign", [host("a", tmp_path)])
    settled(campaign)
    damaged = Campaign(campaign.path, campaign.file, lambda _: Third(Damaging))
    assert "arrived damaged" in fetch(damaged)[0].problem
    assert not (campaign.path / "hosts" / "a" / "run" / "rows.jsonl").exists()
    assert fetch(campaign)[0].files
    assert cases(campaign, "a") == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("name", ["", ".", "../run", "/etc/passwd", "job.json", "run/\0"])
def test_a_listing_that_leads_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    """Files of a run are fetched and nothing else, whatever a host lists."""

    class Lying(Channel):
        def run(self, command: Sequence[str], given: bytes = b"", timeout_s: float = 1.0) -> bytes:
            hello = {"directory": str(tmp_path), "python": "3.13.5", "rsync": False, "wheels": {}}
            answer = {name: [0, "0"]} if b'"do": "listing"' in given else hello
            return f"{remote.REPLY}{json.dumps({'answer': answer})}\n".encode()

    made = Campaign.create(tmp_path / "campaign", [host("a", tmp_path)], ("measure",))
    (one,) = fetch(Campaign(made.path, made.file, lambda _: Third(Lying)))
    assert "does not belong to a run" in one.problem


def test_a_lost_host_keeps_what_was_known(tmp_path: Path) -> None:
    """Missing, with the reason and its last standing."""
    campaign = started(tmp_path / "campaign", [host("a", tmp_path)])
    settled(campaign)
    lost = Campaign(campaign.path, campaign.file, lambda _: Third(lost=True))
    for _ in range(2):
        (known,) = status(lost)
        assert (known.standing, known.visits) == ("missing", 5)
        assert known.reason.startswith("connection reset by peer; finished when it last answered")
    assert status(campaign)[0].standing == "finished"


class Simulated:
    """Answers like a host that is running, after 20 ms."""

    def run(self, command: Sequence[str], given: bytes = b"", timeout_s: float = 1.0) -> bytes:
        time.sleep(0.02)
        state = {"phase": "running", "attempt": 1, "command": ["measure"], "host": "x", "boot": "b"}
        answer = {"alive": True, "stopped": False, "state": state, "boot": "b", "rows": 10, "facts": [{"kernel": "1"}]}
        return f"welcome\n{remote.REPLY}{json.dumps({'answer': answer})}\n".encode()

    def push(self, files: Sequence[Path], folder: str) -> None:
        raise HostRefusal("not simulated")

    def pull(self, folder: str, names: Sequence[str], into: Path) -> None:
        raise HostRefusal("not simulated")


class SimulatedEngine(Third):
    def channel(self, host: Host, rsync: bool = False) -> Channel:
        return Simulated()


def test_a_hundred_hosts_answer_within_two_seconds(tmp_path: Path) -> None:
    """And at the pace of `--wait`, the controller uses less than 1 % of a core, even with looks that cost ten times as much."""
    hosts = [host(f"n{number}", tmp_path) for number in range(100)]
    made = Campaign.create(tmp_path / "campaign", hosts, ("measure",))
    campaign = Campaign(made.path, made.file, lambda _: SimulatedEngine())
    status(campaign)  # what is loaded once
    begin, cpu = time.monotonic(), cpu_seconds()
    statuses = status(campaign)
    assert {one.standing for one in statuses} == {"running"}
    assert time.monotonic() - begin < 2.0
    used = cpu_seconds() - cpu
    assert used < 0.2
    for look_s in (used, 10 * used):
        assert look_s / (look_s + pause_s(look_s)) < MOST_CPU


@pytest.mark.parametrize("lacking", ["alive", "stopped", "rows", "facts", "boot", "state"])
def test_an_answer_that_lacks_a_field_is_damaged(tmp_path: Path, lacking: str) -> None:
    """The field is named, and the other hosts are told of."""

    class Lacking(Simulated):
        def run(self, command: Sequence[str], given: bytes = b"", timeout_s: float = 1.0) -> bytes:
            line = super().run(command).decode().splitlines()[-1].removeprefix(remote.REPLY)
            answer = json.loads(line)["answer"]
            del answer[lacking]
            return f"{remote.REPLY}{json.dumps({'answer': answer})}\n".encode()

    class LackingEngine(Third):
        def channel(self, host: Host, rsync: bool = False) -> Channel:
            return Lacking() if host.name == "a" else Simulated()

    made = Campaign.create(tmp_path / "campaign", [host(name, tmp_path) for name in ("a", "b")], ("measure",))
    damaged, whole = status(Campaign(made.path, made.file, lambda _: LackingEngine()))
    assert damaged.standing == "failed"
    assert "arrived damaged" in damaged.reason
    assert f"`{lacking}`" in damaged.reason
    assert whole.standing == "running"


def test_a_damaged_file_of_a_host_is_its_own_reason(tmp_path: Path) -> None:
    """Facts that were cut off are left out; a state of another shape is told."""
    one = host("a", tmp_path)
    campaign = started(tmp_path / "campaign", [one])
    settled(campaign)
    folder = Path(campaign.folder(one, one.directory))
    with (folder / "facts.jsonl").open("a") as facts:
        facts.write('{"facts": 3}\n[]\n{"fac')
    assert settled(campaign)["a"].standing == "finished"
    (folder / "state.json").write_text('{"phase": "running", "command": 3, "attempt": 1}')
    (known,) = status(campaign)
    assert known.standing == "failed"
    assert "command" in known.reason


def test_one_engine_is_one_class(tmp_path: Path) -> None:
    """The engine of a test satisfies the interface."""
    engine: Engine = Third()
    campaign = Campaign.create(tmp_path / "campaign", [host("a", tmp_path)], ("measure",))
    own = Campaign(campaign.path, campaign.file, lambda _: engine)
    begun(own, start(own, own.file.hosts))
    assert settled(own)["a"].standing == "finished"


def test_a_campaign_is_not_overwritten(tmp_path: Path) -> None:
    """Without --resume."""
    hosts = [host("a", tmp_path)]
    Campaign.create(tmp_path / "campaign", hosts, ("measure",))
    with pytest.raises(InputError, match="holds a campaign already"):
        Campaign.create(tmp_path / "campaign", hosts, ("measure",))


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("estimate", "resnet18"), "a fleet runs measure, characterize or calibrate, got 'estimate'"),
        (("measure", "--out", "x"), "--out is set by the campaign itself"),
        (("measure", "--out=x"), "--out=x is set"),
        (("measure", "--json"), "--json is set"),
    ],
)
def test_a_command_that_no_fleet_runs_is_refused(tmp_path: Path, command: tuple[str, ...], words: str) -> None:
    """Before any host is asked."""
    with pytest.raises(InputError, match=words):
        Campaign.create(tmp_path / "campaign", [host("a", tmp_path)], command)
