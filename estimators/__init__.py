"""Records, costs, fusion, tiling, the model and its director: from graphs and a profile to estimates, with neither torch nor
hardware."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shmoo.estimators.registry import on_demand

if TYPE_CHECKING:
    from shmoo.estimators.machine.profile import ArchitectureProfile, load_profile
    from shmoo.estimators.predict.director import AnalysisDirector
    from shmoo.estimators.sweep.controller import SweepController
    from shmoo.estimators.tiling import TilingStrategy

__all__ = ["AnalysisDirector", "ArchitectureProfile", "SweepController", "TilingStrategy", "load_profile"]

__getattr__ = on_demand(
    __name__,
    {
        "AnalysisDirector": "shmoo.estimators.predict.director",
        "ArchitectureProfile": "shmoo.estimators.machine.profile",
        "SweepController": "shmoo.estimators.sweep.controller",
        "TilingStrategy": "shmoo.estimators.tiling",
        "load_profile": "shmoo.estimators.machine.profile",
    },
)
