"""The host that was measured on this machine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from shmoo.estimators.machine import hosts
from shmoo.harness.machine.architectures import load_architecture
from shmoo.harness.machine.host_times import DRIVER_S, LocalHost, host_file, keep_host, measure_host
from tests.cli_runner import shmoo


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("SHMOO_HOME", str(tmp_path))
    yield tmp_path
    hosts._HOSTS.pop("local", None)


def test_a_kept_host_launches_the_kernels_of_gpus() -> None:
    """Twice the launch of server_2025: all its other times too, and the ends of the launch as measured."""
    keep_host(LocalHost(15e-6, 14e-6, 17e-6, "a test"))
    local, usual = (load_architecture(f"gpu_h100@host={name}").all_coefficients for name in ("local", "server_2025"))
    assert (local["launch.eager"].value, local["launch.eager"].bounds) == (15e-6, (14e-6, 17e-6))
    assert local["graph.inductor"].value == pytest.approx(2.0 * usual["graph.inductor"].value)
    assert local["launch.eager"].source == "fitted"
    assert "a test" in local["launch.eager"].reference
    told = shmoo("estimate", "mlp", "--arch", "gpu_h100", "--host", "local", "--runtime", "eager", "--json")
    (record,) = json.loads(told.stdout)
    assert record["host"] == "local"


def test_a_host_that_nobody_measured_is_refused_with_the_remedy() -> None:
    result = shmoo("estimate", "mlp", "--arch", "gpu_h100", "--host", "local")
    assert result.exit_code == 2
    assert "run `shmoo doctor --full` first" in result.stderr
    host_file().write_text('{"launch_s": "soon"}')
    damaged = shmoo("estimate", "mlp", "--arch", "gpu_h100", "--host", "local")
    assert damaged.exit_code == 2
    assert "measure it anew" in damaged.stderr


def test_the_doctor_measures_and_keeps_it() -> None:
    """Without a GPU the framework's part is timed, and the driver's added."""
    measured = measure_host()
    assert measured.low_s < measured.launch_s < measured.high_s
    assert measured.launch_s > DRIVER_S[0]
    report = json.loads(shmoo("doctor", "--full", "--json").stdout)
    assert report["host"]["launch_s"] < 1e-3
    assert json.loads(host_file().read_text()) == report["host"]
    plain = json.loads(shmoo("doctor", "--json").stdout)
    assert (plain["host"], plain["host_reason"]) == (None, "not asked for; add --full")
