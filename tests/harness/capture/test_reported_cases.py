"""Small models after public reports: what comes out is what was worked out by hand beside each, or a refusal that says why.

The kinds they stand for are tested in `test_kinds` with models of our own; these run where the reports' own lie beside the
repository.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest
import torch

from shmoo.estimators.costs import graph_cost
from shmoo.estimators.errors import InputError
from shmoo.estimators.graph.records import notes_of, weights_of
from shmoo.harness.capture import capture
from shmoo.harness.models.model_graphs import model_graphs, open_model
from shmoo.harness.models.request import Mode, ModelRequest, at_batches
from shmoo.harness.workloads.zoo import import_torchvision
from tests.harness.capture.kinds import Calls

CASES = Path(__file__).parents[3].parent / "shared" / "cases"
pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason="needs the reported cases beside the repository")
HELD = 4 * (64 * 64 + 64 + 4096 * 4096 + 4096)
TWO_LAYERS = 8 * (32 * 64 + 64 * 10)
TRANSFORM = 2.5 * 1024 * 10 * 16


class Known(NamedTuple):
    """What must come out; `None` for what is not fixed."""

    macs: float | None = None
    flops: float | None = None
    weight_bytes: float | None = None


COUNTED = {
    "01_complex_matmul:build": Known(16384, 32768),
    "02_complex_weights:build": Known(16384, 32768, 2048),
    "03_fno_layer:build": Known(36864, 73728 + 2 * TRANSFORM, 36864),
    "05_fft_cut:build": Known(0, 8960),
    "06_cells:build": Known(84000),
    "12_flex_attention:build": Known(8388608),
    "13_cond:build": Known(262144),
    "14_while_loop:build": Known(327680),
    "14_while_loop:build_while": Known(327680),
    "21_unused_module:build": Known(weight_bytes=3468),
    "21b_unused_modes:build": Known(weight_bytes=HELD),
    "21b_unused_modes:build_routed": Known(weight_bytes=HELD),
    "24_dataclass:build": Known(TWO_LAYERS),
    "29_einsum_order:build": Known(),
    "29_einsum_order:build_dot": Known(1010000),
    "30_deform_conv:build": Known(150994944),
    "32_frozen_training:build": Known(70656),
    "33_weight_norm:build": Known(25600, weight_bytes=4 * 536),
    "33_weight_norm:build_new": Known(25600, weight_bytes=4 * 536),
    "33_weight_norm:build_spectral": Known(1100 + 1000 + 100),
    "33_weight_norm:build_spectral_new": Known(1100 + 1000 + 100),
    "35_tensor_for_tuple:build": Known(TWO_LAYERS),
    "35_tensor_for_tuple:build_one": Known(30 * 30 * 8 * 27),
    "35_tensor_for_tuple:build_dict": Known(16384),
    "35c_shapes_of_return:build_list": Known(16384),
    "35d_own_types:build_fp8": Known(32768, weight_bytes=2048),
    "35d_own_types:build_stored": Known(32768, weight_bytes=2048),
    "35d_own_types:build_bf16": Known(32768, weight_bytes=4224),
    "35d_own_types:build_mixed": Known(32768, weight_bytes=4480),
    "36_broadcast_sdpa:build": Known(2097152),
    "39b_autocast_kinds:build_cpu": Known(16384),
    "39b_autocast_kinds:build_cuda": Known(16384),
    "40_cuda_inside:build": Known(16384),
    "43_vmap:build": Known(20480),
    "49_dummy_forward:build": Known(124384),
    "49_dummy_forward:build_lazy": Known(5376),
    "49_dummy_forward:build_scheduled": Known(TWO_LAYERS),
    "49_dummy_forward:build_pruned": Known(TWO_LAYERS),
    "49_dummy_forward:build_numpy": Known(16384),
    "49_dummy_forward:build_ema": Known(16384),
    "49_dummy_forward:build_svd": Known(3072),
    "49_dummy_forward:build_fused": Known(42336),
    "62_token_shape:build_mixed": Known(118784),
}
REFUSED = {
    "25_script_module:build": "TorchScript",
    "25_script_module:build_traced": "TorchScript",
    "31_sparse_mm:build": "sparse_coo",
    "31_sparse_mm:build_csr": "sparse_csr",
    "35c_shapes_of_return:build_three": r"return a model, \(model, \(x, mask\)\)",
    "35c_shapes_of_return:build_four": r"return a model, \(model, \(x, mask\)\)",
    "35c_shapes_of_return:build_single": "--input-shape",
    "35c_shapes_of_return:build_object": r"return a model, \(model, \(x, mask\)\)",
    "42_dynamic_quant:build": "--quantize int8-dynamic",
}
HF = {"llama_fp8.json": 176.2e6, "llama_gptq.json": 154.5e6, "llama_ct_fp8.json": 176.2e6}
"""Bytes with linear layers stored as the config says; 221.3e6 as bfloat16."""


@pytest.fixture
def case(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[ModuleType, str]]:
    """The module of a case, which is importable as `case`, and the name of its factory."""
    folder, _, factory = request.param.partition(":")
    monkeypatch.syspath_prepend(str(CASES / folder))
    sys.modules.pop("case", None)
    torch._dynamo.reset()
    with suppress(InputError):
        import_torchvision()
    try:
        module = importlib.import_module("case")
    except ImportError as error:
        pytest.skip(f"the case needs another library: {error}")
    yield module, f"case:{factory}"
    sys.modules.pop("case", None)


@pytest.mark.parametrize("case", COUNTED, indirect=True)
def test_work_and_weights(case: tuple[ModuleType, str], request: pytest.FixtureRequest) -> None:
    """No operator is unknown."""
    known = COUNTED[request.node.callspec.params["case"]]
    graphs = model_graphs(case[1]).graphs
    costs = [graph_cost(graph) for graph in graphs]
    assert not [op.op for cost in costs for op in cost.unknown]
    held = sum(value.spec.nbytes for value in weights_of(graphs) if value.kind != "constant")
    counted = Known(sum(cost.macs for cost in costs), sum(cost.flops for cost in costs), held)
    assert [one for one, fixed in zip(counted, known, strict=True) if fixed is not None] == pytest.approx(
        [fixed for fixed in known if fixed is not None]
    )


@pytest.mark.parametrize("case", REFUSED, indirect=True)
def test_what_cannot_be_counted_is_refused(case: tuple[ModuleType, str], request: pytest.FixtureRequest) -> None:
    with pytest.raises(InputError, match=REFUSED[request.node.callspec.params["case"]]):
        model_graphs(case[1])


@pytest.mark.parametrize("case", ["21b_unused_modes:build"], indirect=True)
@pytest.mark.parametrize("way", ["8", "4,8", "autocast", "training"])
def test_weights_that_no_call_reads_count_in_every_mode(case: tuple[ModuleType, str], way: str) -> None:
    mode = {"autocast": Mode(autocast="bfloat16"), "training": Mode(training=True)}.get(way, Mode())
    batches = [int(batch) for batch in way.split(",")] if way[0].isdigit() else [None]
    asked = ModelRequest(case[1], mode=mode, points=at_batches(batches))
    source = open_model(asked)
    for found in map(source.at, asked.points):
        assert sum(value.spec.nbytes for value in weights_of(found.graphs) if value.kind == "parameter") == HELD


@pytest.mark.parametrize("case", ["32_frozen_training:build"], indirect=True)
def test_frozen_layers_have_no_gradients(case: tuple[ModuleType, str]) -> None:
    assert sum(graph_cost(graph).macs for graph in model_graphs(case[1], mode=Mode(training=True)).graphs) == 75776


@pytest.mark.parametrize("case", ["41_instance:model", "41_instance:Net"], indirect=True)
def test_a_model_and_its_class_are_taken(case: tuple[ModuleType, str]) -> None:
    (graph,) = model_graphs(case[1], input_shape=(8, 32)).graphs
    assert graph_cost(graph).macs == 16384


@pytest.mark.parametrize("case", ["29_einsum_order:build"], indirect=True)
def test_a_contraction_takes_the_order_that_torch_takes(case: tuple[ModuleType, str]) -> None:
    """By opt_einsum's path where that is installed, else from left to right."""
    left_to_right, shortest = 64**4, 2 * 64**3
    assert sum(graph_cost(graph).macs for graph in model_graphs(case[1]).graphs) == (
        shortest if torch.backends.opt_einsum.is_available() else left_to_right
    )


@pytest.mark.parametrize("case", ["56_cache_object:build"], indirect=True)
def test_keys_and_values_in_an_object_are_inputs(case: tuple[ModuleType, str]) -> None:
    pytest.importorskip("transformers", reason="the extra 'models' is not installed")
    assert sum(graph_cost(graph).macs for graph in model_graphs(case[1]).graphs) == 1436672


@pytest.mark.parametrize("case", ["61_unknown_scan:OPS"], indirect=True)
def test_no_operator_is_unknown(case: tuple[ModuleType, str]) -> None:
    """All but one, which torch itself refuses."""
    for name, function in case[0].OPS.items():
        torch._dynamo.reset()
        if name != "fractional":
            graphs = capture(Calls(function).eval(), (torch.randn(64, 64),)).graphs
            assert not [op.op for graph in graphs for op in graph_cost(graph).unknown], name


@pytest.mark.parametrize("case", ["62_token_shape:build"], indirect=True)
def test_a_shape_makes_no_tokens(case: tuple[ModuleType, str]) -> None:
    with pytest.raises(InputError, match=r"let the factory return \(model, \(tokens,\)\)"):
        model_graphs(case[1], input_shape=(4, 16))


@pytest.mark.parametrize("file", HF)
def test_a_quantized_config_is_stored_as_it_says(file: str) -> None:
    pytest.importorskip("transformers", reason="the extra 'models' is not installed")
    graphs = model_graphs(f"hf:{CASES / '70_hf' / file}", seq_len=128, dtype="bfloat16").graphs
    assert sum(value.spec.nbytes for value in weights_of(graphs)) == pytest.approx(HF[file], rel=2e-3)
    assert any("quantized as the config says" in note for note in notes_of(graphs))


def test_an_unknown_class_is_said() -> None:
    pytest.importorskip("transformers", reason="the extra 'models' is not installed")
    notes = notes_of(model_graphs(f"hf:{CASES / '70_hf' / 'llama_custom.json'}", seq_len=8).graphs)
    assert any("LlamaModel is counted instead, without a head" in note for note in notes)


@pytest.mark.parametrize("name", ["longrope_bad", "unknown_type", "z_clap", "z_encodec"])
def test_an_odd_config_is_one_line(name: str) -> None:
    pytest.importorskip("transformers", reason="the extra 'models' is not installed")
    with pytest.raises(InputError) as refused:
        model_graphs(f"hf:{CASES / '70_hf' / name}.json", seq_len=8)
    assert "\n" not in str(refused.value)
