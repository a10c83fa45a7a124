"""Traces: valid Chrome trace events, prediction and measurement as two processes on one clock."""

from __future__ import annotations

import json
import os

import pytest
import torch

from shmoo.estimators.machine.profile import load_profile
from shmoo.estimators.predict.director import AnalysisDirector
from shmoo.estimators.predict.timeline import schedule
from shmoo.harness.runtimes.chatter import without_chatter
from shmoo.harness.runtimes.chrome_trace import CALLS, MEASURED, PREDICTED, WARMUP, median_call, record_call, trace_document
from tests.estimators.sweep.test_controller_points import network


def check_events(document: dict) -> None:
    """The parts of the trace-event format that a viewer relies on: complete events and metadata, named processes and threads."""
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    named = {(e["pid"], e["tid"]) for e in document["traceEvents"] if e["ph"] == "M" and e["name"] == "thread_name"}
    for event in document["traceEvents"]:
        assert event["ph"] in ("X", "M")
        assert isinstance(event["pid"], int)
        assert isinstance(event["tid"], int)
        assert isinstance(event["name"], str)
        if event["ph"] == "X":
            assert event["ts"] >= 0
            assert event["dur"] >= 0
            assert (event["pid"], event["tid"]) in named
        else:
            assert isinstance(event["args"]["name"], str)


def processes(document: dict) -> dict[int, str]:
    return {e["pid"]: e["args"]["name"] for e in document["traceEvents"] if e["name"] == "process_name"}


def spans(document: dict, process: int) -> list[dict]:
    return [e for e in document["traceEvents"] if e["ph"] == "X" and e["pid"] == process]


@pytest.mark.parametrize("name", ["cpu_server_generic", "gpu_h100", "tpu_v4", "kpu_t64"])
def test_a_prediction_alone_is_a_trace(name: str) -> None:
    """One process, an event a kernel and one for the call, and why nothing was measured."""
    estimate, kernels = schedule(AnalysisDirector(load_profile(name)), (network(),))
    document = trace_document("net", estimate, kernels, None, "not asked for")
    check_events(document)
    assert processes(document) == {PREDICTED: f"predicted: {name}, {estimate.runtime}"}
    predicted = spans(document, PREDICTED)
    assert sum(e["cat"] not in ("predicted", "launch") for e in predicted) == estimate.kernels
    assert max(e["ts"] + e["dur"] for e in predicted) == pytest.approx(1e6 * estimate.latency_s.value)
    assert document["otherData"]["measured_latency_s"] is None
    assert document["otherData"]["measured_latency_s_reason"] == "not asked for"


def test_a_measured_call_is_a_second_process() -> None:
    """Both start at 0, and the measured operators lie inside the measured call."""
    estimate, kernels = schedule(AnalysisDirector(load_profile("cpu_server_generic")), (network(),))
    x = torch.rand(64, 64)
    recorded = record_call(lambda: torch.relu(x @ x))
    document = trace_document("net", estimate, kernels, recorded)
    check_events(document)
    assert set(processes(document)) == {PREDICTED, MEASURED}
    measured = spans(document, MEASURED)
    assert {"aten::matmul", "aten::relu"} <= {e["name"] for e in measured}
    assert min(e["ts"] for e in measured) == 0
    assert max(e["ts"] for e in measured) <= 1e6 * recorded.latency_s
    assert document["otherData"]["measured_latency_s"] == recorded.latency_s > 0


def test_the_call_of_median_length_is_kept() -> None:
    """Of three calls of 30, 10 and 20 us the last, and only what lies in it."""
    events: list[dict] = [{"ph": "M", "name": "thread_name", "pid": 7, "tid": 9, "args": {"name": "main"}}]
    for start, length in ((100.0, 30.0), (200.0, 10.0), (300.0, 20.0)):
        events.append(
            {"ph": "X", "cat": "user_annotation", "name": "shmoo: call", "pid": 7, "tid": 9, "ts": start, "dur": length}
        )
        events.append({"ph": "X", "cat": "cpu_op", "name": f"op of {length}", "pid": 7, "tid": 9, "ts": start + 1, "dur": 5.0})
    found = median_call(events)
    assert found.latency_s == pytest.approx(20e-6)
    assert [(e["name"], e["ts"]) for e in found.events if e.get("cat") == "cpu_op"] == [("op of 20.0", 1.0)]


def test_the_profiler_says_nothing_of_itself(capfd: pytest.CaptureFixture[str]) -> None:
    """What the model itself writes to stderr stays there, whole and in order."""
    record_call(lambda: os.write(2, b"mine\n"))
    assert capfd.readouterr().err == "mine\n" * (WARMUP + CALLS)


def test_nothing_is_filtered_where_stderr_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As under a daemon."""
    monkeypatch.setattr(os, "dup", lambda descriptor: os.close(-1))
    with without_chatter():
        pass
