"""Estimated peak memory held against what the allocator recorded."""

import pytest
from torch import nn

from shmoo.harness.module import Built, DNNModule
from shmoo.harness.workloads.loading import find_workload
from tests.evaluation.memory import MOST_OVER, MOST_UNDER, NETWORKS, MemoryCheck, check_memory, markdown


class Block(nn.Module):
    """Convolutions, a norm, pooling and a residual, in modules that hold each other."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(8, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(inplace=True))
        self.pool = nn.MaxPool2d(2)

    def forward(self, x):
        x = self.first(x)
        return self.pool(x + self.second(x))


def test_a_small_network_is_within_the_bounds():
    """Inputs of 8 images of 64x64."""
    module = DNNModule("block", "network", (), lambda make: Built(Block().eval(), (make.tensor(8, 8, 64, 64),)))
    check = check_memory(module)
    assert -MOST_UNDER <= check.error <= MOST_OVER


def test_what_is_outside_is_marked():
    """110 for 100 is 10 % over."""
    check = MemoryCheck("net", 1, 50.0, 100.0, 110.0)
    assert not check.held
    assert "+10.0 % (outside)" in list(markdown([check]))[2]


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_are_within_the_bounds(name, batch):
    """At most 5 % over and 2 % under the allocator's peak."""
    check = check_memory(find_workload(name), batch)
    assert check.held, f"{check.error:+.1%}"
