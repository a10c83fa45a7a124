"""Work of a framework and its libraries on a CPU around the arithmetic of a call: waking cores, converting images, touching new
memory, and calls within a call."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from shmoo.estimators.graph.records import CONVOLUTIONS
from shmoo.estimators.machine.coefficients import Coefficients, converts_layout, unrolls_image
from shmoo.estimators.machine.names import by_runtime
from shmoo.estimators.table import READ_ACTIVATION, READ_WEIGHT, WRITE, Floats, Ints, KernelTable, Masks
from shmoo.estimators.tiling.base import ceil_div, element_bytes

GRAIN = 32768.0
"""Elements that PyTorch's loops give a core at least (`at::internal::GRAIN_SIZE` of version 2.13, in ATen/TensorIterator.h)."""
SOFTMAX_GRAIN = GRAIN / 16.0
"""The same of rows of a softmax (`vec_softmax_lastdim_kernel` in ATen/native/cpu/SoftMaxKernel.cpp)."""
COMPILED_GRAIN = 512.0
"""Elements that Inductor gives each core at least (`cpp.min_chunk_size` in torch/_inductor/config.py, version 2.13)."""
RESULT_POINTS = 16.0
"""Points of a window that take as long as a result's bounds, index and store: on two cores of a Xeon maxima of 4 and 9 points
take 10 ns a result and 0.7 ns a point, means 4 and 0.2 ns."""
BORDER_TESTS = 3.0
"""Times that an element of a column takes longer where each is tested against the borders of the image: 1.45 ns of a core of a
Xeon instead of 0.25 to 0.7 where rows are copied, beside the product."""
UNFUSED_CALLS: Mapping[str, float] = MappingProxyType({"aten.gru": 10.0, "aten.rnn_tanh": 2.0, "aten.rnn_relu": 2.0})
"""Element-wise calls of each step beside its product, of recurrent layers that PyTorch runs call by call (`GRUCell`, `SimpleCell`
in ATen/native/RNN.cpp). oneDNN runs all steps of an LSTM in one call."""


def loop_cores(table: KernelTable, cores: float, runtime: str) -> Floats:
    """(..., K) cores that a loop uses: too little work is not worth waking others. Norms give a row to a core, pooling over
    windows a part of its results, and all other loops of the framework a part of their elements."""
    elements = table.batch * table.m * table.n
    if runtime == "eager":
        work_parts = ceil_div(elements, np.where(table.is_family("softmax"), SOFTMAX_GRAIN, GRAIN))
        work_parts = np.where(table.is_family("softmax"), np.minimum(work_parts, table.batch * table.m), work_parts)
        work_parts = np.where(table.is_family("normalization"), table.batch * table.m, work_parts)
        work_parts = np.where(by_result(table, runtime), table.m, work_parts)
    else:
        work_parts = np.where(elements >= COMPILED_GRAIN * cores, cores, 1.0)
    return np.minimum(work_parts, cores)


def worth_waking(c: Coefficients, core_seconds: Floats, most_cores: Floats) -> Floats:
    """(..., K) cores, at most `most_cores`, among which a library divides a contraction that takes `core_seconds` on one core:
    another core must save more than waking it takes, as in oneDNN (`adjust_thread_count` in src/cpu/x64/gemm/gemm_driver.cpp).
    The time on n cores, core_seconds / n + join (n - 1) + skew (H(n) - 1), is least where join n^2 + skew n = core_seconds."""
    join, skew = c.value("join"), c.value("skew")
    denominator = skew + np.sqrt(skew**2 + 4.0 * join * core_seconds)
    optimum = np.where(denominator > 0.0, 2.0 * core_seconds / np.where(denominator > 0.0, denominator, 1.0), most_cores)
    return np.clip(optimum, 1.0, most_cores)


def waking_seconds(table: KernelTable, c: Coefficients, cores_at_work: Floats) -> Floats:
    """(..., K) seconds to wake a kernel's cores and to wait for the last of those at work. The framework's own loops wake all
    cores as soon as two have work (`invoke_parallel` in ATen/ParallelOpenMP.h of PyTorch 2.13)."""
    team = np.where((cores_at_work > 1) & (table.matrix_flops == 0), c.profile.value("count.cores", 1.0), cores_at_work)
    return team_seconds(c, team, cores_at_work)


def team_seconds(c: Coefficients, team: Floats | float, threads_at_work: Floats | float) -> Floats:
    """(...) seconds that a parallel region takes beside its work: `join` for every thread of the team beside the first, and
    `skew` for the last of those at work.

    Threads of GNU OpenMP start from and end at one counter, which takes time in proportion to them (the centralized barrier of
    Mellor-Crummey and Scott, ACM TOCS 9(1), 1991). Empty regions take 1.4, 1.9, 2.8, 5.7, 9.1 and 9.0 us on 2, 4, 8, 16, 32 and
    56 cores of a Xeon (github.com/usstq/aboutSHW, threading/README.md), 0.8, 0.9 and 1.5 us on 2, 4 and 8 threads of an i7-10750H
    (jhhuh.github.io/ghc-openmp, Benchmarks), 30 us on somewhat less than the 96 cores of a Zen 2 host (dyninst issue 2403, 2026).
    oneDNN reckons with 4000 clocks and 500 for each thread (`adjust_thread_count`). Intel's OpenMP joins in a tree, 2.2 us on the
    same 56 cores, but PyTorch's packages bring GNU's.

    Threads with work also come late, by different delays. The longest of n exponential ones is H_n = 1 + 1/2 + ... + 1/n times
    their mean (Agarwal, Garg and Vishnoi, "The Impact of Noise on the Scaling of Collectives", HiPC 2005): two cores of a Xeon
    lose 2.3 us in PyTorch's loops where an empty region takes 0.8, 14 cores of an i9-10940X about 17 us in compiled networks.
    """
    late_threads = np.maximum(threads_at_work, 1.0)
    harmonic = np.log(late_threads) + np.euler_gamma + 1.0 / (2.0 * late_threads) - 1.0 / (12.0 * late_threads**2)
    longest = np.where(late_threads > 1.0, harmonic - 1.0, 0.0)
    seconds: Floats = c.value("join") * (np.maximum(team, 1.0) - 1.0) + c.value("skew") * longest
    return seconds


def by_result(table: KernelTable, runtime: str) -> Masks:
    """(K,) pooling over windows whose results the framework computes one after the other, without vectors."""
    windows: Masks = table.is_family("pooling") & (table.window > 1) & (table.m > table.images)
    return windows & (runtime == "eager")


def layout_seconds(table: KernelTable, c: Coefficients, codes: Ints, runtime: str) -> Floats | float:
    """(..., K) seconds in which a library's cores together convert a convolution's operands to blocks of channels and back
    (oneDNN's nChw16c: Developer Guide, "Understanding Memory Formats"), or unroll its image into columns. Channels that
    fill whole vectors take a fast path, others a slow one. A few input channels are read in place. Compiled code keeps images in
    one layout from kernel to kernel, and each of its own conversions is a loop; it does not convert sequences."""
    if c.find(f"layout.{runtime}.edge", f"layout.{runtime}.aligned") is None:
        return 0.0
    cores = c.profile.value("count.cores", 1.0)
    as_stored: Masks = table.is_op("aten.conv1d") | (runtime == "eager")
    bytes_by_layout = _blocked_bytes(table, c, codes)
    seconds = sum(c.value(f"layout.eager.{layout}") * nbytes * as_stored for layout, nbytes in bytes_by_layout.items())
    if runtime == "eager":
        return seconds / cores
    # Compiled code keeps images channels-last: what enters and leaves is converted. So are kernels of more than a point, at every
    # call, and the library puts all weights into blocks.
    images = table.is_family(*CONVOLUTIONS) & ~as_stored
    boundary_bytes = np.where(images, table.entering_bytes, 0.0) + table.leaving_bytes
    weights = np.where(images, table.bytes_of_kind(READ_WEIGHT) * (1.0 + (table.window > 1)), 0.0)
    seconds = seconds + c.value(f"layout.{runtime}.edge") * boundary_bytes + c.value(f"layout.{runtime}.weights") * weights
    loops = 1.0 * (table.entering_bytes > 0) + (table.leaving_bytes > 0)
    loops = loops + (table.window > 1) * (c.value(f"layout.{runtime}.weights") > 0)
    loop_launch = c.value(f"launch.{runtime}.copy", *by_runtime("launch", runtime)) + team_seconds(c, cores, cores)
    return seconds / cores + np.where(images, loops * loop_launch, 0.0)


def _blocked_bytes(table: KernelTable, c: Coefficients, codes: Ints) -> dict[str, Floats]:
    """(K,) bytes that a library brings into its layout, by the last part of the coefficient's name."""
    lanes = c.profile.value("vector.lanes", 1.0)
    in_blocks = converts_layout(table, codes)
    channels_in, channels_out = table.channels_in * table.batch, table.channels_out * table.batch
    channels_by_kind = {READ_ACTIVATION: (channels_in, channels_in > lanes / 4), WRITE: (channels_out, channels_out > 0)}
    aligned_bytes: Floats = table.bytes_of_kind(READ_WEIGHT) * in_blocks
    tail_bytes = _columns(table, codes)
    for kind, (channels, counts) in channels_by_kind.items():
        nbytes = np.where(in_blocks & counts, table.bytes_of_kind(kind), 0.0)
        fits: Masks = channels % lanes == 0
        aligned_bytes, tail_bytes = aligned_bytes + nbytes * fits, tail_bytes + nbytes * ~fits
    return {"aligned": aligned_bytes, "tail": tail_bytes}


def _columns(table: KernelTable, codes: Ints) -> Floats:
    """(K,) bytes of the columns into which an image is unrolled for a product. PyTorch's own loop for dilated windows tests each
    element against the image's borders (`im2col` in ATen/native/im2col.h)."""
    native, of_library = unrolls_image(table, codes)
    times = of_library + native * np.where(table.dilation > 1, BORDER_TESTS, 1.0)
    return times * table.batch * table.m * table.k * element_bytes(table)


def fresh_seconds(table: KernelTable, c: Coefficients) -> Floats:
    """(..., K) seconds of the first touch of new memory by all cores."""
    fresh = table.mapped_bytes + c.value("heap.returned") * table.grown_bytes
    faults: Floats = c.value("page_fault") * fresh / c.profile.value("count.cores", 1.0)
    return faults


def call_by_call(table: KernelTable, launch: Floats, c: Coefficients, runtime: str) -> Floats:
    """(..., K) seconds to dispatch every kernel, from those of one call (`launch`): recurrent layers that run call by call
    dispatch several calls in each step."""
    calls = sum(table.is_op(op) * count for op, count in UNFUSED_CALLS.items())
    if not np.any(calls):
        return launch
    names = by_runtime("launch", runtime)
    product, loop = (c.value(*(f"{names[0]}.{kind}" for kind in kinds), *names) for kinds in (("linear", "gemm"), ("pointwise",)))
    return np.where(np.greater(calls, 0), product + table.batch * (product + calls * loop), launch)
