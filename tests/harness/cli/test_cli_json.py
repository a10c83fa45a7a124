"""JSON for programs: one document, finite numbers, and beside everything unknown the reason."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from shmoo.estimators.errors import InputError
from shmoo.estimators.graph.records import Interval
from shmoo.harness.api import sweep
from shmoo.harness.cli import output
from tests.cli_runner import shmoo
from tests.harness.cli.test_cli import write_run

pytestmark = pytest.mark.usefixtures("own_home")

COMMANDS = (
    ["estimate", "linear", "--arch", "cpu_server_generic,kpu_t64"],
    ["estimate", "--ops", "ops.csv", "--arch", "tpu_v4"],
    ["sweep", "linear", "--axis", "n=1,2", "--arch", "gpu_t4"],
    ["sweep", "mlp", "--largest-on-chip", "--axis", "hidden=64,128", "--arch", "kpu_t64@capacity.l3=64KiB"],
    ["inspect", "mlp", "--arch", "tpu_v4"],
    ["advise", "mlp", "--arch", "tpu_v4"],
    ["advise", "mlp", "--arch", "brief_cpu", "--machine"],
    ["fusion", "mlp"],
    ["trace", "mlp", "--arch", "kpu_t64"],
    ["trace", "mlp", "--arch", "gpu_h100"],
    ["doctor"],
    ["show", "run"],
    ["check", "run"],
    ["compare", "run", "run"],
    ["report", "run", "--profile", "cpu_server_generic"],
    ["profiles", "list"],
    ["profiles", "diff", "gpu_h100", "tpu_v4"],
)


def unexplained(value: object, place: str = "") -> Iterator[str]:
    """Fields that are null without a reason beside them."""
    if isinstance(value, dict):
        for name, part in value.items():
            if part is None and not value.get(f"{name}_reason"):
                yield f"{place}.{name}"
            yield from unexplained(part, f"{place}.{name}")
    elif isinstance(value, list):
        for part in value:
            yield from unexplained(part, place)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_what_is_not_known_has_its_reason(command: list[str]) -> None:
    """stdout is one JSON document without NaN, and every null field has a NAME_reason."""
    write_run(Path("run"))
    Path("ops.csv").write_text("op,b,m,n,k\nlinear,1,8,8,8\n")
    result = shmoo(*command, "--json")
    assert result.exit_code in (0, 1, 4), result.output
    document = json.loads(result.stdout, parse_constant=pytest.fail)
    assert list(unexplained(document)) == []


class Noted(msgspec.Struct, frozen=True, omit_defaults=True):
    """A record with a field that is left out and a name that is not plain ASCII."""

    name: str
    parts: tuple[Interval, ...] = ()
    note: str = ""


NOTED = (Noted('a\n"b" \u00b5 \U0001f600', (Interval(1.0, 0.5, 2.0),)), Noted("half \udc80 of a pair"))


@pytest.mark.parametrize(
    "document",
    [
        [],
        {},
        "text",
        [[], {}, None, True, -0.0, 1e300, 12345678901234567890],
        {"empty": [], "none": {}, "nested": {"list": [1, [2, [3]]], "deep": {"a": {}}}, "tuple": (1, (2, 3)), "\u00b5": "\u00b5"},
        [{"row": i, "inner": [i, {"i": i}]} for i in range(2 * output.PART + 1)],
        {"format": 1, "rows": [{"row": i, "inner": [i]} for i in range(output.PART)], "after": 2},
        {"rows": NOTED, "first": NOTED[0], "names": {"half \udc80": 1}},
    ],
)
def test_a_document_in_parts_is_the_document_in_one(document: object, capsys: pytest.CaptureFixture[str]) -> None:
    """Lists of any length, records and texts of any kind, byte for byte."""
    whole = json.dumps(msgspec.to_builtins(document), allow_nan=False).replace(r" \udc80", r" \\udc80")
    output.json_document(document)
    assert capsys.readouterr().out == msgspec.json.format(whole, indent=1) + "\n"


@pytest.mark.usefixtures("own_home")
def test_groups_answer_in_json_as_their_first_command_does(monkeypatch, tmp_path):
    """`profiles --json` is `profiles list --json`; a --json before another command is told where it belongs."""
    monkeypatch.setenv("SHMOO_CACHE_DIR", str(tmp_path))
    assert json.loads(shmoo("profiles", "--json").stdout) == json.loads(shmoo("profiles", "list", "--json").stdout)
    assert json.loads(shmoo("cache", "--json").stdout)["captures"] == []
    assert json.loads(shmoo("cache", "clear", "--json").stdout)["removed"] == 0
    result = shmoo("profiles", "--json", "list")
    assert (result.exit_code, "write --json after 'list'" in result.stderr) == (2, True)


def test_an_axis_without_values_and_a_module_without_functions_are_told(monkeypatch, tmp_path):
    with pytest.raises(InputError, match="axis 'n' has no values"):
        sweep("linear", {"n": ()}, "cpu_server_generic")
    (tmp_path / "nothing_here.py").write_text("X = 1\n")
    monkeypatch.chdir(tmp_path)
    result = shmoo("estimate", "nothing_here:build", "--arch", "cpu_server_generic")
    assert (result.exit_code, "there is none" in result.stderr) == (2, True)
