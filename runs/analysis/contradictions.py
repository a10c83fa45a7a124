"""Contradictions between the values of a visit: a time that was edited no longer fits the clocks and counters beside it.

docs/measuring.md ("What `check` sees of edited rows") lists what this can and cannot detect.
"""

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
"""The same limit relative to the block; in 556 visits CPU time was at most 1.02 times what the threads could use."""
HARDLY_ON_CORE = 0.5
"""Share of a block; in 556 visits, a thread that was not preempted was on its core for at least 99.3 % of each block."""
SHORT_VISIT = 0.1
"""Share of the median length; visits of one kind last about equally long, and the shortest of 1,000 lasted 0.38 of the median."""
UNREPEATABLE = 8
"""Number of successive times that never repeat to the last digit by chance."""


def contradictions(line: Measurement, threads: int) -> Iterator[str]:
    """Contradictions between the values of one visit. `threads` is the manifest's number."""
    case_threads = line.case.threads or threads
    used = line.host.get("threads")
    if isinstance(used, int) and used != case_threads:
        yield f"it was measured with threads={used} in a run of threads={case_threads}"
    unusable = [reason.code for reason in line.reasons if reason.code in UNUSABLE]
    if line.status == "suspect" and line.reasons and not unusable:
        yield f"it is suspect, but none of its reasons makes a visit suspect ({line.why})"
    if line.status in ("ok", "noisy") and unusable:
        yield f"it is {line.status}, though {unusable[0]!r} makes a visit suspect"
    if line.timing is not None and line.timing.samples_s and line.case.device == "cpu":
        yield from _clocks(line.timing, case_threads)


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
        # A call that waits, for example for a disk, waits in most blocks.
        waits = float(np.median(shares[undisturbed])) < 1 - CLOCKS_APART if undisturbed.any() else True
        if not waits and shares[worst] < HARDLY_ON_CORE and blocks[worst] - on_core[worst] > CLOCKS_APART_S:
            share = percent(float(shares[worst]), digits=0)
            yield f"its thread had a core for {share} of a block of {si(float(blocks[worst]), 's')} in which it was not preempted"


def short_visits(lines: Sequence[Measurement]) -> Iterator[tuple[str, Measurement]]:
    """Visits whose calls last far less in total than the visits of their kind, which all last about equally long."""
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
                yield f"visit {line.visit}: its calls last {si(lasted_s, 's')} in total, other visits {si(usual, 's')}", line


def same_samples(lines: Sequence[Measurement]) -> Iterator[tuple[str, Measurement]]:
    """Visits with exactly the times of another visit."""
    first_visits: dict[tuple[float, ...], Measurement] = {}
    for line in lines:
        samples = () if line.timing is None else line.timing.samples_s
        if len(set(samples)) < UNREPEATABLE:
            continue
        first = first_visits.setdefault(samples, line)
        if first is not line:
            yield f"visit {line.visit} has the {len(samples)} times of visit {first.visit} to {first.case.label}", line
