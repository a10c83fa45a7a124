"""One command split into jobs whose answers are combined: processes on this machine, or a Slurm array."""

from __future__ import annotations

import json
import os
import secrets
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from shmoo.estimators.errors import InputError, ShmooError
from shmoo.runs.store.files import own_folder

PROGRAM = (sys.executable, "-m", "shmoo.harness.cli")
REFUSED = 2
"""Exit code of a command that refuses its request."""
PARTS = "shmoo-parts"
"""Prefix of the folder for answers in the current folder, which the jobs of an array must see too."""


class JobDiedError(ShmooError):
    """A job that ended without an answer or a refusal."""


ArrayEngine = Callable[[Sequence[Sequence[str]], Path], None]
"""Runs all commands and waits; command N writes to N.json and N.err in the folder, and its exit code to N.code. A
command that died leaves no code."""


def run_here(commands: Sequence[Sequence[str]], folder: Path) -> None:
    """An `ArrayEngine`: processes on this machine, as many at a time as it has cores, each with one thread."""

    def run_job(job: int) -> None:
        with (folder / f"{job}.json").open("wb") as answer, (folder / f"{job}.err").open("wb") as words:
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            process = subprocess.run(
                commands[job], stdin=subprocess.DEVNULL, stdout=answer, stderr=words, env=environment, check=False
            )
        (folder / f"{job}.code").write_text(str(process.returncode))

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        list(pool.map(run_job, range(len(commands))))


def run_in_slurm(commands: Sequence[Sequence[str]], folder: Path) -> None:
    """An `ArrayEngine`: one Slurm array, submitted from here; its nodes must see the current folder."""
    cases = "\n".join(
        f"{job}) {shlex.join(command)} > {folder}/{job}.json 2> {folder}/{job}.err ;;" for job, command in enumerate(commands)
    )
    task = '"$SLURM_ARRAY_TASK_ID"'
    script = f"#!/bin/sh\nexport OMP_NUM_THREADS=1\ncase {task} in\n{cases}\nesac\ncode=$?\n"
    script += f"echo $code > {folder}/{task}.code\nexit $code\n"
    options = ["--wait", "--parsable", f"--array=0-{len(commands) - 1}", "--ntasks=1", f"--job-name={folder.name}"]
    command = ["sbatch", *options, f"--chdir={Path.cwd()}", f"--output={folder}/slurm-%a.log"]
    try:
        process = subprocess.run(command, input=script.encode(), capture_output=True, check=False)
    except FileNotFoundError:
        raise InputError("sbatch is not installed here; run this where Slurm is, or take --engine local") from None
    except BaseException:
        # Interrupted: cancel the array, since nobody waits for it.
        subprocess.run(["scancel", "--me", f"--name={folder.name}"], capture_output=True, check=False)
        raise
    # With --wait the exit code is the worst job's; that job's output says more.
    if process.returncode and not process.stdout.strip():
        raise ShmooError(f"Slurm refused the array: {process.stderr.decode('utf-8', 'replace').strip()}")


ARRAYS: Mapping[str, ArrayEngine] = {"local": run_here, "slurm": run_in_slurm}


def run_array(engine: ArrayEngine, commands: Sequence[Sequence[str]]) -> list[Any]:
    """The JSON answers of `shmoo` commands, in their order.

    Raises:
        InputError: a command refused its request; nothing is kept.
        JobDiedError: a command died; with its last line, and the folder with the logs and the other jobs' answers.
    """
    folder = own_folder(Path.cwd() / f"{PARTS}-{secrets.token_hex(4)}")
    try:
        engine([[*PROGRAM, *command] for command in commands], folder)
        answers = [_answer(folder, job) for job in range(len(commands))]
    except JobDiedError:
        raise  # keep the folder: its files say more than the last line
    except BaseException:
        shutil.rmtree(folder)
        raise
    shutil.rmtree(folder)
    return answers


def _answer(folder: Path, job: int) -> Any:
    try:
        return json.loads((folder / f"{job}.json").read_bytes())
    except (OSError, ValueError):
        words, code = folder / f"{job}.err", folder / f"{job}.code"
        lines = words.read_text(encoding="utf-8", errors="replace").split("\n") if words.exists() else []
        last = next((line for line in reversed(lines) if line.strip()), "it wrote nothing")
        if code.exists() and code.read_text().strip() == str(REFUSED):
            raise InputError(last.removeprefix("shmoo: ")) from None
        raise JobDiedError(f"job {job} gave no answer: {last}; logs and the answers of the others are in {folder}") from None
