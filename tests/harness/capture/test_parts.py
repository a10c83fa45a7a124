"""Operators without a cost of their own are counted by the operators that torch computes them from."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from shmoo.estimators.costs import graph_cost
from shmoo.harness.capture import capture, capture_training
from shmoo.harness.capture.workload import CaptureFamily
from shmoo.harness.module import Built, DNNModule, dim

LIBRARY = torch.library.Library("shmoo_parts", "DEF")
LIBRARY.define("gated(Tensor x, Tensor w) -> Tensor")
LIBRARY.impl("gated", lambda x, w: (x @ w).sigmoid() * x, "CompositeImplicitAutograd")
LIBRARY.define("twice_(Tensor(a!) x) -> Tensor(a!)")
LIBRARY.impl("twice_", lambda x: x.mul_(2.0), "CompositeImplicitAutograd")
LIBRARY.define("opaque(Tensor x) -> Tensor")
LIBRARY.impl("opaque", lambda x: x.clone(), "CPU")
LIBRARY.impl("opaque", torch.empty_like, "Meta")


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(16, 16))

    def forward(self, x):
        return torch.ops.shmoo_parts.gated(x, self.w) + 1


def test_a_composite_operator_is_its_parts() -> None:
    """The product, its sigmoid and the gate; the weight is the model's, the calls name the line."""
    (graph,) = capture(Gated(), (torch.randn(4, 16),)).graphs
    total = graph_cost(graph)
    assert not total.unknown
    assert total.macs == 4 * 16 * 16
    assert {call.op for call in graph.calls} >= {"aten.sigmoid", "aten.mul", "aten.add"}
    assert all("test_parts.py" in call.source for call in graph.calls)
    assert [value.name for value in graph.values if value.is_weight] == ["w"]


def test_parts_that_write_in_place() -> None:
    """The doubled tensor is what a later call reads, in the memory of the first."""

    class Model(nn.Module):
        def forward(self, x):
            y = torch.relu(x)
            torch.ops.shmoo_parts.twice_(y)
            return y + x

    (graph,) = capture(Model(), (torch.randn(4, 16),)).graphs
    relu, mul, add = graph.calls
    assert (relu.op, mul.op, mul.inplace, add.op) == ("aten.relu", "aten.mul", True, "aten.add")
    assert mul.writes[0] in add.reads
    assert graph.root(mul.writes[0]) == graph.root(relu.writes[0])


def test_what_has_no_parts_is_unknown() -> None:
    class Model(nn.Module):
        def forward(self, x):
            return torch.ops.shmoo_parts.opaque(x)

    (graph,) = capture(Model(), (torch.randn(4, 16),)).graphs
    assert [op.op for op in graph_cost(graph).unknown] == ["shmoo_parts.opaque"]
    assert graph_cost(graph).bytes == 2 * 4 * 4 * 16


@pytest.mark.parametrize("batch", [3, 5])
def test_parts_follow_sizes_that_are_put_in(batch: int) -> None:
    """One capture with a symbol for the batch."""

    def factory(make, *, batch: int) -> Built:
        return Built(Gated().to(make.device), (make.tensor(batch, 16),))

    module = DNNModule("gated", "network", (dim("batch", 1, "rows"),), factory)
    family = CaptureFamily(module, [{"batch": 3}, {"batch": 5}])
    found = family.at({"batch": batch})
    assert "put into one capture" in found.note
    assert graph_cost(found.graphs[0]).macs == batch * 16 * 16


def test_a_training_step_in_parts() -> None:
    """Forward, and both gradients: the input asks for none."""
    graphs = capture_training(Gated(), (torch.randn(4, 16),)).graphs
    assert not [op for graph in graphs for op in graph_cost(graph).unknown]
    assert sum(graph_cost(graph).macs for graph in graphs) == 2 * 4 * 16 * 16
