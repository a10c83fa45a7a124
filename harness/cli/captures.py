"""Options of a model and of the machines of its estimates: its sizes and types, its mode (a phase of a language model, a training
step, autocast, quantized weights), caching of its capture, and architectures with runtimes."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

import click

from shmoo.estimators.graph.records import notes_of
from shmoo.harness.cli import options, output
from shmoo.harness.defaults import capture_folder
from shmoo.harness.models.capture_cache import CaptureCache, ModelSource, software
from shmoo.harness.models.request import ModelRequest
from shmoo.harness.module import Capture
from shmoo.harness.question import Question, ask


def model_options(
    *,
    arch: str = options.ONE_ARCHITECTURE,
    runtime: str = options.ONE_RUNTIME,
    batch: str = options.ONE_BATCH,
    dtype: str = options.ONE_DTYPE,
    without: Collection[str] = (),
) -> options.Decorator:
    """Adds the options of a model and its machines, except those in `without`, passed together as the argument `question`. The
    other parameters are the defaults in the help of these options."""
    offered: dict[str, options.Decorator] = {
        "arch": options.archs(arch),
        "runtime": options.runtimes(runtime),
        "threads": options.threads(),
        "host": options.host,
        "batch": options.batches(batch),
        "dtype": options.dtypes(dtype),
        "input_shape": options.input_shape,
        "seq_len": options.seq_len,
        "phase": click.option(
            "--phase", metavar="PHASE", help="Of a language model: prefill (--seq-len new tokens) or decode (one more)."
        ),
        "training": click.option("--training", is_flag=True, help="One forward and backward pass in place of inference."),
        "autocast": click.option(
            "--autocast", metavar="DTYPE", help="Run float32 weights under torch.autocast in bfloat16 or float16."
        ),
        "quantize": click.option(
            "--quantize",
            metavar="SCHEME",
            help="Linear layers as int8-dynamic, float8-dynamic, float4-dynamic, int8-weight or int4-weight; the rest keeps "
            "--dtype (int8 there: all).",
        ),
        "channels_last": click.option(
            "--channels-last", is_flag=True, help="Store images and the weights of convolutions channels-last."
        ),
        "trust": options.trust,
        "no_cache": click.option(
            "--no-cache", is_flag=True, help="Capture the model anew and keep nothing; otherwise see `shmoo cache --help`."
        ),
    }
    chosen = [name for name in offered if name not in without]
    return options.together("question", _question, *(offered[name] for name in chosen), parameters=chosen)


def _question(arch: tuple[str, ...], no_cache: bool, input_shape: str | None = None, **settings: Any) -> Question:
    software_digest = None if no_cache else software()
    cache = None if software_digest is None else CaptureCache(capture_folder(), software_digest)
    told_models = click.get_current_context().meta.setdefault(__name__, set())

    def open_source(request: ModelRequest) -> ModelSource:
        def before_capture() -> None:
            if request.model not in told_models:
                told_models.add(request.model)
                output.tell_of_code([request.model])

        return ModelSource(request, cache, before_capture)

    question = ask(arch, input_shape=options.parse_shape(input_shape), **settings)
    return replace(question, open_source=open_source, tell=tell_about)


def tell_about(model: str, capture: Capture) -> None:
    """Print on stderr the notes that the reader of a capture's numbers needs."""
    for note in notes_of(capture.graphs):
        output.message(f"{model}: {note}")
    if capture.recaptured:
        output.message(f"{model}: {capture.note}")
    if capture.break_reasons:
        output.message(
            f"{model}: torch.compile split the model into pieces, all are counted; reasons: {'; '.join(capture.break_reasons)}"
        )
