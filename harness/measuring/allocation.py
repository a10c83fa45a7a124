"""The allocator as part of the machine: the cost of a fresh output buffer, and settings that make the heap of a process with many
cases behave like that of a process with one model. glibc maps large buffers anew on every call, and the kernel then faults in
page after page; docs/measuring.md has the numbers."""

from __future__ import annotations

import ctypes
import logging
import mmap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from shmoo.harness.measuring.watch.hostwatch import page_faults
from shmoo.runs.store.records import AxisValue

logger = logging.getLogger(__name__)

SIZES = (1 << 20, 64 << 20)
"""Bytes of a buffer below every mapping threshold of glibc, and of one above the largest."""
REPEATS = 5
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameters of mallopt(3): free bytes at the top of the heap above which they are returned to the system, and the size from
which a block gets its own mapping."""
FIRST_THRESHOLD = 128 << 10
"""glibc's mapping threshold before any block was freed (DEFAULT_MMAP_THRESHOLD_MIN)."""
SETTLED_THRESHOLD = (32 << 20) - (64 << 10)
"""Just below glibc's largest (DEFAULT_MMAP_THRESHOLD_MAX on 64-bit systems)."""
HOLE = 4 << 20
"""Smallest hole to fill, in bytes; smaller results cost few page faults."""
MOST_HOLES = 1 << 12
LITTLE = 16 << 20
"""Bytes of new memory below which a call needs no warming."""
COLD = 3.0
"""Time per page over the shortest time, above which pages are cold: cold pages take seven times as long, warm pages beside a
neighbour on the core twice as long."""
WARMING_S = 1.5
"""Time after which no further round of warming starts."""
SMALLEST_SHARE = 1 / 16
"""Smallest share of a call's memory that is touched while memory keeps being warm."""


class HeapInfo(ctypes.Structure):
    """The result of mallinfo2(3), in bytes or counts."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")
    ]


Heap = Any
"""The C library's malloc, free, memset, mallopt, malloc_trim and mallinfo2, or a stand-in."""


def process_heap() -> Heap:
    """The C library's functions as this process sees them; `OSError` where they cannot be reached."""
    try:
        library = ctypes.CDLL(None)
        library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
        library.free.restype, library.free.argtypes = None, [ctypes.c_void_p]
        library.memset.restype, library.memset.argtypes = ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
    except (OSError, TypeError, AttributeError) as error:
        raise OSError(f"the C library's malloc cannot be reached ({error})") from None
    if hasattr(library, "mallinfo2"):
        library.mallinfo2.restype = HeapInfo
    return library


def buffer_costs(heap: Heap | None = None, clock: Callable[[], float] = time.perf_counter) -> dict[str, AxisValue | None]:
    """Bytes per second when writing fresh and reused buffers of each size; the fastest of five writes.

    Returns:
        "measured.fresh_1MiB_bytes_per_s", "measured.held_1MiB_bytes_per_s", the same for 64 MiB, and
        "measured.fresh_s_per_byte": the cost of a byte of a large fresh buffer beyond writing it. Only "measured.fresh_reason"
        where malloc cannot be reached or has no memory.
    """
    costs: dict[str, AxisValue | None] = {}
    try:
        functions = heap or process_heap()
        for size in SIZES:
            fresh_s, held_s = _write_s(functions, size, clock, fresh=True), _write_s(functions, size, clock, fresh=False)
            for label, seconds in (("fresh", fresh_s), ("held", held_s)):
                costs[f"measured.{label}_{size >> 20}MiB_bytes_per_s"] = size / seconds if seconds > 0 else None
        costs["measured.fresh_s_per_byte"] = max(fresh_s - held_s, 0.0) / size
    except (OSError, MemoryError) as error:
        return {"measured.fresh_reason": str(error)}
    return costs


def settle_heap(heap: Heap | None = None) -> None:
    """Fix glibc's thresholds at the values that they reach in a process that has freed large blocks: each freed block with its
    own mapping raises the mapping threshold to its size, and the trim threshold to twice that (mallopt(3), dynamic adjustment).
    Does nothing under another allocator."""
    _set_threshold(SETTLED_THRESHOLD, heap)


@contextmanager
def mapped_apart(heap: Heap | None = None) -> Iterator[None]:
    """While active, blocks of 128 KiB and more get their own mappings, which are returned to the system as a whole."""
    _set_threshold(FIRST_THRESHOLD, heap)
    try:
        yield
    finally:
        _set_threshold(SETTLED_THRESHOLD, heap)


def _set_threshold(nbytes: int, heap: Heap | None) -> None:
    try:
        functions = heap or process_heap()
        functions.mallopt(M_MMAP_THRESHOLD, nbytes)
        functions.mallopt(M_TRIM_THRESHOLD, 2 * SETTLED_THRESHOLD)
    except (OSError, AttributeError) as error:
        logger.debug("the heap stays as it is: %s", error)


def fill_holes(heap: Heap | None = None) -> int:
    """Permanently occupy the holes that freed blocks left in the heap, after returning their pages to the system. Returns the
    number of holes; 0 under another allocator, or with a glibc older than 2.33."""
    try:
        functions = heap or process_heap()
        functions.malloc_trim(0)
        for count in range(MOST_HOLES):
            before = functions.mallinfo2()
            address = functions.malloc(HOLE)
            after = functions.mallinfo2()
            if not address:
                return count
            # malloc uses a hole before the top of the heap or a new mapping.
            if (after.hblks, after.keepcost) != (before.hblks, before.keepcost):
                functions.free(address)
                return count
    except (OSError, AttributeError) as error:
        logger.debug("holes in the heap stay: %s", error)
        return 0
    return MOST_HOLES


class FreshPages:
    """Warms the memory that the system hands out next; `touch` touches a number of bytes of new memory and returns them."""

    def __init__(self, touch: Callable[[int], object] | None = None, clock: Callable[[], float] = time.perf_counter) -> None:
        self._touch = touch or _touch_fresh
        self._clock = clock
        self._least_s = float("inf")
        self._share = 1.0
        for _ in range(REPEATS):
            self._round(LITTLE)

    def warm(self, nbytes: int) -> None:
        """Touch `nbytes` of new memory repeatedly until that is about as fast as the fastest time. The system does not first hand
        out the memory that was returned last, so several rounds may be needed.

        Touching takes as long as many a call. Each time the memory is warm at once, half as much is touched the next time; once
        it is cold, all of it again.
        """
        if nbytes < LITTLE:
            return
        begin = self._clock()
        if not self._cold(max(LITTLE, int(self._share * nbytes))):
            self._share = max(SMALLEST_SHARE, self._share / 2)
            return
        self._share = 1.0
        while self._cold(nbytes) and self._clock() - begin < WARMING_S:
            pass

    def _cold(self, nbytes: int) -> bool:
        return self._round(nbytes) > COLD * self._least_s

    def _round(self, nbytes: int) -> float:
        """Seconds per byte of touching new memory; 0 where there is none."""
        start = self._clock()
        try:
            self._touch(nbytes)
        except (OSError, ValueError, AttributeError) as error:
            logger.debug("%d bytes cannot be touched: %s", nbytes, error)
            return 0.0
        seconds_per_byte = (self._clock() - start) / nbytes
        self._least_s = min(self._least_s, seconds_per_byte)
        return seconds_per_byte


def faulted_bytes(call: Callable[[], object]) -> int:
    """Bytes of new pages that a call touches, from its page faults."""
    before = page_faults()
    call()
    return (page_faults() - before) * mmap.PAGESIZE


def _touch_fresh(nbytes: int) -> None:
    with mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        np.frombuffer(memory, np.uint8)[:: mmap.PAGESIZE] = 1


def _write_s(heap: Heap, size: int, clock: Callable[[], float], *, fresh: bool) -> float:
    """Shortest time to fill a buffer: a new one each time, including its allocation, or the same one repeatedly."""
    times = []
    address = None
    for _ in range(REPEATS + (not fresh)):
        begin = clock()
        address = address or _allocate(heap, size)
        heap.memset(address, 1, size)
        times.append(clock() - begin)
        if fresh:
            heap.free(address)
            address = None
    if address:
        heap.free(address)
    return min(times[-REPEATS:])


def _allocate(heap: Heap, size: int) -> int:
    address = heap.malloc(size)
    if not address:
        raise MemoryError(f"malloc has no {size} bytes")
    return address
