"""`shmoo generate`: estimates of text generation with a language model."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from operator import itemgetter

import click

from shmoo.estimators.predict.director import AnalysisDirector
from shmoo.estimators.predict.estimate_records import Record, flatten
from shmoo.estimators.present.generation import INTERVALS, generation_record
from shmoo.estimators.present.results import interval, results
from shmoo.estimators.shown_columns import Column
from shmoo.harness.cli import captures, estimates, options, output
from shmoo.harness.cli.layout import View
from shmoo.harness.cli.progress import Display, track
from shmoo.harness.models.generation import Generator
from shmoo.harness.question import Question

EXAMPLES = """\b
Examples:
  shmoo generate gpt2 --prompt 128,1024 --new 128
  shmoo generate hf:config.json --prompt 2048 --new 256 --batch 1,16 --dtype bf16 --arch gpu_h100,kpu_t256
  shmoo generate hf:config.json --quantize int4-weight --dtype bf16 --arch gpu_l4 --csv generate.csv
"""


@click.command(epilog=EXAMPLES)
@click.argument("model")
@options.counts("--prompt", help="Tokens in the prompt. Default: 128.")
@click.option("--new", "new_tokens", type=options.WholeRange(min=1), default=128, show_default=True, help="Tokens to generate.")
@options.everything(estimates.ALL)
@captures.model_options(
    arch=options.SHORT_LIST,
    runtime=options.OWN_RUNTIME,
    batch="1",
    dtype=options.OWN_DTYPES,
    without=("input_shape", "seq_len", "phase", "training", "autocast", "channels_last"),
)
@options.as_json
@options.as_csv
@options.view(estimates.ORDER)
def generate(
    model: str,
    prompt: tuple[int, ...],
    new_tokens: int,
    show_all: bool,
    question: Question,
    as_json: bool,
    csv_path: str | None,
    view: View,
) -> None:
    """Time to first token, time and energy per token, and the key-value cache of a causal language model.

    The first new token comes from the prefill, the others from decode steps of one token each. The time of a step is estimated at
    a few cache lengths and summed over all.
    """
    view.check([column.name for column in COLUMNS])
    unnamed = estimates.unnamed_architectures(show_all, for_programs=as_json or bool(csv_path))
    targets = question.targets(unnamed)
    directors = {profile.name: AnalysisDirector(profile) for profile, _ in targets}
    records: list[Record] = []
    with output.only_results_on_stdout():
        dtypes: list[str | None] = list(question.dtypes) or [None]
        for size, element in itertools.product(question.batches or (1,), dtypes):
            with Display() as display:
                generator = Generator(
                    question.request(model, element), prompt or (128,), new_tokens, size, question.open_source, display
                )
            for note in generator.recapture_notes:
                output.message(f"{model}: {note}")
            for profile, chosen in track(targets, len(targets), f"estimating {model}"):
                cores = question.threads if profile.family == "cpu" else None
                generations = generator.estimates(directors[profile.name], runtime=chosen, threads=cores)
                records += [generation_record(estimate, model) for estimate in generations]
    if csv_path:
        output.write_csv(csv_path, [flatten(record, INTERVALS) for record in records], "generations")
    if as_json:
        output.json_document(records)
    else:
        _show(records if question.arch else estimates.of_unnamed(records, show_all), view)
        if not question.arch and not show_all:
            output.message(estimates.MORE)


TEXTS = ("model", "arch", "batch", "dtype", "runtime", "prompt+new")
"""Text columns, which come first."""
COLUMNS = (
    *(Column(name, itemgetter(name)) for name in TEXTS[:-1]),
    Column("prompt+new", lambda r: f"{r['prompt_tokens']}+{r['new_tokens']}"),
    Column("first token", itemgetter("time_to_first_token_s"), "s"),
    Column("per token", itemgetter("time_per_output_token_s"), "s", "none"),
    Column("90 % per token", interval("time_per_output_token_s", "s")),
    Column("rate", itemgetter("tokens_per_s"), "/s"),
    Column("energy/token", itemgetter("energy_per_token_j"), "J"),
    Column("cache", itemgetter("cache_bytes"), "iB"),
    *results("memory", "fits"),
)
"""Columns of the table, from flat records."""
DROP = ("runtime", "cache", "memory", "90 % per token", "energy/token", "rate", "fits")
"""Columns in the order in which a narrow terminal drops them."""


def _show(records: Sequence[Record], view: View) -> None:
    output.table(COLUMNS, [flatten(r, INTERVALS) for r in records], left=len(TEXTS), drop=DROP, common=TEXTS, view=view)
    explanations = {
        "rate": "new tokens per second over all sequences of a batch, prompt included in the time",
        "energy/token": "energy of the whole request, prompt included, per new token",
    }
    estimates.tell_about(records, explanations)
