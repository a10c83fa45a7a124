"""Rows that were edited by hand do not pass for measured ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from shmoo.runs.analysis.check import check_run
from shmoo.runs.store.store import Run
from tests.hostile import linear, write_run


def found(run: Path) -> str:
    """What `check` says of rows that were changed; empty for nothing."""
    return "; ".join(f.found for f in check_run(Run.open(run)) if f.topic == "changed rows" and f.level == "fault")


def test_rows_as_they_were_measured_pass(tmp_path: Path) -> None:
    """Nothing to say about an untouched run."""
    assert found(write_run(tmp_path / "run")) == ""


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda row: row["energy"][0].update(energy_j=-1e-3), "J between"),
        (lambda row: row["energy"][0].update(low_j=2.0, high_j=1e-9), "J between"),
        (lambda row: row["energy"][0].update(low_j=0.02, high_j=0.03), "J between"),
        (lambda row: row["energy"][0].update(window_s=-1.0), "J between"),
        (lambda row: row["energy"][0].update(energy_j=1e300), "J between"),
        (lambda row: row.pop("timing"), "without a time"),
        (lambda row: row["timing"].update(samples_s=[]), "without a time"),
        (lambda row: row["timing"].update(first_call_s=-1.0), "first call took"),
        (lambda row: row.update(peak_memory_bytes=-5.0), "peak memory"),
        (lambda row: row.update(visit=-3), "visit -3"),
        (lambda row: row.update(graph_hashes=[linear(16).content_hash]), "m is 8"),
        (lambda row: row["case"].update(dtype="bfloat16"), "bfloat16"),
        (lambda row: [child.update(op="aten.relu") for child in row.get("children", ())], "aten.relu"),
        (lambda row: [child.update(time_s=-1.0) for child in row.get("children", ())], "child 0 took"),
        (lambda row: row["case"].update(workload="conv"), "'linear'"),
    ],
)
def test_an_edited_row_is_a_fault(tmp_path: Path, change, words: str) -> None:
    """Impossible values, a time that is missing, a graph of another case."""
    assert words in found(write_run(tmp_path / "run", change))


def test_an_impossible_energy_is_not_used(tmp_path: Path) -> None:
    """Neither a fit nor a report sees it."""
    run = Run.open(write_run(tmp_path / "run", lambda row: row["energy"][0].update(energy_j=-1e-3)))
    assert run.rows[0].energy_reading is None
    assert run.rows[1].energy_reading is not None
