"""What publishing takes from no table: where a fit of energies starts, and voltages set by hand, each with its source.

`publish` writes these into the profiles, so that one run gives the profiles as they are committed.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from shmoo.estimators.graph.records import Coefficient
from shmoo.estimators.machine.catalogue import entry

_CIRCUITS = "Horowitz, ISSCC 2014, and Jouppi et al., ISCA 2021, table 2"
_STATIC = "estimate: the idle board plus the clocks and leakage of an active chip"
_SUSTAINED = "estimate: (TDP - static power) / 0.9 of the peak of an A100 of 250 to 400 W; the low end is that of a warm board"
_VECTOR = "estimate: about ten instructions; softmax and norms on an H200 (runs/recorded/h200) take 60 to 160 pJ an operation"
_SHARED = f"64 bits from 32 KB take 8.5 to 20 pJ; {_CIRCUITS}"
_L2 = f"estimate: a bank of 1 MB takes 1.75 to 12.5 pJ/B; {_CIRCUITS}"
_HBM2 = f"64 bits from HBM2 take 31 to 56 pJ/B, the way to the lanes more; {_CIRCUITS}"
_CAPPED = (
    "estimate: a board of 700 W sustains 670 Tflop/s of random numbers in bfloat16 at 0.78 of its clock (runs/recorded/h200)"
)
_AWAKE = "estimate: the card draws 119 to 175 W between loads, and 236 W for a network that mostly waits (runs/recorded/h200)"
_LOOPS = "estimate: a loop of copies draws 637 to 646 W at 4.0 to 4.2 TB/s, the idle card 119 to 175 W (runs/recorded/h200)"
_4NM = (
    "estimate: less than boards with an A100 in a process of 7 nm differ (0.8 with 0.5 to 0.58 with 2.2); wide, as another "
    "process"
)
_PCIE = (
    "boards with an A100 differ in the voltage at their boost clock, 1.2 to 1.7 times the lowest in its square: the one of the "
    "operators' times sustains float32 at 250 W (Lee et al., ASPLOS 2025), that of the energies takes 1.7 (EnergAIzer's "
    "artifact, ISPASS 2026)"
)
_SXM = (
    "a board of 400 W sustains 257 Tflop/s of random numbers in bfloat16 (He, 2024; NVIDIA AIConfigurator, 2026), at the "
    "energies of gpu_a100_40g's lowest voltage; those energies alone want 0.59"
)
_COOL = "as gpu_h200: loops of tenths of a second run at 1.08 of the rate of long ones at the same cap"
_KNEE = "the exponent that reaches the floor where gpu_a100_40g's energies do, at 0.7 of the clock"


def _named(*values: tuple[str, float, str, float, float]) -> Mapping[str, Coefficient]:
    """Coefficients of (name, value, reference, low, high)."""
    return MappingProxyType(
        {
            name: Coefficient(value, entry(name).unit, "literature", why, low=low, high=high)
            for name, value, why, low, high in values
        }
    )


ENERGY_STARTS: Mapping[str, Mapping[str, Coefficient]] = MappingProxyType(
    {
        "gpu_a100_40g": _named(
            ("power.static", 60.0, _STATIC, 40.0, 90.0),
            ("energy.flop.matrix.float32", 1.08e-11, _SUSTAINED, 7.5e-12, 1.9e-11),
            ("energy.flop.matrix.tf32", 2.2e-12, _SUSTAINED, 1.0e-12, 2.6e-12),
            ("energy.flop.matrix.bfloat16", 1.0e-12, _SUSTAINED, 5.0e-13, 1.3e-12),
            ("energy.flop.vector.float32", 1.0e-10, _VECTOR, 1e-11, 2.5e-10),
            ("energy.byte.shared", 1.5e-12, _SHARED, 1e-12, 4e-12),
            ("energy.byte.l2", 8e-12, _L2, 2e-12, 2.5e-11),
            ("energy.byte.dram", 8e-11, _HBM2, 3.1e-11, 1.2e-10),
            ("energy.floor", 0.88, _PCIE, 0.58, 0.92),
        ),
        "gpu_h200": _named(
            ("power.static", 190.0, _AWAKE, 150.0, 220.0),
            ("energy.flop.matrix.float32", 1.0e-11, _SUSTAINED, 5.0e-12, 1.3e-11),
            ("energy.flop.matrix.tf32", 2.2e-12, _CAPPED, 1.5e-12, 2.8e-12),
            ("energy.flop.matrix.bfloat16", 1.0e-12, _CAPPED, 7.0e-13, 1.3e-12),
            ("energy.flop.matrix.float16", 1.2e-12, _CAPPED, 8.0e-13, 1.5e-12),
            ("energy.flop.vector.float32", 1.0e-10, _VECTOR, 1e-11, 2.5e-10),
            ("energy.byte.shared", 1.5e-12, _SHARED, 1e-12, 4e-12),
            ("energy.byte.l2", 8e-12, _L2, 2e-12, 2.5e-11),
            ("energy.byte.dram", 9.3e-11, _LOOPS, 7e-11, 1.1e-10),
            ("energy.floor", 0.65, _4NM, 0.5, 0.8),
            ("energy.clock", 1.2, _4NM, 0.6, 2.0),
        ),
    }
)
"""Profile -> where the fit of its energies starts; what `energy.KNOWN` names stays."""
B200_SHARE = Coefficient(
    0.75,
    "1",
    "literature",
    "random numbers sustain 1330 Tflop/s in bfloat16 at 985 W, 670 on an H100 at 690 W, each less static power and bytes "
    "(NVIDIA AIConfigurator, 2026)",
    low=0.6,
    high=0.9,
)
"""What a flop of a B200's tensor cores takes relative to an H200's."""
CONTROLLER = Coefficient(
    2e-4,
    "s",
    "literature",
    "an H200 slows down 14 to 56 ms after a load of calls begins (runs/recorded/h200), and graphs of up to six layers are "
    "replayed nine times; random numbers take 1.02 of what others do below 0.1 ms, 1.05 from there to 1 ms, 1.1 above 3 ms "
    "(NVIDIA AIConfigurator, 2026)",
    low=5e-5,
    high=1e-3,
)
"""When a power cap sets in, in tables of replayed graphs, of boards whose joules a meter tells or nobody knows."""
_SHORT = (
    "about as in float32: half a second of products in float16 runs at 38 to 46 Tflop/s (DeepBench, 2019) or at 24 (NVIDIA "
    "developer forum, 2023), where 70 W leave a warm board 21"
)
_FIRST = (
    "as gpu_h200; 36 products of 8192 and 10240 a side, of random numbers at 250 W, run at 198 to 215 Tflop/s in 16 bits, at 97 "
    "to 102 in tf32 (zzc0721/torch-performance-test-data, 2025-26), where a warm board is estimated at 188 to 205 and 93"
)
COOL: Mapping[str, Mapping[str, Coefficient]] = MappingProxyType(
    {
        "gpu_t4": _named(("throttle.cool.tensor", 0.48, _SHORT, 0.3, 0.6)),
        **dict.fromkeys(("gpu_a100_40g", "gpu_a100_80g"), _named(("throttle.cool.tensor", 0.15, _FIRST, 0.05, 0.3))),
    }
)
"""Profile -> what tensor cores of a cool board ask for less, where no meter says it."""
VOLTAGES: Mapping[str, Mapping[str, Coefficient]] = MappingProxyType(
    {
        "gpu_a100_sxm_80g": _named(
            ("energy.floor", 0.55, _SXM, 0.5, 0.74),
            ("energy.clock", 1.68, _KNEE, 0.85, 2.0),
            ("throttle.cool.tensor", 0.15, _COOL, 0.05, 0.3),
        )
    }
)
"""Profile of a card with a fitted card's chip -> its own voltage curve."""
