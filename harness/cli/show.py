"""`shmoo show`: the rows of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from shmoo.harness.cli import options, output

if TYPE_CHECKING:
    from shmoo.runs.records import Measurement
    from shmoo.runs.store import Run

EXAMPLES = """\b
Examples:
  shmoo show shmoo-runs/20260101T120000Z-quick
  shmoo show RUN --operators
  shmoo show RUN --json
"""


@click.command(epilog=EXAMPLES, short_help="The rows of a run.")
@click.argument("run", type=click.Path())
@options.as_json
@click.option("--csv", "csv_path", type=click.Path(), help="Write the rows as CSV.")
@click.option("--operators", is_flag=True, help="Also the operators of networks timed alone (`shmoo measure --operators`).")
def show(run: str, as_json: bool, csv_path: str | None, operators: bool) -> None:
    """Rows of a run: median, spread, samples, why timing stopped, energy, status."""
    from shmoo.runs.store import Run

    opened = Run.open(run)
    for problem in opened.problems:
        output.message(problem)
    records = [row_record(row) for row in opened.rows]
    if operators:
        for row, record in zip(opened.rows, records, strict=True):
            record["operators"] = operator_records(opened, row)
    if csv_path:
        output.write_csv(csv_path, [{k: v for k, v in record.items() if k != "operators"} for record in records])
        output.message(f"wrote {len(records)} rows to {csv_path}")
    if as_json:
        import msgspec

        output.json_document(
            {
                "format": 1,
                "run": run,
                "manifest": msgspec.to_builtins(opened.manifest),
                "rows": records,
                "problems": opened.problems,
            }
        )
        return
    show_rows(records)
    for record in records:
        if record.get("operators"):
            show_operators(record)
    count = {status: sum(r["status"] == status for r in records) for status in ("ok", "suspect", "failed")}
    skipped = len(opened.skipped)
    output.message(", ".join(f"{n} {status}" for status, n in count.items()) + (f", {skipped} not reached" if skipped else ""))


def row_record(row: Measurement) -> dict[str, object]:
    """A row as flat plain values; statistics are derived from its samples."""
    from shmoo.estimators.tabular import or_reason
    from shmoo.runs.statistics import mad, median

    timing = row.timing
    samples = timing.samples_s if timing else ()
    untimed = "; ".join(row.reasons) or "not timed"
    compiled = row.case.runtime != "eager"
    no_compilation = untimed if timing is None else "the back-end does not tell" if compiled else "nothing is compiled"
    record: dict[str, object] = {
        "workload": row.case.workload,
        "kind": row.case.kind,
        "axes": " ".join(f"{name}={value}" for name, value in row.case.axes.items()),
        "dtype": row.case.dtype,
        "runtime": row.case.runtime,
        "device": row.case.device,
        **or_reason("threads", row.case.threads, "not asked for: the number in the manifest"),
        "cache_state": row.case.cache_state,
        "pass": row.pass_index,
        "status": row.status,
        "reasons": "; ".join(row.reasons),
        **or_reason("latency_s", median(samples) if samples else None, untimed),
        **or_reason("latency_mad_s", mad(samples) if samples else None, untimed),
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
        missing = next((o.reason for o in row.operators if o.time_s is None), "")
        record |= or_reason("operators_s", row.operators_s, missing)
    for reading in row.energy:
        record |= or_reason(f"energy_{reading.domain}_j", reading.energy_j, reading.reason)
    return record


def show_rows(records: list[dict[str, object]]) -> None:
    """Table for people."""
    from shmoo.estimators.present import percent, si

    sums = any(r.get("operators_s") is not None for r in records)
    lines = []
    for r in records:
        latency, mad = r["latency_s"], r["latency_mad_s"]
        spread = percent(mad / latency) if latency else ""
        label = " ".join(filter(None, (r["workload"], r["axes"])))
        setting = f"{r['dtype']} {r['runtime']} {r['device']}"
        status = f"{r['status']}: {r['reasons']}" if r["reasons"] else r["status"]
        lines.append([label, setting, status, si(latency, "s"), spread, str(r["samples"]), r["stop_reason"] or ""])
        if sums:
            ratio = r["operators_s"] / latency if latency and r.get("operators_s") is not None else None
            lines[-1].append("" if ratio is None else f"{ratio:.2f}")
    headers = ["case", "setting", "status", "median", "MAD", "n", "stop", *(["operators alone / whole"] if sums else [])]
    output.table(headers, lines, left=3)


def operator_records(run: Run, row: Measurement) -> list[dict[str, object]]:
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


def show_operators(record: dict[str, object]) -> None:
    """Table for people of one network's operators, and what their sum is beside the network."""
    from shmoo.estimators.present import percent, si

    total, whole = record["operators_s"], record["latency_s"]
    lines = [
        [
            r["op"].removeprefix("aten."),
            r["shapes"],
            r["module"],
            r["reason"],
            str(r["calls"]),
            si(r["time_s"], "s"),
            si(r["total_s"], "s"),
            percent(r["total_s"] / whole) if r["total_s"] is not None and whole else "",
        ]
        for r in record["operators"]
    ]
    title = f"operators of {record['workload']} alone, first of the modules that call each"
    output.table(
        ["operator", "operands", "module", "doubts", "calls", "time", "together", "of whole"], lines, title=title, left=4
    )
    if total is not None and whole:
        output.result(
            f"sum of operators alone {si(total, 's')}, the network as a whole {si(whole, 's')}: {total / whole:.2f} of it"
        )
