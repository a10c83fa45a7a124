"""`shmoo --help` and `shmoo VERB --help`: whole sentences, and examples that work when copied."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

import click
import pytest

from shmoo.estimators.machine.profile import builtin_names
from shmoo.harness.cli.app import cli
from shmoo.harness.workloads import find_workload
from shmoo.harness.workloads.configs import config_models
from tests.cli_runner import shmoo

TAKES_MODELS = ("advise", "cache", "estimate", "explore", "fusion", "gate", "generate", "inspect", "measure", "sweep", "trace")


def verbs(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every command, those of groups included."""
    for name, command in group.commands.items():
        yield (*path, name)
        if isinstance(command, click.Group):
            yield from verbs(command, (*path, name))


VERBS = list(verbs(cli))
EXAMPLES = [
    (verb, line)
    for verb in VERBS
    for line in re.findall(r"^\s*(?:Examples?: )?(shmoo .*)$", shmoo(*verb, "--help").stdout, re.MULTILINE)
]


def test_every_verb_is_listed_in_a_whole_sentence() -> None:
    """The list of commands cuts nothing off."""
    listed = shmoo("--help").stdout.split("Commands:")[1]
    assert "..." not in listed
    assert [line.split()[0] for line in listed.splitlines() if line.strip()] == sorted(cli.commands)


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_every_help_shows_an_example(verb: tuple[str, ...]) -> None:
    """One at least, of the verb itself."""
    assert any(of == verb and line.startswith(f"shmoo {' '.join(verb)}") for of, line in EXAMPLES)


@pytest.mark.parametrize(("verb", "line"), EXAMPLES, ids=lambda value: value if isinstance(value, str) else "")
def test_an_example_can_be_copied(verb: tuple[str, ...], line: str) -> None:
    """The command line takes it, and the models and architectures it names exist."""
    command, rest = cli, shlex.split(line)[1:]
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        command, rest = command.commands[rest[0]], rest[1:]
    context = command.make_context(line, rest)
    for arch in _several(context.params.get("arch")):
        assert arch.split("@")[0] in (*builtin_names(), "cpu_local")
    named = [name for option in ("models", "model") for name in _several(context.params.get(option))]
    assert bool(named) <= (verb[0] in TAKES_MODELS)
    for name in named:
        if ":" not in name and name not in config_models():
            find_workload(name)


def _several(value: object) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value or ())
