import subprocess
import sys

import pytest

from shmoo.estimators.errors import InputError
from shmoo.estimators.graph.records import RUNTIMES
from shmoo.harness.machine import doctor as machine
from shmoo.harness.machine.doctor import DoctorReport, doctor, parse_cpu_list, probe_machine
from shmoo.harness.runtimes.backends import compile_model, runtimes_on

CPUINFO = """processor\t: 0
model name\t: Example CPU @ 2.10GHz
flags\t\t: fpu avx avx2 fma avx512f amx_bf16 hypervisor

processor\t: 1
model name\t: Other CPU
"""


@pytest.fixture
def tree(tmp_path):
    def write(path, text):
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")

    write("proc/cpuinfo", CPUINFO)
    cpu = "sys/devices/system/cpu"
    for index, (level, kind, size, shared) in enumerate(
        [(1, "Data", "48K", "0"), (1, "Instruction", "32K", "0"), (2, "Unified", "2048K", "0-1"), (3, "Unified", "260M", "0-2,5")]
    ):
        folder = f"{cpu}/cpu0/cache/index{index}"
        for name, value in (("level", level), ("type", kind), ("size", size), ("shared_cpu_list", shared)):
            write(f"{folder}/{name}", value)
    write(f"{cpu}/cpu0/cpufreq/scaling_governor", "powersave")
    write(f"{cpu}/intel_pstate/no_turbo", "1")
    write(f"{cpu}/smt/active", "1")
    write("sys/class/dmi/id/sys_vendor", "QEMU")
    write("sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never")
    return tmp_path


def test_the_fingerprint_is_read_from_the_tree(tree):
    """Model, extensions, caches with who shares them, clock policy and hypervisor come from proc and sys."""
    found = probe_machine(threads=3, root=tree)
    assert found.cpu_model == "Example CPU @ 2.10GHz"
    assert found.isa == ("avx", "avx2", "fma", "avx512f", "amx_bf16")
    assert found.cache_bytes == {"l1": 48 << 10, "l2": 2 << 20, "l3": 260 << 20}
    assert found.cache_shared_by == {"l1": 1, "l2": 2, "l3": 4}
    assert (found.governor, found.clock_policy) == ("powersave", "powersave, turbo off")
    assert found.hypervisor == "QEMU"
    assert found.settings["transparent_hugepages"] == "madvise"
    assert found.settings["smt"] is True
    assert found.threads == 3


def test_a_machine_without_proc_and_sys_is_still_described(tmp_path):
    """As on other systems than Linux: what is not known is None or empty."""
    found = probe_machine(root=tmp_path)
    assert found.cpu_model
    assert found.memory_bytes > 0
    assert found.threads >= 1
    assert (found.governor, found.clock_policy, found.hypervisor) == (None, None, None)


@pytest.mark.parametrize(("asked", "expected"), [("5", 5), ("3,2", 3), ("", 7), ("many", 7)])
def test_threads_follow_the_environment(monkeypatch, asked, expected):
    """OMP_NUM_THREADS counts if it is a number, otherwise one thread a physical core."""
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert machine.default_threads(7) == expected


def test_cpu_lists():
    """Ranges and single numbers, as the kernel writes them."""
    assert parse_cpu_list("0-2,5") == (0, 1, 2, 5)


def test_the_doctor_says_what_is_missing_and_what_to_do(tree):
    """No powercap tree: a reason by domain with a remedy, and notes about governor and virtual machine."""
    report = doctor(root=tree)
    assert isinstance(report, DoctorReport)
    assert report.energy == ()
    assert "modprobe" in report.energy_missing["package"]
    topics = {finding.topic for finding in report.findings}
    assert {"governor", "virtual machine", "SMT"} <= topics
    assert report.backends is None


def test_probing_does_not_import_torch():
    """The doctor answers at once, so nothing it needs imports torch."""
    code = "import sys; from shmoo.harness.machine.doctor import doctor; doctor(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


def test_runtimes_are_those_of_the_profiles():
    """What can be measured can be estimated; graphs of CUDA replay on its cards alone, whatever an estimate of a CPU is asked."""
    assert tuple(runtimes_on("cuda")) == RUNTIMES["gpu"] == RUNTIMES["cpu"]
    assert tuple(runtimes_on("cpu")) == RUNTIMES["cpu"][:-1]


def test_eager_is_the_model_itself():
    """Nothing stands between eager and the model."""

    def model(x):
        return x

    assert compile_model(model, "eager") is model


def test_cuda_graphs_are_refused_on_a_cpu():
    """The error says which runtimes do work."""
    with pytest.raises(InputError, match=r"does not run on 'cpu'; allowed there: eager, inductor, inductor-freezing"):
        compile_model(abs, "cudagraphs", "cpu")


def test_an_unknown_runtime_names_the_nearest():
    """A slip of the pen gets a suggestion."""
    with pytest.raises(InputError, match="did you mean 'inductor'"):
        compile_model(abs, "inducter")
