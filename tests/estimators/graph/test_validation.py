"""The file of a graph is refused where a reader of it would not end, or would read what is not there."""

from __future__ import annotations

import json

import pytest

from shmoo.estimators.errors import FormatError
from shmoo.estimators.graph.records import Graph
from tests.hostile import linear

SPEC = {"shape": [8, 64], "dtype": "float32"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda g: g["values"][0].update(storage=0), "circle"),
        (
            lambda g: (g["values"][0].update(storage=1), g["values"][1].update(storage=2), g["values"][2].update(storage=0)),
            "circle",
        ),
        (lambda g: g["values"][0].update(storage=99), "shares the memory of value 99"),
        (lambda g: g["values"][0].update(storage=-1), "shares the memory of value -1"),
        (lambda g: g["values"][0]["spec"].update(shape=[-1, 4]), "shape"),
        (lambda g: g["values"][0]["spec"].update(shape=[2**40, 2**40]), "shape"),
        (lambda g: g["values"][0]["spec"].update(dtype="float33"), "float33"),
        (lambda g: g["calls"][0].update(reads=[0, 7]), "reads a value"),
        (lambda g: g["calls"][0].update(writes=[-1]), "writes a value"),
        (lambda g: g["calls"][0].update(reads=[0]), "reads 1 values for 2"),
        (lambda g: g["calls"][0].update(operands=["input"]), "names"),
        (lambda g: g["calls"][0]["outputs"][0].update(dtype="x"), "'x'"),
        (lambda g: g.update(outputs=[17]), "returns"),
        (lambda g: g.update(unread_weight_bytes=-1.0), "unread"),
    ],
)
def test_a_graph_that_does_not_hold_together_is_refused(change, words):
    """Indices, shared memory, sizes and types."""
    content = json.loads(linear(8).to_json())
    change(content)
    with pytest.raises(FormatError, match=words):
        Graph.from_json(json.dumps(content))


def test_views_of_views_are_sound():
    """A chain of shared memory that ends is none of those."""
    graph = linear(8)
    content = json.loads(graph.to_json())
    content["values"] += [{"spec": SPEC, "storage": 0}, {"spec": SPEC, "storage": 3}, {"spec": SPEC, "storage": 4}]
    assert Graph.from_json(json.dumps(content)).root(5) == 0


@pytest.mark.parametrize(
    "data", [b"[" * 100_000, b'{"format":1,"values":' + b"[" * 100_000, b"\xff\xfe{}", b"", b"null", b"1e999"]
)
def test_what_is_no_json_of_ours_is_refused(data):
    """Nested too deeply, no UTF-8, nothing at all."""
    with pytest.raises(FormatError):
        Graph.from_json(data)
