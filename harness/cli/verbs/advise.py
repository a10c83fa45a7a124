"""`shmoo advise`: what to change about a model on an architecture, or about the architecture for a model."""

from __future__ import annotations

import shlex
from operator import attrgetter

import click

from shmoo.estimators.present.advice import Advice, Aim, Sensitivity
from shmoo.estimators.present.sentences import (
    added_silicon,
    advice_record,
    advice_sentences,
    headline,
    sensitivity_record,
    sensitivity_sentences,
    times,
)
from shmoo.estimators.shown_columns import Column
from shmoo.estimators.units import amount, yes_or_no
from shmoo.harness.cli import captures, options, output
from shmoo.harness.cli.hurry import given_again
from shmoo.harness.decisions import advise as advise_on
from shmoo.harness.decisions import sensitivity
from shmoo.harness.defaults import LOCAL
from shmoo.harness.question import Question

EXAMPLES = """\b
Examples:
  shmoo advise resnet50 --arch gpu_t4 --runtime eager
  shmoo advise llama3_8b --arch gpu_h100 --phase decode --by energy
  shmoo advise resnet50 --arch kpu_t256 --machine
"""
SETUP = ("batch", "runtime", "dtype", "quantize", "channels_last")
"""Parameters of the command that belong to a setup."""


@click.command(epilog=EXAMPLES)
@click.argument("model")
@click.option("--machine", "of_machine", is_flag=True, help="Change the architecture instead of how the model runs.")
@click.option(
    "--by",
    "aim",
    type=click.Choice(["time", "energy"]),
    default="time",
    show_default=True,
    help="Quantity that ranks the changes.",
)
@options.top("8", 8)
@options.wide
@captures.model_options()
@options.as_json
def advise(
    model: str,
    of_machine: bool,
    aim: Aim,
    top: int,
    wide: bool,
    question: Question,
    as_json: bool,
) -> None:
    """Time and energy of MODEL on an architecture by kernel and module, the distance of kernels from their roofs, and the gain
    from each change: batch, types, quantization, runtime, image layout. All numbers are estimates, compared by paired draws: a
    change counts only if it exceeds its uncertainty."""
    view = output.View(wide)
    with output.only_results_on_stdout():
        outcome = sensitivity(model, question, by=aim) if of_machine else advise_on(model, question, by=aim, top=top)
    if isinstance(outcome, Advice):
        words, place = given_again(("of_machine", "aim", "top", "wide", "as_json", "no_cache", *SETUP))
        command = shlex.join([*place, *([] if question.arch else ["--arch", LOCAL]), *words])
        output.json_document(advice_record(outcome, command)) if as_json else _show(outcome, command, view)
    else:
        output.json_document(sensitivity_record(outcome)) if as_json else _show_levers(outcome, view)


def _show(advice: Advice, command: str, view: output.View) -> None:
    output.result(headline(advice))
    for heading, shares in (("bound by", advice.bounds), ("module", advice.modules)):
        name = Column(heading, lambda share: share.name or "(the model itself)")
        output.table([name, *SHARES], shares, left=2, view=view)
    output.table(
        GAPS,
        advice.kernels,
        title="kernels, most time first, against the peak of the units and the bandwidth of main memory",
        drop=("roof energy", "energy", "roof", "count", "roof time"),
        view=view,
    )
    output.table(
        [
            Column("what if", attrgetter("change.name")),
            *_effect(advice.aim),
            Column("a call", attrgetter("effect.latency_s.value"), "s"),
            Column("energy", lambda w: w.effect.energy_j and w.effect.energy_j.value, "J"),
            Column("memory", attrgetter("memory.needed_bytes"), "iB"),
            Column("fits", lambda w: yes_or_no(w.memory.fits)),
        ],
        advice.what_ifs,
        title="changes, by sample, with 90 % intervals",
        drop=("memory", "energy", "a call", _other_ratio(advice.aim)),
        view=view,
    )
    for number, sentence in enumerate(advice_sentences(advice, command), 1):
        output.result(f"{number}. {sentence}")


def _other_ratio(aim: Aim) -> str:
    """The column that a narrow terminal drops: the ratio that does not rank the changes."""
    return "times the energy" if aim == "time" else "times as fast"


def _effect(aim: Aim) -> list[Column]:
    return [
        Column("times as fast", lambda item: times(item.effect.speedup)),
        Column("times the energy", lambda item: times(item.effect.energy_ratio)),
        Column("verdict", lambda item: item.effect.verdict(aim)),
    ]


SHARES = (
    Column("", lambda share: f"x {share.calls}" if share.calls > 1 else ""),
    Column("time", attrgetter("time_s"), "s"),
    Column("share", attrgetter("time_share"), "%"),
    Column("energy", attrgetter("energy_j"), "J"),
    Column("share", attrgetter("energy_share"), "%"),
)
GAPS = (
    Column("kernels", lambda gap: f"{gap.name} ({gap.module or 'model'})"),
    Column("count", attrgetter("count"), "#"),
    Column("time", attrgetter("time_s"), "s"),
    Column("roof time", attrgetter("roof_s"), "s"),
    Column("reached", lambda gap: gap.roof_s / gap.time_s if gap.time_s else None, "0%"),
    Column("roof", attrgetter("roof")),
    Column("energy", attrgetter("energy_j"), "J"),
    Column("roof energy", attrgetter("roof_j"), "J"),
    Column("limited by", attrgetter("why")),
)


def _show_levers(levers: Sensitivity, view: output.View) -> None:
    output.table(
        [
            Column("part", attrgetter("change.name")),
            Column("from, to", lambda lever: f"{amount(lever.before, lever.unit)} to {amount(lever.after, lever.unit)}"),
            *_effect(levers.aim),
            Column("power", attrgetter("effect.average_power_w"), "W"),
            Column("cap", attrgetter("power_cap_w"), "W"),
            Column("area", lambda lever: added_silicon(lever.area_m2)),
            Column("left out", attrgetter("note")),
        ],
        levers.levers,
        title=f"{levers.model} on {levers.arch}: each part changed alone, with 90 % intervals",
        drop=("left out", "cap", "power", "area", "from, to", _other_ratio(levers.aim)),
        view=view,
    )
    for number, sentence in enumerate(sensitivity_sentences(levers), 1):
        output.result(f"{number}. {sentence}")
