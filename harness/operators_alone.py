"""Every distinct operator of a network, cut out of its graph and timed alone: the baseline that sums of operators are.

Each runs back to back on operands of its own, which stay as near as their size allows; what the network leaves in the caches, and
the memory layouts that earlier operators chose, are not there. Operands that are views are seen through the same views.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from shmoo.estimators.distinct import DistinctOperator, distinct_operators
from shmoo.estimators.records import Graph
from shmoo.harness.observing import observed
from shmoo.harness.replay import GraphReplay, ReplayError
from shmoo.harness.settings import ALONE
from shmoo.harness.timing import BlockTimer, CudaTimer, HostTimer, TimingSettings, time_callable
from shmoo.runs.records import OperatorTime, Timing
from shmoo.runs.statistics import mad, median


def time_operators(graphs: Sequence[Graph], device: str = "cpu", settings: TimingSettings = ALONE) -> tuple[OperatorTime, ...]:
    """Time each distinct operator of some graphs. One that cannot be run from its record has a reason in place of a time, and one
    that was disturbed has the disturbance beside it."""
    with torch.no_grad():
        return tuple(_time(operator, device, settings) for operator in distinct_operators(graphs))


def _time(operator: DistinctOperator, device: str, settings: TimingSettings) -> OperatorTime:
    name = operator.call.op
    try:
        call = GraphReplay(operator.graph, {}, device=device).last_call()
    except ReplayError as error:
        return OperatorTime(name, operator.calls, reason=str(error))
    timer: BlockTimer = CudaTimer(torch.cuda) if device.startswith("cuda") else HostTimer()

    def window() -> Timing:
        return time_callable(call, settings=settings, timer=timer)

    timing, _, reasons = observed(window, torch.get_num_threads())
    samples = timing.samples_s
    return OperatorTime(name, operator.calls, median(samples), mad(samples), "; ".join(map(str, reasons)))
