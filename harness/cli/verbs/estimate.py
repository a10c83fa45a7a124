"""`shmoo estimate`: models, or a table of operators, on architectures."""

from __future__ import annotations

from collections.abc import Sequence

import click
import msgspec

from shmoo.estimators.errors import InputError
from shmoo.estimators.graph.dtypes import COMPLEX_DTYPES, matrix_dtype
from shmoo.estimators.machine.profile import Reduction
from shmoo.estimators.predict.director import AnalysisDirector
from shmoo.estimators.predict.estimate_records import Record, flatten, interval_record, or_reason
from shmoo.estimators.predict.limits import type_notes
from shmoo.harness.api import estimate_records
from shmoo.harness.cli import captures, estimates, options, output
from shmoo.harness.cli.layout import View
from shmoo.harness.models.request import Mode
from shmoo.harness.question import Question
from shmoo.runs.tables.reading import CONTRACTIONS, PRODUCTS, read_table

EXAMPLES = """\b
Examples:
  shmoo estimate resnet18
  shmoo estimate resnet18 --all --sort energy --columns arch,latency,energy,fits
  shmoo estimate resnet50 --arch gpu_h100,tpu_v4 --batch 1,32 --dtype bf16 --json
  shmoo estimate my_package.models:build --input-shape 1x3x128x128 --csv estimates.csv
  shmoo estimate hf:config.json --phase decode --seq-len 2048 --dtype bf16 --quantize int4-weight --arch gpu_l4
  shmoo estimate --ops operators.csv --arch gpu_a100_40g --json
"""


@click.command(epilog=EXAMPLES)
@click.argument("models", metavar="[MODEL]...", nargs=-1)
@click.option("--ops", type=click.Path(), help="Estimate the rows of an operator table instead of a model; needs one --arch.")
@options.reduction("as in the tables the profile was fitted to, else k")
@options.everything(estimates.ALL)
@captures.model_options(arch=options.SHORT_LIST, runtime=options.OWN_RUNTIME, batch=options.OWN_BATCH, dtype=options.OWN_DTYPES)
@options.no_residual
@options.as_json
@options.as_csv
@options.view(estimates.ORDER)
def estimate(
    models: tuple[str, ...],
    ops: str | None,
    reduction: Reduction | None,
    show_all: bool,
    question: Question,
    no_residual: bool,
    as_json: bool,
    csv_path: str | None,
    view: View,
) -> None:
    """Latency, energy and memory of models on architectures, each with a 90 % interval.

    Without --arch the table has this machine's CPU once it is calibrated, a server CPU, three GPUs, a TPU and a KPU; --all adds
    the other built-in machines. --json and --csv contain every built-in profile, including brief_*, which are illustrations.

    MODEL is the name of a network, hf:config.json (a Hugging Face configuration; nothing is downloaded), a file.pt2 saved by
    torch.export (needs --trust), or package.module:factory (a callable without arguments that returns a model; it is run).
    """
    view.check([column.name for column in (estimates.COLUMNS if ops is None else estimates.OPERATOR_COLUMNS)])
    if ops is not None:
        refuse_with_ops(models, question)
        records = estimate_table(ops, question, not no_residual, reduction)
    elif models:
        unnamed = estimates.unnamed_architectures(show_all, for_programs=as_json or bool(csv_path))
        with output.only_results_on_stdout():
            records = estimate_records(models, question, unnamed, residual=not no_residual)
    else:
        raise click.UsageError("nothing to estimate: name a MODEL such as resnet18, or a table with --ops TABLE.csv")
    if csv_path:
        output.write_csv(csv_path, [flatten(record) for record in records], "estimates")
    if as_json:
        output.json_document(records)
    elif ops is not None:
        estimates.show_operators(records, view)
    else:
        estimates.show_models(records if question.arch else estimates.of_unnamed(records, show_all), view)
        if not question.arch and not show_all:
            output.message(estimates.MORE)


def refuse_with_ops(models: Sequence[str], question: Question) -> None:
    """`InputError` where --ops comes with options for models."""
    if models:
        raise InputError(f"--ops and a MODEL ({', '.join(models)}) exclude each other; leave one out")
    if (
        question.threads
        or question.batches
        or question.dtypes
        or question.input_shape
        or question.seq_len
        or question.mode != Mode()
    ):
        raise InputError(
            "--batch, --dtype, --threads, --input-shape, --seq-len and modes do not apply to --ops: the table's rows contain them"
        )


def estimate_table(path: str, question: Question, residual: bool, reduction: Reduction | None) -> list[Record]:
    """One record per row of an operator table, in row order. `reduction` is the column with the reduction of matrix products; for
    plain float32 calls the default is that of the tables that the profile was fitted to."""
    if len(question.arch) != 1:
        raise InputError(f"--ops needs exactly one --arch, got {len(question.arch) or 'none'}; such as --arch gpu_a100_40g")
    profile, chosen = question.machine()
    rows = read_table(path, measured=False, reduction=reduction or profile.table_reduction)
    if reduction is None:
        rows = tuple(row if row.plain else msgspec.structs.replace(row, reduction="k") for row in rows)
        if any(row.op in PRODUCTS and row.reduction == "n" for row in rows):
            output.message(
                f"columns m, n, k of float32 products read as (m, n) by (n, k), as in the tables behind {profile.name}; "
                "--reduction k reads (m, k) by (k, n)"
            )
    graphs = [row.graph() for row in rows]
    for note in type_notes(profile, {row.dtype for row in rows if row.op in CONTRACTIONS} - set(COMPLEX_DTYPES)):
        output.message(note)
    parts = AnalysisDirector(profile, residual=residual).price_cases(
        graphs,
        runtime=chosen,
        compute_dtypes=[matrix_dtype(row.dtype) for row in rows],
        cold_weights=[row.cold_weights for row in rows],
    )
    priced = [intervals for part in parts for intervals in zip(part.intervals(), part.device_intervals(), strict=True)]
    records = []
    for i, (row, (call, on_device)) in enumerate(zip(rows, priced, strict=True)):
        latency, energy = on_device if row.time == "device" else call
        record: Record = {"row": i, "op": row.op}
        record |= or_reason("latency_s", interval_record(latency), "the operator has no cost formula")
        record["device_s"] = interval_record(on_device[0])
        record |= or_reason("energy_j", interval_record(energy), f"profile {profile.name!r} has no energy coefficients")
        records.append(record)
    return records
