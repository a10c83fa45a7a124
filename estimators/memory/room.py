"""Whether a model fits a machine's main memory, how much is missing, and what would fit."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from shmoo.estimators.costs.quantize import saved_bytes
from shmoo.estimators.graph.records import Graph
from shmoo.estimators.memory.peak import resident_weight_bytes
from shmoo.estimators.units import size

_STORES = frozenset({"aten.copy", "aten.index_copy", "aten.index_put", "aten.scatter"})
"""Operators that move data into a tensor; others that work in place compute on what is there."""


class MemoryRoom(msgspec.Struct, frozen=True, kw_only=True):
    """Memory that one call of a model needs, and the capacity of the machine.

    Attributes:
        weight_bytes: parameters, buffers and constants.
        cache_bytes: inputs that the call stores data in, such as keys and values of a language model.
        activation_bytes: other inputs, activations and workspaces at their peak.
        saved_bytes: quantization scheme -> bytes that it saves on weights.
        batch: samples of the call.
        capacity_bytes: main memory; `None` where the profile does not say.
    """

    weight_bytes: float
    cache_bytes: float
    activation_bytes: float
    saved_bytes: dict[str, float] = {}
    batch: int = 1
    capacity_bytes: float | None = None

    @property
    def needed_bytes(self) -> float:
        """Bytes that a call needs: weights, cache and activations together."""
        return self.weight_bytes + self.cache_bytes + self.activation_bytes

    @property
    def fits(self) -> bool | None:
        """Whether the machine's memory holds the call; `None` where its capacity is unknown."""
        return None if self.capacity_bytes is None else self.needed_bytes <= self.capacity_bytes

    @property
    def missing_bytes(self) -> float | None:
        """Bytes that the machine's memory lacks; 0 where the call fits."""
        return None if self.capacity_bytes is None else max(self.needed_bytes - self.capacity_bytes, 0.0)

    @property
    def devices(self) -> int | None:
        """Number of machines whose memories together hold the call, divided evenly."""
        return self._devices_for(self.needed_bytes)

    @property
    def quantized_devices(self) -> dict[str, int]:
        """`devices` for each quantization scheme that saves memory."""
        devices_by_scheme = {
            scheme: self._devices_for(self.needed_bytes - saved) for scheme, saved in self.saved_bytes.items() if saved > 0
        }
        return {scheme: devices for scheme, devices in devices_by_scheme.items() if devices is not None}

    @property
    def largest_batch(self) -> int | None:
        """Largest batch that fits if everything but the weights grows with it; 0 where the weights alone do not fit."""
        grows = self.needed_bytes - self.weight_bytes
        if self.capacity_bytes is None or grows <= 0:
            return None
        return max(math.floor((self.capacity_bytes - self.weight_bytes) / (grows / self.batch)), 0)

    @property
    def advice(self) -> str:
        """The bytes needed, and the batch or devices that would fit; "" where the call fits or the capacity is unknown."""
        if self.fits is not False:
            return ""
        parts = (("weights", self.weight_bytes), ("cache", self.cache_bytes), ("activations", self.activation_bytes))
        shares = ", ".join(f"{name} {size(nbytes)}" for name, nbytes in parts if nbytes)
        remedies = [f"batch {self.largest_batch}"] if self.largest_batch else []
        remedies += [f"{self.devices} devices"]
        remedies += [
            f"{scheme} on {devices}" if devices > 1 else scheme
            for scheme, devices in self.quantized_devices.items()
            if devices < (self.devices or 0)
        ]
        shortage = f"needs {size(self.needed_bytes)} ({shares}), {size(self.missing_bytes)} more than {size(self.capacity_bytes)}"
        return f"{shortage}; by memory would fit: {', '.join(remedies)}"

    def at_peak(self, nbytes: float) -> MemoryRoom:
        """The same model with another peak of its memory."""
        return msgspec.structs.replace(self, activation_bytes=max(nbytes - self.weight_bytes - self.cache_bytes, 0.0))

    def _devices_for(self, nbytes: float) -> int | None:
        return max(math.ceil(nbytes / self.capacity_bytes), 1) if self.capacity_bytes else None


def memory_room(graphs: Sequence[Graph], peak_bytes: float) -> MemoryRoom:
    """The parts of a model's peak memory (`peak.peak_memory_bytes`), without a machine's capacity."""
    weights, cache = resident_weight_bytes(graphs), max((state_bytes(graph) for graph in graphs), default=0.0)
    room = MemoryRoom(weight_bytes=weights, cache_bytes=cache, activation_bytes=0.0, saved_bytes=saved_bytes(graphs))
    return room.at_peak(peak_bytes)


def state_bytes(graph: Graph) -> float:
    """Bytes of the inputs that a graph stores data in."""
    roots_written = {graph.root(value) for call in graph.calls if call.inplace and call.op in _STORES for value in call.writes}
    return sum(graph.values[i].spec.nbytes for i in roots_written if graph.values[i].kind == "input")
