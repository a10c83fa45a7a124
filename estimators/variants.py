"""What-if machines: a profile with another fabric, clock, memory or tile size.

Changing a count also scales what depends on it: twice the tiles of a fabric have twice the peak, the streaming bandwidth and the
memory, and draw twice the power, idle and at most. Coefficients that are set together with a count keep the given values, and
energies of a flop and a byte stay. A clock changes energies and static power through the voltage (`energy.clock`), because the
clock at which energies are given (`clock.rated`) stays; on machines without a board's cap it also changes `power.tdp`. Where the
profile has `area.*` coefficients, a changed part takes silicon; clocks, launches and the memory behind the interface take none.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, cast

import numpy as np

from shmoo.estimators.errors import InputError, unknown
from shmoo.estimators.graph.records import Coefficient, Interval
from shmoo.estimators.machine.catalogue import entry, is_count
from shmoo.estimators.machine.coefficients import Coefficients, voltage_factor
from shmoo.estimators.machine.hosts import check_host
from shmoo.estimators.machine.inheritance import scale_followers
from shmoo.estimators.machine.names import under, whose
from shmoo.estimators.machine.profile import ArchitectureProfile, TilingSpec
from shmoo.estimators.machine.validation import power_problem, variant_problem
from shmoo.estimators.tiling import TILINGS
from shmoo.estimators.units import PREFIXES

Amount = float | np.ndarray
PART_COUNT: Mapping[str, str] = {"cpu": "count.cores", "gpu": "count.sms", "tpu": "count.units", "kpu": "count.tiles"}
"""Architecture family -> the count of its parts."""
_PART_MEMORIES: Mapping[str, tuple[str, ...]] = {"cpu": ("l1", "l2"), "gpu": ("shared", "register"), "tpu": (), "kpu": ("l1",)}
"""Architecture family -> memories whose capacity is stated for one part."""
_TAKES_AREA = ("count", "size", "rate")
"""Roles of the coefficients that take silicon."""
_SUFFIXES = {"KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30, "mm2": 1e-6}
_POWERS = {"u": 1e-6, **{prefix: 1000.0**power for power, prefix in PREFIXES.items()}}
_IN_UNITS = re.compile(r"((?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?) ?([fpnuµmkMGTP]?)(?:B/s|B|flop/s|Hz|W|s|J/B|J/flop)")
"""A number, a prefix and a unit of coefficients."""


def variant(profile: ArchitectureProfile, values: Mapping[str, Amount | str]) -> ArchitectureProfile:
    """The machine with some coefficients or parameters of its tiling strategy changed, under the same name.

    Args:
        values: coefficient (its uncertainty is dropped) or parameter of the tiling strategy ("tile_m") -> value. A coefficient
            may be an array (..., 1), a dimension an axis of design points; such a profile is for predicting and has no file form.
            `InputError` for another name, and a value that is no number, negative, a rate of 0, a count below 1, or that a
            profile's file could not have either.
    """
    parameters: dict[str, Any] = {name: value for name, value in values.items() if name in tiling_parameters(profile)}
    new_values: dict[str, Any] = {name: _amount(name, value) for name, value in values.items() if name not in parameters}
    if any(entry(name).of_host for name in new_values):
        # Launches of a named host become the profile's own, so that they can be changed.
        profile = profile.replacing(
            coefficients=dict(profile.all_coefficients) if profile.host else profile.coefficients, host=""
        )
    coefficients = dict(profile.coefficients)
    for name, value in new_values.items():
        base_coefficient = coefficients.get(name)
        if base_coefficient is None:
            raise unknown(f"coefficient of profile {profile.name!r}", name, {*profile.coefficients, *tiling_parameters(profile)})
        coefficients[name] = Coefficient(value, base_coefficient.unit, base_coefficient.source, base_coefficient.reference)
        scale_followers(coefficients, name, base_coefficient.value, value, profile.family, profile.all_coefficients, new_values)
    if "clock" in new_values:
        _follow_voltage(coefficients, profile, new_values)
    tiling = profile.tiling
    if parameters:
        tiling = TilingSpec(tiling.strategy, {**tiling.parameters, **parameters})
    description = profile.description
    for name, value in new_values.items():
        description = _description(description, name, profile.value(name), value)
    # The residual holds for the measured machine only. Capacity of the main memory and power leave its kernels unchanged.
    keeps_residual = not parameters and all(
        entry(name).role in ("rating", "energy", "board") or name == f"capacity.{profile.main_memory}" for name in new_values
    )
    machine = profile.replacing(
        coefficients=coefficients, tiling=tiling, description=description, residual=profile.residual if keeps_residual else ()
    )
    if not any(np.ndim(value) for value in new_values.values()):
        problem = variant_problem(machine, profile)
    else:
        problem = power_problem(machine) if new_values.keys() & {"power.tdp", "power.static"} else None
    if problem is not None:
        settings = ", ".join(name if np.ndim(value) else f"{name}={value:g}" for name, value in new_values.items())
        raise InputError(f"{profile.name!r} with {settings}: {problem}")
    return machine


def _follow_voltage(coefficients: dict[str, Coefficient], base: ArchitectureProfile, given_names: Collection[str]) -> None:
    """Scale powers, in place, to the voltage of another clock. Leakage and the clocks' own power follow it like dynamic energy.
    A GPU's power cap belongs to its board and stays; other machines are built for the power of their clock."""
    coefficients.setdefault("clock.rated", base.coefficients["clock"])
    new_factor, old_factor = (voltage_factor(Coefficients(p)) for p in (base.replacing(coefficients=coefficients), base))
    voltage = cast(float, new_factor / old_factor)
    factors = {"power.static": voltage}
    tdp = coefficients.get("power.tdp")
    if base.family != "gpu" and tdp is not None:
        static = coefficients.get("power.static")
        static_share = 0.0 if static is None else np.minimum(static.value / tdp.value, 1.0)
        clock_ratio = coefficients["clock"].value / base.value("clock")
        factors |= {"power.idle": voltage, "power.tdp": voltage * (static_share + (1.0 - static_share) * clock_ratio)}
    for name, factor in factors.items():
        if name in coefficients and name not in given_names:
            coefficients[name] = coefficients[name].scaled(factor)


def _description(description: str, name: str, old_value: float, new_value: Amount) -> str:
    """The description with another count of parts ("256 tiles"), or with the changed coefficient appended."""
    if np.ndim(new_value):
        return description
    parts = re.escape(whose(name))
    with_count = re.sub(rf"\b{old_value:g} {parts}\b", f"{new_value:g} {parts}", description) if is_count(name) else description
    return with_count if with_count != description else f"{description}; {name} = {new_value:g}"


def with_host(profile: ArchitectureProfile, name: str) -> ArchitectureProfile:
    """The same device beside another host; `InputError` for an unknown host and for machines other than GPUs."""
    if profile.family != "gpu":
        raise InputError(f"host {name!r} on {profile.name!r}, a {profile.family}; hosts apply to GPUs only, leave it out")
    return profile.replacing(host=check_host(name))


def amount_of(text: str) -> float | str:
    """A number from text: "2e9", "64MiB" (KiB, MiB, GiB or mm2), or one with an SI unit such as "400GB/s" or "2.8 GHz". Any other
    text is returned as it is."""
    if scaled := _IN_UNITS.fullmatch(text.strip()):
        return float(scaled[1]) * _POWERS[scaled[2]]
    stem, factor = text.strip(), 1.0
    for suffix, power in _SUFFIXES.items():
        if stem.endswith(suffix):
            stem, factor = stem.removesuffix(suffix), power
    try:
        return float(stem) * factor
    except ValueError:
        return text.strip()


def tiling_parameters(profile: ArchitectureProfile) -> frozenset[str]:
    """Names of the parameters of a profile's tiling strategy, such as tile sizes."""
    return frozenset(field.name for field in dataclasses.fields(TILINGS[profile.tiling.strategy]))


def _amount(name: str, value: Amount | str) -> Amount:
    least = 1 if is_count(name) else 0
    if isinstance(value, str) or not (np.all(np.isfinite(value)) and np.all(np.greater_equal(value, least))):
        listing = value if isinstance(value, str) else ", ".join(f"{number:g}" for number in np.ravel(value))
        raise InputError(f"coefficient {name!r} is set to {listing}; it takes a number of at least {least}")
    if entry(name).role == "rate" and not np.all(np.greater(value, 0)):
        raise InputError(f"coefficient {name!r} is set to 0; nothing ends at a rate of 0, give a positive number")
    return value


def with_threads(profile: ArchitectureProfile, threads: int) -> ArchitectureProfile:
    """The same CPU with fewer cores at work: peaks, near-cache bandwidths and core count scale by threads / cores; the shared
    levels' bandwidth is what the cores can draw, at most the whole. Fewer cores were not measured: the residual is dropped.
    `InputError` for another machine, or a number beyond its cores.
    """
    if profile.family != "cpu":
        raise InputError(f"threads={threads} on {profile.name!r}, a {profile.family}; threads apply to CPUs only, leave it out")
    cores = int(profile.value("count.cores"))
    if not 1 <= threads <= cores:
        raise InputError(f"threads={threads} on {profile.name!r}; allowed: 1 to its {cores} cores")
    if threads == cores:
        return profile
    share = threads / cores
    private = ("peak", *(f"bandwidth.{level}" for level in profile.levels[:-1]))
    memory = f"bandwidth.{profile.main_memory}"
    # One core draws up to about half of a socket's memory bandwidth (STREAM scaling on server parts); more saturate it.
    factors = {memory: min(1.0, 2.0 * share), "count.cores": share}
    factors |= {name: share for stem in private for name in under(stem, profile.coefficients)}
    return profile.replacing(
        coefficients={name: c.scaled(factors[name]) if name in factors else c for name, c in profile.coefficients.items()},
        residual=(),
    )


def _added_amounts(
    base: ArchitectureProfile, machine: ArchitectureProfile, names: Iterable[str]
) -> Iterator[tuple[Coefficient, Amount]]:
    """The coefficients of area, each with the amount that a variant of a machine adds to it."""
    main, part_count = base.main_memory, PART_COUNT[base.family]
    stems: dict[str, str] = {}
    for name in names:
        if name in ("clock", f"capacity.{main}") or entry(name).role not in _TAKES_AREA:
            continue
        stem = "area.byte" if entry(name).role == "size" else "area.bandwidth" if name == f"bandwidth.{main}" else "area.unit"
        if stem == "area.unit" and name != part_count:
            raise InputError(
                f"the area that {name!r} takes is not known; a profile can state it of memory, {part_count} and {main}"
            )
        stems[stem] = name
        if stem == "area.unit":
            stems.setdefault("area.byte", name)
    amounts: Mapping[str, Callable[[ArchitectureProfile], Amount]] = {
        "area.byte": on_chip_bytes,
        "area.bandwidth": lambda profile: profile.value(f"bandwidth.{main}"),
        "area.unit": lambda profile: profile.value(part_count),
    }
    for stem, name in stems.items():
        coefficient = base.get(stem)
        if coefficient is None:
            raise InputError(f"profile {base.name!r} has no {stem!r}, so the area that {name!r} takes is not known")
        yield coefficient, amounts[stem](machine) - amounts[stem](base)


def added_area(base: ArchitectureProfile, machine: ArchitectureProfile, names: Iterable[str]) -> Amount:
    """Area in m2 that a variant of a machine has beyond it, by the coefficients that were set in it, which may be arrays of
    design points; `InputError` names one whose area is not known."""
    return sum((c.value * amount for c, amount in _added_amounts(base, machine, names)), 0.0)


def added_area_interval(base: ArchitectureProfile, machine: ArchitectureProfile, names: Iterable[str]) -> Interval:
    """`added_area` of one machine, from the low ends of the coefficients of area to their high ends; same errors."""
    parts = [(c.value, *c.bounds, float(amount)) for c, amount in _added_amounts(base, machine, names)]
    value, *ends = (sum((part[i] * part[3] for part in parts), 0.0) for i in range(3))
    return Interval(value, min(ends), max(ends))


def on_chip_bytes(profile: ArchitectureProfile) -> Amount:
    """Bytes of all memories on the chip."""
    total: Amount = 0.0
    for name in under("capacity", profile.coefficients):
        level = whose(name)
        if level != profile.main_memory:
            part_count = profile.value(PART_COUNT[profile.family]) if level in _PART_MEMORIES[profile.family] else 1.0
            total = total + profile.value(name) * part_count
    return total
