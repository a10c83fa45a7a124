"""`import shmoo`: a version and the names most users need, found on first use; and how the package installs."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest

import shmoo
from shmoo.estimators.errors import InputError

ROOT = Path(__file__).parents[1]
ROOMS = ("calibrate", "estimators", "harness", "runs")
ALLOWED = {"pkgutil", "typing"}
"""What the root package may import, beside what they import."""


def in_a_fresh_interpreter(code: str) -> object:
    """What the code prints as JSON in an interpreter of its own."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_importing_imports_next_to_nothing() -> None:
    """The modules it brings are those of two small modules of the standard library, and none of a room."""
    code = f"import json, sys, {', '.join(sorted(ALLOWED))}; before = set(sys.modules); import shmoo; "
    assert in_a_fresh_interpreter(code + "print(json.dumps(sorted(set(sys.modules) - before)))") == ["shmoo"]


@pytest.mark.parametrize("name", ["load_profile", "compare", "Graph", "SweepController", "AnalysisDirector", "calibrate"])
def test_what_needs_no_torch_does_not_import_it(name: str) -> None:
    """Profiles, runs and estimates of stored graphs are for machines without torch too."""
    code = f"import json, sys, shmoo; shmoo.{name}; print(json.dumps([n for n in sys.modules if '.' not in n]))"
    assert not {"torch", "pandas", "scipy", "jinja2"} & set(in_a_fresh_interpreter(code))


def test_every_name_is_found_and_listed() -> None:
    """`dir` and `from shmoo import *` know the same names; others are no attributes."""
    assert set(shmoo.__all__) <= set(dir(shmoo))
    for name in shmoo.__all__:
        assert getattr(shmoo, name) is not None
    assert set(ROOMS) <= set(dir(shmoo))
    with pytest.raises(AttributeError, match="estimat"):
        shmoo.estimat  # noqa: B018


def test_the_functions_are_those_of_the_interface() -> None:
    """`shmoo.harness.api` has the same objects under the same names."""
    from shmoo.harness import api

    for name in ("capture", "compare", "estimate", "fusion", "inspect", "load_profile", "measure", "sweep", "Estimate"):
        assert getattr(shmoo, name) is getattr(api, name)


@pytest.mark.parametrize(
    "first", ["shmoo.calibrate", "import shmoo.calibrate.fit.base", "from shmoo.calibrate import Calibration"]
)
def test_calibrate_is_a_function_and_a_package(first: str) -> None:
    """Whichever is used first, the package can be called and its modules can be reached."""
    code = (
        f"import shmoo; {first}\nfrom shmoo.calibrate.calibration import calibrate\nimport shmoo.calibrate.fit.fit, json\n"
        "print(json.dumps([shmoo.calibrate.__call__ is calibrate, shmoo.calibrate.fit.fit.__name__]))"
    )
    assert in_a_fresh_interpreter(code) == [True, "shmoo.calibrate.fit.fit"]
    assert isinstance(shmoo.calibrate, ModuleType)


def test_calibrating_nothing_is_refused(tmp_path: Path) -> None:
    """Called as a function it does what `shmoo calibrate` does; one source needs no list."""
    with pytest.raises(InputError, match="no run at"):
        shmoo.calibrate(tmp_path / "none")


def test_the_version_is_written_once() -> None:
    """The distribution takes it from the package."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "shmoo.__version__"}
    assert shmoo.__version__.count(".") == 2


def test_a_checkout_does_not_hide_an_installed_package(tmp_path: Path) -> None:
    """The folder `shmoo` of a checkout comes first on the path there; the rooms are then found where the package is installed."""
    installed_root = tmp_path / "installed" / "shmoo"
    installed_root.mkdir(parents=True)
    for room in ROOMS:
        (installed_root / room).symlink_to(Path(find_spec(f"shmoo.{room}").origin).parent)
    (installed_root / "__init__.py").write_text((ROOT / "shmoo" / "__init__.py").read_text(encoding="utf-8"))
    code = "import json, shmoo, shmoo.runs; print(json.dumps([shmoo.__file__, shmoo.runs.__file__]))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={"PYTHONPATH": str(tmp_path / "installed"), "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    root, runs = json.loads(done.stdout)
    assert Path(root).parent == ROOT / "shmoo"
    assert Path(runs).parent == installed_root / "runs"
