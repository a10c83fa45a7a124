"""The commands: `python -m tests.evaluation VERB`, run in the root of a checkout."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from shmoo.estimators.errors import InputError, ShmooError
from shmoo.estimators.machine.profile import BUILTIN_DIR
from tests.evaluation import publish as publishing
from tests.evaluation.publish import ALL, PUBLICATIONS
from tests.evaluation.results import EVALUATIONS

if TYPE_CHECKING:
    from tests.evaluation.coverage import Outcome

MISSED, REFUSED = 1, 2
"""Exit codes: a bound was missed; bad input."""

folder_argument = click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
keep_option = click.option("--keep", is_flag=True, help="Write the numbers into the error cards of the built-in profiles.")
graphs_option = click.option(
    "--graphs", type=click.Path(path_type=Path, file_okay=False), help="Folder that keeps captured graphs."
)
repeats_option = click.option(
    "--repeats", type=click.IntRange(min=1), default=3, show_default=True, help="Times each is timed; the fastest counts."
)


class Commands(click.Group):
    """Errors of Shmoo become one line on stderr and exit code 2."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except ShmooError as error:
            click.echo(f"error: {error}", err=True)
            raise click.exceptions.Exit(REFUSED) from None


@click.group(cls=Commands)
def main() -> None:
    """Held-out errors, published profiles and benchmarks of Shmoo itself."""


@main.command("held-out")
@click.argument("name", type=click.Choice(sorted(EVALUATIONS)))
@folder_argument
@keep_option
def held_out(name: str, folder: Path, keep: bool) -> None:
    """Print errors on cases that the fit has not seen.

    FOLDER holds the reference tables, for `cpu` runs of one machine. Exit code 1 when a bound is missed.
    """
    from tests.evaluation.results import evaluate, table

    results = evaluate(name, folder)
    if keep:
        publishing.keep(results)
    click.echo(table(results))
    if not all(result.held for result in results):
        raise click.exceptions.Exit(MISSED)


@main.command()
@folder_argument
@click.option("--duels", type=click.IntRange(min=1), default=20, show_default=True, help="Duels of equal sides.")
@click.option("--pairs", type=click.IntRange(min=10), default=100, show_default=True, help="Pairs of visits of each other duel.")
def gates(folder: Path, duels: int, pairs: int) -> None:
    """Measure what the gates find on this machine as it is: equal runs and duels, 5 % over a suite, 15 % in one case.

    FOLDER is new, and gets the runs.
    """
    from tests.evaluation.gates import evaluate

    evaluate(folder, duels, pairs, click.echo)


@main.command()
@folder_argument
@graphs_option
def energy(folder: Path, graphs: Path | None) -> None:
    """Print errors of power and energy of networks and products, with predicted and with measured latency.

    FOLDER holds the reference tables. Exit code 1 when a bound is missed.
    """
    from tests.evaluation.energy import evaluate
    from tests.evaluation.network_graphs import kept_graphs
    from tests.evaluation.results import table

    results = evaluate(folder, graphs or kept_graphs())
    click.echo(table(results))
    if not all(result.held for result in results):
        raise click.exceptions.Exit(MISSED)


@main.command()
@folder_argument
@click.option("--only", default="", help="Rows whose line holds this text, such as t4.")
@graphs_option
@click.option("--host", help="Machine that launches the kernels, a name of the catalogue. Default: that of each profile.")
@click.option("--rows", is_flag=True, help="Print every row too, on stderr.")
@keep_option
def networks(folder: Path, only: str, graphs: Path | None, host: str | None, rows: bool, keep: bool) -> None:
    """Predict whole networks that others measured on GPUs, and print the errors by device, type and bound.

    FOLDER holds the tables of measured networks.
    """
    from tests.evaluation.network_graphs import kept_graphs
    from tests.evaluation.networks import evaluate, read_networks, shown

    chosen = [row for row in read_networks(folder) if only in row.name]
    tell = (lambda text: click.echo(text, err=True)) if rows else (lambda text: None)
    results = evaluate(chosen, graphs or kept_graphs(), tell, host)
    if keep:
        publishing.keep(results)
    _echo_lines(shown(results))


@main.command()
@folder_argument
@click.option("--file", "files", multiple=True, help="Tables to read, without .csv; all by default.")
@keep_option
def kernels(folder: Path, files: tuple[str, ...], keep: bool) -> None:
    """Print errors of device times of single kernels in 16 bits and below, by device, group and decade.

    FOLDER holds the reference tables. Profiles are the built-in ones.
    """
    from tests.evaluation.kernels import READERS, evaluate, read, shown

    results = evaluate(read(folder, files or tuple(READERS)))
    if keep:
        publishing.keep(results)
    _echo_lines(shown(results))


@main.command()
def rates() -> None:
    """Print published rates of products on tensor cores beside predicted ones."""
    from tests.evaluation.rates import table

    click.echo(table())


@main.command()
@click.argument("name", type=click.Choice([*sorted(PUBLICATIONS), ALL]))
@folder_argument
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=BUILTIN_DIR,
    help="Folder to write to; the built-in profiles by default.",
)
def publish(name: str, folder: Path, out: Path) -> None:
    """Fit profiles to the reference tables in FOLDER and write them: `all` everything in turn, as it is committed."""
    from tests.evaluation.publish import line
    from tests.evaluation.publish import publish as profiles_of

    for profile, path in profiles_of(name, folder, out):
        click.echo(line(profile, path))


@main.command()
@click.argument("models", nargs=-1)
@repeats_option
def counting(models: tuple[str, ...], repeats: int) -> None:
    """Compare capture with bare tracing, and the work it counts with torch's counter."""
    from tests.evaluation.counting import NETWORKS, compare_all, line, markdown

    compared = []
    for comparison in compare_all(models or NETWORKS, repeats):
        click.echo(line(comparison), err=True)
        compared.append(comparison)
    _echo_lines(markdown(compared))


@main.command()
@click.option("--models", type=click.IntRange(min=0), default=60, show_default=True, help="Newest architectures to capture.")
@click.option("--samples", type=click.IntRange(min=0), default=4, show_default=True, help="Of each operator at most.")
@click.option("--only", "names", multiple=True, help="Operators or architectures to capture, by name; all by default.")
def coverage(models: int, samples: int, names: tuple[str, ...]) -> None:
    """Capture torch's operator database and the newest models of transformers, and print what is costed; exit code 1 when a
    capture crashes."""
    from tests.evaluation.coverage import markdown, newest_architectures, operators
    from tests.evaluation.coverage import models as captured_models

    def told(outcomes: Iterable[Outcome]) -> list[Outcome]:
        listed = []
        for one in outcomes:
            listed.append(one)
            if one.status not in ("costed", "free"):
                click.echo(f"{one.name}: {one.status} {', '.join(one.operators) or one.reason}", err=True)
        return listed

    of_operators = told(operators(names or None, samples) if samples else ())
    of_models = told(captured_models([name for name in newest_architectures(models) if not names or name in names]))
    _echo_lines(markdown(of_operators, of_models))
    if any(one.status == "crashed" for one in (*of_operators, *of_models)):
        raise click.exceptions.Exit(MISSED)


@main.command()
@click.argument("networks", nargs=-1)
@click.option("--batch", type=click.IntRange(min=1), multiple=True, default=(1, 8), show_default=True, help="Batch sizes.")
def memory(networks: tuple[str, ...], batch: tuple[int, ...]) -> None:
    """Compare estimated peak memory with what the allocator recorded."""
    from shmoo.harness.workloads.loading import resolve_model
    from tests.evaluation.memory import NETWORKS, check_memory, markdown

    _echo_lines(markdown(check_memory(resolve_model(name), size) for name in networks or NETWORKS for size in batch))


@main.command()
def overhead() -> None:
    """Time what the harness adds to each timed call; exit code 1 above 1 us."""
    from tests.evaluation.timing import OVERHEAD_S
    from tests.evaluation.timing import overhead as measured

    added = measured()
    click.echo(f"per call in a block: {added.per_call_s * 1e9:.1f} ns; a block of one call: {added.per_block_s * 1e9:.0f} ns")
    if added.per_call_s > OVERHEAD_S:
        raise click.exceptions.Exit(MISSED)


@main.command()
@click.option("--rounds", type=click.IntRange(min=1), default=7, show_default=True, help="Interleaved rounds.")
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Threads of each operator.")
def autorange(rounds: int, threads: int) -> None:
    """Time ten operators by the harness and by torch.utils.benchmark; exit code 1 when one differs by more than 3 %."""
    from tests.evaluation.timing import LIMIT, against_autorange

    pairs = against_autorange(rounds, threads)
    for pair in pairs:
        click.echo(f"{pair.ratio:.4f} ({pair.low:.4f} to {pair.high:.4f})  {pair.ours_s * 1e6:10.2f} us  {pair.label}")
    worst = max(abs(pair.ratio - 1) for pair in pairs)
    click.echo(f"largest difference {worst:.2%}, limit {LIMIT:.0%}")
    if worst > LIMIT:
        raise click.exceptions.Exit(MISSED)


@main.command()
@click.option("--points", type=click.IntRange(min=4), default=10_000, show_default=True, help="Design points of each sweep.")
@repeats_option
@click.option("--rows", type=click.IntRange(min=0), default=100_000, show_default=True, help="Rows of a run; 0 for no commands.")
@click.option("--only", default="", help="Commands whose name holds this text, such as compare, and nothing else.")
def speed(points: int, repeats: int, rows: int, only: str) -> None:
    """Time estimating: predictions a second, sweeps of design points, analysis beside capture, and the commands that people wait
    for beside `import torch`. Exit code 1 when a bound is missed."""
    from shmoo.harness.cli.output import only_results_on_stdout
    from shmoo.harness.models.model_graphs import model_graphs
    from tests.evaluation.speed import MODEL, NETWORKS, show_predictions, show_shares, show_sweeps
    from tests.evaluation.waits import Sizes, show_waits

    if only:
        if not show_waits(Sizes(rows), only):
            raise click.exceptions.Exit(MISSED)
        return
    with only_results_on_stdout():
        graphs = model_graphs(MODEL).graphs
    show_predictions(graphs, repeats)
    show_sweeps(graphs, points, repeats)
    if rows:
        held = [show_shares(NETWORKS, repeats), show_waits(Sizes(rows))]
        if not all(held):
            raise click.exceptions.Exit(MISSED)


@main.command("gpu-session")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the session, which is continued.")
@click.option("--minutes", type=click.FloatRange(min=1), default=9.0, show_default=True, help="Time for this call.")
@click.option("--earlier", type=click.Path(path_type=Path, exists=True), help="An earlier session to compare with.")
def gpu_session(out: Path, minutes: float, earlier: Path | None) -> None:
    """Measure time and energy on this machine's GPU, the most informative cases first."""
    from shmoo.harness.machine.doctor import probe_machine
    from tests.evaluation.gpu_session import against_do_bench, against_earlier, against_zeus, run_session

    machine = probe_machine()
    if machine.gpu_model is None:
        raise InputError("no GPU is visible here; `shmoo doctor` says why")
    checks = (against_do_bench, against_zeus)
    findings = run_session(out, minutes, machine, checks=checks, tell=lambda text: click.echo(text, err=True))
    if earlier is not None:
        findings |= against_earlier(out, earlier)
    click.echo(msgspec.json.format(msgspec.json.encode(findings), indent=1).decode())


def _echo_lines(lines: Iterable[str]) -> None:
    """Print a table line by line, as its rows are measured."""
    for text in lines:
        click.echo(text)
        sys.stdout.flush()


if __name__ == "__main__":
    main(prog_name="python -m tests.evaluation")
