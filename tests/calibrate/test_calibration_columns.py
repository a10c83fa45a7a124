"""Which column of an operator table is the reduction."""

import csv
import json
import random

import pytest
from click.testing import CliRunner

from shmoo.calibrate.calibration import MIN_PRODUCTS, table_reduction
from shmoo.estimators.machine.profile import load_profile
from shmoo.estimators.predict.director import AnalysisDirector
from shmoo.harness.cli.app import cli
from shmoo.runs.tables.reading import read_table

COLUMNS = ("op", "b", "m", "n", "k", "latency_s")


def table(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(rows)
    return path


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Batched products that take what the V100's profile says of (m, n) by (n, k), written as b, m, n, k."""
    draw = random.Random(5)
    sizes = [[round(2 ** draw.uniform(3, 10)) for _ in "mnk"] for _ in range(MIN_PRODUCTS + 60)]
    path = table(tmp_path_factory.mktemp("tables") / "v100.csv", [["bmm", draw.randint(4, 40), *size, 1.0] for size in sizes])
    rows = read_table(path, device="cuda", reduction="n")
    times = AnalysisDirector(load_profile("gpu_v100"), residual=False).estimate_cases([r.graph() for r in rows], runtime="eager")
    return table(
        path, [["bmm", *(row.axes[name] for name in "bmnk"), time.value] for row, (time, _) in zip(rows, times, strict=True)]
    )


def test_a_row_is_read_as_its_table_says(tmp_path):
    """m = 3, n = 5, k = 7: (3, 7) by (7, 5), or (3, 5) by (5, 7) with the reduction in column n. Its identity is the same."""
    path = table(tmp_path / "t.csv", [["bmm", 2, 3, 5, 7, 1e-4], ["linear", 1, 3, 5, 7, 1e-4]])
    usual, other = (read_table(path, reduction=column) for column in ("k", "n"))
    assert [spec.shape for spec in usual[0].graph().calls[0].inputs] == [(2, 3, 7), (2, 7, 5)]
    assert [spec.shape for spec in other[0].graph().calls[0].inputs] == [(2, 3, 5), (2, 5, 7)]
    assert [spec.shape for spec in other[1].graph().calls[0].inputs[:2]] == [(3, 5), (7, 5)]
    assert usual[0].case.identity == other[0].case.identity


def test_the_measurements_tell_which_column_it_is(measured):
    """Times of (m, n) by (n, k) are explained when read so, and not when read as (m, k) by (k, n)."""
    column, why = table_reduction([measured], load_profile("gpu_v100"))
    assert column == "n"
    assert "column n" in why


def test_few_products_are_read_as_they_say(tmp_path):
    """Three rows decide nothing."""
    path = table(tmp_path / "few.csv", [["bmm", 2, 3, 5, 7, 1e-4]] * 3)
    assert table_reduction([path], load_profile("gpu_v100")) == ("k", "")


def test_a_profile_reads_tables_as_those_it_was_fitted_to(measured, tmp_path):
    """Calibrated on such a table, the profile estimates its rows with the reduction in column n, says so, and can be told."""
    made = tmp_path / "mine.json"
    runner = CliRunner()
    done = runner.invoke(cli, ["calibrate", str(measured), "--base", "gpu_v100", "--no-residual", "-o", str(made)])
    assert done.exit_code == 0, done.output
    assert json.loads(made.read_bytes())["table_reduction"] == "n"

    def estimated(*options):
        found = runner.invoke(
            cli, ["estimate", "--ops", str(measured), "--arch", str(made), "--runtime", "eager", "--json", *options]
        )
        assert found.exit_code == 0, found.output
        return [row["latency_s"]["value"] for row in json.loads(found.stdout)], found.stderr

    rows = read_table(measured)
    default, told = estimated()
    literal, nothing = estimated("--reduction", "k")
    errors = [
        sum(abs(t / row.latency_s - 1) for t, row in zip(times, rows, strict=True)) / len(rows) for times in (default, literal)
    ]
    assert errors[0] < 0.5 * errors[1]
    assert "(m, n) by (n, k)" in told
    assert "(m, n) by (n, k)" not in nothing


@pytest.mark.parametrize("column", ["dtype", "time", "state"])
def test_rows_unlike_those_tables_are_read_as_they_say(tmp_path, column):
    """On a card whose float32 tables have the reduction in column n, a product in bfloat16, timed on the device or with cold
    weights is (m, k) by (k, n)."""
    values = {"dtype": "bfloat16", "time": "device", "state": "cold_weights"}
    path = tmp_path / "ops.csv"
    path.write_text(f"op,b,m,n,k,{column}\nlinear,1,64,4096,256,{values[column]}\nlinear,1,64,4096,256,\n")

    def estimated(*options):
        asked = ["estimate", "--ops", str(path), "--arch", "gpu_a100_40g", "--runtime", "eager", "--json", *options]
        return [row["latency_s"]["value"] for row in json.loads(CliRunner().invoke(cli, asked).stdout)]

    special, plain = estimated()
    as_k, as_n = estimated("--reduction", "k"), estimated("--reduction", "n")
    assert (special, plain) == (as_k[0], as_n[1])
    assert plain != as_k[1]
