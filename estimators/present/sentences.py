"""Advice as sentences for people, and as plain records for programs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from shmoo.estimators.graph.dtypes import shown_dtype
from shmoo.estimators.graph.records import Interval
from shmoo.estimators.machine.names import continues
from shmoo.estimators.predict.estimate_records import Record, estimate_record, interval_record, memory_record, or_reason
from shmoo.estimators.present.advice import Advice, Aim, Effect, Lever, Sensitivity, WhatIf, best_of_each_kind
from shmoo.estimators.present.setups import Setup
from shmoo.estimators.registry import grouped
from shmoo.estimators.units import amount, percent, si, size

_BOUND_PHRASES = {"compute": "computing", "memory": "moving data", "launch": "launching kernels", "entry": "entering the graph"}
LEAST_SHARE = 0.05
"""Smaller shares and gains get no sentence."""
_CHANGES_RESULTS = {"type", "quantization", "together"}
"""Kinds of changes that change what a model computes."""
UNMEASURED_SHARE = 0.5
"""Share of the time on unmeasured coefficients from which on a sentence says so."""


def times(ratio: Interval | None) -> str:
    """A ratio with its interval: "1.93 (1.71 to 2.20)"."""
    if ratio is None:
        return "unknown"
    return f"{_digits(ratio.value)} ({_digits(ratio.low)} to {_digits(ratio.high)})"


def _digits(ratio: float) -> str:
    if ratio < 0.1:
        return f"{ratio:.2g}"
    return f"{ratio:.{0 if ratio >= 100 else 1 if ratio >= 10 else 2}f}"


def headline(advice: Advice) -> str:
    """Latency, energy and memory of a call in the present setup, as one line."""
    e = advice.estimate
    latency = f"{si(e.latency_s.value, 's')} ({si(e.latency_s.low, 's')} to {si(e.latency_s.high, 's')})"
    joules = f", {si(e.energy_j.value, 'J')} ({si(e.energy_j.low, 'J')} to {si(e.energy_j.high, 'J')})" if e.energy_j else ""
    quantization = f", {advice.setup.quantize}" if advice.setup.quantize else ""
    return (
        f"{advice.model} on {e.arch}, batch {e.batch}, {shown_dtype(e.dtype)}{quantization}, {e.runtime}: "
        f"a call takes {latency}{joules}; "
        f"it needs {size(e.memory.needed_bytes)} of {size(e.memory.capacity_bytes)}"
    )


def advice_sentences(advice: Advice, arguments: str) -> list[str]:
    """Facts and advice, most important first. `arguments` name the model and the machine on the command line; the setup adds its
    own options."""
    as_it_is = f"{arguments} {advice.setup.options}"
    return [
        *_room(advice),
        *_whereabouts(advice),
        *_kernels(advice),
        *_changes(advice, arguments),
        *_caveats(advice),
        f"More: shmoo estimate {as_it_is} --json; shmoo inspect {as_it_is} --depth 3 --sort time",
    ]


def _room(advice: Advice) -> Iterator[str]:
    memory = advice.estimate.memory
    if memory.fits is not False:
        return
    yield f"It does not fit: it {memory.advice}. Times and energies hold for a memory large enough."
    fitting_changes = [w.change.name for w in advice.what_ifs if w.memory.fits and w.change.kind in ("type", "quantization")]
    if fitting_changes:
        yield f"On one device it fits with {', '.join(fitting_changes)}."


def _whereabouts(advice: Advice) -> Iterator[str]:
    shares = sorted((share for share in advice.bounds if share.time_share >= LEAST_SHARE), key=lambda share: -share.time_share)
    text = ", ".join(f"{_BOUND_PHRASES[share.name]} {percent(share.time_share, digits=0)}" for share in shares)
    joules = sorted(advice.units, key=lambda share: -(share.energy_j or 0))
    energy_shares = [f"{s.name} {percent(s.energy_share, digits=0)}" for s in joules if (s.energy_share or 0.0) >= LEAST_SHARE]
    yield f"The time goes to {text}" + (f"; the energy to {', '.join(energy_shares)}." if energy_shares else ".")


def _kernels(advice: Advice) -> Iterator[str]:
    gaps = [gap for gap in advice.kernels if gap.time_s - gap.roof_s > LEAST_SHARE * advice.estimate.latency_s.value]
    for gap in sorted(gaps, key=lambda gap: gap.roof_s - gap.time_s)[:1]:
        count_text = f"{gap.count} kernels" if gap.count > 1 else "one kernel"
        yield (
            f"Most time above the roof: {gap.name} in {gap.module or 'the model itself'} ({count_text}) takes "
            f"{si(gap.time_s, 's')} where the {gap.roof} roof allows {si(gap.roof_s, 's')}: {gap.why}."
        )


def _changes(advice: Advice, arguments: str) -> Iterator[str]:
    aim = advice.aim
    single_changes = [w for w in advice.what_ifs if w.change.kind != "together" and w.memory.fits is not False]
    by_verdict = grouped((w.effect.verdict(aim), w) for w in single_changes)
    best_changes = best_of_each_kind(single_changes, aim)
    for what_if in [*best_changes, *[w for w in advice.sure if w.change.kind == "together"][:1]]:
        yield f"{_effect(what_if, advice)}: {_command(arguments, what_if.setup)}"
    if not best_changes:
        yield f"No change here saves {aim} by more than the uncertainty of the difference."

    def gains(what_ifs: Sequence[WhatIf]) -> str:
        return ", ".join(f"{w.change.name} {times(w.effect.gain(aim))}" for w in what_ifs)

    if low := [w for w in by_verdict.get("better", ()) if w.change.kind == "8 bits"]:
        yield f"At most, with every tensor in 8 bits, which frameworks do not do as it stands: {gains(low)}."
    if undecided := by_verdict.get("open"):
        yield f"Not certain, because the interval of the gain holds 1: {gains(undecided)}; measure before you decide."
    if unchanged := by_verdict.get("same"):
        yield f"No difference: {', '.join(w.change.name for w in unchanged)}."
    worse = grouped((w.change.kind == "fusion", w) for w in by_verdict.get("worse", ()))
    if others_worse := worse.get(False):
        yield f"Worse: {', '.join(f'{w.change.name} ({_loss_text(w.effect, aim)})' for w in others_worse)}."
    for what_if in worse.get(True, ()):
        yield (
            f"Fusion already saves {percent(1.0 - what_if.effect.factor(aim), digits=0)} of the {aim}: "
            f"{advice.estimate.kernels} kernels in place of {what_if.kernels}."
        )


def _command(arguments: str, setup: Setup) -> str:
    """The command that shows a setup; `shmoo fusion` shows the effect of fusion."""
    return f"shmoo {'estimate' if setup.fused else 'fusion'} {arguments} {setup.options}"


def _loss_text(effect: Effect, aim: Aim) -> str:
    if aim == "time" or effect.energy_ratio is None:
        return f"{_digits(effect.speedup.value)} times as fast"
    return f"{_digits(effect.energy_ratio.value)} times the energy"


def _effect(what_if: WhatIf, advice: Advice) -> str:
    effect, base = what_if.effect, advice.estimate
    has_larger_batch = what_if.setup.batch != advice.setup.batch
    rate = "times the throughput" if has_larger_batch else "times as fast"
    parts = [f"{what_if.change.name}: {times(effect.speedup)} {rate}"]
    if effect.energy_ratio is not None:
        parts.append(f"{times(effect.energy_ratio)} times the energy" + (" a sample" if has_larger_batch else ""))
    if has_larger_batch:
        parts.append(f"a call takes {si(effect.latency_s.value, 's')} in place of {si(base.latency_s.value, 's')}")
    types = [(setup.dtype, setup.quantize) for setup in (what_if.setup, advice.setup)]
    if what_if.change.kind in _CHANGES_RESULTS and types[0] != types[1]:
        parts.append("results change, so check the accuracy")
    return ", ".join(parts)


def _caveats(advice: Advice) -> Iterator[str]:
    basis = advice.estimate.basis
    unmeasured_shares = {name: share for name, share in basis.items() if name not in ("fitted", "transferred") and share > 0}
    if (total := sum(unmeasured_shares.values())) >= UNMEASURED_SHARE:
        main = max(unmeasured_shares, key=unmeasured_shares.__getitem__)
        kind = {"datasheet": "datasheets and papers", "simulated": "simulated values", "fallback": "assumptions"}[main]
        yield (
            f"{percent(total, digits=0)} of the time rests on coefficients that nobody measured on this machine, mostly {kind}."
        )
    if names := grouped((reason, name) for name, reason in advice.left_out.items()):
        yield (
            "Not estimated: "
            + "; ".join(f"{', '.join(names_of_reason)} ({reason})" for reason, names_of_reason in names.items())
            + "."
        )


def sensitivity_sentences(levers: Sensitivity) -> list[str]:
    """The gain from each part of a machine, largest first, the area of its dies, and the parts without a known area."""
    bottleneck, aim = levers.bottleneck, levers.aim
    by_verdict = grouped((lever.effect.verdict(aim), lever) for lever in levers.levers)
    helpful = [lever for lever in by_verdict.get("better", ()) if lever is not bottleneck]
    main_levers = [lever for lever in helpful if lever.effect.factor(aim) > 1 + LEAST_SHARE]
    sentences = [f"No single part saves {aim} by more than the uncertainty of the difference."]
    if bottleneck is not None:
        sentences = [f"The principal bottleneck is {_lever(bottleneck)}."]
    for kind, text in (("part", "Next"), ("parts", "Several parts at once")):
        sentences += [f"{text}, {_lever(lever)}." for lever in main_levers if lever.change.kind == kind]
    for text, parts in (
        (f"Less than {percent(LEAST_SHARE, digits=0)} each", [lever for lever in helpful if lever not in main_levers]),
        ("Not certain, because the interval of the gain holds 1", by_verdict.get("open")),
        ("Alone these buy nothing", by_verdict.get("same")),
        (f"Costs more {aim} than it saves", by_verdict.get("worse")),
    ):
        if parts:
            sentences.append(f"{text}: {', '.join(lever.change.name for lever in parts)}.")
    if levers.die is not None:
        area = si(levers.die.value, levers.die.unit)
        sentences.append(f"The dies of {levers.arch} have {area} ({levers.die.reference}).")
    if unknown := [lever.change.name for lever in levers.levers if lever.area_m2 is None]:
        sentences.append(f"No area is known for {', '.join(unknown)}.")
    return sentences


def added_silicon(area: Interval | None) -> str:
    """Area that a change adds, with its range: "96.2 (80.2 to 116) mm2"."""
    if area is None or area.value == 0:
        return si(None if area is None else 0.0, "m2")
    value, low, high = (si(number, "m2").removesuffix(" mm2") for number in (area.value, area.low, area.high))
    return f"{value} ({low} to {high}) mm2"


def _lever(lever: Lever) -> str:
    effect = lever.effect
    text = (
        f"{lever.change.name}: from {amount(lever.before, lever.unit)} to {amount(lever.after, lever.unit)} the model runs "
        f"{times(effect.speedup)} times as fast"
    )
    if effect.energy_ratio is not None:
        text += f", at {times(effect.energy_ratio)} times the energy"
        text += f" and {si(effect.average_power_w, 'W')} on average"
    if lever.area_m2 is not None and lever.area_m2.value > 0:
        text += f", for {added_silicon(lever.area_m2)} more silicon"
    followers = dict.fromkeys("peaks" if continues(name, "peak") else name for name in lever.follows)
    notes = [f"with {', '.join(followers)}"] * bool(followers) + [lever.note] * bool(lever.note)
    return f"{text} ({'; '.join(notes)})" if notes else text


def advice_record(advice: Advice, arguments: str) -> Record:
    """Advice as an object of plain types. An unknown value is `None`, with a "<field>_reason"."""
    return {
        "format": 1,
        "by": advice.aim,
        "estimate": estimate_record(advice.estimate, advice.model),
        "bounds": _records(advice.bounds),
        "units": _records(advice.units),
        "modules": _records(advice.modules),
        "kernels": _records(advice.kernels),
        "what_ifs": [
            {
                "name": w.change.name,
                "kind": w.change.kind,
                "command": _command(arguments, w.setup),
                "batch": w.setup.batch,
                "runtime": w.setup.runtime,
                "kernels": w.kernels,
                **_effect_record(w.effect, advice.aim),
                **memory_record(w.memory),
            }
            for w in advice.what_ifs
        ],
        "left_out": advice.left_out,
        "sentences": advice_sentences(advice, arguments),
    }


def sensitivity_record(levers: Sensitivity) -> Record:
    """A sensitivity list as an object of plain types."""
    return {
        "format": 1,
        "model": levers.model,
        "arch": levers.arch,
        "by": levers.aim,
        **or_reason("die_mm2", levers.die and levers.die.value * 1e6, "the profile states no area of its dies"),
        "levers": [
            {
                "name": lever.change.name,
                **{name: getattr(lever, name) for name in ("unit", "before", "after", "note", "follows")},
                "compound": lever.change.kind == "parts",
                **_effect_record(lever.effect, levers.aim),
                **or_reason("average_power_w", lever.effect.average_power_w, _NO_ENERGY),
                **or_reason("power_cap_w", lever.power_cap_w, "the profile has no power cap"),
                **or_reason("area_mm2", interval_record(lever.area_m2 and lever.area_m2.scaled(1e6)), lever.area_reason),
            }
            for lever in levers.levers
        ],
        "sentences": sensitivity_sentences(levers),
    }


_NO_ENERGY = "the profile has no energy coefficients"


def _effect_record(effect: Effect, aim: Aim) -> Record:
    return {
        "latency_s": interval_record(effect.latency_s),
        **or_reason("energy_j", interval_record(effect.energy_j), _NO_ENERGY),
        "speedup": interval_record(effect.speedup),
        **or_reason("energy_ratio", interval_record(effect.energy_ratio), _NO_ENERGY),
        "verdict": effect.verdict(aim),
    }


def _records(structs: Sequence[msgspec.Struct]) -> list[dict[str, Any]]:
    """Records whose only unknown values are energies."""
    records = [msgspec.structs.asdict(record) for record in structs]
    return [{k: v for name, value in record.items() for k, v in or_reason(name, value, _NO_ENERGY).items()} for record in records]
