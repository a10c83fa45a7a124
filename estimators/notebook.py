"""Results as HTML tables, which notebooks show in place of a repr. All texts are escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING

from shmoo.estimators.units import percent, si, size, yes_or_no

if TYPE_CHECKING:
    from shmoo.estimators.predict.director import Estimate


def html_table(headers: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "") -> str:
    """A table of texts, with the first column aligned left and the others right."""
    head = "".join(f"<th>{escape(header)}</th>" for header in headers)
    aligned = [f"<td style='text-align:{align}'>" for align in ("left", *["right"] * (len(headers) - 1))]
    cells = ("".join(f"{start}{escape(cell)}</td>" for start, cell in zip(aligned, row, strict=True)) for row in rows)
    body = "".join(f"<tr>{row}</tr>" for row in cells)
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    return f"<table>{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def estimate_html(estimate: Estimate) -> str:
    """Latency, energy and memory of an estimate, with the 90 % intervals."""
    measures = (
        ("latency", estimate.latency_s, "s"),
        ("throughput", estimate.throughput_per_s, "/s"),
        ("energy", estimate.energy_j, "J"),
        ("average power", estimate.average_power_w, "W"),
    )
    rows = [
        [name, si(None, unit), ""]
        if value is None
        else [name, si(value.value, unit), f"{si(value.low, unit)} to {si(value.high, unit)}"]
        for name, value, unit in measures
    ]
    rows += [
        ["peak memory", size(estimate.peak_memory_bytes), ""],
        ["fits in memory", yes_or_no(estimate.memory.fits), estimate.memory.advice],
        ["flops", si(estimate.flops, "flop"), ""],
        ["kernels", f"{estimate.kernels:,}", ""],
        ["rests on", ", ".join(f"{name} {percent(share, digits=0)}" for name, share in estimate.basis.items() if share > 0), ""],
    ]
    title = f"{estimate.arch}, {estimate.runtime}, {estimate.dtype}, batch {estimate.batch}"
    return html_table(["", "estimate", "90 % interval"], rows, title)
