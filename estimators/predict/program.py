"""Kernels of a graph in time: how the host and the kernels of one program overlap.

A program's kernels run in order, but the compiler starts the copies of a kernel's operands while earlier ones compute, so the
whole takes no less than all of its arithmetic or all of its memory traffic, and the beginning and end that no copy hides:

    least = max(sum t_compute, sum t_memory) + max over kernels (t - max(t_compute, t_memory))
    t     = sum t - program x (sum t - least)

With a single kernel this is its own time, and a further kernel never shortens it. An operand of the first kernel may move while
the program is entered.
"""

from __future__ import annotations

import numpy as np

from shmoo.estimators.machine.coefficients import RECURRENT, Coefficients, algorithm_codes
from shmoo.estimators.predict.model import ASYNCHRONOUS, Prediction, entry_seconds
from shmoo.estimators.table import Floats, KernelTable


def _hidden_seconds(table: KernelTable, p: Prediction, c: Coefficients) -> Floats | float:
    """(..., K) seconds of each kernel that overlap with other kernels of its program, or pass before it begins; 0 on machines
    without such programs."""
    share = c.find("program")
    hidden_s: Floats | float = 0.0
    if share is not None and not table.single:
        total, compute_s, memory_s = map(table.of_segments, (p.device_s, p.compute_s, p.memory_s))
        overhead_s = np.maximum(p.device_s - np.maximum(p.compute_s, p.memory_s), 0.0)
        least_s = np.maximum(compute_s, memory_s) + table.of_segments(overhead_s, np.maximum)
        hidden_share = np.where(total > 0, np.maximum(total - least_s, 0.0) / np.where(total > 0, total, 1.0), 0.0)
        hidden_s = share * table.to_kernels(hidden_share) * p.device_s
    return hidden_s if p.early_s is None else hidden_s + np.minimum(p.early_s, p.device_s - hidden_s)


def graph_latency(
    table: KernelTable, prediction: Prediction, coefficients: Coefficients, runtime: str, waits_s: np.ndarray | None = None
) -> np.ndarray:
    """Time of each segment (graph or case) of a table: shape (S,), or (D, S).

    Synchronous machines add kernels up. On asynchronous ones kernel i of a segment ends at
    D_i + max over j <= i of (A_j - D_(j-1)), with D the running sum of device time and A_j the time the device is given kernel j:
    the running sum of host time less the share `launch_tail` of the launch that follows the hand-over. The host's own end bounds
    the segment from below.

    Args:
        waits_s: (K,) seconds for which the host is held up before it launches each kernel; none for `None`.
    """
    starts, ends = table.starts, table.starts + table.counts - 1
    entry = entry_seconds(table, coefficients, runtime)
    waits = 0.0 if waits_s is None else waits_s
    if coefficients.profile.family not in ASYNCHRONOUS:
        return table.of_segments(prediction.latency_s + waits - _hidden_seconds(table, prediction, coefficients)) + entry
    if table.single:
        handed_over = prediction.launch_s + waits - _tail(table, prediction, coefficients)
        lone_end: Floats = np.maximum(handed_over + prediction.device_s, prediction.launch_s + waits)
        return lone_end + entry
    # Sums over the whole table: the parts of earlier segments cancel in the difference.
    host, device = np.cumsum(prediction.launch_s + waits, axis=-1), np.cumsum(prediction.device_s, axis=-1)
    earlier_host_s = np.where(starts > 0, host[..., starts - 1], 0.0)
    slack = host - _tail(table, prediction, coefficients) - (device - prediction.device_s)
    device_end = device[..., ends] + table.of_segments(slack, np.maximum)
    end: Floats = np.maximum(device_end, host[..., ends])
    return end - earlier_host_s + entry


def _tail(table: KernelTable, prediction: Prediction, coefficients: Coefficients) -> Floats:
    """(..., K) seconds that the host spends on each launch after it has handed the kernel to the device."""
    codes = algorithm_codes(table, coefficients.profile)
    tail: Floats = coefficients.by_algorithm(codes, "launch_tail") * prediction.launch_s
    # The last step of a recurrent layer runs after the host has launched it.
    steps = table.is_op(*RECURRENT)
    return np.where(steps, np.minimum(tail, prediction.device_s), tail) if steps.any() else tail


def kernel_times(
    table: KernelTable, prediction: Prediction, coefficients: Coefficients
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(K,) seconds after the entry of its segment at which each kernel is launched, starts and ends, consistent with
    `graph_latency`; on synchronous machines a kernel runs in its launch."""
    asynchronous = coefficients.profile.family in ASYNCHRONOUS
    tail = _tail(table, prediction, coefficients) if asynchronous else np.zeros(len(table))
    in_program = prediction.latency_s - _hidden_seconds(table, prediction, coefficients)
    launch_ends, ends = np.empty(len(table)), np.empty(len(table))
    for rows in np.split(np.arange(len(table)), table.starts[1:]):
        if asynchronous:
            launch_ends[rows], device = np.cumsum(prediction.launch_s[rows]), np.cumsum(prediction.device_s[rows])
            handed_over = launch_ends[rows] - tail[rows]
            ends[rows] = device + np.maximum.accumulate(handed_over - (device - prediction.device_s[rows]))
        else:
            launch_ends[rows] = ends[rows] = np.cumsum(in_program[rows])
    return launch_ends, ends - (prediction.device_s if asynchronous else in_program), ends


def elapsed_time(table: KernelTable, prediction: Prediction, coefficients: Coefficients) -> np.ndarray:
    """(K,) seconds that each kernel adds to its segment; with the segment's entry they add up to `graph_latency`.

    On synchronous machines that is the kernel's own latency less its overlap with others of its program. On asynchronous ones a
    launch counts as far as the device waits for it; host time after the device's end counts with the last kernel.
    """
    if coefficients.profile.family not in ASYNCHRONOUS:
        return prediction.latency_s - _hidden_seconds(table, prediction, coefficients)
    launch_ends, _, ends = kernel_times(table, prediction, coefficients)
    last_rows = table.starts + table.counts - 1
    ends[last_rows] = np.maximum(ends, launch_ends)[last_rows]
    seconds = np.diff(ends, prepend=0.0)
    seconds[table.starts] = ends[table.starts]
    return seconds


def segment_energy(
    table: KernelTable, prediction: Prediction, latency_s: np.ndarray, coefficients: Coefficients
) -> np.ndarray | None:
    """(S,) or (D, S) energy of each segment as a meter reads it: flops and bytes of its kernels, and static power over its whole
    time."""
    if prediction.dynamic_j is None:
        return None
    joules = table.of_segments(prediction.dynamic_j) + coefficients.value("power.static") * latency_s
    meter = coefficients.find("energy.meter")
    return joules if meter is None else joules * meter
