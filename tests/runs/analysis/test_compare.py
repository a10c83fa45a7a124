import itertools
import json
import random
import tracemalloc
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from shmoo.estimators.errors import NothingMeasuredError
from shmoo.harness.cli.app import cli
from shmoo.runs.analysis.compare import compare_runs
from shmoo.runs.analysis.compare_noise import student_quantile
from shmoo.runs.store.records import CaseSpec, EnergyReading, Machine, Measurement, Reason, RunManifest, Timing
from shmoo.runs.store.store import Run, RunWriter

MACHINE = Machine("Example CPU", 2, 4, 8 << 30, torch="2.9.0", threads=2, governor="performance")


def case(m, kind="operator", **changes):
    return CaseSpec("relu" if kind == "operator" else "resnet18", kind, {"m": m}, **changes)


def lines_of(medians, visits=1, sigma=0.002, drift=0.0, uneven=0.0, seed=0, energy=None, status="ok", domain="package"):
    """Visits with lognormal samples around each case's median; visits drift apart by `drift`, of some cases more (`uneven`)."""
    draw, fixed = random.Random(seed), random.Random(7)
    drifts = [drift * fixed.lognormvariate(0, uneven) for _ in medians]
    for number in range(visits):
        for (spec, middle), apart in zip(medians, drifts, strict=True):
            window = middle * draw.lognormvariate(0, apart) if drift else middle
            samples = tuple(window * draw.lognormvariate(0, sigma) for _ in range(41))
            readings = () if energy is None else (EnergyReading(domain, energy * middle),)
            reasons = (Reason("throttled", "very"),) if status == "suspect" else ()
            yield Measurement(spec, status, reasons, timing=Timing(samples), visit=number, energy=readings)


def write(path, medians, machine=MACHINE, visits=1, **given):
    """A run of such visits on disk."""
    with RunWriter(path, RunManifest(machine, "micro", {"torch": machine.torch}, {"visits": visits})) as writer:
        for line in lines_of(medians, visits, **given):
            writer.append(line)
    return Run.open(path)


def in_memory(lines):
    """A run of these visits that was never on disk."""
    return Run(Path("run"), RunManifest(MACHINE, "micro"), tuple(map(msgspec.json.encode, lines)), ())


TWENTY = [(case(m), 1e-3 * m) for m in range(1, 21)]


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("visits", [1, 7])
def test_runs_without_their_samples_compare_alike(tmp_path, visits, paired):
    """To the last digit: suspect and failed rows, energies and drifts as well."""
    slower = [(spec, middle * (1.2 if spec.axes["m"] == 7 else 1)) for spec, middle in TWENTY]
    write(tmp_path / "a", TWENTY, visits=visits, seed=1, energy=3.0, drift=0.02, uneven=0.5)
    write(tmp_path / "b", slower, visits=visits, seed=2, energy=3.1, drift=0.02, uneven=0.5)
    with RunWriter(tmp_path / "b", RunManifest(MACHINE, "micro"), resume=True) as writer:
        for odd in lines_of([(case(1), 5.0), (case(99), 1.0)], status="suspect"):
            writer.append(msgspec.structs.replace(odd, visit=visits))
        writer.append(Measurement(case(98), "failed", (Reason("error", "on purpose"),)))
    cases = {}
    whole, slim = ([Run.open(tmp_path / name, *shared) for name in "ab"] for shared in ((), (cases,)))
    assert compare_runs(*slim, paired=paired) == compare_runs(*whole, paired=paired)
    assert [run.rows_hash for run in slim] == [run.rows_hash for run in whole]
    assert slim[0].rows[0].case is slim[1].rows[0].case


def test_a_run_without_its_samples_takes_a_fraction_of_the_memory(tmp_path):
    """Rows of 200 samples with the slowdown of the cores beside each; a second run shares the cases."""
    many = [(case(m), 1e-3) for m in range(300)]
    for name in "ab":
        with RunWriter(tmp_path / name, RunManifest(MACHINE, "micro")) as writer:
            for line in lines_of(many):
                timing = Timing(line.timing.samples_s * 5, line.timing.samples_s * 5, (1e-4, 1e-4))
                writer.append(msgspec.structs.replace(line, timing=timing))
    Run.open(tmp_path / "a")
    tracemalloc.start()
    cases, kept = {}, []
    taken = [tracemalloc.get_traced_memory()[0]]
    for name in "ab":
        kept.append(Run.open(tmp_path / name, cases))
        taken.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    first, second = (after - before for before, after in itertools.pairwise(taken))
    assert first < 300 * 2000  # one of 205 samples alone is 5 kB
    assert second < 0.8 * first


def test_a_run_is_never_in_memory_as_text(tmp_path):
    """Lines are read one by one: what a comparison leaves out takes no memory, a last row that is cut short included."""
    with RunWriter(tmp_path / "run", RunManifest(MACHINE, "micro")) as writer:
        for line in lines_of([(case(m), 1e-3) for m in range(200)]):
            writer.append(msgspec.structs.replace(line, host={"remarks": "x" * 50_000}))
    rows = tmp_path / "run" / "rows.jsonl"
    whole = Run.open(tmp_path / "run", {})
    with rows.open("ab") as file:
        file.write(rows.read_bytes()[:40_000])
    tracemalloc.start()
    run = Run.open(tmp_path / "run", {})
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < rows.stat().st_size / 4
    assert (run.rows, run.rows_hash) == (whole.rows, whole.rows_hash)
    assert "line 201: the last row is cut short" in run.problems[0]


def test_equal_runs_have_no_change_and_a_small_spread(tmp_path):
    """Samples 0.2 % wide give medians within 0.1 % and nothing changed."""
    found = compare_runs(write(tmp_path / "a", TWENTY, seed=1), write(tmp_path / "b", TWENTY, seed=2))
    assert not found.changed
    assert found.spreads == {"operators": pytest.approx(0.0005, abs=0.0005)}
    assert found.counts == {"operators": 20}
    assert all(c.ratio.low <= 1 <= c.ratio.high or c.ratio.value == pytest.approx(1, abs=2e-3) for c in found.cases)


def test_the_spread_is_the_median_over_cases_of_the_relative_difference(tmp_path):
    """Ratios 1.01, 0.99 and 1.5 are spreads 0.01, 0.0101 and 0.5: median 0.0101; networks are apart, cold rows are left out."""
    a = [(case(1), 1.0), (case(2), 1.0), (case(3), 1.0), (case(9, "network"), 1.0), (case(1, cache_state="cold"), 1.0)]
    b = [(case(1), 1.01), (case(2), 0.99), (case(3), 1.5), (case(9, "network"), 1.2), (case(1, cache_state="cold"), 3.0)]
    found = compare_runs(write(tmp_path / "a", a, sigma=0), write(tmp_path / "b", b, sigma=0))
    assert found.spreads == pytest.approx({"operators": 1 / 0.99 - 1, "networks": 0.2})
    assert found.counts == {"operators": 3, "networks": 1}
    assert len(found.cases) == 5


def test_one_case_that_changed_is_named(tmp_path):
    """Among twenty, the one 20 % slower is changed and its interval holds 1.2; the others are not."""
    slower = [(spec, middle * (1.2 if spec.axes["m"] == 7 else 1)) for spec, middle in TWENTY]
    found = compare_runs(write(tmp_path / "a", TWENTY, visits=2, seed=1), write(tmp_path / "b", slower, visits=2, seed=2))
    assert [c.case.axes["m"] for c in found.cases if c.changed] == [7]
    assert found.cases[0].ratio.low < 1.2 < found.cases[0].ratio.high
    assert not found.shifted


def test_visits_that_wander_are_noise_and_no_change(tmp_path):
    """Visits 10 % apart, each with samples 0.2 % wide, would all have changed if samples were all there is to noise."""
    runs = [write(tmp_path / name, TWENTY, visits=2, drift=0.1, seed=seed) for name, seed in (("a", 1), ("b", 2))]
    found = compare_runs(*runs)
    assert found.noise_from == "visits"
    assert found.noise == pytest.approx(0.1, rel=0.5)
    assert not any(c.changed for c in found.cases)


def test_single_visits_take_their_noise_from_the_spread_of_all_ratios(tmp_path):
    """Windows 10 % apart whose samples are 0.2 % wide: nothing changed, although no row knows how far visits lie apart."""
    runs = [write(tmp_path / name, TWENTY, drift=0.1, seed=seed) for name, seed in (("a", 1), ("b", 2))]
    found = compare_runs(*runs)
    assert found.noise_from == "cases"
    assert found.noise == pytest.approx(0.1, rel=0.5)
    assert not any(c.changed for c in found.cases)
    assert found.within_errors["operators"] < 0.5


def test_a_single_visit_beside_repeated_ones_is_judged_by_the_spread_of_its_kind(tmp_path):
    """A budget ended run B after the first visits; A knows what visits spread by, B does not: the ratios say it."""
    a = write(tmp_path / "a", TWENTY, visits=3, drift=0.1, seed=1)
    found = compare_runs(a, write(tmp_path / "b", TWENTY, drift=0.1, seed=2))
    assert found.noise_from == "cases"
    assert not any(c.changed for c in found.cases)


def test_few_visits_raise_no_false_alarm():
    """Of 84 pairs of unchanged runs with three visits about 5 % apart, some cases more and some less, at most one in twenty names
    a case; with limits that take standard errors from three visits for exact, every fifth would."""
    runs = [in_memory(lines_of(TWENTY, 3, drift=0.05, uneven=0.7, seed=seed)) for seed in range(30)]
    alarms = [any(c.changed for c in compare_runs(a, b).cases) for i, a in enumerate(runs) for b in runs[i + 1 : i + 4]]
    assert len(alarms) == 84
    assert sum(alarms) / len(alarms) <= 0.05


def test_true_standard_errors_hold_nine_pairs_in_ten():
    """Visits 5 % apart, known from 200 cases: 90 % of the ratios lie within 1.645 combined standard errors."""
    cases = [(case(m), 1e-3) for m in range(1, 201)]
    a, b = (in_memory(lines_of(cases, 3, drift=0.05, seed=seed)) for seed in (1, 2))
    assert compare_runs(a, b).within_errors["operators"] == pytest.approx(0.9, abs=0.06)


@pytest.mark.parametrize(
    ("outside", "freedom", "quantile"),
    [(0.1, 5, 2.015), (0.05, 1, 12.706), (0.001, 2, 31.599), (0.05, 10, 2.228), (0.1, 1e6, 1.645), (0.1, 5.9, 2.015)],
)
def test_quantiles_of_student_are_those_of_tables(outside, freedom, quantile):
    """Degrees of freedom between two whole numbers count as the smaller one."""
    assert student_quantile(outside, freedom) == pytest.approx(quantile, rel=1e-3)


def test_a_shift_common_to_all_cases_is_named_as_one(tmp_path):
    """10 % slower throughout is one finding about the machine; its interval lies between two order statistics of the ratios."""
    slower = [(spec, 1.1 * middle) for spec, middle in TWENTY]
    found = compare_runs(write(tmp_path / "a", TWENTY, seed=1), write(tmp_path / "b", slower, seed=2))
    assert found.shifted
    assert found.shift.value == pytest.approx(1.1, rel=0.002)
    ratios = sorted(c.ratio.value for c in found.cases)
    assert (found.shift.low, found.shift.high) == pytest.approx((ratios[6], ratios[14]))


def test_a_change_below_the_smallest_one_is_left_alone(tmp_path):
    """1 % is certain here and still no change; asked for 0.5 %, it is one."""
    slower = [(spec, 1.01 * middle) for spec, middle in TWENTY]
    runs = write(tmp_path / "a", TWENTY, seed=1), write(tmp_path / "b", slower, seed=2)
    assert not compare_runs(*runs).changed
    assert compare_runs(*runs, min_change=0.005).changed


def test_machine_differences_come_first(tmp_path):
    """Another torch forbids calibrating together; another governor is a setting."""
    other = Machine("Example CPU", 2, 4, 8 << 30, torch="2.10.0", threads=2, governor="powersave")
    found = compare_runs(write(tmp_path / "a", TWENTY), write(tmp_path / "b", TWENTY, machine=other))
    assert [(d.field, d.severity) for d in found.differences] == [
        ("torch", "machine"),
        ("governor", "setting"),
        ("version of torch", "setting"),
    ]


def test_machines_with_other_caches_are_compared(tmp_path):
    """Sizes by level are one difference, told once however many base runs have it."""
    caches = msgspec.structs.replace(MACHINE, cache_bytes={"l1": 32 << 10})
    bases = [write(tmp_path / name, TWENTY[:3], seed=seed) for seed, name in enumerate("ab")]
    found = compare_runs(bases, write(tmp_path / "c", TWENTY[:3], machine=caches, seed=2))
    assert [(d.field, d.a, d.b) for d in found.differences] == [("cache_bytes", {}, {"l1": 32 << 10})]


def test_cases_only_one_run_can_speak_of_are_listed(tmp_path):
    """One was not measured in b; the suspect rows of the third run are no pair and say why."""
    a = write(tmp_path / "a", TWENTY)
    fewer = write(tmp_path / "b", TWENTY[:19])
    (missing,) = compare_runs(a, fewer).unpaired
    assert (missing.case.axes["m"], missing.missing_in, missing.reason) == (20, "b", "not measured")
    with pytest.raises(NothingMeasuredError, match="no case has a usable row in both"):
        compare_runs(a, write(tmp_path / "c", TWENTY, status="suspect"))


def test_suspect_rows_decide_nothing_and_are_listed(tmp_path):
    """A case ten times slower while throttled is no change; its status and reason are told. Noisy rows do count."""
    a = write(tmp_path / "a", TWENTY, visits=2, seed=1)
    write(tmp_path / "b", TWENTY[1:], visits=2, drift=0.2, seed=2)
    with RunWriter(tmp_path / "b", a.manifest, resume=True) as writer:
        writer.append(Measurement(TWENTY[0][0], "suspect", (Reason("throttled", "3 events"),), timing=Timing((1e-2,))))
    found = compare_runs(a, Run.open(tmp_path / "b"))
    assert not found.changed
    (suspect,) = found.unpaired
    assert (suspect.missing_in, suspect.status, suspect.reason) == ("b", "suspect", "suspect: throttled: 3 events")
    assert found.statuses["a"] == {"ok": 20, "noisy": 0, "suspect": 0, "failed": 0}
    assert found.statuses["b"]["suspect"] == 1
    assert found.statuses["b"]["noisy"] > 0
    assert {c.b_status for c in found.cases} >= {"noisy"}
    assert len(found.cases) == 19


def test_energy_has_a_spread_of_its_own(tmp_path):
    """20 W against 21 W for the same times is 5 %; another domain's energy is no partner."""
    a = write(tmp_path / "a", TWENTY, energy=20.0)
    assert compare_runs(a, write(tmp_path / "b", TWENTY, energy=21.0)).energy_spreads == {"operators": pytest.approx(0.05)}
    assert compare_runs(a, write(tmp_path / "c", TWENTY, energy=21.0, domain="package-1")).energy_spreads == {}


def test_the_energy_of_a_row_is_that_of_its_device(tmp_path):
    """On a card the package beside it draws what it will: 20 W of the card stay 20 W."""

    def gpu_run(name, package):
        with RunWriter(tmp_path / name, RunManifest(MACHINE, "micro")) as writer:
            for m in range(3):
                readings = (EnergyReading("package", package), EnergyReading("gpu-0", 1.0))
                writer.append(Measurement(case(m, device="cuda"), "ok", timing=Timing((1.0, 1.0, 1.0)), energy=readings))
        return Run.open(tmp_path / name)

    assert compare_runs(gpu_run("a", 5.0), gpu_run("b", 9.0)).energy_spreads == {"operators": 0.0}


def test_many_cases_are_compared_at_once():
    """2,000 cases: no matrix of draws is built over them."""
    lines = [Measurement(case(m), "ok", timing=Timing((1e-3,) * 3), visit=visit) for visit in range(2) for m in range(2000)]
    a, b = in_memory(lines), in_memory(lines)
    tracemalloc.start()
    compare_runs(a, b)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10e6  # 2,000 draws over these cases took 32 MB


# the command


def test_the_command_exits_1_when_something_changed(tmp_path):
    """Unchanged: 0; a case 50 % slower: 1, and it is named; the spread is printed."""
    write(tmp_path / "a", TWENTY, seed=1)
    write(tmp_path / "b", TWENTY, seed=2)
    write(tmp_path / "c", [(s, t * (1.5 if s.axes["m"] == 3 else 1)) for s, t in TWENTY], seed=3)
    same = CliRunner().invoke(cli, ["compare", str(tmp_path / "a"), str(tmp_path / "b")])
    assert same.exit_code == 0, same.output
    assert "operators" in same.stdout
    assert "rows of A: 20 ok, 0 noisy, 0 suspect, 0 failed" in same.stdout
    assert "true standard errors leave 90%" in same.stdout
    changed = CliRunner().invoke(cli, ["compare", str(tmp_path / "a"), str(tmp_path / "c")])
    assert changed.exit_code == 1
    assert "relu[m=3]" in changed.stdout


def test_the_command_writes_one_json_document(tmp_path):
    """Every case is in it with its interval, and so are the spreads."""
    write(tmp_path / "a", TWENTY, seed=1)
    write(tmp_path / "b", TWENTY, seed=2)
    result = CliRunner().invoke(cli, ["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--json"])
    document = json.loads(result.stdout)
    assert len(document["cases"]) == 20
    assert document["spreads"]["operators"] < 0.01
    assert document["changed"] is False
    assert set(document["cases"][0]["ratio"]) == {"value", "low", "high"}
    assert document["statuses"]["b"]["ok"] == 20
    assert 0 <= document["within_errors"]["operators"] <= 1


def test_the_command_lists_suspect_rows(tmp_path):
    """With their reason, on stderr beside the result."""
    write(tmp_path / "a", TWENTY, seed=1)
    run = write(tmp_path / "b", TWENTY[:19], seed=2)
    with RunWriter(run.path, run.manifest, resume=True) as writer:
        writer.append(Measurement(TWENTY[19][0], "suspect", (Reason("throttled", "3 events"),), timing=Timing((1e-2,))))
    result = CliRunner().invoke(cli, ["compare", str(tmp_path / "a"), str(tmp_path / "b")])
    assert "1 suspect rows were not used: relu[m=20] float32 eager in B (suspect: throttled: 3 events)" in result.stderr
