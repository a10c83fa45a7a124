"""The command line as tests call it."""

from __future__ import annotations

from click.testing import CliRunner, Result

from shmoo.harness.cli.app import cli


def shmoo(*arguments: str) -> Result:
    """Run `shmoo ARGUMENTS` in this process."""
    return CliRunner().invoke(cli, list(arguments))
