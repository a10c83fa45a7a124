"""The commands of the page about sweeps run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from shmoo.harness.cli.app import cli

PAGE = Path(__file__).parents[1] / "docs" / "sweeps.md"
COMMANDS = [line.split("|")[0] for line in re.findall(r"^\$ shmoo (.*)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)]


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_page_runs(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever copies it gets a table, and the files it names."""
    monkeypatch.setenv("SHMOO_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    arguments = shlex.split(command)
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.output
    assert result.stdout
    for option in ("--csv", "--plot"):
        if option in arguments:
            assert Path(arguments[arguments.index(option) + 1]).stat().st_size > 0
