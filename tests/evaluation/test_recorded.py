"""Profiles from the runs in the repository: which coefficients a run has a say in, and what its siblings take."""

from __future__ import annotations

import pytest

from shmoo.calibrate.fit import dataset
from shmoo.estimators.graph.records import Coefficient
from shmoo.estimators.machine.profile import ArchitectureProfile, load_profile
from tests.evaluation import recorded


def fitted(**values: float) -> ArchitectureProfile:
    """An H200 with these coefficients as fitted to a run; __ stands for a dot."""
    base = load_profile("gpu_h200")
    units = {"launch": "s"}
    named = {
        name.replace("__", "."): Coefficient(value, units.get(name.partition("__")[0], "1"), "fitted", "a run", value / 10)
        for name, value in values.items()
    }
    return base.replacing(coefficients={**base.coefficients, **named})


def test_a_run_says_nothing_of_tensor_cores_and_energy(monkeypatch, tmp_path):
    """Loops and launches are the run's; the file keeps the tables' products, the joules and the named host."""
    base = load_profile("gpu_h200")
    said = {"efficiency__bandwidth__pointwise": 0.5, "efficiency__gemm_tensor": 0.2, "energy__clock": 0.3, "sigma__gemm": 0.9}
    made = fitted(**said, launch__eager__relu=7e-6)
    read = dataset.Sources((), "", ("run",), None)
    monkeypatch.setattr(recorded, "read_sources", lambda paths, family: read)
    monkeypatch.setattr(
        recorded, "calibrate_cases", lambda read, start, **settings: type("Made", (), {"profile": made, "notes": ()})
    )
    written = recorded.fitted_to_runs([tmp_path], base)
    assert written.value("efficiency.bandwidth.pointwise") == 0.5
    assert written.coefficients["launch.eager.relu"].value == 7e-6
    assert written.coefficients["efficiency.gemm_tensor"] == base.coefficients["efficiency.gemm_tensor"]
    assert written.coefficients["energy.clock"] == base.coefficients["energy.clock"]
    assert written.coefficients["sigma.gemm"] == base.coefficients["sigma.gemm"]
    assert written.host == base.host


def test_siblings_take_the_chip_and_not_the_host():
    """What came from farther machines gives way; what was fitted to the card itself stays."""
    target = load_profile("gpu_h100")
    own = next(n for n, c in target.coefficients.items() if c.source == "fitted" and c.unit == "1")
    source = fitted(efficiency__bandwidth__gemm=0.6, launch__eager__relu=7e-6)
    source = source.replacing(coefficients={**source.coefficients, own: Coefficient(0.5, "1", "fitted", "a run", 0.05)})
    sibling = recorded.beside_run(source, target)
    assert sibling.value("efficiency.bandwidth.gemm") == pytest.approx(0.6)
    assert sibling.coefficients["efficiency.bandwidth.gemm"].source == "transferred"
    assert sibling.coefficients.get("launch.eager.relu") == target.coefficients.get("launch.eager.relu")
    assert sibling.coefficients[own] == target.coefficients[own]


def test_siblings_err_as_their_chip():
    """What the kernels of a chip are off by is the same on its other cards, but for tensor cores; no spread grows by half."""
    spreads = {
        "sigma.gemm": Coefficient(0.3, "1", "transferred", "left out"),
        "sigma.gemm_tensor": Coefficient(0.9, "1", "fitted"),
    }
    source, target = fitted(), fitted(sigma__gemm=0.8, sigma__graph=0.7, sigma__gemm_tensor=0.1)
    kept = {n: c for n, c in source.coefficients.items() if not n.startswith("sigma")}
    sibling = recorded.beside_run(source.replacing(coefficients={**kept, **spreads}), target)
    found = {n: c.value for n, c in sibling.coefficients.items() if n.startswith("sigma") and "tensor" not in n}
    assert found == {"sigma.gemm": 0.3}
    assert sibling.value("sigma.gemm_tensor") == 0.1
