"""Sessions of these tests measure beside each other; each has a lock of its own."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def own_lock(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for the measuring lock of sessions in a process of their own."""
    folder = tmp_path_factory.mktemp("lock")
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder
