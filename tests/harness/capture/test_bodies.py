"""Work inside branches, loops, functional transforms and contexts of a model's own."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.attention.flex_attention import flex_attention

from shmoo.estimators.costs import graph_cost
from shmoo.harness.capture.workload import capture_workload
from shmoo.harness.module import Built, DNNModule


def captured(model: nn.Module, *args: torch.Tensor):
    """The graphs of a model that is built without memory where that works."""

    def factory(make) -> Built:
        return Built(model.to(make.device).eval(), tuple(x.to(make.device) for x in args))

    return capture_workload(DNNModule("model", "network", (), factory)).graphs


def macs(graphs) -> float:
    assert not [op for graph in graphs for op in graph_cost(graph).unknown]
    return sum(graph_cost(graph).macs for graph in graphs)


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.small, self.large = nn.Linear(8, 8), nn.Sequential(nn.Linear(8, 32), nn.Linear(32, 8))

    def forward(self, x):
        return torch.cond(x.sum() > 0, lambda x: self.small(x), lambda x: self.large(x), (x,)) + 1


def test_the_costlier_side_of_a_branch_counts():
    """4 x 8 x 32 twice, not 4 x 8 x 8; and a note says that it is one of two."""
    graphs = captured(Branches(), torch.randn(4, 8))
    assert macs(graphs) == 2 * 4 * 8 * 32
    assert any("costlier" in note for graph in graphs for note in graph.notes)
    assert sum(graph.params for graph in graphs) == 8 * 8 + 8 + 2 * 8 * 32 + 32 + 8


class Loop(nn.Module):
    def __init__(self, known: bool) -> None:
        super().__init__()
        self.layer, self.known = nn.Linear(8, 8), known

    def forward(self, x):
        def goes_on(i, x):
            return i < 5 if self.known else (i < 5) & (x.sum() > -1e9)

        start = torch.tensor(0)
        return torch._higher_order_ops.while_loop(goes_on, lambda i, x: (i + 1, torch.relu(self.layer(x))), (start, x))[1]


@pytest.mark.parametrize("known", [True, False])
def test_a_loop_counts_as_often_as_constants_say(known):
    """Five steps of 4 x 8 x 8; where data ends the loop one step, with a note."""
    graphs = captured(Loop(known), torch.randn(4, 8))
    assert macs(graphs) == (5 if known else 1) * 4 * 8 * 8
    assert any("loop" in note for graph in graphs for note in graph.notes) is not known


class Scan(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 8))

    def forward(self, x):
        from torch._higher_order_ops.scan import scan

        def step(state, row):
            state = torch.tanh(row + state @ self.weight)
            return state, state.clone()

        return scan(step, torch.zeros(4, 8), x, dim=0)[1].sum(0)


def test_a_scan_counts_every_step():
    """6 steps of 4 x 8 x 8, whose results are stacked."""
    graphs = captured(Scan(), torch.randn(6, 4, 8))
    assert macs(graphs) == 6 * 4 * 8 * 8
    stacked = [call for graph in graphs for call in graph.calls if call.op == "aten.stack"]
    assert [call.outputs[0].shape for call in stacked] == [(6, 4, 8)]


class Flex(nn.Module):
    def forward(self, q, k, v):
        return flex_attention(q, k, v, score_mod=lambda score, b, h, i, j: score + (i - j))


def test_flex_attention_counts_its_products():
    """Two products of 2 heads x 16 x 16 x 16."""
    q = torch.randn(1, 2, 16, 16)
    assert macs(captured(Flex(), q, torch.randn_like(q), torch.randn_like(q))) == 2 * 2 * 16 * 16 * 16


class Ensemble(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.randn(5, 8, 4))

    def forward(self, x):
        return torch.vmap(lambda weight: x @ weight)(self.weights)


class Jacobian(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 4))

    def forward(self, x):
        return torch.func.jacrev(lambda row: row @ self.weight)(x)


def test_a_functional_transform_counts_every_sample():
    """Five members of an ensemble, 3 x 8 x 4 each; a Jacobian's 4 rows beside the product itself."""
    assert macs(captured(Ensemble(), torch.randn(3, 8))) == 5 * 3 * 8 * 4
    assert macs(captured(Jacobian(), torch.randn(8))) >= 4 * 8 * 4


class Inside(nn.Module):
    """A layer under a context of the model's own."""

    def __init__(self, device: str, dtype: torch.dtype | None) -> None:
        super().__init__()
        self.layer, self.device, self.dtype = nn.Linear(8, 4), device, dtype

    def forward(self, x):
        with torch.autocast(self.device, dtype=self.dtype):
            return self.layer(x)


@pytest.mark.parametrize(
    ("device", "dtype", "expected"),
    [("cpu", torch.bfloat16, "bfloat16"), ("cuda", torch.float16, "float16"), ("cuda", None, "float16")],
)
def test_autocast_inside_the_model_decides_its_types(device, dtype, expected):
    """The product is of the context's type, also of a device that is not there."""
    graphs = captured(Inside(device, dtype), torch.randn(2, 8))
    (product,) = [call for graph in graphs for call in graph.calls if call.op == "aten.linear"]
    assert product.computes_in == expected
    assert {spec.dtype for spec in (*product.inputs, *product.outputs)} == {expected}


class Elsewhere(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 4)

    def forward(self, x):
        offset = torch.zeros(4, device="cuda") + torch.ones(4).cuda() + torch.ones(4).to("cuda:0")
        return self.layer(x) + offset


@pytest.mark.skipif(torch.cuda.is_available(), reason="the device is there")
def test_a_device_that_is_not_there_stops_no_capture():
    """Tensors for a GPU are made on the CPU."""
    assert macs(captured(Elsewhere(), torch.randn(2, 8))) == 2 * 8 * 4


def test_sparse_tensors_inside_a_model_are_refused():
    """Their products depend on values; the message says so."""

    class Sparse(nn.Module):
        def forward(self, x):
            return torch.sparse.mm(x.to_sparse(), x)

    with pytest.raises(Exception, match="layout sparse_coo"):
        captured(Sparse(), torch.randn(4, 4))
