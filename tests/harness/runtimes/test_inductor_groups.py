"""Inductor's own kernels, traced back to captured calls."""

import pytest
import torch
from torch import nn

from shmoo.estimators.errors import InputError
from shmoo.harness.runtimes.inductor_groups import inductor_groups

IMAGE = torch.zeros(1, 4, 8, 8)


def kernels(model, *args, freezing: bool = False) -> list[list[str]]:
    """Operators of every kernel."""
    (found,), _ = inductor_groups(model, args, freezing=freezing)
    return [[found.graph.calls[i].op.removeprefix("aten.") for i in group] for group in found.groups]


def conv_bn_relu() -> nn.Module:
    return nn.Sequential(nn.Conv2d(4, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU()).eval()


def test_a_loop_holds_the_norm_and_the_activation():
    """conv | bn+relu: weights are not constant."""
    assert kernels(conv_bn_relu(), IMAGE) == [["conv2d"], ["batch_norm", "relu"]]


def test_a_frozen_library_call_holds_what_was_folded_into_it():
    """conv+bn+relu: the norm left no trace of its own."""
    assert ["conv2d", "batch_norm", "relu"] in kernels(conv_bn_relu(), IMAGE, freezing=True)


def test_a_frozen_sum_is_in_the_call_that_adds_it():
    """conv(x) + y in one library call, as its binary post-operation, with the relu after it."""

    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(4, 8, 1), nn.Conv2d(4, 8, 3, padding=1)

        def forward(self, x):
            return torch.relu(self.first(x) + self.second(x))

    found = kernels(Residual().eval(), IMAGE, freezing=True)
    assert sorted(map(len, found)) == [1, 3]


def test_layout_copies_count_as_no_kernel():
    """The convolution's operands are brought into channels-last order by loops that compute no operator."""
    (found,), _ = inductor_groups(conv_bn_relu(), (IMAGE,))
    assert found.copies == 2
    assert len(found.groups) == 2


def test_an_operator_inlined_into_two_kernels_is_in_both():
    """A cheap sum whose readers loop over different shapes is computed twice."""

    def twice(x, y):
        z = x + y
        return z.sum(0), torch.relu(z[:4])

    (found,), _ = inductor_groups(twice, (torch.zeros(16, 32), torch.zeros(16, 32)))
    assert [[found.graph.calls[i].op for i in group] for group in found.groups] == [
        ["aten.add", "aten.sum"],
        ["aten.add", "aten.relu"],
    ]


def test_what_cannot_be_compiled_is_refused():
    """The error names the model and what was said."""

    def broken(x):
        raise RuntimeError("no such thing")

    with pytest.raises(InputError, match=r"Inductor cannot schedule 'broken'.*no such thing"):
        inductor_groups(broken, (IMAGE,), name="broken")
