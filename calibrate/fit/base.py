"""The profile that a calibration starts from, made from the machine's description before any measurement."""

from __future__ import annotations

from shmoo.estimators.errors import InputError
from shmoo.estimators.graph.records import Coefficient
from shmoo.estimators.machine.catalogue import TYPICAL, entry
from shmoo.estimators.machine.hosts import FRAMEWORK
from shmoo.estimators.machine.profile import ArchitectureProfile, TilingSpec, builtin_names, load_profile
from shmoo.estimators.predict.model import ASYNCHRONOUS
from shmoo.runs.store.records import Machine

# flops per cycle and core of fused multiply-adds in float32: lanes x 2 flops x units. Intel 64 and IA-32 Optimization Reference
# Manual (2 FMA units); Arm Neoverse N1 Software Optimization Guide (2 x 128 bit).
_FLOPS_PER_CYCLE = (("avx512f", 64, 16), ("avx2", 32, 8), ("avx", 16, 8), ("asimd", 16, 4), ("neon", 16, 4))
_ASSUMED_CLOCK_HZ = 2.5e9


def base_profile(machine: Machine, device: str = "cpu") -> ArchitectureProfile:
    """A profile of `machine`, or with the device "cuda" of its GPU, from the fingerprint of a run: structure and capacities are
    given (caches that the system does not report are typical ones), and rates are starting points. `InputError` where no built-in
    profile describes the GPU."""
    if device != "cuda":
        return _cpu_profile(machine)
    words = (machine.gpu_model or "").lower().replace("-", " ").split()
    names = [name for name in builtin_names() if name.startswith("gpu_") and name.split("_")[1] in words]
    if not names:
        raise InputError(f"no built-in profile describes GPU {machine.gpu_model!r}; name the nearest with --base PROFILE")
    profiles = [load_profile(name) for name in names]
    memory = machine.gpu_memory_bytes
    return min(profiles, key=lambda p: abs(p.value("capacity.dram") - memory)) if memory else profiles[0]


def beside_own_host(base: ArchitectureProfile) -> ArchitectureProfile:
    """A profile to fit to runs, without corrections and without launches of another host: a run holds those of its own machine,
    and those carried over would hold for every operator that the run lacks. Calls of an asynchronous device follow each other
    without waiting, so that the host's time of one passes beside the device's."""
    base = base.replacing(residual=(), host="")
    if base.family not in ASYNCHRONOUS:
        return base
    device = {name: c for name, c in base.coefficients.items() if not entry(name).of_host}
    return base.replacing(coefficients={**device, "launch_tail": FRAMEWORK["launch_tail"]})


def _cpu_profile(machine: Machine) -> ArchitectureProfile:
    cores = machine.threads
    reported_hz = machine.settings.get("clock_hz")
    clock = float(reported_hz) if reported_hz else _ASSUMED_CLOCK_HZ
    per_cycle, lanes = next(((f, lanes) for flag, f, lanes in _FLOPS_PER_CYCLE if flag in machine.isa), (8, 4))
    peak = cores * clock * per_cycle
    source = f"{machine.cpu_model}: {cores} cores, {per_cycle} flops a cycle each"

    coefficients: dict[str, Coefficient] = {}

    def structure(name: str, value: float, reference: str = source) -> None:
        coefficients[name] = Coefficient(value, entry(name).unit, "datasheet", reference)

    def start(name: str, value: float) -> None:
        why = "starting point for a fit"
        coefficients[name] = Coefficient(value, entry(name).unit, "fallback", why, low=value / 4, high=value * 4)

    structure("count.cores", cores)
    structure("clock", clock, "reported by the system" if reported_hz else "assumed")
    structure("vector.lanes", lanes)
    structure("peak.matrix.float32", peak)
    structure("peak.vector.float32", peak / 2)
    start("peak.special.float32", peak / 32)
    coefficients["power.static"] = TYPICAL["cpu"]["power.static"].scaled(cores)
    if "avx512_bf16" in machine.isa or "amx_bf16" in machine.isa:
        start("peak.matrix.bfloat16", 2 * peak)
    if "avx512_vnni" in machine.isa or "avx_vnni" in machine.isa:
        start("peak.matrix.int8", 4 * peak)
    # Tiling needs the core's own caches, so they always exist; a last level is assumed where no level is reported.
    levels = []
    for level, bytes_per_cycle in (("l1", 128.0), ("l2", 48.0), ("l3", 16.0)):
        capacity = machine.cache_bytes.get(level)
        if level == "l3" and machine.cache_bytes and not capacity:
            continue
        levels.append(level)
        if capacity:
            structure(f"capacity.{level}", capacity, "reported by the system")
        else:
            coefficients[f"capacity.{level}"] = TYPICAL["cpu"][f"capacity.{level}"]
        start(f"bandwidth.{level}", cores * clock * bytes_per_cycle)
    structure("capacity.dram", machine.memory_bytes, "reported by the system")
    start("bandwidth.dram", 10e9 * cores)
    energies = ["flop.matrix.float32", "flop.vector.float32", *(f"byte.{level}" for level in (*levels, "dram"))]
    coefficients |= {f"energy.{name}": TYPICAL["cpu"][f"energy.{name}"] for name in energies}
    return ArchitectureProfile(
        name="cpu_local",
        family="cpu",
        description=f"{machine.cpu_model}, {cores} threads",
        levels=(*levels, "dram"),
        tiling=TilingSpec("cpu_l2_blocking"),
        coefficients=coefficients,
    )
