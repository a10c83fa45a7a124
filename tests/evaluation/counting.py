"""Counting compared: capture against bare tracing, what the analysis adds to it, and other counters on the same models.

    python -m shmoo.harness.countercheck                      # the default models
    python -m shmoo.harness.countercheck resnet50 vit_b_16    # chosen ones
    python -m shmoo.harness.countercheck --json counters.json

A counter misses an operator when it counts no flops for it although the operator computes: asked of the operator alone (torch's
FlopCounterMode and fvcore), or because it wraps no function of that name (calflops). Flops are compared with those of
contractions (two a multiply-add), which all of them count. Counters that are not installed are left out; to have them:
pip install 'shmoo[bench]'
"""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import io
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import msgspec
import torch

from shmoo.estimators.costs import graph_cost
from shmoo.estimators.director import AnalysisDirector
from shmoo.estimators.distinct import DistinctOperator, distinct_operators
from shmoo.estimators.profile import load_profile
from shmoo.estimators.records import Graph
from shmoo.harness.capture import capture
from shmoo.harness.capture.exported import FunctionModule
from shmoo.harness.replay import GraphReplay, ReplayError
from shmoo.harness.workloads.loading import resolve_model
from shmoo.harness.workloads.module import Built, DNNModule

NETWORKS = (
    "squeezenet1_1", "resnet18", "mobilenet_v2", "efficientnet_b0", "vit_b_16", "swin_t", "bert_base",
    "resnet50", "densenet121", "googlenet", "mobilenet_v3_large", "shufflenet_v2_x1_0", "regnet_y_400mf",
    "convnext_tiny", "vit_base", "clip_vit_b_32", "segformer_b0", "alexnet", "mnasnet1_0", "inception_v3",
)  # fmt: skip
ARCHITECTURE = "cpu_server_generic"
REPEATS = 3


class Count(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one counter said of one model.

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
    interleaved repeats; counters by name.

    Attributes:
        export_s: bare torch.export.export; dynamo_s: bare torch.compile tracing; capture_s: `capture`.
        analysis_s: cost, fusion and prediction of the captured graphs.
        operators: distinct operators that compute.
    """

    model: str
    export_s: float | None
    dynamo_s: float | None
    capture_s: float | None
    analysis_s: float | None
    operators: int
    counts: dict[str, Count]

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
    counts = {name: _count(counter, module, computing, reference) for name, counter in counters().items()}
    return Comparison(
        module.name,
        fastest["export"],
        fastest["dynamo"],
        fastest["capture"],
        fastest["analysis"],
        len({op.call.op for op in computing}),
        counts,
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


class _Counter(msgspec.Struct, frozen=True):
    """A counter: `count` gives the flops of a model (two a multiply-add), `knows` whether it counts an operator alone, `device`
    where it can run a model: "meta", or a CPU only."""

    count: Callable[[Built], float]
    knows: Callable[[DistinctOperator], bool]
    device: str = "meta"


def counters() -> Mapping[str, _Counter]:
    """Those that are installed, torch's own first."""
    found = {"FlopCounterMode": _Counter(_torch_flops, lambda op: _alone(op, _torch_flops, "meta"))}
    if importlib.util.find_spec("fvcore") is not None:
        found["fvcore"] = _Counter(_fvcore_flops, lambda op: _alone(op, _fvcore_flops, "cpu"), "cpu")
    if importlib.util.find_spec("calflops") is not None:
        wrapped = _wrapped_by_calflops()
        found["calflops"] = _Counter(_calflops_flops, lambda op: op.call.op.rpartition(".")[2] in wrapped)
    return found


def _count(counter: _Counter, module: DNNModule, computing: Sequence[DistinctOperator], reference: float) -> Count:
    built = module.build(device=counter.device)
    begin = time.process_time()
    try:
        with _quiet():
            flops = counter.count(built)
    except Exception as error:
        return Count(reason=f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}")
    taken = time.process_time() - begin
    # An operator is known if it is in its smallest shape.
    smallest: dict[str, DistinctOperator] = {}
    for op in sorted(computing, key=lambda op: sum(spec.numel for spec in op.call.inputs)):
        smallest.setdefault(op.call.op, op)
    missed = tuple(sorted(name.removeprefix("aten.") for name, op in smallest.items() if not counter.knows(op)))
    return Count(taken, (flops - reference) / reference if reference else None, missed)


def _alone(operator: DistinctOperator, count: Callable[[Built], float], device: str) -> bool:
    """Whether a counter gives any flops for an operator run by itself."""
    try:
        call = GraphReplay(operator.graph, {}, device=device).last_call()
        with _quiet():
            return count(Built(FunctionModule(lambda _: call()), (torch.zeros(1, device=device),))) > 0
    except (ReplayError, RuntimeError, TypeError, ValueError, KeyError, AssertionError):
        return False


def _torch_flops(built: Built) -> float:
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as mode:
        built()
    return float(mode.get_total_flops())


def _fvcore_flops(built: Built) -> float:
    """fvcore's count; it calls a multiply-add one flop."""
    from fvcore.nn import FlopCountAnalysis

    names = list(built.kwargs)

    class Positional(torch.nn.Module):
        """The model with every input in a place of its own, as tracing takes them."""

        def __init__(self) -> None:
            super().__init__()
            self.model = built.model

        def forward(self, *inputs: Any) -> Any:
            count = len(built.args)
            return _tensors(self.model(*inputs[:count], **dict(zip(names, inputs[count:], strict=True))))

    analysis = FlopCountAnalysis(Positional().eval(), (*built.args, *built.kwargs.values()))
    return 2.0 * analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none").total()


def _tensors(result: Any) -> tuple[torch.Tensor, ...]:
    """The tensors of a model's output, which may be a structure that tracing does not take."""
    from torch.utils._pytree import tree_leaves

    values = list(result.values()) if isinstance(result, Mapping) else result
    return tuple(leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor))


def _calflops_flops(built: Built) -> float:
    from calflops import calculate_flops

    inputs = {"args": list(built.args)} if built.args else {"kwargs": dict(built.kwargs)}
    flops, _, _ = calculate_flops(
        built.model, **inputs, print_results=False, print_detailed=False, output_as_string=False, include_backPropagation=False
    )
    return float(flops)


def _wrapped_by_calflops() -> frozenset[str]:
    """Names of the functions that calflops replaces while it counts, found by looking at them meanwhile."""
    from calflops import calculate_flops

    places = (torch.nn.functional, torch, torch.Tensor)
    before = {(place, name): getattr(place, name, None) for place in places for name in dir(place)}
    changed: set[str] = set()

    class Looking(torch.nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            changed.update(name for (place, name), was in before.items() if getattr(place, name, None) is not was)
            return x

    with _quiet():
        calculate_flops(Looking(1, 1), args=[torch.zeros(1)], print_results=False, print_detailed=False)
    return frozenset(changed)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Counters print and warn as they please."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


@click.command(help=(__doc__ or "").split("\n\n")[0])
@click.argument("models", nargs=-1)
@click.option(
    "--repeats", type=click.IntRange(min=1), default=REPEATS, show_default=True, help="Interleaved repeats of each time."
)
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write everything as JSON.")
def main(models: tuple[str, ...], repeats: int, json_path: Path | None) -> None:
    torch.set_num_threads(1)
    chosen = models or NETWORKS
    _timed(compare, resolve_model(chosen[0]), 1)  # imports and caches of the process
    found = []
    for name in chosen:
        found.append(compare(resolve_model(name), repeats))
        click.echo(_line(name, found[-1]), err=True)
    if json_path is not None:
        json_path.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=1))
    for line in markdown(found):
        click.echo(line)


def _line(name: str, c: Comparison) -> str:
    bare = f"{_times(c.export_ratio)} export, {_times(c.dynamo_ratio)} dynamo"
    return f"{name}: capture {_seconds(c.capture_s)}, {bare}, analysis {_share(c.analysis_share)}"


def markdown(found: Sequence[Comparison]) -> Iterator[str]:
    """The table of the documentation, its last row the sums over all models."""
    names = list(dict.fromkeys(name for c in found for name in c.counts))
    heads = [f"{name}: time, missed, difference" for name in names]
    yield "| " + " | ".join(["model", "capture", "of export", "of dynamo", "analysis", *heads]) + " |"
    yield "|" + "---|" * (5 + len(names))
    for c in found:
        cells = [_count_cell(c.counts[name], c.operators) for name in names]
        row = [
            c.model,
            _seconds(c.capture_s),
            _times(c.export_ratio),
            _times(c.dynamo_ratio),
            _share(c.analysis_share),
            *cells,
        ]
        yield "| " + " | ".join(row) + " |"
    ratios = [
        _times(_of_sums(found, "capture_s", "export_s")),
        _times(_of_sums(found, "capture_s", "dynamo_s")),
        _share(_of_sums(found, "analysis_s", "capture_s")),
    ]
    sums = [f"{sum(c.counts[name].time_s or 0.0 for c in found):.2f} s" for name in names]
    total = _seconds(sum(c.capture_s or 0.0 for c in found))
    yield "| " + " | ".join(["**all**", total, *ratios, *sums]) + " |"


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


if __name__ == "__main__":
    main()
