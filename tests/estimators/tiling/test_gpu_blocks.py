"""Thread blocks of GPU libraries: which tiles they come in, what small problems waste, and Winograd's transforms."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from shmoo.estimators.errors import InputError
from shmoo.estimators.fusion.rules import fuse
from shmoo.estimators.machine.profile import ArchitectureProfile, TilingSpec, load_profile
from shmoo.estimators.table import KernelTable
from shmoo.estimators.tiling import GpuThreadBlocks, TileShape, Tiling, strategy_for
from shmoo.estimators.tiling.gpu import blocks
from shmoo.estimators.tiling.gpu.library import DIRECT, LIBRARIES
from tests.build import GraphBuilder, kernel_table, with_values


def linear(m: int, n: int, k: int, dtype: str = "float32") -> KernelTable:
    b = GraphBuilder(dtype)
    graph = b.graph(b.linear(b.tensor((m, k)), n))
    return kernel_table(graph, fuse(graph))


def bmm(batch: int, m: int, n: int, k: int) -> KernelTable:
    b = GraphBuilder()
    graph = b.graph(b.call("bmm", {"self": b.tensor((batch, m, k)), "mat2": b.tensor((batch, k, n))}, (batch, m, n)))
    return kernel_table(graph, fuse(graph))


def conv(images: int, channels: int, side: int, filters: int, width: int | None = None) -> KernelTable:
    b = GraphBuilder()
    graph = b.graph(b.conv(b.tensor((images, channels, side, width or side)), filters))
    return kernel_table(graph, fuse(graph))


def cut(table: KernelTable, profile: ArchitectureProfile) -> Tiling:
    strategy = strategy_for(profile)
    return strategy.apply(table, profile, strategy.choose(table, profile))


def ways(table: KernelTable, profile: ArchitectureProfile) -> dict:
    return {way.name: way for way in cut(table, profile).alternatives}


@pytest.mark.parametrize(("library", "tile"), [("pascal", (64, 128)), ("ampere", (128, 128))])
def test_a_batch_of_products_takes_the_only_tile_its_library_has(library, tile):
    """However small the products are: 60 x 60 fills 60 x 60 of the tile."""
    profile = load_profile("gpu_a100_40g").replacing(tiling=TilingSpec("gpu_thread_blocks", {"library": library}))
    tiling = cut(bmm(108, 60, 60, 64), profile)
    assert (tiling.shape.m[0], tiling.shape.n[0]) == tile
    assert tiling.utilisation[0] == pytest.approx(60 * 60 / (tile[0] * tile[1]))


def test_a_tile_is_chosen_by_what_it_takes_under_the_power_cap():
    """Work that asks for four times what the cap leaves takes four times as long at a voltage that stays; twice with joules that
    fall as the clock does; a third of that, 4 x 0.6, where the voltage has a floor; and a kernel far shorter than the
    controller's time runs on."""
    a100 = load_profile("gpu_a100_40g")
    profile = with_values(a100, {"throttle.cap": 1.0, "power.static": 50.0, "energy.clock": 0.0, "throttle.time": 1e-6})
    asked = np.asarray([100.0, 800.0, 4e-6]), np.asarray([1.0, 1.0, 5e-9])
    seconds = blocks.capped_seconds(asked[1], asked[0], profile)
    assert seconds == pytest.approx([1.0, 4.0, 5e-9], rel=1e-3)
    falling = with_values(profile, {"energy.clock": 1.0, "energy.floor": 0.0})
    assert blocks.capped_seconds(asked[1], asked[0], falling)[1] == pytest.approx(2.0)
    floored = with_values(profile, {"energy.clock": 1.0, "energy.floor": 0.6})
    assert blocks.capped_seconds(asked[1], asked[0], floored)[1] == pytest.approx(2.4)
    free = a100.replacing(coefficients={n: c for n, c in a100.coefficients.items() if n != "power.tdp"})
    assert blocks.capped_seconds(asked[1], asked[0], free) == pytest.approx(asked[1])


@pytest.mark.parametrize("together", [1, 40, 2**15])
def test_the_first_of_the_fastest_candidates_is_taken(together, monkeypatch):
    """However many are compared at once; where none is offered, extents are 1 and the reduction stays whole."""
    monkeypatch.setattr(blocks, "NUMBERS_AT_ONCE", together)
    candidates = [(64.0, 2.0), (32.0, 1.0), (128.0, 1.0)]
    cost = np.array([3.0, 1.0, 1.0])

    def offer(tile, split):
        seconds = cost[np.searchsorted(np.array([32.0, 64.0, 128.0]), tile)] + np.array([0.0, 0.0, np.inf])
        return np.where(tile == 32.0, seconds + 2.5, seconds), np.array([10.0, 20.0, 30.0]) / split

    tile, split, extent = blocks.fastest(candidates, np.array([7.0, 8.0, 9.0]), load_profile("gpu_t4"), offer)
    assert tile.tolist() == [64.0, 64.0, 1.0]
    assert split.tolist() == [2.0, 2.0, 1.0]
    assert extent.tolist() == [5.0, 10.0, 9.0]


@pytest.mark.parametrize("library", LIBRARIES)
def test_products_take_tiles_of_their_library(library):
    """One of the list, whatever the shape; a direct convolution has a list of its own and no split of its reduction."""
    strategy = GpuThreadBlocks(library=library)
    profile = load_profile("gpu_v100")
    for m, n in ((7, 4096), (4096, 7), (300, 300), (4096, 4096)):
        shape = strategy.choose(linear(m, n, 512), profile)
        assert (shape.m[0], shape.n[0]) in LIBRARIES[library].products
    shape = strategy.choose(conv(1, 512, 7, 512), profile)
    assert (shape.m[0], shape.n[0]) in DIRECT
    assert shape.k[0] == 512 * 9


@pytest.mark.parametrize(("dtype", "extent"), [("float32", 2048), ("bfloat16", 448)])
@pytest.mark.parametrize("axis", "mn")
def test_an_extent_set_by_hand_stays_and_the_other_shrinks(dtype: str, extent: int, axis: str) -> None:
    """Beside it none of the library's extents fits shared memory and the registers."""
    profile = load_profile("gpu_h100")
    table = linear(4096, 4096, 4096, dtype)
    strategy = replace(strategy_for(profile), **{f"tile_{axis}": float(extent)})
    shape = strategy.choose(table, profile)
    assert getattr(shape, axis)[0] == extent
    other = getattr(shape, "n" if axis == "m" else "m")[0]
    assert 1.0 <= other <= 32.0
    assert strategy.apply(table, profile, shape).tiles[0] == pytest.approx(
        np.ceil(4096 / extent) * np.ceil(4096 / other) * np.ceil(4096 / shape.k[0])
    )


@pytest.mark.parametrize(("dtype", "extent", "most"), [("float32", 4096, 3647), ("bfloat16", 512, 455)])
def test_an_extent_that_fits_beside_no_other_is_refused(dtype: str, extent: int, most: int) -> None:
    """Two stages of 8 x (m + n) x 4 bytes, and four of 64 x (m + n) x 2, fill 228 KiB where m + n is 3648 and 456."""
    profile = load_profile("gpu_h100")
    table = linear(4096, 4096, 4096, dtype)
    for axis in "mn":
        with pytest.raises(InputError, match=f"tile_{axis} must be {most} or less"):
            replace(strategy_for(profile), **{f"tile_{axis}": float(extent)}).choose(table, profile)
        shape = replace(strategy_for(profile), **{f"tile_{axis}": float(most)}).choose(table, profile)
        assert getattr(shape, axis)[0] == most


def test_a_product_of_less_than_a_slice_takes_as_long_as_a_slice() -> None:
    """Reductions of 1 and of 8 are one slice of the float32 units; those of 1 and of 32 are one of the tensor cores."""
    profile = load_profile("gpu_rtx3090")
    for slice_k, dtype in ((8, "float32"), (32, "bfloat16")):
        one, whole = (cut(linear(64, 64, k, dtype), profile).blocks.depth[0] for k in (1, slice_k))
        assert one == whole == slice_k


def test_a_misspelt_library_suggests_the_nearest():
    """Generations are listed."""
    with pytest.raises(InputError, match="'volta'"):
        GpuThreadBlocks(library="volt")


def test_reductions_are_padded_to_whole_slices():
    """9 takes two slices of 8: 9 / 16 of the work is useful."""
    profile = load_profile("gpu_a100_40g")
    table = linear(128 * 12, 128 * 9, 9)
    one = np.ones(1)
    tiling = GpuThreadBlocks().apply(table, profile, TileShape(128 * one, 128 * one, 9 * one))
    assert tiling.utilisation[0] == pytest.approx(9 / 16)


def test_winograd_rounds_images_to_whole_tiles():
    """5 x 5 results take 2 x 2 tiles of 4 x 4: 4 x 36 multiplications for 25 x 9. 3 x 3 tiles of 2 x 2: 9 x 16 for 25 x 9.
    8 x 8 have nothing to round: 36 / 144 and 16 / 36."""
    profile = load_profile("gpu_v100")
    small, even = (ways(conv(32, 64, side, 64), profile) for side in (5, 8))
    assert small["winograd"].share[0] == pytest.approx(4 * 36 / (25 * 9))
    assert small["winograd_fused"].share[0] == pytest.approx(9 * 16 / (25 * 9))
    assert even["winograd"].share[0] == pytest.approx(36 / 144)
    assert even["winograd_fused"].share[0] == pytest.approx(16 / 36)


def test_winograd_tiles_the_height_and_the_width_of_an_image():
    """2 x 32 results take 1 x 8 tiles of 4 x 4 and 1 x 16 of 2 x 2; a square of as many points would take 4 and 16."""
    wide = ways(conv(32, 64, 2, 64, width=32), load_profile("gpu_v100"))
    assert wide["winograd"].share[0] == pytest.approx(8 * 36 / (64 * 9))
    assert wide["winograd_fused"].share[0] == pytest.approx(16 * 16 / (64 * 9))


def test_winograd_transforms_filters_at_every_call():
    """One image of 4 x 4 with 512 x 512 filters: 36 values of 4 bytes for each are written and read, and 36 for each channel of
    the one tile, in and out."""
    way = ways(conv(1, 512, 4, 512), load_profile("gpu_v100"))["winograd"]
    assert way.moved["l2"][0] == pytest.approx(2 * 36 * 4 * (512 * 512 + 512 + 512))
    assert way.moved["dram"][0] < way.moved["l2"][0]


def test_long_rows_outreach_the_translations_at_hand():
    """Rows of 64 thousand elements lie 256 KB apart, those that a multiprocessor's blocks walk span over 64 MB; rows of a
    thousand do not."""
    long, short = (cut(linear(4096, 4096, k), load_profile("gpu_p100")).blocks.tlb_miss_share[0] for k in (65536, 1024))
    assert long > 0.9
    assert short < 0.01


def test_rows_are_walked_along_the_reduction():
    """The first operand's, as far as L2 does not hold them; rows of 256 elements of 4 bytes share pages. A linear layer walks
    both operands alike, and tensor cores copy wider slices."""
    profile = load_profile("gpu_v100")
    b, m, n = 64, 4096, 16
    for k, pages in ((4096, 1.0), (256, 0.5)):
        walked = cut(bmm(b, m, n, k), profile).blocks.walked[0]
        assert walked == pytest.approx(4 * b * m * k * pages, rel=0.1)
    for dtype in ("float32", "float16"):
        assert cut(linear(64, 65536, 4096, dtype), profile).blocks.walked[0] == 0.0


def test_a_reduction_of_half_a_million_is_split_into_many_parts():
    """8 x 1024 results keep few multiprocessors busy with four parts. Parts stay long, so usual reductions have four at most."""
    profile = load_profile("gpu_v100")
    strategy = strategy_for(profile)
    parts = {k: np.ceil(k / strategy.choose(linear(8, 1024, k), profile).k[0]) for k in (16384, 500_000)}
    assert parts[16384] <= 4
    assert parts[500_000] >= 8


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_reduction_is_split_as_far_as_its_partial_sums_fit_the_workspace(dtype: str) -> None:
    """Sums of 1 MiB come in parts, those of more than half of an A100's 8 MiB in one, however few blocks there are."""
    profile = load_profile("gpu_a100_40g")
    strategy = strategy_for(profile)
    parts = {n: np.ceil(5120 / strategy.choose(linear(512, n, 5120, dtype), profile).k[0]) for n in (512, 2304, 4096)}
    assert parts[512] > 1
    assert parts[2304] == parts[4096] == 1


def test_parts_of_a_long_reduction_need_no_workspace() -> None:
    """On tensor cores of an A100 from 3072 elements on: 36 blocks of 256 x 128 over 9216 are split, over 5120 they are not."""
    profile = load_profile("gpu_a100_40g")
    strategy = strategy_for(profile)
    shapes = {k: strategy.choose(linear(512, 2304, k, "bfloat16"), profile) for k in (5120, 9216)}
    assert shapes[5120].k[0] == 5120
    assert 3072 <= shapes[9216].k[0] < 9216


@pytest.mark.parametrize(("name", "dtype"), [("gpu_t4", None), ("gpu_h100", "tf32")])
def test_equal_kernels_are_cut_once_and_alike(name: str, dtype: str | None) -> None:
    """Tiles of a table are those of each kernel by itself, whichever others stand beside it."""
    table = KernelTable.concat(
        [linear(64, 256, 512), bmm(4, 64, 64, 32), linear(64, 256, 512), conv(1, 64, 28, 64), bmm(4, 64, 64, 32)]
    )
    table = table if dtype is None else table.computed_in(dtype)
    rows, kind = table.kinds()
    assert (rows.tolist(), kind.tolist()) == ([0, 1, 3], [0, 1, 0, 2, 1])
    profile = load_profile(name)
    strategy = strategy_for(profile)
    together = strategy.choose(table, profile)
    alone = [strategy.choose(table.take(np.array([row])), profile) for row in range(len(table))]
    for axis in "mnk":
        assert getattr(together, axis).tolist() == [float(getattr(shape, axis)[0]) for shape in alone]


def test_kernels_whose_operands_lie_elsewhere_are_no_kind() -> None:
    """The same product finds its operands at other distances."""
    table = KernelTable.concat([linear(64, 256, 512), linear(64, 256, 512)])
    further = replace(table, access_distance=table.access_distance + 1e6 * (table.access_kernel == 1))
    assert [len(some.kinds()[0]) for some in (table, further)] == [1, 2]
