"""Language models by phase: prefill reads a prompt at once, decode adds one token to what a key-value cache holds."""

from __future__ import annotations

from typing import Any, Literal

from shmoo.estimators.errors import InputError, unknown
from shmoo.harness.workloads.configs import DEFAULT_SEQ_LEN
from shmoo.harness.workloads.module import Built, DNNModule, Maker, dim

Phase = Literal["prefill", "decode"]
PHASES: tuple[Phase, ...] = ("prefill", "decode")
STEP_AXES = ("batch", "tokens", "past")
"""Axes of a language model of the user's own: sequences, new tokens of each, and tokens of each in the cache before them."""


def phase_of(module: DNNModule, phase: str) -> DNNModule:
    """One phase of a causal language model as a workload of its own, with axes "batch" and "seq_len".

    Prefill takes `seq_len` new tokens and an empty cache; decode takes one new token after `seq_len` that the cache holds. Both
    write keys and values into memory made beforehand, and give the logits of the last token alone, as generation does.

    Args:
        module: a workload with the axes of `STEP_AXES`, or one that builds a Hugging Face causal language model.

    Raises:
        InputError: unknown phase; when built, a model that is no causal language model.
    """
    if phase not in PHASES:
        raise unknown("phase", phase, PHASES)
    names = {axis.name: axis for axis in module.axes}
    length = names["seq_len"].default if "seq_len" in names else DEFAULT_SEQ_LEN
    batch = names["batch"].default if "batch" in names else 1

    def factory(make: Maker, *, batch: int, seq_len: int) -> Built:
        tokens, past = (seq_len, 0) if phase == "prefill" else (1, seq_len)
        if set(STEP_AXES) <= set(names):
            return module.factory(make, **_defaults(module), batch=batch, tokens=tokens, past=past)
        return _hugging_face(module, make, batch, tokens, past)

    meaning = "tokens of the prompt" if phase == "prefill" else "tokens in the cache before the new one"
    axes = (dim("batch", int(batch), "sequences at once"), dim("seq_len", int(length), meaning))
    return DNNModule(f"{module.name}:{phase}", "network", axes, factory, module.meaning)


def _defaults(module: DNNModule) -> dict[str, Any]:
    return {axis.name: axis.default for axis in module.axes if axis.name not in STEP_AXES}


def _hugging_face(module: DNNModule, make: Maker, batch: int, tokens: int, past: int) -> Built:
    small = {name: 1 for name in ("batch", "seq_len") if name in {axis.name for axis in module.axes}}
    defaults = {axis.name: axis.default for axis in module.axes}
    built = module.factory(make, **{**defaults, **small})
    if not hasattr(built.model, "config"):
        raise InputError(
            f"{module.name!r} is no causal language model; phases exist for those of transformers, and for a factory with the "
            f"parameters {', '.join(STEP_AXES)}"
        )
    try:
        from shmoo.harness.workloads.hf_cache import causal_step, is_causal
    except ImportError as error:
        raise InputError(
            f"phases of transformers' models need transformers 4.56 or newer ({error}); pip install -U transformers"
        ) from error
    if not is_causal(built.model):
        raise InputError(
            f"{module.name!r} ({type(built.model).__name__}) is no causal language model, so it has no {'/'.join(PHASES)}"
        )
    ids = make.indices(built.model.config.get_text_config().vocab_size, batch, tokens)
    step, cache = causal_step(built.model, ids, past)
    return Built(step.eval(), (ids, *cache), traced=built.traced, notes=built.notes)
