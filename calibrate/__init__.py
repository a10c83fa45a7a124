"""Measured rows to fitted coefficients, with standard errors, held-out errors and intervals.

`shmoo.calibrate(sources)` is `shmoo.calibrate.calibration.calibrate(sources)`: the package can be called."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING

from shmoo.estimators.exports import on_demand

if TYPE_CHECKING:
    from shmoo.calibrate.calibration import Calibration, calibrate

__all__ = ["Calibration", "calibrate"]

# The fit brings scipy along, which a look at a machine's description does without.
__getattr__ = on_demand(__name__, dict.fromkeys(__all__, "shmoo.calibrate.calibration"))


class CallablePackage(ModuleType):
    """The root package offers `calibrate` as a function, and Python puts this package under the same name."""

    @property
    def __call__(self) -> Callable[..., Calibration]:
        from shmoo.calibrate.calibration import calibrate

        return calibrate


sys.modules[__name__].__class__ = CallablePackage
