"""The cost of generating text: the prompt at once, then token by token with a growing key-value cache."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from shmoo.estimators.costs.summary import UnknownOp
from shmoo.estimators.errors import InputError
from shmoo.estimators.graph.dtypes import shown_dtype
from shmoo.estimators.graph.records import Graph, Interval
from shmoo.estimators.memory.room import MemoryRoom
from shmoo.estimators.predict.director import Estimate
from shmoo.estimators.predict.estimate_records import ALL_THREADS, Record, interval_record, memory_record, or_reason

MOST_TOKENS = 1_000_000
"""New tokens of a generation; the time of each step is added up."""
SAMPLED_CONTEXTS = 5
"""Cache lengths at which a decode step is estimated. Its work is affine in the length and its time nearly so; other lengths are
interpolated linearly."""
_INTEGERS = frozenset({"int64", "int32", "int16", "uint8", "bool"})


class DecodeStep(msgspec.Struct, frozen=True):
    """One decode step: tokens in the cache before it, bytes of the cache after it, and its estimate."""

    context: int
    cache_bytes: float
    estimate: Estimate


class GenerationEstimate(msgspec.Struct, frozen=True, kw_only=True):
    """Generating `new_tokens` after a prompt, for a batch of sequences as large as that of the prefill.

    Attributes:
        prefill: estimate of the prompt, which gives the first new token.
        time_per_output_token_s: mean over the decode steps, which give the other tokens; `None` without them.
        first_step_s, last_step_s: decode steps with the shortest and the longest cache.
        latency_s: prefill and all decode steps. tokens_per_s: new tokens of all sequences over `latency_s`.
        energy_j: prefill and all decode steps. energy_per_token_j: `energy_j` over the new tokens of all sequences.
        cache_bytes: keys and values at the end.
        memory: as in `Estimate`, at the peak.
        basis: as in `Estimate`, over the whole time.
    """

    prefill: Estimate
    prompt_tokens: int
    new_tokens: int
    time_per_output_token_s: Interval | None
    first_step_s: Interval | None
    last_step_s: Interval | None
    latency_s: Interval
    tokens_per_s: Interval
    energy_j: Interval | None
    energy_per_token_j: Interval | None
    cache_bytes: float
    peak_memory_bytes: float
    memory: MemoryRoom
    flops: float
    unknown_ops: tuple[UnknownOp, ...]
    basis: dict[str, float]


def decode_contexts(prompt_tokens: int, new_tokens: int) -> tuple[int, ...]:
    """Cache lengths at which to estimate the decode steps of a generation: evenly spread from the first step's, `prompt_tokens`,
    to the last one's; none where prefill gives the only token.

    Raises:
        InputError: numbers of tokens below 1, or more than `MOST_TOKENS`.
    """
    if new_tokens > MOST_TOKENS:
        raise InputError(f"a generation has at most {MOST_TOKENS} new tokens, got {new_tokens}")
    if prompt_tokens < 1 or new_tokens < 1:
        raise InputError(f"a generation has at least one token of prompt and one new one, got {prompt_tokens} and {new_tokens}")
    steps = new_tokens - 1
    if steps == 0:
        return ()
    return tuple(
        dict.fromkeys(round(c) for c in np.linspace(prompt_tokens, prompt_tokens + steps - 1, min(SAMPLED_CONTEXTS, steps)))
    )


def cache_bytes(graph: Graph) -> float:
    """Bytes of the inputs of a language model's step beside token numbers: its keys and values, with room for new ones."""
    inputs = (value for value in graph.values if value.kind == "input" and value.storage is None)
    return sum(value.spec.nbytes for value in inputs if value.spec.dtype not in _INTEGERS)


def generation(
    prefill: Estimate, steps: Sequence[DecodeStep], prompt_tokens: int, new_tokens: int, prompt_cache_bytes: float = 0.0
) -> GenerationEstimate:
    """Add up a generation: the prefill of `prompt_tokens`, which leaves a cache of `prompt_cache_bytes`, and decode steps at the
    lengths of `decode_contexts`, ascending; `InputError` where a step is needed and there is none."""
    count = new_tokens - 1
    if count and not steps:
        raise InputError(f"{new_tokens} new tokens take {count} decode steps, and none was estimated")
    contexts = prompt_tokens + np.arange(count)
    sampled_contexts = np.array([step.context for step in steps], dtype=float)

    def total(values: Sequence[Interval | None]) -> Interval | None:
        """The sum over all steps, interpolated between the estimated ones."""
        intervals = [value for value in values if value is not None]
        if not count or len(intervals) < len(values):
            return None
        ends = [[getattr(value, end) for value in intervals] for end in ("value", "low", "high")]
        value, low, high = (float(np.interp(contexts, sampled_contexts, end).sum()) for end in ends)
        return Interval(value, min(low, value), max(high, value))

    decode = total([step.estimate.latency_s for step in steps])
    decode_j = total([step.estimate.energy_j for step in steps])
    latency = _sum(prefill.latency_s, decode)
    energy = None if prefill.energy_j is None or (count and decode_j is None) else _sum(prefill.energy_j, decode_j)
    tokens = prefill.batch * new_tokens
    last_step = steps[-1] if count else None
    cache = prompt_cache_bytes if last_step is None else last_step.cache_bytes
    peak = max([prefill.peak_memory_bytes, *(step.estimate.peak_memory_bytes for step in steps)])
    activation_bytes = max(peak - cache - prefill.memory.weight_bytes, 0.0)
    phases = [(prefill.latency_s.value, prefill.basis)]
    if decode is not None:
        phases += [(decode.value / len(steps), step.estimate.basis) for step in steps]
    total_s = sum(seconds for seconds, _ in phases)
    return GenerationEstimate(
        prefill=prefill,
        prompt_tokens=prompt_tokens,
        new_tokens=new_tokens,
        time_per_output_token_s=None if decode is None else decode.scaled(1 / count),
        first_step_s=steps[0].estimate.latency_s if count else None,
        last_step_s=None if last_step is None else last_step.estimate.latency_s,
        latency_s=latency,
        tokens_per_s=latency.dividing(tokens),
        energy_j=energy,
        energy_per_token_j=None if energy is None else energy.scaled(1 / tokens),
        cache_bytes=cache,
        peak_memory_bytes=peak,
        memory=msgspec.structs.replace(prefill.memory, cache_bytes=cache, activation_bytes=activation_bytes),
        flops=prefill.flops
        + (float(np.interp(contexts, sampled_contexts, [s.estimate.flops for s in steps]).sum()) if count else 0.0),
        unknown_ops=prefill.unknown_ops + (() if last_step is None else last_step.estimate.unknown_ops),
        basis={name: sum(seconds * basis[name] for seconds, basis in phases) / total_s for name in prefill.basis},
    )


def _sum(a: Interval, b: Interval | None) -> Interval:
    return a if b is None else Interval(a.value + b.value, a.low + b.low, a.high + b.high)


INTERVALS = (
    "time_to_first_token_s", "time_per_output_token_s", "first_step_s", "last_step_s", "latency_s", "tokens_per_s",
    "prefill_energy_j", "energy_per_token_j", "energy_j",
)  # fmt: skip
"""Fields of a record with an interval."""


def generation_record(estimate: GenerationEstimate, model: str) -> Record:
    """An estimate as an object of plain types, intervals as {"value", "low", "high"}; `None` beside "<field>_reason"."""
    prefill = estimate.prefill
    record: Record = {"model": model}
    record |= {name: getattr(prefill, name) for name in ("arch", "batch", "dtype", "runtime", "threads")}
    record["dtype"] = shown_dtype(prefill.dtype)
    record |= {name: getattr(estimate, name) for name in ("prompt_tokens", "new_tokens", "cache_bytes")}
    record |= {"weight_bytes": prefill.weight_bytes, "peak_memory_bytes": estimate.peak_memory_bytes, "flops": estimate.flops}
    record |= memory_record(estimate.memory)
    record |= or_reason("threads", prefill.threads, ALL_THREADS)
    of_prefill = {"time_to_first_token_s": prefill.latency_s, "prefill_energy_j": prefill.energy_j}
    for name in INTERVALS:
        value = of_prefill[name] if name in of_prefill else getattr(estimate, name)
        unknown_energy = prefill.energy_j_reason if "energy" in name else ""
        record |= or_reason(name, interval_record(value), unknown_energy or "the prefill gives the only new token")
    record["unknown_ops"] = list(map(msgspec.structs.asdict, estimate.unknown_ops))
    record["basis"] = dict(estimate.basis)
    return record
