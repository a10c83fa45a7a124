"""What a caching allocator asks of the device for one call of a graph, when it starts with nothing cached.

The rules are those of PyTorch's CUDA allocator (c10/cuda/CUDACachingAllocator.cpp): requests are rounded to 512 B; up to 1 MiB
they share segments of 2 MiB, below 10 MiB segments of 20 MiB, and from there on a segment is as large as the request, rounded to
2 MiB. A request takes the smallest free block that holds it, what is left of that block stays free, and freed neighbours join.
Only where no block will do is a segment asked of the device, which costs the host time.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import msgspec
import numpy as np

from shmoo.estimators.graph.records import Graph, Kernel
from shmoo.estimators.machine.coefficients import Coefficients

MIB = 2**20
ROUNDING = 512
SMALL, SMALL_SEGMENT = 1 * MIB, 2 * MIB
SHARED, SHARED_SEGMENT, SEGMENT_ROUNDING = 10 * MIB, 20 * MIB, 2 * MIB


class Requests(msgspec.Struct, frozen=True):
    """What one operator call asks of the device: `count` segments of `nbytes` together."""

    count: int = 0
    nbytes: float = 0.0


def device_requests(graph: Graph) -> tuple[Requests, ...]:
    """What each call of a graph asks of the device; weights and inputs are there before.

    A result is kept from the call that makes it to the last that reads it or a view of it; what the graph returns is kept.
    """
    roots = [graph.root(index) for index in range(len(graph.values))]
    last: dict[int, int] = {}
    for position, call in enumerate(graph.calls):
        for index in (*call.reads, *call.writes):
            last[roots[index]] = position
    for index in graph.outputs:
        last[roots[index]] = len(graph.calls)
    ends: dict[int, list[int]] = {}
    for root, position in last.items():
        ends.setdefault(position, []).append(root)
    small, large = _Pool(ROUNDING), _Pool(SMALL + ROUNDING)
    held: dict[int, tuple[_Pool, _Block]] = {}
    asked = []
    for position, call in enumerate(graph.calls):
        segments: list[int] = []
        for root in dict.fromkeys(roots[index] for index in call.writes):
            value = graph.values[root]
            if value.kind != "activation" or root in held or not value.spec.nbytes:
                continue
            size = ceil(value.spec.nbytes / ROUNDING) * ROUNDING
            pool = small if size <= SMALL else large
            block = pool.take(size)
            if block is None:
                segments.append(_segment(size))
                block = pool.extend(segments[-1], size)
            held[root] = pool, block
        asked.append(Requests(len(segments), float(sum(segments))))
        for root in ends.get(position, ()):
            if root in held:
                pool, block = held.pop(root)
                pool.give_back(block)
    return tuple(asked)


def allocation_time(graph: Graph, kernels: Sequence[Kernel], coefficients: Coefficients) -> np.ndarray:
    """(K,) seconds that the host spends on device memory before it launches each kernel of a graph."""
    requests = device_requests(graph)
    asked = [total([requests[call] for call in kernel.calls]) for kernel in kernels]
    counts, nbytes = np.asarray([(r.count, r.nbytes) for r in asked], dtype=np.float64).reshape(-1, 2).T
    return coefficients.value("allocate") * counts + coefficients.value("allocate.byte") * nbytes


def total(requests: Sequence[Requests]) -> Requests:
    """Their sum."""
    return Requests(sum(r.count for r in requests), sum(r.nbytes for r in requests))


def _segment(size: int) -> int:
    if size <= SMALL:
        return SMALL_SEGMENT
    return SHARED_SEGMENT if size < SHARED else ceil(size / SEGMENT_ROUNDING) * SEGMENT_ROUNDING


class _Block(msgspec.Struct, frozen=True):
    """Bytes `start` to `start + size` of a segment."""

    segment: int
    start: int
    size: int


class _Pool:
    """Free blocks of segments. What is left of a block is split off when it has at least `least_rest` bytes."""

    def __init__(self, least_rest: int) -> None:
        self._least_rest = least_rest
        self._free: list[_Block] = []
        self._segments = 0

    def take(self, size: int) -> _Block | None:
        """The smallest free block that holds `size` bytes, cut to it; `None` where there is none."""
        fitting = [block for block in self._free if block.size >= size]
        if not fitting:
            return None
        block = min(fitting, key=lambda b: (b.size, b.segment, b.start))
        self._free.remove(block)
        return self._cut(block, size)

    def extend(self, segment_size: int, size: int) -> _Block:
        """The first `size` bytes of a new segment."""
        self._segments += 1
        return self._cut(_Block(self._segments, 0, segment_size), size)

    def give_back(self, block: _Block) -> None:
        """Free a block, together with the free blocks before and after it."""
        for other in [b for b in self._free if b.segment == block.segment]:
            if other.start + other.size == block.start or block.start + block.size == other.start:
                self._free.remove(other)
                block = _Block(block.segment, min(block.start, other.start), block.size + other.size)
        self._free.append(block)

    def _cut(self, block: _Block, size: int) -> _Block:
        rest = block.size - size
        if rest < self._least_rest:
            return block
        self._free.append(_Block(block.segment, block.start + size, rest))
        return _Block(block.segment, block.start, size)
