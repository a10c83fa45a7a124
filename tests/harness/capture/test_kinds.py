"""Small models of every kind that counters get wrong: what comes out is what was worked out by hand."""

from __future__ import annotations

import pytest

from shmoo.estimators.costs import graph_cost
from shmoo.estimators.graph.records import weights_of
from shmoo.harness.models.model_graphs import model_graphs
from shmoo.harness.models.request import Mode
from tests.harness.capture import kinds_of_models
from tests.harness.capture.kinds import KINDS

REGISTERED_BY = (kinds_of_models,)
"""Importing it fills `KINDS`."""


def short(name: str) -> str:
    return name.rpartition(":")[2]


@pytest.mark.parametrize("name", KINDS, ids=short)
def test_work_and_weights(name: str) -> None:
    graphs = model_graphs(name).graphs
    costs = [graph_cost(graph) for graph in graphs]
    assert not [op.op for cost in costs for op in cost.unknown]
    counted = {
        "macs": sum(cost.macs for cost in costs),
        "flops": sum(cost.flops for cost in costs),
        "weight_bytes": sum(value.spec.nbytes for value in weights_of(graphs) if value.kind != "constant"),
    }
    expected = {field: number for field in counted if (number := getattr(KINDS[name], field)) is not None}
    assert {field: counted[field] for field in expected} == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", [name for name, known in KINDS.items() if known.training_macs is not None], ids=short)
def test_training_of_frozen_parts(name: str) -> None:
    graphs = model_graphs(name, mode=Mode(training=True)).graphs
    assert sum(graph_cost(graph).macs for graph in graphs) == KINDS[name].training_macs
