"""This machine: its fingerprint, and a doctor's report on what can be measured here. Does not import torch."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Literal

import msgspec
import psutil

from shmoo.harness.energy import available_probes, simulated
from shmoo.harness.energy.linux import parse_cpu_list
from shmoo.harness.energy.nvml import GpuInfo, load_nvml, visible_gpus
from shmoo.harness.machine.host_times import LocalHost, measure_host
from shmoo.runs.store.records import AxisValue, Machine

VERSIONS = ("shmoo", "torch", "torchvision", "numpy", "triton", "nvidia-ml-py", "pyRAPL")
CPU = "sys/devices/system/cpu"
ISA = (
    "sse4_2", "avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx512_bf16", "avx512_fp16",
    "avx_vnni", "amx_tile", "amx_bf16", "amx_int8", "asimd", "asimdhp", "asimddp", "sve", "sve2", "bf16", "i8mm", "sme",
)  # fmt: skip
"""Instruction-set extensions that determine a library's choice of kernels, as spelled in /proc/cpuinfo."""
ALLOCATORS = ("jemalloc", "tcmalloc", "mimalloc", "hoard")
SETTING_VARIABLES = (
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_AFFINITY", "OMP_PROC_BIND",
    "MALLOC_CONF", "GLIBC_TUNABLES", "MALLOC_MMAP_THRESHOLD_", "PYTORCH_CUDA_ALLOC_CONF", "CUDA_VISIBLE_DEVICES",
    "NVIDIA_TF32_OVERRIDE", "ONEDNN_MAX_CPU_ISA",
)  # fmt: skip
"""Environment variables that change the speed of the same code; recorded where set."""
CONTAINER = Path("sys/fs/cgroup")
LIMITS = (
    ("memory.max", "memory.current", "memory.stat"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
)
"""Files with a container's memory limit, its use and the parts of that, for control groups of version 2 and 1 (cgroups(7))."""


class EnergyCounter(msgspec.Struct, frozen=True):
    """A working counter: its name, domains and update period."""

    name: str
    domains: tuple[str, ...]
    update_period_s: float


class Finding(msgspec.Struct, frozen=True):
    """One line of the report: the topic, its state, whether that is fine, and otherwise the remedy."""

    topic: str
    found: str
    level: Literal["ok", "note", "missing"] = "ok"
    remedy: str = ""


class DoctorReport(msgspec.Struct, frozen=True):
    """What can be measured on this machine: working counters, and for other domains the reason and the remedy; obstacles to good
    measurements, and facts to show; names of torch.compile's back-ends and the time of a launch, both `None` without `full`."""

    machine: Machine
    gpus: tuple[GpuInfo, ...]
    energy: tuple[EnergyCounter, ...]
    energy_missing: dict[str, str]
    findings: tuple[Finding, ...]
    backends: tuple[str, ...] | None = None
    host: LocalHost | None = None


def probe_machine(threads: int | None = None, root: Path = Path("/")) -> Machine:
    """The fingerprint and settings of this machine. `threads` is the number that operators will use: by default OMP_NUM_THREADS,
    otherwise one per physical core that this process may use. `root` contains proc and sys."""
    info = _cpuinfo(root)
    flags = set((info.get("flags") or info.get("features") or "").split())
    gpus, _ = find_gpus()
    caches, shared = _caches(root)
    logical = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else psutil.cpu_count() or 1
    physical = min(psutil.cpu_count(logical=False) or logical, logical)
    gpu = gpus[0] if gpus else None
    governor = _read_text(root / CPU / "cpu0/cpufreq/scaling_governor")
    return Machine(
        cpu_model=f"{_cpu_model(info)} (virtual energy)" if simulated.is_switched_on() else _cpu_model(info),
        cores_physical=physical,
        cores_logical=logical,
        memory_bytes=psutil.virtual_memory().total,
        cache_bytes=caches,
        cache_shared_by=shared,
        isa=tuple(name for name in ISA if name in flags),
        gpu_model=gpu.name if gpu else None,
        gpu_memory_bytes=gpu.memory_bytes if gpu else None,
        driver=gpu.driver if gpu else None,
        os=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        torch=version_of("torch"),
        threads=threads or default_threads(physical),
        governor=governor,
        clock_policy=_clock_policy(root, governor),
        allocator=_allocator(),
        hypervisor=_hypervisor(root, flags),
        settings=_settings(root),
    )


def default_threads(physical: int) -> int:
    """Threads that torch uses by default: OMP_NUM_THREADS, otherwise one per physical core."""
    variable = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    return int(variable) if variable.isdigit() and int(variable) > 0 else physical


def doctor(full: bool = False, root: Path = Path("/")) -> DoctorReport:
    """Describe this machine and the obstacles to measuring it well; `full` also imports torch, lists its compile back-ends, and
    times the host's part of a launch."""
    machine = probe_machine(root=root)
    gpus, gpu_reason = find_gpus()
    probes, missing_reasons = available_probes(root)
    findings = _findings(machine, gpus, gpu_reason)
    backends = host = None
    if full:
        import torch

        backends, host = tuple(sorted(torch.compiler.list_backends())), measure_host()
    if probes and "pyRAPL" in missing_reasons:
        findings.append(Finding("pyRAPL", missing_reasons.pop("pyRAPL"), "note"))
    return DoctorReport(
        machine=machine,
        gpus=gpus,
        energy=tuple(EnergyCounter(probe.name, probe.domains, probe.update_period_s) for probe in probes),
        energy_missing=missing_reasons,
        findings=tuple(findings),
        backends=backends,
        host=host,
    )


def last_level_bytes() -> int | None:
    """Capacity of this CPU's largest cache, `None` where the system does not report it."""
    return max(_caches(Path("/"))[0].values(), default=None)


def available_bytes(root: Path = Path("/")) -> float:
    """Bytes available without swapping and within the container's limit; `root` contains sys."""
    available = float(psutil.virtual_memory().available)
    for limit, used, parts in LIMITS:
        try:
            limit_bytes = int((root / CONTAINER / limit).read_text())
            used_bytes = int((root / CONTAINER / used).read_text())
            fields = dict(line.split() for line in (root / CONTAINER / parts).read_text().splitlines())
        except (OSError, ValueError):
            continue  # no such version, or no limit ("max")
        # Cached files can be evicted.
        available = min(available, limit_bytes - used_bytes + int(fields.get("inactive_file", 0)))
    return max(available, 0.0)


def process_bytes() -> float:
    """Bytes of this process that are in memory."""
    return float(psutil.Process().memory_info().rss)


def find_gpus() -> tuple[tuple[GpuInfo, ...], str]:
    """The cards that CUDA programs started here see, from NVML; and the reason if there are none."""
    try:
        return visible_gpus(load_nvml()), ""
    except OSError as error:
        return (), str(error)


def version_of(distribution: str) -> str:
    """Installed version from its metadata, "" where it is not installed; nothing is imported."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""


def own_versions() -> dict[str, str]:
    """Installed versions of Shmoo and the packages that measuring depends on."""
    return {name: version for name in VERSIONS if (version := version_of(name))}


def commit_here() -> str | None:
    """Commit of the current directory's repository, with "-dirty" if files differ from it; `None` without one."""
    try:
        process = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return process.stdout.strip() or None


def _findings(machine: Machine, gpus: tuple[GpuInfo, ...], gpu_reason: str) -> list[Finding]:
    findings = []
    if machine.hypervisor:
        findings.append(
            Finding(
                "virtual machine",
                machine.hypervisor,
                "note",
                "other guests may disturb measurements; more visits average them out",
            )
        )
    if machine.governor not in (None, "performance"):
        remedy = "`sudo cpupower frequency-set -g performance` steadies the clock"
        findings.append(Finding("governor", machine.governor, "note", remedy))
    if not machine.cache_bytes:
        findings.append(Finding("caches", "sizes unknown", "missing", "sizes of the sweeps fall back to typical ones"))
    if machine.settings.get("smt") is True:
        findings.append(Finding("SMT", "on", "note", "threads default to one per physical core"))
    load = os.getloadavg()[0]
    if load > 0.5:
        findings.append(Finding("load", f"{load:.1f} over the last minute", "note", "stop other work; it widens every interval"))
    if not gpus:
        findings.append(Finding("GPU", gpu_reason, "missing"))
    if not machine.torch:
        findings.append(Finding("torch", "not installed", "missing", "`pip install torch`"))
    return findings


def _read_text(path: Path) -> str | None:
    try:
        return path.read_text().strip() or None
    except (OSError, UnicodeDecodeError):
        return None


def _cpuinfo(root: Path) -> dict[str, str]:
    text = _read_text(root / "proc/cpuinfo") or ""
    fields: dict[str, str] = {}
    for line in text.split("\n\n")[0].splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip().lower(), value.strip())
    return fields


def _cpu_model(info: dict[str, str]) -> str:
    if name := info.get("model name") or info.get("hardware") or info.get("cpu"):
        return name
    # Arm's cpuinfo has only numbers.
    numbers = " ".join(info[key] for key in ("cpu implementer", "cpu part") if key in info)
    return f"{platform.machine()} {numbers}".strip() if numbers else platform.processor() or platform.machine() or "unknown"


def _caches(root: Path) -> tuple[dict[str, int], dict[str, int]]:
    """Capacity of each data or unified cache that cpu0 sees, and how many logical CPUs share it."""
    sizes: dict[str, int] = {}
    shared: dict[str, int] = {}
    for index in sorted((root / CPU / "cpu0/cache").glob("index[0-9]*")):
        size, level = _parse_size(_read_text(index / "size")), _read_text(index / "level")
        if _read_text(index / "type") in ("Data", "Unified") and size and level:
            sizes[f"l{level}"] = size
            shared[f"l{level}"] = len(parse_cpu_list(_read_text(index / "shared_cpu_list") or "0"))
    return sizes, shared


def _parse_size(text: str | None) -> int | None:
    """Bytes of a size as sysfs writes it, such as 48K or 260M; `None` for anything else."""
    match = re.fullmatch(r"(\d+)([KMG]?)", text or "")
    return int(match[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[match[2]] if match else None


def _clock_policy(root: Path, governor: str | None) -> str | None:
    """Governor and turbo as far as the system reports them, such as "performance, turbo off"; `None` where it reports neither."""
    no_turbo = _read_text(root / CPU / "intel_pstate/no_turbo")
    boost = _read_text(root / CPU / "cpufreq/boost")
    turbo = {"0": "turbo on", "1": "turbo off"}.get(no_turbo or "") or {"1": "turbo on", "0": "turbo off"}.get(boost or "")
    return ", ".join(part for part in (governor, turbo) if part) or None


def _allocator() -> str | None:
    preloaded = os.environ.get("LD_PRELOAD", "")
    return next((name for name in ALLOCATORS if name in preloaded), None) or " ".join(platform.libc_ver()).strip() or None


def _hypervisor(root: Path, flags: set[str]) -> str | None:
    """The hypervisor's name, "unknown" where only the CPU flag shows that there is one."""
    if name := _read_text(root / "sys/hypervisor/type"):
        return name
    if "hypervisor" not in flags:
        return None
    return _read_text(root / "sys/class/dmi/id/sys_vendor") or "unknown"


def _settings(root: Path) -> dict[str, AxisValue | None]:
    settings: dict[str, AxisValue | None] = {name: os.environ[name] for name in SETTING_VARIABLES if name in os.environ}
    smt = _read_text(root / CPU / "smt/active")
    pages = _read_text(root / "sys/kernel/mm/transparent_hugepage/enabled")
    nodes = len(list((root / "sys/devices/system/node").glob("node[0-9]*")))
    settings["smt"] = None if smt is None else smt == "1"
    settings["transparent_hugepages"] = pages.partition("[")[2].partition("]")[0] if pages else None
    settings["numa_nodes"] = nodes or None
    return settings
