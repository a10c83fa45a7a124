"""One step of a Hugging Face causal language model with its key-value cache as plain tensors. Needs transformers."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from shmoo.estimators.errors import InputError


class _Slots(DynamicLayer):
    """Keys and values in preallocated memory for `past` and new tokens; new ones are written in place."""

    def __init__(self, keys: Tensor, values: Tensor, past: int) -> None:
        super().__init__()
        self.keys, self.values, self.past = keys, values, past
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write the new tokens' keys and values after the past ones; returns all."""
        self.keys[..., self.past :, :] = key_states
        self.values[..., self.past :, :] = value_states
        return self.keys, self.values

    def get_seq_length(self) -> int:
        return self.past


class _Window(DynamicSlidingWindowLayer):
    """The last keys and values of a layer with a sliding window, after `past` tokens."""

    def __init__(self, keys: Tensor, values: Tensor, window: int, past: int) -> None:
        super().__init__(window)
        self.keys, self.values, self.cumulative_length = keys, values, past
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True


class CausalStep(torch.nn.Module):
    """`forward(tokens, *cache)`: the logits of the last of `tokens`, after a cache of the tokens before them.

    The cache has two tensors per layer, (batch, key heads, past + new tokens, width of a head); a layer with a sliding window has
    at most window - 1 past tokens and no room for new ones, as in transformers.
    """

    def __init__(self, model: torch.nn.Module, windows: tuple[int, ...], past: int | None) -> None:
        super().__init__()
        self.model, self.windows, self.past = model, windows, past
        self.options: dict[str, Any] = {"use_cache": True}
        if "logits_to_keep" in inspect.signature(model.forward).parameters:
            self.options["logits_to_keep"] = 1

    def forward(self, tokens: Tensor, *cache: Tensor) -> Tensor:
        """Logits of the tokens (batch, length) that follow the tokens in the cache."""
        past = cache[self.windows.index(0) * 2].shape[-2] - tokens.shape[1] if self.past is None else self.past
        pairs = zip(cache[::2], cache[1::2], self.windows, strict=True)
        layers = DynamicCache()
        layers.layers = [_Window(k, v, window, past) if window else _Slots(k, v, past) for k, v, window in pairs]
        layers.layer_class_to_replicate = None
        return self.model(input_ids=tokens, past_key_values=layers, **self.options)[0]


def is_causal(model: Any) -> bool:
    """Whether the model takes tokens and a key-value cache and has no encoder."""
    config = getattr(model, "config", None)
    if config is None or getattr(config, "is_encoder_decoder", False) or not isinstance(model, torch.nn.Module):
        return False
    return {"past_key_values", "input_ids"} <= set(inspect.signature(model.forward).parameters)


def causal_step(model: torch.nn.Module, tokens: Tensor, past: int) -> tuple[CausalStep, tuple[Tensor, ...]]:
    """The step and its cache for `tokens` (batch, new) after `past` tokens, on the tokens' device; `InputError` where a layer
    caches something other than keys and values."""
    batch, new = tokens.shape
    probe = DynamicCache(config=model.config)
    with torch.no_grad():
        model(input_ids=tokens[:1, :1], past_key_values=probe, use_cache=True)
    cache: list[Tensor] = []
    windows: list[int] = []
    for i, layer in enumerate(probe.layers):
        if type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer):
            raise InputError(
                f"layer {i} of {type(model).__name__} keeps a {type(layer).__name__}; generation is estimated for models whose "
                "layers keep keys and values, all of them or those of a window"
            )
        window = layer.sliding_window if isinstance(layer, DynamicSlidingWindowLayer) else 0
        length = min(past, window - 1) if window else past + new
        windows.append(window)
        cache += [states.new_zeros(batch, states.shape[1], length, states.shape[-1]) for states in (layer.keys, layer.values)]
    # If every layer has a window, the cache's sizes do not show the number of past tokens.
    return CausalStep(model, tuple(windows), None if 0 in windows else past), tuple(cache)
