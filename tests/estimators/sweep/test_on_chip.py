"""The planner: the largest size whose footprint a chip holds and whose tiles do not spill."""

from __future__ import annotations

import pytest

from shmoo.estimators.errors import InputError
from shmoo.estimators.graph.records import Graph
from shmoo.estimators.machine.profile import ArchitectureProfile, load_profile
from shmoo.estimators.predict.director import AnalysisDirector
from shmoo.estimators.predict.graph_table import tabulate_model
from shmoo.estimators.sweep.controller import SweepController
from shmoo.estimators.sweep.on_chip import largest_on_chip, on_chip_bytes, spill_bytes
from shmoo.estimators.variants import variant
from tests.build import GraphBuilder

IN, OUT = 256, 128


def mlp(axes: dict) -> tuple[Graph, ...]:
    """(batch, 256) through a hidden layer of `hidden` to 128."""
    b = GraphBuilder()
    x = b.tensor((int(axes.get("batch", 1)), IN))
    hidden = b.linear(x, int(axes["hidden"]))
    return (b.graph(b.linear(hidden, OUT)),)


def footprint(batch: int, hidden: int) -> int:
    """Weights, the input, and the hidden layer beside the larger of what is alive with it: float32."""
    weights = IN * hidden + hidden * OUT
    return 4 * (weights + batch * IN + batch * hidden + batch * OUT)


def holding(nbytes: float) -> ArchitectureProfile:
    """A KPU whose L3 has that many bytes."""
    return variant(load_profile("kpu_t64"), {"capacity.l3": nbytes})


HIDDEN = tuple(range(64, 4097, 64))


@pytest.mark.parametrize("mebibytes", [1, 2, 4])
@pytest.mark.parametrize("batch", [1, 64])
def test_the_largest_size_is_where_the_footprint_fills_the_memory(mebibytes: int, batch: int) -> None:
    """The largest h of the list with 4 (256 h + 128 h + B (256 + h + 128)) <= capacity."""
    capacity = mebibytes * 2**20
    expected = max(h for h in HIDDEN if footprint(batch, h) <= capacity)
    sweep = SweepController("mlp", mlp, [holding(capacity)], {"hidden": HIDDEN}, fixed={"batch": batch})
    (found,) = largest_on_chip(sweep)
    assert found.value == expected
    assert found.footprint_bytes == footprint(batch, expected)
    assert found.capacity_bytes == capacity
    assert found.limit == "memory"


def test_every_machine_variant_and_other_axis_has_an_answer() -> None:
    """Two batches x one KPU with two memories, and more memory never holds less."""
    sweep = SweepController(
        "mlp", mlp, [load_profile("kpu_t64")], {"hidden": HIDDEN, "batch": (1, 64)}, {"capacity.l3": (2.0**20, 2.0**22)}
    )
    found = list(largest_on_chip(sweep))
    assert [f.settings for f in found] == [{"batch": b, "capacity.l3": c} for b in (1, 64) for c in (2.0**20, 2.0**22)]
    assert found[0].value < found[1].value
    assert found[2].value <= found[0].value


def test_both_ends_of_the_axis_are_told() -> None:
    """Nothing fits a kilobyte; everything fits a gibibyte, and then the axis is the limit."""
    tiny, huge = holding(1024.0), holding(2.0**30)
    (none,) = largest_on_chip(SweepController("mlp", mlp, [tiny], {"hidden": HIDDEN}))
    assert none.value is None
    assert none.limit == "memory"
    assert none.footprint_bytes == footprint(1, HIDDEN[0])
    (all_of_it,) = largest_on_chip(SweepController("mlp", mlp, [huge], {"hidden": HIDDEN}))
    assert (all_of_it.value, all_of_it.limit) == (HIDDEN[-1], "none")


def test_few_sizes_are_captured() -> None:
    """64 sizes need at most 7 captures: the list is halved."""
    asked = []

    def source(axes: dict) -> tuple[Graph, ...]:
        asked.append(axes["hidden"])
        return mlp(axes)

    list(largest_on_chip(SweepController("mlp", source, [holding(2.0**21)], {"hidden": HIDDEN})))
    assert len(asked) == len(set(asked)) <= 7


def test_what_a_chip_keeps_between_kernels() -> None:
    """A TPU's scratchpads add up, a GPU keeps its L2, a KPU its L3, a CPU its largest cache of all cores."""
    tpu, gpu, kpu, cpu = (load_profile(name) for name in ("tpu_v4", "gpu_h100", "kpu_t64", "cpu_server_generic"))
    assert on_chip_bytes(tpu) == tpu.value("capacity.vmem") + tpu.value("capacity.cmem")
    assert on_chip_bytes(gpu) == gpu.value("capacity.l2")
    assert on_chip_bytes(kpu) == kpu.value("capacity.l3")
    assert on_chip_bytes(cpu) == max(cpu.value("capacity.l3"), cpu.value("count.cores") * cpu.value("capacity.l2"))


def test_tiles_of_a_product_that_overflows_the_chip_spill() -> None:
    """A product whose operands are far larger than the L3 is served again and again; a small one never."""
    director = AnalysisDirector(holding(2.0**20))

    def spilled(batch: int, hidden: int) -> float:
        return spill_bytes(director, tabulate_model(mlp({"batch": batch, "hidden": hidden}), "domainflow", "kpu").table)

    assert spilled(1, 64) == 0
    assert spilled(8192, 8192) > 0


@pytest.mark.parametrize("axes", [{}, {"hidden": ("a", "b")}])
def test_an_axis_of_numbers_is_needed(axes: dict) -> None:
    """What cannot be maximised is refused."""
    with pytest.raises(InputError, match="--largest-on-chip"):
        list(largest_on_chip(SweepController("mlp", mlp, [holding(1e6)], axes)))
