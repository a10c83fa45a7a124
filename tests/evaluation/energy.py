"""Power and energy on GPUs: whole networks at locked clocks, and products that run back to back.

Files of DATA_DIR/measured: `energy_networks.csv`, forward passes in eager PyTorch with the board's power integrated over a loop
(EnergAIzer's artifact, ISPASS 2026), and `gemm_power.csv`, products in graphs with their mean power (NVIDIA's AIConfigurator,
2026). Power is predicted with the measured latency too, so that errors of power and of time can be told apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import msgspec
import numpy as np

from shmoo.calibrate.fit.dataset import MeasuredCase, block_of, blocks, run_cases
from shmoo.calibrate.fit.energy import RATIOS, fit_energy
from shmoo.estimators.errors import InputError
from shmoo.estimators.graph.records import Coefficient, Interval
from shmoo.estimators.machine.coefficients import Coefficients
from shmoo.estimators.machine.names import continues, under
from shmoo.estimators.machine.profile import ArchitectureProfile, load_profile
from shmoo.estimators.predict.director import AnalysisDirector
from shmoo.estimators.predict.pipeline import intervals_of
from shmoo.runs.store.records import AxisValue, CaseSpec
from shmoo.runs.store.store import Run
from shmoo.runs.tables.reading import TableRow
from tests.evaluation.declared import B200_SHARE, VOLTAGES
from tests.evaluation.network_graphs import graphs_of
from tests.evaluation.networks import CARDS, MeasuredNetwork, bound_of, estimated, held, profile_of, read_networks
from tests.evaluation.publish import RECORDED
from tests.evaluation.results import Result, of_cases, read_rows

PROFILES = MappingProxyType({"h200_sxm": "gpu_h200", "b200_sxm": "gpu_b200"})
"""Device of the products -> profile."""
POWER, ENERGY = 0.07, 0.09
"""Largest mean errors of networks that the device bounds."""
TYPES = MappingProxyType({"fp8": "bfloat16", "fp8_block": "float8"})
"""Kind of a product in 8 bits -> type of its activations, which `ROUNDED` ones round on the way."""
ROUNDED = MappingProxyType({"fp8": "float8"})
OTHER_KERNELS = ("fp8_block", "trtllm")
"""Kind and framework of products in other kernels than the fitted ones of DeepGEMM: TensorRT-LLM's with a scale a block take 3.6
times as long on a B200 (median of 42), vLLM's 1.1 times (26)."""
RUNTIME = "cudagraphs"
INSTANT = Coefficient(1e-9, "s", "literature", "in loops of a second and more the controller has seen the load for long")
Ends = tuple[float, float, float]
"""A predicted value with the low and the high end of its interval."""


@dataclass(frozen=True, slots=True)
class Judged:
    """One measured energy with what a profile says.

    Attributes:
        group: device, type and kind.
        bound: "device" or "host", whichever bounds a network; "" for products.
        known_w: predicted power where the latency is known.
        seconds, joules: measured.
    """

    group: str
    bound: str
    latency_s: Ends
    energy_j: Ends
    power_w: Ends
    known_w: float
    seconds: float
    joules: float


def evaluate(folder: Path, kept: Path) -> list[Result]:
    """Errors by device, type and group, with the built-in profiles.

    Args:
        kept: folder of captured graphs.

    Raises:
        InputError: a table is missing.
    """
    networks = [judged_network(row, profile_of(row), kept) for row in metered(folder)]
    products = read_products(folder)
    return results([*networks, *(one for name, of in products.items() for one in judged_products(load_profile(name), of))])


def metered(folder: Path) -> list[MeasuredNetwork]:
    """The networks whose energy was measured."""
    return [row for row in read_networks(folder / "measured", ("energy_networks.csv",)) if row.energy_j is not None]


def judged_network(row: MeasuredNetwork, profile: ArchitectureProfile, kept: Path) -> Judged:
    """A network beside what a profile says of it, at the clock that its board was locked to."""
    machine = settled(profile)
    estimate = estimated(row, machine, kept)
    if estimate.energy_j is None or estimate.average_power_w is None or row.energy_j is None:
        raise InputError(f"{row.name}: {estimate.energy_j_reason or 'no energy was measured'}")
    known = with_latency(machine, estimate.latency_s.value, estimate.energy_j.value, row.latency_s)
    ends = (_ends(of) for of in (estimate.latency_s, estimate.energy_j, estimate.average_power_w))
    return Judged(f"{row.device}, {row.label} networks", bound_of(row, machine, kept), *ends, known, row.latency_s, row.energy_j)


def judged_products(profile: ArchitectureProfile, cases: Sequence[MeasuredCase]) -> Iterator[Judged]:
    """Products in a graph beside what a profile says of them."""
    machine = settled(profile)
    block = block_of(cases, RUNTIME, AnalysisDirector(machine))
    priced = AnalysisDirector(machine).price(block.table, RUNTIME, tiling=block.tiling, seed=0)
    if priced.device_j is None or priced.draws is None or priced.draws.device_j is None:
        raise InputError(f"profile {machine.name!r} has no energy coefficients")
    # Nothing waits for the host inside a graph.
    seconds, joules, drawn_s, drawn_j = priced.device_s, priced.device_j, priced.draws.device_s, priced.draws.device_j
    columns = (intervals_of(seconds, drawn_s), intervals_of(joules, drawn_j), intervals_of(joules / seconds, drawn_j / drawn_s))
    for case, latency, energy, power in zip(cases, *columns, strict=True):
        known = with_latency(machine, latency.value, energy.value, case.latency_s)
        axes = case.case.axes
        whose = " of another library" if axes.get("library") == "other" else ""
        group = f"{profile.name}, {axes.get('weights') or case.case.dtype} products{whose}"
        yield Judged(group, "", *map(_ends, (latency, energy, power)), known, case.latency_s, case.energy_j or 0.0)


def settled(profile: ArchitectureProfile) -> ArchitectureProfile:
    """A machine in a loop of a second and more, which is warm."""
    others = {n: c for n, c in profile.coefficients.items() if not continues(n, "throttle.cool")}
    return profile.replacing(coefficients={**others, "throttle.time": INSTANT})


def with_latency(machine: ArchitectureProfile, latency_s: float, energy_j: float, known_s: float) -> float:
    """Watts of a case that takes `known_s`, from the latency and the energy that are predicted."""
    static, c = machine.value("power.static"), Coefficients(machine)
    most = float(np.max(c.value("throttle.cap"))) * machine.value("power.tdp")
    return min(static + (energy_j - static * latency_s) / known_s, most)


def results(judged: Sequence[Judged]) -> list[Result]:
    """Lines by group; targets are of the networks that the device bounds."""
    groups: dict[tuple[str, str], list[Judged]] = {}
    for one in judged:
        groups.setdefault((one.group, one.bound), []).append(one)
    found = []
    for (group, bound), of in sorted(groups.items()):
        what = f"{group}, {bound}-bound" if bound else group
        most = (POWER, ENERGY) if bound == "device" else (None, None)
        columns = (
            (f"{what}: power", [(*one.power_w, one.joules / one.seconds) for one in of], most[0]),
            (f"{what}: energy", [(*one.energy_j, one.joules) for one in of], most[1]),
            ("   latency", [(*one.latency_s, one.seconds) for one in of], None),
        )
        found += [of_cases(line, (h := held(numbers)).entry(), at_most, width=h.width) for line, numbers, at_most in columns]
        known = float(np.mean([abs(one.known_w / (one.joules / one.seconds) - 1.0) for one in of]))
        found.append(Result("   power with the measured latency", len(of), known))
    return found


def _ends(interval: Interval) -> Ends:
    return interval.value, interval.low, interval.high


def read_products(folder: Path) -> dict[str, list[MeasuredCase]]:
    """Profile -> the products of its device.

    Raises:
        InputError: the table is missing.
    """
    found: dict[str, list[MeasuredCase]] = {}
    for row in read_rows(folder / "measured" / "gemm_power.csv"):
        if row["device"] in PROFILES:
            axes: dict[str, AxisValue] = {"b": 1, **{name: int(row[name]) for name in ("m", "n", "k")}}
            dtype, weights = TYPES.get(row["dtype"], row["dtype"]), ROUNDED.get(row["dtype"], "")
            other = (row["dtype"], row.get("framework", "").partition(" ")[0]) == OTHER_KERNELS
            library = "other" if other else "measured"
            product = TableRow(0, "linear", axes, dtype, device="cuda", runtime=RUNTIME, weights=weights, library=library)
            seconds, joules = float(row["latency_s"]), float(row["energy_j"])
            measured = MeasuredCase(product.case, (product.graph(),), seconds, joules, time="device")
            found.setdefault(PROFILES[row["device"]], []).append(measured)
    return found


MEASURED_HERE = MappingProxyType({"gpu_h200": RECORDED / "h200" / "energy"})
"""Profile -> run of this repository whose energies it is fitted to."""
FITTED = MappingProxyType(
    {
        "gpu_a100_40g": "energies of networks on an A100 PCIe at 510 to 1410 MHz (EnergAIzer's artifact, ISPASS 2026)",
        "gpu_h200": "energies of operators and networks on an H200 (runs/recorded/h200, 2026-11-29)",
    }
)
"""Profile whose energies are fitted -> the rows. The products' mean powers are at the cap in four of five rows, and their
operands are in part no random numbers, which take up to half of the power: they judge, and are not fitted."""
KNOWN = MappingProxyType({"gpu_h200": ("energy.floor", "energy.clock", "energy.byte.l2", "energy.byte.shared", "power.static")})
"""Profile -> what its rows cannot tell, elsewhere the floor of the voltage: sixteen readings, each type at its own clock."""
SAME_CHIP = MappingProxyType({"gpu_a100_40g": ("gpu_a100_80g", "gpu_a100_sxm_80g"), "gpu_h200": ("gpu_h100",)})
"""Profile -> those of other cards with its chip, which take the same energies."""
SAME_CIRCUITS = MappingProxyType({"gpu_h200": {"gpu_b200": B200_SHARE}})
"""Profile -> those of the next chip -> what a flop of their tensor cores takes relative to its own."""


def read_cases(folder: Path, kept: Path) -> dict[str, list[MeasuredCase]]:
    """Profile of `FITTED` -> the cases on its device, at the clocks that they ran at."""
    rows = metered(folder)
    of_tables = {name: [_case(row, kept) for row in rows if CARDS[row.device] == name] for name in FITTED}
    return of_tables | {name: recorded_cases(path) for name, path in MEASURED_HERE.items()}


def recorded_cases(path: Path) -> list[MeasuredCase]:
    """The cases of a run whose energy was read, at the clocks that the card ran at."""
    run = Run.open(path)
    clocks = {row.case.identity: row.host.get("gpu_clock_hz") for row in run.rows}
    cases = [(case, clocks[case.case.identity]) for case in run_cases(run) if case.energy_j is not None]
    return [replace(case, clock_hz=clock if isinstance(clock, float) else None) for case, clock in cases]


def _case(row: MeasuredNetwork, kept: Path) -> MeasuredCase:
    asked, clock_mhz = row.asked, round((row.clock_hz or 0.0) / 1e6)
    axes: dict[str, AxisValue] = {"batch": asked.batch, "tokens": asked.tokens, "clock_mhz": clock_mhz}
    case = CaseSpec(asked.network, "network", axes, row.compute or asked.dtype, row.runtime, "cuda")
    return MeasuredCase(case, graphs_of(asked, kept), row.latency_s, row.energy_j, clock_hz=row.ran_at_hz)


def with_fitted_energy(
    profile: ArchitectureProfile, cases: Sequence[MeasuredCase], starts: Mapping[str, Coefficient]
) -> ArchitectureProfile:
    """A profile with energies fitted to rows of its device; types that no row is of follow that of 16 bits.

    Args:
        starts: where the fit starts, whatever an earlier one found; what is known of them stays.
    """
    # Shares of algorithms were fitted to times; joules are those of a type's flops, whatever the algorithm.
    start = profile.replacing(coefficients={**without_shares(profile), **starts})
    kept = [name for name in starts if name in KNOWN.get(profile.name, ("energy.floor",))]
    found = fit_energy(blocks(cases, start), start, f"fitted to {FITTED[profile.name]}", kept)
    if found is None:
        raise InputError(f"no row of {profile.name!r} says what its flops take; its power is at the cap in all of them")
    # What times asked for relative to former joules is fitted anew to these. A board idles as it does when nothing ran before.
    joules = {n: c for n, c in by_type(start, found.coefficients).items() if n != "power.idle"}
    return profile.replacing(coefficients={**without_shares(profile), **starts, **joules})


def without_shares(profile: ArchitectureProfile) -> dict[str, Coefficient]:
    """A profile's coefficients without what algorithms take relative to their type, and without what loops take in each type."""
    return {n: c for n, c in profile.coefficients.items() if not continues(n, "energy.share", "energy.flop.vector")}


def on_next_chip(fitted: ArchitectureProfile) -> Iterator[ArchitectureProfile]:
    """The profiles of chips that follow a fitted one, with what their tensor cores' flops take relative to its own."""
    for name, share in SAME_CIRCUITS.get(fitted.name, {}).items():
        other = load_profile(name)
        carried = {}
        half, (low, high) = fitted.coefficients["energy.flop.matrix.bfloat16"], share.bounds
        for dtype, (ratio, _) in {"bfloat16": (1.0, 0.0), **RATIOS}.items():
            n = f"energy.flop.matrix.{dtype}"
            c = fitted.coefficients.get(n, half.scaled(ratio))
            if n in other.coefficients:
                why = f"{share.value:g} of {fitted.name}'s: {share.reference}"
                ends = {"low": c.bounds[0] * low, "high": c.bounds[1] * high}
                carried[n] = Coefficient(c.value * share.value, c.unit, "transferred", why, **ends)
        for n, c in fitted.coefficients.items():
            if continues(n, "throttle.cool"):
                carried[n] = msgspec.structs.replace(c, reference=f"as {fitted.name}: {c.reference}")
        shares = under("energy.share", other.coefficients)
        kept = {n: c for n, c in other.coefficients.items() if n not in shares}
        yield other.replacing(coefficients={**kept, **carried})


def on_same_chip(fitted: ArchitectureProfile) -> Iterator[ArchitectureProfile]:
    """The profiles of other cards with a fitted card's chip: at the lowest voltage it takes the same energies. Static power,
    memory and, where it is known, the voltage at the rated clock belong to the card."""
    for name in SAME_CHIP.get(fitted.name, ()):
        other, own = load_profile(name), VOLTAGES.get(name, {})
        higher = fitted.value("energy.floor") / own["energy.floor"].value if "energy.floor" in own else 1.0
        carried = {}
        for n, c in fitted.coefficients.items():
            if continues(n, "energy") and n != f"energy.byte.{fitted.main_memory}":
                moved = c.scaled(higher if continues(n, "energy.flop", "energy.byte") else 1.0)
                why = f"as fitted to {fitted.name}" + (", at this card's voltage" if higher != 1.0 else "")
                carried[n] = Coefficient(moved.value, c.unit, "transferred", why, low=moved.bounds[0], high=moved.bounds[1])
        yield other.replacing(coefficients={**without_shares(other), **carried, **own})


def by_type(profile: ArchitectureProfile, fitted: Mapping[str, Coefficient]) -> dict[str, Coefficient]:
    """Fitted coefficients with those of the types between them."""
    half = fitted.get("energy.flop.matrix.bfloat16")
    if half is None:
        return dict(fitted)
    others = {}
    for dtype, (share, _) in RATIOS.items():
        name = f"energy.flop.matrix.{dtype}"
        if name in profile.coefficients and name not in fitted:
            why = f"{share:g} of bfloat16's, as on other boards; {half.reference}"
            others[name] = msgspec.structs.replace(half.scaled(share), reference=why)
    return {**fitted, **others}
