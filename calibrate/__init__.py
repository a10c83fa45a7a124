"""Measured rows to fitted coefficients, with standard errors, held-out errors and intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shmoo.estimators.registry import on_demand

if TYPE_CHECKING:
    from shmoo.calibrate.calibration import Calibration, calibrate

__all__ = ["Calibration", "calibrate"]

# The fit brings scipy along, which a look at a machine's description does without.
__getattr__ = on_demand(__name__, dict.fromkeys(__all__, "shmoo.calibrate.calibration"))
