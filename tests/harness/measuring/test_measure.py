import shutil
import time
from types import SimpleNamespace

import msgspec
import pytest
import torch

from shmoo.estimators.errors import InputError
from shmoo.estimators.graph.records import Graph, OpCall, TensorSpec, Value
from shmoo.harness.capture.capture import capture
from shmoo.harness.capture.fx.introspect import CaptureError
from shmoo.harness.energy.sampler import EnergySettings
from shmoo.harness.energy.simulated import SimulatedProbe
from shmoo.harness.measuring import replay
from shmoo.harness.measuring.measure import Measurer, failure
from shmoo.harness.measuring.memory import highest_sum, peak_cpu_bytes, resident_bytes
from shmoo.harness.measuring.replay import GraphReplay, ReplayError, child_times, time_operators
from shmoo.harness.measuring.timing import HostTimer, MeasureSettings, TimingSettings
from shmoo.harness.measuring.watch import hostwatch
from shmoo.harness.module import Built
from shmoo.runs.store.records import CaseSpec, Reason
from shmoo.runs.store.statistics import median
from shmoo.runs.store.visits import merge_visits

SHORT = TimingSettings(block_s=1e-5, warmup_s=0.0, max_warmup_s=0.01, min_s=0.0, max_s=0.01, min_samples=3)
QUICK = MeasureSettings(operator=SHORT, network=SHORT, energy=EnergySettings(window_s=0.0), children_s=0.01)
NO_COUNTERS = ((), {"package": "no RAPL", "gpu": "no driver"})


class Residual(torch.nn.Module):
    """Views, an in-place operator, a list of tensors and a shared input, in a few lines."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(4, 4, 3, padding=1)
        self.norm = torch.nn.BatchNorm2d(4)
        self.fc = torch.nn.Linear(8 * 6 * 6, 5)

    def forward(self, x):
        y = torch.relu_(self.norm(self.conv(x)))
        return self.fc(torch.cat([x, y + x], dim=1).flatten(1)).softmax(-1)


def residual(case):
    torch.manual_seed(0)
    return Built(Residual().eval().requires_grad_(False), (torch.randn(2, 4, 6, 6),))


def relu(case):
    return Built(torch.nn.ReLU(), (torch.randn(int(case.axes["m"])),))


def measure(build, case, settings=QUICK, probes=NO_COUNTERS):
    return Measurer(settings, build, probes).measure(case)


def test_an_operator_gives_a_row_with_its_graph():
    """The row holds samples, the stop reason and the hash of the one graph; nothing failed."""
    row, graphs = measure(relu, CaseSpec("relu", "operator", {"m": 64}))
    assert row.status != "failed", row.reasons
    assert len(row.timing.samples_s) >= 1
    assert all(sample > 0 for sample in row.timing.samples_s)
    assert row.timing.stop_reason in ("precision", "plateau", "timeout")
    assert row.timing.first_call_s > 0
    assert row.graph_hashes == (graphs[0].content_hash,)
    assert [call.op for call in graphs[0].calls] == ["aten.relu"]
    assert row.peak_memory_bytes is None
    assert row.peak_memory_reason


def test_missing_counters_are_reasons_in_the_row():
    """Energy is None with its reason, and the row is none the worse for it."""
    row, _ = measure(relu, CaseSpec("relu", "operator", {"m": 64}))
    assert [(reading.domain, reading.energy_j) for reading in row.energy] == [("package", None)]


def test_a_network_in_eager_has_a_time_for_each_call_of_its_graph():
    """Child times follow the graph's calls in order, and peak memory holds weights, input and activations at least."""
    row, graphs = measure(residual, CaseSpec("residual", "network", {"batch": 2}))
    assert [(child.call, child.op) for child in row.children] == list(enumerate(call.op for call in graphs[0].calls))
    assert {child.method for child in row.children} == {"interpreter"}
    assert all(child.time_s > 0 for child in row.children)
    activations = 2 * 8 * 6 * 6 * 4
    assert row.peak_memory_bytes >= graphs[0].weight_bytes + 2 * 4 * 6 * 6 * 4 + activations


def test_only_networks_have_times_of_their_calls():
    """A synthetic model calibrates as a whole; its calls would take as long to time as two further visits."""
    row, graphs = measure(residual, CaseSpec("residual", "synthetic", {"batch": 2}))
    assert (row.children, len(graphs)) == ((), 1)


def test_a_case_that_was_prepared_is_found_by_its_first_visit():
    """It is built once, and its row has no samples; one that fails says why."""
    build, built = counting(residual)
    measurer = Measurer(QUICK, build, NO_COUNTERS)
    case = CaseSpec("residual", "network", {"batch": 2})
    prepared = measurer.prepare(case)
    row, _ = measurer.measure(case)
    assert (prepared.status, prepared.timing.samples_s, len(built)) == ("ok", (), 1)
    assert row.timing.first_call_s == prepared.timing.first_call_s > 0

    def refuse(case):
        raise ValueError("no such size")

    failed = Measurer(QUICK, refuse, NO_COUNTERS).prepare(case)
    assert (failed.status, failed.why) == ("failed", "ValueError: no such size")


def test_a_row_survives_the_journey_to_disk():
    """Encoding and decoding a row changes nothing."""
    row, _ = measure(relu, CaseSpec("relu", "operator", {"m": 64}))
    assert msgspec.json.decode(msgspec.json.encode(row), type=type(row)) == row


def test_energy_is_measured_where_there_is_a_counter():
    """A simulated counter gives joules per call, from as many windows as asked for, inside their interval."""
    settings = msgspec.structs.replace(QUICK, energy=EnergySettings(window_s=0.05, idle_s=0.0, settle_s=0.0, trials=2))
    probe = SimulatedProbe(time.monotonic, power_w=100.0)
    row, _ = measure(relu, CaseSpec("relu", "operator", {"m": 1 << 20}), settings, ((probe,), {}))
    (reading,) = row.energy
    assert 0 < reading.low_j <= reading.energy_j <= reading.high_j
    assert len(reading.trials_j) == 2
    assert reading.calls > 1


def test_energy_read_while_calls_were_slow_is_kept_with_its_pace():
    """Calls that take ten times as long in the energy windows as when they were timed draw 100 W all the same: the energy stands,
    and its reading says how long these calls took."""
    settings = msgspec.structs.replace(QUICK, energy=EnergySettings(window_s=0.05, idle_s=0.0, settle_s=0.0, trials=2))
    slow = []

    class Sleeper(torch.nn.Module):
        def forward(self, x):
            time.sleep(1e-2 if slow else 1e-3)
            return x

    class Probe(SimulatedProbe):
        def snapshot(self):
            slow.append(True)
            return super().snapshot()

    def sleeper(case):
        return Built(Sleeper(), (torch.zeros(4),))

    row, _ = measure(sleeper, CaseSpec("sleep", "operator"), settings, ((Probe(time.monotonic, power_w=100.0),), {}))
    (reading,) = row.energy
    assert reading.pace_s > 5 * median(row.timing.samples_s)
    assert reading.energy_j == pytest.approx(100.0 * reading.pace_s, rel=0.2)


def test_energy_of_a_window_that_compiled_is_unknown(monkeypatch):
    """The compiler's joules would pass for the model's."""
    frames = iter((0, 0, 0, 2))
    monkeypatch.setattr("shmoo.harness.measuring.measure.compilations", lambda: next(frames))
    monkeypatch.setattr("shmoo.harness.measuring.measure.compile_model", lambda model, runtime, device: model)
    monkeypatch.setattr("shmoo.harness.measuring.measure.compile_seconds", lambda: 0.1)
    settings = msgspec.structs.replace(QUICK, energy=EnergySettings(window_s=0.05, idle_s=0.0, settle_s=0.0, trials=2))
    case = CaseSpec("relu", "operator", {"m": 64}, runtime="inductor")
    row, _ = measure(relu, case, settings, ((SimulatedProbe(time.monotonic, power_w=100.0),), {}))
    (reading,) = row.energy
    assert (reading.energy_j, reading.low_j) == (None, None)
    assert reading.reason == "2 compilations while it was measured"
    assert row.timed


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            RuntimeError("out of memory: tried to allocate 1 TB\nmore"),
            Reason("RuntimeError", "out of memory: tried to allocate 1 TB"),
        ),
        (InputError("axis m is at least 1"), Reason("error", "axis m is at least 1")),
        (MemoryError(), Reason("MemoryError", "no message")),
    ],
)
def test_a_failing_case_is_a_failed_row(error, reason):
    """The reason is in the row in one line and nothing is raised."""

    def fail(case):
        raise error

    row, graphs = measure(fail, CaseSpec("relu", "operator"))
    assert (row.status, row.reasons, graphs, row.timing) == ("failed", (reason,), (), None)


def test_an_interruption_is_not_a_failed_case():
    """Ctrl-C passes through."""

    def interrupt(case):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure(interrupt, CaseSpec("relu", "operator"))


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"runtime": "inducter"}, "inductor"),
        ({"runtime": "cudagraphs"}, "inductor-freezing"),
        ({"dtype": "tf32"}, "CUDA"),
    ],
)
def test_what_cannot_be_measured_says_what_can(changes, word):
    """Unknown runtimes and runtimes and dtypes of another device are failed rows."""
    row, _ = measure(relu, msgspec.structs.replace(CaseSpec("relu", "operator", {"m": 8}), **changes))
    assert row.status == "failed"
    assert word in row.why


def test_a_model_that_cannot_be_captured_keeps_its_time(monkeypatch):
    """The timing stands and can be used; the row says that it has no graph."""

    def refuse(*args, **kwargs):
        raise CaptureError("data-dependent branch")

    monkeypatch.setattr("shmoo.harness.measuring.measure.capture_operator", refuse)
    row, graphs = measure(relu, CaseSpec("relu", "operator", {"m": 8}))
    assert (row.timed, row.estimable, graphs, row.graph_hashes) == (True, False, (), ())
    assert Reason("not captured", "data-dependent branch") in row.reasons


def test_threads_are_set_for_the_case():
    """A case's own number of threads is what torch uses and what the row records."""
    before = torch.get_num_threads()
    try:
        row, _ = measure(relu, CaseSpec("relu", "operator", {"m": 8}, threads=1))
        assert row.host["threads"] == 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++", "cl"))), reason="Inductor needs a C++ compiler")
@pytest.mark.parametrize("runtime", ["inductor", "inductor-freezing"])
def test_compiling_is_timed_apart_and_not_in_the_window(runtime):
    """A compiled case knows its compile time, which is part of its first call, and nothing was compiled while it was timed."""
    row, _ = measure(relu, CaseSpec("relu", "operator", {"m": 64}, runtime=runtime))
    assert row.status != "failed", row.reasons
    assert 0 < row.timing.compile_s <= row.timing.first_call_s
    assert "recompiled" not in [reason.code for reason in row.reasons]


def test_errors_are_described_in_one_line():
    """Our own errors speak for themselves, others are named."""
    assert str(failure(InputError("a\nb"))) == "error: a"
    assert str(failure(ValueError("\n  bad  \n"))) == "ValueError: bad"


# visits


def counting(build):
    """A builder that counts how often it is asked."""
    built = []

    def counted(case):
        built.append(case)
        return build(case)

    return counted, built


def test_later_visits_find_the_case_built_and_measure_its_time_only():
    """The graph and the first call belong to the first visit, what takes longer to the visit that is asked for it; every visit
    has its own number and samples."""
    build, built = counting(residual)
    measurer = Measurer(QUICK, build, NO_COUNTERS)
    case = CaseSpec("residual", "network", {"batch": 2})
    first, graphs = measurer.measure(case, 0, details=False)
    second, _ = measurer.measure(case, 1, details=True)
    third, none = measurer.measure(case, 2, details=False)
    assert (len(built), first.visit, second.visit, third.visit) == (1, 0, 1, 2)
    assert (len(graphs), none) == (1, ())
    assert first.timing.first_call_s > 0
    assert (first.children, first.energy, first.peak_memory_bytes) == ((), (), None)
    assert second.children
    assert second.energy
    assert second.peak_memory_bytes > 0
    assert (third.graph_hashes, third.children, third.energy, third.timing.first_call_s) == ((), (), (), None)
    assert third.timing.samples_s != first.timing.samples_s
    assert third.timing.block_calls == first.timing.block_calls


def test_visits_merge_into_one_row_that_knows_what_each_of_them_said():
    """Two visits are a row with the samples of both, the graph of the first, and a standard error from their spread."""
    measurer = Measurer(QUICK, residual, NO_COUNTERS)
    case = CaseSpec("residual", "network", {"batch": 2})
    lines = [measurer.measure(case, number)[0] for number in (0, 1)]
    (row,) = merge_visits(lines)
    assert row.timing.samples_s == lines[0].timing.samples_s + lines[1].timing.samples_s
    assert (row.latency.visits, row.estimable) == (2, True)
    assert row.children == lines[0].children


def test_cases_that_are_too_large_together_do_not_wait_for_their_next_visit():
    """Without room for any, each visit builds the case anew."""
    build, built = counting(residual)
    measurer = Measurer(msgspec.structs.replace(QUICK, kept_share=0.0), build, NO_COUNTERS)
    for number in (0, 1):
        measurer.measure(CaseSpec("residual", "network", {"batch": 2}), number)
    assert len(built) == 2


def test_a_case_that_failed_is_built_anew():
    """What a failure leaves behind is not used again."""
    calls = []

    class Fragile(torch.nn.Module):
        def forward(self, x):
            calls.append(1)
            if len(calls) == 1:
                raise RuntimeError("not yet")
            return x + 1

    build, built = counting(lambda case: Built(Fragile(), (torch.zeros(4),)))
    measurer = Measurer(QUICK, build, NO_COUNTERS)
    case = CaseSpec("fragile", "operator")
    assert [measurer.measure(case, number)[0].status == "failed" for number in (0, 1)] == [True, False]
    assert len(built) == 2


def test_blocks_know_what_the_cores_did_beside_them():
    """A watch that says 1.8 whenever it is asked is in the row, a number for each block."""

    class Slow:
        quiet_s = (1e-6, 2e-6)

        def slowdown(self):
            return 1.8

    row, _ = Measurer(QUICK, relu, NO_COUNTERS, cores=Slow()).measure(CaseSpec("relu", "operator", {"m": 64}))
    assert row.timing.slowdowns == (1.8,) * len(row.timing.samples_s)
    assert row.timing.quiet_s == (1e-6, 2e-6)
    assert row.alone is None


# replay


def test_replay_computes_what_the_model_computes():
    """Run from its record with the model's weights, a graph with views, lists and in-place operators gives the model's result."""
    built = residual(None)
    (graph,) = capture(built.model, built.args).graphs
    weights = dict(built.model.named_parameters()) | dict(built.model.named_buffers())
    replay = GraphReplay(graph, weights, built.args)
    seen = []
    last = replay._steps[-1]
    original = last.function

    class Spy:
        _schema = original._schema

        def __call__(self, *args, **kwargs):
            seen.append(original(*args, **kwargs))
            return seen[-1]

    last.function = Spy()
    with torch.no_grad():
        replay.run(lambda: None)
        assert torch.allclose(seen[0], built.model(*built.args))


def test_child_times_are_medians_over_passes():
    """One time a call, none below zero."""
    built = residual(None)
    (graph,) = capture(built.model, built.args).graphs
    times = child_times([GraphReplay(graph, {}, ())], max_s=0.0, min_passes=3)
    assert len(times) == len(graph.calls)
    assert min(times) > 0


def test_an_operator_without_a_callable_is_a_replay_error():
    """The error names it."""
    spec = TensorSpec((4,))
    call = OpCall("nowhere.mystery", (spec,), (spec,), ("self",), reads=(0,), writes=(1,))
    with pytest.raises(ReplayError, match=r"nowhere\.mystery"):
        GraphReplay(Graph((Value(spec, "input"), Value(spec)), (call,), (1,)), {})


# memory


def test_the_highest_sum_of_allocations_and_releases():
    """3, then 3 + 4, then 7 - 3 + 1: the peak is 7; releases alone peak at 0."""
    assert highest_sum([3, 4, -3, 1]) == 7
    assert highest_sum([-5]) == 0


def test_resident_memory_counts_shared_storage_once():
    """A tensor and a view of it are one allocation; the layer adds its own weights."""
    x = torch.zeros(10)
    assert resident_bytes(Built(torch.nn.Linear(2, 3, bias=False), (x, x[2:]))) == 10 * 4 + 2 * 3 * 4


def test_peak_memory_of_two_temporaries():
    """(x + 1) * 2 of 1000 floats holds one temporary and the result: 8000 bytes beyond what was there."""
    x = torch.zeros(1000)
    peak, reason = peak_cpu_bytes(lambda: (x + 1) * 2, resident=4000)
    assert (reason, peak) == ("", pytest.approx(12000, rel=0.05))


def test_operators_of_a_network_are_timed_alone_where_asked_for():
    """Every call of the graph is one of the distinct operators, and their sum stands beside the whole."""
    settings = msgspec.structs.replace(QUICK, operators=SHORT)
    row, graphs = measure(residual, CaseSpec("residual", "network", {"batch": 2}), settings)
    calls = graphs[0].calls
    assert sorted(i for operator in row.operators for i in operator.calls) == list(range(len(calls)))
    assert all(operator.time_s > 0 for operator in row.operators)
    assert row.operators_s == pytest.approx(sum(o.time_s * len(o.calls) for o in row.operators))
    assert measure(residual, CaseSpec("residual", "network", {"batch": 2}))[0].operators == ()


def test_an_operator_that_cannot_be_called_has_a_reason():
    """Nothing is raised, and the sum is not known."""
    call = OpCall("nowhere.op", (TensorSpec((4,)),), (TensorSpec((4,)),), ("x",), {}, (0,), (1,))
    graph = Graph((Value(TensorSpec((4,)), "input"), Value(TensorSpec((4,)))), (call,), (1,))
    (alone,) = time_operators([graph], settings=SHORT)
    assert (alone.time_s, alone.calls) == (None, (0,))
    assert "nowhere.op" in alone.reason


@pytest.mark.parametrize(("device", "said"), [("cpu", "busy host: others"), ("cuda", "")])
def test_a_busy_host_is_no_remark_on_an_operator_of_a_gpu(monkeypatch, device, said):
    """It is on one that the host itself runs."""
    call = OpCall("aten.relu", (TensorSpec((4,)),), (TensorSpec((4,)),), ("self",), {}, (0,), (1,))
    graph = Graph((Value(TensorSpec((4,)), "input"), Value(TensorSpec((4,)))), (call,), (1,))
    monkeypatch.setattr(hostwatch, "disturbances", lambda host: (Reason("busy host", "others"),))
    monkeypatch.setattr(replay, "CudaTimer", lambda cuda: HostTimer())
    monkeypatch.setattr(replay, "GraphReplay", lambda graph, weights, device: SimpleNamespace(last_call=lambda: int))
    (alone,) = time_operators([graph], device, SHORT)
    assert (alone.time_s > 0, alone.reason) == (True, said)


def test_a_network_call_can_be_repeated_on_its_operands():
    """The last call alone gives what the whole graph gives."""
    torch.manual_seed(0)
    model, x = residual(None).model, torch.randn(2, 4, 6, 6)
    (graph,) = capture(model, (x,)).graphs
    weights = dict(model.named_parameters()) | dict(model.named_buffers())
    with torch.no_grad():
        last = GraphReplay(graph, weights, [x]).last_call()
        assert torch.allclose(last(), model(x))
        assert torch.equal(last(), last())


def test_a_conversion_that_names_its_device_is_replayed():
    """`x.to(device, dtype)` must be told a device, which is the replay's own."""
    graph = capture(lambda x: x.to(x.device, torch.float64) + 1, (torch.ones(3),)).graphs[0]
    assert "aten.to" in [call.op for call in graph.calls]
    result = GraphReplay(graph, {}, [torch.ones(3)]).last_call()()
    assert torch.equal(result, torch.full((3,), 2.0, dtype=torch.float64))
