"""`shmoo advise`: what to change about a model on an architecture, or about the architecture for a model."""

from __future__ import annotations

import shlex
from operator import attrgetter
from typing import TYPE_CHECKING

import click

from shmoo.estimators.shown_columns import Column
from shmoo.estimators.units import amount, yes_or_no
from shmoo.harness.cli import captures, options, output
from shmoo.harness.cli.hurry import given_again
from shmoo.harness.defaults import LOCAL

if TYPE_CHECKING:
    from shmoo.estimators.present.advice import Advice, Aim, Sensitivity
    from shmoo.harness.question import Question

EXAMPLES = """\b
Examples:
  shmoo advise resnet50 --arch gpu_t4 --runtime eager
  shmoo advise llama3_8b --arch gpu_h100 --phase decode --by energy
  shmoo advise resnet50 --arch kpu_t256 --machine
"""
SETUP = ("batch", "runtime", "dtype", "quantize", "channels_last")
"""Parameters that a setup says."""


@click.command(epilog=EXAMPLES, short_help="What to change, ranked, with intervals.")
@click.argument("model")
@click.option("--machine", "of_machine", is_flag=True, help="Change the architecture in place of the way the model is run.")
@click.option(
    "--by", "aim", type=click.Choice(["time", "energy"]), default="time", show_default=True, help="What to rank changes by."
)
@options.top("8", 8)
@options.wide
@captures.asked()
@options.as_json
def advise(
    model: str,
    of_machine: bool,
    aim: Aim,
    top: int,
    wide: bool,
    asked: Question,
    as_json: bool,
) -> None:
    """Where the time and the energy of MODEL go on an architecture, how far its kernels are from their roofs, and what each
    change would bring: batch, types, quantization, runtime, order of images. All numbers are estimates, compared by paired draws:
    a change counts only where it is larger than its uncertainty."""
    from shmoo.estimators.present.advice import Advice
    from shmoo.estimators.present.sentences import advice_record, sensitivity_record
    from shmoo.harness.decisions import advise as advise_on
    from shmoo.harness.decisions import sensitivity

    view = output.View(wide)
    with output.only_results_on_stdout():
        found = sensitivity(model, asked, by=aim) if of_machine else advise_on(model, asked, by=aim, top=top)
    if isinstance(found, Advice):
        words, place = given_again(("of_machine", "aim", "top", "wide", "as_json", "no_cache", *SETUP))
        given = shlex.join([*place, *([] if asked.arch else ["--arch", LOCAL]), *words])
        output.json_document(advice_record(found, given)) if as_json else _show(found, given, view)
    else:
        output.json_document(sensitivity_record(found)) if as_json else _show_levers(found, view)


def _show(advice: Advice, given: str, view: output.View) -> None:
    from shmoo.estimators.present.sentences import advice_sentences, headline

    output.result(headline(advice))
    for what, shares in (("bound by", advice.bounds), ("module", advice.modules)):
        name = Column(what, lambda share: share.name or "(the model itself)")
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
    for number, sentence in enumerate(advice_sentences(advice, given), 1):
        output.result(f"{number}. {sentence}")


def _other_ratio(aim: Aim) -> str:
    """The column that a narrow terminal does without: the ratio that nothing is ranked by."""
    return "times the energy" if aim == "time" else "times as fast"


def _effect(aim: Aim) -> list[Column]:
    from shmoo.estimators.present.sentences import times

    return [
        Column("times as fast", lambda one: times(one.effect.speedup)),
        Column("times the energy", lambda one: times(one.effect.energy_ratio)),
        Column("verdict", lambda one: one.effect.verdict(aim)),
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
    Column("what keeps it", attrgetter("why")),
)


def _show_levers(levers: Sensitivity, view: output.View) -> None:
    from shmoo.estimators.present.sentences import added_silicon, sensitivity_sentences

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
