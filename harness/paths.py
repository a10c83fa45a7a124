"""Where a user's own files live."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path


def home() -> Path:
    """The user's data directory: `SHMOO_HOME` where set, else the platform's own (XDG on Linux)."""
    override = os.environ.get("SHMOO_HOME")
    if override:
        return Path(override)
    import platformdirs

    return platformdirs.user_data_path("shmoo", appauthor=False)


def user_profiles() -> Path:
    """The folder of the user's own architecture profiles; it may not exist."""
    return home() / "profiles"


def profile_search() -> tuple[Path, ...]:
    """Folders in which a profile's name is looked up before the built-in ones, first wins."""
    return (Path.cwd(), user_profiles())


def new_run_directory(label: str, parent: Path = Path("shmoo-runs")) -> Path:
    """A directory under `parent` that does not exist yet, named after the time (UTC) and `label`."""
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    path = parent / f"{stamp}-{label}"
    count = 2
    while path.exists():
        path = parent / f"{stamp}-{label}-{count}"
        count += 1
    return path
