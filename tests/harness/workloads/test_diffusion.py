"""Denoisers of diffusion models: published sizes, and what they compute."""

from __future__ import annotations

import pytest

from shmoo.estimators.costs import graph_cost
from shmoo.harness.capture import capture_workload
from shmoo.harness.workloads import find_workload
from shmoo.harness.workloads.zoo import DIFFUSION

PUBLISHED_GMACS = {"dit_s_2": 6.06, "dit_b_4": 5.56, "dit_l_8": 5.01, "dit_xl_2": 118.64}
"""Of 256 x 256 images (Peebles and Xie 2023, table 4, whose "Gflops" are multiply-adds)."""


@pytest.mark.parametrize("name", PUBLISHED_GMACS)
def test_transformers_compute_what_is_published(name: str) -> None:
    """Multiply-adds within 1 %."""
    costs = [graph_cost(graph) for graph in capture_workload(find_workload(name)).graphs]
    assert sum(cost.macs for cost in costs) / 1e9 == pytest.approx(PUBLISHED_GMACS[name], rel=0.01)
    assert not [op for cost in costs for op in cost.unknown]


def test_the_u_net_has_860_million_parameters() -> None:
    """859,520,964, as in the published model; it gives noise for every latent."""
    built = find_workload("latent_diffusion_unet").build({"batch": 2, "size": 16}, device="meta")
    assert sum(parameter.numel() for parameter in built.model.parameters()) == 859_520_964
    assert built().shape == (2, 4, 16, 16)


def test_a_transformer_gives_noise_and_its_variance() -> None:
    """Four channels of latents in, eight out, at the size asked for."""
    assert find_workload("dit_s_4").build({"batch": 3, "size": 16}, device="meta")().shape == (3, 8, 16, 16)
    assert len(DIFFUSION) == 4 * 3 + 1
