"""Estimates as tables for people, and what was assumed in them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from shmoo.estimators.units import percent, si, size, yes_or_no
from shmoo.harness.cli import output
from shmoo.harness.cli.layout import Cell, View

if TYPE_CHECKING:
    from shmoo.estimators.predict.tabular import Record

NO_SILICON = "no silicon"
SHARED = ("model", "batch", "dtype", "runtime")
"""Columns that move into the title where all rows agree."""
COLUMNS: Mapping[str, Callable[[Record], str | Cell]] = {
    "model": lambda r: str(r["model"]),
    "arch": lambda r: f"{r['arch']}, {NO_SILICON}" if _simulated(r) else str(r["arch"]),
    "batch": lambda r: str(r["batch"]),
    "dtype": lambda r: str(r["dtype"]),
    "runtime": lambda r: str(r["runtime"]),
    "latency": lambda r: output.quantity(r["latency_s"]["value"], "s"),
    "90 % interval": lambda r: f"{si(r['latency_s']['low'], 's')} - {si(r['latency_s']['high'], 's')}",
    "device": lambda r: output.quantity(r["device_s"], "s"),
    "rate": lambda r: output.quantity(r["throughput_per_s"]["value"], "/s"),
    "energy": lambda r: output.quantity(r["energy_j"] and r["energy_j"]["value"], "J"),
    "power": lambda r: output.quantity(r["average_power_w"] and r["average_power_w"]["value"], "W"),
    "memory": lambda r: Cell(size(r["peak_memory_bytes"]), r["peak_memory_bytes"]),
    "fits": lambda r: yes_or_no(r["fits"]),
    "tiles": lambda r: output.quantity(r["tiles"], ""),
    "rests on": lambda r: _rests_on(r["basis"]),
}
"""Header -> cell of an estimate."""
TEXTS = 5
"""Columns that are text, the first ones."""
DROP = ("tiles", "rests on", "power", "device", "memory", "rate", "90 % interval", "energy", "fits")
"""Columns in the order in which a narrow terminal leaves them out."""
ALL = "a short list where no --arch is named"
ORDER = "by latency where no --arch is named, else that of --arch"
"""Defaults of --all and --sort for help."""
MORE = "more machines: --all for every built-in one, --arch NAME,... for those of `shmoo profiles list`"
OPERATOR_COLUMNS = ("row", "op", "latency", "90 % of latency", "energy", "90 % of energy")


def show_models(records: Sequence[Record], view: View = output.EVERYTHING) -> None:
    """Table of estimates of models, what was assumed, what does not fit, and operators without a cost."""
    # Each architecture has its own runtime unless several are compared on one.
    pairs = {(r["arch"], r["runtime"]) for r in records}
    own_runtimes = len(pairs) == len({arch for arch, _ in pairs})
    drop = (*DROP[:5], "runtime", *DROP[5:]) if own_runtimes else DROP
    rows = [[cell(r) for cell in COLUMNS.values()] for r in records]
    output.table(list(COLUMNS), rows, left=TEXTS, drop=drop, common=SHARED, view=view)
    if records:
        output.result("")
        output.facts(assumptions(records))
    output.tell_of_memory(records)
    output.tell_of_unknown_operators(records)


def assumptions(records: Sequence[Record]) -> dict[str, str]:
    """What the estimates rest on that the table does not show, by name."""
    said = {}
    if inputs := list(dict.fromkeys(r["inputs"] for r in records if r.get("inputs"))):
        said["input"] = "; ".join(inputs)
    said["state"] = "weights and inputs in memory, calls back to back with warm caches, compilation not counted"
    runtimes = sorted({str(r["runtime"]) for r in records})
    if len(runtimes) > 1:
        said["runtime"] = f"each architecture's own of {', '.join(runtimes)}"
    if hosts := sorted({str(r["host"]) for r in records} - {"own"}):
        said["host"] = f"{', '.join(hosts)} launches the kernels of GPUs"
    said["rate"] = "samples a second: the batch over the latency"
    if any(_simulated(r) for r in records):
        said[NO_SILICON] = "the machine exists in simulation only: its numbers are design targets"
    return said


def _rests_on(basis: Mapping[str, float]) -> str:
    source, share = max(basis.items(), key=lambda item: item[1])
    return f"{source} {percent(share, digits=0)}"


def _simulated(record: Record) -> bool:
    return bool(record["basis"].get("simulated"))


def unnamed_architectures(show_all: bool, for_programs: bool) -> list[str]:
    """What is estimated on where no architecture is named: programs get every built-in profile, a table has a short list or, with
    --all, every machine."""
    from shmoo.harness.machine.architectures import default_names, machine_names, short_names

    return default_names() if for_programs else machine_names() if show_all else short_names()


def of_unnamed(records: Sequence[Record], show_all: bool) -> list[Record]:
    """The records that a table shows where no architecture is named, those of one request sorted by latency."""
    names = unnamed_architectures(show_all, for_programs=False)
    listed = [r for r in records if r["arch"] in names]
    requests = list(dict.fromkeys(map(_request, listed)))
    return sorted(listed, key=lambda r: (requests.index(_request(r)), r["latency_s"]["value"]))


def _request(record: Record) -> tuple[object, ...]:
    return tuple(record.get(name) for name in ("model", "batch", "dtype", "prompt_tokens"))


def show_operators(records: Sequence[Record], view: View) -> None:
    """Table of the rows of an operator table."""

    def cells(value: dict[str, float] | None, unit: str) -> list[str | Cell]:
        if value is None:
            return [output.quantity(None, unit), ""]
        return [output.quantity(value["value"], unit), f"{si(value['low'], unit)} - {si(value['high'], unit)}"]

    rows = [[str(r["row"]), str(r["op"]), *cells(r["latency_s"], "s"), *cells(r["energy_j"], "J")] for r in records]
    output.table(OPERATOR_COLUMNS, rows, left=2, view=view)
