"""`shmoo generate`: a language model's prompt and the tokens after it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import click

from shmoo.harness.cli import captures, modes, options, output

if TYPE_CHECKING:
    from shmoo.estimators.predict.tabular import Record
    from shmoo.harness.models.asked import ModelGraphs, Point
    from shmoo.harness.models.capture_cache import CaptureCache

EXAMPLES = """\b
Examples:
  shmoo generate gpt2 --prompt 128,1024 --new 128
  shmoo generate hf:config.json --prompt 2048 --new 256 --batch 1,16 --dtype bf16 --arch gpu_h100,kpu_t256
  shmoo generate hf:config.json --quantize int4-weight --dtype bf16 --arch gpu_l4 --csv generate.csv
"""


@click.command(epilog=EXAMPLES, short_help="A language model: time to first token, per token, energy.")
@click.argument("model")
@options.counts("--prompt", help="Tokens in the prompt. Default: 128.")
@click.option("--new", "new_tokens", type=click.IntRange(min=1), default=128, show_default=True, help="Tokens to generate.")
@options.archs(options.EVERY_ARCHITECTURE)
@options.batches("1")
@options.dtypes()
@modes.quantize
@options.runtimes()
@options.threads
@options.trust
@captures.kept
@options.as_json
@options.as_csv
def generate(
    model: str,
    prompt: tuple[int, ...],
    new_tokens: int,
    arch: tuple[str, ...],
    batch: tuple[int, ...],
    dtype: tuple[str, ...],
    quantize: str | None,
    runtime: tuple[str, ...],
    threads: int | None,
    trust: bool,
    cache: CaptureCache | None,
    as_json: bool,
    csv_path: str | None,
) -> None:
    """Time to first token, time and energy per token, and the key-value cache of a causal language model.

    The first new token comes from the prefill, the others from decode steps with one token each; their time is estimated at a few
    cache lengths and summed over all.
    """
    from shmoo.estimators.graph.dtypes import compute_dtype
    from shmoo.estimators.predict.director import AnalysisDirector
    from shmoo.estimators.predict.tabular import flatten
    from shmoo.estimators.present.generation import INTERVALS, generation_record
    from shmoo.harness.machine.architectures import choose_targets
    from shmoo.harness.models.asked import Asked
    from shmoo.harness.models.generation import Generator
    from shmoo.harness.models.mode import Mode

    targets = choose_targets(arch, runtime, threads)
    directors = {profile.name: AnalysisDirector(profile) for profile, _ in targets}
    records: list[Record] = []
    with output.only_results_on_stdout():
        wanted = [compute_dtype(name) for name in dtype or ("float32",)]
        for size, element in itertools.product(batch or (1,), wanted):

            def graphs_of(phase: str, points: Sequence[Point], element: str = element) -> Callable[[Mapping], ModelGraphs]:
                mode = Mode(phase=phase, quantize=quantize)
                return captures.source(Asked(model, element, trust=trust, mode=mode, points=tuple(points)), cache).at

            made = Generator(graphs_of, prompt or (128,), new_tokens, batch=size, dtype=element)
            for note in made.notes:
                if note.startswith("captured anew"):
                    output.message(f"{model}: {note}")
            for profile, chosen in targets:
                cores = threads if profile.family == "cpu" else None
                found = made.estimates(directors[profile.name], runtime=chosen, threads=cores)
                records += [generation_record(estimate, model) for estimate in found]
    if csv_path:
        output.write_csv(csv_path, [flatten(record, INTERVALS) for record in records])
        output.message(f"wrote {len(records)} generations to {csv_path}")
    if as_json:
        output.json_document(records)
    else:
        _show(records)


def _show(records: Sequence[Record]) -> None:
    from shmoo.estimators.units import si, size, yes_or_no

    def text(value: object, unit: str) -> str:
        return si(value["value"], unit) if isinstance(value, dict) else "unknown"

    rows = []
    for r in records:
        step = r["time_per_output_token_s"]
        spread = f"{si(step['low'], 's')} - {si(step['high'], 's')}" if isinstance(step, dict) else ""
        rows.append(
            [
                str(r["model"]),
                str(r["arch"]),
                f"{r['batch']} {r['dtype']} {r['runtime']}",
                f"{r['prompt_tokens']}+{r['new_tokens']}",
                text(r["time_to_first_token_s"], "s"),
                text(step, "s") if step else "none",
                spread,
                text(r["tokens_per_s"], "/s"),
                text(r["energy_per_token_j"], "J"),
                size(r["cache_bytes"]),
                size(r["peak_memory_bytes"]),
                yes_or_no(r["fits"]),
            ]
        )
    headers = [
        "model",
        "arch",
        "batch dtype runtime",
        "prompt+new",
        "first token",
        "per token",
        "90 % interval",
        "rate",
        "energy/token",
    ]
    output.table([*headers, "cache", "memory", "fits"], rows, left=3)
    output.tell_of_memory(records)
    for line in dict.fromkeys(
        f"{r['model']}: {op['count']} x {op['op']} has no cost formula: only its bytes are counted"
        for r in records
        for op in r["unknown_ops"]
    ):
        output.message(line)
