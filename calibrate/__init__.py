"""Measured rows to fitted coefficients, with standard errors, held-out errors and intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shmoo.calibrate.calibration import Calibration, calibrate

__all__ = ["Calibration", "calibrate"]


def __getattr__(name: str) -> Any:
    """The fit brings scipy along, which a look at a machine's description does without: import it when it is asked for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from shmoo.calibrate import calibration

    return getattr(calibration, name)
