"""Streams that are closed, full or shared with a model, and texts that would move a terminal's cursor."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from shmoo.estimators.errors import InputError
from shmoo.harness.cli import output
from shmoo.harness.cli.app import Refused
from tests.hostile import profile_json, survives, write_run, write_table

pytestmark = [
    pytest.mark.usefixtures("own_home"),
    pytest.mark.skipif(os.name != "posix", reason="shells and devices of POSIX"),
]


def shell(redirection: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`shmoo ARGUMENTS` in a process of its own, its streams redirected as a shell does."""
    command = f'exec "$0" -m shmoo.harness.cli "$@" {redirection}'
    path = os.pathsep.join(path for path in sys.path if path)
    return subprocess.run(
        ["sh", "-c", command, sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"PYTHONPATH": path},
        check=False,
    )


@pytest.mark.parametrize(
    ("redirection", "code"), [(">&-", 0), ("<&-", 0), ("2>&-", 0), (">&- 2>&- <&-", 0), (">/dev/full", 2), ("| head -c 1", 0)]
)
def test_a_stream_that_is_closed_or_full(tmp_path: Path, redirection: str, code: int) -> None:
    """No traceback, a documented exit code, and no file that takes the closed stream's number."""
    if "full" in redirection and not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    table = str(write_table(tmp_path))
    done = shell(redirection, "estimate", "--ops", table, "--arch", "gpu_t4", "--csv", str(tmp_path / "out.csv"))
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr
    lines = (tmp_path / "out.csv").read_text().splitlines()
    assert len(lines) == 4
    assert lines[0].startswith("row,op")


def test_what_a_library_writes_below_python_goes_to_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    """Descriptor 1 as well as sys.stdout, child processes included; afterwards both are as before."""
    with output.only_results_on_stdout():
        os.write(1, b"below\n")
        print("above")
        subprocess.run(["echo", "child"], check=True)
    os.write(1, b"result\n")
    captured = capfd.readouterr()
    assert captured.out == "result\n"
    assert sorted(captured.err.split()) == ["above", "below", "child"]


@pytest.mark.parametrize("text", ["\x1b[2J", "\x07", "\x9b31m", "a\rb", "\x00", "\u202egnp", "\udc80"])
def test_control_characters_are_written_out(capsys: pytest.CaptureFixture[str], text: str) -> None:
    """Messages, results, tables, refusals."""
    output.message(text)
    output.result(text)
    output.table([text], [[text]], title=text)
    Refused(str(InputError(text)), 2).show()
    captured = capsys.readouterr()
    assert text not in captured.out + captured.err
    assert (captured.out + captured.err).count("\\x") >= 6


def test_lines_and_letters_of_any_alphabet_stay(capsys: pytest.CaptureFixture[str]) -> None:
    """µ, ä, a new line and a tab are no control characters that do harm."""
    output.result("1 µs\tgrößer\n漢字")
    assert capsys.readouterr().out == "1 µs\tgrößer\n漢字\n"


def test_a_description_does_not_reach_the_terminal_as_it_is(tmp_path: Path) -> None:
    """Texts of a profile, and of a run from anybody."""
    file = profile_json("gpu_t4") | {"description": "\x1b]0;title\x07 \x1b[31mred"}
    file["coefficients"]["clock"]["reference"] = "\x1b[2J"
    (tmp_path / "mine.json").write_text(json.dumps(file))
    assert "red" in survives("profiles", "show", "mine.json").stdout
    assert "red" in survives("profiles", "list").stdout
    run = write_run(tmp_path / "run", lambda row: row.update(status="failed", reasons=[{"code": "\x1b[2J", "text": "\x07"}]))
    for verb in ("show", "check", "report"):
        survives(verb, str(run))


def test_a_link_in_a_run_s_report_is_not_followed(tmp_path: Path) -> None:
    """Neither a file of it nor the folder itself."""
    victim = tmp_path / "victim"
    victim.write_text("mine")
    run = write_run(tmp_path / "run")
    (run / "report").mkdir()
    names = ("report.html", "errors.csv", "estimates.json", "estimates.csv")
    for name in names:
        (run / "report" / name).symlink_to(victim)
    assert survives("report", str(run), "--profile", "brief_cpu", "--arch", "brief_gpu").exit_code == 0
    assert victim.read_text() == "mine"
    assert not any((run / "report" / name).is_symlink() for name in names)
    for name in names:
        (run / "report" / name).unlink()
    (run / "report").rmdir()
    (run / "report").symlink_to(tmp_path / "elsewhere")
    refused = survives("report", str(run), "--profile", "brief_cpu")
    assert (refused.exit_code, "symbolic link" in refused.stderr) == (2, True)
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "-1", "0"])
def test_a_budget_is_a_positive_number(text: str) -> None:
    """NaN compares with nothing, and so was used up never."""
    from shmoo.harness.cli.app import cli

    for verb in ("measure", "characterize"):
        refused = CliRunner().invoke(cli, [verb, "--budget", text])
        assert refused.exit_code == 2
        assert "--budget" in refused.stderr
