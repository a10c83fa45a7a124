"""The verbs of `shmoo fleet` over the command line, on hosts that are folders here."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from shmoo.harness.cli.verbs.fleet import beside_equals
from shmoo.runs.analysis.fleet import Speed
from tests.cli_runner import shmoo
from tests.harness.fleet.stand_in import host


def hosts_file(folder: Path, *names: str, **variables: str) -> Path:
    lines = []
    for name in names:
        one = host(name, folder, variables=variables)
        own = ", ".join(f"{key} = {json.dumps(value)}" for key, value in one.variables.items())
        lines.append(
            f"[hosts.{name}]\nengine = 'local'\ndirectory = '{one.directory}'\npython = '{one.python}'\n"
            f"environment = '{one.environment}'\nvariables = {{ {own} }}\nwhen_busy = 'measure'\n"
        )
    path = folder / "hosts.toml"
    path.write_text("\n".join(lines))
    return path


def until_finished(campaign: Path) -> dict[str, object]:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        told = json.loads(shmoo("fleet", "status", str(campaign), "--json").stdout)
        if all(one["standing"] in ("finished", "failed", "died") for one in told["hosts"]):
            return dict(told)
        time.sleep(0.1)
    raise AssertionError(told)


@pytest.mark.usefixtures("own_home")
def test_a_campaign_over_the_command_line(tmp_path: Path) -> None:
    """run, status, fetch and run again; each tells people and programs."""
    hosts = hosts_file(tmp_path, "a", "b")
    campaign = tmp_path / "campaign"
    begun = shmoo("fleet", "run", str(hosts), "--out", str(campaign), "--", "measure", "--suite", "quick")
    assert begun.exit_code == 0, begun.output
    assert "starting measure --suite quick on 2 of 2 hosts" in begun.stderr
    told = until_finished(campaign)
    assert told["command"] == ["measure", "--suite", "quick"]
    shown = shmoo("fleet", "status", str(campaign))
    assert shown.exit_code == 0
    assert "finished" in shown.stdout
    fetched = shmoo("fleet", "fetch", str(campaign), "--json")
    assert [one["files"] for one in json.loads(fetched.stdout)["hosts"]] == [3, 3]
    assert "fetched 0 files" in shmoo("fleet", "fetch", str(campaign)).stderr
    again = shmoo("fleet", "run", str(hosts), "--out", str(campaign), "--resume", "--", "measure", "--suite", "quick")
    assert "on 0 of 2 hosts" in again.stderr


@pytest.mark.usefixtures("own_home")
def test_a_machine_alone_has_no_equal(tmp_path: Path) -> None:
    """The table says so, where cases that machines share would be counted; a wrong option names the whole command."""
    hosts, campaign = hosts_file(tmp_path, "a"), tmp_path / "campaign"
    refused = shmoo("fleet", "run", str(hosts), "--out", str(campaign), "--", "measure", "--budget", "0")
    assert "Usage: shmoo measure" in refused.stderr
    shmoo("fleet", "run", str(hosts), "--out", str(campaign), "--", "measure")
    until_finished(campaign)
    assert "from 1 host into" in shmoo("fleet", "fetch", str(campaign)).stderr
    assert beside_equals(Speed("a", None, 0), machines=1) == "no equal machine"
    assert beside_equals(Speed("a", None, 3), machines=2) == "3 shared cases, too few"
    assert beside_equals(Speed("a", 1.05, 30), machines=2) == "+5.0 %"


@pytest.mark.usefixtures("own_home")
def test_a_suite_that_does_not_exist_starts_on_no_host(tmp_path: Path) -> None:
    """The controller refuses it as plain measure does, before a campaign exists."""
    hosts, campaign = hosts_file(tmp_path, "a"), tmp_path / "campaign"
    refused = shmoo("fleet", "run", str(hosts), "--out", str(campaign), "--", "measure", "--suite", "quikc")
    assert refused.exit_code == 2
    assert "unknown suite 'quikc': did you mean 'quick'" in refused.stderr
    assert not campaign.exists()


@pytest.mark.usefixtures("own_home")
def test_hosts_are_stopped_by_name(tmp_path: Path) -> None:
    """Another name is told, with the nearest; a stopped host is no failure, and heads the report."""
    hosts = hosts_file(tmp_path, "alpha", "beta", STAND_IN_ROWS="400", STAND_IN_PAUSE_S="0.05")
    campaign = tmp_path / "campaign"
    shmoo("fleet", "run", str(hosts), "--out", str(campaign), "--", "measure")
    refused = shmoo("fleet", "stop", str(campaign), "alfa")
    assert refused.exit_code == 2
    assert "alpha" in refused.stderr
    stopped = shmoo("fleet", "stop", str(campaign), "alpha", "--json")
    assert stopped.exit_code == 0, stopped.output
    standings = {one["name"]: one["standing"] for one in json.loads(stopped.stdout)["hosts"]}
    assert standings["alpha"] == "stopped"
    assert standings["beta"] in ("starting", "waiting", "preparing", "running")
    assert shmoo("fleet", "stop", str(campaign)).stdout.count("stopped") >= 2
    missing = json.loads(shmoo("fleet", "report", str(campaign), "--json").stdout)["missing"]
    assert {one["standing"] for one in missing} == {"stopped"}


@pytest.mark.usefixtures("own_home")
def test_a_host_that_fails_sets_the_exit_code_and_heads_the_report(tmp_path: Path) -> None:
    """Its reason is shown by each verb."""
    hosts = hosts_file(tmp_path, "a", STAND_IN_SAYS="shmoo: no such luck")
    campaign = tmp_path / "campaign"
    waited = shmoo("fleet", "run", str(hosts), "--out", str(campaign), "--wait", "--", "measure")
    assert waited.exit_code == 1
    assert "exit code 2: shmoo: no such luck" in waited.stdout
    reported = shmoo("fleet", "report", str(campaign), "--json")
    assert reported.exit_code == 0, reported.output
    (missing,) = json.loads(reported.stdout)["missing"]
    assert missing["standing"] == "failed"
    page = (campaign / "fleet.html").read_text()
    assert "no such luck" in page
    assert "No machine has a usable row yet" in page
    told = shmoo("fleet", "report", str(campaign))
    assert told.stdout == "", "no table without rows"
    assert f"no host has rows yet; `shmoo fleet fetch {campaign}` fetches them" in told.stderr


@pytest.mark.usefixtures("own_home")
@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("measure", "--suit", "quick"), "No such option"),
        (("estimate", "resnet18"), "a fleet runs measure, characterize or calibrate"),
        (("measure", "--out", "x"), "--out is set by the campaign itself"),
    ],
)
def test_a_slip_is_told_before_any_host_is_asked(tmp_path: Path, command: tuple[str, ...], words: str) -> None:
    """Nothing is made."""
    refused = shmoo("fleet", "run", str(hosts_file(tmp_path, "a")), "--out", str(tmp_path / "campaign"), "--", *command)
    assert refused.exit_code == 2
    assert words in refused.stderr
    assert not (tmp_path / "campaign").exists()


@pytest.mark.usefixtures("own_home")
def test_a_folder_without_a_campaign_is_told(tmp_path: Path) -> None:
    """With what makes one."""
    for verb in ("status", "fetch", "report"):
        refused = shmoo("fleet", verb, str(tmp_path))
        assert refused.exit_code == 2
        assert "`shmoo fleet run` makes one" in refused.stderr
