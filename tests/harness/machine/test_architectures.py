"""Which profile a name means, and that two machines of one name stay two."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

import shmoo
from shmoo.estimators.errors import InputError
from shmoo.estimators.graph.records import Graph
from shmoo.harness.machine.architectures import load_architecture, load_architectures
from tests.cli_runner import shmoo as command
from tests.hostile import linear, profile_json, write_table

pytestmark = pytest.mark.usefixtures("own_home")


def write_slower(path: Path, name: str = "gpu_t4") -> Path:
    """A T4 with a tenth of the memory bandwidth, under the same name."""
    file = profile_json("gpu_t4")
    known = file["coefficients"]["bandwidth.dram"]
    file["coefficients"]["bandwidth.dram"] = {"value": known["value"] / 10, "unit": "B/s", "source": "datasheet"}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(file | {"name": name}))
    return path


@pytest.mark.parametrize("verb", ["estimate", "inspect", "sweep", "generate"])
def test_two_machines_of_one_name_show_two_machines_numbers(tmp_path: Path, verb: str) -> None:
    """Each row has its own machine's time, and a name that tells them apart."""
    if verb == "generate":
        pytest.importorskip("transformers", reason="models from a config need transformers")
    write_slower(tmp_path / "mine" / "gpu_t4.json")
    model = {"sweep": ["linear", "--axis", "m=512"], "generate": ["gpt2", "--prompt", "8", "--new", "2"]}.get(
        verb, ["mlp", "--batch", "65536"]
    )
    result = command(verb, *model, "--arch", "gpu_t4,mine/gpu_t4.json", "--json")
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    names = document["architectures"] if verb == "inspect" else [record["arch"] for record in document]
    assert names == ["gpu_t4", "gpu_t4 (mine/gpu_t4.json)"]
    if verb == "estimate":
        fast, slow = (record["latency_s"]["value"] for record in document)
        assert slow > 1.01 * fast


def test_the_python_interface_tells_them_apart_too(tmp_path: Path) -> None:
    """By file, or by place where profiles are passed."""
    path = write_slower(tmp_path / "mine" / "gpu_t4.json")
    graph: Graph = linear(4096, 4096, 64)
    table = shmoo.estimate(graph, ["gpu_t4", str(path)])
    assert list(table["arch"]) == ["gpu_t4", f"gpu_t4 ({path})"]
    assert table["latency_s"][1] > 2 * table["latency_s"][0]
    profiles = [load_architecture("gpu_t4"), load_architecture(path)]
    assert shmoo.inspect(graph, profiles).architectures == ("gpu_t4", "gpu_t4 (2)")


def test_one_machine_named_twice_stays_one(tmp_path: Path) -> None:
    """Equal profiles need no second name."""
    (tmp_path / "copy.json").write_text(json.dumps(profile_json("gpu_t4")))
    assert [profile.name for profile in load_architectures(["gpu_t4", "copy.json"])] == ["gpu_t4", "gpu_t4"]


@pytest.mark.parametrize("folder", ["here", "home"])
def test_a_file_that_takes_a_built_in_name_is_said(tmp_path: Path, folder: str, caplog: pytest.LogCaptureFixture) -> None:
    """In the current directory or among the user's own."""
    path = write_slower(tmp_path / "gpu_t4.json" if folder == "here" else tmp_path / "home" / "profiles" / "gpu_t4.json")
    with caplog.at_level(logging.WARNING, "shmoo"):
        assert load_architecture("gpu_t4").value("bandwidth.dram") == pytest.approx(32e9)
    assert f"gpu_t4 is {path}, in place of the built-in profile" in caplog.text


def test_a_profile_of_the_user_s_own_is_said_and_a_built_in_one_is_not(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """On stderr, where results are not."""
    write_slower(tmp_path / "mine.json", "mine")
    table = str(write_table(tmp_path))
    named = command("estimate", "--ops", table, "--arch", "mine", "--json")
    assert f"mine is {tmp_path / 'mine.json'}" in named.stderr
    assert json.loads(named.stdout)
    assert "is /" not in command("estimate", "--ops", table, "--arch", "gpu_t4", "--json").stderr
    assert "is /" not in command("estimate", "--ops", table, "--arch", "mine.json", "--json").stderr


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a\0b", "", "a\nb", "\x1b[2J"])
def test_a_path_is_not_searched_for(name: str) -> None:
    """Names are looked up, paths end in .json."""
    with pytest.raises(InputError, match="unknown architecture"):
        load_architecture(name)


def test_a_calibration_does_not_take_the_name_of_a_built_in_profile(tmp_path: Path) -> None:
    """From then on every estimate would have been the user's file's without a word."""
    rows = "".join(
        f"linear,{m},{n},{k},{1e-5 + m * n * k / 1e12}\n" for m in (64, 256, 1024) for n in (64, 512) for k in (64, 256, 512)
    )
    path = write_table(tmp_path, f"op,m,n,k,latency_s\n{rows}")
    result = command("calibrate", str(path), "--base", "brief_gpu", "--no-residual", "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["profile"]["name"] == "brief_gpu_calibrated"
    assert [file.name for file in (tmp_path / "home" / "profiles").iterdir()] == ["brief_gpu_calibrated.json"]


def test_a_report_takes_the_newest_profile_that_characterize_wrote(tmp_path: Path) -> None:
    """Not whatever begins with "profile"."""
    from shmoo.harness.cli.verbs.report import choose_profile
    from shmoo.runs.store.store import Run
    from tests.hostile import write_run

    run = write_run(tmp_path / "run")
    for name in ("profile", "profile-2", "profile-10", "profile-of-somebody-else", "profile-99x", "profiles", "profile-0"):
        write_slower(run / f"{name}.json", name.replace("-", "_"))
    assert choose_profile(Run.open(run), None).name == "profile_10"
