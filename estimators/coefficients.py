"""The coefficients of the model: which exist, what each falls back to, and their values as arrays.

`DEFAULTS` holds, per architecture family, what the model assumes of a machine that nobody measured. They are shares, exponents
and overheads, never rates of a machine: those come from the profile. The ranges are wide on purpose and reach every
estimate's interval.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from statistics import NormalDist

import numpy as np

from shmoo.estimators.dtypes import COMPUTE_DTYPES
from shmoo.estimators.kernels import FAMILY_CODE, KernelTable, op_code, op_names
from shmoo.estimators.profile import ArchitectureProfile, Coefficient
from shmoo.estimators.records import FAMILIES

_TENSOR_FAMILIES = ("gemm", "conv", "conv_transpose", "attention")
TENSOR = ("gemm_tensor", "gemv_tensor", "conv_tensor", "attention_tensor")
"""What contractions are on tensor cores, whose kernels share next to nothing with those of the float32 units. Coefficients that
all of these have in common end in ".tensor"."""
ALGORITHMS = (
    *(*FAMILIES, "conv_1x1", "conv_3x3", "conv_native", "gemv", "gemm_batched"),
    *TENSOR,
)
"""What coefficients are keyed by: the families, with convolutions that libraries treat apart (1x1 is a matrix product, 3x3 of
stride 1 can use Winograd's transform: Lavin and Gray, 2016; small ones on a CPU run as PyTorch's own im2col and matrix product)
matrix products with a single row, which stream the weights, batches of them, whose kernels are chosen by other rules, and
contractions on tensor cores."""

FAMILY_OF = {
    **{"conv_1x1": "conv", "conv_3x3": "conv", "conv_native": "conv", "gemv": "gemm", "gemm_batched": "gemm"},
    **{"gemm_tensor": "gemm", "gemv_tensor": "gemm", "conv_tensor": "conv", "attention_tensor": "attention"},
}
"""Algorithms that are a part of a family -> that family; the others are families themselves."""


def _on_tensor_cores(algorithm: str) -> str:
    """What an algorithm of the float32 units is on tensor cores; itself where they do nothing of it."""
    family = "conv" if algorithm == "conv_transpose" else FAMILY_OF.get(algorithm, algorithm)
    name = f"{algorithm if algorithm == 'gemv' else family}_tensor"
    return name if name in TENSOR else algorithm


_CODE = {name: code for code, name in enumerate(ALGORITHMS)}
_TENSOR_CODE = np.asarray([_CODE[_on_tensor_cores(name)] for name in ALGORITHMS])
NATIVE_ELEMENTS = 20480
"""PyTorch gives a float32 convolution on a CPU to oneDNN when it has groups, several images, a window of more than 3 in every
dimension, or more input elements than this (`ConvParams::use_mkldnn` in ATen/native/Convolution.cpp); the rest it does itself."""


def algorithm_codes(table: KernelTable, profile: ArchitectureProfile) -> np.ndarray:
    """(K,) code into `ALGORITHMS` of every kernel on a machine, as its libraries choose."""
    family = profile.family
    conv = table.family == FAMILY_CODE["conv"]
    gemm = table.family == FAMILY_CODE["gemm"]
    codes = np.where(conv & (table.window == 1), _CODE["conv_1x1"], table.family)
    winograd = conv & (table.window == 9) & (table.stride == 1) & (table.dilation == 1) & (table.batch == 1)
    codes = np.where(winograd, _CODE["conv_3x3"], codes)
    if family == "cpu":
        elements = table.k / table.window * table.m * table.stride**2
        # A window above 3 in every dimension covers at least 16 elements.
        native = conv & (table.batch == 1) & (table.images == 1) & (table.window < 16) & (elements <= NATIVE_ELEMENTS)
        codes = np.where(native, _CODE["conv_native"], codes)
    codes = np.where(gemm & batched_product(table, family), _CODE["gemm_batched"], codes)
    codes = np.where(gemm & (np.minimum(table.m, table.n) <= 2), _CODE["gemv"], codes)
    tensor = on_tensor_cores(table, profile)
    return np.where(tensor, _TENSOR_CODE[codes], codes) if tensor.any() else codes


def on_tensor_cores(table: KernelTable, profile: ArchitectureProfile) -> np.ndarray:
    """(K,) contractions that a GPU's tensor cores do: of a type that they have a rate for. Other types are multiplied by the
    units of float32, in which libraries accumulate them anyway."""
    if "matrix.lanes" not in profile.coefficients:
        return np.zeros(len(table), dtype=bool)
    rated = [name != "float32" and f"peak.matrix.{name}" in profile.coefficients for name in COMPUTE_DTYPES]
    return np.asarray(rated)[table.dtype] & (table.matrix_flops > 0) & table.is_family(*_TENSOR_FAMILIES)


def in_tensor_kernels(codes: np.ndarray) -> np.ndarray:
    """(K,) whether kernels of these algorithms are those of tensor cores."""
    return np.isin(codes, [_CODE[name] for name in TENSOR])


def batched_product(table: KernelTable, family: str) -> np.ndarray:
    """(K,) products that run in the library's kernels for batches. A GPU's library has kernels for each way an operand lies in
    memory: those of a batch read both as they are multiplied, and so do single products, but for linear layers, whose weights are
    stored transposed."""
    several = table.batch > 1
    return several | (table.op != op_code("aten.linear")) if family == "gpu" else several


def converts_layout(codes: np.ndarray) -> np.ndarray:
    """(K,) whether kernels of these algorithms run in a library that keeps images in blocks of channels."""
    return np.isin(codes, [_CODE[name] for name in ("conv", "conv_1x1", "conv_3x3", "depthwise", "conv_transpose")])


MANY_KERNELS = 30
"""Graphs of so many kernels are off by less than short ones, in which a single kernel's error or the call itself shows."""


def _range(value: float, low: float, high: float, unit: str, why: str) -> Coefficient:
    return Coefficient(value, unit, "fallback", why, low=low, high=high)


def _published(value: float, low: float, high: float, unit: str, where: str) -> Coefficient:
    return Coefficient(value, unit, "literature", where, low=low, high=high)


_GUESS = "engineering range for a machine that was not measured"
_COMMON = {
    "efficiency": _range(0.75, 0.5, 0.95, "1", f"share of peak on large shapes: {_GUESS}"),
    "efficiency.conv": _range(0.65, 0.4, 0.95, "1", f"share of peak on large shapes: {_GUESS}"),
    "efficiency.conv_3x3": _range(0.8, 0.4, 1.5, "1", "above 1 with Winograd's transform (Lavin and Gray, 2016)"),
    "efficiency.depthwise": _range(0.15, 0.05, 0.4, "1", f"one input channel per group leaves matrix units idle: {_GUESS}"),
    "efficiency.conv_transpose": _range(0.4, 0.2, 0.8, "1", _GUESS),
    "efficiency.attention": _range(0.5, 0.25, 0.8, "1", _GUESS),
    "efficiency.linalg": _range(0.2, 0.05, 0.6, "1", _GUESS),
    "efficiency.vector": _range(0.5, 0.2, 0.9, "1", f"share of the vector peak in loops: {_GUESS}"),
    "efficiency.special": _range(0.5, 0.2, 0.9, "1", f"share of the special-function peak: {_GUESS}"),
    "efficiency.bandwidth": _range(0.8, 0.6, 0.95, "1", "share that streaming kernels reach (McCalpin, STREAM)"),
    "efficiency.bandwidth.gather": _range(0.4, 0.15, 0.8, "1", f"rows from random places: {_GUESS}"),
    "half.m": _range(1.0, 0.1, 8.0, "1", f"extent at which half of the efficiency is lost: {_GUESS}"),
    "half.n": _range(1.0, 0.1, 8.0, "1", f"extent at which half of the efficiency is lost: {_GUESS}"),
    "half.k": _range(16.0, 4.0, 64.0, "1", f"extent at which half of the efficiency is lost: {_GUESS}"),
    "overlap": _range(3.0, 1.5, 8.0, "1", "exponent p of (compute^p + memory^p)^(1/p): 1 is none, infinity is full overlap"),
    "tile_overhead": _range(0.0, 0.0, 0.0, "s", "no cost per wave of tiles is assumed unless measured"),
    "page_fault": _range(0.0, 0.0, 0.0, "s/B", "no cost of mapping fresh memory is assumed unless measured"),
    "heap.returned": _range(0.5, 0.1, 1.0, "1", "a freed heap goes back or not by what lies at its end: every second time"),
    "vector_share": _range(0.125, 0.05, 0.25, "1", f"special over vector peak where not known: {_GUESS}"),
    "sigma": _range(0.2, 0.2, 0.2, "1", f"standard deviation of the log error of one kernel: {_GUESS}"),
    "sigma.graph": _range(0.1, 0.1, 0.1, "1", f"standard deviation of the log error that kernels share: {_GUESS}"),
}  # fmt: skip
_HE = "(He, Strangely, matrix multiplications on GPUs run faster when given predictable data, 2024)"
_LUO = "(Luo et al., Benchmarking and Dissecting the Nvidia Hopper GPU Architecture, 2024)"
_CUTLASS = "(cp.async, TMA; CUTLASS, Efficient GEMM in CUDA, 2024)"
_TENSOR = {
    "efficiency.tensor": _published(1.0, 0.9, 1.05, "1", (
        f"an A100 that its cap leaves alone multiplies 8192 x 8192 at 295 of 312 Tflop/s {_HE}: what the parts below leave")),
    "efficiency.conv_tensor": _range(0.8, 0.5, 1.0, "1", f"share of peak of implicit matrix products: {_GUESS}"),
    "efficiency.attention_tensor": _published(0.9, 0.4, 1.0, "1", (
        "products, softmax beside them: 0.73 of an A100's peak with both (Dao, FlashAttention-2, 2023); on an H100 0.35 with "
        "Ampere's instructions, 0.75 with its own (Shah et al., FlashAttention-3, 2024)")),
    "efficiency.special.attention_tensor": _range(0.9, 0.6, 1.0, "1", "the same kernels: at less the A100 would not reach 0.73"),
    "efficiency.vector.attention_tensor": _range(0.9, 0.6, 1.0, "1", "the same kernels: at less the A100 would not reach 0.73"),
    "efficiency.bandwidth.tensor": _published(0.92, 0.75, 1.0, "1", (
        "streams: V100 and A100 0.9 (Deakin et al., BabelStream), T4 0.75 (Jia et al., 2019)")),
    "half.tile.tensor": _range(1.0, 0.2, 4.0, "1", (
        "one of four issue slots a clock copies 256 elements of 16 bits, beside 64 to 512 multiply-adds")),
    "half.far.tensor": _range(1.0, 0.1, 10.0, "1", f"addresses are made apart from the math {_CUTLASS}: translations hide"),
    "half.k.tensor": _range(8.0, 2.0, 32.0, "1", "slices of 16 to 64 fill and drain the pipeline; their latency is a block's"),
    "half.fill.tensor": _published(1000.0, 200.0, 4000.0, "1", (
        f"Little's law: 512 to 2048 multiply-adds a clock, 8 to 16 of an output an instruction, 17 to 33 clocks {_LUO}")),
    "tile_overhead.tensor": _published(0.8e-6, 0.4e-6, 1.6e-6, "s", (
        f"a round starts with a read of main memory and ends with a write, 480 to 740 clocks each {_LUO}")),
    "tile_overhead.attention_tensor": _range(0.0, 0.0, 0.0, "s", "a block goes through all keys: its tiles do not start anew"),
    "overlap.tensor": _range(8.0, 4.0, 12.0, "1", (
        f"copies run ahead of the math {_CUTLASS}; the A100 above leaves 5 % for what they hold up")),
    "sigma.tensor": _range(0.2, 0.2, 0.2, "1", f"standard deviation of the log error of a kernel on tensor cores: {_GUESS}"),
}  # fmt: skip
"""Of tensor cores: what was fitted to kernels of the float32 units says nothing of theirs."""
_LAUNCH = {
    "cpu": {
        "launch": _range(8e-6, 3e-6, 20e-6, "s", "dispatch of one operator by a framework on one core"),
        "launch.inductor": _range(4e-6, 1e-6, 10e-6, "s", "call of a compiled loop and its parallel region"),
        "layout.eager.aligned": _range(5e-11, 1e-11, 2e-10, "s/B", "conversion to blocks of channels"),
        "layout.eager.tail": _range(3e-10, 5e-11, 1e-9, "s/B", "the same where channels do not fill the last block"),
        "layout.inductor.edge": _range(2e-10, 5e-11, 6e-10, "s/B", "a strided copy of an image from or to channels-last order"),
        "layout.inductor.weights": _range(
            1e-10, 2e-11, 5e-10, "s/B", "a convolution's weights brought into the library's blocks"
        ),
        "layout.inductor-freezing.edge": _range(
            2e-10, 5e-11, 6e-10, "s/B", "a strided copy of an image from or to channels-last order"
        ),
        "layout.inductor-freezing.weights": _range(0.0, 0.0, 0.0, "s/B", "frozen weights were brought into blocks before"),
        "switch.eager": _range(2e-6, 0.2e-6, 20e-6, "s", "code and library state come back from a farther cache"),
        "view.eager": _range(1.5e-6, 0.5e-6, 5e-6, "s", "dispatch of a call that only makes a view"),
        "graph": _range(20e-6, 5e-6, 80e-6, "s", "entry of a compiled or interpreted graph"),
    },
    "gpu": {
        "launch": _range(8e-6, 4e-6, 20e-6, "s", "host time to dispatch one operator"),
        "launch.cudagraphs": _range(1.5e-6, 0.8e-6, 3e-6, "s", "replay of one node of a captured graph"),
        "view.eager": _range(2.5e-6, 1e-6, 8e-6, "s", "host time to dispatch a call that only makes a view"),
        "graph": _range(30e-6, 10e-6, 100e-6, "s", "entry of a compiled or interpreted graph"),
        "launch_tail": _range(0.3, 0.1, 0.7, "1", f"share of a launch that follows the hand-over to the device: {_GUESS}"),
        "throttle.cool": _range(0.0, 0.0, 0.0, "1", "no board is assumed to save energy while it is cool unless measured"),
        "throttle.clock": _range(0.0, 0.0, 0.0, "1", "a flop takes the same energy at any clock unless measured otherwise"),
        "throttle.time": _range(1e-3, 1e-3, 1e-3, "s", "time after which half of a power cap's effect is there"),
        "efficiency": _range(0.9, 0.7, 1.0, "1", f"share of peak of large tiles over a long reduction: {_GUESS}"),
        "efficiency.conv": _range(0.85, 0.5, 1.0, "1", f"share of peak of large tiles over a long reduction: {_GUESS}"),
        "efficiency.conv_3x3": _range(0.85, 0.5, 1.0, "1", f"share of peak of the direct way: {_GUESS}"),
        "efficiency.winograd": _range(0.85, 0.5, 1.0, "1", f"share of peak of transformed products: {_GUESS}"),
        "efficiency.winograd_fused": _range(0.85, 0.5, 1.0, "1", f"share of peak of transformed products: {_GUESS}"),
        "half.tile": _range(6.0, 2.0, 15.0, "1", f"multiply-adds per staged element at half of the rate: {_GUESS}"),
        "half.far": _range(5.0, 1.0, 40.0, "1", f"multiply-adds more per element whose address was not at hand: {_GUESS}"),
        "half.k": _range(48.0, 16.0, 150.0, "1", f"reduction in a block at half of the rate: {_GUESS}"),
        "half.fill": _range(4096.0, 500.0, 20000.0, "1", f"outputs at work in a multiprocessor at half of the rate: {_GUESS}"),
        **_TENSOR,
        "device_launch": _range(2e-6, 1e-6, 4e-6, "s", "shortest kernel"),
        "allocate": _range(1e-4, 3e-5, 4e-4, "s", "asking the driver for a block of device memory: engineering range"),
        "allocate.byte": _range(3e-13, 1e-13, 1e-12, "s/B", "mapping it in pages of 2 MiB, about 0.6 us each: engineering range"),
    },
    "tpu": {
        "efficiency.depthwise": _range(
            0.4, 0.15, 0.9, "1", f"share of the cycles counted on the vector unit or the array, idle columns included: {_GUESS}"
        ),
        "launch": _range(1e-6, 0.5e-6, 3e-6, "s", "start of one fusion inside a program"),
        "overlap": _range(
            1.2, 1.0, 4.0, "1", "a fusion's operands are copied to the vector memory, used, and copied back in turn"
        ),
        "graph": _range(10e-6, 3e-6, 50e-6, "s", "dispatch of a program"),
    },
    "kpu": {
        **dict.fromkeys(
            [f"efficiency.{name}" for name in ("conv", "conv_3x3", "depthwise", "conv_transpose", "attention", "linalg")],
            _range(0.75, 0.5, 0.95, "1", f"share of the counted cycles, idle elements included, as of products: {_GUESS}"),
        ),
        "launch": _range(1e-6, 0.2e-6, 5e-6, "s", "loading one domain-flow program: a design target"),
        "graph": _range(5e-6, 1e-6, 20e-6, "s", "start of a program: a design target"),
    },
}
DEFAULTS: Mapping[str, Mapping[str, Coefficient]] = {family: {**_COMMON, **launch} for family, launch in _LAUNCH.items()}
"""Architecture family -> coefficient -> what the model assumes without a measurement."""


class Coefficients:
    """Values of a machine's coefficients: overrides, then the profile, then `DEFAULTS`.

    A value is a float, an array of shape (D,) for D draws, or one of shape (..., 1) for design points, a dimension for each axis;
    results then have shape (D, K) or (..., K).

    Args:
        profile: the machine.
        overrides: values that replace the profile's, as a fit or a sweep passes them.
    """

    def __init__(self, profile: ArchitectureProfile, overrides: Mapping[str, float | np.ndarray] | None = None) -> None:
        self.profile = profile
        self._overrides = dict(overrides or {})
        self._defaults = DEFAULTS[profile.family]

    def find(self, *names: str) -> tuple[str, float | np.ndarray] | None:
        """The first of `names` that has a value, with it; looked up name by name, most specific first."""
        for name in names:
            if name in self._overrides:
                return name, self._overrides[name]
            held = self.profile.coefficients.get(name) or self._defaults.get(name)
            if held is not None:
                return name, held.value
        return None

    def value(self, *names: str) -> float | np.ndarray:
        """The value of the first of `names` that is known.

        Raises:
            KeyError: none is; the profile is not one this model can use.
        """
        found = self.find(*names)
        if found is None:
            raise KeyError(f"profile {self.profile.name!r} has none of the coefficients {', '.join(names)}")
        return _column(found[1])

    def source(self, *names: str) -> str:
        """Where the value of the first known of `names` comes from: a source of `Coefficient`, "datasheet" for an override."""
        for name in names:
            if name in self._overrides:
                return "fitted" if name not in self.profile.coefficients else self.profile.coefficients[name].source
            held = self.profile.coefficients.get(name) or self._defaults.get(name)
            if held is not None:
                return held.source
        return "fallback"

    def by_algorithm(self, codes: np.ndarray, *prefixes: str) -> np.ndarray:
        """(K,) or (D, K) values of PREFIX.<algorithm>, else PREFIX.tensor on tensor cores, else PREFIX.<parent family>, else
        PREFIX, for each prefix in turn."""
        return self._gather(codes, ALGORITHMS, [algorithm_names(prefixes, name) for name in ALGORITHMS])

    def by_kernel(self, table: KernelTable, codes: np.ndarray, *prefixes: str) -> np.ndarray:
        """(K,) or (D, K) values of PREFIX.<operator> for kernels of a single call where that operator was measured (its dispatch
        and its loop are its own), else as `by_algorithm`; the first prefix has the operators."""
        result = self.by_algorithm(codes, *prefixes)
        names = op_names()
        single = np.where(table.calls == 1, table.op, -1)
        for code in np.flatnonzero(np.bincount(single + 1)[1:]):
            found = self.find(f"{prefixes[0]}.{short_op(names[code])}")
            if found is None:
                continue
            if np.ndim(found[1]) and result.ndim == 1:
                result = np.tile(result, (*np.shape(_column(found[1]))[:-1], 1))
            result[..., single == code] = _column(found[1])
        return result

    def by_dtype(self, codes: np.ndarray, names_of: Sequence[Sequence[str]]) -> np.ndarray:
        """(K,) or (D, K) values where `names_of[c]` lists the candidates for dtype code c."""
        return self._gather(codes, COMPUTE_DTYPES, names_of)

    def _gather(self, codes: np.ndarray, keys: Sequence[str], names_of: Sequence[Sequence[str]]) -> np.ndarray:
        used = np.flatnonzero(np.bincount(codes, minlength=len(keys)))
        values = {int(code): self.value(*names_of[code]) for code in used}
        if all(np.ndim(value) == 0 for value in values.values()):
            lookup = np.zeros(len(keys))
            for code, value in values.items():
                lookup[code] = value
            return lookup[codes]
        many = np.broadcast_shapes(*(np.shape(value)[:-1] for value in values.values()))
        table = np.zeros((*many, len(keys)))
        for code, value in values.items():
            table[..., code] = value[..., 0] if np.ndim(value) else value
        return table[..., codes]


def _column(value: float | np.ndarray) -> float | np.ndarray:
    """A value as it goes with arrays of kernels: an array has a last dimension of 1."""
    return value[:, None] if np.ndim(value) == 1 else value


def short_op(op: str) -> str:
    """An operator's name in coefficients: ATen's without their namespace ("linear"), others in full."""
    return op.removeprefix("aten.")


@cache
def algorithm_names(prefixes: tuple[str, ...], algorithm: str) -> tuple[str, ...]:
    """Names to look up for an algorithm, most specific first."""
    names: list[str] = []
    for prefix in prefixes:
        names.append(f"{prefix}.{algorithm}")
        if algorithm in TENSOR:
            names.append(f"{prefix}.tensor")
        if algorithm in FAMILY_OF:
            names.append(f"{prefix}.{FAMILY_OF[algorithm]}")
    return (*names, *prefixes)


def normals(rng: np.random.Generator, draws: int, columns: int | None = None) -> np.ndarray:
    """(draws,) or (draws, columns) standard normal values whose quantiles are exact: each column holds the middles of equally
    likely parts of the law in an order of its own (Latin hypercube: McKay, Beckman and Conover, Technometrics 21(2), 1979)."""
    law = _quantiles(draws)
    if columns is None:
        return rng.permutation(law)
    return rng.permuted(np.broadcast_to(law[:, None], (draws, columns)), axis=0)


@cache
def _quantiles(count: int) -> np.ndarray:
    law = NormalDist()
    return np.asarray([law.inv_cdf((i + 0.5) / count) for i in range(count)])


def draw(profile: ArchitectureProfile, names: Iterable[str], draws: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Random values of the uncertain ones among `names`, (draws,) each, log-normal with their 90 % range.

    A coefficient without a range does not appear in the result.
    """
    rng = np.random.default_rng(seed)
    result = {}
    for name in sorted(set(names)):
        held = profile.coefficients.get(name) or DEFAULTS[profile.family].get(name)
        if held is None or held.value <= 0:
            continue
        low, high = held.bounds
        if low == high:
            continue
        low = max(low, held.value * 1e-3)
        # The two sides are scaled apart, so that an asymmetric range is kept.
        z = normals(rng, draws)
        below, above = np.log(held.value / low) / 1.645, np.log(high / held.value) / 1.645
        result[name] = held.value * np.exp(np.where(z < 0, below, above) * z)
    return result
