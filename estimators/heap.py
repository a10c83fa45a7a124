"""Which memory an allocator gets from the system anew: a C library's heap, played through a sequence of kernels.

Memory that a process holds already is written at the speed of its caches; memory that the system has just given it faults in page
by page at the first touch. glibc maps blocks above a threshold (32 MiB at most) by themselves and unmaps them when they are
freed; all others lie in one heap, from which a block takes the best fit among the freed ones or grows it, and whose end goes back
to the system when more than twice the threshold of it is free (mallopt(3): M_MMAP_THRESHOLD, M_TRIM_THRESHOLD and their dynamic
adjustment, here at its end, where a process arrives that has freed large blocks). So a model whose activations need a large heap
pays for it again at every call, block by block, though none of them is large.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence
from typing import NamedTuple

from shmoo.estimators.residency import Touch

MAPPED_BYTES = 32 * 2.0**20
"""Blocks above this are mapped by themselves."""
TRIMMED_BYTES = 2 * MAPPED_BYTES
"""Free bytes at the end of the heap above which they go back to the system."""
_HELD, _SOUGHT = 64.0, 96.0
"""Bytes that a block of aligned memory takes beyond its size, and that the search for it asks of a hole: frameworks align tensors
to 64 bytes, and glibc then looks for room for any alignment. So a block never fits the hole that one of its own size left."""


class Fresh(NamedTuple):
    """Bytes that the system gives anew: of blocks mapped by themselves, and of the heap where it grows back after it was trimmed.
    The latter depends on what else the process keeps at the heap's end: a single small block there holds all below."""

    mapped: float
    grown: float


NOTHING = Fresh(0.0, 0.0)


class Temporary(NamedTuple):
    """Bytes of the copies in a layout of its own that a library makes of a kernel's operand, freed before the result is
    allocated, and of the result, freed after. Copies of weights are small and find a hole."""

    operand: float
    result: float


def fresh_memory(kernels: Sequence[Sequence[Touch]], temporaries: Sequence[Temporary | None] | None = None) -> list[Fresh]:
    """What each kernel touches for the first time since the system gave it, in a sequence repeated back to back.

    Args:
        kernels: the memory each kernel touches; results are allocated when first written and freed after their last use.
        temporaries: what a library allocates around each kernel; none for `None`.
    """
    extra = temporaries or [None] * len(kernels)
    blocks = [(t.storage, max(t.size, t.nbytes)) for touches in kernels for t in touches if t.write and not t.persistent]
    sizes = [size for _, size in blocks] + [part for temporary in extra for part in temporary or ()]
    if sum(sizes) <= TRIMMED_BYTES and max(sizes, default=0.0) <= MAPPED_BYTES:
        return [NOTHING] * len(kernels)
    last_use = {touch.storage: i for i, touches in enumerate(kernels) for touch in touches}
    heap = _Heap()
    fresh: list[Fresh] = []
    for _ in range(2):  # the first repetition brings the heap to its steady state
        fresh = []
        held: dict[int, tuple[float, float]] = {}
        for i, touches in enumerate(kernels):
            mapped, grown = heap.mapped, heap.grown
            temporary = extra[i]
            if temporary:
                copies = heap.take(temporary.operand), heap.take(temporary.result)
                heap.give(copies[0])
            for touch in touches:
                if touch.write and not touch.persistent and touch.storage not in held:
                    held[touch.storage] = heap.take(max(touch.size, touch.nbytes))
            if temporary:
                heap.give(copies[1])
            fresh.append(Fresh(heap.mapped - mapped, heap.grown - grown))
            for storage in {t.storage for t in touches if last_use[t.storage] == i and t.storage in held}:
                heap.give(held.pop(storage))
        for block in held.values():
            heap.give(block)
    return fresh


class _Heap:
    """Blocks are (address, size), address -1 for those mapped by themselves. `mapped` and `grown` count what the system gave."""

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
        fits = [(hole[1], place) for place, hole in enumerate(self._holes) if hole[1] >= size + _SOUGHT]
        if fits:
            size += _HELD
            address, room = self._holes.pop(min(fits)[1])
            if room > size:
                insort(self._holes, (address + size, room - size))
            return address, size
        size += _HELD
        address, self._top = self._top, self._top + size
        if self._top > self._end:
            self.grown += self._top - self._end
            self._end = self._top
        return address, size

    def give(self, block: tuple[float, float]) -> None:
        address, size = block
        if address < 0 or size == 0:
            return
        joined = []
        for hole in self._holes:
            if hole[0] + hole[1] == address:
                address, size = hole[0], hole[1] + size
            elif address + size == hole[0]:
                size += hole[1]
            else:
                joined.append(hole)
        self._holes = joined
        if address + size < self._top:
            insort(self._holes, (address, size))
            return
        self._top = address
        if self._end - self._top > TRIMMED_BYTES:
            self._end = self._top
