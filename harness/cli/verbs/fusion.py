"""`shmoo fusion`: the operators that share a kernel, predicted and in Inductor's schedule, and the savings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import click
import msgspec

from shmoo.estimators.errors import InputError
from shmoo.estimators.fusion.rules import fusion_groups
from shmoo.estimators.graph.dtypes import matrix_dtype
from shmoo.estimators.graph.records import Graph
from shmoo.estimators.predict.director import AnalysisDirector
from shmoo.estimators.present.savings import FusionScore, fusion_savings, fusion_score
from shmoo.estimators.registry import grouped
from shmoo.estimators.units import counted, percent
from shmoo.harness.cli import captures, options, output
from shmoo.harness.question import Question

if TYPE_CHECKING:
    from shmoo.harness.runtimes.inductor_groups import InductorGroups

EXAMPLES = """\b
Examples:
  shmoo fusion resnet18
  shmoo fusion resnet18 --real --runtime inductor-freezing
  shmoo fusion bert_base --arch gpu_a100_40g --json
"""
REAL = {"inductor": False, "inductor-freezing": True}
"""Runtimes that can be compared with Inductor -> whether weights are frozen."""


@click.command(epilog=EXAMPLES)
@click.argument("model")
@click.option("--real", is_flag=True, help="Let Inductor schedule the model on this CPU, and compare (takes up to a minute).")
@options.everything("kernels of several operators")
@captures.model_options()
@options.as_json
def fusion(
    model: str,
    real: bool,
    show_all: bool,
    question: Question,
    as_json: bool,
) -> None:
    """The operators of MODEL that share a kernel, and the savings from fusion.

    With --real Inductor compiles the model up to its schedule, and the agreement is shown: F1 over pairs of operators that share
    a kernel, and the number of kernels.
    """
    profile, chosen = question.machine()
    if real and (profile.family != "cpu" or chosen not in REAL):
        given_target = f"{chosen!r} on {profile.name!r}, a {profile.family}"
        raise InputError(f"--real compiles for this machine's CPU, with {' or '.join(REAL)}; got {given_target}")
    with output.only_results_on_stdout():
        graphs = question.capture(model).graphs
    predicted = [fusion_groups(graph, chosen, profile.family) for graph in graphs]
    savings = fusion_savings(AnalysisDirector(profile), graphs, chosen, compute_dtype=matrix_dtype(question.dtype))
    pieces = _compared(model, chosen, profile.family, question) if real else []
    if as_json:
        graph_records = [
            {"predicted": [_record(graph, group.calls, group.pattern) for group in groups]}
            for graph, groups in zip(graphs, predicted, strict=True)
        ]
        about = {"format": 1, "model": model, "arch": profile.name, "runtime": chosen}
        compared = {"pieces": [piece.record() for piece in pieces]} if real else {"pieces": None, "pieces_reason": "add --real"}
        output.json_document({**about, "graphs": graph_records, **compared, "savings": msgspec.to_builtins(savings)})
        return
    if real:
        for piece in pieces:
            _show_groups(piece.real.graph, piece.predicted, piece.real, show_all)
    else:
        for graph, groups in zip(graphs, predicted, strict=True):
            _show_groups(graph, [(g.calls, g.pattern) for g in groups], None, show_all)
    output.table(["", "call by call", f"as {chosen} fuses", "saved"], savings.rows(), title=f"on {profile.name}")
    for piece in pieces:
        if piece.real.eager:
            calls = [call for group in piece.real.groups for call in group]
            output.result(f"left to eager execution: {piece.real.graph.operators(calls)}")
            continue
        score = piece.score
        output.result(
            f"agreement with Inductor: F1 {score.f1:.3f} (precision {percent(score.precision)}, recall {percent(score.recall)}); "
            f"{score.predicted_kernels} kernels predicted, {score.real_kernels} real, besides {piece.real.copies} layout copies"
        )


class _Piece(NamedTuple):
    """A part of the model under torch.compile: predicted groups, Inductor's groups, and their agreement."""

    predicted: list[tuple[tuple[int, ...], str]]
    real: InductorGroups
    score: FusionScore

    def record(self) -> dict[str, object]:
        graph = self.real.graph
        return {
            "eager": self.real.eager,
            "predicted": [_record(graph, calls, pattern) for calls, pattern in self.predicted],
            "real": [_record(graph, calls, "") for calls in self.real.groups],
            "agreement": msgspec.to_builtins(self.score) | {"layout_copies": self.real.copies},
        }


def _compared(model: str, runtime: str, family: str, question: Question) -> list[_Piece]:
    """The parts into which torch.compile splits the model on this CPU; prints the reasons if there are several."""
    with output.only_results_on_stdout():
        output.tell_of_code([model])
        from shmoo.harness.runtimes.inductor_groups import workload_groups

        options.only_one(question.batches, "--batch")
        real_groups, reasons = workload_groups(
            question.module(model), question.points()[0], freezing=REAL[runtime], dtype=question.dtype
        )
    if reasons:
        output.message(f"{model}: torch.compile makes {counted(len(real_groups), 'part')} of it; reasons: {'; '.join(reasons)}")
    pieces = []
    for real in real_groups:
        groups = fusion_groups(real.graph, "eager" if real.eager else runtime, family)
        predicted = [(group.calls, group.pattern) for group in groups]
        pieces.append(_Piece(predicted, real, fusion_score([calls for calls, _ in predicted], real.groups)))
    return pieces


def _record(graph: Graph, calls: Sequence[int], pattern: str) -> dict[str, object]:
    ops = [{"call": i, "op": graph.calls[i].op, "module": graph.calls[i].module} for i in calls]
    return {"ops": ops, "pattern": pattern}


def _show_groups(
    graph: Graph, predicted: Sequence[tuple[tuple[int, ...], str]], real: InductorGroups | None, show_all: bool
) -> None:
    """Show one row per kernel, with Inductor's grouping of the same operators where it differs."""
    truth = {} if real is None else {group: None for group in real.groups}
    by_call = grouped((call, group) for group in truth for call in group)
    rows = []
    for calls, pattern in predicted:
        same_group = calls in truth
        if len(calls) == 1 and not show_all and (real is None or same_group):
            continue
        place = next((graph.calls[i].module for i in calls if graph.calls[i].module), "")
        row = [place, graph.operators(calls), pattern]
        if real is not None:
            other_groups = dict.fromkeys(group for call in calls for group in by_call.get(call, ()))
            row.append("same" if same_group else " | ".join(graph.operators(group) for group in other_groups) or "none")
        rows.append(row)
    headers = ["module", "operators in one kernel", "rule", *(["Inductor"] if real is not None else [])]
    if rows:
        output.table(headers, rows, title=graph.name, left=len(headers))
    hidden = len(predicted) - len(rows)
    if hidden:
        output.message(f"{hidden} kernels of one operator are not listed; see them with --all")
