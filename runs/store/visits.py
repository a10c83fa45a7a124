"""Lines of rows.jsonl, one a visit, merged into one row a case; and the reader of lines that older versions wrote."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

import msgspec
import numpy as np

from shmoo.estimators.errors import FormatError
from shmoo.estimators.graph.records import UNREADABLE, Version, decode_versioned
from shmoo.estimators.registry import grouped
from shmoo.runs.store.pooling import latencies
from shmoo.runs.store.records import (
    LONGEST_S,
    RUN_FORMAT,
    SHORTEST_S,
    AxisValue,
    CaseSpec,
    EnergyReading,
    Measurement,
    Reason,
    Timing,
)
from shmoo.runs.store.statistics import Latency, median, quiet_visits

NOISE = ("noisy", "disturbed", "busy host", "steal", "slow core")
"""Codes of reasons about other load during a visit. They widen its standard error; the row stays usable."""
UNUSABLE = ("throttled", "GPU clock", "GPU throttled", "shared GPU", "recompiled")
"""Codes of reasons that make a visit suspect."""
BY_BLOCK = ("samples_s", "slowdowns", "switches", "on_core_s")
"""Fields of a timing that have a value for each block."""
NOISY = 0.05
"""Relative standard error above which a row is noisy."""
MOST_DIGITS = 4
"""Most digits of a standard error in percent, so that it does not print like the limit."""


def decode_row(line: bytes, where: str) -> Measurement:
    """One line of rows.jsonl, of this version or an older one; `FormatError` where it is damaged, holds a time that is not
    positive, or is of a newer format."""
    # Rows of the current version end with it; other rows are decoded for it first.
    is_current = line.rstrip().endswith(_THIS_FORMAT)
    version = RUN_FORMAT if is_current else decode_versioned(line, Version, RUN_FORMAT, "row", where).format
    row = _from_format_1(line, where) if version == 1 else decode_versioned(line, Measurement, RUN_FORMAT, "row", where)
    for timing in (row.timing, *row.visits):
        for sample in () if timing is None else timing.samples_s:
            if not SHORTEST_S <= sample <= LONGEST_S:
                raise FormatError(f"row {where}: a sample of {sample:g} s is no time; the file was changed")
        if timing is not None:
            _check_lengths(timing, where)
        if timing is not None and (timing.block_calls < 1 or not all(SHORTEST_S <= s <= LONGEST_S for s in timing.quiet_s)):
            raise FormatError(
                f"row {where}: blocks of {timing.block_calls} calls, or a quiet time that is none; the file was changed"
            )
    return row


def _check_lengths(timing: Timing, where: str) -> None:
    """`FormatError` where an observation per block has another number of values than there are blocks."""
    blocks = len(timing.samples_s)
    for name in BY_BLOCK[1:]:
        if (count := len(getattr(timing, name))) not in (0, blocks):
            raise FormatError(f"row {where}: {name} has {count} values beside {blocks} samples; the file was changed")


_THIS_FORMAT = b'"format":%d}' % RUN_FORMAT
_NO_HOST: dict[str, AxisValue | None] = {}
"""Shared by all lines without samples; a dictionary each would take a tenth of their memory."""


def _from_format_1(line: bytes, where: str) -> Measurement:
    """A row of format 1: its pass is a visit, a reason is text with the code before the first colon, and a row that was only
    disturbed is noisy."""
    try:
        fields: dict[str, Any] = msgspec.json.decode(line)
        reasons = [text.split(": ", 1) for text in fields.get("reasons", ())]
        fields["reasons"] = [dict(zip(("code", "text"), parts, strict=False)) for parts in reasons]
        fields["visit"] = fields.pop("pass_index", 0)
        fields["format"] = RUN_FORMAT
        if fields.get("status") == "suspect" and reasons and all(parts[0] in NOISE for parts in reasons):
            fields["status"] = "noisy"
        return msgspec.convert(fields, Measurement)
    except (*UNREADABLE, AttributeError, TypeError) as error:
        raise FormatError(f"cannot read row {where} of format 1: {error}") from None


def without_samples(row: Measurement, cases: dict[str, CaseSpec]) -> Measurement:
    """A line or a row reduced to the fields that comparisons need, with the mean in place of its samples. `cases` (identity ->
    the case shared by its lines) gets the row's case."""
    timing = row.timing
    mean = (sum(timing.samples_s) / len(timing.samples_s),) if timing is not None and timing.samples_s else ()
    return Measurement(
        cases.setdefault(row.case.identity, row.case),
        row.status,
        row.reasons,
        (),
        None if timing is None else Timing(mean),
        energy=tuple(map(_without_trials, filter(None, (row.energy_reading,)))),
        visit=row.visit,
        process=row.process,
        visit_sd=row.visit_sd,
        prevailing=row.prevailing,
        measured_at=row.measured_at,
        host=_NO_HOST,
    )


def _without_trials(reading: EnergyReading) -> EnergyReading:
    """A reading without its trials: the energy and the limits that show whether it is possible."""
    limits = reading.low_j, reading.high_j, reading.window_s, reading.calls
    return EnergyReading(sys.intern(reading.domain), reading.energy_j, "", *limits)


def for_latency(line: Measurement, case: CaseSpec, slowdowns: dict[float, float] | None = None) -> Measurement:
    """A line reduced to the fields that determine its time and status, without details. Lines of several runs share `case`.

    Args:
        slowdowns: of cores, which determine the time alone: the equal values already in memory, to which new ones are added;
            `None` leaves slowdowns out.
    """

    def lean(timing: Timing) -> Timing:
        if slowdowns is None:
            return msgspec.structs.replace(timing, slowdowns=(), quiet_s=())
        return msgspec.structs.replace(timing, slowdowns=tuple(slowdowns.setdefault(s, s) for s in timing.slowdowns))

    timing = None if line.timing is None else lean(line.timing)
    visits = tuple(map(lean, line.visits))
    energy = tuple(map(_without_trials, line.energy))
    return msgspec.structs.replace(
        line, case=case, graph_hashes=(), timing=timing, visits=visits, energy=energy, children=(), operators=(), host=_NO_HOST
    )


def merge_visits(lines: Iterable[Measurement]) -> tuple[Measurement, ...]:
    """One row per case, in the order of first visits, with its prevailing time and the spread between visits to like cases."""
    by_case = grouped((line.case.identity, line) for line in _on_one_scale(lines))
    # Lines and rows are released early: those of a large run take hundreds of megabytes.
    rows = [_merged(by_case.pop(identity)) for identity in list(by_case)]
    timed = [row for row in rows if row.timed]
    times = latencies([row.case for row in timed], [row.visits for row in timed])
    time_of = dict(zip((row.case.identity for row in timed), times, strict=True))
    del timed
    for place, row in enumerate(rows):
        rows[place] = _judged(row, *time_of.get(row.case.identity, (None, None)))
    return tuple(rows)


def visits_alone(lines: Iterable[Measurement], rows: Iterable[Measurement]) -> dict[str, dict[int, float]]:
    """Case identity -> number of a visit -> seconds of a call while nothing else ran, for rows whose cores were watched; empty
    where too few blocks were quiet to tell it.

    Args:
        lines: of the run, with or without their samples. rows: the lines merged, with the samples of each visit.
    """
    numbers: dict[str, list[int]] = grouped((line.case.identity, line.visit) for line in lines if line.timed)
    alone = {}
    for row in rows:
        of_case = numbers.get(row.case.identity, [])
        # A line that itself holds several visits does not number them.
        if len(row.visits) > 1 and len(of_case) == len(row.visits) and all(visit.slowdowns for visit in row.visits):
            quiet = quiet_visits(row.blocks_by_visit)
            alone[row.case.identity] = {of_case[index]: float(np.median(times)) for index, times in quiet.items()}
    return alone


def _on_one_scale(lines: Iterable[Measurement]) -> list[Measurement]:
    """The lines with slowdowns relative to the lowest quiet time of each core over all lines. A watch that began while a
    neighbour worked took its quiet time too high."""
    lines = list(lines)
    quiet: dict[int, tuple[float, ...]] = {}
    for line in lines:
        if line.timing is not None and (times := line.timing.quiet_s):
            quiet[len(times)] = tuple(map(min, quiet.get(len(times), times), times))
    if not quiet:
        return lines
    # Slowdowns have two digits, so there are few distinct values; each is stored once.
    interned: dict[float, float] = {}
    return [
        msgspec.structs.replace(
            line,
            timing=None if line.timing is None else _rescaled(line.timing, quiet, interned),
            visits=tuple(_rescaled(visit, quiet, interned) for visit in line.visits),
        )
        for line in lines
    ]


def _rescaled(timing: Timing, quiet: Mapping[int, tuple[float, ...]], interned: dict[float, float]) -> Timing:
    """A timing with slowdowns on the run's scale.

    Args:
        quiet: number of cores watched -> lowest quiet time of each core.
        interned: slowdown values already in memory.
    """
    if not timing.quiet_s:
        return timing
    quiet_s = quiet[len(timing.quiet_s)]
    # The slowest core is not known. The factor of the core furthest off lets no slow block pass for quiet.
    factor = max(measured / best for measured, best in zip(timing.quiet_s, quiet_s, strict=True))
    scaled = (round(factor * slowdown, 2) for slowdown in timing.slowdowns)
    return msgspec.structs.replace(timing, slowdowns=tuple(interned.setdefault(s, s) for s in scaled), quiet_s=quiet_s)


def _merged(lines: Sequence[Measurement]) -> Measurement:
    """The lines of one case as one row, its status not yet judged."""
    usable = [line for line in lines if line.timed]
    if not usable:
        return max(lines, key=lambda line: line.status == "suspect")
    base = usable[0]
    visits = tuple(visit for line in usable for visit in (line.visits or (line.timing,)) if visit is not None)
    remarks = dict.fromkeys(reason for line in usable for reason in line.reasons if reason.code not in NOISE)
    readings = [reading for line in usable for reading in line.energy]
    left_out = [line for line in lines if not line.timed]
    if left_out:
        remarks[Reason("visits left out", f"{len(left_out)} of {len(lines)}, {left_out[-1].status}: {left_out[-1].why}")] = None
    return msgspec.structs.replace(
        base,
        status="ok" if len(visits) > 1 else base.status,
        graph_hashes=next((line.graph_hashes for line in lines if line.graph_hashes), ()),
        reasons=tuple(remarks) if len(visits) > 1 else tuple(dict.fromkeys((*base.reasons, *remarks))),
        timing=_pooled(visits),
        visits=visits,
        children=next((line.children for line in usable if line.children), ()),
        operators=next((line.operators for line in usable if line.operators), ()),
        peak_memory_bytes=next((line.peak_memory_bytes for line in usable if line.peak_memory_bytes is not None), None),
        peak_memory_reason=next((line.peak_memory_reason for line in usable if line.peak_memory_reason), ""),
        energy=tuple(
            _one_reading([r for r in readings if r.domain == name]) for name in dict.fromkeys(r.domain for r in readings)
        ),
    )


def _judged(row: Measurement, prevailing: Latency | None, visit_sd: float | None) -> Measurement:
    """The row with its prevailing time, and with the status that the standard error gives. Where the error rests on a spread
    between visits, it already contains other load, so reasons about that load are dropped."""
    if prevailing is None:
        return row
    row = msgspec.structs.replace(row, visit_sd=visit_sd, prevailing=prevailing)
    error = prevailing.relative_se
    if error <= NOISY:
        if len(row.visits) < 2 and visit_sd is None:
            return row
        return msgspec.structs.replace(row, status="ok", reasons=tuple(r for r in row.reasons if r.code not in NOISE))
    digits = next((n for n in range(MOST_DIGITS) if f"{error:.{n}%}" != f"{NOISY:.{n}%}"), MOST_DIGITS)
    count = f"{len(row.visits)} visit{'s' if len(row.visits) > 1 else ''}"
    text = f"standard error {error:.{digits}%} over {count} (limit {NOISY:.0%})"
    other_reasons = tuple(reason for reason in row.reasons if reason.code != "noisy")
    return msgspec.structs.replace(row, status="noisy", reasons=(Reason("noisy", text), *other_reasons))


def _pooled(visits: Sequence[Timing]) -> Timing:
    """The samples of all visits in one record; the other fields are the first visit's."""
    first = visits[0]
    if len(visits) == 1:
        return first
    return msgspec.structs.replace(
        first,
        **{name: tuple(chain(*(getattr(visit, name) for visit in visits))) for name in BY_BLOCK},
        warmup_calls=sum(visit.warmup_calls for visit in visits),
        stop_reason=visits[-1].stop_reason,
        first_call_s=next((visit.first_call_s for visit in visits if visit.first_call_s is not None), None),
        compile_s=next((visit.compile_s for visit in visits if visit.compile_s is not None), None),
    )


def _one_reading(readings: Sequence[EnergyReading]) -> EnergyReading:
    """The readings of one domain combined; the last reading, with its reason, where no visit has an energy."""
    energies = [reading for reading in readings if reading.energy_j is not None]
    if len(energies) < 2:
        return energies[0] if energies else readings[-1]

    def middle(name: str) -> float | None:
        values = [value for reading in energies if (value := getattr(reading, name)) is not None]
        return median(values) if values else None

    medians = ("energy_j", "low_j", "high_j", "idle_power_w", "idle_power_after_w", "integrated_j", "update_period_s")
    return msgspec.structs.replace(
        energies[0],
        **{name: middle(name) for name in medians},
        window_s=sum(reading.window_s or 0.0 for reading in energies) or None,
        calls=sum(reading.calls or 0 for reading in energies) or None,
        trials_j=tuple(trial for reading in energies for trial in reading.trials_j),
    )
