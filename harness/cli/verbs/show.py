"""`shmoo show`: the rows of a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from operator import itemgetter
from typing import Any

import click
import msgspec

from shmoo.estimators.predict.estimate_records import or_reason
from shmoo.estimators.registry import short_op
from shmoo.estimators.shown_columns import Cell, Column, quantity
from shmoo.estimators.units import si
from shmoo.harness.cli import options, output
from shmoo.harness.cli.layout import View, room_beside
from shmoo.runs.store.records import CaseSpec, Measurement
from shmoo.runs.store.statistics import FEW_CASES, QUIET_BLOCKS, mad
from shmoo.runs.store.store import Run

Record = dict[str, Any]
LABEL = 24
"""Fewest characters to which a case's label is shortened."""
EXAMPLES = """\b
Examples:
  shmoo show shmoo-runs/20260101T120000Z-quick
  shmoo show RUN --reasons
  shmoo show RUN --operators
  shmoo show RUN --json
"""


@click.command(epilog=EXAMPLES)
@click.argument("run", type=click.Path())
@options.as_json
@options.as_csv
@click.option(
    "--reasons", is_flag=True, help="Also the reasons and remarks of every row; without it, of rows that cannot be used."
)
@options.operators
@options.view("that of the run")
def show(run: str, as_json: bool, csv_path: str | None, reasons: bool, operators: bool, view: View) -> None:
    """Rows of a run: time of a call with its standard error, time while nothing else runs, numbers of visits and samples, and
    whether the row can be used."""
    opened = output.open_run(run)
    operator_lists = [operator_records(opened, row) for row in opened.rows] if operators else []
    if csv_path:
        output.write_csv(csv_path, map(row_record, opened.rows), "rows")
    if as_json:
        records = map(row_record, opened.rows)
        output.json_document(
            {
                "format": 1,
                "run": run,
                "manifest": msgspec.to_builtins(opened.manifest),
                # Records of a large run take as much memory as the run.
                "rows": (r | {"operators": o} for r, o in zip(records, operator_lists, strict=True)) if operators else records,
                "problems": opened.problems,
            }
        )
        return
    show_rows(opened.rows, view, every_reason=reasons)
    for row, timed in zip(opened.rows, operator_lists, strict=False):
        if timed:
            show_operators(row, timed)
    count = Counter(row.status for row in opened.rows)
    skipped = len(opened.skipped)
    counts_text = ", ".join(f"{count[status]} {status}" for status in ("ok", "noisy", "suspect", "failed"))
    output.message(counts_text + (f", {skipped} not reached" if skipped else ""))


def row_record(row: Measurement) -> Record:
    """A row as flat plain values; statistics are derived from the samples of its usable visits."""
    timing = row.timing
    samples = timing.samples_s if timing else ()
    latency, time_alone = (row.latency, row.alone) if samples else (None, None)
    untimed = row.why or "not timed"
    compiled = row.case.runtime != "eager"
    no_compilation = untimed if timing is None else "not reported by the back-end" if compiled else "nothing is compiled"
    not_alone = _why_not_alone(row) if samples else untimed
    record: Record = {
        "workload": row.case.workload,
        "kind": row.case.kind,
        "axes": " ".join(f"{name}={value}" for name, value in row.case.axes.items()),
        "dtype": row.case.dtype,
        "runtime": row.case.runtime,
        "device": row.case.device,
        **or_reason("threads", row.case.threads, "not asked for: the number in the manifest"),
        "cache_state": row.case.cache_state,
        "visits": len(row.visits),
        "status": row.status,
        "reasons": row.why,
        **or_reason("latency_s", latency and latency.value_s, untimed),
        **or_reason("relative_se", None if latency is None else latency.relative_se, untimed),
        **or_reason("latency_mad_s", mad(samples) if samples else None, untimed),
        **or_reason("alone_s", time_alone and time_alone.value_s, not_alone),
        **or_reason("alone_relative_se", None if time_alone is None else time_alone.relative_se, not_alone),
        **or_reason("visit_sd", row.visit_sd, f"fewer than {FEW_CASES} cases of its kind were visited twice"),
        "samples": len(samples),
        **or_reason("block_calls", timing.block_calls if timing else None, untimed),
        "stop_reason": timing.stop_reason if timing else "",
        **or_reason("first_call_s", timing.first_call_s if timing else None, "not measured" if timing else untimed),
        **or_reason("compile_s", timing.compile_s if timing else None, no_compilation),
        **or_reason("peak_memory_bytes", row.peak_memory_bytes, row.peak_memory_reason or "not measured"),
    }
    if row.children:
        record["children_s"] = row.children_s
    if row.operators:
        missing_reason = next((o.reason for o in row.operators if o.time_s is None), "")
        record |= or_reason("operators_s", row.operators_s, missing_reason)
    for reading in row.energy:
        record |= or_reason(f"energy_{reading.domain}_j", reading.energy_j, reading.reason)
    return record


def _why_not_alone(row: Measurement) -> str:
    if not any(visit.slowdowns for visit in row.visits):
        return "the cores were not watched between blocks"
    return f"fewer than {QUIET_BLOCKS} blocks from two visits ran on a quiet machine"


def show_rows(rows: Sequence[Measurement], view: View, *, every_reason: bool) -> None:
    """Show rows as a table, with the reasons of unusable rows (or of all) under them. On a terminal labels of cases are shortened
    so that a row takes one line if possible."""
    sums = any(row.operators_s is not None for row in rows)
    with_energy = any(row.energy_reading is not None for row in rows)
    shared, settings = _settings([row.case for row in rows])
    differ = any(settings)
    lines: list[list[str | Cell]] = []
    for row, setting in zip(rows, settings, strict=True):
        samples = len(row.timing.samples_s) if row.timing else 0
        latency, time_alone = (row.latency, row.alone) if samples else (None, None)
        line: list[str | Cell] = [
            *([setting] if differ else []),
            row.status,
            quantity(latency.value_s if latency else None, "s", unknown=""),
            quantity(latency.relative_se if latency else None, "%", unknown=""),
            quantity(time_alone.value_s if time_alone else None, "s", unknown=""),
            str(len(row.visits)),
            str(samples),
        ]
        if with_energy:
            reading = row.energy_reading
            line.append(quantity(None if reading is None else reading.energy_j, "J", unknown=""))
        if sums:
            ratio = row.operators_s / latency.value_s if latency and row.operators_s is not None else None
            line.append(Cell("" if ratio is None else f"{ratio:.2f}", ratio))
        lines.append(line)
    headers = [*(["setting"] if differ else []), "status", "time", "± std. error", "alone", "visits", "samples"]
    headers += ["energy"] if with_energy else []
    headers += ["operators alone / whole"] if sums else []
    terminal = output.terminal_columns()
    room = None if terminal is None or view.wide else max(room_beside(headers, lines, terminal), LABEL)
    body = ([label, *line] for label, line in zip(_labels([row.case for row in rows], room), lines, strict=True))
    reasons = [row.why if every_reason or not row.timed else "" for row in rows]
    text_columns = 3 if differ else 2
    output.table(["case", *headers], body, title=shared, left=text_columns, drop=("samples", "visits"), under=reasons, view=view)


def _settings(cases: Sequence[CaseSpec]) -> tuple[str, list[str]]:
    """The settings common to all cases, and the other settings of each case."""
    settings = [(c.dtype, c.runtime, c.device, "" if c.threads is None else f"{c.threads} threads", c.cache_state) for c in cases]
    common = [len(set(values)) == 1 for values in zip(*settings, strict=True)]
    shared = (
        " ".join(value for value, is_common in zip(settings[0], common, strict=True) if is_common and value) if settings else ""
    )
    return shared, [
        " ".join(v for v, is_common in zip(values, common, strict=True) if not is_common and v) for values in settings
    ]


def _labels(cases: Sequence[CaseSpec], room: int | None) -> list[str]:
    """Workload and axes; if that is too long, only axes in which the cases of the workload differ, truncated if necessary."""
    axes: dict[str, dict[str, set[object]]] = {}
    for case in cases:
        for name, value in case.axes.items():
            axes.setdefault(case.workload, {}).setdefault(name, set()).add(value)

    def label(case: CaseSpec) -> str:
        full_label = " ".join((case.workload, *(f"{name}={value}" for name, value in case.axes.items())))
        if room is None or len(full_label) <= room:
            return full_label
        telling = (f"{name}={value}" for name, value in case.axes.items() if len(axes[case.workload][name]) > 1)
        short_label = " ".join((case.workload, *telling))
        return short_label if len(short_label) <= room else short_label[: room - 1] + "…"

    return [label(case) for case in cases]


def operator_records(run: Run, row: Measurement) -> list[Record]:
    """The distinct operators of a row timed alone, those that take most of the network's time first."""
    calls = [call for graph in run.graphs(row) for call in graph.calls] if row.operators else []
    records = []
    for operator in row.operators:
        call, count = calls[operator.calls[0]], len(operator.calls)
        records.append(
            {
                "op": operator.op,
                "shapes": ", ".join("x".join(map(str, spec.shape)) or "scalar" for spec in call.inputs),
                "dtype": next((spec.dtype for spec in call.inputs), ""),
                "module": call.module,
                "calls": count,
                "time_s": operator.time_s,
                "mad_s": operator.mad_s,
                "total_s": None if operator.time_s is None else count * operator.time_s,
                "reason": operator.reason,
            }
        )
    return sorted(records, key=lambda record: -(record["total_s"] or 0.0))


def show_operators(row: Measurement, records: Sequence[Record]) -> None:
    """Show one network's operators as a table, and their sum compared with the network."""
    total, network_s = row.operators_s, row.latency.value_s if row.timing and row.timing.samples_s else None
    columns = [
        Column("operator", lambda r: short_op(r["op"])),
        Column("operands", itemgetter("shapes")),
        Column("module", itemgetter("module")),
        Column("calls", itemgetter("calls"), "#"),
        Column("time", itemgetter("time_s"), "s"),
        Column("together", itemgetter("total_s"), "s"),
        Column("of whole", lambda r: r["total_s"] / network_s if r["total_s"] is not None and network_s else None, "%", ""),
    ]
    title = f"operators of {row.case.workload} alone, first of the modules that call each"
    output.table(columns, records, title=title, left=3, under=[r["reason"] for r in records])
    if total is not None and network_s:
        output.result(
            f"sum of operators alone {si(total, 's')}, the network as a whole {si(network_s, 's')}: {total / network_s:.2f} of it"
        )
