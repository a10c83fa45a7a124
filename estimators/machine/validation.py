"""Validation of profiles. A file may come from anywhere; a profile that passes gives finite, positive times and non-negative
energies. Ranges are wide: they exclude slips of sign, unit and exponent, not unusual machines."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from itertools import chain
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, get_args

from shmoo.estimators.errors import InputError, unknown
from shmoo.estimators.graph.dtypes import COMPUTE_DTYPES
from shmoo.estimators.graph.records import RUNTIMES, Coefficient, Source
from shmoo.estimators.machine.catalogue import EMPTY_ENTRY, entry
from shmoo.estimators.machine.names import under

if TYPE_CHECKING:
    from shmoo.estimators.machine.profile import ArchitectureProfile, ResidualGroup

_NAME = re.compile(r"\w[\w.@=+, -]{0,199}")
_LEVEL = re.compile(r"[a-z][a-z0-9_]{0,31}")
MOST_LEVELS = 16

WIDEST = 1e6
"""Largest upper end of a range given by a standard error alone, relative to the value: beyond, the range says nothing."""
REQUIRED: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "cpu": ("count.cores", "capacity.l2", "peak.vector.float32"),
        "gpu": ("count.sms", "capacity.shared", "bandwidth.shared", "bandwidth.l2", "peak.vector.float32"),
        "tpu": ("array.rows", "array.cols", "clock", "peak.vector.float32"),
        "kpu": ("array.rows", "array.cols", "clock", "peak.vector.float32"),
    }
)
"""Architecture family -> coefficients without which it cannot be estimated, beside those of its memory levels."""
ON_CHIP: Mapping[str, tuple[str, ...]] = MappingProxyType({"cpu": ("l2",), "gpu": ("shared", "l2"), "tpu": ("vmem",), "kpu": ()})
"""Architecture family -> levels above main memory that its tiling strategy cuts for."""
LARGEST_CORRECTION = 10.0
"""Sum of the largest logarithms of all trees of a residual; those of the built-in profiles sum up to 3."""


def is_valid_name(name: str) -> bool:
    """True for a text that can name a profile: letters, digits and a few marks, no path and no control character."""
    return _NAME.fullmatch(name) is not None


def check_name(name: str) -> str:
    """The name of a profile, unchanged; `InputError` for an invalid one."""
    if not is_valid_name(name):
        raise InputError(f"{name!r} is no name of a profile; it takes letters, digits and . _ - + = @ and is no path")
    return name


def first_problem(profile: ArchitectureProfile) -> str | None:
    """What is wrong with a profile, in one sentence; `None` for a sound one."""
    return next(chain(_names(profile), _values(profile), _fit(profile)), None)


def _names(profile: ArchitectureProfile) -> Iterator[str]:
    if not is_valid_name(profile.name):
        yield f"its name is {profile.name!r}; a name has letters, digits and . _ - + = @ and is no path"
    if not profile.levels:
        yield "it has no 'levels'; the last one is the main memory"
    if len(profile.levels) > MOST_LEVELS:
        yield f"it has {len(profile.levels)} 'levels', at most {MOST_LEVELS} are allowed"
    for level in profile.levels:
        if not _LEVEL.fullmatch(level):
            yield f"level {level!r} is no name; write it in small letters, such as 'l2'"
        if profile.levels.count(level) > 1:
            yield f"level {level!r} stands twice in 'levels'"
        for stem in ("bandwidth", "capacity"):
            if f"{stem}.{level}" not in profile.coefficients:
                yield f"level {level!r} has no coefficient '{stem}.{level}'; add it, or take the level out of 'levels'"
    for level in ON_CHIP[profile.family]:
        if level not in profile.levels[:-1]:
            levels = ", ".join(profile.levels)
            yield f"its 'levels' are {levels}; a {profile.family} has {level!r} before the last one, its main memory"
    for name in REQUIRED[profile.family]:
        if name not in profile.coefficients:
            yield f"it has no coefficient {name!r}, which every {profile.family} needs"
    if not under("peak.matrix", profile.coefficients):
        yield "it has no coefficient 'peak.matrix.<dtype>', so nothing tells how fast it multiplies"


def _values(profile: ArchitectureProfile) -> Iterator[str]:
    for name, c in profile.coefficients.items():
        if (problem := _coefficient_problem(name, c)) is not None:
            yield f"coefficient {name!r} {problem}"
    if (problem := power_problem(profile)) is not None:
        yield problem


def power_problem(profile: ArchitectureProfile) -> str | None:
    """The problem of a power cap that static power uses up, at one design point or more; `None` without one."""
    cap, static = profile.get("power.tdp"), profile.get("power.static")
    if cap is None or static is None or profile.family != "gpu" or not under("energy.flop", profile.coefficients):
        return None
    pairs = [(static.value, cap.value)]
    if not isinstance(static.value, int | float) or not isinstance(cap.value, int | float):
        import numpy as np  # design points; reading a file takes no arrays

        pairs = list(zip(*(amounts.ravel().tolist() for amounts in np.broadcast_arrays(*pairs[0])), strict=True))
    excess = next(((idle_w, cap_w) for idle_w, cap_w in pairs if idle_w >= cap_w), None)
    if excess is None:
        return None
    return "'power.static' is {:g} W, which leaves nothing of the cap 'power.tdp' of {:g} W to work with".format(*excess)


def variant_problem(profile: ArchitectureProfile, base: ArchitectureProfile) -> str | None:
    """As `first_problem`, for the coefficients that differ from those of `base`."""
    for name, c in profile.coefficients.items():
        if c is not base.coefficients.get(name) and (problem := _coefficient_problem(name, c)) is not None:
            return f"coefficient {name!r} {problem}"
    return power_problem(profile)


def _coefficient_problem(name: str, c: Coefficient) -> str | None:
    numbers = [number for number in (c.value, c.stderr, c.low, c.high) if number is not None]
    if not all(map(math.isfinite, numbers)):
        return f"holds {next(number for number in numbers if not math.isfinite(number))}; it takes finite numbers"
    unit = entry(name).unit
    if unit and c.unit != unit:
        return f"is given in {c.unit!r}; its unit is {unit!r}"
    low, high = entry(name).range
    if not low <= c.value <= high:
        must = "a rate must be positive" if c.value <= 0 < low else f"allowed: {low:g} to {high:g}"
        return f"is {c.value:g} {c.unit}; {must}"
    if (c.low is None) != (c.high is None):
        return "has one end of a range only; give 'low' and 'high'"
    if c.stderr is not None and c.stderr < 0:
        return f"has the standard error {c.stderr:g}; it cannot be negative"
    least, most = c.bounds
    if not least <= c.value <= most:
        return f"is {c.value:g}, outside its own range {c.bounds}"
    if c.low is None and 0 < WIDEST * c.value < most:
        return f"is {c.value:g}, and its range ends at {most:g}; that says nothing about it"
    return None


def _fit(profile: ArchitectureProfile) -> Iterator[str]:
    if profile.fitted_from is not None:
        for dtype in profile.fitted_from.dtypes:
            if dtype not in COMPUTE_DTYPES:
                yield f"it was fitted from the type {dtype!r}; allowed: {', '.join(COMPUTE_DTYPES)}"
    for group in profile.residual:
        if (problem := _residual_problem(group, profile.family)) is not None:
            yield f"the residual of {group.group!r} {problem}; refit it"


def _residual_problem(group: ResidualGroup, family: str) -> str | None:
    if not group.is_consistent:
        return f"has arrays that do not fit its {len(group.features)} features and trees"
    if group.dtype not in COMPUTE_DTYPES or group.runtime not in RUNTIMES[family]:
        return f"is of the type {group.dtype!r} and the runtime {group.runtime!r}, which a {family} does not have"
    if not all(low <= high for low, high in zip(group.low, group.high, strict=True)):
        return "has a feature whose range is reversed"
    numbers = (group.spread, *group.low, *group.high, *(value for tree in group.trees for value in tree.values))
    if not all(map(math.isfinite, numbers)) or not 0 <= group.spread <= entry("sigma").range[1]:
        return f"has the spread {group.spread:g}, or a number that is not finite"
    largest_correction = sum(max(map(abs, tree.values)) for tree in group.trees)
    if largest_correction > LARGEST_CORRECTION:
        return f"corrects times by a factor of up to e^{largest_correction:.3g}, at most e^{LARGEST_CORRECTION:g} is allowed"
    return None


REQUIRED_KEYS = ("name", "family", "description", "levels", "tiling", "coefficients")
"""Keys that a profile without a `base` must have."""
EXAMPLE = '{"value": 1e12, "unit": "B/s", "source": "datasheet"}'


def first_wrong_key(
    document: Mapping[str, Any], fields: Collection[str], suggestions: Callable[[], Collection[str]]
) -> str | None:
    """The first problem with the keys and plain values of a profile's JSON, with the remedy; `None` where there is none. Keys
    that resemble no other are a reader's notes.

    Args:
        fields: keys of a profile. suggestions: names of coefficients to suggest.
    """
    if misspelling := _misspelling(document, fields):
        return misspelling
    if "base" not in document and (absent_keys := [key for key in REQUIRED_KEYS if key not in document]):
        return (
            f"it lacks {', '.join(map(repr, absent_keys))}; a profile has {', '.join(REQUIRED_KEYS)}, "
            'or takes what it lacks from a built-in one: "base": "gpu_h100"'
        )
    if (family := document.get("family", "cpu")) not in RUNTIMES:
        return f"its family is {family!r}; allowed: {', '.join(RUNTIMES)}"
    coefficients = document.get("coefficients", {})
    if not isinstance(coefficients, dict):
        return f'its coefficients are {_kind(coefficients)}; write an object, such as {{"bandwidth.dram": {EXAMPLE}}}'
    for name, value in coefficients.items():
        problem = None if value is None and "base" in document else _wrong_coefficient(value)
        if problem:
            return f"coefficient {name!r} {problem}"
        if entry(name) is EMPTY_ENTRY:
            return str(unknown("coefficient", name, suggestions()))
    return None


def _wrong_coefficient(document: Any) -> str | None:
    keys = Coefficient.__struct_fields__
    if not isinstance(document, dict):
        return f"is {_kind(document)}; write an object, such as {EXAMPLE}"
    if misspelling := _misspelling(document, keys):
        return f"is wrong: {misspelling}"
    if absent_keys := [key for key in ("value", "unit", "source") if key not in document]:
        return f"lacks {', '.join(map(repr, absent_keys))}; write an object, such as {EXAMPLE}"
    for key in ("value", "stderr", "low", "high"):
        value = document.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float | None) or (value is None and key == "value"):
            return f"has the {key} {value!r}; write a number in SI units, such as 300e9"
    if document["source"] not in (sources := get_args(Source)):
        return f"has the source {document['source']!r}; allowed: {', '.join(sources)}"
    return None


def _misspelling(document: Mapping[str, Any], allowed_keys: Collection[str]) -> str | None:
    """The correction of the first key that resembles an allowed one; `None` where there is none."""
    for key in document:
        matches = (
            [] if key in allowed_keys else difflib.get_close_matches(key, [name for name in allowed_keys if name not in document])
        )
        if matches:
            return f"no key is called {key!r}: did you mean {matches[0]!r}? allowed: {', '.join(allowed_keys)}"
    return None


def _kind(value: object) -> str:
    return "a list" if isinstance(value, list) else repr(value)
