"""Figures that others measured on machines nobody here has, against intervals that rest on datasheets and transferred shares."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from shmoo.estimators.machine.profile import load_profile
from shmoo.estimators.predict.director import AnalysisDirector
from shmoo.harness.capture import capture, capture_training
from shmoo.harness.models.model_graphs import model_graphs
from tests.evaluation.tpu import product


def test_resnet50_on_tpu_v3_is_inside_its_interval():
    """MLPerf Inference v0.5, closed division, offline: 32,716 images a second on four chips."""
    found = model_graphs("resnet50", batch=64, dtype="bfloat16")
    estimate = AnalysisDirector(load_profile("tpu_v3")).estimate(found.graphs, batch=64)
    assert estimate.throughput_per_s.low <= 32716 / 4 <= estimate.throughput_per_s.high


@pytest.mark.parametrize(("side", "measured_s"), [(4096, 827e-6), (8192, 6.05e-3)])
def test_matrix_products_on_tpu_v5e_are_inside_their_interval(side, measured_s):
    """Square products timed from the host, of the kernel in JAX's guide to matrix multiplication in Pallas on TPUs, 2025; the
    share of peak and the overlap of products on v5e are taken from them."""
    latency = AnalysisDirector(load_profile("tpu_v5e")).estimate(product(side, side, side)).latency_s
    assert latency.low <= measured_s <= latency.high
    assert latency.value == pytest.approx(measured_s, rel=0.1)


class Shape(NamedTuple):
    """A decoder: sequences of a chip and their length, widths, heads of queries, keys' heads, width of a head, hidden width."""

    batch: int
    length: int
    width: int
    heads: int
    key_heads: int
    head: int
    hidden: int
    gated: bool


class Decoder(nn.Module):
    """A layer as MaxText has it: products without bias, fused causal attention, a hidden layer with or without a gate."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        inner, keys = shape.heads * shape.head, shape.key_heads * shape.head
        self.norms = nn.ModuleList(nn.RMSNorm(shape.width) for _ in range(2))
        self.queries, self.keys, self.values = (nn.Linear(shape.width, of, bias=False) for of in (inner, keys, keys))
        self.out = nn.Linear(inner, shape.width, bias=False)
        self.up, self.down = nn.Linear(shape.width, shape.hidden, bias=False), nn.Linear(shape.hidden, shape.width, bias=False)
        self.gate = nn.Linear(shape.width, shape.hidden, bias=False) if shape.gated else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.norms[0](x)
        query, key, value = (
            part.unflatten(-1, (-1, self.shape.head)).transpose(1, 2) for part in (self.queries(y), self.keys(y), self.values(y))
        )
        attended = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, 0.0, True)[0]
        x = x + self.out(attended.transpose(1, 2).flatten(-2))
        y = self.norms[1](x)
        hidden = torch.relu(self.up(y)) if self.gate is None else nn.functional.silu(self.gate(y)) * self.up(y)
        return x + self.down(hidden)


LAYERS = 2
"""Layers that are estimated: all of a model's are alike."""
TRAINED = {
    "22B": ("tpu_v4", Shape(13, 2048, 6144, 24, 24, 256, 24576, False), 0.567),
    "52B": ("tpu_v4", Shape(7, 2048, 12288, 32, 32, 256, 49152, False), 0.560),
    "Llama 2 70B": ("tpu_v6e", Shape(3, 4096, 8192, 64, 8, 128, 28672, True), 0.438),
}
"""Share of the chip's peak that MaxText published, without what is computed twice: 156 and 154 Tflop/s on 64 and 192 chips
(MaxText, configs/v4, 2023; each chip works on sequences of its own), 402 on 256 (AI-Hypercomputer tpu-recipes, 2025)."""


@pytest.mark.parametrize("name", TRAINED)
def test_training_of_decoders_on_tpus_is_inside_its_interval(name):
    """Forward, forward again because activations are not kept, and backward; exchange between chips and the optimizer, which hide
    behind them or take little, are not estimated. Scores that a mask leaves out count, as MaxText counted them."""
    chip, shape, published = TRAINED[name]
    with torch.device("meta"):
        layers = nn.Sequential(*(Decoder(shape) for _ in range(LAYERS))).to(torch.bfloat16)
        x = torch.empty(shape.batch, shape.length, shape.width, dtype=torch.bfloat16)
    director = AnalysisDirector(load_profile(chip))
    step, again = (director.estimate(take(layers, (x,)).graphs).latency_s for take in (capture_training, capture))
    tokens = shape.batch * shape.length
    weights = sum(p.numel() for p in layers.parameters() if p.dim() == 2)
    scores = LAYERS * shape.heads * shape.head * shape.length
    best = (6 * weights + 12 * scores) * tokens / director.profile.value("peak.matrix.bfloat16")
    low, value, high = best / (step.high + again.high), best / (step.value + again.value), best / (step.low + again.low)
    assert low <= published <= high
    assert value == pytest.approx(published, rel=0.25)
