"""What generating text costs: the prompt at once, then token by token with a key-value cache that grows."""

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
from shmoo.estimators.predict.tabular import ALL_THREADS, Record, interval_record, memory_record, or_reason

MOST_TOKENS = 1_000_000
"""New tokens of a generation; the time of each step is added up."""
SAMPLED_CONTEXTS = 5
"""Cache lengths at which a decode step is estimated. Its work is affine in the length, its time nearly so: between them it is
taken from the straight line."""
_INTEGERS = frozenset({"int64", "int32", "int16", "uint8", "bool"})


class DecodeStep(msgspec.Struct, frozen=True):
    """One decode step: tokens in the cache before it, bytes of the cache after it, and its estimate."""

    context: int
    cache_bytes: float
    estimate: Estimate


class GenerationEstimate(msgspec.Struct, frozen=True, kw_only=True):
    """Generating `new_tokens` after a prompt, for `batch` sequences at once. Not known: `None` with a sibling `_reason`.

    Attributes:
        time_to_first_token_s: the prefill, which gives the first new token.
        time_per_output_token_s: mean over the decode steps that give the others; `None` where there are none.
        first_step_s, last_step_s: of these steps, with the shortest and the longest cache.
        latency_s: prefill and all decode steps. tokens_per_s: new tokens of all sequences over it.
        prefill_energy_j: of the prefill. energy_per_token_j: mean of a decode step over its `batch` tokens. energy_j: of all.
        cache_bytes: keys and values at the end.
        memory: as in `Estimate`, when most is in memory.
        basis: as in `Estimate`, over all of the time.
    """

    arch: str
    dtype: str
    runtime: str
    threads: int | None
    batch: int
    prompt_tokens: int
    new_tokens: int
    time_to_first_token_s: Interval
    time_per_output_token_s: Interval | None
    first_step_s: Interval | None
    last_step_s: Interval | None
    latency_s: Interval
    tokens_per_s: Interval
    prefill_energy_j: Interval | None
    energy_per_token_j: Interval | None
    energy_j: Interval | None
    cache_bytes: float
    weight_bytes: float
    peak_memory_bytes: float
    memory: MemoryRoom
    flops: float
    decode_reason: str = ""
    energy_reason: str = ""
    unknown_ops: tuple[UnknownOp, ...] = ()
    basis: dict[str, float] = {}


def decode_contexts(prompt_tokens: int, new_tokens: int) -> tuple[int, ...]:
    """Cache lengths at which to estimate the decode steps of a generation: evenly spread from the first step's, `prompt_tokens`,
    to the last one's, both included; none where prefill gives all there is."""
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
    """Bytes of what enters a language model's step beside token numbers: its keys and values, with room for the new ones."""
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
    sampled = np.array([step.context for step in steps], dtype=float)

    def total(values: Sequence[Interval | None]) -> Interval | None:
        """The sum over all steps of what was estimated at some."""
        known = [value for value in values if value is not None]
        if not count or len(known) < len(values):
            return None
        ends = [[getattr(value, end) for value in known] for end in ("value", "low", "high")]
        value, low, high = (float(np.interp(contexts, sampled, end).sum()) for end in ends)
        return Interval(value, min(low, value), max(high, value))

    decode = total([step.estimate.latency_s for step in steps])
    decode_j = total([step.estimate.energy_j for step in steps])
    latency = _sum(prefill.latency_s, decode)
    energy = None if prefill.energy_j is None or (count and decode_j is None) else _sum(prefill.energy_j, decode_j)
    tokens = prefill.batch * new_tokens
    last = steps[-1] if count else None
    cache = prompt_cache_bytes if last is None else last.cache_bytes
    peak = max([prefill.peak_memory_bytes, *(step.estimate.peak_memory_bytes for step in steps)])
    others = max(peak - cache - prefill.memory.weight_bytes, 0.0)
    weights = [(prefill.latency_s.value, prefill.basis)]
    if decode is not None:
        weights += [(decode.value / len(steps), step.estimate.basis) for step in steps]
    return GenerationEstimate(
        arch=prefill.arch,
        dtype=prefill.dtype,
        runtime=prefill.runtime,
        threads=prefill.threads,
        batch=prefill.batch,
        prompt_tokens=prompt_tokens,
        new_tokens=new_tokens,
        time_to_first_token_s=prefill.latency_s,
        time_per_output_token_s=None if decode is None else _scaled(decode, 1 / count),
        first_step_s=steps[0].estimate.latency_s if count else None,
        last_step_s=None if last is None else last.estimate.latency_s,
        latency_s=latency,
        tokens_per_s=Interval(tokens / latency.value, tokens / latency.high, tokens / latency.low),
        prefill_energy_j=prefill.energy_j,
        energy_per_token_j=None if decode_j is None else _scaled(decode_j, 1 / (count * prefill.batch)),
        energy_j=energy,
        cache_bytes=cache,
        weight_bytes=prefill.weight_bytes,
        peak_memory_bytes=peak,
        memory=msgspec.structs.replace(prefill.memory, cache_bytes=cache, activation_bytes=others),
        flops=prefill.flops + (float(np.interp(contexts, sampled, [s.estimate.flops for s in steps]).sum()) if count else 0.0),
        decode_reason="" if count else "the prefill gives the only new token",
        energy_reason=prefill.energy_j_reason,
        unknown_ops=prefill.unknown_ops + (() if last is None else last.estimate.unknown_ops),
        basis=_mean_basis(weights),
    )


def _sum(a: Interval, b: Interval | None) -> Interval:
    return a if b is None else Interval(a.value + b.value, a.low + b.low, a.high + b.high)


def _scaled(interval: Interval, factor: float) -> Interval:
    return Interval(interval.value * factor, interval.low * factor, interval.high * factor)


def _mean_basis(parts: Sequence[tuple[float, dict[str, float]]]) -> dict[str, float]:
    """Shares, weighted by the time they are shares of."""
    whole = sum(weight for weight, _ in parts)
    return {name: sum(weight * basis[name] for weight, basis in parts) / whole for name in parts[0][1]}


INTERVALS = {
    "time_to_first_token_s": "",
    "time_per_output_token_s": "decode_reason",
    "first_step_s": "decode_reason",
    "last_step_s": "decode_reason",
    "latency_s": "",
    "tokens_per_s": "",
    "prefill_energy_j": "energy_reason",
    "energy_per_token_j": "energy_reason",
    "energy_j": "energy_reason",
}
"""Fields with an interval -> the field that says why it may be unknown."""
_PLAIN = ("batch", "dtype", "runtime", "threads", "prompt_tokens", "new_tokens", "cache_bytes", "weight_bytes")


def generation_record(estimate: GenerationEstimate, model: str) -> Record:
    """An estimate as an object of plain types, intervals as {"value", "low", "high"}; `None` beside "<field>_reason"."""
    record: Record = {"model": model, "arch": estimate.arch}
    record.update((name, getattr(estimate, name)) for name in (*_PLAIN, "peak_memory_bytes", "flops"))
    record["dtype"] = shown_dtype(estimate.dtype)
    record |= memory_record(estimate.memory)
    record |= or_reason("threads", estimate.threads, ALL_THREADS)
    for name, reason in INTERVALS.items():
        why = getattr(estimate, reason) if reason else ""
        record |= or_reason(name, interval_record(getattr(estimate, name)), why or estimate.decode_reason)
    record["unknown_ops"] = list(map(msgspec.structs.asdict, estimate.unknown_ops))
    record["basis"] = dict(estimate.basis)
    return record
