"""A machine's coefficients as arrays over kernels, and which algorithm each kernel runs as."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from types import MappingProxyType

import numpy as np

from shmoo.estimators.errors import InputError
from shmoo.estimators.graph.dtypes import BITS, COMPUTE_DTYPES, COMPUTED_AS, STORED_AS
from shmoo.estimators.graph.records import FAMILIES
from shmoo.estimators.machine.catalogue import entry
from shmoo.estimators.machine.names import continues, of_float32
from shmoo.estimators.machine.profile import ArchitectureProfile
from shmoo.estimators.memory.workspace import CHANNEL_BLOCK, uses_onednn
from shmoo.estimators.registry import short_op
from shmoo.estimators.table import FAMILY_CODE, Floats, KernelTable, Masks, code_mask, op_code, op_names

TENSOR = (
    "gemm_tensor", "gemv_tensor", "conv_tensor", "attention_tensor", "narrow_tensor", "scaled_tensor", "packed_tensor",
    "float4_tensor", "recurrent_tensor",
)  # fmt: skip
"""Algorithms of contractions on tensor cores, whose kernels share little with those of the float32 units. "narrow" are products
of operands of 8 bits and less; "scaled" are narrow products with a scale for each group along the reduction; "packed" products
unpack weights of fewer bits than they multiply in; "float4" operands have a scale for each 16 elements. Coefficients common to
all of these end in ".tensor"."""
_PRODUCTS = (
    "gemv_tensor", "conv_tensor", "narrow_tensor", "scaled_tensor", "packed_tensor", "float4_tensor", "recurrent_tensor",
)  # fmt: skip
"""Products on tensor cores that fall back to the coefficients of 16-bit products; convolutions are implicit products in kernels
of the same design."""
ALGORITHMS = (*FAMILIES, "conv_1x1", "conv_3x3", "conv_native", "gemv", "gemm_batched", "gemm_dot", "recurrent", *TENSOR)
"""Keys of coefficients: the families; convolutions that libraries treat separately (1x1 is a matrix product, 3x3 of stride 1 can
use Winograd's transform: Lavin and Gray, 2016; small ones on a CPU run as PyTorch's own im2col and matrix product); matrix
products with a single row, which stream the weights; batches of products, whose kernels are chosen by other rules; products of
8-bit integers on the lanes of a GPU (`dot_products`); products of recurrent layers, step after step; and contractions on tensor
cores."""
_LAYER_KINDS = ("lstm", "gru", "rnn_tanh", "rnn_relu")
RECURRENT = (*(f"aten.{kind}" for kind in _LAYER_KINDS), *(f"shmoo.{kind}_backward" for kind in _LAYER_KINDS))
"""Calls whose products are the steps of recurrent layers."""
_LAYERS = ("recurrent", "recurrent_tensor")
"""Algorithms of whole layers in one call; host times of layers and of products do not stand in for each other."""
FAMILY_OF = MappingProxyType(
    {
        **dict.fromkeys(("gemv", "gemm_batched", "gemm_dot", "recurrent", "gemm_tensor", *_PRODUCTS), "gemm"),
        **dict.fromkeys(("conv_1x1", "conv_3x3", "conv_native", "conv_tensor"), "conv"),
        "attention_tensor": "attention",
    }
)
"""Algorithms that are a part of a family -> that family; the others are families themselves."""
_TENSOR_FAMILIES = ("gemm", "conv", "conv_transpose", "attention")


@cache
def _names_by_algorithm(prefixes: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    """`algorithm_names` of every algorithm, by code."""
    return tuple(algorithm_names(prefixes, name) for name in ALGORITHMS)


@cache
def algorithm_names(prefixes: tuple[str, ...], algorithm: str) -> tuple[str, ...]:
    """Names to look up for an algorithm, most specific first."""
    names: list[str] = []
    for prefix in prefixes:
        of_call = continues(prefix, "launch", "dispatch")
        names.append(f"{prefix}.{algorithm}")
        if algorithm in _LAYERS and of_call:
            continue
        if algorithm in TENSOR:
            made_alike = algorithm in _PRODUCTS and not (of_call and algorithm == "conv_tensor")
            names += [f"{prefix}.narrow_tensor"] * (algorithm == "scaled_tensor")
            names += [f"{prefix}.gemm_tensor"] * made_alike + [f"{prefix}.tensor"]
        if algorithm in FAMILY_OF:
            names.append(f"{prefix}.{FAMILY_OF[algorithm]}")
    return (*names, *prefixes)


def _on_tensor_cores(algorithm: str) -> str:
    """The algorithm on tensor cores that corresponds to one of the float32 units; unchanged if there is none."""
    family = "conv" if algorithm == "conv_transpose" else FAMILY_OF.get(algorithm, algorithm)
    name = f"{algorithm if algorithm in ('gemv', 'recurrent') else family}_tensor"
    return name if name in TENSOR else algorithm


_BITS = np.asarray([BITS[name] for name in COMPUTE_DTYPES])
_FLOAT4, _INT8 = COMPUTE_DTYPES.index("float4"), COMPUTE_DTYPES.index("int8")
_CODE = {name: code for code, name in enumerate(ALGORITHMS)}
_TENSOR_CODE = np.asarray([_CODE[_on_tensor_cores(name)] for name in ALGORITHMS])


def algorithm_codes(table: KernelTable, profile: ArchitectureProfile) -> np.ndarray:
    """(K,) code into `ALGORITHMS` of every kernel on a machine, as its libraries choose."""
    family = profile.family
    conv = table.family == FAMILY_CODE["conv"]
    gemm = table.family == FAMILY_CODE["gemm"]
    codes = np.where(conv & (table.window == 1), _CODE["conv_1x1"], table.family)
    codes = np.where(dense_3x3(table), _CODE["conv_3x3"], codes)
    if family == "cpu":
        window = table.window_height, table.window_width
        is_onednn = uses_onednn(table.batch, table.images, *window, table.image_elements)
        codes = np.where(conv & ~is_onednn, _CODE["conv_native"], codes)
    codes = np.where(gemm & batched_product(table, family), _CODE["gemm_batched"], codes)
    codes = np.where(gemm & (np.minimum(table.m, table.n) <= 2), _CODE["gemv"], codes)
    if family == "gpu":
        codes = np.where(dot_products(table), _CODE["gemm_dot"], codes)
    if family in ("cpu", "gpu"):
        codes = np.where(table.is_op(*RECURRENT), _CODE["recurrent"], codes)
    tensor = on_tensor_cores(table, profile)
    if not tensor.any():
        return codes
    codes = np.where(tensor, _TENSOR_CODE[codes], codes)
    codes = np.where(tensor & gemm & (_BITS[table.dtype] <= 8), _CODE["narrow_tensor"], codes)
    codes = np.where(tensor & gemm & (table.group > 1), _CODE["scaled_tensor"], codes)
    codes = np.where(tensor & gemm & (table.dtype == _FLOAT4), _CODE["float4_tensor"], codes)
    return np.where(tensor & unpacks_weights(table), _CODE["packed_tensor"], codes)


def pads_beyond_registers(table: KernelTable) -> Masks:
    """(K,) convolutions along one dimension that oneDNN's kernels over blocks of channels cannot run, because an end is padded
    with more zeros than the results that these kernels keep in registers at once (ONEDNN_VERBOSE, padding of 4 to 17 in 16 to
    512 channels). With a dilated window, 30 vector registers are shared by the image and up to four blocks of channels; with
    other windows the kernels keep eight results, in depthwise convolutions six."""
    blocks = np.clip(np.ceil(table.channels_out / CHANNEL_BLOCK), 1.0, 4.0)
    results_in_registers = np.where(table.dilation > 1, np.floor(30.0 / (blocks + 1.0)), 8.0)
    results_in_registers = np.where(table.is_family("depthwise"), 6.0, results_in_registers)
    length = table.image_elements / np.maximum(table.channels_in * table.batch, 1.0)
    zeros = (table.width - 1.0) * table.stride + (table.window - 1.0) * table.dilation + 1.0 - length
    pads_too_far: Masks = table.is_op("aten.conv1d") & (zeros / 2.0 > results_in_registers)
    return pads_too_far


def unpacks_weights(table: KernelTable) -> np.ndarray:
    """(K,) products whose weights are stored in fewer bits than they are multiplied in."""
    return table.is_op("aten._weight_int8pack_mm", "aten._weight_int4pack_mm")


def dense_3x3(table: KernelTable) -> np.ndarray:
    """(K,) convolutions that Winograd's transform can do: a window of 3 by 3 that moves by single points, and no groups."""
    window: Masks = (table.window == 9) & (table.window_height == 3) & (table.window_width == 3)
    unit_steps: Masks = (table.stride == 1) & (table.dilation == 1) & (table.batch == 1)
    return table.is_family("conv") & window & unit_steps


def on_tensor_cores(table: KernelTable, profile: ArchitectureProfile) -> np.ndarray:
    """(K,) contractions on a GPU's tensor cores: those in a type that has a rate there, or whose values such a type holds. Other
    types and `dot_products` are multiplied by the float32 units, in which libraries accumulate anyway."""
    if "matrix.lanes" not in profile.coefficients:
        return np.zeros(len(table), dtype=bool)
    multiplied_types = profile.multiplied_types - {"float32"}
    has_rate = [not multiplied_types.isdisjoint(COMPUTED_AS[name]) for name in COMPUTE_DTYPES]
    contracts: Masks = np.asarray(has_rate)[table.dtype] & (table.matrix_flops > 0) & table.is_family(*_TENSOR_FAMILIES)
    return contracts & ~dot_products(table)


def dot_products(table: KernelTable) -> Masks:
    """(K,) products of 8-bit integers on the lanes of a GPU, with four multiply-adds an instruction (DP4A): tensor cores need
    both operands contiguous along the reduction, as in linear layers (NVIDIA, cuBLAS library, `cublasLtMatmul`, 2024: the format
    must be TN)."""
    along_rows: Masks = table.is_op("aten.mm", "aten.bmm", "aten.matmul") & (table.dtype == _INT8)
    return along_rows


def as_multiplied(table: KernelTable, profile: ArchitectureProfile) -> KernelTable:
    """The same kernels in the types that a machine multiplies: without a rate for tf32, libraries multiply float32 tensors in
    float32 (`torch.backends.cuda.matmul.allow_tf32` has no effect before compute capability 8)."""
    for dtype, storage_dtype in STORED_AS.items():
        in_type = table.dtype == COMPUTE_DTYPES.index(dtype)
        if dtype not in profile.multiplied_types and in_type.any():
            table = replace(table, dtype=np.where(in_type, COMPUTE_DTYPES.index(storage_dtype), table.dtype))
    return table


def _runs_as(codes: np.ndarray, algorithms: Sequence[str]) -> np.ndarray:
    mask: Masks = code_mask(tuple(_CODE[name] for name in algorithms), len(ALGORITHMS))[codes]
    return mask


def in_tensor_kernels(codes: np.ndarray) -> np.ndarray:
    """(K,) True where the algorithm uses tensor cores."""
    return _runs_as(codes, TENSOR)


def batched_product(table: KernelTable, family: str) -> np.ndarray:
    """(K,) products that run in the library's kernels for batches. A GPU's library has kernels for each memory layout of the
    operands: products of a batch, and single products except linear layers, read both operands as they are multiplied; linear
    layers store their weights transposed."""
    is_batched = table.batch > 1
    return is_batched | (table.op != op_code("aten.linear")) if family == "gpu" else is_batched


def converts_layout(table: KernelTable, codes: np.ndarray) -> np.ndarray:
    """(K,) True where the algorithm runs in a library that keeps images in blocks of channels."""
    return _runs_as(codes, ("conv", "conv_1x1", "conv_3x3", "depthwise", "conv_transpose")) & ~pads_beyond_registers(table)


def unrolls_image(table: KernelTable, codes: np.ndarray) -> tuple[Masks, Masks]:
    """(K,) convolutions on a CPU whose images PyTorch unrolls into columns for a product, and those that oneDNN unrolls."""
    is_native = _runs_as(codes, ("conv_native",))
    return is_native & (table.window > 1), ~is_native & pads_beyond_registers(table)


MANY_KERNELS = 30
"""From this many kernels on, their errors average out; in shorter graphs a single kernel's error or the call itself shows."""


DOUBLE_SHARE = {6.0: 1 / 2, 7.0: 1 / 2, 7.5: 1 / 32, 8.0: 1 / 2, 8.6: 1 / 64, 8.7: 1 / 64, 8.9: 1 / 64, 9.0: 1 / 2, 10.0: 1 / 2,
                None: 1 / 64}  # fmt: skip
"""float64 operations of a GPU's multiprocessor for one of float32, by compute capability; consumer cards where it is unknown
(CUDA C++ Programming Guide, throughput of native arithmetic instructions, 2024)."""
DOUBLE_ELSEWHERE = {"cpu": 1 / 2, "tpu": 1 / 22, "kpu": 1 / 4}
"""The same by family. A CPU's vector register holds half as many. A TPU has no unit for float64: XLA computes in pairs of
float32, where an addition takes 20 operations and a product 24 (Y. Hida, X. S. Li and D. H. Bailey, Library for Double-Double and
Quad-Double Arithmetic, 2007). A product of numbers with twice the digits is four products of half of them."""
DOUBLE_TENSOR_CORES = (8.0, 9.0)
"""Capabilities whose tensor cores multiply float64 at the rate of the float32 units (NVIDIA A100 and H100 datasheets)."""


class Coefficients:
    """Values of a machine's coefficients: overrides, then the profile, then `DEFAULTS`.

    A value is a float, an array of shape (D,) for D draws, or one of shape (..., 1) for design points, a dimension for each axis;
    results then have shape (D, K) or (..., K). `overrides` are what a fit or a sweep passes.
    """

    def __init__(self, profile: ArchitectureProfile, overrides: Mapping[str, float | Floats] | None = None) -> None:
        self.profile = profile
        columns = {name: v[:, None] for name, v in (overrides or {}).items() if isinstance(v, np.ndarray) and v.ndim == 1}
        self._overrides = {**(overrides or {}), **columns}
        self._listed = profile.all_coefficients

    def find(self, *names: str) -> float | Floats | None:
        """The value of the first of `names` that has one, as `value` gives it; looked up name by name, most specific first."""
        for name in names:
            if name in self._overrides:
                return self._overrides[name]
            if name in self._listed:
                # A coefficient of design points is an array, too.
                return self._listed[name].value
            if name.endswith(".float64") and (single := self.find(of_float32(name))) is not None:
                return single * self._double_share(name)
        return None

    def _double_share(self, name: str) -> float:
        """Value for float64 relative to float32, for coefficients that a profile states for float32 alone."""
        family = self.profile.family
        if entry(name).unit != "flop/s":
            return 1.0
        if family in DOUBLE_ELSEWHERE:
            return DOUBLE_ELSEWHERE[family]
        capability = self._listed.get("compute.capability")
        tensor = continues(name, "peak.matrix") and capability is not None and capability.value in DOUBLE_TENSOR_CORES
        return 1.0 if tensor else DOUBLE_SHARE.get(None if capability is None else capability.value, DOUBLE_SHARE[None])

    def value(self, *names: str) -> float | Floats:
        """The value of the first of `names` that has one, else an `InputError`; an array has a last dimension of 1, to go with
        arrays of kernels."""
        value = self.find(*names)
        if value is None:
            raise InputError(
                f"profile {self.profile.name!r} has none of the coefficients {', '.join(names)}; add one to its JSON"
            )
        return value

    def source(self, *names: str) -> str:
        """Where the value of the first of `names` that has one comes from; an override counts as what it replaces, or fitted."""
        for name in names:
            if name in self._overrides and name not in self.profile.coefficients:
                return "fitted"
            if name in self._listed:
                return self._listed[name].source
        return "fallback"

    def by_algorithm(self, codes: np.ndarray, *prefixes: str) -> Floats:
        """(K,) or (D, K) values of PREFIX.<algorithm>, else PREFIX.tensor on tensor cores, else PREFIX.<parent family>, else
        PREFIX, for each prefix in turn; (1,) or (D, 1) where all kernels have the same."""
        return self._gather(codes, _names_by_algorithm(prefixes))

    def by_kernel(self, table: KernelTable, codes: np.ndarray, *prefixes: str) -> Floats:
        """Values of PREFIX.<operator> for kernels of a single call where that operator was measured (its dispatch and its loop
        are its own), else as `by_algorithm`; the first prefix has the operators."""
        names, single = op_names(), np.where(table.calls == 1, table.op, -1)
        candidates = list(_names_by_algorithm(prefixes))
        for code in np.flatnonzero(np.bincount(single + 1)[1:]):
            operator_name = f"{prefixes[0]}.{short_op(names[code])}"
            if self.find(operator_name) is not None:
                codes = np.where(single == code, len(candidates), codes)
                candidates.append((operator_name,))
        return self._gather(codes, candidates)

    def by_dtype(self, codes: np.ndarray, names_of: Sequence[Sequence[str]]) -> Floats:
        """Values where `names_of[c]` lists the candidates for dtype code c, shaped as those of `by_algorithm`."""
        return self._gather(codes, names_of)

    def _gather(self, codes: np.ndarray, candidates: Sequence[Sequence[str]]) -> Floats:
        occurring = np.bincount(codes).nonzero()[0].tolist()
        if not occurring:
            return np.empty(0)
        values = [self.value(*candidates[code]) for code in occurring]
        if all(value is values[0] for value in values):
            # Most coefficients are the same for all kernels; arrays of draws stay small.
            return np.atleast_1d(values[0])
        place = np.zeros(len(candidates), dtype=np.intp)
        place[occurring] = range(len(occurring))
        columns = np.broadcast_arrays(*(np.atleast_1d(value) for value in values))
        gathered: Floats = np.take(np.concatenate(columns, axis=-1), place[codes], axis=-1)
        return gathered


def voltage_factor(c: Coefficients) -> float | Floats:
    """Dynamic energy at a machine's clock relative to that at its rated one: the voltage squared."""
    rated_clock = c.find("clock.rated")
    if rated_clock is None:
        return 1.0
    factor: Floats = np.maximum(c.value("energy.floor"), (c.value("clock") / rated_clock) ** c.value("energy.clock"))
    return factor


LEAST_BUDGET = 0.01
"""Least share of a power cap that is left for work: draws of the static power reach beyond the cap."""


def power_cap(c: Coefficients) -> tuple[float | Floats, float | Floats]:
    """Watts to which a machine's controller holds it, and those of them that static power leaves for work."""
    cap = c.value("throttle.cap") * c.value("power.tdp")
    return cap, np.maximum(cap - c.value("power.static"), LEAST_BUDGET * cap)
