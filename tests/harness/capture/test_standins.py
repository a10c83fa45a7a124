"""Stand-ins for data: sizes that depend on data are taken at the models' own limits, the same every time."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from shmoo.harness.capture.fx.introspect import CaptureError
from shmoo.harness.capture.traced import FakeCall, capture_traced


def shapes(function, *args: torch.Tensor) -> list[tuple[int, ...]]:
    """Shapes of what a function returns, run with stand-ins."""
    call = FakeCall(function, args)
    return [tuple(result.shape) for result in call(*call.values)]


def x(*shape: int) -> torch.Tensor:
    return torch.empty(*shape, device="meta")


def test_what_passes_a_threshold_is_everything() -> None:
    """Scores above 0.5 of 7 are 7, however the selection is written, and whatever is done to them on the way."""
    selections = (
        lambda s: s[s > 0.5],
        lambda s: torch.where(s.sigmoid() > 0.5)[0],
        lambda s: s[torch.nonzero(s >= 2).squeeze(1)],
        lambda s: s[(s > 0.5) & (s.exp() < 3)],
    )
    assert [shapes(select, x(7)) for select in selections] == [[(7,)]] * 4


def test_what_follows_from_shapes_is_computed() -> None:
    """Of the numbers 0 to 9, 5 are even, and the third of them is 4."""

    def even(_: torch.Tensor) -> torch.Tensor:
        numbers = torch.arange(10)
        found = numbers[numbers % 2 == 0]
        return torch.zeros(len(found), int(found[2]))

    assert shapes(even, x(1)) == [(5, 4)]


def test_constants_that_a_model_holds_are_known() -> None:
    """A list of sizes that was no buffer decides a shape; what was computed from it in place does, too."""

    class Sized(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.sizes = torch.tensor([3, 4])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            sizes = self.sizes.clone()
            sizes[0] += 2
            return x.new_zeros(sizes.tolist())

    assert shapes(Sized(), x(1)) == [(5, 4)]


def test_routers_send_every_expert_its_share() -> None:
    """16 tokens choose 2 of 8 experts each: every expert gets 16 * 2 / 8 = 4; with one choice, 2."""

    def loads(logits: torch.Tensor, k: int) -> list[torch.Tensor]:
        chosen = logits.softmax(-1).topk(k).indices
        return [logits[torch.where((chosen == expert).any(-1))[0]] for expert in range(8)]

    assert shapes(lambda logits: loads(logits, 2), x(16, 8)) == [(4, 8)] * 8
    assert shapes(lambda logits: [logits[logits.argmax(-1) == expert] for expert in range(8)], x(16, 8)) == [(2, 8)] * 8


def test_the_best_of_many_are_spread_over_them() -> None:
    """The best 4 of 100 stand at 0, 25, 50, 75, so that what they belong to is represented."""
    assert shapes(lambda s: torch.zeros(s.topk(4).indices.tolist()), x(100)) == [(0, 25, 50, 75)]


def test_suppression_keeps_every_box() -> None:
    """Nothing overlaps: 9 boxes stay 9, and the first 5 of them 5."""
    from shmoo.harness.workloads.zoo import import_torchvision

    nms = import_torchvision().ops.nms
    assert shapes(lambda boxes, scores: boxes[nms(boxes, scores, 0.5)[:5]], x(9, 4), x(9)) == [(5, 4)]


def test_a_number_that_only_data_would_give_is_refused() -> None:
    """A size read from activations has no value; a condition on them is what zeros make of it."""
    with pytest.raises(CaptureError, match="'sized' cannot be captured without data: a number is read"):
        capture_traced(lambda a: a.new_zeros(int(a.sum())), (x(3),), name="sized")
    assert shapes(lambda a: a.new_zeros(2) if torch.isnan(a).any() else a, x(3)) == [(3,)]
    with pytest.raises(CaptureError, match="does not run on fake tensors"):
        capture_traced(lambda a: a @ a, (x(2, 3),), name="mismatched")


def test_what_was_assumed_is_said() -> None:
    """The graph's notes name the rules that a size rested on; without any there are none."""

    def route(s: torch.Tensor) -> torch.Tensor:
        kept = s[s > 0]
        return kept[torch.where(kept.view(-1, 1).expand(-1, 4).argmax(-1) == 0)[0]]

    (graph,) = capture_traced(route, (x(8),)).graphs
    assert graph.notes == (
        "1 selections by a threshold keep every candidate",
        "1 sizes follow from choices by data (top-k, arg max) that are spread evenly",
    )
    (plain,) = capture_traced(torch.relu, (x(8),)).graphs
    assert plain.notes == ()


def test_the_same_model_gives_the_same_graph() -> None:
    """Nothing that stands in for data is random."""
    graphs = [capture_traced(lambda s: s[torch.rand(9) > 0.5].topk(3).values, (x(9),)).graphs[0] for _ in range(2)]
    assert graphs[0] == graphs[1]
