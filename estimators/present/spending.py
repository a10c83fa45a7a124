"""Where a model's time and energy go on a machine: by bound, by unit, by module, and how far its kernels are from their roofs."""

from __future__ import annotations

import re
from collections import defaultdict

import msgspec
import numpy as np

from shmoo.estimators.machine.coefficients import Coefficients
from shmoo.estimators.machine.profile import ArchitectureProfile
from shmoo.estimators.predict.director import Estimate
from shmoo.estimators.predict.energy import bytes_energy, flops_energy
from shmoo.estimators.predict.graph_table import ModelTable
from shmoo.estimators.predict.limits import Roofs, kernel_roofs
from shmoo.estimators.predict.pipeline import Prices
from shmoo.estimators.present.inspection import BOUNDS, Inspection, parent_of
from shmoo.estimators.tiling.base import Tiling
from shmoo.estimators.units import percent

POORLY_FILLED = 0.85
"""Share of the units' lanes below which a kernel's tiles are named as the reason that it misses the peak."""
REREAD_FACTOR = 1.3
"""Number of reads of a kernel's bytes from a memory level from which on rereading is named as the reason."""

OVERHEAD_SHARE = 0.6
"""Share of a kernel's time beside its arithmetic and its traffic from which on this overhead is named as the reason. Poor overlap
of the two alone explains up to a half."""
_OVERHEADS = {
    "cpu": "images' order in the library and fresh memory",
    "gpu": "the shortest kernel, images' order and the power cap",
    "tpu": "starting its tiles",
    "kpu": "starting its tiles",
}
"""Architecture family -> a kernel's overheads beside arithmetic and traffic (`predict.model`)."""


class Share(msgspec.Struct, frozen=True):
    """A part of the call. `energy_j` is `None` where the profile has no energy coefficients."""

    name: str
    time_s: float
    time_share: float
    energy_j: float | None
    energy_share: float | None
    calls: int = 1


class KernelGap(msgspec.Struct, frozen=True):
    """Kernels of one size against their roof: every unit at its peak, each compulsory byte of main memory moved once.

    Attributes:
        name: operators. module: their module, without the numbers that differ ("layers.*.mlp").
        count: number of such kernels; the other numbers are sums over them.
        time_s: time that they add to the call. roof_s: best case, of the "compute" or "memory" roof.
        energy_j, roof_j: with static power during `time_s` and `roof_s`; `None` where the profile has no energy coefficients.
        why: the reason that they miss their roof.
    """

    name: str
    module: str
    count: int
    time_s: float
    time_share: float
    roof_s: float
    roof: str
    bound: str
    energy_j: float | None
    roof_j: float | None
    why: str


def _share(name: str, time_s: float, energy_j: float, estimate: Estimate, calls: int = 1) -> Share:
    total = estimate.energy_j
    energy_share = energy_j / total.value if total and total.value else None
    return Share(name, time_s, time_s / estimate.latency_s.value, energy_j if total else None, energy_share, calls)


def by_bound(estimate: Estimate) -> tuple[Share, ...]:
    """Shares of the call by what bounds its kernels, the entry of its graphs last."""
    shares = []
    for bound in BOUNDS:
        kernels = [kernel for kernel in estimate.breakdown if kernel.bound == bound]
        joules = sum(kernel.energy_j or 0.0 for kernel in kernels)
        shares.append(_share(bound, sum(kernel.elapsed_s for kernel in kernels), joules, estimate, len(kernels)))
    left_s = max(estimate.latency_s.value - sum(share.time_s for share in shares), 0.0)
    whole_j = estimate.energy_j.value if estimate.energy_j else 0.0
    left_j = max(whole_j - sum(share.energy_j or 0.0 for share in shares), 0.0)
    return (*shares, _share("entry", left_s, left_j, estimate, 0))


def by_unit(work: ModelTable, tiling: Tiling, estimate: Estimate, profile: ArchitectureProfile) -> tuple[Share, ...]:
    """Shares of the energy: arithmetic, each memory level, static power; empty where it is unknown. Where a power cap slows the
    board, the energies of the work at the full clock are scaled down together."""
    if estimate.energy_j is None:
        return ()
    c = Coefficients(profile)
    joules_by_part = {"arithmetic": float(flops_energy(work.table, c).sum())}
    for level, nbytes in tiling.level_bytes.items():
        joules_by_part[level] = float(np.sum(bytes_energy({level: nbytes}, c)))
    static = min(profile.value("power.static", 0.0) * estimate.latency_s.value, estimate.energy_j.value)
    scale = (estimate.energy_j.value - static) / max(sum(joules_by_part.values()), 1e-30)
    joules_by_part = {name: joules * scale for name, joules in joules_by_part.items()} | {"static power": static}
    return tuple(_share(name, 0.0, joules, estimate) for name, joules in joules_by_part.items() if joules > 0)


def by_module(inspection: Inspection, estimate: Estimate, top: int) -> tuple[Share, ...]:
    """Shares of each module without the modules in it, most time first; modules of equal work whose paths differ only by numbers
    are added up."""
    arch = inspection.architectures[0]
    amounts = {row.name: [row.on[arch].latency_s, row.on[arch].energy_j or 0.0, row.flops] for row in inspection.modules}
    own_amounts = {name: list(module_amounts) for name, module_amounts in amounts.items()}
    for name, module_amounts in amounts.items():
        if name:
            own_amounts[parent_of(name)] = [
                parent_amount - child_amount
                for parent_amount, child_amount in zip(own_amounts[parent_of(name)], module_amounts, strict=True)
            ]
    names_by_kind: defaultdict[tuple[str, int], list[str]] = defaultdict(list)
    for name, (_, _, flops) in own_amounts.items():
        names_by_kind[pattern(name), round(flops)].append(name)
    shares = []
    for names in names_by_kind.values():
        seconds, joules = (sum(own_amounts[name][i] for name in names) for i in (0, 1))
        if seconds > 0:
            shares.append(_share(_common_name(names), seconds, joules, estimate, len(names)))
    return tuple(sorted(shares, key=lambda share: -share.time_s)[:top])


def _common_name(modules: list[str]) -> str:
    return modules[0] if len(set(modules)) == 1 else pattern(modules[0])


def pattern(module: str) -> str:
    """A module's path with its numbers replaced: "layers.*.mlp" for "layers.3.mlp"."""
    return re.sub(r"(?<![^.])\d+(?![^.])", "*", module)


def kernel_gaps(
    inspection: Inspection, work: ModelTable, prices: Prices, profile: ArchitectureProfile, runtime: str, top: int
) -> tuple[KernelGap, ...]:
    """Gaps of kernels, those of one size in repeated modules together, most time first."""
    (arch,) = inspection.architectures
    nodes, total = inspection.kernels[arch], inspection.modules[0].on[arch].latency_s
    roofs = kernel_roofs(work.table, prices.tiling, Coefficients(profile), runtime, prices.prediction.dynamic_j)
    static_w = profile.value("power.static", 0.0)
    rows_by_kind: defaultdict[tuple[str, str, tuple[float, ...]], list[int]] = defaultdict(list)
    t = work.table
    for i, node in enumerate(nodes):
        sizes = tuple(float(column[i]) for column in (t.dtype, t.batch, t.m, t.n, t.k))
        rows_by_kind[node.kernel.label.rpartition(":")[2], pattern(node.module), sizes].append(i)
    gaps = []
    for (name, _, _), rows in rows_by_kind.items():
        roof_s = float(roofs.seconds[rows].sum())
        kernels = [nodes[i].kernel for i in rows]
        bounds: defaultdict[str, float] = defaultdict(float)
        for kernel in kernels:
            bounds[kernel.bound] += kernel.elapsed_s
        bound, time_s = max(bounds, key=bounds.__getitem__), sum(bounds.values())
        slowest = max((i for i in rows if nodes[i].kernel.bound == bound), key=lambda i: nodes[i].kernel.elapsed_s)
        gaps.append(
            KernelGap(
                name=name,
                module=_common_name([nodes[i].module for i in rows]),
                count=len(rows),
                time_s=time_s,
                time_share=time_s / total,
                roof_s=roof_s,
                roof="compute" if roofs.compute_s[slowest] >= roofs.memory_s[slowest] else "memory",
                bound=bound,
                energy_j=None if roofs.energy_j is None else sum(kernel.energy_j or 0.0 for kernel in kernels),
                roof_j=None if roofs.energy_j is None else float(roofs.energy_j[rows].sum()) + static_w * min(roof_s, time_s),
                why=_gap_reason(slowest, bound, work, prices, roofs, profile),
            )
        )
    return tuple(sorted(gaps, key=lambda gap: -gap.time_s)[:top])


def _gap_reason(i: int, bound: str, work: ModelTable, prices: Prices, roofs: Roofs, profile: ArchitectureProfile) -> str:
    tiling = prices.tiling
    if bound == "launch":
        return "the device waits for its launch" if profile.family == "gpu" else "its launch takes longer than its work"
    if roofs.seconds[i] >= prices.prediction.device_s[i]:
        return "nothing: it is at its roof"
    overhead = 1.0 - float(max(prices.prediction.compute_s[i], prices.prediction.memory_s[i]) / prices.prediction.device_s[i])
    if overhead > OVERHEAD_SHARE:
        return f"{percent(overhead, digits=0)} of its time goes to {_OVERHEADS[profile.family]}"
    if bound == "compute":
        fill = float(tiling.utilisation[i])
        peak_share = float(roofs.compute_s[i] / prices.prediction.compute_s[i])
        if fill < POORLY_FILLED:
            return f"its tiles fill {percent(fill, digits=0)} of the units"
        return f"the units reach {percent(peak_share, digits=0)} of their peak"
    c = Coefficients(profile)
    level_bytes = {level: float(nbytes[i]) for level, nbytes in tiling.level_bytes.items()}
    served_s = {level: nbytes / float(c.value(f"bandwidth.{level}")) for level, nbytes in level_bytes.items()}
    level = max(served_s, key=served_s.__getitem__)
    rereads = level_bytes[level] / max(float(work.table.bytes[i]), 1.0)
    if rereads > REREAD_FACTOR:
        return f"{level} serves its bytes {rereads:.1f} times"
    return f"{level} reaches {percent(served_s[level] / float(prices.prediction.memory_s[i]), digits=0)} of its bandwidth"
