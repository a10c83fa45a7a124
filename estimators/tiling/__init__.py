"""Tiling strategies: how an architecture cuts a kernel into tiles."""

import dataclasses

from shmoo.estimators.errors import InputError, unknown
from shmoo.estimators.machine.profile import ArchitectureProfile
from shmoo.estimators.tiling.base import TILINGS, TileShape, Tiling, TilingStrategy
from shmoo.estimators.tiling.cpu import CpuL2Blocking
from shmoo.estimators.tiling.gpu.strategy import GpuThreadBlocks
from shmoo.estimators.tiling.kpu import KpuWavefront
from shmoo.estimators.tiling.tpu import TpuWeightStationary


def strategy_for(profile: ArchitectureProfile) -> TilingStrategy:
    """The tiling strategy that a profile names, with the profile's parameters.

    Raises:
        InputError: no such strategy, a parameter it does not have (the nearest is named), or a value it refuses.
    """
    kind = TILINGS[profile.tiling.strategy]
    parameter_names = [field.name for field in dataclasses.fields(kind)]
    for name in profile.tiling.parameters:
        if name not in parameter_names:
            raise unknown(f"parameter of tiling strategy {profile.tiling.strategy!r}", name, parameter_names)
    try:
        return kind(**profile.tiling.parameters)
    except TypeError as error:
        raise InputError(
            f"tiling strategy {profile.tiling.strategy!r} refuses the parameters of {profile.name!r}: {error}"
        ) from error


__all__ = [
    "TILINGS",
    "CpuL2Blocking",
    "GpuThreadBlocks",
    "KpuWavefront",
    "TileShape",
    "Tiling",
    "TilingStrategy",
    "TpuWeightStationary",
    "strategy_for",
]
