import math
import random

import pytest

from shmoo.runs.compare import compare_runs
from shmoo.runs.drift import corrected_samples, has_reference, nominal_reference_s, running_median
from shmoo.runs.records import CaseSpec, Machine, Measurement, RunManifest, Timing
from shmoo.runs.store import Run, RunWriter


def test_a_machine_20_percent_slower_is_taken_out():
    """Sample and reference both take 1.2 times as long: at the nominal pace the sample is 1 ms again."""
    timing = Timing((1.2e-3, 1.2e-3), reference_s=(1.2e-6, 1.2e-6))
    assert corrected_samples(timing, 1e-6) == pytest.approx([1e-3, 1e-3])


def test_one_disturbed_reference_does_not_correct_its_neighbours_sample():
    """The running median passes over a single outlier."""
    timing = Timing((1e-3,) * 5, reference_s=(1e-6, 1e-6, 9e-6, 1e-6, 1e-6))
    assert corrected_samples(timing, 1e-6) == pytest.approx([1e-3] * 5)
    assert running_median([1, 2, 9, 4, 5], 3) == pytest.approx([1.5, 2, 4, 5, 4.5])


def test_samples_without_a_reference_cannot_be_corrected():
    """The error says how to have one."""
    assert not has_reference(Timing((1.0, 2.0)))
    with pytest.raises(ValueError, match="--drift-reference"):
        corrected_samples(Timing((1.0,)), 1e-6)


def test_the_nominal_time_counts_each_row_once():
    """Rows of 1, 2 and 30 references at 1, 2 and 3 µs: the nominal is 2 µs."""
    rows = [
        Measurement(CaseSpec("relu", "operator"), "ok", timing=Timing((1.0,) * n, reference_s=(r,) * n))
        for n, r in ((1, 1e-6), (2, 2e-6), (30, 3e-6))
    ]
    assert nominal_reference_s(rows) == pytest.approx(2e-6)
    assert nominal_reference_s([]) is None


def wandering(path, seed, common):
    """Twenty cases whose windows wander by 10 %; the reference follows where the drift is common."""
    draw = random.Random(seed)
    with RunWriter(path, RunManifest(Machine("Example CPU", 2, 4, 8 << 30), "micro")) as writer:
        for m in range(20):
            pace = draw.lognormvariate(0, 0.1)
            beside = pace if common else draw.lognormvariate(0, 0.1)
            samples = tuple(1e-3 * (m + 1) * pace * draw.lognormvariate(0, 0.002) for _ in range(21))
            references = tuple(1e-6 * beside * draw.lognormvariate(0, 0.002) for _ in samples)
            writer.append(
                Measurement(CaseSpec("relu", "operator", {"m": m}), "ok", timing=Timing(samples, reference_s=references))
            )
    return Run.open(path)


@pytest.mark.parametrize("common", [True, False])
def test_comparing_runs_says_whether_the_correction_halves_the_spread(tmp_path, common):
    """Drift that the reference shares goes away; drift of its own makes things worse, by about sqrt(2)."""
    effect = compare_runs(wandering(tmp_path / "a", 1, common), wandering(tmp_path / "b", 2, common)).drift
    assert effect.cases == 20
    assert effect.raw > 0.03
    assert effect.worth_it is common
    assert math.isfinite(effect.corrected)
