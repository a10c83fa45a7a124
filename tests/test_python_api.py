"""The Python that docs/python.md shows is run as it stands there."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import shmoo
from shmoo.estimators.costs import graph_cost
from shmoo.estimators.errors import InputError

torch = pytest.importorskip("torch")
PAGE = Path(__file__).parents[1] / "docs" / "python.md"


@pytest.fixture(scope="module")
def ran() -> dict[str, object]:
    """Names that the page's code blocks define, run in order."""
    names: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL):
        exec(compile(block, str(PAGE), "exec"), names)
    return names


def test_the_short_way_takes_three_lines() -> None:
    """A model's name to a DataFrame on the screen, the import included."""
    block = re.search(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert block is not None
    assert len([line for line in block[1].splitlines() if line.strip()]) <= 3


def test_estimates_are_a_data_frame_with_intervals(ran: dict) -> None:
    """One row an architecture, each value inside its interval."""
    table = ran["table"]
    assert list(table["arch"]) == ["cpu_server_generic", "gpu_h100", "tpu_v4", "kpu_t256"]
    assert (table["latency_s_low"] <= table["latency_s"]).all()
    assert (table["latency_s"] <= table["latency_s_high"]).all()
    assert (table["batch"] == 8).all()


def test_flops_are_those_of_the_model(ran: dict) -> None:
    """Two linear layers of 8 x 512 x 2048 multiply-adds."""
    assert set(ran["table"]["macs"]) == {2 * 8 * 512 * 2048}


def test_sweep_has_a_row_a_point(ran: dict) -> None:
    """The sweep's axis becomes a column."""
    assert list(ran["curves"]["n"]) == [256, 1024, 4096]
    assert ran["curves"]["macs"].is_monotonic_increasing


def test_an_inspection_holds_modules_and_shows_itself(ran: dict) -> None:
    """Two linear layers and an activation, whose shares of the time and of the energy sum to all with that of the
    graph's entry; a table for notebooks."""
    inspection = ran["inspection"]
    assert [row.name for row in inspection.tree(1)] == ["", "(graph entry)", "0", "1", "2"]
    whole = inspection.modules[0].on["gpu_h100"]
    entry, *modules = (row.on["gpu_h100"] for row in inspection.tree(1)[1:])
    assert entry.latency_s == inspection.entry_s("gpu_h100")
    assert entry.share + sum(part.share for part in modules) == pytest.approx(1)
    assert entry.energy_j + sum(part.energy_j for part in modules) == pytest.approx(whole.energy_j)
    assert 0.1 < entry.share < 0.8
    assert inspection._repr_html_().startswith("<table>")


def test_fusion_says_what_it_saves(ran: dict) -> None:
    """Two linear layers with an activation between them, of which none joins another's kernel on a GPU: 8 rows of 512 and 2048
    floats are read and written, and two matrices. The summary and an estimate show themselves as tables."""
    saved = ran["saved"]
    layers = 2 * 4 * (8 * 512 + 512 * 2048 + 8 * 2048) + 4 * (2048 + 512)
    activation = 2 * 4 * 8 * 2048
    assert saved.savings.alone.bytes == saved.savings.fused.bytes == layers + activation
    assert (saved.savings.alone.kernels, saved.savings.fused.kernels) == (3, 3)
    assert saved.savings.saved("bytes") == 0
    assert "<table>" in saved._repr_html_()
    assert "latency" in ran["estimate"]._repr_html_()


def test_the_page_of_an_inspection_is_one_file(ran: dict, tmp_path: Path) -> None:
    """Written for an architecture it covers, refused for another."""
    from shmoo.estimators.errors import InputError
    from shmoo.harness.api import inspect, save_page

    text = save_page(ran["inspection"], tmp_path / "page.html").read_text(encoding="utf-8")
    assert ran["inspection"].model in text
    assert text.rstrip().endswith("</html>")
    with pytest.raises(InputError, match="gpu_h100"):
        save_page(ran["inspection"], tmp_path / "other.html", "gpu_h10")
    with pytest.raises(InputError, match="at least one architecture"):
        inspect(ran["graphs"], [])


def test_the_classes_are_found_where_the_packages_name_them() -> None:
    """Asked for from the package, they are the ones that the modules hold; other names are no attributes."""
    import shmoo.estimators
    import shmoo.harness
    from shmoo.estimators.predict.director import AnalysisDirector
    from shmoo.harness.capture.fx.walker import FXGraphWalker

    assert shmoo.estimators.AnalysisDirector is AnalysisDirector
    assert shmoo.harness.FXGraphWalker is FXGraphWalker
    for package in (shmoo.estimators, shmoo.harness):
        assert all(getattr(package, name).__name__ == name for name in package.__all__)
    with pytest.raises(AttributeError, match="Directors"):
        shmoo.estimators.Directors  # noqa: B018


def test_every_kind_of_workload_gives_the_same_table(ran: dict) -> None:
    """A module with its arguments, its capture, its graphs and one graph alone; `estimates` is the older name for graphs."""
    import shmoo
    from shmoo.harness.api import estimates

    model, inputs, graphs = ran["model"], ran["inputs"], ran["graphs"]
    options = {"batch": 8, "model": "mlp"}
    table = shmoo.estimate(model, "gpu_h100", args=inputs, **options)
    captured = shmoo.capture(model, inputs)
    for same in (captured, graphs, list(graphs), graphs[0]):
        assert shmoo.estimate(same, ["gpu_h100"], **options).equals(table)
    assert estimates(graphs, ["gpu_h100"], **options).equals(table)
    assert list(shmoo.estimate(model, "gpu_h100", args=inputs)["model"]) == ["Sequential"]


def test_an_element_type_is_that_of_the_tensors(ran: dict) -> None:
    """In bfloat16 weights take half the bytes; TF32 multiplies float32 tensors and leaves them as they are."""
    import shmoo

    of = {dtype: shmoo.estimate(ran["graphs"], "gpu_h100", dtype=dtype).iloc[0] for dtype in (None, "bf16", "tf32")}
    assert of["bf16"]["weight_bytes"] == of[None]["weight_bytes"] / 2
    assert of["tf32"]["weight_bytes"] == of[None]["weight_bytes"]
    assert of["tf32"]["dtype"] == "tf32"


def test_a_model_by_name_is_the_command_lines(own_home: None) -> None:
    """The table has the columns and the numbers of `shmoo estimate --csv`, the runtime where an architecture has it."""
    from pandas import read_csv

    import shmoo
    from tests.cli_runner import shmoo as command

    command("estimate", "mlp", "--arch", "gpu_h100,kpu_t64", "--batch", "4", "--dtype", "bf16", "--csv", "mlp.csv")
    table, shown = shmoo.estimate("mlp", ["gpu_h100", "kpu_t64"], batch=4, dtype="bf16"), read_csv("mlp.csv")
    assert set(table) <= set(shown)
    assert list(table["latency_s"]) == list(shown["latency_s"])
    assert {name.split("_")[0] for name in shmoo.estimate("relu", runtime="xla")["arch"]} >= {"tpu"}


def test_python_takes_what_the_command_line_takes(own_home: None) -> None:
    """Batches, types and modes give the rows of `shmoo estimate --csv`, columns included."""
    from pandas import read_csv

    import shmoo
    from tests.cli_runner import shmoo as command

    command(
        *("estimate", "mlp", "--arch", "gpu_t4,cpu_server_generic", "--batch", "1,8", "--dtype", "fp16", "--threads", "4"),
        *("--host", "own", "--quantize", "int8-weight", "--no-residual", "--csv", "mlp.csv"),
    )
    table = shmoo.estimate(
        "mlp",
        ["gpu_t4", "cpu_server_generic"],
        batch=(1, 8),
        dtype="fp16",
        threads=4,
        host="own",
        quantize="int8-weight",
        residual=False,
    )
    shown = read_csv("mlp.csv")
    assert set(table) == set(shown)
    assert list(table["latency_s"]) == list(shown["latency_s"])
    assert set(shmoo.estimate("mlp", "kpu_t64", training=True)["mode"]) == {"training"}


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("inspect", {"archs": "kpu_t64"}, {"arch": "kpu_t64"}),
        ("sweep", {"archs": "kpu_t64", "fixed": {"batch": 2}}, {"arch": "kpu_t64", "set": {"batch": 2}}),
    ],
)
def test_older_names_of_arguments_work_with_a_warning(name: str, old: dict, new: dict) -> None:
    """The warnings name the present ones."""
    import shmoo

    function = getattr(shmoo, name)
    with pytest.warns(DeprecationWarning, match="is now") as warned:
        before = function("mlp", **old)
    assert {str(one.message) for one in warned} == {f"{a}= of {name} is now {b}=" for a, b in zip(old, new, strict=True)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        after = function("mlp", **new)
    assert before.equals(after) if name == "sweep" else before == after


def test_a_slip_in_an_arguments_name_is_refused() -> None:
    """With the nearest one; it does not vanish."""
    import shmoo

    with pytest.raises(TypeError, match="did you mean 'batch'"):
        shmoo.estimate("mlp", "kpu_t64", bacth=8)


def test_an_architecture_is_a_name_or_a_list_everywhere(ran: dict) -> None:
    """One in a list is one; where one is taken, two are refused."""
    import shmoo
    from shmoo.estimators.errors import InputError

    graphs = ran["graphs"]
    assert shmoo.fusion(graphs, ["gpu_h100"]) == shmoo.fusion(graphs, "gpu_h100")
    for function, more in ((shmoo.fusion, {}), (shmoo.advise, {}), (shmoo.explore, {"over": {"clock": (1e9, 2e9)}})):
        with pytest.raises(InputError, match="--arch takes one value here"):
            function("mlp", ["gpu_h100", "kpu_t64"], **more)


@pytest.mark.parametrize(
    ("workload", "options", "says"),
    [
        ("relu", {"args": (1,)}, "brings its own inputs"),
        (42, {}, "cannot estimate a int"),
        ([], {}, "cannot estimate a list"),
        (abs, {"seq_len": 3}, "apply to a model by name"),
        (abs, {"training": True}, "apply to a model by name"),
        ("relu", {"runtime": "xlla"}, "did you mean 'xla'"),
    ],
)
def test_what_cannot_be_estimated_is_refused(workload: object, options: dict, says: str) -> None:
    """With the remedy."""
    import shmoo
    from shmoo.estimators.errors import InputError

    with pytest.raises(InputError, match=re.escape(says)):
        shmoo.estimate(workload, "kpu_t64", **options)


def test_measuring_plans_what_is_named(own_home: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """One model in two batch sizes and runtimes, into the directory asked for; resuming needs one."""
    import shmoo
    from shmoo.estimators.errors import InputError
    from shmoo.harness.campaign import cases

    asked: list[tuple] = []
    monkeypatch.setattr(cases, "measure_cases", lambda planned, out, suite, machine, **rest: asked.append((planned, out, suite)))
    shmoo.measure("resnet18", batch=(1, 8), runtime=("eager", "inductor"), out="here")
    ((planned, out, label),) = asked
    assert {(case.axes["batch"], case.runtime) for case in planned} == {(b, r) for b in (1, 8) for r in ("eager", "inductor")}
    assert (out, label) == (Path("here"), "models")
    with pytest.raises(InputError, match="needs out="):
        shmoo.measure(suite="quick", resume=True)


def test_runs_are_compared_by_directory_or_as_they_are(own_home: None) -> None:
    """Both give the same comparison."""
    import shmoo
    from shmoo.runs.store.store import Run
    from tests.harness.cli.test_cli import write_run

    write_run(Path("run"))
    assert shmoo.compare("run", "run") == shmoo.compare(Run.open("run"), Path("run"))
    with pytest.warns(DeprecationWarning, match="min_change= of compare is now threshold="):
        older = shmoo.compare("run", "run", min_change=0.5)
    assert older == shmoo.compare("run", "run", threshold=0.5)


def test_a_shape_may_be_text_as_on_the_command_line() -> None:
    """The same estimate; a text that is no shape is refused by name."""
    text, extents = (shmoo.estimate("resnet18", "kpu_t64", input_shape=shape) for shape in ("1x3x64x64", (1, 3, 64, 64)))
    assert text.equals(extents)
    with pytest.raises(InputError, match=r"input_shape must be a positive whole number, got 'three'"):
        shmoo.estimate("resnet18", "kpu_t64", input_shape="1xthree")


def test_numbers_and_types_of_numpy_and_torch_are_taken() -> None:
    """As loops over arrays and the types of tensors give them; any collection of values."""
    rows = shmoo.estimate("mlp", "kpu_t64", batch=np.array([1, 4]), dtype=torch.bfloat16)
    assert (list(rows["batch"]), set(rows["dtype"])) == ([1, 4], {"bfloat16"})
    assert list(shmoo.estimate("mlp", ["kpu_t64"], batch=np.int64(2), dtype=np.float16)["dtype"]) == ["float16"]
    assert set(shmoo.estimate("mlp", {"kpu_t64", "tpu_v4"}, batch=(n for n in (1, 2)))["batch"]) == {1, 2}
    assert list(shmoo.estimate("mlp", "cpu_server_generic", threads=np.int32(2))["threads"]) == [2]
    swept = shmoo.sweep("mlp", {"hidden": np.array([64, 128]), "batch": 2}, "kpu_t64", set={"depth": np.int64(2)}, fusion=False)
    assert list(swept["hidden"]) == [64, 128]
    tiles = shmoo.sweep("mlp", arch="kpu_t64", profile_axes={"count.tiles": np.geomspace(64, 256, 3)})
    assert list(tiles["count.tiles"]) == pytest.approx([64, 128, 256])
    assert len(shmoo.explore("mlp", "kpu_t64", over={"count.tiles": np.array([16, 64])}, minimize="latency")) == 1


def test_a_single_tensor_and_an_exported_program_are_taken() -> None:
    """A tensor is one argument, not one for each of its rows; a program brings its inputs."""
    layer, x = torch.nn.Linear(8, 4), torch.randn(2, 8)
    assert [graph.macs for graph in map(graph_cost, shmoo.capture(layer, x).graphs)] == [2 * 8 * 4]
    with pytest.raises(InputError, match="brings its own inputs"):
        shmoo.estimate("mlp", "kpu_t64", args=x)
    program = torch.export.export(layer, (x,))
    for workload, options in ((layer, {"args": x}), (program, {}), (program, {"args": (x,)}), (program.module(), {"args": (x,)})):
        assert list(shmoo.estimate(workload, "kpu_t64", **options)["macs"]) == [2 * 8 * 4]


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: shmoo.estimate("mlp", "kpu_t64", threads=2.5), "threads takes whole numbers, got 2.5 (float)"),
        (lambda: shmoo.estimate("bert_base", "kpu_t64", seq_len="16"), "seq_len takes whole numbers, got '16' (str)"),
        (
            lambda: shmoo.estimate("resnet18", "kpu_t64", input_shape=(1, 3, 64.0, 64)),
            "input_shape takes whole numbers, got 64.0",
        ),
        (lambda: shmoo.estimate("resnet18", "kpu_t64", input_shape=64), "--input-shape is such as 1x3x224x224, got 64"),
        (lambda: shmoo.sweep(torch.nn.Linear(8, 4), {"n": [1]}, "kpu_t64"), "a sweep takes the name of a workload or model"),
        (lambda: shmoo.explore("mlp", "kpu_t64", over={"count.tiles": [16]}, within=["latency<=1"]), "limits are mappings"),
        (lambda: shmoo.measure("mlp", threads=0), "visits and threads are at least 1"),
        (lambda: shmoo.measure("mlp", visits=0), "visits and threads are at least 1"),
        (lambda: shmoo.measure("mlp", device=torch.device("cuda:3")), "unknown device 'cuda:3'"),
    ],
)
def test_arguments_of_a_wrong_kind_are_named(own_home: None, call: Callable[[], object], says: str) -> None:
    """In place of an error from inside torch or numpy."""
    with pytest.raises(InputError, match=re.escape(says)):
        call()
