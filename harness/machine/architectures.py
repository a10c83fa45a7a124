"""Architectures by name: the user's own profiles, the built-in ones, and this machine."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path

from shmoo.estimators.errors import InputError, unknown
from shmoo.estimators.graph.records import EVERY_RUNTIME
from shmoo.estimators.machine.profile import (
    BUILTIN_DIR,
    RUNTIMES,
    ArchitectureProfile,
    builtin_names,
    check_runtime,
    find_profile,
    means_profile,
)
from shmoo.estimators.tiling import strategy_for
from shmoo.estimators.variants import amount_of, variant, with_host
from shmoo.harness.defaults import ILLUSTRATIONS, LOCAL, LOCAL_GPU, SHORT_LIST, profile_search
from shmoo.harness.machine.host_times import LOCAL_HOST, know_local_host

logger = logging.getLogger(__name__)

_WHAT_IF = re.compile(r"(?P<base>.+?)(?P<changes>(@[\w.]+=[^@=]+)+)")


def default_names() -> list[str]:
    """Every built-in profile and this machine's CPU, sorted: the architectures of an estimate that names none."""
    return sorted({*builtin_names(), LOCAL})


def short_names() -> list[str]:
    """The architectures of a table that names none: this machine's CPU and GPU once they are calibrated, and a few
    others."""
    return [*sorted({LOCAL, LOCAL_GPU} & set(own_profiles())), *SHORT_LIST]


def machine_names() -> list[str]:
    """Every built-in machine and this one's CPU, sorted: `default_names` without illustrations."""
    return [name for name in default_names() if not name.startswith(ILLUSTRATIONS)]


def own_profiles() -> dict[str, Path]:
    """Files of the user's own profiles by name, where `load_architecture` finds them."""
    working_folder, user_folder = profile_search()
    profiles = {path.stem: path for path in sorted(user_folder.glob("*.json"))}
    return profiles | {path.stem: path for path in sorted(working_folder.glob("*.json")) if means_profile(path)}


def load_architecture(name: str | Path | ArchitectureProfile) -> ArchitectureProfile:
    """`load_profile` from the current directory, the user's profiles and the built-in ones; a profile is returned unchanged.
    `cpu_local` exists before calibration: its structure is then read from the machine, and its rates are wide guesses.

    A name may contain changes: "kpu_t64@capacity.l3=64MiB@tile_m=32" sets a coefficient (and those that depend on it:
    `variants.variant`) and a parameter of the tiling strategy, "gpu_t4@host=own" the host of a GPU. The profile's name is then
    the whole text.

    Raises:
        InputError, FormatError: as `load_profile` and `variant`.
    """
    if isinstance(name, ArchitectureProfile):
        return name
    what_if = _WHAT_IF.fullmatch(str(name))
    if what_if is not None:
        changes = dict(part.split("=") for part in what_if["changes"][1:].split("@"))
        host = changes.pop("host", None)
        changed = load_architecture(what_if["base"])
        changed = changed if host is None else _beside(changed, host)
        changed = variant(changed, {key: amount_of(text) for key, text in changes.items()})
        return changed.replacing(name=str(name))
    try:
        path = find_profile(name, profile_search())
    except InputError:
        if str(name) != LOCAL:
            raise
        from shmoo.calibrate.fit.base import base_profile
        from shmoo.harness.machine.doctor import probe_machine

        return base_profile(probe_machine())
    profile = ArchitectureProfile.from_json(path.read_bytes(), str(path))
    strategy_for(profile)  # raises where the tiling is unknown
    if path.parent != BUILTIN_DIR and not str(name).endswith(".json"):
        replaced = ", in place of the built-in profile of that name" if name in builtin_names() else ""
        logger.warning("%s is %s%s", name, path, replaced)
    logger.debug("%s: %d coefficients, %s", name, len(profile.coefficients), profile.description)
    return profile


def _beside(profile: ArchitectureProfile, host: str) -> ArchitectureProfile:
    """A GPU with a host from the catalogue or the one measured on this machine."""
    if host == LOCAL_HOST:
        know_local_host()
    return with_host(profile, host)


def load_architectures(archs: Sequence[str | ArchitectureProfile]) -> list[ArchitectureProfile]:
    """The named profiles under unique names: of different machines with one name, those after the first also get the requested
    text in their name ("gpu_t4 (mine/gpu_t4.json)"). Errors as for `load_architecture`."""
    by_name: dict[str, ArchitectureProfile] = {}
    profiles = []
    for number, arch in enumerate(archs, 1):
        profile = load_architecture(arch)
        if profile != by_name.get(profile.name, profile):
            profile = profile.replacing(name=f"{profile.name} ({arch if isinstance(arch, str) else number})")
        by_name.setdefault(profile.name, profile)
        profiles.append(profile)
    return profiles


def choose_targets(
    archs: Sequence[str | ArchitectureProfile],
    runtimes: Sequence[str],
    threads: int | None,
    host: str | None = None,
    unnamed: Sequence[str] = (),
) -> list[tuple[ArchitectureProfile, str | None]]:
    """Architectures with the runtimes to estimate on each. Named architectures must have every requested runtime; where none is
    named, those of `unnamed` (by default all built-in ones) with the runtime are used. `host` launches the kernels of GPUs.

    Raises:
        InputError: an unknown name, a runtime that a named architecture (or every architecture) lacks, threads without a CPU, or
            a host without a GPU.
    """
    for wanted_runtime in runtimes:
        if wanted_runtime not in EVERY_RUNTIME:
            raise unknown("runtime", wanted_runtime, EVERY_RUNTIME)
    profiles = load_architectures(archs or unnamed or default_names())
    if host is not None:
        if all(profile.family != "gpu" for profile in profiles):
            raise InputError(f"--host {host} applies to GPUs, and none is among the architectures; leave it out")
        profiles = [profile if profile.family != "gpu" else _beside(profile, host) for profile in profiles]
    targets: list[tuple[ArchitectureProfile, str | None]] = []
    wanted_runtimes: Sequence[str | None] = runtimes or (None,)
    for profile in profiles:
        for runtime in wanted_runtimes:
            if archs or runtime is None or runtime in RUNTIMES[profile.family]:
                targets.append((profile, runtime if runtime is None else check_runtime(profile, runtime)))
    if threads is not None and not any(profile.family == "cpu" for profile, _ in targets):
        raise InputError(f"--threads {threads} applies to CPUs, and none is among the architectures; leave it out")
    return targets
