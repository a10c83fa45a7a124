"""How a model is run, apart from its sizes and its element type. Does not import torch."""

from __future__ import annotations

import msgspec

from shmoo.estimators.costs.quantize import SCHEMES
from shmoo.estimators.errors import InputError, unknown
from shmoo.estimators.graph.dtypes import ALIASES

AUTOCAST_DTYPES = ("bfloat16", "float16")
"""Types that torch.autocast computes in."""
_FLOATS = ("float32", "tf32", "bfloat16", "float16")


class Mode(msgspec.Struct, frozen=True):
    """How a model is run.

    Attributes:
        phase: "prefill" or "decode" of a causal language model; `None` for one plain call.
        training: a forward and a backward pass in place of inference.
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
        """Refuse parts that exclude each other.

        Raises:
            InputError: an unknown scheme or autocast type, or two such parts.
        """
        if self.quantize is not None and self.quantize not in SCHEMES:
            raise unknown("quantisation scheme", self.quantize, SCHEMES)
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
    def name(self) -> str:
        """The phase, or "training" or "inference"."""
        return self.phase or ("training" if self.training else "inference")
