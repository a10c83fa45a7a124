"""Options of a model to capture: its sizes and types, how it is run (a phase of a language model, a training step, autocast,
quantised weights), and whether its capture is kept between commands."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from shmoo.estimators.graph.dtypes import shown_dtype
from shmoo.estimators.graph.records import notes_of
from shmoo.harness.cli import options, output
from shmoo.harness.defaults import capture_folder

if TYPE_CHECKING:
    from shmoo.estimators.predict.director import Estimate
    from shmoo.estimators.predict.tabular import Record
    from shmoo.harness.models.asked import Asked, Mode, Point
    from shmoo.harness.models.capture_cache import CaptureCache, ModelSource
    from shmoo.harness.module import Capture

SIZES = ("batch", "dtype", "input_shape", "seq_len")
MODE = ("phase", "training", "autocast", "quantize", "channels_last")
"""Options of `asked` by the name of their parameter."""


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """What the options of `asked` say of a model. Those that a verb does not have are at their defaults.

    Attributes:
        batches, dtypes: as given; empty for the model's own.
        input_shape, seq_len, trust, mode: as in `Asked`.
        cache: where captures are kept; `None` for nowhere.
    """

    batches: tuple[int, ...]
    dtypes: tuple[str, ...]
    input_shape: tuple[int, ...] | None
    seq_len: int | None
    trust: bool
    mode: Mode
    cache: CaptureCache | None

    @property
    def batch(self) -> int | None:
        """The batch size, where a verb takes one; `InputError` for several."""
        return options.only_one(self.batches, "--batch")

    @property
    def dtype(self) -> str | None:
        """The element type, where a verb takes one; `InputError` for several."""
        return options.only_one(self.dtypes, "--dtype")

    def request(self, model: str, dtype: str | None, points: Sequence[Point] = ()) -> Asked:
        """What is asked of a model by these options, in one type and at the points to come."""
        from shmoo.harness.models.asked import Asked

        return Asked(model, dtype, self.input_shape, self.seq_len, self.trust, self.mode, tuple(points))

    def source(self, request: Asked) -> ModelSource:
        """The graphs of a model; says on stderr when code of the user's runs to make it."""
        from shmoo.harness.models.capture_cache import ModelSource

        told = click.get_current_context().meta.setdefault(__name__, set())

        def before_capture() -> None:
            if request.model not in told:
                told.add(request.model)
                output.tell_of_code([request.model])

        return ModelSource(request, self.cache, before_capture)

    def capture(self, model: str) -> Capture:
        """The model's graphs at the one batch size and in the one type asked for."""
        from shmoo.harness.models.asked import at_batches

        points = at_batches([self.batch])
        with output.only_results_on_stdout():
            return self.source(self.request(model, self.dtype, points)).at(points[0])


def asked(*names: str, batch: str = options.ONE_BATCH, dtype: str = options.ONE_DTYPE) -> options.Decorator:
    """Adds options of a model, of `SIZES` and `MODE` those named, --trust and --no-cache, taken together as `asked`. `batch` and
    `dtype` are the defaults that the help of these options tells."""
    offered = {
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

    return options.together("asked", _model_options, *(offered[name] for name in (*names, "trust", "no_cache")))


def _model_options(
    trust: bool,
    no_cache: bool,
    batch: tuple[int, ...] = (),
    dtype: tuple[str, ...] = (),
    input_shape: str | None = None,
    seq_len: int | None = None,
    phase: str | None = None,
    training: bool = False,
    autocast: str | None = None,
    quantize: str | None = None,
    channels_last: bool = False,
) -> ModelOptions:
    from shmoo.harness.models.asked import Mode
    from shmoo.harness.models.capture_cache import CaptureCache, software

    known = None if no_cache else software()
    cache = None if known is None else CaptureCache(capture_folder(), known)
    mode = Mode(phase, training, autocast, quantize, channels_last)
    return ModelOptions(batch, dtype, options.parse_shape(input_shape), seq_len, trust, mode, cache)


def tell_about(model: str, found: Capture, estimates: Iterable[Estimate] = ()) -> None:
    """Say on stderr what the reader of the numbers of a capture must know, and of estimates of it."""
    for said in dict.fromkeys((*notes_of(found.graphs), *(note for estimate in estimates for note in estimate.notes))):
        output.message(f"{model}: {said}")
    if found.note.startswith("captured anew"):
        output.message(f"{model}: {found.note}")
    if found.break_reasons:
        output.message(
            f"{model}: torch.compile split the model into pieces, all are counted; reasons: {'; '.join(found.break_reasons)}"
        )


def mode_record(mode: Mode, found: Capture) -> Record:
    """What a record of an estimate says about the inputs, the mode and the capture; empty texts for nothing."""
    values = [value for value in found.graphs[0].values if value.kind == "input"] if found.graphs else []
    counts = Counter(f"{'x'.join(map(str, value.spec.shape)) or 'scalar'} {shown_dtype(value.spec.dtype)}" for value in values)
    return {
        "inputs": ", ".join(text if count == 1 else f"{count} times {text}" for text, count in counts.items()),
        "mode": mode.name,
        "autocast": mode.autocast or "",
        "quantize": mode.quantize or "",
        "channels_last": mode.channels_last,
        "capture": found.note,
    }
