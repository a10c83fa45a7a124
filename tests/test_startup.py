"""What starts must not drag in what it does not need: asked of sys.modules, never of the clock."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from shmoo.harness.cli.app import VERBS

HEAVY = ("torch", "torchvision", "pandas", "scipy", "jinja2")

PROBE = """
import json, sys
from click.testing import CliRunner
from shmoo.harness.cli.app import cli
result = CliRunner().invoke(cli, json.loads(sys.argv[1]))
print(json.dumps([result.exit_code, sorted(name for name in sys.modules if '.' not in name)]))
"""


def modules_after(*arguments: str) -> set[str]:
    """Top-level modules loaded after running `shmoo` with these arguments in a fresh interpreter."""
    done = subprocess.run([sys.executable, "-c", PROBE, json.dumps(arguments)], capture_output=True, text=True, check=True)
    code, modules = json.loads(done.stdout.splitlines()[-1])
    assert code == 0
    return set(modules)


def test_the_list_of_verbs_loads_nothing_heavy() -> None:
    """It needs click only."""
    assert not modules_after("--help") & {*HEAVY, "numpy", "rich", "psutil"}


@pytest.mark.parametrize("verb", VERBS)
def test_help_loads_nothing_heavy(verb: str) -> None:
    """The help of a verb needs neither torch nor the libraries for plotting and fitting."""
    assert not modules_after(verb, "--help") & {*HEAVY, "rich"}


@pytest.mark.parametrize("arguments", [("profiles",), ("profiles", "show", "gpu_h100"), ("doctor", "--json")])
def test_looking_things_up_loads_nothing_heavy(arguments: tuple[str, ...]) -> None:
    """Profiles and the doctor do without torch and the plotting and fitting libraries."""
    assert not modules_after(*arguments) & set(HEAVY)


def test_pytest_plugin_loads_nothing_heavy() -> None:
    """Every pytest run of every project imports the plug-in."""
    code = "import json, sys, shmoo.harness.pytest.plugin; print(json.dumps([n for n in sys.modules if '.' not in n]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {*HEAVY, "numpy", "msgspec", "psutil"} & set(json.loads(done.stdout))
