"""What a fresh output buffer costs: the allocator is part of the machine.

glibc maps buffers above its threshold (32 MB at most) anew on every call, and the kernel then faults in page after page: writing
such a buffer ran at 4.5 GB/s where a held one took 137 GB/s. Other allocators keep their pages. Asked is whatever malloc this
process runs with, preloaded ones included; the buffers are written by one thread.
"""

from __future__ import annotations

import ctypes
import logging
import time
from collections.abc import Callable
from typing import Any, Protocol

from shmoo.runs.records import AxisValue

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
    """Bytes per second at which fresh and held buffers of each size are written, smallest time of five.

    Returns:
        "measured.fresh_1MiB_bytes_per_s", "measured.held_1MiB_bytes_per_s", the same for 64 MiB, and
        "measured.fresh_s_per_byte": what a byte of a large fresh buffer costs beyond writing it. Only "measured.fresh_reason"
        where malloc cannot be reached or has no memory.
    """
    try:
        functions = process_heap() if heap is None else heap
        found: dict[str, AxisValue | None] = {}
        for size in SIZES:
            fresh, held = _fresh_s(functions, size, clock), _held_s(functions, size, clock)
            label = f"{size >> 20}MiB"
            found[f"measured.fresh_{label}_bytes_per_s"] = size / fresh if fresh > 0 else None
            found[f"measured.held_{label}_bytes_per_s"] = size / held if held > 0 else None
        found["measured.fresh_s_per_byte"] = max(fresh - held, 0.0) / size
    except (OSError, MemoryError) as error:
        return {"measured.fresh_reason": str(error)}
    return found


def settle_heap(heap: Heap | None = None) -> None:
    """Bring glibc's thresholds to where they stay in a process that has freed large blocks.

    Each freed block that was mapped by itself raises them to its size (mallopt(3), dynamic adjustment). Until then what a case
    costs depends on the cases before it: a result of 3 MiB took 2 ms more in a fresh process. Does nothing where malloc cannot be
    reached or has no memory.
    """
    try:
        functions = process_heap() if heap is None else heap
        functions.free(_allocate(functions, SETTLING))
    except (OSError, MemoryError) as error:
        logger.debug("the heap stays as it is: %s", error)


def _fresh_s(heap: Heap, size: int, clock: Callable[[], float]) -> float:
    times = []
    for _ in range(REPEATS):
        begin = clock()
        address = _allocate(heap, size)
        heap.memset(address, 1, size)
        times.append(clock() - begin)
        heap.free(address)
    return min(times)


def _held_s(heap: Heap, size: int, clock: Callable[[], float]) -> float:
    address = _allocate(heap, size)
    heap.memset(address, 1, size)
    times = []
    for _ in range(REPEATS):
        begin = clock()
        heap.memset(address, 1, size)
        times.append(clock() - begin)
    heap.free(address)
    return min(times)


def _allocate(heap: Heap, size: int) -> int:
    address = heap.malloc(size)
    if not address:
        raise MemoryError(f"malloc has no {size} bytes")
    return address
