"""`shmoo duel`: two versions of the code, or two environments, measured side by side on one machine."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import click

from shmoo.estimators.errors import InputError
from shmoo.harness.campaign.campaign import CampaignSettings
from shmoo.harness.campaign.duel import run_duel
from shmoo.harness.campaign.sides import describe, side_of
from shmoo.harness.cli import options, output
from shmoo.harness.cli.verbs.compare import Gating, gating, judge
from shmoo.harness.cli.verbs.measure import SELECTED, campaign_progress, measure, selection_of, tell_failed
from shmoo.harness.defaults import run_directory

PAIRS = 20
"""Default number of pairs of visits to every case."""
EXAMPLES = """\b
Examples:
  shmoo duel main HEAD -- measure --model my_package.models:build
  shmoo duel HEAD . --fail-on slower --threshold 3% -- measure --model my_package.models:build --visits 20
  shmoo duel envs/torch-2.9 envs/torch-2.10 --out torches -- measure --suite quick --budget 10
  shmoo duel envs/torch-2.9 envs/torch-2.10 --out torches --resume -- measure --suite quick --budget 10
"""


@click.command(epilog=EXAMPLES)
@click.argument("base")
@click.argument("new")
@click.argument("command", metavar="-- measure ...", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option("--setup", default="", metavar="COMMAND", help="Run in each checkout first; a .venv that it creates there is used.")
@gating
@options.out(options.NEW_RUN)
@options.resume
@options.as_json
def duel(
    base: str, new: str, command: tuple[str, ...], setup: str, gate: Gating, out: Path | None, resume: bool, as_json: bool
) -> None:
    """Measure BASE and NEW in one campaign, each visit to a case on both sides, and judge the differences of the pairs, so that
    neighbours and the clock affect both alike. Both sides get new processes for each tenth of the pairs, since two processes of
    equal code differ too; fewer than five pairs are too few for a decision.

    BASE and NEW are git refs (checked out for the duel), directories of code such as `.`, or environments (directories with a
    python that has shmoo). The measurement follows `--`, with the options of `shmoo measure`. Exit codes are those of `shmoo
    compare`. --resume continues a duel that was interrupted, or whose --budget was used up, if both sides are unchanged.
    """
    target = run_directory(out, resume, "duel", "duel")
    if command[0] != "measure":
        raise InputError(f"a duel measures: write `-- measure ...`, got {command[0]!r}")
    measure_options = measure.make_context("shmoo measure", list(command[1:])).params
    for name in ("out", "resume", "as_json", "operators"):
        if measure_options[name]:
            before = "" if name == "operators" else "; write it before --"
            raise InputError(f"--{name.removeprefix('as_')} of `measure` does not apply to a duel{before}")
    selection = selection_of(**{name: measure_options[name] for name in SELECTED})
    machine, threads = selection.machine(), max(selection.threads, default=None)
    output.tell_of_code(selection.model)
    with output.only_results_on_stdout():
        cases = selection.cases(machine)
    pairs, suite = measure_options["visits"] or PAIRS, selection.suite or "duel"
    settings = CampaignSettings(
        visits=pairs, most_visits=pairs, budget_s=measure_options["budget"] and 60 * measure_options["budget"]
    )
    with ExitStack() as stack:
        sides = stack.enter_context(side_of(base, setup)), stack.enter_context(side_of(new, setup))
        described = describe(sides[0], threads), describe(sides[1], threads)
        progress = stack.enter_context(campaign_progress(len(cases), target, f"duel of {base} and {new}"))
        runs = run_duel(cases, target, sides, described, suite=suite, settings=settings, resume=resume, progress=progress)
    for run, name in zip(runs, (base, new), strict=True):
        tell_failed(run, f" on {name}")
    if skipped := runs[0].skipped:
        output.message(f"{len(skipped)} cases were not reached within --budget; --out {target} --resume continues with them")
    output.message(f"runs of both sides are in {target}; `shmoo compare {runs[0].path} {runs[1].path}` compares them again")
    judge(runs, gate, as_json)
