"""`shmoo show`: the rows of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from shmoo.harness.cli import options, output

if TYPE_CHECKING:
    from shmoo.runs.records import Measurement

EXAMPLES = """\b
Examples:
  shmoo show shmoo-runs/20260101T120000Z-quick
  shmoo show RUN --json
"""


@click.command(epilog=EXAMPLES)
@click.argument("run", type=click.Path())
@options.as_json
@click.option("--csv", "csv_path", type=click.Path(), help="Write the rows as CSV.")
def show(run: str, as_json: bool, csv_path: str | None) -> None:
    """Rows of a run: median, spread, samples, why timing stopped, energy, status."""
    from shmoo.runs.store import Run

    opened = Run.open(run)
    for problem in opened.problems:
        output.message(problem)
    records = [row_record(row) for row in opened.rows]
    if csv_path:
        output.write_csv(csv_path, records)
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
    count = {status: sum(r["status"] == status for r in records) for status in ("ok", "suspect", "failed")}
    skipped = len(opened.skipped)
    output.message(", ".join(f"{n} {status}" for status, n in count.items()) + (f", {skipped} not reached" if skipped else ""))


def row_record(row: Measurement) -> dict[str, object]:
    """A row as flat plain values; statistics are derived from its samples."""
    from shmoo.runs.statistics import mad, median

    samples = row.timing.samples_s if row.timing else ()
    record: dict[str, object] = {
        "workload": row.case.workload,
        "kind": row.case.kind,
        "axes": " ".join(f"{name}={value}" for name, value in row.case.axes.items()),
        "dtype": row.case.dtype,
        "runtime": row.case.runtime,
        "device": row.case.device,
        "threads": row.case.threads,
        "cache_state": row.case.cache_state,
        "pass": row.pass_index,
        "status": row.status,
        "reasons": "; ".join(row.reasons),
        "latency_s": median(samples) if samples else None,
        "latency_mad_s": mad(samples) if samples else None,
        "samples": len(samples),
        "block_calls": row.timing.block_calls if row.timing else None,
        "stop_reason": row.timing.stop_reason if row.timing else None,
        "first_call_s": row.timing.first_call_s if row.timing else None,
        "compile_s": row.timing.compile_s if row.timing else None,
        "peak_memory_bytes": row.peak_memory_bytes,
        "peak_memory_reason": row.peak_memory_reason,
    }
    for reading in row.energy:
        record[f"energy_{reading.domain}_j"] = reading.energy_j
        if reading.energy_j is None:
            record[f"energy_{reading.domain}_j_reason"] = reading.reason
    return record


def show_rows(records: list[dict[str, object]]) -> None:
    """Table for people."""
    from shmoo.estimators.present import percent, si

    lines = []
    for r in records:
        latency, mad = r["latency_s"], r["latency_mad_s"]
        spread = percent(mad / latency) if latency else ""
        label = " ".join(filter(None, (r["workload"], r["axes"])))
        setting = f"{r['dtype']} {r['runtime']} {r['device']}"
        status = f"{r['status']}: {r['reasons']}" if r["reasons"] else r["status"]
        lines.append([label, setting, status, si(latency, "s"), spread, str(r["samples"]), r["stop_reason"] or ""])
    output.table(["case", "setting", "status", "median", "MAD", "n", "stop"], lines, left=3)
