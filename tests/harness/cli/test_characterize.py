"""The whole flow by one command: measure, calibrate, predict, report."""

from __future__ import annotations

import errno
import json
import os
import shlex
import signal
import time
from collections import Counter
from importlib import import_module
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from shmoo.calibrate.calibration import Calibration
from shmoo.estimators.errors import InputError
from shmoo.estimators.graph.records import Interval
from shmoo.estimators.machine.profile import FittedFrom, load_profile
from shmoo.estimators.progress import Standing
from shmoo.harness.campaign.campaign import STAGE, WAITING
from shmoo.harness.campaign.cases import check_device, usable_device
from shmoo.harness.campaign.worker import Worker
from shmoo.harness.cli import output
from shmoo.harness.cli.app import cli
from shmoo.harness.cli.hurry import Hurry, Previews
from shmoo.harness.cli.verbs.characterize import (
    COMPILED,
    PREVIEW,
    PREVIEW_OPERATORS,
    Plan,
    in_order,
    plan,
    weakness,
)
from shmoo.harness.cli.verbs.report import report_record, show_report
from shmoo.runs.analysis.error_records import CaseError, ErrorReport, NetworkError
from shmoo.runs.analysis.errors import case_metrics
from shmoo.runs.store.records import FINGERPRINT_FIELDS, CaseSpec, Machine, Measurement, Reason, RunManifest, Timing
from shmoo.runs.store.store import Run, RunWriter
from shmoo.runs.tables.reading import TableRow

verb, calibrate, doctor = (import_module(f"shmoo.harness.cli.verbs.{name}") for name in ("characterize", "calibrate", "doctor"))
"""The modules, whose names in the package are those of the commands too."""
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
    sentence = weakness(Run.open(tmp_path / "run"), planned, "shmoo characterize --out run --resume")
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


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--name", "../evil"], "'../evil' is no name of a profile"),
        (["--out", "file"], "cannot write into 'file'"),
        (["--out", "file/run"], "cannot write into 'file/run'"),
        (["--out", "old"], "old holds a run already"),
    ],
)
def test_what_cannot_be_written_is_found_before_anything_is_measured(
    own_home: None, monkeypatch: pytest.MonkeyPatch, options: list[str], said: str
) -> None:
    """Neither the machine is looked at nor a run begun."""
    Path("file").write_text("")
    Path("old").mkdir()
    Path("old/run.json").write_text("{}")
    monkeypatch.setattr(verb, "probe_machine", lambda threads: pytest.fail("measured already"))
    result = CliRunner().invoke(cli, ["characterize", "--quick", *options])
    assert result.exit_code == 2, result.output
    assert said in result.stderr
    assert not Path("shmoo-runs").exists()


@pytest.mark.parametrize("arguments", [["characterize"], ["calibrate", "run"]])
def test_a_home_that_cannot_be_written_is_found_before_anything_is_measured_or_fitted(
    own_home: None, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    """A file stands where SHMOO_HOME leads."""
    Path("file").write_text("")
    monkeypatch.setenv("SHMOO_HOME", str(Path("file").absolute()))
    monkeypatch.setattr(verb, "probe_machine", lambda threads: pytest.fail("measured already"))
    monkeypatch.setattr(calibrate, "fit", lambda *given, **named: pytest.fail("fitted already"))
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 2, result.output
    assert "cannot write into" in result.stderr


def _measured(self: Worker, case: CaseSpec, visit: int = 0, details: bool = True) -> tuple[Measurement, tuple]:
    """A visit of no time."""
    graph = TableRow(0, "linear", {"b": 1, "m": 8, "n": 8, "k": 8}).graph()
    row = Measurement(case, "ok", timing=Timing((1e-3,) * 9), visit=visit, graph_hashes=(graph.content_hash,))
    return row, (graph,)


@pytest.fixture
def instant(own_home: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Visits of no time on a machine of one operator, which are too few to fit."""
    pytest.importorskip("torch")
    monkeypatch.setattr(Worker, "measure", _measured)
    few = Plan((CaseSpec("relu", "operator", {"m": 8}),), (), ())
    monkeypatch.setattr(verb, "plan", lambda *given: few)


@pytest.mark.usefixtures("instant", "ctrl_c")
def test_the_first_ctrl_c_while_calibrating_still_ends_with_a_profile_and_a_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fit is asked to end, and what follows is done."""

    def fit(*given: object, hurry: Hurry, **named: object) -> Calibration:
        assert not hurry()
        signal.raise_signal(signal.SIGINT)
        assert hurry()
        raise InputError("too few here")

    monkeypatch.setattr(calibrate, "fit", fit)
    result = CliRunner().invoke(cli, ["characterize", "--out", "run", "--json"])
    assert result.exit_code == 1, result.output
    assert "(Ctrl-C again to stop)" in result.stderr
    assert Path("run/profile.json").is_file()
    assert Path("run/report/report.html").is_file()


@pytest.mark.usefixtures("instant")
def test_the_fit_has_what_is_left_of_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """A minute for everything: the fit may go on until the report has to begin, and what took longer is said."""
    now = [1000.0]

    def fit(*given: object, hurry: Hurry, **named: object) -> Calibration:
        monkeypatch.setattr(time, "monotonic", lambda: began + now[0])
        now[0] = 40.0
        assert not hurry()
        now[0] = 60.0
        assert hurry()
        now[0] = 90.0
        raise InputError("too few here")

    monkeypatch.setattr(calibrate, "fit", fit)
    began = time.monotonic()
    result = CliRunner().invoke(cli, ["characterize", "--budget", "1", "--out", "run", "--json"])
    assert result.exit_code == 1, result.output
    assert "more than the budget of 1 min" in result.stderr


def test_a_budget_that_nothing_fits_into_is_refused(own_home: None) -> None:
    """The least is named, and nothing is begun."""
    result = CliRunner().invoke(cli, ["characterize", "--budget", "0.01", "--out", "run"])
    assert result.exit_code == 2
    assert "give at least 0.5 minutes" in result.stderr
    assert not Path("run").exists()


def test_the_time_kept_for_the_fit_grows_with_its_previews() -> None:
    """To three previews, and to half of the budget at most; it never shrinks."""
    previews = Previews(Path("run"), 0.0, 600.0)
    grown = []
    for preview_s in (2.0, 20.0, 5.0, 500.0):
        previews.learn(preview_s)
        grown.append((previews.finishing_s, previews.grown_s()))
    assert grown == [(35.0, 0.0), (60.0, 25.0), (60.0, 25.0), (300.0, 265.0)]


def test_a_preview_waits_for_the_run(tmp_path: Path) -> None:
    """A minute after the start another campaign still holds the machine, and there is no run to fit."""
    previews = Previews(tmp_path / "run", time.monotonic() - 60, 600.0)
    previews(Standing(WAITING, now="waiting up to 60 s"))


def test_previews_that_are_due_together_are_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing was reported between the first and the second of them; 15 minutes later comes the third."""
    shown: list[float] = []
    now = [0.0]
    monkeypatch.setattr(Previews, "show", lambda self: shown.append(now[0]))
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    previews = Previews(tmp_path / "run", 0.0, 600.0)
    for second in (40.0, 200.0, 201.0, 950.0, 2000.0):
        now[0] = second
        previews(Standing(STAGE, 1, 2, visits=1))
    assert shown == [200.0, 950.0]


@pytest.mark.usefixtures("instant")
def test_the_command_that_goes_on_has_the_options_that_the_run_was_begun_with(monkeypatch: pytest.MonkeyPatch) -> None:
    """A quick run that is resumed stays one."""
    options = ["--quick", "--budget", "2.5", "--threads", "1", "--name", "mine"]
    result = CliRunner().invoke(cli, ["characterize", *options, "--out", "a run", "--json"])
    assert result.exit_code == 1, result.output
    (said,) = [line for line in result.stderr.splitlines() if "continue with" in line]
    words = shlex.split(said.rpartition("`shmoo ")[2].rstrip("`"))
    assert sorted(words) == sorted(["characterize", *options, "--out", "a run", "--resume"])


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine is not examined, which takes five seconds."""
    monkeypatch.setattr(verb, "examine", lambda: None)
    monkeypatch.setattr(verb, "watch_neighbours", lambda: None)
    for name in ("show_doctor", "show_neighbours"):
        monkeypatch.setattr(doctor, name, lambda seen: None)


@pytest.mark.usefixtures("instant", "looked_at")
def test_a_report_of_no_network_has_no_empty_table() -> None:
    """One operator alone: no header of networks without rows."""
    result = CliRunner().invoke(cli, ["characterize", "--out", "run"])
    assert result.exit_code == 1, result.output
    assert "split: group" in result.stdout
    assert "90 % interval" not in result.stdout
    assert "calibrated on" not in result.stdout


@pytest.mark.usefixtures("instant", "looked_at")
def test_a_table_says_that_nothing_was_fitted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two cases are too few, and estimates of the description alone are not called calibrated."""
    few = Plan((CaseSpec("relu", "operator", {"m": 8}),), (CaseSpec("resnet18", "network"),), ())
    monkeypatch.setattr(verb, "plan", lambda *given: few)
    result = CliRunner().invoke(cli, ["characterize", "--out", "run"])
    assert result.exit_code == 1, result.output
    assert "Networks, estimated by cpu_local (nothing was fitted)" in result.stdout
    assert "calibrated on" not in result.stdout


@pytest.mark.usefixtures("instant", "looked_at")
def test_a_narrow_table_names_a_remedy_that_the_command_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """In 40 columns not everything has room; --wide shows it."""
    monkeypatch.setattr(output, "terminal_columns", lambda stream=None: 40)
    narrow = CliRunner().invoke(cli, ["characterize", "--out", "narrow"])
    wide = CliRunner().invoke(cli, ["characterize", "--wide", "--out", "wide"])
    assert "--wide" in " ".join(narrow.stderr.split())
    assert wide.exit_code == 1, wide.output
    assert "no room for" not in wide.stderr
    assert "noise floor" in wide.stdout


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
    assert "`shmoo characterize --quick --out run --resume` continues" in result.stderr
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


def _no_room(descriptor: int) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.usefixtures("instant", "looked_at")
def test_a_disk_that_is_full_while_measuring_ends_with_a_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second visit has no room: the first is kept and reported, and what could not be written is said with its remedy."""

    def fill(self: Worker, case: CaseSpec, visit: int = 0, details: bool = True) -> tuple[Measurement, tuple]:
        if visit:
            monkeypatch.setattr(os, "fsync", _no_room)
        return _measured(self, case, visit, details)

    monkeypatch.setattr(Worker, "measure", fill)
    result = CliRunner().invoke(cli, ["characterize", "--out", "run"])
    assert result.exit_code == 1, result.output
    assert "split: group" in result.stdout
    assert "visits are kept, make room and continue with --resume: `shmoo characterize --out run --resume`" in result.stderr
    assert "not everything was written (No space left on device): make room, then `shmoo calibrate run" in result.stderr
    assert "; open" not in result.stderr
    assert len(Run.open("run").lines) == 1
    assert not list(Path("run").glob("profile*"))


@pytest.mark.usefixtures("instant", "looked_at")
def test_a_disk_that_is_full_while_reporting_still_shows_the_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing more can be written once all is measured."""

    def fit(*given: object, **named: object) -> Calibration:
        monkeypatch.setattr(os, "fsync", _no_room)
        raise InputError("too few here")

    monkeypatch.setattr(calibrate, "fit", fit)
    result = CliRunner().invoke(cli, ["characterize", "--out", "run"])
    assert result.exit_code == 1, result.output
    assert "split: group" in result.stdout
    assert "and `shmoo report run`" in result.stderr
    assert len(Run.open("run").lines) == 2


@pytest.mark.usefixtures("own_home")
def test_a_disk_without_room_for_any_row_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is nothing to report, and the disk is named and not the machine."""
    pytest.importorskip("torch")
    few = Plan((CaseSpec("relu", "operator", {"m": 8}),), (), ())
    monkeypatch.setattr(verb, "plan", lambda *given: few)

    def fill(self: Worker, case: CaseSpec, visit: int = 0, details: bool = True) -> tuple[Measurement, tuple]:
        monkeypatch.setattr(os, "fsync", _no_room)
        return _measured(self, case, visit, details)

    monkeypatch.setattr(Worker, "measure", fill)
    result = CliRunner().invoke(cli, ["characterize", "--out", "run", "--json"])
    assert result.exit_code == 2
    assert "No space left on device" in result.stderr


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "calibrated on operators and synthetic models only"),
        ({"memory_bytes": 2 << 30}, "calibrated on operators and synthetic models only"),
        ({"gpu_model": "Example GPU"}, "fitted to another machine or other settings"),
        (None, "fitted to operator tables"),
    ],
)
def test_a_table_says_what_its_profile_was_fitted_to(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], changes: dict[str, object] | None, said: str
) -> None:
    """The profile of a GPU that too little was measured on was fitted to measurements of others."""
    fingerprint = {} if changes is None else {f: getattr(MACHINE, f) for f in FINGERPRINT_FIELDS} | changes
    profile = load_profile("cpu_server_generic").replacing(fitted_from=FittedFrom(fingerprint=fingerprint))
    case = CaseSpec("resnet18", "network")
    time_s = Interval(1e-3, 0.5e-3, 2e-3)
    error = CaseError(case, "conv", "networks", "test", "ok", 1e-3, 0.01, None, time_s, 8, 2, None, 1.0, 1.0, 1.0, None, None)
    made = ErrorReport(
        manifest=RunManifest(MACHINE, "quick"),
        profile=profile,
        cases=(error,),
        networks=(NetworkError(error),),
        excluded=(),
        metrics={},
    )
    show_report(made)
    shown = capsys.readouterr().out
    assert f"Networks, estimated by cpu_server_generic ({said})" in shown
    assert "energy" not in shown


def test_a_report_sets_the_error_of_energy_beside_that_of_latency(capsys: pytest.CaptureFixture[str]) -> None:
    """For each network and for each group; a case without a counter takes no part."""
    time_s, energy_j = Interval(1.1e-3, 0.5e-3, 2e-3), Interval(0.8, 0.5, 1.0)
    cases = [
        CaseError(
            CaseSpec(name, "network"),
            "conv",
            "networks",
            "test",
            "ok",
            1e-3,
            0.01,
            None,
            time_s,
            8,
            2,
            None,
            1.0,
            1.0,
            1.0,
            *energy,
        )
        for name, energy in (("resnet18", (1.0, energy_j)), ("resnet50", (0.64, energy_j)), ("vgg11", (None, None)))
    ]
    made = ErrorReport(
        manifest=RunManifest(MACHINE, "quick"),
        profile=load_profile("cpu_server_generic"),
        cases=tuple(cases),
        networks=tuple(map(NetworkError, cases)),
        excluded=(),
        metrics=case_metrics(cases),
    )
    show_report(made)
    lines = {line.split("  ")[0]: line for line in capsys.readouterr().out.splitlines()}
    assert lines["resnet18"].rstrip().endswith("-20.0 %")
    assert "1.00 J" in lines["resnet18"]
    assert lines["test: networks"].rstrip().endswith("22.5 %")
    record = report_record(made)
    assert record["mean_energy_errors"] == {"test": {"networks": pytest.approx(0.225)}}
    assert [network.get("energy_error") for network in record["networks"]] == [pytest.approx(-0.2), pytest.approx(0.25), None]
