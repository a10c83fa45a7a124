"""Estimates as plain records: JSON objects, flat rows for CSV files and DataFrames, and HTML tables for notebooks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import msgspec

from shmoo.estimators.graph.dtypes import shown_dtype
from shmoo.estimators.graph.records import Interval
from shmoo.estimators.memory.room import MemoryRoom
from shmoo.estimators.units import html_table, percent, si, size, span, yes_or_no

if TYPE_CHECKING:
    from shmoo.estimators.predict.director import Estimate

INTERVAL_FIELDS = ("latency_s", "throughput_per_s", "energy_j", "average_power_w", "edp_js")
"""Fields of an estimate that carry a 90 % interval."""
BOUNDS = tuple(f"{name}_{end}" for name in INTERVAL_FIELDS for end in ("low", "high"))
"""Columns of a flat row for the ends of intervals."""
_ENERGY_FIELDS = ("energy_j", "average_power_w", "edp_js")
_PLAIN_FIELDS = ("flops", "macs", "bytes", "params", "weight_bytes", "peak_memory_bytes", "kernels", "tiles", "host", "device_s")

Record = dict[str, Any]
ALL_THREADS = "not specified: all threads of the architecture"
"""Reason given where an estimate has no number of threads."""


def or_reason(name: str, value: object, reason: str) -> Record:
    """{name: value}; for an unknown value {name: None, "<name>_reason": reason}."""
    return {name: value} if value is not None else {name: None, f"{name}_reason": reason}


def interval_record(value: Interval | None) -> dict[str, float] | None:
    """{"value", "low", "high"} in SI units, or `None`."""
    return None if value is None else msgspec.structs.asdict(value)


def estimate_record(estimate: Estimate, model: str) -> Record:
    """An estimate as an object of plain types. An unknown value is `None`, with a "<field>_reason"."""
    record: Record = {
        "model": model,
        "arch": estimate.arch,
        "batch": estimate.batch,
        "dtype": shown_dtype(estimate.dtype),
        "runtime": estimate.runtime,
        **or_reason("threads", estimate.threads, ALL_THREADS),
    }
    record.update((name, getattr(estimate, name)) for name in _PLAIN_FIELDS)
    record |= memory_record(estimate.memory)
    for name in INTERVAL_FIELDS:
        reason = estimate.energy_j_reason if name in _ENERGY_FIELDS else "not estimated"
        record |= or_reason(name, interval_record(getattr(estimate, name)), reason)
    record["unknown_ops"] = list(map(msgspec.structs.asdict, estimate.unknown_ops))
    record["notes"] = list(estimate.notes)
    record["basis"] = dict(estimate.basis)
    return record


def memory_record(room: MemoryRoom) -> Record:
    """Whether a call fits the machine's memory, as `fits` and its numbers."""
    unknown_capacity = "the profile does not say the capacity of its main memory"
    parts: Record = {f"{name}_bytes": getattr(room, f"{name}_bytes") for name in ("weight", "cache", "activation")}
    for name in ("capacity_bytes", "missing_bytes", "devices"):
        parts |= or_reason(name, getattr(room, name), unknown_capacity)
    no_batch_reason = unknown_capacity if room.capacity_bytes is None else "nothing but weights is in memory"
    parts |= or_reason("largest_batch", room.largest_batch, no_batch_reason)
    parts |= {"quantized_devices": room.quantized_devices, "advice": room.advice}
    return or_reason("fits", room.fits, unknown_capacity) | {"memory": parts}


def flatten(record: Record, intervals: Iterable[str] = INTERVAL_FIELDS) -> Record:
    """The same record with one value for each column: an interval becomes NAME, NAME_low, NAME_high (`None` where unknown),
    shares become basis_NAME, numbers of the memory memory_NAME (memory_devices_SCHEME of each quantization scheme), notes and
    unknown operators become one text.

    Args:
        intervals: names of the fields that hold an interval or `None`.
    """
    flat: Record = {}
    for name, value in record.items():
        if name in intervals:
            bounds = value if isinstance(value, dict) else {}
            flat |= {name: bounds.get("value"), f"{name}_low": bounds.get("low"), f"{name}_high": bounds.get("high")}
        elif name == "memory":
            flat |= {f"memory_{key}": part for key, part in value.items() if key != "quantized_devices"}
            flat |= {f"memory_devices_{scheme}": devices for scheme, devices in value["quantized_devices"].items()}
        elif isinstance(value, dict):
            flat.update((f"{name}_{key}", part) for key, part in value.items())
        elif isinstance(value, list):
            flat[name] = "; ".join(item if isinstance(item, str) else f"{item['op']} x{item['count']}" for item in value)
        else:
            flat[name] = value
    return flat


def estimate_html(estimate: Estimate) -> str:
    """Latency, energy and memory of an estimate, with the 90 % intervals."""
    measures = (
        ("latency", estimate.latency_s, "s"),
        ("throughput", estimate.throughput_per_s, "/s"),
        ("energy", estimate.energy_j, "J"),
        ("average power", estimate.average_power_w, "W"),
    )
    rows = [
        [name, si(None, unit), ""] if value is None else [name, si(value.value, unit), span(value.low, value.high, unit)]
        for name, value, unit in measures
    ]
    rows += [
        ["peak memory", size(estimate.peak_memory_bytes), ""],
        ["fits in memory", yes_or_no(estimate.memory.fits), estimate.memory.advice],
        ["flops", si(estimate.flops, "flop"), ""],
        ["kernels", f"{estimate.kernels:,}", ""],
        ["rests on", ", ".join(f"{name} {percent(share, digits=0)}" for name, share in estimate.basis.items() if share > 0), ""],
    ]
    title = f"{estimate.arch}, {estimate.runtime}, {shown_dtype(estimate.dtype)}, batch {estimate.batch}"
    return html_table(["", "estimate", "90 % interval"], rows, title)
