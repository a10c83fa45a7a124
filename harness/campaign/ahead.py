"""Compiling ahead of first visits: several processes compile at once while nothing is measured. The worker keeps the cases that
it builds; helpers leave their code in the compiler's cache for the worker. If a process dies, its case is compiled on its first
visit."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from shmoo.harness.campaign.worker import Worker
from shmoo.runs.store.records import CaseSpec, Measurement

HELPER_BYTES = 3 << 30
"""Memory of a process that has imported torch, builds one network at a time, and runs C++ compilers of up to a GiB."""
MOST_PROCESSES = 4
"""Most processes that compile at once, including the worker; each needs about ten seconds to import the compiler."""
BEAT_S = 0.5
"""Time between two checks of the processes' progress."""
LAST_S = 60.0
"""Longest wait for a compilation once no further one starts; a hanging one would take the whole time limit of a case."""
ORDER = ("operator", "network", "synthetic")
"""Order of the kinds of cases in the queue. Networks take longest and are not used for calibration, so they are last from both
ends."""


def helpers_for(cores: int, available_bytes: float) -> int:
    """Number of processes that can compile beside the worker with these cores and this available memory."""
    return max(0, min(cores, MOST_PROCESSES, 1 + int(available_bytes / HELPER_BYTES)) - 1)


def compile_ahead(
    worker: Worker, helpers: Sequence[Worker], cases: Sequence[CaseSpec], enough: Callable[[int], bool]
) -> list[Measurement]:
    """Prepare cases in all processes at once; helpers are closed at the end. `enough` is called repeatedly with the number of
    finished cases; once true, no further case starts. Returns a row without samples for each prepared case."""
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
                return  # it died or hangs, and would do so again for lack of memory

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
