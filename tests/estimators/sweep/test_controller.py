"""Sweeps: every point once, on every machine, with what was swept in the row."""

from __future__ import annotations

import pytest

from shmoo.estimators.costs.quantize import with_dtype
from shmoo.estimators.errors import InputError
from shmoo.estimators.graph.records import Graph, OpCall, TensorSpec, single_call_graph
from shmoo.estimators.machine.profile import load_profile
from shmoo.estimators.sweep.controller import SweepController, rows_of
from shmoo.estimators.variants import variant
from shmoo.runs.plots.chart import Contour, Heat, Points, Regions
from shmoo.runs.plots.sweeps import Machines, sweep_answer, sweep_figures
from tests.build import GraphBuilder


def linear(axes: dict) -> tuple[Graph, ...]:
    """(m, 256) by (256, n)."""
    m, n = int(axes.get("m", 32)), int(axes.get("n", 64))
    x, w, y = TensorSpec((m, 256)), TensorSpec((n, 256)), TensorSpec((m, n))
    return (single_call_graph(OpCall("aten.linear", (x, w), (y,), ("input", "weight")), (1,), "linear"),)


def block(axes: dict) -> tuple[Graph, ...]:
    """A product, an activation and a sum."""
    b = GraphBuilder()
    x = b.tensor((64, 256))
    return (b.graph(b.add(b.relu(b.linear(x, 256)), x)),)


PROFILES = tuple(load_profile(name) for name in ("cpu_server_generic", "gpu_h100"))


def test_a_row_for_every_combination() -> None:
    """Two machines x three sizes x two clocks; the last profile axis varies fastest."""
    sweep = SweepController("linear", linear, PROFILES, {"n": (64, 128, 256)}, {"power.static": (10.0, 20.0)})
    rows = list(sweep.rows())
    assert len(rows) == len(sweep) == 2 * 3 * 2
    assert [row["n"] for row in rows[:5]] == [64, 64, 64, 64, 128]
    assert [row["power.static"] for row in rows[:4]] == [10.0, 20.0, 10.0, 20.0]
    assert {row["arch"] for row in rows} == {"cpu_server_generic", "gpu_h100"}


def test_work_follows_the_axis() -> None:
    """Multiply-adds of (32, 256) by (256, n)."""
    rows = SweepController("linear", linear, PROFILES[:1], {"n": (64, 128)}).rows()
    assert [row["macs"] for row in rows] == [32 * 256 * 64, 32 * 256 * 128]


def test_a_machine_coefficient_changes_the_estimate() -> None:
    """Fewer flops a second take longer, and the profile given stays as it was."""
    before = PROFILES[0].value("peak.matrix.float32")
    rows = list(SweepController("linear", linear, PROFILES[:1], {}, {"peak.matrix.float32": (1e12, 1e9)}).rows())
    assert rows[1]["latency_s"] > rows[0]["latency_s"]
    assert PROFILES[0].value("peak.matrix.float32") == before


def test_batch_gives_throughput() -> None:
    """Samples a second are batch / latency."""
    (row,) = SweepController("linear", linear, PROFILES[:1], {"m": (8,)}, fixed={"batch": 8}).rows()
    assert row["throughput_per_s"] == pytest.approx(8 / row["latency_s"])


def test_the_source_is_asked_once_a_point() -> None:
    """Machines share the graphs of a point."""
    asked = []

    def source(axes: dict) -> tuple[Graph, ...]:
        asked.append(dict(axes))
        return linear(axes)

    list(SweepController("linear", source, PROFILES, {"n": (64, 128)}, fixed={"m": 16}).rows())
    assert asked == [{"m": 16, "n": 64}, {"m": 16, "n": 128}]


def test_a_coefficient_that_no_profile_has_is_refused() -> None:
    """The nearest names are suggested."""
    with pytest.raises(InputError, match=r"bandwidth\.dram"):
        list(SweepController("linear", linear, PROFILES, {}, {"bandwidth.drum": (1e9,)}).rows())


def test_an_empty_axis_is_refused() -> None:
    """There is nothing to sweep."""
    with pytest.raises(InputError, match="'n' has no values"):
        list(SweepController("linear", linear, PROFILES, {"n": ()}).rows())


def test_many_points_are_the_same_rows_without_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limit a machine's variants are estimated together: every column but the intervals stays, with why those left."""
    sweep = SweepController(
        "linear", linear, PROFILES, {"n": (64, 512)}, {"tile_m": (16.0, 64.0), "bandwidth.dram": (1e10, 1e11)}
    )
    drawn = list(sweep.rows())
    monkeypatch.setattr("shmoo.estimators.sweep.controller.DRAWN_POINTS", 3)
    together = list(sweep.rows())
    assert len(together) == len(drawn) == len(sweep)
    for one, many in zip(drawn, together, strict=True):
        assert "left out" in many["interval_reason"]
        for name, value in one.items():
            if name.endswith(("_low", "_high")):
                assert many[name] is None
            else:
                assert many[name] == (pytest.approx(value, rel=1e-12) if isinstance(value, float) else value), name


def large(axes: dict) -> tuple[Graph, ...]:
    """A sum of 64 MB, which takes as long as its bytes."""
    x = TensorSpec((4096, 4096))
    return (single_call_graph(OpCall("aten.add", (x, x), (x,), ("self", "other"))),)


@pytest.mark.parametrize("name", ["cpu_server_generic", "gpu_t4", "tpu_v4", "kpu_t64"])
def test_points_drawn_together_have_the_intervals_of_each_alone(name: str) -> None:
    """Every column of every point, ends of intervals and shares of the basis included, to the last bit."""
    profile = load_profile(name)
    main = f"bandwidth.{profile.main_memory}"
    count = next(axis for axis in ("count.sms", "count.tiles", "count.units", "count.cores") if profile.get(axis))
    axes = {count: (profile.value(count), 2 * profile.value(count)), main: (1e11, 2e11, 4e11)}
    together = list(SweepController("block", block, [profile], profile_axes=axes).rows())
    alone = [
        row
        for first in axes[count]
        for second in axes[main]
        for row in SweepController("block", block, [variant(profile, {count: first, main: second})]).rows()
    ]
    assert len(together) == 6
    for many, one in zip(together, alone, strict=True):
        assert {column: many[column] for column in one} == one


def test_time_on_the_device_follows_the_points(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice the bandwidth takes half the time, with intervals and without."""
    for limit in (256, 1):
        monkeypatch.setattr("shmoo.estimators.sweep.controller.DRAWN_POINTS", limit)
        rows = list(SweepController("sum", large, PROFILES[1:], profile_axes={"bandwidth.dram": (1e11, 2e11)}).rows())
        assert rows[0]["device_s"] == pytest.approx(2 * rows[1]["device_s"], rel=0.05)


def test_fusion_and_runtimes_are_axes() -> None:
    """On two machines with two and one of the runtimes, fused and not: six rows; fusing never moves more bytes."""
    profiles = [load_profile(name) for name in ("gpu_h100", "tpu_v4")]
    sweep = SweepController("block", block, profiles, runtimes=("eager", "inductor", "xla"), fusion=(True, False))
    rows = list(sweep.rows())
    assert len(rows) == len(sweep) == (2 + 1) * 2
    assert [(row["arch"], row["runtime"], row["fusion"]) for row in rows[:3]] == [
        ("gpu_h100", "eager", "on"), ("gpu_h100", "eager", "off"), ("gpu_h100", "inductor", "on"),
    ]  # fmt: skip
    by = {(row["runtime"], row["fusion"]): row for row in rows}
    assert by["eager", "on"]["kernels"] == by["eager", "off"]["kernels"] == 3
    for runtime in ("inductor", "xla"):
        assert by[runtime, "on"]["kernels"] < by[runtime, "off"]["kernels"]
        assert by[runtime, "on"]["bytes"] < by[runtime, "off"]["bytes"]


def test_a_runtime_that_no_machine_has_is_refused() -> None:
    """eager on a TPU."""
    with pytest.raises(InputError, match="'eager'"):
        list(SweepController("block", block, [load_profile("tpu_v4")], runtimes=("eager",)).rows())


def test_threads_are_for_the_cpus_among_the_machines() -> None:
    """The GPU's rows stay."""
    rows = list(SweepController("linear", linear, PROFILES, {"n": (64,)}).rows(threads=2))
    assert [row["threads"] for row in rows] == [2, None]


def test_one_axis_draws_curves_and_two_draw_a_shmoo() -> None:
    """Every architecture has its curve or map, and every point is in it."""
    rows = list(SweepController("linear", linear, PROFILES, {"n": (64, 128, 256)}).rows())
    latency = sweep_figures(rows, ["n"])["curves"].charts[0]
    assert [mark.x for mark in latency.marks] == [(64, 128, 256)] * 2
    rows = list(SweepController("linear", linear, PROFILES, {"n": (64, 128, 256), "m": (8, 16, 32, 64)}).rows())
    maps = sweep_figures(rows, ["n", "m"])["map"]
    assert [chart.title for chart in maps.charts] == [profile.name for profile in PROFILES]
    for chart in maps.charts:
        (heat,) = chart.marks
        assert isinstance(heat, Heat)
        assert [len(line) for line in heat.layers[0].z] == [3] * 4
    with pytest.raises(InputError, match="at least one axis"):
        sweep_figures(rows, [])


def test_further_axes_are_curves_of_their_own() -> None:
    """Two machines x fusion on and off x two widths, along the batch: eight curves of latency, named by what differs."""
    rows = list(SweepController("linear", linear, PROFILES, {"m": (8, 16, 32), "n": (64, 128)}, fusion=(True, False)).rows())
    charts = {chart.y.title: chart for chart in sweep_figures(rows, ["m", "n", "fusion"])["curves"].charts}
    assert {"latency", "throughput", "achieved rate", "tiles", "energy"} <= set(charts)
    latency = charts["latency"].marks
    assert len(latency) == len({mark.name for mark in latency}) == 2 * 2 * 2
    assert latency[0].name == "cpu_server_generic, n 64, fusion on"
    assert len({(mark.colour, mark.line, mark.symbol) for mark in latency}) == len(latency)
    assert all(mark.low and mark.high for mark in latency)


def test_a_shmoo_shows_any_quantity_with_its_unit() -> None:
    """The menu has the rate, latency, energy and tiles; bandwidths are labelled in GB/s, memories in MiB, and bright is good."""
    axes = {"bandwidth.dram": (100e9, 200e9, 400e9), "capacity.l3": (2.0**23, 2.0**25, 2.0**27)}
    (machine,) = (p for p in PROFILES if p.family == "cpu")
    rows = list(SweepController("linear", linear, [machine], profile_axes=axes).rows())
    (chart,) = sweep_figures(rows, list(axes), {"bandwidth.dram": "B/s", "capacity.l3": "B"})["map"].charts
    assert chart.x.labels == ("100 GB/s", "200 GB/s", "400 GB/s")
    assert chart.y.labels == ("8.00 MiB", "32.0 MiB", "128 MiB")
    layers = {layer.name: layer for layer in chart.marks[0].layers}
    assert {"achieved rate", "latency", "energy", "tiles"} <= set(layers)
    assert layers["latency"].z[0][0] == rows[0]["latency_s"]
    assert layers["latency"].less
    assert not layers["achieved rate"].less


def test_the_working_set_leaves_the_chip_between_two_cells() -> None:
    """A border wherever one cell fits and its neighbour does not; the machine as built is marked between its cells."""
    rows = list(SweepController("linear", linear, PROFILES[:1], {"n": (64, 128, 256), "m": (8, 16, 32)}).rows())
    name, between = PROFILES[0].name, 0.5 * (rows[0]["peak_memory_bytes"] + rows[3]["peak_memory_bytes"])
    machines = Machines({name: {"n": 64 * 2**0.5, "m": 16}}, lambda row: between)
    (chart,) = sweep_figures(rows, ["n", "m"], machines=machines)["map"].charts
    outside = {(i, k) for i in range(3) for k in range(3) if rows[3 * i + k]["peak_memory_bytes"] > between}
    (contour,) = (mark for mark in chart.marks if isinstance(mark, Contour))
    crossed = {(i, k) for i in range(2) for k in range(3) if ((i, k) in outside) != ((i + 1, k) in outside)}
    assert {(x - 0.5, y + 0.5) for x, y, x1, _ in contour.pieces if x == x1} == crossed
    assert crossed
    (built,) = (mark for mark in chart.marks if isinstance(mark, Points))
    assert (built.x[0], built.y) == (pytest.approx(0.5), (1.0,))


def test_the_winner_of_each_cell_is_on_the_page() -> None:
    """The machine with the least time; the answer names it with its share, and the fastest point of all."""
    rows = list(SweepController("linear", linear, PROFILES, {"n": (64, 128, 256), "m": (8, 16, 32)}).rows())
    fastest = sweep_figures(rows, ["n", "m"])["winner"].charts[0]
    (regions,) = fastest.marks
    assert isinstance(regions, Regions)
    for k, m in enumerate((8, 16, 32)):
        for i, n in enumerate((64, 128, 256)):
            here = [row for row in rows if (row["n"], row["m"]) == (n, m)]
            assert regions.names[regions.index[k][i]] == min(here, key=lambda row: row["latency_s"])["arch"]
    winners = [regions.names[number] for line in regions.index for number in line]
    best = max(set(winners), key=winners.count)
    answer = sweep_answer(rows, ["n", "m"])
    assert f"{best} is the fastest machine at {winners.count(best) / 9:.0%}".replace("%", " %") in answer
    least = min(rows, key=lambda row: row["latency_s"])
    assert f"on {least['arch']} at n {least['n']}, m {least['m']}" in answer


def test_a_sweep_over_batches_is_told_by_its_best_throughput() -> None:
    """A batch of one always takes least time and energy: that is the range's end, and energy is that of a sample."""
    rows = [
        {"arch": "gpu_h100", "batch": batch, "latency_s": time_s, "energy_j": energy_j, "throughput_per_s": batch / time_s}
        for batch, time_s, energy_j in ((1, 1e-3, 1.0), (8, 2e-3, 2.0), (64, 0.032, 32.0))
    ]
    assert sweep_answer(rows, ["batch"]) == (
        "Best throughput: 4.00 k/s (2.00 ms a call) on gpu_h100 at batch 8; latency from 1.00 ms on gpu_h100 at batch 1 to "
        "32.0 ms on gpu_h100 at batch 64; least energy: 250 mJ a sample on gpu_h100 at batch 8."
    )


def test_runtimes_of_one_machine_are_curves_of_their_own() -> None:
    """Eager and inductor of two machines: four curves of latency, a colour a machine and a dash a runtime."""
    rows = list(SweepController("linear", linear, PROFILES, {"n": (64, 128)}, runtimes=("eager", "inductor")).rows())
    latency = sweep_figures(rows, ["n", "runtime"])["curves"].charts[0].marks
    assert len({mark.name for mark in latency}) == 4
    assert len({mark.colour for mark in latency}) == 2


def test_another_type_changes_bytes_and_nothing_else() -> None:
    """int4 stores eight elements in the bytes of one float32; indices keep their type."""
    (graph,) = linear({})
    narrow = with_dtype(graph, "int4")
    assert narrow.weight_bytes == graph.weight_bytes / 8
    assert [call.op for call in narrow.calls] == [call.op for call in graph.calls]
    assert narrow.values[0].spec.shape == graph.values[0].spec.shape
    index = TensorSpec((4,), "int64")
    lookup = single_call_graph(OpCall("aten.relu", (index,), (index,), ("self",)))
    assert with_dtype(lookup, "bf16") == lookup


@pytest.mark.parametrize("parts", [1, 2, 5, 7, 40])
@pytest.mark.parametrize("points", [3, 300])
def test_parts_in_order_are_all_rows(parts: int, points: int) -> None:
    """With intervals, and beyond the number of variants that have them; only the parts that need a graph ask for it."""
    asked = []

    def source(settings: dict) -> tuple[Graph, ...]:
        asked.append(settings)
        return linear(settings)

    changed = {"bandwidth.dram": [1e11 * (1 + n) for n in range(points)], "tile_m": [8.0, 16.0]}
    sweep = SweepController("linear", source, [load_profile("kpu_t64")], {"n": (64, 128, 256)}, changed)
    whole = list(sweep.rows())
    asked.clear()
    blocks = (block for part in range(parts) for block in sweep.blocks(part=part, parts=parts))
    assert [row for block in blocks for row in rows_of(block)] == whole
    assert len(asked) <= parts + 2
