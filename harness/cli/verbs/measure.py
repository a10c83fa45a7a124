"""`shmoo measure`: measures cases into a run directory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from shmoo.estimators.errors import InputError, NothingMeasuredError
from shmoo.estimators.progress import Progress, Standing
from shmoo.estimators.units import counted
from shmoo.harness.campaign.campaign import STAGE
from shmoo.harness.campaign.cases import Selection, measure_cases
from shmoo.harness.cli import options, output
from shmoo.harness.cli.hurry import resumed
from shmoo.harness.cli.progress import Display
from shmoo.harness.defaults import VISITS, run_directory
from shmoo.harness.workloads.suites import BUDGET_S, PLANNED
from shmoo.runs.store.store import ROWS, Run

SOME_FAILED = 1
EXAMPLES = """\b
Examples:
  shmoo measure --suite quick
  shmoo measure --suite micro --dtype float32,bfloat16 --out runs-of-mine/first
  shmoo measure --suite quick --cache-state warm,cold
  shmoo measure --model resnet18 --model vit_b_16 --batch 1,8 --runtime eager,inductor
  shmoo measure --model resnet18 --threads 1,2,4
  shmoo measure --model my_package.models:build --input-shape 1x3x128x128
  shmoo measure --suite micro --out runs-of-mine/first --resume
"""


SELECTED = ("suite", "model", "device", "runtime", "dtype", "batch", "threads", "cache_state", "input_shape", "seq_len", "trust")
"""Options of `measure` that select cases."""


def selection_of(**given: Any) -> Selection:
    """The cases that the options in `SELECTED` select."""
    return Selection(**given | {"input_shape": options.parse_shape(given["input_shape"])})


selected = options.together(
    "selection",
    selection_of,
    click.option(
        "--suite",
        help="Cases: quick, micro, compiled (in Inductor), nets, shmoo, planned. Default: quick, unless models are named.",
    ),
    options.names(
        "--model",
        metavar="M,...",
        help="Networks to measure: names, hf:config.json, package.module:factory (it is run), or file.pt2 (needs --trust).",
    ),
    click.option("--device", default="cpu", show_default=True, help="cpu or cuda."),
    options.runtimes("eager"),
    options.dtypes(options.FLOAT32),
    options.batches("1, for networks"),
    options.thread_counts(),
    options.names(
        "--cache-state", metavar="S,...", help="warm (calls back to back), cold, interleaved. Default: warm, the canonical one."
    ),
    options.input_shape,
    options.seq_len,
    options.trust,
    parameters=SELECTED,
)


@click.command(epilog=EXAMPLES)
@selected
@options.old_spelling("--passes", "--visits", options.WholeRange(min=1))
@click.option(
    "--visits",
    type=options.WholeRange(min=1),
    help="Fewest visits to every case, at different times; their spread gives the standard error. Cases that stay uncertain "
    "are visited more often. Default: 3, planned: 1.",
)
@options.operators
@options.budget("none; for the suite planned 4")
@options.out(options.NEW_RUN)
@options.resume
@options.as_json
def measure(
    selection: Selection,
    visits: int | None,
    operators: bool,
    budget: float | None,
    out: Path | None,
    resume: bool,
    as_json: bool,
) -> None:
    """Time operators, synthetic models and networks on this machine, with their energy where it can be read. Every row is on disk
    before the next case starts; Ctrl-C keeps finished rows and --resume continues."""
    label = selection.label
    target = run_directory(out, resume, label)
    machine = selection.machine()
    output.tell_of_code(selection.model)
    planned = label == PLANNED
    with output.only_results_on_stdout(), Display() as display:
        cases = selection.cases(machine, display)
    if operators and not any(case.kind != "operator" and case.runtime == "eager" for case in cases):
        raise InputError("--operators cuts out the operators of networks in eager, and none is measured; name one with --model")
    with campaign_progress(len(cases), target, label) as progress:
        run = measure_cases(
            cases,
            target,
            label,
            machine,
            resume=resume,
            visits=visits or (1 if planned else VISITS),
            budget_s=60 * budget if budget is not None else BUDGET_S if planned else None,
            shuffle=not planned,
            operators=operators,
            progress=progress,
        )
    finish(run, as_json)


@contextmanager
def campaign_progress(count: int, out: Path, suite: str, beside: Progress | None = None) -> Iterator[Progress]:
    """Progress of a campaign of `count` cases into `out`, on stderr and to `beside`. A `KeyboardInterrupt` gets a message with
    the path of the finished visits."""
    begun = False
    with Display() as display:

        def show(standing: Standing) -> None:
            nonlocal begun
            if standing.stage == STAGE and not begun:
                # Not while waiting for another campaign.
                output.message(f"measuring {counted(count, 'case')} ({suite}) into {out}")
                begun = True
            display(standing)
            if beside is not None:
                beside(standing)

        try:
            yield show
        except KeyboardInterrupt:
            raise KeyboardInterrupt(_left_by_interruption(out)) from None


def _left_by_interruption(out: Path) -> str:
    """A message about what an interrupted campaign or duel left in `out`, and how to resume it."""
    files = [path for path in (out / ROWS, *out.glob(f"*/{ROWS}")) if path.exists()]
    if any(path.stat().st_size for path in files):
        return f"interrupted; finished visits are in {out}, continue with `{resumed(out)}`"
    if files:
        return f"interrupted before the first visit was finished; continue with `{resumed(out)}`"
    return "interrupted before anything was measured; start again"


def tell_failed(run: Run, side: str = "") -> None:
    """Print the failed cases with their reasons."""
    for row in run.rows:
        if row.status == "failed":
            output.message(f"failed{side}: {row.case.label}: {row.why}")


def finish(run: Run, as_json: bool) -> None:
    """Print the outcome and exit accordingly; `NothingMeasuredError` where no row is usable."""
    counts = {status: sum(row.status == status for row in run.rows) for status in ("ok", "noisy", "suspect", "failed")}
    skipped = len(run.skipped)
    tell_failed(run)
    if skipped:
        output.message(f"{skipped} cases were not reached; `{resumed(run.path)}` continues")
    if as_json:
        output.json_document({"format": 1, "run": str(run.path), **counts, "skipped": skipped})
    else:
        output.result(str(run.path))
        output.message(", ".join(f"{count} {status}" for status, count in counts.items()) + f"; see `shmoo show {run.path}`")
    if not counts["ok"] and not counts["noisy"]:
        raise NothingMeasuredError(
            f"nothing usable was measured: {counts['failed']} rows failed, {counts['suspect']} are suspect; "
            f"`shmoo show {run.path}` gives the reasons"
        )
    if counts["failed"]:
        raise click.exceptions.Exit(SOME_FAILED)
