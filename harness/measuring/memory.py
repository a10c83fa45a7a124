"""Memory of cases: their weights and arguments, the peak of a call, and built cases that wait for their next visit."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

import torch
from torch.utils._pytree import tree_leaves

from shmoo.harness.machine.doctor import available_bytes, process_bytes
from shmoo.harness.module import Built
from shmoo.harness.runtimes.chatter import without_chatter
from shmoo.runs.store.records import CaseSpec

if TYPE_CHECKING:
    from shmoo.harness.measuring.cachestate import PreparedCall

UNFREED_SHARE = 0.25
"""Growth of this process, as a share of the room for waiting cases, after which frozen objects are searched for garbage, which
takes half a second."""
LEAST_GROWTH = 256 << 20
"""Smallest such growth in bytes."""


@dataclass(slots=True)
class Session:
    """A built and compiled case, ready for another visit: calls per block, from the first visit; bytes of weights and operands
    while it waits; seconds to build and compile it; and bytes of new memory that a call touches."""

    case: CaseSpec
    built: Built
    prepared: PreparedCall
    first_call_s: float
    compile_s: float | None
    call_blocks: int | None
    kept_bytes: float
    begin_s: float
    fresh_bytes: int


class WaitingCases:
    """Cases that wait for their next visit. When they take more than a share of the memory available without them, the cases that
    are fastest to rebuild, per byte, are dropped.

    A dropped case is freed at once unless it is part of a cycle. If this process grows by more than the waiting cases do, frozen
    objects are searched for garbage.
    """

    def __init__(
        self, share: float, available: Callable[[], float] = available_bytes, resident: Callable[[], float] = process_bytes
    ) -> None:
        self._share = share
        self._available = available
        self._resident = resident
        self._sessions: dict[str, Session] = {}
        self._others: float | None = None
        """Bytes of this process beside waiting cases, at the last search."""

    def get(self, case: CaseSpec) -> Session | None:
        """The waiting case, if there is one."""
        return self._sessions.get(case.identity)

    def keep(self, session: Session) -> None:
        """Keep a case if there is room."""
        self._sessions[session.case.identity] = session
        room = self._share * (self._available() + self._waiting_bytes)
        for waiting in sorted(self._sessions.values(), key=lambda waiting: waiting.begin_s / max(waiting.kept_bytes, 1.0)):
            if self._waiting_bytes <= room:
                break
            self.drop(waiting.case)
        if self._others is None:
            self._others = self._resident() - self._waiting_bytes
        elif self._resident() - self._waiting_bytes > self._others + max(UNFREED_SHARE * room, LEAST_GROWTH):
            gc.unfreeze()
            freeze()
            self._others = self._resident() - self._waiting_bytes

    def drop(self, case: CaseSpec) -> None:
        """Drop a case."""
        self._sessions.pop(case.identity, None)

    @property
    def _waiting_bytes(self) -> float:
        return sum(session.kept_bytes for session in self._sessions.values())


def freeze() -> None:
    """Exclude existing objects from later garbage collections, after a collection, since frozen garbage would stay."""
    gc.collect()
    gc.freeze()


def resident_bytes(built: Built) -> float:
    """Bytes of weights and arguments, which exist before the call; shared memory counts once."""
    tensors = [leaf for leaf in tree_leaves([list(built.args), built.kwargs]) if isinstance(leaf, torch.Tensor)]
    if isinstance(built.model, torch.nn.Module):
        tensors += [*built.model.parameters(), *built.model.buffers()]
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return float(sum(storages.values()))


def peak_cpu_bytes(call: Callable[[], object], resident: float) -> tuple[float | None, str]:
    """Peak bytes, `resident` plus the call's largest total allocation; or `None` and the reason.

    Counts memory from torch's CPU allocator, but not buffers that a library maps itself.
    """
    from torch.profiler import ProfilerActivity, profile

    with without_chatter(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as session:
        call()
    results = getattr(session.profiler, "kineto_results", None)
    if results is None:
        return None, "this torch's profiler gives no allocation events"
    events = sorted((event for event in results.events() if event.name() == "[memory]"), key=lambda event: event.start_ns())
    return resident + highest_sum(event.nbytes() for event in events), ""


def highest_sum(changes: Iterable[float]) -> float:
    """The largest running sum of allocations (positive) and releases (negative), at least 0."""
    return max(accumulate(changes, initial=0.0))


def peak_cuda_bytes(call: Callable[[], object], device: str) -> tuple[float | None, str]:
    """Peak bytes from the caching allocator during the call, weights and arguments included."""
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    call()
    torch.cuda.synchronize(device)
    return float(torch.cuda.max_memory_allocated(device)), ""
