"""Text generation: captures of prefill and decode, and estimates of both together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from shmoo.estimators.graph.dtypes import matrix_dtype
from shmoo.estimators.predict.director import AnalysisDirector, Estimate
from shmoo.estimators.present.generation import DecodeStep, GenerationEstimate, cache_bytes, decode_contexts, generation
from shmoo.harness.models.mode import Mode
from shmoo.harness.models.model_graphs import ModelGraphs, WorkloadGraphs, phase_of
from shmoo.harness.module import DNNModule


class Generator:
    """A causal language model whose generations can be estimated on many machines: each step is captured once.

    Args:
        model: a workload that `phase_of` takes.
        prompts: lengths of the prompts, in tokens. new_tokens: tokens to generate after each.
        batch: sequences at once.
        dtype: compute type of the vocabulary.
        quantize: one of `estimators.quantize.SCHEMES`, or `None`.

    Raises:
        InputError: not a causal language model, or a length that is no generation.
        CaptureError: torch cannot capture it.
    """

    def __init__(
        self,
        model: DNNModule,
        prompts: Sequence[int],
        new_tokens: int,
        *,
        batch: int = 1,
        dtype: str = "float32",
        quantize: str | None = None,
    ) -> None:
        self.new_tokens = new_tokens
        self.batch = batch
        self.dtype = dtype
        self.contexts = {prompt: decode_contexts(prompt, new_tokens) for prompt in prompts}
        lengths = sorted({context for contexts in self.contexts.values() for context in contexts})
        mode = Mode(quantize=quantize)
        self._prefill = _captured(phase_of(model, "prefill"), prompts, batch, dtype, mode)
        self._decode = _captured(phase_of(model, "decode"), lengths, batch, dtype, mode)

    @property
    def notes(self) -> tuple[str, ...]:
        """The notes of the captures, each once."""
        return tuple(dict.fromkeys(f.note for f in (*self._prefill.values(), *self._decode.values()) if f.note))

    def estimates(
        self, director: AnalysisDirector, *, runtime: str | None = None, threads: int | None = None
    ) -> Iterator[GenerationEstimate]:
        """One estimate a prompt on one machine; arguments as `AnalysisDirector.estimate` takes them."""

        def estimate(step: ModelGraphs) -> Estimate:
            return director.estimate(
                step.graphs, runtime=runtime, compute_dtype=matrix_dtype(self.dtype), threads=threads, batch=self.batch
            )

        steps = {length: DecodeStep(length, _cache(step), estimate(step)) for length, step in self._decode.items()}
        for prompt, contexts in self.contexts.items():
            prefill = self._prefill[prompt]
            yield generation(estimate(prefill), [steps[c] for c in contexts], prompt, self.new_tokens, _cache(prefill))


def _captured(module: DNNModule, lengths: Sequence[int], batch: int, dtype: str, mode: Mode) -> dict[int, ModelGraphs]:
    points = [{"batch": batch, "seq_len": length} for length in lengths]
    source = WorkloadGraphs(module, points, dtype, mode)
    return {int(point["seq_len"]): source.at(point) for point in points}


def _cache(step: ModelGraphs) -> float:
    """Bytes of the keys and values that a step reads, with room for the new ones."""
    return sum(cache_bytes(graph) for graph in step.graphs)
