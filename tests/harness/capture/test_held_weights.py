"""A model's weights are counted whole, however it was captured, and its inputs are inputs, whatever object they come in."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from shmoo.estimators.costs import graph_cost
from shmoo.estimators.graph.records import weights_of
from shmoo.estimators.memory.peak import peak_memory_bytes
from shmoo.harness.capture.fx.introspect import tensors_in
from shmoo.harness.capture.training import capture_training
from shmoo.harness.capture.workload import capture_workload
from shmoo.harness.models.model_graphs import WorkloadGraphs
from shmoo.harness.models.request import Mode
from shmoo.harness.module import Built, DNNModule, dim

BATCH = dim("batch", 4, "samples")


class Spare(nn.Module):
    """A layer that is called, one that is not, and statistics that nothing reads."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.spare = nn.Linear(8, 8), nn.Linear(32, 32)
        self.register_buffer("statistics", torch.zeros(16))
        self.tied = self.spare.weight

    def forward(self, x):
        return self.used(x)


class Selecting(Spare):
    def forward(self, x):
        return self.used(x[x.sum(-1) > 0])


HELD = 4 * (8 * 8 + 8 + 32 * 32 + 32 + 16)


def workload(kind: type[nn.Module]) -> DNNModule:
    def factory(make, *, batch: int) -> Built:
        with make.building():
            model = kind()
        return Built(model, (torch.randn(batch, 8, device=make.device),))

    return DNNModule("spare", "network", (BATCH,), factory)


@pytest.mark.parametrize("kind", [Spare, Selecting])
@pytest.mark.parametrize(
    ("batches", "mode"),
    [((4,), None), ((4, 8), None), ((4,), Mode(autocast="bfloat16")), ((4,), Mode(training=True))],
    ids=["one", "several", "autocast", "training"],
)
def test_every_way_of_capture_finds_the_same_weights(kind, batches, mode):
    """1,136 numbers of 4 bytes, a tied one once; memory holds them too."""
    points = [{"batch": batch} for batch in batches]
    source = WorkloadGraphs(workload(kind), points, mode=mode)
    for point in points:
        graphs = source.at(point).graphs
        assert sum(value.spec.nbytes for value in weights_of(graphs)) == HELD
        assert sum(value.spec.numel for value in weights_of(graphs) if value.kind == "parameter") == HELD // 4 - 16
        assert peak_memory_bytes(graphs) > HELD


def test_weights_that_no_call_reads_change_type_with_the_others():
    """In float8 the model takes a quarter of its float32 bytes."""
    graphs = WorkloadGraphs(workload(Spare), [{}], "float8").at({}).graphs
    assert sum(value.spec.nbytes for value in weights_of(graphs)) == HELD / 4


@dataclass
class Pair:
    x: torch.Tensor
    scale: int


@dataclass(frozen=True, slots=True)
class Slotted:
    x: torch.Tensor
    scale: int = 2


class TakesObject(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 4)

    def forward(self, pair):
        hidden = self.layer(pair.x * pair.scale)
        return Pair(hidden, 1)


@pytest.mark.parametrize("kind", [Pair, Slotted])
def test_tensors_inside_an_object_are_inputs(kind):
    """The weight and the bias are the only weights; the result leaves inside an object, too."""

    def factory(make) -> Built:
        return Built(TakesObject().to(make.device), (kind(torch.randn(2, 8, device=make.device), 2),))

    (graph,) = capture_workload(DNNModule("object", "network", (), factory)).graphs
    assert graph.weight_bytes == 4 * (8 * 4 + 4)
    assert [value.spec.shape for value in graph.values if value.kind == "input"] == [(2, 8)]
    assert graph_cost(graph).macs == 2 * 8 * 4
    assert len(graph.outputs) == 1


def test_a_step_of_training_takes_objects():
    """Gradients flow from a result inside a dataclass."""
    (graph,) = capture_training(TakesObject(), (Pair(torch.randn(2, 8), 2),)).graphs
    assert graph.params == 8 * 4 + 4
    assert graph_cost(graph).macs == 2 * (2 * 8 * 4)


def test_an_objects_tensors_are_found_once_each():
    x = torch.zeros(2)
    assert len(tensors_in([Pair(x, 1), {"again": x}, Slotted(torch.ones(3))])) == 2


def test_frozen_layers_have_no_gradients():
    """Of two products 8 x 16 x 16 the first is frozen: forward twice, and the gradient of the second weight alone."""
    model = nn.Sequential(nn.Linear(16, 16, bias=False), nn.Linear(16, 16, bias=False))
    model[0].weight.requires_grad_(False)
    (graph,) = capture_training(model, (torch.randn(8, 16),)).graphs
    assert graph_cost(graph).macs == 3 * 8 * 16 * 16
    assert [p.requires_grad for p in model.parameters()] == [False, True]


def test_a_model_made_for_inference_trains_whole():
    """Nothing asks for gradients, so everything gets them: 2 + 3 products."""
    model = nn.Sequential(nn.Linear(16, 16, bias=False), nn.Linear(16, 16, bias=False)).requires_grad_(False)
    (graph,) = capture_training(model, (torch.randn(8, 16),)).graphs
    assert graph_cost(graph).macs == 5 * 8 * 16 * 16


def test_a_model_may_keep_a_frozen_norm_in_evaluation():
    """Its `train` leaves the norm alone, and so does the capture."""

    class Frozen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

        def train(self, mode: bool = True):
            super().train(mode)
            self.norm.eval()
            return self

        def forward(self, x):
            return self.norm(self.conv(x))

    (graph,) = capture_training(Frozen(), (torch.randn(2, 3, 4, 4),)).graphs
    norms = [call for call in graph.calls if "batch_norm" in call.op and "backward" not in call.op]
    assert norms
    assert all("no_training" in call.op or call.attributes.get("training") is False for call in norms)
