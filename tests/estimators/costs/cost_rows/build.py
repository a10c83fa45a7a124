"""How a row of expected numbers is written: a call small enough to count by hand, and its cost.

An operand is a shape of float32 elements, or `i(...)`, `b(...)`, `h(...)`, `c(...)` for int64, bool, bfloat16 and complex64. What
a row does not say is 0 flops, 1 for each number of the iteration space, and every operand and result whole.
"""

from __future__ import annotations

from typing import NamedTuple

from shmoo.estimators.graph.records import Attribute, Cost, OpCall, TensorSpec

Operand = tuple[int, ...] | TensorSpec


class Row(NamedTuple):
    call: OpCall
    expected: Cost


def i(*shape: int) -> TensorSpec:
    return TensorSpec(shape, "int64")


def b(*shape: int) -> TensorSpec:
    return TensorSpec(shape, "bool")


def h(*shape: int) -> TensorSpec:
    return TensorSpec(shape, "bfloat16")


def c(*shape: int) -> TensorSpec:
    return TensorSpec(shape, "complex64")


def spec(operand: Operand) -> TensorSpec:
    return operand if isinstance(operand, TensorSpec) else TensorSpec(operand)


def op_call(
    op: str,
    inputs: dict[str, Operand],
    outputs: list[Operand],
    attributes: dict[str, Attribute] | None = None,
    inplace: bool = False,
) -> OpCall:
    """A call as capture writes it."""
    return OpCall(
        op=f"aten.{op}" if "." not in op else op,
        inputs=tuple(spec(s) for s in inputs.values()),
        outputs=tuple(spec(s) for s in outputs),
        operands=tuple(inputs),
        attributes=attributes or {},
        inplace=inplace,
    )


ROWS: list[Row] = []


def rows(
    ops: str,
    inputs: dict[str, Operand],
    outputs: list[Operand],
    attributes: dict[str, Attribute] | None = None,
    *,
    family: str,
    matrix: float = 0,
    vector: float = 0,
    special: float = 0,
    space: dict[str, int] | None = None,
    reads: dict[str, float] | None = None,
    writes: float | None = None,
    inplace: bool = False,
) -> None:
    """The same numbers for each of `ops`. `reads` and `writes` are bytes that differ from the whole operand or first result."""
    for op in ops.split():
        call = op_call(op, inputs, outputs, attributes, inplace)
        read = tuple((reads or {}).get(name, s.nbytes) for name, s in zip(call.operands, call.inputs, strict=True))
        written = [s.nbytes for s in call.outputs]
        if writes is not None:
            written[0] = writes
        ROWS.append(Row(call, Cost(family, read, tuple(written), float(matrix), float(vector), float(special), **(space or {}))))
