"""Debian's OpenSSH and Slurm for the tests of a module."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.fleet.services import SlurmCluster, Sshd, ssh_hosts


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    made = SlurmCluster(tmp_path_factory.mktemp("slurm"), ("n1", "n2", "n3"))
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, Sshd]]]:
    with ssh_hosts(tmp_path_factory.mktemp("ssh") / "servers", ("s1", "s2", "s3")) as made:
        yield made
