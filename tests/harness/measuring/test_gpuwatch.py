import pytest

from shmoo.harness.measuring.watch.gpuwatch import GpuWatch, gpu_doubts
from shmoo.runs.store.records import Reason


class NVMLError(Exception):
    pass


class FakeNvml:
    """A card at 1980 MHz with nothing wrong."""

    NVMLError = NVMLError

    def __init__(self, clock=1980, events=0, pids=(42,)):
        self.clock, self.events, self.pids = clock, events, pids
        self.unsupported = False

    def nvmlDeviceGetHandleByUUID(self, uuid):
        if uuid != "GPU-aaaa":
            raise NVMLError("Not Found")
        return uuid

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle):
        if self.unsupported:
            raise NVMLError("Not Supported")
        return self.events

    def nvmlDeviceGetClockInfo(self, handle, kind):
        return self.clock

    def nvmlDeviceGetMaxClockInfo(self, handle, kind):
        return 1980

    def nvmlDeviceGetTemperature(self, handle, kind):
        return 55

    def nvmlDeviceGetComputeRunningProcesses(self, handle):
        if self.unsupported:
            raise NVMLError("Not Supported")
        return [type("Process", (), {"pid": pid})() for pid in self.pids]


def observed(**changes):
    return GpuWatch(FakeNvml(**changes), "GPU-aaaa", pid=42).observe()


def test_a_quiet_card_leaves_no_doubt():
    """Full clock, no event, nobody else."""
    host = observed()
    assert host == {
        "gpu_clock_hz": 1980e6,
        "gpu_clock_max_hz": 1980e6,
        "gpu_events": 0,
        "gpu_temperature_c": 55,
        "gpu_others": 0,
    }
    assert gpu_doubts(host) == ()


def test_a_low_clock_is_a_doubt_unless_the_power_limit_explains_it():
    """1200 of 1980 MHz is 61 %; at the power cap that is how fast the card is."""
    assert "1200 MHz of 1980 MHz" in gpu_doubts(observed(clock=1200))[0].text
    assert gpu_doubts(observed(clock=1200, events=0x4)) == ()


@pytest.mark.parametrize(
    ("bit", "name"), [(0x8, "hardware slowdown"), (0x20, "software thermal"), (0x40, "hardware thermal"), (0x80, "power brake")]
)
def test_throttling_is_named(bit, name):
    """Each event that holds the clock down by force is a doubt."""
    (doubt,) = gpu_doubts(observed(events=bit))
    assert doubt.code == "GPU throttled"
    assert name in doubt.text


def test_another_process_on_the_card_is_a_doubt():
    """Two processes, one of them ours."""
    assert gpu_doubts(observed(pids=(42, 43))) == (Reason("shared GPU", "1 other processes compute on it"),)


def test_in_a_container_one_unknown_process_is_ours():
    """There process numbers are the host's: one stranger alone is this process."""
    assert observed(pids=(31337,))["gpu_others"] == 0
    assert observed(pids=(31337, 31338))["gpu_others"] == 1


def test_what_the_driver_does_not_say_is_none_and_no_doubt():
    """WSL and virtual GPUs lack queries."""
    nvml = FakeNvml()
    nvml.unsupported = True
    host = GpuWatch(nvml, "GPU-aaaa").observe()
    assert host["gpu_events"] is None
    assert host["gpu_others"] is None
    assert gpu_doubts(host) == ()


def test_an_unknown_card_is_an_error():
    """The message names it."""
    with pytest.raises(OSError, match="GPU-zzzz"):
        GpuWatch(FakeNvml(), "GPU-zzzz")
