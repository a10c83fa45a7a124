"""Models from transformers configs: every family is captured with its own inputs, counted exactly, without weights in memory."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from shmoo.estimators.costs import costs_of, graph_cost
from shmoo.estimators.errors import InputError
from shmoo.estimators.machine.profile import load_profile
from shmoo.harness.capture import capture_workload
from shmoo.harness.models.model_graphs import WorkloadGraphs
from shmoo.harness.models.request import Mode
from shmoo.harness.module import Built, DNNModule, Maker
from shmoo.harness.workloads import find_workload
from shmoo.harness.workloads.configs import config_models, config_workload
from tests.flops_seen_by_torch import flops_seen_by_torch

pytest.importorskip("transformers", reason="the extra 'models' is not installed")

DECODER = {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64, "vocab_size": 100}
T5 = {"num_layers": 2, "num_decoder_layers": 2, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_heads": 4, "vocab_size": 100}
VISION = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 16,
}
SMALL = {
    "bert": {"model_type": "bert", **DECODER},
    "gpt2": {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "n_layer": 2,
        "n_embd": 32,
        "n_head": 4,
        "vocab_size": 100,
    },
    "opt": {"model_type": "opt", "architectures": ["OPTForCausalLM"], **DECODER, "ffn_dim": 64, "word_embed_proj_dim": 32},
    "llama": {"model_type": "llama", "architectures": ["LlamaForCausalLM"], **DECODER, "num_key_value_heads": 2},
    "mixtral": {
        "model_type": "mixtral",
        "architectures": ["MixtralForCausalLM"],
        **DECODER,
        "num_key_value_heads": 2,
        "experts_implementation": "eager",
    },
    "switch": {
        "model_type": "switch_transformers",
        "architectures": ["SwitchTransformersForConditionalGeneration"],
        **T5,
        "num_experts": 4,
        "num_sparse_encoder_layers": 1,
        "num_sparse_decoder_layers": 1,
    },
    "t5": {"model_type": "t5", "architectures": ["T5ForConditionalGeneration"], **T5},
    "whisper": {
        "model_type": "whisper",
        "architectures": ["WhisperForConditionalGeneration"],
        "encoder_layers": 2,
        "decoder_layers": 2,
        "d_model": 32,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 64,
        "decoder_ffn_dim": 64,
        "max_source_positions": 20,
        "num_mel_bins": 8,
        "vocab_size": 100,
        "pad_token_id": 0,
    },
    "vit": {"model_type": "vit", "architectures": ["ViTForImageClassification"], **VISION},
    "swin": {
        "model_type": "swin",
        "architectures": ["SwinForImageClassification"],
        "image_size": 56,
        "depths": [2, 2],
        "num_heads": [2, 4],
    },
    "clip": {
        "model_type": "clip",
        "architectures": ["CLIPModel"],
        "text_config": {**DECODER, "max_position_embeddings": 16, "eos_token_id": 2},
        "vision_config": VISION,
    },
    "segformer": {
        "model_type": "segformer",
        "architectures": ["SegformerForSemanticSegmentation"],
        "hidden_sizes": [8, 16, 16, 32],
        "depths": [1, 1, 1, 1],
        "decoder_hidden_size": 16,
    },
    "detr": {
        "model_type": "detr",
        "architectures": ["DetrForObjectDetection"],
        "use_timm_backbone": False,
        "backbone_config": {"model_type": "resnet", "depths": [1, 1, 1, 1], "out_features": ["stage4"]},
        "encoder_layers": 1,
        "decoder_layers": 1,
        "d_model": 32,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 64,
        "decoder_ffn_dim": 64,
        "num_queries": 10,
    },
}
"""A small model of every family."""


@pytest.mark.parametrize("family", SMALL)
def test_every_family_is_counted_exactly(family: str) -> None:
    """No operator is unknown, and matrix flops are those that torch counts when the same model runs in its parts."""
    module = config_workload(family, SMALL[family])
    small = {"batch": 2} | {axis.name: size for axis in module.axes for name, size in SIZES.items() if axis.name == name}
    costs = [graph_cost(graph) for graph in capture_workload(module, small).graphs]
    assert not [op for cost in costs for op in cost.unknown]
    assert 2 * sum(cost.macs for cost in costs) == flops_seen_by_torch(module.build(small, device="meta"))


SIZES = {"seq_len": 12, "height": 64, "width": 64}


@pytest.mark.parametrize(
    ("family", "axes", "taken"),
    [
        ("bert", ["batch", "seq_len"], {"input_ids": (1, 128)}),
        ("t5", ["batch", "seq_len"], {"input_ids": (1, 128), "decoder_input_ids": (1, 128)}),
        ("whisper", ["batch", "seq_len"], {"input_features": (1, 8, 40), "decoder_input_ids": (1, 128)}),
        ("vit", ["batch"], {"pixel_values": (1, 3, 32, 32)}),
        ("segformer", ["batch", "height", "width"], {"pixel_values": (1, 3, 224, 224)}),
        ("clip", ["batch", "seq_len"], {"input_ids": (1, 16), "pixel_values": (1, 3, 32, 32)}),
    ],
)
def test_inputs_are_those_of_the_models_signature(family: str, axes: list[str], taken: dict[str, tuple[int, ...]]) -> None:
    """Tokens, pixels and audio, each in the size that the config says, and an axis for each size that it leaves open."""
    module = config_workload(family, SMALL[family])
    assert [axis.name for axis in module.axes] == axes
    built = module.build(device="meta")
    assert {name: tuple(tensor.shape) for name, tensor in built.kwargs.items()} == taken


PATCHED = {
    "model_type": "qwen2_vl",
    "architectures": ["Qwen2VLForConditionalGeneration"],
    "vocab_size": 100,
    "text_config": {
        **DECODER, "num_key_value_heads": 2,
        "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4},
    },
    "vision_config": {"depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 4, "mlp_ratio": 2, "patch_size": 4,
                      "temporal_patch_size": 2, "spatial_merge_size": 2, "in_channels": 3},
}  # fmt: skip


def test_images_come_as_patches_with_their_grids() -> None:
    """Two images of 16 by 24 pixels are 4 x 6 patches each, of 2 frames of 3 x 4 x 4 numbers; each patch meets every layer."""
    module = config_workload("patched", PATCHED)
    assert [axis.name for axis in module.axes] == ["batch", "seq_len", "height", "width"]
    sizes = {"batch": 2, "seq_len": 8, "height": 17, "width": 24}
    built = module.build(sizes, device="meta")
    assert built.kwargs["pixel_values"].shape == (2 * 4 * 6, 3 * 2 * 4 * 4)
    assert built.kwargs["image_grid_thw"].tolist() == [[1, 4, 6]] * 2
    (graph,) = capture_workload(module, sizes).graphs
    assert not [note for note in graph.notes if "left out" in note]
    by_part = [0.0, 0.0]
    for call, cost in zip(graph.calls, costs_of(graph), strict=True):
        if cost is not None and call.op in ("aten.linear", "aten.conv3d"):
            by_part["visual" not in call.module] += cost.matrix_flops / 2
    layer = 32 * 96 + 32 * 32 + 2 * 32 * 64
    assert by_part[0] == 48 * (96 * 32 + 2 * layer) + 12 * (128 * 128 + 128 * 32)


def test_images_are_left_out_where_a_config_has_no_part_for_them() -> None:
    """A config whose vision_config is null is a model of text."""
    settings = {
        "model_type": "gemma4",
        "text_config": {**DECODER, "num_key_value_heads": 2, "head_dim": 8},
        "vision_config": None,
    }
    module = config_workload("text", settings)
    assert list(module.build(device="meta").kwargs) == ["input_ids"]
    assert "images are left out: the config has no vision_config" in module.notes


class Refuses(torch.nn.Module):
    """Takes text and, of the wrong size, images and audio."""

    def __init__(self, wrong: str) -> None:
        super().__init__()
        self.layer, self.wrong = torch.nn.Linear(4, 4), wrong

    def forward(self, text, images=None, audio=None):
        if {"images": images, "audio": audio}.get(self.wrong) is not None or (
            self.wrong == "both" and (images, audio) != (None, None)
        ):
            raise ValueError("of another size")
        return self.layer(text) + sum(self.layer(x) for x in (images, audio) if x is not None)


@pytest.mark.parametrize(("wrong", "products"), [("none", 3), ("images", 2), ("audio", 2), ("both", 1), ("text", 3)])
def test_an_optional_input_that_a_model_refuses_is_left_out(wrong: str, products: int) -> None:
    """The others are counted, and a note says what is left out and why."""
    optional = (("images are", ("images",)), ("audio is", ("audio",)))

    def build(make: Maker) -> Built:
        kwargs = {name: make.tensor(2, 4) for name in ("text", "images", "audio")}
        return Built(make.module(lambda: Refuses(wrong)), (), kwargs, traced=True, optional=optional)

    (graph,) = capture_workload(DNNModule("refuses", "network", (), build)).graphs
    assert sum(call.op == "aten.linear" for call in graph.calls) == products
    notes = [note for note in graph.notes if "left out" in note]
    assert len(notes) == (wrong not in ("none", "text"))
    for note in notes:
        assert "of another size" in note
        assert (("images are" in note), ("audio is" in note)) == (wrong in ("images", "both"), wrong in ("audio", "both"))


@pytest.mark.parametrize("implementation", ["eager", "grouped_mm"])
def test_only_active_experts_count(implementation: str) -> None:
    """Two of eight experts work on a token, whether in a loop over experts or in one product of groups; the note says so."""
    settings = {**SMALL["mixtral"], "experts_implementation": implementation}
    (graph,) = capture_workload(config_workload("mixtral", settings), {"seq_len": 16}).graphs
    experts = 2 * 16 * 2 * 3 * 32 * 64  # layers * tokens * active experts * (gate, up, down) * width * inner width
    attention = 2 * 16 * (32 * 32 + 2 * 32 * 16 + 32 * 32 + 2 * 16 * 32)
    rest = 2 * 16 * 32 * 8 + 16 * 32 * 100  # routers, vocabulary
    assert graph_cost(graph).macs == pytest.approx(experts + attention + rest, rel=0.01)
    assert "2 of 8 experts are counted for each token, evenly spread" in graph.notes


def test_tokens_beyond_an_experts_capacity_are_dropped() -> None:
    """40 tokens for 4 experts of capacity 3: 12 are worked on; the note says so."""
    settings = {**SMALL["switch"], "expert_capacity": 3}
    (graph,) = capture_workload(config_workload("switch", settings), {"seq_len": 40}).graphs
    work = [call for call in graph.calls if ".expert_" in call.module and call.op == "aten.linear"]
    assert sum(call.inputs[0].shape[0] for call in work) == 2 * 2 * 12  # encoder and decoder, two layers of an expert
    assert any("capacity of 3" in note for note in graph.notes)


def test_keys_and_values_are_kept() -> None:
    """A causal model returns its cache, which takes memory until the end: 2 layers of 2 tensors."""
    (graph,) = capture_workload(config_workload("llama", SMALL["llama"]), {"seq_len": 12}).graphs
    assert sum(graph.values[i].spec.shape == (1, 2, 12, 8) for i in set(graph.outputs)) == 4


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert", "t5", "vit"])
def test_a_training_step_keeps_no_keys_and_values(family: str) -> None:
    """Forward, and two products backward for each product of the layers (images need no gradient); no token follows the step."""
    module = config_workload(family, SMALL[family])
    size = {axis.name: 12 for axis in module.axes if axis.name == "seq_len"}
    forward, step = (WorkloadGraphs(module, [size], mode=Mode(training=training)).at(size).graphs for training in (False, True))
    counted = [sum(graph_cost(graph).macs for graph in graphs) for graphs in (forward, step)]
    assert 2.4 * counted[0] < counted[1] <= 3 * counted[0] + 1
    assert not [op for graph in step for op in graph_cost(graph).unknown]


def test_well_known_models_have_a_source_and_a_name_of_their_own() -> None:
    """Each says where its sizes are published, and no other workload has its name."""
    from shmoo.harness.workloads import WORKLOADS
    from shmoo.harness.workloads.zoo import zoo_names

    for name, model in config_models().items():
        assert re.search(r"[A-Z]\w+ et al\. 20\d\d, .*(section|table|released model)", model.source), name
        assert "model_type" in model.config, name
    assert not set(config_models()) & {*WORKLOADS, *zoo_names()}
    assert find_workload("bert_base").resolve() == {"batch": 1, "seq_len": 512}
    with pytest.raises(InputError, match="did you mean 'bert_base'"):
        find_workload("bert_bass")


def test_a_model_whose_inputs_are_not_known_is_refused() -> None:
    """A model of time series takes none of the inputs that can be made: it is named, and so is the way out."""
    with pytest.raises(InputError, match=r"takes past_values.*give a factory"):
        config_workload("series", {"model_type": "time_series_transformer", "prediction_length": 4})


@pytest.mark.skipif(find_spec("timm") is not None, reason="timm is installed")
def test_a_config_that_needs_another_library_says_which() -> None:
    """The published config of DETR takes its backbone from timm."""
    settings = {"model_type": "detr", "architectures": ["DetrForObjectDetection"], "use_pretrained_backbone": True}
    with pytest.raises(InputError, match=r"'detr' needs another library.*timm"):
        config_workload("detr", settings).build(device="meta")


LLAMA = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 1000,
    "tie_word_embeddings": False,
}


def test_a_class_that_transformers_lacks_is_said() -> None:
    """The bare model stands in, without the head that nobody knows."""
    module = config_workload("mine", {**LLAMA, "architectures": ["MyLlamaForCausalLM"]})
    (note,) = module.notes
    assert "MyLlamaForCausalLM" in note
    assert "LlamaModel" in note
    assert config_workload("known", LLAMA).notes == ()


@pytest.mark.parametrize(
    "settings",
    [
        {"model_type": "clap", "architectures": ["ClapModel"]},
        {"model_type": "encodec", "architectures": ["EncodecModel"]},
        {"model_type": "my_new_model"},
        {**LLAMA, "rope_scaling": {"type": "linear"}},
        {**LLAMA, "hidden_size": "large"},
        {**LLAMA, "num_attention_heads": 0},
    ],
    ids=["clap", "encodec", "unknown", "rope", "text", "zero"],
)
def test_an_odd_config_is_one_clear_line(settings: dict) -> None:
    """The message names the config, and no traceback of transformers comes through."""
    with pytest.raises(InputError, match=r"^.*\bodd\b.*$") as refused:
        WorkloadGraphs(config_workload("odd", settings), [{}]).at({})
    assert "\n" not in str(refused.value)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(config_models()))
def test_well_known_models_have_the_published_number_of_parameters(name: str) -> None:
    """Within 2 % of what is published (papers round to two digits), without a weight in memory."""
    built = find_workload(name).build(device="meta")
    count = sum(parameter.numel() for parameter in built.model.parameters())
    published = config_models()[name].parameters
    assert count > 1e6
    if published is not None:
        assert count == pytest.approx(published, rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in config_models() if "405b" not in name and "175b" not in name])
def test_well_known_models_hold_no_unknown_operator(name: str) -> None:
    """Each is captured, and every operator has a cost."""
    graphs = capture_workload(find_workload(name)).graphs
    assert not [op for graph in graphs for op in graph_cost(graph).unknown]


@pytest.mark.slow
def test_seventy_billion_parameters_take_little_memory() -> None:
    """Llama 3 70B in bfloat16, 141 GB of weights, is captured, costed and estimated in less than 4 GB."""
    code = (
        "import json, resource\n"
        "from shmoo.estimators.predict.director import AnalysisDirector\n"
        "from shmoo.harness.machine.architectures import load_architecture\n"
        "from shmoo.harness.models.model_graphs import model_graphs\n"
        "found = model_graphs('llama3_70b', dtype='bfloat16')\n"
        "made = [AnalysisDirector(load_architecture(a)).estimate(found.graphs) for a in ('gpu_h100', 'tpu_v5p')]\n"
        "peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024\n"
        "print(json.dumps([peak, [m.weight_bytes for m in made], [m.latency_s.value for m in made]]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    peak, weights, latencies = json.loads(done.stdout.splitlines()[-1])
    assert peak < 4e9
    assert weights == pytest.approx([141.1e9] * 2, rel=0.01)
    for name, latency in zip(("gpu_h100", "tpu_v5p"), latencies, strict=True):
        assert latency > 141.1e9 / load_profile(name).value("bandwidth.dram")  # every weight is read


REFERENCE = Path(__file__).parents[3].parent / "shared" / "reference" / "model_configs"
REFERENCED = {
    "bert.json": "bert_base",
    "bert_large.json": "bert_large",
    "gpt2_med.json": "gpt2_medium",
    "gpt2_large.json": "gpt2_large",
    "gpt2_xl.json": "gpt2_xl",
    "gpt3_xl.json": "gpt3_xl",
    "gpt3_27.json": "gpt3_2_7b",
    "gpt3_67.json": "gpt3_6_7b",
    "gpt3_13.json": "gpt3_13b",
    "opt_13.json": "opt_1_3b",
    "switchxl4.json": "switch_xl_4",
}
"""Configs of models that others measured -> their names here."""


@pytest.mark.skipif(not REFERENCE.is_dir(), reason="needs the reference configs beside the repository")
@pytest.mark.parametrize(("file", "name"), REFERENCED.items())
def test_models_that_others_measured_are_known_by_name(file: str, name: str) -> None:
    """The named model's config agrees with the measured one's wherever that says anything of sizes."""
    import transformers

    measured = json.loads((REFERENCE / file).read_text())
    named = transformers.AutoConfig.for_model(**config_models()[name].config)
    other = transformers.AutoConfig.for_model(**measured)
    sizes = (
        "vocab_size",
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
        "max_position_embeddings",
    )
    more = (
        "n_inner",
        "ffn_dim",
        "d_ff",
        "d_kv",
        "num_decoder_layers",
        "num_experts",
        "encoder_sparse_step",
        "decoder_sparse_step",
    )
    for size in (*sizes, *more, "expert_capacity", "activation_function", "hidden_act"):
        assert getattr(named, size, None) == getattr(other, size, None), size
