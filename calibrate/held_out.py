"""Estimates beside the measurements of cases that no fit saw, and the error card of any group of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from msgspec.structs import replace

from shmoo.calibrate.dataset import Block
from shmoo.calibrate.fit import predicted_latency
from shmoo.estimators.coefficients import Coefficients
from shmoo.estimators.director import AnalysisDirector
from shmoo.estimators.profile import ArchitectureProfile, ErrorCardEntry
from shmoo.runs.metrics import error_card


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Seconds of n cases, (n,) each; `physical` are estimates without the residual, `noise` relative standard errors of what was
    measured."""

    estimated: np.ndarray
    low: np.ndarray
    high: np.ndarray
    physical: np.ndarray
    measured: np.ndarray
    noise: np.ndarray

    def entry(self, of: np.ndarray | None = None) -> ErrorCardEntry:
        """The error card of the cases of an (n,) mask, of all for `None`; the error of the physics alone stands in it where the
        residual changes any of them.

        Raises:
            NothingMeasuredError: there are none.
        """
        part = self if of is None else self.where(of)
        found = error_card(part.estimated, part.measured, part.low, part.high, part.noise if part.noise.any() else None)
        if np.allclose(part.estimated, part.physical):
            return found
        return replace(found, physics=float(np.abs(part.physical / part.measured - 1.0).mean()))

    def where(self, of: np.ndarray) -> HeldOut:
        """The cases of an (n,) mask."""
        return HeldOut(*(getattr(self, field.name)[of] for field in fields(HeldOut)))


def held_out(blocks: Sequence[Block], profile: ArchitectureProfile) -> HeldOut:
    """What a profile says of the cases of all blocks, in order."""
    measured = np.concatenate([block.measured_s for block in blocks])
    estimated, low, high = np.concatenate([case_intervals(block, profile) for block in blocks]).T
    physical = predicted_latency(blocks, Coefficients(profile)) if profile.residual else estimated
    noise = np.concatenate([block.relative_se for block in blocks])
    return HeldOut(estimated, low, high, physical, measured, noise)


def together(parts: Sequence[HeldOut]) -> HeldOut:
    """Cases of several machines, in order."""
    return HeldOut(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(HeldOut)))


def case_intervals(block: Block, profile: ArchitectureProfile) -> np.ndarray:
    """(S, 3) estimate and ends of its interval, in seconds, of every case of a block."""
    estimates = AnalysisDirector(profile).price(block.table, block.runtime, tiling=block.tiling, seed=0).intervals()
    return np.asarray([(latency.value, latency.low, latency.high) for latency, _ in estimates])
