"""The six applications of the first TPU as graphs, from what was published of them.

N. P. Jouppi et al., "In-datacenter performance analysis of a tensor processing unit", ISCA 2017, tables 1 and 3, give layers by
kind, weights, batch, multiply-adds for each byte of weights, and the operations a second that were measured. Shapes of fully
connected layers were not published: those of an application are alike and square here, and use each weight once a sample. CNN0 is
AlphaGo (caption of table 1), whose layers are in D. Silver et al., "Mastering the game of Go with deep neural networks and tree
search", Nature 529, 2016: 48 planes of 19 x 19 points, a first layer of 5 x 5, layers of 3 x 3, last ones of 1 x 1, all of k
filters; k = 256 gives the published 8 million weights in 16 layers. CNN1 mixes layers in shares nobody published, and LSTM1's
matrices leave much of their tiles empty (600 x 600 is the paper's example); both are shown and not judged.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from shmoo.estimators.graph.records import Attribute, Graph, OpCall, TensorSpec, Value


@dataclass(frozen=True, slots=True)
class Application:
    """One row of the paper's tables.

    Attributes:
        dense, vectors: fully connected layers, and elementwise ones.
        weights: bytes of 8-bit weights. batch: samples a call.
        macs_per_byte: multiply-adds for each byte of weights.
        measured_flops_per_s: operations a second, a multiply-add being 2.
        convolutions: groups of alike layers: side of the window, channels in and out, number of layers.
        judged: whether the published facts determine its layers.
    """

    name: str
    dense: int
    vectors: int
    weights: float
    batch: int
    macs_per_byte: float
    measured_flops_per_s: float
    convolutions: tuple[tuple[int, int, int, int], ...] = ()
    judged: bool = True

    @property
    def measured_s(self) -> float:
        """Seconds of one call: the published operations over the published rate."""
        return 2.0 * self.weights * self.macs_per_byte / self.measured_flops_per_s


APPLICATIONS = (
    Application("MLP0", 5, 0, 20e6, 200, 200, 12.3e12),
    Application("MLP1", 4, 0, 5e6, 168, 168, 9.7e12),
    Application("LSTM0", 24, 34, 52e6, 64, 64, 3.7e12),
    Application("LSTM1", 37, 19, 34e6, 96, 96, 2.8e12, judged=False),
    Application("CNN0", 0, 0, 8e6, 8, 2888, 86.0e12, ((5, 48, 256, 1), (3, 256, 256, 13), (1, 256, 256, 2))),
    Application("CNN1", 4, 0, 100e6, 32, 1750, 14.1e12, ((3, 382, 382, 72),), judged=False),
)


def application_graph(application: Application) -> Graph:
    """The application's layers, 8-bit, in order; vector layers are spread evenly and alternate sigmoid and tanh, the
    nonlinear functions table 1 names."""
    draft = _Draft()
    convolved = sum(side**2 * c_in * c_out * count for side, c_in, c_out, count in application.convolutions)
    if application.convolutions:
        points = round(math.sqrt(application.macs_per_byte / application.batch))
        x = draft.value((application.batch, application.convolutions[0][1], points, points), "input")
        for side, _, c_out, count in application.convolutions:
            for _ in range(count):
                x = draft.pointwise("relu", draft.conv(x, side, c_out))
    if application.dense:
        width = round(math.sqrt((application.weights - convolved) / application.dense))
        x = draft.value((application.batch, width), "input")
        for index in range(application.dense):
            x = draft.linear(x)
            due = (index + 1) * application.vectors // application.dense - index * application.vectors // application.dense
            for turn in range(due):
                x = draft.pointwise("tanh" if (index + turn) % 2 else "sigmoid", x)
            if not application.vectors:
                x = draft.pointwise("relu", x)
    return Graph(tuple(draft.values), tuple(draft.calls), (x,), application.name)


class _Draft:
    """A graph while it is written; tensors are value indices."""

    def __init__(self) -> None:
        self.values: list[Value] = []
        self.calls: list[OpCall] = []

    def value(self, shape: tuple[int, ...], kind: str) -> int:
        self.values.append(Value(TensorSpec(shape, "int8"), kind))
        return len(self.values) - 1

    def call(self, op: str, operands: dict[str, int], shape: tuple[int, ...], attributes: dict[str, Attribute]) -> int:
        out = self.value(shape, "activation")
        self.calls.append(
            OpCall(
                op=f"aten.{op}",
                inputs=tuple(self.values[i].spec for i in operands.values()),
                outputs=(self.values[out].spec,),
                operands=tuple(operands),
                attributes=attributes,
                reads=tuple(operands.values()),
                writes=(out,),
            )
        )
        return out

    def linear(self, x: int) -> int:
        shape = self.values[x].spec.shape
        weight = self.value((shape[-1], shape[-1]), "parameter")
        return self.call("linear", {"input": x, "weight": weight}, shape, {})

    def conv(self, x: int, side: int, c_out: int) -> int:
        shape = self.values[x].spec.shape
        weight = self.value((c_out, shape[1], side, side), "parameter")
        same: dict[str, Attribute] = {"stride": [1, 1], "padding": [side // 2] * 2, "dilation": [1, 1], "groups": 1}
        return self.call("conv2d", {"input": x, "weight": weight}, (shape[0], c_out, *shape[2:]), same)

    def pointwise(self, op: str, x: int) -> int:
        return self.call(op, {"self": x}, self.values[x].spec.shape, {})
