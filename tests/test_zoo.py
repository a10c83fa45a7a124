"""torchvision's networks: every one builds, and captures agree with published and independently counted figures."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from shmoo.estimators.costs import graph_cost
from shmoo.estimators.errors import InputError
from shmoo.harness.capture import capture_workload
from shmoo.harness.workloads import NETWORKS, find_workload
from shmoo.harness.workloads.zoo import published_gmacs, zoo_names


def macs(name: str) -> float:
    return sum(graph_cost(graph).macs for graph in capture_workload(find_workload(name)).graphs)


def test_networks_declare_their_own_input() -> None:
    """Each network's default resolution is that of its first published weights."""
    declared = {"resnet18": 224, "inception_v3": 299, "efficientnet_b7": 600, "vit_h_14": 518, "fcn_resnet50": 520, "r3d_18": 112}
    assert {name: find_workload(name).resolve()["resolution"] for name in declared} == declared
    assert find_workload("r3d_18").resolve()["frames"] == 16


def test_the_networks_to_be_tested_on_are_there() -> None:
    """The suite's networks, and well over sixty others, but none that needs compiled operators."""
    assert set(NETWORKS) <= set(zoo_names())
    assert len(zoo_names()) > 80
    with pytest.raises(InputError, match="did you mean"):
        find_workload("fasterrcnn_resnet50_fpn")


@pytest.mark.parametrize(
    "name", ["resnet18", "resnet50", "vgg11", "mobilenet_v2", "efficientnet_b0", "convnext_tiny", "vit_b_16"]
)
def test_multiply_adds_are_the_published_ones(name: str) -> None:
    """Within 1 % of what torchvision publishes."""
    assert macs(name) / 1e9 == pytest.approx(published_gmacs(name), rel=0.01)


def test_weights_are_counted_once() -> None:
    """ResNet-18 has 11,689,512 parameters, all of which its graph reads, and 20 batch normalisations with statistics."""
    (graph,) = capture_workload(find_workload("resnet18")).graphs
    assert graph.params == 11_689_512
    assert sum(value.kind == "buffer" for value in graph.values) == 2 * 20
    assert graph.calls[0].module == "conv1"
    assert graph.calls[0].source.startswith("torchvision/models/resnet.py:")
    assert not graph_cost(graph).unknown


def test_batch_and_resolution_are_axes() -> None:
    """Twice the batch is twice the work; a vision transformer is built for the resolution asked for."""
    graphs = capture_workload(find_workload("resnet18"), {"batch": 2, "resolution": 64}).graphs
    assert graphs[0].calls[0].inputs[0].shape == (2, 3, 64, 64)
    (graph,) = capture_workload(find_workload("vit_b_32"), {"resolution": 64}).graphs
    assert any(value.spec.shape == (1, 2 * 2 + 1, 768) for value in graph.values if value.kind == "parameter")


@pytest.mark.slow
@pytest.mark.parametrize("name", [*NETWORKS, "swin_t"])
def test_matrix_flops_equal_those_of_torch(name: str) -> None:
    """The sum over the captured graph is what torch's counter sees in the model run eagerly with real weights.

    torch's counter knows neither the fused attention layer of eager evaluation nor the CPU's attention kernel, so their parts
    are run instead.
    """
    built = find_workload(name).build()
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            built()
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    assert 2 * macs(name) == counter.get_total_flops()


@pytest.mark.slow
@pytest.mark.parametrize("name", zoo_names())
def test_every_network_runs_on_its_declared_input(name: str) -> None:
    """Builds on the meta device, takes its declared input, downloads nothing."""
    result = find_workload(name).build(device="meta")()
    assert result is not None
