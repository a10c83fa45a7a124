"""The model: one function from kernels, tiles and coefficients to time and energy; the same function is fitted.

Per kernel, with flops F by unit u, bytes B by memory level l, rates from the machine and dimensionless shares from calibration:

    t_matrix  = F_matrix / (peak x efficiency x utilisation) x (1 + half_m/m)(1 + half_n/n)(1 + half_k/k)
    t_compute = t_matrix + F_vector / (peak_vector x efficiency_vector) + F_special / (peak_special x efficiency_special)
    t_l       = B_l / (bandwidth_l x efficiency_bandwidth)
    t         = launch x dispatch + view x free calls + switch x away
                + max((t_compute^p + sum over l of t_l^p)^(1/p) + tile_overhead x waves, step x dependent steps)
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

on tensor cores copies are a level of their own, staged bytes of the busiest multiprocessor over the least of
fetch_width x clock and bytes in flight / fetch_latency; parts of a reduction take split_overhead to add up;

and under sustained load a board at its power cap takes at least
body x ((throttle_flop x issued flops + sum B_l x e_byte_l) / ((TDP - P_static) x body))^(1 / (1 + throttle_clock)).

A graph on a CPU takes the sum of its kernels, a program on a TPU less (`program.py`). Where launches are asynchronous (GPU), the
host runs ahead: kernel i starts when the host has launched it and kernel i-1 has ended.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from shmoo.estimators.graph.dtypes import COMPUTE_DTYPES
from shmoo.estimators.graph.records import CONVOLUTIONS
from shmoo.estimators.machine.catalogue import under
from shmoo.estimators.machine.coefficients import Coefficients, algorithm_codes, converts_layout, in_tensor_kernels
from shmoo.estimators.machine.profile import ArchitectureProfile
from shmoo.estimators.predict.heat import repeated
from shmoo.estimators.predict.twins import Twins
from shmoo.estimators.table import READ_ACTIVATION, READ_WEIGHT, WRITE, Floats, Ints, KernelTable, Masks
from shmoo.estimators.tiling.base import Blocks, Tiling, Transformed, dependent_steps, hit_share, overlapped

ASYNCHRONOUS = frozenset({"gpu"})
"""Architecture families whose kernels are queued by the host while the device works."""

AS_STORED = frozenset({"eager", "cudagraphs"})
"""Runtimes that hand images to a GPU's library in the order they are stored in."""
ONSET = 2.0
"""Exponent with which a power cap sets in around `throttle.time`: a controller averages over a while before it acts."""
LEAST_BUDGET = 0.01
"""Share of a power cap that is left for work however much of it static power takes."""
_FALLBACK_DTYPES = ("float32", "bfloat16", "float16", "int8")
"""Where a unit has no rate for a type, its rate for the first of these that it has: XLA multiplies float32 in bfloat16 by
default, and a machine with integer units only runs a quantised model."""


def _candidates(*stems: str) -> list[tuple[str, ...]]:
    """For each compute dtype the coefficient names to look up, most specific first."""
    names = []
    for dtype in COMPUTE_DTYPES:
        tries = dict.fromkeys((dtype, *_FALLBACK_DTYPES))
        names.append(tuple(f"{stem}.{t}" for stem in stems for t in tries))
    return names


_FLOAT32, _FLOAT16 = COMPUTE_DTYPES.index("float32"), COMPUTE_DTYPES.index("float16")
_NARROW = np.isin(COMPUTE_DTYPES, ("float16", "bfloat16"))
_MATRIX = _candidates("peak.matrix", "peak.vector")
_VECTOR = _candidates("peak.vector", "peak.matrix")
_SPECIAL = _candidates("peak.special")
_E_MATRIX = [(*names, "energy.flop") for names in _candidates("energy.flop.matrix")]
_E_VECTOR = [(*names, "energy.flop") for names in _candidates("energy.flop.vector", "energy.flop.matrix")]


@dataclass(frozen=True, slots=True)
class Prediction:
    """Arrays of shape (K,), or (D, K) when coefficients hold D draws, (..., K) for design points.

    `latency_s` is a kernel alone, overheads included.

    Attributes:
        compute_s, memory_s: what each would take without the other; `memory_s` is the slowest level's.
        launch_s: launch (host time on asynchronous devices); device_s: everything else.
        dynamic_j: energy of flops and bytes, without static power; `None` where the profile has no energy coefficients.
    """

    compute_s: Floats
    memory_s: Floats
    launch_s: Floats
    device_s: Floats
    latency_s: Floats
    dynamic_j: Floats | None

    def scaled(self, factor: np.ndarray) -> Prediction:
        """The same kernels with every time and dynamic energy multiplied by a (D, K) factor."""
        dynamic = None if self.dynamic_j is None else self.dynamic_j * factor
        times = (self.compute_s, self.memory_s, self.launch_s, self.device_s, self.latency_s)
        compute, memory, launch, device, latency = (time * factor for time in times)
        return Prediction(compute, memory, launch, device, latency, dynamic)


def predict(
    table: KernelTable, tiling: Tiling, coefficients: Coefficients, runtime: str, twins: Twins | None = None
) -> Prediction:
    """Latency and energy of every kernel.

    Args:
        table: K kernels.
        tiling: the same kernels cut for the machine.
        coefficients: of the machine; may hold D draws.
        runtime: whose launch overhead applies.
        twins: which kernels are alike, where the caller knows.
    """
    if twins is None:
        compute, memory, body, worked, dynamic = _each_alone(table, tiling, coefficients, runtime)
    else:
        each = _each_alone(twins.table, twins.tiling, coefficients, runtime)
        compute, memory, body, worked = (np.take(amounts, twins.kind, axis=-1) for amounts in each[:-1])
        dynamic = None if each[-1] is None else np.take(each[-1], twins.kind, axis=-1)
    codes = algorithm_codes(table, coefficients.profile)
    if coefficients.find("throttle.flop") is not None and coefficients.find("power.tdp") is not None:
        body = body * _throttle(table, tiling, body, worked, coefficients, codes)
    if coefficients.profile.family == "cpu":
        fresh = table.mapped_bytes + coefficients.value("heap.returned") * table.grown_bytes
        body = body + coefficients.value("page_fault") * fresh
        body = body + _layout_time(table, coefficients, codes, runtime)
    launch = coefficients.by_kernel(table, codes, f"launch.{runtime}", "launch") + np.zeros_like(body)
    if coefficients.profile.family in ASYNCHRONOUS:
        launch = launch * coefficients.by_algorithm(codes, f"dispatch.{runtime}", "dispatch")
    if coefficients.find(f"view.{runtime}") is not None:
        launch = launch + coefficients.value(f"view.{runtime}") * table.views
    near = coefficients.profile.get("capacity.l2")
    if near is not None and coefficients.find(f"switch.{runtime}") is not None:
        away = 1.0 - hit_share(table.code_distance, near.value)
        launch = launch + coefficients.by_algorithm(codes, f"switch.{runtime}") * away
    if coefficients.profile.family in ASYNCHRONOUS:
        body = body + coefficients.by_kernel(table, codes, "device_launch")
        body = body + _transposition_time(table, coefficients, codes, runtime)
    latency = launch + body
    return Prediction(compute, memory, launch, body, latency, dynamic)


def _each_alone(
    table: KernelTable, tiling: Tiling, c: Coefficients, runtime: str
) -> tuple[Floats, Floats, Floats, Floats, Floats | None]:
    """Of each kernel by itself: seconds of the units, of the memory and of both with its tiles; matrix flops issued; joules."""
    codes = algorithm_codes(table, c.profile)
    own = partial(c.by_algorithm, codes)
    compute, worked = _compute_time(table, tiling, c, codes, runtime)
    share = c.by_kernel(table, codes, *_loops("efficiency.bandwidth", runtime))
    shares: dict[str, float | Floats] = dict.fromkeys(tiling.level_bytes, share)
    if c.profile.family == "gpu" and "l2" in shares:
        shares["l2"] = share * own("efficiency.l2")
    if c.profile.family == "cpu":
        # What keeps a loop from its caches' bandwidth is in the core; main memory is slower than that for all of them alike.
        shares[c.profile.levels[-1]] = c.value("efficiency.bandwidth")
    levels = [nbytes / (own(f"bandwidth.{level}") * shares[level]) for level, nbytes in tiling.call_bytes.items()]
    if tiling.blocks is not None:
        levels.append(tiling.blocks.fetch_seconds(own, c.value("clock")))
    memory = levels[0]
    for other in levels[1:]:
        memory = np.maximum(memory, other)
    body = overlapped([compute, *levels], own("overlap"))
    body = body + own("tile_overhead") * tiling.waves
    if tiling.blocks is not None:
        body = body + tiling.blocks.split_seconds(own)
    if c.find("step") is not None:
        body = np.maximum(body, c.value("step") * dependent_steps(table))
    return compute, memory, body, worked, _dynamic_energy(table, tiling, c)


def _compute_time(
    table: KernelTable, tiling: Tiling, c: Coefficients, codes: np.ndarray, runtime: str
) -> tuple[np.ndarray, np.ndarray]:
    """Seconds of all units, and matrix flops issued: more than counted where blocks overhang, fewer with transforms."""
    peak = c.by_dtype(table.dtype, _MATRIX)
    stencil = table.is_family("depthwise") & (tiling.blocks is not None)
    if stencil.any():
        # Each point of a window is a load, an address and a multiply-add of the float32 units, whatever the type.
        peak = np.where(stencil, c.value(*_VECTOR[_FLOAT32]), peak)
    done = 1.0 if tiling.blocks is None else 1.0 - tiling.blocks.skipped
    matrix = table.matrix_flops * done / (peak * tiling.utilisation)
    ramp = np.where(stencil, 1.0, _ramp(table, tiling.blocks, lambda stem: c.by_algorithm(codes, stem)))
    if tiling.cycles is not None:
        counted = np.isfinite(tiling.cycles)
        seconds = np.where(counted, tiling.cycles, 0.0) / c.value("clock")
        matrix = np.where(counted, seconds, matrix)
        ramp = np.where(counted, 1.0, ramp)
    matrix = np.where(table.matrix_flops > 0, matrix * ramp / c.by_algorithm(codes, f"efficiency.{runtime}", "efficiency"), 0.0)
    worked = (
        table.matrix_flops if tiling.blocks is None else table.matrix_flops * done / np.where(stencil, 1.0, tiling.blocks.filled)
    )
    for way in tiling.transformed:
        other = _transformed_time(table, way, peak, c)
        better = way.offered & (other < matrix)
        matrix, worked = (
            np.where(better, other, matrix),
            np.where(better, table.matrix_flops * way.share / way.blocks.filled, worked),
        )
    # Loops on a GPU convert 16-bit elements and compute in float32.
    looped = np.where(_NARROW[table.dtype], _FLOAT32, table.dtype) if c.profile.family in ASYNCHRONOUS else table.dtype
    vector_peak = c.by_dtype(looped, _VECTOR)
    vector = table.vector_flops / (vector_peak * c.by_kernel(table, codes, *_loops("efficiency.vector", runtime)))
    rated = c.find(*_SPECIAL[0]) is not None
    special_peak = c.by_dtype(table.dtype, _SPECIAL) if rated else vector_peak * c.value("vector_share")
    special = table.special_flops / (special_peak * c.by_kernel(table, codes, *_loops("efficiency.special", runtime)))
    if tiling.blocks is not None:
        # The softmax of scores runs where their products do: on the multiprocessors that have a block, over whole tiles.
        softmax = np.where(in_tensor_kernels(codes) & table.is_family("attention"), done / tiling.utilisation, 1.0)
        vector, special = vector * softmax, special * softmax
    if tiling.cycles is None:
        return matrix + vector + special, worked
    # A chain of dependences along a row (KPU) takes its steps, however fast the units are.
    others = np.maximum(vector + special, np.where(table.matrix_flops > 0, 0.0, seconds))
    return overlapped([matrix, others], c.by_algorithm(codes, "overlap")), worked


def _loops(stem: str, runtime: str) -> tuple[str, ...]:
    """Prefixes to look a share of loops up by: compiled ones are others than the framework's own, whatever the operator."""
    return (stem,) if runtime == "eager" else (f"{stem}.{runtime}", stem)


def _ramp(table: KernelTable, blocks: Blocks | None, half: Callable[[str], float | Floats]) -> float | Floats:
    """Factor by which a contraction takes longer than at its full rate: each part doubles where its extent is `half.<part>`."""
    if blocks is not None:
        return blocks.ramp(half)
    ramp: float | Floats = 1.0
    for name, extent in {"m": table.m, "n": table.n, "k": table.k}.items():
        ramp = ramp * (1.0 + half(f"half.{name}") / extent)
    return ramp


def _transformed_time(table: KernelTable, way: Transformed, peak: Floats, c: Coefficients) -> Floats:
    """Seconds of a contraction done another way: fewer multiplications, the transforms' own traffic, and their launches."""
    rate = peak * way.utilisation * c.value(f"efficiency.{way.name}", "efficiency")
    ramp = _ramp(table, way.blocks, lambda stem: c.value(f"{stem}.{way.name}", stem))
    share = c.value(f"efficiency.bandwidth.{way.name}", "efficiency.bandwidth")
    moved: Floats | float = sum(nbytes / (c.value(f"bandwidth.{level}") * share) for level, nbytes in way.moved.items())
    products: Floats = table.matrix_flops * way.share * ramp / rate
    return products + moved + (way.kernels - 1) * c.value("device_launch")


def _throttle(
    table: KernelTable, tiling: Tiling, body: np.ndarray, worked: np.ndarray, c: Coefficients, codes: np.ndarray
) -> np.ndarray:
    """Factor by which sustained load slows a device at its power cap. What `throttle.flop` joules a flop and the bytes ask for
    beyond the cap stretches the time, once the controller has seen the load for about `throttle.time`. What counts is the mean
    power of the whole segment, back to back: kernels that wait for memory leave power to the others. Energy falls with the
    clock to the power `throttle.clock`, as the voltage does, and a board that is still cool takes `throttle.cool` less for a
    flop. In another type than float32 a flop takes less by as much as its peak is higher, unless the tensor cores'
    own is known: that of float16."""
    starts = table.starts
    # Kernels of empty tensors take no time on the device, and no power: a picosecond stands for none.
    busy = np.maximum(np.add.reduceat(body, starts, axis=-1), 1e-12)
    tensors_known = c.find("throttle.flop.tensor") is not None
    rated = np.where(in_tensor_kernels(codes), _FLOAT16, _FLOAT32) if tensors_known else np.full(1, _FLOAT32)
    lighter = c.by_dtype(rated, _MATRIX) / c.by_dtype(table.dtype, _MATRIX)
    place = table.segment - table.segment[0]
    # A network is measured by itself, from a cool board on; an operator in a campaign of many.
    alone = table.counts == 1
    warm = np.where(np.isnan(table.warm), np.where(alone, 1.0, repeated(busy))[..., place], table.warm)
    # What is known of a tensor core's flop is known at the clock and the warmth that a board sustains.
    sustained = np.logical_or.reduceat(in_tensor_kernels(codes), starts)
    clock, cool = (np.where(sustained, 0.0, c.value(f"throttle.{name}")) for name in ("clock", "cool"))
    flop = c.by_algorithm(codes, "throttle.flop") * (1.0 - cool[..., place] * (1.0 - warm))
    drawn = flop * lighter * worked + (_bytes_energy(tiling, c) if has_energy(c.profile) else 0.0)
    joules = np.add.reduceat(drawn + np.zeros_like(body), starts, axis=-1)
    # Draws of the static power reach beyond the cap, of which something is always left to work with.
    cap = c.value("power.tdp")
    budget = np.maximum(cap - c.value("power.static"), LEAST_BUDGET * cap) * busy
    slower = np.maximum((joules / budget) ** (1.0 / (1.0 + clock)) - 1.0, 0.0)
    factor: Floats = 1.0 + slower / (1.0 + (c.value("throttle.time") / busy) ** ONSET)
    return factor[..., place]


def _layout_time(table: KernelTable, c: Coefficients, codes: np.ndarray, runtime: str) -> Floats | float:
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
    aligned: Floats = table.bytes_of_kind(READ_WEIGHT) * blocked
    tail = np.zeros(len(table))
    for kind, (channels, counts) in moved.items():
        nbytes = np.where(blocked & counts, table.bytes_of_kind(kind), 0.0)
        fits: Masks = channels % lanes == 0
        aligned, tail = aligned + nbytes * fits, tail + nbytes * ~fits
    return c.value(f"layout.{runtime}.aligned") * aligned + c.value(f"layout.{runtime}.tail") * tail


def _transposition_time(table: KernelTable, c: Coefficients, codes: Ints, runtime: str) -> Floats | float:
    """What cuDNN spends on images that are not channels-last, as its tensor-core kernels for windows take them: kernels before
    and after a convolution read and write them once more. A window of one point is a product of the images as they are stored.
    Compiled code keeps images channels-last."""
    if runtime not in AS_STORED:
        return 0.0
    moved = 2.0 * table.strided_bytes * (in_tensor_kernels(codes) & (table.window > 1))
    rate = c.value(f"bandwidth.{c.profile.levels[-1]}") * c.value("efficiency.bandwidth.transposition", "efficiency.bandwidth")
    return moved / rate + 2.0 * c.value("device_launch") * (moved > 0)


def _dynamic_energy(table: KernelTable, tiling: Tiling, c: Coefficients) -> Floats | None:
    if not has_energy(c.profile):
        return None
    matrix = table.matrix_flops * c.by_dtype(table.dtype, _E_MATRIX)
    vector = (table.vector_flops + table.special_flops) * c.by_dtype(table.dtype, _E_VECTOR)
    return matrix + vector + _bytes_energy(tiling, c)


def _bytes_energy(tiling: Tiling, c: Coefficients) -> Floats | float:
    """(K,) joules of moving each kernel's bytes through the levels whose energy a byte is known."""
    moved = tiling.call_bytes
    priced = [level for level in moved if c.find(f"energy.byte.{level}") is not None]
    return sum(moved[level] * c.value(f"energy.byte.{level}") for level in priced)


def matrix_peaks(c: Coefficients, dtypes: np.ndarray) -> np.ndarray:
    """(..., K) flop/s of contractions in types of `COMPUTE_DTYPES`, by code."""
    return c.by_dtype(dtypes, _MATRIX)


def matrix_peak(c: Coefficients, dtype: str) -> float | np.ndarray:
    """flop/s of contractions in a type of `COMPUTE_DTYPES`, or of the type that stands in for it."""
    return c.value(*_MATRIX[COMPUTE_DTYPES.index(dtype)])


def has_energy(profile: ArchitectureProfile) -> bool:
    """Whether the profile knows enough to price energy: a flop, a byte of main memory, and static power."""
    names = profile.coefficients
    flop = "energy.flop" in names or under("energy.flop.matrix", names)
    return bool(flop) and f"energy.byte.{profile.levels[-1]}" in names and "power.static" in names
