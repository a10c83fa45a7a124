"""docs/formats.md names what programs find: the fields of estimates, the operators and columns of tables, the fields of rows."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

from shmoo.estimators.graph.records import OpCall, Source, TensorSpec, single_call_graph
from shmoo.estimators.machine.profile import ArchitectureProfile, Coefficient, load_profile
from shmoo.estimators.predict.director import AnalysisDirector
from shmoo.estimators.predict.estimate_records import estimate_record
from shmoo.harness.cli.verbs.show import row_record
from shmoo.harness.models.request import Mode
from shmoo.runs.store.records import (
    RUN_FORMAT,
    CaseSpec,
    EnergyReading,
    Measurement,
    Reason,
    RunManifest,
    Status,
    Timing,
)
from shmoo.runs.store.statistics import PRIOR_VISITS, QUIET_BLOCKS
from shmoo.runs.store.visits import NOISY
from shmoo.runs.tables.operators import TABLE_OPERATORS
from shmoo.runs.tables.reading import COLUMNS

TEXT = (Path(__file__).parents[1] / "docs" / "formats.md").read_text(encoding="utf-8")


def named(section: str) -> set[str]:
    """Words in code style under a heading."""
    body = TEXT.split(f"## {section}\n")[1].split("\n## ")[0]
    return {word for code in re.findall(r"`([^`]+)`", body) for word in re.findall(r"[\w.]+", code)}


def test_every_field_of_an_estimate_is_named() -> None:
    """Those of the record, of each interval, of the mode, and every share of the basis."""
    shape = TensorSpec((8, 8))
    graph = single_call_graph(OpCall("aten.relu", (shape,), (shape,), ("self",)))
    record = estimate_record(AnalysisDirector(load_profile("kpu_t64")).estimate((graph,)), "relu")
    fields = {name for name in record if not name.endswith("_reason")} | set(record["basis"])
    assert fields <= named("JSON of estimates")
    assert {"mode", *(name for name in Mode.__struct_fields__ if name in ("autocast", "quantize")), "capture"} <= named(
        "JSON of estimates"
    )


def test_every_operator_and_column_of_tables_is_named() -> None:
    """A table can be written from the page alone."""
    assert {*TABLE_OPERATORS, *COLUMNS} <= named("Operator tables")


def test_every_field_of_a_row_and_a_run_is_named() -> None:
    """Those of the records inside a row too."""
    assert set(RunManifest.__struct_fields__) <= named("Run directory")
    records = (Measurement, CaseSpec, Reason, Timing, EnergyReading)
    assert {name for record in records for name in record.__struct_fields__} <= named("Rows")
    assert set(get_args(Status)) <= named("Rows")


def test_what_show_derives_from_visits_is_named() -> None:
    """And the limits that the page gives are those of the code."""
    record = row_record(Measurement(CaseSpec("relu", "operator"), "ok", timing=Timing((1.0, 1.0))))
    derived = {"latency_s", "relative_se", "alone_s", "alone_relative_se", "visits", "samples"}
    assert derived <= set(record)
    assert derived <= named("Rows")
    assert f"above {NOISY * 100:.0f} %" in TEXT
    assert f"fewer than {QUIET_BLOCKS} of them" in TEXT
    assert (PRIOR_VISITS, RUN_FORMAT) == (2, 2)
    assert f"`format` {RUN_FORMAT}" in TEXT


def test_every_field_of_a_profile_is_named() -> None:
    """Besides two that explain themselves in the file."""
    fields = {*ArchitectureProfile.__struct_fields__, *Coefficient.__struct_fields__} - {"illustrative", "table_reduction"}
    assert fields <= named("Profiles")


def test_every_source_of_a_coefficient_is_explained() -> None:
    """A row of the table names it."""
    rows = [line.split("|")[1] for line in TEXT.splitlines() if line.startswith("| `")]
    assert all(any(f"`{source}`" in row for row in rows) for source in get_args(Source))
