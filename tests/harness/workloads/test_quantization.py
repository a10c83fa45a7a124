"""The quantization that a config declares decides the bytes of its weights, or a note says why it does not."""

from __future__ import annotations

import doctest
import json
import time

import pytest

from shmoo.estimators.costs import graph_cost
from shmoo.estimators.costs.quantize import PARAMETER_SUFFIXES, matches
from shmoo.estimators.graph.records import Graph, notes_of, weights_of
from shmoo.harness.models.model_graphs import WorkloadGraphs
from shmoo.harness.models.request import Mode
from shmoo.harness.workloads import quantization
from shmoo.harness.workloads.configs import config_workload
from shmoo.harness.workloads.quantization import quantization_of
from tests.cli_runner import shmoo

pytest.importorskip("transformers", reason="the extra 'models' is not installed")

LLAMA = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 256, "intermediate_size": 512,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 1000, "tie_word_embeddings": False,
}  # fmt: skip
LINEAR = 2 * (2 * 256 * 256 + 2 * 256 * 128 + 3 * 256 * 512)
"""Elements of the layers' products."""
ROWS = 2 * (2 * 256 + 2 * 128 + 2 * 512 + 256)
"""Rows of their weights."""
MATRICES = 2 * 7
DOWN = 2 * 256 * 512
"""Elements of the last product of each layer."""
REST = 2 * (2 * 1000 * 256 + 5 * 256)
"""Bytes of embedding, head and norms in bfloat16."""
HEAD = 1000 * 256
MOE = {
    "num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
    "intermediate_size": 128, "vocab_size": 100,
}  # fmt: skip


def graphs_of(config: dict, settings: object, mode: Mode | None = None) -> tuple[Graph, ...]:
    module = config_workload("mine", config if settings is None else {**config, "quantization_config": settings})
    return WorkloadGraphs(module, [{"seq_len": 8}], "bfloat16", mode).at({"seq_len": 8}).graphs


def weight_bytes(graphs: tuple[Graph, ...]) -> float:
    return sum(
        value.spec.nbytes for value in weights_of(graphs) if value.kind == "parameter" or value.name.endswith(PARAMETER_SUFFIXES)
    )


def matrix_types(graphs: tuple[Graph, ...]) -> set[str]:
    return {one.dtype for graph in graphs for one in graph_cost(graph).dtypes if one.matrix_flops}


def compressed(*groups: dict, **more: object) -> dict:
    named = {f"group_{i}": {"targets": ["Linear"], **group} for i, group in enumerate(groups)}
    return {"quant_method": "compressed-tensors", "config_groups": named, **more}


def weights(bits: int, kind: str, **more: object) -> dict:
    return {"weights": {"num_bits": bits, "type": kind, **more}}


def ao(kind: str, **fields: object) -> dict:
    return {"quant_method": "torchao", "quant_type": {"default": {"_type": kind, "_data": fields}}}


ROUNDED = {"input_activations": {"num_bits": 8, "type": "float"}}
STORED = {
    "none": (None, 2 * LINEAR),
    "fp8": ({"quant_method": "fp8", "weight_block_size": [128, 128]}, LINEAR * (1 + 4 / 128**2)),
    "fp8 without its block": ({"quant_method": "fp8"}, LINEAR * (1 + 4 / 128**2)),
    "fp8 as a whole": ({"quant_method": "fp8", "weight_block_size": None}, LINEAR + 4 * MATRICES),
    "fp8 scales in a byte": ({"quant_method": "fp8", "scale_fmt": "ue8m0"}, LINEAR * (1 + 1 / 128**2)),
    "fp8 apart from a layer": (
        {"quant_method": "fp8", "ignored_layers": ["mlp.down_proj"]},
        (LINEAR - DOWN) * (1 + 4 / 128**2) + 2 * DOWN,
    ),
    "fbgemm": ({"quant_method": "fbgemm_fp8"}, LINEAR + 4 * ROWS),
    "mxfp8": ({"quant_method": "mxfp8"}, LINEAR * (1 + 1 / 32)),
    "nvfp4": ({"quant_method": "nvfp4"}, LINEAR * (0.5 + 1 / 16)),
    "gptq": ({"quant_method": "gptq", "bits": 4, "group_size": 128}, LINEAR * (0.5 + 2.5 / 128)),
    "gptq in 8 bits": ({"quant_method": "gptq", "bits": 8, "group_size": 32}, LINEAR * (1 + 3 / 32)),
    "gptq with the head": (
        {"quant_method": "gptq", "bits": 4, "group_size": 128, "lm_head": True},
        (LINEAR + HEAD) * (0.5 + 2.5 / 128) - 2 * HEAD,
    ),
    "gptq row by row": ({"quant_method": "gptq", "bits": 4, "group_size": -1}, LINEAR / 2 + 2.5 * ROWS),
    "gptq apart from a layer": (
        {"quant_method": "gptq", "bits": 4, "group_size": 128, "dynamic": {r"-:.*\.down_proj": {}}},
        (LINEAR - DOWN) * (0.5 + 2.5 / 128) + 2 * DOWN,
    ),
    "gptq of one layer": (
        {"quant_method": "gptq", "bits": 4, "group_size": 128, "modules_in_block_to_quantize": [["mlp.down_proj"]]},
        DOWN * (0.5 + 2.5 / 128) + 2 * (LINEAR - DOWN),
    ),
    "awq": ({"quant_method": "awq", "bits": 4, "group_size": 64}, LINEAR * (0.5 + 2.5 / 64)),
    "awq without zero points": ({"quant_method": "awq", "bits": 4, "zero_point": False}, LINEAR * (0.5 + 2 / 128)),
    "auto-round": ({"quant_method": "auto-round", "bits": 4, "group_size": 32}, LINEAR * (0.5 + 2.5 / 32)),
    "bitsandbytes 4": ({"quant_method": "bitsandbytes", "load_in_4bit": True}, LINEAR * (0.5 + 4 / 64)),
    "bitsandbytes 4, scales quantized": ({"load_in_4bit": True, "bnb_4bit_use_double_quant": True}, LINEAR * (0.5 + 1 / 64)),
    "bitsandbytes 8": ({"quant_method": "bitsandbytes", "load_in_8bit": True}, LINEAR + 4 * ROWS),
    "compressed float8 rows": (compressed({**weights(8, "float", strategy="channel"), **ROUNDED}), LINEAR + 4 * ROWS),
    "compressed float8 matrices": (compressed({**weights(8, "float", strategy="tensor"), **ROUNDED}), LINEAR + 4 * MATRICES),
    "compressed float8 blocks": (
        compressed(weights(8, "float", strategy="block", block_structure=[128, 128])),
        LINEAR * (1 + 4 / 128**2),
    ),
    "compressed int8": (compressed({**weights(8, "int"), **ROUNDED}), LINEAR + 2 * ROWS),
    "compressed int4": (compressed(weights(4, "int", strategy="group", group_size=128)), LINEAR * (0.5 + 2 / 128)),
    "compressed int4 with zero points": (
        compressed(weights(4, "int", strategy="group", group_size=128, symmetric=False)),
        LINEAR * (0.5 + 2.5 / 128),
    ),
    "compressed nvfp4": (compressed(weights(4, "float", strategy="tensor_group", group_size=16)), LINEAR * (0.5 + 1 / 16)),
    "compressed apart from a layer": (
        compressed(weights(4, "float", group_size=16), ignore=["lm_head", "re:.*mlp.(down|no)_proj$"]),
        (LINEAR - DOWN) * (0.5 + 1 / 16) + 2 * DOWN,
    ),
    "compressed in two ways": (
        compressed(weights(8, "float", strategy="tensor"), {**weights(4, "float", group_size=16), "targets": ["re:.*down_proj"]}),
        (LINEAR - DOWN) + 4 * (MATRICES - 2) + DOWN * (0.5 + 1 / 16),
    ),
    "modelopt": ({**compressed(weights(8, "float", strategy="tensor")), "quant_method": "modelopt"}, LINEAR + 4 * MATRICES),
    "torchao int4": (ao("Int4WeightOnlyConfig", group_size=64), LINEAR * (0.5 + 4 / 64)),
    "torchao int8": (ao("Int8WeightOnlyConfig"), LINEAR + 2 * ROWS),
    "torchao int8, rounded": (ao("Int8DynamicActivationInt8WeightConfig"), LINEAR + 2 * ROWS),
    "torchao float8": (ao("Float8DynamicActivationFloat8WeightConfig"), LINEAR + 4 * ROWS),
    "torchao by name": (
        {"quant_method": "torchao", "quant_type": "int4_weight_only", "quant_type_kwargs": {"group_size": 128}},
        LINEAR * (0.5 + 4 / 128),
    ),
    "hqq": ({"quant_method": "hqq", "quant_config": {"weight_quant_params": {"nbits": 4}}}, LINEAR * (0.5 + 4 / 64)),
    "quanto": ({"quant_method": "quanto", "weights": "float8"}, LINEAR + 2 * ROWS),
    "eetq": ({"quant_method": "eetq"}, LINEAR + 2 * ROWS),
    "metal": ({"quant_method": "metal", "bits": 8, "group_size": 32}, LINEAR * (1 + 4 / 32)),
}
"""Settings -> bytes of the layers' weights with what is stored beside them."""


@pytest.mark.parametrize("name", STORED)
def test_a_configs_quantization_decides_the_bytes_of_its_layers(name: str) -> None:
    """Weights and scales of linear layers in their small type; embedding, head and norms in bfloat16. A note says so."""
    settings, expected = STORED[name]
    graphs = graphs_of(LLAMA, settings)
    assert weight_bytes(graphs) == pytest.approx(REST + expected, abs=1)
    assert any("quantized" in note for note in notes_of(graphs)) is (settings is not None)
    assert any("stored in a smaller type" in note for note in notes_of(graphs)) is (settings is not None)


@pytest.mark.parametrize(
    ("name", "types"),
    [
        ("fp8", {"float8", "bfloat16"}),
        ("bitsandbytes 8", {"int8", "bfloat16"}),
        ("bitsandbytes 4", {"bfloat16"}),
        ("compressed float8 rows", {"float8", "bfloat16"}),
        ("compressed float8 blocks", {"bfloat16"}),
        ("gptq in 8 bits", {"bfloat16"}),
    ],
)
def test_scales_in_float32_do_not_decide_the_type_of_a_product(name: str, types: set[str]) -> None:
    """Where activations are rounded products are in the small type, else in the activations'; the head stays in bfloat16."""
    assert matrix_types(graphs_of(LLAMA, STORED[name][0])) == types


EXPERTS = {
    "mxfp4": (
        {**MOE, "model_type": "gpt_oss", "architectures": ["GptOssForCausalLM"], "num_local_experts": 8},
        {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn", "model.layers.*.mlp.router", "lm_head"]},
        2 * 8 * (64 * 256 + 128 * 64),
        0.5 + 1 / 32,
    ),
    "awq": (
        {**MOE, "model_type": "mixtral", "architectures": ["MixtralForCausalLM"]},
        {"quant_method": "awq", "bits": 4, "group_size": 32, "modules_to_not_convert": ["self_attn", "gate"]},
        2 * 8 * (64 * 256 + 128 * 64),
        0.5 + 2.5 / 32,
    ),
    "fp8": (
        {**MOE, "model_type": "mixtral", "architectures": ["MixtralForCausalLM"]},
        {"quant_method": "fp8", "weight_block_size": [64, 64], "modules_to_not_convert": ["self_attn", "gate"]},
        2 * 8 * (64 * 256 + 128 * 64),
        1 + 4 / 64**2,
    ),
    "fp8, experts in 4 bits": (
        {**MOE, "model_type": "mixtral", "architectures": ["MixtralForCausalLM"]},
        {"quant_method": "fp8", "expert_dtype": "fp4", "modules_to_not_convert": ["self_attn", "gate"]},
        2 * 8 * (64 * 256 + 128 * 64),
        0.5 + 1 / 32,
    ),
}


@pytest.mark.parametrize("implementation", ["eager", "grouped_mm"])
@pytest.mark.parametrize("name", EXPERTS)
def test_experts_are_stored_as_the_config_says(name: str, implementation: str) -> None:
    """Weights of all experts in one tensor, read one by one or in one product of groups: the same bytes, the same work."""
    config, settings, elements, each = EXPERTS[name]
    config = {**config, "experts_implementation": implementation}
    plain, small = graphs_of(config, None), graphs_of(config, settings)
    assert weight_bytes(plain) - weight_bytes(small) == pytest.approx(elements * (2 - each))
    assert sum(graph_cost(graph).macs for graph in small) == sum(graph_cost(graph).macs for graph in plain)
    assert not [op for graph in small for op in graph_cost(graph).unknown]
    assert matrix_types(small) == ({"float8", "bfloat16"} if name == "fp8" else {"bfloat16"})
    for graph in small:
        assert all(
            call.inputs == tuple(graph.values[i].spec for i in call.reads)
            and call.outputs == tuple(graph.values[i].spec for i in call.writes)
            for call in graph.calls
        )


def test_experts_that_are_gathered_keep_their_type_and_the_result_says_how_much_does() -> None:
    """A copy of the chosen experts' weights is no product: what is stored smaller is a few percent, which is said."""
    config, settings, *_ = EXPERTS["awq"]
    graphs = graphs_of({**config, "experts_implementation": "batched_mm"}, {**settings, "modules_to_not_convert": None})
    (share,) = [note for note in notes_of(graphs) if "stored in a smaller type" in note]
    assert float(share.split("%")[0]) < 10


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"quant_method": "aqlm"}, "(aqlm) is not taken into account"),
        ({"quant_method": "gptq", "bits": 3}, "no element type has 3 bits"),
        ({"quant_method": 7}, "(7) is not taken into account"),
        ("fp8", "is not an object"),
        ([1], "is not an object"),
        ({"quant_method": "bitsandbytes"}, "neither load_in_4bit nor load_in_8bit"),
        ({"quant_method": "mxfp4", "dequantize": True}, "converted back"),
        ({"quant_method": "compressed-tensors", "format": "dense", "config_groups": {}}, "not compressed"),
        ({"quant_method": "compressed-tensors", "config_groups": {}}, "compresses no weights"),
        ({"quant_method": "compressed-tensors"}, "not as compressed-tensors writes them"),
        ({"quant_method": "fp8", "weight_block_size": "large"}, "not as fp8 writes them"),
        ({"quant_method": "fp8", "weight_block_size": [128, -1]}, "weight_block_size is [128, -1]"),
        ({"quant_method": "torchao", "quant_type": "autoquant"}, "autoquant is not known"),
        ({"quant_method": "quanto", "weights": "int2"}, "no element type is int2"),
        (ao("ModuleFqnToConfig"), "ModuleFqnToConfig is not known"),
        (compressed(weights(2, "int")), "no element type has 2 bits"),
        (compressed(weights(16, "float")), "no element type is float of 16 bits"),
    ],
    ids=str,
)
def test_a_quantization_that_is_not_known_is_said(settings: object, said: str) -> None:
    """Weights then count in the element type."""
    schemes, (note,) = quantization_of({"quantization_config": settings})
    assert schemes == ()
    assert said in note


def test_a_part_of_a_config_may_say_it() -> None:
    """A language model beside an image model has settings of its own; older files call them compression_config."""
    settings = {"quant_method": "fp8"}
    assert quantization_of({"text_config": {"quantization_config": settings}}) == quantization_of(
        {"compression_config": settings}
    )
    assert len(quantization_of({"quantization_config": settings})[0]) == 1
    assert quantization_of({"quantization_config": None}) == ((), ())


def test_what_is_asked_for_comes_before_the_config() -> None:
    """`--quantize` replaces the config's scheme, and training keeps whole weights; each result says so."""
    settings = STORED["gptq"][0]
    asked = graphs_of(LLAMA, settings, Mode(quantize="int8-weight"))
    assert weight_bytes(asked) == pytest.approx(REST - 2 * HEAD + LINEAR + HEAD + 2 * (ROWS + 1000))
    trained = graphs_of(LLAMA, settings, Mode(training=True))
    assert weight_bytes(trained) >= REST + 2 * LINEAR
    for graphs in (asked, trained):
        assert [note for note in notes_of(graphs) if "the config's quantization is not taken into account" in note]
        assert not [note for note in notes_of(graphs) if "quantized as the config says" in note]


@pytest.mark.parametrize(
    ("pattern", "module", "expected"),
    [
        ("lm_head", "lm_head", True),
        ("mlp.gate", "model.layers.0.mlp.gate", True),
        ("mlp.gate", "model.layers.0.mlp.gate_proj", False),
        ("model.layers.*.self_attn", "model.layers.11.self_attn.q_proj", True),
        ("model.layers.1", "model.layers.11.mlp", False),
        (r"re:.*self_attn.*", "model.layers.3.self_attn.q_proj", True),
        (r"re:.*mlp\.(gate|up)_proj$", "model.layers.3.mlp.up_proj", True),
        (r"re:.*mlp\.(gate|up)_proj$", "model.layers.3.mlp.experts", False),
        (r"re:^model\.layers\.\d+\.mlp\.gate$", "model.layers.12.mlp.gate", True),
        (r"re:visual.*", "visual.blocks.0.attn", True),
    ],
)
def test_names_of_modules_are_patterns(pattern: str, module: str, expected: bool) -> None:
    assert any(matches(glob, module) for glob in quantization._globs(pattern)) is expected


@pytest.mark.parametrize("pattern", [r"re:(a+)+$", "(a|a)*" * 30, "re:" + "(x|y)" * 200, "*a" * 2000, "re:" + ".*" * 500 + "b"])
def test_no_pattern_takes_for_ever(pattern: str) -> None:
    begin = time.monotonic()
    for glob in quantization._globs(pattern):
        matches(glob, "a" * 200)
    assert time.monotonic() - begin < 1


def test_the_documented_example_holds() -> None:
    assert doctest.testmod(quantization).failed == 0


def test_an_estimate_of_a_file_counts_stored_bytes(tmp_path) -> None:
    """On the command line, too: bytes of the weights and how they came about."""
    (tmp_path / "config.json").write_text(json.dumps({**LLAMA, "quantization_config": STORED["gptq"][0]}))
    result = shmoo("estimate", f"hf:{tmp_path}/config.json", "--seq-len", "8", "--dtype", "bf16", "--arch", "gpu_l4", "--json")
    assert result.exit_code == 0, result.output
    (record,) = json.loads(result.stdout)
    assert record["params"] == LINEAR + 2 * HEAD + 5 * 256
    assert record["weight_bytes"] == pytest.approx(REST + STORED["gptq"][1], abs=200)
    assert any("weights in 4 bits, a scale for 1 x 128 of them, with a zero point" in note for note in record["notes"])
