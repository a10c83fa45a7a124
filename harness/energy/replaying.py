"""A probe that replays recorded readings: for tests, demonstrations, and for looking again at what a counter did."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from shmoo.estimators.records import decode_versioned
from shmoo.harness.energy.probe import DomainEnergy, Probe, Snapshot, energy_between

TRAIL_FORMAT = 1
"""Version of a recorded trail. 1: first."""
ENDED = "the recording ended"


class Recording(msgspec.Struct, frozen=True):
    """Readings of one probe, one counter a domain.

    Attributes:
        joules_per_unit: of the counters' values.
        spans: domain -> range of its counter in its own unit; absent where it is not known.
    """

    name: str
    domains: tuple[str, ...]
    update_period_s: float
    joules_per_unit: float
    snapshots: tuple[Snapshot, ...]
    spans: dict[str, float] = {}
    gain_error: float = 0.0
    format: int = msgspec.field(default_factory=lambda: TRAIL_FORMAT)

    def save(self, path: str | Path) -> None:
        """Write it as JSON."""
        Path(path).write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n")

    @classmethod
    def load(cls, path: str | Path) -> Recording:
        """Read one; `FormatError` where it is damaged or newer."""
        return decode_versioned(Path(path).read_bytes(), cls, TRAIL_FORMAT, "recording", str(path))


class ReplayProbe:
    """Gives the readings of a recording one after another, with the times they were taken at; then errors."""

    def __init__(self, recording: Recording) -> None:
        self.name = f"replay of {recording.name}"
        self.domains = recording.domains
        self.update_period_s = recording.update_period_s
        self.gain_error = recording.gain_error
        self._recording = recording
        self._next = 0

    def snapshot(self) -> Snapshot:
        taken = self._recording.snapshots
        if self._next >= len(taken):
            at_s = taken[-1].at_s if taken else 0.0
            return Snapshot(at_s, errors=dict.fromkeys(self.domains, ENDED))
        self._next += 1
        return taken[self._next - 1]

    def energy_j(self, before: Snapshot, after: Snapshot) -> dict[str, DomainEnergy]:
        recorded = self._recording
        return {
            domain: energy_between(
                domain,
                before,
                after,
                joules_per_unit=recorded.joules_per_unit,
                update_period_s=self.update_period_s,
                span=recorded.spans.get(domain),
            )
            for domain in self.domains
        }


def record(
    probe: Probe, snapshots: Sequence[Snapshot], joules_per_unit: float, spans: dict[str, float] | None = None
) -> Recording:
    """A recording of what a probe read; its counters must be one a domain, named after it."""
    return Recording(
        probe.name, probe.domains, probe.update_period_s, joules_per_unit, tuple(snapshots), spans or {}, probe.gain_error
    )
