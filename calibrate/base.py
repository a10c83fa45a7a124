"""The profile a calibration starts from: what the machine's own description says before anything is measured."""

from __future__ import annotations

from shmoo.estimators.catalogue import TYPICAL, entry
from shmoo.estimators.errors import InputError
from shmoo.estimators.profile import ArchitectureProfile, TilingSpec, builtin_names, load_profile
from shmoo.estimators.records import Coefficient
from shmoo.runs.records import Machine

# flops per cycle and core of fused multiply-adds in float32: lanes x 2 flops x units. Intel 64 and IA-32 Optimization Reference
# Manual (2 FMA units); Arm Neoverse N1 Software Optimization Guide (2 x 128 bit).
_FLOPS_PER_CYCLE = (("avx512f", 64, 16), ("avx2", 32, 8), ("avx", 16, 8), ("asimd", 16, 4), ("neon", 16, 4))
_ASSUMED_CLOCK_HZ = 2.5e9


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
    # Tiles are cut for the core's own caches, so these are never left out; a last level is assumed where no level is known.
    assumed = ("l1", "l2") if machine.cache_bytes else ("l1", "l2", "l3")
    levels = [level for level in ("l1", "l2", "l3") if machine.cache_bytes.get(level) or level in assumed]
    per_core = {"l1": 128.0, "l2": 48.0, "l3": 16.0}
    for level in levels:
        capacity = machine.cache_bytes.get(level)
        if capacity:
            structure(f"capacity.{level}", capacity, "reported by the system")
        else:
            coefficients[f"capacity.{level}"] = TYPICAL["cpu"][f"capacity.{level}"]
        start(f"bandwidth.{level}", cores * clock * per_core[level])
    structure("capacity.dram", machine.memory_bytes, "reported by the system")
    start("bandwidth.dram", 10e9 * cores)
    energies = (
        "energy.flop.matrix.float32",
        "energy.flop.vector.float32",
        *(f"energy.byte.{level}" for level in (*levels, "dram")),
    )
    coefficients |= {name: TYPICAL["cpu"][name] for name in energies}
    return ArchitectureProfile(
        name="cpu_local",
        family="cpu",
        description=f"{machine.cpu_model}, {cores} threads",
        levels=(*levels, "dram"),
        tiling=TilingSpec("cpu_l2_blocking"),
        coefficients=coefficients,
    )
