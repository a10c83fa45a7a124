"""What fusion saves on a machine: the same graphs with every call a kernel of its own, and as a runtime groups them."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from shmoo.estimators.director import AnalysisDirector
from shmoo.estimators.fusion import fuse
from shmoo.estimators.kernels import Kernel, KernelTable, kernel_table
from shmoo.estimators.profile import check_runtime
from shmoo.estimators.records import Graph


class FusionTotals(msgspec.Struct, frozen=True):
    """Totals of some graphs in one grouping. `energy_j` is `None` where the machine's profile has no energy coefficients."""

    kernels: int
    bytes: float
    latency_s: float
    energy_j: float | None


class FusionSavings(msgspec.Struct, frozen=True):
    """The totals without fusion and with it."""

    alone: FusionTotals
    fused: FusionTotals

    def saved(self, name: str) -> float | None:
        """Share of a total that fusion saves, 0.25 for a quarter; negative where it costs, `None` where it is not known."""
        before, after = getattr(self.alone, name), getattr(self.fused, name)
        return None if before is None or after is None or not before else 1 - after / before


def fusion_savings(director: AnalysisDirector, graphs: Sequence[Graph], runtime: str | None = None) -> FusionSavings:
    """Estimate graphs twice with the same overheads per kernel: call by call, and as `runtime` fuses them.

    Args:
        director: of the machine.
        runtime: runtime of the contract; the architecture's default for `None`.

    Raises:
        InputError: the runtime does not exist on this architecture.
    """
    chosen = check_runtime(director.profile, runtime)
    family = director.profile.family
    return FusionSavings(
        alone=_totals(director, [(graph, fuse(graph)) for graph in graphs], chosen),
        fused=_totals(director, [(graph, fuse(graph, chosen, family)) for graph in graphs], chosen),
    )


def _totals(director: AnalysisDirector, grouped: Sequence[tuple[Graph, Sequence[Kernel]]], runtime: str) -> FusionTotals:
    table = KernelTable.concat([kernel_table(graph, kernels) for graph, kernels in grouped if kernels])
    estimates = director.estimate_table(table, director.tile(table), runtime)
    energies = [energy.value for _, energy in estimates if energy is not None]
    return FusionTotals(
        kernels=len(table),
        bytes=float(table.bytes.sum()),
        latency_s=sum(latency.value for latency, _ in estimates),
        energy_j=sum(energies) if len(energies) == len(estimates) else None,
    )
