"""Text generation: captures of prefill and decode, and estimates of both together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from shmoo.estimators.graph.dtypes import matrix_dtype
from shmoo.estimators.predict.director import AnalysisDirector, Estimate
from shmoo.estimators.present.generation import DecodeStep, GenerationEstimate, cache_bytes, decode_contexts, generation
from shmoo.harness.models.asked import Point
from shmoo.harness.module import Capture
from shmoo.runs.store.records import AxisValue

PhaseGraphs = Callable[[str, Sequence[Point]], Callable[[Mapping[str, AxisValue]], Capture]]
"""A phase and the points of its axes "batch" and "seq_len" that will be asked for -> the graphs at a point."""


class Generator:
    """A causal language model whose generations can be estimated on many machines: each step is captured once. `InputError` where
    it is no causal language model, or a length is no generation; `CaptureError` where torch cannot capture it.

    Args:
        prompts: lengths of the prompts, in tokens. new_tokens: tokens to generate after each.
        batch: sequences at once.
        dtype: compute type of the vocabulary that was asked for; `None` for the model's own.
    """

    def __init__(
        self, graphs_of: PhaseGraphs, prompts: Sequence[int], new_tokens: int, *, batch: int = 1, dtype: str | None = None
    ) -> None:
        self.new_tokens = new_tokens
        self.batch = batch
        self.dtype = dtype
        self.contexts = {prompt: decode_contexts(prompt, new_tokens) for prompt in prompts}
        lengths = sorted({context for contexts in self.contexts.values() for context in contexts})
        self._prefill = _at_lengths(graphs_of, "prefill", prompts, batch)
        self._decode = _at_lengths(graphs_of, "decode", lengths, batch)

    @property
    def notes(self) -> tuple[str, ...]:
        """The notes of the captures, each once."""
        return tuple(dict.fromkeys(f.note for f in (*self._prefill.values(), *self._decode.values()) if f.note))

    def estimates(
        self, director: AnalysisDirector, *, runtime: str | None = None, threads: int | None = None
    ) -> Iterator[GenerationEstimate]:
        """One estimate a prompt on one machine; arguments as `AnalysisDirector.estimate` takes them."""

        def estimate(step: Capture) -> Estimate:
            return director.estimate(
                step.graphs, runtime=runtime, compute_dtype=matrix_dtype(self.dtype), threads=threads, batch=self.batch
            )

        steps = {length: DecodeStep(length, _cache(step), estimate(step)) for length, step in self._decode.items()}
        for prompt, contexts in self.contexts.items():
            prefill = self._prefill[prompt]
            yield generation(estimate(prefill), [steps[c] for c in contexts], prompt, self.new_tokens, _cache(prefill))


def _at_lengths(graphs_of: PhaseGraphs, phase: str, lengths: Sequence[int], batch: int) -> dict[int, Capture]:
    points: list[Point] = [{"batch": batch, "seq_len": length} for length in lengths]
    at = graphs_of(phase, points)
    return {length: at(point) for length, point in zip(lengths, points, strict=True)}


def _cache(step: Capture) -> float:
    """Bytes of the keys and values that a step reads, with room for the new ones."""
    return sum(cache_bytes(graph) for graph in step.graphs)
