"""A gate without hardware: a model's footprint on an architecture, stored as a baseline and compared with later. Equal models
give equal numbers, because everything is computed from the graphs and the profile, in one order and from fixed seeds."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec

from shmoo.estimators.errors import FormatError, InputError, unknown
from shmoo.estimators.graph.dtypes import shown_dtype
from shmoo.estimators.graph.records import Graph, Interval, decode_versioned
from shmoo.estimators.memory.peak import memory_steps
from shmoo.estimators.predict.director import AnalysisDirector
from shmoo.estimators.present.inspection import Part, split_kernels
from shmoo.estimators.units import percent, si, size

BASELINE_FORMAT = 2
"""Version of the file. 1: a kernel counted for the module it begins in; such a baseline names no modules."""
QUANTITIES = {
    "flops": "flop",
    "bytes": "B",
    "peak_memory_bytes": "B",
    "kernels": "",
    "latency_s": "s",
    "energy_j": "J",
}
"""Quantities that the gate compares, with their units."""
ALLOWED_GROWTH = dict.fromkeys(QUANTITIES, 0.01) | {"kernels": 0.0}
"""Relative growth that passes. Any additional kernel fails, because it is a lost fusion."""
DIGITS = 12
"""Significant digits of a baseline; beyond them machines of different vector units may round differently."""
LEAST_GROWTH_SHARE = 0.05
"""Share of the growth of all modules from which on a module is named."""
MOST_MODULES = 5
"""Modules that a finding names, those that grew most first."""


class ModuleShare(msgspec.Struct, frozen=True):
    """The shares of a module's operators in their kernels, split as in `shmoo inspect`. `kernels` begin with an operator of the
    module, and `groups` counts them by their operators ("conv2d + batch_norm + relu")."""

    kernels: int
    flops: float
    bytes: float
    latency_s: float
    energy_j: float | None
    groups: dict[str, int]


class Footprint(msgspec.Struct, frozen=True):
    """Time, energy, memory and work of one call of a model on one architecture.

    Attributes:
        profile: first 16 hex digits of SHA-256 over the parts of a profile that determine its estimates.
        totals: one value for each of `QUANTITIES`; the energy is `None` where the profile has no such coefficients.
        peak_at: module that runs when most memory is in use.
        unknown_ops: operators without a cost formula, whose flops are in no total -> calls.
    """

    model: str
    arch: str
    batch: int
    dtype: str
    runtime: str
    profile: str
    totals: dict[str, float | None]
    modules: dict[str, ModuleShare]
    peak_at: str
    unknown_ops: dict[str, int]

    @property
    def key(self) -> tuple[str, str, int, str, str]:
        """Identifies a footprint in a baseline."""
        return self.model, self.arch, self.batch, self.dtype, self.runtime

    @property
    def label(self) -> str:
        """The key as text."""
        return f"{self.model} on {self.arch}, batch {self.batch} {shown_dtype(self.dtype)} {self.runtime}"


class Baseline(msgspec.Struct, frozen=True):
    """A baseline file."""

    footprints: tuple[Footprint, ...]
    format: int = BASELINE_FORMAT

    @classmethod
    def from_json(cls, data: bytes, where: str = "") -> Baseline:
        """Read a file's content; `FormatError` where it is damaged or newer, or a quantity is not there that would be gated."""
        baseline = decode_versioned(data, cls, BASELINE_FORMAT, "baseline", where)
        if baseline.format < BASELINE_FORMAT:
            baseline = cls(tuple(msgspec.structs.replace(stored, modules={}) for stored in baseline.footprints))
        for stored in baseline.footprints:
            for name in QUANTITIES:
                value = stored.totals.get(name, -1.0)
                if value is None and name == "energy_j":
                    continue
                if value is None or value < 0:
                    raise FormatError(
                        f"cannot read baseline {where}: {name} of {stored.label} is {stored.totals.get(name)}, and not a "
                        "number of at least 0; write it anew with --write"
                    )
        return baseline

    def to_json(self) -> bytes:
        """Keys in a fixed order and one value a line, so that version control shows what moved."""
        return msgspec.json.format(msgspec.json.encode(self, order="deterministic"), indent=1) + b"\n"

    def replacing(self, footprints: Sequence[Footprint]) -> Baseline:
        """With these footprints in place of those of the same key."""
        merged = {current.key: current for current in (*self.footprints, *footprints)}
        return Baseline(tuple(merged[key] for key in sorted(merged)))


class ModuleGrowth(msgspec.Struct, frozen=True):
    """What a module had and has of a quantity; `lost` and `gained` are the groups of operators that were and are one kernel."""

    module: str
    before: float
    now: float
    lost: tuple[str, ...] = ()
    gained: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """Such as "layer1.0.conv1 (conv2d + relu is now conv2d, relu)", or "layer1.0.scale (new: mul)"."""
        name = self.module or "the model itself"
        if not self.lost and not self.gained:
            return name
        lost, gained = ", ".join(self.lost), ", ".join(self.gained)
        change = f"{lost} is now {gained}" if lost and gained else f"gone: {lost}" if lost else f"new: {gained}"
        return f"{name} ({change})"


class Finding(msgspec.Struct, frozen=True):
    """A quantity that grew by more than allowed. `growth` is relative, such as 0.05, and `None` where there was nothing before,
    or next to nothing; `modules` are those that grew most."""

    footprint: str
    quantity: str
    before: float
    now: float
    growth: float | None
    allowed: float
    modules: tuple[ModuleGrowth, ...]

    @property
    def text(self) -> str:
        """One line for people."""
        unit = QUANTITIES[self.quantity]
        before, now = (
            f"{value:,.0f}" if not unit else size(value) if self.quantity == "peak_memory_bytes" else si(value, unit)
            for value in (self.before, self.now)
        )
        grew = "from nothing" if self.growth is None else percent(self.growth, signed=True, digits=2)
        where = "; ".join(module.text for module in self.modules)
        line = f"{self.footprint}: {self.quantity} {before} -> {now} ({grew}, allowed {percent(self.allowed)})"
        return f"{line}: {where}" if where else line


class GateResult(msgspec.Struct, frozen=True):
    """The findings of a gate. `undecided` gives reasons why footprints cannot be judged: new operators without a cost formula."""

    findings: tuple[Finding, ...]
    undecided: tuple[str, ...]

    @property
    def answer(self) -> str:
        """One of "fail", "undecided" and "pass"."""
        return "fail" if self.findings else "undecided" if self.undecided else "pass"


def footprint(
    director: AnalysisDirector,
    graphs: Sequence[Graph],
    model: str,
    *,
    runtime: str | None = None,
    compute_dtype: str | None = None,
    batch: int = 1,
) -> Footprint:
    """The footprint of one call of a captured model, under its name in the baseline; other arguments and errors as of
    `AnalysisDirector.estimate`."""
    estimate = director.estimate(graphs, runtime=runtime, compute_dtype=compute_dtype, batch=batch)
    by_module: dict[str, list[Part]] = {}
    for (place, call), part in split_kernels(estimate, graphs).items():
        by_module.setdefault(graphs[place].calls[call].module, []).append(part)
    groups: dict[str, Counter[str]] = {module: Counter() for module in by_module}
    for kernel in estimate.breakdown:
        graph = graphs[kernel.graph]
        groups[graph.calls[kernel.calls[0]].module][graph.operators(kernel.calls)] += 1
    amounts = {name: getattr(estimate, name) for name in QUANTITIES}
    values = {name: amount.value if isinstance(amount, Interval) else amount for name, amount in amounts.items()}
    return Footprint(
        model=model,
        arch=director.profile.name,
        batch=batch,
        dtype=estimate.dtype,
        runtime=estimate.runtime,
        profile=hashlib.sha256(director.profile.replacing(error_card={}, description="").to_json()).hexdigest()[:16],
        totals={name: None if value is None else _round(value) for name, value in values.items()},
        modules={module: _share(parts, groups[module]) for module, parts in by_module.items()},
        peak_at=_peak_at(graphs, estimate.runtime, director.profile.family),
        unknown_ops={op.op: op.count for op in estimate.unknown_ops},
    )


def check(baseline: Baseline, footprints: Sequence[Footprint], allowed: Mapping[str, float]) -> GateResult:
    """Quantities that grew by more than allowed.

    Args:
        allowed: quantity -> relative growth that passes; `ALLOWED_GROWTH` for those not named.

    Raises:
        InputError: an unknown quantity, a footprint that the baseline lacks, or one of another profile.
    """
    for name in allowed:
        if name not in QUANTITIES:
            raise unknown("quantity of a gate", name, QUANTITIES)
    baselines = {stored.key: stored for stored in baseline.footprints}
    findings: list[Finding] = []
    undecided: list[str] = []
    for current in footprints:
        stored = baselines.get(current.key)
        if stored is None:
            labels = "; ".join(other.label for other in baseline.footprints) or "nothing"
            raise InputError(f"the baseline has no {current.label}; add it with --write. It has: {labels}")
        if stored.profile != current.profile:
            raise InputError(
                f"the baseline of {current.label} was written with another profile of {current.arch}, so that times and "
                "energies would differ for that alone; write it anew with --write from the commit that it stands for"
            )
        findings += [
            finding
            for name in QUANTITIES
            if (finding := _compare(stored, current, name, {**ALLOWED_GROWTH, **allowed}[name])) is not None
        ]
        fresh = sorted(op for op, count in current.unknown_ops.items() if count > stored.unknown_ops.get(op, 0))
        if fresh:
            undecided.append(f"{current.label}: no cost formula for {', '.join(fresh)}, so that their flops are in no total")
    return GateResult(tuple(findings), tuple(undecided))


def _compare(old_footprint: Footprint, new_footprint: Footprint, name: str, allowed_growth: float) -> Finding | None:
    old_value, new_value = old_footprint.totals.get(name), new_footprint.totals[name]
    if old_value is None or new_value is None or new_value <= old_value * (1 + allowed_growth):
        return None
    growth = new_value / old_value - 1 if old_value and math.isfinite(new_value / old_value) else None
    at_peak = [ModuleGrowth(new_footprint.peak_at, old_value, new_value)]
    modules = at_peak if name == "peak_memory_bytes" else _growths(old_footprint, new_footprint, name)
    return Finding(new_footprint.label, name, old_value, new_value, growth, allowed_growth, tuple(modules[:MOST_MODULES]))


def _growths(old_footprint: Footprint, new_footprint: Footprint, name: str) -> list[ModuleGrowth]:
    """Modules whose share of a quantity grew, the largest growth first; none for baselines without modules."""
    if not old_footprint.modules:
        return []
    growths = []
    for module in dict.fromkeys((*new_footprint.modules, *old_footprint.modules)):
        old_share, new_share = old_footprint.modules.get(module), new_footprint.modules.get(module)
        old_value, new_value = (0.0 if share is None else getattr(share, name) or 0.0 for share in (old_share, new_share))
        if new_value > old_value:
            old_groups, new_groups = (Counter({} if share is None else share.groups) for share in (old_share, new_share))
            growths.append(
                ModuleGrowth(
                    module, old_value, new_value, _group_texts(old_groups - new_groups), _group_texts(new_groups - old_groups)
                )
            )
    total = sum(growth.now - growth.before for growth in growths)
    main_growths = [growth for growth in growths if growth.now - growth.before >= LEAST_GROWTH_SHARE * total]
    return sorted(main_growths, key=lambda growth: (growth.before - growth.now, growth.module))


def _group_texts(groups: Counter[str]) -> tuple[str, ...]:
    return tuple(f"{count} x {group}" if count > 1 else group for group, count in sorted(groups.items()))


def _share(call_parts: Sequence[Part], groups: Counter[str]) -> ModuleShare:
    flops, nbytes, seconds = (
        _round(sum(getattr(part, field) for part in call_parts)) for field in ("flops", "bytes", "elapsed_s")
    )
    energies = [part.energy_j for part in call_parts if part.energy_j is not None]
    return ModuleShare(groups.total(), flops, nbytes, seconds, _round(sum(energies)) if energies else None, dict(groups))


def _peak_at(graphs: Sequence[Graph], runtime: str, family: str) -> str:
    steps = [(step.bytes, graph.calls[step.calls[0]].module) for graph in graphs for step in memory_steps(graph, runtime, family)]
    return max(steps, key=lambda step: step[0])[1] if steps else ""


def _round(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
