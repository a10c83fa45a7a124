"""Tiling strategies: what each architecture makes of a kernel, as arithmetic on small cases."""

import csv
import dataclasses
from pathlib import Path

import numpy as np
import pytest

from shmoo.estimators.errors import InputError
from shmoo.estimators.machine.coefficients import Coefficients
from shmoo.estimators.machine.profile import TilingSpec, builtin_names, load_profile
from shmoo.estimators.predict.model import predict
from shmoo.estimators.table import DTYPE_CODE, FAMILY_CODE, READ_ACTIVATION, READ_WEIGHT, WRITE, KernelTable
from shmoo.estimators.tiling import (
    TILINGS,
    CpuL2Blocking,
    GpuThreadBlocks,
    KpuWavefront,
    TileShape,
    TpuWeightStationary,
    strategy_for,
)
from shmoo.estimators.tiling.base import compulsory_traffic
from tests.build import with_values
from tests.measured_rows import measured_rows

REFERENCE = Path(__file__).parents[3].parent / "shared" / "reference"
MIB = 2**20
FAR = 1e15
"""Bytes touched since an operand was last seen: more than any machine holds."""
STRATEGIES = {"cpu": "cpu_l2_blocking", "gpu": "gpu_thread_blocks", "tpu": "tpu_weight_stationary", "kpu": "kpu_wavefront"}
ONE_OF_EACH = ("cpu_server_generic", "gpu_a100_40g", "tpu_v4", "kpu_t256")


def table_of(rows, operands, **columns):
    """A table in which columns left out are 0, or 1 for extents; `operands` has shape (rows, accesses a row)."""
    extents = dict.fromkeys(("batch", "m", "n", "k", "window", "stride", "dilation", "calls"), np.ones(rows))
    blank = {field.name: np.zeros(rows, dtype=int) for field in dataclasses.fields(KernelTable)}
    accesses = {
        "segment": np.arange(rows),
        "access_kernel": np.repeat(np.arange(rows), operands.shape[1]),
        "access_bytes": operands.ravel(),
        "labels": ("",) * rows,
    }
    return KernelTable(**{**blank, **extents, **accesses, **columns})


def products(m, n, k, batch=1, dtype="float32", size=4, family="gemm"):
    """Matrix products: A, B read and C written once, all found in the main memory only."""
    batch, m, n, k = (np.asarray(x, dtype=float) for x in np.broadcast_arrays(np.atleast_1d(batch), m, n, k))
    rows = len(m)
    return table_of(
        rows,
        np.stack([batch * m * k * size, batch * k * n * size, batch * m * n * size], axis=1),
        family=np.full(rows, FAMILY_CODE[family]),
        dtype=np.full(rows, DTYPE_CODE[dtype]),
        matrix_flops=2 * batch * m * n * k,
        **{"batch": batch, "m": m, "n": n, "k": k},
        access_distance=np.full(3 * rows, FAR),
        access_kind=np.tile([READ_ACTIVATION, READ_WEIGHT, WRITE], rows),
    )


def pointwise(elements):
    """One read and one write of float32, an operation each."""
    elements = np.asarray(elements, dtype=float)
    rows = len(elements)
    return table_of(
        rows,
        np.stack([4 * elements, 4 * elements], axis=1),
        family=np.full(rows, FAMILY_CODE["pointwise"]),
        vector_flops=elements,
        m=elements,
        access_distance=np.full(2 * rows, FAR),
        access_kind=np.tile([READ_ACTIVATION, WRITE], rows),
    )


def cut(strategy, table, profile):
    return strategy.apply(table, profile, strategy.choose(table, profile))


def array(rows, cols, units=1, vmem=2.0**50):
    """A TPU of `units` arrays whose published peak is that of its structure, with boundless memory on chip."""
    profile = load_profile("tpu_v5e")
    clock = profile.value("clock")
    changed = {"array.rows": rows, "array.cols": cols, "count.units": units, "capacity.vmem": vmem}
    peaks = {f"peak.matrix.{d}": 2 * rows * cols * units * clock for d in ("float32", "bfloat16", "float16", "int8")}
    return with_values(profile, {**changed, **peaks})


# --- the face


def test_strategies_are_registered_under_the_names_that_profiles_use():
    """Every built-in profile's strategy exists and is the one of its family."""
    assert set(STRATEGIES.values()) <= set(TILINGS)
    for name in builtin_names():
        profile = load_profile(name)
        assert profile.tiling.strategy == STRATEGIES[profile.family]
        assert isinstance(strategy_for(profile), TILINGS[profile.tiling.strategy])


def test_misspelt_parameter_suggests_the_nearest():
    """A profile's tiling parameters are checked by name."""
    profile = load_profile("tpu_v4").replacing(tiling=TilingSpec("tpu_weight_stationary", {"mod": "serial"}))
    with pytest.raises(InputError, match="'mode'"):
        strategy_for(profile)


@pytest.mark.parametrize("bad", [{"mode": "serail"}, {"dataflow": "rs"}, {"tile_m": 0}, {"tile_m": "wide"}])
def test_impossible_parameter_is_refused(bad):
    """Modes, dataflows and extents that do not exist are errors."""
    with pytest.raises(InputError):
        TpuWeightStationary(**bad)


@pytest.mark.parametrize("name", builtin_names())
def test_tiling_is_physical_on_random_products(name):
    """Utilisation is in (0, 1], traffic grows towards the units and never falls under the operands, counts are whole numbers."""
    rng = np.random.default_rng(0)
    m, n, k = (np.floor(2 ** rng.uniform(0, 12, 500)) for _ in range(3))
    table = products(m, n, k, np.floor(2 ** rng.uniform(0, 5, 500)))
    profile = load_profile(name)
    tiling = cut(strategy_for(profile), table, profile)
    assert np.all((tiling.utilisation > 0) & (tiling.utilisation <= 1 + 1e-9))
    assert np.all(tiling.tiles >= 1)
    assert np.all(tiling.waves >= 1)
    assert np.allclose(tiling.tiles, np.round(tiling.tiles))
    assert np.all(tiling.state_bytes > 0)
    floor = compulsory_traffic(table, profile)
    for level in profile.levels:
        assert np.all(tiling.level_bytes[level] >= floor[level] * (1 - 1e-9)), level
    for extent, limit in ((tiling.shape.m, m), (tiling.shape.n, n), (tiling.shape.k, k)):
        assert np.all(extent >= 1)
        if profile.family != "gpu":  # thread blocks overhang small matrices
            assert np.all(extent <= limit)


@pytest.mark.parametrize("name", builtin_names())
def test_pointwise_kernels_leave_the_matrix_units_alone(name):
    """No cycles of an array, every byte once, and lanes are full when there is enough to do."""
    table = pointwise([1, 1000, 2**26])
    profile = load_profile(name)
    tiling = cut(strategy_for(profile), table, profile)
    assert tiling.cycles is None or np.all(np.isnan(tiling.cycles))
    assert tiling.level_bytes["dram"] == pytest.approx(table.bytes, rel=1e-6)
    assert tiling.utilisation[-1] > 0.99


@pytest.mark.parametrize("name", [name for name in builtin_names() if not load_profile(name).illustrative])
def test_predicted_power_lies_between_idle_and_tdp(name):
    """Products bound by arithmetic, by weights and by launches, and a streaming kernel: none draws more than the machine can."""
    profile = load_profile(name)
    for table in (products([8192, 8, 64, 8192], [8192, 8192, 64, 64], [8192, 8192, 64, 8192]), pointwise([2**28])):
        tiling = cut(strategy_for(profile), table, profile)
        predicted = predict(table, tiling, Coefficients(profile), profile.default_runtime)
        power = predicted.dynamic_j / predicted.latency_s + profile.value("power.static")
        assert np.all(power >= profile.value("power.idle"))
        assert np.all(power <= profile.value("power.tdp"))


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_tile_size_is_apart_from_memory(name):
    """The same machine takes another tile by hand, and accounts for more traffic with a smaller one."""
    table = products(4096, 4096, 4096)
    profile = load_profile(name)
    strategy = TILINGS[profile.tiling.strategy]
    small, large = (cut(strategy(tile_m=t, tile_n=t), table, profile) for t in (32, 512))
    assert (small.shape.m[0], small.shape.n[0]) == (32, 32)
    assert (large.shape.m[0], large.shape.n[0]) == (512, 512)
    assert small.tiles[0] >= large.tiles[0] * 256 / 4
    assert sum(b[0] for b in small.level_bytes.values()) > sum(b[0] for b in large.level_bytes.values())


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_shape_passed_to_apply_wins(name):
    """`apply` accounts for whatever extents it is given."""
    table = products([1024, 1000], 1024, 1024)
    profile = load_profile(name)
    strategy = strategy_for(profile)
    ones = np.ones(2)
    tiling = strategy.apply(table, profile, TileShape(64 * ones, 64 * ones, 1024 * ones))
    assert tiling.tiles.tolist() == [256, 256]  # 16 x 16, the last row of blocks partly filled


# --- CPU


def test_cpu_block_grows_with_the_root_of_the_private_l2():
    """Three double-buffered square blocks: side = sqrt(L2 / (3 x 2 x 4 B)), in whole vectors."""
    profile = with_values(load_profile("cpu_server_generic"), {"count.cores": 1})
    table = products(8192, 8192, 8192)
    for l2 in (0.25 * MIB, MIB, 4 * MIB):
        side = CpuL2Blocking().choose(table, with_values(profile, {"capacity.l2": l2})).k[0]
        assert side == np.floor((l2 / 24) ** 0.5 / 16) * 16


def test_cpu_block_does_not_follow_the_shared_cache_or_the_memory():
    """A larger L3 or DRAM leaves the blocks as they are."""
    profile = load_profile("cpu_server_generic")
    bigger = with_values(profile, {"capacity.l3": 2**33, "capacity.dram": 2**45})
    table = products([512, 4096], 4096, 512)
    one, other = (CpuL2Blocking().choose(table, p) for p in (profile, bigger))
    assert one.m.tolist() == other.m.tolist()
    assert one.n.tolist() == other.n.tolist()


def test_cpu_blocks_left_over_leave_cores_idle():
    """9 blocks on 8 cores take two rounds: 9 / 16; half-filled vectors halve it again."""
    profile = load_profile("cpu_i7_12700k")
    table = products(96, 96, 64)
    tiling = CpuL2Blocking().apply(table, profile, TileShape(np.array([32.0]), np.array([32.0]), np.array([64.0])))
    assert tiling.tiles[0] == 9
    assert tiling.utilisation[0] == pytest.approx(9 / 16)
    narrow = products(4, 4, 64)
    tiling = CpuL2Blocking().apply(narrow, profile, TileShape(np.array([4.0]), np.array([4.0]), np.array([64.0])))
    assert tiling.utilisation[0] == pytest.approx(1 / 8 * 4 / 8)


def test_cpu_operands_that_fit_are_not_read_again():
    """A product inside the caches moves each operand once; one far beyond them moves some again."""
    profile = load_profile("cpu_server_generic")
    table = products([128, 16384], [128, 16384], [128, 16384])
    dram = cut(CpuL2Blocking(), table, profile).level_bytes["dram"]
    assert dram[0] == pytest.approx(table.bytes[0])
    assert dram[1] > 1.5 * table.bytes[1]


# --- GPU


def test_gpu_last_wave_costs_as_much_as_a_full_one():
    """One block for each of 108 multiprocessors fills a round; one more block halves utilisation."""
    profile = load_profile("gpu_a100_40g")
    ones = np.ones(2)
    table = products([128, 128], [128 * 108, 128 * 109], 4096)
    tiling = GpuThreadBlocks().apply(table, profile, TileShape(128 * ones, 128 * ones, 4096 * ones))
    assert tiling.tiles.tolist() == [108, 109]
    assert tiling.utilisation == pytest.approx([1.0, 109 / 216])


def test_gpu_overhanging_tiles_cost_a_full_tile():
    """129 rows in tiles of 128 take two: 129 / 256 of the work is useful, on 2 of 108 multiprocessors."""
    profile = load_profile("gpu_a100_40g")
    one = np.ones(1)
    tiling = GpuThreadBlocks().apply(products(129, 128, 512), profile, TileShape(128 * one, 128 * one, 512 * one))
    assert tiling.utilisation[0] == pytest.approx(129 / 256 * 2 / 108)


def test_gpu_splits_a_deep_reduction_with_few_outputs():
    """A 64 x 64 result over k = 65536 is cut along k, a large square product is not."""
    profile = load_profile("gpu_v100")
    table = products([64, 4096], [64, 4096], [65536, 4096])
    shape = GpuThreadBlocks().choose(table, profile)
    assert shape.k[0] == 65536 / 4
    assert shape.k[1] == 4096


def test_gpu_tile_fits_shared_memory():
    """Two stages of both operands' slices stay within what a multiprocessor has; a small one gets small tiles."""
    table = products(8192, 8192, 8192)
    profile = load_profile("gpu_a100_40g")
    tiny = with_values(profile, {"capacity.shared": 8 * 2**10})
    shape = GpuThreadBlocks().choose(table, tiny)
    assert 2 * 4 * 8 * (shape.m[0] + shape.n[0]) <= 8 * 2**10
    assert GpuThreadBlocks().choose(table, profile).m[0] > shape.m[0]


def test_gpu_l2_serves_what_tiles_share():
    """Every block loads its operands through L2; main memory sees far less."""
    profile = load_profile("gpu_a100_40g")
    table = products(2048, 2048, 2048)
    tiling = GpuThreadBlocks().apply(table, profile, TileShape(*(np.array([x]) for x in (128.0, 128.0, 2048.0))))
    operand = 4 * 2048**2
    assert tiling.level_bytes["l2"][0] == pytest.approx((16 + 16 + 1) * operand)
    assert tiling.level_bytes["dram"][0] < 5 * operand


# --- TPU


def scalesim_rows():
    path = REFERENCE / "tpu" / "scalesim_cycles.csv"
    rows = list(csv.DictReader(path.read_text().splitlines())) if path.is_file() else measured_rows("scalesim_cycles.csv")
    # Rows of mode USER give the array less memory bandwidth than it asks for; the closed forms are of the array alone.
    return [row for row in rows if row["mode"] != "USER"]


@pytest.mark.parametrize("dataflow", ["ws", "is", "os"])
def test_serial_cycles_transcribe_the_simulators_closed_forms(dataflow):
    """A test of transcription, not of accuracy: serial cycles equal SCALE-Sim's for every run with enough memory bandwidth.

    The simulator counts from 0, so its total is one less; a depthwise row is one channel, here as a batch of three of them.
    """
    rows = [row for row in scalesim_rows() if row["dataflow"] == dataflow]
    assert len(rows) >= 10
    strategy = TpuWeightStationary(mode="serial", dataflow=dataflow)
    for size in sorted({(row["rows"], row["cols"]) for row in rows}):
        mine = [row for row in rows if (row["rows"], row["cols"]) == size]
        m, n, k, total = (np.array([float(row[key]) for row in mine]) for key in ("M", "N", "K", "total_cycles"))
        channels = np.array([3.0 if row["kind"] == "dw" else 1.0 for row in mine])
        profile = array(float(size[0]), float(size[1]))
        tiling = strategy.apply(products(m, n, k, channels, "bfloat16", 2), profile, TileShape(m, n, k))
        assert tiling.cycles.tolist() == (channels * (total + 1)).tolist()


def test_serial_fold_loads_streams_and_drains():
    """F (2R + C + M - 2) with F = ceil(300 / 128) x ceil(200 / 128) = 6 folds."""
    tiling = cut(TpuWeightStationary(mode="serial"), products(50, 200, 300), array(128, 128))
    assert tiling.cycles[0] == pytest.approx(6 * (2 * 128 + 128 + 50 - 2))


def test_preloading_hides_all_but_the_first_load():
    """R + (F - 1) max(M, R) + M + R + C - 2: long streams hide the loads, short ones wait for them."""
    table = products([1000, 50], 256, 256)
    tiling = cut(TpuWeightStationary(), table, array(128, 128))
    assert tiling.cycles[0] == pytest.approx(128 + 3 * 1000 + 1000 + 254)
    assert tiling.cycles[1] == pytest.approx(128 + 3 * 128 + 50 + 254)


def test_overlapped_is_never_slower_than_serial():
    """Hiding loads can only help, for any shape."""
    rng = np.random.default_rng(1)
    table = products(*(np.floor(2 ** rng.uniform(0, 12, 300)) for _ in range(3)))
    profile = load_profile("tpu_v4")
    overlapped, serial = (cut(TpuWeightStationary(mode=mode), table, profile).cycles for mode in ("overlapped", "serial"))
    assert np.all(overlapped <= serial * (1 + 1e-9))


def test_partial_weight_tile_costs_a_full_one():
    """A 600 x 600 matrix takes 3 x 3 folds of 256, as one of 768 x 768 does."""
    cycles = cut(TpuWeightStationary(), products(64, [600, 768], [600, 768]), array(256, 256)).cycles
    assert cycles[0] == cycles[1]


def test_units_share_folds_or_the_stream():
    """Four arrays take a quarter of 64 folds each; with a single fold they share the stream."""
    one, four = array(128, 128), array(128, 128, units=4)
    table = products([4096, 65536], [1024, 128], [1024, 128])
    ratio = cut(TpuWeightStationary(), table, one).cycles / cut(TpuWeightStationary(), table, four).cycles
    assert ratio == pytest.approx([4, 4], rel=0.05)


def test_tpu_tile_is_proportional_to_on_chip_memory():
    """Twice the memory holds twice the weights of a block."""
    table = products(65536, 65536, 8192, dtype="bfloat16", size=2)
    shapes = [TpuWeightStationary().choose(table, array(128, 128, vmem=v * MIB)) for v in (96, 192)]
    assert shapes[1].n[0] == pytest.approx(2 * shapes[0].n[0], rel=0.1)


def test_large_products_cut_k_before_they_shrink_their_blocks():
    """32768 cubed on a v6e: blocks of results stay thousands wide, and arithmetic bounds it (293 ms where every operand came
    again for narrow panels)."""
    profile, table = load_profile("tpu_v6e"), products(32768, 32768, 32768, dtype="bfloat16", size=2)
    strategy = TpuWeightStationary()
    shape = strategy.choose(table, profile)
    assert min(shape.m[0], shape.n[0]) >= 2048
    assert shape.k[0] < 32768
    tiling = strategy.apply(table, profile, shape)
    assert tiling.level_bytes["dram"][0] / profile.value("bandwidth.dram") < tiling.cycles[0] / profile.value("clock")


@pytest.mark.parametrize("name", ["tpu_v3", "tpu_v4", "tpu_v5e", "tpu_v5p", "tpu_v6e"])
def test_utilisation_does_not_fall_as_products_grow(name):
    """Squares from 1024 to 32768: each is at least as fast for a flop as the one of half the side."""
    profile = load_profile(name)
    sides = 2.0 ** np.arange(10, 16)
    table = products(sides, sides, sides, dtype="bfloat16", size=2)
    time = predict(table, cut(TpuWeightStationary(), table, profile), Coefficients(profile), "xla").latency_s
    rate = table.matrix_flops / time
    assert np.all(rate[1:] >= rate[:-1] * 0.99)


def test_inputs_that_leave_the_chip_are_read_again():
    """A product that fits the chip moves once; one that does not moves an operand once for every block of the other."""
    table = products([512, 16384], [512, 16384], [512, 16384], dtype="bfloat16", size=2)
    profile = load_profile("tpu_v1")
    tiling = cut(TpuWeightStationary(), table, profile)
    assert tiling.level_bytes["dram"][0] == pytest.approx(table.bytes[0])
    assert tiling.level_bytes["dram"][1] > 3 * table.bytes[1]


def test_int8_takes_half_the_cycles_where_its_peak_is_twice():
    """The published rate of a type scales the counted cycles."""
    profile = load_profile("tpu_v5e")
    tables = (products(4096, 4096, 4096, dtype=d, size=s) for d, s in (("bfloat16", 2), ("int8", 1)))
    bf16, int8 = (cut(TpuWeightStationary(), table, profile).cycles[0] for table in tables)
    assert bf16 / int8 == pytest.approx(2, rel=0.05)


def test_depthwise_goes_to_the_vector_unit_where_an_array_would_be_slower():
    """One output column a group uses one column of the array; the vector unit bounds the time."""
    profile = load_profile("tpu_v4")
    table = products(3136, 1, 9, batch=256, family="depthwise")
    cycles = cut(TpuWeightStationary(), table, profile).cycles[0]
    assert cycles / profile.value("clock") <= table.matrix_flops[0] / profile.value("peak.vector.float32") * 1.01


# --- KPU


def fabric(tiles, side, l3=2.0**50):
    """A KPU of `tiles` arrays of side x side whose published peak is that of its structure."""
    profile = load_profile("kpu_t256")
    clock = profile.value("clock")
    peaks = {f"peak.matrix.{d}": 2 * tiles * side**2 * clock for d in ("float32", "bfloat16", "float16", "int8")}
    return with_values(profile, {"count.tiles": tiles, "array.rows": side, "array.cols": side, "capacity.l3": l3, **peaks})


def test_wavefront_takes_the_latency_of_its_recurrence():
    """94 steps for one 16 x 16 tile with k = 64; 16 rounds of 64 and one fill and drain, 1054, for 64 cubed."""
    cycles = cut(KpuWavefront(), products([16, 64], [16, 64], 64), fabric(1, 16)).cycles
    assert cycles.tolist() == [94, 1054]


def test_kpu_tiles_follow_the_fabric_and_not_the_memory():
    """64 times the L3 changes neither tiles nor cycles; four times the fabric quarters the rounds."""
    table = products(2048, 2048, 2048)
    small, large = (cut(KpuWavefront(), table, fabric(64, 16, l3 * MIB)) for l3 in (1, 64))
    assert small.shape.m[0] == large.shape.m[0] == 16
    assert small.cycles[0] == large.cycles[0]
    wide = cut(KpuWavefront(), table, fabric(256, 16))
    assert small.waves[0] == 4 * wide.waves[0]


def test_kpu_state_does_not_grow_with_k():
    """The wavefront on the fabric is O(output tile), however deep the product."""
    state = cut(KpuWavefront(), products(256, 256, [64, 65536]), fabric(64, 16)).state_bytes
    assert state.tolist() == [3 * 4 * 64 * 256] * 2


def test_blocks_of_results_recirculate_where_both_operands_overflow_the_memory():
    """16384 cubed at 64 MiB: 4096 x 4096 results stay, operands come 4 times: 9 GB where panels of an operand move 20; the block
    is the state, and it passes the memories nearer to the fabric once a slice of k."""
    table, profile = products(16384, 16384, 16384), load_profile("kpu_t256")
    tiling = cut(KpuWavefront(), table, profile)
    operand = 4 * 16384**2
    assert tiling.level_bytes["dram"][0] == pytest.approx((4 + 4 + 1) * operand)
    assert tiling.state_bytes[0] == pytest.approx(4 * 4096**2 + 3 * 4 * 256 * 256)
    slices = 16384 / (profile.value("capacity.l2") / (2 * 4 * 2 * 4096))
    assert tiling.level_bytes["l3"][0] >= 2 * (slices - 1) * operand


def test_a_single_block_of_results_needs_each_operand_once():
    """4096 cubed at 64 MiB: results fill the memory, and nothing moves twice."""
    table = products(4096, 4096, 4096)
    assert cut(KpuWavefront(), table, load_profile("kpu_t256")).level_bytes["dram"][0] == pytest.approx(table.bytes[0])


def test_tiles_that_would_be_idle_share_a_reduction():
    """One row by one column of 4096 on 256 tiles: 64 parts of 64, chained, and no fill: 127 steps; on one tile 4096."""
    table = products(1, 1, 4096)
    assert cut(KpuWavefront(), table, fabric(256, 16)).cycles[0] == 64 + 64 - 1
    assert cut(KpuWavefront(), table, fabric(1, 16)).cycles[0] == 4096


def test_64_mib_stream_a_2048_cube_once_and_1_mib_does_not():
    """A once, C once, B once for every T resident rows, s (T k + 2 k C) <= L3: T = 96 at 1 MiB, so B moves 22 times. Blocks of
    512 x 416 results fill 0.81 of it, beside slices of both operands, and move these 4 and 5 times; slow memories near the fabric
    forbid them."""
    table = products(2048, 2048, 2048)
    operand = 4 * 2048**2
    l2 = {"capacity.l2": 2.0**10, "capacity.l1": 2.0**10}

    def moved(l3: float, **rates: float) -> float:
        profile = with_values(fabric(1, 16, l3 * MIB), {**l2, **{name.replace("_", "."): rate for name, rate in rates.items()}})
        return cut(KpuWavefront(), table, profile).level_bytes["dram"][0]

    assert moved(64) == pytest.approx(3 * operand)
    assert moved(1) == pytest.approx((4 + 5 + 1) * operand)
    assert moved(1, bandwidth_l1=1e6) == pytest.approx((1 + 1 + 22) * operand)


def test_kpu_traffic_lies_between_the_minimum_and_the_simulator():
    """Output-stationary DRAM bytes of the public simulator, which keeps no panel, bound ours from above when the L3 spills."""
    path = REFERENCE / "kpu" / "kpu_sim_dram_traffic.csv"
    rows = list(csv.DictReader(path.read_text().splitlines())) if path.is_file() else measured_rows("kpu_dram_traffic.csv")
    rows = [row for row in rows if row["strategy"] == "OS"]
    assert len(rows) >= 5
    for row in rows:
        table = products(*(float(row[key]) for key in ("M", "N", "K")))
        profile = fabric(1, float(row["array_rows"]), float(row["l3_capacity_bytes"]))
        dram = cut(KpuWavefront(), table, with_values(profile, {"capacity.l2": 2.0**10})).level_bytes["dram"][0]
        assert table.bytes[0] * (1 - 1e-9) <= dram <= max(float(row["dram_bytes"]), table.bytes[0]) * 1.01


def test_a_single_column_takes_no_longer_than_two():
    """56 rows by 33 on 256 tiles: columns of the array take further rows only where other tiles have no room left."""
    one, two = (cut(KpuWavefront(), products(56, n, 33), fabric(256, 16)).cycles[0] for n in (1, 2))
    assert one < two


def test_depthwise_fills_the_array_with_rows():
    """One output column a group would leave 15 of 16 columns empty; every element takes an output of its own instead."""
    tiling = cut(KpuWavefront(), products(4096, 1, 9, batch=64, family="depthwise"), fabric(64, 16))
    assert tiling.shape.m[0] == 256
    assert tiling.utilisation[0] > 0.3
