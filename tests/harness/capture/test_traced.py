"""Capture on fake tensors: the model's own operators with their places, weights by name, and nothing in memory."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from shmoo.estimators.memory.peak import peak_memory_bytes
from shmoo.harness.capture import CaptureError, capture, capture_workload
from shmoo.harness.capture.traced import capture_traced
from shmoo.harness.module import Built, DNNModule, Maker, dim, weights_on_meta
from shmoo.harness.workloads import find_workload


class Tied(nn.Module):
    """An embedding whose table is also the output layer's weight."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(50, 8)
        self.norm = nn.BatchNorm1d(8)
        self.out = nn.Linear(8, 50, bias=False)
        self.out.weight = self.table.weight

    def forward(self, tokens: torch.Tensor) -> dict[str, object]:
        kept = self.norm(self.table(tokens))
        return {"logits": self.out(kept), "cache": Cache(kept)}


class Cache:
    """An object that torch does not know to hold tensors."""

    def __init__(self, kept: torch.Tensor) -> None:
        self.layers = [kept]


def test_whole_operators_with_their_places() -> None:
    """A linear layer stays one call, with its module's path and the line of the model's code."""
    (graph,) = capture_traced(Tied().eval(), (torch.zeros(3, dtype=torch.int64),), name="tied").graphs
    assert [call.op for call in graph.calls] == ["aten.embedding", "aten.batch_norm", "aten.linear"]
    assert [call.module for call in graph.calls] == ["table", "norm", "out"]
    assert all(call.source.rpartition("/")[2].startswith("test_traced.py:") for call in graph.calls)


def test_weights_are_named_and_a_shared_one_counts_once() -> None:
    """50 * 8 of the table and 2 * 8 of the norm are parameters, its statistics buffers."""
    (graph,) = capture_traced(Tied().eval(), (torch.zeros(3, dtype=torch.int64),)).graphs
    assert graph.params == 50 * 8 + 2 * 8
    kinds = {value.name: value.kind for value in graph.values if value.name}
    assert kinds == {
        "table.weight": "parameter",
        "norm.weight": "parameter",
        "norm.bias": "parameter",
        "norm.running_mean": "buffer",
        "norm.running_var": "buffer",
        "0": "input",
    }


def test_what_an_object_holds_is_returned() -> None:
    """A cache in an object of the model's own stays in memory beside the logits."""
    (graph,) = capture_traced(Tied().eval(), (torch.zeros(3, dtype=torch.int64),)).graphs
    assert {graph.values[i].spec.shape for i in graph.outputs} == {(3, 50), (3, 8)}


def test_the_graph_is_that_of_the_other_ways() -> None:
    """Operators, shapes and peak memory of a block are those that torch.compile's graph has."""
    built = find_workload("transformer_block").build(device="meta")
    (traced,) = capture_traced(built.model, built.args, built.kwargs).graphs
    (compiled,) = capture(built.model, built.args, built.kwargs).graphs
    assert [(call.op, call.outputs) for call in traced.calls] == [(call.op, call.outputs) for call in compiled.calls]
    assert traced.params == compiled.params
    assert peak_memory_bytes(traced) == peak_memory_bytes(compiled)


@pytest.mark.parametrize("sizes", [(4, 8), (64, 64)])
def test_a_recurrent_layer_that_starts_from_known_zeros_is_one_call(sizes: tuple[int, int]) -> None:
    """Its fake operator returns a workspace that the real one leaves out at inference."""
    model = torch.nn.LSTM(*sizes).eval()
    (graph,) = capture_traced(model, (torch.zeros(5, 1, sizes[0]),)).graphs
    assert [call.op for call in graph.calls] == ["aten.zeros", "aten.zeros", "aten.lstm"]


def test_parameters_take_no_memory_while_everything_else_is_real() -> None:
    """A builder may compute with tensors; a weight shared before it was registered stays shared."""
    with weights_on_meta():
        rates = [rate.item() for rate in torch.linspace(0, 1, 3)]
        shared = nn.Parameter(torch.empty(1 << 20, 1 << 10))
        a, b = nn.Linear(2, 2), nn.Linear(2, 2)
        a.weight = b.weight = shared
    assert rates == [0.0, 0.5, 1.0]
    assert a.weight.is_meta
    assert a.weight is b.weight
    assert not nn.Linear(2, 2).weight.is_meta


def test_a_model_that_looks_at_its_values_needs_no_weights_in_memory() -> None:
    """Where torch.compile and torch.export refuse, a workload is captured with stand-ins."""
    from shmoo.harness.capture import capture_workload

    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(1 << 20, 1 << 16)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x[x[:, 0] > 0])

    def build(make: Maker, *, batch: int) -> Built:
        return Built(make.module(Branching), (make.tensor(batch, 1 << 20),))

    found = capture_workload(DNNModule("branching", "network", (dim("batch", 4, "rows"),), build))
    assert found.graphs[0].calls[-1].outputs[0].shape == (4, 1 << 16)
    assert found.graphs[0].notes


def test_a_loop_that_only_data_would_end_is_refused() -> None:
    """What is compared with a threshold passes, always: without a limit the loop would never end."""

    class Doubling(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            while x.sum() < 100:
                x = x * 2
            return x

    with pytest.raises(CaptureError, match="a loop does not end"):
        capture_traced(Doubling(), (torch.ones(3),))
    module = DNNModule("doubling", "network", (), lambda make: Built(Doubling(), (make.positive(3),)))
    assert any(call.op == "aten.mul" for graph in capture_workload(module).graphs for call in graph.calls)
