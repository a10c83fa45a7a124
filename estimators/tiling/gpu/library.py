"""Which tiles the vendor's kernels come in, by generation.

A library offers few tiles and its own rules pick one, so what a small product wastes at the edges follows from the list. The
float32 lists are those of the kernels that cuBLAS 12 and cuDNN 8 ran for random shapes, as their names say
(`volta_sgemm_128x64_tn`: 128 columns of the row-major result by 64 rows). Types that tensor cores multiply take other kernels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from shmoo.estimators.graph.dtypes import COMPUTE_DTYPES
from shmoo.estimators.machine.profile import ArchitectureProfile
from shmoo.estimators.table import Floats

Tile = tuple[float, float]
LONG_PART = 12288.0
"""Shortest part of a reduction that is cut into more than the usual few, as that of weights' gradients over a long batch."""


_MIB = 2.0**20
WORKSPACE = 8.0 * _MIB
"""Bytes for partial sums: those that PyTorch gives cuBLAS before Hopper (`CUBLAS_WORKSPACE_CONFIG`, :4096:2:16:8). Linear layers
in float32 on an A100 that take less time than blocks of a whole reduction could have up to 7.6 MiB of them, and none of 39 with
results of 4 MiB and more is among these (Lee et al., ASPLOS 2025). Half of a V100's with results of 2 to 8 MiB are."""


@dataclass(frozen=True, slots=True)
class Library:
    """Kernels of the float32 units. Tiles are (m, n): rows of the result by columns.

    Attributes:
        products: of a matrix product.
        batched: of a batch of them.
        transformed: of the products between Winograd's transforms, where those are kernels of their own.
        patches: images x rows x columns of 2 x 2 results in a block of the fused kernel.
        long_part: reductions of products come in more than four parts only where parts stay this long. From Turing on four are
            the most in which those of up to 65536 were seen.
        workspace: bytes for the partial sums of a split reduction: products with more of them are not split.
    """

    products: tuple[Tile, ...]
    batched: tuple[Tile, ...]
    transformed: tuple[Tile, ...]
    patches: tuple[tuple[int, int, int], ...]
    long_part: float = LONG_PART
    workspace: float = WORKSPACE


DIRECT: tuple[Tile, ...] = ((128, 32), (128, 64), (128, 128))
"""Tiles of convolutions as matrix products without a matrix in memory: points by output channels."""
_WIDE: tuple[Tile, ...] = ((128, 128), (64, 128), (128, 32), (32, 128), (32, 64), (32, 32))
_LONG = ((1, 4, 8),)
BLOCK_TILES: tuple[Tile, ...] = (
    (256, 128), (128, 256), (128, 128), (128, 64), (64, 128), (64, 64), (128, 32), (32, 128), (64, 32), (32, 64), (32, 32),
    (128, 8), (8, 128), (256, 1), (1, 256),
)  # fmt: skip
"""Output tiles of a thread block where the library's are not known (CUTLASS's default tiles and smaller); the last four are those
of products with few rows or columns, which stream one operand."""
BYTEWISE: tuple[Tile, ...] = ((128, 128),)
BYTEWISE_ROWS: tuple[Tile, ...] = ((32, 32),)
BYTEWISE_FEW = 4
"""Tiles of the products of 8-bit integers that a GPU's lanes multiply (`dot_products`); the second ones for products of up to
`BYTEWISE_FEW` rows or columns. The reduction is never split. On a T4, products of 700 and 1,500 rows with 35 columns take as long
as six and twelve blocks of 128 x 128; products of 1 to 4 rows over 500,000 take as long as a few blocks that each walk the whole
reduction (DeepBench, 2019)."""
UNKNOWN = Library(products=BLOCK_TILES, batched=BLOCK_TILES, transformed=BLOCK_TILES, patches=_LONG)
"""Kernels of a generation that is not named."""
LIBRARIES: Mapping[str, Library] = MappingProxyType(
    {
        "pascal": Library(
            products=((128, 32), (64, 64), (32, 128)),
            batched=((64, 128),),
            transformed=((128, 32), (64, 64)),
            patches=((1, 4, 8), (2, 4, 4), (2, 2, 8), (4, 2, 4), (4, 1, 8), (4, 4, 2)),
            long_part=4096.0,
        ),
        "volta": Library(
            products=_WIDE,
            batched=((64, 64), (128, 32), (32, 128)),
            transformed=((64, 64), (128, 32), (32, 128)),
            patches=_LONG,
            long_part=4096.0,
            workspace=math.inf,
        ),
        "turing": Library(
            products=(*_WIDE, (64, 64)),
            batched=((64, 64), (64, 128), (32, 128)),
            transformed=((64, 64), (64, 128), (32, 128)),
            patches=_LONG,
        ),
        "ampere": Library(
            products=(*_WIDE, (64, 64)),
            batched=((128, 128),),
            transformed=((128, 128),),
            patches=((1, 4, 8), (4, 4, 2)),
        ),
    }
)
"""Generation -> tiles. Later chips run float32 with Ampere's kernels."""


@dataclass(frozen=True, slots=True)
class TensorKernels:
    """Kernels of the tensor cores.

    Attributes:
        tiles: of a block, as (m, n).
        slice_bytes: of a row or column that are staged at once.
        stages: slices in shared memory at once.
        together: (m, n) outputs that one read of operands from shared memory serves: a warp's, or those of a group of four warps
            whose tensor cores read shared memory themselves.
        patch: neighbouring blocks down and across for which one read of L2 serves: clusters of blocks from Hopper on, whose
            copies go to several multiprocessors, and requests for the same line that reach L2 together. With 4 instead of 1,
            products in bfloat16 on a B200 ask for 0.6 of the L2 bandwidth that is known of it instead of 1.5, the physics alone
            is 8.2 % off instead of 9.9, and the larger half predicted from the smaller 19 % instead of 43 (docs/model.md).
        bulk_copies: whether they are built on tensor memory accesses.
        rows, least: queries that blocks of attention come with, and those that they compute however few there are.
        workspace: bytes for the partial sums of a split reduction.
        whole_rounds: types in which the library compares tiles as if multiprocessors were full in every round but the first.
            cuBLAS for Ampere takes 47 us for 4096 x 1024 x 768 on an A100 (128 blocks of 256 x 128, two rounds), 68 us for a
            reduction of 2560 with 768 columns (96 blocks, one round), though its smaller tiles would leave less of the second
            round idle. In float16 it does not: 2048 cubed runs at 215 Tflop/s on an A100 of 250 W, and at 138 in bfloat16
            (zzc0721/torch-performance-test-data, 2025-26).
        long_part: a reduction is split beyond the workspace where its parts stay this long. An A100's products in bfloat16 do so
            from 7168 on and not at 5120 (NVIDIA AIConfigurator, 2026).
        packs: whether heads that share keys fill blocks of attention together, however many queries each has.
        regroups: whether copies bring single queries of several such groups together first, and their results back.
        lanes: 16-bit multiply-adds of a multiprocessor and clock that the kernels were written for: those of V100, T4, A100, H100
            and B200. Other cards of a generation have fewer, GeForce cards a quarter of an A100's.
    """

    tiles: tuple[Tile, ...]
    slice_bytes: float
    stages: float
    together: Tile
    lanes: float
    patch: float = 1.0
    bulk_copies: bool = False
    rows: tuple[float, ...] = (128.0, 64.0)
    least: float = 64.0
    packs: bool = False
    regroups: bool = False
    workspace: float = WORKSPACE
    whole_rounds: tuple[str, ...] = ()
    long_part: float = math.inf

    @property
    def through_registers(self) -> bool:
        """Whether operands go through registers on their way to shared memory, which then holds two slices: until Turing."""
        return self.stages <= 2

    def pace(self, profile: ArchitectureProfile) -> float | Floats:
        """Rate of a card's units relative to the one that the kernels were written for."""
        return profile.value("matrix.lanes", self.lanes) / self.lanes


STREAMED: tuple[Tile, ...] = ((1, 256), (256, 1))
"""Tiles of products with a single row or column, which stream the other operand."""
_SQUARE: tuple[Tile, ...] = (
    (256, 128), (128, 256), (128, 128), (256, 64), (64, 256), (128, 64), (64, 128), (64, 64), (64, 32), (32, 64), (32, 32),
    (64, 16), (16, 64), (16, 16),
)  # fmt: skip
"""Tiles of cuBLAS on tensor cores (NVIDIA, "Matrix multiplication background user's guide", 2023) and smaller ones, as names of
kernels say: `ampere_bf16_s16816gemm_bf16_128x256_ldg8_f2f_stages_64x3_tn` (tile, slice by stages), `..._64x64_sliced1x2_...`,
`turing_fp16_s1688gemm_fp16_256x128_...`, `cutlass_80_wmma_tensorop_f16_s161616gemm_f16_16x16_128x2_tn`."""
TENSOR_KERNELS: Mapping[str, TensorKernels] = MappingProxyType(
    {
        "volta": TensorKernels(
            _SQUARE, slice_bytes=64, stages=2, together=(64, 64), lanes=512, regroups=True, workspace=math.inf
        ),
        "turing": TensorKernels(_SQUARE, slice_bytes=64, stages=2, together=(64, 64), lanes=512, regroups=True),
        "ampere": TensorKernels(
            _SQUARE, slice_bytes=64, stages=4, together=(64, 64), lanes=1024, regroups=True, long_part=3072,
            whole_rounds=tuple(name for name in COMPUTE_DTYPES if name != "float16"),
        ),
        "hopper": TensorKernels(
            (
                (256, 128), (128, 256), (192, 192), (128, 192), (192, 128), (128, 128), (256, 64), (64, 256), (128, 64),
                (64, 128), (64, 64), (64, 32), (32, 64), (64, 16), (16, 64), (64, 8), (8, 64),
            ),
            slice_bytes=128, stages=4, together=(64, 256), lanes=2048, patch=4, bulk_copies=True, rows=(128,), packs=True,
            workspace=32.0 * _MIB,
        ),
        "blackwell": TensorKernels(
            (
                (256, 256), (256, 192), (192, 256), (256, 128), (128, 256), (128, 192), (192, 128), (128, 128), (256, 64),
                (64, 256), (128, 64), (64, 128), (64, 64), (64, 32), (32, 64), (128, 16), (16, 128), (64, 8), (8, 64),
            ),
            slice_bytes=128, stages=4, together=(128, 256), lanes=4096, patch=4, bulk_copies=True, rows=(256,), least=128,
            workspace=32.0 * _MIB,
        ),
    }
)  # fmt: skip
"""Generation -> kernels of its tensor cores. Until Turing operands go through registers on their way to shared memory, from
Ampere on straight, in slices of 32 and 64 elements of 16 bits (CUTLASS, "Efficient GEMM in CUDA", 2024). Hopper's instructions
span 64 rows by up to 256 columns and read both operands from shared memory; clusters of blocks read once what they share (TMA
multicast; `nvjet_tst_256x128_64x4_1x2`: tile, slice by stages, cluster). Ada runs Ampere's. Blackwell's pairs of multiprocessors
multiply tiles of up to 256 x 256 whose results stay in a memory of their own (CUTLASS, "Blackwell functionality", 2025)."""


def tensor_kernels(generation: object) -> TensorKernels:
    """The kernels of a generation's tensor cores; Ampere's for a generation without any and for `None`."""
    return TENSOR_KERNELS.get(str(generation), TENSOR_KERNELS["ampere"])
