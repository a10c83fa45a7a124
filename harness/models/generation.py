"""Text generation: captures of prefill and decode, and estimates of both together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import msgspec

from shmoo.estimators.graph.dtypes import matrix_dtype
from shmoo.estimators.predict.director import AnalysisDirector, Estimate
from shmoo.estimators.present.generation import DecodeStep, GenerationEstimate, cache_bytes, decode_contexts, generation
from shmoo.estimators.progress import Progress, Standing, silent
from shmoo.harness.models.capture_cache import ModelSource
from shmoo.harness.models.request import ModelRequest, Point
from shmoo.harness.module import Capture


class Generator:
    """A causal language model whose generations can be estimated on many machines; each step is captured once. `InputError` where
    it is not a causal language model, or a length is invalid; `CaptureError` where torch cannot capture it.

    Args:
        asked: the model; its phase and points are left out of account.
        prompts: lengths of the prompts, in tokens. new_tokens: tokens to generate after each.
        batch: sequences per call.
        open_source: makes the source of a request's graphs.
    """

    def __init__(
        self,
        request: ModelRequest,
        prompts: Sequence[int],
        new_tokens: int,
        batch: int = 1,
        open_source: Callable[[ModelRequest], ModelSource] = ModelSource,
        progress: Progress = silent,
    ) -> None:
        self._request, self._new_tokens, self._batch = request, new_tokens, batch
        self._contexts = {prompt: decode_contexts(prompt, new_tokens) for prompt in prompts}

        def at_lengths(phase: str, lengths: Sequence[int]) -> dict[int, Capture]:
            points: list[Point] = [{"batch": batch, "seq_len": length} for length in lengths]
            mode, stage = msgspec.structs.replace(request.mode, phase=phase), f"capturing {phase} of {request.model}"
            source = open_source(msgspec.structs.replace(request, mode=mode, points=tuple(points)))
            captures: dict[int, Capture] = {}
            progress(Standing(stage, 0, len(points)))
            for done_count, (length, point) in enumerate(zip(lengths, points, strict=True), 1):
                captures[length] = source.at(point)
                progress(Standing(stage, done_count, len(points)))
            return captures

        self._prefill = at_lengths("prefill", prompts)
        self._decode = at_lengths("decode", sorted({context for contexts in self._contexts.values() for context in contexts}))

    @property
    def recapture_notes(self) -> tuple[str, ...]:
        """The notes of the captures that one capture with symbolic sizes could not serve, each once."""
        steps = (*self._prefill.values(), *self._decode.values())
        return tuple(dict.fromkeys(step.note for step in steps if step.recaptured))

    def estimates(
        self, director: AnalysisDirector, *, runtime: str | None = None, threads: int | None = None
    ) -> Iterator[GenerationEstimate]:
        """One estimate per prompt on one machine; arguments as for `AnalysisDirector.estimate`."""
        arithmetic = matrix_dtype(self._request.dtype)

        def estimate(step: Capture) -> Estimate:
            return director.estimate(step.graphs, runtime=runtime, compute_dtype=arithmetic, threads=threads, batch=self._batch)

        steps = {length: DecodeStep(length, _cache(step), estimate(step)) for length, step in self._decode.items()}
        for prompt, contexts in self._contexts.items():
            prefill = self._prefill[prompt]
            yield generation(estimate(prefill), [steps[c] for c in contexts], prompt, self._new_tokens, _cache(prefill))


def _cache(step: Capture) -> float:
    """Bytes of the keys and values that a step reads, including space for the new ones."""
    return sum(cache_bytes(graph) for graph in step.graphs)
