"""What people read: SI values as text ("1.23 ms", "45.6 GB/s", "12.3 mJ", "48.0 KiB"), and texts as HTML tables for notebooks."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from html import escape

from shmoo.estimators.errors import InputError

UNKNOWN = "unknown"
"""Text of a value that is `None`."""

PREFIXES = {5: "P", 4: "T", 3: "G", 2: "M", 1: "k", 0: "", -1: "m", -2: "µ", -3: "n", -4: "p", -5: "f"}
"""Power of 1000 -> SI prefix."""
_BINARY = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_AREA = "m2"
_MM2_IN_M2 = 1e6
"""A prefix of a square metre means its square, so areas read in mm2."""
_LARGEST = {"s": 0}
"""Units that take no prefix above this power of 1000, as nobody reads kiloseconds."""


def positive_int(text: str, what: str) -> int:
    """A positive whole number; `InputError` names `what` otherwise."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise InputError(f"{what} must be a positive whole number, got {text!r}")
    return value


def shape_of(text: str, what: str) -> tuple[int, ...]:
    """Extents as "1x3x224x224" or "1,3,224,224"; `InputError` names `what` otherwise."""
    return tuple(positive_int(part, what) for part in re.split(r"[x×,]", text.strip()))


def si(value: float | None, unit: str, digits: int = 3) -> str:
    """A value in SI units with the prefix that leaves one to three digits before the point.

    Args:
        unit: "s", "J", "B/s", "flop/s", "J/flop" and the like, after the prefix; "1" and "" stand for a bare number.
        digits: significant digits.
    """
    if value is None:
        return UNKNOWN
    if unit.startswith(_AREA):
        number = _significant(value * _MM2_IN_M2, digits) if value else "0"
        return f"{number} mm2{unit.removeprefix(_AREA)}"
    bare = unit in ("", "1")
    if value == 0 or not math.isfinite(value):
        return f"{value:g}" if bare else f"{value:g} {unit}"
    # Rounding first: 999.96 with three digits reads 1.00 k, not 1000.
    rounded = float(f"{abs(value):.{digits - 1}e}")
    power = math.floor(math.log10(rounded) / 3 + 1e-12)
    if power < 0 and (bare or unit.startswith("/")):
        # "543 m/s" would be metres a second.
        return f"{_significant(value, digits)} {unit}".rstrip() if unit != "1" else _significant(value, digits)
    power = max(min(power, _LARGEST.get(unit, 5), 5), -5)
    number = _significant(value / 1000.0**power, digits)
    tail = PREFIXES[power] + ("" if bare else unit)
    return f"{number} {tail}".rstrip()


def size(nbytes: float | None, digits: int = 3) -> str:
    """Bytes of a memory or a footprint, in powers of 1024: "48.0 KiB". Rates and traffic are decimal: use `si`."""
    if nbytes is None:
        return UNKNOWN
    number_of_bytes, step = float(nbytes), 0
    # The rounded number decides, so that 1023.99 KiB reads 1.00 MiB and not 1024 KiB.
    while step < len(_BINARY) - 1 and round(abs(number_of_bytes)) >= 1024:
        number_of_bytes, step = number_of_bytes / 1024.0, step + 1
    number = f"{number_of_bytes:.0f}" if step == 0 or abs(number_of_bytes) >= 1000 else _significant(number_of_bytes, digits)
    return f"{number} {_BINARY[step]}"


def span(low: float | None, high: float | None, unit: str, between: str = "to") -> str:
    """An interval: "1.23 ms to 4.56 ms"."""
    return f"{si(low, unit)} {between} {si(high, unit)}"


def percent(fraction: float | None, signed: bool = False, digits: int = 1) -> str:
    """A fraction as per cent: 0.123 is "12.3 %"; signed: "+12.3 %"."""
    if fraction is None:
        return UNKNOWN
    # What rounds to zero has no sign.
    rounded = round(fraction * 100, digits) or 0.0
    return f"{rounded:{'+' if signed and rounded else ''}.{digits}f} %"


def counted(count: int, noun: str) -> str:
    """A number of things: "1 case", "2,000 cases"."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def share_of(text: str) -> float:
    """The fraction that "3%" or "0.03" means; `InputError` for no number, and for "3", which may be 3 % or threefold."""
    bare = text.strip()
    try:
        share = float(bare.removesuffix("%")) / (100 if bare.endswith("%") else 1)
    except ValueError:
        share = math.nan
    if not 0 <= share < math.inf or (share >= 1 and not bare.endswith("%")):
        raise InputError(f"{text!r} is no relative amount; write 3% or 0.03")
    return share


def amount(value: object, unit: str) -> str:
    """A value of an axis or a setting: bytes in powers of 1024, other units with their prefix, numbers and words as they are."""
    if not isinstance(value, float):
        return str(value)
    if unit in ("", "1"):
        return f"{value:.6g}"
    return size(value) if unit == "B" else si(value, unit)


def html_table(headers: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "") -> str:
    """A table of texts, with the first column aligned left and the others right. All texts are escaped."""
    head = "".join(f"<th>{escape(header)}</th>" for header in headers)
    openings = [f"<td style='text-align:{align}'>" for align in ("left", *["right"] * (len(headers) - 1))]
    cells = ("".join(f"{start}{escape(cell)}</td>" for start, cell in zip(openings, row, strict=True)) for row in rows)
    body = "".join(f"<tr>{row}</tr>" for row in cells)
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    return f"<table>{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def yes_or_no(value: bool | None) -> str:
    """An answer that may be unknown."""
    return UNKNOWN if value is None else "yes" if value else "no"


def _significant(value: float, digits: int) -> str:
    """`digits` significant digits, without an exponent where the number is short enough to read."""
    rounded = float(f"{value:.{digits - 1}e}")
    magnitude = math.floor(math.log10(abs(rounded))) if rounded else 0
    if magnitude < -4 or magnitude > 6:
        return f"{value:.{digits - 1}e}"
    return f"{rounded:.{max(digits - 1 - magnitude, 0)}f}"
