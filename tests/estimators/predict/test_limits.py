"""No estimate, nor the fast end of its interval, passes the peak at the highest clock or the bandwidth of the main memory."""

import numpy as np
import pytest

from shmoo.estimators.graph.dtypes import matrix_dtype
from shmoo.estimators.graph.records import RUNTIMES, Coefficient
from shmoo.estimators.machine.profile import builtin_names, load_profile
from shmoo.estimators.predict.director import AnalysisDirector
from shmoo.estimators.variants import variant
from shmoo.runs.tables.reading import TableRow
from tests.build import with_values

RUNTIME = {"cpu": "eager", "gpu": "cudagraphs", "tpu": "xla", "kpu": "domainflow"}
DTYPES = ("float32", "tf32", "bfloat16", "float16")
CASES = 24


def intervals_of(profile, rows, dtypes, cold=False):
    """Device times of rows (operator, extents) of a table."""
    graphs = [TableRow(0, op, {"b": 1, **axes}, dtype).graph() for (op, axes), dtype in zip(rows, dtypes, strict=True)]
    types = [matrix_dtype(dtype) for dtype in dtypes]
    asked = {"runtime": RUNTIME[profile.family], "compute_dtypes": types, "cold_weights": [cold] * len(rows)}
    return [time for priced in AnalysisDirector(profile).price_cases(graphs, **asked) for time, _ in priced.device_intervals()]


def interval_of(profile, op, dtype="float32", **axes):
    """Device time of one row."""
    return intervals_of(profile, [(op, axes)], [dtype])[0]


def peak(profile, dtype):
    """flop/s of products at the highest clock, from units and lanes."""
    v = profile.value
    rated = f"peak.matrix.{dtype}" if f"peak.matrix.{dtype}" in profile.coefficients else "peak.matrix.float32"
    if rated not in profile.coefficients:
        return max(c.value for n, c in profile.coefficients.items() if n.startswith("peak.matrix."))
    if profile.family != "gpu":
        return v(rated) * v("clock.highest", v("clock")) / v("clock")
    if "matrix.lanes" in profile.coefficients and rated != "peak.matrix.float32":
        lanes, share = v("matrix.lanes"), v(rated) / v("peak.matrix.float16")
    else:
        lanes, share = v("vector.lanes"), v(rated) / v("peak.matrix.float32")
    # Published peaks are rounded.
    return max(2 * v("count.sms") * lanes * v("clock.highest") * share, v(rated))


def caches(profile):
    """Bytes that stay on the chip from one kernel to the next, at most."""
    v = profile.value
    return sum(
        v(f"capacity.{level}", 0.0) * (v("count.cores", 1.0) if level in ("l1", "l2") and profile.family == "cpu" else 1.0)
        for level in profile.levels[:-1]
    )


@pytest.mark.parametrize("name", builtin_names())
def test_no_product_passes_the_peak_or_the_bandwidth(name):
    """For shapes from 1 to 16384, over every type that the machine has."""
    profile, rng = load_profile(name), np.random.default_rng(7)
    bandwidth = profile.coefficients["bandwidth.dram"].bounds[1]
    shapes = [[int(2**x) for x in rng.uniform((0, 4, 4), 14)] for _ in range(CASES)]
    dtypes = [DTYPES[i] for i in rng.integers(len(DTYPES), size=CASES)]
    rows = [("linear", {"m": m, "n": n, "k": k}) for m, n, k in shapes]
    for (m, n, k), dtype, found in zip(shapes, dtypes, intervals_of(profile, rows, dtypes, cold=True), strict=True):
        computing = 2.0 * m * n * k / peak(profile, dtype)
        size = 4 if dtype in ("float32", "tf32") else 2
        # A program's operands may come before it begins.
        moving = max(size * n * k - caches(profile), 0.0) / bandwidth if profile.family in ("cpu", "gpu") else 0.0
        assert found.low >= 0.999 * max(computing, moving), (dtype, m, n, k)
        assert found.low <= found.value <= found.high


@pytest.mark.parametrize("name", [name for name in builtin_names() if name.startswith(("gpu_", "cpu_"))])
@pytest.mark.parametrize("causal", [0, 1])
def test_no_attention_passes_the_peak(name, causal):
    """A causal mask leaves (n + 1) / 2 of n keys a query."""
    profile, (heads, n, k) = load_profile(name), (32, 4096, 128)
    found = interval_of(profile, "attention", "bfloat16", m=n, n=n, k=k, heads=heads, kv_heads=heads, causal=causal)
    seen = (n + 1) / (2 * n) if causal else 1.0
    assert found.low >= 0.999 * 4.0 * heads * n * n * k * seen / peak(profile, "bfloat16")


@pytest.mark.parametrize("name", [name for name in builtin_names() if name.startswith(("gpu_", "cpu_"))])
def test_no_stream_passes_the_pins(name):
    """An addition whose operands are a hundred times the caches moves at least 99 % of them."""
    profile = load_profile(name)
    cols = int(100 * max(caches(profile), 1e6) / 3 / 4 / 1024)
    found = interval_of(profile, "add", shape=f"1024x{cols}")
    assert found.low >= 0.98 * 3 * 4 * 1024 * cols / profile.coefficients["bandwidth.dram"].bounds[1]


@pytest.mark.parametrize(
    ("dtype", "tflops"),
    [("float32", 66.9), ("tf32", 535.3), ("bfloat16", 1070.5), ("float16", 1070.5), ("float8", 2141.1)],
)
def test_the_fast_end_of_an_h100(dtype, tflops):
    """132 multiprocessors x 128 lanes of float32, or 2048 of float16 on tensor cores, x 2 x 1.98 GHz. Peaks of tensor cores are
    published at 1.83 GHz."""
    profile = load_profile("gpu_h100")
    assert peak(profile, dtype) == pytest.approx(tflops * 1e12, rel=1e-3)
    hasty = with_values(profile, {"sigma.gemm": 2.0, "sigma.gemm_tensor": 2.0, "sigma.narrow_tensor": 2.0})
    if dtype != "float8":
        found = interval_of(hasty, "linear", dtype, m=8192, n=8192, k=8192)
        assert found.low == pytest.approx(2 * 8192**3 / (tflops * 1e12), rel=1e-3)


def with_shares(profile, **shares):
    """A profile without corrections, whose products and convolutions reach these shares of their peaks."""
    given = {name.replace("__", "."): Coefficient(value, "1", "fitted") for name, value in shares.items()}
    return profile.replacing(coefficients={**profile.coefficients, **given}, residual=())


def test_a_centre_value_keeps_to_the_peak_whatever_share_was_fitted():
    """The clock of an A100 never passes the one of its peak, so no share makes a product faster than 19.5 Tflop/s; a convolution,
    which may need fewer multiplications, is as fast as was fitted."""
    board = with_values(load_profile("gpu_a100_40g"), {"power.tdp": 4000.0})
    fast = with_shares(board, efficiency__gemm=1.6, efficiency__conv_3x3=1.6, efficiency__winograd=1.6)
    found = interval_of(fast, "linear", m=8192, n=8192, k=8192)
    assert found.value == pytest.approx(2 * 8192**3 / 19.5e12, rel=2e-3)
    window = {"conv_kernel": 3, "conv_size": 56, "conv_stride": 1, "conv_padding": 1}
    conv = interval_of(fast, "conv", conv_n=64, conv_c_in=256, conv_c_out=256, conv_groups=1, **window)
    assert conv.value < 2 * 64 * 256 * 256 * 9 * 56**2 / 19.5e12


def test_a_locked_clock_is_the_highest():
    """At half of the clock no product is faster than half of the peak."""
    slow = variant(load_profile("gpu_a100_40g"), {"clock": 705e6})
    assert slow.value("clock.highest") == 705e6
    found = interval_of(slow, "linear", "float16", m=8192, n=8192, k=8192)
    assert found.low >= 0.999 * 2 * 8192**3 / 156e12


def test_a_machine_whose_highest_clock_is_unknown_has_no_peak():
    """A calibrated CPU may run above the clock that its system reports."""
    known = load_profile("cpu_server_generic")
    others = {n: c for n, c in known.coefficients.items() if n != "clock.highest"}
    unknown = with_shares(known.replacing(coefficients=others), efficiency__gemm=1.6, overlap=12.0)
    found = interval_of(unknown, "linear", m=4096, n=4096, k=4096)
    assert found.value < 2 * 4096**3 / known.value("peak.matrix.float32")


def test_every_runtime_is_covered():
    assert RUNTIME.keys() == RUNTIMES.keys()
