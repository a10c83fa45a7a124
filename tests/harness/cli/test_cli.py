"""The command line as scripts see it: exit codes, JSON alone on stdout, suggestions on stderr."""

from __future__ import annotations

import csv
import json
import math
import signal
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from shmoo.estimators.errors import InputError, NothingMeasuredError
from shmoo.estimators.graph.records import OpCall, TensorSpec, single_call_graph
from shmoo.estimators.machine.profile import load_profile
from shmoo.harness.campaign.cases import Selection
from shmoo.harness.cli.app import Refused, VerbGroup
from shmoo.harness.cli.options import parse_axis, parse_shape
from shmoo.harness.cli.verbs.measure import finish
from shmoo.harness.cli.verbs.show import show
from shmoo.runs.store.records import CaseSpec, EnergyReading, Machine, Measurement, Reason, RunManifest, Timing
from shmoo.runs.store.store import Run, RunWriter
from tests.cli_runner import shmoo

MACHINE = Machine(cpu_model="Example CPU", cores_physical=2, cores_logical=2, memory_bytes=8 << 30, torch="2.9.0", threads=2)
FIELDS = {
    "model", "arch", "batch", "dtype", "runtime", "threads", "flops", "macs", "bytes", "params", "weight_bytes",
    "peak_memory_bytes", "kernels", "tiles", "latency_s", "throughput_per_s", "energy_j", "average_power_w", "edp_js",
    "unknown_ops", "basis",
}  # fmt: skip
TABLE = "op,dtype,b,m,n,k\nlinear,float32,1,64,64,64\nlinear,float32,1,128,128,128\n"


pytestmark = pytest.mark.usefixtures("own_home")


def write_run(path: Path, statuses: tuple[str, ...] = ("ok", "ok", "failed")) -> Path:
    """A run of linear operators; failed rows have no timing."""
    with RunWriter(path, RunManifest(MACHINE, "quick")) as writer:
        for i, status in enumerate(statuses, 1):
            x, w, y = TensorSpec((8 * i, 64)), TensorSpec((64, 64)), TensorSpec((8 * i, 64))
            graph = single_call_graph(OpCall("aten.linear", (x, w), (y,), ("input", "weight")), (1,))
            case = CaseSpec("linear", "operator", {"m": 8 * i, "n": 64, "k": 64})
            timing = None if status == "failed" else Timing((1e-5 * i, 1.1e-5 * i))
            reasons = (Reason("RuntimeError", "no kernel"),) if status == "failed" else ()
            writer.append(Measurement(case, status, reasons, (graph.content_hash,), timing), [graph])
    return path


@pytest.mark.parametrize(
    ("arguments", "suggestion"),
    [
        (["esitmate", "resnet18"], "did you mean 'estimate'"),
        (["estimate", "resnet18", "--arch", "gpu_h10"], "did you mean 'gpu_h100'"),
        (["estimate", "resnet18", "--dtype", "bfloat61"], "'bfloat16'"),
        (["estimate", "resnet18", "--runtime", "eagr"], "'eager'"),
        (["estimate", "resnet18", "--arhc", "gpu_h100"], "--arch"),
        (["measure", "--suite", "quikc"], "'quick'"),
        (["measure", "--device", "cdua"], "'cuda'"),
        (["profiles", "show", "tpu_v9"], "'tpu_v4'"),
        (["sweep", "linear", "--profile-axis", "bandwith.dram=1e9..2e9"], "'bandwidth.dram'"),
    ],
)
def test_a_misspelt_name_gets_the_nearest_and_exit_2(arguments: list[str], suggestion: str) -> None:
    """Commands, options, architectures, dtypes, runtimes, suites, devices and coefficients."""
    result = shmoo(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert suggestion in result.stderr


def test_estimating_nothing_is_bad_usage() -> None:
    """Neither a model nor a table was named."""
    assert shmoo("estimate").exit_code == 2


def test_a_missing_run_is_bad_input(tmp_path: Path) -> None:
    """The message says what would be a run."""
    result = shmoo("show", str(tmp_path / "nowhere"))
    assert result.exit_code == 2
    assert "shmoo measure" in result.stderr


def test_show_lists_rows_with_status(tmp_path: Path) -> None:
    """A failed row comes with its reason, and nothing is left out."""
    run = write_run(tmp_path / "run")
    document = json.loads(shmoo("show", str(run), "--json").stdout)
    assert [row["status"] for row in document["rows"]] == ["ok", "ok", "failed"]
    assert document["rows"][0]["latency_s"] == pytest.approx(1.05e-5)
    assert document["rows"][2]["latency_s"] is None
    assert "no kernel" in document["rows"][2]["reasons"]
    assert "no kernel" in shmoo("show", str(run)).stdout


def test_show_has_a_column_of_energy_where_it_was_measured(tmp_path: Path) -> None:
    """Of the package; a run without a counter has no such column."""
    case = CaseSpec("linear", "operator", {"m": 8})
    for name, energy in (("with", (EnergyReading("package", 2.25, low_j=2.0, high_j=2.5),)), ("without", ())):
        with RunWriter(tmp_path / name, RunManifest(MACHINE, "quick")) as writer:
            writer.append(Measurement(case, "ok", timing=Timing((1e-5,) * 4), energy=energy))
    assert "2.25 J" in shmoo("show", str(tmp_path / "with")).stdout
    assert "energy" not in shmoo("show", str(tmp_path / "without")).stdout


def test_show_says_how_well_times_are_known(tmp_path: Path) -> None:
    """Visits of 10 and 20 µs: rates of 0.1 and 0.05 per µs have the mean 0.075, and ln 2 / 2 is its standard error. Eight blocks
    of two visits met a quiet machine, at 10 µs; of the other case no block was watched."""
    linear, relu = (CaseSpec(name, "operator", {"m": 8}) for name in ("linear", "relu"))
    quiet, slow = (1.0,) * 4, (1.9,) * 4
    with RunWriter(tmp_path / "run", RunManifest(MACHINE, "quick")) as writer:
        for visit, busy in enumerate(((1e-5,) * 4, (3e-5,) * 4)):
            timing = Timing((1e-5,) * 4 + busy, slowdowns=quiet + (quiet if not visit else slow))
            writer.append(Measurement(linear, "ok", timing=timing, visit=visit))
        writer.append(Measurement(relu, "noisy", (Reason("steal", "30 %"),), timing=Timing((1e-5, 1e-5))))
    document = json.loads(shmoo("show", str(tmp_path / "run"), "--json").stdout)
    first, second = document["rows"]
    assert (first["visits"], first["samples"], second["visits"]) == (2, 16, 1)
    assert first["latency_s"] == pytest.approx(1 / 0.075e6)
    assert first["relative_se"] == pytest.approx(math.log(2) / 2)
    assert (first["alone_s"], first["alone_relative_se"]) == (1e-5, 0.0)
    assert second["alone_s"] is None
    assert "not watched" in second["alone_s_reason"]
    assert "visited twice" in second["visit_sd_reason"]
    assert "0 ok, 2 noisy, 0 suspect, 0 failed" in shmoo("show", str(tmp_path / "run")).stderr


def test_show_gives_the_reasons_of_usable_rows_when_asked(tmp_path: Path) -> None:
    """A noisy row's reason is one more word in the way, a failed row's is not."""
    with RunWriter(tmp_path / "run", RunManifest(MACHINE, "quick")) as writer:
        for m, status, reason in ((1, "noisy", "steal"), (2, "failed", "no kernel"), (3, "ok", "not captured")):
            timing = None if status == "failed" else Timing((1.0, 1.0))
            writer.append(Measurement(CaseSpec("relu", "operator", {"m": m}), status, (Reason(reason, "seen"),), timing=timing))
    plain, full = (shmoo("show", str(tmp_path / "run"), *more).stdout for more in ((), ("--reasons",)))
    assert ("no kernel: seen" in plain, "steal: seen" in plain, "not captured: seen" in plain) == (True, False, False)
    assert all(f"{reason}: seen" in full for reason in ("no kernel", "steal", "not captured"))


@pytest.mark.parametrize("columns", [80, 120, 200])
@pytest.mark.parametrize("more", [(), ("--reasons",)])
def test_show_fits_its_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], columns: int, more: tuple[str, ...]
) -> None:
    """Long labels are shortened to what tells them apart, long reasons stay out of the table, and no number is broken."""
    axes = {"n": 1, "c_in": 8, "size": 112, "kernel": 3, "stride": 1, "padding": 1, "dilation": 1, "groups": 1, "bias": False}
    with RunWriter(tmp_path / "run", RunManifest(MACHINE, "quick")) as writer:
        for i, runtime in enumerate(("eager", "inductor-freezing")):
            case = CaseSpec("conv", "operator", {**axes, "c_out": 56 + i}, runtime=runtime)
            reasons = (Reason("slow core", "core 0 ran at half of its usual speed " * 15),)
            writer.append(Measurement(case, "suspect", reasons, timing=Timing((1.234e-4 * (i + 1),) * 12345)))
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    show.main([str(tmp_path / "run"), *more], standalone_mode=False)
    lines = click.unstyle(capsys.readouterr().out).splitlines()
    assert max(map(len, lines)) <= columns
    for number in ("123 µs", "247 µs"):
        (line,) = (line for line in lines if number in line)
        assert "12345" in line
        assert "suspect" in line
        assert f"c_out={56 if number == '123 µs' else 57}" in line


def test_calibrating_on_nothing_usable_is_exit_3(tmp_path: Path) -> None:
    """A run of failures has nothing to fit."""
    result = shmoo("calibrate", str(write_run(tmp_path / "run", ("failed",))))
    assert result.exit_code == 3
    assert result.stdout == ""


def test_a_profile_is_not_overwritten(tmp_path: Path) -> None:
    """An existing target is refused before anything is fitted, and stays as it was."""
    target = tmp_path / "mine.json"
    target.write_text("precious")
    result = shmoo("calibrate", str(tmp_path / "run"), "-o", str(target))
    assert result.exit_code == 2
    assert "--force" in result.stderr
    assert target.read_text() == "precious"


def test_report_writes_its_files(tmp_path: Path) -> None:
    """errors.csv and report.html lie where asked for; stdout holds the JSON alone."""
    run = write_run(tmp_path / "run")
    result = shmoo("report", str(run), "--profile", "cpu_server_generic", "-o", str(tmp_path / "out"), "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["profile"] == "cpu_server_generic"
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"errors.csv", "report.html"}


def test_operator_table_gives_one_object_a_row(tmp_path: Path) -> None:
    """In row order, with exactly the documented fields, intervals included."""
    (tmp_path / "ops.csv").write_text(TABLE)
    result = shmoo("estimate", "--ops", "ops.csv", "--arch", "gpu_a100_40g", "--json", "--csv", "out.csv")
    first, second = json.loads(result.stdout)
    assert (first["row"], first["op"], second["row"]) == (0, "linear", 1)
    assert set(first) == {"row", "op", "latency_s", "device_s", "energy_j"}
    assert first["latency_s"]["low"] <= first["latency_s"]["value"] <= first["latency_s"]["high"]
    with (tmp_path / "out.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert float(rows[1]["latency_s_high"]) == pytest.approx(second["latency_s"]["high"])


def test_operator_table_needs_one_architecture(tmp_path: Path) -> None:
    """Neither none nor two."""
    (tmp_path / "ops.csv").write_text(TABLE)
    assert shmoo("estimate", "--ops", "ops.csv").exit_code == 2
    assert shmoo("estimate", "--ops", "ops.csv", "--arch", "gpu_t4,gpu_l4").exit_code == 2


@pytest.mark.parametrize("arch", ["gpu_h100", "gpu_a10", "tpu_v6e", "cpu_sapphire_rapids"])
def test_energy_of_device_time_is_that_of_the_device_time(arch: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row of `time` device leaves the host out, and what the device draws while it waits for it: no more than it may draw."""
    monkeypatch.chdir(tmp_path)
    rows = [f"linear,bfloat16,16,4096,4096,{time}" for time in ("call", "device")]
    Path("ops.csv").write_text("\n".join(["op,dtype,m,n,k,time", *rows]) + "\n")
    call, device = json.loads(shmoo("estimate", "--ops", "ops.csv", "--arch", arch, "--json").stdout)
    assert device["latency_s"] == call["device_s"]
    profile = load_profile(arch)
    waited = call["latency_s"]["value"] - device["latency_s"]["value"]
    assert call["energy_j"]["value"] - device["energy_j"]["value"] == pytest.approx(profile.value("power.static") * waited)
    assert device["energy_j"]["value"] / device["latency_s"]["value"] <= profile.value("power.tdp", math.inf) * 1.001


def test_profiles_say_how_far_they_were_tested() -> None:
    """Cases and mean error of networks and of operators; none for a machine that nobody measured."""
    listed = {profile["name"]: profile["tested"] for profile in json.loads(shmoo("profiles", "list", "--json").stdout)}
    assert listed["gpu_rtx4090"].keys() == {"networks"}
    assert listed["gpu_a100_40g"]["networks"]["n"] > 50
    assert 0.01 < listed["gpu_a100_40g"]["operators"]["mean"] < 0.2
    assert listed["kpu_t64"] == {}
    assert "tested error" in shmoo("profiles", "list", "--wide").stdout


def test_estimate_json_has_the_fields_scripts_rely_on() -> None:
    """One object for each architecture, with at least the documented fields."""
    result = shmoo("estimate", "linear", "--arch", "gpu_h100,kpu_t256", "--json")
    assert result.exit_code == 0, result.output
    records = json.loads(result.stdout)
    assert [r["arch"] for r in records] == ["gpu_h100", "kpu_t256"]
    assert set(records[0]) >= FIELDS
    assert sum(records[0]["basis"].values()) == pytest.approx(1)
    assert [r["runtime"] for r in records] == ["inductor", "domainflow"]
    assert records[0]["flops"] >= 2 * records[0]["macs"] > 0


def test_model_code_cannot_write_into_the_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a user's factory prints goes to stderr."""
    (tmp_path / "noisy_factory.py").write_text(
        "import torch\ndef build():\n    print('hello')\n    return torch.nn.Linear(8, 4), (torch.rand(2, 8),)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    result = shmoo("estimate", "noisy_factory:build", "--arch", "gpu_h100", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)[0]["macs"] == 2 * 8 * 4
    assert "hello" in result.stderr


def test_quantized_estimate_moves_fewer_bytes() -> None:
    """int8 weights take a quarter of float32's."""
    result = shmoo("estimate", "linear", "--arch", "gpu_h100", "--dtype", "float32,int8", "--json")
    wide, narrow = json.loads(result.stdout)
    assert narrow["weight_bytes"] == wide["weight_bytes"] / 4


def test_runtime_without_architecture_takes_those_that_have_it() -> None:
    """eager runs on CPUs and GPUs; naming a TPU for it is refused."""
    records = json.loads(shmoo("estimate", "linear", "--runtime", "eager", "--json").stdout)
    assert {r["arch"].split("_")[0] for r in records} == {"cpu", "gpu", "brief"}
    assert shmoo("estimate", "linear", "--arch", "tpu_v4", "--runtime", "eager").exit_code == 2


def test_sweep_writes_rows_and_one_self_contained_page() -> None:
    """A range has both ends; the page loads nothing from elsewhere."""
    result = shmoo(
        "sweep", "linear", "--axis", "n=64..256:3", "--arch", "gpu_h100", "--json", "--plot", "p.html", "--csv", "s.csv"
    )
    assert result.exit_code == 0, result.output
    assert [row["n"] for row in json.loads(result.stdout)] == [64, 128, 256]
    page = Path("p.html").read_text(encoding="utf-8")
    assert '<script src="' not in page
    assert len(Path("s.csv").read_text().splitlines()) == 4


def test_sweep_names_an_axis_that_is_near() -> None:
    """The workload's own axes are suggested."""
    result = shmoo("sweep", "mlp", "--axis", "batchh=1..8", "--arch", "gpu_h100")
    assert result.exit_code == 2
    assert "batch" in result.stderr


def test_profiles_diff_gives_ratios() -> None:
    """H100 over A100 in memory bandwidth is the quotient of what the profiles hold."""
    document = json.loads(shmoo("profiles", "diff", "gpu_a100_40g", "gpu_h100", "--json").stdout)
    found = next(d for d in document["differences"] if d["coefficient"] == "bandwidth.dram")
    a, b = (load_profile(name).value("bandwidth.dram") for name in ("gpu_a100_40g", "gpu_h100"))
    assert found["ratio"] == pytest.approx(b / a)


def test_measuring_exits_by_what_came_out(tmp_path: Path) -> None:
    """0 where every row is usable or suspect, 1 where some failed, 3 where none is usable."""
    finish(Run.open(write_run(tmp_path / "good", ("ok", "suspect"))), as_json=True)
    with pytest.raises(click.exceptions.Exit) as partly:
        finish(Run.open(write_run(tmp_path / "partly", ("ok", "failed"))), as_json=True)
    assert partly.value.exit_code == 1
    with pytest.raises(NothingMeasuredError, match="1 rows failed, 1 are suspect"):
        finish(Run.open(write_run(tmp_path / "bad", ("suspect", "failed"))), as_json=True)


def test_batches_of_a_measurement_are_those_of_networks() -> None:
    """Every network is planned once a batch size, dtype and runtime; operators have no batch."""
    networks = Selection(suite="nets", runtime=("eager", "inductor"), dtype=("fp32",), batch=(1, 8)).cases(MACHINE)
    assert {case.axes["batch"] for case in networks} == {1, 8}
    assert len({case.identity for case in networks}) == len(networks) == 4 * len({case.workload for case in networks})
    with pytest.raises(InputError, match="--batch applies to networks"):
        Selection(suite="quick", batch=(8,)).cases(MACHINE)


def test_users_profile_is_found_by_name(tmp_path: Path) -> None:
    """A profile in the user's data directory is listed and used."""
    folder = tmp_path / "home" / "profiles"
    folder.mkdir(parents=True)
    mine = load_profile("gpu_h100").replacing(name="my_gpu")
    (folder / "my_gpu.json").write_bytes(mine.to_json())
    assert "my_gpu" in {row["name"] for row in json.loads(shmoo("profiles", "list", "--json").stdout)}
    assert json.loads(shmoo("profiles", "show", "my_gpu", "--json").stdout)["name"] == "my_gpu"


def test_an_interruption_is_exit_130_and_says_what_is_kept() -> None:
    """Ctrl-C in a verb."""

    @click.group(cls=VerbGroup)
    def group() -> None: ...

    @group.command()
    def work() -> None:
        raise KeyboardInterrupt("interrupted; finished rows kept in DIR")

    result = CliRunner().invoke(group, ["work"])
    assert result.exit_code == 130
    assert "finished rows kept in DIR" in result.stderr


def test_a_second_ctrl_c_is_an_interruption_too() -> None:
    """It comes while the first one is answered, whose message it leaves."""

    @click.group(cls=VerbGroup)
    def group() -> None: ...

    @group.command()
    def work() -> None:
        try:
            raise KeyboardInterrupt("interrupted; finished rows kept in DIR")
        finally:
            raise KeyboardInterrupt

    result = CliRunner().invoke(group, ["work"])
    assert (result.exit_code, result.stderr) == (130, "shmoo: interrupted; finished rows kept in DIR\n")


def test_a_ctrl_c_while_another_is_answered_has_no_effect(monkeypatch: pytest.MonkeyPatch) -> None:
    """As during a garbage collection on the way out; afterwards it has its effect again."""

    @click.group(cls=VerbGroup)
    def group() -> None: ...

    @group.command()
    def work() -> None:
        raise KeyboardInterrupt

    def pressed(self: Refused, message: str, exit_code: int) -> None:
        signal.raise_signal(signal.SIGINT)
        refused(self, message, exit_code)

    refused, before = Refused.__init__, signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(Refused, "__init__", pressed)
    assert CliRunner().invoke(group, ["work"]).exit_code == 130
    assert signal.getsignal(signal.SIGINT) is before


def test_axis_ranges_are_log_spaced_with_both_ends() -> None:
    """Without a count, one point an octave."""
    assert parse_axis("n=64..1024", whole=True) == ("n", (64, 128, 256, 512, 1024))
    assert parse_axis("n=1..1000:4", whole=True) == ("n", (1, 10, 100, 1000))
    assert parse_axis("n=1..4:9", whole=True) == ("n", (1, 2, 3, 4))
    assert parse_axis("clock=1e9,2e9", whole=False) == ("clock", (1e9, 2e9))
    assert parse_axis("activation=relu,gelu", whole=True) == ("activation", ("relu", "gelu"))


@pytest.mark.parametrize("text", ["n", "n=", "=3", "n=8..4", "n=0..4", "n=a..b", "n=1..8:0", "n=1..9:99999"])
def test_a_bad_axis_is_refused(text: str) -> None:
    """With the text seen in the message."""
    with pytest.raises(InputError):
        parse_axis(text, whole=True)


def test_shapes_are_positive() -> None:
    """Separated by x or commas."""
    assert parse_shape("1x3x224,224") == (1, 3, 224, 224)
    with pytest.raises(InputError, match="input-shape"):
        parse_shape("1x0")


def test_a_profile_shows_what_is_fitted_and_what_is_not() -> None:
    """A share at its bound and one that the data left to its prior stand apart from fitted ones."""
    rows = {line.split()[0]: line for line in shmoo("profiles", "show", "gpu_a100_40g").stdout.splitlines() if line.strip()}
    assert "  at bound  " in rows["efficiency.bandwidth.layer_norm"]
    assert any("  prior  " in row for row in rows.values())
    assert not any("held by its prior" in row for row in rows.values())
