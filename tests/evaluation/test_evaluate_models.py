"""Whole models against a table of others' measurements: reading, capture as measured, and the errors' arithmetic."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from shmoo.estimators.errors import InputError
from shmoo.estimators.graph.records import Graph
from shmoo.estimators.machine.profile import load_profile
from shmoo.estimators.predict.director import AnalysisDirector
from tests.build import GraphBuilder
from tests.evaluation.models import MeasuredModel, compare, predicted_latency, read_models
from tests.evaluation.results import Kept

REFERENCE = Path(__file__).parents[2].parent / "shared" / "reference"
HEADER = "device,model,mode,dtype,batch,seq_len,latency_s,pred_neusight,pred_habitat,pred_roofline,pred_micro\n"
GPT = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_embd": 64, "n_head": 4, "n_layer": 2, "n_positions": 32}
GPT |= {"vocab_size": 100, "activation_function": "gelu_new"}
BERT = {"model_type": "bert", "architectures": ["BertLMHeadModel"], "hidden_size": 64, "num_attention_heads": 4}
BERT |= {"num_hidden_layers": 2, "intermediate_size": 128, "vocab_size": 100, "max_position_embeddings": 32}


def mlp(batch: int = 512) -> Graph:
    b = GraphBuilder()
    x = b.tensor((batch, 1024))
    for _ in range(8):
        x = b.relu(b.linear(x, 1024))
    return b.graph(x)


def row(device: str, latency_s: float, **predicted_s: float) -> MeasuredModel:
    return MeasuredModel(device, "mlp", "float32", 1, 512, latency_s, predicted_s)


def test_only_eager_rows_whose_work_follows_from_their_shapes_are_read(tmp_path):
    """Compiled rows and models that route tokens are left out; a predictor without a number is not there."""
    file = tmp_path / "gpu_models.csv"
    file.write_text(
        HEADER
        + "v100,gpt,eager,float32,2,1024,0.5,0.6,,0.25,\n"
        + "v100,gpt,inductor,float32,2,1024,0.4,,,,\n"
        + "v100,switchxl4,eager,float32,2,1024,0.4,,,,\n"
    )
    (only,) = read_models(file)
    assert only == MeasuredModel("v100", "gpt", "float32", 2, 1024, 0.5, {"NeuSight": 0.6, "roofline": 0.25})
    with pytest.raises(InputError, match=r"missing\.csv"):
        read_models(tmp_path / "missing.csv")


def test_errors_are_means_over_a_devices_rows_with_predictors_beside():
    """Measured as predicted and as half of it: errors 0 and 1, mean 50 %; NeuSight's 0.1 s of 0.2 s is 50 % too."""
    profile = load_profile("gpu_v100")
    expected = predicted_latency([mlp()], profile).value
    rows = [row("v100", expected), row("v100", expected / 2, NeuSight=expected / 4)]
    results = {r.what: r for r in compare(rows, lambda _: [mlp()], {"v100": profile, "p100": load_profile("gpu_p100")})}
    ours = results["v100, fitted to its operators"]
    assert (ours.cases, ours.value, ours.at_most) == (2, pytest.approx(0.5), 0.08)
    assert results["v100, NeuSight"].value == pytest.approx(0.5)
    assert results["v100, left out"].cases == 2
    assert ours.entry.coverage == 0.5
    assert ours.kept == Kept("gpu_v100", "test", "networks")
    assert results["all devices, left out"].entry.n == 2


def test_a_device_without_an_operator_table_is_predicted_from_the_others():
    """An L4 has a datasheet only."""
    results = compare([row("l4", 1.0)], lambda _: [mlp()], {"v100": load_profile("gpu_v100")})
    assert next(r.what for r in results) == "l4, left out"
    assert results[0].at_most == 0.15


def test_models_of_one_shape_are_captured_once():
    """Two devices share the graphs."""
    asked = []
    rows = [row("v100", 1.0), row("t4", 1.0)]
    fitted = {"v100": load_profile("gpu_v100"), "t4": load_profile("gpu_t4")}
    compare(rows, lambda r: asked.append(r.shape) or [mlp()], fitted)
    assert asked == [("mlp", "float32", 1, 512)]


def test_an_empty_allocator_costs_the_host_time():
    """More than the same call with its memory at hand, by at most what its blocks cost."""
    profile = load_profile("gpu_v100")
    ((warm, _),) = AnalysisDirector(profile).estimate_cases([mlp()], runtime="eager")
    cold = predicted_latency([mlp()], profile).value
    assert warm.value < cold <= warm.value + 10 * 1e-4


# --- capture


def captured(settings: dict, tmp_path: Path, batch: int = 2, seq_len: int = 16) -> list[str]:
    pytest.importorskip("transformers")
    from shmoo.harness.capture.traced import capture_traced
    from tests.evaluation.models import eager_model

    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(settings))
    built = eager_model(path, batch, seq_len)
    graphs = capture_traced(built.model, built.args, built.kwargs, name="tiny").graphs
    return [call.op.removeprefix("aten.") for graph in graphs for call in graph.calls]


def test_a_decoder_is_captured_with_its_attention_in_parts(tmp_path):
    """Two layers: two products, a mask added and a softmax each, keys and values kept; one product with the vocabulary."""
    ops = captured(GPT, tmp_path)
    assert (ops.count("matmul"), ops.count("softmax"), ops.count("addmm"), ops.count("tanh")) == (4, 2, 8, 2)
    assert ops.count("cat") == 4
    assert ops.count("linear") == 1
    assert "scaled_dot_product_attention" not in ops


def test_an_encoder_is_captured_as_a_classifier_with_its_mask(tmp_path):
    """Six linear layers a block, then the pooler and two classes instead of the vocabulary; a mask added in every layer."""
    ops = captured(BERT, tmp_path)
    assert (ops.count("linear"), ops.count("matmul"), ops.count("gelu")) == (6 * 2 + 2, 4, 2)
    assert ops.count("add") >= 3 * 2


def test_a_missing_config_is_named(tmp_path):
    """The folder is said."""
    from tests.evaluation.models import eager_model

    with pytest.raises(InputError, match="model_configs"):
        eager_model(tmp_path / "none.json", 1, 16)


@pytest.mark.slow
def test_transformers_on_a_v100_are_predicted_from_its_operators_within_the_bound():
    """BERT and GPT-2: 8 % fitted to the table of operators, which holds no model."""
    pytest.importorskip("scipy")
    pytest.importorskip("transformers")
    if not REFERENCE.is_dir():
        pytest.skip("no reference data: it is kept beside the repository")
    from shmoo.harness.capture.traced import capture_traced
    from tests.evaluation.gpu import fit_device, read_device
    from tests.evaluation.models import eager_model

    def graphs_of(measured: MeasuredModel) -> tuple[Graph, ...]:
        built = eager_model(REFERENCE / "model_configs" / f"{measured.model}.json", measured.batch, measured.seq_len)
        return capture_traced(built.model, built.args, built.kwargs, name=measured.model).graphs

    rows = [r for r in read_models(REFERENCE / "gpu_models.csv") if r.device == "v100" and r.seq_len <= 1024]
    fitted = {"v100": fit_device(read_device(REFERENCE, "v100"), "v100"), "t4": load_profile("gpu_t4")}
    ours = compare(rows, graphs_of, fitted)[0]
    assert (ours.cases, ours.held) == (4, True)
