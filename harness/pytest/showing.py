"""A row as shown by pytest-benchmark: its samples as rounds, and our figures beside them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from shmoo.runs.store.records import Measurement, Timing
from shmoo.runs.store.statistics import iqr, mad


class ReplayClock:
    """A clock for pytest-benchmark, read before and after each round, that replays measured durations."""

    __name__ = "ReplayClock"

    def __init__(self) -> None:
        self._readings: Iterator[float] = iter(())

    def load(self, durations_s: Sequence[float]) -> None:
        """Make the next two readings `durations_s[0]` apart, the two after them `durations_s[1]`, and so on."""
        self._readings = itertools.chain.from_iterable((0.0, duration) for duration in durations_s)

    def __call__(self) -> float:
        """The next reading, in seconds."""
        # pytest-benchmark also reads the clock to measure its precision, while nothing is loaded.
        return next(self._readings, 0.0) or 0.0


def figures(row: Measurement, timing: Timing) -> dict[str, object]:
    """Our figures for pytest-benchmark's JSON, in SI units."""
    samples, latency, time_alone = timing.samples_s, row.latency, row.alone
    info: dict[str, object] = {
        "case": row.case.label,
        "identity": row.case.identity,
        "dtype": row.case.dtype,
        "runtime": row.case.runtime,
        "device": row.case.device,
        "threads": row.case.threads,
        "cache_state": row.case.cache_state,
        "status": row.status,
        "reasons": [str(reason) for reason in row.reasons],
        "visits": latency.visits,
        "latency_s": latency.value_s,
        "relative_se": latency.relative_se,
        "alone_s": None if time_alone is None else time_alone.value_s,
        "alone_relative_se": None if time_alone is None else time_alone.relative_se,
        "latency_mad_s": mad(samples),
        "latency_iqr_s": iqr(samples),
        "samples": len(samples),
        "block_calls": timing.block_calls,
        "stop_reason": timing.stop_reason,
        "first_call_s": timing.first_call_s,
        "compile_s": timing.compile_s,
        "peak_memory_bytes": row.peak_memory_bytes,
        "graph_hashes": list(row.graph_hashes),
    }
    for reading in row.energy:
        info[f"energy_{reading.domain}_j"] = reading.energy_j
        if reading.energy_j is None:
            info[f"energy_{reading.domain}_j_reason"] = reading.reason
    return info
