import json
import math
import random
import time
import tracemalloc
from xml.etree import ElementTree

import msgspec
import pytest
from click.testing import CliRunner

from shmoo.estimators.errors import InputError, NothingMeasuredError
from shmoo.harness.cli.app import cli
from shmoo.runs.analysis.compare import compare_runs
from shmoo.runs.analysis.compare_noise import Growth, student_quantile
from shmoo.runs.analysis.compare_text import junit, markdown
from shmoo.runs.analysis.compare_verdict import CASE_RESOLUTION, CERTAIN, SUITE_RESOLUTION, answer_of, verdict
from shmoo.runs.store.records import Measurement, Reason, Timing
from shmoo.runs.store.store import Run, RunWriter
from tests.runs.analysis.test_compare import TWENTY, case, in_memory, lines_of, write


def scaled(factor, only=None):
    """Twenty cases, slower by a factor: all of them, or one."""
    return [(spec, middle * (factor if only in (None, spec.axes["m"]) else 1)) for spec, middle in TWENTY]


def shifted_lines(seed, shift, visits=4, drift=0.01):
    """A run whose visits all moved by a common factor."""
    return lines_of(scaled(shift), visits, drift=drift, seed=seed)


def invoke(*arguments):
    return CliRunner().invoke(cli, ["compare", *map(str, arguments)])


# one quantity


@pytest.mark.parametrize(
    ("percent_slower", "error", "answer"),
    [
        (20, 0.02, "yes"),
        (20, 0.07, "too noisy"),  # 2.6 standard errors
        (2, 0.001, "no"),  # certain, and below the threshold
        (0, 0.02, "no"),
        (0, 0.06, "too noisy"),  # 15 % would be 2.3 standard errors
        (12, 0.045, "too noisy"),  # 2.5 standard errors, and it may be 15 %
        (-30, 0.02, "no"),  # faster
        (-20, 0.06, "no"),  # faster by 3.7 standard errors
    ],
)
def test_a_case_is_slower_or_not_or_nobody_knows(percent_slower, error, answer):
    """Three standard errors and the threshold decide; a growth that could not have been seen is not ruled out."""
    growth = Growth(math.log1p(percent_slower / 100), error)
    assert answer_of("slower", growth, 1, 0.03, CASE_RESOLUTION) == answer


def test_below_three_standard_errors_nothing_is_slower():
    """Just below the limit the answer is "too noisy", at it "yes"."""
    for errors, answer in ((0.99 * CERTAIN, "too noisy"), (1.01 * CERTAIN, "yes")):
        assert answer_of("slower", Growth(0.05, 0.05 / errors), 1, 0.03, SUITE_RESOLUTION) == answer


def test_unknown_noise_is_too_noisy():
    """A lone visit of few cases tells nothing of what visits differ by."""
    assert answer_of("slower", Growth(0.0, 0.0, known=False), 1, 0.03, CASE_RESOLUTION) == "too noisy"
    few = scaled(1)[:3]
    found = compare_runs(in_memory(lines_of(few, seed=1)), in_memory(lines_of(few, seed=2)))
    assert found.answer("slower").answer == "too noisy"


def test_an_unknown_question_suggests_the_nearest():
    """And a known one without a number says how to get it."""
    with pytest.raises(InputError, match="slower"):
        verdict("slowr", [], None, 0.03)
    with pytest.raises(NothingMeasuredError, match="energy"):
        verdict("hungrier", [], None, 0.03)


# runs


def test_a_seeded_slowdown_of_one_case_is_found():
    """15 % in one of twenty, visits 2 % apart: that case, and nothing else."""
    base, new = (in_memory(lines_of(c, 8, drift=0.02, seed=s)) for c, s in ((TWENTY, 1), (scaled(1.15, only=7), 2)))
    found = compare_runs(base, new).answer("slower")
    assert found.answer == "yes"
    assert found.yes == ("relu[m=7] float32 eager",)
    assert found.suite == "no"


def test_a_seeded_slowdown_of_the_suite_is_found():
    """5 % everywhere, which no single case shows: the geometric mean does."""
    base, new = (in_memory(lines_of(c, 4, drift=0.03, seed=s)) for c, s in ((TWENTY, 1), (scaled(1.05), 2)))
    found = compare_runs(base, new).answer("slower")
    assert (found.answer, found.suite, found.yes) == ("yes", "yes", ())
    assert found.growth.ratio.low < 1.05 < found.growth.ratio.high


def test_equal_pairs_are_never_flagged():
    """Twenty pairs of equal runs whose visits lie 5 % apart."""
    runs = [in_memory(lines_of(TWENTY, 6, drift=0.05, uneven=0.5, seed=seed)) for seed in range(40)]
    answers = [compare_runs(a, b).answer("slower").answer for a, b in zip(runs[::2], runs[1::2], strict=True)]
    assert "yes" not in answers


def test_noise_is_no_pass_and_no_failure():
    """Visits 20 % apart, three of them: 5 % cannot be seen."""
    base, new = (in_memory(lines_of(c, 3, drift=0.2, seed=s)) for c, s in ((TWENTY, 1), (scaled(1.05), 2)))
    assert compare_runs(base, new).answer("slower").answer == "too noisy"


def test_drift_that_all_cases_share_widens_the_error_of_their_mean():
    """Each round of visits is slower or faster as a whole by 5 %: the error of the mean is that of three rounds, not of sixty."""
    draw = random.Random(3)
    levels = [draw.lognormvariate(0, 0.05) for _ in range(6)]
    lines = [
        msgspec.structs.replace(line, timing=Timing(tuple(levels[line.visit] * s for s in line.timing.samples_s)))
        for line in lines_of(TWENTY, 6, drift=0.002, seed=1)
    ]
    drifting = compare_runs(in_memory(lines), in_memory(lines_of(TWENTY, 6, drift=0.002, seed=2)))
    steady = compare_runs(*(in_memory(lines_of(TWENTY, 6, drift=0.05, seed=s)) for s in (1, 2)))
    assert drifting.suite["time"].standard_error > 2 * steady.suite["time"].standard_error


def test_several_base_runs_tell_what_equal_runs_differ_by():
    """Base runs that lie 4 % apart make 5 % of the new one no news; beside one of them alone it looks like some."""
    bases = [in_memory(shifted_lines(seed, shift)) for seed, shift in ((1, 0.97), (2, 1.0), (3, 1.04))]
    new = in_memory(shifted_lines(4, 1.05))
    assert compare_runs(bases[1], new).answer("slower").answer == "yes"
    found = compare_runs(bases, new)
    assert found.answer("slower").answer == "too noisy"
    assert found.noise_from == "runs"
    assert compare_runs(bases, in_memory(shifted_lines(5, 1.5))).answer("slower").suite == "yes"


def test_a_case_that_one_base_run_lacks_is_compared_with_the_others():
    """It counts with fewer runs, and is not unpaired."""
    bases = [in_memory(lines_of(TWENTY[:19], 3, drift=0.01, seed=1)), in_memory(lines_of(TWENTY, 3, drift=0.01, seed=2))]
    found = compare_runs(bases, in_memory(lines_of(TWENTY, 3, drift=0.01, seed=3)))
    assert len(found.cases) == 20
    assert not found.unpaired


def test_pairs_of_visits_resolve_what_separate_runs_cannot():
    """A neighbour moves both visits of a pair by 30 %: their differences show 4 %, the two runs on their own do not."""

    def side(factor, seed):
        levels, draw = random.Random(5), random.Random(seed)
        for visit in range(8):
            for spec, middle in TWENTY:
                level = levels.lognormvariate(0, 0.3)
                window = factor * middle * level * draw.lognormvariate(0, 0.01)
                yield Measurement(spec, "ok", timing=Timing((window,) * 20), visit=visit, process=visit)

    base, same, new = in_memory(side(1.0, 1)), in_memory(side(1.0, 2)), in_memory(side(1.04, 3))
    paired = compare_runs(base, new, paired=True)
    assert paired.answer("slower").suite == "yes"
    assert paired.suite["time"].ratio.low < 1.04 < paired.suite["time"].ratio.high
    assert paired.noise_from == "pairs"
    assert compare_runs(base, new).answer("slower").answer == "too noisy"
    assert compare_runs(base, same, paired=True).answer("slower").answer == "no"


def test_pairs_that_a_neighbour_split_do_not_hide_the_others():
    """In a tenth of the pairs one side ran ten times slower; the trimmed mean still shows 4 % of one case."""

    def side(factor, seed):
        draw = random.Random(seed)
        for visit in range(30):
            stalled = 10.0 if draw.random() < 0.05 else 1.0
            window = 1e-3 * factor * stalled * draw.lognormvariate(0, 0.01)
            yield Measurement(case(1), "ok", timing=Timing((window,) * 20), visit=visit, process=visit // 3)

    found = compare_runs(in_memory(side(1.0, 1)), in_memory(side(1.04, 2)), paired=True)
    assert found.answer("slower").answer == "yes"
    assert found.suite["time"].ratio.low < 1.04 < found.suite["time"].ratio.high
    assert found.suite["time"].freedom < 20
    equal = [compare_runs(in_memory(side(1.0, 2 * n)), in_memory(side(1.0, 2 * n + 1)), paired=True) for n in range(20)]
    assert "yes" not in {one.answer(question).answer for one in equal for question in ("slower", "faster")}


def test_energy_is_judged_as_time_is():
    """A fifth more energy for the same times is hungrier and not slower."""
    base, new = (in_memory(lines_of(TWENTY, 4, drift=0.01, energy=e, seed=s)) for e, s in ((20.0, 1), (24.0, 2)))
    found = compare_runs(base, new)
    assert found.answer("hungrier").answer == "yes"
    assert found.answer("slower").answer == "no"


def test_a_thousand_cases_take_little_time_and_memory():
    """Student's quantiles are computed once for each number of degrees of freedom; no matrix is made of cases and draws."""
    lines = [Measurement(case(m), "ok", timing=Timing((1e-3,) * 3), visit=visit) for visit in range(3) for m in range(1000)]
    a, b = in_memory(lines), in_memory(lines)
    tracemalloc.start()
    compare_runs(a, b).answer("slower")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5e6


def test_quantiles_are_kept():
    """The same one twice is computed once."""
    from shmoo.runs.analysis import compare_noise

    before = compare_noise._quantile.cache_info().hits
    assert student_quantile(0.0123, 7.4) == student_quantile(0.0123, 7.9)
    assert compare_noise._quantile.cache_info().hits == before + 1


# texts


def test_markdown_and_junit_say_what_decided():
    """A failure for the slow case, an error where it is too noisy, a suspect row skipped; names are escaped in both."""
    evil = case(99, kind="operator")
    evil = msgspec.structs.replace(evil, workload="<b>|`x`\x07")
    twenty = [*scaled(1.0), (evil, 1e-3)]
    slower = [*scaled(1.3, only=3), (evil, 1.3e-3)]
    suspect = Measurement(case(500), "suspect", (Reason("throttled", "3 events"),), timing=Timing((1e-2,)))
    base = in_memory([*lines_of(twenty, 6, drift=0.01, seed=1), suspect])
    found = compare_runs(base, in_memory(lines_of(slower, 6, drift=0.01, seed=2)))
    verdicts = [found.answer("slower")]
    text = markdown(found, verdicts, 0.03)
    assert "slower: **yes**" in text
    assert "relu\\[m=3\\] float32 eager" in text
    assert "&lt;b&gt;\\|\\`x\\`" in text
    assert "<b>" not in text
    assert "1 suspect rows were not used" in text
    root = ElementTree.fromstring(junit(found, verdicts, 0.03))
    (suite,) = root
    assert {name: suite.get(name) for name in ("tests", "failures", "errors", "skipped")} == {
        "tests": "23",
        "failures": str(len(suite.findall("testcase/failure"))),
        "errors": "0",
        "skipped": "1",
    }
    assert any("m=3" in test.get("name") for test in suite if test.find("failure") is not None)
    noisy = compare_runs(*(in_memory(lines_of(TWENTY, 2, drift=0.3, seed=s)) for s in (1, 2)))
    errors = ElementTree.fromstring(junit(noisy, [noisy.answer("slower")], 0.03)).findall("testsuite/testcase/error")
    assert errors
    assert all(error.get("type") == "too noisy" for error in errors)


def test_texts_of_many_cases_take_time_in_proportion():
    """Each label is looked up, and not searched for."""
    label = [f"case {number}" for number in range(20_000)]
    growth = Growth(0.1, 0.5)
    found = compare_runs(in_memory(lines_of(TWENTY, 2, drift=0.01, seed=1)), in_memory(lines_of(TWENTY, 2, drift=0.01, seed=2)))
    cases = tuple(
        msgspec.structs.replace(found.cases[0], case=msgspec.structs.replace(found.cases[0].case, workload=name), time=growth)
        for name in label
    )
    many = msgspec.structs.replace(found, cases=cases)
    verdicts = [many.answer("slower")]
    assert len(verdicts[0].noisy) == len(label)
    begin = time.process_time()
    junit(many, verdicts, 0.03)
    markdown(many, verdicts, 0.03)
    assert time.process_time() - begin < 2.0


# the command


def test_only_what_was_asked_fails(tmp_path):
    """A speed-up is no failure unless asked for; a slowdown is one by default."""
    write(tmp_path / "a", TWENTY, visits=4, drift=0.01, seed=1)
    write(tmp_path / "b", scaled(0.7), visits=4, drift=0.01, seed=2)
    assert invoke(tmp_path / "a", tmp_path / "b").exit_code == 0
    assert invoke(tmp_path / "b", tmp_path / "a").exit_code == 1
    assert invoke(tmp_path / "b", tmp_path / "a", "--fail-on", "faster").exit_code == 0
    assert invoke(tmp_path / "a", tmp_path / "b", "--fail-on", "slower,faster").exit_code == 1
    assert invoke(tmp_path / "b", tmp_path / "a", "--threshold", "50%").exit_code == 0


def test_too_noisy_is_an_answer_of_its_own(tmp_path):
    """Exit code 4, and what to do about it."""
    write(tmp_path / "a", TWENTY, visits=3, drift=0.2, seed=1)
    write(tmp_path / "b", scaled(1.05), visits=3, drift=0.2, seed=2)
    result = invoke(tmp_path / "a", tmp_path / "b")
    assert result.exit_code == 4
    assert "slower? too noisy" in result.stdout
    assert "shmoo duel" in result.stderr


def test_energy_that_nobody_read_cannot_be_judged(tmp_path):
    """It is no pass: exit code 3, nothing usable measured."""
    write(tmp_path / "a", TWENTY, seed=1)
    result = invoke(tmp_path / "a", tmp_path / "a", "--fail-on", "slower,hungrier")
    assert result.exit_code == 3
    assert "energy" in result.stderr


def test_suspect_rows_decide_nothing_and_are_said(tmp_path):
    """A case ten times slower while throttled does not fail the build."""
    a = write(tmp_path / "a", TWENTY, visits=4, drift=0.01, seed=1)
    write(tmp_path / "b", TWENTY[1:], visits=4, drift=0.01, seed=2)
    with RunWriter(tmp_path / "b", a.manifest, resume=True) as writer:
        writer.append(Measurement(TWENTY[0][0], "suspect", (Reason("throttled", "3 events"),), timing=Timing((1e-2,))))
    result = invoke(tmp_path / "a", tmp_path / "b", "--junit", tmp_path / "shmoo.xml", "--markdown", tmp_path / "out" / "c.md")
    assert result.exit_code == 0, result.output
    assert "1 suspect rows were not used" in result.stderr
    assert "throttled: 3 events" in (tmp_path / "out" / "c.md").read_text()
    assert ElementTree.parse(tmp_path / "shmoo.xml").find("testsuite").get("skipped") == "1"


def test_several_base_runs_by_command(tmp_path):
    """The last one is the new run; the document names them all and holds the verdicts."""
    for seed, name in enumerate("abc"):
        write(tmp_path / name, TWENTY, visits=3, drift=0.01, seed=seed)
    result = invoke(tmp_path / "a", tmp_path / "b", tmp_path / "c", "--json", "--fail-on", "slower,faster", "--threshold", "5%")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["bases"] == [str(tmp_path / "a"), str(tmp_path / "b")]
    assert document["threshold"] == 0.05
    assert [(v["question"], v["answer"]) for v in document["verdicts"]] == [("slower", "no"), ("faster", "no")]
    assert document["statuses"]["a"]["ok"] == 40
    assert Run.open(tmp_path / "c").rows


@pytest.mark.parametrize("threshold", ["3", "-1%", "nan", "many", "inf%"])
def test_a_threshold_that_may_mean_two_things_is_refused(tmp_path, threshold):
    """3 might be 3 % or threefold."""
    result = invoke(tmp_path, tmp_path, "--threshold", threshold)
    assert result.exit_code == 2
    assert "3% or 0.03" in result.stderr


def test_one_run_alone_is_refused(tmp_path):
    """With what to name."""
    result = invoke(tmp_path)
    assert result.exit_code == 2
    assert "the new run" in result.stderr
