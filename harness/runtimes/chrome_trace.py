"""The predicted schedule and a measured call as two processes of one file in Chrome's trace-event format, which Perfetto opens
(Trace Event Format, Google, 2016: events of phase "X" have a start `ts` and a length `dur` in microseconds; phase "M" names
processes and threads). Both begin at 0, the entry of the call."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch

from shmoo.estimators.predict.director import Estimate
from shmoo.estimators.predict.timeline import KernelSpan
from shmoo.harness.runtimes.chatter import without_chatter

Event = dict[str, Any]
PREDICTED, MEASURED = 1, 2
_CALL = "shmoo: call"
WARMUP, CALLS = 3, 5
"""Number of calls before the recording, and of recorded calls."""
_MEASURED_CATEGORIES = ("cpu_op", "user_annotation", "cuda_runtime", "cuda_driver", "kernel", "gpu_memcpy", "gpu_memset")
"""Categories of the profiler's events that are shown: operators, launches, and the device's work."""
_KERNEL_FACTS = ("tiles", "utilisation", "flops", "bytes", "compute_s", "memory_s", "launch_s", "energy_j")


class RecordedCall(msgspec.Struct, frozen=True):
    """One call recorded by the profiler: its length, and its events with process and thread ids, `ts` counted from the entry of
    the call."""

    events: tuple[Event, ...]
    latency_s: float


def record_call(call: Callable[[], object], *, device: str = "cpu") -> RecordedCall:
    """Run `call`, one forward on "cpu" or "cuda", under torch.profiler and keep the call of median length; the first `WARMUP`,
    which may compile, are not recorded. Profiling lengthens every operator by about a microsecond: the trace shows the
    distribution of time, `shmoo measure` the total."""
    cuda = device.startswith("cuda")
    activities = [torch.profiler.ProfilerActivity.CPU, *([torch.profiler.ProfilerActivity.CUDA] if cuda else [])]

    def once() -> None:
        call()
        if cuda:
            torch.cuda.synchronize()

    with torch.no_grad():
        for _ in range(WARMUP):
            once()
        with without_chatter(), torch.profiler.profile(activities=activities) as profiler:
            for _ in range(CALLS):
                with torch.profiler.record_function(_CALL):
                    once()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        return median_call(json.loads(path.read_text(encoding="utf-8"))["traceEvents"])


def median_call(events: Sequence[Mapping[str, Any]]) -> RecordedCall:
    """The call of median length out of a profiler's events, with the names of its threads."""
    spans = sorted(
        (event for event in events if event.get("name") == _CALL and event.get("cat") == "user_annotation"),
        key=lambda event: float(event["dur"]),
    )
    median = spans[len(spans) // 2]
    begin, length = float(median["ts"]), float(median["dur"])
    inside: list[Event] = []
    for event in events:
        if event.get("ph") == "X" and event.get("cat") in _MEASURED_CATEGORIES:
            start = float(event["ts"]) - begin
            if 0.0 <= start <= length:
                inside.append({**event, "ts": start, "dur": float(event["dur"])})
    threads = {(event["pid"], event["tid"]) for event in inside}
    names = [dict(e) for e in events if e.get("ph") == "M" and e.get("name") == "thread_name"]
    return RecordedCall((*inside, *(e for e in names if (e["pid"], e.get("tid")) in threads)), length / 1e6)


def trace_document(
    model: str, estimate: Estimate, spans: Sequence[KernelSpan], recorded: RecordedCall | None, reason: str = ""
) -> dict[str, Any]:
    """The trace as a JSON document, from the spans of `estimators.predict.timeline.schedule` and the measured call, which is
    `None` with a `reason` if nothing was measured."""
    events = list(_predicted(model, estimate, spans))
    if recorded is not None:
        events += _measured(recorded)
    return {
        "displayTimeUnit": "ms",
        "traceEvents": events,
        "otherData": {
            "model": model,
            "arch": estimate.arch,
            "runtime": estimate.runtime,
            "predicted_latency_s": estimate.latency_s.value,
            "measured_latency_s": None if recorded is None else recorded.latency_s,
            "measured_latency_s_reason": reason or "under the profiler, which lengthens every operator",
        },
    }


def _predicted(model: str, estimate: Estimate, spans: Sequence[KernelSpan]) -> Iterator[Event]:
    call, host, device = 0, 1, 2
    yield _name("process_name", PREDICTED, 0, f"predicted: {estimate.arch}, {estimate.runtime}")
    yield _name("thread_name", PREDICTED, call, "call")
    if any(span.launch_s is not None for span in spans):
        yield _name("thread_name", PREDICTED, host, "host launches")
    yield _name("thread_name", PREDICTED, device, "kernels")
    latency = estimate.latency_s
    bounds = {"low_s": latency.low, "high_s": latency.high}
    yield _event(model, "predicted", PREDICTED, call, 0.0, 1e6 * latency.value, bounds)
    for span in spans:
        kernel = span.kernel
        facts = {"bound": kernel.bound, "tile m x n x k": " x ".join(f"{extent:.0f}" for extent in kernel.tile_shape)}
        facts |= {name: getattr(kernel, name) for name in _KERNEL_FACTS}
        start_s, seconds = span.start_s, span.end_s - span.start_s
        yield _event(kernel.label, kernel.family, PREDICTED, device, 1e6 * start_s, 1e6 * seconds, facts)
        if span.launch_s is not None:
            start_s, end_s = span.launch_s
            yield _event(f"launch {kernel.label}", "launch", PREDICTED, host, 1e6 * start_s, 1e6 * (end_s - start_s), {})


def _measured(recorded: RecordedCall) -> Iterator[Event]:
    """The profiler's events as threads of one process, in the order in which they first appear."""
    yield _name("process_name", MEASURED, 0, "measured: this machine")
    spans = [event for event in recorded.events if event["ph"] == "X"]
    threads = {key: number for number, key in enumerate(dict.fromkeys((event["pid"], event["tid"]) for event in spans))}
    names = {(event["pid"], event["tid"]): event["args"]["name"] for event in recorded.events if event["ph"] == "M"}
    for key, number in threads.items():
        yield _name("thread_name", MEASURED, number, str(names.get(key, f"thread {key[1]}")))
    for event in spans:
        thread = threads[event["pid"], event["tid"]]
        yield _event(str(event["name"]), str(event["cat"]), MEASURED, thread, event["ts"], event["dur"], {})


def _name(kind: str, process: int, thread: int, text: str) -> Event:
    return {"ph": "M", "name": kind, "pid": process, "tid": thread, "args": {"name": text}}


def _event(
    name: str, category: str, process: int, thread: int, start_us: float, length_us: float, facts: Mapping[str, Any]
) -> Event:
    return {
        "ph": "X", "name": name, "cat": category, "pid": process, "tid": thread, "ts": start_us, "dur": length_us,
        "args": dict(facts),
    }  # fmt: skip
