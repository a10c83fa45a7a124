"""What a capture is asked for, and what it gives. Does not import torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from shmoo.estimators.graph.records import Graph
from shmoo.harness.models.mode import Mode
from shmoo.runs.store.records import AxisValue

Point = dict[str, AxisValue]
"""A value of each axis that is set; the others have their defaults."""


class Asked(msgspec.Struct, frozen=True):
    """A model named as on the command line, how it is run, and the sizes that are wanted of it.

    Attributes:
        dtype: compute type of the vocabulary; `None` keeps the types that a user's own model comes with, and is float32 for
            others. Types that torch has no arithmetic for (float8, int8, int4) replace the floating types of a float32 capture,
            of weights and activations alike; `Mode.quantize` is for weights alone.
        input_shape, seq_len, trust: see `resolve_model`; with a phase, `seq_len` is the default of the phase's axis.
        mode: how the model is run.
        points: axis values of all sizes to come: one capture may serve several.
    """

    model: str
    dtype: str | None = None
    input_shape: tuple[int, ...] | None = None
    seq_len: int | None = None
    trust: bool = False
    mode: Mode = Mode()
    points: tuple[Point, ...] = ()


def at_batches(batches: Sequence[int | None]) -> tuple[Point, ...]:
    """Points of batch sizes; `None` stands for the model's own."""
    return tuple({} if batch is None else {"batch": batch} for batch in batches)


def at_ends(axes: Mapping[str, Sequence[AxisValue]]) -> tuple[Point, ...]:
    """The first and the last point of axes, which show what changes between them."""
    return tuple({axis: values[end] for axis, values in axes.items()} for end in (0, -1))


class ModelGraphs(msgspec.Struct, frozen=True):
    """A model's graphs, the samples of a call, why torch.compile split it (empty if it did not), and a note on the capture."""

    graphs: tuple[Graph, ...]
    batch: int = 1
    break_reasons: tuple[str, ...] = ()
    note: str = ""
