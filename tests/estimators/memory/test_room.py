"""Whether a call fits a machine's memory, added up by hand."""

from __future__ import annotations

import pytest

from shmoo.estimators.costs.quantize import SCHEMES, quantized, saved_bytes
from shmoo.estimators.graph.records import Graph
from shmoo.estimators.machine.profile import builtin_names, load_profile
from shmoo.estimators.memory.peak import peak_memory_bytes, resident_weight_bytes
from shmoo.estimators.memory.room import MemoryRoom, memory_room, state_bytes
from shmoo.estimators.predict.director import AnalysisDirector
from shmoo.estimators.predict.estimate_records import estimate_record, flatten
from shmoo.estimators.sweep.controller import DRAWN_POINTS, SweepController
from shmoo.runs.plots.sweeps import sweep_figures
from tests.build import GraphBuilder, with_values

GIB = 2.0**30


def room(weights: float, cache: float = 0.0, activations: float = 0.0, **more) -> MemoryRoom:
    """Numbers in GiB, on a machine of 24 GiB unless said otherwise."""
    given = {"capacity_bytes": 24 * GIB, **more}
    return MemoryRoom(weight_bytes=weights * GIB, cache_bytes=cache * GIB, activation_bytes=activations * GIB, **given)


def wide_layer(batch: int = 8) -> Graph:
    """(batch, 1024) by (1024, 4096): 16 MiB of weights."""
    b = GraphBuilder()
    return b.graph(b.relu(b.linear(b.tensor((batch, 1024)), 4096)))


def test_what_fits_needs_nothing() -> None:
    """20 of 24 GiB: one device, no advice; 3 GiB of 2 samples leave room for (24 - 17) / 1.5 = 4."""
    found = room(17.0, activations=3.0, batch=2)
    assert (found.fits, found.missing_bytes, found.devices, found.largest_batch, found.advice) == (True, 0.0, 1, 4, "")


def test_what_does_not_fit_says_what_is_missing_and_what_would() -> None:
    """131.5 GiB on 24: 107.5 missing, 6 devices; weights of a quarter on 2; no batch helps."""
    found = room(131.0, cache=0.25, activations=0.25, saved_bytes={"int8-weight": 65.0 * GIB, "int4-weight": 98.0 * GIB})
    assert (found.fits, found.missing_bytes, found.devices, found.largest_batch) == (False, 107.5 * GIB, 6, 0)
    assert found.quantized_devices == {"int8-weight": 3, "int4-weight": 2}
    assert found.advice == (
        "needs 132 GiB (weights 131 GiB, cache 256 MiB, activations 256 MiB), 108 GiB more than 24.0 GiB; "
        "by memory would fit: 6 devices, int8-weight on 3, int4-weight on 2"
    )


def test_a_smaller_batch_is_named_where_it_would_fit() -> None:
    """10 GiB of weights and 20 of 32 samples: 22 of them fit."""
    found = room(10.0, activations=20.0, batch=32)
    assert found.largest_batch == 22
    assert "batch 22, 2 devices" in found.advice


def test_an_unknown_capacity_is_no_answer() -> None:
    """Neither yes nor no, and the record says why."""
    profile = load_profile("gpu_l4")
    silent = profile.replacing(coefficients={n: c for n, c in profile.coefficients.items() if n != "capacity.dram"})
    estimate = AnalysisDirector(silent).estimate(wide_layer())
    assert (estimate.memory.fits, estimate.memory.devices, estimate.memory.advice) == (None, None, "")
    record = estimate_record(estimate, "layer")
    assert record["fits"] is None
    assert "capacity" in record["fits_reason"]


@pytest.mark.parametrize("name", builtin_names())
def test_every_built_in_profile_says_its_memory(name: str) -> None:
    """With its source."""
    capacity = load_profile(name).get("capacity.dram")
    assert capacity is not None
    assert capacity.value > GIB
    assert capacity.reference


def test_the_parts_of_memory_add_up_to_the_peak() -> None:
    """16 MiB of weights; input and the larger activations are the rest."""
    graph = wide_layer()
    found = memory_room([graph], peak_memory_bytes(graph))
    assert found.weight_bytes == 4 * 1024 * 4096
    assert found.cache_bytes == 0
    assert found.needed_bytes == peak_memory_bytes(graph)


def test_a_cache_is_what_a_call_stores_into() -> None:
    """Keys written into a slice of an input count whole; an activation in place is no store."""
    b = GraphBuilder()
    keys, new = b.tensor((1, 8, 128, 64)), b.tensor((1, 8, 1, 64))
    part = b.call("slice", {"self": keys}, (1, 8, 1, 64), storage=keys, dim=2)
    stored = b.call("copy", {"self": part, "src": new}, (1, 8, 1, 64), storage=keys, inplace=True)
    assert state_bytes(b.graph(stored)) == 4 * 8 * 128 * 64
    b = GraphBuilder()
    x = b.tensor((100,))
    assert state_bytes(b.graph(b.call("relu", {"self": x}, (100,), storage=x, inplace=True))) == 0


@pytest.mark.parametrize("scheme", SCHEMES)
def test_saved_bytes_are_those_of_the_quantized_graphs(scheme: str) -> None:
    """Two layers, one of whose weights an embedding reads too."""
    b = GraphBuilder()
    table = b.tensor((500, 256), "parameter", "table")
    tokens = b.tensor((4, 7))
    x = b.linear(b.call("embedding", {"weight": table, "indices": tokens}, (4, 7, 256)), 256)
    graph = b.graph(b.call("linear", {"input": x, "weight": table}, (4, 7, 500)))
    (small,) = quantized([graph], scheme)
    assert saved_bytes([graph])[scheme] == graph.weight_bytes - small.weight_bytes
    assert saved_bytes([small])[scheme] == 0


@pytest.mark.parametrize("scheme", SCHEMES)
def test_pieces_that_share_a_weight_save_it_once(scheme: str) -> None:
    """A table that one piece looks up in stays beside the copy that the product of another reads."""
    pieces = []
    for size in (4, 8):
        b = GraphBuilder()
        table, shared = b.tensor((512, 256), "parameter", "table"), b.tensor((256, 256), "parameter", "shared")
        x = b.call("linear", {"input": b.tensor((size, 256)), "weight": shared}, (size, 256))
        if size == 4:
            x = b.call("linear", {"input": x, "weight": table}, (4, 512))
        else:
            x = b.call("embedding", {"weight": table, "indices": b.tensor((size,))}, (size, 256))
        pieces.append(b.graph(x))
    small = quantized(pieces, scheme)
    assert saved_bytes(pieces)[scheme] == resident_weight_bytes(pieces) - resident_weight_bytes(small)


def test_a_record_says_whether_it_fits() -> None:
    """The layer does not fit into 8 MiB: its rows have one value a column."""
    profile = with_values(load_profile("gpu_l4"), {"capacity.dram": 8 * 2.0**20})
    record = estimate_record(AnalysisDirector(profile).estimate(wide_layer(), batch=8), "layer")
    assert record["fits"] is False
    assert record["memory"]["devices"] == 3
    assert record["memory"]["quantized_devices"] == dict.fromkeys(SCHEMES, 1)
    flat = flatten(record)
    assert flat["memory_capacity_bytes"] == 8 * 2.0**20
    assert flat["memory_missing_bytes"] == record["peak_memory_bytes"] - 8 * 2.0**20
    assert flat["memory_devices_int4-weight"] == 1
    assert "int4-weight" in flat["memory_advice"]
    assert not any(isinstance(value, dict | list) for value in flat.values())


@pytest.mark.parametrize("count", [3, DRAWN_POINTS + 1])
def test_a_sweep_over_the_memory_says_from_where_on_it_fits(count: int) -> None:
    """With intervals and without."""
    sizes = [float(2**20 * (1 + i)) for i in range(count - 1)] + [float(2**30)]
    sweep = SweepController(
        "layer", lambda point: (wide_layer(),), [load_profile("gpu_l4")], profile_axes={"capacity.dram": sizes}
    )
    rows = list(sweep.rows())
    assert [row["fits"] for row in rows] == [row["peak_memory_bytes"] <= size for row, size in zip(rows, sizes, strict=True)]
    assert {row["fits"] for row in rows} == {True, False}
    assert rows[0]["memory_devices"] == -(-rows[0]["peak_memory_bytes"] // sizes[0])


def test_plots_tell_what_does_not_fit() -> None:
    """Open symbols on curves, crosses on maps, and a line of the hover text."""
    axes = {"capacity.dram": (2.0**20, 2.0**21, 2.0**30), "bandwidth.dram": (1e11, 2e11, 4e11)}
    sweep = SweepController("layer", lambda point: (wide_layer(),), [load_profile("gpu_l4")], profile_axes=axes)
    rows = list(sweep.rows())
    (chart,) = sweep_figures(rows, list(axes))["map"].charts
    heat, crosses = chart.marks
    assert set(zip(crosses.x, crosses.y, strict=True)) == {(x, y) for x in (0, 1) for y in (0, 1, 2)}
    assert "does not fit" in heat.texts[0]
    assert "does not fit" not in heat.texts[2]
    rows = [row for row in rows if row["bandwidth.dram"] == 1e11]
    curve = sweep_figures(rows, ["capacity.dram"])["curves"].charts[0].marks[0]
    assert curve.hollow == (True, True, False)
