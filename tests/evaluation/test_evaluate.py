"""Held-out numbers: the command, the v1's applications as graphs, and the bounds on published data."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from shmoo.estimators.costs.summary import graph_cost
from shmoo.estimators.errors import InputError
from shmoo.estimators.machine.profile import ErrorCardEntry, load_profile
from shmoo.estimators.predict.director import AnalysisDirector
from tests.evaluation import results
from tests.evaluation.__main__ import main
from tests.evaluation.results import HOLDS, Result, of_cases, table
from tests.evaluation.tpu_v1 import APPLICATIONS, application_graph
from tests.measured_rows import written_table

REFERENCE = Path(__file__).parents[2].parent / "shared" / "reference"


def reference() -> Path:
    if not (REFERENCE / "tpu").is_dir():
        pytest.skip("no reference data: it is kept beside the repository")
    return REFERENCE


def held(lines: list[Result]) -> None:
    missed = [f"{r.what}: {r.value:.1%}, {', '.join(r.faults)}" for r in lines if not r.held]
    assert not missed


# --- TPU v1


@pytest.mark.parametrize("application", APPLICATIONS, ids=lambda a: a.name)
def test_application_graphs_have_the_published_weights_and_work(application):
    """Weights and multiply-adds are those of the paper's table, to the rounding of layer widths."""
    graph = application_graph(application)
    assert graph.weight_bytes == pytest.approx(application.weights, rel=0.03)
    if application.name != "CNN1":  # which mixes intensities in unknown shares
        assert graph_cost(graph).macs == pytest.approx(application.weights * application.macs_per_byte, rel=0.03)


def test_layers_are_as_many_as_published():
    """Fully connected, convolutional and vector layers of table 1; 16 convolutions for CNN0."""
    ops = {a.name: [call.op.removeprefix("aten.") for call in application_graph(a).calls] for a in APPLICATIONS}
    assert ops["MLP0"].count("linear") == 5
    assert (ops["LSTM0"].count("linear"), ops["LSTM0"].count("sigmoid") + ops["LSTM0"].count("tanh")) == (24, 34)
    assert ops["CNN0"].count("conv2d") == 16
    assert (ops["CNN1"].count("conv2d"), ops["CNN1"].count("linear")) == (72, 4)


@pytest.mark.parametrize("application", [a for a in APPLICATIONS if a.judged], ids=lambda a: a.name)
def test_the_published_machine_runs_its_applications_within_12_percent(application):
    """Operations a second against the measured rate, no coefficient fitted; power between 28 W idle and 40 W busy, to 10 %."""
    estimate = AnalysisDirector(load_profile("tpu_v1")).estimate(application_graph(application))
    assert 2 * estimate.macs / estimate.latency_s.value == pytest.approx(application.measured_flops_per_s, rel=0.12)
    assert 28 <= estimate.average_power_w.value <= 1.1 * 40


# --- the tables


def test_tpu_v4_operators_are_predicted_within_their_bounds():
    """Fitted on half: matrix products 10 %, others 15 % on the other half; 30 % from published numbers alone. Intervals hold."""
    pytest.importorskip("scipy")
    from tests.evaluation.tpu import operators, read_operators

    results = operators(read_operators(reference()))
    held(results)
    together = [r.entry.coverage for r in results if "all operators" in r.what]
    assert all(0.85 <= coverage <= 0.97 for coverage in together)


def test_both_halves_hold_about_half_and_repeats_stay_together():
    """The hash puts equal operators and shapes in one half."""
    from shmoo.calibrate.fit.dataset import read_sources
    from tests.evaluation.tpu import OPERATORS, half

    cases = read_sources([reference() / OPERATORS], "tpu").cases
    assert sum(map(half, cases)) / len(cases) == pytest.approx(0.5, abs=0.05)
    of: dict[str, set[int]] = {}
    for case in cases:
        of.setdefault(case.case.identity, set()).add(half(case))
    assert all(len(halves) == 1 for halves in of.values())


def test_published_numbers_hold_nothing_fitted():
    """What is called unmeasured has no fitted coefficient left; the stored profile has some, with the source named."""
    from tests.evaluation.tpu import unmeasured

    profile = load_profile("tpu_v4")
    fitted = [c for c in profile.coefficients.values() if c.source == "fitted"]
    assert fitted
    assert all("arXiv 2603.22535" in c.reference for c in fitted)
    assert profile.error_card["test"]["gemm"].mean <= 0.10
    assert not [c for c in unmeasured(profile).coefficients.values() if c.source == "fitted"]


def test_serial_cycles_equal_the_simulators():
    """All 1,676 runs, every dataflow, the 25 with a given bandwidth among them (six of which wait for their buffers)."""
    from tests.evaluation.tpu import SIMULATED, transcription

    every, given = transcription(reference() / SIMULATED)
    assert (every.cases, given.cases) == (1676, 25)
    assert (every.value, given.value) == (0.0, 0.0)


def test_a_cycle_too_many_is_judged_as_above_the_bound(tmp_path):
    """A run of some 500 cycles said to take one more errs by 0.2 %, twice the bound; the runs beside it are equal."""
    from tests.evaluation.tpu import transcription

    table = written_table("scalesim_cycles.csv", tmp_path / "cycles.csv")
    head, *rows = table.read_text().splitlines()
    assert transcription(table)[0].held
    nearest = min(range(len(rows)), key=lambda i: abs(int(rows[i].rpartition(",")[2]) - 499))
    front, _, cycles = rows[nearest].rpartition(",")
    rows[nearest] = f"{front},{int(cycles) + 1}"
    table.write_text("\n".join([head, *rows]))
    (every, _) = transcription(table)
    assert every.value == pytest.approx(1 / (int(cycles) + 2))
    assert every.faults == ("above",)


def test_kpu_closed_forms_follow_the_public_simulator():
    """Serial cycles within 2 % of every row, DRAM bytes within 15 % on 90 % of rows."""
    held(results.evaluate("kpu", reference()))


# --- the command


def test_the_command_prints_a_line_a_number_and_fails_above_a_bound(monkeypatch):
    """0 when every bound held, 1 when one was missed, which the line says."""
    lines = [Result("fine", 10, 0.05, 0.1), Result("shown", 3, 0.9)]
    monkeypatch.setattr(results, "EVALUATIONS", {"tpu": lambda folder: lines, "cpu": lambda folder: [Result("off", 1, 0.2, 0.1)]})
    within, missed = (CliRunner().invoke(main, ["held-out", name, "folder"]) for name in ("tpu", "cpu"))
    assert within.exit_code == 0
    assert within.stdout.splitlines()[1].split() == ["fine", "10", "5.0%", "10.0%"]
    assert missed.exit_code == 1
    assert missed.stdout.endswith("above\n")


def test_coverage_is_judged_both_ways_up_to_its_standard_error():
    """Of 100 cases 90 % intervals may cover 85 - 3 to 95 + 3; of fewer than 60 the share is only shown."""

    def line(n: int, coverage: float) -> Result:
        entry = ErrorCardEntry(n, 0.05, 0.05, 0.05, 1.0, 1.0, 0.0, coverage=coverage)
        return of_cases("group", entry, 0.1, covers=HOLDS)

    assert [line(100, c).faults for c in (0.81, 0.83, 0.97, 0.99)] == [("narrow",), (), (), ("wide",)]
    assert line(59, 0.5).held
    assert table([line(100, 0.9)]).splitlines()[1].split() == ["group", "100", "5.0%", "10.0%", "90.0%"]


@pytest.mark.parametrize(("name", "file"), [("tpu", "csv"), ("kpu", "csv"), ("models", "gpu_models.csv")])
def test_a_folder_without_the_tables_is_refused(name, file, tmp_path):
    """Exit code 2, and the message names the file."""
    refused = CliRunner().invoke(main, ["held-out", name, str(tmp_path)])
    assert refused.exit_code == 2
    assert file in refused.stderr


def test_an_unknown_evaluation_suggests_the_nearest():
    """Names are listed."""
    with pytest.raises(InputError, match="'tpu'"):
        results.evaluate("tpus", Path("."))
