"""The request for a model's graphs: its name, sizes, types and mode. Does not import torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from shmoo.estimators.costs.quantize import SCHEMES
from shmoo.estimators.errors import InputError, unknown
from shmoo.estimators.graph.dtypes import ALIASES
from shmoo.runs.store.records import AxisValue

AUTOCAST_DTYPES = ("bfloat16", "float16")
"""Types of torch.autocast."""
_FLOATS = ("float32", "tf32", "bfloat16", "float16")


class Mode(msgspec.Struct, frozen=True):
    """The mode in which a model runs.

    Attributes:
        phase: "prefill" or "decode" of a causal language model; `None` for one plain call.
        training: a forward and a backward pass instead of inference.
        autocast: "bfloat16" or "float16" to run a float32 model under torch.autocast.
        quantize: one of `estimators.costs.quantize.SCHEMES` for the linear layers.
        channels_last: images and the weights of convolutions are stored channels-last.
    """

    phase: str | None = None
    training: bool = False
    autocast: str | None = None
    quantize: str | None = None
    channels_last: bool = False

    def check(self, dtype: str) -> None:
        """`InputError` for an unknown scheme or autocast type, and for parts that exclude each other."""
        if self.quantize is not None and self.quantize not in SCHEMES:
            raise unknown("quantization scheme", self.quantize, SCHEMES)
        if self.autocast is not None and ALIASES.get(self.autocast, self.autocast) not in AUTOCAST_DTYPES:
            raise unknown("autocast type", self.autocast, AUTOCAST_DTYPES)
        if self.training and (self.phase or self.autocast or self.quantize or self.channels_last):
            raise InputError("a training step is captured alone; leave --phase, --autocast, --quantize and --channels-last out")
        if self.autocast is not None and dtype != "float32":
            raise InputError(f"autocast runs float32 weights in {self.autocast}; leave out the element type {dtype!r}")
        if self.quantize is not None and dtype not in _FLOATS:
            raise InputError(
                f"{self.quantize} keeps the activations' type, which {dtype!r} cannot be; give one of {', '.join(_FLOATS)}"
            )

    @property
    def parts(self) -> tuple[str, ...]:
        """The differences from a plain call, such as ("decode", "int4-weight")."""
        cast = None if self.autocast is None else f"autocast {self.autocast}"
        training, last = "training" * self.training, "channels-last" * self.channels_last
        return tuple(part for part in (self.phase, training, cast, self.quantize, last) if part)

    @property
    def name(self) -> str:
        """The phase, or "training" or "inference"."""
        return self.phase or ("training" if self.training else "inference")


Point = dict[str, AxisValue]
"""Axis -> value; axes that are not set have their defaults."""


class ModelRequest(msgspec.Struct, frozen=True):
    """A model named as on the command line, its mode, and the requested sizes.

    Attributes:
        dtype: compute type of the vocabulary; `None` keeps the types of a user's model, and is float32 for other models. Types
            without arithmetic in torch (float8, int8, int4) replace the floating-point types of a float32 capture, for weights
            and activations alike; `Mode.quantize` changes only weights.
        input_shape, seq_len, trust: see `resolve_model`; with a phase, `seq_len` is the default of the phase's axis.
        mode: mode of the model.
        points: axis values of all sizes that will be requested, since one capture may serve several.
    """

    model: str
    dtype: str | None = None
    input_shape: tuple[int, ...] | None = None
    seq_len: int | None = None
    trust: bool = False
    mode: Mode = Mode()
    points: tuple[Point, ...] = ()


def at_batches(batches: Sequence[int | None]) -> tuple[Point, ...]:
    """Points of batch sizes; `None` is the model's default."""
    return tuple({} if batch is None else {"batch": batch} for batch in batches)


def at_ends(axes: Mapping[str, Sequence[AxisValue]]) -> tuple[Point, ...]:
    """The first and the last point of axes, which differ in everything that the axes change; `InputError` for an axis without
    values."""
    if empty := [axis for axis, values in axes.items() if not values]:
        raise InputError(f"axis {empty[0]!r} has no values; give at least one")
    return tuple({axis: values[end] for axis, values in axes.items()} for end in (0, -1))
