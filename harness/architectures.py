"""Architectures by name: the user's own profiles, the built-in ones, and the machine in front of us."""

from __future__ import annotations

from pathlib import Path

from shmoo.estimators.errors import FormatError, InputError
from shmoo.estimators.profile import ArchitectureProfile, builtin_names, load_profile
from shmoo.harness.paths import profile_search

LOCAL = "cpu_local"
"""Name of the CPU of this machine: the calibrated profile where there is one, else its description only."""


def default_names() -> list[str]:
    """Every built-in profile and this machine's CPU, sorted: what is estimated where no architecture is named."""
    return sorted({*builtin_names(), LOCAL})


def load_architecture(name: str | Path) -> ArchitectureProfile:
    """`load_profile` among the current directory, the user's own profiles and the built-in ones. `cpu_local` exists before it is
    calibrated: its structure is then read from the machine, and its rates are wide guesses.

    Raises:
        InputError, FormatError: as `load_profile`.
    """
    try:
        return load_profile(name, profile_search())
    except InputError as error:
        if str(name) != LOCAL or isinstance(error, FormatError):
            raise
    from shmoo.calibrate.base import base_profile
    from shmoo.harness.machine import probe_machine

    return base_profile(probe_machine())
