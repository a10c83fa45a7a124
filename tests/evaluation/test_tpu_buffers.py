"""Replay of SCALE-Sim's buffers: against the array alone, against arithmetic by hand, and against runs of the simulator."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from shmoo.estimators.errors import InputError
from shmoo.estimators.tiling import TileShape, TpuWeightStationary
from tests.estimators.tiling.test_tiling import array, products
from tests.evaluation.tpu_buffers import buffered_cycles
from tests.measured_rows import measured_rows

AMPLE = (2**20, 2**20, 2**20)
TABLE = Path(__file__).parents[2].parent / "shared" / "reference" / "tpu" / "scalesim_cycles.csv"


def reference_rows():
    """The simulator's whole table where it is kept beside the repository, else the rows kept with the tests."""
    rows = list(csv.DictReader(TABLE.read_text().splitlines())) if TABLE.is_file() else measured_rows("scalesim_cycles.csv")
    return [row for row in rows if row["mode"] == "USER" and row["kind"] == "gemm"]


@pytest.mark.parametrize("dataflow", ["ws", "is", "os"])
def test_buffers_that_hold_all_leave_the_cycles_of_the_array(dataflow):
    """Nothing is asked for that is not there, and nothing has to drain: the closed form of the serial mode."""
    rng = np.random.default_rng(0)
    for m, n, k in rng.integers(1, 40, (12, 3)):
        for rows, cols in ((1, 1), (8, 4), (3, 16)):
            serial = TpuWeightStationary(mode="serial", dataflow=dataflow)
            extents = products(m, n, k)
            cycles = serial.apply(extents, array(rows, cols), TileShape(extents.m, extents.n, extents.k)).cycles[0]
            assert buffered_cycles((m, n, k), (rows, cols), dataflow, AMPLE, 1) == cycles


def test_a_late_move_of_the_window_counts_twice():
    """200 inputs in sets of 2, 100 held. Word 100 is asked for in cycle 2 + 50; at one word a cycle the second half arrives in
    cycle 100 - 1 + 1, 47 after it could be answered, so the array stands for 94. At two words a cycle nothing is late."""
    alone = 2 * 2 + 1 + 100 - 2
    assert buffered_cycles((100, 1, 2), (2, 1), "ws", (200, 1000, 1000), 1) == alone + 2 * 47
    assert buffered_cycles((100, 1, 2), (2, 1), "ws", (200, 1000, 1000), 2) == alone


def test_results_wait_for_the_drain_where_nothing_is_free():
    """20 words of room, two written a cycle, one drained. The first drain takes 10 words from step 6 to 15, the second starts in
    step 15 with two free and again frees 10; in step 21 none is left and the array waits for its end in cycle 24."""
    assert buffered_cycles((20, 2, 1), (1, 2), "ws", (1000, 1000, 20), 1) == 2 + 2 + 20 - 2 + 3


def test_inputs_that_stay_are_weights_that_stay_transposed():
    """(m, n, k) with inputs on the array takes what (n, m, k) takes with weights there, buffers exchanged."""
    there = buffered_cycles((70, 90, 50), (8, 16), "ws", (300, 700, 500), 4)
    assert buffered_cycles((90, 70, 50), (8, 16), "is", (700, 300, 500), 4) == there


def test_cycles_equal_the_simulators_at_every_bandwidth():
    """Every run of the table that was given a bandwidth, starved or not: the simulator counts from 0."""
    rows = reference_rows()
    assert len(rows) >= 8
    for row in rows:
        extents, side = tuple(int(row[key]) for key in "MNK"), (int(row["rows"]), int(row["cols"]))
        buffers = tuple(int(1024 * float(row[key])) for key in ("ifmap_kB", "filter_kB", "ofmap_kB"))
        cycles = buffered_cycles(extents, side, row["dataflow"], buffers, int(float(row["bw_words_per_cycle"])))
        assert cycles == int(row["total_cycles"]) + 1


RECORDED = [
    ((54, 26, 76), (32, 4), "ws", (8, 1, 2), 4, 315387),
    ((130, 156, 154), (16, 32), "ws", (8, 1, 1), 4, 511489),
    ((37, 103, 89), (4, 16), "ws", (2, 2, 8), 32, 29074),
    ((79, 101, 49), (32, 8), "is", (8, 1, 8), 8, 12488),
    ((142, 75, 116), (16, 16), "is", (1, 2, 8), 4, 148078),
    ((120, 89, 106), (4, 32), "is", (1, 4, 2), 1, 798779),
    ((111, 123, 127), (32, 4), "os", (8, 1, 4), 16, 89572),
    ((80, 109, 94), (4, 8), "os", (2, 1, 4), 4, 688156),
    ((159, 49, 73), (16, 16), "os", (1, 1, 1), 4, 60892),
]
"""Total cycles of SCALE-Sim 3.0.0, run for this test: m, n, k, array, dataflow, KiB of each buffer, words a cycle."""


@pytest.mark.parametrize(("extents", "side", "dataflow", "kib", "words_per_cycle", "total"), RECORDED)
def test_starved_arrays_wait_as_the_simulators_do(extents, side, dataflow, kib, words_per_cycle, total):
    """Buffers smaller than every operand, all dataflows, up to a hundred times the cycles of the array alone."""
    assert buffered_cycles(extents, side, dataflow, tuple(1024 * k for k in kib), words_per_cycle) == total + 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((4, 4, 4), (2, 2), "wss", AMPLE, 1), "dataflow"),
        (((0, 4, 4), (2, 2), "ws", AMPLE, 1), "at least 1"),
        (((4, 4, 4), (2, 2), "ws", (1, 4, 4), 1), "at least 2"),
        (((4, 4, 4), (2, 2), "ws", AMPLE, 0), "at least 1"),
    ],
)
def test_what_cannot_be_replayed_is_refused(arguments, message):
    """Misspelt dataflows, empty products, buffers without two halves, no bandwidth."""
    with pytest.raises(InputError, match=message):
        buffered_cycles(*arguments)
