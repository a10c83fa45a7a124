"""The whole flow by one command: measure, calibrate, predict, report."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from shmoo.estimators.errors import InputError
from shmoo.harness.campaign.cases import check_device, usable_device
from shmoo.harness.campaign.worker import Worker
from shmoo.harness.cli.app import cli
from shmoo.harness.cli.verbs.characterize import COMPILED, PREVIEW, PREVIEW_OPERATORS, in_order, plan, weakness
from shmoo.runs.store.records import CaseSpec, Machine, Measurement, Reason, RunManifest, Timing
from shmoo.runs.store.store import Run, RunWriter

MACHINE = Machine(
    cpu_model="Example CPU",
    cores_physical=2,
    cores_logical=2,
    memory_bytes=8 << 30,
    cache_bytes={"l1": 32 << 10, "l2": 1 << 20, "l3": 32 << 20},
)


def test_networks_test_and_never_calibrate() -> None:
    """At least eight networks in eager, a few of them and some synthetic models compiled, and none among what is fitted."""
    calibration, networks, compiled, _ = plan(MACHINE, quick=False)
    assert {case.kind for case in calibration} == {"operator", "synthetic"}
    assert len({case.workload for case in networks}) >= 8
    assert {case.split for case in networks} == {"test"}
    assert {case.workload for case in compiled if case.kind == "network"} == set(COMPILED)
    assert {case.runtime for case in compiled} == {"inductor"}


def test_a_quick_look_compiles_nothing() -> None:
    """Compiling takes most of the time, so --quick does without."""
    calibration, networks, compiled, visits = plan(MACHINE, quick=True)
    assert len(calibration) < 60
    assert len(networks) == len(COMPILED)
    assert compiled == ()
    assert visits == 1


def test_a_gpu_is_planned_in_two_types() -> None:
    """Half of the operators and synthetic models in each, networks in both and at a batch that fills the card."""
    machine = msgspec.structs.replace(MACHINE, gpu_model="Example GPU", gpu_memory_bytes=80 << 30)
    calibration, networks, compiled, _ = plan(machine, quick=False, device="cuda")
    assert {case.device for case in (*calibration, *networks, *compiled)} == {"cuda"}
    counts = Counter(case.dtype for case in calibration)
    assert abs(counts["float32"] - counts["bfloat16"]) <= 1
    assert len(networks) == 4 * len({case.workload for case in networks})
    assert {(case.axes["batch"], case.dtype) for case in networks} == {(b, t) for b in (1, 16) for t in ("float32", "bfloat16")}


@pytest.mark.parametrize(("available", "device"), [(True, "cuda"), (False, "cpu")])
def test_a_gpu_that_torch_cannot_use_is_refused(monkeypatch: pytest.MonkeyPatch, available: bool, device: str) -> None:
    """A card beside a torch without CUDA: measured is the CPU, and asking for the card says why not."""
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    machine = msgspec.structs.replace(MACHINE, gpu_model="Example GPU")
    assert usable_device(machine) == device
    if not available:
        with pytest.raises(InputError, match="finds no CUDA device, though this machine has one \\(Example GPU\\)"):
            check_device("cuda", machine)


def test_first_visits_soon_allow_a_preview() -> None:
    """Two cases of every operator and synthetic model, then one network, then the rest; nothing is lost on the way."""
    calibration, networks, *_ = plan(MACHINE, quick=False)
    order = in_order((*calibration, *networks))
    assert sorted(case.identity for case in order) == sorted(case.identity for case in (*calibration, *networks))
    first = [case.workload for case in order].index(PREVIEW)
    counted = Counter(case.workload for case in order[:first])
    assert set(counted) == {case.workload for case in calibration}
    assert max(counted.values()) == PREVIEW_OPERATORS
    assert first < 0.25 * len(order)


@pytest.mark.parametrize(
    ("statuses", "planned", "said"),
    [
        (["ok", "noisy", "ok", "ok"] * 5, 20, ""),
        (["ok"] * 10, 20, "only 10 of 20 cases were reached"),
        (["ok"] * 15 + ["failed"] * 5, 20, "only 15 of 20 cases can be used"),
    ],
)
def test_one_sentence_says_what_is_weak_and_what_to_do(tmp_path: Path, statuses: list[str], planned: int, said: str) -> None:
    """Cases that were not reached, cases that cannot be used; noisy ones are no weakness. The sentence names a command."""
    with RunWriter(tmp_path / "run", RunManifest(MACHINE, "characterize")) as writer:
        for number, status in enumerate(statuses):
            case = CaseSpec("relu", "operator", {"m": number})
            timing = None if status == "failed" else Timing((1e-3,) * 9)
            writer.append(Measurement(case, status, timing=timing))
    sentence = weakness(Run.open(tmp_path / "run"), planned)
    assert sentence.startswith(said)
    assert bool(sentence) == bool(said)
    assert ("`shmoo " in sentence) == bool(said)


def test_a_machine_on_which_nothing_runs_is_exit_3(own_home: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every case fails: the command says so, names the run, and writes no profile."""
    pytest.importorskip("torch")

    def fail(self: Worker, case: CaseSpec, visit: int = 0, details: bool = True) -> tuple[Measurement, tuple]:
        return Measurement(case, "failed", (Reason("error", "on purpose"),), visit=visit), ()

    monkeypatch.setattr(Worker, "measure", fail)
    result = CliRunner().invoke(cli, ["characterize", "--quick", "--out", "run", "--json"])
    assert result.exit_code == 3
    assert "nothing could be timed here; `shmoo check run`" in result.stderr
    assert {row.status for row in Run.open("run").rows} == {"failed"}
    assert not Path("run/profile.json").exists()


@pytest.mark.slow
def test_an_interruption_ends_with_a_profile_and_a_report(own_home: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C after fifteen visits: what they gave is fitted and reported, and the last sentence says how to go on."""
    pytest.importorskip("torch")
    measure, asked = Worker.measure, []

    def interrupted(self: Worker, case: CaseSpec, visit: int = 0, details: bool = True) -> tuple[Measurement, tuple]:
        if len(asked) == 15:
            raise KeyboardInterrupt
        asked.append(case)
        return measure(self, case, visit, details)

    monkeypatch.setattr(Worker, "measure", interrupted)
    result = CliRunner().invoke(cli, ["characterize", "--quick", "--out", "run", "--json"])
    assert result.exit_code == 1, result.output
    assert "`shmoo characterize --out run --resume` goes on" in result.stderr
    assert len(Run.open("run").lines) == 15
    assert Path("run/profile.json").is_file()
    assert Path("run/report/report.html").is_file()
    assert json.loads(result.stdout)["run"] == "run"


@pytest.mark.slow
def test_one_command_does_it_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One run directory holds rows, graphs, profile and report; the profile is found by name; a second fit adds a name. A
    noisy machine is no reason for another exit code than 0, or 1 with a sentence."""
    pytest.importorskip("torch")
    monkeypatch.setenv("SHMOO_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(cli, ["characterize", "--quick", "--out", "run", "--json"])
    run = Run.open(tmp_path / "run")
    assert {row.case.kind for row in run.rows} == {"operator", "synthetic", "network"}
    assert result.exit_code in (0, 1), result.output
    document = json.loads(result.stdout)
    assert {e["arch"] for e in document["estimates"]} == {"cpu_local", "gpu_a100_80g", "tpu_v4", "kpu_t256"}
    assert (tmp_path / "run" / "profile.json").is_file()
    assert (tmp_path / "home" / "profiles" / "cpu_local.json").is_file()
    assert {path.name for path in (tmp_path / "run" / "report").iterdir()} >= {"errors.csv", "report.html"}
    again = CliRunner().invoke(cli, ["characterize", "--quick", "--out", "run", "--resume", "--json"])
    assert again.exit_code in (0, 1), again.output
    assert (tmp_path / "home" / "profiles" / "cpu_local-2.json").is_file()
