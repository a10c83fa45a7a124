"""The model: one function from kernels, tiles and coefficients to time and energy; the same function is fitted.

Per kernel, with flops F by unit u, bytes B by memory level l, rates from the machine and dimensionless shares from calibration:

    t_matrix  = F_matrix / (peak x efficiency x utilisation) x (1 + half_m/m)(1 + half_n/n)(1 + half_k/k)
    t_compute = t_matrix + F_vector / (peak_vector x efficiency_vector) + F_special / (peak_special x efficiency_special)
    t_l       = B_l / (bandwidth_l x efficiency_bandwidth)
    t         = launch + view x free calls + switch x away + (t_compute^p + sum over l of t_l^p)^(1/p) + tile_overhead x waves
                + page_fault x (mapped bytes + heap.returned x bytes of heap) + layout x converted bytes
    energy    = sum F_u x e_flop_u + sum B_l x e_byte_l + P_static x t

On a CPU main memory has the same efficiency_bandwidth for every kernel: the others are of caches.
"away" is the share of a kernel's code and library state that other work has pushed out of the core's cache since it last ran.
p is the overlap exponent: 1 adds compute and memory, infinity takes the larger (the roofline: Williams, Waterman and
Patterson, CACM 52(4), 2009). The energy form is Choi et al., "A roofline model of energy", IPDPS 2013. Where a strategy counts
cycles (systolic arrays, recurrences) t_matrix = cycles / (clock x efficiency), and the array and the other units work at once:
the sum in t_compute is one with exponent p.

Where blocks share multiprocessors (GPU), the factors after t_matrix are those of what a block reuses, reduces and keeps at work:

    (1 + (half_tile + half_far x far)/reuse)(1 + half_k/depth)(1 + half_fill/at_work)

The same joules meet a board's power cap. Those of flops and bytes on the chip follow the clock as the voltage squared does,
those of main memory do not:

    e = e_rated x max(energy_floor, (clock / rated) ^ energy_clock)

and under sustained load a segment's body takes `slower` times as long, until (J_chip(clock / slower) + J_memory) / (slower x
body) is what the cap leaves beside P_static.

A graph on a CPU takes the sum of its kernels. Where launches are asynchronous (GPU), the host runs ahead: kernel i starts
when the host has launched it and kernel i-1 has ended.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from shmoo.estimators.graph.dtypes import COMPUTE_DTYPES
from shmoo.estimators.graph.records import CONVOLUTIONS
from shmoo.estimators.machine.coefficients import Coefficients, algorithm_codes, converts_layout
from shmoo.estimators.predict.energy import candidates, capped, dynamic_energy, has_energy
from shmoo.estimators.table import READ_ACTIVATION, READ_WEIGHT, WRITE, KernelTable
from shmoo.estimators.tiling.base import Blocks, Tiling, Transformed, hit_share

ASYNCHRONOUS = frozenset({"gpu"})
"""Architecture families whose kernels are queued by the host while the device works."""
CALLED_ALONE = frozenset({"eager", "xla", "domainflow"})
"""Runtimes in which a single kernel is measured as a call of an operator, not as a graph. Compiled code is always entered through
its guards."""

_MATRIX = candidates("peak.matrix", "peak.vector")
_VECTOR = candidates("peak.vector", "peak.matrix")
_SPECIAL = candidates("peak.special")


@dataclass(frozen=True, slots=True)
class Prediction:
    """Arrays of shape (K,), or (D, K) when coefficients hold D draws, (..., K) for design points.

    `latency_s` is a kernel alone, overheads included.

    Attributes:
        compute_s, memory_s: what each would take without the other; `memory_s` is the slowest level's.
        launch_s: launch (host time on asynchronous devices); device_s: everything else.
        dynamic_j: energy of flops and bytes, without static power; `None` where the profile has no energy coefficients.
    """

    compute_s: np.ndarray
    memory_s: np.ndarray
    launch_s: np.ndarray
    device_s: np.ndarray
    latency_s: np.ndarray
    dynamic_j: np.ndarray | None

    def scaled(self, factor: np.ndarray) -> Prediction:
        """The same kernels with every time and dynamic energy multiplied by a (D, K) factor."""
        dynamic = None if self.dynamic_j is None else self.dynamic_j * factor
        times = (self.compute_s, self.memory_s, self.launch_s, self.device_s, self.latency_s)
        return Prediction(*(time * factor for time in times), dynamic)


def predict(table: KernelTable, tiling: Tiling, coefficients: Coefficients, runtime: str) -> Prediction:
    """Latency and energy of every kernel.

    Args:
        table: K kernels.
        tiling: the same kernels cut for the machine.
        coefficients: of the machine; may hold D draws.
        runtime: whose launch overhead applies.
    """
    codes = algorithm_codes(table, coefficients.profile)
    compute, worked = _compute_time(table, tiling, coefficients, codes, runtime)
    share = coefficients.by_kernel(table, codes, *_loops("efficiency.bandwidth", runtime))
    shares = dict.fromkeys(tiling.level_bytes, share)
    if coefficients.profile.family == "cpu":
        # What keeps a loop from its caches' bandwidth is in the core; main memory is slower than that for all of them alike.
        shares[coefficients.profile.levels[-1]] = coefficients.value("efficiency.bandwidth")
    levels = [
        nbytes / (coefficients.by_algorithm(codes, f"bandwidth.{level}") * shares[level])
        for level, nbytes in tiling.level_bytes.items()
    ]
    memory = levels[0]
    for other in levels[1:]:
        memory = np.maximum(memory, other)
    body = _overlapped([compute, *levels], coefficients.by_algorithm(codes, "overlap"))
    body = body + coefficients.by_algorithm(codes, "tile_overhead") * tiling.waves
    dynamic = None
    if has_energy(coefficients.profile):
        chip, memory_j = dynamic_energy(table, tiling, coefficients, codes, worked)
        dynamic = chip + memory_j
        if coefficients.profile.family in ASYNCHRONOUS and coefficients.find("power.tdp") is not None:
            body, dynamic = capped(table, body, chip, memory_j, coefficients, codes)
    if coefficients.profile.family == "cpu":
        fresh = table.mapped_bytes + coefficients.value("heap.returned") * table.grown_bytes
        body = body + coefficients.value("page_fault") * fresh
        body = body + _layout_time(table, coefficients, codes, runtime)
    launch = coefficients.by_kernel(table, codes, f"launch.{runtime}", "launch") + np.zeros_like(body)
    if coefficients.find(f"view.{runtime}") is not None:
        launch = launch + coefficients.value(f"view.{runtime}") * table.views
    near = coefficients.profile.get("capacity.l2")
    if near is not None and coefficients.find(f"switch.{runtime}") is not None:
        away = 1.0 - hit_share(table.code_distance, near.value)
        launch = launch + coefficients.by_algorithm(codes, f"switch.{runtime}") * away
    if coefficients.profile.family in ASYNCHRONOUS:
        body = body + coefficients.by_algorithm(codes, "device_launch")
    latency = launch + body
    return Prediction(compute, memory, launch, body, latency, dynamic)


def _compute_time(
    table: KernelTable, tiling: Tiling, c: Coefficients, codes: np.ndarray, runtime: str
) -> tuple[np.ndarray, np.ndarray]:
    """Seconds of all units, and matrix flops issued: more than counted where blocks overhang, fewer with transforms."""
    peak = c.by_dtype(table.dtype, _MATRIX)
    matrix = table.matrix_flops / (peak * tiling.utilisation)
    ramp = _ramp(table, tiling.blocks, lambda stem: c.by_algorithm(codes, stem))
    if tiling.cycles is not None:
        counted = np.isfinite(tiling.cycles)
        seconds = np.where(counted, tiling.cycles, 0.0) / c.value("clock")
        matrix = np.where(counted, seconds, matrix)
        ramp = np.where(counted, 1.0, ramp)
    matrix = np.where(table.matrix_flops > 0, matrix * ramp / c.by_algorithm(codes, f"efficiency.{runtime}", "efficiency"), 0.0)
    worked = table.matrix_flops if tiling.blocks is None else table.matrix_flops / tiling.blocks.filled
    for way in tiling.transformed:
        other = _transformed_time(table, way, peak, c)
        better = way.offered & (other < matrix)
        matrix, worked = (
            np.where(better, other, matrix),
            np.where(better, table.matrix_flops * way.share / way.blocks.filled, worked),
        )
    vector_peak = c.by_dtype(table.dtype, _VECTOR)
    vector = table.vector_flops / (vector_peak * c.by_kernel(table, codes, *_loops("efficiency.vector", runtime)))
    rated = c.find(*_SPECIAL[0]) is not None
    special_peak = c.by_dtype(table.dtype, _SPECIAL) if rated else vector_peak * c.value("vector_share")
    special = table.special_flops / (special_peak * c.by_kernel(table, codes, *_loops("efficiency.special", runtime)))
    if tiling.cycles is None:
        return matrix + vector + special, worked
    # A chain of dependences along a row (KPU) takes its steps, however fast the units are.
    others = np.maximum(vector + special, np.where(table.matrix_flops > 0, 0.0, seconds))
    return _overlapped([matrix, others], c.by_algorithm(codes, "overlap")), worked


def _loops(stem: str, runtime: str) -> tuple[str, ...]:
    """Prefixes to look a share of loops up by: compiled ones are others than the framework's own, whatever the operator."""
    return (stem,) if runtime == "eager" else (f"{stem}.{runtime}", stem)


def _ramp(table: KernelTable, blocks: Blocks | None, half: Callable[[str], float | np.ndarray]) -> float | np.ndarray:
    """Factor by which a contraction takes longer than at its full rate: each part doubles where its extent is `half.<part>`."""
    if blocks is None:
        ramp, extents = 1.0, {"m": table.m, "n": table.n, "k": table.k}
    else:
        ramp = 1.0 + (half("half.tile") + half("half.far") * blocks.far) / blocks.reuse
        extents = {"k": blocks.depth, "fill": blocks.at_work}
    for name, extent in extents.items():
        ramp = ramp * (1.0 + half(f"half.{name}") / extent)
    return ramp


def _transformed_time(table: KernelTable, way: Transformed, peak: np.ndarray, c: Coefficients) -> np.ndarray:
    """Seconds of a contraction done another way: fewer multiplications, the transforms' own traffic, and their launches."""
    rate = peak * way.utilisation * c.value(f"efficiency.{way.name}", "efficiency")
    ramp = _ramp(table, way.blocks, lambda stem: c.value(f"{stem}.{way.name}", stem))
    share = c.value(f"efficiency.bandwidth.{way.name}", "efficiency.bandwidth")
    moved = sum(nbytes / (c.value(f"bandwidth.{level}") * share) for level, nbytes in way.moved.items())
    return table.matrix_flops * way.share * ramp / rate + moved + (way.kernels - 1) * c.value("device_launch")


def issued_flops(table: KernelTable, tiling: Tiling, coefficients: Coefficients, runtime: str) -> np.ndarray:
    """(K,) matrix flops that the units carry out, which are the ones that take energy: more than the operator needs where blocks
    overhang, fewer with transforms."""
    codes = algorithm_codes(table, coefficients.profile)
    return _compute_time(table, tiling, coefficients, codes, runtime)[1]


def _layout_time(table: KernelTable, c: Coefficients, codes: np.ndarray, runtime: str) -> np.ndarray | float:
    """What a library spends on converting a convolution's operands to blocks of channels and back (oneDNN's nChw16c: Developer
    Guide, "Understanding Memory Formats"). Channels that fill whole vectors take a fast path, others a slow one. A few
    input channels are read in place. Compiled code keeps images in one layout from kernel to kernel."""
    if c.find(f"layout.{runtime}.edge") is not None:
        # Compiled code keeps images channels-last: what enters and leaves is converted. So are kernels of more than a point, at
        # every call, and the library puts all weights into blocks.
        weights = table.bytes_of_kind(READ_WEIGHT) * (1.0 + (table.window > 1))
        convolves = table.is_family(*CONVOLUTIONS)
        crossing = np.where(convolves, table.entering_bytes, 0.0) + table.leaving_bytes
        edges = c.value(f"layout.{runtime}.edge") * crossing
        return edges + np.where(convolves, c.value(f"layout.{runtime}.weights") * weights, 0.0)
    if c.find(f"layout.{runtime}.aligned") is None:
        return 0.0
    lanes = c.profile.value("vector.lanes", 1.0)
    blocked = converts_layout(codes)
    channels_in, channels_out = table.channels_in * table.batch, table.channels_out * table.batch
    moved = {READ_ACTIVATION: (channels_in, channels_in > lanes / 4), WRITE: (channels_out, channels_out > 0)}
    aligned, tail = table.bytes_of_kind(READ_WEIGHT) * blocked, np.zeros(len(table))
    for kind, (channels, counts) in moved.items():
        nbytes = np.where(blocked & counts, table.bytes_of_kind(kind), 0.0)
        fits = channels % lanes == 0
        aligned, tail = aligned + nbytes * fits, tail + nbytes * ~fits
    return c.value(f"layout.{runtime}.aligned") * aligned + c.value(f"layout.{runtime}.tail") * tail


def _overlapped(times: list[np.ndarray], exponent: np.ndarray) -> np.ndarray:
    """(sum of t^p)^(1/p), scaled by the largest so that large exponents do not underflow."""
    largest = times[0]
    for other in times[1:]:
        largest = np.maximum(largest, other)
    safe = np.where(largest > 0, largest, 1.0)
    total = sum((time / safe) ** exponent for time in times)
    return np.where(largest > 0, safe * total ** (1.0 / exponent), 0.0)


def matrix_peak(c: Coefficients, dtype: str) -> float | np.ndarray:
    """flop/s of contractions in a type of `COMPUTE_DTYPES`, or of the type that stands in for it."""
    return c.value(*_MATRIX[COMPUTE_DTYPES.index(dtype)])


def graph_latency(
    table: KernelTable,
    prediction: Prediction,
    coefficients: Coefficients,
    runtime: str,
    waits_s: np.ndarray | None = None,
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
    entry = coefficients.value(f"graph.{runtime}", "graph")
    if runtime in CALLED_ALONE:
        # A lone call is an operator measurement: its launch already holds what entering the graph costs.
        entry = np.where(ends > starts, entry, 0.0)
    waits = 0.0 if waits_s is None else waits_s
    if coefficients.profile.family not in ASYNCHRONOUS:
        return np.add.reduceat(prediction.latency_s + waits, starts, axis=-1) + entry
    # Sums over the whole table: what earlier segments put in falls out of the difference.
    host, device = np.cumsum(prediction.launch_s + waits, axis=-1), np.cumsum(prediction.device_s, axis=-1)
    before = np.where(starts > 0, host[..., starts - 1], 0.0)
    slack = host - _tail(table, prediction, coefficients) - (device - prediction.device_s)
    device_end = device[..., ends] + np.maximum.reduceat(slack, starts, axis=-1)
    return np.maximum(device_end, host[..., ends]) - before + entry


def _tail(table: KernelTable, prediction: Prediction, coefficients: Coefficients) -> np.ndarray:
    """What the host still does for each launch after the device has been given the kernel."""
    codes = algorithm_codes(table, coefficients.profile)
    return coefficients.by_algorithm(codes, "launch_tail") * prediction.launch_s


def kernel_times(
    table: KernelTable, prediction: Prediction, coefficients: Coefficients
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(K,) seconds after the entry of its segment at which each kernel is launched, starts and ends, as `graph_latency` has them;
    on synchronous machines a kernel runs in its launch."""
    asynchronous = coefficients.profile.family in ASYNCHRONOUS
    tail = _tail(table, prediction, coefficients) if asynchronous else np.zeros(len(table))
    launched, ends = np.empty(len(table)), np.empty(len(table))
    for rows in np.split(np.arange(len(table)), table.starts[1:]):
        if asynchronous:
            launched[rows], device = np.cumsum(prediction.launch_s[rows]), np.cumsum(prediction.device_s[rows])
            handed_over = launched[rows] - tail[rows]
            ends[rows] = device + np.maximum.accumulate(handed_over - (device - prediction.device_s[rows]))
        else:
            launched[rows] = ends[rows] = np.cumsum(prediction.latency_s[rows])
    return launched, ends - (prediction.device_s if asynchronous else prediction.latency_s), ends


def elapsed_time(table: KernelTable, prediction: Prediction, coefficients: Coefficients) -> np.ndarray:
    """(K,) seconds by which each kernel makes its segment last longer; with the segment's entry they add up to `graph_latency`.

    On synchronous machines that is the kernel's own latency. On asynchronous ones a launch counts as far as the device waits for
    it; the host's end, where it comes after the device's, counts with the last kernel.
    """
    if coefficients.profile.family not in ASYNCHRONOUS:
        return prediction.latency_s
    launched, _, ends = kernel_times(table, prediction, coefficients)
    last = table.starts + table.counts - 1
    ends[last] = np.maximum(ends, launched)[last]
    elapsed = np.diff(ends, prepend=0.0)
    elapsed[table.starts] = ends[table.starts]
    return elapsed


def segment_energy(
    table: KernelTable, prediction: Prediction, latency_s: np.ndarray, coefficients: Coefficients
) -> np.ndarray | None:
    """Energy of each segment, (S,) or (D, S): what its kernels spend on flops and bytes, and static power over its whole time."""
    if prediction.dynamic_j is None:
        return None
    return np.add.reduceat(prediction.dynamic_j, table.starts, axis=-1) + coefficients.value("power.static") * latency_s
