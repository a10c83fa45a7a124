"""Imports point one way: from room to room down the floor plan; torch stays in harness."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from shmoo.estimators.machine.catalogue import CATALOGUE

ROOT = Path(__file__).parents[1]
PRODUCT = ("estimators", "runs", "calibrate", "harness")
FLOOR_PLAN = (
    "estimators/errors",
    "estimators/registry",
    "estimators/progress",
    "estimators/graph",
    "estimators/units",
    "estimators/shown_columns",
    "estimators/costs",
    "estimators/fusion",
    "estimators/memory",
    "estimators/table",
    "estimators/graph_rows",
    "estimators/operator_rows",
    "estimators/machine",
    "estimators/tiling",
    "estimators/variants",
    "estimators/predict",
    "estimators/sweep",
    "estimators/present",
    "runs/store",
    "runs/tables",
    "runs/analysis",
    "runs/plots",
    "runs/report",
    "runs/fleet_page",
    "calibrate/fit",
    "calibrate/design",
    "calibrate/calibration",
    "calibrate/pooling",
    "harness/defaults",
    "harness/module",
    "harness/capture/fx",
    "harness/capture",
    "harness/workloads",
    "harness/models",
    "harness/energy",
    "harness/machine",
    "harness/runtimes",
    "harness/measuring/watch",
    "harness/measuring",
    "harness/campaign",
    "harness/fleet",
    "harness/pages",
    "harness/pytest",
    "harness/question",
    "harness/sweeps",
    "harness/api",
    "harness/gate",
    "harness/decisions",
    "harness/cli",
)
"""Rooms (folders or single files), lowest first: a room imports from itself and from the rooms before it."""
FILES = sorted(path for folder in PRODUCT for path in (ROOT / folder).rglob("*.py"))
FORBIDDEN = {
    "estimators": {"torch", "torchvision", "scipy", "pandas", "jinja2", "click", "rich"},
    "runs": {"torch", "torchvision", "scipy", "click"},
    "calibrate": {"torch", "torchvision", "click", "jinja2"},
    "harness": set(),
}
"""Libraries that a top-level folder must not import, wherever in a file."""
TAKE_APART = ("startswith", "removeprefix", "partition", "rpartition", "split", "replace")
"""Methods of texts that read a part of a name."""
MOST_FILES, MOST_LINES = 14, 400
ROOMY = ("harness/cli/verbs",)
"""Folders that may hold any number of files."""


def imports(tree: ast.AST) -> Iterator[tuple[str, tuple[str, ...], int]]:
    """Every module that code imports, with the names taken from it and the line, inside functions too; blocks for type checkers
    are left out."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            for other in node.orelse:
                yield from imports(other)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, (), node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or ""), tuple(alias.name for alias in node.names), node.lineno
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("__import__", "import_module", "importlib.import_module"):
            if node.args and isinstance(node.args[0], ast.Constant):
                yield str(node.args[0].value), (), node.lineno
            yield from imports(node)
        else:
            yield from imports(node)


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(("shmoo", *(parts[:-1] if parts[-1] == "__init__" else parts)))


MODULES = {module_of(path) for path in FILES}


def floor_of(module: str) -> int | None:
    """Position in the floor plan of the room that holds a module; `None` for the top-level folders themselves."""
    parts = module.split(".")[1:]
    prefixes = ("/".join(parts[:length]) for length in range(len(parts), 0, -1))
    return next((FLOOR_PLAN.index(prefix) for prefix in prefixes if prefix in FLOOR_PLAN), None)


def imported(code: str) -> Iterator[tuple[str, int]]:
    """Every module of ours that code imports, with its line: submodules that are imported as names are told apart."""
    for name, names, line in imports(ast.parse(code)):
        if name.split(".")[0] == "shmoo":
            submodules = {f"{name}.{n}" for n in names} & MODULES
            yield from ((module, line) for module in submodules)
            if len(submodules) < max(len(names), 1):
                yield name, line


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path: Path) -> None:
    """A file imports from its own top-level folder and those before it, and no library that its folder must do without."""
    folder = path.relative_to(ROOT).parts[0]
    allowed = PRODUCT[: PRODUCT.index(folder) + 1]
    for name, _, line in imports(ast.parse(path.read_text(encoding="utf-8"))):
        where = f"{path.relative_to(ROOT)}:{line} imports {name}"
        top, _, rest = name.partition(".")
        assert not name.startswith("."), f"{where}; imports are absolute here"
        assert top != "tests", f"{where}; what the product runs does not stand in tests"
        assert top not in PRODUCT, f"{where}; the folders install as shmoo.*"
        if top == "shmoo" and rest:
            assert rest.split(".")[0] in allowed, f"{where}; {folder} may use {', '.join(allowed)}"
        assert top not in FORBIDDEN[folder], f"{where}; {folder} does without {top}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_rooms_only_look_down(path: Path) -> None:
    """A file imports from its own room and the rooms before it in the floor plan."""
    own = floor_of(module_of(path))
    if own is None:
        assert path.name == "__init__.py", f"{path.relative_to(ROOT)} stands in no room of the floor plan"
        return
    for name, line in imported(path.read_text(encoding="utf-8")):
        floor = floor_of(name)
        if floor is not None:
            assert floor <= own, f"{path.relative_to(ROOT)}:{line} imports {name}: {FLOOR_PLAN[floor]} is above {FLOOR_PLAN[own]}"


STEMS = {stem.partition(".")[0] for stem in CATALOGUE}
NAMES = ROOT / "estimators/machine/names.py"


def name_parsing(code: str) -> Iterator[int]:
    """Lines of code that take the name of a coefficient apart: a method of texts that is given a dotted stem of the
    catalogue."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in TAKE_APART:
            values = (value.value for arg in node.args for value in ast.walk(arg) if isinstance(value, ast.Constant))
            if any(isinstance(text, str) and "." in text and text.partition(".")[0] in STEMS for text in values):
                yield node.lineno


@pytest.mark.parametrize("path", [path for path in FILES if path != NAMES], ids=lambda path: str(path.relative_to(ROOT)))
def test_names_of_coefficients_are_taken_apart_in_one_place(path: Path) -> None:
    """`names.py` and the entries of the catalogue answer what a name says."""
    lines = list(name_parsing(path.read_text(encoding="utf-8")))
    assert lines == [], f"{path.relative_to(ROOT)}: ask `machine/names.py` or the coefficient's entry"


def test_a_name_that_is_taken_apart_is_seen() -> None:
    """By its prefix, whichever method; other texts may start as they like."""
    code = "name.startswith(('efficiency.bandwidth.', 'x'))\nname.removeprefix('capacity.')\nop.removeprefix('aten.')"
    assert list(name_parsing(code)) == [1, 2]


def test_the_floor_plan_has_no_empty_rooms() -> None:
    """Each room is a folder or a file."""
    for room in FLOOR_PLAN:
        assert (ROOT / room).is_dir() or (ROOT / f"{room}.py").is_file(), room


def test_a_room_holds_few_files() -> None:
    """A listing reads as a table of contents."""
    folders = {path.parent for path in FILES}
    sizes = {
        str(folder.relative_to(ROOT)): len([p for p in folder.glob("*.py") if p.name != "__init__.py"]) for folder in folders
    }
    assert {room: size for room, size in sizes.items() if size > MOST_FILES and room not in ROOMY} == {}


def test_a_file_can_be_read_at_once() -> None:
    """Longer ones hold two subjects."""
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in FILES}
    assert {name: length for name, length in lengths.items() if length > MOST_LINES} == {}


def test_every_package_is_listed_for_installation() -> None:
    """A folder with code that pyproject.toml does not list would be missing from the wheel."""
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    folders = {"shmoo." + ".".join(path.parent.relative_to(ROOT).parts) for path in FILES}
    assert folders == {name for name in listed if name != "shmoo"}
    assert len(listed) == len(set(listed))


def test_every_folder_says_what_belongs_in_it() -> None:
    """The docstring of each package."""
    for folder in {path.parent for path in FILES}:
        assert ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))), folder


def test_an_import_inside_a_function_is_seen() -> None:
    """The law holds for lazy imports too."""
    code = "def f():\n    if x:\n        from shmoo.harness import y\n    importlib.import_module('torch')"
    assert [name for name, _, _ in imports(ast.parse(code))] == ["shmoo.harness", "torch"]


def test_a_floor_is_that_of_the_innermost_room() -> None:
    """A file of a room inside a room stands on the inner room's floor."""
    assert floor_of("shmoo.harness.capture.fx.walker") == FLOOR_PLAN.index("harness/capture/fx")
    assert floor_of("shmoo.harness.capture.capture") == FLOOR_PLAN.index("harness/capture")
    assert floor_of("shmoo.harness") is None
