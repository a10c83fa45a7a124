"""The workflows of docs/gate.md, step by step as CI runs them, in a repository, an environment and a home of their own."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parents[3]
SWITCH = "SHMOO_WORKFLOWS"
INDEX = re.compile(r" --index-url https://([^/ ]+)\S*")
pytestmark = pytest.mark.skipif(
    not os.environ.get(SWITCH),
    reason=f"makes an environment and measures for minutes; `bash .ci/extra` runs it (it sets {SWITCH})",
)
MODEL = """
import torch


def build():
    layers = [torch.nn.Conv2d(16, 16, 3, padding=1) for _ in range({layers})]
    return torch.nn.Sequential(*layers).eval(), (torch.randn(1, 16, 32, 32),)
"""


def workflows() -> tuple[dict[str, Any], dict[str, Any]]:
    """The GitHub one and the GitLab one."""
    yaml = pytest.importorskip("yaml")
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "gate.md").read_text(encoding="utf-8"), re.DOTALL)
    github, gitlab = map(yaml.safe_load, blocks)
    return github, gitlab


class Ci:
    """A runner: a clone of a repository with the branches `main` and `topic`, on `topic`, and a fresh environment."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shmoo, self.environment = folder / "shmoo", folder / "environment"
        tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
        for name in filter(None, tracked.decode().split("\0")):
            target = self.shmoo / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target)
        subprocess.run([sys.executable, "-m", "venv", str(self.environment)], check=True)

    def variables(self, more: Mapping[str, str]) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "LANG", "SSL_", "HTTP", "http"))}
        path = f"{self.environment}/bin:/usr/local/bin:/usr/bin:/bin"
        author = {"GIT_AUTHOR_NAME": "T", "GIT_AUTHOR_EMAIL": "t@example.org"}
        author |= {name.replace("AUTHOR", "COMMITTER"): value for name, value in author.items()}
        # With one thread, what else runs here makes calls longer by its share of the core, and not by factors of a hundred.
        fixed = {"PIP_CONSTRAINT": str(ROOT / "constraints.txt"), "OMP_NUM_THREADS": "1"}
        return {**kept, **fixed, **author, "PATH": path, "HOME": str(self.folder), **more}

    def step(self, command: str, where: Path, more: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """One step, with this Shmoo in place of a released one, and the default index where that of torch cannot be reached."""
        command = re.sub(r"pip install shmoo\b.*", f"pip install {self.shmoo}", command)
        host = INDEX.search(command)
        if host is not None and not reached(host[1]):
            command = INDEX.sub("", command)
        return subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", command],
            cwd=where,
            env=self.variables(more or {}),
            capture_output=True,
            text=True,
            check=False,
        )

    def clone(self, name: str, layers: int) -> Path:
        """A clone in which the topic's model has this many layers, and main's four, with its baseline."""
        origin, clone = self.folder / f"{name}-origin", self.folder / name
        (origin / "my_package").mkdir(parents=True)
        (origin / "my_package" / "__init__.py").touch()

        def commit(layers: int, message: str) -> None:
            (origin / "my_package" / "models.py").write_text(MODEL.format(layers=layers))
            done = self.step(f"git add . && git commit -qm '{message}' --allow-empty", origin)
            assert not done.returncode, done.stderr

        assert not self.step("git init -q -b main", origin).returncode
        (origin / "my_package" / "models.py").write_text(MODEL.format(layers=4))
        gate = "shmoo gate my_package.models:build --arch gpu_h100,kpu_t256 --against baseline.json --write"
        made = self.step(gate, origin)
        assert not made.returncode, made.stderr
        commit(4, "base")
        self.step("git checkout -qb topic", origin)
        commit(layers, "new")
        assert not self.step(f"git clone -q --branch topic {origin} {clone}", self.folder).returncode
        return clone


def reached(host: str) -> bool:
    try:
        return bool(socket.getaddrinfo(host, 443))
    except OSError:
        return False


def run_steps(ci: Ci, steps: Sequence[Mapping[str, str]], where: Path, more: Mapping[str, str]) -> dict[str, int]:
    """Command -> exit code, as GitHub runs steps: none after a failed one but those with `if: always()`."""
    codes: dict[str, int] = {}
    for step in steps:
        if "run" in step and (step.get("if") == "always()" or not any(codes.values())):
            done = ci.step(step["run"], where, more)
            codes[step["run"]] = done.returncode
            print(f"{step['run']}\n{done.stdout}{done.stderr}")
    return codes


@pytest.fixture(scope="module")
def ci(tmp_path_factory: pytest.TempPathFactory) -> Ci:
    made = Ci(tmp_path_factory.mktemp("ci"))
    github, _ = workflows()
    installing = [step for step in github["jobs"]["estimates"]["steps"] if "pip install" in step.get("run", "")]
    assert len(installing) == 2
    codes = run_steps(made, installing, made.folder, {})
    assert not any(codes.values()), codes
    return made


def test_the_github_workflow_fails_on_a_model_that_got_slower(ci: Ci) -> None:
    """Both jobs, and the summary of the measured one has the table all the same."""
    clone, summary = ci.clone("github", layers=20), ci.folder / "summary.md"
    summary.touch()
    more = {"GITHUB_BASE_REF": "main", "GITHUB_STEP_SUMMARY": str(summary)}
    jobs = workflows()[0]["jobs"]
    (gate,) = (code for command, code in run_steps(ci, jobs["estimates"]["steps"], clone, more).items() if " gate " in command)
    assert gate == 1
    codes = run_steps(ci, jobs["measured"]["steps"], clone, more)
    assert [code for command, code in codes.items() if " duel " in command] == [1]
    assert list(codes.values())[-1] == 0
    assert "slower: **yes**" in summary.read_text()
    assert ElementTree.parse(clone / "shmoo.xml").getroot().find(".//failure") is not None


def test_the_gitlab_workflow_passes_equal_models(ci: Ci) -> None:
    """Or says that this machine is too noisy, with its files."""
    clone = ci.clone("gitlab", layers=4)
    _, gitlab = workflows()
    more = {"CI_MERGE_REQUEST_TARGET_BRANCH_NAME": "main"}
    for name, allowed in (("estimates", (0,)), ("measured", (0, 4))):
        job = gitlab[name]
        script = [{"run": line} for line in [*gitlab[job["extends"]]["before_script"], *job["script"]]]
        *before, last = run_steps(ci, script, clone, more).values()
        assert not any(before)
        assert last in allowed
    assert "slower: **" in (clone / "comment.md").read_text()
    kept = gitlab["measured"]["artifacts"]
    for name in (*kept["paths"], kept["reports"]["junit"]):
        assert (clone / name).stat().st_size
