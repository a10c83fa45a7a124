"""Campaigns over a network of their own, which loses packets and is slow."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from shmoo.harness.fleet.campaign import Campaign
from shmoo.harness.fleet.channels import CONNECT_S
from shmoo.harness.fleet.fetch import INCOMING, FetchResult, fetch
from shmoo.harness.fleet.status import status
from tests.harness.fleet.services import Link, lacking, ssh_hosts
from tests.harness.fleet.stand_in import SLOWLY, host
from tests.harness.fleet.test_fleet import cases, settled, started, until

pytestmark = pytest.mark.skipif(bool(lacking()), reason=lacking() or "services run")


@pytest.fixture
def link() -> Iterator[Link]:
    try:
        made = Link()
    except OSError as error:
        pytest.skip(f"no network namespace can be made here: {error}")
    yield made
    made.close()


def test_a_network_that_loses_every_packet_loses_no_row(tmp_path: Path, link: Link) -> None:
    """Nobody closes a connection: the host is missing after the time to connect, its job goes on, and rows come later."""
    with ssh_hosts(tmp_path / "servers", ("far",), link) as (config, _):
        one = host("far", tmp_path, engine="ssh", ssh_config=str(config), variables=SLOWLY)
        campaign = started(tmp_path / "campaign", [one])
        until(campaign, lambda known: known["far"].visits > 2)
        link.lose()
        begin = time.monotonic()
        (gone,) = status(campaign)
        assert time.monotonic() - begin < 2 * CONNECT_S
        assert (gone.standing, gone.seen) == ("missing", "running")
        assert "timed out" in gone.reason
        link.mend()
        assert settled(campaign)["far"].standing == "finished"
        fetch(campaign)
        assert cases(campaign, "far") == list(range(40))


def test_a_fetch_outlives_a_pause_of_the_network_and_a_lost_one_keeps_nothing(tmp_path: Path, link: Link) -> None:
    """In the midst of a copy: packets that vanish for a while are sent again; a connection that ends leaves no part of a file."""
    with ssh_hosts(tmp_path / "servers", ("far",), link) as (config, by_name):
        big = {"STAND_IN_ROWS": "40", "STAND_IN_PAD": "250000"}
        campaign = started(tmp_path / "campaign", [host("far", tmp_path, engine="ssh", ssh_config=str(config), variables=big)])
        assert settled(campaign)["far"].standing == "finished"
        link.slow("24mbit")
        with copying(campaign) as result:
            link.lose()
            time.sleep(2)
            link.mend()
        assert result[0].problem == ""
        assert cases(campaign, "far") == list(range(40))
        shutil.rmtree(campaign.fetched(campaign.file.hosts[0].name))
        with copying(campaign) as result:
            by_name["far"].cut()
        assert result[0].problem
        assert not list(campaign.path.glob("hosts/far/run/rows.jsonl"))
        by_name["far"].start()
        assert fetch(campaign)[0].problem == ""
        assert cases(campaign, "far") == list(range(40))


@contextmanager
def copying(campaign: Campaign) -> Iterator[list[FetchResult]]:
    """A fetch that has begun to copy; what it gave is in the list at the end."""
    result: list[FetchResult] = []
    thread = threading.Thread(target=lambda: result.extend(fetch(campaign)))
    thread.start()
    incoming = campaign.fetched(campaign.file.hosts[0].name) / INCOMING
    deadline = time.monotonic() + 20
    while not any(path.stat().st_size > 1e5 for path in incoming.rglob("*rows.jsonl*")):
        assert thread.is_alive(), result
        assert time.monotonic() < deadline
        time.sleep(0.01)
    try:
        yield result
    finally:
        thread.join(60)
