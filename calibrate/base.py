"""The profile a calibration starts from: what the machine's own description says before anything is measured."""

from __future__ import annotations

from shmoo.estimators.errors import InputError
from shmoo.estimators.profile import ArchitectureProfile, Coefficient, TilingSpec, builtin_names, load_profile
from shmoo.runs.records import Machine

# flops per cycle and core of fused multiply-adds in float32: lanes x 2 flops x units. Intel 64 and IA-32 Optimization Reference
# Manual (2 FMA units); Arm Neoverse N1 Software Optimization Guide (2 x 128 bit).
_FLOPS_PER_CYCLE = (("avx512f", 64, 16), ("avx2", 32, 8), ("avx", 16, 8), ("asimd", 16, 4), ("neon", 16, 4))
_ASSUMED_CLOCK_HZ = 2.5e9
_ENERGY = {
    "energy.flop.matrix.float32": (30e-12, 5e-12, 150e-12, "J/flop"),
    "energy.flop.vector.float32": (60e-12, 10e-12, 300e-12, "J/flop"),
    "energy.byte.l1": (2e-12, 0.5e-12, 10e-12, "J/B"),
    "energy.byte.l2": (5e-12, 1e-12, 25e-12, "J/B"),
    "energy.byte.l3": (20e-12, 5e-12, 80e-12, "J/B"),
    "energy.byte.dram": (160e-12, 60e-12, 400e-12, "J/B"),
}
_TYPICAL_CACHES = {
    level: Coefficient(value, "B", "fallback", "the system does not tell; typical of CPUs", low=low, high=high)
    for level, (value, low, high) in {
        "l1": (32 << 10, 16 << 10, 128 << 10),
        "l2": (1 << 20, 256 << 10, 4 << 20),
        "l3": (32 << 20, 4 << 20, 256 << 20),
    }.items()
}
_STATIC = "server packages draw 3 to 30 W a core under load, whatever they compute"
_ENERGY_REFERENCE = (
    "datapath and DDR4 energies of Horowitz, ISSCC 2014, and Jouppi et al., ISCA 2021, with a core's overhead; wide"
)


def base_profile(machine: Machine, device: str = "cpu") -> ArchitectureProfile:
    """A profile of `machine` from its description: structure and capacities are known (caches that the system does not
    tell are typical ones), rates are starting points.

    Args:
        machine: fingerprint a run recorded.
        device: "cpu", or "cuda" for its GPU.

    Raises:
        InputError: a GPU that no built-in profile describes; name one with --base.
    """
    return _gpu_profile(machine) if device == "cuda" else _cpu_profile(machine)


def _gpu_profile(machine: Machine) -> ArchitectureProfile:
    model = (machine.gpu_model or "").lower()
    words = model.replace("-", " ").split()
    near = [name for name in builtin_names() if name.startswith("gpu_") and name.split("_")[1] in words]
    if len(near) > 1 and machine.gpu_memory_bytes:
        memory = machine.gpu_memory_bytes
        near.sort(key=lambda name: abs(load_profile(name).value("capacity.dram") - memory))
    if not near:
        raise InputError(f"no built-in profile describes GPU {machine.gpu_model!r}; name the nearest with --base PROFILE")
    return load_profile(near[0])


def _cpu_profile(machine: Machine) -> ArchitectureProfile:
    cores = machine.threads
    known_clock = machine.settings.get("clock_hz")
    clock = float(known_clock) if known_clock else _ASSUMED_CLOCK_HZ
    per_cycle, lanes = next(((f, lanes) for flag, f, lanes in _FLOPS_PER_CYCLE if flag in machine.isa), (8, 4))
    peak = cores * clock * per_cycle
    source = f"{machine.cpu_model}: {cores} cores, {per_cycle} flops a cycle each"

    def structure(value: float, unit: str, reference: str = source) -> Coefficient:
        return Coefficient(value, unit, "datasheet", reference)

    def start(value: float, unit: str) -> Coefficient:
        return Coefficient(value, unit, "fallback", "starting point for a fit", low=value / 4, high=value * 4)

    coefficients = {
        "count.cores": structure(cores, "1"),
        "clock": structure(clock, "Hz", "reported by the system" if known_clock else "assumed"),
        "vector.lanes": structure(lanes, "1"),
        "peak.matrix.float32": structure(peak, "flop/s"),
        "peak.vector.float32": structure(peak / 2, "flop/s"),
        "peak.special.float32": start(peak / 32, "1/s"),
        "power.static": Coefficient(12.0 * cores, "W", "literature", _STATIC, low=3.0 * cores, high=30.0 * cores),
    }
    if "avx512_bf16" in machine.isa or "amx_bf16" in machine.isa:
        coefficients["peak.matrix.bfloat16"] = start(2 * peak, "flop/s")
    if "avx512_vnni" in machine.isa or "avx_vnni" in machine.isa:
        coefficients["peak.matrix.int8"] = start(4 * peak, "flop/s")
    # Tiles are cut for the core's own caches, so these are never left out; a last level is assumed where no level is known.
    assumed = ("l1", "l2") if machine.cache_bytes else ("l1", "l2", "l3")
    levels = [level for level in ("l1", "l2", "l3") if machine.cache_bytes.get(level) or level in assumed]
    per_core = {"l1": 128.0, "l2": 48.0, "l3": 16.0}
    for level in levels:
        known = machine.cache_bytes.get(level)
        coefficients[f"capacity.{level}"] = structure(known, "B", "reported by the system") if known else _TYPICAL_CACHES[level]
        coefficients[f"bandwidth.{level}"] = start(cores * clock * per_core[level], "B/s")
    coefficients["capacity.dram"] = structure(machine.memory_bytes, "B", "reported by the system")
    coefficients["bandwidth.dram"] = start(10e9 * cores, "B/s")
    for name, (value, low, high, unit) in _ENERGY.items():
        if not name.startswith("energy.byte") or name.rsplit(".", 1)[1] in (*levels, "dram"):
            coefficients[name] = Coefficient(value, unit, "literature", _ENERGY_REFERENCE, low=low, high=high)
    return ArchitectureProfile(
        name="cpu_local",
        family="cpu",
        description=f"{machine.cpu_model}, {cores} threads",
        levels=(*levels, "dram"),
        tiling=TilingSpec("cpu_l2_blocking"),
        coefficients=coefficients,
    )
