"""What the kernels of one compiled program hide of each other.

A program's kernels run in order, but the compiler starts the copies of a kernel's operands while earlier ones compute, so the
whole takes no less than all of its arithmetic or all of its memory traffic, and the beginning and end that no copy hides:

    least = max(sum t_compute, sum t_memory) + max over kernels (t - max(t_compute, t_memory))
    t     = sum t - program x (sum t - least)

With a single kernel this is its own time, and a further kernel never makes it less.
"""

from __future__ import annotations

import numpy as np

from shmoo.estimators.machine.coefficients import Coefficients
from shmoo.estimators.table import Floats, KernelTable


def hidden_time(table: KernelTable, compute_s: Floats, memory_s: Floats, device_s: Floats, c: Coefficients) -> Floats | float:
    """(..., K) seconds of each kernel that pass behind others of its program; 0 on machines without such programs.

    Args:
        compute_s, memory_s, device_s: (..., K) of the kernels alone, as in `model.Prediction`.
    """
    share = c.find("program")
    if share is None:
        return 0.0
    starts = table.starts
    slower = np.maximum(compute_s, memory_s)
    whole = np.add.reduceat(device_s, starts, axis=-1)
    computing, moving = (np.add.reduceat(times, starts, axis=-1) for times in (compute_s, memory_s))
    least = np.maximum(computing, moving) + np.maximum.reduceat(np.maximum(device_s - slower, 0.0), starts, axis=-1)
    hidden: Floats = np.where(whole > 0, np.maximum(whole - least, 0.0) / np.where(whole > 0, whole, 1.0), 0.0)
    return share * hidden[..., table.segment - table.segment[0]] * device_s
