"""What no estimate goes below: the peak of the units and the bandwidth of the main memory, as a profile names them."""

from __future__ import annotations

import numpy as np

from shmoo.estimators.machine.coefficients import Coefficients
from shmoo.estimators.predict.model import matrix_peaks
from shmoo.estimators.table import KernelTable
from shmoo.estimators.tiling.base import Tiling


def least_time(table: KernelTable, tiling: Tiling, c: Coefficients) -> np.ndarray | float:
    """(..., S) seconds that each segment takes at the peak, or to move at the bandwidth what has to be moved once, whichever is
    longer.

    0 where a strategy does not count cycles: there other ways to a contraction need fewer flops (Winograd's), clocks rise above
    the one a peak is named at, and what caches keep is estimated.
    """
    if tiling.cycles is None:
        return 0.0
    last = c.profile.levels[-1]
    computing = table.matrix_flops / matrix_peaks(c, table.dtype)
    early = tiling.level_bytes[last] - tiling.call_bytes[last]
    moving = np.maximum(np.minimum(tiling.level_bytes[last], table.bytes) - early, 0.0) / c.value(f"bandwidth.{last}")
    return np.maximum(*(np.add.reduceat(times, table.starts, axis=-1) for times in np.broadcast_arrays(computing, moving)))
