"""The time that this machine takes to launch a GPU's kernel, as the host `local` of `--host`."""

from __future__ import annotations

import time
from pathlib import Path
from statistics import quantiles

import msgspec

from shmoo.estimators.errors import InputError
from shmoo.estimators.graph.records import UNREADABLE
from shmoo.estimators.machine.hosts import HOSTS, Host, register_host
from shmoo.harness.defaults import user_profiles
from shmoo.runs.store.files import replace_file

LOCAL_HOST = "local"
LIKE = "server_2025"
"""The host whose other times (views, graphs, compiled code) are scaled with the measured launch."""
CALLS, BLOCKS = 200, 50
"""Calls between two readings of the clock (fewer than fit into a GPU's queue), and number of such blocks."""
DRIVER_S = (5.5e-6, 3.5e-6, 9e-6)
"""Time that CUDA's driver and allocator add to a launch, with its 90 % range, for a machine without a GPU: an elementwise
operator takes 1.5 to 3 us on a CPU in eager PyTorch, and 7 to 9 us of host time on a GPU (`HOSTS`, server_2025 and
server_h200)."""


class LocalHost(msgspec.Struct, frozen=True):
    """Seconds of host time per eager launch, with their 90 % range and their source."""

    launch_s: float
    low_s: float
    high_s: float
    source: str
    format: int = 1

    def host(self) -> Host:
        """As a host of the catalogue."""
        usual = HOSTS[LIKE].seconds
        share = self.launch_s / usual["launch.eager"][0]
        scaled = {name: (value * share, low * share, high * share) for name, (value, low, high) in usual.items()}
        launch = {"launch.eager": (self.launch_s, self.low_s, self.high_s)}
        return Host("this machine", f"{self.source}; other times as of {LIKE}, in proportion", {**scaled, **launch}, "fitted")


def measure_host() -> LocalHost:
    """Time an elementwise operator on one number, in CPU time of this thread. On a GPU the calls queue, so only host time is
    measured. Without a GPU it is the framework's part, and a typical driver time is added. Imports torch."""
    import torch

    on_gpu = torch.cuda.is_available()
    number = torch.ones(1, device="cuda" if on_gpu else "cpu")
    seconds = []
    for _ in range(BLOCKS + 1):
        if on_gpu:
            torch.cuda.synchronize()
        begin = time.thread_time()
        for _ in range(CALLS):
            torch.relu(number)
        seconds.append((time.thread_time() - begin) / CALLS)
    # The first block includes the cost of lazy loading.
    low, *_, high = quantiles(seconds[1:], n=20)
    middle = sorted(seconds[1:])[BLOCKS // 2]
    if on_gpu:
        return LocalHost(middle, low, high, f"{BLOCKS * CALLS} launches of relu in eager PyTorch {torch.__version__} on a GPU")
    driver, driver_low, driver_high = DRIVER_S
    source = (
        f"{BLOCKS * CALLS} calls of relu in eager PyTorch {torch.__version__} on the CPU, and {driver * 1e6:g} us of a driver"
    )
    return LocalHost(middle + driver, low + driver_low, high + driver_high, source)


def host_file() -> Path:
    """The file of the measured host, beside the user's profiles."""
    return user_profiles().parent / "host.json"


def keep_host(host: LocalHost) -> Path:
    """Store the measured host for later estimates."""
    path = host_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, msgspec.json.format(msgspec.json.encode(host), indent=1) + b"\n")
    return path


def know_local_host() -> None:
    """Register the measured host in the catalogue.

    Raises:
        InputError: none was measured here, or its file is damaged.
    """
    path = host_file()
    try:
        local_host = msgspec.json.decode(path.read_bytes(), type=LocalHost)
    except OSError:
        raise InputError(f"host {LOCAL_HOST!r} was not measured on this machine; run `shmoo doctor --full` first") from None
    except UNREADABLE as error:
        raise InputError(f"cannot read {str(path)!r}: {error}; measure it anew with `shmoo doctor --full`") from None
    register_host(LOCAL_HOST, local_host.host())
