"""Small graphs for tests, written as one line a call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from shmoo.estimators.graph.records import Attribute, Graph, Kernel, OpCall, TensorSpec, Value, ValueKind
from shmoo.estimators.graph_rows import Conversion, kernel_tables
from shmoo.estimators.machine.profile import ArchitectureProfile
from shmoo.estimators.table import KernelTable

Shape = tuple[int, ...]


class GraphBuilder:
    """Builds a `Graph` call by call; tensors are value indices."""

    def __init__(self, dtype: str = "float32") -> None:
        self.dtype = dtype
        self.values: list[Value] = []
        self.calls: list[OpCall] = []

    def tensor(self, shape: Shape, kind: ValueKind = "input", name: str = "") -> int:
        self.values.append(Value(TensorSpec(shape, self.dtype), kind, name))
        return len(self.values) - 1

    def call(
        self,
        op: str,
        operands: dict[str, int],
        shape: Shape,
        *,
        storage: int | None = None,
        inplace: bool = False,
        **attributes: Attribute,
    ) -> int:
        """Append a call of `op` whose result has `shape`; `storage` makes the result share another value's memory."""
        self.values.append(Value(TensorSpec(shape, self.dtype), storage=storage))
        self.calls.append(
            OpCall(
                op=f"aten.{op}",
                inputs=tuple(self.values[i].spec for i in operands.values()),
                outputs=(self.values[-1].spec,),
                operands=tuple(operands),
                attributes=attributes,
                reads=tuple(operands.values()),
                writes=(len(self.values) - 1,),
                inplace=inplace,
            )
        )
        return len(self.values) - 1

    def linear(self, x: int, out: int) -> int:
        shape = self.values[x].spec.shape
        weight = self.tensor((out, shape[-1]), "parameter", "weight")
        return self.call("linear", {"input": x, "weight": weight}, (*shape[:-1], out))

    def conv(self, x: int, out: int, kernel: int = 3) -> int:
        n, c, h, w = self.values[x].spec.shape
        weight = self.tensor((out, c, kernel, kernel), "parameter", "weight")
        pad = kernel // 2
        return self.call(
            "conv2d",
            {"input": x, "weight": weight},
            (n, out, h, w),
            stride=[1, 1],
            padding=[pad, pad],
            dilation=[1, 1],
            groups=1,
        )

    def batch_norm(self, x: int) -> int:
        spec = self.values[x].spec
        weights = {
            name: self.tensor((spec.shape[1],), "parameter", name) for name in ("weight", "bias", "running_mean", "running_var")
        }
        return self.call("batch_norm", {"input": x, **weights}, spec.shape, training=False, momentum=0.1, eps=1e-5)

    def relu(self, x: int) -> int:
        return self.call("relu", {"self": x}, self.values[x].spec.shape)

    def add(self, x: int, y: int) -> int:
        return self.call("add", {"self": x, "other": y}, self.values[x].spec.shape, alpha=1)

    def layer_norm(self, x: int) -> int:
        spec = self.values[x].spec
        weights = {name: self.tensor((spec.shape[-1],), "parameter", name) for name in ("weight", "bias")}
        return self.call("layer_norm", {"input": x, **weights}, spec.shape, normalized_shape=[spec.shape[-1]], eps=1e-5)

    def view(self, x: int, shape: Shape) -> int:
        return self.call("view", {"self": x}, shape, storage=x, size=list(shape))

    def graph(self, *outputs: int, name: str = "test") -> Graph:
        return Graph(tuple(self.values), tuple(self.calls), outputs, name)


def kernel_table(graph: Graph, kernels: Sequence[Kernel], *, converts: Conversion = "none") -> KernelTable:
    """The table of one graph."""
    return kernel_tables([(graph, kernels)], converts=converts)


def single_call(op: str, shape: tuple[int, ...], result: tuple[int, ...], **attributes: Attribute) -> OpCall:
    """A call with one operand, of this shape."""
    b = GraphBuilder()
    b.call(op, {"self": b.tensor(shape)}, result, **attributes)
    return b.calls[0]


def with_values(profile: ArchitectureProfile, values: Mapping[str, float]) -> ArchitectureProfile:
    """A machine in which some coefficients, and nothing that follows from them, have another value without uncertainty."""
    given = {
        name: msgspec.structs.replace(profile.coefficients[name], value=value, stderr=None, low=None, high=None)
        for name, value in values.items()
    }
    return profile.replacing(coefficients={**profile.coefficients, **given}, residual=())
