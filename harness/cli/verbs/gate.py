"""`shmoo gate`: estimates of a model held against a baseline, for a CI without hardware."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from shmoo.estimators.errors import InputError
from shmoo.harness.cli import captures, options, output

if TYPE_CHECKING:
    from shmoo.harness.question import Question

GREW, UNDECIDED = 1, 4
EXAMPLES = """\b
Examples:
  shmoo gate resnet50 --arch gpu_h100,kpu_t256 --against baseline.json --write
  shmoo gate resnet50 --arch gpu_h100,kpu_t256 --against baseline.json
  shmoo gate my_package.models:build --arch gpu_l4 --against baseline.json --threshold 2% --allow peak_memory_bytes=10%
"""


@click.command(epilog=EXAMPLES, short_help="Fails where a model's estimates grew; needs no hardware.")
@click.argument("model")
@options.against("none; name the baseline that --write made", required=True)
@click.option("--write", is_flag=True, help="Write the estimates into the baseline instead of checking them.")
@options.threshold("1%, and no kernel more")
@options.names(
    "--allow",
    metavar="NAME=P,...",
    help="Growth of one quantity that passes: flops, bytes, peak_memory_bytes, kernels (default: none), latency_s, energy_j.",
)
@captures.asked(arch="none; name one at least")
@options.as_json
def gate(
    model: str,
    against: Path,
    write: bool,
    threshold: float | None,
    allow: tuple[str, ...],
    asked: Question,
    as_json: bool,
) -> None:
    """Hold the estimates of MODEL against a baseline: flops, bytes, peak memory, kernels, latency and energy.

    Exits with 1 where one grew by more than allowed, and names the modules that did it: an operator that no longer shares a
    kernel with its neighbour is found as a kernel more. Exits with 4 where operators without a cost formula are new, so that
    nothing can be said. Equal models give equal numbers, to the last digit.
    """
    from shmoo.estimators.present.gate import QUANTITIES, check
    from shmoo.harness.gate import footprints_of, read_baseline, write_baseline

    allowed = {} if threshold is None else {name: threshold for name in QUANTITIES if name != "kernels"}
    for text in allow:
        name, equals, share = text.partition("=")
        if not equals:
            raise InputError(f"cannot read --allow {text!r}; write NAME=P, such as latency_s=5%")
        allowed[name.strip()] = options.Share().convert(share, None, None)
    with output.only_results_on_stdout():
        footprints = footprints_of(model, asked)
    if write:
        written = write_baseline(output.writing(against), footprints)
        output.message(f"wrote {len(footprints)} of {len(written.footprints)} footprints in {against}")
        if as_json:
            output.json_document({"format": 1, "written": str(against), "footprints": msgspec.to_builtins(footprints)})
        return
    found = check(read_baseline(against), footprints, allowed)
    if as_json:
        document = {"format": 1, "model": model, "against": str(against), "answer": found.answer}
        output.json_document({**document, **msgspec.to_builtins(found), "footprints": msgspec.to_builtins(footprints)})
    else:
        for finding in found.findings:
            output.result(f"grew: {finding.text}")
        for reason in found.undecided:
            output.result(f"cannot decide: {reason}")
        if found.answer == "pass":
            output.result(f"{len(footprints)} footprints of {model} within what is allowed")
    if found.findings:
        raise click.exceptions.Exit(GREW)
    if found.undecided:
        raise click.exceptions.Exit(UNDECIDED)
