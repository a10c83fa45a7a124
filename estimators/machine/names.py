"""Composing and parsing names of coefficients: no other module parses one. A name is the stem of a catalogue entry and a suffix
(`bandwidth.<level>`, `launch.<runtime>.<operator>`, `efficiency.<algorithm>`); a specific name falls back to a more general
one."""

from __future__ import annotations

from collections.abc import Iterable

from shmoo.estimators.graph.records import EVERY_RUNTIME


def continues(name: str, *stems: str) -> bool:
    """True for a name that is one of some stems or continues it, as `peak.matrix.float32` continues `peak`."""
    return any(name == stem or name.startswith(f"{stem}.") for stem in stems)


def under(stem: str, names: Iterable[str]) -> list[str]:
    """The names that are a stem or continue it."""
    return [name for name in names if continues(name, stem)]


def general(name: str) -> str:
    """The name without its last part; "" for a name of one part."""
    return name.rpartition(".")[0]


def whose(name: str) -> str:
    """The last part of a name: the algorithm, operator, type, memory level or counted part that a coefficient belongs to."""
    return name.rpartition(".")[2]


def by_runtime(stem: str, runtime: str) -> tuple[str, str]:
    """Names to look up for a coefficient that a runtime may have of its own, most specific first."""
    return f"{stem}.{runtime}", stem


def runtime_of(name: str) -> str | None:
    """The runtime of a launch or of the entry of a graph; `None` for other coefficients and those that all runtimes share."""
    stem, _, suffix = name.partition(".")
    runtime = suffix.partition(".")[0]
    return runtime if stem in ("launch", "graph") and runtime in EVERY_RUNTIME else None


def of_float32(name: str) -> str:
    """The coefficient of float32 that corresponds to one of another type."""
    return f"{general(name)}.float32"


def energy_names(name: str) -> tuple[str, ...]:
    """Names to look up for the energy of a unit's flop in a type, or of another coefficient of energy, most specific first."""
    if not name.startswith("energy.flop."):
        return (name,)
    return name, of_float32(name), "energy.flop"
