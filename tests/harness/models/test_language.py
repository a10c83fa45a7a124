"""Language models by phase: work and cache by closed form, on models small enough to count by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from shmoo.estimators.costs import graph_cost
from shmoo.estimators.errors import InputError
from shmoo.estimators.machine.profile import load_profile
from shmoo.estimators.predict.director import AnalysisDirector
from shmoo.estimators.present.generation import cache_bytes
from shmoo.harness.capture import capture_workload
from shmoo.harness.models.generation import Generator
from shmoo.harness.models.model_graphs import WorkloadGraphs, model_graphs, phase_of
from shmoo.harness.models.request import Mode, ModelRequest
from shmoo.harness.module import Built, DNNModule, dim

transformers = pytest.importorskip("transformers", reason="needs the extra 'models'")

LLAMA = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 101,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
GPT2 = {
    "model_type": "gpt2",
    "architectures": ["GPT2LMHeadModel"],
    "vocab_size": 101,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 512,
}
LLAMA_LAYER = 32 * (32 + 2 * 16 + 32) + 3 * 32 * 48
"""Multiply-adds of a layer for a token: queries, keys and values of 2 heads of 8, output, three matrices of the MLP."""
GPT2_LAYER = 32 * (3 * 32 + 32) + 2 * 32 * 128


@pytest.fixture(autouse=True)
def _in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHMOO_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    Path("llama.json").write_text(json.dumps(LLAMA))
    Path("gpt2.json").write_text(json.dumps(GPT2))


def graph_of(model: str, phase: str, seq_len: int, batch: int = 1, dtype: str = "float32"):
    (graph,) = model_graphs(model, batch=batch, seq_len=seq_len, dtype=dtype, mode=Mode(phase=phase)).graphs
    return graph


@pytest.mark.parametrize(("model", "layers", "per_layer"), [("hf:llama.json", 3, LLAMA_LAYER), ("hf:gpt2.json", 2, GPT2_LAYER)])
def test_a_decode_step_reads_what_the_cache_holds(model: str, layers: int, per_layer: int) -> None:
    """One token through every matrix, and attention of 4 heads of 8 over the cache and the token itself."""
    for length in (7, 19):
        total = graph_cost(graph_of(model, "decode", length))
        assert not total.unknown
        assert total.macs == pytest.approx(layers * (per_layer + 2 * 4 * 8 * (length + 1)) + 32 * 101, rel=1e-3)


@pytest.mark.parametrize(("model", "layers", "per_layer"), [("hf:llama.json", 3, LLAMA_LAYER), ("hf:gpt2.json", 2, GPT2_LAYER)])
def test_prefill_takes_the_whole_prompt_and_gives_one_row_of_logits(model: str, layers: int, per_layer: int) -> None:
    """Every token through every matrix but the last, all pairs of tokens in attention."""
    total = graph_cost(graph_of(model, "prefill", 11, batch=2))
    assert total.macs == pytest.approx(2 * (layers * (11 * per_layer + 2 * 4 * 8 * 11 * 11) + 32 * 101), rel=1e-3)


@pytest.mark.parametrize(("model", "layers", "heads"), [("hf:llama.json", 3, 2), ("hf:gpt2.json", 2, 4)])
def test_the_cache_holds_keys_and_values_of_every_token(model: str, layers: int, heads: int) -> None:
    """2 x layers x key heads x 8 x tokens x bytes of an element, the new token's included."""
    for dtype, width in (("float32", 4), ("bfloat16", 2)):
        assert cache_bytes(graph_of(model, "decode", 15, 3, dtype)) == 3 * 2 * layers * heads * 8 * 16 * width
    assert cache_bytes(graph_of(model, "prefill", 16)) == 2 * layers * heads * 8 * 16 * 4


def test_a_step_writes_its_own_keys_and_values_alone() -> None:
    """The cache is written in place: 2 x 3 layers x 2 heads x 8 elements, whatever it holds."""
    graph = graph_of("hf:llama.json", "decode", 64)
    copies = [call for call in graph.calls if call.op == "aten.copy"]
    assert sum(call.outputs[0].nbytes for call in copies) == 2 * 3 * 2 * 8 * 4
    assert not any(call.op == "aten.cat" and call.outputs[0].shape[-2] == 65 for call in graph.calls)


def test_a_step_computes_what_generation_computes() -> None:
    """Prefill and a decode step with the cache give the logits of the whole text read at once."""
    from shmoo.harness.models.causal_step import causal_step

    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(**{k: v for k, v in LLAMA.items() if k != "architectures"})
    ).eval()
    tokens = torch.randint(101, (2, 6))
    with torch.no_grad():
        step, cache = causal_step(model, tokens[:, :5], 0)
        step(tokens[:, :5], *cache)
        after, room = causal_step(model, tokens[:, 5:], 5)
        for slots, filled in zip(room, cache, strict=True):
            slots[..., :5, :] = filled
        torch.testing.assert_close(after(tokens[:, 5:], *room)[:, -1], model(tokens).logits[:, -1])


def generator(module: DNNModule, prompts: tuple[int, ...], new_tokens: int, dtype: str = "float32") -> Generator:
    """A generation of a workload that has no name."""

    def opened(asked: ModelRequest) -> WorkloadGraphs:
        return WorkloadGraphs(phase_of(module, asked.mode.phase), asked.points, asked.dtype, asked.mode)

    return Generator(ModelRequest(module.name, dtype), prompts, new_tokens, open_source=opened)


def test_generation_is_the_sum_of_its_steps() -> None:
    """Time of every single decode step, captured and estimated alone, adds up to the interpolated sum within 1 %."""
    module = _resolve("hf:llama.json")
    director = AnalysisDirector(load_profile("gpu_h100"))
    (found,) = generator(module, (16,), 8, "bfloat16").estimates(director)
    decode = phase_of(module, "decode")
    alone = [
        director.estimate(capture_workload(decode, {"seq_len": context}, "bfloat16").graphs) for context in range(16, 16 + 7)
    ]
    assert found.time_per_output_token_s.value == pytest.approx(sum(e.latency_s.value for e in alone) / 7, rel=0.01)
    whole = found.prefill.energy_j.value + sum(e.energy_j.value for e in alone)
    assert found.energy_per_token_j.value == pytest.approx(whole / 8, rel=0.01)
    assert found.cache_bytes == 2 * 3 * 2 * 8 * (16 + 7) * 2
    assert found.latency_s.value == pytest.approx(found.prefill.latency_s.value + 7 * found.time_per_output_token_s.value)


def test_decode_lengths_share_one_capture() -> None:
    """The cache's length is a symbol: the steps of a generation come from one capture."""
    made = generator(_resolve("hf:llama.json"), (16, 64), 12)
    assert made.recapture_notes == ()


def test_a_window_bounds_the_cache() -> None:
    """Layers that look back over 8 tokens keep 7 of them, however long the text."""
    config = {
        "model_type": "mistral", "architectures": ["MistralForCausalLM"], "vocab_size": 101, "hidden_size": 32,
        "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "sliding_window": 8,
    }  # fmt: skip
    Path("mistral.json").write_text(json.dumps(config))
    macs = [graph_cost(graph_of("hf:mistral.json", "decode", length)).macs for length in (4, 30, 60)]
    assert cache_bytes(graph_of("hf:mistral.json", "decode", 30)) == 2 * 2 * 2 * 8 * 7 * 4
    assert macs[0] < macs[1] == macs[2]


def test_a_model_of_ones_own_says_how_its_step_is_built() -> None:
    """A workload with the axes batch, tokens and past is asked for each phase's."""

    class Attention(torch.nn.Module):
        def forward(self, x, past):
            keys = torch.cat([past, x], 1)
            return torch.nn.functional.scaled_dot_product_attention(x, keys, keys)

    def factory(make, *, batch: int, tokens: int, past: int) -> Built:
        return Built(Attention(), (make.tensor(batch, tokens, 8), make.tensor(batch, past, 8)))

    axes = (dim("batch", 1, "sequences"), dim("tokens", 1, "new tokens"), dim("past", 0, "tokens before", low=0))
    module = phase_of(DNNModule("own", "network", axes, factory), "decode")
    (graph,) = capture_workload(module, {"batch": 2, "seq_len": 9}).graphs
    assert graph_cost(graph).macs == 2 * 2 * 8 * 10


def test_a_factory_of_ones_own_has_phases(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whole numbers among its parameters are axes, and with those of a step it is a language model."""
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("own_step.py").write_text(
        "import torch\n"
        "class Step(torch.nn.Module):\n"
        "    def forward(self, x, past):\n"
        "        keys = torch.cat([past, x], 1)\n"
        "        return torch.nn.functional.scaled_dot_product_attention(x, keys, keys)\n"
        "def build(batch=1, tokens=1, past=0, width=8):\n"
        "    return Step(), (torch.rand(batch, tokens, width), torch.rand(batch, past, width))\n"
    )
    assert graph_cost(graph_of("own_step:build", "decode", 9, batch=2)).macs == 2 * 2 * 8 * 10
    assert graph_cost(graph_of("own_step:build", "prefill", 9)).macs == 2 * 8 * 9 * 9


def test_models_without_phases_say_so() -> None:
    """A network for images, and an unknown phase."""
    with pytest.raises(InputError, match="not a causal language model"):
        model_graphs("resnet18", mode=Mode(phase="decode"))
    with pytest.raises(InputError, match="did you mean 'decode'"):
        model_graphs("hf:llama.json", mode=Mode(phase="decoding"))


def test_generate_writes_the_fields_of_a_generation() -> None:
    """One object for each prompt, batch and architecture, intervals in SI units."""
    arguments = [
        "generate",
        "hf:llama.json",
        "--prompt",
        "16,32",
        "--new",
        "8",
        "--arch",
        "gpu_h100,kpu_t64",
        "--json",
        "--csv",
        "g.csv",
    ]
    result = CliRunner().invoke(_cli(), arguments)
    assert result.exit_code == 0, result.output
    records = json.loads(result.stdout)
    assert [(r["arch"], r["prompt_tokens"]) for r in records] == [
        (arch, prompt) for arch in ("gpu_h100", "kpu_t64") for prompt in (16, 32)
    ]
    for record in records:
        step = record["time_per_output_token_s"]
        assert step["low"] <= step["value"] <= step["high"]
        assert record["cache_bytes"] == 2 * 3 * 2 * 8 * (record["prompt_tokens"] + 7) * 4
        assert sum(record["basis"].values()) == pytest.approx(1)
    assert len(Path("g.csv").read_text().splitlines()) == 1 + len(records)


def test_estimate_takes_a_phase() -> None:
    """Decode at a length is one token's work."""
    arguments = ["estimate", "hf:llama.json", "--phase", "decode", "--seq-len", "32", "--arch", "gpu_h100", "--json"]
    result = CliRunner().invoke(_cli(), arguments)
    assert result.exit_code == 0, result.output
    (record,) = json.loads(result.stdout)
    assert record["macs"] == pytest.approx(3 * (LLAMA_LAYER + 2 * 4 * 8 * 33) + 32 * 101, rel=1e-3)


def _resolve(text: str) -> DNNModule:
    from shmoo.harness.workloads import resolve_model

    return resolve_model(text)


def _cli():
    from shmoo.harness.cli.app import cli

    return cli
