"""What a machine takes over from another: coefficients that grow with a count of parts, and those of the profile that it is
described by."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any, cast

import msgspec

from shmoo.estimators.graph.records import Coefficient
from shmoo.estimators.machine.catalogue import entry, is_count
from shmoo.estimators.machine.names import under

CARRIED = 1.28
"""Factor to either side of a fitted coefficient on another board: 90 % of a log-normal spread of 0.15."""


def followers(name: str, family: str, names: Collection[str]) -> list[tuple[str, float]]:
    """Which of a machine's coefficients grow with a part of its structure, and with which exponent."""
    brought = entry(name).brings.get(family, ())
    return [(other, exponent) for stem, exponent in brought for other in under(stem, names) if other != name]


def bring_along(
    coefficients: dict[str, Coefficient],
    name: str,
    before: Any,
    after: Any,
    family: str,
    listed: Mapping[str, Coefficient],
    given: Collection[str],
) -> None:
    """Scale what grows with a part of a machine's structure, in place.

    Args:
        before, after: how much of the part there was and is, which may be an array of design points.
        listed: all coefficients of the machine; those that `coefficients` lacks are scaled from here.
        given: names that keep the values they have.
    """
    for follower, exponent in followers(name, family, listed):
        if follower not in given:
            coefficients[follower] = coefficients.get(follower, listed[follower]).scaled((after / before) ** exponent)


def brought(fields: dict[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """The coefficients that grow with the counts of parts in a file, unless the file gives them itself. A count that is not a
    positive number brings nothing; validation of the whole profile reports it."""
    carried = msgspec.convert(fields["coefficients"], dict[str, Coefficient])
    scaled: dict[str, Coefficient] = {}
    for name, stated in own.items():
        count = stated.get("value") if isinstance(stated, dict) and name in carried and is_count(name) else None
        if isinstance(count, int | float) and 0 < count < math.inf:
            bring_along(scaled, name, carried[name].value, count, fields["family"], carried, own)
    return cast("dict[str, Any]", msgspec.to_builtins(scaled))


def left_by_codes(coefficients: Mapping[str, Any]) -> float:
    """The share of a memory's bandwidth that error-correcting codes leave to data. It is 1 where the file gives no positive
    number; validation of the whole profile reports that."""
    try:
        share = msgspec.convert(coefficients.get("ecc.share"), Coefficient).value
    except msgspec.ValidationError:
        return 1.0
    return share if share > 0 else 1.0


def inherited(name: str, c: Coefficient, base: str) -> Coefficient:
    """A coefficient as a machine takes it over from its base: fitted values become transferred ones, with a wider range."""
    if not c.from_fit:
        return c
    if entry(name).role == "spread":
        # The model errs more on a machine to which it was not fitted.
        return Coefficient(c.value * 1.5, c.unit, "transferred", f"1.5 times that of {base}")
    return Coefficient(c.value, c.unit, "transferred", f"as fitted to {base}", low=c.value / CARRIED, high=c.value * CARRIED)
