"""Writing stays in the run: no link is followed, one process at a time, and a reader never waits for a pipe."""

from __future__ import annotations

import csv
import math
import os
import shutil
from pathlib import Path

import pytest

from shmoo.estimators.errors import FormatError, InputError
from shmoo.runs.store.files import csv_bytes, csv_of_blocks, own_folder, read_regular, replace_file
from shmoo.runs.store.records import CaseSpec, Measurement, RunManifest, Timing
from shmoo.runs.store.store import Run, RunWriter
from tests.hostile import MACHINE, linear, write_run

pytestmark = pytest.mark.skipif(os.name != "posix", reason="links, pipes and locks of POSIX")
MANIFEST = RunManifest(MACHINE, "quick")


def row(m: int = 1, **changes) -> Measurement:
    return Measurement(CaseSpec("relu", "operator", {"m": m}), "ok", timing=Timing((1e-3, 2e-3)), **changes)


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A file outside of every run."""
    path = tmp_path / "victim"
    path.write_text("mine\n")
    return path


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.torn"])
def test_resuming_writes_through_no_link(tmp_path: Path, victim: Path, name: str) -> None:
    """Neither rows nor what was torn off them end up elsewhere."""
    run = write_run(tmp_path / "run")
    rows = run / "rows.jsonl"
    rows.write_bytes(rows.read_bytes() + b'{"torn')
    if name == "rows.jsonl":
        victim.write_bytes(rows.read_bytes())
        rows.unlink()
    before = victim.read_bytes()
    (run / name).symlink_to(victim)
    with pytest.raises(InputError, match="symbolic link"):
        RunWriter(run, MANIFEST, resume=True)
    assert victim.read_bytes() == before


def test_graphs_are_not_written_into_a_linked_folder(tmp_path: Path) -> None:
    """A run's folder of graphs is its own."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "graphs").symlink_to(elsewhere)
    with pytest.raises(InputError, match="symbolic link"):
        RunWriter(tmp_path / "run", MANIFEST)
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize("dangling", [False, True])
def test_a_link_at_a_report_s_name_is_replaced(tmp_path: Path, victim: Path, dangling: bool) -> None:
    """The file that it leads to stays as it is, and is not made."""
    target = tmp_path / "report.html"
    elsewhere = tmp_path / "absent" if dangling else victim
    target.symlink_to(elsewhere)
    replace_file(target, b"new")
    assert (target.is_symlink(), target.read_bytes()) == (False, b"new")
    assert elsewhere.exists() != dangling
    assert victim.read_text() == "mine\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "victim"]


def test_a_file_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    """A directory stands at its name."""
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError, match="taken"):
        replace_file(tmp_path / "taken", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_a_linked_folder_is_not_our_own(tmp_path: Path) -> None:
    """`report` of a foreign run may lead anywhere."""
    (tmp_path / "report").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="symbolic link"):
        own_folder(tmp_path / "report")
    assert own_folder(tmp_path / "a" / "b").is_dir()


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_only_regular_files_are_read(tmp_path: Path, make) -> None:
    """A pipe without a writer would keep its reader for ever."""
    make(tmp_path / "x")
    with pytest.raises(InputError, match="not a regular file"):
        read_regular(tmp_path / "x")


@pytest.mark.parametrize("name", ["run.json", "rows.jsonl", "skipped.json", "graph"])
def test_a_pipe_in_a_run_is_an_error(tmp_path: Path, name: str) -> None:
    """Whichever of its files it stands for."""
    run = write_run(tmp_path / "run")
    path = run / "graphs" / f"{linear(8).content_hash}.json" if name == "graph" else run / name
    path.unlink(missing_ok=True)
    os.mkfifo(path)

    def read() -> None:
        opened = Run.open(run)
        assert opened.skipped == ()
        opened.graphs(opened.rows[0])

    with pytest.raises(InputError, match="not a regular file"):
        read()


def test_a_run_has_one_writer(tmp_path: Path) -> None:
    """A second one is refused until the first has ended."""
    with RunWriter(tmp_path / "run", MANIFEST) as writer:
        writer.append(row(1))
        with pytest.raises(InputError, match="another process writes"):
            RunWriter(tmp_path / "run", MANIFEST, resume=True)
    with RunWriter(tmp_path / "run", MANIFEST, resume=True) as writer:
        writer.append(row(2))
    assert len(Run.open(tmp_path / "run").lines) == 2


@pytest.mark.parametrize("how", ["removed", "moved", "replaced"])
def test_a_run_that_went_away_is_noticed_at_the_next_row(tmp_path: Path, how: str) -> None:
    """Rows do not vanish into a file without a name."""
    with RunWriter(tmp_path / "run", MANIFEST) as writer:
        writer.append(row(1))
        if how == "removed":
            shutil.rmtree(tmp_path / "run")
        elif how == "moved":
            (tmp_path / "run").rename(tmp_path / "elsewhere")
        else:
            (tmp_path / "run" / "rows.jsonl").unlink()
            (tmp_path / "run" / "rows.jsonl").write_bytes(b"")
        with pytest.raises(FileNotFoundError):
            writer.append(row(2))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_row_that_no_reader_takes_is_not_written(tmp_path: Path, value: float) -> None:
    """JSON has no NaN: it would become null, and the whole run unreadable."""
    with RunWriter(tmp_path / "run", MANIFEST) as writer:
        writer.append(row(1))
        with pytest.raises(FormatError):
            writer.append(Measurement(CaseSpec("x", "operator", {"p": value}), "ok", timing=Timing((1e-3,))))
        with pytest.raises(FormatError):
            writer.append(Measurement(CaseSpec("x", "operator"), "ok", timing=Timing((value,))))
    assert len(Run.open(tmp_path / "run").lines) == 1


@pytest.mark.parametrize("name", ["../../../etc/passwd", "a\x00b", "", "0123456789ABCDEF", "0" * 17])
def test_a_graph_s_name_is_a_hash(tmp_path: Path, name: str) -> None:
    """Not a path, and nothing that the system refuses with an error of its own."""
    run = Run.open(write_run(tmp_path / "run", lambda row: row.update(graph_hashes=[name])))
    with pytest.raises(FormatError, match="no hash"):
        run.graphs(run.rows[0])


@pytest.mark.parametrize("index", [-1, 1, 10**6])
def test_a_time_belongs_to_a_call_of_the_graph(tmp_path: Path, index: int) -> None:
    """Otherwise the report would look it up in vain."""

    def change(row: dict) -> None:
        for child in row.get("children", ()):
            child["call"] = index

    run = Run.open(write_run(tmp_path / "run", change))
    with pytest.raises(FormatError, match="times call"):
        run.graphs(run.rows[4])


@pytest.mark.parametrize("sample", [0.0, -1e-3, 1e300, 1e-300])
def test_a_sample_that_is_no_time_is_refused(tmp_path: Path, sample: float) -> None:
    """Nothing, less than nothing, and what overflows in every average."""
    run = write_run(tmp_path / "run", lambda row: row["timing"].update(samples_s=[1e-3, sample]))
    with pytest.raises(FormatError, match="line 1: a sample"):
        Run.open(run)


def test_a_spreadsheet_computes_nothing_from_our_files() -> None:
    """Texts that look like formulas are texts; numbers stay numbers."""
    rows = [{"a": text, "b": -1.5} for text in ("=1+1", "+1", "-1", "@x", "\tx", "plain")] + [{"a": None}]
    read = list(csv.DictReader(csv_bytes(("a", "b"), rows).decode().splitlines()))
    assert [line["a"] for line in read] == ["'=1+1", "'+1", "'-1", "'@x", "'\tx", "plain", ""]
    assert [line["b"] for line in read] == ["-1.5"] * 6 + [""]


def test_blocks_of_columns_are_written_as_their_rows_are() -> None:
    """A column that a block lacks is empty there; a formula is quoted in both."""
    blocks = [{"a": [1, 2.5], "b": ["x", None]}, {"a": [True], "c": ["=1+1"]}]
    rows = [{"a": 1, "b": "x"}, {"a": 2.5, "b": None}, {"a": True, "c": "=1+1"}]
    assert csv_of_blocks(blocks) == csv_bytes(("a", "b", "c"), rows)
