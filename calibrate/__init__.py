"""Measured rows to fitted coefficients, with standard errors, held-out errors and intervals."""

from shmoo.calibrate.calibration import Calibration, calibrate

__all__ = ["Calibration", "calibrate"]
