"""The command line where the system, a file or the user's own code refuses: one message, one exit code, no traceback."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from shmoo.estimators.errors import InputError
from shmoo.estimators.machine.profile import load_profile
from shmoo.harness.campaign.cases import Selection
from shmoo.harness.cli.app import VerbGroup
from shmoo.harness.cli.verbs.report import choose_profile
from shmoo.harness.measuring.measure import build_case
from shmoo.runs.store.records import Machine, RunManifest
from shmoo.runs.store.store import Run, RunWriter
from tests.cli_runner import shmoo

MACHINE = Machine(cpu_model="Example CPU", cores_physical=2, cores_logical=2, memory_bytes=8 << 30)
FACTORY = """
import torch
print("making it")
def build(batch=2, width=8):
    return torch.nn.Linear(width, 4), (torch.rand(batch, width),)
"""

pytestmark = pytest.mark.usefixtures("own_home")


def group_that_raises(error: BaseException) -> click.Group:
    @click.group(cls=VerbGroup)
    def group() -> None: ...

    @group.command()
    def work() -> None:
        raise error

    return group


def test_what_the_system_refuses_is_bad_input() -> None:
    """The message names the file and why; a full disk has no file to name."""
    denied = CliRunner().invoke(
        group_that_raises(PermissionError(errno.EACCES, os.strerror(errno.EACCES), "there.csv")), ["work"]
    )
    assert denied.exit_code == 2
    assert "'there.csv': Permission denied" in denied.stderr
    full = CliRunner().invoke(group_that_raises(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))), ["work"])
    assert full.exit_code == 2
    assert "No space left" in full.stderr


def test_a_pipe_that_closes_early_is_no_message() -> None:
    """`shmoo profiles | head -1` ends without a word."""
    result = CliRunner().invoke(group_that_raises(BrokenPipeError(errno.EPIPE, "Broken pipe")), ["work"])
    assert result.stderr == ""
    assert result.exit_code == 1


def test_a_run_cannot_go_where_a_file_is() -> None:
    """One message, no traceback."""
    Path("taken").write_text("")
    result = shmoo("measure", "--model", "relu", "--passes", "1", "--out", "taken/run")
    assert result.exit_code == 2
    assert "taken" in result.stderr
    assert isinstance(result.exception, SystemExit)


def test_the_command_runs_as_a_module() -> None:
    """Where the script is not on the path."""
    done = subprocess.run([sys.executable, "-m", "shmoo.harness.cli", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("shmoo ")


def test_running_the_users_code_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On stderr, before anything of it runs; a model by name runs none."""
    (tmp_path / "told_factory.py").write_text(FACTORY)
    monkeypatch.syspath_prepend(str(tmp_path))
    result = shmoo("estimate", "told_factory:build", "--arch", "kpu_t64", "--json")
    assert json.loads(result.stdout)[0]["macs"] == 2 * 8 * 4
    assert result.stderr.index("told_factory:build: running its code") < result.stderr.index("making it")
    assert "running its code" not in shmoo("estimate", "relu", "--arch", "kpu_t64").stderr


def test_a_model_of_ones_own_can_be_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a network, which only tests, with its batch as axis; the worker makes it again from its name."""
    (tmp_path / "own_factory.py").write_text(FACTORY)
    monkeypatch.syspath_prepend(str(tmp_path))
    small, large = Selection(model=("own_factory:build",), batch=(1, 3)).cases(MACHINE)
    assert (small.workload, small.kind, small.split) == ("own_factory:build", "network", "test")
    assert build_case(large)().shape == (3, 4)


def test_a_file_that_can_run_code_is_measured_when_trusted() -> None:
    """As for estimates."""
    with pytest.raises(InputError, match="--trust"):
        Selection(model=("model.pt2",)).cases(MACHINE)


def test_the_newest_profile_beside_a_run_judges_it(tmp_path: Path) -> None:
    """characterize numbers them: profile.json, profile-2.json, ..., profile-10.json."""
    with RunWriter(tmp_path / "run", RunManifest(MACHINE, "quick")):
        pass
    for count in (1, 2, 10):
        name = "profile" if count == 1 else f"profile-{count}"
        profile = load_profile("cpu_server_generic").replacing(name=f"cpu_{count}")
        (tmp_path / "run" / f"{name}.json").write_bytes(profile.to_json())
    assert choose_profile(Run.open(tmp_path / "run"), None).name == "cpu_10"


def test_profiles_of_the_current_directory_are_listed() -> None:
    """As they are found by name; other JSON beside them is passed over, and a damaged profile is said to be one."""
    Path("mine.json").write_bytes(load_profile("kpu_t64").replacing(name="mine").to_json())
    Path("package.json").write_text('{"name": "package"}')
    Path("folder.json").mkdir()
    Path("cut.json").write_text('{"format": 1, "coefficients": {')
    result = shmoo("profiles", "list", "--json")
    listed = {row["name"]: row["where"] for row in json.loads(result.stdout)}
    assert listed["mine"].endswith("mine.json")
    assert listed["kpu_t64"] == "built in"
    assert not {"package", "folder", "cut"} & set(listed)
    assert "cut.json" in result.stderr
    assert "package" not in result.stderr


@pytest.mark.parametrize("name", ["fp99", "uint64"])
def test_only_types_that_units_compute_in_are_offered(name: str) -> None:
    """Tensors may be whole numbers of 64 bits; no architecture has a peak for them."""
    result = shmoo("estimate", "relu", "--dtype", name)
    assert result.exit_code == 2
    assert ("did you mean 'fp32' or 'fp16'?" if name == "fp99" else "float8, fp16") in result.stderr
    assert "bool" not in result.stderr


@pytest.mark.parametrize("name", ["complex64", "cfloat", "torch.complex128", "complex32"])
@pytest.mark.parametrize(
    "command",
    [
        ("estimate", "mlp", "--arch", "gpu_t4"),
        ("measure", "--suite", "quick"),
        ("generate", "gpt2", "--arch", "gpu_t4"),
        ("sweep", "mlp", "--axis", "batch=1,2", "--arch", "gpu_t4"),
        ("inspect", "mlp"),
        ("trace", "mlp", "--arch", "gpu_t4", "--no-measure"),
        ("advise", "mlp", "--arch", "gpu_t4"),
        ("explore", "mlp", "--arch", "gpu_t4", "--over", "clock=1e9..2e9", "--minimize", "latency"),
        ("gate", "mlp", "--arch", "gpu_t4", "--against", "b.json"),
    ],
    ids=lambda command: command[0],
)
def test_no_model_is_converted_to_complex_numbers(command: tuple[str, ...], name: str) -> None:
    """The error says which types are allowed, and where complex ones are."""
    result = shmoo(*command, "--dtype", name)
    assert result.exit_code == 2
    assert f"no model is converted to {name!r}: allowed are bfloat16, float16, float32, float64, float8, int4" in result.stderr
    assert "operator tables may be of complex64 and complex128" in result.stderr


@pytest.mark.parametrize(
    "command",
    [
        ("estimate", "mlp", "--csv", ""),
        ("estimate", "mlp", "--csv="),
        ("estimate", "mlp", "--arch", ""),
        ("inspect", "mlp", "--html", ""),
        ("sweep", "mlp", "--axis", "batch=1,2", "--plot", ""),
        ("report", "run", "-o", ""),
        ("fleet", "report", "campaign", "-o", ""),
    ],
)
def test_an_empty_value_is_refused(command: tuple[str, ...]) -> None:
    """A variable of the shell that is not set leaves one: the option is named, and nothing runs."""
    result = shmoo(*command)
    assert result.exit_code == 2
    flag = next(part for part in command if part.startswith("-") and part != "--axis").removesuffix("=")
    assert f"{flag} has an empty value" in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize("command", [("calibrate", "run"), ("characterize", "--device", "cpu", "--json")])
def test_a_new_profile_takes_no_built_in_name(command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU saved as gpu_h100 would answer for every H100 from then on: refused before anything is measured or fitted."""
    from shmoo.harness.cli.verbs import characterize

    def measure_all(*given: object) -> None:
        raise InputError("measured")

    monkeypatch.setattr(characterize, "measure_all", measure_all)
    result = shmoo(*command, "--name", "gpu_h100")
    assert result.exit_code == 2
    for part in ("'gpu_h100' is a built-in profile", "any other --name is allowed", "--force"):
        assert part in result.stderr
    assert "is a built-in profile" not in shmoo("calibrate", "run", "--name", "gpu_h100", "--force").stderr


@pytest.mark.parametrize(
    "command",
    [
        ("measure", "--out", "absent", "--resume"),
        ("characterize", "--out", "absent", "--resume"),
        ("duel", "a", "b", "--out", "absent", "--resume", "--", "measure"),
        ("fleet", "run", "hosts.toml", "--out", "absent", "--resume", "--", "measure"),
    ],
)
def test_nothing_is_resumed_where_nothing_is(command: tuple[str, ...]) -> None:
    """A slip in the path would otherwise begin a run there."""
    Path("hosts.toml").write_text('[hosts.here]\nengine = "local"\n')
    result = shmoo(*command)
    assert result.exit_code == 2
    assert "at 'absent'; check the path, or leave out --resume" in result.stderr
    assert not Path("absent").exists()


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("measure", "--budget", "abc"), "'abc' is not a finite number; allowed is one above 0"),
        (("measure", "--budget", "nan"), "'nan' is not a finite number; allowed is one above 0"),
        (("measure", "--threads", "two"), "--threads must be a positive whole number, got 'two'"),
        (("estimate", "relu", "--threads", "1,2"), "--threads takes one value here, got 1, 2"),
        (("sweep", "relu", "--axis", "m=1,2", "--jobs", "x"), "allowed is one from 1 to 10000"),
        (("measure", "--suite", "foo"), "allowed: compiled, micro, nets, planned, quick, shmoo"),
        (("measure", "--device", "tpu"), "allowed: cpu, cuda"),
        (("measure", "--threads", "100000"), "100000 threads cannot run at once on this machine; allowed are 1 to "),
        (("characterize", "--device", "cpu", "--threads", "100000"), "allowed are 1 to "),
    ],
)
def test_a_value_that_cannot_be_is_answered_with_those_that_can(command: tuple[str, ...], said: str) -> None:
    """Also where one of them looks similar: somebody who asks for a TPU does not mean the CPU."""
    result = shmoo(*command)
    assert result.exit_code == 2
    assert said in " ".join(result.stderr.split())


@pytest.mark.parametrize("dtype", ["float8", "int8", "nvfp4", "tf32"])
def test_a_type_that_the_device_cannot_be_measured_in_is_refused_before_a_run_is_made(dtype: str, tmp_path: Path) -> None:
    result = shmoo("measure", "--suite", "quick", "--dtype", dtype, "--out", str(tmp_path / "run"))
    assert result.exit_code == 2
    assert "allowed there: float64, float32, bfloat16, float16" in result.stderr
    assert not (tmp_path / "run").exists()


def test_a_runtime_that_the_device_lacks_is_refused_before_a_run_is_made(tmp_path: Path) -> None:
    result = shmoo("measure", "--model", "mlp", "--runtime", "cudagraphs", "--out", str(tmp_path / "run"))
    assert result.exit_code == 2
    assert "allowed there: eager, inductor, inductor-freezing" in result.stderr
    assert not (tmp_path / "run").exists()


def test_a_model_can_be_measured_at_another_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--input-shape as of estimates: its first size is the batch unless --batch names others; the case tells the whole shape."""
    (tmp_path / "bare_factory.py").write_text(FACTORY.replace(", (torch.rand(batch, width),)", ""))
    monkeypatch.syspath_prepend(str(tmp_path))
    (own,) = Selection(model=("bare_factory:build",), input_shape=(5, 3, 8)).cases(MACHINE)
    assert own.axes == {"batch": 5, "input_shape": "5x3x8"}
    assert build_case(own)().shape == (5, 3, 4)
    (batched,) = Selection(model=("resnet18",), batch=(2,), input_shape=(1, 3, 32, 32)).cases(MACHINE)
    assert build_case(batched).args[0].shape == (2, 3, 32, 32)
    with pytest.raises(InputError, match="--input-shape applies to models"):
        Selection(suite="quick", input_shape=(1, 3, 32, 32)).cases(MACHINE)


def test_a_sequence_can_be_measured_at_another_length() -> None:
    """As of estimates; a model without sequences has no such axis."""
    pytest.importorskip("transformers", reason="the extra 'models' is not installed")
    (case,) = Selection(model=("bert_base",), seq_len=16).cases(MACHINE)
    assert case.axes == {"batch": 1, "seq_len": 16}
    with pytest.raises(InputError, match="no axis 'seq_len'"):
        Selection(model=("resnet18",), seq_len=16).cases(MACHINE)
