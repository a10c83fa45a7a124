"""Fixtures that several test files share."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

# Tests say how wide their terminal is; parallel workers are given the width of the one that they were started from.
os.environ.pop("COLUMNS", None)


@pytest.fixture
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Profiles, runs and captures of whoever runs the tests stay out of them."""
    monkeypatch.setenv("SHMOO_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SHMOO_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Ctrl-C as in a terminal; a script's background jobs, where these tests may run, ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
