"""`shmoo trace`: the predicted schedule of a model, kernel by kernel, beside a measured call."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from shmoo.estimators.errors import InputError
from shmoo.estimators.predict.director import AnalysisDirector
from shmoo.estimators.predict.estimate_records import or_reason
from shmoo.estimators.predict.timeline import KernelSpan, schedule
from shmoo.estimators.shown_columns import Column
from shmoo.estimators.units import si
from shmoo.harness.cli import captures, options, output
from shmoo.harness.cli.layout import View
from shmoo.harness.question import Question
from shmoo.harness.runtimes.backends import TORCH_RUNTIMES, compile_model
from shmoo.runs.store.records import AxisValue

if TYPE_CHECKING:
    from shmoo.harness.runtimes.chrome_trace import RecordedCall

EXAMPLES = """\b
Examples:
  shmoo trace resnet18 -o resnet18.json
  shmoo trace mlp --arch kpu_t64 --set batch=64 --no-measure
Open the file in https://ui.perfetto.dev.
"""
COLUMNS = (
    Column("kernel", lambda span: span.kernel.label),
    Column("starts", lambda span: span.start_s, "s"),
    Column("runs", lambda span: span.end_s - span.start_s, "s"),
    Column("adds", lambda span: span.kernel.elapsed_s, "s"),
    Column("bound", lambda span: span.kernel.bound),
    Column("tile m x n x k", lambda span: " x ".join(f"{extent:.0f}" for extent in span.kernel.tile_shape)),
    Column("tiles", lambda span: span.kernel.tiles, ""),
    Column("utilisation", lambda span: span.kernel.utilisation, "0%"),
)
DEVICE = {"cpu": "cpu", "gpu": "cuda"}
"""Family of an architecture -> torch's device for it."""


@click.command(epilog=EXAMPLES)
@click.argument("model")
@options.fixed
@click.option("--measure/--no-measure", default=True, show_default=True, help="Run the model here under torch.profiler.")
@captures.model_options()
@options.as_json
@options.out("none, only the table is shown")
@options.view("as they start")
def trace(
    model: str,
    fixed: tuple[str, ...],
    measure: bool,
    question: Question,
    as_json: bool,
    out: Path | None,
    view: View,
) -> None:
    """When each kernel of MODEL runs, with its tile and its bound; with -o as a trace for Perfetto (Chrome's format), in which
    the prediction and a measured call on this machine are two processes."""
    profile, chosen = question.machine()
    axes = options.settings(fixed)
    with output.only_results_on_stdout():
        capture = question.capture(model, axes)
        estimate, spans = schedule(
            AnalysisDirector(profile), capture.graphs, chosen, compute_dtype=capture.compute_dtype, batch=capture.batch
        )
        recorded, reason = None, "not asked for"
        if measure and out:
            recorded, reason = _recorded(model, question, question.points(axes)[0], chosen, profile.family)
    if out:
        from shmoo.harness.runtimes.chrome_trace import trace_document

        document = trace_document(model, estimate, spans, recorded, reason)
        output.write(out, json.dumps(document, allow_nan=False).encode())
        output.message(f"wrote {out}" + (f"; not measured: {reason}" if recorded is None else ""))
    if as_json:
        output.json_document([_record(span) for span in spans])
    else:
        _show(spans, recorded, estimate.latency_s.value, view)


def _recorded(
    model: str, question: Question, axes: dict[str, AxisValue], runtime: str, family: str
) -> tuple[RecordedCall | None, str]:
    """A measured call, or `None` and the reason."""
    import torch

    from shmoo.harness.runtimes.chrome_trace import record_call

    device = DEVICE.get(family)
    if device is None or runtime not in TORCH_RUNTIMES:
        return None, f"torch does not run on a {family} here"
    if device == "cuda" and not torch.cuda.is_available():
        return None, "torch finds no CUDA device here"
    try:
        module = question.module(model)
    except InputError as error:
        return None, str(error)
    built = module.build(axes, question.dtype, device)
    with torch.no_grad():
        forward = compile_model(built.model, runtime, device)
        return record_call(lambda: forward(*built.args, **built.kwargs), device=device), ""


def _record(span: KernelSpan) -> dict[str, object]:
    kernel = msgspec.to_builtins(span.kernel)
    return {
        "start_s": span.start_s,
        "end_s": span.end_s,
        **or_reason("launch_s", span.launch_s, "not apart from running: only a GPU is launched ahead of time"),
        **{f"kernel_{k}": v for k, v in kernel.items()},
    }


def _show(spans: Sequence[KernelSpan], recorded: RecordedCall | None, latency_s: float, view: View) -> None:
    output.table(COLUMNS, spans, drop=("tiles", "tile m x n x k", "utilisation"), view=view)
    measured = "" if recorded is None else f"; {si(recorded.latency_s, 's')} measured under the profiler"
    output.result(f"one call: {si(latency_s, 's')} predicted{measured}")
