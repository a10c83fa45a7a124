"""Element types: the vocabulary of profiles and estimates, and the storage width of every tensor type."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from shmoo.estimators.errors import InputError, unknown

COMPUTE_DTYPES = ("float32", "tf32", "bfloat16", "float16", "float8", "int8", "int4", "float64", "float4")
"""Types for which a unit may have a peak. `tf32` is a way of multiplying float32 tensors, not a storage type."""

COMPUTED_AS = {name: (name,) for name in COMPUTE_DTYPES} | {
    "float4": ("float4", "float8", "bfloat16", "float16"),
    "float8": ("float8", "bfloat16", "float16"),
    "int4": ("int4", "int8", "float16", "bfloat16"),
    "int8": ("int8", "float16", "bfloat16"),
}
"""Type -> itself and the types that hold its values, narrowest first: a machine multiplies in the first that it rates."""

COMPLEX_DTYPES = ("complex64", "complex128")
"""Types of operators alone: a multiply-add is four of the parts' type, 8 flops, so no unit has a peak for them."""

ALIASES = {
    **{"fp32": "float32", "bf16": "bfloat16", "fp16": "float16", "half": "float16", "fp8": "float8"},
    **{"float": "float32", "double": "float64", "cfloat": "complex64", "cdouble": "complex128"},
    **dict.fromkeys(("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu"), "float8"),
    **dict.fromkeys(("uint4", "quint4x2"), "int4"),
    **dict.fromkeys(("fp4", "nvfp4", "float4_e2m1"), "float4"),
}

BITS = {
    "complex128": 128,
    **dict.fromkeys(("float64", "int64", "uint64", "complex64"), 64),
    **dict.fromkeys(("float32", "tf32", "int32", "uint32", "complex32"), 32),
    **dict.fromkeys(("bfloat16", "float16", "int16", "uint16"), 16),
    **dict.fromkeys(("float8", "int8", "uint8", "bool"), 8),
    "int4": 4,
    "float4": 4,
}
"""Storage width of one element, in bits."""

STORED_AS: Mapping[str, str] = {"tf32": "float32"}
"""Compute types that no tensor is stored in -> storage type of the tensors whose contractions compute in them."""


def resolve_alias(name: str) -> str:
    """The vocabulary's name if `name` is an alias, else `name` unchanged."""
    bare_name = name.removeprefix("torch.")
    return ALIASES.get(bare_name, bare_name)


def shown_dtype(name: str) -> str:
    """The name of a type as users see it: the coefficients' "float4" is "nvfp4"."""
    return "nvfp4" if name == "float4" else name


def canonical_dtype(name: str) -> str:
    """The vocabulary's name of an element type: "fp32" and "torch.float32" become "float32"; `InputError` for an unknown one."""
    dtype = resolve_alias(name)
    if dtype not in BITS:
        raise unknown("dtype", name, {*BITS, *ALIASES})
    return dtype


def compute_dtype(name: str) -> str:
    """The canonical name of a type that units compute in; `InputError` for any other."""
    dtype = resolve_alias(name)
    if dtype in _PART_DTYPES:
        names = ", ".join(sorted(map(shown_dtype, COMPUTE_DTYPES)))
        raise InputError(
            f"no model is converted to {name!r}: allowed are {names}; a model keeps complex tensors of its own, and rows of "
            f"operator tables may be of {' and '.join(COMPLEX_DTYPES)}"
        )
    if dtype not in COMPUTE_DTYPES:
        raise unknown("compute dtype", name, {*map(shown_dtype, COMPUTE_DTYPES), "fp32", "bf16", "fp16"})
    return dtype


def operator_dtype(name: str) -> str:
    """The canonical name of a type that a single operator may have: a compute type or a complex one; `InputError` for others."""
    dtype = resolve_alias(name)
    if dtype not in (*COMPUTE_DTYPES, *COMPLEX_DTYPES):
        raise unknown("dtype of an operator", name, {*map(shown_dtype, COMPUTE_DTYPES), *COMPLEX_DTYPES})
    return dtype


def matrix_dtype(name: str | None) -> str | None:
    """The compute type that `name` requests for contractions, `None` where it is a storage type: tf32 multiplies float32."""
    return name if name in STORED_AS else None


def bytes_of(dtype: str, elements: float) -> float:
    """Bytes that `elements` elements of `dtype` occupy."""
    return BITS[dtype] * elements / 8


@cache
def operand_dtype(names: frozenset[str]) -> str:
    """The compute type of a call with operands of these types: the widest floating type (of their parts for complex numbers),
    int8 or int4 where all operands are integers of that size, else float32 (index arithmetic)."""
    present = {_PART_DTYPES.get(name, name) for name in names}
    return next((name for name in _WIDEST_FIRST if name in present), "float32")


_PART_DTYPES = {"complex128": "float64", "complex64": "float32", "complex32": "float16"}
_WIDEST_FIRST = ("float64", "float32", "bfloat16", "float16", "float8", "float4", "int8", "int4")
