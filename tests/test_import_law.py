"""Imports point one way: estimators <- runs <- calibrate <- harness; torch stays in harness."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("estimators", "runs", "calibrate", "harness")
FILES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))
FORBIDDEN = {
    "estimators": {"torch", "torchvision", "scipy", "pandas", "plotly", "jinja2", "click", "rich"},
    "runs": {"torch", "torchvision", "scipy", "click"},
    "calibrate": {"torch", "torchvision", "click", "plotly"},
    "harness": set(),
}
"""Libraries that a room must not import, wherever in a file."""


def imports(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Every module that code imports, inside functions too, with its line; blocks for type checkers are left out."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            for other in node.orelse:
                yield from imports(other)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield ("." * node.level + (node.module or ""), node.lineno)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("__import__", "import_module", "importlib.import_module"):
            if node.args and isinstance(node.args[0], ast.Constant):
                yield str(node.args[0].value), node.lineno
            yield from imports(node)
        else:
            yield from imports(node)


def room_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path: Path) -> None:
    """A file imports from its own room and the rooms before it, and no library that its room must do without."""
    room = room_of(path)
    allowed = ROOMS[: ROOMS.index(room) + 1]
    for name, line in imports(ast.parse(path.read_text(encoding="utf-8"))):
        where = f"{path.relative_to(ROOT)}:{line} imports {name}"
        top, _, rest = name.partition(".")
        assert not name.startswith("."), f"{where}; imports are absolute here"
        assert top != "tests", f"{where}; what the product runs does not stand in tests"
        assert top not in ROOMS, f"{where}; the rooms install as shmoo.*"
        if top == "shmoo":
            assert rest.split(".")[0] in allowed, f"{where}; {room} may use {', '.join(allowed)}"
        assert top not in FORBIDDEN[room], f"{where}; {room} does without {top}"


def test_every_package_is_listed_for_installation() -> None:
    """A folder with code that pyproject.toml does not list would be missing from the wheel."""
    import tomllib

    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"])
    found = {"shmoo." + ".".join(path.parent.relative_to(ROOT).parts) for path in FILES}
    assert found | {"shmoo"} == listed


def test_an_import_inside_a_function_is_seen() -> None:
    """The law holds for lazy imports too."""
    code = "def f():\n    if x:\n        from shmoo.harness import y\n    importlib.import_module('torch')"
    assert [name for name, _ in imports(ast.parse(code))] == ["shmoo.harness", "torch"]
