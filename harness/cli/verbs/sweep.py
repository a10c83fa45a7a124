"""`shmoo sweep`: workloads and machines over axes, and the largest sizes that stay on chip."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from operator import itemgetter
from pathlib import Path

import click

from shmoo.estimators.errors import InputError, unknown
from shmoo.estimators.graph.dtypes import matrix_dtype
from shmoo.estimators.predict.estimate_records import Record, flatten, memory_record, or_reason
from shmoo.estimators.present.results import results, setting
from shmoo.estimators.shown_columns import Column
from shmoo.estimators.sweep.controller import Columns, SweepController, rows_of
from shmoo.estimators.sweep.on_chip import largest_on_chip
from shmoo.harness.cli import captures, options, output
from shmoo.harness.cli.hurry import given_again
from shmoo.harness.cli.layout import View
from shmoo.harness.cli.progress import track
from shmoo.harness.fleet.array import ARRAYS, run_array
from shmoo.harness.question import Question
from shmoo.harness.sweeps import controllers, plan_sweep

EXAMPLES = """\b
Examples:
  shmoo sweep linear --axis n=64..8192 --arch cpu_server_generic,gpu_h100 --plot linear.html
  shmoo sweep resnet18 resnet50 --axis batch=1..64 --axis resolution=160,224,320 --fusion on,off --arch gpu_h100 --csv nets.csv
  shmoo sweep resnet50 --arch kpu_t64 --profile-axis capacity.l3=1MiB..256MiB:100 --profile-axis bandwidth.dram=16e9..1e12:100
  shmoo sweep mlp --axis hidden=64..8192 --arch kpu_t64,kpu_t64@capacity.l3=2MiB
  shmoo sweep resnet50 --axis batch=1..256 --axis resolution=128..1024:50 --engine slurm --jobs 64 --csv nets.csv
  shmoo sweep mlp --largest-on-chip --axis hidden=64..65536:201 --axis batch=1,64 --arch gpu_h100,tpu_v4,kpu_t64
"""
FUSION = {"on": True, "off": False}
SHOWN_ROWS = 200
"""Most rows of a sweep that are all shown; of more, only the fastest of each architecture."""
FASTEST = 10


@click.command(epilog=EXAMPLES)
@click.argument("models", metavar="WORKLOAD_OR_MODEL...", nargs=-1, required=True)
@click.option("--axis", "axes", multiple=True, metavar="NAME=64..8192[:n]", help="Workload axis: a log-spaced range or a list.")
@click.option(
    "--profile-axis",
    "profile_axes",
    multiple=True,
    metavar="NAME=...",
    help="Coefficient of the architecture (with what follows from it) or parameter of its tiling, likewise; sizes such as 2MiB.",
)
@options.fixed
@options.names(
    "--fusion", metavar="on,off", help="Fuse kernels as the runtime does, or make every operator a separate kernel. Default: on."
)
@options.old_spelling("--fit", "--largest-on-chip", click.Choice(["on-chip"]), lambda value: True)
@click.option("--largest-on-chip", is_flag=True, help="Find the largest value of the first --axis that stays on chip.")
@captures.model_options(
    arch=options.EVERY_ARCHITECTURE, runtime=options.OWN_RUNTIME, batch=options.OWN_BATCH, dtype=options.OWN_DTYPES
)
@options.as_json
@options.as_csv
@options.view("that of the axes", f"all up to {SHOWN_ROWS}, else the {FASTEST} fastest of each architecture")
@click.option("--plot", "plot_path", type=click.Path(), help="Draw the sweep into one self-contained .html file.")
@click.option(
    "--engine", type=click.Choice(["local", "slurm"]), help="Split the points into jobs: processes here, or a Slurm array."
)
@click.option("--jobs", type=options.WholeRange(1, 10_000), default=1, show_default=True, help="Number of jobs for --engine.")
@click.option("--part", type=(int, int), hidden=True, help="One job's part of so many; its rows go to stdout, by controller.")
def sweep(
    models: tuple[str, ...],
    axes: tuple[str, ...],
    profile_axes: tuple[str, ...],
    fixed: tuple[str, ...],
    fusion: tuple[str, ...],
    largest_on_chip: bool,
    question: Question,
    as_json: bool,
    csv_path: str | None,
    plot_path: str | None,
    engine: str | None,
    jobs: int,
    part: tuple[int, int] | None,
    view: View,
) -> None:
    """Estimate models over axes: of the workload (its sizes, batch, resolution) and of the architecture (memory, fabric,
    bandwidth, tile size). `shmoo profiles show ARCH` lists the coefficients."""
    if plot_path and Path(plot_path).suffix.lower() not in (".html", ".htm"):
        raise InputError(f"--plot writes .html, got {plot_path!r}; name a file such as sweep.html, or use --csv for the numbers")
    if largest_on_chip and engine:
        raise InputError("--largest-on-chip searches point after point; leave --engine out")
    if part is not None and not 0 <= part[0] < part[1]:
        raise InputError(f"--part {part[0]} {part[1]}: the first is a job's number, from 0 to one less than the second")
    if jobs > 1 and engine is None:
        raise InputError(f"--jobs {jobs} needs --engine local or slurm")
    if largest_on_chip and (plot_path or fusion):
        raise InputError("--largest-on-chip gives one size an architecture, in a table; leave --plot and --fusion out")
    if strange := [text for text in fusion if text not in FUSION]:
        raise unknown("value of --fusion", strange[0], FUSION)
    fused = [FUSION[text] for text in fusion] or [True]
    machine_axes = options.machine_axes(profile_axes)
    plan = plan_sweep(question, options.axes(axes, whole=True), options.settings(fixed), machine_axes, fused)
    if not largest_on_chip:
        view.check(["arch", *plan.axes, *machine_axes, "model", "dtype", "runtime", "fusion", *(c.name for c in RESULTS)])
    # The columns that distinguish rows of one architecture; figures run along the first.
    other_axes = {"model": models, "dtype": question.dtypes, "runtime": question.runtime, "fusion": fused}
    varied = [*plan.axes, *machine_axes, *(name for name, members in other_axes.items() if len(members) > 1)]
    if not varied:
        raise InputError("nothing varies; give an --axis such as batch=1..64, a --profile-axis, or several models")
    coefficients = {name: c for profile in plan.profiles for name, c in profile.coefficients.items()}
    units = {name: coefficients[name].unit for name in machine_axes if name in coefficients}
    groups: list[list[Columns]] = []
    with output.only_results_on_stdout():
        if engine is not None:
            # Each job runs the same command and computes its part of every model and type.
            words, names = given_again(("engine", "jobs", "part", "as_json", "csv_path", "plot_path"))
            commands = [["sweep", *words, "--part", str(job), str(jobs), *names] for job in range(jobs)]
            of_models = zip(*run_array(ARRAYS[engine], commands), strict=True)
            groups.append([block for of_jobs in of_models for group in of_jobs for block in group])
        else:
            job, parts = part or (0, 1)
            for controller, dtype in controllers(plan, models, question):
                if largest_on_chip:
                    groups.append([{name: [value] for name, value in row.items()} for row in _largest(controller, dtype)])
                    continue
                blocks = controller.blocks(compute_dtype=matrix_dtype(dtype), threads=question.threads, part=job, parts=parts)
                stage, rows_in_all = f"estimating {controller.model}", len(controller) // parts
                groups.append(list(track(blocks, rows_in_all, stage, lambda block: len(block["model"]))))
    if part is not None:
        output.json_document(groups)
        return
    blocks_in_all = [block for group in groups for block in group]
    if csv_path:
        output.write_columns(csv_path, blocks_in_all)
    everything = itertools.chain.from_iterable(map(rows_of, blocks_in_all))
    if as_json and not plot_path:
        output.json_document(everything)
        return
    all_rows = bool(plot_path or largest_on_chip or view.sort or view.top is not None)
    rows = list(everything) if all_rows else _worth_showing(blocks_in_all)
    if plot_path:
        from shmoo.harness.pages.sweep import write_page

        write_page(rows, varied, plan.profiles, list(machine_axes), output.writing(plot_path), units)
        output.message(f"drew {plot_path}")
    if as_json:
        output.json_document(rows)
    elif largest_on_chip:
        along = next(iter(plan.axes))
        _show_largest(rows, along, [name for name in varied if name != along], units, view)
    else:
        _show(rows, varied, units, view)


def _largest(controller: SweepController, dtype: str | None) -> Iterator[Record]:
    """One row per answer of the planner."""
    name = next(iter(controller.axes), "")
    for size in largest_on_chip(controller, compute_dtype=matrix_dtype(dtype)):
        head = {"model": controller.model, "arch": size.arch, "dtype": size.dtype, "runtime": size.runtime, **size.settings}
        value = or_reason(name, size.value, f"not even the smallest size stays on chip: {size.limit}")
        sizes = {"footprint_bytes": size.footprint_bytes, "on_chip_bytes": size.capacity_bytes, "limit": size.limit}
        yield head | value | sizes | flatten(memory_record(size.memory))


def _show_largest(rows: Sequence[Record], name: str, other_axes: Sequence[str], units: Mapping[str, str], view: View) -> None:
    why = {"memory": "memory is full", "tiling": "tiles spill", "none": "end of the axis"}
    columns = [
        Column("arch", itemgetter("arch")),
        *(setting(axis, units.get(axis, "")) for axis in other_axes),
        Column(f"largest {name}", lambda r: "none" if r[name] is None else str(r[name])),
        Column("footprint", itemgetter("footprint_bytes"), "iB"),
        Column("on chip", itemgetter("on_chip_bytes"), "iB"),
        Column("beyond it", lambda r: why[r["limit"]]),
        *results("fits"),
    ]
    output.table(columns, rows, drop=("on chip", "footprint"), view=view)


RESULTS = results("latency", "90 % interval", "rate", "achieved", "energy", "memory", "fits", "tiles")
DROP = ("tiles", "memory", "rate", "achieved", "fits", "90 % interval", "energy")
"""Columns in the order in which a narrow terminal drops them."""


def _show(rows: Sequence[Record], varied: Sequence[str], units: Mapping[str, str], view: View) -> None:
    columns = [Column("arch", itemgetter("arch")), *(setting(name, units.get(name, "")) for name in varied), *RESULTS]
    output.table(columns, rows, drop=DROP, common=("arch",), view=view)


def _worth_showing(blocks: Sequence[Columns]) -> list[Record]:
    """All rows, or only the fastest of each architecture if there are too many."""
    count = sum(len(block["model"]) for block in blocks)
    if count <= SHOWN_ROWS:
        return [row for block in blocks for row in rows_of(block)]
    by_arch: dict[str, list[Record]] = {}
    for block in blocks:
        fastest = sorted(range(len(block["model"])), key=block["latency_s"].__getitem__)[:FASTEST]
        for row in rows_of({name: [column[place] for place in fastest] for name, column in block.items()}):
            by_arch.setdefault(str(row["arch"]), []).append(row)
    output.message(f"{count} rows, of which the {FASTEST} fastest of each architecture are shown; --csv FILE has all")
    order = sorted(by_arch, key=lambda arch: min(row["latency_s"] for row in by_arch[arch]))
    return [row for arch in order for row in sorted(by_arch[arch], key=lambda row: row["latency_s"])[:FASTEST]]
