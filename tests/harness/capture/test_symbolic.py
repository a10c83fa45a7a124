"""One capture for many sizes: what it gives equals a fresh capture, and what it cannot give is captured anew."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from shmoo.harness.capture import CaptureError, CaptureFamily, capture, capture_symbolic, capture_workload
from shmoo.harness.capture.symbolic import leaf_shapes
from shmoo.harness.models.model_graphs import open_model
from shmoo.harness.models.request import ModelRequest, at_batches, at_ends
from shmoo.harness.module import Built, DNNModule, dim
from shmoo.harness.workloads import find_workload


def workload(make_model, shape, **sizes: int) -> DNNModule:
    """A workload of the axes `sizes`; `shape` and `make_model` take them."""
    axes = tuple(dim(name, size, "a size") for name, size in sizes.items())

    def factory(make, **values: int) -> Built:
        return Built(make.module(lambda: make_model(**values)), (make.tensor(*shape(**values)),))

    return DNNModule("sized", "network", axes, factory)


def mlp_of(batch: int) -> nn.Module:
    return mlp()


def mlp(**_: int) -> nn.Module:
    return nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 4))


class Branching(nn.Module):
    """Adds a layer for large batches."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x):
        x = self.first(x)
        return self.second(x) if x.shape[0] > 16 else x


class Told(nn.Module):
    """Is told its batch, and repeats its layer as often."""

    def __init__(self, batch: int) -> None:
        super().__init__()
        self.layer, self.times = nn.Linear(8, 8), batch

    def forward(self, x):
        for _ in range(self.times):
            x = self.layer(x)
        return x


def test_sizes_are_put_into_one_capture() -> None:
    """A graph at another batch equals the graph captured there, to the last attribute."""
    model = mlp()
    symbolic = capture_symbolic(model, (torch.randn(6, 8),), {}, [(0, 0)], name="mlp")
    for batch in (2, 3, 64):
        (fresh,) = capture(model, (torch.randn(batch, 8),), name="mlp").graphs
        assert symbolic.at([(batch, 8)]) == fresh


def test_sizes_where_the_model_would_do_something_else_are_refused() -> None:
    """The guard of the branch taken is held against the sizes."""
    symbolic = capture_symbolic(Branching(), (torch.randn(6, 8),), {}, [(0, 0)])
    assert len(symbolic.at([(16, 8)]).calls) == 1
    with pytest.raises(CaptureError, match="the capture holds"):
        symbolic.at([(17, 8)])
    with pytest.raises(CaptureError, match="dimension 1 of input 0 is 8 in the graph, not 9"):
        symbolic.at([(6, 9)])


def test_a_size_of_one_is_captured_anew() -> None:
    """torch traces sizes of 1 apart, as operators may take shortcuts there; the note says so."""
    family = CaptureFamily(workload(mlp, lambda batch: (batch, 8), batch=4), [{"batch": n} for n in (1, 8, 64)])
    one, eight, many = (family.at({"batch": n}) for n in (1, 8, 64))
    assert one.recaptured
    assert one.note.startswith("captured again: ")
    assert eight.note == many.note == "its sizes put into one capture with symbols in their place"
    assert many.graphs[0].calls[0].inputs[0].shape == (64, 8)


def test_a_single_point_is_captured_plainly() -> None:
    """Without a second point nothing is made symbolic."""
    family = CaptureFamily(workload(mlp, lambda batch: (batch, 8), batch=4), [{"batch": 8}])
    assert family.at({"batch": 8}).note == ""


@pytest.mark.parametrize(
    ("made", "shape", "reason"),
    [
        (lambda batch: nn.Linear(batch, 4), lambda batch: (3, batch), "weights change"),
        (mlp_of, lambda batch: (3, 8), "no size of an input"),
        (Told, lambda batch: (batch, 8), "'times' of module 'Told' changes"),
        (lambda batch: Branching(), lambda batch: (batch, 8), "the capture holds for sizes from 17 up, not 8"),
    ],
)
def test_what_a_substitution_would_miss_is_captured_anew(made, shape, reason: str) -> None:
    """Weights and attributes that follow the axis, inputs that don't, and branches on the size."""
    module = workload(made, shape, batch=8)
    family = CaptureFamily(module, [{"batch": 8}, {"batch": 32}])
    found = [family.at({"batch": n}) for n in (8, 32)]
    assert any(reason in capture.note for capture in found)
    assert [capture.graphs for capture in found] == [capture_workload(module, {"batch": n}).graphs for n in (8, 32)]


def test_a_network_at_several_batches_is_captured_once() -> None:
    """Substituted graphs of a network equal fresh ones; batch 1 among them is fresh."""
    source = open_model(ModelRequest("squeezenet1_0", points=at_batches((1, 4, 6))))
    found = {batch: source.at({"batch": batch}) for batch in (1, 4, 6)}
    assert found[1].recaptured
    for batch in (4, 6):
        assert not found[batch].recaptured
        assert found[batch].batch == batch
        assert found[batch].graphs == capture_workload(find_workload("squeezenet1_0"), {"batch": batch}).graphs


def test_a_sweep_draws_from_one_capture() -> None:
    """With values known beforehand, the source of a sweep substitutes."""
    source = open_model(ModelRequest("squeezenet1_0", points=at_ends({"resolution": (64, 96, 128)})))
    (graph,) = source.at({"resolution": 96}).graphs
    assert (graph,) == capture_workload(find_workload("squeezenet1_0"), {"resolution": 96}).graphs


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "axes"),
    [
        ("mobilenet_v3_large", {"batch": (4, 6), "resolution": (224, 160)}),
        ("efficientnet_b0", {"batch": (4, 7), "resolution": (224, 288)}),
        ("densenet121", {"batch": (4, 9)}),
        ("convnext_tiny", {"batch": (4, 6), "resolution": (224, 160)}),
        ("vit_b_16", {"batch": (4, 9)}),
        ("swin_t", {"batch": (4, 6)}),
        ("regnet_y_400mf", {"batch": (4, 6)}),
        ("shufflenet_v2_x1_0", {"batch": (4, 6), "resolution": (224, 160)}),
        ("fcn_resnet50", {"batch": (4, 6), "resolution": (224, 160)}),
        ("r3d_18", {"batch": (4, 6), "resolution": (112, 80)}),
    ],
)
def test_substituted_networks_equal_fresh_captures(name: str, axes: dict[str, tuple[int, int]]) -> None:
    """At sizes the symbolic capture has not seen, calls, values and wiring are those of a capture there."""
    first, other = ({axis: values[end] for axis, values in axes.items()} for end in (0, 1))
    module = find_workload(name)
    family = CaptureFamily(module, [first, other])
    between = {axis: sum(values) // 2 // 32 * 32 if axis == "resolution" else 5 for axis, values in axes.items()}
    for point in (other, between):
        found = family.at(point)
        assert not found.recaptured, found.note
        assert found.graphs == capture_workload(module, point).graphs


def test_shapes_of_leaves_are_in_order() -> None:
    """Tensors among nested arguments, and nothing for a number."""
    assert leaf_shapes((torch.zeros(2), [torch.zeros(3, 4), 5]), {"x": torch.zeros(1)}) == [(2,), (3, 4), (), (1,)]
