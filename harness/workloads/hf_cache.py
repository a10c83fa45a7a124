"""One step of a Hugging Face causal language model with its key-value cache as plain tensors. Importing it needs transformers."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from shmoo.estimators.errors import InputError


class _Slots(DynamicLayer):
    """Keys and values in memory made beforehand for `past` tokens and the new ones, which are written in place."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, past: int) -> None:
        super().__init__()
        self.keys, self.values, self.past = keys, values, past
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the new tokens' keys and values behind the past ones; returns all."""
        self.keys[..., self.past :, :] = key_states
        self.values[..., self.past :, :] = value_states
        return self.keys, self.values

    def get_seq_length(self) -> int:
        return self.past


class _Window(DynamicSlidingWindowLayer):
    """The last keys and values of a layer that looks back over a window of tokens, after `past` of them."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, window: int, past: int) -> None:
        super().__init__(window)
        self.keys, self.values, self.cumulative_length = keys, values, past
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True


class CausalStep(torch.nn.Module):
    """`forward(tokens, *cache)`: the logits of the last of `tokens`, after a cache that holds the tokens before them.

    The cache is two tensors a layer, (batch, key heads, past + new tokens, width of a head); a layer that looks back over a
    window has at most window - 1 past tokens and no room for new ones, as transformers keeps them.
    """

    def __init__(self, model: torch.nn.Module, windows: tuple[int, ...], past: int | None) -> None:
        super().__init__()
        self.model = model
        self.windows = windows
        self.past = past
        self.options: dict[str, Any] = {"use_cache": True}
        if "logits_to_keep" in inspect.signature(model.forward).parameters:
            self.options["logits_to_keep"] = 1

    def forward(self, tokens: torch.Tensor, *cache: torch.Tensor) -> torch.Tensor:
        past = cache[self.windows.index(0) * 2].shape[-2] - tokens.shape[1] if self.past is None else self.past
        pairs = zip(cache[::2], cache[1::2], self.windows, strict=True)
        layers = [_Window(k, v, window, past) if window else _Slots(k, v, past) for k, v, window in pairs]
        held = DynamicCache()
        held.layers = layers
        held.layer_class_to_replicate = None
        return self.model(input_ids=tokens, past_key_values=held, **self.options)[0]


def is_causal(model: Any) -> bool:
    """Whether this is a language model that takes a key-value cache and has no encoder."""
    config = getattr(model, "config", None)
    if config is None or getattr(config, "is_encoder_decoder", False) or not isinstance(model, torch.nn.Module):
        return False
    taken = inspect.signature(model.forward).parameters
    return "past_key_values" in taken and "input_ids" in taken


def causal_step(model: torch.nn.Module, tokens: torch.Tensor, past: int) -> tuple[CausalStep, tuple[torch.Tensor, ...]]:
    """The step and its cache for `tokens` (batch, new) after `past` tokens, on the tokens' device.

    Raises:
        InputError: a layer keeps something else than keys and values.
    """
    batch, new = tokens.shape
    probe = DynamicCache(config=model.config)
    with torch.no_grad():
        model(input_ids=tokens[:1, :1], past_key_values=probe, use_cache=True)
    cache: list[torch.Tensor] = []
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
        for seen in (layer.keys, layer.values):
            cache.append(torch.zeros(batch, seen.shape[1], length, seen.shape[-1], dtype=seen.dtype, device=seen.device))
    # Where every layer has a window, sizes do not tell how many tokens came before.
    return CausalStep(model, tuple(windows), None if 0 in windows else past), tuple(cache)
