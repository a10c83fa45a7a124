"""Predicted average power of networks lies between what a machine draws idle and what its cooling is designed for."""

from __future__ import annotations

import pytest

from shmoo.estimators.machine.profile import RUNTIMES, builtin_names, load_profile
from shmoo.estimators.predict import pipeline
from shmoo.estimators.predict.director import AnalysisDirector
from shmoo.harness.models.model_graphs import model_graphs
from shmoo.harness.module import Capture
from shmoo.harness.workloads.configs import config_models
from shmoo.harness.workloads.zoo import DIFFUSION, zoo_names

MACHINES = [name for name in builtin_names() if not load_profile(name).illustrative and load_profile(name).get("power.tdp")]
ZOO = (*zoo_names(), *DIFFUSION, *config_models())
SAMPLE = (
    "alexnet",
    "convnext_tiny",
    "densenet121",
    "efficientnet_b0",
    "fcn_resnet50",
    "googlenet",
    "mnasnet0_5",
    "mobilenet_v3_large",
    "r3d_18",
    "regnet_y_400mf",
    "resnet50",
    "resnext50_32x4d",
    "shufflenet_v2_x1_0",
    "squeezenet1_0",
    "swin_t",
    "vgg16",
    "vit_b_16",
    "wide_resnet50_2",
)
"""One network of every family of the zoo that runs at any batch, for busy units: bound by arithmetic, weights or activations."""


@pytest.fixture(autouse=True)
def without_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Values are looked at and no intervals, which take most of an estimate's time."""
    monkeypatch.setattr(pipeline, "DRAWS", 2)


def powers(machine: str, found: Capture) -> list[float]:
    """Watts in every runtime of the machine that compiles differently: eager, and its default."""
    profile = load_profile(machine)
    runtimes = {profile.default_runtime, *(r for r in RUNTIMES[profile.family] if r == "eager")}
    estimates = [AnalysisDirector(profile).estimate(found.graphs, runtime=r, batch=found.batch) for r in sorted(runtimes)]
    return [estimate.average_power_w.value for estimate in estimates]


def check(machine: str, found: Capture) -> None:
    profile = load_profile(machine)
    for watts in powers(machine, found):
        assert profile.value("power.idle") <= watts <= profile.value("power.tdp"), machine


@pytest.fixture(scope="module")
def squeezenet() -> Capture:
    return model_graphs("squeezenet1_0", batch=1)


@pytest.mark.parametrize("machine", MACHINES)
def test_a_small_network_draws_between_idle_and_tdp(machine, squeezenet):
    """One image: launches and idle units, close to the static power."""
    check(machine, squeezenet)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_networks_on_tensor_cores_draw_between_idle_and_tdp(dtype):
    """64 images on every GPU in the types of 16 bits, whether it has tensor cores for them or not."""
    found = model_graphs("squeezenet1_0", batch=64, dtype=dtype)
    for machine in MACHINES:
        if load_profile(machine).family == "gpu":
            check(machine, found)


@pytest.mark.slow
@pytest.mark.parametrize("name", ZOO)
def test_every_model_draws_between_idle_and_tdp_everywhere(name):
    """Each model of the zoo with its own input, in float32."""
    if name in config_models():
        pytest.importorskip("transformers", reason="the extra 'models' is not installed")
    found = model_graphs(name)
    for machine in MACHINES:
        check(machine, found)


@pytest.mark.slow
@pytest.mark.parametrize("network", SAMPLE)
def test_busy_units_draw_between_idle_and_tdp_everywhere(network):
    """64 images at once in bfloat16."""
    found = model_graphs(network, batch=64, dtype="bfloat16")
    for machine in MACHINES:
        check(machine, found)
