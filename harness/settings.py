"""How cases are measured; free of torch, so that a campaign can pass it on to workers that need it."""

from __future__ import annotations

import msgspec

from shmoo.harness.energy.sampler import EnergySettings
from shmoo.harness.timing import TimingSettings
from shmoo.harness.undisturbed import MAX_RETRIES


class MeasureSettings(msgspec.Struct, frozen=True, omit_defaults=True):
    """How cases are measured.

    Attributes:
        operator: timing of operators and synthetic models. network: timing of networks.
        threads: for cases that name none; `None` leaves torch's own number.
        retries: a disturbed timing is discarded and repeated up to this often; then the last one stands, with its reasons.
        children_s: time for timing each call of a network or synthetic model in eager; 0 leaves it out.
        operators: timing of each distinct operator of a network alone, in eager; `None` leaves it out.
        memory: measure peak memory (not for single operators on CPU, where it follows from the shapes).
    """

    operator: TimingSettings = TimingSettings(max_s=0.6)
    network: TimingSettings = TimingSettings(warmup_s=0.2, max_warmup_s=1.5, min_s=1.0, max_s=3.0)
    energy: EnergySettings = EnergySettings()
    threads: int | None = None
    retries: int = MAX_RETRIES
    children_s: float = 1.0
    operators: TimingSettings | None = None
    memory: bool = True


ALONE = TimingSettings(warmup_s=0.02, max_warmup_s=0.2, min_s=0.08, max_s=0.25)
"""Timing of operators alone: a network has dozens to hundreds of distinct ones, which together take about as long as it does."""
