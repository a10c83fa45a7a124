"""Every workload by its name."""

from __future__ import annotations

from shmoo.estimators.errors import unknown
from shmoo.harness.workloads import operators, synthetic, synthetic_nets
from shmoo.harness.workloads.module import WORKLOADS, DNNModule

REGISTERED_BY = (operators, synthetic, synthetic_nets)
"""The modules whose import fills `WORKLOADS`."""


def find_workload(name: str) -> DNNModule:
    """The operator, synthetic model or network of that name.

    A network's declared input is looked up in torchvision, which imports torch; registered workloads do without.

    Raises:
        InputError: there is none; the nearest names are suggested.
    """
    if name in WORKLOADS:
        return WORKLOADS[name]
    from shmoo.harness.workloads.zoo import find_network, zoo_names

    names = zoo_names()
    if name in names:
        return find_network(name)
    raise unknown("workload or model", name, {*WORKLOADS, *names})
