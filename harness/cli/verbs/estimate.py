"""`shmoo estimate`: models, or a table of operators, on architectures."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from shmoo.estimators.errors import InputError
from shmoo.harness.cli import captures, estimates, options, output

if TYPE_CHECKING:
    from shmoo.estimators.machine.profile import ArchitectureProfile, Reduction
    from shmoo.estimators.predict.tabular import Record
    from shmoo.harness.cli.layout import View

EXAMPLES = """\b
Examples:
  shmoo estimate resnet18
  shmoo estimate resnet18 --all --sort energy --columns arch,latency,energy,fits
  shmoo estimate resnet50 --arch gpu_h100,tpu_v4 --batch 1,32 --dtype bf16 --json
  shmoo estimate my_package.models:build --input-shape 1x3x128x128 --csv estimates.csv
  shmoo estimate hf:config.json --phase decode --seq-len 2048 --dtype bf16 --quantize int4-weight --arch gpu_l4
  shmoo estimate --ops operators.csv --arch gpu_a100_40g --json
"""


@click.command(epilog=EXAMPLES, short_help="Latency, energy and memory of models on architectures.")
@click.argument("models", metavar="[MODEL]...", nargs=-1)
@click.option("--ops", type=click.Path(), help="Estimate the rows of an operator table in place of a model; needs one --arch.")
@options.reduction("as in the tables the profile was fitted to, else k")
@options.archs(options.SHORT_LIST)
@options.everything(estimates.ALL)
@options.runtimes()
@options.threads
@options.host
@captures.asked(*captures.SIZES, *captures.MODE, batch=options.OWN_BATCH, dtype=options.OWN_DTYPES)
@options.no_residual
@options.as_json
@options.as_csv
@options.view(estimates.ORDER)
def estimate(
    models: tuple[str, ...],
    ops: str | None,
    reduction: Reduction | None,
    arch: tuple[str, ...],
    show_all: bool,
    runtime: tuple[str, ...],
    threads: int | None,
    host: str | None,
    asked: captures.ModelOptions,
    no_residual: bool,
    as_json: bool,
    csv_path: str | None,
    view: View,
) -> None:
    """Latency, energy and memory of models on architectures, each with a 90 % interval.

    Without --arch the table has this machine's CPU once it is calibrated, a server CPU, three GPUs, a TPU and a KPU; --all adds
    the other built-in machines. --json and --csv hold every built-in profile, also those named brief_*, which are illustrations.

    MODEL is the name of a network, hf:config.json (a Hugging Face configuration; nothing is downloaded), a file.pt2 saved by
    torch.export (needs --trust), or package.module:factory (a callable without arguments that returns a model; it is run).
    """
    from shmoo.harness.machine.architectures import choose_targets

    view.check([column.name for column in (estimates.COLUMNS if ops is None else estimates.OPERATOR_COLUMNS)])
    if ops is not None:
        refuse_with_ops(models, asked, threads)
        records = estimate_table(ops, arch, runtime, not no_residual, reduction, host)
    elif models:
        unnamed = estimates.unnamed_architectures(show_all, for_programs=as_json or bool(csv_path))
        targets = choose_targets(arch, runtime, threads, host, unnamed)
        records = estimate_models(models, asked, targets, threads, not no_residual)
    else:
        raise click.UsageError("nothing to estimate: name a MODEL such as resnet18, or a table with --ops TABLE.csv")
    if csv_path:
        from shmoo.estimators.predict.tabular import flatten

        output.write_csv(csv_path, [flatten(record) for record in records], "estimates")
    if as_json:
        output.json_document(records)
    elif ops is not None:
        estimates.show_operators(records, view)
    else:
        estimates.show_models(records if arch else estimates.of_unnamed(records, show_all), view)
        if not arch and not show_all:
            output.message(estimates.MORE)


def refuse_with_ops(models: Sequence[str], asked: captures.ModelOptions, threads: int | None) -> None:
    """`InputError` where --ops comes with what only a model has."""
    from shmoo.harness.models.asked import Mode

    if models:
        raise InputError(f"--ops and a MODEL ({', '.join(models)}) exclude each other; leave one out")
    if threads or asked.batches or asked.dtypes or asked.input_shape or asked.seq_len or asked.mode != Mode():
        raise InputError(
            "--batch, --dtype, --threads, --input-shape, --seq-len and modes do not apply to --ops: the table's rows say it"
        )


def estimate_table(
    path: str, arch: tuple[str, ...], runtime: tuple[str, ...], residual: bool, reduction: Reduction | None, host: str | None
) -> list[Record]:
    """One record a row of an operator table, in row order. `reduction` is the column that holds that of matrix products, by
    default the one of the tables that the profile was fitted to, in rows such as theirs: plain float32 calls."""
    import msgspec

    from shmoo.estimators.graph.dtypes import matrix_dtype
    from shmoo.estimators.machine.profile import check_runtime
    from shmoo.estimators.predict.director import AnalysisDirector
    from shmoo.estimators.predict.tabular import interval_record, or_reason
    from shmoo.harness.machine.architectures import choose_targets
    from shmoo.runs.tables.reading import PRODUCTS, read_table

    if len(arch) != 1:
        raise InputError(f"--ops needs exactly one --arch, got {len(arch) or 'none'}; such as --arch gpu_a100_40g")
    ((profile, _),) = choose_targets(arch, (), None, host)
    chosen = check_runtime(profile, options.only_one(runtime, "--runtime"))
    rows = read_table(path, measured=False, reduction=reduction or profile.table_reduction)
    if reduction is None:
        rows = tuple(row if row.plain else msgspec.structs.replace(row, reduction="k") for row in rows)
        if any(row.op in PRODUCTS and row.reduction == "n" for row in rows):
            output.message(
                f"columns m, n, k of float32 products read as (m, n) by (n, k), as in the tables behind {profile.name}; "
                "--reduction k reads (m, k) by (k, n)"
            )
    parts = AnalysisDirector(profile, residual=residual).price_cases(
        [row.graph() for row in rows],
        runtime=chosen,
        compute_dtypes=[matrix_dtype(row.dtype) for row in rows],
        cold_weights=[row.cold_weights for row in rows],
    )
    priced = [both for part in parts for both in zip(part.intervals(), part.device_intervals(), strict=True)]
    records = []
    for i, (row, (call, on_device)) in enumerate(zip(rows, priced, strict=True)):
        latency, energy = on_device if row.time == "device" else call
        record: Record = {"row": i, "op": row.op}
        record |= or_reason("latency_s", interval_record(latency), "the operator has no cost formula")
        record["device_s"] = interval_record(on_device[0])
        record |= or_reason("energy_j", interval_record(energy), f"profile {profile.name!r} has no energy coefficients")
        records.append(record)
    return records


def estimate_models(
    models: Sequence[str],
    asked: captures.ModelOptions,
    targets: Sequence[tuple[ArchitectureProfile, str | None]],
    threads: int | None,
    residual: bool,
) -> list[Record]:
    """One record for each model x batch x dtype x architecture x runtime."""
    from shmoo.estimators.graph.dtypes import matrix_dtype
    from shmoo.estimators.predict.director import AnalysisDirector, estimate_on
    from shmoo.estimators.predict.tabular import estimate_record
    from shmoo.harness.models.asked import at_batches

    machines = [(AnalysisDirector(profile, residual=residual), runtime) for profile, runtime in targets]
    wanted: list[str | None] = list(asked.dtypes) or [None]
    points = at_batches(asked.batches or (None,))
    records = []
    for model in models:
        sources = {dtype: asked.source(asked.request(model, dtype, points)) for dtype in wanted}
        for point, (dtype, source) in itertools.product(points, sources.items()):
            with output.only_results_on_stdout():
                found = source.at(point)
            made = list(
                estimate_on(machines, found.graphs, compute_dtype=matrix_dtype(dtype), threads=threads, batch=found.batch)
            )
            captures.tell_about(model, found, made)
            records += [estimate_record(one, model) | captures.mode_record(asked.mode, found) for one in made]
    return records
