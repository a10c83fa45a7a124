"""Memory that an allocator requests from the system: a simulation of a C library's heap over a sequence of kernels.

New memory from the system faults in page by page at the first touch. glibc maps each block above a threshold separately, and
unmaps it when it is freed. All other blocks lie in one heap, whose end returns to the system when much of it is free (mallopt(3):
M_MMAP_THRESHOLD, M_TRIM_THRESHOLD and their dynamic adjustment, here at its maximum). So a model whose activations need a large
heap pays for it at every call, even if no single block is large.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence
from typing import NamedTuple

from shmoo.estimators.memory.residency import Touch

MAPPED_BYTES = 32 * 2.0**20
"""Blocks above this are mapped separately."""
TRIMMED_BYTES = 2 * MAPPED_BYTES
"""Free bytes at the end of the heap above which they return to the system."""
_OVERHEAD, _SEARCH_MARGIN = 64.0, 96.0
"""Bytes beyond its size that a block of aligned memory takes, and that the search for a hole demands: frameworks align tensors
to 64 bytes, and glibc then looks for room for any alignment. So a block never fits the hole that a block of its own size left."""


class Fresh(NamedTuple):
    """Bytes that the system provides: for separately mapped blocks, and for the heap where it grows back after it was trimmed.
    The latter depends on the other blocks of the process: a single small one at the heap's end prevents the trim."""

    mapped: float
    grown: float


class Temporary(NamedTuple):
    """Bytes of the copies that a library makes in its own layout: of a kernel's operand, freed before the result is allocated,
    and of the result, one or several, freed after. Copies of weights fit a hole, or are mapped separately."""

    operand: float
    result: float
    copies: int = 1


def fresh_memory(kernels: Sequence[Sequence[Touch]], temporaries: Sequence[Temporary | None] | None = None) -> list[Fresh]:
    """New memory that each kernel touches, in a sequence repeated back to back. Results are allocated when first written and
    freed after their last use, as are the copies that a library makes around a kernel (`None` where it makes none)."""
    library_copies = temporaries or [None] * len(kernels)
    sizes = [max(t.size, t.nbytes) for touches in kernels for t in touches if t.write and not t.persistent]
    sizes += [size for t in library_copies if t for size in (t.operand, *[t.result] * t.copies)]
    if sum(sizes) <= TRIMMED_BYTES and max(sizes, default=0.0) <= MAPPED_BYTES:
        return [Fresh(0.0, 0.0)] * len(kernels)
    last_use = {touch.storage: i for i, touches in enumerate(kernels) for touch in touches}
    heap = _Heap()
    fresh: list[Fresh] = []
    for _ in range(2):  # the first repetition brings the heap to its steady state
        fresh = []
        blocks_of: dict[int, tuple[float, float]] = {}
        for i, (touches, temporary) in enumerate(zip(kernels, library_copies, strict=True)):
            mapped, grown = heap.mapped, heap.grown
            if temporary:
                operand, *copies = map(heap.take, (temporary.operand, *[temporary.result] * temporary.copies))
                heap.give(operand)
            for touch in touches:
                if touch.write and not touch.persistent and touch.storage not in blocks_of:
                    blocks_of[touch.storage] = heap.take(max(touch.size, touch.nbytes))
            if temporary:
                for copy in copies:
                    heap.give(copy)
            fresh.append(Fresh(heap.mapped - mapped, heap.grown - grown))
            for storage in {t.storage for t in touches if last_use[t.storage] == i and t.storage in blocks_of}:
                heap.give(blocks_of.pop(storage))
        for block in blocks_of.values():
            heap.give(block)
    return fresh


class _Heap:
    """Blocks are (address, size), address -1 for separately mapped ones. `mapped` and `grown` count the bytes from the system."""

    def __init__(self) -> None:
        self.mapped = self.grown = 0.0
        self._top = 0.0  # everything from here on is free
        self._end = 0.0
        self._holes: list[tuple[float, float]] = []  # (address, size) in order, never two next to each other

    def take(self, size: float) -> tuple[float, float]:
        if size > MAPPED_BYTES:
            self.mapped += size
            return -1.0, size
        if size == 0:
            return 0.0, 0.0
        fits = [(hole[1], place) for place, hole in enumerate(self._holes) if hole[1] >= size + _SEARCH_MARGIN]
        if fits:
            size += _OVERHEAD
            address, room = self._holes.pop(min(fits)[1])
            if room > size:
                insort(self._holes, (address + size, room - size))
            return address, size
        size += _OVERHEAD
        address, self._top = self._top, self._top + size
        if self._top > self._end:
            self.grown += self._top - self._end
            self._end = self._top
        return address, size

    def give(self, block: tuple[float, float]) -> None:
        address, size = block
        if address < 0 or size == 0:
            return
        holes = []
        for hole in self._holes:
            if hole[0] + hole[1] == address:
                address, size = hole[0], hole[1] + size
            elif address + size == hole[0]:
                size += hole[1]
            else:
                holes.append(hole)
        self._holes = holes
        if address + size < self._top:
            insort(self._holes, (address, size))
            return
        self._top = address
        if self._end - self._top > TRIMMED_BYTES:
            self._end = self._top
