"""`shmoo explore`: the Pareto front of a design space."""

from __future__ import annotations

import re
from collections.abc import Sequence
from operator import itemgetter, methodcaller

import click

from shmoo.estimators.errors import InputError, unknown
from shmoo.estimators.predict.estimate_records import Record
from shmoo.estimators.present.results import setting
from shmoo.estimators.shown_columns import Column
from shmoo.estimators.sweep.explore import Front, Limit, Space, front_rows, nearest_text
from shmoo.estimators.units import percent
from shmoo.estimators.variants import amount_of
from shmoo.harness.cli import captures, options, output
from shmoo.harness.decisions import front_of
from shmoo.harness.question import Question

EXAMPLES = """\b
Examples:
  shmoo explore resnet50 --arch kpu_t256 --over count.tiles=64..1024,bandwidth.dram=64e9..1e12:9 --within 'power.tdp<=60'
  shmoo explore resnet50 vit_b_16 --arch kpu_t256 --over count.tiles=64..1024 --minimize latency,power.tdp --html front.html
  shmoo explore resnet50 --arch kpu_t256 --over count.tiles=64..1024,clock=5e8..2e9,bandwidth.dram=64e9..1e12 --search 5000
"""
SHOWN = 30
"""Most designs of a front in the table."""


@click.command(epilog=EXAMPLES)
@click.argument("models", metavar="MODEL...", nargs=-1, required=True)
@click.option(
    "--over",
    multiple=True,
    required=True,
    metavar="NAME=64..1024[:n],...",
    help="Coefficients to vary, with what follows from them: log-spaced ranges or lists; sizes such as 64MiB.",
)
@options.names(
    "--minimize",
    metavar="QUANTITY,...",
    help="latency, energy, power, edp, throughput (maximized), area, or a coefficient. Default: latency,energy.",
)
@options.names("--within", metavar="QUANTITY<=X,...", help="Limits on the same quantities, <= or >=; for every model.")
@options.names("--weight", metavar="MODEL=N,...", help="Weights of models in the geometric mean. Default: 1 each.")
@click.option(
    "--search", type=options.WholeRange(16, 5_000_000), metavar="N", help="Evaluate N designs by NSGA-II instead of a grid."
)
@options.seed
@captures.model_options()
@options.wide
@options.as_json
@options.as_csv
@options.as_html
def explore(
    models: tuple[str, ...],
    over: tuple[str, ...],
    minimize: tuple[str, ...],
    within: tuple[str, ...],
    weight: tuple[str, ...],
    search: int | None,
    seed: int,
    question: Question,
    wide: bool,
    as_json: bool,
    csv_path: str | None,
    html_path: str | None,
) -> None:
    """The designs of an architecture that no other design beats in every objective, for one or several models. Quantities of
    several models are geometric means. Designs with too little memory for a model are left out."""
    axes = options.machine_axes([part for text in over for part in re.split(r",(?=[^,=]+=)", text)])
    for name, values in axes.items():
        if any(isinstance(value, str) for value in values):
            raise InputError(f"--over {name} takes numbers, got {', '.join(map(str, values))}")
    with output.only_results_on_stdout():
        limits = [_limit(text) for text in within]
        weights = _weights(weight, models)
        space, front = front_of(models, question, axes, minimize or ("latency", "energy"), limits, weights, search, seed)
    rows = front_rows(front)
    if csv_path:
        output.write_csv(csv_path, rows, "designs")
    if html_path:
        from shmoo.harness.pages.explore import write_page

        write_page(space, front, output.writing(html_path))
        output.message(f"wrote {html_path}")
    if as_json:
        output.json_document(
            {
                "format": 1,
                "arch": space.profile.name,
                "models": list(models),
                "objectives": list(space.objectives),
                "points": front.points,
                "allowed": front.allowed,
                "hypervolume": front.hypervolume,
                "front": rows,
            }
            | ({"nearest": front.nearest} if front.nearest else {})
        )
        return
    _show(space, front, rows, wide)


def _weights(texts: Sequence[str], models: Sequence[str]) -> dict[str, float]:
    weights = {}
    for text in texts:
        name, equals, number = text.rpartition("=")
        if not equals:
            raise InputError(f"cannot read --weight {text!r}; write MODEL=N, such as {models[0]}=2")
        if name not in models:
            raise unknown("model of --weight", name, models)
        try:
            weights[name] = float(number)
        except ValueError:
            weights[name] = 0.0
        if not 0 < weights[name] < float("inf"):
            raise InputError(f"--weight {text}: a weight is a positive number, such as {name}=2")
    return weights


def _limit(text: str) -> Limit:
    match = re.fullmatch(r"\s*([\w.]+)\s*(<=|>=)\s*(\S+)\s*", text)
    value = amount_of(match[3]) if match else text
    if match is None or isinstance(value, str) or not 0 < value < float("inf"):
        raise InputError(f"cannot read limit {text!r}; write QUANTITY<=VALUE or QUANTITY>=VALUE, such as power.tdp<=60")
    return Limit(match[1], match[2] == "<=", value)


def _show(space: Space, front: Front, rows: Sequence[Record], wide: bool) -> None:
    if front.nearest:
        output.message(nearest_text(space, front))
        return
    output.message(
        f"{front.points:,} designs, {front.allowed:,} within the limits, {len(front)} on the front, which holds "
        f"{percent(front.hypervolume, digits=0)} of the box between the best and the worst (on logarithmic scales)"
    )
    quantities = {name: Column(name, methodcaller("get", name), space.unit(name)) for name in space.shown}
    quantities |= {name: setting(name, space.unit(name)) for name in space.axes}
    output.table(
        [*(quantities[name] for name in (*space.axes, *space.shown)), Column("alike", itemgetter("alike"))],
        rows[:SHOWN],
        title=f"{', '.join(w.name for w in space.workloads)} on {space.profile.name}",
        left=0,
        drop=("alike", *(name for name in space.shown if name not in space.objectives)),
        view=output.View(wide),
    )
    if len(rows) > SHOWN:
        output.message(f"the first {SHOWN} of {len(rows)} designs by {space.objectives[0]}; --csv FILE has all")
    if len(rows) == 1 and front.points > 1:
        output.message(
            f"one design is best in {' and '.join(space.objectives)}; for a choice, add a cost to --minimize, such as power.tdp"
        )
