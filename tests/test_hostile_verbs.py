"""Hostile files, names and numbers for the verbs that compare, gate, explore and run fleets."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shmoo.estimators.errors import InputError
from shmoo.harness.campaign.sides import side_of
from shmoo.harness.fleet.engines import Job, Slurm
from shmoo.harness.fleet.hosts import Host
from shmoo.harness.fleet.remote import REPLY
from shmoo.runs.store.files import replace_file
from tests.hostile import survives, write_run

pytestmark = [
    pytest.mark.usefixtures("own_home"),
    pytest.mark.skipif(os.name != "posix", reason="links and pipes of POSIX"),
]
MODEL = "linear"
Change = Callable[[dict[str, Any]], object]


def test_a_name_that_no_encoding_has(tmp_path: Path) -> None:
    """Paths of other bytes stand in the JSON document as their escapes."""
    strange = write_run(tmp_path / os.fsdecode(b"run-\xff"))
    other = write_run(tmp_path / "run")
    for call in (["compare", str(other), str(strange)], ["history", str(strange), str(other)]):
        document = survives(*call, "--json").stdout
        assert r"run-\\udcff" in document
        document.encode("ascii")


def test_a_pair_of_surrogates_stays_what_it_is(tmp_path: Path) -> None:
    """A name outside the first plane is written as JSON writes it."""
    runs = [str(write_run(tmp_path / f"\N{BUG}{number}")) for number in range(2)]
    assert json.loads(survives("compare", *runs, "--json").stdout)["b"] == runs[1]


def test_a_command_that_no_file_can_hold(tmp_path: Path) -> None:
    """Text that is not UTF-8 is refused before anything starts."""
    (tmp_path / "constraints.txt").write_text("torch==2.9.0\n")
    (tmp_path / "hosts.toml").write_text('[hosts.a]\nengine = "local"\npython = "/none/python3"\n')
    command = ["--", "measure", "--model", os.fsdecode(b"\xff")]
    result = survives("fleet", "run", str(tmp_path / "hosts.toml"), "--out", str(tmp_path / "campaign"), *command)
    assert result.exit_code == 2
    assert "not valid UTF-8" in result.stderr


RECORDS = ("run.json", "rows.jsonl", "graphs/any.json")


@pytest.mark.parametrize("name", RECORDS)
def test_what_was_measured_is_not_written_over(tmp_path: Path, name: str) -> None:
    """A result does not replace a file of a run, whichever option names it."""
    runs = [str(write_run(tmp_path / f"run{number}")) for number in range(3)]
    target = tmp_path / "run0" / name
    before = target.read_bytes() if target.exists() else None
    for option in (["compare", *runs, "--markdown"], ["compare", *runs, "--junit"], ["history", *runs, "--out"]):
        result = survives(*option, str(target))
        assert result.exit_code == 2
        assert "name another file" in result.stderr
    assert (target.read_bytes() if target.exists() else None) == before


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    """Markdown, XML and CSV go where their name stands, not where a link leads."""
    runs = [str(write_run(tmp_path / f"run{number}")) for number in range(2)]
    victim = tmp_path / "victim"
    for option in ("--markdown", "--junit"):
        victim.write_text("kept")
        link = tmp_path / f"link{option}"
        link.symlink_to(victim)
        assert survives("compare", *runs, option, str(link)).exit_code == 4
        assert victim.read_text() == "kept"
        assert not link.is_symlink()


def test_a_pipe_that_nobody_reads(tmp_path: Path) -> None:
    """It neither holds a writer up nor is replaced by a file."""
    runs = [str(write_run(tmp_path / f"run{number}")) for number in range(2)]
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for call in (["compare", *runs, "--markdown"], ["history", *runs, "--out"]):
        assert survives(*call, str(pipe)).exit_code == 2
    with pytest.raises(InputError, match="not a regular file"):
        replace_file(pipe, b"")
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_device_takes_a_table(tmp_path: Path) -> None:
    """A report may go to /dev/null, which stays a device."""
    runs = [str(write_run(tmp_path / f"run{number}")) for number in range(2)]
    assert survives("compare", *runs, "--markdown", os.devnull).exit_code == 4
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)


def test_control_characters_stay_out_of_markdown(tmp_path: Path) -> None:
    """A label cannot clear the terminal of whoever reads the table."""

    def rename(row: dict[str, Any]) -> None:
        row["case"]["workload"] = "\x1b[2J<script>"

    runs = [str(write_run(tmp_path / f"run{number}", rename)) for number in range(2)]
    survives("compare", *runs, "--markdown", str(tmp_path / "table.md"))
    text = (tmp_path / "table.md").read_text()
    assert "\x1b" not in text
    assert "<script>" not in text


def test_an_energy_that_may_be_anything(tmp_path: Path) -> None:
    """A reading whose upper bound is beyond measure takes no part in a comparison."""

    def widen(row: dict[str, Any]) -> None:
        row["energy"][0]["high_j"] = 1e308

    runs = [str(write_run(tmp_path / "run0")), str(write_run(tmp_path / "run1", widen))]
    cases = json.loads(survives("compare", *runs, "--json").stdout)["cases"]
    assert sum(case["energy"] is None for case in cases) == 2


SPACES = {
    "one model twice": ([MODEL, MODEL], [], "named twice"),
    "a search without end": ([MODEL], ["--search", "99999999999"], "not in the range"),
    "a seed below nothing": ([MODEL], ["--search", "16", "--seed", "-5"], "not in the range"),
    "a weight without a number": ([MODEL], ["--weight", MODEL], "write MODEL=N"),
    "a bandwidth below nothing": ([MODEL], ["--over", "bandwidth.dram=-5"], "bandwidth.dram' is set to -5;"),
}


@pytest.mark.parametrize(("models", "more", "words"), SPACES.values(), ids=SPACES)
def test_a_design_space(models: list[str], more: list[str], words: str) -> None:
    """What cannot be explored is told in the words of the command line."""
    result = survives("explore", *models, "--arch", "kpu_t256", "--over", "count.tiles=64..128:2", *more)
    assert result.exit_code == 2
    assert words in result.stderr


def host(**fields: object) -> Change:
    """Set fields of the first host of a campaign."""
    return lambda file: file["hosts"][0].update(fields)


CAMPAIGNS: dict[str, Change] = {
    "a name that leads out": host(name="../../evil"),
    "a name that is a path": host(name="/tmp/evil"),
    "a name that clears the screen": host(name="\x1b[2J<script>"),
    "an address that is an option": host(engine="ssh", address="-oProxyCommand=x"),
    "a Python that is an option": host(python="-c"),
    "a Python that no system has": host(python="a\0b"),
    "a folder that is a command": host(directory="$(x)"),
    "a host twice": lambda file: file["hosts"].append(file["hosts"][0]),
    "a name that leads out on the host": lambda file: file.update(id="../../x"),
    "no command": lambda file: file.update(command=[]),
}


@pytest.mark.parametrize("change", CAMPAIGNS.values(), ids=CAMPAIGNS)
def test_a_campaign_of_somebody_else(tmp_path: Path, change: Change) -> None:
    """Its hosts keep the rules of hosts.toml, before anything is asked, copied or written."""
    path = _campaign(tmp_path)
    file = json.loads((path / "campaign.json").read_bytes())
    change(file)
    (path / "campaign.json").write_text(json.dumps(file))
    before = sorted(tmp_path.rglob("*"))
    for verb in ("status", "fetch", "report"):
        result = survives("fleet", verb, str(path), "--json")
        assert (result.exit_code, result.stdout) == (2, "")
        assert "campaign.json" in result.stderr
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("answer", ["[" * 100_000, "{}", "3", '{"answer": '])
def test_a_host_that_answers_nonsense(tmp_path: Path, answer: str) -> None:
    """It stands as failed, and the others are asked all the same."""
    python = tmp_path / "python3"
    (tmp_path / "answer").write_text(f"{REPLY}{answer}\n")
    python.write_text(f"#!/bin/sh\ncat > /dev/null\ncat {tmp_path}/answer\n")
    python.chmod(0o755)
    path = _campaign(tmp_path, python)
    result = survives("fleet", "status", str(path), "--json")
    assert result.exit_code == 1
    assert "arrived damaged" in json.loads(result.stdout)["hosts"][0]["reason"]


@pytest.mark.parametrize("link", ["hosts", "hosts/a"])
def test_rows_are_not_fetched_through_a_link(tmp_path: Path, link: str) -> None:
    """What a host sends stays in the campaign's folder."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    listing = {"facts.jsonl": [0, hashlib.sha256(b"").hexdigest()]}
    hello = {"directory": str(tmp_path), "python": "3.13.5", "rsync": False, "wheels": {}}
    replies = {"hello": hello, "listing": listing}
    python = tmp_path / "python3"
    path = _campaign(tmp_path, python)
    python.write_text(
        f"#!{sys.executable}\nimport json, sys\ntext = sys.stdin.read()\n"
        f"do = 'listing' if '\"do\": \"listing\"' in text else 'hello'\n"
        f"print({REPLY!r} + json.dumps({{'answer': {replies!r}[do]}}))\n"
    )
    python.chmod(0o755)
    (path / link).parent.mkdir(exist_ok=True)
    (path / link).symlink_to(elsewhere)
    result = survives("fleet", "fetch", str(path), "--json")
    assert result.exit_code == 1
    assert "symbolic link" in json.loads(result.stdout)["hosts"][0]["problem"]
    assert list(elsewhere.iterdir()) == []


def test_squeue_among_the_words_of_a_login_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines that are no jobs are none."""
    squeue = tmp_path / "squeue"
    squeue.write_text("#!/bin/sh\necho 'Welcome | to the lab'\necho '7|job|RUNNING|None'\necho '12_3|job|PENDING|Resources'\n")
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    job = Slurm().jobs({"job": Host("n1", "slurm")})["job"]
    assert isinstance(job, Job)
    assert (job.queued, job.words) == (True, "Slurm: PENDING (Resources)")


def test_damaged_facts_are_told_of_their_host_alone(tmp_path: Path) -> None:
    """The page is written, and says which host cannot be read."""
    path = _campaign(tmp_path)
    (path / "hosts" / "a").mkdir(parents=True)
    (path / "hosts" / "a" / "facts.jsonl").write_text('{"facts": 3}\n')
    result = survives("fleet", "report", str(path), "--json")
    assert result.exit_code == 0
    assert "cannot be read" in json.loads(result.stdout)["missing"][0]["reason"]
    assert survives("fleet", "report", str(path), "-o", str(path / "campaign.json")).exit_code == 2


def _campaign(folder: Path, python: Path = Path("/none/python3")) -> Path:
    """A campaign of one host that could not be started."""
    (folder / "constraints.txt").write_text("torch==2.9.0\n")
    (folder / "hosts.toml").write_text(f'[hosts.a]\nengine = "local"\npython = "{python}"\n')
    path = folder / "campaign"
    result = survives("fleet", "run", str(folder / "hosts.toml"), "--out", str(path), "--", "measure", "--suite", "quick")
    assert result.exit_code == 1
    return path


@pytest.mark.parametrize(("option", "value"), [("--fail-on", "nope"), ("--markdown", "."), ("--junit", ".")])
def test_a_duel_that_could_not_be_judged(tmp_path: Path, option: str, value: str) -> None:
    """It is refused before anything is measured, and so is a comparison before anything is read."""
    made = tmp_path / "duel"
    result = survives("duel", "HEAD", ".", option, value, "--out", str(made), "--", "measure", "--model", "none.such:model")
    assert result.exit_code == 2
    assert "nope" in result.stderr or "it is a directory" in result.stderr
    assert not made.exists()
    assert survives("compare", "nowhere", "nowhere", option, value).stderr == result.stderr


def test_a_commit_that_git_does_not_know(tmp_path: Path) -> None:
    """The message names it, without the words of Python."""
    with pytest.raises(InputError, match=r"'no-such-commit' is not a directory, .* \((there is no such commit|fatal: .*)\)"):
        side_of("no-such-commit").__enter__()


@pytest.mark.parametrize("part", [("0", "0"), ("2", "2"), ("-1", "2")])
def test_a_part_of_nothing(part: tuple[str, str]) -> None:
    """A job's number lies among the jobs."""
    result = survives("sweep", MODEL, "--axis", "m=64,128", "--arch", "gpu_t4", "--part", *part)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "a job's number" in result.stderr


def test_a_model_that_looks_like_an_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job of an array takes it for a model, too."""
    monkeypatch.chdir(tmp_path)
    result = survives("sweep", "--axis", "m=64,128", "--arch", "gpu_t4", "--engine", "local", "--", "-x")
    assert result.exit_code == 2
    assert "unknown workload or model '-x'" in result.stderr


def test_a_column_without_a_name() -> None:
    """--sort - names no column."""
    result = survives("estimate", MODEL, "--arch", "gpu_t4", "--sort", "-")
    assert result.exit_code == 2
    assert "unknown column ''" in result.stderr


def total(name: str, value: object) -> Change:
    """Set a quantity of every footprint of a baseline."""
    return lambda file: [footprint["totals"].update({name: value}) for footprint in file["footprints"]]


def without(name: str) -> Change:
    """Take a quantity out of every footprint of a baseline."""
    return lambda file: [footprint["totals"].pop(name) for footprint in file["footprints"]]


BASELINES: dict[str, Change] = {
    "flops that are not there": without("flops"),
    "flops that are nothing": total("flops", None),
    "flops below nothing": total("flops", -1.0),
    "kernels that are text": total("kernels", "many"),
}


@pytest.mark.parametrize("change", BASELINES.values(), ids=BASELINES)
def test_a_baseline_that_gates_nothing(tmp_path: Path, change: Change) -> None:
    """A quantity that cannot be compared is no pass, and the file stays as it is."""
    gate, path = _baseline(tmp_path, change)
    before = path.read_bytes()
    for more in ([], ["--json"], ["--write"]):
        result = survives(*gate, *more)
        assert (result.exit_code, result.stdout) == (2, "")
        assert "baseline" in result.stderr
    assert path.read_bytes() == before


def test_next_to_nothing_grew(tmp_path: Path) -> None:
    """A ratio beyond all numbers is no number."""
    gate, _ = _baseline(tmp_path, total("latency_s", 5e-324))
    result = survives(*gate, "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["findings"][0]["growth"] is None


def _baseline(folder: Path, change: Change) -> tuple[list[str], Path]:
    """The gate's command, and a baseline for it that was edited by hand."""
    path = folder / "baseline.json"
    gate = ["gate", MODEL, "--arch", "gpu_t4", "--against", str(path)]
    assert survives(*gate, "--write").exit_code == 0
    file = json.loads(path.read_bytes())
    change(file)
    path.write_text(json.dumps(file))
    return gate, path
