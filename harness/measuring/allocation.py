"""The cost of a fresh output buffer: the allocator is part of the machine.

glibc maps buffers above its threshold (32 MB at most) anew on every call, and the kernel then faults in page after page: writing
such a buffer ran at 4.5 GB/s, and writing one that stayed allocated at 137 GB/s. Other allocators keep their pages. The malloc of
this process is measured, a preloaded one included; one thread writes the buffers.
"""

from __future__ import annotations

import ctypes
import logging
import time
from collections.abc import Callable
from typing import Any, Protocol

from shmoo.runs.store.records import AxisValue

logger = logging.getLogger(__name__)

SIZES = (1 << 20, 64 << 20)
"""Below every mapping threshold of glibc, and above the largest."""
REPEATS = 5
SETTLING = (32 << 20) - (64 << 10)
"""Just below the largest threshold of glibc (DEFAULT_MMAP_THRESHOLD_MAX on 64-bit systems)."""


class Heap(Protocol):
    """malloc, free and memset of this process."""

    def malloc(self, nbytes: int) -> int | None: ...

    def free(self, address: int) -> object: ...

    def memset(self, address: int, value: int, nbytes: int) -> object: ...


def process_heap() -> Heap:
    """The C library's functions as this process sees them.

    Raises:
        OSError: they cannot be reached from here.
    """
    try:
        library: Any = ctypes.CDLL(None)
        library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
        library.free.restype, library.free.argtypes = None, [ctypes.c_void_p]
        library.memset.restype, library.memset.argtypes = ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
    except (OSError, TypeError, AttributeError) as error:
        raise OSError(f"the C library's malloc cannot be reached ({error})") from None
    return library


def buffer_costs(heap: Heap | None = None, clock: Callable[[], float] = time.perf_counter) -> dict[str, AxisValue | None]:
    """Bytes per second at which fresh and held buffers of each size are written; the fastest of five writes.

    Returns:
        "measured.fresh_1MiB_bytes_per_s", "measured.held_1MiB_bytes_per_s", the same for 64 MiB, and
        "measured.fresh_s_per_byte": what a byte of a large fresh buffer costs beyond writing it. Only "measured.fresh_reason"
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
    """Bring glibc's thresholds to where they stay in a process that has freed large blocks.

    Each freed block with its own mapping raises them to its size (mallopt(3), dynamic adjustment). Before that, the time of a
    case depends on the cases before it: a result of 3 MiB took 2 ms more in a fresh process. Does nothing where malloc cannot be
    reached or has no memory.
    """
    try:
        functions = heap or process_heap()
        functions.free(_allocate(functions, SETTLING))
    except (OSError, MemoryError) as error:
        logger.debug("the heap stays as it is: %s", error)


def _write_s(heap: Heap, size: int, clock: Callable[[], float], *, fresh: bool) -> float:
    """Shortest time to fill a buffer: a new one each time, with its allocation, or the same one again and again."""
    times = []
    address = None
    if not fresh:
        address = _allocate(heap, size)
        heap.memset(address, 1, size)
    for _ in range(REPEATS):
        begin = clock()
        target = _allocate(heap, size) if address is None else address
        heap.memset(target, 1, size)
        times.append(clock() - begin)
        if address is None:
            heap.free(target)
    if address is not None:
        heap.free(address)
    return min(times)


def _allocate(heap: Heap, size: int) -> int:
    address = heap.malloc(size)
    if not address:
        raise MemoryError(f"malloc has no {size} bytes")
    return address
