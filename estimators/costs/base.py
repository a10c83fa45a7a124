"""The registry of operator costs, and helpers of cost functions: finding operands and attributes, filling in a `Cost`.

A cost function looks at shapes, element types and attributes only, so it holds for every machine. Bytes follow one rule: each
operand is read once and each result written once, at its own size (a broadcast operand counts before it is stretched). Where an
operator touches only a part of an operand (a gather, an in-place scatter), the cost function passes that part. Strides do not
change bytes: a strided convolution reads its whole input, whose skipped elements share cache lines.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest

from shmoo.estimators.errors import InputError
from shmoo.estimators.graph.records import Cost, Geometry, OpCall, TensorSpec
from shmoo.estimators.registry import Registry

CostFunction = Callable[[OpCall], Cost]
_NO_IMAGE = Geometry()

COSTS: Registry[CostFunction] = Registry("operator cost")
"""Operator name -> cost function. Filled at import by `cost`."""


def cost(*names: str) -> Callable[[CostFunction], CostFunction]:
    """Decorator that registers a pure function from `OpCall` to `Cost` under one or more operator names.

    A name is the namespace and the operator, without overload and without the underscore of the in-place form: "aten.relu",
    or "mylib.fused_gate" for a custom operator called as `torch.ops.mylib.fused_gate`.

    Raises:
        InputError: a name without a namespace.
        DuplicateNameError: a name that is already registered.
    """
    for name in names:
        namespace, _, operator = name.partition(".")
        if not namespace or not operator:
            raise InputError(f"operator name {name!r} has no namespace; write 'namespace.operator', such as 'aten.relu'")
    return COSTS.register(*names)


def tensor(call: OpCall, *names: str) -> TensorSpec:
    """The operand passed under the first of `names` that the call has; `InputError` where it has none of them."""
    for name in names:
        spec = call.operand(name)
        if spec is not None:
            return spec
    operand_names = ", ".join(call.operands) or "none"
    raise InputError(
        f"{call.op} needs a tensor operand {' or '.join(repr(n) for n in names)}, the call has: {operand_names}; "
        "build the call from the operator's schema"
    )


def first_operand(call: OpCall) -> TensorSpec:
    """The first tensor operand; `InputError` where there is none."""
    if not call.inputs:
        raise InputError(f"{call.op} needs a tensor operand, the call has none; build the call from the operator's schema")
    return call.inputs[0]


def result(call: OpCall) -> TensorSpec:
    """The first result; `InputError` where there is none."""
    if not call.outputs:
        raise InputError(f"{call.op} has no result; a call's `outputs` must hold what it returns, also for an in-place operator")
    return call.outputs[0]


def tensor_list(call: OpCall, name: str) -> tuple[TensorSpec, ...]:
    """The elements of the tensor list `name`, in order ("tensors.0", "tensors.1", ...)."""
    prefix = f"{name}."
    return tuple(s for o, s in zip(call.operands, call.inputs, strict=True) if o.startswith(prefix))


def number(call: OpCall, name: str, default: float) -> float:
    """A numeric attribute; `default` where it is absent, `None` or not a number."""
    value = call.attributes.get(name)
    return value if isinstance(value, int | float) else default


def largest_entry(call: OpCall, name: str) -> int:
    """The largest entry of an attribute that is an int or a list of ints (stride, dilation); 1 where absent or empty."""
    value = call.attributes.get(name)
    if isinstance(value, int):
        return value
    return max((v for v in value if isinstance(v, int)), default=1) if isinstance(value, list) else 1


def broadcast_numel(specs: Sequence[TensorSpec]) -> int:
    """Elements of the tensors broadcast to each other."""
    columns = zip_longest(*(spec.shape[::-1] for spec in specs), fillvalue=1)
    return math.prod(0 if 0 in column else max(column) for column in columns)


def channels(spec: TensorSpec) -> int:
    """The size of dimension 1; 1 for tensors without it."""
    return spec.shape[1] if len(spec.shape) > 1 else 1


def is_complex(spec: TensorSpec) -> bool:
    """True where the elements are pairs of numbers."""
    return spec.dtype.startswith("complex")


def real_additions(call: OpCall) -> int:
    """Real additions in one addition of the call's numbers: 2 for complex numbers."""
    return 2 if any(map(is_complex, call.inputs)) else 1


def complex_products(call: OpCall) -> int:
    """Real multiply-adds in one multiply-add of the call's numbers: 4 if any is complex, as libraries convert all factors."""
    return 4 if any(map(is_complex, call.inputs)) else 1


def extents(call: OpCall, name: str, rank: int) -> tuple[int, ...]:
    """An attribute that is one int for all dimensions or a list of one or `rank` ints, as `rank` ints; else `InputError`."""
    value = call.attributes.get(name)
    values = value if isinstance(value, list) else [value]
    sizes = tuple(v for v in values if isinstance(v, int))
    if len(sizes) == len(values) and len(sizes) in (1, rank):
        return sizes if len(sizes) == rank else sizes * rank
    raise InputError(f"{call.op} needs attribute {name!r} as one int or {rank}, got {value!r}")


def bill(
    call: OpCall,
    family: str,
    *,
    matrix: float = 0.0,
    vector: float = 0.0,
    special: float = 0.0,
    batch: int = 1,
    m: int = 1,
    n: int = 1,
    k: int = 1,
    window: int = 1,
    stride: int = 1,
    dilation: int = 1,
    images: int = 1,
    geometry: Geometry = _NO_IMAGE,
    group: int = 1,
    causal: bool = False,
    bytes_read: Mapping[str, float] | None = None,
    bytes_written: float | None = None,
) -> Cost:
    """A `Cost` in which every operand is read once and every result written once.

    Args:
        bytes_read: bytes read of operands (by name) that are only partly read.
        bytes_written: bytes written to the first result, where only a part of it is written.

    A value passed twice (`x * x`) is read once: its second place counts 0.

    Complex numbers: `matrix` counts multiply-adds of the operands' own numbers; a complex multiply-add is 4 real ones, 8 flops. A
    complex addition is 2 operations; `elementwise` knows which operators multiply.
    """
    bytes_read_of = bytes_read or {}
    reads = [bytes_read_of.get(name, spec.nbytes) for name, spec in zip(call.operands, call.inputs, strict=True)]
    if len(set(call.reads)) < len(call.reads):
        for position, value in enumerate(call.reads):
            if value in call.reads[:position]:
                reads[position] = 0.0
    writes = [spec.nbytes for spec in call.outputs]
    if bytes_written is not None and writes:
        writes[0] = bytes_written
    return Cost(
        family=family,
        read_bytes=tuple(reads),
        write_bytes=tuple(writes),
        matrix_flops=float(matrix) * (complex_products(call) if matrix else 1),
        vector_flops=float(vector),
        special_flops=float(special),
        batch=batch,
        m=m,
        n=n,
        k=k,
        window=window,
        stride=stride,
        dilation=dilation,
        images=images,
        geometry=geometry,
        group=group,
        causal=causal,
    )
