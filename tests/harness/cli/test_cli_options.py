"""The command line speaks one language: an option of one name means the same on every verb, and old spellings still work."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from shmoo.estimators.errors import InputError
from shmoo.harness.cli import options
from shmoo.harness.cli.app import cli
from shmoo.harness.cli.hurry import resumed
from tests.cli_runner import shmoo

pytestmark = pytest.mark.usefixtures("own_home")


def verbs(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    """Every command, those of groups included."""
    for name, command in group.commands.items():
        yield " ".join((*path, name)), command
        if isinstance(command, click.Group):
            yield from verbs(command, (*path, name))


def uses() -> dict[str, dict[str, click.Option]]:
    """Flag -> verb -> its option; hidden ones are old spellings."""
    found: dict[str, dict[str, click.Option]] = {}
    for verb, command in verbs(cli):
        for option in command.params:
            if isinstance(option, click.Option) and not option.hidden:
                for flag in (*option.opts, *option.secondary_opts):
                    found.setdefault(flag, {})[verb] = option
    return found


def meaning(option: click.Option) -> dict[str, object]:
    """What an option is apart from its default."""
    kind = option.type.to_info_dict()
    text = (option.help or "").partition("Default:")[0].rstrip()
    return {
        "flags": sorted((*option.opts, *option.secondary_opts)),
        "type": kind,
        "several": option.multiple,
        "flag": option.is_flag,
        "metavar": option.metavar,
        "help": text,
    }


SHARED = sorted(flag for flag, by_verb in uses().items() if len(by_verb) > 1)


def test_verbs_share_the_options_of_the_language() -> None:
    """Each of them stands on two verbs at least, or on the only one that has a use for it."""
    language = {"--arch", "--batch", "--dtype", "--runtime", "--out", "-o", "--force", "--set", "--operators"}
    language |= {"--json", "--csv", "--threads", "--seed", "--trust", "--name", "--resume", "--budget"}
    assert language <= set(SHARED)
    assert {"--profile", "--base"} <= set(uses())


@pytest.mark.parametrize("flag", SHARED)
def test_an_option_of_one_name_has_one_meaning(flag: str) -> None:
    """Type, number of values, metavar, flags and help are the same on every verb; only the default may differ."""
    by_verb = uses()[flag]
    first = next(iter(by_verb))
    for verb, option in by_verb.items():
        assert meaning(option) == meaning(by_verb[first]), f"{flag} of {verb} and of {first}"


def test_an_option_has_one_name_on_every_verb() -> None:
    """The text of a shared option belongs to one flag alone."""
    flags: dict[str, set[str]] = {}
    for flag, by_verb in uses().items():
        if flag.startswith("--"):
            for option in by_verb.values():
                flags.setdefault(str(meaning(option)["help"]), set()).add(flag)
    assert {text: names for text, names in flags.items() if len(names) > 1 and not text.startswith("Run the model here")} == {}


def test_the_default_architecture_is_the_same_where_one_is_taken() -> None:
    """This machine, for every verb that takes one; a short list for a table and all built-in ones for programs where each has
    rows of its own."""
    defaults = {verb: (option.help or "").partition("Default: ")[2] for verb, option in uses()["--arch"].items()}
    assert defaults["fusion"] == defaults["trace"] == "cpu_local; takes one."
    assert defaults["estimate"] == defaults["generate"] == f"{options.SHORT_LIST}."
    assert defaults["sweep"] == "all built-in ones."


@pytest.mark.parametrize(
    "arguments",
    [
        ["fusion", "mlp", "--arch", "kpu_t64,kpu_t256"],
        ["trace", "mlp", "--arch", "kpu_t64", "--dtype", "fp32", "--dtype", "bf16"],
        ["inspect", "mlp", "--batch", "1,2"],
        ["inspect", "mlp", "--runtime", "eager,inductor"],
    ],
)
def test_a_verb_that_takes_one_value_says_so(arguments: list[str]) -> None:
    """The option is read as everywhere; two values are refused with both of them."""
    result = shmoo(*arguments)
    assert result.exit_code == 2
    assert "takes one value here, got" in result.stderr


@pytest.mark.parametrize(
    ("given", "plain"),
    [
        ("fusion resnet_block --arch gpu_h100 --dtype bf16", "fusion resnet_block --arch gpu_h100"),
        ("trace mlp --arch gpu_t4 --no-measure --batch 8", "trace mlp --arch gpu_t4 --no-measure"),
        ("trace mlp --arch gpu_t4 --no-measure --host server_2018", "trace mlp --arch gpu_t4 --no-measure"),
        ("sweep mlp --axis hidden=64 --arch gpu_t4 --host server_2018", "sweep mlp --axis hidden=64 --arch gpu_t4"),
    ],
)
def test_what_is_asked_of_a_model_or_a_machine_counts_on_every_verb(given: str, plain: str) -> None:
    """An option that `estimate` has changes the answer of the others."""
    answers = [shmoo(*command.split(), "--json") for command in (given, plain)]
    assert [answer.exit_code for answer in answers] == [0, 0]
    assert answers[0].stdout != answers[1].stdout


def test_batches_of_a_sweep_are_an_axis() -> None:
    """Several are swept, one is kept; --axis and --set do not say otherwise."""
    sweep = ("sweep", "mlp", "--arch", "kpu_t64", "--json")
    rows = [json.loads(shmoo(*sweep, *how).stdout) for how in (("--batch", "1,8"), ("--axis", "batch=1,8"))]
    assert rows[0] == rows[1]
    assert {row["batch"] for row in json.loads(shmoo(*sweep, "--batch", "8", "--axis", "hidden=64,128").stdout)} == {8}
    for verb in (("sweep", "mlp", "--axis", "hidden=64,128"), ("trace", "mlp", "--no-measure")):
        assert "give it once" in shmoo(*verb, "--set", "batch=1", "--batch", "8").stderr


def test_a_training_step_has_a_baseline_of_its_own() -> None:
    """It is no footprint of the plain call."""
    gate = ("gate", "mlp", "--arch", "kpu_t64", "--against", "baseline.json")
    assert shmoo(*gate, "--write").exit_code == 0
    assert "mlp:training" in shmoo(*gate, "--training").stderr
    assert shmoo(*gate, "--training", "--write").exit_code == 0
    assert shmoo(*gate).exit_code == shmoo(*gate, "--training").exit_code == 0


def test_a_runtime_is_refused_where_it_cannot_be_measured() -> None:
    """No CUDA graphs on a CPU, and the error names what there is."""
    refused = shmoo("measure", "--model", "mlp", "--runtime", "cudagraphs", "--out", "run")
    assert refused.exit_code == 2
    assert refused.stderr.rstrip().endswith("allowed there: eager, inductor, inductor-freezing")


def test_only_one() -> None:
    """Nothing, the value, or a refusal that names the flag."""
    assert options.only_one((), "--batch") is None
    assert options.only_one((8,), "--batch") == 8
    with pytest.raises(InputError, match="--batch takes one value here, got 1, 2"):
        options.only_one((1, 2), "--batch")


def test_types_are_a_list_for_sweeps_and_generation() -> None:
    """A row each, told apart by the type."""
    result = shmoo("sweep", "linear", "--axis", "n=64,128", "--dtype", "fp32,bf16", "--arch", "gpu_h100", "--json")
    rows = json.loads(result.stdout)
    assert [(row["dtype"], row["n"]) for row in rows] == [("float32", 64), ("float32", 128), ("bfloat16", 64), ("bfloat16", 128)]


def test_an_old_spelling_works_with_a_hint() -> None:
    """`--fit on-chip` gives what `--largest-on-chip` gives, and stderr names the new spelling."""
    arguments = ("sweep", "mlp", "--axis", "hidden=64,128", "--arch", "kpu_t64", "--json")
    old, new = shmoo(*arguments, "--fit", "on-chip"), shmoo(*arguments, "--largest-on-chip")
    assert json.loads(old.stdout) == json.loads(new.stdout)
    assert "--fit is now --largest-on-chip" in old.stderr
    assert "is now" not in new.stderr
    assert "--fit" not in shmoo("sweep", "--help").stdout


def test_the_old_spelling_of_visits_is_read() -> None:
    """The hint comes before the campaign, which here cannot begin; a wrong value is refused as before."""
    Path("taken").write_text("")
    result = shmoo("measure", "--model", "relu", "--passes", "1", "--out", "taken/run")
    assert "--passes is now --visits" in result.stderr
    assert result.exit_code == 2
    assert shmoo("measure", "--passes", "0").exit_code == 2


def test_out_has_its_short_form_everywhere() -> None:
    """-o is --out on every verb that writes a result."""
    assert (
        set(uses()["-o"])
        == set(uses()["--out"])
        == {"calibrate", "characterize", "duel", "fleet report", "fleet run", "history", "measure", "report", "trace"}
    )


def test_a_host_is_named_for_the_gpus_of_an_estimate() -> None:
    """`--host` changes what waits for launches and not the device's time; `own` is the host that the card was measured beside."""
    times = {}
    for host in (None, "server_2025", "server_2018", "own"):
        asked = [] if host is None else ["--host", host]
        result = shmoo("estimate", "mlp", "--arch", "gpu_t4,cpu_server_generic", "--runtime", "eager", "--json", *asked)
        gpu, cpu = json.loads(result.stdout)
        times[host] = gpu["latency_s"]["value"], gpu["device_s"]
        assert (gpu["host"], cpu["host"]) == (host or "server_2025", "own")
    assert times[None] == times["server_2025"]
    assert times["server_2018"][0] > times["server_2025"][0]
    assert len({device for _, device in times.values()}) == 1
    assert "none is among" in shmoo("estimate", "mlp", "--arch", "tpu_v4", "--host", "own").stderr
    assert "server_2018" in shmoo("estimate", "mlp", "--arch", "gpu_t4", "--host", "server_201").stderr


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("measure --suite micro --batch 1 --batch 8 --json", "shmoo measure --suite micro --batch 1,8 --out RUN --resume"),
        ("measure --out RUN --resume", "shmoo measure --out RUN --resume"),
        (
            "duel base new --out RUN -- measure --suite quick",
            "shmoo duel --out RUN --resume base new -- measure --suite quick",
        ),
    ],
)
def test_the_command_that_goes_on_is_the_one_that_began(given: str, said: str) -> None:
    """With its options and arguments, and no others."""
    verb, *arguments = given.split()
    parent = click.Context(cli, info_name="shmoo")
    with cli.commands[verb].make_context(verb, arguments, parent=parent) as ctx:
        assert ctx.params
        assert resumed(Path("RUN")) == said


@pytest.mark.usefixtures("own_home")
def test_each_case_is_measured_with_each_number_of_threads(tmp_path, monkeypatch):
    """The machine's fingerprint has the largest number; with one number cases name none, as ever."""
    asked = []

    def measure_cases(cases, out, suite, machine, **_):
        asked.append((machine.threads, [case.threads for case in cases]))
        raise InputError("measured")

    monkeypatch.setattr("shmoo.harness.cli.verbs.measure.measure_cases", measure_cases)
    for threads in ("1,2", "2"):
        shmoo("measure", "--model", "mlp", "--threads", threads, "--out", str(tmp_path / "run"))
    assert asked == [(2, [1, 2]), (2, [None])]
