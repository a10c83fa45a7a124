"""Quantized linear layers: bytes and units by closed form, as a rewriting of a graph and as torchao captures it."""

from __future__ import annotations

import json

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from shmoo.estimators.costs import costs_of, graph_cost
from shmoo.estimators.costs.quantize import quantized, saved_bytes, with_dtype
from shmoo.estimators.errors import InputError
from shmoo.estimators.graph.records import Graph
from shmoo.estimators.table import DTYPE_CODE
from shmoo.harness.capture import capture
from shmoo.harness.models.model_graphs import model_graphs
from shmoo.harness.models.request import Mode

M, K, N = 6, 256, 40


def layer(bias: bool = True, dtype: torch.dtype = torch.bfloat16) -> tuple[Graph, ...]:
    return capture(nn.Linear(K, N, bias=bias, dtype=dtype), (torch.randn(2, 3, K, dtype=dtype),)).graphs


def by_dtype(graphs: tuple[Graph, ...]) -> dict[str, float]:
    return {d.dtype: d.matrix_flops for d in graph_cost(graphs[0]).dtypes if d.matrix_flops}


@pytest.mark.parametrize(
    ("scheme", "width", "scales"),
    [
        ("int8-weight", 1, N * 2),
        ("int8-dynamic", 1, N * 2),
        ("float8-dynamic", 1, 2 * 4),
        ("int4-weight", 0.5, 2 * N * 2 * 2),
        ("float4-dynamic", 0.5, N * K / 16),
    ],
)
def test_weights_take_their_small_size(scheme: str, width: float, scales: float) -> None:
    """A byte or half of one an element; int8 has a scale a column, int4 a scale and a zero point for each 128 of a row,
    float8 a float32 scale for each block of 128 by 128, float4 a float8 scale for each 16 of a row."""
    (graph,) = quantized(layer(bias=False), scheme)
    assert graph.weight_bytes == N * K * width + scales
    read = sum(
        nbytes
        for call, cost in zip(graph.calls, costs_of(graph), strict=True)
        if cost is not None
        for value, nbytes in zip(call.reads, cost.read_bytes, strict=True)
        if graph.values[graph.root(value)].is_weight
    )
    assert read == graph.weight_bytes


def test_products_compute_in_the_type_of_their_scheme() -> None:
    """Weight-only products in the activations' type, dynamic ones in int8; the multiply-adds are those of before."""
    flops = 2.0 * M * N * K
    assert by_dtype(quantized(layer(), "int8-weight")) == {"bfloat16": flops}
    assert by_dtype(quantized(layer(), "int4-weight")) == {"bfloat16": flops}
    assert by_dtype(quantized(layer(), "int8-dynamic")) == {"int8": flops}
    assert by_dtype(quantized(layer(), "float8-dynamic")) == {"float8": flops}
    assert by_dtype(quantized(layer(), "float4-dynamic")) == {"float4": flops}
    assert by_dtype(layer()) == {"bfloat16": flops}


def test_a_dynamic_layer_rounds_its_activation_and_scales_its_result() -> None:
    """Scales of 6 rows, 6 x 256 roundings, then a product by row and by column and the bias for each of 6 x 40 results."""
    (graph,) = quantized(layer(), "int8-dynamic")
    assert [call.op for call in graph.calls] == [
        "torchao.choose_qparams_affine",
        "torchao.quantize_affine",
        "aten._int_mm",
        "aten.mul",
        "aten.mul",
        "aten.add",
    ]
    assert graph.calls[2].outputs[0].shape == (M, N)
    assert graph.calls[2].outputs[0].dtype == "int32"
    assert graph.calls[-1].outputs[0].shape == (2, 3, N)
    assert graph.outputs == graph.calls[-1].writes


@pytest.mark.parametrize(
    ("scheme", "op", "types", "groups"),
    [
        ("float8-dynamic", "quantize_affine", ("float8", "float32"), 2),
        ("float4-dynamic", "triton_quantize_nvfp4", ("float4", "float8"), 16),
    ],
)
def test_groups_are_scaled_and_rounded_in_one_kernel(scheme: str, op: str, types: tuple[str, str], groups: int) -> None:
    """A scale beside each 128 or 16 of the 6 rows of 256."""
    (graph,) = quantized(layer(bias=False), scheme)
    assert [call.op for call in graph.calls] == [f"torchao.{op}", "aten._scaled_mm"]
    assert tuple(spec.dtype for spec in graph.calls[0].outputs) == types
    assert [spec.shape for spec in graph.calls[0].outputs] == [(M, K), (M, groups)]


def test_an_activation_of_several_layers_is_rounded_once() -> None:
    """Queries, keys and values of one input."""

    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k = nn.Linear(K, N), nn.Linear(K, N)

        def forward(self, x):
            return self.q(x) + self.k(x)

    (graph,) = quantized(capture(Heads(), (torch.randn(M, K),)).graphs, "int8-dynamic")
    assert sum(call.op == "torchao.quantize_affine" for call in graph.calls) == 1
    assert sum(call.op == "aten._int_mm" for call in graph.calls) == 2


def test_a_weight_that_an_embedding_reads_too_is_kept() -> None:
    """A tied embedding stays in its type beside its quantized copy; convolutions are left alone."""

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(N, K), nn.Linear(K, N, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, tokens):
            return self.head(self.embed(tokens))

    (before,) = capture(Tied(), (torch.zeros(M, dtype=torch.int64),)).graphs
    (after,) = quantized((before,), "int8-weight")
    assert before.weight_bytes == N * K * 4
    assert after.weight_bytes == N * K * (4 + 1) + N * 4
    with pytest.raises(InputError, match="nothing to quantize"):
        quantized(capture(nn.Conv2d(3, 4, 3), (torch.randn(1, 3, 8, 8),)).graphs, "int8-weight")


def test_a_layer_without_elements_stays_as_it_is() -> None:
    """A width of 0, as in a model cut to nothing, in the memory that each scheme would save, too."""
    model = nn.Sequential(nn.Linear(K, N), nn.Linear(N, 0, bias=False), nn.Linear(0, N, bias=False))
    graphs = capture(model, (torch.randn(M, K),)).graphs
    assert saved_bytes(graphs)["int8-weight"] == N * K * (4 - 1) - N * 4
    assert [value.spec.dtype for value in quantized(graphs, "int8-weight")[0].values if value.spec.numel == 0] == ["float32"] * 3


def test_int8_as_an_element_type_makes_everything_int8() -> None:
    """Weights and activations alike, as an accelerator for int8 alone holds them."""
    (graph,) = (with_dtype(graph, "int8") for graph in layer())
    assert {value.spec.dtype for value in graph.values} == {"int8"}
    assert DTYPE_CODE["int8"] != DTYPE_CODE["float32"]


def test_a_scheme_that_is_not_known_or_does_not_fit_is_refused() -> None:
    """The nearest is named; activations must have a floating type."""
    with pytest.raises(InputError, match="'int8-weight'"):
        model_graphs("linear", mode=Mode(quantize="int8-weights"))
    with pytest.raises(InputError, match="activations"):
        model_graphs("linear", dtype="int8", mode=Mode(quantize="int8-weight"))


def test_estimate_takes_a_scheme() -> None:
    """The model's weights shrink; its multiply-adds do not."""
    records = []
    for scheme in ((), ("--quantize", "int4-weight")):
        result = CliRunner().invoke(_cli(), ["estimate", "vit_b_16", "--dtype", "bf16", "--arch", "gpu_l4", "--json", *scheme])
        assert result.exit_code == 0, result.output
        records += json.loads(result.stdout)
    plain, small = records
    assert small["weight_bytes"] < 0.4 * plain["weight_bytes"]
    assert small["macs"] == plain["macs"]


class TestTorchao:
    """Models that torchao quantized are captured as they are."""

    @pytest.fixture(autouse=True)
    def _torchao(self) -> None:
        pytest.importorskip("torchao", reason="needs the extra 'quant'")

    @pytest.mark.parametrize("scheme", ["int8-weight", "int8-dynamic"])
    def test_a_quantized_layer_costs_what_its_rewriting_costs(self, scheme: str) -> None:
        """Same multiply-adds in the same type, and weights of the same size."""
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig, Int8WeightOnlyConfig, quantize_

        config = {"int8-weight": Int8WeightOnlyConfig, "int8-dynamic": Int8DynamicActivationInt8WeightConfig}[scheme]
        model = nn.Sequential(nn.Linear(K, N, dtype=torch.bfloat16))
        x = torch.randn(32, K, dtype=torch.bfloat16)
        graphs = capture(model, (x,)).graphs
        quantize_(model, config())
        found = capture(model, (x,)).graphs
        assert not graph_cost(found[0]).unknown
        assert by_dtype(found) == by_dtype(quantized(graphs, scheme))
        assert sum(v.spec.nbytes for v in found[0].values if v.is_weight and v.spec.dtype == "int8") == N * K

    def test_four_bits_that_torchao_unpacks_are_counted_as_it_holds_them(self) -> None:
        """Its format for any machine keeps 4-bit weights in bytes and converts them before a product in the activations' type."""
        from torchao.quantization import IntxWeightOnlyConfig, quantize_
        from torchao.quantization.granularity import PerGroup

        model = nn.Sequential(nn.Linear(K, N, dtype=torch.bfloat16))
        quantize_(model, IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=PerGroup(128)))
        found = capture(model, (torch.randn(32, K, dtype=torch.bfloat16),)).graphs
        assert [call.op for call in found[0].calls] == ["torchao.dequantize_affine", "aten.linear"]
        assert by_dtype(found) == {"bfloat16": 2.0 * 32 * N * K}
        assert not graph_cost(found[0]).unknown


def _cli():
    from shmoo.harness.cli.app import cli

    return cli
