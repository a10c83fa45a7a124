"""Every verb that prints a table keeps it within terminals of 80, 120 and 200 columns, and every number whole."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from shmoo.harness.cli import options, output
from shmoo.harness.cli.app import cli
from shmoo.harness.cli.options import Decorator
from shmoo.harness.defaults import capture_folder
from shmoo.harness.models.capture_cache import CaptureCache
from shmoo.harness.models.request import ModelRequest
from shmoo.runs.store.records import CaseSpec, Measurement, Reason, RunManifest, Timing
from shmoo.runs.store.store import RunWriter
from tests.cli_runner import shmoo
from tests.harness.cli.test_cli import MACHINE, TABLE, write_run

pytestmark = pytest.mark.usefixtures("own_home")

WIDTHS = (80, 120, 200)
COMMANDS = (
    "estimate mlp",
    "estimate mlp --all",
    "estimate mlp --arch gpu_h100,cpu_server_generic --batch 1,64 --dtype fp32,bf16",
    "estimate --ops ops.csv --arch gpu_a100_40g",
    "inspect mlp --arch gpu_h100,tpu_v4,kpu_t256,cpu_server_generic",
    "sweep mlp --axis hidden=64..256 --axis batch=1,1024 --arch gpu_h100,kpu_t256",
    "sweep mlp --largest-on-chip --axis hidden=64..256 --axis batch=1,64 --arch kpu_t64",
    "fusion mlp --all",
    "advise resnet18 --arch gpu_t4 --runtime eager --top 3",
    "advise mlp --arch kpu_t256 --machine",
    "explore mlp --arch kpu_t256 --over count.tiles=64..256,bandwidth.dram=64e9,capacity.l3=1MiB --minimize latency,power.tdp",
    "trace mlp --no-measure",
    "profiles list",
    "profiles show gpu_a100_40g",
    "profiles diff gpu_a100_40g gpu_h100",
    "cache list",
    "doctor",
    "show run",
    "show run --reasons",
    "compare run other",
    "report graphs --profile cpu_server_generic",
)
UNIT = re.compile(r"^\s*(?:[fpnµmkMGTP]?(?:s|J|W|B|flop)(?:/s|/flop|/B)?|[KMGT]iB|%)(?:\s{2,}|$)")
"""A line that begins with a unit: its number stands on the line before."""


@pytest.fixture
def files(tmp_path: Path, own_home: None) -> None:
    """Two runs with long labels and reasons, one with graphs, a table of operators, and a capture that is kept."""
    Path("ops.csv").write_text(TABLE)
    write_run(tmp_path / "graphs", ("ok", "ok", "noisy"))
    cache = CaptureCache(capture_folder(), "these versions")
    with cache.recording("mlp"):
        cache.keep(ModelRequest("a_network_with_a_name_that_is_rather_long"), None, {"batch": 1})
    axes = {"n": 1, "c_in": 8, "size": 112, "kernel": 3, "stride": 1, "padding": 1, "dilation": 1, "groups": 1, "bias": False}
    for name, factor in (("run", 1.0), ("other", 1.5)):
        with RunWriter(tmp_path / name, RunManifest(MACHINE, "quick")) as writer:
            for i, (runtime, status) in enumerate((("eager", "ok"), ("inductor-freezing", "failed"), ("inductor", "noisy"))):
                case = CaseSpec("conv", "operator", {**axes, "c_out": 56 + i}, runtime=runtime)
                reasons = () if status == "ok" else (Reason("slow core", "core 0 ran at half of its usual speed " * 5),)
                timing = None if status == "failed" else Timing((1.234e-4 * factor * (i + 1),) * 123)
                writer.append(Measurement(case, status, reasons, timing=timing))


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("columns", WIDTHS)
def test_a_table_fits_its_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], columns: int, command: str
) -> None:
    """No line is longer than the terminal, none begins with the unit of a number before it, and the first column is there."""
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    with pytest.raises(SystemExit) as ended:
        cli.main(command.split())
    seen = capsys.readouterr()
    assert ended.value.code in (0, 1, 4), seen.err
    lines = click.unstyle(seen.out).splitlines()
    assert lines
    assert max(map(len, lines)) <= columns
    assert [line for line in lines if UNIT.match(line)] == []


def test_the_columns_that_matter_stay_at_80(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The time, its interval, the energy and whether it fits; what is left out is named, and --wide shows it."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    texts = []
    for more in ((), ("--wide",), ("--columns", "arch,tiles")):
        with pytest.raises(SystemExit):
            cli.main(["estimate", "mlp", *more])
        texts.append(capsys.readouterr())
    narrow, wide, chosen = (
        next(line for line in click.unstyle(text.out).splitlines() if "arch" in line).split() for text in texts
    )
    assert {"arch", "latency", "90", "interval", "energy", "fits"} <= set(narrow)
    assert {"device", "power", "memory", "tiles", "rests"} < set(wide)
    assert chosen == ["arch", "tiles"]
    assert all(name in texts[0].err for name in ("no room for", "power", "rests on"))
    assert "no room" not in texts[1].err + texts[2].err


def test_a_table_without_arch_is_short_and_sorted_by_time() -> None:
    """A server CPU, three GPUs, a TPU and a KPU, which says that there is no silicon; this machine's CPU once it is calibrated.
    --all adds the other machines, illustrations come only when named, and programs get every built-in profile as ever."""

    def archs(*more: str) -> list[str]:
        text = shmoo("estimate", "mlp", *more).stdout.partition("\n\n")[0]
        return [line.replace(", no silicon", "*").split()[0] for line in text.splitlines()[2:]]

    short = archs()
    assert sorted(short) == ["cpu_server_generic", "gpu_a100_80g", "gpu_h100", "gpu_l4", "kpu_t256*", "tpu_v4"]
    times = {r["arch"]: r["latency_s"]["value"] for r in json.loads(shmoo("estimate", "mlp", "--json").stdout)}
    assert short == sorted(short, key=lambda name: times[name.strip("*")])
    assert {name.strip("*") for name in archs("--all")} == {name for name in times if not name.startswith("brief_")}
    assert archs("--arch", "brief_gpu,gpu_l4") == ["brief_gpu", "gpu_l4"]
    slowest = archs("--sort", "-latency", "--top", "2")
    assert [times[name.strip("*")] for name in slowest] == [times[name.strip("*")] for name in short[:-3:-1]]
    profile = json.loads(shmoo("profiles", "show", "cpu_server_generic", "--json").stdout)
    Path("cpu_local.json").write_text(json.dumps(profile | {"name": "cpu_local"}))
    assert "cpu_local" in archs()
    result = shmoo("estimate", "mlp", "--csv", "all.csv")
    assert len(Path("all.csv").read_text().splitlines()) == 1 + len(times)
    assert "brief_" not in result.stdout


def test_what_an_estimate_assumes_stands_under_its_table() -> None:
    """The input, the state of memory, runtimes, the host of GPUs, what a rate counts, and that a KPU is no silicon."""
    text = " ".join(shmoo("estimate", "resnet18", "--arch", "gpu_l4,kpu_t256").stdout.split())
    for said in (
        "input 1x3x224x224 float32",
        "weights and inputs in memory",
        "domainflow, inductor",
        "server_2025 launches",
        "the batch over the latency",
        "no silicon the machine exists in simulation only",
    ):
        assert said in text
    assert "no silicon" not in shmoo("estimate", "resnet18", "--arch", "gpu_l4").stdout


def test_a_misspelt_column_is_refused_before_the_work() -> None:
    """With the nearest name."""
    for command, misspelt, near in (
        ("estimate no_such_model", "latancy", "latency"),
        ("generate no_such_model", "first_token", "first token"),
        ("sweep mlp --axis batch=1,2", "enrgy", "energy"),
    ):
        result = shmoo(*command.split(), "--columns", f"arch,{misspelt}")
        assert result.exit_code == 2
        assert f"did you mean '{near}'" in result.stderr


@pytest.mark.parametrize("more", [(), ("--by", "energy"), ("--machine",)])
def test_a_verdict_stays_at_80(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], more: tuple[str, ...]
) -> None:
    """Changes and parts of a machine keep the ratio that they are ranked by and its verdict."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    with pytest.raises(SystemExit):
        cli.main(["advise", "mlp", "--arch", "gpu_a100_40g", *more])
    head = next(line for line in click.unstyle(capsys.readouterr().out).splitlines() if line.startswith(("what if", "part")))
    assert "verdict" in head
    assert ("times the energy" if more == ("--by", "energy") else "times as fast") in head


@pytest.mark.parametrize(("given", "remedy"), [([options.wide], "--wide shows"), ([], "a wider terminal shows")])
def test_what_has_no_room_is_shown_by_what_the_command_has(
    monkeypatch: pytest.MonkeyPatch, given: list[Decorator], remedy: str
) -> None:
    """A command without --wide does not name it."""
    monkeypatch.setattr(output, "terminal_columns", lambda stream=None: 20)

    def narrow(**given: bool) -> None:
        output.table(["name", "first"], [["a" * 12, "b" * 12]], drop=("first",))

    for option in given:
        narrow = option(narrow)
    result = CliRunner().invoke(click.command(narrow), [])
    assert remedy in " ".join(result.output.split())


def test_a_pipe_is_as_wide_as_columns_says(monkeypatch: pytest.MonkeyPatch, files: None) -> None:
    """Without COLUMNS it is as wide as the table; messages for logs are not folded."""
    monkeypatch.delenv("COLUMNS", raising=False)
    free = shmoo("show", "run").stdout
    assert max(map(len, free.splitlines())) > 80
    monkeypatch.setenv("COLUMNS", "80")
    assert max(map(len, shmoo("show", "run").stdout.splitlines())) <= 80
    monkeypatch.setenv("COLUMNS", "wide")
    assert shmoo("show", "run").stdout == free
