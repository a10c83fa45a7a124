"""The files around the code: what a newcomer reads first, what is shipped, and that they agree with each other."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

import shmoo

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SET_UP = "python3 -m venv .venv && .venv/bin/pip install tox && .venv/bin/tox"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
FIRST_SCREEN = 40
MOST_BYTES = 200_000
CODE = sorted(path for room in ("estimators", "runs", "calibrate", "harness") for path in (ROOT / room).rglob("*.py"))
NAMED_FILE = re.compile(r"`((?:[a-z_]+/)*[a-z0-9_]+\.py)`")
NAMED_OBJECT = re.compile(r"`(?:shmoo\.)?((?:estimators|runs|calibrate|harness)(?:\.\w+)+)")


def anchors(page: Path) -> set[str]:
    """Names of the headings of a page, as links give them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_readme_keeps_both_commands_for_a_fresh_machine() -> None:
    """One sets up and characterizes, one sets up and tests; .ci/run runs the second, and ends where it fails."""
    lines = README.splitlines()
    assert f"{SET_UP} -e characterize" in lines
    assert SET_UP in lines
    assert f"{SET_UP} || exit" in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()


def test_the_first_screen_shows_what_it_is() -> None:
    """A sentence, a line that installs, a command with its output, and what a shmoo plot is, with one."""
    first = README.splitlines()[:FIRST_SCREEN]
    text = "\n".join(first)
    assert first[2].startswith("Shmoo predicts")
    assert text.index("pip install") < text.index("$ shmoo estimate resnet50") < text.index("**shmoo plot**") < text.index("## ")
    (picture,) = re.findall(r"!\[.+\]\((.+)\)", text)
    assert (ROOT / picture).stat().st_size < MOST_BYTES


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """Files and headings of this project that a page names exist."""
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


def is_there(name: str) -> bool:
    """Whether a dotted name leads to a room, a file, or something that a file of that path defines."""
    place = ROOT
    for part in name.split("."):
        if (place / part).is_dir():
            place = place / part
            continue
        file = place / f"{part}.py"
        if file.is_file():
            place = file
            continue
        text = (place if place.is_file() else place / "__init__.py").read_text(encoding="utf-8")
        return re.search(rf"\b{part}\b", text) is not None
    return True


@pytest.mark.parametrize("page", [*CODE, *PAGES], ids=lambda page: str(page.relative_to(ROOT)))
def test_code_that_a_text_names_is_there(page: Path) -> None:
    """Files and dotted names in backticks, in docstrings, comments and pages, follow a move."""
    text = page.read_text(encoding="utf-8")
    for name in NAMED_FILE.findall(text):
        assert (ROOT / name).exists() or any(path.as_posix().endswith(f"/{name}") for path in CODE), name
    for name in NAMED_OBJECT.findall(text):
        assert is_there(name), name


def test_versions_and_license_agree() -> None:
    """In the package, the citation and the changelog; the license is MIT in metadata and text."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["license"] == "MIT"
    assert project["license-files"] == ["LICENSE"]
    license_text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert license_text.startswith("MIT License")
    assert "The Shmoo authors" in license_text
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8").splitlines()
    assert f"version: {shmoo.__version__}" in citation
    assert f"## {shmoo.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").splitlines()


def test_a_source_distribution_has_what_its_tests_read() -> None:
    """MANIFEST.in names every file and folder of the root that is no package of its own."""
    manifest = (ROOT / "MANIFEST.in").read_text(encoding="utf-8").split()
    for name in ("tests", "docs", ".ci/run", "constraints.txt", "tox.ini", "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md"):
        assert name in manifest
        assert (ROOT / name).exists()


def test_uv_takes_the_pinned_torch() -> None:
    """Its constraints are lines of constraints.txt."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["uv"]
    assert {pin.partition("==")[0] for pin in settings["constraint-dependencies"]} == {"torch", "torchvision"}
    assert set(settings["constraint-dependencies"]) <= set((ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines())


def test_every_package_is_listed() -> None:
    """What setuptools installs are the folders that hold code, those of tests aside."""
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"])
    rooms = ("estimators", "runs", "calibrate", "harness")
    found = {
        ".".join(("shmoo", *file.parent.relative_to(ROOT).parts)) for room in rooms for file in (ROOT / room).rglob("__init__.py")
    }
    assert listed - {"shmoo"} - found == set()
    assert found <= listed


def test_files_of_the_tests_run_as_modules() -> None:
    """As a script a file of tests/ would not find the others."""
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert re.findall(r"python3? (?!-)\S+\.py", text) == []
    for module in set(re.findall(r"python -m (tests(?:\.\w+)+)", text)):
        path = ROOT.joinpath(*module.split("."))
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), module
