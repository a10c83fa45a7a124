"""Types of operator tables: estimated and calibrated in the type that each row names."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from shmoo.calibrate.calibration import calibrate_cases
from shmoo.calibrate.fit.dataset import blocks, read_sources
from shmoo.calibrate.fit.fit import predicted_latency
from shmoo.calibrate.fit.parameters import parameters_for
from shmoo.estimators.errors import InputError
from shmoo.estimators.machine.coefficients import Coefficients
from shmoo.estimators.machine.profile import load_profile
from shmoo.estimators.predict.director import AnalysisDirector
from shmoo.runs.analysis.predict import director_predictor
from shmoo.runs.store.records import CaseSpec
from shmoo.runs.tables.reading import TableRow, read_table
from tests.cli_runner import shmoo

TYPES = ("float32", "tf32", "bfloat16", "fp16", "fp8", "int8")


def write(path: Path, rows: list[tuple[object, ...]]) -> Path:
    """op, dtype, m, n, k and latency of products."""
    lines = ["op,dtype,b,m,n,k,latency_s", *(f"{op},{dtype},1,{m},{n},{k},{s}" for op, dtype, m, n, k, s in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def seconds(tmp_path: Path) -> dict[str, float]:
    """Type -> estimate of the same product in a table of six types, on an H200."""
    table = write(tmp_path / "ops.csv", [("linear", dtype, 8192, 8192, 8192, "") for dtype in TYPES])
    result = shmoo("estimate", "--ops", str(table), "--arch", "gpu_h200", "--json")
    assert result.exit_code == 0, result.output
    return dict(zip(TYPES, (row["latency_s"]["value"] for row in json.loads(result.stdout)), strict=True))


def test_estimate_honours_the_type_of_every_row(seconds: dict[str, float]) -> None:
    """Tensor cores double their rate from tf32 to 16 bits. From there to 8 bits a board at its cap gains less: products of this
    kind were measured at 684 Tflop/s in bfloat16 and at 1,035 to 1,150 in float8. Float16 takes more joules than bfloat16."""
    assert seconds["float32"] > 4 * seconds["tf32"]
    assert seconds["tf32"] == pytest.approx(2 * seconds["bfloat16"], rel=0.15)
    assert seconds["bfloat16"] <= seconds["fp16"]
    assert seconds["bfloat16"] == pytest.approx(1.6 * seconds["fp8"], rel=0.1)
    assert seconds["int8"] <= seconds["fp8"] < 1.1 * seconds["int8"]


def test_float16_is_hardly_slower_than_bfloat16(seconds: dict[str, float]) -> None:
    """An H100 was measured at 736 and 797 Tflop/s."""
    assert seconds["fp16"] < 1.1 * seconds["bfloat16"]


def test_many_cases_take_the_type_asked_for_each() -> None:
    """A tf32 row between float32 rows is the estimate of its graph in tf32, and leaves the others as they are."""
    director = AnalysisDirector(load_profile("gpu_a100_40g"))
    graph = TableRow(0, "linear", {"b": 1, "m": 2048, "n": 2048, "k": 2048}, "tf32").graph()
    rows = director.estimate_cases([graph] * 3, runtime="eager", compute_dtypes=(None, "tf32", None))
    single = [director.estimate(graph, runtime="eager", compute_dtype=dtype).latency_s.value for dtype in (None, "tf32", None)]
    assert [latency.value for latency, _ in rows] == pytest.approx(single)
    with pytest.raises(InputError, match="compute_dtype 'float64'"):
        director.estimate_cases([graph], compute_dtypes=("float64",))


def test_reports_predict_tf32_rows_in_tf32() -> None:
    """Alone and together with others, by the case's type."""
    director = AnalysisDirector(load_profile("gpu_a100_40g"))
    row = TableRow(0, "linear", {"b": 1, "m": 2048, "n": 2048, "k": 2048}, "tf32")
    asked = [
        (CaseSpec("linear", kind, row.axes, dtype), (row.graph(),)) for kind in ("operator", "network") for dtype in TYPES[:2]
    ]
    found = [estimate.latency_s.value for estimate in director_predictor(director.profile)(asked)]
    single = [director.estimate(row.graph(), runtime="eager", compute_dtype=dtype).latency_s.value for dtype in (None, "tf32")]
    assert found == pytest.approx(single * 2)


def test_types_that_no_unit_computes_in_are_refused(tmp_path: Path) -> None:
    """The line is named, and the nearest types."""
    with pytest.raises(InputError, match=r"ops\.csv:3: unknown dtype of an operator .float80."):
        read_table(write(tmp_path / "ops.csv", [("linear", "bf16", 8, 8, 8, 1), ("linear", "float80", 8, 8, 8, 1)]))


def test_tf32_rows_of_a_card_without_it_are_fitted_as_float32(tmp_path: Path) -> None:
    """The tables of a fit on a T4 are the same; on an A100 they are not."""
    sides = (64, 512)
    for name, same in (("gpu_t4", True), ("gpu_a100_40g", False)):
        tables = []
        for dtype in TYPES[:2]:
            rows = [("bmm", dtype, m, n, k, 1e-3) for m, n, k in itertools.product(sides, sides, sides)]
            source = read_sources([write(tmp_path / f"{dtype}.csv", rows)], "gpu")
            tables.append(blocks(source.cases, load_profile(name))[0].table)
        assert np.array_equal(tables[0].dtype, tables[1].dtype) == same


def test_rows_on_tensor_cores_are_fitted_by_coefficients_of_their_own(tmp_path: Path) -> None:
    """float32 rows feel `efficiency.gemm`, bfloat16 and tf32 rows `efficiency.gemm_tensor`."""
    sides = (256, 1024, 4096)
    for dtype, algorithm in (("float32", "gemm"), ("bfloat16", "gemm_tensor"), ("tf32", "gemm_tensor")):
        rows = [("linear", dtype, m, n, k, 1e-3) for m, n, k in itertools.product(sides, sides, sides)]
        profile = load_profile("gpu_h100")
        cases = blocks(read_sources([write(tmp_path / f"{dtype}.csv", rows)], "gpu").cases, profile)
        names = {p.name for p in parameters_for(cases, profile) if p.name.startswith("efficiency.gemm")}
        assert names == {f"efficiency.{algorithm}"}


def test_a_machine_calibrated_in_bfloat16_says_so(tmp_path: Path) -> None:
    """Its efficiency is recovered; a bfloat16 product then rests on the fit, and a float32 product does not."""
    base, sides = load_profile("gpu_h100"), (304, 896, 2000, 4496, 8192)
    truth = {"efficiency.gemm_tensor": 0.7, "efficiency.bandwidth.gemm_tensor": 0.8, "launch.eager.linear": 11e-6}
    shapes = list(itertools.product(sides, sides, sides))
    unknown = read_sources([write(tmp_path / "unknown.csv", [("linear", "bf16", *s, 1e-3) for s in shapes])], "gpu")
    seconds = predicted_latency(blocks(unknown.cases, base), Coefficients(base, truth))
    table = write(tmp_path / "known.csv", [("linear", "bf16", *s, t) for s, t in zip(shapes, seconds, strict=True)])
    profile = calibrate_cases(read_sources([table], "gpu"), base, name="known", residual=False).profile
    assert profile.fitted_from.dtypes == ("bfloat16",)
    assert profile.value("efficiency.gemm_tensor") == pytest.approx(0.7, rel=0.1)
    director = AnalysisDirector(profile)
    shares = {}
    for dtype in ("bfloat16", "float16", "float32"):
        graph = TableRow(0, "linear", {"b": 1, "m": 8192, "n": 8192, "k": 8192}, dtype).graph()
        shares[dtype] = director.estimate(graph, runtime="eager").basis["fitted"]
    assert shares["bfloat16"] > 0.9
    assert shares["float16"] > 0.9  # the same kernels
    assert shares["float32"] < 0.1
    assert np.isfinite(seconds).all()
