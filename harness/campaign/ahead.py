"""Compiling ahead of first visits: several processes compile at once while nothing is measured. The worker keeps what it builds,
helpers leave their code in the compiler's cache, where the worker finds it. A process that dies loses the case that it had: its
first visit compiles it then."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from shmoo.harness.campaign.worker import Worker
from shmoo.runs.store.records import CaseSpec, Measurement

HELPER_BYTES = 3 << 30
"""Memory for a process that has imported torch, builds one network at a time, and runs C++ compilers of up to a GiB."""
MOST_PROCESSES = 4
"""Processes that compile at once, the worker included: each needs some ten seconds to import the compiler."""
BEAT_S = 0.5
"""Time between two looks at how far the processes are."""
LAST_S = 60.0
"""How long a compilation is waited for once no further one begins; one that hangs would take the whole time of a case."""
ORDER = ("operator", "network", "synthetic")
"""Kinds of cases in the queue. Networks, which take longest and calibrate nothing, come last from either end."""


def helpers_for(cores: int, available_bytes: float) -> int:
    """How many processes can compile beside the worker on so many cores and with so much memory available."""
    return max(0, min(cores, MOST_PROCESSES, 1 + int(available_bytes / HELPER_BYTES)) - 1)


def compile_ahead(
    worker: Worker, helpers: Sequence[Worker], cases: Sequence[CaseSpec], enough: Callable[[int], bool]
) -> list[Measurement]:
    """Prepare cases in all processes at once; helpers are closed at the end. `enough` is asked again and again, with the number
    of cases done, whether no further case is to be begun. Returns a row for each case that was prepared, without samples."""
    queue = deque(sorted(cases, key=lambda case: ORDER.index(case.kind)))
    rows: list[Measurement] = []
    ended = threading.Event()

    def work(process: Worker, take: Callable[[], CaseSpec]) -> None:
        while not ended.is_set():
            try:
                row = process.prepare(take())
            except (IndexError, OSError):
                return  # nothing is left to take, or no process can be started
            if row.status != "failed":
                rows.append(row)
            elif row.reasons[0].code == "worker":
                return  # it died or hangs, and would again for lack of memory

    processes = [(worker, queue.pop), *((helper, queue.popleft) for helper in helpers)]
    threads = [threading.Thread(target=work, args=taking, daemon=True) for taking in processes]

    def stop() -> None:
        ended.set()
        for (process, _), thread in zip(processes, threads, strict=True):
            while thread.is_alive():
                process.interrupt()
                thread.join(BEAT_S / 10)

    try:
        for thread in threads:
            thread.start()
        latest_s = math.inf
        while alive := [thread for thread in threads if thread.is_alive()]:
            alive[0].join(BEAT_S)
            if enough(len(rows)):
                ended.set()
                latest_s = min(latest_s, time.monotonic() + LAST_S)
            if time.monotonic() >= latest_s:
                stop()
    except BaseException:
        stop()
        raise
    finally:
        for helper in helpers:
            helper.close()
    return rows
