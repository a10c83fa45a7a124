"""`shmoo estimate`: models, or a table of operators, on architectures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from shmoo.estimators.errors import InputError
from shmoo.harness.cli import captures, estimates, modes, options, output

if TYPE_CHECKING:
    from shmoo.estimators.machine.profile import Reduction
    from shmoo.estimators.predict.tabular import Record
    from shmoo.harness.cli.layout import View
    from shmoo.harness.models.capture_cache import CaptureCache
    from shmoo.harness.models.mode import Mode

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
@options.batches()
@options.dtypes()
@options.runtimes()
@options.threads
@options.host
@options.input_shape
@options.seq_len
@modes.mode_options
@options.trust
@options.no_residual
@captures.kept
@options.as_json
@options.as_csv
@options.view(estimates.ORDER)
def estimate(
    models: tuple[str, ...],
    ops: str | None,
    reduction: Reduction | None,
    arch: tuple[str, ...],
    show_all: bool,
    batch: tuple[int, ...],
    dtype: tuple[str, ...],
    runtime: tuple[str, ...],
    threads: int | None,
    host: str | None,
    input_shape: str | None,
    seq_len: int | None,
    trust: bool,
    no_residual: bool,
    mode: Mode,
    cache: CaptureCache | None,
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
    view.check(estimates.COLUMNS if ops is None else estimates.OPERATOR_COLUMNS)
    if ops is not None:
        asked = mode.phase or mode.training or mode.autocast or mode.quantize or mode.channels_last
        refuse_with_ops(models, batch, dtype, threads, input_shape, seq_len, asked)
        records = estimate_table(ops, arch, runtime, not no_residual, reduction, host)
    elif models:
        shape = options.parse_shape(input_shape)
        records = estimate_models(
            models,
            arch,
            batch,
            dtype,
            runtime,
            threads,
            shape,
            seq_len,
            trust,
            not no_residual,
            mode,
            host,
            cache,
            estimates.unnamed_architectures(show_all, for_programs=as_json or bool(csv_path)),
        )
    else:
        raise click.UsageError("nothing to estimate: name a MODEL such as resnet18, or a table with --ops TABLE.csv")
    if csv_path:
        from shmoo.estimators.predict.tabular import flatten

        output.write_csv(csv_path, [flatten(record) for record in records])
        output.message(f"wrote {len(records)} estimates to {csv_path}")
    if as_json:
        output.json_document(records)
    elif ops is not None:
        estimates.show_operators(records, view)
    elif arch:
        estimates.show_models(records, view)
    else:
        estimates.show_models(estimates.of_unnamed(records, show_all), view)
        if not show_all:
            output.message(estimates.MORE)


def refuse_with_ops(models: tuple[str, ...], *others: object) -> None:
    """`InputError` where --ops comes with what only a model has."""
    if models:
        raise InputError(f"--ops and a MODEL ({', '.join(models)}) exclude each other; leave one out")
    if any(value for value in others):
        raise InputError(
            "--batch, --dtype, --threads, --input-shape, --seq-len and modes do not apply to --ops: the table's rows say it"
        )


def estimate_table(
    path: str,
    arch: tuple[str, ...],
    runtime: tuple[str, ...],
    residual: bool = True,
    reduction: Reduction | None = None,
    host: str | None = None,
) -> list[Record]:
    """One record a row of an operator table, in row order. `reduction` is the column that holds that of matrix products, by
    default the one of the tables that the profile was fitted to."""
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
    column = reduction or profile.table_reduction
    rows = read_table(path, measured=False, reduction=column)
    if column == "n" and reduction is None and any(row.op in PRODUCTS for row in rows):
        output.message(
            f"columns m, n, k of matrix products read as (m, n) by (n, k), as in the tables that {profile.name} was fitted to; "
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
    for i, (row, ((latency, energy), device)) in enumerate(zip(rows, priced, strict=True)):
        record: Record = {"row": i, "op": row.op}
        taken = device if row.time == "device" else latency
        record |= or_reason("latency_s", interval_record(taken), "the operator has no cost formula")
        record["device_s"] = interval_record(device)
        record |= or_reason("energy_j", interval_record(energy), f"profile {profile.name!r} has no energy coefficients")
        records.append(record)
    return records


def estimate_models(
    models: Sequence[str],
    arch: Sequence[str],
    batches: Sequence[int],
    dtypes: Sequence[str],
    runtimes: Sequence[str],
    threads: int | None,
    input_shape: tuple[int, ...] | None,
    seq_len: int | None,
    trust: bool,
    residual: bool = True,
    mode: Mode | None = None,
    host: str | None = None,
    cache: CaptureCache | None = None,
    unnamed: Sequence[str] = (),
) -> list[Record]:
    """One record for each model x batch x dtype x architecture x runtime. `unnamed` are the architectures where `arch` names
    none; all built-in ones for none of these."""
    from shmoo.estimators.graph.dtypes import matrix_dtype
    from shmoo.estimators.graph.records import notes_of
    from shmoo.estimators.predict.director import AnalysisDirector, estimate_on
    from shmoo.estimators.predict.tabular import estimate_record
    from shmoo.harness.machine.architectures import choose_targets
    from shmoo.harness.models.asked import Asked, at_batches
    from shmoo.harness.models.mode import Mode

    chosen = choose_targets(arch, runtimes, threads, host, unnamed)
    targets = [(AnalysisDirector(profile, residual=residual), runtime) for profile, runtime in chosen]
    wanted: list[str | None] = list(dtypes) or [None]
    mode = mode or Mode()
    points = at_batches(batches or (None,))
    records = []
    for model in models:
        asked = {name: Asked(model, name, input_shape, seq_len, trust, mode, points) for name in wanted}
        sources = {name: captures.source(request, cache) for name, request in asked.items()}
        for point in points:
            for dtype in wanted:
                with output.only_results_on_stdout():
                    found = sources[dtype].at(point)
                tell_about(model, found.break_reasons, found.note, notes_of(found.graphs))
                arithmetic = matrix_dtype(dtype)
                made = estimate_on(targets, found.graphs, compute_dtype=arithmetic, threads=threads, batch=found.batch)
                records += [estimate_record(one, model) | modes.mode_record(mode, found) for one in made]
    return records


def tell_about(model: str, break_reasons: Sequence[str], note: str = "", notes: Sequence[str] = ()) -> None:
    """Say on stderr what the reader of the numbers must know."""
    for said in notes:
        output.message(f"{model}: {said}")
    if note.startswith("captured anew"):
        output.message(f"{model}: {note}")
    if break_reasons:
        output.message(
            f"{model}: torch.compile split the model into pieces, all are counted; reasons: {'; '.join(break_reasons)}"
        )
