"""Small configs of models and of quantization, to be damaged."""

from __future__ import annotations

from typing import Any

TINY_CONFIG = {
    "model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
    "vocab_size": 50, "hidden_act": "gelu", "max_position_embeddings": 64, "architectures": ["BertModel"], "is_decoder": False,
    "layer_norm_eps": 1e-12, "pad_token_id": 0, "type_vocab_size": 2,
}  # fmt: skip
_LAYERS = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
CONFIGS: dict[str, dict[str, Any]] = {
    "bert": TINY_CONFIG,
    "mixtral": {
        "model_type": "mixtral", "architectures": ["MixtralForCausalLM"], **_LAYERS, "vocab_size": 50, "num_key_value_heads": 1,
        "num_local_experts": 2, "num_experts_per_tok": 1, "torch_dtype": "bfloat16",
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        "quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 8, "modules_to_not_convert": ["lm_head"]},
    },
    "clip": {
        "model_type": "clip", "architectures": ["CLIPModel"], "projection_dim": 8,
        "text_config": {**_LAYERS, "vocab_size": 50, "max_position_embeddings": 8, "eos_token_id": 2},
        "vision_config": {**_LAYERS, "image_size": 8, "patch_size": 4},
    },
    "whisper": {
        "model_type": "whisper", "architectures": ["WhisperForConditionalGeneration"], "encoder_layers": 1, "decoder_layers": 1,
        "d_model": 16, "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16,
        "max_source_positions": 8, "num_mel_bins": 4, "vocab_size": 50, "pad_token_id": 0,
    },
}  # fmt: skip
"""A config of each kind of input, one of them quantized."""
_WEIGHTS = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 128, "symmetric": False}
QUANTIZATIONS: dict[str, dict[str, Any]] = {
    "gptq": {"bits": 4, "group_size": 128, "desc_act": False, "dynamic": {"-:.*down.*": {}, "+:.*up.*": {"bits": 8}}},
    "awq": {"bits": 4, "group_size": 64, "zero_point": True, "modules_to_not_convert": ["visual", r"re:.*mlp\.(gate|up)_proj$"]},
    "fp8": {"weight_block_size": [128, 128], "scale_fmt": "ue8m0", "expert_dtype": "fp4", "ignored_layers": ["lm_head"]},
    "bitsandbytes": {"load_in_4bit": True, "bnb_4bit_use_double_quant": True, "llm_int8_skip_modules": None},
    "compressed-tensors": {
        "format": "pack-quantized", "ignore": ["re:.*lm_head"],
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": _WEIGHTS, "input_activations": None},
                          "group_1": {"targets": ["re:.*down"], "weights": {**_WEIGHTS, "type": "float"}}},
    },
    "torchao": {"quant_type": {"default": {"_type": "Int4WeightOnlyConfig", "_data": {"group_size": 128}}}},
    "hqq": {"quant_config": {"weight_quant_params": {"nbits": 4, "group_size": 64}}},
    "mxfp4": {"modules_to_not_convert": ["model.layers.*.self_attn"]},
    "quanto": {"weights": "int8"},
}  # fmt: skip
