"""Edits of a run, and the values beside them that no longer fit."""

import msgspec
import pytest

from shmoo.estimators.errors import FormatError
from shmoo.runs.analysis.check import check_run
from shmoo.runs.analysis.contradictions import contradictions, same_samples, short_visits
from shmoo.runs.store.records import CaseSpec, Machine, Measurement, Reason, RunManifest, Timing
from shmoo.runs.store.store import Run, RunWriter

CALLS, BLOCKS = 40, 20
CPU_MODEL = "Example CPU"


def visit(number=0, m=1, threads=1, call_s=50e-6):
    """A visit on one thread, of blocks of 2 ms, the fourth of which shared its core."""
    times = tuple(call_s * (1 + 0.001 * block + 0.01 * number + 0.0001 * m) for block in range(BLOCKS))
    samples = tuple(2 * time if block == 3 else time for block, time in enumerate(times))
    timing = Timing(
        samples,
        switches=tuple(int(block == 3) for block in range(BLOCKS)),
        on_core_s=times,
        cpu_s=threads * sum(times) * CALLS,
        block_calls=CALLS,
        stop_reason="timeout",
    )
    return Measurement(CaseSpec("relu", "operator", {"m": m}), "ok", timing=timing, visit=number, host={"threads": threads})


def scaled(line, factor, *names, block=None):
    """A line with fields of its timing multiplied, or one block of them."""
    timing = line.timing
    changed = {}
    for name in names:
        value = getattr(timing, name)
        if isinstance(value, tuple):
            changed[name] = tuple(factor * v if block in (None, i) else v for i, v in enumerate(value))
        else:
            changed[name] = factor * value
    return msgspec.structs.replace(line, timing=msgspec.structs.replace(timing, **changed))


def with_(line, **changes):
    return msgspec.structs.replace(line, **changes)


def test_a_measured_visit_contradicts_nothing():
    """Neither on one thread nor on two, and the kernel's ticks may count a quarter of a millisecond too much."""
    assert not list(contradictions(visit(), 1))
    assert not list(contradictions(visit(threads=2), 2))
    assert not list(contradictions(scaled(visit(), 1.1, "on_core_s"), 1))


@pytest.mark.parametrize(
    ("edited", "threads", "told"),
    [
        pytest.param(scaled(visit(), 0.01, "samples_s"), 1, "had a core for", id="all samples a hundredth"),
        pytest.param(scaled(visit(), 0.5, "samples_s"), 1, "had a core for", id="all samples halved"),
        pytest.param(scaled(visit(), 0.5, "samples_s", "on_core_s"), 1, "of CPU time", id="thread's time halved as well"),
        pytest.param(scaled(visit(), 0.5, "cpu_s"), 1, "of CPU time", id="CPU time halved"),
        pytest.param(scaled(visit(), 3.0, "samples_s", block=5), 1, "it was not preempted", id="one sample times three"),
        pytest.param(with_(visit(), status="suspect", reasons=(Reason("steal", "5%"),)), 1, "is suspect", id="made suspect"),
        pytest.param(with_(visit(), reasons=(Reason("throttled", "2 events"),)), 1, "makes a visit suspect", id="made ok"),
        pytest.param(visit(threads=2), 1, "threads=2 in a run of threads=1", id="row of another run"),
        pytest.param(with_(visit(), case=CaseSpec("relu", "operator", {"m": 1}, threads=2)), 1, "threads=1", id="threads"),
    ],
)
def test_an_edit_contradicts_what_was_counted_beside_it(edited, threads, told):
    """Each of these edits leaves a value that the edited one cannot stand beside."""
    problems = list(contradictions(edited, threads))
    assert problems
    assert told in problems[0]


def test_a_call_that_waits_by_itself_is_no_contradiction():
    """A target that sleeps in each block was on a core for none of them."""
    assert not list(contradictions(scaled(visit(), 0.01, "on_core_s"), 1))


def test_a_visit_far_shorter_than_the_others_is_found():
    """Times, times on a core and CPU times scaled together: only the length of the visit tells."""
    lines = [visit(number, m) for m in range(4) for number in range(3)]
    assert not list(short_visits(lines))
    lines[5] = scaled(lines[5], 0.01, "samples_s", "on_core_s", "cpu_s")
    assert [line for _, line in short_visits(lines)] == [lines[5]]


def test_samples_of_another_visit_are_found():
    """A copy under another number of visit has times that no clock reads twice; few or equal samples tell nothing."""
    first = visit()
    assert [line.visit for _, line in same_samples([first, visit(1), with_(first, visit=2)])] == [2]
    lone = Timing((1.0,) * BLOCKS)
    assert not list(same_samples([with_(first, timing=lone), with_(first, timing=lone, visit=1)]))


def test_an_edited_time_is_a_fault_of_the_run(tmp_path):
    """`check` names the case."""
    with RunWriter(tmp_path, RunManifest(Machine(CPU_MODEL, 2, 4, 8 << 30), "quick", settings={"visits": 1})) as writer:
        writer.append(visit())
        writer.append(scaled(visit(m=2), 0.01, "samples_s"))
    (finding,) = [finding for finding in check_run(Run.open(tmp_path)) if finding.topic == "changed rows"]
    assert (finding.level, finding.cases) == ("fault", (visit(m=2).case.label,))


@pytest.mark.parametrize("name", ["switches", "on_core_s"])
def test_a_row_of_unequal_lengths_says_which(tmp_path, name):
    """A block whose switches are gone is no measured row, whatever reads the run."""
    line = visit()
    short = with_(line, timing=msgspec.structs.replace(line.timing, **{name: getattr(line.timing, name)[1:]}))
    with RunWriter(tmp_path, RunManifest(Machine(CPU_MODEL, 2, 4, 8 << 30), "quick")) as writer:
        writer.append(line)
        with pytest.raises(FormatError, match=f"{name} has 19 values beside 20 samples"):
            writer.append(short)
    with (tmp_path / "rows.jsonl").open("ab") as file:
        file.write(msgspec.json.encode(short) + b"\n")
    with pytest.raises(FormatError, match="line 2"):
        Run.open(tmp_path)
