"""The state of the caches before a timed call, which is part of the case: `warm` (calls back to back), `cold` (calls on copies
that together exceed any cache, or after a flush where copies would be too many or a compiled program holds them) or `interleaved`
(other work before each call). Work between calls is never timed."""

from __future__ import annotations

import copy
import functools
import itertools
import math
import random
from collections import deque
from collections.abc import Callable

import msgspec
import torch

from shmoo.estimators.errors import unknown
from shmoo.harness.measuring.memory import resident_bytes
from shmoo.harness.module import Built
from shmoo.runs.store.records import CACHE_STATES, AxisValue

TIMES_CACHE = 2
"""Rotated or flushed bytes over the capacity of the last-level cache, since caches that are not strictly least-recently-used keep
some lines of a single pass."""
MOST_COPIES = 64
TYPICAL_CACHE = {"cpu": 64 << 20, "cuda": 128 << 20}
"""Last-level capacity where the machine does not report its own: above that of most server sockets and of an H100 (50 MB)."""
SEED = 11


class PreparedCall(msgspec.Struct, frozen=True):
    """A call without arguments, prepared for a cache state; the untimed work `before` each call, `None` where calls run back to
    back; and the method, for the row's host observations."""

    call: Callable[[], object]
    before: Callable[[], object] | None = None
    facts: dict[str, AxisValue | None] = {}

    @property
    def block_calls(self) -> int | None:
        """1 if other work runs between calls; otherwise `None`, and blocks are as long as the clock needs."""
        return None if self.before is None else 1


def prepare(
    state: str, built: Built, forward: Callable[..., object], device: str, cache_bytes: int | None, *, copies_allowed: bool
) -> PreparedCall:
    """Make `forward(*built.args, **built.kwargs)` ready to be timed in a cache state; `InputError` for an unknown one.

    Args:
        forward: `built.model` itself, or the function compiled from it.
        cache_bytes: capacity of the last-level cache (on a GPU, of the L2); a typical one for `None`.
        copies_allowed: whether copies of the model may be called in its place; False for a compiled program.
    """
    call = functools.partial(forward, *built.args, **built.kwargs)
    if state == "warm":
        return PreparedCall(call)
    if state == "interleaved":
        return PreparedCall(call, other_work(device, SEED), {"between": "other work"})
    if state != "cold":
        raise unknown("cache state", state, CACHE_STATES)
    past = TIMES_CACHE * (cache_bytes or TYPICAL_CACHE[device.split(":")[0]])
    resident = resident_bytes(built)
    count = math.ceil(past / resident) + 1 if resident > 0 else MOST_COPIES + 1
    if copies_allowed and count <= MOST_COPIES:
        return PreparedCall(rotate(built, count), None, {"between": "rotation", "copies": count})
    return PreparedCall(call, flusher(past, device), {"between": "flush", "flushed_bytes": past})


def rotate(built: Built, count: int) -> Callable[[], object]:
    """A call that cycles through `count` copies of the model and its operands, and keeps the same number of results."""
    copies = [built, *(copy.deepcopy(built) for _ in range(count - 1))]
    calls = itertools.cycle([functools.partial(copy.model, *copy.args, **copy.kwargs) for copy in copies])
    results: deque[object] = deque([None] * count, maxlen=count)
    return lambda: results.append(next(calls)())


def flusher(nbytes: int, device: str) -> Callable[[], object]:
    """A call that reads and writes `nbytes`, which evicts everything else from the caches. A plain fill would not, since
    libraries write large fills past the caches."""
    buffer = torch.ones(max(nbytes // 4, 1), dtype=torch.float32, device=device)
    return functools.partial(buffer.mul_, 1.0)


def other_work(device: str, seed: int) -> Callable[[], object]:
    """A call that runs other work, in an order determined by the seed: a matrix product, a stream through memory, or a series of
    small operators, which change the cached data, the instructions and the branch history."""
    draw = random.Random(seed)
    matrix = torch.rand(256, 256, device=device)
    stream, target = torch.rand(4 << 20, device=device), torch.empty(4 << 20, device=device)
    small = torch.rand(64, 64, device=device)
    pieces: tuple[Callable[[], object], ...] = (
        lambda: matrix @ matrix,
        lambda: target.copy_(stream),
        lambda: small.exp().add(1.0).t().contiguous().softmax(-1).sum(),
    )
    return lambda: draw.choice(pieces)()
