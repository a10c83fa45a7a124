"""`shmoo gate`: estimates of a model compared with a baseline, for a CI without hardware."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from shmoo.estimators.errors import InputError
from shmoo.estimators.present.gate import QUANTITIES, check
from shmoo.harness.cli import captures, options, output
from shmoo.harness.gate import footprints_of, read_baseline, write_baseline
from shmoo.harness.question import Question

GREW, UNDECIDED = 1, 4
EXAMPLES = """\b
Examples:
  shmoo gate resnet50 --arch gpu_h100,kpu_t256 --against baseline.json --write
  shmoo gate resnet50 --arch gpu_h100,kpu_t256 --against baseline.json
  shmoo gate my_package.models:build --arch gpu_l4 --against baseline.json --threshold 2% --allow peak_memory_bytes=10%
"""


@click.command(epilog=EXAMPLES)
@click.argument("model")
@options.against("none; name a baseline from --write", required=True)
@click.option("--write", is_flag=True, help="Write the estimates into the baseline instead of checking them.")
@options.threshold("1%, and no additional kernel")
@options.names(
    "--allow",
    metavar="NAME=P,...",
    help="Allowed growth of one quantity: flops, bytes, peak_memory_bytes, kernels (default: none), latency_s, energy_j.",
)
@captures.model_options(arch="none; name at least one")
@options.as_json
def gate(
    model: str,
    against: Path,
    write: bool,
    threshold: float | None,
    allow: tuple[str, ...],
    question: Question,
    as_json: bool,
) -> None:
    """Compare the estimates of MODEL with a baseline: flops, bytes, peak memory, kernels, latency and energy.

    Exits with 1 if a quantity grew by more than allowed, and names the responsible modules: an operator that no longer shares a
    kernel with its neighbour shows as an additional kernel. Exits with 4 if new operators have no cost formula, so there is no
    answer. Equal models give equal numbers, to the last digit.
    """
    allowed_growth = {} if threshold is None else {name: threshold for name in QUANTITIES if name != "kernels"}
    for text in allow:
        name, equals, share = text.partition("=")
        if not equals:
            raise InputError(f"cannot read --allow {text!r}; write NAME=P, such as latency_s=5%")
        allowed_growth[name.strip()] = options.Share().convert(share, None, None)
    with output.only_results_on_stdout():
        footprints = footprints_of(model, question)
    if write:
        baseline = write_baseline(output.writing(against), footprints)
        output.message(f"wrote {len(footprints)} of {len(baseline.footprints)} footprints in {against}")
        if as_json:
            output.json_document({"format": 1, "written": str(against), "footprints": msgspec.to_builtins(footprints)})
        return
    outcome = check(read_baseline(against), footprints, allowed_growth)
    if as_json:
        document = {"format": 1, "model": model, "against": str(against), "answer": outcome.answer}
        output.json_document({**document, **msgspec.to_builtins(outcome), "footprints": msgspec.to_builtins(footprints)})
    else:
        for finding in outcome.findings:
            output.result(f"grew: {finding.text}")
        for reason in outcome.undecided:
            output.result(f"cannot decide: {reason}")
        if outcome.answer == "pass":
            output.result(f"{len(footprints)} footprints of {model} within the limits")
    if outcome.findings:
        raise click.exceptions.Exit(GREW)
    if outcome.undecided:
        raise click.exceptions.Exit(UNDECIDED)
