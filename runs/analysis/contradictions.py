"""What the values of a visit say against each other: a time that was edited alone no longer fits what was counted beside it.

docs/measuring.md ("What `check` sees of edited rows") lists what this finds and what it cannot find."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from shmoo.estimators.registry import grouped
from shmoo.estimators.units import percent, si
from shmoo.runs.store.records import Measurement, Timing
from shmoo.runs.store.statistics import FEW_CASES
from shmoo.runs.store.visits import UNUSABLE

CLOCKS_APART_S = 5e-4
"""The clock of a thread runs ahead of the wall clock by up to 0.26 ms a block where the kernel accounts in ticks (556 visits on a
shared virtual machine)."""
CLOCKS_APART = 0.2
"""The same relative to the block; CPU time of 556 visits was at most 1.02 times what their threads could use."""
HARDLY_ON_CORE = 0.5
"""A thread that nobody took off its core was on it for at least 99.3 % of each block of 556 visits."""
SHORT_VISIT = 0.1
"""Visits of one kind last about as long; the shortest of 1,000 lasted 0.38 of their median."""
UNREPEATABLE = 8
"""So many times in a row never repeat to the last digit."""


def contradictions(line: Measurement, threads: int) -> Iterator[str]:
    """What the values of one visit say against each other. Args: threads: of the manifest."""
    asked = line.case.threads or threads
    used = line.host.get("threads")
    if isinstance(used, int) and used != asked:
        yield f"it was measured with threads={used} in a run of threads={asked}"
    unusable = [reason.code for reason in line.reasons if reason.code in UNUSABLE]
    if line.status == "suspect" and line.reasons and not unusable:
        yield f"it is suspect, and none of its reasons makes it so ({line.why})"
    if line.status in ("ok", "noisy") and unusable:
        yield f"it is {line.status}, though {unusable[0]!r} makes a visit suspect"
    if line.timing is not None and line.timing.samples_s and line.case.device == "cpu":
        yield from _clocks(line.timing, asked)


def _clocks(timing: Timing, threads: int) -> Iterator[str]:
    blocks = np.asarray(timing.samples_s) * timing.block_calls
    wall_s = float(blocks.sum())
    on_core = np.asarray(timing.on_core_s) * timing.block_calls
    if on_core.size:
        excess = on_core - blocks
        if np.any(excess > np.maximum(CLOCKS_APART_S, CLOCKS_APART * blocks)):
            worst = int((excess / blocks).argmax())
            ran, lasted = si(float(on_core[worst]), "s"), si(float(blocks[worst]), "s")
            yield f"its thread had a core for {ran} of a block that lasted {lasted}"
    if timing.cpu_s is None:
        return
    if timing.cpu_s > (1 + CLOCKS_APART) * threads * wall_s + CLOCKS_APART_S * blocks.size:
        yield f"it used {si(timing.cpu_s, 's')} of CPU time in {si(wall_s, 's')} with threads={threads}"
    if on_core.size and timing.cpu_s < (1 - CLOCKS_APART) * float(on_core.sum()) - CLOCKS_APART_S * blocks.size:
        yield f"it used {si(timing.cpu_s, 's')} of CPU time, and its thread had a core for {si(float(on_core.sum()), 's')}"
    undisturbed = np.asarray(timing.switches) == 0
    if threads == 1 and on_core.size == undisturbed.size == blocks.size:
        shares = np.where(undisturbed, on_core / blocks, 1.0)
        worst = int(shares.argmin())
        # A call that waits by itself, as for a disk, does so in most blocks.
        waits = float(np.median(shares[undisturbed])) < 1 - CLOCKS_APART if undisturbed.any() else True
        if not waits and shares[worst] < HARDLY_ON_CORE and blocks[worst] - on_core[worst] > CLOCKS_APART_S:
            share = percent(float(shares[worst]), digits=0)
            yield f"its thread had a core for {share} of a block of {si(float(blocks[worst]), 's')} in which nobody took it away"


def short_visits(lines: Sequence[Measurement]) -> Iterator[tuple[str, Measurement]]:
    """Visits whose calls together last far less than those of their kind, which all go on for as long."""
    timed = [(line, line.timing) for line in lines if line.timed and line.timing is not None]
    kinds = grouped(
        ((line.case.kind, line.case.device, timing.stop_reason), (line, float(np.sum(timing.samples_s)) * timing.block_calls))
        for line, timing in timed
        if timing.stop_reason == "timeout"
    )
    for visits in kinds.values():
        if len(visits) < FEW_CASES:
            continue
        usual = float(np.median([lasted_s for _, lasted_s in visits]))
        for line, lasted_s in visits:
            if lasted_s < SHORT_VISIT * usual:
                yield f"visit {line.visit}: its calls last {si(lasted_s, 's')} together, those of others {si(usual, 's')}", line


def same_samples(lines: Sequence[Measurement]) -> Iterator[tuple[str, Measurement]]:
    """Visits whose times are all those of another visit."""
    seen: dict[tuple[float, ...], Measurement] = {}
    for line in lines:
        samples = () if line.timing is None else line.timing.samples_s
        if len(set(samples)) < UNREPEATABLE:
            continue
        first = seen.setdefault(samples, line)
        if first is not line:
            yield f"visit {line.visit} has the {len(samples)} times of visit {first.visit} to {first.case.label}", line
