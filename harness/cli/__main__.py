"""`python -m shmoo.harness.cli`: the command where its script is not on the path."""

from __future__ import annotations

from shmoo.harness.cli import main

main()
