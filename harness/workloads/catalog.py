"""Every workload by its name."""

from __future__ import annotations

from shmoo.estimators.errors import unknown
from shmoo.harness.workloads import operators, synthetic, synthetic_nets
from shmoo.harness.workloads.configs import config_models, find_config_model
from shmoo.harness.workloads.diffusion import DIFFUSION
from shmoo.harness.workloads.module import WORKLOADS, DNNModule

REGISTERED_BY = (operators, synthetic, synthetic_nets)
"""The modules whose import fills `WORKLOADS`."""


def find_workload(name: str) -> DNNModule:
    """The operator, synthetic model or network of that name.

    A network's declared input is looked up in torchvision or transformers, which import torch; registered workloads do without.

    Raises:
        InputError: there is none; the nearest names are suggested.
    """
    if name in WORKLOADS:
        return WORKLOADS[name]
    if name in DIFFUSION:
        return DIFFUSION[name]
    if name in config_models():
        return find_config_model(name)
    from shmoo.harness.workloads.zoo import find_network, quantized_names, zoo_names

    names = zoo_names()
    if name in names or name in quantized_names():
        return find_network(name)
    raise unknown("workload or model", name, {*WORKLOADS, *DIFFUSION, *config_models(), *names})
