"""Hosts as parts of a prediction: what launches a kernel belongs to them, whatever card runs it."""

from __future__ import annotations

import pytest

from shmoo.estimators.errors import FormatError, InputError
from shmoo.estimators.machine.catalogue import entry
from shmoo.estimators.machine.coefficients import Coefficients
from shmoo.estimators.machine.hosts import HOSTS, OWN_HOST, UNKNOWN_PACE
from shmoo.estimators.machine.profile import ArchitectureProfile, load_profile
from shmoo.estimators.predict.director import AnalysisDirector, Estimate
from shmoo.estimators.variants import variant, with_host
from shmoo.harness.machine.architectures import load_architecture
from tests.build import GraphBuilder


def chain(profile: ArchitectureProfile, runtime: str = "eager", rows: int = 8) -> Estimate:
    """Forty small layers."""
    b = GraphBuilder()
    x = b.tensor((rows, 256))
    for _ in range(40):
        x = b.relu(b.linear(x, 256))
    return AnalysisDirector(profile).estimate(b.graph(x), runtime=runtime)


@pytest.mark.parametrize("runtime", ["eager", "inductor"])
def test_cards_that_wait_for_one_host_take_the_same_time(runtime):
    """Measured beside their own hosts an A100 would wait longer than an L4, which nobody measured."""
    times = [chain(load_profile(f"gpu_{card}"), runtime).latency_s.value for card in ("a100_40g", "l4", "h100", "v100")]
    assert max(times) == pytest.approx(min(times), rel=0.05)


def test_a_host_changes_the_latency_and_not_the_device():
    """The older host takes longer to launch what the card runs in the same time, unless the card is the slower of the two."""
    new, old = (chain(with_host(load_profile("gpu_a100_40g"), name)) for name in ("server_2025", "server_2020"))
    assert (new.host, old.host) == ("server_2025", "server_2020")
    assert old.latency_s.value > 1.4 * new.latency_s.value
    assert old.device_s == new.device_s < new.latency_s.value
    large = [chain(with_host(load_profile("gpu_a100_40g"), name), rows=1 << 20) for name in HOSTS]
    assert large[0].latency_s.value == pytest.approx(large[1].latency_s.value, rel=0.02)


def test_the_interval_of_what_waits_for_a_host_holds_faster_and_slower_ones():
    """Nobody knows the host: whatever the chain, its interval reaches as far as the range of unknown hosts, whose times are slow
    or fast together; one that was measured, or whose generation is named, is known better."""
    profile = load_profile("gpu_a100_40g")
    interval = chain(profile).latency_s
    fastest, slowest = UNKNOWN_PACE
    assert interval.low / interval.value == pytest.approx(fastest, rel=0.1)
    assert interval.high / interval.value == pytest.approx(slowest, rel=0.1)
    for name in ("server_h200", "server_2020", "server_2018"):
        known = chain(with_host(profile, name)).latency_s
        assert known.high / known.low < 0.75 * interval.high / interval.low


def test_a_launch_of_eager_transformers_on_servers_of_today_takes_18_us():
    """Layers with biases, loops and norms in turn, as in the kernels of a transformer."""
    b = GraphBuilder()
    x = b.tensor((1, 128, 1024))
    for _ in range(24):
        x = b.layer_norm(b.relu(b.linear(x, 1024)))
    estimate = AnalysisDirector(load_profile("gpu_h100")).estimate(b.graph(x), runtime="eager")
    launch_s = sum(kernel.launch_s for kernel in estimate.breakdown)
    assert launch_s / estimate.kernels == pytest.approx(18e-6, rel=0.15)


def test_its_own_host_gives_a_measured_card_its_measured_launches_back():
    """The file keeps what was fitted; the name of a host hides it."""
    profile = load_profile("gpu_t4")
    fitted = profile.coefficients["launch.eager.linear"].value
    assert Coefficients(with_host(profile, OWN_HOST)).value("launch.eager.linear", "launch.eager") == fitted
    assert Coefficients(profile).value("launch.eager.linear", "launch.eager") == HOSTS["server_2025"].seconds["launch.eager"][0]
    assert load_architecture("gpu_t4@host=own").host == ""


def test_every_number_of_a_host_belongs_to_hosts():
    """A host replaces launches only: no coefficient of a device is among them."""
    for host in HOSTS.values():
        assert all(entry(name).of_host for name in host.coefficients)
    assert not any(entry(name).of_host for name in ("bandwidth.dram", "device_launch", "efficiency.gemm", "power.static"))


def test_a_launch_set_by_hand_counts_on_a_card_with_a_named_host():
    """A what-if about the host changes it, and leaves its other launches."""
    changed = variant(load_profile("gpu_t4"), {"launch.eager": 1e-6})
    assert changed.host == ""
    assert changed.all_coefficients["launch.eager"].value == 1e-6
    assert changed.all_coefficients["launch.inductor"] == HOSTS["server_2025"].coefficients["launch.inductor"]


def test_hosts_that_do_not_exist_are_refused():
    """The nearest name is suggested; a CPU launches its own kernels; a file that names one says so."""
    with pytest.raises(InputError, match="server_2025"):
        with_host(load_profile("gpu_t4"), "server_2024")
    with pytest.raises(InputError, match="GPUs only"):
        with_host(load_profile("tpu_v4"), "server_2025")
    with pytest.raises(FormatError, match="server_1999"):
        ArchitectureProfile.from_json(load_profile("gpu_t4").replacing(host="server_1999").to_json())
