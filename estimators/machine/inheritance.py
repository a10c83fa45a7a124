"""What a machine inherits from another: coefficients that grow with a count of parts, and those of its base profile."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any, cast

import msgspec

from shmoo.estimators.graph.records import Coefficient
from shmoo.estimators.machine.catalogue import entry, is_count
from shmoo.estimators.machine.names import under

TRANSFER_FACTOR = 1.28
"""Factor to either side of a fitted coefficient on another board: 90 % of a log-normal spread of 0.15."""


def followers(name: str, family: str, names: Collection[str]) -> list[tuple[str, float]]:
    """Which of a machine's coefficients grow with a part of its structure, and with which exponent."""
    stems = entry(name).brings.get(family, ())
    return [(follower, exponent) for stem, exponent in stems for follower in under(stem, names) if follower != name]


def scale_followers(
    coefficients: dict[str, Coefficient],
    name: str,
    old_amount: Any,
    new_amount: Any,
    family: str,
    all_coefficients: Mapping[str, Coefficient],
    fixed_names: Collection[str],
) -> None:
    """Scale, in place, the coefficients that grow with a part of a machine's structure.

    Args:
        old_amount, new_amount: amount of the part before and after, which may be an array of design points.
        all_coefficients: all coefficients of the machine, to scale those that `coefficients` lacks.
        fixed_names: coefficients that keep their values.
    """
    for follower, exponent in followers(name, family, all_coefficients):
        if follower not in fixed_names:
            coefficients[follower] = coefficients.get(follower, all_coefficients[follower]).scaled(
                (new_amount / old_amount) ** exponent
            )


def scale_with_counts(fields: dict[str, Any], stated: Mapping[str, Any]) -> dict[str, Any]:
    """The coefficients of a base (`fields`) that grow with the counts that a file states, scaled, except those that the file
    states itself. A count that is not a positive number scales nothing; validation of the whole profile reports it."""
    inherited = msgspec.convert(fields["coefficients"], dict[str, Coefficient])
    scaled: dict[str, Coefficient] = {}
    for name, coefficient in stated.items():
        count = coefficient.get("value") if isinstance(coefficient, dict) and name in inherited and is_count(name) else None
        if isinstance(count, int | float) and 0 < count < math.inf:
            scale_followers(scaled, name, inherited[name].value, count, fields["family"], inherited, stated)
    return cast("dict[str, Any]", msgspec.to_builtins(scaled))


def ecc_share(coefficients: Mapping[str, Any]) -> float:
    """The share of a memory's bandwidth that error-correcting codes leave to data. It is 1 where the file gives no positive
    number; validation of the whole profile reports that."""
    try:
        share = msgspec.convert(coefficients.get("ecc.share"), Coefficient).value
    except msgspec.ValidationError:
        return 1.0
    return share if share > 0 else 1.0


def transfer(name: str, c: Coefficient, base: str) -> Coefficient:
    """A coefficient of a base as another machine inherits it: fitted values become transferred ones, with a wider range."""
    if not c.from_fit:
        return c
    if entry(name).role == "spread":
        # The model errs more on a machine to which it was not fitted.
        return Coefficient(c.value * 1.5, c.unit, "transferred", f"1.5 times that of {base}")
    return Coefficient(
        c.value, c.unit, "transferred", f"as fitted to {base}", low=c.value / TRANSFER_FACTOR, high=c.value * TRANSFER_FACTOR
    )
