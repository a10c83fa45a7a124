"""Shmoo: measure DNN operators and models, calibrate a model of the machine, and estimate latency, energy and memory elsewhere.

    import shmoo
    table = shmoo.estimate("resnet50", ["gpu_h100", "kpu_t256"], batch=8)
    print(table[["arch", "latency_s", "energy_j"]])

The names below are found on first use, so that `import shmoo` imports next to nothing. `shmoo.harness.api` holds the functions.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import extend_path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shmoo.calibrate.calibration import calibrate
    from shmoo.estimators.graph.records import Graph
    from shmoo.estimators.predict.director import AnalysisDirector, Estimate
    from shmoo.estimators.sweep.controller import SweepController
    from shmoo.harness.api import capture, compare, estimate, fusion, inspect, load_profile, measure, sweep
    from shmoo.harness.decisions import advise, explore
    from shmoo.harness.gate import gate

__version__ = "0.1.0"
__all__ = [
    "AnalysisDirector",
    "Estimate",
    "Graph",
    "SweepController",
    "__version__",
    "advise",
    "calibrate",
    "capture",
    "compare",
    "estimate",
    "explore",
    "fusion",
    "gate",
    "inspect",
    "load_profile",
    "measure",
    "sweep",
]

# In a checkout the rooms stand beside this folder and not in it: another `shmoo` on the path may lead to them.
__path__ = extend_path(__path__, __name__)

_HOMES = {
    "AnalysisDirector": "shmoo.estimators.predict.director",
    "Estimate": "shmoo.estimators.predict.director",
    "Graph": "shmoo.estimators.graph.records",
    "SweepController": "shmoo.estimators.sweep.controller",
    "advise": "shmoo.harness.decisions",
    "calibrate": "shmoo.calibrate",
    "capture": "shmoo.harness.api",
    "compare": "shmoo.harness.api",
    "estimate": "shmoo.harness.api",
    "explore": "shmoo.harness.decisions",
    "fusion": "shmoo.harness.api",
    "gate": "shmoo.harness.gate",
    "inspect": "shmoo.harness.api",
    "load_profile": "shmoo.harness.api",
    "measure": "shmoo.harness.api",
    "sweep": "shmoo.harness.api",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = import_module(_HOMES[name])
    # `shmoo.calibrate` is a package that can be called.
    return home if name == "calibrate" else getattr(home, name)


def __dir__() -> list[str]:
    return sorted({*__all__, "calibrate", "estimators", "harness", "runs"})
