"""The join of estimates with measurements."""

import csv
import math
from dataclasses import dataclass

import pytest

from shmoo.estimators.errors import InputError, NothingMeasuredError
from shmoo.estimators.graph.records import Graph, Interval, OpCall, TensorSpec, Value
from shmoo.estimators.machine.profile import ArchitectureProfile, Coefficient, TilingSpec
from shmoo.runs.analysis.errors import CSV_COLUMNS, error_report, write_errors_csv
from shmoo.runs.store.records import CaseSpec, ChildTime, EnergyReading, Machine, Measurement, Reason, RunManifest, Timing
from shmoo.runs.store.visits import merge_visits

TENSOR = TensorSpec((4, 4))
GRAPH = Graph(
    values=(Value(TENSOR, "input"), Value(TENSOR), Value(TENSOR, storage=1), Value(TENSOR)),
    calls=(
        OpCall("aten.relu", (TENSOR,), (TENSOR,), ("self",), reads=(0,), writes=(1,), module="a"),
        OpCall("aten.view", (TENSOR,), (TENSOR,), ("self",), reads=(1,), writes=(2,)),
        OpCall("aten.tanh", (TENSOR,), (TENSOR,), ("self",), reads=(2,), writes=(3,), module="b"),
    ),
    outputs=(3,),
)
PROFILE = ArchitectureProfile(
    name="here",
    family="cpu",
    description="",
    levels=("dram",),
    tiling=TilingSpec("whole"),
    coefficients={"bandwidth.dram": Coefficient(1e9, "B/s", "fitted")},
)
MANIFEST = RunManifest(Machine("Test CPU", 2, 4, 2**33), "quick")
OPERATOR = CaseSpec("relu", "operator", {"shape": "4x4"})
NETWORK = CaseSpec("tinynet", "network", {"batch": 1})


@dataclass(frozen=True)
class Part:
    label: str
    family: str
    graph: int
    calls: tuple[int, ...]
    latency_s: float


@dataclass(frozen=True)
class Predicted:
    latency_s: Interval
    breakdown: tuple[Part, ...]
    energy_j: Interval | None = None
    flops: float = 16.0
    bytes: float = 128.0
    tiles: float = 1.0


@dataclass(frozen=True)
class FakeRun:
    rows: tuple[Measurement, ...]
    manifest: RunManifest = MANIFEST
    problems: tuple[str, ...] = ()

    def graphs(self, row: Measurement) -> tuple[Graph, ...]:
        return (GRAPH,) * len(row.graph_hashes)


def row(case: CaseSpec, *samples: float, **fields) -> Measurement:
    return Measurement(
        case, fields.pop("status", "ok"), timing=Timing(samples), graph_hashes=fields.pop("graph_hashes", ("g",)), **fields
    )


def always(value: float, *parts: Part):
    """A predictor that says the same of every case, ± 20 %."""
    breakdown = parts or (Part("relu", "pointwise", 0, (0,), value),)
    return lambda asked: [Predicted(Interval(value, 0.8 * value, 1.2 * value), breakdown) for _ in asked]


def test_measured_is_what_all_visits_say():
    """Visits of 2 s and 5 s a call run at rates 0.5 and 0.2, whose mean is 0.35: a call takes 1 / 0.35 s, 1.5 apart."""
    run = FakeRun(merge_visits((row(OPERATOR, 1.0, 2.0, 3.0), row(OPERATOR, 4.0, 6.0, visit=1))))
    (case,) = error_report(run, PROFILE, always(3.3)).cases
    assert (case.samples, case.visits, case.status) == (5, 2, "noisy")
    assert case.measured_s == pytest.approx(1 / 0.35)
    assert case.standard_error == pytest.approx(math.log(2.5) / 2)
    assert case.spread == pytest.approx(1.5)
    assert case.error == pytest.approx(3.3 * 0.35 - 1)
    assert case.inside


def test_a_single_visit_is_its_median_and_has_no_spread():
    """Spread between visits is unknown with one visit, not 0."""
    (case,) = error_report(FakeRun(merge_visits((row(OPERATOR, 1.0, 1.0, 4.0),))), PROFILE, always(1.0)).cases
    assert case.measured_s == 1.0
    assert case.spread is None


def test_noisy_rows_count_and_bring_their_noise():
    """A noisy row has its error, and the noise floor of its group stands in the card."""
    run = FakeRun((row(OPERATOR, 1.0, 1.0, status="noisy", reasons=(Reason("noisy"),), visit_sd=0.2),))
    report = error_report(run, PROFILE, always(1.1))
    assert (report.cases[0].status, report.excluded) == ("noisy", ())
    assert report.metrics[OPERATOR.split]["operators"].noise == 0.2


def test_unusable_rows_are_listed_with_their_reason_and_count_nowhere():
    """Suspect, failed, cold, empty and graphless rows appear in `excluded` and in no figure."""
    cold = CaseSpec("relu", "operator", {"shape": "4x4"}, cache_state="cold")
    run = FakeRun(
        (
            row(OPERATOR, 1.0),
            row(CaseSpec("elu", "operator"), 9.0, status="suspect", reasons=(Reason("clock moved"),)),
            Measurement(NETWORK, "failed", (Reason("out of memory"),)),
            row(cold, 7.0),
            row(CaseSpec("tanh", "operator")),
            row(CaseSpec("gelu", "operator"), 1.0, graph_hashes=()),
        )
    )
    report = error_report(run, PROFILE, always(1.0))
    assert [case.measured_s for case in report.cases] == [1.0]
    reasons = [excluded.reason for excluded in report.excluded]
    assert reasons[:2] == ["clock moved", "out of memory"]
    assert "'cold'" in reasons[2]
    assert reasons[3:] == ["no timing samples", "no graph was stored with it"]


def test_network_calls_meet_their_child_times():
    """relu 3 s estimated 1 s, tanh 1 s estimated 4 s, a view of 1 s that no kernel covers: the weighted error is (2+3+1)/5."""
    children = tuple(ChildTime(i, "op", t, "interpreter") for i, t in enumerate((3.0, 1.0, 1.0)))
    parts = (Part("relu", "pointwise", 0, (0,), 1.0), Part("tanh", "pointwise", 0, (2,), 4.0))
    report = error_report(FakeRun((row(NETWORK, 5.0, children=children),)), PROFILE, always(5.0, *parts))
    (network,) = report.networks
    assert network.whole.error == 0.0
    assert network.weighted_error == pytest.approx(6 / 5)
    assert network.children_s == 5.0
    assert [(c.operator, c.family, c.module, c.share) for c in network.calls] == [
        ("relu", "pointwise", "a", 0.6),
        ("view", "free", "", 0.2),
        ("tanh", "pointwise", "b", 0.2),
    ]


def test_child_times_run_through_all_graphs_of_a_network():
    """Call 0 of a network's second graph is child 3 when the first has three calls."""
    children = (ChildTime(0, "aten.relu", 1.0, "interpreter"), ChildTime(3, "aten.relu", 2.0, "interpreter"))
    parts = (Part("relu", "pointwise", 0, (0,), 1.0), Part("relu", "pointwise", 1, (0,), 2.0))
    run = FakeRun((row(NETWORK, 3.0, children=children, graph_hashes=("g", "h")),))
    (network,) = error_report(run, PROFILE, always(3.0, *parts)).networks
    assert [(call.calls, call.measured_s, call.error) for call in network.calls] == [((0,), 1.0, 0.0), ((3,), 2.0, 0.0)]


def test_metrics_keep_networks_and_compiled_runtimes_apart():
    """Networks are test cases, and what a compiler ran is another group than eager."""
    compiled = CaseSpec("tinynet", "network", {"batch": 1}, runtime="inductor")
    report = error_report(FakeRun((row(OPERATOR, 1.0), row(NETWORK, 2.0), row(compiled, 4.0))), PROFILE, always(1.0))
    assert report.network_card.mean == 0.5
    assert report.metrics["test"]["networks (inductor)"].mean == 0.75
    assert report.metrics[OPERATOR.split]["pointwise"].n == report.metrics[OPERATOR.split]["operators"].n == 1


def test_energy_compares_the_package():
    """On a CPU the package domain is compared; a domain inside it is not added on top."""
    energy = (EnergyReading("package", 2.0), EnergyReading("core", 1.5), EnergyReading("dram", None, "no counter"))
    (case,) = error_report(FakeRun((row(OPERATOR, 1.0, energy=energy),)), PROFILE, always(1.0)).cases
    assert case.energy_measured_j == 2.0


def test_a_run_without_a_usable_row_is_refused():
    """The error says how many rows were set aside and why the first was."""
    run = FakeRun((row(OPERATOR, 1.0, status="suspect", reasons=(Reason("throttled"),)),))
    with pytest.raises(NothingMeasuredError, match="1 rows, the first set aside because: throttled"):
        error_report(run, PROFILE, always(1.0))


def test_a_predictor_must_answer_every_case():
    """A predictor that skips a case cannot be joined."""
    with pytest.raises(InputError, match="0 estimates for 1 cases"):
        error_report(FakeRun((row(OPERATOR, 1.0),)), PROFILE, lambda asked: [])


def test_csv_holds_cases_calls_and_excluded_rows_in_the_same_columns(tmp_path):
    """One line a case, call and excluded row; unknown cells are empty."""
    children = (ChildTime(0, "aten.relu", 1.0, "interpreter"),)
    failed = Measurement(OPERATOR, "failed", (Reason('comma, and "quotes"'),))
    run = FakeRun((row(NETWORK, 2.0, children=children), failed))
    path = write_errors_csv(error_report(run, PROFILE, always(1.0)), tmp_path / "errors.csv")
    with path.open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert tuple(lines[0]) == CSV_COLUMNS
    assert [line["level"] for line in lines] == ["case", "call", "excluded"]
    assert (lines[0]["error"], lines[0]["spread"]) == ("-0.5", "")
    assert lines[2]["reason"] == 'comma, and "quotes"'
