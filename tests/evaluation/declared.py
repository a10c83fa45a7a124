"""What publishing takes from no table: where a fit of energies starts, and coefficients set by hand, each with its source.

`publish` writes these into the profiles, so that one run gives the profiles as they are committed.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from shmoo.estimators.graph.records import Coefficient
from shmoo.estimators.machine.catalogue import entry

_CIRCUITS = "Horowitz, ISSCC 2014, and Jouppi et al., ISCA 2021, table 2"
_SUSTAINED = "estimate: (TDP - static power) / 0.9 of the peak of an A100 of 250 to 400 W; the low end is that of a warm board"
_BOARDS = (
    "what a flop takes at the boost clock relative to the lowest voltage differs between boards with an A100, 1.2 to 1.7 in this "
    "table's terms: {} (EnergAIzer's artifact, ISPASS 2026; Lee et al., ASPLOS 2025; He, 2024)"
)


def _known(name: str, value: float, reference: str, low: float | None = None, high: float | None = None) -> Coefficient:
    return Coefficient(value, entry(name).unit, "literature", reference, low=low, high=high)


def _named(*values: tuple[str, float, str, float, float]) -> Mapping[str, Coefficient]:
    return MappingProxyType({name: _known(name, value, why, low, high) for name, value, why, low, high in values})


ENERGY_STARTS: Mapping[str, Mapping[str, Coefficient]] = MappingProxyType(
    {
        "gpu_a100_40g": _named(
            ("power.static", 60.0, "estimate: the idle board plus the clocks and leakage of an active chip", 40.0, 90.0),
            ("energy.flop.matrix.float32", 1.08e-11, _SUSTAINED, 7.5e-12, 1.9e-11),
            ("energy.flop.matrix.tf32", 2.0e-12, _SUSTAINED, 1.0e-12, 2.6e-12),
            ("energy.flop.matrix.bfloat16", 1.0e-12, _SUSTAINED, 5.0e-13, 1.3e-12),
            ("energy.flop.vector.float32", 4.9e-12, f"estimate: from the datapath to half of a flop's; {_CIRCUITS}", 8.4e-13, 9.7e-12),
            ("energy.byte.shared", 1.5e-12, f"64 bits from 32 KB take 8.5 to 20 pJ; {_CIRCUITS}", 1e-12, 4e-12),
            ("energy.byte.l2", 8e-12, f"estimate: a bank of 1 MB takes 1.75 to 12.5 pJ/B; {_CIRCUITS}", 2e-12, 2.5e-11),
            ("energy.byte.dram", 8e-11, f"64 bits from HBM2 take 31 to 56 pJ/B, the way to the lanes more; {_CIRCUITS}", 3.1e-11, 1.2e-10),
            ("energy.floor", 0.8, _BOARDS.format("float32 at 250 W does not slow the board of the tables"), 0.58, 0.85),
        )
    }
)
"""Profile -> where the fit of its energies starts; the floor of its voltage stays."""

VOLTAGES: Mapping[str, Mapping[str, Coefficient]] = MappingProxyType(
    {
        "gpu_a100_sxm_80g": _named(
            ("energy.floor", 0.71, _BOARDS.format("257 Tflop/s in bfloat16 at 400 W"), 0.58, 0.82),
            ("energy.clock", 0.95, "the exponent that reaches the floor where a board of the same chip does, at 0.7 of the clock", 0.6, 1.5),
        )
    }
)
"""Profile of a card with a fitted card's chip -> its own voltage curve."""
