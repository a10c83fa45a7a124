"""Estimates as tables for people, with their assumptions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import itemgetter

from shmoo.estimators.predict.estimate_records import Record, flatten
from shmoo.estimators.present.results import interval, results
from shmoo.estimators.shown_columns import Column
from shmoo.estimators.units import percent
from shmoo.harness.cli import output
from shmoo.harness.cli.layout import View
from shmoo.harness.machine.architectures import default_names, machine_names, short_names

NO_SILICON = "no silicon"
SHARED = ("model", "batch", "dtype", "runtime")
"""Columns that move into the title if all rows agree."""
COLUMNS = (
    Column("model", itemgetter("model")),
    Column("arch", lambda r: f"{r['arch']}, {NO_SILICON}" if _simulated(r) else r["arch"]),
    Column("batch", itemgetter("batch")),
    Column("dtype", itemgetter("dtype")),
    Column("runtime", itemgetter("runtime")),
    *results("latency", "90 % interval", "device", "rate", "energy", "power", "memory", "fits", "tiles"),
    Column("rests on", lambda r: _rests_on(r["basis"])),
)
"""Columns of a table of estimates, from the record and its flat form."""
MOST_ADVICE = 3
"""Lines about memory below a table."""
TEXTS = 5
"""Number of text columns, which come first."""
DROP = ("tiles", "rests on", "power", "device", "memory", "rate", "90 % interval", "energy", "fits")
"""Columns in the order in which a narrow terminal drops them."""
ALL = "a short list where no --arch is named"
ORDER = "by latency where no --arch is named, else that of --arch"
"""Defaults of --all and --sort for the help."""
MORE = "more machines: --all for every built-in one, --arch NAME,... for those of `shmoo profiles list`"
OPERATOR_COLUMNS = (
    Column("row", itemgetter("row")),
    Column("op", itemgetter("op")),
    *results("latency"),
    Column("90 % of latency", interval("latency_s", "s")),
    *results("energy"),
    Column("90 % of energy", interval("energy_j", "J")),
)


def show_models(records: Sequence[Record], view: View = output.EVERYTHING) -> None:
    """Show estimates of models as a table, then assumptions, machines without enough memory, and operators without a cost."""
    # Each architecture uses its default runtime unless several are compared on one.
    pairs = {(r["arch"], r["runtime"]) for r in records}
    own_runtimes = len(pairs) == len({arch for arch, _ in pairs})
    drop = (*DROP[:5], "runtime", *DROP[5:]) if own_runtimes else DROP
    output.table(COLUMNS, [r | flatten(r) for r in records], left=TEXTS, drop=drop, common=SHARED, view=view)
    tell_about(records, assumptions(records))


def tell_about(records: Sequence[Record], assumed: Mapping[str, str]) -> None:
    """Print the notes below a table of estimates: the assumptions, advice for the first estimates that exceed their machine's
    memory, and operators without a cost formula."""
    if records:
        output.result("")
        output.facts(assumed)
    outgrown = [r for r in records if r["fits"] is False]
    for r in outgrown[:MOST_ADVICE]:
        output.message(f"{r['model']} on {r['arch']}, batch {r['batch']} {r['dtype']}: {r['memory']['advice']}")
    if len(outgrown) > MOST_ADVICE:
        output.message(f"{len(outgrown) - MOST_ADVICE} more do not fit; --json says what is missing and what would fit")
    for line in dict.fromkeys(note for r in records for note in r.get("notes", ()) if note.startswith(f"{r['arch']} does not")):
        output.message(line)
    for line in dict.fromkeys(
        f"{r['model']}: {op['count']} x {op['op']} has no cost formula: only its bytes are counted"
        for r in records
        for op in r["unknown_ops"]
    ):
        output.message(line)


def assumptions(records: Sequence[Record]) -> dict[str, str]:
    """The assumptions behind the estimates that the table does not show, by name."""
    assumed = {}
    if inputs := list(dict.fromkeys(r["inputs"] for r in records if r.get("inputs"))):
        assumed["input"] = "; ".join(inputs)
    assumed["state"] = "weights and inputs in memory, calls back to back with warm caches, compilation not counted"
    runtimes = sorted({str(r["runtime"]) for r in records})
    if len(runtimes) > 1:
        assumed["runtime"] = f"each architecture's own of {', '.join(runtimes)}"
    if hosts := sorted({str(r["host"]) for r in records} - {"own"}):
        assumed["host"] = f"{', '.join(hosts)} launches the kernels of GPUs"
    if any("@" in str(r["arch"]) for r in records):
        assumed["variants"] = (
            "without corrections that were measured on the unchanged machine; compare with that under --no-residual"
        )
    assumed["rate"] = "samples a second: the batch over the latency"
    if any(_simulated(r) for r in records):
        assumed[NO_SILICON] = "the machine exists in simulation only: its numbers are design targets"
    return assumed


def _rests_on(basis: Mapping[str, float]) -> str:
    source, share = max(basis.items(), key=lambda item: item[1])
    return f"{source} {percent(share, digits=0)}"


def _simulated(record: Record) -> bool:
    return bool(record["basis"].get("simulated"))


def unnamed_architectures(show_all: bool, for_programs: bool) -> list[str]:
    """The architectures used if none is named: programs get every built-in profile, a table a short list or, with --all, every
    machine."""
    return default_names() if for_programs else machine_names() if show_all else short_names()


def of_unnamed(records: Sequence[Record], show_all: bool) -> list[Record]:
    """The records that a table shows if no architecture is named; records of one request are sorted by latency."""
    names = unnamed_architectures(show_all, for_programs=False)
    shown_records = [r for r in records if r["arch"] in names]
    requests = list(dict.fromkeys(map(_request, shown_records)))
    return sorted(shown_records, key=lambda r: (requests.index(_request(r)), r["latency_s"]["value"]))


def _request(record: Record) -> tuple[object, ...]:
    return tuple(record.get(name) for name in ("model", "batch", "dtype", "prompt_tokens"))


def show_operators(records: Sequence[Record], view: View) -> None:
    """Show estimates of the rows of an operator table."""
    output.table(OPERATOR_COLUMNS, map(flatten, records), left=2, view=view)
