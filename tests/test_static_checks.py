"""What tools say of the code without running it: types (mypy), style and docstrings (ruff)."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PARTS = ("__init__.py", "estimators", "runs", "calibrate", "harness")


def run(tool: str, *arguments: str, folder: Path) -> None:
    """Run a tool as a module; the test fails with what it says, and is skipped where it is not installed."""
    if find_spec(tool) is None:
        pytest.skip(f"{tool} is not installed; the extra `test` brings it")
    done = subprocess.run([sys.executable, "-m", tool, *arguments], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


def test_types(tmp_path: Path) -> None:
    """mypy finds nothing: strict in estimators, runs and calibrate, as pyproject.toml says.

    The folders install as `shmoo.*`; here links put them where mypy looks for these packages.
    """
    (tmp_path / "shmoo").mkdir()
    for part in PARTS:
        source = ROOT / "shmoo" / part if part == "__init__.py" else ROOT / part
        (tmp_path / "shmoo" / part).symlink_to(source, target_is_directory=source.is_dir())
    settings = f"--config-file={ROOT / 'pyproject.toml'}", f"--cache-dir={ROOT / '.mypy_cache'}"
    run("mypy", *settings, folder=tmp_path)


def test_style() -> None:
    """Ruff finds nothing, in tests either."""
    run("ruff", "check", folder=ROOT)
