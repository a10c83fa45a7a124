import errno
import os

import pytest

from shmoo.estimators.errors import FormatError, InputError
from shmoo.estimators.graph.records import Graph, OpCall, TensorSpec, single_call_graph
from shmoo.runs.store.records import CaseSpec, Machine, Measurement, RunManifest, Timing
from shmoo.runs.store.store import Run, RunWriter, SkippedCase, machine_differences

MACHINE = Machine(cpu_model="Example CPU", cores_physical=2, cores_logical=4, memory_bytes=8 << 30, torch="2.9.0", threads=2)
MANIFEST = RunManifest(machine=MACHINE, suite="quick")


def row(m: int, **changes) -> Measurement:
    return Measurement(case=CaseSpec("relu", "operator", {"m": m}), status="ok", timing=Timing((1e-3, 2e-3)), **changes)


def relu_graph(m: int) -> Graph:
    spec = TensorSpec((m,))
    return single_call_graph(OpCall("aten.relu", (spec,), (spec,), ("self",)))


@pytest.fixture
def written(tmp_path):
    with RunWriter(tmp_path / "run", MANIFEST) as writer:
        for m in (1, 2, 3):
            writer.append(row(m))
    return tmp_path / "run"


def test_rows_come_back_as_they_were_written(written):
    """A run reads back its manifest and its rows in order."""
    run = Run.open(written)
    assert run.manifest == MANIFEST
    assert run.lines == (row(1), row(2), row(3))
    assert run.problems == ()


def test_few_graphs_of_a_large_run_stay_in_memory(tmp_path, monkeypatch):
    """With room for two, the first of three is read anew and the last is not."""
    monkeypatch.setattr("shmoo.runs.store.store.KEPT_GRAPHS", 2)
    graphs = [relu_graph(m) for m in (1, 2, 3)]
    with RunWriter(tmp_path / "run", MANIFEST) as writer:
        for m, graph in enumerate(graphs, 1):
            writer.append(row(m, graph_hashes=(graph.content_hash,)), (graph,))
    run = Run.open(tmp_path / "run")
    first, _, last = (run.graph(graph.content_hash) for graph in graphs)
    assert run.graph(graphs[2].content_hash) is last
    again = run.graph(graphs[0].content_hash)
    assert again == first
    assert again is not first


def test_graphs_are_stored_once_and_found_by_hash(tmp_path):
    """Two rows of one graph share one file, read when asked for."""
    graph = relu_graph(8)
    with RunWriter(tmp_path, MANIFEST) as writer:
        for m in (1, 2):
            writer.append(row(m, graph_hashes=(graph.content_hash,)), [graph])
    assert len(list((tmp_path / "graphs").iterdir())) == 1
    run = Run.open(tmp_path)
    assert run.graphs(run.rows[0]) == (graph,)


def test_missing_and_changed_graphs_are_named(tmp_path):
    """A graph that is gone, or is not the one its name says, is a format error that names the file."""
    graph = relu_graph(8)
    with RunWriter(tmp_path, MANIFEST) as writer:
        writer.append(row(1, graph_hashes=(graph.content_hash,)), [graph])
    file = tmp_path / "graphs" / f"{graph.content_hash}.json"
    file.write_bytes(relu_graph(9).to_json())
    with pytest.raises(FormatError, match="was changed"):
        Run.open(tmp_path).graph(graph.content_hash)
    file.write_bytes(b"{")
    with pytest.raises(FormatError, match=file.name):
        Run.open(tmp_path).graph(graph.content_hash)
    file.unlink()
    with pytest.raises(FormatError, match="missing"):
        Run.open(tmp_path).graph(graph.content_hash)


def test_a_run_is_never_overwritten(written):
    """Writing into a run that exists is refused and leaves it as it was."""
    before = (written / "rows.jsonl").read_bytes()
    with pytest.raises(InputError, match="never overwritten"):
        RunWriter(written, MANIFEST)
    assert (written / "rows.jsonl").read_bytes() == before


@pytest.mark.parametrize("kept", [1, 40, -2])
def test_a_torn_last_row_is_set_aside_wherever_it_was_cut(written, kept):
    """Rows before the tear are used, the tear is reported, and resuming keeps its bytes in rows.torn."""
    rows = written / "rows.jsonl"
    whole = rows.read_bytes()
    last = whole.splitlines(keepends=True)[-1]
    torn = last[:kept]
    rows.write_bytes(whole[: -len(last)] + torn)
    run = Run.open(written)
    assert run.lines == (row(1), row(2))
    assert "line 3" in run.problems[0]
    with RunWriter(written, MANIFEST, resume=True) as writer:
        writer.append(row(3))
    assert Run.open(written).lines == (row(1), row(2), row(3))
    assert (written / "rows.torn").read_bytes() == torn + b"\n"


def test_a_row_that_lost_only_its_line_end_is_whole(written):
    """The row counts, and the next one starts on a line of its own."""
    rows = written / "rows.jsonl"
    rows.write_bytes(rows.read_bytes()[:-1])
    assert len(Run.open(written).rows) == 3
    with RunWriter(written, MANIFEST, resume=True) as writer:
        writer.append(row(4))
    assert Run.open(written).lines == (row(1), row(2), row(3), row(4))


def test_a_damaged_middle_row_names_its_line(written):
    """Damage that a torn write cannot explain is not passed over."""
    rows = written / "rows.jsonl"
    lines = rows.read_bytes().splitlines(keepends=True)
    rows.write_bytes(lines[0] + lines[1][:30] + b"\n" + lines[2])
    with pytest.raises(FormatError, match=r"rows\.jsonl, line 2"):
        Run.open(written)


def test_newer_formats_name_both_versions(written):
    """A newer row or manifest says which version it has and which can be read."""
    rows = written / "rows.jsonl"
    intact = rows.read_bytes()
    rows.write_bytes(intact.replace(b'"format":2', b'"format":7', 1))
    with pytest.raises(FormatError, match=r"line 1 has format 7, this shmoo reads up to 2"):
        Run.open(written)
    rows.write_bytes(intact)
    manifest = written / "run.json"
    manifest.write_bytes(manifest.read_bytes().replace(b'"format": 2', b'"format": 8'))
    with pytest.raises(FormatError, match="format 8"):
        Run.open(written)


def test_no_run_there(tmp_path):
    """A directory without run.json is an input error that says what to name."""
    with pytest.raises(InputError, match="no run at"):
        Run.open(tmp_path)


def test_resume_refuses_another_machine_and_says_which_field(written):
    """Rows of different conditions never join one run."""
    other = RunManifest(machine=Machine("Example CPU", 2, 4, 8 << 30, torch="2.10.0", threads=1), suite="quick")
    with pytest.raises(InputError, match=r"torch was '2.9.0', is '2.10.0'; threads was 2, is 1"):
        RunWriter(written, other, resume=True)


def test_memory_that_differs_by_the_kernels_reserve_is_the_same():
    """Total memory moves by a few pages between boots; a percent is no other machine, a quarter is."""
    grown = Machine("Example CPU", 2, 4, (8 << 30) + 4096, torch="2.9.0", threads=2)
    assert machine_differences(MACHINE, grown) == {}
    larger = Machine("Example CPU", 2, 4, 10 << 30, torch="2.9.0", threads=2)
    assert set(machine_differences(MACHINE, larger)) == {"memory_bytes"}


def test_lines_of_one_case_are_its_visits(written):
    """Visits are found by case, in order; a merged row stands for all of them."""
    with RunWriter(written, MANIFEST, resume=True) as writer:
        writer.append(row(2, visit=1))
    run = Run.open(written)
    assert [line.visit for line in run.visits[row(2).case.identity]] == [0, 1]
    assert row(9).case.identity not in run.visits
    assert [merged.case.axes["m"] for merged in run.rows] == [1, 2, 3]
    assert len(run.lines) == 4


def test_rows_hash_follows_the_rows(written):
    """The hash stays for the same rows and changes with one more."""
    first = Run.open(written).rows_hash
    assert first == Run.open(written).rows_hash
    with RunWriter(written, MANIFEST, resume=True) as writer:
        writer.append(row(4))
    assert Run.open(written).rows_hash != first


def test_a_full_disk_leaves_whole_rows_behind(tmp_path, monkeypatch):
    """When the disk fills in the middle of a row, that row is taken back and the error is raised."""
    writer = RunWriter(tmp_path, MANIFEST)
    writer.append(row(1))
    real = os.write

    def half(descriptor, data):
        if len(data) < 20:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data[: len(data) // 2])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", half)
        with pytest.raises(OSError, match="No space left"):
            writer.append(row(2))
    writer.append(row(3))
    writer.close()
    run = Run.open(tmp_path)
    assert run.lines == (row(1), row(3))
    assert run.problems == ()


def test_skipped_cases_are_kept_with_their_reason(tmp_path):
    """Cases a campaign did not get to are listed until a later campaign gets to them."""
    skipped = (SkippedCase(row(5).case, "time budget of 60 s used up"),)
    with RunWriter(tmp_path, MANIFEST) as writer:
        writer.record_skipped(skipped)
        assert Run.open(tmp_path).skipped == skipped
        writer.record_skipped(())
    assert Run.open(tmp_path).skipped == ()


def test_skipped_cases_of_an_older_version_are_read(written):
    """They were listed once a pass."""
    spec = '{"case": {"workload": "relu", "kind": "operator"}, "pass_index": 1, "reason": "budget"}'
    (written / "skipped.json").write_text(f"[{spec}]")
    assert Run.open(written).skipped == (SkippedCase(CaseSpec("relu", "operator"), "budget"),)


def test_a_time_that_is_not_positive_names_its_line(written):
    """Whoever wrote it did not measure it, and no ratio can be taken of it."""
    rows = written / "rows.jsonl"
    rows.write_bytes(rows.read_bytes().replace(b"[0.001,", b"[-1.0,", 1))
    with pytest.raises(FormatError, match=r"rows\.jsonl, line 1: a sample of -1 s"):
        Run.open(written)
