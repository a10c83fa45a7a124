"""Captures that are kept: found while everything they were made from is the same, and never otherwise."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from shmoo.estimators.graph.records import Graph
from shmoo.harness.models import capture_cache
from shmoo.harness.models.capture_cache import CaptureCache, clear_captures, list_captures, software
from shmoo.harness.models.request import Mode, ModelRequest
from shmoo.harness.module import Capture
from tests.build import GraphBuilder

ASKED = ModelRequest("mlp", points=({"batch": 8},))
POINT = {"batch": 8}
MODEL = """
import json, os, pathlib, torch
from sizes import WIDTH

def build():
    width = WIDTH + int(os.environ.get("MORE", "0")) + json.loads(pathlib.Path("depth.json").read_text())
    print("BUILDING")
    return torch.nn.Linear(8, width), (torch.rand(2, 8),)
"""
PROBE = """
import sys
from shmoo.harness.cli.app import cli
try:
    cli(sys.argv[1:], prog_name="shmoo")
finally:
    print("TORCH" if "torch" in sys.modules else "NO TORCH", file=sys.stderr)
"""


def graph(width: int = 4) -> Graph:
    b = GraphBuilder()
    return b.graph(b.relu(b.linear(b.tensor((8, 16)), width)))


@pytest.fixture
def cache(tmp_path: Path) -> CaptureCache:
    """One kept capture."""
    made = CaptureCache(tmp_path / "captures", "software 1")
    made.keep(ASKED, POINT, {"batch": 1}, Capture((graph(),), ("a break",), note="a note", batch=8))
    return made


def only_file(cache: CaptureCache) -> Path:
    (path,) = cache.folder.iterdir()
    return path


def test_a_capture_is_read_as_it_was_kept(cache: CaptureCache) -> None:
    """Graphs, batch, reasons and note, by another process of the same software."""
    found = CaptureCache(cache.folder, "software 1").find(ASKED, POINT)
    assert found is not None
    assert found.graphs == Capture((graph(),), ("a break",), note="a note", batch=8)
    assert found.axes == {"batch": 1}


@pytest.mark.parametrize(
    "other",
    [
        ModelRequest("mlp2", points=(POINT,)),
        ModelRequest("mlp", "float16", points=(POINT,)),
        ModelRequest("mlp", input_shape=(8, 16), points=(POINT,)),
        ModelRequest("mlp", seq_len=5, points=(POINT,)),
        ModelRequest("mlp", trust=True, points=(POINT,)),
        ModelRequest("mlp", mode=Mode(training=True), points=(POINT,)),
        ModelRequest("mlp", mode=Mode(quantize="int8-weight"), points=(POINT,)),
        ModelRequest("mlp", points=(POINT, {"batch": 16})),
    ],
)
def test_another_request_is_not_found(cache: CaptureCache, other: ModelRequest) -> None:
    """Each part of it counts."""
    assert cache.find(other, POINT) is None


def test_another_size_or_software_is_not_found(cache: CaptureCache) -> None:
    """Nor the axes alone."""
    assert cache.find(ASKED, {"batch": 9}) is None
    assert cache.find(ASKED, None) is None
    assert CaptureCache(cache.folder, "software 2").find(ASKED, POINT) is None


def test_the_software_is_packages_python_and_own_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them counts; without torch among the packages, or with foreign code, nothing is known."""
    assert software() is None  # pytest loads these tests
    monkeypatch.setattr(capture_cache, "foreign_modules", tuple)
    before = software()
    assert before is not None
    assert software() == before
    site = tmp_path / "site-packages"
    (site / "torch-9.9.dist-info").mkdir(parents=True)
    for change in (
        lambda: monkeypatch.syspath_prepend(str(site)),
        lambda: (site / "torchvision-9.9.dist-info").mkdir(),
        lambda: os.utime(site / "torch-9.9.dist-info", (1, 1)),
        lambda: monkeypatch.setattr(sys, "version", "4.0"),
        lambda: monkeypatch.setattr(capture_cache, "capture_sources", lambda: [Path(__file__)]),
        lambda: monkeypatch.setattr("platform.node", lambda: "another machine"),
    ):
        change()
        changed = software()
        assert changed not in (None, before)
        before = changed
    monkeypatch.setattr(capture_cache, "site_folders", tuple)
    assert software() is None


def damages(data: bytes) -> Iterator[bytes]:
    yield b""
    yield data[: len(data) // 2]
    yield data[:-20] + bytes(byte ^ 1 for byte in data[-20:])
    yield b"not packed"
    yield gzip.compress(b"{}")
    yield gzip.compress(b'{"asked": 3}')
    yield gzip.compress(gzip.decompress(data).replace(b'"format":1', b'"format":2'))


def test_a_damaged_file_counts_as_none(cache: CaptureCache) -> None:
    """And is replaced by the next capture."""
    path = only_file(cache)
    data = path.read_bytes()
    for damaged in damages(data):
        path.write_bytes(damaged)
        assert cache.find(ASKED, POINT) is None
        cache.keep(ASKED, POINT, {}, Capture((graph(),)))
        assert cache.find(ASKED, POINT) is not None
    path.unlink()
    path.mkdir()
    assert cache.find(ASKED, POINT) is None
    assert list_captures(cache.folder) == []


def test_a_file_under_another_name_counts_as_none(cache: CaptureCache) -> None:
    """A name alone proves nothing."""
    other = ModelRequest("resnet18", points=(POINT,))
    cache.keep(other, POINT, {}, Capture((graph(9),)))
    first, second = (Path(one.path) for one in list_captures(cache.folder))
    first.write_bytes(second.read_bytes())
    assert [cache.find(asked, POINT) is None for asked in (ASKED, other)].count(True) == 1


def test_writing_is_whole_or_not_at_all(cache: CaptureCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fills leaves the old file and no scrap, and the capture goes on."""
    before = only_file(cache).read_bytes()

    def full(*paths: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    cache.keep(ASKED, POINT, {}, Capture((graph(99),)))
    assert only_file(cache).read_bytes() == before


def test_a_folder_that_cannot_be_made_keeps_nothing(tmp_path: Path) -> None:
    """No error either."""
    (tmp_path / "file").write_text("")
    cache = CaptureCache(tmp_path / "file" / "captures", "software 1")
    cache.keep(ASKED, POINT, {}, Capture((graph(),)))
    assert cache.find(ASKED, POINT) is None


def test_the_size_is_bounded(tmp_path: Path) -> None:
    """The captures used longest ago go first; reading one counts as use."""
    cache = CaptureCache(tmp_path, "software 1")
    for batch in range(4):
        cache.keep(ASKED, {"batch": batch}, {}, Capture((graph(),)))
    files = {one.point["batch"]: Path(one.path) for one in list_captures(tmp_path)}
    for batch, path in files.items():
        os.utime(path, (1000 + batch, 1000 + batch))
    assert cache.find(ASKED, {"batch": 0}) is not None
    small = CaptureCache(tmp_path, "software 1", limit_bytes=3 * files[0].stat().st_size + 100)
    small.keep(ASKED, {"batch": 4}, {}, Capture((graph(),)))
    assert {one.point["batch"] for one in list_captures(tmp_path)} == {0, 3, 4}


def test_captures_are_listed_and_cleared(cache: CaptureCache) -> None:
    """Of one model, then all, with what a crash left."""
    other = ModelRequest("resnet18", points=(POINT,))
    cache.keep(other, POINT, {}, Capture((graph(),)))
    (cache.folder / ".scrap.json.gz.89abcdef.tmp").write_bytes(b"half")
    assert {one.request.model for one in list_captures(cache.folder)} == {"mlp", "resnet18"}
    assert clear_captures(cache.folder, ["mlp"]) == 1
    assert [one.request.model for one in list_captures(cache.folder)] == ["resnet18"]
    assert clear_captures(cache.folder) == 2
    assert list(cache.folder.iterdir()) == []
    assert clear_captures(cache.folder / "absent") == 0


class Shell:
    """The command line in interpreters of their own, in one folder with a user's factory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {**os.environ, "SHMOO_CACHE_DIR": str(folder / "cache"), "SHMOO_HOME": str(folder / "home")}

    def run(self, *arguments: str) -> tuple[str, str]:
        """stdout and stderr."""
        done = subprocess.run(
            [sys.executable, "-P", "-c", PROBE, *arguments],
            cwd=self.folder, env=self.environment, capture_output=True, text=True, check=True,
        )  # fmt: skip
        return done.stdout, done.stderr

    def width(self, *more: str) -> tuple[int, bool]:
        """Columns of the factory's weight, and whether its code was run."""
        out, err = self.run("estimate", "own_model:build", "--arch", "gpu_h100", "--json", *more)
        ran = "BUILDING" in err
        assert ("NO TORCH" in err) != ran
        return json.loads(out)[0]["macs"] // 16, ran


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    (tmp_path / "own_model.py").write_text(MODEL)
    (tmp_path / "sizes.py").write_text("WIDTH = 100\n")
    (tmp_path / "depth.json").write_text("7")
    return Shell(tmp_path)


def test_a_factory_is_run_again_when_anything_it_read_changes(shell: Shell) -> None:
    """Its source, a module it imports, a file it opens, a variable it asks for; otherwise neither it nor torch is loaded."""
    assert shell.width() == (107, True)
    assert shell.width() == (107, False)
    assert shell.width("--no-cache") == (107, True)
    (shell.folder / "sizes.py").write_text("WIDTH = 2000\n")
    assert shell.width() == (2007, True)
    assert shell.width() == (2007, False)
    (shell.folder / "depth.json").write_text("8")
    assert shell.width() == (2008, True)
    shell.environment["MORE"] = "10"
    assert shell.width() == (2018, True)
    assert shell.width() == (2018, False)
    (shell.folder / "own_model.py").write_text(MODEL.replace("(8, width)", "(8, 2 * width)"))
    assert shell.width() == (4036, True)


@pytest.mark.slow
def test_a_config_is_captured_again_when_it_is_edited(shell: Shell) -> None:
    """And the verbs that capture share what is kept."""
    pytest.importorskip("transformers", reason="needs the extra 'models'")
    config = {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "n_layer": 1,
        "n_embd": 32,
        "n_head": 2,
        "vocab_size": 99,
    }
    params = []
    for layers in (1, 1, 2):
        (shell.folder / "config.json").write_text(json.dumps(config | {"n_layer": layers}))
        out, err = shell.run("estimate", "hf:config.json", "--arch", "gpu_h100", "--json")
        params.append((json.loads(out)[0]["params"], "NO TORCH" in err))
    assert params[0] == (params[1][0], False)
    assert params[1][1] is True
    assert params[2][0] > params[1][0]
    assert params[2][1] is False
    for arguments in (
        ("generate", "hf:config.json", "--new", "4"),
        ("sweep", "hf:config.json", "--axis", "seq_len=8,16"),
        ("inspect", "hf:config.json", "--depth", "0"),
        ("fusion", "hf:config.json"),
        ("trace", "hf:config.json"),
    ):
        first, second = (shell.run(*arguments, "--arch", "gpu_h100", "--json") for _ in range(2))
        assert first[0] == second[0]
        assert "NO TORCH" in second[1], arguments
    listed = json.loads(shell.run("cache", "list", "--json")[0])
    assert {one["asked"]["model"] for one in listed["captures"]} == {"hf:config.json"}
    assert "removed" in shell.run("cache", "clear")[1]
    assert json.loads(shell.run("cache", "list", "--json")[0])["captures"] == []
