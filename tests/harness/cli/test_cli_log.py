"""The log and the progress of the command line; library code logs and never prints."""

from __future__ import annotations

import ast
import json
import logging
import time
from pathlib import Path

import click
import pytest

from shmoo.estimators.progress import Standing
from shmoo.harness.cli import progress
from shmoo.harness.cli.progress import Display, track
from tests.cli_runner import shmoo

ROOT = Path(__file__).parents[3]
FILES = sorted(path for room in ("calibrate", "estimators", "harness", "runs", "shmoo") for path in (ROOT / room).rglob("*.py"))
COMMAND_LINE = ROOT / "harness" / "cli"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time in seconds, as the display sees it; stderr is no terminal."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_library_code_logs_under_its_own_name_and_never_prints(path: Path) -> None:
    """No `print`; every logger is `logging.getLogger(__name__)` but for those of other libraries, which have no name here."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called != "print", f"{path.relative_to(ROOT)}:{node.lineno} prints"
            if called == "logging.getLogger" and node.args and COMMAND_LINE not in path.parents:
                assert ast.unparse(node.args[0]) == "__name__", f"{path.relative_to(ROOT)}:{node.lineno}"


@pytest.mark.usefixtures("own_home")
def test_verbose_says_what_is_done_and_leaves_stdout_alone() -> None:
    """-v names the capture, -vv the profiles too; without it nothing is said. The document is the same."""
    arguments = ("estimate", "relu", "--arch", "kpu_t64", "--json")
    plain, verbose, details = shmoo(*arguments), shmoo("-v", *arguments), shmoo("-vv", *arguments)
    assert json.loads(plain.stdout) == json.loads(verbose.stdout) == json.loads(details.stdout)
    assert "shmoo.harness." not in plain.stderr
    assert "shmoo.harness.models.model_graphs: captured relu" in verbose.stderr
    assert "shmoo.harness.machine.architectures: kpu_t64" not in verbose.stderr
    assert "shmoo.harness.machine.architectures: kpu_t64" in details.stderr


@pytest.mark.usefixtures("own_home")
def test_the_log_is_taken_off_stderr_again() -> None:
    """A command leaves neither a handler nor a level behind, also where it fails."""
    logger = logging.getLogger("shmoo")
    before = (list(logger.handlers), logger.level)
    shmoo("-vv", "estimate", "no_such_model", "--arch", "kpu_t64")
    assert (logger.handlers, logger.level) == before


def test_counted_work_gets_a_line_every_ten_seconds(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    """Twenty cases of 2 s each: the first line after 2 s, then one every 10 s, and one at the end, with the time left."""
    with Display() as display:
        for done in range(21):
            display(Standing("estimating", done, 20))
            clock[0] += 2.0
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "estimating: 1 of 20, 0:02 spent, about 0:38 left",
        "estimating: 6 of 20, 0:12 spent, about 0:28 left",
        "estimating: 11 of 20, 0:22 spent, about 0:18 left",
        "estimating: 16 of 20, 0:32 spent, about 0:08 left",
        "estimating: 20 of 20, 0:40 spent, about 0:00 left",
    ]


def test_slow_reports_get_a_line_at_the_one_nearest_to_ten_seconds(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    """Visits of 7 s and a budget that ends before the plan: a line every 7 s rather than every 14, and no time left in place of
    0:00 beside cases that were not reached."""
    with Display() as display:
        for done in range(4):
            display(Standing("measuring", done, 8, left_s=21.0 - 7 * done))
            clock[0] += 7.0
    assert capsys.readouterr().err.splitlines() == [
        "measuring: 1 of 8, 0:07 spent, about 0:14 left",
        "measuring: 2 of 8, 0:14 spent, about 0:07 left",
        "measuring: 3 of 8, 0:21 spent, no time left",
    ]


def test_work_that_ends_soon_says_nothing(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    """Below two seconds; the items come through."""
    assert list(track("abc", 3, "estimating")) == ["a", "b", "c"]
    assert capsys.readouterr().err == ""


def test_a_campaign_shows_its_cases_by_status_and_its_own_time_left(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    """The campaign knows better than the mean case."""
    display = Display()
    display(Standing("measuring", 0, 8, now="relu"))
    clock[0] += 30
    display(Standing("measuring", 5, 8, visits=9, ok=3, noisy=1, suspect=1, failed=0, now="softmax", left_s=75.0))
    display(Standing("measuring", 6, 8, visits=10, ok=4, noisy=1, suspect=1, now="too soon for a line"))
    clock[0] += 10
    display(Standing("measuring", 8, 8, visits=24, ok=5, noisy=1, suspect=1, failed=1, now="done", left_s=0.0))
    assert capsys.readouterr().err.splitlines() == [
        "measuring: 5 of 8, 0:30 spent, about 1:15 left  3 ok / 1 noisy / 1 suspect, 9 visits  softmax",
        "measuring: 8 of 8, 0:40 spent, about 0:00 left  5 ok / 1 noisy / 1 suspect / 1 failed, 24 visits  done",
    ]


def test_one_display_serves_one_stage_after_the_other(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    """Each stage has its own clock; steps that cannot be counted are a line each."""
    with Display() as display:
        display(Standing("planning", 1, 2))
        clock[0] += 20
        display(Standing("calibrating", now="fitting latency"))
        display(Standing("calibrating", now="setting intervals"))
        display(Standing("measuring", 0, 4))
        clock[0] += 5
        display(Standing("measuring", 1, 4))
    assert capsys.readouterr().err.splitlines() == [
        "calibrating: fitting latency",
        "calibrating: setting intervals",
        "measuring: 1 of 4, 0:05 spent, about 0:15 left",
    ]


def test_a_narrow_terminal_shows_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a long line the name of the case is cut, and neither the stage, the count nor the time left is."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True, raising=False)
    now = "transformer_block[batch=5 seq_len=93 heads=7 head_dim=128 causal=False] float32 eager"
    with Display() as display:
        display(Standing("measuring", 3, 41, visits=183, ok=12, noisy=29, now=now, left_s=754.0))
    with display._bar.console.capture() as shown:
        display._bar.console.print(display._bar.get_renderable())
    (line,) = click.unstyle(shown.get()).splitlines()
    assert len(line) <= 80
    assert all(part in line for part in ("measuring", "3/41", "about 12:34 left", "12 ok / 29 noisy")), line


def test_the_clock_goes_on_while_cases_are_visited_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every case has a row and the campaign has 18 s left; the clock stops with the last visit."""
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True, raising=False)
    with Display() as display:
        display(Standing("measuring", 41, 41, visits=82, ok=41, now="relu", left_s=18.0))
        assert not display._bar.tasks[0].finished
        display(Standing("measuring", 41, 41, visits=90, ok=41, now="done", left_s=0.0))
        assert display._bar.tasks[0].finished


def test_a_terminal_gets_one_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    """One task at a time, named after the stage, which a stage without a count leaves open."""
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True, raising=False)
    with Display() as display:
        display(Standing("planning", 1, 2))
        display(Standing("measuring", 3, 4, visits=3, ok=3, now="relu"))
        (task,) = display._bar.tasks
        assert (task.description, task.completed, task.total) == ("measuring", 3, 4)
        assert task.fields["note"] == "3 ok / 0 noisy / 0 suspect, 3 visits  relu"
        display(Standing("calibrating", now="fitting latency"))
        (task,) = display._bar.tasks
        assert (task.description, task.total, task.fields["note"]) == ("calibrating", None, "fitting latency")


def test_an_interruption_says_only_what_is_true(tmp_path: Path) -> None:
    """While it waits for another campaign nothing exists; a run without rows has no visits to keep."""
    from shmoo.harness.cli.verbs.measure import campaign_progress

    out = tmp_path / "run"

    def said() -> str:
        group = click.Context(click.Group("shmoo"), info_name="shmoo")
        with (
            click.Context(click.Command("measure"), parent=group, info_name="measure"),
            pytest.raises(KeyboardInterrupt) as caught,
            campaign_progress(8, out, "quick"),
        ):
            raise KeyboardInterrupt
        return str(caught.value)

    assert said() == "interrupted before anything was measured; start again"
    out.mkdir()
    (out / "rows.jsonl").touch()
    assert said() == f"interrupted before the first visit was finished; continue with `shmoo measure --out {out} --resume`"
    (out / "rows.jsonl").write_text("{}\n")
    assert said() == f"interrupted; finished visits are in {out}, continue with `shmoo measure --out {out} --resume`"


def test_a_log_says_at_once_that_it_waits(clock: list[float], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Before "measuring", and though no line of the progress is due."""
    from shmoo.harness.campaign.campaign import STAGE, WAITING
    from shmoo.harness.cli.verbs.measure import campaign_progress

    with campaign_progress(8, tmp_path / "run", "quick") as progress:
        progress(Standing(WAITING, now="waiting up to 60 s for another campaign"))
        assert capsys.readouterr().err == "machine in use: waiting up to 60 s for another campaign\n"
        progress(Standing(STAGE, 0, 8))
        progress(Standing(STAGE, 1, 8))
        assert capsys.readouterr().err == f"measuring 8 cases (quick) into {tmp_path / 'run'}\n"


def test_work_that_reports_nothing_has_its_last_report_shown_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A visit and a step without a count that last several lines long; after the end of a stage there is nothing to repeat."""
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.1)
    with Display() as display:
        display(Standing("measuring", 3, 8, visits=3, ok=3, now="vit_b_16", left_s=3600.0))
        time.sleep(0.45)
        display(Standing("calibrating", now="fitting latency"))
        time.sleep(0.45)
        display(Standing("measuring", 8, 8, visits=8, ok=8, now="done", left_s=0.0))
        said = capsys.readouterr().err.splitlines()
        time.sleep(0.3)
    counted = "measuring: 3 of 8, 0:00 spent, about 60:00 left  3 ok / 0 noisy / 0 suspect, 3 visits  vit_b_16"
    assert 2 <= said.count(counted) <= 4
    assert 2 <= said.count("calibrating: fitting latency, 0:00 so far") <= 4
    assert capsys.readouterr().err == ""


def test_the_last_count_of_a_campaign_without_time_is_shown(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    """Three of eight cases were reached; the last report comes right after a line."""
    with Display() as display:
        for done in range(4):
            display(Standing("measuring", done, 8, visits=done, noisy=done, now="relu", left_s=30.0 - 10 * done + 1))
            clock[0] += 10.0
        clock[0] -= 9.0
        display(Standing("measuring", 3, 8, visits=4, ok=1, noisy=2, now="done", left_s=0.0))
    assert capsys.readouterr().err.splitlines()[-1] == (
        "measuring: 3 of 8, 0:31 spent, no time left  1 ok / 2 noisy / 0 suspect, 4 visits  done"
    )
