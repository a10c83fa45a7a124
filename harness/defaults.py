"""Defaults and places of files that the command line and the Python interface share. Imports nothing slow, for `--help`."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from itertools import chain, count
from pathlib import Path

import shmoo
from shmoo.estimators.errors import InputError

LOCAL = "cpu_local"
"""Name of this machine's CPU: its calibrated profile if there is one, otherwise its description only."""
LOCAL_GPU = "gpu_local"
"""Name of the calibrated profile of this machine's GPU."""
ONE_OF_EACH_FAMILY = (LOCAL, "gpu_a100_80g", "tpu_v4", "kpu_t256")
"""Architectures to compare where none is named."""
SHORT_LIST = ("cpu_server_generic", "gpu_l4", "gpu_a100_80g", "gpu_h100", "tpu_v4", "kpu_t256")
"""Architectures of a table where none is named, beside this machine's CPU once it is calibrated."""
ILLUSTRATIONS = "brief_"
"""Prefix of profiles that are illustrations and not machines; tables show them only where they are named."""
VISITS, MOST_VISITS = 3, 8
"""Visits to every case, and most visits to a case that stays uncertain."""


def own_folders() -> tuple[Path, ...]:
    """The folders of Shmoo's code: the root package and its four rooms."""
    rooms = ("estimators", "runs", "calibrate", "harness")
    return (Path(shmoo.__file__).parent, *(Path(__file__).parents[1] / room for room in rooms))


def user_profiles() -> Path:
    """The folder of the user's own architecture profiles, which may not exist: in `SHMOO_HOME` where set, otherwise in the
    platform's data directory (XDG on Linux)."""
    if home := os.environ.get("SHMOO_HOME"):
        return Path(home) / "profiles"
    import platformdirs

    return platformdirs.user_data_path("shmoo", appauthor=False) / "profiles"


def capture_folder() -> Path:
    """The folder of cached captures, which may not exist: in `SHMOO_CACHE_DIR` where set, otherwise in the platform's
    cache directory (XDG on Linux)."""
    if folder := os.environ.get("SHMOO_CACHE_DIR"):
        return Path(folder) / "captures"
    import platformdirs

    return platformdirs.user_cache_path("shmoo", appauthor=False) / "captures"


def profile_search() -> tuple[Path, ...]:
    """Folders searched for a profile's name before the built-in profiles; the first match wins."""
    return (Path.cwd(), user_profiles())


def run_directory(out: str | Path | None, resume: bool, label: str, what: str = "run") -> Path:
    """The directory to measure into: `out`, or a new one named after `label`.

    Args:
        what: noun for messages: what would be resumed there.

    Raises:
        InputError: there is nothing to resume.
    """
    if out is None:
        if resume:
            raise InputError(f"--resume needs --out, the {what} to continue")
        return new_run_directory(label)
    path = Path(out)
    if resume and not path.is_dir():
        raise InputError(f"--resume: no {what} at {str(path)!r}; check the path, or leave out --resume to begin one there")
    return path


def new_run_directory(label: str) -> Path:
    """A directory under ./shmoo-runs that does not exist yet, named after the time (UTC) and `label`."""
    return free_path(Path("shmoo-runs") / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{label}")


def free_path(path: Path) -> Path:
    """The path if nothing exists there, otherwise the first of NAME-2, NAME-3, ... that is free."""
    numbered = (path.with_name(f"{path.stem}-{number}{path.suffix}") for number in count(2))
    return next(free for free in chain([path], numbered) if not free.exists())
