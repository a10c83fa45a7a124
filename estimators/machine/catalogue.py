"""The catalogue of coefficients: one entry for each kind. A coefficient has the entry of its longest stem (`names.py` says how
names are made). Values are looked up in a profile first and then in `DEFAULTS`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from types import MappingProxyType
from typing import Literal

from shmoo.estimators.graph.records import RUNTIMES, Coefficient
from shmoo.estimators.machine.entries import Entry, Guess, Space
from shmoo.estimators.machine.names import general

_GUESS = "engineering range for a machine that was not measured"
_LARGE = f"share of peak on large shapes: {_GUESS}"
_BLOCKS = f"share of peak of large tiles over a long reduction: {_GUESS}"
_DEEPBENCH = "geometric mean of P100, V100 and T4, each fitted to DeepBench's float32 convolutions (CUDA 8 to 10.1)"
_TRANSFORMED = f"share of peak of transformed products: {_GUESS}"
_COUNTED = f"share of the counted cycles, idle elements included, as of products: {_GUESS}"
_COUNTED_ON_KPU = ("conv", "conv_3x3", "depthwise", "conv_transpose", "attention", "linalg")
_HALF = f"extent at which half of the efficiency is lost: {_GUESS}"
_HE = "(He, Strangely, matrix multiplications on GPUs run faster when given predictable data, 2024)"
_LUO = "(Luo et al., Benchmarking and Dissecting the Nvidia Hopper GPU Architecture, 2024)"
_CUTLASS = "(cp.async, TMA; CUTLASS, Efficient GEMM in CUDA, 2024)"
_STRIDED = "a strided copy of an image from or to channels-last order"
_HOROWITZ = "datapath and DDR4 energies of Horowitz, ISSCC 2014, and Jouppi et al., ISCA 2021, with a core's overhead; wide"
_CACHES = "the system does not tell; typical of CPUs"
_XEON = "as calibrated on two cores of a fourth-generation Xeon with PyTorch 2.13"
_I9 = f"{_XEON} and seen in networks compiled for 14 cores of an i9-10940X (timm, 2024)"
_NETWORKS = "(`tests.evaluation networks`, which names the sources)"
_EAGER = {
    "pointwise": 1.2e-6, "copy": 2e-6, "softmax": 2e-6, "pooling": 4e-6, "attention": 1.1e-5, "conv": 7e-5, "depthwise": 7e-5,
    "conv_native": 8e-6, "conv_transpose": 2e-5, "recurrent": 1e-4,
}  # fmt: skip
_COMPILED = {"": 8e-6, ".conv": 6.5e-5, ".depthwise": 5e-5, ".conv_native": 2.5e-5}
_SWITCH = {"": 8e-6, ".pointwise": 4e-6, ".conv": 5e-5, ".depthwise": 5e-5, ".conv_native": 1e-5}
_VOLTAGE = (
    "clock ~ (V - Vt)^1.3 / V (Sakurai and Newton, IEEE JSSC 25(2), 1990), thresholds of 0.2 to 0.5 of the voltage: its square "
    "follows with an exponent of 1.1 to 2; GPUs that were measured have 0.3 to 1.7"
)
_LEAST_VOLTAGE = "least voltage of a process 0.67 to 0.92 of the nominal one; squared, 0.46 to 0.88 on GPUs that were measured"
_COUNTS, _SHARES = (1.0, 1e6), (1e-6, 100.0)
_GIVEN_CLOCK = ("cpu", "tpu", "kpu")
_BUILT_FOR_CAP = ("tpu", "kpu")
_CORE = (("peak", 1.0), ("bandwidth.l1", 1.0), ("bandwidth.l2", 1.0))
_UNIT = (("peak.matrix", 1.0),)
# An array is fed at its edges, which grow with the root of its area.
_EDGE = (("peak", 1.0), ("bandwidth.l1", 0.5))
_SIDE = Entry("1", "count", "of a TPU matrix unit or a KPU tile", brings={"tpu": _UNIT, "kpu": _EDGE}, within=_COUNTS)
_IN_CYCLES = tuple((name, -1.0) for name in ("device_launch", "tile_overhead", "split_overhead", "fetch.latency"))
_LEAST_AND_MOST = {"gpu": Space(0.2, 1.1, 0.1), "cpu": Space(0.05, 1.6, 0.08), "tpu": Space(0.05, 1.0, 0.2)}
# Bounds of a fit are physical: an efficiency above 1.6 is more than Winograd's transform can save, a launch below 50 ns is less
# than one call through Python, a power controller acts within a few tens of milliseconds, voltage falls at most in proportion to
# the clock, and energy with its square. Blocks and transforms are counted on a GPU, so only a clock above the nominal one lets
# its contractions beat the peak. On a CPU all contractions end in the same register blocks, so their rates on large shapes are
# near each other's, whatever the clock is.
_LAUNCH = Space(5e-8, 1e-3, 1.5)
_STEPS = "(layers of 40 to 168 units, 1000 to 6000 steps; Wang, PyTorch pull request 62143, 2022)"
CATALOGUE: Mapping[str, Entry] = MappingProxyType({
    "count.cores": Entry("1", "count", "CPU cores; TPU cores on the chip", brings={"cpu": _CORE}, within=_COUNTS),
    "count.pipes": Entry("1", "count", "CPU: vector multiply-add pipes of a core", within=_COUNTS),
    "count.sms": Entry("1", "count", "GPU multiprocessors", brings={"gpu": (("peak", 1.0), ("bandwidth.shared", 1.0))},
                       within=_COUNTS),
    "count.units": Entry("1", "count", "TPU matrix units", brings={"tpu": _UNIT}, within=_COUNTS),
    "count.alus": Entry("1", "count", "TPU: arithmetic units of a vector lane", within=_COUNTS),
    "count.tiles": Entry("1", "count", "KPU tiles", brings={"kpu": (
        *_CORE, ("bandwidth.l3", 1.0), ("capacity.l2", 1.0), ("capacity.l3", 1.0),
        ("power.static", 1.0), ("power.idle", 1.0), ("power.tdp", 1.0))}, within=_COUNTS),
    "array.rows": _SIDE,
    "array.cols": _SIDE,
    "vector.lanes": Entry("1", "count", "float32 lanes of a vector register (CPU), multiprocessor (GPU), core (TPU), tile (KPU)",
                          within=_COUNTS),
    "matrix.lanes": Entry("1", "count", "GPU: float16 tensor-core multiply-adds of one multiprocessor and clock", within=_COUNTS),
    "compute.capability": Entry("1", "rating", "GPU generation", within=(1.0, 1e3)),
    "ecc.share": Entry("1", "rating", "of main memory's bandwidth that error-correcting codes in the same memory leave to data; "
                       "1 where they have lanes of their own or are off", within=(0.1, 1.0)),
    "clock": Entry("Hz", "rate", "of the units", brings={
        "cpu": (*_CORE, ("clock.highest", 1.0)),
        "gpu": (("peak", 1.0), ("bandwidth.shared", 1.0), ("bandwidth.l2", 1.0), ("clock.highest", 1.0), *_IN_CYCLES),
        "tpu": (("peak", 1.0), ("bandwidth.vmem", 1.0), ("bandwidth.cmem", 1.0)),
        "kpu": (("peak", 1.0), ("bandwidth.l1", 1.0))}),
    "clock.highest": Entry("Hz", "rating", "that the units ever run at; no product takes less than at it"),
    "clock.rated": Entry("Hz", "rating", "at which the energies are given; the profile's own clock where it is not named"),
    "peak.matrix": Entry("flop/s", "rate", "of contractions, by type"),
    "peak.vector": Entry("flop/s", "rate", "of loops, by type"),
    "peak.special": Entry("1/s", "rate", "evaluations of special functions, by type"),
    "capacity": Entry("B", "size", "of a memory level (which are per core or per tile: `profiles/__init__.py`); "
                      "`capacity.register` is the register file of a GPU multiprocessor", typical=(
        Guess(32 << 10, 16 << 10, 128 << 10, _CACHES, ".l1", "cpu"),
        Guess(1 << 20, 256 << 10, 4 << 20, _CACHES, ".l2", "cpu"),
        Guess(32 << 20, 4 << 20, 256 << 20, _CACHES, ".l3", "cpu"))),
    "bandwidth": Entry("B/s", "rate", "of a memory level; `.l2.tensor`: as tensor-core kernels copy", Space(1e8, 1e14, 1.0)),
    "bandwidth.l2": Entry("B/s", "rate", "see `bandwidth`", Space(1e8, 1e14, 1.0), brings={"gpu": (("bandwidth.l2", 1.0),)}),
    "efficiency": Entry("1", "share", "of the matrix peak on large shapes, by algorithm, in compiled code by runtime too",
                        Space(1e-3, 1.6, 1.0), _LEAST_AND_MOST, (
        Guess(0.75, 0.5, 0.95, _LARGE),
        Guess(0.65, 0.4, 0.95, _LARGE, ".conv"),
        Guess(0.8, 0.4, 1.5, "above 1 with Winograd's transform (Lavin and Gray, 2016)", ".conv_3x3"),
        Guess(0.15, 0.05, 0.4, f"one input channel per group leaves matrix units idle: {_GUESS}", ".depthwise"),
        Guess(0.15, 0.07, 0.3, f"of float32, a load and its address beside each, in the library: {_GUESS}", ".depthwise", "gpu"),
        Guess(0.6, 0.35, 0.85, "share of the rate that narrow copies leave to kernels of the same generation (NVIDIA, Matrix "
              "multiplication background user's guide, 2023, figures of alignment)", ".unaligned", "gpu", "literature"),
        Guess(0.3, 0.15, 0.6, "the same with kernels of a generation without tensor memory accesses: on an H200 "
              "(runs/recorded/h200)", ".unaligned.older", "gpu", "literature"),
        Guess(0.65, 0.5, 0.85, "float32 products of 8 rows over 500,000 read weights so at 0.69 (V100) and 0.71 (T4) of the rate "
              "of others (DeepBench, 2019); batches of up to 32 columns read rows of 600 elements at 0.64 of the rate of 96 on "
              "a V100 (Lee et al., ASPLOS 2025)", ".walk", "gpu", "literature"),
        Guess(0.05, 0.02, 0.2, "cuDNN's float32 kernels of grouped convolutions of images in rows: 0.03 and 0.06 of the peak of "
              "an H200 (runs/recorded/h200)", ".conv_grouped", "gpu", "literature"),
        Guess(0.65, 0.45, 1.0, f"of the base clock, which wide vectors do not hold on all cores, {_I9}", "", "cpu"),
        *(Guess(0.9, 0.6, 1.2, f"the same of convolutions, {_I9}", name, "cpu") for name in (".conv", ".conv_3x3")),
        Guess(0.5, 0.2, 1.0, f"lanes hold channels, {_I9}", ".depthwise", "cpu"),
        Guess(0.4, 0.2, 0.8, _GUESS, ".conv_transpose"),
        Guess(0.5, 0.25, 0.8, _GUESS, ".attention"),
        Guess(0.2, 0.05, 0.6, _GUESS, ".linalg"),
        Guess(0.9, 0.7, 1.0, _BLOCKS, "", "gpu"),
        Guess(0.95, 0.7, 1.1, f"share of peak of implicit products in float32: {_DEEPBENCH}", ".conv", "gpu", "literature"),
        Guess(0.85, 0.5, 1.0, f"share of peak of the direct way: {_GUESS}", ".conv_3x3", "gpu"),
        Guess(0.85, 0.5, 1.0, _TRANSFORMED, ".winograd", "gpu"),
        Guess(0.85, 0.5, 1.0, _TRANSFORMED, ".winograd_fused", "gpu"),
        Guess(1.0, 0.9, 1.05, f"an A100 that its cap leaves alone multiplies 8192 x 8192 at 295 of 312 Tflop/s {_HE}: what the "
              "parts below leave", ".tensor", "gpu", "literature"),
        Guess(0.9, 0.4, 1.0, "products, softmax beside them: 0.73 of an A100's peak with both (Dao, FlashAttention-2, 2023); on "
              "an H100 0.35 with Ampere's instructions, 0.75 with its own (Shah et al., FlashAttention-3, 2024)",
              ".attention_tensor", "gpu", "literature"),
        Guess(0.4, 0.15, 0.9, f"share of the cycles counted, idle columns included: {_GUESS}", ".depthwise", "tpu"),
        *(Guess(0.75, 0.5, 0.95, _COUNTED, f".{name}", "kpu") for name in _COUNTED_ON_KPU)), within=_SHARES),
    "efficiency.vector": Entry("1", "share", "of the vector peak that loops reach, by algorithm or operator",
                               Space(1e-3, 4.0, 1.0), {"gpu": Space(0.03, 4.0, 0.3)}, (
        Guess(0.5, 0.2, 0.9, f"share of the vector peak in loops: {_GUESS}"),
        Guess(0.18, 0.07, 0.5, f"of the multiply-add peak, {_I9}", "", "cpu"),
        Guess(0.02, 0.005, 0.08, f"windows point by point, {_XEON}", ".pooling", "cpu"),
        Guess(0.06, 0.02, 0.2, f"compiled windows, {_XEON}", ".inductor.pooling", "cpu"),
        Guess(0.15, 0.05, 0.4, "flops of an instruction: addresses, loads and conversions beside each", "", "gpu"),
        Guess(0.9, 0.6, 1.0, "arithmetic on registers beside products, as of softmax in the same kernels", ".tensor", "gpu")),
              within=_SHARES),
    "efficiency.special": Entry("1", "share", "of the special-function peak that loops reach, by algorithm or operator",
                                Space(0.05, 4.0, 1.0), {"gpu": Space(0.05, 4.0, 0.3)}, (
        Guess(0.5, 0.2, 0.9, f"share of the special-function peak: {_GUESS}"),
        Guess(0.95, 0.8, 1.0, "the passes of an evaluation are in the peak, all of which tanh and elu reach on a v4", "", "tpu",
              "literature"),
        Guess(0.45, 0.2, 0.9, "of its unit, beside 10 to 20 instructions around each", "", "gpu"),
        Guess(0.17, 0.12, 0.25, "40 to 50 instructions: 16 bits on A100 and H100 (Vidur, 2024)", ".gelu", "gpu", "literature"),
        Guess(2.0, 1.2, 3.0, "an exponential a score, a division a row (Dao, 2023)", ".attention_tensor", "gpu", "literature")),
              within=_SHARES),
    "efficiency.append": Entry("1", "share", "of main memory's bandwidth that storing new keys and values in a cache reaches",
                               Space(0.05, 4.0, 1.0), assumed=(
        Guess(0.4, 0.15, 0.9, f"scattered token by token, a few hundred bytes each: {_GUESS}", "", "gpu"),), within=_SHARES),
    "efficiency.bandwidth": Entry("1", "share", "of every level's bandwidth, by algorithm or operator", Space(0.01, 1.5, 0.7),
                                  {"gpu": Space(0.05, 1.1, 0.3), "tpu": Space(0.01, 1.0, 0.7)}, (
        Guess(0.8, 0.6, 0.95, "share that streaming kernels reach (McCalpin, STREAM)"),
        Guess(0.4, 0.15, 0.8, f"rows from random places: {_GUESS}", ".gather"),
        Guess(0.92, 0.75, 1.0, "by running statistics, a loop over elements as any other", ".batch_norm", "gpu"),
        Guess(0.55, 0.35, 0.8, f"concatenations and permuted copies, one side of them scattered: {_GUESS}", ".copy", "gpu"),
        *(Guess(0.92, 0.75, 1.0, "compiled copies and norms are loops over their results, as others are", f".{runtime}.{loop}",
                "gpu") for runtime in ("inductor", "inductor-freezing") for loop in ("copy", "normalization")),
        Guess(0.9, 0.7, 1.0, "a loop over results: caches hold the rows of a window until the next results have read them",
              ".depthwise", "gpu"),
        Guess(0.9, 0.75, 1.0, "tiles turned in shared memory stream as copies do (Ruetsch and Micikevicius, 2009); networks in "
              "rows on an RTX 3090 and 4090 ask for at least that (timm)", ".transposition", "gpu", "literature"),
        Guess(0.92, 0.8, 1.0, "a T4 streams 244 to 277 GB/s of 288 in products of 8-bit integers with few rows (DeepBench, 2019)",
              ".gemm_dot", "gpu", "literature"),
        Guess(0.92, 0.75, 1.0, "streams: V100 and A100 0.9 (Deakin et al., BabelStream), T4 0.75 (Jia et al., 2019)", ".tensor",
              "gpu", "literature")), within=_SHARES),
    "efficiency.l2": Entry("1", "share", "of L2's bandwidth, relative to `efficiency.bandwidth`", Space(0.2, 4.0, 0.3), assumed=(
        Guess(1.0, 1.0, 1.0, "", "", "gpu"), Guess(1.0, 0.7, 1.4, f"as of main memory: {_GUESS}", ".tensor", "gpu"),
        Guess(1.0, 0.7, 1.4, "single rows stream, and share no reads that the share of products would know of", ".gemv_tensor",
              "gpu"),
        Guess(0.7, 0.5, 1.0, "additions in 16 bits on an A100 and an H100 (Vidur, 2024)", ".pointwise", "gpu", "literature")),
              within=_SHARES),
    "fetch.width": Entry("1", "share", "bytes that a multiprocessor takes in a clock", Space(8.0, 256.0, 0.3), assumed=(
        Guess(64.0, 64.0, 64.0, "", "", "gpu"),
        Guess(64.0, 40.0, 100.0, f"a multiprocessor's port to L2 is 64 bytes wide {_LUO}", ".tensor", "gpu", "literature")),
              within=(1.0, 1e6)),
    "fetch.latency": Entry("s", "share", "from a copy's request to its data under load", Space(2e-7, 5e-6, 0.4), assumed=(
        Guess(8e-7, 8e-7, 8e-7, "", "", "gpu"),
        Guess(8e-7, 5e-7, 1.4e-6, f"480 to 740 clocks {_LUO}, later under load", ".tensor", "gpu", "literature"))),
    "split_overhead": Entry("s", "share", "of adding up the parts of a split reduction", Space(1e-8, 2e-5, 0.7), assumed=(
        Guess(0.0, 0.0, 0.0, "", "", "gpu"), Guess(1e-6, 0.3e-6, 3e-6, "a second kernel, or waiting blocks", ".tensor", "gpu"))),
    "half.m": Entry("1", "share", _HALF, Space(1e-2, 1e3, 1.5), assumed=(
        Guess(1.0, 0.1, 8.0), Guess(35.0, 12.0, 100.0, f"pixels, {_I9}", ".conv", "cpu")), within=(0.0, 1e7)),
    "half.n": Entry("1", "share", _HALF, Space(1e-2, 1e3, 1.5), assumed=(Guess(1.0, 0.1, 8.0),), within=(0.0, 1e7)),
    "half.k": Entry("1", "share", _HALF, Space(1e-2, 2e3, 1.5), {"gpu": Space(1e-1, 1e3, 0.7)}, (
        Guess(16.0, 4.0, 64.0),
        Guess(24.0, 12.0, 48.0, _DEEPBENCH, ".conv", "gpu", "literature"),
        Guess(48.0, 16.0, 150.0, f"reduction in a block at half of the rate: {_GUESS}", "", "gpu"),
        Guess(200.0, 100.0, 400.0, "what a block takes to start and to end: 197 to 237 on A100, H100, B200 and L40S (NVIDIA "
              "AIConfigurator, 2026)", ".tensor", "gpu", "literature"),
        Guess(8.0, 2.0, 400.0, "in keys: 5 to 6 on A100 and L40S, 137 to 373 later", ".attention_tensor", "gpu", "literature")),
              within=(0.0, 1e7)),
    "half.tile": Entry("1", "share", f"multiply-adds per staged element at half of the rate: {_GUESS}",
                       Space(1e-2, 1e2, 1.0), {"gpu": Space(1e-1, 1e2, 0.5)}, (
        Guess(6.0, 2.0, 15.0, "", "", "gpu"),
        Guess(5.0, 2.0, 10.0, _DEEPBENCH, ".conv", "gpu", "literature"),
        Guess(1.0, 0.2, 4.0, "one of four issue slots a clock copies 256 elements of 16 bits, beside 64 to 512 multiply-adds",
              ".tensor", "gpu"),
        Guess(16.0, 6.0, 30.0, "implicit products address every copy: rows, columns and channels of a window, and whether they "
              "lie in the image, some 16 instructions (CUTLASS, Implicit GEMM convolution, 2024); ResNet-50 on V100 and T4 "
              "(NVIDIA, Deep Learning Examples, 2021)", ".conv_tensor", "gpu", "literature")), within=(0.0, 1e7)),
    "half.far": Entry("1", "share", f"multiply-adds more per element whose address was not at hand: {_GUESS}",
                      Space(1e-2, 3e2, 1.0), assumed=(
        Guess(5.0, 1.0, 40.0, "", "", "gpu"),
        Guess(1.0, 0.1, 10.0, f"addresses are made apart from the math {_CUTLASS}: translations hide", ".tensor", "gpu")),
              within=(0.0, 1e7)),
    "half.fill": Entry("1", "share", f"outputs at work in a multiprocessor at half of the rate: {_GUESS}",
                       Space(1.0, 1e6, 1.0), {"gpu": Space(1e1, 1e5, 0.7)}, (
        Guess(4096.0, 500.0, 20000.0, "", "", "gpu"),
        Guess(2000.0, 700.0, 7000.0, _DEEPBENCH, ".conv", "gpu", "literature"),
        Guess(1000.0, 200.0, 4000.0, "Little's law: 512 to 2048 multiply-adds a clock, 8 to 16 of an output an instruction, 17 "
              f"to 33 clocks {_LUO}", ".tensor", "gpu", "literature")), within=(0.0, 1e7)),
    "overlap": Entry("1", "share", "exponent p of (compute^p + memory^p)^(1/p): 1 is none, infinity is full overlap",
                     Space(1.0, 12.0, 0.5), assumed=(
        Guess(3.0, 1.5, 8.0),
        Guess(1.15, 1.0, 2.0, f"packing, loads and arithmetic take turns, {_I9}", "", "cpu"),
        Guess(3.5, 2.0, 8.0, f"a loop prefetches, {_XEON}", ".pointwise", "cpu"),
        Guess(8.0, 4.0, 12.0, f"copies run ahead of the math {_CUTLASS}; the A100 above leaves 5 % for what they hold up",
              ".tensor", "gpu"),
        Guess(6.0, 3.0, 10.0, "the streams of a T4's products of 8-bit integers hardly wait for the math (DeepBench, 2019)",
              ".gemm_dot", "gpu", "literature"),
        Guess(1.2, 1.0, 4.0, "a fusion's operands are copied to the vector memory, used, and copied back in turn", "", "tpu")),
              within=(1.0, 1e3)),
    "program": Entry("1", "share", "of the time that kernels of a program could hide behind each other which they do", assumed=(
        Guess(0.7, 0.2, 1.0, f"copies for later kernels start while earlier ones compute: {_GUESS}", "", "tpu"),),
              within=(0.0, 1.0)),
    "tile_overhead": Entry("s", "share", "of each wave of tiles, by algorithm", Space(1e-10, 1e-4, 2.0, 1e-6),
                           {"gpu": Space(1e-9, 1e-4, 1.0, 1e-6)}, (
        Guess(0.0, 0.0, 0.0, "no cost per wave of tiles is assumed unless measured"),
        Guess(0.8e-6, 0.4e-6, 1.6e-6, "a round starts with a read of main memory and ends with a write, 480 to 740 clocks each "
              f"{_LUO}", ".tensor", "gpu", "literature"),
        Guess(0.0, 0.0, 0.0, "a block goes through all keys: its tiles do not start anew", ".attention_tensor", "gpu"))),
    "vector_share": Entry("1", "share", f"special over vector peak where not known: {_GUESS}",
                          assumed=(Guess(0.125, 0.05, 0.25),), within=(1e-6, 1e3)),
    "launch": Entry("s", "share", "of a kernel, by runtime, then by operator or algorithm", _LAUNCH, assumed=(
        Guess(7e-6, 3e-6, 20e-6, f"dispatch of one operator by a framework, {_XEON}", "", "cpu"),
        *(Guess(t, t / 2.5, t * 2.5, f"without the waking of cores, {_XEON}", f".eager.{of}", "cpu") for of, t in _EAGER.items()),
        *(Guess(t, t / 2.5, t * 2.5, f"call of compiled code, {_I9}", f".inductor{of}", "cpu") for of, t in _COMPILED.items()),
        Guess(8e-6, 4e-6, 20e-6, "host time to dispatch one operator", "", "gpu"),
        Guess(1.5e-6, 0.8e-6, 3e-6, "replay of one node of a captured graph", ".cudagraphs", "gpu"),
        Guess(5e-6, 3e-6, 8e-6, "a launch by the driver alone, within a library's call", ".driver", "gpu"),
        Guess(1e-6, 0.5e-6, 3e-6, "start of one fusion inside a program", "", "tpu"),
        Guess(1e-6, 0.2e-6, 5e-6, "loading one domain-flow program: a design target", "", "kpu", "simulated")), of_host=True),
    "dispatch": Entry("1", "share", "an operator's path through the framework, relative to a loop's, by runtime", assumed=(
        Guess(1.0, 1.0, 1.0, "launches of operators that were measured hold their paths already"),),
              within=(0.0, 1e3), of_host=True),
    "view": Entry("s", "share", "dispatch of a call that only makes a view", _LAUNCH, assumed=(
        Guess(5e-6, 1.5e-6, 12e-6, _XEON, ".eager", "cpu"),
        Guess(2.5e-6, 1e-6, 8e-6, "host time to dispatch a call that only makes a view", ".eager", "gpu")), of_host=True),
    "module": Entry("s", "share", "CPU: a framework's way into a module and out of it, beside the calls in it", _LAUNCH, assumed=(
        Guess(3e-6, 1e-6, 1e-5, f"layers of Python around a module's forward pass, {_XEON}", ".eager", "cpu"),)),
    "switch": Entry("s", "share", "code and library state come back from a farther cache", Space(5e-8, 2e-4, 0.8),
                    {"gpu": _LAUNCH}, (
        *(Guess(t, t / 4, t * 4, f"a convolution has several generated kernels, {_XEON}", f".eager{of}", "cpu")
          for of, t in _SWITCH.items()),
        Guess(3e-6, 1e-6, 9e-6, "a call whose code the call before it did not use", ".eager", "gpu")), of_host=True),
    "graph": Entry("s", "share", "entry of a compiled or interpreted graph", Space(5e-8, 2e-3, 1.5), assumed=(
        Guess(20e-6, 5e-6, 80e-6, "", "", "cpu"), Guess(30e-6, 10e-6, 100e-6, "", "", "gpu"),
        Guess(10e-6, 3e-6, 50e-6, "dispatch of a program", "", "tpu"),
        Guess(5e-6, 1e-6, 20e-6, "start of a program: a design target", "", "kpu", "simulated")), of_host=True),
    "gap": Entry("s", "rating", "rest of a device between two calls of a program, where a host waits for each result: no part of "
                 "a call's time, but an operand of the next moves in it", assumed=(
        Guess(0.0, 0.0, 0.0, "calls that follow each other", "", "tpu"),)),
    "point": Entry("1", "share", "cycles of an integer lane for a point of a window, where a thread makes each result: eager "
                   "PyTorch on an H200, 0.62e12 points a second of poolings, 1.45e12 of depthwise convolutions, for windows of 3 "
                   "to 14 a side and three types (runs/recorded/h200)", Space(1.0, 200.0, 0.3), assumed=(
        Guess(25.0, 15.0, 45.0, "", "", "gpu", "literature"), Guess(11.5, 6.0, 20.0, "", ".depthwise", "gpu", "literature"),
        Guess(42.0, 25.0, 65.0, "an element of a product with a column, likewise", ".pointwise", "gpu", "literature")),
              within=(0.0, 1e4)),
    "read.latency": Entry("s", "share", "from a thread's read of the main memory to the next one that waits for it; half of it "
                          "where L2 holds the data", Space(1e-7, 3e-6, 0.4), assumed=(
        Guess(4.2e-7, 2.5e-7, 9e-7, f"480 to 740 clocks of main memory, half of them of L2 {_LUO}", "", "gpu", "literature"),)),
    "read.reduction": Entry("s", "share", "of what the threads of a block have read, by shuffles and shared memory",
                            Space(1e-7, 2e-5, 0.4), assumed=(
        Guess(2.5e-6, 1e-6, 5e-6, "norms of odd rows on an H200 (runs/recorded/h200)", "", "gpu", "literature"),)),
    "step": Entry("s", "share", "of a chain whose steps need each other, a column of a factorization each", assumed=(
        Guess(1e-7, 2e-8, 5e-7, f"a pivot's search, reciprocal and scaling on one core: {_GUESS}", "", "cpu"),
        Guess(1e-6, 2e-7, 4e-6, f"a few reads of main memory behind each other for a column: {_GUESS}", "", "gpu"),
        Guess(4e-6, 1.5e-6, 9e-6, f"kernels of a recurrent layer's step, 6 to 7 us with their launches {_STEPS}", ".launched",
              "gpu", "literature"),
        Guess(8e-7, 4e-7, 2e-6, "a step where weights stay in registers (Diamos et al., \"Persistent RNNs\", ICML 2016): "
              f"0.4 to 0.9 us where a layer is small {_STEPS}, 0.7 us on an H200 (runs/recorded/h200)", ".persistent", "gpu",
              "literature"),
        Guess(1e-6, 2e-7, 4e-6, f"a column of a panel through the vector unit: {_GUESS}", "", "tpu"))),
    "layout": Entry("s/B", "share", "CPU: conversion of images by one core, by runtime", Space(2e-12, 2e-9, 0.5), assumed=(
        Guess(4e-11, 1e-11, 1.5e-10, f"conversion to blocks of channels, {_XEON}", ".eager.aligned", "cpu"),
        Guess(1.1e-10, 4e-11, 3e-10, f"the same where channels do not fill the last block, {_XEON}", ".eager.tail", "cpu"),
        *(Guess(1.5e-10, 5e-11, 4e-10, _STRIDED, f".{name}.edge", "cpu") for name in ("inductor", "inductor-freezing")),
        Guess(1.8e-10, 6e-11, 4e-10, f"weights brought into the library's blocks, {_I9}", ".inductor.weights", "cpu"),
        Guess(0.0, 0.0, 0.0, "frozen weights were brought into blocks before", ".inductor-freezing.weights", "cpu"))),
    "join": Entry("s", "share", "CPU: waking and joining threads, for each beside the first", assumed=(
        Guess(2.5e-7, 2.5e-7, 2.5e-7, "empty regions of OpenMP on 2 to 96 threads (tiling/cpu_calls.py); launches hold its range",
              "", "cpu", "literature"),)),
    "skew": Entry("s", "share", "CPU: mean delay of a thread that works, of which the longest is waited for", assumed=(
        Guess(6e-6, 6e-6, 6e-6, f"{_I9}; launches hold its range", "", "cpu"),)),
    "page_fault": Entry("s/B", "share", "a core's first touch of fresh memory, page by page; none is assumed but on CPUs",
                        Space(2e-12, 2e-8, 1.5, 2e-10), assumed=(
        Guess(0.0, 0.0, 0.0), Guess(4e-10, 1.5e-10, 1.2e-9, f"the system clears each page, {_I9}", "", "cpu"))),
    "heap.returned": Entry("1", "share", "a freed heap goes back or not by what lies at its end: every second time",
                           Space(0.02, 1.0, 1.0), assumed=(Guess(0.5, 0.1, 1.0),), within=(0.0, 1.0)),
    "launch_tail": Entry("1", "share", f"share of a launch that follows the hand-over to the device: {_GUESS}",
                         Space(1e-2, 0.99, 0.7), assumed=(Guess(0.3, 0.1, 0.7, "", "", "gpu"),), within=(0.0, 1.0), of_host=True),
    "device_launch": Entry("s", "share", "shortest kernel", Space(5e-7, 3e-5, 0.4), assumed=(
        Guess(2e-6, 1e-6, 4e-6, "", "", "gpu"),
        Guess(2e-6, 1e-6, 4e-6, "the kernel that stores new keys and values", ".append", "gpu"),
        Guess(2e-6, 1e-6, 4e-6, "each of two that bring queries into groups and results back", ".regroup", "gpu"))),
    "allocate": Entry("s", "share", "asking the driver for a block of device memory: engineering range", assumed=(
        Guess(1e-4, 3e-5, 4e-4, "", "", "gpu"),), of_host=True),
    "allocate.byte": Entry("s/B", "share", "mapping it in pages of 2 MiB, about 0.6 us each: engineering range",
                           assumed=(Guess(3e-13, 1e-13, 1e-12, "", "", "gpu"),), of_host=True),
    "throttle.time": Entry("s", "board", "time after which half of a power cap's effect is there", Space(1e-5, 2e-2, 1.5),
                           assumed=(Guess(1e-3, 1e-3, 1e-3, "", "", "gpu"),
                                    *(Guess(0.0, 0.0, 0.0, "", "", on) for on in _BUILT_FOR_CAP))),
    "throttle.cool": Entry("1", "board", "no board is assumed to save energy while it is cool unless measured",
                           Space(1e-2, 0.8, 1.0, 0.1), assumed=(
        Guess(0.0, 0.0, 0.0, "", ".tensor", "gpu"), *(Guess(0.0, 0.0, 0.0, "", "", on) for on in ("gpu", *_BUILT_FOR_CAP))),
              within=(0.0, 1.0)),
    "throttle.cap": Entry("1", "board", "share of the power cap to which the board's controller holds the mean", assumed=(
        Guess(0.98, 0.95, 1.0, "240 of 250 W on an A100, 690 of 700 on an H200, 985 of 1000 on a B200", "", "gpu",
              "literature"),
        *(Guess(1.0, 1.0, 1.0, "", "", on) for on in _BUILT_FOR_CAP)), within=(0.1, 1.0)),
    "energy.share": Entry("1", "board", "energy of a matrix flop, by algorithm, relative to that of its type",
                          Space(0.1, 10.0, 0.3), assumed=(
        Guess(1.0, 1.0, 1.0, "", "", "gpu"), Guess(1.0, 1.0, 1.0, "", ".tensor", "gpu")), within=(0.0, 100.0)),
    "energy.operands": Entry("1", "energy", "dynamic energy of a product measured by itself, relative to random operands: its "
                             "operands are unknown, those of networks are near random", assumed=(
        Guess(1.0, 0.42, 1.0, "constants switch few wires: 440 W beside 690 on an H200, 610 to 690 beside 985 on a B200 at equal "
              "traffic (NVIDIA's AIConfigurator, 2026, memory as it was allocated) "
              f"{_HE}", "", "gpu", "literature"),), within=(0.01, 2.0)),
    "energy.meter": Entry("1", "energy", "what a meter reads of the energy that is drawn", assumed=(
        Guess(1.0, 0.95, 1.05, "NVIDIA's boards, against a meter at the supply (Yang, Adamek and Armour, Part-time power "
              "measurements, 2023)", "", "gpu", "literature"),), within=(0.1, 10.0)),
    "energy.clock": Entry("1", "board", "exponent with which dynamic energy follows the clock, as the voltage squared; 0 of a "
                          "GPU unless measured", Space(1e-2, 3.0, 1.0, 0.3), assumed=(
        Guess(0.0, 0.0, 0.0, "", "", "gpu"), *(Guess(1.4, 0.7, 2.0, _VOLTAGE, "", on, "literature") for on in _GIVEN_CLOCK)),
              within=(0.0, 10.0)),
    "energy.floor": Entry("1", "energy", "least dynamic energy, relative to that at the rated clock: no clock is so low that the "
                          "voltage falls further", assumed=(
        Guess(0.0, 0.0, 0.0, "", "", "gpu"),
        *(Guess(0.6, 0.45, 0.85, _LEAST_VOLTAGE, "", on, "literature") for on in _GIVEN_CLOCK)), within=(0.0, 1.0)),
    "energy.flop": Entry("J/flop", "energy", "by unit and type; of a warm GPU at its rated clock", typical=(
        Guess(30e-12, 5e-12, 150e-12, _HOROWITZ, ".matrix.float32", "cpu", "literature"),
        Guess(60e-12, 10e-12, 300e-12, _HOROWITZ, ".vector.float32", "cpu", "literature"))),
    "energy.byte": Entry("J/B", "energy", "by memory level", typical=(
        Guess(2e-12, 0.5e-12, 10e-12, _HOROWITZ, ".l1", "cpu", "literature"),
        Guess(5e-12, 1e-12, 25e-12, _HOROWITZ, ".l2", "cpu", "literature"),
        Guess(20e-12, 5e-12, 80e-12, _HOROWITZ, ".l3", "cpu", "literature"),
        Guess(160e-12, 60e-12, 400e-12, _HOROWITZ, ".dram", "cpu", "literature"))),
    "power.static": Entry("W", "energy", "whatever the machine computes; typical is that of a core", typical=(
        Guess(12.0, 3.0, 30.0, "server packages draw 3 to 30 W a core under load, whatever they compute", "", "cpu",
              "literature"),)),
    "power.idle": Entry("W", "rating", "with nothing running"),
    "power.tdp": Entry("W", "rating", "power cap"),
    "area": Entry("m2", "rating", "of silicon: `area.die` of the dies, `area.unit` of a counted part without its memory"),
    "area.byte": Entry("m2/B", "rating", "of memory on the chip"),
    "area.bandwidth": Entry("m2 s/B", "rating", "of main memory's interface and controllers"),
    "sigma": Entry("1", "spread", "standard deviation of the log error of one kernel, by algorithm; `.graph` is what kernels of "
                   "a graph share, `.graph.many` the same of many kernels; `.whole` is all that whole networks are off by on a "
                   "machine none of whose graphs were measured", assumed=(
        Guess(0.2, 0.2, 0.2, f"of one kernel: {_GUESS}"), Guess(0.1, 0.1, 0.1, f"what kernels share: {_GUESS}", ".graph"),
        Guess(0.2, 0.2, 0.2, f"of a kernel on tensor cores: {_GUESS}", ".tensor", "gpu"),
        Guess(0.2, 0.2, 0.2, f"of convolutions, which were not measured one by one: {_GUESS}", ".conv_tensor", "gpu"),
        Guess(0.081, 0.081, 0.081, "344 networks that keep their device busy, on boards with five chips: root mean square of the "
              f"chips' 90 % points, for a sixth chip {_NETWORKS}", ".whole", "gpu", "literature"),
        Guess(0.37, 0.37, 0.37, f"33 networks on an i9-10940X: their 90 % point, for another CPU {_NETWORKS}", ".whole", "cpu",
              "literature")), within=(0.0, 3.0)),
})  # fmt: skip
"""Stem -> entry, one for each kind of coefficient."""
EMPTY_ENTRY = Entry("", "share", "not in the catalogue")


@cache
def entry(name: str) -> Entry:
    """The entry of a coefficient: that of its longest stem; an empty entry for an unknown name."""
    stem = name
    while stem and stem not in CATALOGUE:
        stem = general(stem)
    return CATALOGUE.get(stem, EMPTY_ENTRY)


def is_count(name: str) -> bool:
    """True for coefficients that count parts of the machine, which are whole numbers."""
    return entry(name).role == "count"


def _guesses(family: str, kind: Literal["assumed", "typical"]) -> dict[str, Coefficient]:
    """Coefficient -> its guess on an architecture family; the family's own guesses override general ones."""
    return {
        stem + g.of: Coefficient(g.value, e.unit, g.source, g.why or e.meaning, low=g.low, high=g.high)
        for on in ("", family)
        for stem, e in CATALOGUE.items()
        for g in getattr(e, kind)
        if g.on == on
    }


DEFAULTS: Mapping[str, Mapping[str, Coefficient]] = {family: _guesses(family, "assumed") for family in RUNTIMES}
"""Architecture family -> coefficient -> the model's assumption without a measurement: shares, exponents and overheads, never
rates of a machine. The ranges are wide on purpose and reach every estimate's interval."""
TYPICAL: Mapping[str, Mapping[str, Coefficient]] = {family: _guesses(family, "typical") for family in RUNTIMES}
"""Architecture family -> coefficient -> start value of a calibration where the machine's description gives none."""
