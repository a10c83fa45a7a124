"""The records of the catalogue of coefficients."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from shmoo.estimators.graph.records import Source

Role = Literal["count", "size", "rating", "rate", "share", "spread", "energy", "board"]
"""The role of a coefficient. A "count" is a whole number of parts, a "size" a capacity, a "rating" a fact beside the model; none
of them is drawn for intervals. Work is divided by a "rate". A "share" (or exponent, or overhead) carries over to other machines;
a "spread" (the model's error) does at its widest; coefficients of a "board" do not. An "energy" is drawn even where it was
fitted."""

RANGES: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        **{"flop/s": (1e6, 1e21), "1/s": (1e6, 1e21), "B/s": (1e5, 1e18), "Hz": (1e5, 1e12)},
        **{"B": (0.0, 1e18), "s": (0.0, 10.0), "s/B": (0.0, 1e-3)},
        **{"J/flop": (0.0, 1e-3), "J/B": (0.0, 1e-3), "W": (0.0, 1e7)},
        **{"m2": (0.0, 1.0), "m2/B": (0.0, 1e-6), "m2 s/B": (0.0, 1e-9)},
    }
)
"""Unit -> least and largest value of its coefficients. Rates are divisors, so they exclude 0."""


@dataclass(frozen=True, slots=True)
class Space:
    """The search space of a fit for one coefficient: bounds, standard deviation of the log-normal prior, and the start where the
    machine's own value is 0."""

    low: float
    high: float
    prior_sd: float
    start: float = 0.0


@dataclass(frozen=True, slots=True)
class Guess:
    """A value with its 90 % range and its reason (`why`; "" for the entry's meaning). It is for the name that continues the
    entry's stem by `of`, on one architecture family or on all."""

    value: float
    low: float
    high: float
    why: str = ""
    of: str = ""
    on: str = ""
    source: Source = "fallback"


@dataclass(frozen=True, slots=True)
class Entry:
    """The entry of all coefficients whose names begin with one stem.

    Attributes:
        within: least and largest value of coefficients without a unit; `None` where the unit gives them (`RANGES`).
        of_host: whether it belongs to the host that launches the kernels of an asynchronous device.
        fit: search space of a fit; `None` for coefficients that are never fitted. fit_on: family -> its own search space.
        assumed: values without a measurement (`DEFAULTS`). typical: start values of a calibration (`TYPICAL`).
        brings: family -> stems of the coefficients that grow with this part of its structure, and the exponent.
            `profiles/__init__.py` says which memories belong to a part.
    """

    unit: str
    role: Role
    meaning: str
    fit: Space | None = None
    fit_on: Mapping[str, Space] = field(default_factory=dict)
    assumed: tuple[Guess, ...] = ()
    typical: tuple[Guess, ...] = ()
    brings: Mapping[str, tuple[tuple[str, float], ...]] = field(default_factory=dict)
    within: tuple[float, float] | None = None
    of_host: bool = False

    @property
    def range(self) -> tuple[float, float]:
        """Least and largest value that a profile may hold."""
        return self.within or RANGES.get(self.unit, (-math.inf, math.inf))
