"""The command line: one file for each verb; heavy imports happen inside the verb that needs them."""

from __future__ import annotations


def main() -> None:
    """Run `shmoo` on the process's arguments and exit with the code that docs and scripts rely on: 0 done, 1 a check failed,
    2 bad usage or input, 3 nothing usable measured, 130 interrupted."""
    from shmoo.harness.cli.app import cli

    cli(prog_name="shmoo")
