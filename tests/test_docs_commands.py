"""The commands that the documentation shows are taken by the command line; those that only estimate run, and its Python does."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from shmoo.estimators.machine.profile import load_profile
from shmoo.harness.cli.app import cli
from tests.docs_commands import CONFIG, ESTIMATING, FACTORY, PAGES, ROOT, arguments, shown
from tests.evaluation.__main__ import main as evaluation

GENERATED = {ROOT / "docs" / "reference" / f"{name}.md" for name in ("models", "profiles")}
"""Pages that docs/site/hooks.py writes."""


def steps(page: Path) -> list[str]:
    """Commands of the workflows that a page shows."""
    blocks = re.findall(r"```yaml\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    return [line for block in blocks for line in re.findall(r"^\s*- (?:run: )?(shmoo .*)$", block, re.MULTILINE)]


IN_BLOCKS = [(page.name, command) for page in PAGES for command in shown(page)[0]]
IN_TEXT = [(page.name, command) for page in PAGES for command in shown(page)[1]]
RUN = [
    (page, command)
    for page, command in dict.fromkeys(IN_BLOCKS)
    if command.startswith("shmoo ") and arguments(command)[0] in ESTIMATING and "--engine slurm" not in command
]
"""Those for Slurm run beside a cluster, in tests/harness/fleet/test_services_slurm.py."""

PYTHON = [
    (page.name, code)
    for page in PAGES
    if (code := "\n".join(re.findall(r"```python\n((?!>>>).*?)```", page.read_text(encoding="utf-8"), re.DOTALL)))
]


def parse(command: str, group: click.Group = cli) -> None:
    """As the command line reads it; `click.UsageError` where it would refuse."""
    verb, rest = group, arguments(command)
    while isinstance(verb, click.Group) and rest and not rest[0].startswith("-"):
        verb, rest = verb.commands[rest[0]], rest[1:]
    if rest:
        try:
            verb.make_context("shmoo", list(rest))
        except click.exceptions.Exit:
            assert "--help" in rest


def test_pages_show_commands() -> None:
    """The README and most pages do."""
    assert len(IN_BLOCKS) > 50
    assert len({page for page, _ in IN_BLOCKS}) > 7


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """To a file, and to a heading of it where one is named; two pages of the site are written from the code."""
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        name, _, anchor = target.partition("#")
        if name.startswith(("http:", "https:")) or (page.parent / name).resolve() in GENERATED:
            continue
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), f"{page.name} links to {target}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}, target


@pytest.mark.parametrize(("page", "command"), [shown for shown in IN_BLOCKS if "--budget " in shown[1]])
def test_a_budget_is_in_minutes(page: str, command: str) -> None:
    """No page sends its reader into hours of measurement."""
    words = arguments(command)
    assert float(words[words.index("--budget") + 1]) <= 60, page


@pytest.mark.parametrize(("page", "command"), IN_BLOCKS)
def test_a_command_is_taken(page: str, command: str) -> None:
    """Verbs, options and arguments exist; modules can be found."""
    if command.startswith("python -m tests.evaluation "):
        with contextlib.suppress(click.MissingParameter):
            parse(re.sub(r"\[.*?\]", "", command.removeprefix("python -m ")), evaluation)
    elif command.startswith("python "):
        assert find_spec(command.split()[2]) is not None
    else:
        parse(command)


@pytest.mark.parametrize("command", steps(ROOT / "docs" / "gate.md"))
def test_a_step_of_a_workflow_is_taken(command: str) -> None:
    """As the runner of a CI system would read it."""
    parse(command)


@pytest.mark.parametrize(("page", "command"), IN_TEXT)
def test_a_command_in_the_text_is_taken(page: str, command: str) -> None:
    """Likewise, where the text may leave arguments out."""
    with contextlib.suppress(click.MissingParameter, click.BadOptionUsage):
        parse(command)


@pytest.mark.slow
@pytest.mark.usefixtures("own_home")
@pytest.mark.parametrize(("page", "command"), RUN)
def test_a_command_that_estimates_runs(page: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever copies it gets a result, and the files it names."""
    monkeypatch.syspath_prepend(str(tmp_path))
    calibrated = load_profile("cpu_server_generic").replacing(name="cpu_local")
    Path("cpu_local.json").write_bytes(calibrated.to_json())
    Path("config.json").write_text(json.dumps(CONFIG))
    Path("my_package").mkdir()
    Path("my_package/models.py").write_text(FACTORY)
    asked = arguments(command)
    result = CliRunner().invoke(cli, asked)
    assert result.exit_code == 0, result.output
    assert result.stdout
    for option in ("--csv", "--plot", "--html", "-o"):
        if option in asked:
            assert Path(asked[asked.index(option) + 1]).stat().st_size > 0


@pytest.mark.slow
@pytest.mark.usefixtures("own_home")
@pytest.mark.parametrize(("page", "code"), PYTHON)
def test_the_python_of_a_page_runs(page: str, code: str, tmp_path: Path) -> None:
    """Its blocks one after the other, in an interpreter of their own; files are written elsewhere."""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
