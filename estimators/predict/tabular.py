"""Estimates as plain records: JSON objects, and flat rows for CSV files and DataFrames."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from shmoo.estimators.graph.records import Interval
from shmoo.estimators.memory.room import MemoryRoom

if TYPE_CHECKING:
    from shmoo.estimators.predict.director import Estimate

INTERVAL_FIELDS = ("latency_s", "throughput_per_s", "energy_j", "average_power_w", "edp_js")
"""Fields of an estimate that carry a 90 % interval."""
BOUNDS = tuple(f"{name}_{end}" for name in INTERVAL_FIELDS for end in ("low", "high"))
"""Columns of a flat row for the ends of intervals."""
_ENERGY_FIELDS = ("energy_j", "average_power_w", "edp_js")
_PLAIN_FIELDS = ("flops", "macs", "bytes", "params", "weight_bytes", "peak_memory_bytes", "kernels", "tiles")

Record = dict[str, object]
ALL_THREADS = "not specified: all threads of the architecture"
"""Reason of an estimate without a number of threads."""


def or_reason(name: str, value: object, reason: str) -> Record:
    """{name: value}; for an unknown value {name: None, "<name>_reason": reason}."""
    return {name: value} if value is not None else {name: None, f"{name}_reason": reason}


def interval_record(value: Interval | None) -> dict[str, float] | None:
    """{"value", "low", "high"} in SI units, or `None`."""
    return None if value is None else {"value": value.value, "low": value.low, "high": value.high}


def estimate_record(estimate: Estimate, model: str) -> Record:
    """An estimate as an object of plain types. An unknown value is `None`, with a "<field>_reason"."""
    record: Record = {
        "model": model,
        "arch": estimate.arch,
        "batch": estimate.batch,
        "dtype": estimate.dtype,
        "runtime": estimate.runtime,
        **or_reason("threads", estimate.threads, ALL_THREADS),
    }
    record.update((name, getattr(estimate, name)) for name in _PLAIN_FIELDS)
    record |= memory_record(estimate.memory)
    for name in INTERVAL_FIELDS:
        reason = estimate.energy_j_reason if name in _ENERGY_FIELDS else "not estimated"
        record |= or_reason(name, interval_record(getattr(estimate, name)), reason)
    record["unknown_ops"] = [
        {"op": op.op, "count": op.count, "where": list(op.where), "bytes": op.bytes} for op in estimate.unknown_ops
    ]
    record["notes"] = list(estimate.notes)
    record["basis"] = dict(estimate.basis)
    return record


def memory_record(room: MemoryRoom) -> Record:
    """Whether a call fits the machine's memory, as `fits` and its numbers."""
    unknown = "the profile does not say the capacity of its main memory"
    parts: Record = {f"{name}_bytes": getattr(room, f"{name}_bytes") for name in ("weight", "cache", "activation")}
    for name in ("capacity_bytes", "missing_bytes", "devices"):
        parts |= or_reason(name, getattr(room, name), unknown)
    why = unknown if room.capacity_bytes is None else "nothing but weights is in memory"
    parts |= or_reason("largest_batch", room.largest_batch, why)
    parts |= {"quantized_devices": room.quantized_devices, "advice": room.advice}
    return or_reason("fits", room.fits, unknown) | {"memory": parts}


def flat_memory(memory: Mapping[str, Any]) -> Record:
    """The memory of a record with one value a column: memory_NAME, and memory_devices_SCHEME of each quantization scheme."""
    flat: Record = {f"memory_{name}": value for name, value in memory.items() if name != "quantized_devices"}
    return flat | {f"memory_devices_{scheme}": devices for scheme, devices in memory["quantized_devices"].items()}


def flatten(record: Record) -> Record:
    """The same record with one value for each column: an interval becomes NAME, NAME_low, NAME_high (`None` where unknown),
    shares become basis_NAME, numbers of the memory memory_NAME, notes and unknown operators become one text."""
    flat: Record = {}
    for name, value in record.items():
        if name in INTERVAL_FIELDS:
            bounds = value if isinstance(value, dict) else {}
            flat |= {name: bounds.get("value"), f"{name}_low": bounds.get("low"), f"{name}_high": bounds.get("high")}
        elif name == "memory" and isinstance(value, dict):
            flat |= flat_memory(value)
        elif name == "basis" and isinstance(value, dict):
            flat.update((f"basis_{share}", portion) for share, portion in value.items())
        elif name == "notes" and isinstance(value, list):
            flat[name] = "; ".join(value)
        elif name == "unknown_ops" and isinstance(value, list):
            flat[name] = "; ".join(f"{op['op']} x{op['count']}" for op in value)
        else:
            flat[name] = value
    return flat
