"""Algorithms: what coefficients are keyed by, finer than families of operators where libraries treat their members apart."""

from __future__ import annotations

from functools import cache
from types import MappingProxyType

from shmoo.estimators.graph.records import FAMILIES

TENSOR = (
    "gemm_tensor", "gemv_tensor", "conv_tensor", "attention_tensor", "narrow_tensor", "packed_tensor", "float4_tensor"
)  # fmt: skip
"""What contractions are on tensor cores, whose kernels share next to nothing with those of the float32 units: "narrow" are
products of operands of 8 bits and less, "packed" those that unpack weights of fewer bits than they multiply in, "float4" those
of operands with a scale for each 16. Coefficients that all of these have in common end in ".tensor"."""
_PRODUCTS = ("gemv_tensor", "narrow_tensor", "packed_tensor", "float4_tensor")
"""Products on tensor cores that take after those of 16 bits in what is not known of them."""
ALGORITHMS = (*FAMILIES, "conv_1x1", "conv_3x3", "conv_native", "gemv", "gemm_batched", "recurrent", *TENSOR)
"""What coefficients are keyed by: the families, with convolutions that libraries treat apart (1x1 is a matrix product, 3x3 of
stride 1 can use Winograd's transform: Lavin and Gray, 2016; small ones on a CPU run as PyTorch's own im2col and matrix product)
matrix products with a single row, which stream the weights, batches of them, whose kernels are chosen by other rules, the
products of recurrent layers, step after step, and contractions on tensor cores."""
RECURRENT = ("aten.lstm", "aten.gru", "aten.rnn_tanh", "aten.rnn_relu")
"""Calls whose products are the steps of recurrent layers."""
FAMILY_OF = MappingProxyType(
    {
        **{"conv_1x1": "conv", "conv_3x3": "conv", "conv_native": "conv"},
        **{"gemv": "gemm", "gemm_batched": "gemm", "recurrent": "gemm"},
        **{"gemm_tensor": "gemm", "gemv_tensor": "gemm", "conv_tensor": "conv", "attention_tensor": "attention"},
        **{"narrow_tensor": "gemm", "packed_tensor": "gemm", "float4_tensor": "gemm"},
    }
)
"""Algorithms that are a part of a family -> that family; the others are families themselves."""


@cache
def algorithm_names(prefixes: tuple[str, ...], algorithm: str) -> tuple[str, ...]:
    """Names to look up for an algorithm, most specific first."""
    names: list[str] = []
    for prefix in prefixes:
        names.append(f"{prefix}.{algorithm}")
        if algorithm in TENSOR:
            names += [f"{prefix}.gemm_tensor"] * (algorithm in _PRODUCTS) + [f"{prefix}.tensor"]
        if algorithm in FAMILY_OF:
            names.append(f"{prefix}.{FAMILY_OF[algorithm]}")
    return (*names, *prefixes)
