"""Architectures by name: the user's own profiles, the built-in ones, and this machine."""

from __future__ import annotations

import re
from pathlib import Path

from shmoo.estimators.errors import FormatError, InputError
from shmoo.estimators.profile import ArchitectureProfile, builtin_names, load_profile, means_profile
from shmoo.harness.paths import profile_search

_WHAT_IF = re.compile(r"(?P<base>.+?)(?P<changes>(@[\w.]+=[^@=]+)+)")
LOCAL = "cpu_local"
"""Name of this machine's CPU: the calibrated profile where there is one, otherwise its description only."""


def default_names() -> list[str]:
    """Every built-in profile and this machine's CPU, sorted: the architectures of an estimate that names none."""
    return sorted({*builtin_names(), LOCAL})


def own_profiles() -> dict[str, Path]:
    """Files of the user's own profiles by name, where `load_architecture` finds them."""
    here, own = profile_search()
    profiles = {path.stem: path for path in sorted(own.glob("*.json"))}
    return profiles | {path.stem: path for path in sorted(here.glob("*.json")) if means_profile(path)}


def load_architecture(name: str | Path) -> ArchitectureProfile:
    """`load_profile` among the current directory, the user's own profiles and the built-in ones. `cpu_local` exists before it is
    calibrated: its structure is then read from the machine, and its rates are wide guesses.

    A name may contain changes: "kpu_t64@capacity.l3=64MiB@tile_m=32" sets a coefficient (and those that depend on it:
    `variants.variant`) and a parameter of the tiling strategy. The profile's name is then the whole text.

    Raises:
        InputError, FormatError: as `load_profile` and `variant`.
    """
    what_if = _WHAT_IF.fullmatch(str(name))
    if what_if is not None:
        from shmoo.estimators.variants import amount_of, variant

        changes = dict(part.split("=") for part in what_if["changes"][1:].split("@"))
        changed = variant(load_architecture(what_if["base"]), {key: amount_of(text) for key, text in changes.items()})
        return changed.replacing(name=str(name))
    try:
        return load_profile(name, profile_search())
    except InputError as error:
        if str(name) != LOCAL or isinstance(error, FormatError):
            raise
    from shmoo.calibrate.base import base_profile
    from shmoo.harness.machine import probe_machine

    return base_profile(probe_machine())
