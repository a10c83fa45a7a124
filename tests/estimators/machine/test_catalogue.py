"""The catalogue of coefficients: one entry each, and what it answers."""

import math

import pytest

from shmoo.calibrate.fit.parameters import search_space
from shmoo.estimators.machine.catalogue import CATALOGUE, DEFAULTS, TYPICAL, entry, is_count
from shmoo.estimators.machine.coefficients import TENSOR, algorithm_names
from shmoo.estimators.machine.inheritance import followers
from shmoo.estimators.machine.names import whose
from shmoo.estimators.machine.profile import builtin_names, load_profile
from shmoo.estimators.predict.draws import names_to_draw


@pytest.mark.parametrize("name", builtin_names())
def test_every_coefficient_of_a_profile_is_listed_in_its_unit(name):
    """A name without an entry, or in another unit than its entry's, is a misspelling."""
    for coefficient, number in load_profile(name).coefficients.items():
        assert entry(coefficient).unit == number.unit, coefficient


def test_the_longest_stem_names_the_entry():
    """`efficiency.bandwidth` is not a share of a peak, and `half.k.gemm` has the entry of `half.k`."""
    assert entry("efficiency.bandwidth.gemm") is CATALOGUE["efficiency.bandwidth"]
    assert entry("efficiency.inductor.conv") is CATALOGUE["efficiency"]
    assert entry("half.k.gemm") is CATALOGUE["half.k"]
    assert entry("nobody.listed") not in CATALOGUE.values()


def test_a_family_assumes_its_own_before_the_general():
    """Shares of blocks on a GPU are others than those of a machine in general; typical values are no defaults."""
    assert DEFAULTS["cpu"]["efficiency"].value == 0.65
    assert DEFAULTS["tpu"]["efficiency"].value == 0.75
    assert DEFAULTS["gpu"]["efficiency"].value == 0.9
    assert "energy.byte.dram" in TYPICAL["cpu"]
    assert "energy.byte.dram" not in DEFAULTS["cpu"]


def test_what_is_looked_up_is_never_fitted():
    """A capacity has no range to fit it in."""
    with pytest.raises(KeyError, match=r"capacity\.l2"):
        search_space("capacity.l2", load_profile("cpu_server_generic"))


def test_names_fall_back_from_the_particular_to_the_general():
    """Algorithm, products for convolutions, tensor cores in common, family, nothing; runtime by runtime."""
    prefixes = ("launch.eager", "launch")
    names = algorithm_names(prefixes, "conv_tensor")
    assert names == (*(f"{prefix}.{of}" for prefix in prefixes for of in ("conv_tensor", "tensor", "conv")), *prefixes)
    names = algorithm_names(("half.k",), "conv_tensor")
    assert names == ("half.k.conv_tensor", "half.k.gemm_tensor", "half.k.tensor", "half.k.conv", "half.k")


def test_a_part_of_the_structure_brings_what_belongs_to_it():
    """A GPU's clock speeds L2 up as plain and as tensor-core kernels read it, and not main memory."""
    names = ("clock", "peak.matrix.float16", "bandwidth.l2", "bandwidth.l2.tensor", "bandwidth.dram")
    assert dict(followers("clock", "gpu", names)) == dict.fromkeys(names[1:4], 1.0)
    assert followers("bandwidth.l2", "gpu", names) == [("bandwidth.l2.tensor", 1.0)]


def test_intervals_draw_what_is_uncertain_of_this_runtime():
    """Neither what the tiles were cut by, nor what other runtimes launch, nor what was fitted to times."""
    profile = load_profile("gpu_a100_40g")
    drawn = set(names_to_draw(profile.all_coefficients, "inductor", has_tensor_kernels=False))
    assert {"graph", "device_launch", "vector_share"} <= drawn
    assert not drawn & {"capacity.l2", "count.sms", "sigma", "launch.cudagraphs", "efficiency.gemm"}
    assert not [name for name in drawn if whose(name) in ("tensor", *TENSOR)]
    assert "half.tile.tensor" in names_to_draw(profile.all_coefficients, "inductor", has_tensor_kernels=True)


@pytest.mark.parametrize(
    ("name", "ends"),
    [
        ("count.sms", (1.0, 1e6)),
        ("half.k.conv_tensor", (0.0, 1e7)),
        ("throttle.cool.tensor", (0.0, 1.0)),
        ("energy.share.gemm", (0.0, 100.0)),
        ("bandwidth.dram", (1e5, 1e18)),
        ("launch.eager", (0.0, 10.0)),
        ("nobody.listed", (-math.inf, math.inf)),
    ],
)
def test_an_entry_knows_the_least_and_the_largest_value(name, ends):
    """Its own where it has no unit, else that of its unit; nothing is known of an unknown name."""
    assert entry(name).range == ends


def test_an_entry_says_whether_a_coefficient_belongs_to_the_host():
    """Launches of every runtime and operator belong to the host; launches by the device itself do not."""
    names = ("launch", "launch.eager.add", "dispatch.eager.gemm", "launch_tail", "graph.inductor", "allocate.byte")
    assert all(entry(name).of_host for name in names)
    assert not any(entry(name).of_host for name in ("device_launch", "device_launch.append", "module.eager", "gap"))


def test_a_count_is_a_whole_number_of_parts():
    """Sides of an array and lanes are counted, too; a clock and a capacity are not."""
    assert all(map(is_count, ("count.tiles", "array.rows", "vector.lanes")))
    assert not any(map(is_count, ("clock", "capacity.l2", "compute.capability")))
