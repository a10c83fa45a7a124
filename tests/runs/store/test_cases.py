"""The record of a case."""

from __future__ import annotations

import hashlib
import json

import msgspec

from shmoo.runs.store.records import CaseSpec, Machine, Measurement, RunManifest
from shmoo.runs.store.store import Run, RunWriter


def test_a_row_says_every_field_of_its_case_and_the_identity_stays(tmp_path):
    """Scripts need no defaults; the identity is over what is not default, as in rows that leave defaults out."""
    case = CaseSpec("linear", "operator", {"m": 8})
    with RunWriter(tmp_path, RunManifest(Machine("Example CPU", 2, 2, 2**30), "micro")) as writer:
        writer.append(Measurement(case, "failed"))
    (line,) = (tmp_path / "rows.jsonl").read_bytes().splitlines()
    assert json.loads(line)["case"] == {
        **{"workload": "linear", "kind": "operator", "axes": {"m": 8}, "dtype": "float32", "runtime": "eager"},
        **{"device": "cpu", "threads": None, "cache_state": "warm"},
    }
    short = b'{"workload":"linear","kind":"operator","axes":{"m":8}}'
    assert case.identity == hashlib.sha256(short).hexdigest()[:16]
    assert msgspec.json.decode(short, type=CaseSpec).identity == case.identity == Run.open(tmp_path).rows[0].case.identity


def test_a_run_names_every_suite_that_was_measured_into_it(tmp_path):
    for suite in ("quick", "nets", "quick"):
        RunWriter(tmp_path, RunManifest(Machine("Example CPU", 2, 2, 2**30), suite), resume=True).close()
    assert Run.open(tmp_path).manifest.suite == "quick+nets"
