"""Prints the outputs that the documentation shows anew: `python -m tests.reprint [PAGE...]`, in the root of a checkout.

In a block of ```console, a command that estimates (`ESTIMATING`) is run and the lines below it are replaced by what it prints. A
line of `...` marks rows that the page leaves out: then the rows that were shown, known by the cells before the first measured
column, are shown again. Commands that measure, or that use a profile measured elsewhere, and blocks without an output stay as
they are.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import click

from tests.docs_commands import CONFIG, ESTIMATING, FACTORY, PAGES, arguments

Run = Callable[[str, bool], list[str]]
"""Gives the lines that a command prints: messages among them, or, for True, the table as a terminal of 80 columns shows it."""
OMITTED, RULE = "...", "─"
MEASURED = ("cpu_local", "gpu_local")
"""Profiles of the machine where a page was written, which is not this one."""
FIRST_MEASURED = ("latency", "starts", "runs")
"""Columns from which on cells change; those before say what a row is."""
_MESSAGES = ("wrote ", "drew ", "estimating ")
"""Beginnings of messages that say how far a command is and what it wrote."""
_BLOCK = re.compile(r"(```console\n)(.*?)(```)", re.DOTALL)


def refreshed(text: str, run: Run) -> str:
    """A page with the outputs of its commands printed anew."""
    return _BLOCK.sub(lambda match: match[1] + _block(match[2].splitlines(), run) + match[3], text)


def _block(lines: Sequence[str], run: Run) -> str:
    parts: list[tuple[str, list[str]]] = []
    for line in lines:
        if line.startswith("$ "):
            parts.append((line, []))
        elif parts:
            parts[-1][1].append(line)
    printed = []
    for command, shown in parts:
        bare = command.removeprefix("$ ")
        again = bool(shown) and bare.startswith("shmoo ") and arguments(bare.partition("|")[0])[0] in ESTIMATING
        again = again and not any(name in bare for name in MEASURED)
        on_terminal = any(line and set(line) == {RULE} for line in shown)
        printed += [command, *(renewed(shown, run(bare, on_terminal)) if again else shown)]
    return "".join(f"{line}\n" for line in printed)


def renewed(shown: Sequence[str], printed: Sequence[str]) -> list[str]:
    """The lines of a page from a new output: all of them, or those that were shown where some were left out and the columns are
    the same.

    Raises:
        click.ClickException: a row that was shown is printed no more.
    """
    if OMITTED not in shown:
        return list(printed)
    rows = dict(reversed([(_key(line, printed), line) for line in printed]))
    if not all(_key(line, shown) in rows for line in shown if set(_cells(line)) & set(FIRST_MEASURED)):
        return list(printed)
    lines = []
    for line in shown:
        key = _key(line, shown)
        if line != OMITTED and key not in rows:
            raise click.ClickException(f"a row of the page is printed no more: {line!r}")
        lines.append(line if line == OMITTED else rows[key])
    return lines


def _key(line: str, table: Sequence[str]) -> tuple[str, ...]:
    """What names a row: its cells before the first measured column, with the digits of other lines left out."""
    head = next((one for one in table if set(_cells(one)) & set(FIRST_MEASURED)), "")
    names = _cells(head)
    count = next((i for i, name in enumerate(names) if name in FIRST_MEASURED), 0)
    cells = _cells(line)
    return tuple(cells[:count]) if len(cells) >= len(names) > count > 0 else (re.sub(r"[\d.]+", "#", line),)


def _cells(line: str) -> list[str]:
    return re.split(r"\s{2,}", line.strip())


def _run_in(folder: Path) -> Run:
    """Runs commands as a shell does, in a folder of its own, with the files that the pages name."""

    def run(command: str, on_terminal: bool) -> list[str]:
        script = f'shmoo() {{ "{sys.executable}" -m shmoo.harness.cli "$@"; }}\n{command}'
        paths = os.pathsep.join([str(Path.cwd()), os.environ.get("PYTHONPATH", "")])
        environment = {**os.environ, "PYTHONPATH": paths, "SHMOO_HOME": str(folder / "home")}
        click.echo(command, err=True)
        started = ["bash", "-c", script]
        if on_terminal:
            text = click.unstyle(_on_terminal(started, folder, environment | {"COLUMNS": "80"}))
            return text.replace("\r\n", "\n").partition("\n\n")[0].splitlines()
        done = subprocess.run(
            started, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        if done.returncode:
            raise click.ClickException(f"{command} ended with {done.returncode}: {done.stdout}")
        return [line for line in done.stdout.splitlines() if not line.startswith(_MESSAGES)]

    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "my_package").mkdir()
    (folder / "my_package/models.py").write_text(FACTORY)
    return run


def _on_terminal(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> str:
    """What a command writes to a terminal as its result; messages are left out."""
    ours, its = os.openpty()
    process = subprocess.Popen(command, cwd=folder, env=environment, stdout=its, stderr=subprocess.DEVNULL)
    os.close(its)
    read = []
    with contextlib.suppress(OSError):  # what Linux says of a terminal that nobody writes to any more
        while part := os.read(ours, 4096):
            read.append(part)
    os.close(ours)
    if process.wait():
        raise click.ClickException(f"{' '.join(command)} ended with {process.returncode}")
    return b"".join(read).decode()


@click.command()
@click.argument("pages", nargs=-1, type=click.Path(path_type=Path, exists=True))
def main(pages: tuple[Path, ...]) -> None:
    """Print the outputs of the documentation anew: of PAGES, or of every page."""
    with tempfile.TemporaryDirectory() as folder:
        run = _run_in(Path(folder))
        for page in pages or PAGES:
            before = page.read_text(encoding="utf-8")
            after = refreshed(before, run)
            if after != before:
                page.write_text(after, encoding="utf-8")
                click.echo(f"printed anew: {page}")


if __name__ == "__main__":
    main(prog_name="python -m tests.reprint")
