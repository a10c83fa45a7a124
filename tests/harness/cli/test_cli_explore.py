"""`shmoo explore` over the command line, its page, and `shmoo.explore`."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest

import shmoo as package
from tests.cli_runner import shmoo

pytestmark = pytest.mark.usefixtures("own_home")
SPACE = ("explore", "mlp", "--arch", "kpu_t64", "--over", "count.tiles=16,64,bandwidth.dram=3e10..3e11:3")


def test_a_table_and_what_was_looked_at() -> None:
    """Axes that stand in one option, separated by commas; the message counts designs."""
    result = shmoo(*SPACE)
    assert result.exit_code == 0, result.output
    assert "count.tiles" in result.stdout
    assert "6 designs, 6 within the limits" in result.stderr


def test_a_single_best_design_is_no_choice() -> None:
    """The largest machine is the best in everything but what it costs, which the message names."""
    grow = ("explore", "mlp", "--arch", "kpu_t64", "--over", "bandwidth.dram=3e10..3e11:3")
    assert "for a choice, add a cost to --minimize" in shmoo(*grow, "--minimize", "latency").stderr
    assert "for a choice" not in shmoo(*grow, "--minimize", "latency,bandwidth.dram").stderr


def test_limits_that_no_design_keeps_are_answered_with_the_nearest(tmp_path: Path) -> None:
    """No empty table; the design that exceeds the limits least, on stderr, in the page and for programs."""
    page = tmp_path / "front.html"
    result = shmoo(*SPACE, "--within", "latency<=1ns,power.tdp>=1", "--html", str(page))
    assert (result.exit_code, result.stdout) == (0, "")
    assert "None of 6 designs keeps all limits and holds every model; the nearest has count.tiles 64" in result.stderr
    assert "None of 6 designs keeps all limits" in page.read_text()
    document = json.loads(shmoo(*SPACE, "--within", "latency<=1ns", "--json").stdout)
    assert (document["front"], document["nearest"]["count.tiles"]) == ([], 64)


def test_json_and_csv_hold_the_front() -> None:
    """The same rows; the first objective ascends, limits hold."""
    result = shmoo(*SPACE, "--within", "power.tdp<=20", "--minimize", "latency,power.tdp", "--json", "--csv", "front.csv")
    document = json.loads(result.stdout)
    front = document["front"]
    assert document["objectives"] == ["latency", "power.tdp"]
    assert all(row["power.tdp"] <= 20 for row in front)
    assert [row["latency"] for row in front] == sorted(row["latency"] for row in front)
    with Path("front.csv").open(newline="", encoding="utf-8") as file:
        assert [float(row["latency"]) for row in csv.DictReader(file)] == [row["latency"] for row in front]


def test_a_page_holds_each_design_with_its_breakdown() -> None:
    """Self-contained: no address is fetched, and the data of every design of the front is there."""
    assert shmoo(*SPACE, "--html", "front.html").exit_code == 0
    page = Path("front.html").read_text(encoding="utf-8")
    data = json.loads(re.search(r'<script type="application/json" id="front-data">(.*?)</script>', page, re.DOTALL)[1])
    front = json.loads(shmoo(*SPACE, "--json").stdout)["front"]
    assert [d["latency"] for d in data["designs"]] == [row["latency"] for row in front]
    for design in data["designs"]:
        (breakdown,) = design["breakdowns"]
        assert breakdown["model"] == "mlp"
        assert sum(share["time_s"] for share in breakdown["bounds"]) == pytest.approx(design["latency"])
        assert breakdown["kernels"]
    assert not re.search(r"(src|href)=[\"']https?:", page)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--within", "power.tdp<60W"), "cannot read limit"),
        (("--within", "speed<=3"), "unknown quantity"),
        (("--weight", "vit=2"), "model of --weight"),
        (("--weight", "mlp=-1"), "positive number"),
        (("--over", "capacity.l3=large,small"), "takes numbers"),
        (("--over", "tile_m=16,32"), "tiling"),
    ],
)
def test_slips_are_one_line(options: tuple[str, ...], said: str) -> None:
    """What is wrong and what is right, without a traceback."""
    result = shmoo(*SPACE, *options)
    assert result.exit_code == 2
    assert said in result.stderr


def test_python_gives_a_data_frame() -> None:
    """As the command's rows."""
    table = package.explore(
        "mlp", "kpu_t64", over={"count.tiles": (16, 64), "bandwidth.dram": (3e10, 3e11)}, within={"power.tdp": 20}
    )
    assert {"count.tiles", "bandwidth.dram", "latency", "energy", "alike"} <= set(table.columns)
    assert (table["power.tdp"] <= 20).all()
