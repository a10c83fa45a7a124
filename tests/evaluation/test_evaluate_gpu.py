"""How the published GPU tables are read: what their columns mean, and which card a row is from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from shmoo.calibrate.fit.dataset import blocks
from shmoo.calibrate.fit.parameters import parameters_for
from shmoo.estimators.errors import InputError
from shmoo.estimators.machine.profile import load_profile
from tests.evaluation.gpu import DEVICES, GROUPS, card_of, published, read_device, results

REFERENCE = Path(__file__).parents[2].parent / "shared" / "reference"

TABLE = """op,dtype,b,m,n,k,conv_n,conv_c_in,conv_c_out,conv_kernel,conv_size,conv_stride,conv_padding,latency_s
linear,float32,1,3,5,7,,,,,,,,1e-4
bmm,float32,2,3,5,7,,,,,,,,1e-4
conv,float32,,,,,1,8,16,3,10,1,1,1e-4
"""


@pytest.fixture
def cases(tmp_path):
    (tmp_path / "gpu_ops").mkdir()
    (tmp_path / "gpu_ops" / "a100_40g.csv").write_text(TABLE)
    return read_device(tmp_path, "a100_40g").cases


def test_column_n_is_the_reduction(cases):
    """(3, 5) by (5, 7) where the row says n = 5, k = 7; the row keeps its identity."""
    linear, bmm, conv = (case.graphs[0].calls[0] for case in cases)
    assert [spec.shape for spec in linear.inputs[:2]] == [(3, 5), (7, 5)]
    assert [spec.shape for spec in bmm.inputs] == [(2, 3, 5), (2, 5, 7)]
    assert conv.inputs[1].shape == (16, 8, 3, 3)
    assert cases[0].case.axes["n"] == 5


def test_convolutions_of_the_a100_are_another_cards(cases):
    """Its other rows, and all rows of the other devices, are from the device that the table is named after."""
    assert [card_of(case, "a100_40g") for case in cases] == ["a100_40g", "a100_40g", "a100_80g"]
    assert {card_of(case, "v100") for case in cases} == {"v100"}


@pytest.mark.parametrize(("device", "slowed"), [("t4", True), ("v100", False)])
def test_a_board_far_above_its_cap_shows_how_energy_follows_warmth(cases, device, slowed):
    """A T4's units would draw 2.5 times what 70 W leave them, a V100's 1.1 times what 250 W do. How voltage follows the clock is
    for meters to say."""
    profile = published(f"gpu_{device}")
    names = {parameter.name for parameter in parameters_for(blocks(cases, profile), profile)}
    assert ("throttle.cool" in names) == slowed
    assert "energy.clock" not in names
    assert "throttle.time" in names


def test_a_missing_table_is_named(tmp_path):
    """The folder is explained."""
    with pytest.raises(InputError, match=r"t4\.csv"):
        read_device(tmp_path, "t4")


@pytest.mark.parametrize("device", DEVICES)
def test_what_is_published_of_a_device_has_what_is_looked_up(device):
    """Nothing of a fit to times is left, neither values nor what a prior held; generation, kernels and energies are."""
    profile = published(f"gpu_{device}")
    assert not [
        n
        for n, c in profile.coefficients.items()
        if c.source in ("fitted", "transferred") and not n.startswith(("energy.", "power."))
    ]
    assert not [n for n in profile.coefficients if n.startswith(("half.", "overlap", "launch"))]
    assert {"compute.capability", "energy.flop.matrix.float32"} <= set(profile.coefficients)
    assert profile.tiling.parameters["library"]


@pytest.mark.slow
def test_intervals_hold_on_devices_that_were_left_out():
    """Each built-in profile's table predicted from the other three: 85 to 97 % of each group lie in their intervals, and every
    number of a device is kept in the error card of the card it was measured on."""
    if not (REFERENCE / "gpu_ops").is_dir():
        pytest.skip("no reference data: it is kept beside the repository")
    tables = {device: read_device(REFERENCE, device) for device in DEVICES}
    tables = {device: replace(table, cases=table.cases[::16]) for device, table in tables.items()}
    cards = {device: dict.fromkeys(card_of(case, device) for case in table.cases) for device, table in tables.items()}
    # Beside their own hosts, as they were measured.
    found = results(
        tables, {device: {card: load_profile(f"gpu_{card}").replacing(host="") for card in of} for device, of in cards.items()}
    )
    together = [result for result in found if result.what.startswith("left out")]
    assert len(together) == 2 + len(GROUPS)
    assert not [result for result in together if not 0.85 <= result.entry.coverage <= 0.97]
    kept = {(result.kept.profile, result.kept.split, result.kept.group) for result in found if result.kept is not None}
    for device in DEVICES:
        for group in GROUPS:
            profile = "gpu_a100_80g" if (device, group) == ("a100_40g", "conv") else f"gpu_{device}"
            assert {(profile, "test by operator", group), (profile, "left out", group)} <= kept
