"""The model: one function from kernels, tiles and coefficients to time and energy; the same function is fitted.

Per kernel, with flops F by unit u, bytes B by memory level l, rates from the machine and dimensionless shares from calibration:

    t_matrix  = F_matrix / (peak x efficiency x utilisation) x (1 + half_m/m)(1 + half_n/n)(1 + half_k/k)
    t_compute = t_matrix + F_vector / (peak_vector x efficiency_vector) + F_special / (peak_special x efficiency_special)
    t_l       = B_l / (bandwidth_l x efficiency_bandwidth)
    t         = launch x dispatch + view x free calls + module x entered modules + switch x away
                + max((t_compute^p + sum over l of t_l^p)^(1/p) + tile_overhead x waves, step x dependent steps)
                + (page_fault x (mapped bytes + heap.returned x bytes of heap) + layout x converted bytes) / cores
                + join x (cores woken - 1) + skew x (H(cores at work) - 1)
    energy    = sum F_u x e_flop_u + sum B_l x e_byte_l + P_static x t

On a CPU main memory has one efficiency_bandwidth for all kernels; the per-operator shares apply to caches only. A loop too short
for all cores reaches only the share of peaks and cache bandwidths of the cores at work.
H(n) = 1 + 1/2 + ... + 1/n accounts for the thread that comes last (both: `tiling/cpu_calls.py`).
"away" is the share of a kernel's code and library state that other work has pushed out of the core's cache since it last ran.
p is the overlap exponent: 1 adds compute and memory, infinity takes the larger (the roofline: Williams, Waterman and
Patterson, CACM 52(4), 2009). The energy form is Choi et al., "A roofline model of energy", IPDPS 2013. Where a strategy counts
cycles (systolic arrays, recurrences) t_matrix = cycles / (clock x efficiency), and the array and the other units work at once:
the sum in t_compute is one with exponent p.

Where blocks share multiprocessors (GPU), the factors of t_matrix depend on a block's reuse, reduction depth and outputs at work:

    (1 + (half_tile + half_far x tlb_miss_share)/reuse)(1 + half_k/depth)(1 + half_fill/at_work)

On tensor cores copies are one more memory level: the staged bytes of the busiest multiprocessor over the lesser of
fetch_width x clock and bytes in flight / fetch_latency. Adding up the parts of a split reduction takes split_overhead.

The same energies are held against the power cap of a GPU's board, a TPU or a KPU. The energies of flops and of bytes on the chip
follow the clock as the square of the voltage does; those of main memory do not:

    e = e_rated x max(energy_floor, (clock / rated) ^ energy_clock)

Under sustained load the time t of a segment grows until (J_chip(clock x t_clocked / t) + J_memory) / t is what the cap leaves
beside P_static. t_clocked is the part of t that follows the clock: time waiting for main memory allows a lower clock.

A graph on a CPU takes the sum of its kernels, a program on a TPU less (`program.py`). Where launches are asynchronous (GPU), the
host runs ahead: kernel i starts when the host has launched it and kernel i-1 has ended.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from shmoo.estimators.graph.dtypes import COMPUTE_DTYPES
from shmoo.estimators.machine.coefficients import Coefficients, algorithm_codes, dot_products, in_tensor_kernels, unpacks_weights
from shmoo.estimators.machine.names import by_runtime
from shmoo.estimators.machine.profile import ArchitectureProfile
from shmoo.estimators.predict.energy import Joules, candidates, capped, dynamic_energy, has_cap
from shmoo.estimators.table import Floats, Ints, KernelTable
from shmoo.estimators.tiling.base import (
    AlternativeAlgorithm,
    Blocks,
    Tiling,
    dependent_steps,
    hit_share,
    overlapped,
    overlapped_but,
)
from shmoo.estimators.tiling.cpu_calls import (
    RESULT_POINTS,
    by_result,
    call_by_call,
    fresh_seconds,
    layout_seconds,
    loop_cores,
    waking_seconds,
    worth_waking,
)
from shmoo.estimators.tiling.gpu.blocks import level_shares
from shmoo.estimators.tiling.gpu.tensor import unpacked
from shmoo.estimators.tiling.gpu.threads import (
    AS_STORED,
    DOT_FLOPS,
    ISSUED,
    NARROW,
    addresses_points,
    bias_seconds,
    bytes_read_again,
    bytes_read_near,
    copies_of_words,
    copy_seconds,
    dependent_reads,
    in_turn,
    in_vectors,
    index_bytes,
    integer_rate,
    pass_rate,
    point_rate,
    rate_of_words,
    row_work,
    step_seconds,
    transposition_seconds,
    within_call,
)

ASYNCHRONOUS = frozenset({"gpu"})
"""Architecture families whose kernels are queued by the host while the device works."""

CALLED_ALONE = frozenset({"eager", "xla", "domainflow"})
"""Runtimes in which a single kernel is measured as a call of an operator, not as a graph. Compiled code is always entered through
its guards."""

_FLOAT32 = COMPUTE_DTYPES.index("float32")
MATRIX = candidates("peak.matrix", "peak.vector")
VECTOR = candidates("peak.vector", "peak.matrix")
SPECIAL = candidates("peak.special")


@dataclass(frozen=True, slots=True)
class Prediction:
    """Arrays of shape (K,), or (D, K) when coefficients hold D draws, (..., K) for design points.

    Attributes:
        compute_s, memory_s: computing alone, and the slowest memory level alone.
        launch_s: launch (host time on asynchronous devices); device_s: everything else.
        dynamic_j: energy of flops and bytes, without static power; `None` where the profile has no energy coefficients.
        early_s: the part of `device_s` that passes while the kernel's program is entered; `None` for none.
    """

    compute_s: Floats
    memory_s: Floats
    launch_s: Floats
    device_s: Floats
    dynamic_j: Floats | None
    early_s: Floats | None = None

    @property
    def latency_s(self) -> Floats:
        """A kernel alone, overheads included."""
        return self.launch_s + self.device_s

    def nominal(self) -> Prediction:
        """The first of D draws alone."""
        return self.each(lambda amounts: amounts[0].copy())

    def scaled(self, factor: np.ndarray) -> Prediction:
        """The same kernels with every time and dynamic energy multiplied by a (D, K) factor."""
        return self.each(lambda amounts: amounts * factor)

    def each(self, change: Callable[[Floats], Floats]) -> Prediction:
        """The prediction with every array changed."""
        compute, memory, launch, device = map(change, (self.compute_s, self.memory_s, self.launch_s, self.device_s))
        joules, early = (None if amounts is None else change(amounts) for amounts in (self.dynamic_j, self.early_s))
        return Prediction(compute, memory, launch, device, joules, early)


def predict(table: KernelTable, tiling: Tiling, coefficients: Coefficients, runtime: str) -> Prediction:
    """Latency and energy of every kernel, tiled for the machine and launched by a runtime; the coefficients may hold D draws."""
    codes = algorithm_codes(table, coefficients.profile)
    compute, memory, body, clocked_s, joules, early_s, cores_at_work = _kernel_parts(table, tiling, coefficients, codes, runtime)
    if early_s is not None:
        # The entry of a program, and the device's rest before it, belong to its first kernel.
        early_s = np.minimum(early_s, table.to_kernels(entry_seconds(table, coefficients, runtime) + coefficients.value("gap")))
    dynamic_j = None
    if joules is not None:
        dynamic_j = joules.chip + joules.memory
        if has_cap(coefficients):
            uncapped = np.maximum(body, 1e-30)
            body, dynamic_j = capped(table, body, clocked_s, joules, coefficients, codes)
            if coefficients.profile.family not in ASYNCHRONOUS:
                # A program hides copies behind arithmetic, not the lower clock.
                compute = compute * (body / uncapped)
    if coefficients.profile.family == "cpu":
        body = body + fresh_seconds(table, coefficients) + layout_seconds(table, coefficients, codes, runtime)
    launch: Floats = coefficients.by_kernel(table, codes, *by_runtime("launch", runtime))
    if coefficients.profile.family == "cpu":
        launch = call_by_call(table, launch + waking_seconds(table, coefficients, cores_at_work), coefficients, runtime)
    launch = np.broadcast_arrays(launch, body)[0]
    if coefficients.profile.family in ASYNCHRONOUS:
        launch = launch * coefficients.by_kernel(table, codes, *by_runtime("dispatch", runtime))
        launch = launch + within_call(table, coefficients, codes, runtime)
    for name, count in (("view", table.views), ("module", table.modules)):
        if coefficients.find(f"{name}.{runtime}") is not None:
            launch = launch + coefficients.value(f"{name}.{runtime}") * count
    l2 = coefficients.profile.get("capacity.l2")
    if l2 is not None and coefficients.find(f"switch.{runtime}") is not None:
        code_share = 1.0 - hit_share(table.code_distance, l2.value)
        if coefficients.profile.family in ASYNCHRONOUS:
            # The device's bytes do not pass the host's caches: a lone call finds its code there, one among others does not.
            code_share = table.to_kernels((table.counts > 1).astype(np.float64))
        launch = launch + coefficients.by_algorithm(codes, f"switch.{runtime}") * code_share
    if coefficients.profile.family in ASYNCHRONOUS:
        body = body + coefficients.by_kernel(table, codes, "device_launch")
        body = body + transposition_seconds(table, coefficients, codes, runtime)
        if runtime in AS_STORED:
            body = body + copy_seconds(table, coefficients) + bias_seconds(table, coefficients)
    return Prediction(compute, memory, launch, body, dynamic_j, early_s)


def entry_seconds(table: KernelTable, c: Coefficients, runtime: str) -> Floats:
    """(..., S) seconds to enter each segment; the launch of a lone operator call includes its entry."""
    entry = np.atleast_1d(c.value(*by_runtime("graph", runtime)))
    return entry if enters_alone(c.profile, runtime) else np.where(table.counts > 1, entry, 0.0)


def enters_alone(profile: ArchitectureProfile, runtime: str) -> bool:
    """True where a single kernel pays the entry of its graph beside its launch: in compiled code, and in programs of a machine
    that were timed from the host."""
    return runtime not in CALLED_ALONE or (runtime == "xla" and "graph.xla" in profile.coefficients)


def _kernel_parts(
    table: KernelTable, tiling: Tiling, c: Coefficients, codes: Ints, runtime: str
) -> tuple[Floats, Floats, Floats, Floats, Joules | None, Floats | None, Floats]:
    """Terms of each kernel by itself: seconds of computing, of memory, of both with tile overheads, and the same without main
    memory, which follow the clock; joules; the seconds saved where `early_bytes` have moved before; and the cores at work."""
    by_algorithm = partial(c.by_algorithm, codes)
    compute, energy_flops = _compute_time(table, tiling, c, codes, runtime)
    share = c.by_kernel(table, codes, *_loops("efficiency.bandwidth", runtime))
    shares: dict[str, float | Floats] = dict.fromkeys(tiling.level_bytes, share)
    if c.profile.family == "gpu":
        shares = level_shares(c.profile, by_algorithm, share)
    if c.profile.family == "cpu":
        # Cores limit the cache bandwidth of each loop differently; main memory is slower than the cores for all loops.
        shares[c.profile.main_memory] = c.value("efficiency.bandwidth")
    level_bytes = tiling.level_bytes
    if c.profile.family == "gpu" and runtime in AS_STORED:
        main_memory = c.profile.main_memory
        miss_share = np.minimum(level_bytes[main_memory] / np.maximum(table.bytes, 1.0), 1.0)
        level_bytes = {level: nbytes + index_bytes(table) for level, nbytes in level_bytes.items()}
        level_bytes[main_memory] = level_bytes[main_memory] + miss_share * bytes_read_again(table, c.profile)
        if "l2" in level_bytes:
            level_bytes["l2"] = level_bytes["l2"] + bytes_read_near(table)
    if tiling.blocks is not None and np.any(np.greater(tiling.blocks.walked, 0.0)):
        main_memory = c.profile.main_memory
        level_bytes = {
            **level_bytes,
            main_memory: level_bytes[main_memory] + tiling.blocks.walked * (1.0 / c.value("efficiency.walk") - 1.0),
        }
    levels = [nbytes / (by_algorithm(f"bandwidth.{level}") * shares[level]) for level, nbytes in level_bytes.items()]
    cores_at_work: Floats = np.ones(len(table))
    if c.profile.family == "cpu":
        # Fewer cores read the caches more slowly, but main memory as fast.
        cache_s = levels[:-1]
        cores_at_work, slowdown = _at_work(table, tiling, c, np.maximum.reduce(np.broadcast_arrays(compute, *cache_s)), runtime)
        compute, levels = compute * slowdown, [*(seconds * slowdown for seconds in cache_s), levels[-1]]
    if tiling.blocks is not None:
        levels.append(tiling.blocks.fetch_seconds(by_algorithm, c.value("clock")))
    memory = levels[0]
    for level_s in levels[1:]:
        memory = np.maximum(memory, level_s)
    seconds_by_level = dict(zip(level_bytes, levels, strict=False))
    main_s = seconds_by_level.pop(c.profile.main_memory, None)
    clocked_parts = [compute, *seconds_by_level.values(), *levels[len(level_bytes) :]]
    body, clocked_s = overlapped_but(clocked_parts, main_s, by_algorithm("overlap"))
    early_s = None
    if tiling.early_bytes is not None and main_s is not None:
        remaining_share = np.maximum(1.0 - tiling.early_bytes / np.maximum(level_bytes[c.profile.main_memory], 1.0), 0.0)
        early_s = body - overlapped_but(clocked_parts, main_s * remaining_share, by_algorithm("overlap"))[0]
    extra_s: Floats = by_algorithm("tile_overhead") * tiling.waves
    if tiling.blocks is not None:
        extra_s = extra_s + tiling.blocks.split_seconds(by_algorithm)
        if np.any(np.greater(tiling.blocks.stored, 0.0)):
            extra_s = extra_s + tiling.blocks.store_seconds(by_algorithm, c.value(f"bandwidth.{c.profile.main_memory}"))
        if np.any(regroups := np.greater(tiling.blocks.regrouped, 0.0)):
            rate = pass_rate(np.asarray(2.0 * tiling.blocks.regrouped), c) * c.value(
                "efficiency.bandwidth.copy", "efficiency.bandwidth"
            )
            extra_s = extra_s + np.where(regroups, tiling.blocks.regroup_seconds(by_algorithm, rate), 0.0)
    body, clocked_s = body + extra_s, clocked_s + extra_s
    if tiling.blocks is not None and runtime in AS_STORED:
        reads, rounds = dependent_reads(table, c.profile)
        wait_s = reads * c.value("read.latency") * (1.0 + miss_share) / 2.0 + rounds * c.value("read.reduction")
        # A norm computes its statistics before it normalizes; rows that are read in vectors hide behind each other.
        waits_hide = ~table.is_family("normalization") | in_vectors(table)
        body = np.where(waits_hide, np.maximum(body, wait_s), body + wait_s)
    if c.find("step") is not None:
        body = np.maximum(body, c.value("step") * dependent_steps(table))
    if c.profile.family == "gpu":
        body = np.maximum(body, step_seconds(table, c))
    return compute, memory, body, clocked_s, dynamic_energy(table, tiling, c, energy_flops), early_s, cores_at_work


def _at_work(table: KernelTable, tiling: Tiling, c: Coefficients, seconds: Floats, runtime: str) -> tuple[Floats, Floats]:
    """(..., K) cores of a CPU that work on each kernel, and the factor by which fewer cores slow down its units and caches. The
    factor is relative to all cores for a loop, and to all cores with a block of their own for a contraction.

    Args:
        seconds: time of a contraction on all cores with a block.
    """
    cores = c.profile.value("count.cores", 1.0)
    team = np.minimum(tiling.tiles / np.maximum(tiling.waves, 1.0), cores)
    contracts = table.matrix_flops > 0
    cores_at_work = np.where(contracts, worth_waking(c, seconds * team, team), loop_cores(table, cores, runtime))
    return cores_at_work, np.where(contracts, team, cores) / cores_at_work


def _compute_time(
    table: KernelTable, tiling: Tiling, c: Coefficients, codes: np.ndarray, runtime: str
) -> tuple[np.ndarray, np.ndarray]:
    """(..., K) seconds of all units, and matrix flops that take energy (`issued_flops`)."""
    peak = c.by_dtype(table.dtype, MATRIX)
    stencil = table.is_family("depthwise") & (tiling.blocks is not None)
    if stencil.any():
        # Each point of a window is a load, an address and a multiply-add of the float32 units, whatever the type.
        peak = np.where(stencil, c.value(*VECTOR[_FLOAT32]), peak)
    if tiling.blocks is not None and (bytewise := dot_products(table)).any():
        peak = np.where(bytewise, DOT_FLOPS * integer_rate(c.profile), peak)
    unmasked_share = 1.0 if tiling.blocks is None else 1.0 - tiling.blocks.skipped
    matrix = table.matrix_flops * unmasked_share / (peak * tiling.utilisation)
    ramp = np.where(stencil, 1.0, _ramp(table, tiling.blocks, lambda stem: c.by_algorithm(codes, stem)))
    if tiling.cycles is not None:
        has_cycles = np.isfinite(tiling.cycles)
        seconds = np.where(has_cycles, tiling.cycles, 0.0) / c.value("clock")
        matrix = np.where(has_cycles, seconds, matrix)
        ramp = np.where(has_cycles, 1.0, ramp)
    share = c.by_algorithm(codes, *by_runtime("efficiency", runtime))
    energy_flops = table.matrix_flops * unmasked_share
    if tiling.blocks is not None:
        is_grouped = in_turn(table) & ~in_tensor_kernels(codes)
        share = np.where(is_grouped, c.value("efficiency.conv_grouped", "efficiency"), share)
        copies_words = copies_of_words(table, c.profile) & in_tensor_kernels(codes)
        share = share * np.where(copies_words, c.value(*rate_of_words(c.profile)), 1.0)
        # The overhang of a tensor core's tile is zeros, which switch hardly anything: on an H200, products of 16 rows draw less
        # than those of 64 that take as long (600 against 655 W; NVIDIA AIConfigurator, 2026).
        energy_flops = energy_flops / np.where(stencil | in_tensor_kernels(codes), 1.0, tiling.blocks.filled)
    matrix = np.where(table.matrix_flops > 0, matrix * ramp / share, 0.0)
    for way in tiling.alternatives:
        alternative_s = _alternative_time(table, way, peak, c)
        is_faster = way.offered & (alternative_s < matrix)
        matrix, energy_flops = (
            np.where(is_faster, alternative_s, matrix),
            np.where(is_faster, table.matrix_flops * way.share / way.blocks.filled, energy_flops),
        )
    # Loops on a GPU convert 16-bit elements and compute in float32; weights are unpacked in pairs of their own type.
    unpacks = unpacks_weights(table) & in_tensor_kernels(codes)
    computes_in_float32 = NARROW[table.dtype] & ~unpacks & (c.profile.family in ASYNCHRONOUS)
    loop_dtype = np.where(computes_in_float32, _FLOAT32, table.dtype)
    vector_peak = c.by_dtype(loop_dtype, VECTOR)
    if tiling.blocks is not None:
        issue_rate = c.value("count.sms") * ISSUED * c.value("clock")
        vector_peak = np.where(table.matrix_flops > 0, vector_peak, np.minimum(vector_peak, issue_rate))
    is_scalar = by_result(table, runtime) & (c.profile.family == "cpu")
    vector_rate = vector_peak * c.by_kernel(table, codes, *_loops("efficiency.vector", runtime))
    vector = (table.vector_flops + RESULT_POINTS * is_scalar * table.m) / vector_rate
    has_special_rate = c.find(*SPECIAL[0]) is not None
    special_peak = c.by_dtype(table.dtype, SPECIAL) if has_special_rate else vector_peak * c.value("vector_share")
    special_rate = special_peak * c.by_kernel(table, codes, *_loops("efficiency.special", runtime))
    special = ~is_scalar * table.special_flops / special_rate
    if tiling.blocks is not None:
        # The softmax of scores runs where their products do: on the multiprocessors that have a block, over whole tiles.
        softmax = np.where(in_tensor_kernels(codes) & table.is_family("attention"), unmasked_share / tiling.utilisation, 1.0)
        vector, special = vector * softmax, special * softmax
        if unpacks.any():
            vector = vector * np.where(unpacks, unpacked(table, tiling.shape.m, tiling.utilisation), 1.0)
    if tiling.blocks is not None and runtime in AS_STORED:
        by_row = row_work(table)
        vector, special = vector * by_row, special * by_row
        points, cycles = point_rate(table, c.profile)
        makes_points = addresses_points(table)
        windows = table.is_family("pooling", "depthwise")
        point_s = points * np.where(windows, c.by_algorithm(codes, "point"), c.value("point.pointwise", "point")) / cycles
        matrix = np.where(makes_points & stencil, point_s, matrix)
        vector = np.where(makes_points & ~stencil, point_s, vector)
    if tiling.cycles is None:
        return matrix + vector + special, energy_flops
    # A chain of dependences along a row (KPU) takes all its steps, however fast the units are.
    loop_s = np.maximum(vector + special, np.where(table.matrix_flops > 0, 0.0, seconds))
    return overlapped([matrix, loop_s], c.by_algorithm(codes, "overlap")), energy_flops


def _loops(stem: str, runtime: str) -> tuple[str, ...]:
    """Prefixes of a loop's efficiency, most specific first: compiled loops differ from the framework's own."""
    return (stem,) if runtime == "eager" else by_runtime(stem, runtime)


def _ramp(table: KernelTable, blocks: Blocks | None, half_value: Callable[[str], float | Floats]) -> float | Floats:
    """Factor by which a contraction takes longer than at its full rate: each part doubles where its extent is `half.<part>`."""
    if blocks is not None:
        return blocks.ramp(half_value)
    ramp: float | Floats = 1.0
    for name, extent in {"m": table.m, "n": table.n, "k": table.k}.items():
        ramp = ramp * (1.0 + half_value(f"half.{name}") / extent)
    return ramp


def _alternative_time(table: KernelTable, way: AlternativeAlgorithm, peak: Floats, c: Coefficients) -> Floats:
    """(..., K) seconds of an alternative algorithm: its products, the traffic of its transforms, and their launches."""
    rate = peak * way.utilisation * c.value(f"efficiency.{way.name}", "efficiency")
    ramp = _ramp(table, way.blocks, lambda stem: c.value(f"{stem}.{way.name}", stem))
    share = c.value(f"efficiency.bandwidth.{way.name}", "efficiency.bandwidth")
    transfer_s: Floats | float = sum(nbytes / (c.value(f"bandwidth.{level}") * share) for level, nbytes in way.moved.items())
    products: Floats = table.matrix_flops * way.share * ramp / rate
    return products + transfer_s + (way.kernels - 1) * c.value("device_launch")


def issued_flops(table: KernelTable, tiling: Tiling, coefficients: Coefficients, runtime: str) -> Floats:
    """(K,) matrix flops that take energy: more than the operator needs where blocks of float32 units overhang, fewer with
    transforms and under a mask."""
    codes = algorithm_codes(table, coefficients.profile)
    return _compute_time(table, tiling, coefficients, codes, runtime)[1]
