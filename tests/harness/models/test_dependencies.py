"""What a capture read: files, environment variables, modules, and what cannot be seen."""

from __future__ import annotations

import importlib
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest

import shmoo.harness.capture
import shmoo.harness.workloads
from shmoo.harness.models.dependencies import InputRecorder, Inputs, capture_sources, foreign_modules, settled_folders


def read_by(work: Callable[[], object]) -> Inputs | None:
    """The inputs of some work."""
    recorder = InputRecorder()
    with recorder.recording():
        work()
    return recorder.inputs()


def test_a_file_that_is_read_is_an_input(tmp_path: Path) -> None:
    """Its contents count, not its time; one that is not there is an input too."""
    config, absent = tmp_path / "config.json", tmp_path / "absent.json"
    config.write_text("1")

    def work() -> None:
        config.read_text()
        with suppress(FileNotFoundError):
            absent.read_text()

    found = read_by(work)
    assert found is not None
    assert {str(config), str(absent)} <= set(found.files)
    assert found.unchanged()
    os.utime(config, (1, 1))
    assert found.unchanged()
    config.write_text("2")
    assert not found.unchanged()
    config.write_text("1")
    absent.write_text("now it is there")
    assert not found.unchanged()


def test_a_large_file_is_known_by_its_size_and_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its contents are not read for it."""
    monkeypatch.setattr("shmoo.harness.models.dependencies._LARGE", 4)
    weights = tmp_path / "weights.bin"
    weights.write_bytes(b"12345")
    found = read_by(weights.read_bytes)
    assert found is not None
    assert found.unchanged()
    os.utime(weights, (1, 1))
    assert not found.unchanged()


def test_a_file_of_its_own_making_is_none(tmp_path: Path) -> None:
    """Scratch that the work writes and reads again."""
    scratch = tmp_path / "scratch"
    found = read_by(lambda: (scratch.write_text("x"), scratch.read_text()))
    assert found is not None
    assert str(scratch) not in found.files


def test_a_file_that_changes_meanwhile_leaves_the_inputs_unknown(tmp_path: Path) -> None:
    """Which of the contents counted cannot be told."""
    config = tmp_path / "config.json"
    config.write_text("1")
    assert read_by(lambda: (config.read_text(), config.write_text("2"))) is None


def test_the_source_of_an_imported_module_is_an_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With bytecode from an earlier run too; and so are the names that could be imported from its folder."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "part_of_a_model.py").write_text("SIZE = 1\n")
    for _ in range(2):
        importlib.invalidate_caches()
        sys.modules.pop("part_of_a_model", None)
        found = read_by(lambda: importlib.import_module("part_of_a_model"))
        assert found is not None
        assert str(tmp_path / "part_of_a_model.py") in found.files
        assert not any(path.endswith(".pyc") for path in found.files)
    (tmp_path / "notes.txt").write_text("no code")
    assert found.unchanged()
    (tmp_path / "another.py").write_text("")
    assert not found.unchanged()
    sys.modules.pop("part_of_a_model")


def test_an_environment_variable_that_is_asked_for_is_an_input(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set or not; others are none, and nor is one that the work sets itself."""
    monkeypatch.setenv("HIDDEN", "64")
    monkeypatch.delenv("LAYERS", raising=False)
    monkeypatch.setenv("OWN", "before")

    def work() -> None:
        os.environ.get("HIDDEN")
        os.getenv("LAYERS", "2")
        os.environ["OWN"] = "after"
        assert os.environ["OWN"] == "after"

    found = read_by(work)
    assert found is not None
    assert {"HIDDEN", "LAYERS"} <= set(found.variables)
    assert "OWN" not in found.variables
    assert b'"64"' not in msgspec.json.encode(found)
    assert found.unchanged()
    monkeypatch.setenv("LAYERS", "3")
    assert not found.unchanged()
    monkeypatch.delenv("LAYERS")
    monkeypatch.setenv("HIDDEN", "65")
    assert not found.unchanged()


def test_installed_code_that_looks_through_the_environment_asks_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unlike a user's code, which may use all of it."""
    monkeypatch.setenv("SHELL_LEVEL", "3")
    found = read_by(lambda: dict(os.environ.items()))
    assert found is not None
    assert "SHELL_LEVEL" in found.variables
    namespace = {"environ": os.environ}
    exec(compile("def look(): return list(environ.items())", msgspec.__file__, "exec"), namespace)
    found = read_by(namespace["look"])
    assert found is not None
    assert "SHELL_LEVEL" not in found.variables


def test_the_environment_is_as_before() -> None:
    """Also after an error."""
    kind = type(os.environ)
    with pytest.raises(ZeroDivisionError):
        read_by(lambda: 1 / 0)
    assert type(os.environ) is kind


def test_another_process_leaves_the_inputs_unknown() -> None:
    """It may have read anything."""
    assert read_by(lambda: subprocess.run([sys.executable, "-c", ""], check=True)) is None


def test_a_network_leaves_the_inputs_unknown() -> None:
    """A connection, even one that is refused."""

    def work() -> None:
        with socket.socket() as one, pytest.raises(OSError, match=r"."):
            one.connect(("127.0.0.1", 1))

    assert read_by(work) is None


def test_installed_code_is_known_by_its_version() -> None:
    """Neither Python's nor installed files are inputs; these tests are foreign code."""
    assert Path(os.__file__).as_posix().startswith(settled_folders())
    assert Path(msgspec.__file__).as_posix().startswith(settled_folders())
    assert Path(shmoo.harness.capture.__file__).as_posix().startswith(settled_folders())
    assert __name__ in foreign_modules()


def test_the_sources_of_a_capture_are_all_that_it_imports() -> None:
    """Whatever of Shmoo capturing loads is part of the key."""
    pytest.importorskip("transformers", reason="one of the modules imports it")
    rooms = (shmoo.harness.capture, shmoo.harness.workloads)
    names = [f"{room.__name__}.{path.stem}" for room in rooms for path in Path(room.__file__).parent.glob("[a-z]*.py")]
    names += ["shmoo.harness.models.model_graphs", "shmoo.harness.models.causal_step"]
    code = "import importlib, sys\nfor name in sys.argv[1:]:\n    importlib.import_module(name)\n"
    code += "print(*(m.__file__ for n, m in sys.modules.items() if n.partition('.')[0] == 'shmoo'), sep='\\n')"
    done = subprocess.run([sys.executable, "-c", code, *names], capture_output=True, text=True, check=True)
    sources = {path.resolve() for path in capture_sources()}
    loaded = {Path(line).resolve() for line in done.stdout.splitlines()}
    assert len(loaded) > len(names)
    assert loaded - sources == set()
