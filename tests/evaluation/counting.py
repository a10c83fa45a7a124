"""Counting compared: capture against bare tracing, what the analysis adds to it, and torch's own counter on the same models.

FlopCounterMode misses an operator when it counts no flops for it, run by itself, although the operator computes. Its flops are
compared with those of contractions, two a multiply-add.
"""

from __future__ import annotations

import contextlib
import gc
import io
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec
import torch

from shmoo.estimators.costs import graph_cost
from shmoo.estimators.graph.distinct import DistinctOperator, distinct_operators
from shmoo.estimators.graph.records import Graph
from shmoo.estimators.machine.profile import load_profile
from shmoo.estimators.predict.director import AnalysisDirector
from shmoo.harness.capture import capture
from shmoo.harness.capture.exported import FunctionModule
from shmoo.harness.measuring.replay import GraphReplay, ReplayError
from shmoo.harness.module import Built, DNNModule
from shmoo.harness.workloads.loading import resolve_model

NETWORKS = (
    "squeezenet1_1", "resnet18", "mobilenet_v2", "efficientnet_b0", "vit_b_16", "swin_t", "bert_base",
    "resnet50", "densenet121", "googlenet", "mobilenet_v3_large", "shufflenet_v2_x1_0", "regnet_y_400mf",
    "convnext_tiny", "vit_base", "clip_vit_b_32", "segformer_b0", "alexnet", "mnasnet1_0", "inception_v3",
)  # fmt: skip
ARCHITECTURE = "cpu_server_generic"
REPEATS = 3


class Count(msgspec.Struct, frozen=True, omit_defaults=True):
    """What FlopCounterMode said of one model.

    Attributes:
        time_s: of one count. difference: (its flops - those of contractions) / those of contractions.
        missed: operators that compute and that it counts nothing for.
        reason: why there is no count.
    """

    time_s: float | None = None
    difference: float | None = None
    missed: tuple[str, ...] = ()
    reason: str = ""


class Comparison(msgspec.Struct, frozen=True):
    """One model. Times are seconds of processor time, which what else runs on the machine does not change, and the fastest of
    interleaved repeats.

    Attributes:
        export_s: bare torch.export.export; dynamo_s: bare torch.compile tracing; capture_s: `capture`.
        analysis_s: cost, fusion and prediction of the captured graphs.
        operators: distinct operators that compute.
        count: what torch's counter said.
    """

    model: str
    export_s: float | None
    dynamo_s: float | None
    capture_s: float | None
    analysis_s: float | None
    operators: int
    count: Count

    @property
    def dynamo_ratio(self) -> float | None:
        """Capture over bare Dynamo tracing; `None` where that fails."""
        return _ratio(self.capture_s, self.dynamo_s)

    @property
    def export_ratio(self) -> float | None:
        """Capture over bare torch.export; `None` where that fails."""
        return _ratio(self.capture_s, self.export_s)

    @property
    def analysis_share(self) -> float | None:
        """Analysis over capture; `None` where either fails."""
        return _ratio(self.analysis_s, self.capture_s)


def _ratio(above: float | None, below: float | None) -> float | None:
    return None if above is None or not below else above / below


def compare(module: DNNModule, repeats: int = REPEATS) -> Comparison:
    """Time and count one workload on the meta device, so that tracing is compared and not arithmetic."""
    built = module.build(device="meta")
    director = AnalysisDirector(load_profile(ARCHITECTURE))
    times: dict[str, list[float | None]] = {"export": [], "dynamo": [], "capture": [], "analysis": []}
    graphs: tuple[Graph, ...] = ()
    for _ in range(repeats):
        times["export"].append(_timed(_export, built)[0])
        times["dynamo"].append(_timed(_dynamo, built)[0])
        seconds, found = _timed(_capture, built, module.name)
        graphs = found or graphs
        times["capture"].append(seconds)
        times["analysis"].append(_timed(director.estimate, graphs)[0])
    # Of interleaved repeats the fastest: what else runs on the machine only adds.
    fastest = {name: min((s for s in taken if s is not None), default=None) for name, taken in times.items()}
    computing = [op for op in distinct_operators(graphs) if graph_cost(op.graph).flops > 0]
    reference = 2 * sum(graph_cost(graph).macs for graph in graphs)
    return Comparison(
        module.name,
        fastest["export"],
        fastest["dynamo"],
        fastest["capture"],
        fastest["analysis"],
        len({op.call.op for op in computing}),
        _count(module, computing, reference),
    )


def _timed(work: Callable[..., Any], *arguments: Any) -> tuple[float | None, Any]:
    """Seconds of some work from a clean state, and its result; `None` for both where it fails."""
    torch._dynamo.reset()
    gc.collect()
    begin = time.process_time()
    try:
        result = work(*arguments)
    except Exception:
        # Tracers refuse models in many ways; the table says that they did.
        return None, None
    return time.process_time() - begin, result


def _export(built: Built) -> None:
    module = built.model if isinstance(built.model, torch.nn.Module) else FunctionModule(built.model)
    with torch.no_grad(), contextlib.redirect_stderr(io.StringIO()):
        torch.export.export(module, built.args, built.kwargs)


def _dynamo(built: Built) -> None:
    with torch.no_grad():
        torch.compile(built.model, backend="eager", dynamic=False)(*built.args, **built.kwargs)


def _capture(built: Built, name: str) -> tuple[Graph, ...]:
    return capture(built.model, built.args, built.kwargs, name=name).graphs


def _count(module: DNNModule, computing: Sequence[DistinctOperator], reference: float) -> Count:
    built = module.build(device="meta")
    begin = time.process_time()
    try:
        flops = _torch_flops(built)
    except Exception as error:
        # A model may refuse the meta device in many ways; the table says how.
        return Count(reason=f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}")
    taken = time.process_time() - begin
    # An operator is known if it is in its smallest shape.
    smallest: dict[str, DistinctOperator] = {}
    for op in sorted(computing, key=lambda op: sum(spec.numel for spec in op.call.inputs)):
        smallest.setdefault(op.call.op, op)
    missed = tuple(sorted(name.removeprefix("aten.") for name, op in smallest.items() if not _counts_alone(op)))
    return Count(taken, (flops - reference) / reference if reference else None, missed)


def _counts_alone(operator: DistinctOperator) -> bool:
    """Whether torch's counter gives any flops for an operator run by itself."""
    try:
        call = GraphReplay(operator.graph, {}, device="meta").last_call()
        return _torch_flops(Built(FunctionModule(lambda _: call()), (torch.zeros(1, device="meta"),))) > 0
    except (ReplayError, RuntimeError, TypeError, ValueError, KeyError, AssertionError):
        return False


def _torch_flops(built: Built) -> float:
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as mode:
        built()
    return float(mode.get_total_flops())


def compare_all(names: Sequence[str] = NETWORKS, repeats: int = REPEATS) -> Iterator[Comparison]:
    """Compare models one after another, on one thread."""
    torch.set_num_threads(1)
    _timed(compare, resolve_model(names[0]), 1)  # imports and caches of the process
    for name in names:
        yield compare(resolve_model(name), repeats)


def line(c: Comparison) -> str:
    """Progress: what was compared last."""
    bare = f"{_times(c.export_ratio)} export, {_times(c.dynamo_ratio)} dynamo"
    return f"{c.model}: capture {_seconds(c.capture_s)}, {bare}, analysis {_share(c.analysis_share)}"


def markdown(found: Sequence[Comparison]) -> Iterator[str]:
    """The table of the documentation, its last row the sums over all models."""
    heads = ["model", "capture", "of export", "of dynamo", "analysis", "FlopCounterMode: time, missed, difference"]
    yield "| " + " | ".join(heads) + " |"
    yield "|" + "---|" * len(heads)
    for c in found:
        ratios = [_times(c.export_ratio), _times(c.dynamo_ratio), _share(c.analysis_share)]
        yield "| " + " | ".join([c.model, _seconds(c.capture_s), *ratios, _count_cell(c.count, c.operators)]) + " |"
    ratios = [
        _times(_of_sums(found, "capture_s", "export_s")),
        _times(_of_sums(found, "capture_s", "dynamo_s")),
        _share(_of_sums(found, "analysis_s", "capture_s")),
    ]
    total = _seconds(sum(c.capture_s or 0.0 for c in found))
    yield "| " + " | ".join(["**all**", total, *ratios, f"{sum(c.count.time_s or 0.0 for c in found):.2f} s"]) + " |"


def _of_sums(found: Sequence[Comparison], above: str, below: str) -> float | None:
    """The ratio of two sums over the models that have both."""
    both = [(getattr(c, above), getattr(c, below)) for c in found]
    known = [pair for pair in both if None not in pair]
    return _ratio(sum(a for a, _ in known), sum(b for _, b in known))


def _seconds(seconds: float | None) -> str:
    return "fails" if seconds is None else f"{seconds:.2f} s"


def _share(share: float | None) -> str:
    return "unknown" if share is None else f"{share:.1%}"


def _times(ratio: float | None) -> str:
    return "fails" if ratio is None else f"{ratio:.2f} x"


def _count_cell(count: Count, operators: int) -> str:
    if count.time_s is None:
        return f"fails ({count.reason[:40]})"
    difference = "" if count.difference is None else f", {count.difference:+.1%}"
    return f"{count.time_s:.2f} s, {len(count.missed)} of {operators}{difference}"
