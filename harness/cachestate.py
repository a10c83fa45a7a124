"""In what state a timed call finds the caches: `warm`, `cold` or `interleaved`. The state is part of the question asked.

    warm         call call call call ...                       back to back: the canonical state
    cold         call(copy 1) call(copy 2) ... call(copy n)    copies of everything it reads, together larger than any cache
                 flush call | flush call | ...                 where copies would be too many, or a compiled program holds them
    interleaved  other call | other call | ...                 other work, chosen at random, runs before each call

What runs between calls is never timed. Every state but the first two rows is timed one call at a time.
"""

from __future__ import annotations

import copy
import functools
import itertools
import math
import random
from collections.abc import Callable

import msgspec
import torch

from shmoo.estimators.errors import unknown
from shmoo.harness.memory import resident_bytes
from shmoo.harness.workloads.module import Built
from shmoo.runs.records import CACHE_STATES, AxisValue

TIMES_CACHE = 2
"""Rotated or flushed bytes over the capacity of the last-level cache: caches that are not strictly least-recently-used keep some
lines of a single pass."""
MOST_COPIES = 64
TYPICAL_CACHE = {"cpu": 64 << 20, "cuda": 128 << 20}
"""Last-level capacity where the machine does not tell its own: above that of most server sockets and of an H100 (50 MB)."""
SEED = 11


class Prepared(msgspec.Struct, frozen=True):
    """What to time for a cache state.

    Attributes:
        call: takes no arguments.
        before: runs untimed before each call; `None` where calls are back to back.
        facts: what was done, for the row's host observations.
    """

    call: Callable[[], object]
    before: Callable[[], object] | None = None
    facts: dict[str, AxisValue | None] = {}

    @property
    def block_calls(self) -> int | None:
        """1 where something runs between calls; otherwise blocks are as long as the clock needs."""
        return None if self.before is None else 1


def prepare(
    state: str, built: Built, forward: Callable[..., object], device: str, cache_bytes: int | None, *, copies_allowed: bool
) -> Prepared:
    """Make `forward(*built.args, **built.kwargs)` ready to be timed in a cache state.

    Args:
        forward: what to call; `built.model` itself, or what was compiled from it.
        cache_bytes: capacity of the last-level cache, of the L2 on a GPU; a typical one for `None`.
        copies_allowed: whether copies of the model may be called in its place, which a compiled program forbids.

    Raises:
        InputError: there is no such state.
    """
    call = functools.partial(forward, *built.args, **built.kwargs)
    if state == "warm":
        return Prepared(call)
    if state == "interleaved":
        return Prepared(call, OtherWork(device, SEED), {"between": "other work"})
    if state != "cold":
        raise unknown("cache state", state, CACHE_STATES)
    past = TIMES_CACHE * (cache_bytes or TYPICAL_CACHE[device.split(":")[0]])
    held = resident_bytes(built.model, built.args, built.kwargs)
    count = math.ceil(past / held) + 1 if held > 0 else MOST_COPIES + 1
    if copies_allowed and count <= MOST_COPIES:
        return Prepared(rotate(built, count), None, {"between": "rotation", "copies": count})
    return Prepared(call, flusher(past, device), {"between": "flush", "flushed_bytes": past})


def rotate(built: Built, count: int) -> Callable[[], object]:
    """A call that goes through `count` copies of the model and its operands, keeping as many results: these rotate too."""
    copies = [built, *(copy.deepcopy(built) for _ in range(count - 1))]
    calls = [functools.partial(each.model, *each.args, **each.kwargs) for each in copies]
    results: list[object] = [None] * count
    turn = itertools.cycle(range(count))

    def call() -> None:
        number = next(turn)
        results[number] = calls[number]()

    return call


def flusher(nbytes: int, device: str) -> Callable[[], object]:
    """Reads and writes `nbytes`, which drives everything else out of the caches. A plain fill would not do: libraries write large
    fills past the caches."""
    buffer = torch.ones(max(nbytes // 4, 1), dtype=torch.float32, device=device)
    return functools.partial(buffer.mul_, 1.0)


class OtherWork:
    """Work of another kind before each call, in a random order that the seed decides: a matrix product, a stream through memory,
    and a string of small operators, which leave other data, other instructions and another branch history behind."""

    def __init__(self, device: str, seed: int) -> None:
        self._draw = random.Random(seed)
        matrix = torch.rand(256, 256, device=device)
        stream, target = torch.rand(4 << 20, device=device), torch.empty(4 << 20, device=device)
        small = torch.rand(64, 64, device=device)
        self._pieces: tuple[Callable[[], object], ...] = (
            lambda: matrix @ matrix,
            lambda: target.copy_(stream),
            lambda: small.exp().add(1.0).t().contiguous().softmax(-1).sum(),
        )

    def __call__(self) -> object:
        return self._draw.choice(self._pieces)()
