"""Coefficients carried to a machine that nobody measured."""

import math

import pytest
from msgspec.structs import replace

from shmoo.calibrate.fit.dataset import MeasuredCase
from shmoo.calibrate.fit.parameters import relative_power_demand
from shmoo.estimators.errors import InputError
from shmoo.estimators.machine.profile import ArchitectureProfile, Coefficient, load_profile
from shmoo.estimators.predict.director import AnalysisDirector
from shmoo.runs.tables.reading import TableRow
from tests.evaluation.gpu import DEVICES, published
from tests.evaluation.transfer import VOLTAGE, off_by, transfer, typical


def fitted(name: str, **values: float) -> ArchitectureProfile:
    profile = load_profile(name)
    units = {"launch": "s", "bandwidth": "B/s"}
    made = {n.replace("_", "."): v for n, v in values.items()}
    return profile.replacing(
        coefficients={n: Coefficient(v, units.get(n.split(".")[0], "1"), "fitted", "test") for n, v in made.items()}
    )


def test_shares_and_overheads_are_carried_as_geometric_means():
    """0.4 and 0.9 give 0.6; 1 us and 4 us give 2 us; both are marked, with a range that holds the machines they came from."""
    measured = [
        fitted("gpu_v100", efficiency_gemm=0.4, launch_eager=1e-6),
        fitted("gpu_t4", efficiency_gemm=0.9, launch_eager=4e-6),
    ]
    made = transfer(measured, load_profile("gpu_h100"))
    share = made.coefficients["efficiency.gemm"]
    assert share.value == pytest.approx(math.sqrt(0.4 * 0.9))
    assert share.source == "transferred"
    assert share.low < 0.4 < 0.9 < share.high
    assert made.value("launch.eager") == pytest.approx(2e-6)


def test_a_board_whose_cap_sets_the_pace_of_float32_products_says_less_of_their_kernels():
    """A T4's would draw 2.5 times what its cap leaves them, a V100's 1.1 times; both are half a generation from the target. Its
    loops and its tensor cores count as a V100's do."""
    boards = [load_profile(name) for name in ("gpu_v100", "gpu_t4")]
    t4 = load_profile("gpu_t4")
    generation = replace(t4.coefficients["compute.capability"], value=7.25)
    target = t4.replacing(coefficients=t4.coefficients | {"compute.capability": generation})
    made = transfer(
        [
            board.replacing(
                coefficients=published(board.name).coefficients
                | {
                    f"half.k.{algorithm}": Coefficient(value, "1", "fitted", "test")
                    for algorithm in ("gemm", "gemm_tensor", "pointwise")
                }
            )
            for board, value in zip(boards, (4.0, 16.0), strict=True)
        ],
        target,
    )
    log2 = {name: math.log2(made.value(f"half.k.{name}")) for name in ("gemm", "gemm_tensor", "pointwise")}
    assert log2["gemm_tensor"] == log2["pointwise"] == pytest.approx(3.0)
    one, other = (1.0 / relative_power_demand(board) for board in boards)
    assert log2["gemm"] == pytest.approx((2.0 * one + 4.0 * other) / (one + other))
    assert 2.5 < log2["gemm"] < 2.7


def test_rates_are_looked_up_and_not_carried():
    """Bandwidths and peaks are the target's own."""
    made = transfer([fitted("gpu_v100", bandwidth_l2=1e12, efficiency_gemm=0.5)], load_profile("gpu_h100"))
    assert made.value("bandwidth.l2") == load_profile("gpu_h100").value("bandwidth.l2")
    assert made.value("peak.matrix.float32") == load_profile("gpu_h100").value("peak.matrix.float32")


def test_voltage_follows_the_clock_as_on_metered_boards():
    """A curve is carried from boards whose energies show it, not an exponent that times alone gave; a card's own curve stays."""
    metered = fitted("gpu_a100_40g", energy_clock=0.4, energy_floor=0.8)
    timed = fitted("gpu_v100", energy_clock=0.9, efficiency_gemm=0.5)
    unmetered = published("gpu_t4")
    unmetered = unmetered.replacing(coefficients={n: c for n, c in unmetered.coefficients.items() if n not in VOLTAGE})
    made = transfer([metered, timed], unmetered)
    assert (made.value("energy.clock"), made.value("energy.floor")) == pytest.approx((0.4, 0.8))
    assert made.coefficients["energy.clock"].source == "transferred"
    assert "energy.clock" not in transfer([timed], unmetered).coefficients
    own = published("gpu_h200")
    assert transfer([metered], own).coefficients["energy.clock"] == own.coefficients["energy.clock"]


def test_what_is_published_of_tensor_cores_outlives_publishing_again():
    """Energy of a flop, bandwidth of bulk copies and the generation's kernels are the target's own; a measured machine's
    coefficients of kernels on tensor cores are carried."""
    target = load_profile("gpu_h100")
    made = transfer([fitted("gpu_v100", efficiency_tensor=0.8)], published("gpu_h100"))
    assert made.value("efficiency.tensor") == pytest.approx(0.8)
    for name in ("energy.flop.matrix.float16", "bandwidth.l2.tensor"):
        assert made.coefficients[name] == target.coefficients[name]
    assert made.tiling == target.tiling


def test_other_families_are_refused():
    """A CPU says nothing about a GPU."""
    with pytest.raises(InputError, match="within a family"):
        transfer([load_profile("cpu_server_generic")], load_profile("gpu_h100"))
    with pytest.raises(InputError, match="no measured machine"):
        transfer([], load_profile("gpu_h100"))


@pytest.mark.parametrize("device", DEVICES)
def test_a_fitted_machine_can_be_read_as_its_datasheet_has_it(device):
    """Without what was fitted, every rate that an estimate needs is still there: nothing rests on a fit, and a product takes
    longer than at its peak, by less than three times."""
    bare = published(f"gpu_{device}")
    fitted_to_energies = ("energy.flop.", "energy.byte.", "energy.clock", "energy.floor", "power.static")
    assert all(name.startswith(fitted_to_energies) for name, c in bare.coefficients.items() if c.source == "fitted")
    graph = TableRow(0, "linear", {"b": 1, "m": 512, "n": 512, "k": 512}).graph()
    estimate = AnalysisDirector(bare).estimate(graph, runtime="eager")
    assert estimate.basis["fitted"] == estimate.basis["transferred"] == 0
    peak = bare.value("peak.matrix.float32", bare.value("peak.vector.float32"))
    assert 1 < estimate.breakdown[0].compute_s / (2 * 512**3 / peak) < 3


def test_near_generations_count_more():
    """Compute capability 8.0 is 0.5 from 7.5 and 1 from 7.0: weights e^-0.5 and e^-1, so 4 us and 1 us give 4^0.62 = 2.37 us."""
    generation = {"gpu_t4": 7.5, "gpu_v100": 7.0}
    measured = []
    for (name, number), launch in zip(generation.items(), (4e-6, 1e-6), strict=True):
        made = fitted(name, launch_eager=launch)
        capability = Coefficient(number, "1", "datasheet", "test")
        measured.append(made.replacing(coefficients={**made.coefficients, "compute.capability": capability}))
    made = transfer(measured, load_profile("gpu_a100_40g"))
    assert made.value("launch.eager") == pytest.approx(1e-6 * 4 ** (1 / (1 + math.exp(-0.5))))


def test_shares_of_bandwidth_are_of_what_error_correcting_codes_leave():
    """0.9 of a V100, whose codes have lanes of their own, is 0.81 where codes take a tenth; other shares stay."""
    target = load_profile("gpu_t4").replacing(coefficients={"ecc.share": Coefficient(0.9, "1", "literature", "test")})
    made = transfer([fitted("gpu_v100", efficiency_bandwidth=0.9, efficiency_gemm=0.9)], target)
    assert made.value("efficiency.bandwidth") == pytest.approx(0.81)
    assert made.coefficients["efficiency.bandwidth"].low == pytest.approx(0.81 * made.coefficients["efficiency.gemm"].low / 0.9)
    assert made.value("efficiency.gemm") == pytest.approx(0.9)


def test_the_next_machine_is_off_by_what_measured_ones_are():
    """Spreads of 0.1 and 0.7 give sqrt((0.01 + 0.49) / 2) = 0.5, for a third machine times sqrt(3/2); without any, the fits' own
    grow by half."""
    small, large = ({"sigma.gemm": Coefficient(value, "1", "fitted", "test")} for value in (0.1, 0.7))
    found = typical([small, large])["sigma.gemm"]
    assert (found.value, found.source) == (pytest.approx(0.5 * 1.5**0.5), "transferred")
    assert "from 2 measured machines" in found.reference
    measured = [fitted("gpu_v100", efficiency_gemm=0.4, sigma_gemm=0.2)]
    assert transfer(measured, load_profile("gpu_h100"), {"sigma.gemm": found}).value("sigma.gemm") == found.value
    assert transfer(measured, load_profile("gpu_h100")).value("sigma.gemm") == pytest.approx(0.3)


def test_what_a_carried_profile_is_off_by_sets_its_spread():
    """Measured at e times what is predicted, all of it needs a spread of 1 / 1.645 less what its ranges reach."""
    made = transfer([load_profile("gpu_v100")], published("gpu_t4"))
    rows = [TableRow(0, "linear", {"b": 1, "m": m, "n": 512, "k": 512}) for m in (256, 512, 1024, 2048)]
    director = AnalysisDirector(made)
    times = [latency.value for latency, _ in director.estimate_cases([row.graph() for row in rows], runtime="eager")]
    cases = [
        MeasuredCase(replace(row.case, runtime="eager"), (row.graph(),), math.e * t) for row, t in zip(rows, times, strict=True)
    ]
    assert 0.3 < off_by(made, cases)["sigma.gemm"].value <= 1 / 1.645


@pytest.mark.parametrize(
    ("source", "stderr", "value"), [("fitted", None, 0.3), ("at bound", 0.01, 0.3), ("at bound", None, 0.6), ("prior", None, 0.6)]
)
def test_what_measurements_say_is_carried_over_before_what_priors_held(source, stderr, value):
    """A value that a prior held, or one at its bound that only followed others there, does not count beside one that measurements
    determined; one that they pushed there, which has a standard error, does. Alone each is carried: the other coefficients of its
    fit rest on it."""

    def machine(**own):
        return fitted("gpu_v100").replacing(coefficients=own)

    held = machine(**{"efficiency.gemm": Coefficient(0.15, "1", source, "test", stderr)})
    determined = machine(**{"efficiency.gemm": Coefficient(0.6, "1", "fitted", "test")})
    bare = published("gpu_h100")
    assert transfer([held, determined], bare).value("efficiency.gemm") == pytest.approx(value)
    assert transfer([held], bare).value("efficiency.gemm") == pytest.approx(0.15)


@pytest.mark.parametrize("source", ["fitted", "at bound", "prior"])
def test_what_a_fit_wrote_of_the_target_itself_is_dropped(source):
    """Whatever the measurements said about it."""
    target = load_profile("gpu_h100")
    own = {"efficiency.linalg": Coefficient(0.123, "1", source, "a fit to this machine")}
    target = target.replacing(coefficients={**target.coefficients, **own})
    assert "efficiency.linalg" not in transfer([fitted("gpu_v100", efficiency_gemm=0.5)], target).coefficients
