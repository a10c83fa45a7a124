"""The Python that docs/python.md shows is run as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("torch")
PAGE = Path(__file__).parents[1] / "docs" / "python.md"


@pytest.fixture(scope="module")
def ran() -> dict[str, object]:
    """Names that the page's code blocks define, run in order."""
    names: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL):
        exec(compile(block, str(PAGE), "exec"), names)
    return names


def test_the_short_way_takes_five_statements() -> None:
    """Model to DataFrame is at most five statements, imports included."""
    block = re.search(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert block is not None
    assert len([line for line in block[1].splitlines() if line.strip()]) <= 5


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
    """Two linear layers and an activation, whose shares of the time sum to all but the graph's entry; a table for notebooks."""
    inspection = ran["inspection"]
    assert [row.name for row in inspection.tree(1)] == ["", "0", "1", "2"]
    whole = inspection.modules[0].on["gpu_h100"].latency_s
    shares = sum(row.on["gpu_h100"].share for row in inspection.tree(1)[1:])
    assert shares == pytest.approx(1 - inspection.entry_s("gpu_h100") / whole)
    assert 0.3 < shares < 0.9
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

    assert save_page(ran["inspection"], tmp_path / "page.html").stat().st_size > 1_000_000
    with pytest.raises(InputError, match="gpu_h100"):
        save_page(ran["inspection"], tmp_path / "other.html", "gpu_h10")
    with pytest.raises(InputError, match="at least one architecture"):
        inspect(ran["graphs"], [])


def test_the_classes_are_found_where_the_packages_name_them() -> None:
    """Asked for from the package, they are the ones that the modules hold; other names are no attributes."""
    import shmoo.estimators
    import shmoo.harness
    from shmoo.estimators.director import AnalysisDirector
    from shmoo.harness.capture.walker import FXGraphWalker

    assert shmoo.estimators.AnalysisDirector is AnalysisDirector
    assert shmoo.harness.FXGraphWalker is FXGraphWalker
    for package in (shmoo.estimators, shmoo.harness):
        assert all(getattr(package, name).__name__ == name for name in package.__all__)
    with pytest.raises(AttributeError, match="Directors"):
        shmoo.estimators.Directors  # noqa: B018
