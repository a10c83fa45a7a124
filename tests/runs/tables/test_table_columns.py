"""Columns that say what a latency is of, where weights come from, and how heads share keys."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from shmoo.calibrate.calibration import calibrate_cases
from shmoo.calibrate.fit.dataset import MeasuredCase, Sources, block_of, blocks, read_sources
from shmoo.calibrate.fit.fit import predicted_latency
from shmoo.calibrate.fit.parameters import parameters_for
from shmoo.estimators.costs import graph_cost
from shmoo.estimators.errors import FormatError, InputError
from shmoo.estimators.machine.coefficients import Coefficients
from shmoo.estimators.machine.profile import load_profile
from shmoo.estimators.predict.director import AnalysisDirector
from shmoo.runs.tables.reading import TableRow, read_table
from tests.build import with_values

H100 = load_profile("gpu_h100")


def read(path: Path, header: str, *rows: str) -> tuple[TableRow, ...]:
    path.write_text("\n".join((header, *rows)) + "\n")
    return read_table(path, device="cuda")


def test_heads_that_share_keys_and_masks_are_read(tmp_path: Path) -> None:
    """b is the batch; several queries are causal unless the table says otherwise."""
    header = "op,dtype,b,m,n,k,heads,kv_heads,causal,latency_s"
    rows = read(tmp_path / "t.csv", header, "attention,bf16,4,1,512,64,8,2,,1e-5", "attention,bf16,4,512,512,64,8,,,1e-5",
                "attention,bf16,4,512,512,64,8,,0,1e-5")  # fmt: skip
    (call,) = rows[0].graph().calls
    assert [spec.shape for spec in call.inputs] == [(4, 8, 1, 64), (4, 2, 512, 64), (4, 2, 512, 64)]
    assert [row.graph().calls[0].attributes["is_causal"] for row in rows] == [False, True, False]
    with pytest.raises(FormatError, match="'kv_heads' is 3"):
        read(tmp_path / "t.csv", header, "attention,bf16,4,1,512,64,8,3,,1e-5")


def test_power_gives_energy(tmp_path: Path) -> None:
    """500 W over 2 ms are 1 J."""
    (row,) = read(tmp_path / "t.csv", "op,m,n,k,latency_s,power_w", "linear,8,8,8,2e-3,500")
    assert row.energy_j == pytest.approx(1.0)


def test_an_energy_and_a_power_agree(tmp_path: Path) -> None:
    """1 J in 2 ms is 500 W, within what meters average; 1 W is of something else."""
    header = "op,m,n,k,latency_s,energy_j,power_w"
    (row,) = read(tmp_path / "t.csv", header, "linear,8,8,8,2e-3,1.0,480")
    assert row.energy_j == 1.0
    with pytest.raises(FormatError, match=r"'energy_j' is 1, but power_w x latency_s is 0.002"):
        read(tmp_path / "t.csv", header, "linear,8,8,8,2e-3,1.0,1")


def test_weights_in_fewer_bits_are_read_from_memory_as_they_are_stored(tmp_path: Path) -> None:
    """4 bits a weight in 16-bit products; float8 ones are multiplied in float8 after the activation was rounded."""
    header = "op,dtype,m,n,k,weights,latency_s"
    small, rounded, plain = read(
        tmp_path / "t.csv", header, *(f"linear,bf16,16,4096,4096,{weights},1e-5" for weights in ("int4", "fp8", "bf16"))
    )
    (smallest,) = read(tmp_path / "t.csv", header, "linear,bf16,16,4096,4096,nvfp4,1e-5")
    products = smallest.graph().calls[-1]
    assert (products.op, products.computes_in) == ("aten._scaled_mm", "float4")
    tables = [AnalysisDirector(H100).tabulate((row.graph(),), "cudagraphs")[0] for row in (small, rounded, plain)]
    assert tables[0].bytes.sum() == pytest.approx(tables[2].bytes.sum() / 4, rel=0.1)
    assert len(tables[1]) > len(tables[2]) == 1
    with pytest.raises(FormatError, match="no weight to quantize"):
        read(tmp_path / "t.csv", header, "bmm,bf16,16,64,64,int4,1e-5")
    with pytest.raises(InputError, match="time"):
        read(tmp_path / "t.csv", "op,m,n,k,latency_s,time", "linear,8,8,8,2e-3,devices")


def test_cold_weights_come_from_main_memory(tmp_path: Path) -> None:
    """4096 x 4096 weights in 16 bits fit the L2 of an H100 once and not six times."""
    header = "op,dtype,m,n,k,state,time,latency_s"
    rows = read(
        tmp_path / "t.csv", header, *(f"linear,bf16,1,4096,4096,{state},device,1e-5" for state in ("warm", "cold_weights"))
    )
    cases = [MeasuredCase(row.case, (row.graph(),), 1e-5, time="device") for row in rows]
    warm, cold = predicted_latency([block_of(cases, "cudagraphs", AnalysisDirector(H100))], Coefficients(H100))
    assert cold > 1.5 * warm


def test_device_times_leave_launches_alone(tmp_path: Path) -> None:
    """A table of device times: no coefficient of a launch is fitted, and that of the shortest kernel is found again."""
    truth = H100.replacing(coefficients={**H100.coefficients, "device_launch.gemm_tensor": H100.coefficients["launch.eager"]})
    truth = with_values(truth, {"device_launch.gemm_tensor": 3.7e-6})
    sides = (16, 64, 256, 1024, 4096)
    lines = ["op,dtype,m,n,k,time,latency_s"]
    cases = [
        TableRow(0, "linear", {"b": 1, "m": m, "n": n, "k": k}, "bfloat16", device="cuda")
        for m in sides
        for n in sides
        for k in sides
    ]
    block = block_of(
        [MeasuredCase(row.case, (row.graph(),), 1.0, time="device") for row in cases], "eager", AnalysisDirector(truth)
    )
    for row, latency in zip(cases, predicted_latency([block], Coefficients(truth)), strict=True):
        lines.append(f"linear,bf16,{row.axes['m']},{row.axes['n']},{row.axes['k']},device,{latency}")
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    read_back = read_sources([tmp_path / "t.csv"], "gpu")
    assert not any(p.name.startswith(("launch", "graph")) for p in parameters_for(blocks(read_back.cases, H100), H100))
    alone = parameters_for(blocks(read_back.cases, H100), H100, only=("gemm_tensor",))
    assert {p.name.rpartition(".")[2] for p in alone} == {"gemm_tensor"}
    assert all(p.parent is None for p in alone)
    made = calibrate_cases(Sources(read_back.cases, "", ("t",), None), H100, name="t", residual=False).profile
    assert made.value("device_launch.gemm_tensor") == pytest.approx(3.7e-6, rel=0.15)
    assert np.isfinite(made.value("fetch.latency.gemm_tensor"))


@pytest.mark.parametrize(
    ("header", "row", "said"),
    [
        ("dtype,weights", "bfloat16,foo", r":2: unknown type of weights 'foo'.*allowed: float8, int4, int8, nvfp4"),
        ("dtype,weights", "int4,float8", r":2: column 'weights' is 'float8', which needs floating-point activations of 16 bits"),
    ],
)
def test_weights_that_cannot_be_are_refused_with_their_row(tmp_path: Path, header: str, row: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        read(tmp_path / "t.csv", f"op,m,n,k,latency_s,{header}", f"linear,8,8,8,1e-6,{row}")


@pytest.mark.parametrize(
    ("header", "row", "said"),
    [
        ("kv_heads", "2", "'kv_heads' needs column 'heads'"),
        ("causal", "1", "'causal' needs column 'heads'"),
        ("heads,causal", "4,2", "unknown causal '2'"),
    ],
)
def test_heads_and_masks_that_cannot_be_are_refused(tmp_path: Path, header: str, row: str, said: str) -> None:
    with pytest.raises(InputError, match=f":2: .*{said}"):
        read(tmp_path / "t.csv", f"op,b,m,n,k,latency_s,{header}", f"attention,1,8,8,8,1e-6,{row}")


def test_types_that_rows_may_have_are_named_with_the_complex_ones(tmp_path: Path) -> None:
    """complex32 is none of them; torch's other name of complex64 is read."""
    with pytest.raises(InputError, match=r"dtype of an operator 'complex32'.* allowed: bfloat16, complex128, complex64, float16"):
        read(tmp_path / "t.csv", "op,dtype,m,n,k,latency_s", "bmm,complex32,8,16,32,1e-6")
    assert read(tmp_path / "t.csv", "op,dtype,m,n,k,latency_s", "bmm,torch.cfloat,8,16,32,1e-6")[0].dtype == "complex64"


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
def test_a_complex_multiply_add_is_four_of_reals_and_eight_flops(tmp_path: Path, dtype: str) -> None:
    """bmm of 8 x 16 x 32, and an addition of two parts an element."""
    product, loop = read(
        tmp_path / "t.csv", "op,dtype,m,n,k,rows,cols,latency_s", f"bmm,{dtype},8,16,32,,,1e-6", f"add,{dtype},,,,4,4,1e-6"
    )
    cost = graph_cost(product.graph())
    assert (cost.macs, cost.flops) == (4 * 8 * 16 * 32, 8 * 8 * 16 * 32)
    assert graph_cost(loop.graph()).flops == 2 * 16


def test_kernels_of_another_library_keep_their_estimate_and_widen_its_interval(tmp_path: Path) -> None:
    """TensorRT-LLM's attention takes about as long as the one that was measured; how long exactly is known less well."""
    header = "op,dtype,b,m,n,k,heads,kv_heads,time,library,latency_s"
    cells = "attention,bf16,4,1,4096,128,32,8,device,{},1e-5"
    rows = read(tmp_path / "t.csv", header, *(cells.format(library) for library in ("", "measured", "other")))
    assert len({row.case.identity for row in rows}) == 2
    priced = AnalysisDirector(H100).price_cases([row.graph() for row in rows], runtime="cudagraphs")
    own, named, other = (time for part in priced for time, _ in part.device_intervals())
    assert own == named
    assert other.value == own.value
    assert other.low < 0.8 * own.low
    assert other.high > 1.2 * own.high
    with pytest.raises(InputError, match="unknown library 'trtllm'"):
        read(tmp_path / "t.csv", header, cells.format("trtllm"))
