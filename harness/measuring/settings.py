"""How cases are measured; free of torch, so that a campaign can pass it on to workers that need it."""

from __future__ import annotations

import msgspec

from shmoo.harness.energy.sampler import EnergySettings
from shmoo.harness.measuring.timing import NETWORK_VISIT, VISIT, TimingSettings


class MeasureSettings(msgspec.Struct, frozen=True, omit_defaults=True):
    """How cases are measured.

    Attributes:
        operator: timing of one visit to an operator or a synthetic model. network: of one visit to a network.
        gpu, gpu_network: the same on a GPU, whose device time needs no protection from the host's neighbours.
        threads: for cases that name none; `None` leaves torch's own number.
        children_s: time for timing each call of a network or synthetic model in eager; 0 leaves it out.
        operators: timing of each distinct operator of a network alone, in eager; `None` leaves it out.
        memory: measure peak memory (not for single operators on CPU, where it follows from the shapes).
        kept_share: share of the memory in which built cases wait for their next visit; small, so that calls find memory that was
            used a moment ago.
    """

    operator: TimingSettings = VISIT
    network: TimingSettings = NETWORK_VISIT
    gpu: TimingSettings = TimingSettings(max_s=0.6)
    gpu_network: TimingSettings = TimingSettings(warmup_s=0.2, max_warmup_s=1.5, min_s=1.0, max_s=3.0)
    energy: EnergySettings = EnergySettings()
    threads: int | None = None
    children_s: float = 0.5
    operators: TimingSettings | None = None
    memory: bool = True
    kept_share: float = 0.08


ALONE = TimingSettings(warmup_s=0.02, max_warmup_s=0.2, min_s=0.08, max_s=0.25)
"""Timing of operators alone: a network has dozens to hundreds of distinct ones, which together take about as long as it does."""
