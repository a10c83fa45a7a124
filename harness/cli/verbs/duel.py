"""`shmoo duel`: two versions of the code, or two environments, measured side by side on one machine."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import click

from shmoo.estimators.errors import InputError
from shmoo.harness.cli import options, output
from shmoo.harness.cli.verbs.compare import Gating, gating, judge
from shmoo.harness.cli.verbs.measure import measure, shown, tell_failed
from shmoo.harness.defaults import run_directory

PAIRS = 20
"""Pairs of visits to every case where --visits does not say it."""
EXAMPLES = """\b
Examples:
  shmoo duel main HEAD -- measure --model my_package.models:build
  shmoo duel HEAD . --fail-on slower --threshold 3% -- measure --model my_package.models:build --visits 20
  shmoo duel envs/torch-2.9 envs/torch-2.10 --out torches -- measure --suite quick --budget 10
  shmoo duel envs/torch-2.9 envs/torch-2.10 --out torches --resume -- measure --suite quick --budget 10
"""


@click.command(epilog=EXAMPLES, short_help="Two commits or environments side by side on one machine.")
@click.argument("base")
@click.argument("new")
@click.argument("command", metavar="-- measure ...", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option("--setup", default="", metavar="COMMAND", help="Run in each checkout first; a .venv that it makes there is used.")
@gating
@options.out(options.NEW_RUN)
@options.resume
@options.as_json
def duel(
    base: str, new: str, command: tuple[str, ...], setup: str, gate: Gating, out: Path | None, resume: bool, as_json: bool
) -> None:
    """Measure BASE and NEW in one campaign, each visit to a case on both, and judge by the differences of the pairs: what a
    neighbour or the clock does falls on both alike. Both sides get new processes for each tenth of the pairs, as two processes of
    equal code differ too; fewer than five pairs are too few to decide by.

    BASE and NEW are git refs (checked out for the duel), directories of code such as `.`, or environments (directories with a
    python that has shmoo). What is measured follows `--`, as `shmoo measure` takes it. Exit codes are those of `shmoo compare`.
    --resume goes on with a duel that was interrupted, or whose --budget was used up, where both sides are what they were.
    """
    from shmoo.harness.campaign.campaign import CampaignSettings
    from shmoo.harness.campaign.cases import check_device, in_states, on_threads, plan_cases
    from shmoo.harness.campaign.duel import run_duel
    from shmoo.harness.campaign.sides import describe, side_of
    from shmoo.harness.machine.doctor import probe_machine

    target = run_directory(out, resume, "duel", "duel")
    if command[0] != "measure":
        raise InputError(f"a duel measures: write `-- measure ...`, got {command[0]!r}")
    asked = measure.make_context("shmoo measure", list(command[1:])).params
    for name in ("out", "resume", "as_json", "operators"):
        if asked[name]:
            before = "" if name == "operators" else "; write it before --"
            raise InputError(f"--{name.removeprefix('as_')} of `measure` has no place in a duel{before}")
    threads = max(asked["threads"], default=None)
    machine = probe_machine(threads)
    check_device(asked["device"], machine)
    output.tell_of_code(asked["model"])
    with output.only_results_on_stdout():
        options_of_cases = (asked[name] for name in ("runtime", "dtype", "batch", "trust"))
        cases = plan_cases(
            asked["suite"],
            asked["model"],
            machine,
            asked["device"],
            *options_of_cases,
            input_shape=options.parse_shape(asked["input_shape"]),
            seq_len=asked["seq_len"],
        )
    cases = on_threads(in_states(cases, asked["cache_state"]), asked["threads"])
    pairs, suite = asked["visits"] or PAIRS, asked["suite"] or "duel"
    settings = CampaignSettings(visits=pairs, most_visits=pairs, budget_s=asked["budget"] and 60 * asked["budget"])
    with ExitStack() as stack:
        sides = stack.enter_context(side_of(base, setup)), stack.enter_context(side_of(new, setup))
        described = describe(sides[0], threads), describe(sides[1], threads)
        progress = stack.enter_context(shown(len(cases), target, f"duel of {base} and {new}"))
        runs = run_duel(cases, target, sides, described, suite=suite, settings=settings, resume=resume, progress=progress)
    for run, name in zip(runs, (base, new), strict=True):
        tell_failed(run, f" on {name}")
    if skipped := runs[0].skipped:
        output.message(f"{len(skipped)} cases were not reached within --budget; --out {target} --resume goes on with them")
    output.message(f"runs of both sides in {target}; `shmoo compare {runs[0].path} {runs[1].path}` judges them again")
    judge(runs, gate, as_json)
