"""Options that say how a model is run: a phase of a language model, a training step, autocast, quantised weights."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from shmoo.estimators.predict.tabular import Record
    from shmoo.harness.models.asked import ModelGraphs
    from shmoo.harness.models.mode import Mode

quantize = click.option(
    "--quantize",
    metavar="SCHEME",
    help="Linear layers as int8-, float8- or float4-dynamic, int8- or int4-weight; the rest keeps --dtype (int8 there: all).",
)
_OPTIONS = (
    click.option("--phase", metavar="PHASE", help="Of a language model: prefill (--seq-len new tokens) or decode (one more)."),
    click.option("--training", is_flag=True, help="One forward and backward pass in place of inference."),
    click.option("--autocast", metavar="DTYPE", help="Run float32 weights under torch.autocast in bfloat16 or float16."),
    quantize,
    click.option("--channels-last", is_flag=True, help="Store images and the weights of convolutions channels-last."),
)


def mode_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds --phase, --training, --autocast, --quantize and --channels-last; the command takes them together as `mode`."""

    @functools.wraps(command)
    def with_mode(
        *, phase: str | None, training: bool, autocast: str | None, quantize: str | None, channels_last: bool, **given: Any
    ) -> Any:
        from shmoo.harness.models.mode import Mode

        return command(mode=Mode(phase, training, autocast, quantize, channels_last), **given)

    for option in reversed(_OPTIONS):
        with_mode = option(with_mode)
    return with_mode


def mode_record(mode: Mode, found: ModelGraphs) -> Record:
    """What a record of an estimate says about the inputs, the mode and the capture; empty texts for nothing."""
    return {
        "inputs": inputs_of(found),
        "mode": mode.name,
        "autocast": mode.autocast or "",
        "quantize": mode.quantize or "",
        "channels_last": mode.channels_last,
        "capture": found.note,
    }


def inputs_of(found: ModelGraphs) -> str:
    """Types and shapes of a model's inputs, such as "1x3x224x224 float32"; of many of one shape their number."""
    values = [value for value in found.graphs[0].values if value.kind == "input"] if found.graphs else []
    counts = Counter(f"{'x'.join(map(str, value.spec.shape)) or 'scalar'} {value.spec.dtype}" for value in values)
    return ", ".join(text if count == 1 else f"{count} times {text}" for text, count in counts.items())
