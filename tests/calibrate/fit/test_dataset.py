"""Which sources a calibration takes together."""

from __future__ import annotations

import shutil

import pytest

from shmoo.calibrate.calibration import read_for
from shmoo.calibrate.fit.dataset import read_sources
from shmoo.estimators.errors import InputError
from shmoo.estimators.machine.profile import load_profile
from shmoo.harness.cli.verbs import calibrate as verb
from shmoo.runs.store.records import CaseSpec, Machine, Measurement, RunManifest, Timing
from shmoo.runs.store.store import RunWriter
from shmoo.runs.tables.reading import TableRow
from tests.cli_runner import shmoo

MACHINE = Machine("Example CPU", 2, 2, 8 << 30, torch="2.9.0", threads=2)


def write_run(path, *threads, device="cpu"):
    """One product for each number of threads."""
    with RunWriter(path, RunManifest(MACHINE, "micro")) as writer:
        for count in threads:
            axes = {"b": 1, "m": 64, "n": 64, "k": 64}
            graph = TableRow(0, "linear", axes).graph()
            case = CaseSpec("linear", "operator", axes, device=device, threads=count)
            writer.append(Measurement(case, "ok", graph_hashes=(graph.content_hash,), timing=Timing((1e-5, 1e-5))), (graph,))
    return path


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "v100.csv"
    path.write_text("op,dtype,m,n,k,latency_s\nlinear,float32,128,128,128,1e-5\n")
    return path


def test_numbers_of_threads_are_not_mixed(tmp_path):
    """One number is that of the machine; the fingerprint's 2 and the 1 of a case are two."""
    assert read_sources([write_run(tmp_path / "one", 1)]).machine.threads == 1
    with pytest.raises(InputError, match=r"cases of 1 thread \(linear.*threads=1\) and of 2 .*--threads 2"):
        read_sources([write_run(tmp_path / "both", 1, None)])
    with pytest.raises(InputError, match="threads: 1 and 2"):
        read_sources([tmp_path / "one", write_run(tmp_path / "two", 2)])


def test_a_table_beside_a_run_needs_a_base_of_the_kind_of_device(tmp_path, table):
    """A GPU's rows would be fitted as those of the CPU that the run is of."""
    run = write_run(tmp_path / "run", None)
    with pytest.raises(InputError, match="--base PROFILE"):
        read_for([run, table], None)
    with pytest.raises(InputError, match=r"run was measured on cpu, and .*v100\.csv is read as a table of a gpu"):
        read_for([table, run], load_profile("gpu_v100"))
    assert len(read_for([run, table], load_profile("cpu_server_generic"))[0].cases) == 2


def test_a_source_given_twice_counts_once(tmp_path, table, caplog):
    """Also a copy of it; a message says so."""
    run = write_run(tmp_path / "run", None)
    copy = shutil.copytree(run, tmp_path / "copy")
    read = read_sources([run, table, copy, table])
    assert (len(read.cases), read.names) == (2, ("run", "v100.csv"))
    assert "taken once" in caplog.text


@pytest.mark.usefixtures("own_home")
def test_a_profile_that_is_there_is_refused_before_the_fit(tmp_path, monkeypatch):
    """Without --name too, where the name comes from the sources."""
    target = verb.profile_path("cpu_local", force=False)
    target.parent.mkdir(parents=True)
    target.write_text("{}")
    monkeypatch.setattr("shmoo.calibrate.calibration.calibrate_cases", lambda *a, **k: pytest.fail("fitted already"))
    result = shmoo("calibrate", str(write_run(tmp_path / "run", None)))
    assert result.exit_code == 2
    assert "exists already" in result.output
