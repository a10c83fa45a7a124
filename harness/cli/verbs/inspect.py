"""`shmoo inspect`: a model by module and operator."""

from __future__ import annotations

import click
import msgspec

from shmoo.estimators.errors import InputError, unknown
from shmoo.estimators.predict.estimate_records import or_reason
from shmoo.estimators.present.inspection import SORTS, Inspection, Row
from shmoo.estimators.units import percent, si
from shmoo.harness.api import inspect as inspect_on
from shmoo.harness.cli import captures, options, output
from shmoo.harness.cli.layout import View
from shmoo.harness.defaults import ONE_OF_EACH_FAMILY
from shmoo.harness.question import Question
from shmoo.runs.store.store import Run

EXAMPLES = """\b
Examples:
  shmoo inspect resnet18
  shmoo inspect vit_b_16 --depth 3 --sort time --arch gpu_h100,tpu_v5e
  shmoo inspect resnet50 --arch gpu_h100 --html resnet50.html
  shmoo inspect resnet18 --arch cpu_server_generic --runtime eager --roofline roofline.html
"""


@click.command(epilog=EXAMPLES)
@click.argument("model")
@click.option("--depth", type=options.WholeRange(min=0), default=2, show_default=True, help="Levels of modules to show.")
@options.sort("that of the model; or name, params, flops, bytes, intensity or time on the first --arch")
@options.top("10 operators", 10)
@options.wide
@captures.model_options(arch=", ".join(ONE_OF_EACH_FAMILY))
@options.as_json
@options.as_csv
@options.as_html
@click.option(
    "--roofline", "roofline_path", type=click.Path(), help="Write a page with the kernels under the roofs of the first --arch."
)
@click.option(
    "--run", "run_path", metavar="RUN", help="With --roofline: a run whose measured calls of MODEL are drawn beside the kernels."
)
def inspect(
    model: str,
    depth: int,
    sort: str,
    top: int,
    wide: bool,
    question: Question,
    as_json: bool,
    csv_path: str | None,
    html_path: str | None,
    roofline_path: str | None,
    run_path: str | None,
) -> None:
    """MODEL by module: output shapes, parameters, flops, bytes, intensity, time, energy and tiles on architectures; and its top
    operators."""
    if run_path is not None and roofline_path is None:
        raise InputError("--run adds measured calls to a roofline; give --roofline FILE too")
    order = sort or "order"
    if order not in SORTS:
        raise unknown("order", order, SORTS)
    question = question.usually(*ONE_OF_EACH_FAMILY)
    with output.only_results_on_stdout():
        inspection = inspect_on(model, question)
    rows = inspection.tree(depth, order)
    if csv_path:
        output.write_csv(csv_path, [_flat(row) for row in rows], "modules")
    if html_path:
        from shmoo.harness.pages.inspect import write_page

        write_page(inspection, inspection.architectures[0], output.writing(html_path))
        output.message(f"wrote {html_path}")
    if roofline_path:
        from shmoo.harness.pages.roofline import call_points, write_roofline

        calls = [] if run_path is None else call_points(Run.open(run_path), model)
        write_roofline(inspection, question.machines()[0][0], question.dtype or "float32", output.writing(roofline_path), calls)
        output.message(f"wrote {roofline_path}")
    if as_json:
        output.json_document(
            {
                "format": 1,
                "model": model,
                "architectures": list(inspection.architectures),
                "modules": [_record(row) for row in rows],
                "operators": [_record(row) for row in inspection.operators],
            }
        )
        return
    _show(inspection, rows, top, View(wide=wide))


def _record(row: Row) -> dict[str, object]:
    """A row as plain values; intensity is `None` with a reason where no bytes move."""
    record = msgspec.to_builtins(row)
    record |= or_reason("intensity", row.intensity, "no bytes are moved")
    for name, part in row.on.items():
        record["on"][name]["bound"] = part.bound
        record["on"][name] |= or_reason("energy_j", part.energy_j, f"profile {name!r} has no energy coefficients")
    return record


def _flat(row: Row) -> dict[str, object]:
    flat = {name: getattr(row, name) for name in ("name", "depth", "calls", "params", "flops", "macs", "bytes")}
    flat |= {"shape": _shape(row), "intensity": row.intensity}
    for name, part in row.on.items():
        flat |= {f"{name}_{field}": getattr(part, field) for field in ("latency_s", "share", "tiles", "bound", "energy_j")}
    return flat


def _shape(row: Row) -> str:
    return "x".join(map(str, row.shape))


def _show(inspection: Inspection, rows: tuple[Row, ...], top: int, view: View) -> None:
    def numbers(row: Row) -> list[str]:
        work = [si(row.params, ""), si(row.flops, "flop"), si(row.bytes, "B")]
        intensity = "" if row.intensity is None else si(row.intensity, "")
        parts = [(si(p.latency_s, "s"), f"{percent(p.share)} {p.bound}", si(p.energy_j, "J")) for p in row.on.values()]
        return [*work, intensity, *(text for part in parts for text in part), *(si(p.tiles, "") for p in row.on.values())]

    times = [header for name in inspection.architectures for header in (f"time {name}", f"% {name}", f"energy {name}")]
    tiles = [f"tiles {name}" for name in inspection.architectures]
    headers = ["params", "flops", "bytes", "flop/B", *times, *tiles]
    lines = [
        ["  " * row.depth + (row.name.rpartition(".")[2] or inspection.model), str(row.calls), _shape(row), *numbers(row)]
        for row in rows
    ]
    # Where there is no room, columns are dropped from the end of this list.
    drop = tuple(reversed((*times[3:], "flops", "bytes", "params", "calls", "output", "flop/B", *times[2:3], *tiles)))
    output.table(["module", "calls", "output", *headers], lines, drop=drop, view=view)
    if top:
        lines = [[row.name, str(row.calls), *numbers(row)] for row in inspection.operators[:top]]
        output.table(["operator", "calls", *headers], lines, title="operators, most time first", drop=drop, view=view)
