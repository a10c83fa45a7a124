"""Kernels on a GPU whose threads are bound by their own instructions or by waiting, not by a memory or by the matrix units.

Loops over elements stream. Four kinds of loops of PyTorch do not (aten/src/ATen/native/cuda: AveragePool2d.cu,
DepthwiseConv2d.cu, group_norm_kernel.cu, UpSampleBilinear2d.cu, CUDALoops.cuh, layer_norm_kernel.cu, SoftMax.cu):

- a thread for each result of a window: pooling and depthwise convolutions of images in rows. Each point of the window takes the
  integer arithmetic of an address and of its bounds, so that points a second are the same for all windows and types.
- elementwise operators that broadcast an operand, and norms of images in rows by running statistics (Normalization.cuh): each
  element takes the divisions of its place into the operands' dimensions.
- a block or a warp for each row. Layer norm has 128 threads for a row, which read vectors of 4, and threads without elements
  take as long as the others. Softmax gives a row of up to 1024 elements to one warp, as the next power of two; a block goes
  through longer ones three times. Group norm, and layer norm of rows that are no multiple of 4 elements, have 512 threads, which
  read one element after the other, then reduce what they have.
- a thread for each point of the result's plane: bilinear interpolation. It goes through all channels of all images.
"""

from __future__ import annotations

from types import MappingProxyType

import numpy as np

from shmoo.estimators.graph.dtypes import COMPUTE_DTYPES
from shmoo.estimators.graph.records import CONVOLUTIONS
from shmoo.estimators.machine.coefficients import RECURRENT, Coefficients, in_tensor_kernels
from shmoo.estimators.machine.profile import ArchitectureProfile
from shmoo.estimators.table import READ_ACTIVATION, WRITE, Floats, Ints, KernelTable, Masks, op_code
from shmoo.estimators.tiling.base import ceil_div, element_bytes, hit_share
from shmoo.estimators.tiling.gpu.library import TensorKernels, tensor_kernels

_TF32 = COMPUTE_DTYPES.index("tf32")
NARROW = np.isin(COMPUTE_DTYPES, ("float16", "bfloat16"))
"""By code of a type, whether it has 16 bits."""
AS_STORED = frozenset({"eager", "cudagraphs"})
"""Runtimes that hand images to a GPU's library in the order they are stored in."""
COPY_BYTES = 16.0
"""Widest copy of a thread, and what tensor memory accesses need rows to be multiples of (CUDA C++ Programming Guide, asynchronous
data copies, 2024)."""
STEP_KERNELS = 2.5
"""Kernels of a step of a recurrent layer: products with the state, gates, and part of the products with the inputs."""
PERSISTENT_UNITS = 512.0
"""Gates of a layer whose steps cuDNN runs in one kernel in float32: layers of 64 and 96 units do, one of 704 does not."""
INTEGER_LANES = 64.0
"""32-bit integer additions of a multiprocessor and clock, whose float32 lanes are 64 or 128 (CUDA C++ Programming Guide,
throughput of native arithmetic instructions, 2024, capabilities 6.0 to 9.0)."""
DOT_FLOPS = 8.0
"""Operations of an instruction that multiplies four pairs of bytes and adds them up (DP4A). A GTX 1080 Ti and a Titan Xp, whose
lanes all have it, reach 0.93 and 0.96 of their 45 and 49 Tops, a T4 0.74 of 33 and so 0.19 of what its tensor cores would
(DeepBench, 2019)."""
ROW_THREADS = 512.0
"""Threads of a block that reduces a row (`cuda_utils::kCUDABlockReduceNumThreads`)."""
VECTOR_THREADS = 128.0
"""Threads of a block that normalizes a row of whole vectors (`LaunchVectorizedLayerNormKernel`)."""
WARP_ROW = 1024.0
"""Longest row of a softmax that one warp keeps in its registers (`dim_size <= 1024`)."""
PASSES = 1.5
"""Work of a softmax whose rows are read three times, relative to that of one that keeps them: it takes exponentials twice and
divides once."""
ISSUED = 128.0
"""Lanes that the four schedulers of a multiprocessor serve a clock (CUDA C++ Programming Guide, 2024, capabilities 6.0 to 10.0):
loops are chains of single instructions, so lanes that do two flops at once do not help them."""
RESIDENT_THREADS = MappingProxyType({7.5: 1024.0, 8.6: 1536.0, 8.7: 1536.0, 8.9: 1536.0})
"""Compute capability -> threads that a multiprocessor holds, 2048 elsewhere (CUDA C++ Programming Guide, 2024)."""
PARTED, REACH = (8.0, 9.0, 10.0), 0.7
"""Capabilities whose L2 is in two parts, each of which keeps copies of what its multiprocessors read in the other (NVIDIA A100
Tensor Core GPU Architecture, 2020), and the share of it whose contents a loop still finds: additions, products and activations of
float32 on an A100 stop gaining at 0.64 to 0.72 of 40 MB (Lee et al., ASPLOS 2025)."""
FEWEST_CHANNELS = 32
SLICE_BYTES = 64.0
"""Of channels that a convolution's kernels on tensor cores stage at once, as of products until Ada (`library.TENSOR_KERNELS`)."""
SMALL_CHANNELS = 64
"""Channels in and out of a convolution that Inductor calls small."""
_FLOAT16 = COMPUTE_DTYPES.index("float16")
_GROUPS = ("aten.group_norm", "aten.native_group_norm", "aten.instance_norm")
_ROWS = ("aten.layer_norm", "aten.native_layer_norm", "aten.rms_norm", "aten._fused_rms_norm")
_VECTOR = 4.0
"""Elements that a layer norm reads at once (layer_norm_kernel.cu, `vec_size`)."""
_WITH_INDICES = tuple(f"aten.max_pool{rank}d" for rank in (2, 3))
_INDEX_BYTES = 8.0
_PLANES = ("aten.upsample_bilinear2d", "aten.upsample_bicubic2d", "aten.upsample_linear1d", "aten.upsample_trilinear3d")


def addresses_points(table: KernelTable) -> Masks:
    """(K,) kernels with a thread for each result of a window, for elements of operands of several shapes, or for those of images
    in rows that running statistics normalize. Depthwise convolutions in float16 with windows of 1, 3 or 5 by as many are
    cuDNN's, as are those of channels-last images (ATen's `use_cudnn_depthwise`)."""
    square = (table.window_height == table.window_width) & np.isin(table.window_height, (1.0, 3.0, 5.0))
    channels = table.channels_in * table.batch
    library = (table.dtype == _FLOAT16) & square & (table.dilation == 1) & (table.stride <= 2) & (channels >= FEWEST_CHANNELS)
    alone: Masks = table.is_family("depthwise") & (table.strided_bytes > 0) & ~library
    # Pooling to one point is a mean over rows.
    windows = alone | (table.is_family("pooling") & (table.window > 1) & (table.m > table.images))
    return windows | (table.is_family("pointwise", "normalization") & (table.strided_bytes > 0))


def point_rate(table: KernelTable, profile: ArchitectureProfile) -> tuple[Floats, float]:
    """(K,) points of all windows, and cycles a second of the integer lanes that find their addresses."""
    points = table.batch * table.m * np.where(table.is_family("depthwise"), table.window, table.n)
    return points, integer_rate(profile)


def integer_rate(profile: ArchitectureProfile) -> float:
    """Instructions on 32-bit integers a second."""
    lanes = min(profile.value("vector.lanes", INTEGER_LANES), INTEGER_LANES)
    return profile.value("count.sms") * lanes * profile.value("clock")


def dependent_reads(table: KernelTable, profile: ArchitectureProfile) -> tuple[Floats, Floats]:
    """(K,) reads that one thread does one after the other, over all rounds of blocks, and rounds that end with a reduction of a
    block; 0 for loops that stream."""
    at_once = _threads_at_once(profile)
    vectors = in_vectors(table)
    rows = table.is_op(*_ROWS, *_GROUPS)
    planes = table.is_op(*_PLANES)
    threads = np.where(vectors, VECTOR_THREADS, ROW_THREADS)
    rounds = np.where(rows, np.ceil(table.m * threads / at_once), 0.0)
    along_rows = np.ceil(table.n / np.where(vectors, VECTOR_THREADS * _VECTOR, ROW_THREADS)) * rounds
    through_channels = table.images * np.ceil(table.m / table.images / at_once)
    return np.where(planes, through_channels, along_rows), rounds


def in_vectors(table: KernelTable) -> Masks:
    """(K,) norms of rows that a block reads in vectors."""
    whole: Masks = table.is_op(*_ROWS) & (np.mod(table.n, _VECTOR) == 0)
    return whole


def reach(profile: ArchitectureProfile) -> float:
    """Share of the capacity of L2 whose contents a loop finds."""
    return REACH if profile.value("compute.capability", 0.0) in PARTED else 1.0


def _threads_at_once(profile: ArchitectureProfile) -> float:
    return profile.value("count.sms") * RESIDENT_THREADS.get(profile.value("compute.capability", 0.0), 2048.0)


def bytes_read_again(table: KernelTable, profile: ArchitectureProfile) -> Floats:
    """(K,) bytes of rows that a norm reads from main memory once more to normalize them: those that L2 does not hold of all rows
    in work."""
    row = table.n * element_bytes(table)
    working = np.minimum(table.m, _threads_at_once(profile) / VECTOR_THREADS) * row
    lost = table.m * row * (1.0 - hit_share(working, reach(profile) * profile.value("capacity.l2", 0.0)))
    return np.where(in_vectors(table), lost, 0.0)


def bytes_read_near(table: KernelTable) -> Floats:
    """(K,) bytes of rows that a softmax reads twice more, for the sum and for the results; L2 holds the rows in work."""
    longer = table.is_family("softmax") & (table.n > WARP_ROW)
    return np.where(longer, 2.0 * table.m * table.n * element_bytes(table), 0.0)


def row_work(table: KernelTable) -> Floats:
    """(K,) work of a row's threads relative to that of its elements; 1 for other loops."""
    per_round = VECTOR_THREADS * _VECTOR
    norm = (np.ceil(table.n / per_round) + 1.0) * per_round / table.n  # one round joins what the threads found
    softmax = np.where(table.n <= WARP_ROW, 2.0 ** np.ceil(np.log2(table.n)) / table.n, PASSES)
    return np.where(in_vectors(table), norm, np.where(table.is_family("softmax"), softmax, 1.0))


def index_bytes(table: KernelTable) -> Floats:
    """(K,) bytes of the places of maxima, which eager PyTorch writes beside them whether they are used or not."""
    return np.where(table.is_op(*_WITH_INDICES), _INDEX_BYTES * table.batch * table.m, 0.0)


def copies_of_words(table: KernelTable, profile: ArchitectureProfile) -> Masks:
    """(K,) products with operands whose rows are no multiple of 16 bytes: neither tensor memory accesses nor wide copies read
    them, so that kernels of an older generation copy a word of 2 to 8 bytes at a time (NVIDIA, "Matrix multiplication background
    user's guide", 2023: dimensions should be multiples of 16 bytes). Linear layers walk both operands along k; other products
    walk the second along n. What goes through registers is copied in words anyway: a V100 and a T4 multiply rows of 1,530 and
    5,124 elements of 16 bits as fast as others (DeepBench, 2019)."""
    across = (table.op != op_code("aten.linear")) & _rows_of_words(table, table.n)
    copied: Masks = table.is_family("gemm") & (_rows_of_words(table, table.k) | across) & (np.minimum(table.m, table.n) > 2)
    return copied & (not _tensor_kernels(profile).through_registers)


def rate_of_words(profile: ArchitectureProfile) -> tuple[str, ...]:
    """Coefficients to look the rate of such products up by, relative to that of others, most specific first: where kernels are
    built on tensor memory accesses, those that do without are of the generation before."""
    return ("efficiency.unaligned.older",) * copies_by_tensor(profile) + ("efficiency.unaligned",)


def copies_by_tensor(profile: ArchitectureProfile) -> bool:
    """Whether the kernels of a card's tensor cores are built on tensor memory accesses: from Hopper on."""
    return _tensor_kernels(profile).bulk_copies


def _tensor_kernels(profile: ArchitectureProfile) -> TensorKernels:
    parameters = profile.tiling.parameters
    return tensor_kernels(parameters.get("tensor_library") or parameters.get("library"))


def _rows_of_words(table: KernelTable, extent: Floats) -> Masks:
    """(K,) whether rows of this extent are no multiple of the widest copy."""
    words: Masks = np.mod(extent * element_bytes(table), COPY_BYTES) > 0
    return words


def kernels_a_step(table: KernelTable) -> Floats:
    """(K,) kernels that a library launches for each step of recurrent layers; 0 for other calls, and where one kernel keeps the
    weights and goes through all steps."""
    recurrent = table.is_op(*RECURRENT)
    persistent = (element_bytes(table) >= 4.0) & (table.n <= PERSISTENT_UNITS)
    return np.where(recurrent & ~persistent, STEP_KERNELS, 0.0)


def step_seconds(table: KernelTable, c: Coefficients) -> Floats | float:
    """(..., K) seconds that the steps of recurrent layers take at least, whatever their flops: each waits for the states of the
    one before, at a launch or at a barrier of all blocks, and kernels that are launched read the weights of the state anew, about
    half of all; 0 for other calls."""
    recurrent = table.is_op(*RECURRENT)
    if not recurrent.any():
        return 0.0
    read = _pass_seconds(table.n * table.k * element_bytes(table) / 2.0, np.zeros(len(table)), c.value("efficiency.bandwidth"), c)
    each = np.where(kernels_a_step(table) > 0, np.maximum(c.value("step.launched"), read), c.value("step.persistent"))
    return np.where(recurrent, table.batch * each, 0.0)


def operands_copied(table: KernelTable) -> Floats:
    """(K,) operands of products that the framework copies before it multiplies, and of a softmax that it converts first
    (`graph_rows`)."""
    larger = table.batch * table.k * np.maximum(table.m, table.n) * element_bytes(table)
    converted = table.is_family("softmax") & (table.strided_bytes > 0)
    return np.where(table.is_family("gemm"), np.ceil(table.strided_bytes / larger - 1e-9), converted)


def copy_seconds(table: KernelTable, c: Coefficients) -> Floats:
    """(..., K) what these copies take: each element is read and written once, in L2 where both fit. A converted one is read in
    few bytes and written in many, and the softmax then reads as many in place of the few."""
    copies = operands_copied(table)
    if not copies.any():
        return copies
    moved: Floats = 2.0 * table.strided_bytes * (copies > 0)
    scattered = c.value("efficiency.bandwidth.copy", "efficiency.bandwidth")
    return _pass_seconds(moved, copies, np.where(table.is_family("gemm"), scattered, _loop_share(c)), c)


def adds_bias_after(table: KernelTable) -> Masks:
    """(K,) convolutions of the library with a bias, which eager PyTorch adds in a kernel of its own (ATen's `_convolution`)."""
    biased: Masks = table.is_family(*CONVOLUTIONS) & (table.calls == 1) & (table.vector_flops > 0) & ~addresses_points(table)
    return biased


def bias_seconds(table: KernelTable, c: Coefficients) -> Floats:
    """(..., K) what adding these biases takes: results are read and written once more."""
    biased = adds_bias_after(table).astype(np.float64)
    return _pass_seconds(2.0 * table.bytes_of_kind(WRITE) * biased, biased, _loop_share(c), c)


def _loop_share(c: Coefficients) -> float | Floats:
    return c.value("efficiency.bandwidth.pointwise", "efficiency.bandwidth")


def _pass_seconds(moved: Floats, kernels: Floats, share: float | Floats, c: Coefficients) -> Floats:
    """(..., K) seconds of kernels that do nothing but move these bytes at a share of the bandwidth, in L2 where it holds them."""
    seconds: Floats = moved / (pass_rate(moved, c) * share) + kernels * c.value("device_launch")
    return seconds


def pass_rate(moved: Floats, c: Coefficients) -> Floats:
    """(..., K) bytes a second of kernels that do nothing but move these bytes, in L2 where it holds them."""
    main_memory = c.profile.main_memory
    near = hit_share(moved, c.profile.value("capacity.l2", 0.0))
    seconds = near / c.value("bandwidth.l2", f"bandwidth.{main_memory}") + (1.0 - near) / c.value(f"bandwidth.{main_memory}")
    rate: Floats = 1.0 / seconds
    return rate


def group_filling(table: KernelTable) -> Floats:
    """(K,) channels of a group as a grouped convolution's kernels on tensor cores have them, relative to those that it has: whole
    slices of the reduction, or a part that divides one. Channels-last RegNets with groups of 24 to 232 channels take 1.6 to 3.7
    times as long in these convolutions as counted without the copies that this takes, those with groups of 16 and of 128 do not
    (GeForce RTX 3090 and 4090; Wightman, pytorch-image-models, 2024)."""
    grouped = table.is_family("conv") & (table.batch > 1)
    channels = np.maximum(np.maximum(table.channels_in, table.channels_out), 1.0)
    staged = SLICE_BYTES / element_bytes(table)
    whole = np.where(channels > staged / 2, ceil_div(channels, staged) * staged, channels)
    filled: Floats = np.where(grouped, whole / channels, 1.0)
    return filled


CHANNELS_LAST_COST = {"grouped": 1.358, "small": 0.783, "narrowing": 0.725, "other": 0.823}
"""Kind of convolution -> its time channels-last relative to that in rows, as Inductor weighs them
(`torch._inductor.graph.GraphLowering.decide_layout_opt`, version 2.4)."""


def keeps_rows(table: KernelTable) -> Masks:
    """(K,) kernels of graphs whose images Inductor leaves as they are stored, because by its weights channels-last would take
    longer: those that convolve mostly in groups of several channels."""
    inputs, outputs = table.channels_in, table.channels_out * table.batch
    weights = np.select(
        [
            (table.batch > 1) & (inputs > 1),
            (inputs <= SMALL_CHANNELS) & (outputs <= SMALL_CHANNELS),
            (2 * outputs <= inputs) & (table.window_height > 1),
        ],
        [CHANNELS_LAST_COST[name] for name in ("grouped", "small", "narrowing")],
        CHANNELS_LAST_COST["other"],
    )
    flops = table.matrix_flops * table.is_family(*CONVOLUTIONS)
    slower: Masks = table.to_kernels(table.of_segments(flops * weights) / np.maximum(table.of_segments(flops), 1.0)) > 1.0
    return slower


def transposition_seconds(table: KernelTable, c: Coefficients, codes: Ints, runtime: str) -> Floats | float:
    """What cuDNN spends on images that are not as its tensor-core kernels for windows take them: kernels before and after a
    convolution read and write them once more. They take them channels-last, and groups whose channels fill whole slices. A window
    of one point is a product of the images as they are stored, but not for tensor memory accesses where it leaves points out.
    Kernels for tf32 write results in rows themselves (`sm80_xmma_fprop_implicit_gemm_tf32f32_tf32f32_f32_nhwckrsc_nchw_...`).
    Compiled code keeps images channels-last, but for `keeps_rows`."""
    stored = True if runtime in AS_STORED else keeps_rows(table)
    filled = group_filling(table)
    in_rows = table.dtype == _TF32
    converted = table.strided_bytes - np.where(in_rows, table.bytes_of_kind(WRITE), 0.0)
    moved = 2.0 * np.where(_transposed(table, codes, c.profile) & stored, converted * filled, 0.0)
    if np.any(apart := in_tensor_kernels(codes) & (filled > 1.0) & (moved == 0)):
        # Padded groups are what the convolution itself reads and writes, too.
        moved = np.where(apart, 2.0 * filled * table.bytes_of_kind(READ_ACTIVATION, WRITE), moved)
    rate = c.value(f"bandwidth.{c.profile.main_memory}") * c.value("efficiency.bandwidth.transposition", "efficiency.bandwidth")
    return moved / rate + np.where(in_rows, 1.0, 2.0) * c.value("device_launch") * (moved > 0)


def _transposed(table: KernelTable, codes: Ints, profile: ArchitectureProfile) -> Masks:
    """(K,) kernels that cuDNN puts between conversions of their image and their result, where these are not channels-last."""
    windows: Masks = table.window > 1
    if copies_by_tensor(profile):
        windows = windows | (table.stride > 1)
    return in_tensor_kernels(codes) & windows & (table.strided_bytes > 0)


def in_turn(table: KernelTable) -> Masks:
    """(K,) convolutions of images in rows whose groups cuDNN does one after the other."""
    return table.is_family("conv") & (table.batch > 1) & (table.strided_bytes > 0)


def within_call(table: KernelTable, c: Coefficients, codes: Ints, runtime: str) -> Floats | float:
    """What the host spends on the further kernels of one call: conversions of a convolution's image, weights and result in 16
    bits, every group but one of a grouped convolution, and the steps of recurrent layers."""
    # Compiled code leaves recurrent layers to the framework; a replayed graph has all of their kernels.
    steps = kernels_a_step(table) * table.batch * (runtime != "cudagraphs")
    if runtime != "eager":
        return c.value("launch.driver") * steps
    converted = 3.0 * (_transposed(table, codes, c.profile) & NARROW[table.dtype])
    return c.value("launch.driver") * (
        operands_copied(table) + adds_bias_after(table) + converted + np.where(in_turn(table), table.batch - 1.0, 0.0) + steps
    )
